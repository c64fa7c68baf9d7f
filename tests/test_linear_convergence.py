"""When irls stops, how it says so, and what bounds, ridge and solver change."""

import sys
import warnings

import numpy as np
import pytest
from regression_data import classic, contaminated, reference
from scipy.optimize import lsq_linear, minimize

import robustfit as rf
from robustfit import Status
from robustfit.losses import Tukey
from robustfit.starts import lad_estimate

A, B = contaminated()
REGISTERED = sorted(rf.losses.LOSSES)


def equations(fit, A, b, weights=1.0):
    """Return A' psi, the slope of the objective, in units of the scale."""
    return np.linalg.qr(A)[0].T @ (weights * fit.loss.psi((b - A @ fit.x) / fit.scale))


# -- converging ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["mad", "mad-fixed", "huber"])
@pytest.mark.parametrize("loss", REGISTERED)
def test_every_loss_converges(loss, scale):
    fit = rf.irls(A, B, loss, start="ols", scale=scale)
    assert fit.status is Status.CONVERGED
    assert fit.success
    assert fit.message == ""
    assert np.max(np.abs(equations(fit, A, B))) < 1e-8
    if loss != "linear":
        assert np.max(np.abs(fit.x - [1.0, 2.0, 3.0]) / fit.bse) < 4.0


@pytest.mark.parametrize("loss", ["huber", "welsch"])
@pytest.mark.parametrize("power", [6, 9, 12, 15])
def test_a_gross_error_of_any_size_costs_no_accuracy(loss, power):
    b = B.copy()
    b[0] = 10.0**power
    fit = rf.irls(A, b, loss, start="lad", scale="mad")
    assert fit.status is Status.CONVERGED
    # tol promises 1e-10 standard errors.
    again = rf.irls(A, b, loss, start=fit.x, scale=fit.scale, tol=1e-12)
    assert np.max(np.abs(fit.x - again.x) / again.bse) < 1e-9


@pytest.mark.parametrize("tol", [1e-4, 1e-8, 1e-12, 0.0])
@pytest.mark.parametrize("scale", ["mad", "mad-fixed", 1.5])
def test_tol_is_the_distance_to_the_solution_in_standard_errors(tol, scale):
    exact = rf.irls(A, B, "welsch", start="ols", scale=scale, tol=1e-14)
    fit = rf.irls(A, B, "welsch", start="ols", scale=scale, tol=tol)
    assert fit.status is Status.CONVERGED
    assert fit.nit <= exact.nit or tol == 0.0
    assert np.max(np.abs(fit.x - exact.x) / exact.bse) <= 2.0 * max(tol, 1e-13)


def test_iterations_run_out():
    with pytest.warns(
        rf.ConvergenceWarning, match="maxiter=1 iterations.*standard errors"
    ) as caught:
        fit = rf.irls(A, B, "huber", start="ols", scale="mad", maxiter=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert fit.status is Status.MAXITER
    assert not fit.success
    assert fit.nit == 1
    assert fit.message == str(caught[0].message)
    assert "raise maxiter" in fit.message


def test_no_iteration_returns_the_start():
    with pytest.warns(rf.ConvergenceWarning, match="maxiter=0"):
        fit = rf.irls(A, B, "huber", start=[1.0, 2.0, 2.5], scale=1.0, maxiter=0)
    np.testing.assert_array_equal(fit.x, [1.0, 2.0, 2.5])
    assert (fit.nit, fit.start, fit.scale_rule) == (0, "given", "given")


def test_a_fit_that_never_settles_says_so():
    # R's rlm does not converge here either, in 5000 iterations.
    start = reference("r")["sets"]["stackloss"]["lts"]
    with pytest.warns(rf.ConvergenceWarning, match="no convergence"):
        fit = rf.irls(*classic("stackloss"), Tukey(4.685), start=start, scale="mad", maxiter=60)
    assert fit.status is Status.MAXITER
    assert np.all(np.isfinite(fit.x))


def test_a_slow_fit_converges_in_the_end():
    # At c = 2.938 the good solution of starsCYG is about to vanish: plain steps shrink slowly.
    A, b = classic("starsCYG")
    fit = rf.irls(A, b, "welsch", c=2.93, start=[-6.0, 2.5], scale=0.4715, maxiter=500)
    assert fit.status is Status.CONVERGED
    assert np.max(np.abs(equations(fit, A, b))) < 1e-8
    assert fit.x[1] > 1.5


@pytest.mark.parametrize("seed", range(20))
def test_no_success_without_a_solution(seed):
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(5, 30)), int(rng.integers(1, 4))
    A = np.column_stack([np.ones(n), rng.standard_t(2, (n, p))])
    b = A @ rng.standard_normal(p + 1) + rng.standard_t(1, n)
    for loss in ("huber", "tukey", "welsch", "talwar", "cauchy"):
        for scale in ("mad", "mad-fixed", "huber"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rf.ConvergenceWarning)
                fit = rf.irls(A, b, loss, start="ols", scale=scale)
            if fit.status is Status.CONVERGED:
                assert np.max(np.abs(equations(fit, A, b))) < 1e-7, (loss, scale)


# -- failing -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["tukey", "welsch", "talwar"])
@pytest.mark.parametrize("scale", [1e-3, 1e-30, 1e-200])
def test_a_scale_far_too_small_is_no_success(loss, scale):
    with pytest.warns(rf.ConvergenceWarning, match="keep weight|no convergence") as caught:
        fit = rf.irls(A, B, loss, start="ols", scale=scale, maxiter=50)
    assert len(caught) == 1
    assert fit.status in (Status.NO_WEIGHT, Status.MAXITER)
    assert not fit.success
    assert np.all(np.isfinite(fit.x))


def test_huber_at_a_small_scale_is_least_absolute_deviations():
    fit = rf.irls(A, B, "huber", start="ols", scale=1e-4, maxiter=1000)
    assert fit.status is Status.CONVERGED
    np.testing.assert_allclose(fit.x, lad_estimate(A, B, np.ones(len(B))), atol=1e-3)


@pytest.mark.parametrize("loss", ["tukey", "welsch", "talwar"])
def test_no_row_with_weight(loss):
    with pytest.warns(rf.ConvergenceWarning, match="fewer than 3 rows keep weight at scale=0.01"):
        fit = rf.irls(A, B, loss, start=[1e3, 0.0, 0.0], scale=0.01)
    assert fit.status is Status.NO_WEIGHT
    assert not fit.success
    assert np.all(np.isnan(fit.cov))
    assert np.all(np.isnan(fit.bse))
    assert np.all(np.isnan(fit.pvalues))
    np.testing.assert_array_equal(fit.weights, 0.0)
    np.testing.assert_array_equal(fit.x, [1e3, 0.0, 0.0])


def test_a_scale_that_is_not_a_number_is_no_success():
    with pytest.warns(rf.ConvergenceWarning):
        fit = rf.irls(A, B, "huber", start="ols", scale=lambda t: 0.0)
    assert not fit.success
    for value in (np.nan, np.inf, -1.0):
        with pytest.raises(ValueError, match="scale must return"):
            rf.irls(A, B, "huber", start="ols", scale=lambda t, value=value: value)


# -- callable scales -----------------------------------------------------------------------


def test_a_callable_scale_sees_and_returns_response_units():
    for unit in (1.0, 100.0):
        seen = []

        def scale(t, unit=unit, seen=seen):
            seen.append(t)
            return 1.5 * unit

        fit = rf.irls(A, unit * B, "huber", start="ols", scale=scale)
        number = rf.irls(A, unit * B, "huber", start="ols", scale=1.5 * unit)
        assert fit.scale_rule == "callable"
        assert fit.scale == number.scale == 1.5 * unit
        np.testing.assert_allclose(seen[-1], fit.resid, rtol=1e-8, atol=1e-8 * unit)
        np.testing.assert_allclose(fit.x, number.x, rtol=1e-9)


def test_a_callable_scale_is_called_in_each_iteration():
    fit = rf.irls(A, B, "tukey", start="ols", scale=lambda t: rf.scale.mad(t, center=0.0))
    named = rf.irls(A, B, "tukey", start="ols", scale="mad")
    np.testing.assert_allclose(fit.x, named.x, rtol=0.0, atol=1e-9 * np.max(named.bse))


@pytest.mark.parametrize("scale", ["mad", "mad-fixed", 1.3, "s"])
@pytest.mark.parametrize("loss", ["welsch", "tukey", "huber", "hampel", "cauchy"])
def test_the_compiled_iteration_ends_where_the_other_does(loss, scale):
    if scale == "s" and not rf.get_loss(loss).bounded:
        scale = "mad"
    weights = {
        "freq_weights": 1.0 + np.arange(len(B)) % 3,
        "var_weights": 1.0 + np.arange(len(B)) % 2,
    }
    for given in ({}, weights):
        options = {"scale": scale, "start": "s" if scale == "s" else "ols", **given}
        # A callback hears of every step, so that it needs the other one.
        plain = rf.irls(A, B, loss, callback=lambda intermediate: None, **options)
        quick = rf.irls(A, B, loss, **options)
        assert plain.status is quick.status
        np.testing.assert_allclose(quick.x, plain.x, rtol=0.0, atol=1e-9 * np.max(plain.bse))
        np.testing.assert_allclose(quick.scale, plain.scale, rtol=1e-9)


def _plain(v):
    return 1.0 / (1.0 + v * v)


class ForNumpy(rf.losses.Loss):
    """Cauchy's loss by a function that Numba does not know of, and one that it has not."""

    @staticmethod
    def rho1(v, m):
        return 0.5 * m.log1p(v * v)

    @staticmethod
    def weight1(v, m):
        return _plain(v)

    @staticmethod
    def dpsi1(v, m):
        return (1.0 - v * v) / m.power(1.0 + v * v, 2.0)


def test_a_loss_that_numba_cannot_compile():
    fit = rf.irls(A, B, ForNumpy(c=2.0), start="ols", scale="mad")
    named = rf.irls(A, B, rf.losses.Cauchy(c=2.0), start="ols", scale="mad")
    assert fit.success
    np.testing.assert_allclose(fit.x, named.x, rtol=0.0, atol=1e-9 * np.max(named.bse))


# -- callback and progress -----------------------------------------------------------------


def test_callback_gets_every_iterate():
    seen = []
    unit = 2.0**40
    fit = rf.irls(A, unit * B, "huber", start="ols", scale="mad", callback=seen.append)
    assert [now.nit for now in seen] == list(range(1, fit.nit + 1))
    np.testing.assert_array_equal(seen[-1].x, fit.x)
    assert seen[-1].scale == fit.scale
    assert seen[-1].step < 1e-9
    assert all(now.step > 0.0 for now in seen)
    # A callback may keep and even change what it got.
    first = seen[0].x.copy()
    seen[-1].x[:] = 0.0
    np.testing.assert_array_equal(seen[0].x, first)
    assert np.all(fit.x != 0.0)


def test_callback_can_stop_the_fit():
    def stop(now):
        if now.nit == 3:
            raise StopIteration

    fit = rf.irls(A, B, "huber", start="ols", callback=stop)
    assert fit.status is Status.CANCELLED
    assert not fit.success
    assert fit.nit == 3
    assert "cancelled by the callback" in fit.summary()
    assert np.all(np.isfinite(fit.bse))


def test_an_error_in_the_callback_passes_through():
    def fail(now):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        rf.irls(A, B, "huber", start="ols", callback=fail)


def test_progress_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(
        ImportError, match=r"progress=True needs tqdm: pip install 'robustfit\[cli\]'"
    ):
        rf.irls(A, B, "huber", start="ols", progress=True)


def test_progress_counts_iterations(monkeypatch):
    class Fake:
        updates, closed = 0, False

        def __init__(self, total, desc, leave):
            Fake.total = total

        def __enter__(self):
            return self

        def __exit__(self, *error):
            Fake.closed = True

        def update(self, n=1):
            Fake.updates += n

    monkeypatch.setitem(sys.modules, "tqdm.auto", type("Module", (), {"tqdm": Fake}))
    fit = rf.irls(A, B, "huber", start="ols", progress=True)
    assert Fake.closed
    assert (Fake.total, Fake.updates) == (200, fit.nit)


# -- bounds --------------------------------------------------------------------------------

LIMITS = {
    "inside": (-100.0, 100.0),
    "one_active": ([-np.inf, -np.inf, -np.inf], [np.inf, 1.0, np.inf]),
    "all_active": ([1.5, 0.1, -5.0], [9.0, 1.0, 2.0]),
    "nonnegative": (0.0, np.inf),
    "negative": (-np.inf, -0.5),
}
each_limit = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)


@each_limit
def test_bounds_for_least_squares(limits):
    fit = rf.irls(A, B, "linear", bounds=limits)
    expected = lsq_linear(A, B, limits, method="bvls", tol=1e-14)
    assert fit.success
    np.testing.assert_allclose(fit.x, expected.x, rtol=1e-10, atol=1e-12)
    assert fit.cost == pytest.approx(expected.cost, rel=1e-12)


@each_limit
@pytest.mark.parametrize("loss", ["huber", "cauchy"])
@pytest.mark.parametrize("start", ["ols", "lad"])
@pytest.mark.parametrize("unit", [1.0, 3e7])
def test_bounds_for_a_robust_fit(loss, limits, start, unit):
    limits = [unit * np.broadcast_to(end, 3) for end in limits]
    fit = rf.irls(A, unit * B, loss, bounds=limits, start=start, scale=1.2 * unit)
    assert fit.status is Status.CONVERGED
    low, high = limits
    assert np.all((low <= fit.x) & (fit.x <= high))
    # At a limit the objective may only fall outwards, inside it must be flat.
    slope = A.T @ fit.loss.psi(fit.resid / fit.scale)
    flat = 1e-7 * np.sqrt(np.sum(A**2, axis=0))
    assert np.all(slope[fit.x < high] <= flat[fit.x < high])
    assert np.all(slope[fit.x > low] >= -flat[fit.x > low])


def test_bounds_that_do_not_bind_change_nothing():
    free = rf.irls(A, B, "welsch", start="ols", scale="mad")
    fit = rf.irls(A, B, "welsch", start="ols", scale="mad", bounds=(-1e6, 1e6))
    np.testing.assert_allclose(fit.x, free.x, rtol=1e-8)
    np.testing.assert_allclose(fit.cov, free.cov, rtol=1e-7)


def test_a_start_outside_the_bounds_is_moved_inside():
    limits = ([1.5, 0.1, -5.0], [9.0, 1.0, 2.0])
    with pytest.warns(rf.ConvergenceWarning):
        fit = rf.irls(A, B, "huber", start=[-99.0, 99.0, 0.0], scale=1.0, bounds=limits, maxiter=0)
    np.testing.assert_array_equal(fit.x, [1.5, 1.0, 0.0])


# -- ridge ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-6, 3.0, 1e6])
@pytest.mark.parametrize("unit", [1.0, 2.0**90])
def test_ridge_for_least_squares(ridge, unit):
    fit = rf.irls(A, unit * B, "linear", ridge=ridge)
    expected = np.linalg.solve(A.T @ A + ridge * np.eye(3), A.T @ B)
    np.testing.assert_allclose(fit.x / unit, expected, rtol=1e-11)


def test_ridge_of_each_column():
    penalty = np.array([0.0, 3.0, 50.0])
    fit = rf.irls(A, B, "linear", ridge=penalty)
    expected = np.linalg.solve(A.T @ A + np.diag(penalty), A.T @ B)
    np.testing.assert_allclose(fit.x, expected, rtol=1e-9)
    # A column without penalty takes up any shift along it.
    moved = rf.irls(A, B + 7.0 * A[:, 0], "huber", ridge=penalty)
    still = rf.irls(A, B, "huber", ridge=penalty)
    assert np.max(np.abs(moved.x - still.x - [7.0, 0.0, 0.0]) / still.bse) < 1e-8
    for wrong in (penalty[:2], -penalty, [np.nan, 1.0, 1.0], [[1.0, 1.0, 1.0]]):
        with pytest.raises(ValueError, match=r"^ridge must be a number or 3 finite numbers"):
            rf.irls(A, B, "huber", ridge=wrong)


def test_scale_of_a_ridge_fit_with_more_columns_than_rows():
    X, y = np.random.default_rng(1).normal(size=(8, 12)), np.arange(8.0)
    fit = rf.irls(X, y, "linear", ridge=2.0)
    dual = np.linalg.solve(X @ X.T + 2.0 * np.eye(8), y)
    np.testing.assert_allclose(fit.x, X.T @ dual, rtol=1e-9)
    # I - H = 2 (X X' + 2)^-1
    df = 2.0 * np.trace(np.linalg.inv(X @ X.T + 2.0 * np.eye(8)))
    assert fit.success
    assert fit.scale == pytest.approx(np.sqrt(np.sum((2.0 * dual) ** 2) / df), rel=1e-9)


def test_ridge_knows_the_units_of_the_columns():
    # Against a column this large a ridge of 5 is nothing, against one this small everything.
    large = rf.irls(A[:, :1] * 2.0**400, B, "linear", ridge=5.0)
    assert large.x[0] * 2.0**400 == pytest.approx(B.mean(), rel=1e-9)
    small = rf.irls(A[:, :1] * 2.0**-400, B, "linear", ridge=5.0)
    assert small.x[0] == pytest.approx(B.sum() * 2.0**-400 / 5.0, rel=1e-9)


@pytest.mark.parametrize("loss", ["huber", "fair"])
@pytest.mark.parametrize("ridge", [0.1, 10.0])
def test_ridge_for_a_convex_loss_is_the_minimum(loss, ridge):
    fit = rf.irls(A, B, loss, start="ols", scale=1.3, ridge=ridge)

    def objective(x):
        u = (B - A @ x) / 1.3
        slope = -1.3 * A.T @ fit.loss.psi(u) + ridge * x
        return 1.3**2 * np.sum(fit.loss.rho(u)) + 0.5 * ridge * x @ x, slope

    assert fit.status is Status.CONVERGED
    assert np.max(np.abs(objective(fit.x)[1])) < 1e-7
    best = minimize(objective, np.zeros(3), jac=True, options={"gtol": 1e-9})
    np.testing.assert_allclose(fit.x, best.x, atol=1e-7)


def test_ridge_shrinks():
    sizes = [
        np.linalg.norm(rf.irls(A, B, "welsch", start="ols", ridge=ridge).x)
        for ridge in (0.0, 1.0, 10.0, 100.0, 1e4)
    ]
    assert np.all(np.diff(sizes) < 0.0)


@pytest.mark.parametrize("loss", ["linear", "huber"])
def test_ridge_makes_up_for_missing_rows(loss):
    with warnings.catch_warnings(record=True) as caught:
        fit = rf.irls(A[8:10], B[8:10], loss, start="ols", scale=1.0, ridge=0.5)
    assert not caught
    assert fit.success
    if loss == "linear":
        a = A[8:10]
        expected = np.linalg.solve(a.T @ a + 0.5 * np.eye(3), a.T @ B[8:10])
        np.testing.assert_allclose(fit.x, expected, rtol=1e-10)
    assert np.all(np.isnan(fit.bse))


@pytest.mark.parametrize("loss", ["linear", "huber"])
def test_ridge_makes_up_for_dependent_columns(loss):
    twice = np.column_stack([A, A[:, 2]])
    fit = rf.irls(twice, B, loss, start="ols", scale=1.0, ridge=0.5)
    assert fit.success
    assert fit.x[2] == pytest.approx(fit.x[3], rel=1e-9)


# -- solver --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "welsch"])
@pytest.mark.parametrize("name", ["stackloss", "hbk", "longley", "aircraft"])
def test_solvers_agree(name, loss):
    A, b = classic(name)
    fits = {
        solver: rf.irls(A, b, loss, start="ols", scale="mad", solver=solver)
        for solver in ("auto", "qr") + (("cholesky",) if name != "longley" else ())
    }
    for fit in fits.values():
        assert fit.status is Status.CONVERGED
        assert np.max(np.abs(fit.x - fits["qr"].x) / fits["qr"].bse) < 1e-8


def test_cholesky_refuses_what_it_cannot_solve():
    t = np.linspace(0.0, 1.0, 40)
    steep = np.vander(t, 15)
    with pytest.raises(ValueError, match=r"solver='cholesky' .*singular.*use 'auto'"):
        rf.irls(steep, B, "huber", start="ols", solver="cholesky")
    assert rf.irls(steep, B, "huber", start="ols", solver="auto").success


def test_a_newton_step_that_failed_is_tried_again_nearer_to_the_solution():
    # Normal errors; on the way to 95 % the solution is about to vanish, and the curvature with it.
    rng = np.random.default_rng((20260101, 14, 0, 0, 813))
    A = np.column_stack([np.ones(100), np.exp(rng.normal(size=(100, 9)))])
    b = rng.normal(size=100)
    for efficiency in (0.94, 0.95, 0.96):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rf.BasinWarning)
            fit = rf.irls(A, b, efficiency=efficiency)
        assert fit.status is not rf.Status.MAXITER


# -- hard designs --------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1e8, 1e12])
@pytest.mark.parametrize(("n", "p"), [(50, 4), (200, 40)])
def test_ill_conditioned_designs(n, p, condition):
    rng = np.random.default_rng(p)
    U, V = (np.linalg.qr(rng.normal(size=(rows, p)))[0] for rows in (n, p))
    A = np.sqrt(n) * U * np.geomspace(1.0, 1.0 / condition, p) @ V.T
    b = np.sqrt(n) * U @ rng.normal(size=p) + rng.normal(size=n)
    b[: n // 10] += 30.0
    fit = rf.irls(A, b, "tukey", start="ols", scale="mad-fixed")
    assert fit.status is Status.CONVERGED
    assert fit.rank == p
    # Rounding of A x, which is so much larger than A x itself.
    rounding = 50.0 * np.finfo(float).eps * np.max(np.abs(A) @ np.abs(fit.x)) / fit.scale
    assert np.max(np.abs(equations(fit, A, b))) < max(1e-8, np.sqrt(n) * rounding)


def test_a_design_singular_to_rounding_is_not_solved_as_if_it_were_not():
    rng = np.random.default_rng(3)
    A = rng.normal(size=(9_000, 6))
    A[:, 5] = A[:, 4] * (1.0 + 1e-14 * rng.normal(size=9_000))
    with pytest.warns(rf.exceptions.RankWarning, match="rank 5"):
        fit = rf.irls(A, A @ np.ones(6) + rng.normal(size=9_000), "tukey", start="ols")
    assert fit.status is Status.RANK_DEFICIENT
