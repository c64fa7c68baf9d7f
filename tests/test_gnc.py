"""Graduated non-convexity as a start: where it helps, and where it cannot."""

import numpy as np
import pytest
from regression_data import contaminated

import robustfit as rf
from robustfit.exceptions import RankWarning


def one_sided(seed, share=0.45, n=100):
    """Return normal data with a share of responses from 0 to 50 too high, and the good rows."""
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    b = A @ [1.0, 2.0, 3.0] + rng.standard_normal(n)
    bad = int(share * n)
    b[:bad] += rng.uniform(0.0, 50.0, bad)
    return A, b, np.arange(n) >= bad


def distance(found, A, b, good):
    """Largest distance from least squares on the good rows, in its standard errors."""
    clean = rf.irls(A[good], b[good], "linear")
    return np.max(np.abs(found.x - clean.x) / clean.bse)


@pytest.mark.parametrize("loss", ["welsch", "tukey"])
def test_finds_what_least_squares_misses_at_a_known_scale(loss):
    from_ols, from_gnc = [], []
    for seed in range(10):
        data = one_sided(seed)
        for start, distances in (("ols", from_ols), ("gnc", from_gnc)):
            fit = rf.irls(*data[:2], loss, start=start, scale=1.0)
            assert fit.start == start
            distances.append(distance(fit, *data))
    assert max(from_gnc) < 4.0
    assert max(from_ols) > 4.0


@pytest.mark.parametrize("loss", ["welsch", "tukey"])
def test_agrees_with_the_s_start_on_thirty_percent_of_vertical_outliers(loss):
    for seed in range(5):
        A, b, good = one_sided(seed, 0.3)
        fit = rf.irls(A, b, loss, start="gnc", scale=1.0)
        same = rf.irls(A, b, loss, start="s", scale=1.0)
        np.testing.assert_allclose(fit.x, same.x, rtol=1e-8)
        assert distance(fit, A, b, good) < 4.0


def test_leverage_points_are_beyond_it():
    A, b, good = one_sided(0, 0.2)
    A[~good, 1], b[~good] = 10.0, -40.0
    assert distance(rf.irls(A, b, start="gnc", scale=1.0), A, b, good) > 10.0
    assert distance(rf.irls(A, b), A, b, good) < 4.0


def test_is_least_squares_where_no_residual_is_beyond_c():
    A, b = contaminated(outliers=0)
    ols = rf.irls(A, b, "linear")
    fit = rf.irls(A, b, "tukey", start="gnc", scale=1e3)
    expected = rf.irls(A, b, "tukey", start="ols", scale=1e3)
    np.testing.assert_array_equal(fit.x, expected.x)
    np.testing.assert_allclose(fit.x, ols.x, rtol=1e-4)


def test_a_convex_loss_has_one_solution():
    A, b = contaminated()
    expected = rf.irls(A, b, "huber", scale=1.0)
    np.testing.assert_allclose(rf.irls(A, b, "huber", start="gnc", scale=1.0).x, expected.x)


def test_exact_majority():
    t = np.arange(20.0)
    b = 1.0 + 2.0 * t + 50.0 * (t < 3)
    fit = rf.irls(np.column_stack([np.ones(20), t]), b, "tukey", start="gnc")
    assert fit.status is rf.Status.EXACT_FIT
    np.testing.assert_allclose(fit.x, [1.0, 2.0], rtol=1e-12)


def test_ridge_bounds_and_rank():
    A, b = contaminated()
    options = {"start": "gnc", "scale": 1.0}
    free = rf.irls(A, b, "tukey", **options)
    bounded = rf.irls(A, b, "tukey", bounds=(-np.inf, [np.inf, free.x[1] - 0.5, np.inf]), **options)
    assert bounded.x[1] == pytest.approx(free.x[1] - 0.5)
    shrunk = rf.irls(A, b, "tukey", ridge=50.0, **options)
    assert np.linalg.norm(shrunk.x) < np.linalg.norm(free.x)
    with pytest.warns(RankWarning):
        double = rf.irls(np.column_stack([A, A[:, 1]]), b, "tukey", **options)
    assert double.x[1] + double.x[3] == pytest.approx(free.x[1])


@pytest.mark.parametrize("far", [1e12, 1e60])
def test_a_gross_error_takes_more_steps_and_nothing_else(far):
    A, b = contaminated()
    b[0] = far
    fit = rf.irls(A, b, "tukey", start="gnc", scale=1.0)
    np.testing.assert_allclose(fit.x, rf.irls(A[1:], b[1:], "tukey", scale=1.0).x, rtol=1e-8)
