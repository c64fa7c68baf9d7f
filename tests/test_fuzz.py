"""Laws under fuzzing: any data and any options end in a clear error, a failure or the truth.

Hypothesis draws designs that people meet and fear, responses, weights, losses, starts, scales and
solvers. `ROBUSTFIT_FUZZ=5000` makes that many examples of each law instead of the few of the suite.
"""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import robustfit as rf
from robustfit.losses import LOSSES

EXAMPLES = int(os.environ.get("ROBUSTFIT_FUZZ", "60"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize="ROBUSTFIT_FUZZ" not in os.environ,
)

# -- data ------------------------------------------------------------------------------------

DESIGNS = {
    "normal": lambda rng, n, p: rng.standard_normal((n, p)),
    "intercept": lambda rng, n, p: np.column_stack(
        [np.ones(n), rng.standard_normal((n, p - 1))]
    ),
    "ties": lambda rng, n, p: rng.integers(-2, 3, (n, p)).astype(float),
    "one-hot": lambda rng, n, p: np.eye(p)[rng.integers(0, p, n)],
    "factor": lambda rng, n, p: np.column_stack(
        [np.ones(n), np.eye(p)[rng.integers(0, p, n)][:, 1:]]
    ),
    "duplicate": lambda rng, n, p: rng.standard_normal((n, 1)) * np.ones(p),
    "constant": lambda rng, n, p: np.full((n, p), 3.0) * (1.0 + np.arange(p)),
    "zeros": lambda rng, n, p: np.zeros((n, p)),
    "offset": lambda rng, n, p: np.column_stack(
        [np.ones(n), 1e8 + rng.standard_normal((n, p - 1))]
    ),
    "powers": lambda rng, n, p: np.arange(n)[:, None] ** np.arange(float(p)),
    "lone row": lambda rng, n, p: np.column_stack(
        [rng.standard_normal((n, p - 1)), np.arange(n) == 0]
    ),
    "far rows": lambda rng, n, p: (
        rng.standard_normal((n, p)) * np.where(rng.random((n, 1)) < 0.2, 1e6, 1.0)
    ),
    "heavy": lambda rng, n, p: rng.standard_cauchy((n, p)),
}  # fmt: skip

RESPONSES = {
    "normal": lambda rng, A, line: line + rng.standard_normal(len(line)),
    "outliers": lambda rng, A, line: (
        line + rng.standard_normal(len(line)) + 1e3 * (rng.random(len(line)) < 0.25)
    ),
    "exact": lambda rng, A, line: line,
    "half exact": lambda rng, A, line: np.where(
        np.arange(len(line)) % 2 == 0, line, line + rng.standard_normal(len(line))
    ),
    "constant": lambda rng, A, line: np.full(len(line), 7.0),
    "zero": lambda rng, A, line: np.zeros(len(line)),
    "signed zeros": lambda rng, A, line: np.where(np.arange(len(line)) % 2 == 0, 0.0, -0.0),
    "ties": lambda rng, A, line: rng.integers(0, 3, len(line)).astype(float),
    "cauchy": lambda rng, A, line: line + rng.standard_cauchy(len(line)),
    "gross": lambda rng, A, line: line + 10.0 ** rng.uniform(-10.0, 10.0, len(line)),
}


@st.composite
def problems(draw):
    """Draw a design (n, p) and a response, in any units, read-only, in any layout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    p = draw(st.integers(1, 4), label="p")
    n = draw(st.one_of(st.integers(1, p + 3), st.integers(1, 40)), label="n")
    A = DESIGNS[draw(st.sampled_from(sorted(DESIGNS)), label="design")](rng, n, p)
    line = A @ rng.standard_normal(p)
    b = RESPONSES[draw(st.sampled_from(sorted(RESPONSES)), label="response")](rng, A, line)
    units = st.sampled_from([0, 0, 0, -1, 7, -130, 130, -295, 295])
    with np.errstate(over="ignore", under="ignore"):
        A = A * 10.0 ** draw(units, label="unit of A")
        b = b * 10.0 ** draw(units, label="unit of b")
    A = np.asarray(A, order=draw(st.sampled_from("CF"), label="order"))
    for array in (A, b):
        array.flags.writeable = False
    return A, b


# -- options ---------------------------------------------------------------------------------

STARTS = ("auto", "ols", "s", "lad", "lts", "gnc")
SCALES = ("auto", "s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std")


@st.composite
def options(draw):
    """Draw options of irls, some of which do not go together."""
    found = {"loss": draw(st.sampled_from(sorted(LOSSES)), label="loss")}
    if draw(st.booleans(), label="plain call"):
        return found
    method = draw(st.sampled_from([None, None, "m", "s", "mm", "smdm", "tau"]), label="method")
    if method:
        found["method"] = method
    else:
        found["start"] = draw(st.sampled_from(STARTS), label="start")
        found["scale"] = draw(st.sampled_from(SCALES), label="scale")
    found["solver"] = draw(st.sampled_from(["auto", "cholesky", "qr"]), label="solver")
    found["leverage"] = draw(st.sampled_from([False, False, True]), label="leverage")
    return found


# What an error is about.
NAMED = ("A", "b", "loss=", "scale=", "start=", "method=", "leverage=", "solver=", "freq_weights")


def attempt(A, b, **options):
    """Return the fit, None where the call refuses the data with an error that says why."""
    before = A.copy(), b.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ours in (rf.ConvergenceWarning, rf.RankWarning, rf.BasinWarning):
            warnings.simplefilter("ignore", ours)
        try:
            fit = rf.irls(A, b, **options)
        except ValueError as error:
            words = str(error)
            fit = None
    if fit is None:
        assert any(name in words for name in NAMED), words
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.summary()
        fit.to_dict()
    for given_array, copy in zip((A, b), before, strict=True):
        np.testing.assert_array_equal(given_array, copy)
    return fit


# -- the laws --------------------------------------------------------------------------------


@fuzz
@given(problem=problems(), options=options())
def test_a_success_is_one(problem, options):
    A, b = problem
    fit = attempt(A, b, **options)
    if fit is None:
        return
    assert fit.x.shape == (A.shape[1],)
    assert fit.weights.shape == fit.resid.shape == b.shape
    if not fit.success:
        assert fit.message
        return
    assert np.all(np.isfinite(fit.x))
    assert 0.0 <= fit.scale < np.inf
    assert np.all((fit.weights >= 0.0) & (fit.weights <= 1.0))
    assert np.sum(fit.weights) > 0.0
    assert not np.any(np.isnan(fit.resid))
    # A few rows more than columns say little about the errors, rows that fit exactly nothing.
    silent = fit.df_resid <= len(fit.x) or fit.status is rf.Status.EXACT_FIT
    assert np.all(fit.bse >= 0.0) or silent
    if fit.scale > 0.0 and not options.get("leverage"):
        assert_solved(fit, A, b)


def assert_solved(fit, A, b):
    """Check sum psi(r / s) a = 0, in standard errors, up to the rounding of the residuals."""
    with np.errstate(all="ignore"):
        u = fit.resid / fit.scale
        unit = np.max(np.abs(A), axis=0)
        unit = np.where(unit > 0.0, unit, 1.0)
        size = (np.abs(A / unit) @ np.abs(fit.x * unit) + np.abs(b)) / fit.scale
    Q, R = np.linalg.qr(A / unit)
    keep = np.abs(np.diagonal(R)) > 1e-8 * np.max(np.abs(R))
    if not np.all(keep):
        return
    rounding = 1e-14 * float(np.max(fit.loss.weight(u) * np.minimum(size, 1e300)))
    assert np.max(np.abs(Q.T @ fit.loss.psi(u))) < 1e-6 + len(b) * rounding


@fuzz
@given(problem=problems(), options=options(), k=st.sampled_from([-40, -1, 3, 60]))
def test_a_power_of_two_changes_no_bit(problem, options, k):
    A, b = problem
    largest, smallest = np.max(np.abs(b)), np.min(np.abs(b[b != 0.0]), initial=np.inf)
    if not 1e-200 < smallest <= largest < 1e200 or not 1e-100 < np.max(np.abs(A)) < 1e100:
        return
    plain, scaled = attempt(A, b, **options), attempt(A, 2.0**k * b, **options)
    assert (plain is None) == (scaled is None)
    if plain is not None:
        np.testing.assert_array_equal(scaled.x, 2.0**k * plain.x)
        assert scaled.scale == 2.0**k * plain.scale
        assert scaled.status is plain.status
        np.testing.assert_array_equal(scaled.weights, plain.weights)


CONVEX = sorted(name for name in LOSSES if rf.get_loss(name).convex and name != "linear")


@fuzz
@given(problem=problems(), loss=st.sampled_from(CONVEX), seed=st.integers(0, 99))
def test_convex_fits_do_not_depend_on_order_and_repetition(problem, loss, seed):
    A, b = problem
    rng = np.random.default_rng(seed)
    freq = rng.integers(1, 4, len(b))
    order = rng.permutation(int(np.sum(freq)))
    options = {"loss": loss, "start": "ols", "scale": float(np.median(np.abs(b))) or 1.0}
    counted = attempt(A, b, freq_weights=freq, **options)
    rows = np.repeat(np.arange(len(b)), freq)[order]
    repeated = attempt(A[rows], b[rows], **options)
    assert (counted is None) == (repeated is None)
    if counted is None or not (counted.success and repeated.success):
        return
    if counted.scale > 0.0 and repeated.scale > 0.0:
        u, v = counted.resid[rows] / counted.scale, repeated.resid / repeated.scale
        cost = [np.sum(rf.get_loss(loss).rho(values)) for values in (u, v)]
        with np.errstate(over="ignore"):
            size = (np.abs(A[rows]) @ np.abs(counted.x) + np.abs(b[rows])) / counted.scale
        rounding = 1e-14 * np.sum(size * np.abs(v)) + 1e-28 * np.sum(size**2)
        assert abs(cost[0] - cost[1]) <= 1e-9 * max(cost) + rounding


@fuzz
@given(problem=problems(), loss=st.sampled_from(sorted(set(LOSSES) - {"linear"})))
def test_the_objective_never_increases(problem, loss):
    A, b = problem
    scale = float(np.median(np.abs(b))) or 1.0
    loss, costs, rounding = rf.get_loss(loss), [], []

    def record(now):
        with np.errstate(all="ignore"):
            u = (b - A @ now.x) / scale
            costs.append(np.sum(loss.rho(u)))
            size = (np.abs(A) @ np.abs(now.x) + np.abs(b)) / scale
            rounding.append(1e-15 * np.sum(size * np.abs(loss.psi(u))))

    fit = attempt(A, b, loss=loss, start="ols", scale=scale, callback=record)
    if fit is not None and np.all(np.isfinite(costs)):
        allowed = 1e-9 * np.array(costs[1:]) + 10.0 * np.array(rounding[1:]) + 1e-300
        assert np.all(np.diff(costs) <= allowed)


# -- what fuzzing has found ------------------------------------------------------------------


def test_most_rows_of_zeros():
    fit = rf.irls(np.array([[1.0], [0.0], [0.0]]), np.array([-0.1, -0.2, 0.3]), "arctan")
    assert np.all(np.isfinite(fit.x))


def test_coefficients_beyond_double_precision_are_refused():
    with pytest.raises(ValueError, match="column 'x2' is beyond the range of double precision"):
        rf.irls(np.array([[1.0, 3e-295]] * 3 + [[2.0, 1e-295]]), np.arange(4.0) * 1e60, "huber")


def test_exact_rows_that_do_not_determine_the_coefficients_are_no_success():
    levels = np.array([1, 2, 3, 3, 0])
    A = np.column_stack([np.ones(5), np.eye(4)[levels][:, 1:]])
    b = np.array([1.2, 9.5, -2.6, -1.5, 13.8])
    with pytest.warns(rf.ConvergenceWarning):
        fit = rf.irls(A, b, "andrews", start="ols")
    assert fit.status is rf.Status.NO_WEIGHT


def test_trimmed_squares_of_rows_that_do_not_determine_the_coefficients():
    A = np.repeat([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [2, 4], axis=0)
    with pytest.warns(rf.RankWarning):
        fit = rf.irls(A, np.full(6, 7.0), start="lts")
    np.testing.assert_allclose(A @ fit.x, 7.0, rtol=1e-14)


def test_no_newton_step_to_nowhere():
    # Between two rows far above and two below, the logistic loss has next to no curvature.
    A = np.eye(2)[[1, 1, 0, 0, 0, 0, 1]]
    b = np.array([1.4, 1.5, 275.0, 1.35, 245.0, 1.35, 1.9])
    loss, costs = rf.get_loss("logistic"), []
    rf.irls(
        A, b, loss, start="ols", scale=1.5,
        callback=lambda now: costs.append(np.sum(loss.rho((b - A @ now.x) / 1.5))),
    )  # fmt: skip
    assert np.all(np.diff(costs) <= 1e-9 * costs[0])


def test_huber_scale_without_degrees_of_freedom():
    fit = rf.irls(np.array([[3.0]]), np.array([0.2]), "andrews", start="ols", scale="huber")
    assert fit.scale == 0.0
