"""Fourteen pathological inputs: the right answer, or a clear error or status."""

from pathlib import Path

import numpy as np
import pytest
from regression_data import EDGE_CASES

import robustfit as rf
from robustfit import Status

LOSSES = ("linear", "huber", "welsch")
each_loss = pytest.mark.parametrize("loss", LOSSES)


def fit(case, loss, **options):
    return rf.irls(*EDGE_CASES[case], loss, **{"start": "ols", **options})


def test_no_case_is_left_without_a_test():
    assert len(EDGE_CASES) == 14
    text = Path(__file__).read_text("utf-8")
    assert all(text.count(f'"{case}"') for case in EDGE_CASES)


def assert_printable(found):
    assert "\n" not in repr(found)
    assert str(found).startswith("Robust linear fit: ")
    assert found.to_dict()["status"] == found.status.name


@pytest.mark.parametrize(("loss", "start"), [("huber", "ols"), ("huber", "lad"), ("welsch", "lad")])
def test_line_with_three_outliers_is_found_exactly(loss, start):
    found = fit("exact_fit_3_outliers", loss, start=start)
    assert found.status is Status.EXACT_FIT
    assert found.success
    np.testing.assert_allclose(found.x, [1.0, 2.0], rtol=1e-12)
    assert found.scale == 0.0
    np.testing.assert_array_equal(found.weights, np.arange(20) >= 3)
    np.testing.assert_array_equal(found.outliers(), [0, 1, 2])
    assert_printable(found)


def test_line_of_eleven_points_is_found_from_a_good_start():
    # From least squares 11 of 20 on one line are too few for an M-estimate.
    assert fit("exact_fit_55_percent", "huber").status is Status.CONVERGED
    found = fit("exact_fit_55_percent", "welsch", start=[6.0, 7.5])
    assert found.status is Status.EXACT_FIT
    np.testing.assert_allclose(found.x, [6.0, 7.5], rtol=1e-12)
    assert np.sum(found.weights) == 11


@each_loss
@pytest.mark.parametrize("case", ["perfect_fit", "constant_y"])
def test_all_points_on_a_line(case, loss):
    found = fit(case, loss)
    assert found.status is Status.EXACT_FIT
    assert found.success
    np.testing.assert_allclose(
        found.x, [1.0, 2.0] if case == "perfect_fit" else [3.0, 0.0], rtol=1e-12, atol=1e-12
    )
    assert found.scale == found.cost == 0.0
    np.testing.assert_array_equal(found.weights, 1.0)
    np.testing.assert_array_equal(found.cov, 0.0)
    assert found.outliers().size == 0
    assert_printable(found)


def test_majority_of_ties():
    found = fit("mostly_constant", "welsch", start="lad")
    assert found.status is Status.EXACT_FIT
    np.testing.assert_allclose(found.x, [1.0, 0.0], atol=1e-12)
    np.testing.assert_array_equal(found.outliers(), np.arange(15, 20))
    # Seen from least squares the ties are no exact fit; this is what R's rlm finds as well.
    found = fit("mostly_constant", "huber")
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.x, [0.26, 0.14], atol=0.005)


@each_loss
def test_dependent_columns(loss):
    with pytest.warns(rf.RankWarning, match="rank 2 with 3 columns") as caught:
        found = fit("rank_deficient", loss)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert found.status is Status.RANK_DEFICIENT
    assert found.success
    assert found.rank == 2
    assert found.df_resid == 18
    assert "minimum-norm" in found.message
    A, b = EDGE_CASES["rank_deficient"]
    full = rf.irls(A[:, :2], b, loss, start="ols")
    np.testing.assert_allclose(found.fittedvalues, full.fittedvalues, rtol=1e-10)
    np.testing.assert_allclose(found.weights, full.weights, rtol=1e-9)
    assert found.scale == pytest.approx(full.scale, rel=1e-9)
    # Of minimum norm: no part of x lies in the null space.
    assert abs(found.x @ [3.0, 2.0, -1.0]) < 1e-10
    if loss == "linear":
        np.testing.assert_allclose(found.x, np.linalg.lstsq(A, b, rcond=None)[0], rtol=1e-10)
    # What the data do determine has its variance.
    for row in A[[0, 19]]:
        assert row @ found.cov @ row == pytest.approx(row[:2] @ full.cov @ row[:2], rel=1e-9)
    assert_printable(found)


@each_loss
@pytest.mark.parametrize(("case", "unit"), [("huge", 1e150), ("tiny", 1e-150)])
def test_extreme_units(case, unit, loss):
    A, b = EDGE_CASES["offset_1e8"]
    plain = rf.irls(A - [0.0, 1e8], b, loss, start="ols")
    found = fit(case, loss)
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.x / unit, plain.x, rtol=1e-11)
    np.testing.assert_allclose(found.bse / unit, plain.bse, rtol=1e-11)
    np.testing.assert_allclose(found.weights, plain.weights, rtol=1e-11)
    assert found.scale / unit == pytest.approx(plain.scale, rel=1e-11)
    assert_printable(found)


@each_loss
def test_far_offset_of_a_column(loss):
    A, b = EDGE_CASES["offset_1e8"]
    near, far = rf.irls(A - [0.0, 1e8], b, loss, start="ols"), fit("offset_1e8", loss)
    assert far.status is Status.CONVERGED
    assert far.rank == 2
    assert far.x[1] == pytest.approx(near.x[1], rel=1e-8)
    assert far.bse[1] == pytest.approx(near.bse[1], rel=1e-6)
    np.testing.assert_allclose(far.resid, near.resid, atol=1e-6)


@pytest.mark.parametrize(("case", "name"), [("nan_in_b", "b"), ("inf_in_A", "A")])
def test_number_that_is_not_finite(case, name):
    with pytest.raises(ValueError, match=rf"^{name} must be finite.* row 4;.*nan_policy='omit'"):
        fit(case, "huber")
    A, b = EDGE_CASES[case]
    keep = np.arange(20) != 4
    dropped = rf.irls(A[keep], b[keep], "huber", start="ols")
    found = fit(case, "huber", nan_policy="omit")
    np.testing.assert_array_equal(found.x, dropped.x)
    np.testing.assert_array_equal(found.cov, dropped.cov)
    assert (found.scale, found.nobs, found.rsquared) == (
        dropped.scale,
        dropped.nobs,
        dropped.rsquared,
    )
    for values, expected in (
        (found.weights, dropped.weights),
        (found.resid, dropped.resid),
        (found.fittedvalues, dropped.fittedvalues),
        (found.leverage, dropped.leverage),
    ):
        assert len(values) == 20
        assert np.isnan(values[4])
        np.testing.assert_array_equal(values[keep], expected)
    assert 4 not in found.outliers(1.0)
    assert_printable(found)


def test_one_row_more_than_columns():
    found = fit("n_is_p_plus_1", "linear")
    np.testing.assert_allclose(found.x, [0.05, 0.95], rtol=1e-12)
    assert found.df_resid == 1.0
    assert np.all(np.isfinite(found.bse))
    # Two of three points fix the line, so the median residual becomes zero.
    found = fit("n_is_p_plus_1", "huber")
    assert found.status is Status.EXACT_FIT
    np.testing.assert_allclose(found.x, [0.0, 0.95], atol=1e-12)
    assert np.sum(found.weights) == 2
    found = fit("n_is_p_plus_1", "huber", scale=0.1)
    assert found.status is Status.CONVERGED
    assert_printable(found)


@each_loss
@pytest.mark.parametrize("leverage", [False, True])
def test_row_that_alone_determines_a_coefficient(loss, leverage):
    A, b = EDGE_CASES["leverage_one"]
    found = fit("leverage_one", loss, leverage=leverage)
    assert found.status is Status.CONVERGED
    assert found.leverage[19] == pytest.approx(1.0, rel=1e-12)
    assert abs(found.resid[19]) < 1e-10
    assert found.x.sum() == pytest.approx(b[19], rel=1e-10)
    assert np.all(np.isfinite(found.bse))
    others = rf.irls(A[:19, :1], b[:19], loss, start="ols", scale=found.scale, leverage=leverage)
    assert found.x[0] == pytest.approx(others.x[0], rel=1e-8)


def test_leverage_of_such_a_row_does_not_depend_on_its_variance():
    A, b = EDGE_CASES["leverage_one"]
    found = rf.irls(A, b, "linear", var_weights=np.full(20, 0.25))
    assert found.leverage[19] == pytest.approx(1.0, rel=1e-12)
    assert np.sum(found.leverage) == pytest.approx(2.0, rel=1e-12)


@each_loss
def test_factor_with_a_small_level(loss):
    A, b = EDGE_CASES["small_level"]
    found = fit("small_level", loss)
    assert found.status is Status.CONVERGED
    assert np.all(found.bse > 0.0)
    # The levels share nothing but the scale.
    for level in range(3):
        rows = level == A @ [0, 1, 2]
        alone = rf.irls(np.ones((rows.sum(), 1)), b[rows], loss, start="ols", scale=found.scale)
        assert found.x @ [1, level == 1, level == 2] == pytest.approx(alone.x[0], rel=1e-8)


@each_loss
def test_design_of_zeros(loss):
    with pytest.raises(ValueError, match=r"^A must have a column that is not zero"):
        rf.irls(np.zeros((5, 2)), np.arange(5.0), loss, start="ols")


@pytest.mark.parametrize("n", [60, 3000])
@pytest.mark.parametrize("value", [1e120, -1e160, 1e308])
def test_a_value_that_cannot_be_squared_beside_its_column_is_refused(n, value):
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((n, 2)), rng.standard_normal(n)
    A[3, 1] = value
    message = f"column 'x2' has {abs(value):.6g}"
    for loss in ("welsch", "huber", "linear"):
        with pytest.raises(ValueError, match="1e\\+100 times the median") as caught:
            rf.irls(A, b, loss)
        assert message in str(caught.value)


@pytest.mark.filterwarnings("ignore::robustfit.RankWarning")
@pytest.mark.parametrize("loss", ["huber", "welsch"])
def test_as_many_coefficients_as_rows_fit_them_exactly_at_any_scale(loss):
    rng = np.random.default_rng(0)
    for n, p in [(1, 1), (2, 2), (3, 3), (2, 3)] * 10:
        A, b = rng.standard_normal((n, p)), rng.standard_normal(n)
        fit = rf.irls(A, b, loss, scale=1.0, start="ols")
        assert fit.status is rf.Status.EXACT_FIT
        np.testing.assert_allclose(A @ fit.x, b, rtol=1e-10, atol=1e-12)


def far_response(value):
    rng = np.random.default_rng(5)
    A = np.column_stack([np.ones(40), rng.standard_normal((40, 2))])
    b = A @ [1.0, 2.0, 3.0] + rng.standard_normal(40)
    b[3] = value
    return A, b


@pytest.mark.parametrize("value", [1e100, 1e152, -1e300])
def test_least_squares_follows_one_response_however_large(value):
    A, b = far_response(value)
    alone = np.linalg.lstsq(A, np.eye(40)[3], rcond=None)[0]
    np.testing.assert_allclose(rf.irls(A, b, "linear").x / value, alone, rtol=1e-11)


def test_one_response_far_out_is_as_good_as_farther_out():
    # psi of Huber's loss is constant out there.
    x = [rf.irls(*far_response(value), "huber").x for value in (1e6, 1e148)]
    np.testing.assert_allclose(x[1], x[0], rtol=1e-8)


@pytest.mark.parametrize(("loss", "value"), [("huber", 1e160), ("fair", 1e155), ("cauchy", 1e308)])
def test_a_response_too_far_out_for_its_loss_is_refused(loss, value):
    with pytest.raises(ValueError, match=f"^b must have no value of more than 1e.150 .*{loss!r}"):
        rf.irls(*far_response(value), loss, start="ols")


@pytest.mark.parametrize("loss", ["welsch", "tukey"])
def test_no_response_is_too_far_out_for_a_loss_that_rejects_it(loss):
    x = [rf.irls(*far_response(value), loss).x for value in (1e6, -1e308)]
    np.testing.assert_allclose(x[1], x[0], rtol=1e-8)
