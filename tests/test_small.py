"""Small fits in one compiled call: the same as by the steps in NumPy, which a callback asks for."""

import numpy as np
import pytest

import robustfit as rf
from robustfit.linear import _iterate

LOSSES = ("welsch", "tukey", "huber", "hampel", "cauchy")
SCALES = ("mad", "mad-fixed", 1.3)


def problem(n=40, p=4, seed=0):
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    b = A @ rng.normal(size=p) + rng.normal(size=n)
    b[: n // 6] += 8.0
    return A, b


def both(A, b, *args, **options):
    """Return a fit, and that by single steps."""
    return rf.irls(A, b, *args, **options), rf.irls(
        A, b, *args, callback=lambda intermediate_result: None, **options
    )


def assert_same(fit, other, tol=1e-9):
    assert fit.status is other.status
    assert np.all(np.abs(fit.x - other.x) <= tol * (other.bse + np.abs(other.x) * 1e-3))
    np.testing.assert_allclose(fit.scale, other.scale, rtol=tol)
    np.testing.assert_allclose(fit.weights, other.weights, atol=10 * tol)
    np.testing.assert_allclose(fit.resid, other.resid, rtol=1e-8, atol=10 * tol * other.scale)
    np.testing.assert_allclose(fit.cov, other.cov, rtol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("loss", LOSSES)
def test_same_as_by_single_steps(loss, scale):
    assert_same(*both(*problem(), loss, start="ols", scale=scale))


@pytest.mark.parametrize("n", [8, 9, 21, 22])
def test_few_rows(n):
    assert_same(*both(*problem(n, 3, seed=n), "huber"))


@pytest.mark.parametrize(
    "weights",
    [
        {"freq_weights": np.arange(40) % 3},
        {"freq_weights": 0.5 + np.arange(40) % 2},
        {"var_weights": 0.1 + np.arange(40) % 5},
        {"freq_weights": 1 + np.arange(40) % 2, "var_weights": (np.arange(40) % 4).astype(float)},
    ],
)
@pytest.mark.parametrize("scale", ["mad", "mad-fixed"])
def test_weights(weights, scale):
    assert_same(*both(*problem(), "welsch", start="ols", scale=scale, **weights))


@pytest.mark.parametrize("unit", [2.0**-300, 1e-30, 1e30, 2.0**300])
@pytest.mark.parametrize("column", [1e-120, 1e-40, 1.0, 1e40, 1e120])
def test_units(unit, column):
    A, b = problem()
    plain = rf.irls(A, b, "huber")
    factor = np.array([1.0, column, 1.0, 1.0])
    fit = rf.irls(A * factor, b * unit, "huber")
    np.testing.assert_allclose(fit.x * factor / unit, plain.x, rtol=1e-9)
    np.testing.assert_allclose(fit.scale / unit, plain.scale, rtol=1e-9)


def test_powers_of_two_change_no_bit():
    A, b = problem()
    fit, other = rf.irls(A, b, "huber"), rf.irls(A, 2.0**40 * b, "huber")
    assert np.array_equal(2.0**40 * fit.x, other.x)
    assert 2.0**40 * fit.scale == other.scale


@pytest.mark.parametrize("change", ["F", "strided", "float32", "int", "readonly", "list"])
def test_any_array(change):
    A, b = problem()
    A, b = np.round(8.0 * A), np.round(8.0 * b)
    expected = rf.irls(A, b, "huber").x
    same = {
        "F": (np.asfortranarray(A), b),
        "strided": (np.repeat(A, 2, axis=1)[:, ::2], np.repeat(b, 3)[::3]),
        "float32": (A.astype(np.float32), b.astype(np.float32)),
        "int": (A.astype(int), b.astype(np.int16)),
        "readonly": (A.copy(), b.copy()),
        "list": (A.tolist(), b.tolist()),
    }[change]
    if change == "readonly":
        for array in same:
            array.setflags(write=False)
    kept = [np.array(array) for array in same]
    assert np.array_equal(rf.irls(*same, "huber").x, expected)
    for array, before in zip(same, kept, strict=True):
        assert np.array_equal(array, before)


def test_later_changes_of_the_data_do_not_reach_the_fit():
    A, b = problem()
    fit, again = rf.irls(A, b, "huber"), rf.irls(A, b, "huber")
    expected = again.cov.copy()
    A[:], b[:] = 0.0, 0.0
    assert np.array_equal(fit.cov, expected)


def irregular(case):
    A, b = problem()
    if case == "exact":
        b = A @ np.arange(1.0, 5.0)
        b[:5] += 1.0
    elif case == "zero":
        b = np.zeros_like(b)
    elif case == "dependent":
        A[:, 3] = A[:, 1] + A[:, 2]
    elif case == "constant":
        A[:, 3] = 5.0
    elif case == "square":
        A, b = A[:4], b[:4]
    elif case == "ill":
        A[:, 3] = A[:, 2] + 1e-5 * A[:, 3]
    else:
        b[7] = 1e7
    return A, b


@pytest.mark.filterwarnings("ignore::robustfit.RankWarning", "ignore::robustfit.ConvergenceWarning")
@pytest.mark.parametrize(
    "case", ["exact", "zero", "dependent", "constant", "square", "ill", "outlier"]
)
def test_what_is_out_of_the_ordinary_takes_single_steps(case):
    A, b = irregular(case)
    fit, other = both(A, b, "huber")
    assert fit.status is other.status
    np.testing.assert_allclose(fit.x, other.x, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(fit.scale, other.scale, rtol=1e-9, atol=1e-12)


def test_an_ordinary_fit_takes_no_single_steps(monkeypatch):
    def fail(*args):
        raise AssertionError("not compiled")

    monkeypatch.setattr(_iterate, "_Solver", fail)
    assert rf.irls(*problem(), "huber").success
    assert rf.irls(*problem(), "tukey").success
    with pytest.raises(AssertionError):
        rf.irls(*problem(), "huber", callback=lambda intermediate_result: None)


def test_nothing_is_drawn_where_nothing_is_random():
    rng = np.random.default_rng(1)
    rf.irls(*problem(), "huber", rng=rng)
    assert rng.random() == np.random.default_rng(1).random()
    for wrong in (-1, "one", 1.5):
        with pytest.raises((ValueError, TypeError), match="rng"):
            rf.irls(*problem(), "huber", rng=wrong)


@pytest.mark.parametrize("scale", ["mad", "mad-fixed", 1.3])
def test_a_response_of_zeros_is_an_exact_fit(scale):
    fit, other = both(problem()[0], np.zeros(40), "tukey", start="ols", scale=scale)
    assert fit.status is other.status is rf.Status.EXACT_FIT
    assert fit.scale == 0.0


@pytest.mark.parametrize("ridge", [0.0, 100.0])
def test_a_response_that_is_mostly_zero(ridge):
    """The coefficients go to zero, and so does the scale; a limit of rounding ends that."""
    A, b = problem(p=1)[0] * 0.1 + np.arange(40)[:, None] % 3, np.zeros(40)
    b[::5] = -1.0
    fit = rf.irls(A, b, "pseudo_huber", start="ols", scale="huber", ridge=ridge)
    assert fit.status is rf.Status.EXACT_FIT
    np.testing.assert_array_equal(fit.x, 0.0)
    np.testing.assert_array_equal(fit.weights, b == 0.0)


def test_plain_steps_that_shrink_slowly_go_on_to_the_end():
    """Without a Newton step near the solution a short step is not yet a small error."""
    loss, solved = rf.get_loss("huber"), 0
    for seed in range(40, 80):
        rng = np.random.default_rng(seed)
        A, b = np.eye(4)[rng.integers(0, 4, 20)], rng.standard_cauchy(20)
        if not np.all(np.any(A, axis=0)):
            continue
        fit = rf.irls(A, b, loss, start="ols", scale=0.05)
        if not fit.success:
            continue
        solved += 1
        # Where no row of a column is within c, the loss is flat there.
        curved = np.diagonal(A.T @ (loss.dpsi(fit.resid / 0.05)[:, None] * A))
        slope = A.T @ loss.psi(fit.resid / 0.05)
        assert np.all(np.abs(slope) <= 1e-9 * np.maximum(curved, 1.0))
    assert solved > 20


def test_the_last_step_is_as_short_as_it_says():
    """Acceleration of duplicate columns, which only a ridge tells apart, could end in a leap."""
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(60):
        column = rng.standard_normal(19)
        A, b = np.column_stack([column, column]), rng.standard_cauchy(19)
        options = {"loss": "welsch", "start": "ols", "scale": "matlab", "ridge": 0.02}
        fit, other = rf.irls(A, b, **options), rf.irls(A, b, solver="qr", **options)
        if fit.success and other.success:
            worst = max(worst, abs(np.sum(fit.x - other.x)) / fit.scale)
    assert 0.0 < worst < 1e-9
