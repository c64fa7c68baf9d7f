"""High-breakdown fits: the default call, the basin guard, and the estimators by name."""

import warnings

import numpy as np
import pytest
from regression_data import EDGE_CASES, classic, contaminated, with_far_rows
from scipy.stats import norm

import robustfit as rf
from robustfit.linear import _guard
from robustfit.scale import m_scale, tau_losses

C95 = 2.98463717629906


# -- the default call finds the good fit -------------------------------------------------------


def test_stars_by_the_bare_call():
    A, b = classic("starsCYG")
    fit = rf.irls(A, b, loss="welsch")
    assert fit.status is rf.Status.EFFICIENCY_LOWERED
    assert fit.success
    assert 2.2 < fit.x[1] < 2.7
    assert fit.loss.efficiency() == pytest.approx(0.90, abs=1e-9)
    assert "lowered to 90 %" in fit.summary()
    # The four giants are rejected: rows 11, 20, 30 and 34, counted from 1.
    assert np.max(fit.weights[[10, 19, 29, 33]]) < 1e-3


@pytest.mark.parametrize("given", [{"c": C95}, {"efficiency": 0.95}])
def test_stars_with_a_constant_of_the_callers(given):
    A, b = classic("starsCYG")
    with pytest.warns(rf.BasinWarning, match=r"M-scale 1\.4\d times the S-scale"):
        fit = rf.irls(A, b, loss="welsch", **given)
    assert fit.status is rf.Status.LEFT_BASIN
    assert not fit.success
    # Where robustbase's lmrob ends too, and says that it converged.
    assert fit.x[1] == pytest.approx(-0.4336, abs=1e-4)
    assert fit.loss.c == pytest.approx(C95, rel=1e-12)


@pytest.mark.parametrize("efficiency", [0.85, 0.90, 0.94])
def test_stars_below_the_fold_stays(efficiency):
    slopes = {0.85: 2.65138, 0.90: 2.44344, 0.94: 2.12257}
    fit = rf.irls(*classic("starsCYG"), loss="welsch", efficiency=efficiency)
    assert fit.status is rf.Status.CONVERGED
    assert fit.x[1] == pytest.approx(slopes[efficiency], abs=2e-5)


@pytest.mark.parametrize("loss", ["hampel", "lqq"])
def test_other_losses_that_lose_the_stars(loss):
    fit = rf.irls(*classic("starsCYG"), loss)
    assert fit.status is rf.Status.EFFICIENCY_LOWERED
    assert 2.2 < fit.x[1] < 2.7


@pytest.mark.parametrize("loss", ["tukey", "optimal", "andrews"])
def test_losses_that_keep_the_stars(loss):
    fit = rf.irls(*classic("starsCYG"), loss)
    assert fit.status is rf.Status.CONVERGED
    assert 2.0 < fit.x[1] < 2.3


GOOD_FITS = {
    # The rows that the literature calls outliers, counted from 0.
    "hbk": set(range(10)),
    "wood": {3, 5, 7, 18},
    "phones": {14, 15, 16, 17, 18, 19},
    "Animals2": {5, 15, 25},
}


@pytest.mark.parametrize("name", GOOD_FITS)
@pytest.mark.parametrize("loss", ["welsch", "tukey", "lqq", "optimal"])
def test_known_outliers_lose_their_weight(name, loss):
    fit = rf.irls(*classic(name), loss)
    assert fit.success
    low = set(np.flatnonzero(fit.weights < 0.05).tolist())
    assert low >= (GOOD_FITS[name] if name != "Animals2" else set())
    if name == "Animals2":
        dinosaurs = np.argsort(fit.weights)[:3]
        assert np.max(fit.weights[dinosaurs]) < 0.05
    assert len(low) <= 12


def test_good_leverage_points_of_hbk_are_kept():
    fit = rf.irls(*classic("hbk"))
    assert np.min(fit.weights[10:14]) > 0.7


@pytest.mark.parametrize("case", ["exact_fit_55_percent", "exact_fit_3_outliers"])
def test_an_exact_majority_is_found(case):
    A, b = EDGE_CASES[case]
    fit = rf.irls(A, b)
    assert fit.status is rf.Status.EXACT_FIT
    expected = [6.0, 7.5] if "55" in case else [1.0, 2.0]
    np.testing.assert_allclose(fit.x, expected, rtol=1e-13)
    np.testing.assert_array_equal(fit.weights, (np.abs(b - A @ expected) < 1e-9).astype(float))


# -- breakdown ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_45_percent_of_anything_is_survived(seed):
    rng = np.random.default_rng(seed)
    n, p, bad = 200, 5, 90
    A = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    b = A @ rng.standard_normal(p) + rng.standard_normal(n)
    clean = rf.irls(A[bad:], b[bad:], "linear")
    size = 10.0 ** rng.uniform(2, 12)
    A[:bad, 1:] = rng.standard_normal((bad, p - 1)) * 10.0 ** rng.uniform(-1, 6)
    # At 45 % the S-scale is four times that of the good rows: a cluster within twenty of
    # them keeps some weight, and biases the fit by a bounded amount.
    b[:bad] = 2.0 * size * rng.choice([-1, 1]) + rng.standard_normal(bad) * 10.0 ** rng.uniform(
        -2, 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rf.BasinWarning)
        fit = rf.irls(A, b)
    distance = np.sqrt((fit.x - clean.x) @ np.linalg.solve(clean.cov, fit.x - clean.x) / p)
    assert not fit.success or distance < 5.0


# -- the basin guard ---------------------------------------------------------------------------


def test_clean_data_raise_no_alarm():
    rng = np.random.default_rng(7)
    statuses = []
    for _ in range(60):
        A = np.column_stack([np.ones(40), rng.standard_normal((40, 2))])
        statuses.append(rf.irls(A, rng.standard_normal(40)).status)
    assert statuses.count(rf.Status.CONVERGED) >= 59


def test_variance_of_the_difference_of_two_estimates():
    a, b = rf.get_loss("welsch", efficiency=0.5), rf.get_loss("welsch", efficiency=0.95)
    # With itself nothing, with least squares the classical 1 / e - 1 (Hausman 1978).
    assert _guard.difference_variance(a, a) == pytest.approx(0.0, abs=1e-14)
    ols = rf.get_loss("linear")
    assert _guard.difference_variance(a, ols) == pytest.approx(1.0, rel=1e-9)
    assert _guard.difference_variance(b, ols) == pytest.approx(1 / 0.95 - 1, rel=1e-9)


def two_lines(share, n=100, seed=3):
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.0, 10.0, n)
    second = np.arange(n) < share * n
    b = np.where(second, 20.0 - 1.0 * t, 1.0 + 3.0 * t) + 0.2 * rng.standard_normal(n)
    return np.column_stack([np.ones(n), t]), b


def test_two_halves_have_no_majority():
    with pytest.warns(rf.BasinWarning, match="another fit"):
        fit = rf.irls(*two_lines(0.5))
    assert fit.status is rf.Status.NO_MAJORITY
    assert not fit.success
    slopes = sorted([fit.x[1], fit.alternatives[0][0][1]])
    np.testing.assert_allclose(slopes, [-1.0, 3.0], atol=0.1)


def test_a_majority_of_two_thirds_is_one():
    fit = rf.irls(*two_lines(0.33))
    assert fit.success
    assert fit.x[1] == pytest.approx(3.0, abs=0.05)


def three_parts(share, kind, seed, n=200):
    """Return normal data on a plane, with a share of the rows replaced, and which rows are good."""
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.standard_normal((n, 4))])
    b = A @ [3.0, -5.0, 8.0, 2.0, 10.0] + rng.standard_normal(n)
    bad = int(share * n)
    if kind == "one point":
        A[:bad, 1:], b[:bad] = [1e3, -1e3, 2e3, 1e3], -1e4
    elif kind == "another plane":
        A[:bad, 1:] *= 1e3
        b[:bad] = rng.standard_normal(bad)
    else:
        b[:bad] += rng.uniform(0.0, 25.0, bad)
    return A, b, np.arange(n) >= bad


@pytest.mark.parametrize("kind", ["one point", "another plane"])
def test_a_fit_that_follows_the_bad_rows_knows_of_the_majority(kind):
    wrong, missed = 0, []
    for seed in range(10):
        A, b, good = three_parts(0.45, kind, seed)
        clean = rf.irls(A[good], b[good], "linear")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rf.BasinWarning)
            fit = rf.irls(A, b)

        def far(x, clean=clean, limit=5.0):
            return np.max(np.abs(x - clean.x) / clean.bse) > limit

        wrong += far(fit.search.x)
        if fit.success and far(fit.x):
            missed.append(seed)
        elif far(fit.search.x):
            assert fit.status is rf.Status.NO_MAJORITY
            # An S-estimate, of the half of the good rows that are left out.
            assert not all(far(x, limit=12.0) for x, _ in fit.alternatives)
    assert wrong >= 3
    # Of nine tenths of the good rows a bad fit can leave less than half of all.
    assert len(missed) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_the_m_step_does_not_drift_to_outliers_nearby(seed):
    A, b, good = three_parts(0.4, "one-sided", seed)
    clean = rf.irls(A[good], b[good], "linear")
    fit = rf.irls(A, b)
    assert fit.status is rf.Status.EFFICIENCY_LOWERED
    assert "drifted" in fit.message
    with pytest.warns(rf.BasinWarning, match="drifted"):
        asked = rf.irls(A, b, efficiency=0.95)
    assert asked.status is rf.Status.LEFT_BASIN

    def distance(x):
        return np.max(np.abs(x - clean.x) / clean.bse)

    assert distance(fit.x) < 0.75 * distance(asked.x)


@pytest.mark.parametrize("kind", ["one point", "another plane", "one-sided"])
def test_a_fifth_of_bad_rows_is_no_matter(kind):
    for seed in range(4):
        assert rf.irls(*three_parts(0.2, kind, seed)[:2]).status is rf.Status.CONVERGED


def test_the_rival_of_many_rows_is_looked_for_among_some():
    A, b = two_lines(0.5, n=12_000)
    with pytest.warns(rf.BasinWarning):
        fit = rf.irls(A, b)
    assert fit.status is rf.Status.NO_MAJORITY
    slopes = sorted([fit.x[1], fit.alternatives[0][0][1]])
    np.testing.assert_allclose(slopes, [-1.0, 3.0], atol=0.05)


@pytest.mark.parametrize("dummies", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_far_rows_that_the_others_contradict_make_no_majority(seed, dummies):
    A, b, good = with_far_rows(shift=14.0, seed=seed, dummies=dummies)
    clean = rf.irls(A[good], b[good], "linear")

    def far(x):
        return np.max(np.abs(x - clean.x) / clean.bse) > 5.0

    with pytest.warns(rf.BasinWarning, match=r"\d+ rows far out in the design decide"):
        fit = rf.irls(A, b)
    assert fit.status is rf.Status.NO_MAJORITY
    # The S-estimate holds all good rows besides, so that it has no rival that holds others.
    assert far(fit.x)
    assert np.min(fit.weights[good]) > 0.1
    assert not all(far(x) for x, _ in fit.alternatives)


@pytest.mark.parametrize("share", [0.4, 0.43, 0.45, 0.47])
def test_a_wide_group_far_out_is_no_success_where_it_wins(share):
    # It holds all good rows besides, at four times their scale, so that none is left out.
    won = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(200)
        y, bad = x + 0.5 * rng.standard_normal(200), np.arange(200) < 200 * share
        x[bad] += 8.0
        y[bad] = -10.0 + 0.5 * rng.standard_normal(np.sum(bad))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rf.BasinWarning)
            fit = rf.irls(np.column_stack([np.ones(200), x]), y)
        won += fit.x[1] < 0.0
        assert abs(fit.x[1] - 1.0) < 0.3 or not fit.success
    assert won > 0 or share == 0.4


def test_far_rows_that_the_others_predict_are_welcome():
    for seed in range(6):
        A, b, good = with_far_rows(shift=0.0, seed=seed)
        fit = rf.irls(A, b)
        assert fit.success
        assert np.min(fit.weights[:30]) > 0.99
        assert np.max(fit.weights[30:][~good[30:]]) < 1e-3


def test_heavy_tailed_designs_raise_no_alarm():
    rng = np.random.default_rng(5)
    for _ in range(40):
        A = np.column_stack([np.ones(50), rng.standard_cauchy((50, 2))])
        assert rf.irls(A, rng.standard_normal(50)).status is rf.Status.CONVERGED


def test_what_the_other_rows_do_not_determine_they_do_not_contradict():
    A, b, _ = with_far_rows(other=0.0, shift=0.0)
    A[:, 1] = 0.0
    A[:30, 1] = 1e6 * np.arange(1, 31)
    b[:30] += 1e9
    assert rf.irls(A, b).success


def test_far_rows_by_frequency_and_by_variance():
    A, b, _ = with_far_rows(shift=14.0)
    some = np.r_[0, 30:200]
    counts = np.where(some == 0, 30, 1)
    whole = np.repeat(np.arange(len(some)), counts)
    spread = np.exp(np.sin(np.arange(200.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rf.BasinWarning)
        repeated = rf.irls(A[some][whole], b[some][whole])
        counted = rf.irls(A[some], b[some], freq_weights=counts)
        plain = rf.irls(A, b)
        divided = rf.irls(A * spread[:, None], b * spread, var_weights=spread**-2)
    for fit, other in ((counted, repeated), (divided, plain)):
        assert fit.status is other.status is rf.Status.NO_MAJORITY
        np.testing.assert_allclose(fit.x, other.x, rtol=1e-8)


def test_far_rows_of_many():
    A, b, _ = with_far_rows(n=12_000, share=0.1, shift=40.0)
    with pytest.warns(rf.BasinWarning, match=r"120\d rows far out"):
        assert rf.irls(A, b).status is rf.Status.NO_MAJORITY


# -- estimators by name ------------------------------------------------------------------------


def test_methods_are_starts_and_scales():
    A, b = contaminated()
    mm = rf.irls(A, b, "tukey", method="mm")
    np.testing.assert_array_equal(mm.x, rf.irls(A, b, "tukey").x)
    np.testing.assert_array_equal(
        rf.irls(A, b, "tukey", method="smdm").x, rf.irls(A, b, "tukey", scale="d").x
    )
    assert mm.scale == mm.search.scale
    s = rf.irls(A, b, "tukey", method="s")
    np.testing.assert_allclose(s.x, mm.search.x, rtol=1e-9)
    assert s.loss == rf.get_loss("tukey", breakdown=0.5)


def test_s_estimate_has_the_scale_that_solves_its_equation():
    A, b = contaminated()
    fit = rf.irls(A, b, "tukey", method="s")
    loss = rf.get_loss("tukey", breakdown=0.5)
    chi = loss.rho(fit.resid / fit.scale) / loss.sup
    assert np.sum(chi) / (len(b) - A.shape[1]) == pytest.approx(0.5, rel=1e-12)


def test_tau_estimate_is_a_local_minimum_of_the_tau_scale():
    A, b = contaminated()
    fit = rf.irls(A, b, "tukey", method="tau")
    inner, outer = tau_losses("tukey")

    def tau(x):
        r = b - A @ x
        s = m_scale(r, loss=inner, breakdown=0.5, ddof=A.shape[1])
        return s * np.sqrt(np.mean(outer.rho(r / s)))

    best = tau(fit.x)
    for direction in np.random.default_rng(0).standard_normal((20, 3)):
        assert tau(fit.x + 1e-3 * direction) > best


def test_tau_estimate_is_efficient_on_clean_data():
    u = norm.ppf((np.arange(1, 2001) - 0.5) / 2000)
    A = np.column_stack([np.ones(2000), np.cos(np.arange(2000.0))])
    fit = rf.irls(A, A @ [1.0, 2.0] + u, "tukey", method="tau")
    assert fit.loss.efficiency() == pytest.approx(0.95, abs=0.002)
    assert fit.scale == pytest.approx(1.0, abs=0.01)


def test_tau_estimate_of_two_families_is_as_efficient_as_asked():
    u = norm.ppf((np.arange(1, 2001) - 0.5) / 2000)
    A = np.column_stack([np.ones(2000), np.cos(np.arange(2000.0))])
    fit = rf.irls(A, A @ [1.0, 2.0] + u, "tukey", method="tau", s_loss="talwar", efficiency=0.9)
    assert fit.loss.inner.name == "talwar"
    assert fit.loss.outer.name == "tukey"
    assert fit.loss.efficiency() == pytest.approx(0.9, abs=0.002)


def test_tau_estimate_ends_where_the_callback_says():
    A, b = contaminated()
    seen = []

    def callback(now):
        seen.append(now.x)
        if len(seen) == 3:
            raise StopIteration

    fit = rf.irls(A, b, "tukey", method="tau", callback=callback)
    assert fit.status is rf.Status.CANCELLED
    np.testing.assert_array_equal(fit.x, seen[-1])


def test_options_that_contradict_a_method():
    A, b = contaminated()
    with pytest.raises(ValueError, match="method='mm' sets start, so start='ols'"):
        rf.irls(A, b, method="mm", start="ols")
    with pytest.raises(ValueError, match="method must be one of m, s, mm, smdm, tau"):
        rf.irls(A, b, method="ransac")
    with pytest.raises(ValueError, match="s_loss must be a bounded loss"):
        rf.irls(A, b, s_loss=rf.losses.Huber())


def test_unbounded_losses_start_from_tukey():
    A, b = contaminated()
    fit = rf.irls(A, b, "cauchy")
    assert (fit.start, fit.scale_rule) == ("s", "s")
    assert fit.search.scale == rf.irls(A, b, "tukey").search.scale


@pytest.mark.parametrize("loss", ["huber", "welsch"])
@pytest.mark.parametrize("start", ["ols", "lad", "lts", "gnc", np.zeros(3)], ids=str)
def test_the_s_scale_does_not_depend_on_the_start(loss, start):
    A, b = contaminated()
    expected = rf.irls(A, b, loss, start="s", scale="s")
    found = rf.irls(A, b, loss, start=start, scale="s")
    several = rf.irls(A, np.column_stack([b, b]), loss, start=start, scale="s")
    assert found.scale_rule == expected.scale_rule == "s"
    assert found.scale == expected.scale == found.search.scale
    np.testing.assert_allclose(several.scale, expected.scale, rtol=1e-9)
    np.testing.assert_allclose(several.x[:, 1], found.x, rtol=1e-9)


def test_seed():
    A, b = contaminated(n=60, p=5)
    found = [rf.irls(A, b, rng=rng).x for rng in (0, 1, np.random.default_rng(5))]
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-7)
    np.testing.assert_array_equal(found[0], rf.irls(A, b).x)


def test_bounds_and_ridge_from_the_s_start():
    A, b = contaminated()
    free = rf.irls(A, b)
    bounded = rf.irls(A, b, bounds=(-np.inf, [np.inf, free.x[1] - 0.5, np.inf]))
    assert bounded.success
    assert bounded.x[1] == pytest.approx(free.x[1] - 0.5)
    assert bounded.scale == free.scale
    shrunk = rf.irls(A, b, ridge=50.0)
    assert shrunk.success
    assert np.linalg.norm(shrunk.x) < np.linalg.norm(free.x)


# -- what a review found --------------------------------------------------------------------------


@pytest.mark.parametrize("cov_type", ["w", "HC", "avar1"])
def test_a_rejected_leverage_point_does_not_hide_the_good_rows(cov_type):
    A, b = contaminated()
    plain = rf.irls(A, b, "tukey", cov_type=cov_type)
    far = A.copy()
    far[0, 1] = 1e12
    found = rf.irls(far, b, "tukey", cov_type=cov_type)
    assert found.weights[0] == plain.weights[0] == 0.0
    np.testing.assert_allclose(found.bse, plain.bse, rtol=1e-9)


def test_a_gross_response_does_not_drown_the_others():
    A, b = contaminated()
    expected = rf.irls(A, b, "tukey")
    far = b.copy()
    far[0] = 1e200
    found = rf.irls(A, far, "tukey")
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(found.bse, expected.bse, rtol=1e-9)


def test_options_that_do_not_go_together():
    A, b = contaminated()
    for options, message in (
        ({"scale": "tau", "ridge": 1.0}, "tau.*ridge"),
        ({"scale": "tau", "bounds": (-9, 9)}, "tau.*bounds"),
        ({"scale": "tau", "start": "ols"}, "tau.*start='ols'"),
        ({"scale": "d", "ridge": 1.0}, "'d'.*ridge"),
        ({"scale": "d", "bounds": (-9, 9)}, "'d'.*bounds"),
        ({"scale": "d", "start": "lad"}, "'d'.*start='lad'"),
        ({"scale": "d", "leverage": True}, "leverage=True"),
        ({"scale": "d", "loss": "cauchy"}, "needs a bounded loss"),
        ({"loss": "linear", "method": "mm"}, "loss='linear'"),
        ({"s_loss": rf.losses.Tukey(4.685)}, "breakdown point 1/2"),
        ({"s_loss": "biweigth"}, "^s_loss must be .*'biweigth' is unknown"),
        ({"s_loss": "huber"}, "^s_loss must be a bounded loss"),
        ({"freq_weights": np.full(40, 0.01)}, "freq_weights must sum to more than 3"),
    ):
        with pytest.raises(ValueError, match=message):
            rf.irls(A, b, **options)


@pytest.mark.parametrize("calls", [1, 5, 20, 40])
def test_cancelling_anywhere_is_a_cancelled_fit(calls):
    count = 0

    def stop(intermediate):
        nonlocal count
        count += 1
        if count >= calls:
            raise StopIteration

    fit = rf.irls(*classic("starsCYG"), callback=stop)
    assert fit.status is rf.Status.CANCELLED
    assert not fit.success


def test_large_offsets_converge():
    rng = np.random.default_rng(1)
    A = np.column_stack([np.ones(20_000), rng.standard_normal((20_000, 4))])
    b = A @ np.arange(5.0) + rng.standard_normal(20_000)
    for method in ("mm", "m", "tau"):
        fit = rf.irls(A, b + 1e7, method=method)
        assert fit.status is rf.Status.CONVERGED
        np.testing.assert_allclose(fit.x[1:], np.arange(1.0, 5.0), atol=0.05)


def on_a_line_from(top, seed=0):
    """Return data of which 90 of 200 rows lie on a line through the origin, up to some size."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((200, 4))
    b = 1.0 + X.sum(axis=1) + rng.standard_normal(200)
    t = 10.0 ** rng.uniform(0.0, np.log10(top), 90) * rng.choice([-1.0, 1.0], 90)
    X[:90], b[:90] = t[:, None] * rng.standard_normal(4), t * rng.standard_normal()
    return np.column_stack([np.ones(200), X]), b


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_rounding_of_rows_far_out_does_not_keep_the_fit_from_ending(seed):
    with pytest.warns(rf.BasinWarning):
        fit = rf.irls(*on_a_line_from(1e12, seed))
    assert fit.status is rf.Status.NO_MAJORITY


@pytest.mark.filterwarnings("ignore::robustfit.RankWarning")
def test_rows_that_are_too_large_for_the_scale_are_told_of():
    with pytest.warns(rf.ConvergenceWarning, match="rounding error: rows that keep weight are too"):
        fit = rf.irls(*on_a_line_from(1e16))
    assert fit.status is rf.Status.MAXITER
