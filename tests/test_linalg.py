"""Weighted least squares against exact arithmetic, SciPy, and what the parts promise."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from regression_data import classic
from scipy.optimize import lsq_linear

from robustfit import _kernels, linalg

EPS = linalg.EPS


def problem(n=50, p=4, condition=1.0, seed=0):
    """Return a design of about the given condition number, weights and a response."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, p)))[0]
    V = np.linalg.qr(rng.standard_normal((p, p)))[0]
    A = U * np.logspace(0.0, -np.log10(condition), p) @ V.T
    return A, rng.uniform(0.1, 2.0, n), rng.standard_normal(n)


def exactly(A, w, b):
    """Return the solution and (A'WA)^-1 of these very doubles, to 60 digits."""
    with mpmath.workdps(60):
        X, y = mpmath.matrix(A.tolist()), mpmath.matrix(b.tolist())
        W = mpmath.diag(w.tolist())
        inverse = (X.T * W * X) ** -1
        x = inverse * (X.T * W * y)
        return (
            np.array([float(v) for v in x]),
            np.array([[float(inverse[i, j]) for j in range(len(x))] for i in range(len(x))]),
        )


# -- blocks and Gram matrices --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "p"), [(0, 3), (1, 1), (10, 4), (40_000, 1), (40_000, 7), (5, 90_000)]
)
def test_row_blocks_cover_every_row_once(n, p):
    rows = [i for block in _kernels.row_blocks(n, p) for i in range(n)[block]]
    assert rows == list(range(n))
    sizes = [len(range(n)[block]) for block in _kernels.row_blocks(n, p)]
    assert all(0 < size * p <= max(256 * p, 1 << 15) for size in sizes)


@pytest.mark.parametrize("n", [4, 500, 30_000])
def test_gram(n):
    A, w, r = problem(n, 4)
    G, g = _kernels.gram(A, w, r)
    np.testing.assert_allclose(G, (A.T * w) @ A, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(g, A.T @ (w * r), rtol=1e-11, atol=1e-12)


def test_solve_gram():
    A, w, r = problem(condition=1e3)
    G, g = _kernels.gram(A, w, r)
    np.testing.assert_allclose(linalg.solve_gram(G, g), np.linalg.solve(G, g), rtol=1e-8)


def test_solve_gram_does_not_mind_the_size_of_columns():
    A, w, r = problem()
    unit = np.array([1e-120, 1.0, 1e60, 1e120])
    plain = linalg.solve_gram(*_kernels.gram(A, w, r))
    scaled = linalg.solve_gram(*_kernels.gram(A * unit, w, r))
    np.testing.assert_allclose(scaled * unit, plain, rtol=1e-12)


@pytest.mark.parametrize(
    "G",
    [
        np.zeros((2, 2)),
        np.ones((2, 2)),
        np.diag([1.0, 0.0]),
        np.diag([1.0, -1.0]),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.diag([1.0, np.nan]),
        np.diag([1.0, np.inf]),
        np.array([[1.0, 1.0 - 1e-13], [1.0 - 1e-13, 1.0]]),
    ],
    ids=["zero", "ones", "half", "negative", "indefinite", "nan", "inf", "nearly"],
)
def test_solve_gram_gives_up_where_it_would_be_wrong(G):
    assert linalg.solve_gram(G, np.ones(2)) is None


@pytest.mark.parametrize("seed", range(8))
def test_solve_gram_sees_dependence_behind_near_dependence(seed):
    # Rows far out make three columns nearly one, and the last is the sum of two of them.
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((200, 4))
    A[:30, :3] = [1e3, -1e3, 2e3]
    A[:, 3] = A[:, 0] + A[:, 1]
    G = A.T @ A
    assert linalg.solve_gram(G, np.ones(4)) is None
    assert linalg.row_space(A, np.ones(200), G).shape == (4, 3)


# -- steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr"])
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_weighted_step(solver, ridge):
    A, w, b = problem()
    x = np.arange(4.0)
    penalty = np.full(4, ridge) if ridge else None
    step = linalg.weighted_step(A, w, b - A @ x, x=x, ridge=penalty, solver=solver)
    expected = np.linalg.solve((A.T * w) @ A + ridge * np.eye(4), A.T @ (w * b))
    np.testing.assert_allclose(x + step.d, expected, rtol=1e-10)
    assert step.rank == 4
    if ridge == 0.0:
        assert step.norm == pytest.approx(np.linalg.norm(np.sqrt(w) * (A @ step.d)), rel=1e-10)


@pytest.mark.parametrize("condition", [1e3, 1e8, 1e12])
def test_a_step_from_the_solution_is_short(condition):
    A, w, b = problem(condition=condition)
    x = linalg.least_squares(A, b, w)
    step = linalg.weighted_step(A, w, b - A @ x, x=x)
    # As short as the rounding of the residuals allows.
    assert step.norm < 20.0 * EPS * np.linalg.norm(np.abs(A) @ np.abs(x) + np.abs(b))


def test_step_of_a_singular_design_is_the_shortest():
    A, w, r = problem()
    A = np.column_stack([A, A[:, 1]])
    step = linalg.weighted_step(A, w, r, x=np.zeros(5))
    root = np.sqrt(w)
    assert step.rank == 4
    np.testing.assert_allclose(
        step.d, np.linalg.lstsq(A * root[:, None], r * root, rcond=None)[0], rtol=1e-9
    )
    with pytest.raises(ValueError, match="solver='cholesky' met nearly singular"):
        linalg.weighted_step(A, w, r, x=np.zeros(5), solver="cholesky")


def test_step_without_weights_is_zero():
    A, _, r = problem()
    step = linalg.weighted_step(A, np.zeros(50), r, x=np.zeros(4))
    assert step.rank == 0
    assert step.norm == 0.0
    np.testing.assert_array_equal(step.d, 0.0)


@pytest.mark.parametrize("limits", [(-9.0, 9.0), (0.0, 0.3), (-0.1, 0.0)])
def test_bounded_step(limits):
    A, w, b = problem()
    x = np.full(4, np.mean(limits))
    low, high = (np.full(4, end) for end in limits)
    step = linalg.bounded_step(A, w, b - A @ x, x=x, low=low, high=high)
    root = np.sqrt(w)
    expected = lsq_linear(A * root[:, None], b * root, limits, method="bvls", tol=1e-14).x
    np.testing.assert_allclose(x + step.d, expected, atol=1e-12)
    assert step.norm == pytest.approx(np.linalg.norm(root * (A @ step.d)), rel=1e-12)


# -- least squares -------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e6, 1e10, 1e13])
def test_least_squares_is_exact_up_to_rounding(condition):
    A, w, b = problem(condition=condition)
    expected, inverse = exactly(A, w, b)
    x = linalg.least_squares(A, b, w)
    # Refinement takes the condition number out of the error; what stays is that of sqrt(w).
    assert np.max(np.abs(x - expected)) <= (1e-14 + 4 * EPS * condition) * np.max(np.abs(expected))
    tol = 1e-12 + 100 * EPS * condition
    np.testing.assert_allclose(linalg.inverse_gram(A, w), inverse, rtol=tol)


@pytest.mark.parametrize("condition", [1e6, 1e10, 1e13])
def test_least_squares_without_weights_is_exact_to_the_last_digits(condition):
    A, _, b = problem(condition=condition)
    x = linalg.least_squares(A, b, np.ones(50))
    expected, _ = exactly(A, np.ones(50), b)
    np.testing.assert_allclose(x, expected, rtol=1e-13)


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_large_problems_agree_with_small_ones(ridge):
    A, w, b = problem(60_000, 4, condition=1e4)
    assert A.size > linalg._REFINED_ELEMENTS
    root = np.sqrt(w)
    stacked = np.vstack([A * root[:, None], np.sqrt(ridge) * np.eye(4)])
    expected = np.linalg.lstsq(stacked, np.append(b * root, np.zeros(4)), rcond=None)[0]
    np.testing.assert_allclose(
        linalg.least_squares(A, b, w, np.full(4, ridge) if ridge else None), expected, rtol=1e-9
    )


def test_one_column_and_as_many_rows_as_columns():
    np.testing.assert_allclose(
        linalg.least_squares(np.full((3, 1), 2.0), np.array([1.0, 2.0, 6.0]), np.ones(3)), [1.5]
    )
    A, w, b = problem(4, 4)
    np.testing.assert_allclose(linalg.least_squares(A, b, w), np.linalg.solve(A, b), rtol=1e-12)


# -- rank ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stackloss", "longley", "hbk", "mtcars"])
def test_full_rank_has_no_basis(name):
    A, b = classic(name)
    assert linalg.row_space(A, np.ones(len(b))) is None


@pytest.mark.parametrize("unit", [1.0, 1e80, 1e-80])
@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_basis_of_the_row_space(rank, unit):
    rng = np.random.default_rng(rank)
    A = unit * rng.standard_normal((30, rank)) @ rng.standard_normal((rank, 4))
    basis = linalg.row_space(A, np.ones(30))
    assert basis.shape == (4, rank)
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-12)
    np.testing.assert_allclose(A @ basis @ basis.T, A, rtol=1e-10, atol=1e-13 * unit)


def test_basis_with_columns_of_very_different_size():
    A = np.column_stack([np.ones(20), np.arange(20.0)])
    A = np.column_stack([A, A @ [3.0, 2.0]]) * [1e-9, 1.0, 1e9]
    basis = linalg.row_space(A, np.ones(20))
    assert basis.shape == (3, 2)
    null = np.array([3e9, 2.0, -1e-9])
    assert np.max(np.abs(basis.T @ null)) < 1e-6 * np.linalg.norm(null)


def test_rows_without_weight_do_not_count_in_the_rank():
    A = np.column_stack([np.ones(6), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    w = np.ones(6)
    assert linalg.row_space(A, w) is None
    w[5] = 0.0
    np.testing.assert_allclose(np.abs(linalg.row_space(A, w)), [[1.0], [0.0]])


def test_more_columns_than_rows():
    A = np.random.default_rng(0).standard_normal((3, 5))
    basis = linalg.row_space(A, np.ones(3))
    assert basis.shape == (5, 3)


# -- inverse and leverage ------------------------------------------------------------------


def test_inverse_gram_of_a_singular_design_is_the_pseudo_inverse():
    A, w, _ = problem()
    A = np.column_stack([A, A[:, 0] + A[:, 1]])
    expected = np.linalg.pinv((A.T * w) @ A, rcond=1e-10)
    for row in A[:5]:
        assert row @ linalg.inverse_gram(A, w) @ row == pytest.approx(
            row @ expected @ row, rel=1e-8
        )


@pytest.mark.parametrize("n", [4, 50, 30_000])
def test_leverage(n):
    A, w, _ = problem(n, 4, condition=100.0)
    h = linalg.leverage(A, w)
    Q = np.linalg.qr(A * np.sqrt(w)[:, None])[0]
    np.testing.assert_allclose(h * w, np.sum(Q**2, axis=1), rtol=1e-9, atol=1e-14)
    assert np.sum(h * w) == pytest.approx(4.0, rel=1e-10)


def test_leverage_is_at_most_one():
    A = np.column_stack([np.ones(9), np.arange(9) == 4])
    h = linalg.leverage(A, np.ones(9))
    assert h[4] == pytest.approx(1.0, rel=1e-14)
    assert np.all(h <= 1.0)
    np.testing.assert_allclose(np.delete(h, 4), 0.125, rtol=1e-13)


def test_leverage_of_repeated_rows():
    A, _, _ = problem(20, 3)
    freq = np.arange(1, 21)
    h = linalg.leverage(A, freq.astype(float))
    repeated = linalg.leverage(np.repeat(A, freq, axis=0), np.ones(freq.sum()))
    np.testing.assert_allclose(np.repeat(h, freq), repeated, rtol=1e-11)


# -- powers of two -------------------------------------------------------------------------


@pytest.mark.parametrize("x", [1.0, 1.5, 3.0, 1e-300, 5e-324, 1e300, 1.7e308])
def test_power_of_two(x):
    unit = linalg.power_of_two(x)
    assert unit == linalg.power_of_two(-x)
    assert np.frexp(unit)[0] == 0.5
    # 2**1024 is not a double.
    assert 0.5 <= x / unit < (1.0 if x < 1e307 else 4.0) or x < 1e-307
    assert linalg.power_of_two(0.0) == 1.0


def test_column_scale_brings_columns_to_one():
    A = np.column_stack([np.ones(5), 1e30 * np.arange(5), np.zeros(5), np.full(5, 1e-305)])
    unit = linalg.column_scale(A)
    largest = np.max(np.abs(A * unit), axis=0)
    assert np.all((largest[[0, 1, 3]] >= 0.5) & (largest[[0, 1, 3]] <= 2.0))
    assert unit[2] == 1.0
    np.testing.assert_array_equal(np.frexp(unit)[0], 0.5)


# -- kernels in twice the precision --------------------------------------------------------


def cancelling(n=12, p=5):
    rng = np.random.default_rng(1)
    A = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-6, 6, (n, p))
    x = rng.standard_normal(p)
    r = 1e-12 * rng.standard_normal(n)
    return A, A @ x, r, x


def test_residual_twice():
    A, b, r, x = cancelling()
    out = np.empty(12)
    for kernel in (_kernels.residual_twice, _kernels.residual_twice.py_func):
        kernel(A, b, r, x, out)
        for i in range(12):
            terms = (Fraction(a) * Fraction(v) for a, v in zip(A[i], x, strict=True))
            exact = float(Fraction(b[i]) - Fraction(r[i]) - sum(terms))
            assert out[i] == pytest.approx(exact, rel=4 * EPS, abs=1e-26)


def test_transposed_twice():
    A, b, r, _ = cancelling()
    r = b - np.round(b, 3) + r
    for kernel in (_kernels.transposed_twice, _kernels.transposed_twice.py_func):
        out = kernel(A, r)
        for j in range(5):
            terms = (Fraction(a) * Fraction(v) for a, v in zip(A[:, j], r, strict=True))
            assert out[j] == pytest.approx(float(sum(terms)), rel=4 * EPS)
