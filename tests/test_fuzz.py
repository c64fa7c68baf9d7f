"""Laws under fuzzing: any data and any options end in a clear error, a failure or the truth."""

import numpy as np
import pytest
from fuzzing import attempt, fuzz, options, problems, regular_problems, succeeded
from hypothesis import given
from hypothesis import strategies as st

import robustfit as rf
from robustfit.losses import LOSSES

# -- the laws --------------------------------------------------------------------------------


@fuzz()
@given(problem=problems(), options=options())
def test_a_success_is_one(problem, options):
    A, b = problem
    fit = attempt(A, b, **options)
    if fit is None:
        return
    assert fit.x.shape == (A.shape[1],)
    assert fit.weights.shape == fit.resid.shape == b.shape
    if not succeeded(fit):
        return
    assert np.sum(fit.weights) > 0.0
    assert not np.any(np.isnan(fit.resid))
    # A few rows more than columns say little about the errors, rows that fit exactly nothing.
    few = min(fit.df_resid, np.sum(fit.weights) - 1.0) <= len(fit.x)
    silent = few or fit.status is rf.Status.EXACT_FIT
    assert np.all(fit.bse >= 0.0) or silent
    if fit.scale > 0.0:
        assert_solved(fit, A, b, leverage=options.get("leverage", False))


def assert_solved(fit, A, b, leverage):
    """Check sum psi(r / s) a = 0, in standard errors, up to the rounding of the residuals."""
    shrink = np.sqrt(np.maximum(1.0 - fit.leverage, 1e-4)) if leverage else 1.0
    with np.errstate(all="ignore"):
        u = fit.resid / fit.scale / shrink
        unit = np.max(np.abs(A), axis=0)
        unit = np.where(unit > 0.0, unit, 1.0)
        size = (np.abs(A / unit) @ np.abs(fit.x * unit) + np.abs(b)) / fit.scale
    Q, R = np.linalg.qr(A / unit)
    keep = np.abs(np.diagonal(R)) > 1e-8 * np.max(np.abs(R))
    if not np.all(keep):
        return
    rounding = 1e-14 * float(np.max(fit.loss.weight(u) * np.minimum(size, 1e300)))
    assert np.max(np.abs(Q.T @ (shrink * fit.loss.psi(u)))) < 1e-6 + len(b) * rounding


@fuzz()
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


@fuzz()
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
    if counted is None or repeated is None:
        # Rounding decides what is beyond the range of doubles.
        assert counted is repeated or np.max(np.abs((counted or repeated).x)) > 1e305
        return
    if not (counted.success and repeated.success):
        return
    if counted.scale > 0.0 and repeated.scale > 0.0:
        u, v = counted.resid[rows] / counted.scale, repeated.resid / repeated.scale
        cost = [np.sum(rf.get_loss(loss).rho(values)) for values in (u, v)]
        with np.errstate(over="ignore"):
            size = (np.abs(A[rows]) @ np.abs(counted.x) + np.abs(b[rows])) / counted.scale
        rounding = 1e-14 * np.sum(size * np.abs(v)) + 1e-28 * np.sum(size**2)
        assert abs(cost[0] - cost[1]) <= 1e-9 * max(cost) + rounding


@fuzz()
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


# -- equivariance and breakdown --------------------------------------------------------------


def assert_same_fit(found, expected, x):
    """Compare fits in standard errors, the first one's coefficients mapped to x."""
    assert (found is None) == (expected is None)
    if found is None:
        return
    scales = [fit.search.scale if fit.search else fit.scale for fit in (found, expected)]
    if found.search and 1e-6 < abs(scales[0] / scales[1] - 1.0) < 0.1:
        # Of two minima that are about as deep, the search may find either.
        return
    if {found.status, expected.status} & {rf.Status.MAXITER, rf.Status.NO_MAJORITY}:
        # A scale that does not settle, and rivals of which the search keeps some.
        return
    assert found.status is expected.status
    if not expected.success:
        return
    unit = np.sqrt(np.diagonal(np.linalg.pinv(expected.model_matrix.T @ expected.model_matrix)))
    assert np.max(np.abs(x - expected.x) / unit) <= 1e-6 * expected.scale
    assert abs(found.scale - expected.scale) <= 1e-6 * expected.scale


# Of least absolute deviations there may be many.
UNIQUE = options().filter(lambda options: options.get("start") != "lad")


@fuzz(60)
@given(problem=regular_problems(), options=UNIQUE, seed=st.integers(0, 99))
def test_a_fit_moves_with_the_response_and_the_columns(problem, options, seed):
    A, b = problem
    rng = np.random.default_rng(seed)
    p = A.shape[1]
    v = 10.0 * rng.standard_normal(p)
    M = np.linalg.qr(rng.standard_normal((p, p)))[0] * rng.uniform(0.5, 2.0, p)
    plain = attempt(A, b, **options)
    moved, mixed = attempt(A, b + A @ v, **options), attempt(A @ M, b, **options)
    assert_same_fit(moved, plain, moved and moved.x - v)
    assert_same_fit(mixed, plain, mixed and M @ mixed.x)


@fuzz(60)
@given(problem=regular_problems(rows=14), options=UNIQUE, seed=st.integers(0, 99))
def test_order_and_repetition_of_rows_do_not_matter(problem, options, seed):
    # Few enough rows for the search to look at all subsets.
    A, b = problem
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(b))
    plain, permuted = attempt(A, b, **options), attempt(A[order], b[order], **options)
    assert_same_fit(permuted, plain, permuted and permuted.x)
    freq = rng.integers(1, 3, len(b))
    counted = attempt(A, b, freq_weights=freq, **options)
    repeated = attempt(np.repeat(A, freq, axis=0), np.repeat(b, freq), **options)
    assert_same_fit(repeated, counted, repeated and repeated.x)


BOUNDED = sorted(name for name in LOSSES if rf.get_loss(name).bounded)
RESISTANT = ({}, {"method": "s"}, {"method": "smdm"}, {"method": "tau"}, {"start": "lts"})


@fuzz(40)
@given(
    problem=regular_problems(),
    loss=st.sampled_from(BOUNDED),
    options=st.sampled_from(RESISTANT),
    share=st.floats(0.0, 0.4),
    size=st.sampled_from([1e3, 1e6, 1e12]),
    where=st.sampled_from(["scattered", "one place", "far rows", "one far place"]),
    seed=st.integers(0, 99),
)
def test_no_success_is_carried_away(problem, loss, options, share, size, where, seed):
    rng = np.random.default_rng(seed)
    A, _ = problem
    (n, p), A = A.shape, A.copy()
    b = A @ np.ones(p) + rng.standard_normal(n)
    bad = rng.permutation(n)[: int(share * (n - p))]
    one = where.startswith("one")
    b[bad] = size * (1.0 if one else rng.standard_normal(len(bad)))
    if "far" in where:
        A[bad, -1] = size * (1.0 if one else rng.standard_normal(len(bad)))
    fit = attempt(A, b, loss=loss, **options)
    if fit is not None and fit.success:
        good = np.delete(A, bad, axis=0)
        error = np.linalg.norm(good @ (fit.x - 1.0)) / np.sqrt(len(good))
        assert error < 30.0, error


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


def test_interval_beyond_double_precision():
    # Standard errors of 1e307, of which an interval is several.
    A = np.array(
        [[1.8, 0.41], [0.3, -0.83], [-0.47, -2.13], [0.32, 2.12], [0.32, 1.81]]
    )  # fmt: skip
    b, freq = np.array([1.6e7, 1.33e12, 9.3e14, 6.8e6, 1.4e14]), np.array([2, 3, 3, 1, 1])
    options = {"loss": "arctan_psi", "start": "ols", "scale": 1.33e12, "freq_weights": freq}
    fit = attempt(1e-295 * A, b, **options)
    assert not np.any(np.isnan(fit.conf_int()))
    assert np.any(np.isinf(fit.conf_int()))


def test_far_rows_beside_leverage():
    # The fit without the far rows was given the leverages of all.
    rng = np.random.default_rng(2)
    A, b = rng.standard_normal((12, 2)).round(1), rng.standard_normal(12).round(1)
    assert attempt(A, b, loss="andrews", method="s", leverage=True).success


def test_a_kept_scale_is_that_of_least_squares():
    # Beside the second row, normal equations have half the digits.
    A = np.array([[0.35, 0.82], [3.3e5, -1.3e6], [0.91, 0.45], [-0.54, 0.58]])
    b = np.array([-1.2, -3.1e4, 2.3, 0.27])
    resid = b - A @ np.linalg.lstsq(A, b)[0]
    fit = rf.irls(A, b, "huber", start="ols", scale="mad-fixed")
    assert fit.scale == pytest.approx(rf.scale.mad(resid, center=0.0), rel=1e-9)


def test_weights_of_a_tau_estimate_of_two_rows():
    # Rounding made the share of the inner loss negative, and a weight larger than one.
    for b in np.random.default_rng(0).uniform(0.1, 0.2, (50, 2)):
        fit = rf.irls(np.full((2, 1), 3.0), b, "lqq", method="tau")
        assert np.all(fit.weights <= 1.0)


def test_no_weight_is_more_than_one():
    # tanh(v) / v of the smallest v, in compiled code.
    fit = rf.irls(np.array([[0.1], [0.0]]), np.array([7.0, 7.0]), "logistic")
    assert np.max(fit.weights) == 1.0
