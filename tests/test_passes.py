"""How much work a fit of many rows is: readings of the design, by count, and what they find."""

import numpy as np
import pytest

import robustfit as rf
from robustfit._kernels import _order, _rows, median_size
from robustfit.linear import _iterate


def data(n, p, seed=0):
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    b = A @ rng.normal(size=p) + rng.normal(size=n)
    bad = rng.permutation(n)[: n // 5]
    b[bad] += 8.0 + 3.0 * rng.normal(size=len(bad))
    return A, b


@pytest.fixture
def readings(monkeypatch):
    """Return a list that gets the number of rows of every compiled reading of a design."""
    found, reading = [], _rows._pass

    def counted(kind, A, *args, **options):
        found.append(len(A))
        return reading(kind, A, *args, **options)

    monkeypatch.setattr(_rows, "_pass", counted)
    return found


N = 60_000


@pytest.mark.parametrize("loss", ["welsch", "huber", "tukey"])
def test_a_scale_that_moves_takes_few_readings_and_the_plain_answer(loss, readings, monkeypatch):
    """The first steps read a part of the rows, the last ones all of them once."""
    A, b = data(N, 6)
    options = {"start": "ols", "scale": "mad"}
    fit = rf.irls(A, b, loss, **options)
    # Least squares, the steps, and the residuals in the end; plain steps would be two each.
    assert readings.count(N) <= 12
    assert sum(readings) < 16 * N
    # Plain reweighting, all of it on all rows.
    monkeypatch.setattr(_iterate, "_MANY", np.inf)
    monkeypatch.setattr(_iterate, "_FEW", np.inf)
    monkeypatch.setattr(_iterate, "_NARROW", 0)
    readings.clear()
    plain = rf.irls(A, b, loss, **options)
    assert readings.count(N) > 20
    assert np.max(np.abs(fit.x - plain.x) / plain.bse) < 1e-9
    assert fit.scale == pytest.approx(plain.scale, rel=1e-12)
    assert fit.scale == pytest.approx(float(rf.scale.mad(b - A @ fit.x, center=0.0)), rel=1e-12)


def test_a_fixed_scale_takes_one_reading_a_step(readings):
    A, b = data(N, 6)
    fit = rf.irls(A, b, "welsch", start="ols", scale=1.0)
    assert fit.success
    assert readings.count(N) <= fit.nit + 4
    assert fit.nit <= 14


@pytest.mark.parametrize("scale", ["huber", "mad"])
def test_weights_ridge_and_leverage_of_many_rows(scale, monkeypatch):
    A, b = data(N, 4, seed=1)
    rng = np.random.default_rng(2)
    options = {
        "loss": "welsch",
        "start": "ols",
        "scale": scale,
        "freq_weights": rng.integers(0, 3, N),
        "var_weights": rng.uniform(0.5, 2.0, N),
        "ridge": 50.0,
        "leverage": True,
    }
    fit = rf.irls(A, b, **options)
    monkeypatch.setattr(_iterate, "_MANY", np.inf)
    monkeypatch.setattr(_iterate, "_FEW", np.inf)
    plain = rf.irls(A, b, **options)
    assert np.max(np.abs(fit.x - plain.x) / plain.bse) < 1e-9
    assert fit.scale == pytest.approx(plain.scale, rel=1e-11)


def test_a_part_of_the_rows_that_misleads_is_left_alone(readings):
    """Every sixth row, which is the part, is another line than the rest."""
    n = 60_000
    rng = np.random.default_rng(3)
    A = np.column_stack([np.ones(n), rng.normal(size=n)])
    x = np.where(np.arange(n) % 6 == 0, -5.0, 5.0)
    b = A[:, 1] * x + rng.normal(size=n)
    fit = rf.irls(A, b, "welsch", start="ols", scale="mad")
    assert fit.success
    assert fit.x[1] == pytest.approx(5.0, abs=0.05)


# -- medians -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 50_001, 70_000, 130_001])
@pytest.mark.parametrize("kind", ["normal", "heavy", "ties", "equal", "sorted", "periodic"])
def test_median_of_sizes(n, kind):
    rng = np.random.default_rng(n)
    values = {
        "normal": lambda: rng.normal(size=n),
        "heavy": lambda: rng.standard_cauchy(n) ** 3,
        "ties": lambda: np.round(rng.normal(size=n)),
        "equal": lambda: np.full(n, -2.5),
        "sorted": lambda: np.sort(rng.normal(size=n)),
        # The sample, one in so many rows, sees large values only.
        "periodic": lambda: np.where(np.arange(n) % max(1, n // 4096) == 0, 100.0, rng.random(n)),
    }[kind]()
    assert median_size(values) == np.median(np.abs(values))


def test_mad_of_many_values_is_that_of_numpy():
    x = np.random.default_rng(5).normal(size=(2, _order.MANY_VALUES + 3))
    expected = np.median(np.abs(x), axis=1) / 0.6744897501960817
    np.testing.assert_allclose(rf.scale.mad(x, center=0.0, axis=1), expected, rtol=1e-15)


@pytest.mark.parametrize("n", [9, 10, 70_000, 70_001])
def test_rows_near_the_median(n):
    r = np.random.default_rng(n).normal(size=n)
    size = np.abs(r)
    middle = float(np.median(size))
    # Nothing is nearer than those in the middle.
    np.testing.assert_array_equal(
        np.sort(size[_order.sizes_near(r, middle, 0.0)]),
        np.sort(size)[(n - 1) // 2 : n // 2 + 1],
    )
    found = _order.sizes_near(r, middle, 0.3)
    near = np.flatnonzero(np.abs(size - middle) <= 0.3)
    np.testing.assert_array_equal(found, near[:: 1 + len(near) // 4096])


# -- the pass, wide and in single precision -------------------------------------------------


@pytest.mark.parametrize("p", [8, 24, 33, 200])
def test_gram_of_wide_designs(p):
    rng = np.random.default_rng(p)
    A, w, r = rng.normal(size=(3001, p)), rng.uniform(size=3001), rng.normal(size=3001)
    G, g = _rows._pass(_rows._GIVEN, A, r, np.zeros(p), (None, None, w)), A.T @ (w * r)
    np.testing.assert_allclose(_rows._symmetric(G, p), (A.T * w) @ A, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(G[-3, :p], g, rtol=1e-10, atol=1e-10)


def test_single_precision_is_read_as_it_is():
    rng = np.random.default_rng(6)
    A = rng.normal(size=(20_000, 5)).astype(np.float32)
    b = rng.normal(size=20_000)
    loss, x = rf.get_loss("welsch"), np.arange(5.0)
    found = _rows.RowSums(A, b, loss)(x, 1.5)
    exact = _rows.RowSums(A.astype(np.float64), b, loss)(x, 1.5)
    np.testing.assert_allclose(found.gram, exact.gram, rtol=1e-13)
    np.testing.assert_allclose(found.gradient, exact.gradient, rtol=1e-13)


@pytest.mark.parametrize("options", [{"start": "ols", "scale": "mad"}, {}])
def test_a_large_design_of_single_precision_is_not_copied(options, monkeypatch):
    A, b = data(260_000, 4, seed=8)
    single = A.astype(np.float32)
    fit = rf.irls(single, b, **options)
    assert fit._data.A.dtype == np.float32
    assert np.shares_memory(fit._data.A, single)
    double = rf.irls(single.astype(np.float64), b, **options)
    assert fit.x.dtype == np.float64
    assert np.max(np.abs(fit.x - double.x) / double.bse) < 1e-8
    np.testing.assert_allclose(fit.bse, double.bse, rtol=1e-6)
    assert fit.summary()


@pytest.mark.parametrize("order", ["rows", "reversed", "one row repeated", "a part of the columns"])
def test_nothing_is_read_beyond_the_design(order):
    """What follows the design in memory is NaN: it must not reach a result."""
    n, p = 700, 5
    memory = np.full((n + 40) * 2 * p, np.nan)
    rng = np.random.default_rng(7)
    if order == "one row repeated":
        memory[:p] = rng.normal(size=p)
        A = np.broadcast_to(memory[:p], (n, p))
    elif order == "a part of the columns":
        A = memory[: n * 2 * p].reshape(n, 2 * p)[:, :p]
        A[:] = rng.normal(size=(n, p))
    else:
        A = memory[: n * p].reshape(n, p)
        A[:] = rng.normal(size=(n, p))
        A = A[::-1] if order == "reversed" else A
    w, r = rng.uniform(size=n), rng.normal(size=n)
    total = _rows._pass(_rows._GIVEN, A, r, np.zeros(p), (None, None, w))
    np.testing.assert_allclose(_rows._symmetric(total, p), (A.T * w) @ A, rtol=1e-11)


@pytest.mark.parametrize("p", [1, 3, 9])
def test_what_stands_between_the_rows_of_a_view_does_not_matter(p):
    rng = np.random.default_rng(0)
    around = np.full((1_000_000 // p + 100, p + 2), np.nan)
    around[:, :p] = rng.normal(size=(len(around), p))
    A = around[:, :p]
    b = A @ np.ones(p) + rng.standard_t(3, size=len(A))
    fit, other = (rf.irls(design, b, "huber") for design in (A, A.copy()))
    assert fit.success
    np.testing.assert_array_equal(fit.x, other.x)


@pytest.mark.parametrize("seed", [0, 1, 205])
def test_joint_steps_that_shrink_slowly_go_on_to_the_end(seed):
    """The median moves in steps of its own, so that the last joint steps may be no Newton steps."""
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(12_000), rng.standard_normal((12_000, 2))])
    b = rng.exponential(size=12_000) ** 2
    fit = rf.irls(A, b, "hampel", start="ols", scale="mad")
    assert fit.success
    slope = A.T @ (fit.weights * fit.resid)
    square = slope @ np.linalg.solve((A.T * fit.weights) @ A, slope)
    assert np.sqrt(square) < 1e-9 * fit.scale
