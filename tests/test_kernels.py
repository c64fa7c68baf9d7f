"""The compiled pass over the rows against sums written out in NumPy."""

import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import threadpoolctl

from robustfit._kernels import RowSums, _loss, _rows, _threads, in_threads, m_scale
from robustfit.losses import LOSSES, Barron, get_loss


def rows(n, p, seed=0):
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(n, p)), rng.normal(size=p)
    b = A @ x + rng.standard_t(1.5, size=n)
    return A, b, x + 0.1 * rng.normal(size=p)


def written_out(A, b, loss, x, s, newton=False, count=1.0, factor=1.0, weight=1.0, basis=None):
    r = b - A @ x
    u = r * factor / s
    w = weight * loss.weight(u)
    W = weight * loss.dpsi(u) if newton else w
    A = A if basis is None else A @ basis
    return (
        np.sum(count * loss.rho(u)),
        np.sum(count * loss.psi(u) * u),
        (A * W[:, None]).T @ A,
        A.T @ (w * r),
    )


def assert_same(found, expected, rtol=1e-12):
    for value, wanted in zip(found[:4], expected[:4], strict=True):
        np.testing.assert_allclose(value, wanted, rtol=rtol, atol=rtol * np.max(np.abs(wanted)))


@pytest.fixture
def compiled(monkeypatch):
    monkeypatch.setattr(_rows, "_FEW", 0)


# -- what a loss compiles to ---------------------------------------------------------------


@numba.njit
def evaluate(address, kind, r, k, s, c, shape, t, q, w):
    _loss.values(address, kind, r, k, s, c, shape, t, q, w)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_values_of_a_loss(name):
    loss, s = get_loss(name), 1.7
    r, k = np.linspace(-40.0, 40.0, 333), np.linspace(0.5, 1.5, 333)
    u = r * k / s
    address, c, shape = _loss.pointer(loss)
    t, q, w = np.full((3, len(r)), np.nan)
    evaluate(address, _loss.WEIGHT, r, k, s, c, shape, t, q, w)
    np.testing.assert_allclose(w, loss.weight(u), rtol=1e-13, atol=1e-300)
    assert np.all(np.isnan(t) & np.isnan(q))
    evaluate(address, _loss.CURVE, r, k, s, c, shape, t, q, w)
    np.testing.assert_allclose(w, loss.dpsi(u), rtol=1e-12, atol=1e-15)
    evaluate(address, _loss.ALL, r, k, s, c, shape, t, q, w)
    np.testing.assert_allclose(t, loss.rho(u), rtol=1e-13)
    np.testing.assert_allclose(q, loss.psi(u) * u, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(w, loss.weight(u), rtol=1e-13, atol=1e-300)


# -- the compiled pass ---------------------------------------------------------------------


@pytest.mark.parametrize("newton", [False, True])
@pytest.mark.parametrize("name", ["welsch", "tukey", "huber", "hampel", "cauchy", "logistic"])
def test_losses(name, newton, compiled):
    A, b, x = rows(700, 4)
    loss = get_loss(name)
    found = RowSums(A, b, loss)(x, 1.3, newton)
    assert_same(found, written_out(A, b, loss, x, 1.3, newton))


def test_a_loss_with_a_shape_parameter(compiled):
    A, b, x = rows(300, 3)
    for alpha in (1.0, -2.0):
        loss = Barron(2.0, alpha)
        assert_same(RowSums(A, b, loss)(x, 0.7), written_out(A, b, loss, x, 0.7))


# One, two, and three or more columns take different ways; blocks are of 256 rows.
@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 11, 40])
@pytest.mark.parametrize("n", [1, 7, 255, 256, 257, 1000])
def test_every_shape(n, p, compiled):
    A, b, x = rows(n, p, seed=n * p)
    loss = get_loss("tukey")
    assert_same(RowSums(A, b, loss)(x, 2.0), written_out(A, b, loss, x, 2.0), rtol=1e-11)


def layouts(A):
    wide = np.zeros((A.shape[0], 2 * A.shape[1]))
    wide[:, ::2] = A
    frozen = A.copy()
    frozen.setflags(write=False)
    return {
        "Fortran": np.asfortranarray(A),
        "columns of a larger array": wide[:, ::2],
        "reversed": A[::-1].copy()[::-1],
        "read-only": frozen,
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((2, 2))))
def test_every_layout(layout, compiled):
    A, b, x = rows(600, 5)
    loss = get_loss("welsch")
    found = RowSums(layouts(A)[layout], b, loss)(x, 1.0)
    assert_same(found, RowSums(A, b, loss)(x, 1.0), rtol=1e-14)


@pytest.mark.parametrize("newton", [False, True])
def test_weights_of_the_rows(newton, compiled):
    A, b, x = rows(500, 4)
    rng = np.random.default_rng(1)
    own = {name: rng.uniform(0.0, 3.0, 500) for name in ("count", "factor", "weight")}
    loss = get_loss("welsch")
    found = RowSums(A, b, loss, **own)(x, 1.5, newton)
    assert_same(found, written_out(A, b, loss, x, 1.5, newton, **own))


def test_in_the_coordinates_of_a_basis(compiled):
    A, b, x = rows(500, 5)
    M = np.triu(np.random.default_rng(2).normal(size=(5, 5)))
    loss = get_loss("welsch")
    expected = written_out(A, b, loss, x, 1.0, basis=M)
    assert_same(RowSums(A, b, loss, basis=M)(x, 1.0), expected)


def test_numpy_and_compiled_agree(monkeypatch):
    A, b, x = rows(2000, 6)
    sums = RowSums(A, b, get_loss("lqq"))
    by_numpy = sums(x, 1.0, True)
    monkeypatch.setattr(_rows, "_FEW", 0)
    assert_same(sums(x, 1.0, True), by_numpy)


def test_a_residual_beyond_all_bounds_is_a_rejected_row(compiled):
    A, b, x = rows(300, 3)
    b[7] = 1e300
    keep = np.arange(300) != 7
    loss = get_loss("welsch")
    found = RowSums(A, b, loss)(x, 1.0)
    rest = RowSums(A[keep], b[keep], loss)(x, 1.0)
    assert_same(found, (rest.rho + loss.sup, *rest[1:]))


def test_gram_matrix_is_exactly_symmetric(compiled):
    A, b, x = rows(1000, 7)
    G = RowSums(A, b, get_loss("huber"))(x, 1.0).gram
    np.testing.assert_array_equal(G, G.T)


def test_the_same_bits_on_any_number_of_threads(compiled, monkeypatch):
    monkeypatch.setattr(_rows, "_CHUNK", 300)
    for module in (_threads, _rows):
        monkeypatch.setattr(module, "WORTH_A_THREAD", 0.0)
    A, b, x = rows(5000, 4)
    sums, found = RowSums(A, b, get_loss("welsch")), []
    for threads in (1, 2, 5):
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", threads)
        found.append(sums(x, 1.0))
    for other in found[1:]:
        for value, wanted in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(value, wanted)


# -- threads -------------------------------------------------------------------------------


def test_parts_come_back_in_order():
    parts = in_threads(lambda part: (part.start, part.stop), 10, 3, 1e12)
    assert parts == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert in_threads(lambda part: part, 0, 3, 1e12) == []


def test_an_error_in_a_thread_reaches_the_caller_and_ends_the_work(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 2)
    done = []

    def work(part):
        if part.start >= 2:
            raise KeyboardInterrupt
        done.append(part.start)

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, 100_000, 1, 1e12)
    assert done in ([0], [0, 1], [1, 0], [1], [])


def test_work_inside_of_work_does_not_wait_for_itself():
    def outer(part):
        return sum(in_threads(lambda inner: inner.stop - inner.start, 10, 1, 1e12))

    assert in_threads(outer, 50, 1, 1e12) == [10] * 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own():
    assert in_threads(lambda part: part.start, 4, 1, 1e12) == [0, 1, 2, 3]
    process = multiprocessing.get_context("fork").Process(
        target=in_threads, args=(lambda part: part.start, 4, 1, 1e12)
    )
    with warnings.catch_warnings():
        # Python warns of every fork with threads; this test is about just that.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join(20.0)
    assert process.exitcode == 0


# -- scale ---------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-6, 1.0, 1e6])
def test_m_scale_solves_its_equation(start, compiled):
    rng = np.random.default_rng(3)
    r, count = rng.standard_cauchy(2000), rng.uniform(0.0, 2.0, 2000)
    loss = get_loss("tukey", breakdown=0.5)
    goal = 0.5 * np.sum(count) * loss.sup
    s = m_scale(r, start, goal, loss, count)
    assert np.sum(count * loss.rho(r / s)) == pytest.approx(goal, rel=1e-12)


# -- the threads of BLAS --------------------------------------------------------------------


def blas_threads():
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    return [library.get_num_threads() for library in found]


def test_blas_has_one_thread_inside_and_its_own_outside():
    before = blas_threads()
    with _threads.threads_of_our_own(5000, 4):
        assert blas_threads() == [1] * len(before)
        with _threads.threads_of_our_own(5000, 4):
            assert blas_threads() == [1] * len(before)
        assert blas_threads() == [1] * len(before)
    assert blas_threads() == before


def test_other_threads_leave_blas_alone():
    before, barrier = blas_threads(), threading.Barrier(4)

    def work(_):
        with _threads.threads_of_our_own(5000, 4):
            barrier.wait()
            return blas_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [before] * 4
    assert blas_threads() == before


def test_blas_keeps_its_threads_for_a_wide_design_and_gets_them_back_after_an_error():
    before = blas_threads()
    with _threads.threads_of_our_own(5000, _threads.WIDE + 1):
        assert blas_threads() == before
    with pytest.raises(ZeroDivisionError), _threads.threads_of_our_own(5000, 4):
        raise ZeroDivisionError
    assert blas_threads() == before


def test_no_more_is_begun_after_an_error():
    begun = []

    def work(part):
        begun.append(part.start)
        if part.start == 0:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        in_threads(work, 400, 1, 1e9, threads=2)
    time.sleep(0.05)
    assert len(begun) < 400
