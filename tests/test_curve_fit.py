"""`curve_fit` and `least_squares`: SciPy with a linear loss, robust fits, failures, results."""

import functools
import json
import pickle

import numba
import numpy as np
import pytest
import scipy
from nist import NONLINEAR
from scipy import optimize, sparse
from scipy.sparse.linalg import aslinearoperator

import robustfit as rf
from robustfit.nonlinear import CurveFit

T = np.linspace(0.0, 4.0, 60)
TRUE = np.array([2.5, 1.3, 0.5])
SIGMA = 0.05


def decay(t, a, b, c):
    return a * np.exp(-b * t) + c


def decay_jac(t, a, b, c):
    e = np.exp(-b * t)
    return np.column_stack([e, -a * t * e, np.ones_like(t)])


def clean(seed=0):
    return decay(T, *TRUE) + SIGMA * np.random.default_rng(seed).normal(size=len(T))


def contaminated(share=0.2, seed=0, n_sigma=(10.0, 40.0)):
    rng = np.random.default_rng((seed, 1))
    rows = rng.choice(len(T), round(share * len(T)), replace=False)
    y = clean(seed)
    y[rows] += SIGMA * rng.uniform(*n_sigma, len(rows))
    return y, np.sort(rows)


Y, BAD = contaminated()
GOOD = np.setdiff1d(np.arange(len(T)), BAD)


# -- loss="linear" is SciPy --------------------------------------------------------------------

ARGUMENTS = {
    "plain": {},
    "p0": {"p0": [2.0, 1.0, 0.0]},
    "sigma": {"sigma": np.linspace(0.5, 2.0, 60)},
    "sigma absolute": {"sigma": np.linspace(0.5, 2.0, 60), "absolute_sigma": True},
    "sigma number": {"sigma": 0.3, "absolute_sigma": True},
    "sigma matrix": {"sigma": 0.1 * np.eye(60) + 0.02},
    "bounds": {"bounds": ([0.0, 0.0, 0.0], [2.4, 3.0, 1.0])},
    "bounds numbers": {"bounds": (0.0, 10.0)},
    "Bounds": {"bounds": optimize.Bounds([0.0, 0.0, 0.0], [5.0, np.inf, 1.0])},
    "trf": {"method": "trf"},
    "dogbox": {"method": "dogbox", "p0": [2.0, 1.0, 0.0]},
    "jac": {"jac": decay_jac},
    "jac trf": {"jac": decay_jac, "method": "trf", "x_scale": "jac"},
    "3-point": {"jac": "3-point", "method": "trf"},
    "tight": {"ftol": 1e-15, "xtol": 1e-15, "maxfev": 20000},
    "max_nfev": {"method": "trf", "max_nfev": 200, "ftol": 1e-12},
    "check_finite": {"check_finite": False},
    "nan_policy": {"nan_policy": "raise"},
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("full_output", [False, True])
def test_linear_loss_is_scipy(name, full_output):
    y, arguments = clean(), ARGUMENTS[name]
    ours = rf.curve_fit(decay, T, y, loss="linear", full_output=full_output, **arguments)
    theirs = optimize.curve_fit(decay, T, y, full_output=full_output, **arguments)
    assert len(ours) == len(theirs) == (5 if full_output else 2)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_array_equal(mine, other)
    if full_output:
        np.testing.assert_array_equal(ours[2]["fvec"], theirs[2]["fvec"])
        assert ours[3:] == theirs[3:]
    np.testing.assert_allclose(ours.resid, y - decay(T, *ours.x), rtol=1e-9, atol=1e-12)


BAD_ARGUMENTS = {
    "no parameters": (lambda t: t, T, T, {}),
    "empty": (decay, [], [], {}),
    "nan": (decay, T, np.where(T > 3.0, np.nan, T), {}),
    "sigma shape": (decay, T, T, {"sigma": np.ones(59)}),
    "sigma not definite": (decay, T, T, {"sigma": -np.eye(60)}),
    "lm with bounds": (decay, T, T, {"method": "lm", "bounds": (0.0, 1.0)}),
    "bounds crossed": (decay, T, T, {"bounds": (1.0, 0.0)}),
    "args": (decay, T, T, {"args": (1.0,)}),
    "nan_policy propagate": (decay, T, T, {"nan_policy": "propagate"}),
    "nan_policy unknown": (decay, T, T, {"nan_policy": "ignore"}),
    "p0 outside": (decay, T, T, {"p0": [1.0, 1.0, 9.0], "bounds": (0.0, 2.0)}),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
@pytest.mark.parametrize("loss", ["linear", "welsch"])
def test_what_scipy_refuses_is_refused(name, loss):
    f, x, y, arguments = BAD_ARGUMENTS[name]
    with pytest.raises((ValueError, TypeError)):
        optimize.curve_fit(f, x, y, **arguments)
    with pytest.raises((ValueError, TypeError)):
        rf.curve_fit(f, x, y, loss=loss, **arguments)


def test_linear_loss_warns_and_raises_as_scipy_does():
    flat = functools.partial(rf.curve_fit, loss="linear")
    with pytest.warns(optimize.OptimizeWarning, match="could not be estimated"):
        fit = flat(lambda t, a, b: a + 0.0 * b * t, T[:2], T[:2])
    assert np.all(np.isinf(fit.cov))
    with pytest.raises(RuntimeError, match="Optimal parameters not found"):
        flat(decay, T, clean(), maxfev=3)


def test_linear_loss_of_least_squares_is_scipy():
    y = clean()
    theirs = optimize.least_squares(lambda x: decay(T, *x) - y, [1.0, 1.0, 1.0])
    ours = rf.least_squares(lambda x: decay(T, *x) - y, [1.0, 1.0, 1.0], loss="linear")
    for key in ("x", "fun", "jac", "grad", "active_mask"):
        np.testing.assert_array_equal(ours[key], theirs[key])
    for key in ("cost", "optimality", "nfev", "njev", "status", "message", "success"):
        assert ours[key] == theirs[key]
    assert ours.scale == pytest.approx(np.sqrt(2.0 * theirs.cost / 57.0))
    np.testing.assert_allclose(ours.cov, optimize.curve_fit(decay, T, y)[1], rtol=1e-4)


# -- robust fits -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["welsch", "tukey", "cauchy", "huber", rf.losses.Hampel()])
def test_outliers_do_not_move_the_fit(loss):
    fit = rf.curve_fit(decay, T, Y, loss=loss)
    reference, cov = optimize.curve_fit(decay, T[GOOD], Y[GOOD])
    assert fit.success
    # Huber's loss bounds the influence of an outlier and does not end it.
    within = 4.0 if rf.get_loss(loss).name in ("huber", "cauchy") else 1.0
    assert np.all(np.abs(fit.x - reference) < within * np.sqrt(np.diagonal(cov)))
    plain, _ = optimize.curve_fit(decay, T, Y)
    assert np.max(np.abs(plain - reference) / np.sqrt(np.diagonal(cov))) > 5.0


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_outliers_are_named(share):
    y, rows = contaminated(share, seed=3)
    fit = rf.curve_fit(decay, T, y)
    np.testing.assert_array_equal(np.sort(fit.outliers(1e-2)), rows)


def test_the_solution_is_one_of_the_estimating_equations():
    fit = rf.curve_fit(decay, T, Y)
    psi = fit.loss.psi(fit.resid / fit.scale)
    J = decay_jac(T, *fit.x)
    size = np.linalg.norm(J, axis=0) * np.linalg.norm(psi)
    assert np.max(np.abs(J.T @ psi) / size) < 1e-7
    scale = rf.scale.m_scale(fit.resid, ddof=3)
    assert fit.scale == pytest.approx(float(scale), rel=0.05)


def test_a_given_scale_is_that_of_scipy():
    fit = rf.curve_fit(decay, T, Y, scale=SIGMA)
    expected = optimize.least_squares(
        lambda x: decay(T, *x) - Y,
        TRUE,
        loss=rf.scipy_loss("welsch"),
        f_scale=SIGMA,
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
    )
    np.testing.assert_allclose(fit.x, expected.x, rtol=1e-6)
    assert fit.scale == SIGMA
    assert fit.cost == pytest.approx(expected.cost, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_the_unit_of_y_does_not_matter(unit):
    plain, scaled = (rf.curve_fit(decay, T, Y * u) for u in (1.0, unit))
    size = np.array([unit, 1.0, unit])
    np.testing.assert_allclose(scaled.x / size, plain.x, rtol=1e-8)
    np.testing.assert_allclose(scaled.bse / size, plain.bse, rtol=1e-6)
    assert scaled.scale == pytest.approx(plain.scale * unit, rel=1e-8)
    assert scaled.status is plain.status


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_x_does_not_matter(unit):
    plain = rf.curve_fit(decay, T, Y)
    scaled = rf.curve_fit(decay, T * unit, Y, p0=[1.0, 1.0 / unit, 1.0])
    np.testing.assert_allclose(scaled.x * [1.0, unit, 1.0], plain.x, rtol=1e-7)


def test_the_same_call_gives_the_same_answer():
    first, second = (rf.curve_fit(decay, T, Y) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    other = rf.curve_fit(decay, T, Y, rng=np.random.default_rng(7))
    np.testing.assert_allclose(other.x, first.x, rtol=1e-8)


@pytest.mark.parametrize("method", ["lm", "trf", "dogbox"])
def test_methods_agree(method):
    fit = rf.curve_fit(decay, T, Y, method=method)
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y).x, rtol=1e-6)


JACOBIANS = {"function": decay_jac, "2-point": "2-point", "3-point": "3-point", "cs": "cs"}


@pytest.mark.parametrize("jac", JACOBIANS.values(), ids=JACOBIANS)
def test_derivatives_agree(jac):
    fit = rf.curve_fit(decay, T, Y, jac=jac)
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y).x, rtol=1e-5)


def test_derivatives_by_torch():
    torch = pytest.importorskip("torch")

    def model(t, a, b, c):
        return a * torch.exp(-b * t) + c

    fit = rf.curve_fit(model, T, Y, jac="torch")
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y).x, rtol=1e-6)
    linear = rf.curve_fit(model, T, Y, jac="torch", loss="linear")
    np.testing.assert_allclose(linear.x, optimize.curve_fit(decay, T, Y)[0], rtol=1e-6)
    t, y = torch.tensor(T), torch.tensor(Y)
    found = rf.least_squares(lambda x: model(t, *x) - y, np.ones(3), jac="torch")
    np.testing.assert_allclose(found.x, fit.x, rtol=1e-6)


def test_a_compiled_model_gets_scalars():
    kinds = []

    @numba.njit(cache=False)
    def compiled(t, a, b, c):
        return a * np.exp(-b * t) + c

    fit = rf.curve_fit(compiled, T, Y)
    kinds = compiled.signatures
    assert len(kinds) == 1
    assert [str(kind) for kind in kinds[0]][1:] == ["float64"] * 3
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y).x, rtol=1e-7)


def test_a_model_of_plain_numbers_works():
    import math

    def plain(t, a, b, c):
        return np.array([a * math.exp(-b * s) + c for s in t])

    fit = rf.curve_fit(plain, T[::3], Y[::3])
    assert fit.success
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T[::3], Y[::3]).x, rtol=1e-7)


def test_inputs_may_be_anything_that_numpy_takes():
    expected = rf.curve_fit(decay, T, Y).x
    wide = np.repeat(Y, 2)[::2]
    frozen = Y.copy()
    frozen.setflags(write=False)
    for x, y in ((list(T), list(Y)), (T, wide), (T, frozen), (T[::-1], Y[::-1])):
        np.testing.assert_allclose(rf.curve_fit(decay, x, y).x, expected, rtol=1e-7)
    single = rf.curve_fit(decay, T.astype(np.float32), Y.astype(np.float32))
    np.testing.assert_allclose(single.x, expected, rtol=1e-4)
    assert single.x.dtype == np.float64
    whole = rf.curve_fit(lambda t, a, b: a + b * t, np.arange(9), [0, 2, 4, 6, 99, 10, 12, 14, 17])
    assert whole.x.dtype == np.float64


def test_inputs_are_not_changed():
    x, y, p0, sigma = T.copy(), Y.copy(), np.ones(3), np.full(60, 0.1)
    rf.curve_fit(decay, x, y, p0, sigma)
    for now, before in ((x, T), (y, Y), (p0, np.ones(3)), (sigma, np.full(60, 0.1))):
        np.testing.assert_array_equal(now, before)


def test_several_predictors():
    p = NONLINEAR["Nelson"]
    y = p.y.copy()
    y[::6] += 3.0
    fit = rf.curve_fit(p.model, p.x, y, p.starts[1])
    assert np.all(np.abs(fit.x - p.coef) < 3.0 * p.se)


def test_nan_can_be_left_out():
    y = Y.copy()
    y[[1, 30]] = np.nan
    keep = np.isfinite(y)
    fit = rf.curve_fit(decay, T, y, nan_policy="omit", sigma=np.full(60, 2.0))
    expected = rf.curve_fit(decay, T[keep], y[keep], sigma=np.full(58, 2.0))
    np.testing.assert_array_equal(fit.x, expected.x)
    np.testing.assert_array_equal(np.isnan(fit.weights), ~keep)
    np.testing.assert_array_equal(np.isnan(fit.resid), ~keep)
    with pytest.raises(ValueError, match="nan"):
        rf.curve_fit(decay, T, y, nan_policy="raise")


def test_sigma_divides_the_residuals():
    rng = np.random.default_rng(4)
    sigma = np.where(T < 2.0, 0.02, 0.2)
    y = decay(T, *TRUE) + sigma * rng.normal(size=60)
    y[::7] += 3.0
    fit = rf.curve_fit(decay, T, y, sigma=sigma)
    matrix = rf.curve_fit(decay, T, y, sigma=np.diag(sigma**2))
    np.testing.assert_allclose(matrix.x, fit.x, rtol=1e-6)
    np.testing.assert_allclose(matrix.resid, fit.resid, atol=1e-6)
    assert 0.6 < fit.scale < 1.8
    twice = rf.curve_fit(decay, T, y, sigma=2.0 * sigma)
    np.testing.assert_allclose(twice.bse, fit.bse, rtol=1e-6)
    assert twice.scale == pytest.approx(0.5 * fit.scale, rel=1e-6)


def test_absolute_sigma_keeps_the_scale():
    fit = rf.curve_fit(decay, T, Y, sigma=np.full(60, SIGMA), absolute_sigma=True)
    assert fit.scale == 1.0
    _, cov = optimize.curve_fit(
        decay, T[GOOD], Y[GOOD], sigma=np.full(len(GOOD), SIGMA), absolute_sigma=True
    )
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diagonal(cov)), rtol=0.25)


def test_bounds_are_kept():
    fit = rf.curve_fit(decay, T, Y, bounds=(0.0, [5.0, 1.2, 5.0]))
    assert fit.status is rf.Status.AT_BOUND
    assert fit.success
    assert fit.x[1] <= 1.2
    assert "parameter 1" in fit.message
    inside = rf.curve_fit(decay, T, Y, bounds=(0.0, 10.0))
    np.testing.assert_allclose(inside.x, rf.curve_fit(decay, T, Y).x, rtol=1e-6)


def test_an_exact_fit():
    y = decay(T, *TRUE)
    y[::5] += 2.0
    fit = rf.curve_fit(decay, T, y)
    np.testing.assert_allclose(fit.x, TRUE, rtol=1e-10)
    assert fit.success
    np.testing.assert_array_equal(np.flatnonzero(fit.weights < 0.5), np.arange(0, 60, 5))


@pytest.mark.parametrize("start", ["auto", "ladder"])
def test_a_far_start_is_found_from(start):
    fit = rf.curve_fit(decay, T, Y, p0=[50.0, 5.0, 20.0], start=start)
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y).x, rtol=1e-6)


@pytest.mark.parametrize("name", ["Lanczos3", "Gauss2", "Eckerle4"])
def test_of_equal_curves_the_nearest_parameters_are_returned(name):
    p = NONLINEAR[name]
    y = p.y.copy()
    y[2::9] += np.ptp(y)
    fit = rf.curve_fit(p.model, p.x, y, p.starts[1])
    assert np.all(np.abs(fit.x - p.coef) < 3.0 * p.se)


def test_terms_keep_the_order_of_the_start():
    # From this start, the path of NIST's problem ends with its two exponentials exchanged.
    p = NONLINEAR["MGH17"]
    fit = rf.curve_fit(p.model, p.x, p.y, p.starts[0])
    assert fit.x[1] > 0.0 > fit.x[2]
    assert fit.x[3] < fit.x[4]
    np.testing.assert_allclose(p.model(p.x, *fit.x), p.y, atol=0.01)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1)])
def test_the_nearest_parameters_of_a_curve(order):
    true = np.array([5.0, 0.3, 3.0, 2.0])

    def two(t, a, b, c, d):
        return a * np.exp(-b * t) + c * np.exp(-d * t)

    y = two(T, *true) + 0.05 * np.random.default_rng(3).standard_normal(len(T))
    y[::6] += 4.0
    fit = rf.curve_fit(two, T, y, p0=np.array([20.0, 0.01, 0.1, 40.0])[list(order)])
    np.testing.assert_allclose(fit.x, true[list(order)], atol=0.5)


# -- failures ----------------------------------------------------------------------------------


def test_a_flat_start_is_no_success():
    with pytest.warns(rf.ConvergenceWarning, match="start='auto'"):
        fit = rf.curve_fit(decay, T, Y, p0=[50.0, 5.0, 20.0], start="p0", scale=SIGMA)
    assert fit.status is rf.Status.FLAT
    assert not fit.success
    assert np.all(np.isinf(fit.cov))


def test_too_few_observations_with_weight():
    # The start goes through the first two observations, and leaves all others far away.
    y = np.array([0.0, 5.0, -3.0, 8.0, 9.0, -2.0, 20.0, -30.0, 4.0, 11.0])
    with pytest.warns(rf.ConvergenceWarning, match="larger scale"):
        fit = rf.curve_fit(
            lambda t, a, b: a + b * t, np.arange(10.0), y, [0.0, 5.0], scale=0.01, start="p0"
        )
    assert fit.status is rf.Status.NO_WEIGHT
    assert np.sum(fit.weights) == pytest.approx(2.0)
    assert np.all(np.isinf(fit.cov))


def test_workers_give_the_same_answer():
    fit = rf.curve_fit(decay, T, Y, jac=decay_jac, workers=2)
    np.testing.assert_allclose(fit.x, rf.curve_fit(decay, T, Y, jac=decay_jac).x, rtol=1e-9)


def test_parameters_that_replace_each_other():
    with pytest.warns(rf.ConvergenceWarning, match="combination of the parameters"):
        fit = rf.curve_fit(lambda t, a, b, c: a * b * np.exp(-c * t), T, Y)
    assert fit.status is rf.Status.SINGULAR_JACOBIAN
    assert not fit.success


def test_two_curves_of_equal_size():
    rng = np.random.default_rng(1)
    y = np.where(np.arange(60) % 2, 1.0 + T, 9.0 - T) + 0.05 * rng.normal(size=60)
    with pytest.warns(rf.BasinWarning, match="other ones"):
        fit = rf.curve_fit(lambda t, a, b: a + b * t, T, y)
    assert fit.status is rf.Status.NO_MAJORITY


def test_too_few_evaluations():
    with pytest.warns(rf.ConvergenceWarning, match="max_nfev"):
        fit = rf.curve_fit(decay, T, Y, p0=[1.0, 0.1, 1.0], start="p0", maxfev=2)
    assert fit.status is rf.Status.MAXITER
    assert not fit.success


def test_a_callback_sees_candidates_and_can_stop():
    seen = []

    def stop(intermediate_result):
        seen.append(intermediate_result)
        if len(seen) == 3:
            raise StopIteration

    fit = rf.curve_fit(decay, T, Y, callback=stop)
    assert fit.status is rf.Status.CANCELLED
    assert [r.nit for r in seen] == [1, 2, 3]
    assert seen[-1].scale <= seen[0].scale
    assert np.all(np.isfinite(fit.x))


def test_an_interrupt_is_passed_on():
    def interrupted(intermediate_result):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rf.curve_fit(decay, T, Y, callback=interrupted)


def test_errors_of_the_model_at_the_start_are_seen():
    def model(t, a):
        raise ValueError("only for a < 0")

    with pytest.raises(ValueError, match="only for"):
        rf.curve_fit(model, T, Y)
    with pytest.raises(ValueError, match="not finite in the initial point"):
        rf.curve_fit(lambda t, a: a * np.full_like(t, np.inf), T, Y)
    with pytest.raises(ValueError, match="shape"):
        rf.curve_fit(lambda t, a: a * np.ones(7), T, Y)


WRONG = {
    "loss": ({"loss": "wlesch"}, ValueError, "wlesch"),
    "scale word": ({"scale": "mad"}, ValueError, "scale='mad'"),
    "scale": ({"scale": -1.0}, ValueError, "scale=-1.0"),
    "start": ({"start": "ols"}, ValueError, "start='ols'"),
    "method": ({"method": "bfgs"}, ValueError, "method='bfgs'"),
    "jac": ({"jac": "4-point"}, ValueError, "jac='4-point'"),
    "cov_type": ({"cov_type": "HC9"}, ValueError, "cov_type='HC9'"),
    "rng": ({"rng": "seed"}, TypeError, "rng"),
    "callback": ({"callback": 3}, TypeError, "callback=3"),
    "workers": ({"workers": 0}, ValueError, "workers"),
    "keyword": ({"epsfcn": 1e-4}, TypeError, "epsfcn"),
    "p0 nan": ({"p0": [1.0, np.nan, 1.0]}, ValueError, "finite"),
    "sigma": ({"sigma": -1.0}, ValueError, "sigma"),
    "bounds": ({"bounds": ([0.0, 0.0], [1.0, 1.0])}, ValueError, "bounds"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_named(name):
    arguments, error, match = WRONG[name]
    with pytest.raises(error, match=match):
        rf.curve_fit(decay, T, Y, **arguments)


def test_too_few_observations():
    with pytest.raises(ValueError, match="more than 3 residuals"):
        rf.curve_fit(decay, T[:3], Y[:3])
    with pytest.raises(ValueError, match="shape"):
        rf.curve_fit(decay, T, np.ones((60, 2)))


# -- the result --------------------------------------------------------------------------------


def test_the_result_is_scipys_tuple():
    fit = rf.curve_fit(decay, T, Y)
    popt, pcov = fit
    assert popt is fit[0] is fit.x
    assert pcov is fit[1] is fit.cov
    assert len(fit) == 2
    full = rf.curve_fit(decay, T, Y, full_output=True)
    popt, pcov, infodict, mesg, ier = full
    np.testing.assert_allclose(infodict["fvec"], decay(T, *popt) - Y, atol=1e-12)
    assert isinstance(mesg, str)
    assert ier in (1, 2, 3, 4)
    assert isinstance(fit, CurveFit)


def test_bands_follow_from_the_covariance():
    fit = rf.curve_fit(decay, T, Y)
    at = np.array([0.3, 2.0, 6.0])
    J = decay_jac(at, *fit.x)
    mean = decay(at, *fit.x)
    quantile = scipy.stats.t.ppf(0.95, 57)
    half = quantile * np.sqrt(np.sum(J @ fit.cov * J, axis=1))
    band = fit.predict(at, "confidence", 0.9)
    np.testing.assert_allclose(band, np.column_stack([mean, mean - half, mean + half]), rtol=1e-7)
    half = quantile * np.sqrt(np.sum(J @ fit.cov * J, axis=1) + fit.scale**2)
    new = fit.predict(list(at), interval="prediction", level=0.9)
    np.testing.assert_allclose(new[:, 2] - new[:, 0], half, rtol=1e-7)
    np.testing.assert_array_equal(fit.predict(at), mean)
    with pytest.raises(ValueError, match="interval"):
        fit.predict(at, "both")
    with pytest.raises(ValueError, match="level"):
        fit.predict(at, "confidence", 1.5)


def test_intervals_and_errors():
    fit = rf.curve_fit(decay, T, Y)
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diagonal(fit.cov)))
    half = scipy.stats.t.ppf(0.975, 57) * fit.bse
    np.testing.assert_allclose(fit.conf_int(), np.column_stack([fit.x - half, fit.x + half]))


def test_covariance_is_hubers_form():
    fit = rf.curve_fit(decay, T, Y)
    u, n, p = fit.resid / fit.scale, 60, 3
    slope = fit.loss.dpsi(u)
    K = 1.0 + p / n * np.var(slope, ddof=1) / np.mean(slope) ** 2
    J = decay_jac(T, *fit.x)
    factor = K**2 * np.sum(fit.loss.psi(u) ** 2) / (n - p) / np.mean(slope) ** 2
    expected = factor * fit.scale**2 * np.linalg.inv(J.T @ J)
    np.testing.assert_allclose(fit.cov, expected, rtol=1e-6)


def test_covariances_agree_about_the_size():
    huber = rf.curve_fit(decay, T, Y).bse
    for cov_type in ("H1", "H2", "H3", "w", "HC"):
        other = rf.curve_fit(decay, T, Y, cov_type=cov_type).bse
        np.testing.assert_allclose(other, huber, rtol=0.5)


def test_summary_and_plain_values():
    fit = rf.curve_fit(decay, T, Y)
    text = fit.summary()
    assert text.startswith("Robust curve fit: converged")
    assert all(name in text for name in ("a", "b", "c", "Welsch", "huber"))
    assert "CONVERGED" in repr(fit)
    plain = json.loads(json.dumps(fit.to_dict()))
    assert plain["x"] == list(fit.x)
    assert plain["status"] == "CONVERGED"
    unnamed = rf.curve_fit(lambda t, *p: decay(t, *p), T, Y, p0=[1.0, 1.0, 1.0])
    assert unnamed.names == ("p1", "p2", "p3")


def test_the_result_can_be_pickled():
    fit = rf.curve_fit(decay, T, Y)
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.x, fit.x)
    np.testing.assert_array_equal(again.predict(T), fit.predict(T))


def test_a_picture():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    ax = pyplot.figure().subplots()
    assert rf.curve_fit(decay, T, Y).plot(ax=ax) is ax
    assert "weight < 0.5" in ax.get_legend_handles_labels()[1]
    pyplot.close("all")


# -- least_squares -----------------------------------------------------------------------------


def residuals(x, t, y, scale=1.0):
    return (decay(t, *x) - y) / scale


def test_least_squares_is_the_same_fit():
    fit = rf.curve_fit(decay, T, Y)
    found = rf.least_squares(residuals, [1, 1, 1], args=(T, Y), kwargs={"scale": 2.0})
    np.testing.assert_allclose(found.x, fit.x, rtol=1e-7)
    np.testing.assert_allclose(found.cov, fit.cov, rtol=1e-5)
    assert found.scale == pytest.approx(0.5 * fit.scale, rel=1e-6)
    assert found.fit_status is rf.Status.CONVERGED
    assert found.success
    u = np.abs(found.fun) / found.scale
    assert found.cost == pytest.approx(found.scale**2 * np.sum(rf.get_loss("welsch").rho(u)))
    np.testing.assert_allclose(found.weights, rf.get_loss("welsch").weight(u), rtol=1e-12)


def test_f_scale_and_the_constant_are_scipys_convention():
    ours = rf.least_squares(
        residuals, TRUE, args=(T, Y), loss="cauchy", c=1.0, f_scale=0.1, start="p0"
    )
    theirs = optimize.least_squares(
        residuals, TRUE, args=(T, Y), loss="cauchy", f_scale=0.1, ftol=1e-15, xtol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-6)
    assert ours.cost == pytest.approx(theirs.cost, rel=1e-10)


@pytest.mark.parametrize("method", ["trf", "dogbox", "lm"])
def test_methods_of_least_squares_agree(method):
    found = rf.least_squares(residuals, np.ones(3), args=(T, Y), method=method)
    np.testing.assert_allclose(found.x, rf.curve_fit(decay, T, Y).x, rtol=1e-6)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.coo_array, aslinearoperator])
def test_other_jacobians(form):
    found = rf.least_squares(
        residuals,
        [2.0, 1.0, 0.0],
        lambda x, t, y: form(decay_jac(t, *x)),
        args=(T, Y),
        tr_solver="lsmr",
    )
    np.testing.assert_allclose(found.x, rf.curve_fit(decay, T, Y).x, rtol=1e-4)


def test_a_sparsity_pattern():
    # Ten levels of six observations each: one residual depends on one parameter.
    rng = np.random.default_rng(2)
    level = np.repeat(np.arange(10), 6)
    y = 3.0 + level + 0.1 * rng.normal(size=60)
    y[::6] += 20.0
    pattern = sparse.csr_array((np.ones(60), (np.arange(60), level)))
    found = rf.least_squares(
        lambda x: np.exp(x)[level] - y, np.ones(10), jac_sparsity=pattern, tr_solver="lsmr"
    )
    dense = rf.least_squares(lambda x: np.exp(x)[level] - y, np.ones(10))
    np.testing.assert_allclose(np.exp(found.x), 3.0 + np.arange(10), atol=0.3)
    np.testing.assert_allclose(found.x, dense.x, rtol=1e-4)


def circle(x, points):
    """Return the vectors from the nearest points of a circle to some points."""
    d = points - x[:2]
    length = np.linalg.norm(d, axis=1, keepdims=True)
    return (d * (1.0 - x[2] / length)).ravel()


def test_blocks_turn_with_the_plane():
    rng = np.random.default_rng(8)
    angle = rng.uniform(0.0, 2.0 * np.pi, 50)
    points = np.column_stack([np.cos(angle), np.sin(angle)]) * 2.0 + [1.0, -1.0]
    points += 0.05 * rng.normal(size=points.shape)
    points[:10] += [3.0, 1.0]
    found = rf.least_squares(circle, [0.5, 0.0, 1.0], args=(points,), block_size=2)
    assert found.weights.shape == (50,)
    np.testing.assert_allclose(found.x, [1.0, -1.0, 2.0], atol=0.06)
    # Each good residual is radial: of the two components only one is noise.
    assert 0.5 * 0.05 < found.scale < 1.3 * 0.05
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = rf.least_squares(
        circle, [*(turn @ [0.5, 0.0]), 1.0], args=(points @ turn.T,), block_size=2
    )
    np.testing.assert_allclose(turned.x[:2], turn @ found.x[:2], rtol=1e-6)
    assert turned.scale == pytest.approx(found.scale, rel=1e-6)


def test_complex_residuals_are_blocks_of_two():
    rng = np.random.default_rng(5)
    w = np.linspace(0.1, 5.0, 40)
    z = 1.0 / (1.0 + 1j * w * 0.7) + 0.01 * (rng.normal(size=40) + 1j * rng.normal(size=40))
    z[::5] += 0.6j

    def model(x):
        return x[0] / (1.0 + 1j * w * x[1]) - z

    found = rf.least_squares(model, [0.5, 0.1])
    pairs = rf.least_squares(lambda x: model(x).view(float), [0.5, 0.1], block_size=2)
    np.testing.assert_allclose(found.x, pairs.x, rtol=1e-8)
    np.testing.assert_allclose(found.x, [1.0, 0.7], atol=0.02)
    assert 0.006 < found.scale < 0.015
    np.testing.assert_array_equal(np.flatnonzero(found.weights < 0.1), np.arange(0, 40, 5))
    with pytest.raises(ValueError, match="real residuals"):
        rf.least_squares(model, [0.5, 0.1], jac="cs")


def test_wrong_blocks_are_refused():
    with pytest.raises(ValueError, match="block_size=7"):
        rf.least_squares(residuals, np.ones(3), args=(T, Y), block_size=7)
    with pytest.raises(ValueError, match="block_size"):
        rf.least_squares(residuals, np.ones(3), args=(T, Y), block_size=0)
    with pytest.raises(ValueError, match="cov_type"):
        rf.least_squares(residuals, np.ones(3), args=(T, Y), block_size=2, cov_type="HC")
    with pytest.raises(ValueError, match="f_scale='mad'"):
        rf.least_squares(residuals, np.ones(3), args=(T, Y), f_scale="mad")
    with pytest.raises(ValueError, match="at most 1-d"):
        rf.least_squares(lambda x: np.ones((4, 4)) * x[0], [1.0])


def test_a_failed_fit_is_no_success():
    with pytest.warns(rf.ConvergenceWarning):
        found = rf.least_squares(
            residuals, [50.0, 5.0, 20.0], args=(T, Y), start="p0", f_scale=SIGMA
        )
    assert not found.success
    assert found.fit_status is rf.Status.FLAT
    assert "nearer to the data" in found.message


# -- NIST --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Misra1a", "MGH17", "Thurber", "BoxBOD", "MGH10"])
def test_scipy_with_tight_tolerances_reaches_the_certified_values(name):
    p = NONLINEAR[name]
    fit = rf.curve_fit(
        p.model, p.x, p.y, p.starts[1], loss="linear", ftol=1e-15, xtol=1e-15, maxfev=20000
    )
    np.testing.assert_allclose(fit.x, p.coef, rtol=1e-6)
    np.testing.assert_allclose(fit.bse, p.se, rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["Chwirut2", "DanWood", "Misra1d", "Roszman1", "Rat43", "MGH10", "Eckerle4", "MGH17"]
)
@pytest.mark.parametrize("start", [0, 1])
def test_nist_without_outliers(name, start):
    p = NONLINEAR[name]
    fit = rf.curve_fit(p.model, p.x, p.y, p.starts[start])
    assert fit.success
    assert np.all(np.abs(fit.x - p.coef) < 3.0 * p.se)


@pytest.mark.parametrize("name", ["Chwirut1", "Gauss1", "Roszman1", "Nelson", "Rat42"])
@pytest.mark.parametrize("start", [0, 1])
def test_nist_with_outliers(name, start):
    p = NONLINEAR[name]
    rng = np.random.default_rng(11)
    rows = rng.choice(len(p.y), round(0.2 * len(p.y)), replace=False)
    y = p.y.copy()
    y[rows] += rng.uniform(0.5, 1.5, len(rows)) * np.ptp(y)
    fit = rf.curve_fit(p.model, p.x, y, p.starts[start])
    assert np.all(np.abs(fit.x - p.coef) < 3.0 * p.se)
