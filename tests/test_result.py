"""FitResult: inference against the textbook, printing against golden files, and its contract."""

import dataclasses
import html.parser
import json
import pickle

import numpy as np
import pytest
from regression_data import EDGE_CASES, classic, contaminated
from scipy import stats

import robustfit as rf
from robustfit import Status
from robustfit.losses import Huber

A, B = contaminated()
N, P = A.shape
STACKLOSS = classic("stackloss")
OLS = rf.irls(A, B, "linear")
HUBER = rf.irls(A, B, Huber(1.345), start="ols", scale="mad")
TUKEY = rf.irls(A, B, "tukey", start="lad", scale="mad")


def omitting():
    b = B.copy()
    b[5] = np.nan
    return rf.irls(A, b, "tukey", start="lad", scale="mad", nan_policy="omit")


# -- a value that cannot change ------------------------------------------------------------


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HUBER.x = np.zeros(3)
    for name in ("x", "weights", "resid", "fittedvalues", "leverage", "cov", "bse", "tvalues"):
        array = getattr(HUBER, name)
        assert isinstance(array, np.ndarray), name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0
    assert not HUBER.pvalues.flags.writeable


def test_shapes():
    assert HUBER.x.shape == HUBER.bse.shape == HUBER.tvalues.shape == HUBER.pvalues.shape == (P,)
    assert HUBER.cov.shape == (P, P)
    for name in ("weights", "resid", "fittedvalues", "leverage"):
        assert getattr(HUBER, name).shape == (N,)
    for name in ("scale", "cost", "nobs", "df_resid", "rsquared", "rsquared_adj"):
        assert type(getattr(HUBER, name)) is float, name
    for name in ("nit", "rank"):
        assert type(getattr(HUBER, name)) is int, name
    assert type(HUBER.success) is bool


def test_pickle():
    fit = pickle.loads(pickle.dumps(HUBER))
    np.testing.assert_array_equal(fit.x, HUBER.x)
    assert fit.status is HUBER.status
    assert fit.loss == HUBER.loss
    assert fit.summary() == HUBER.summary()
    assert not fit.x.flags.writeable
    np.testing.assert_array_equal(fit.predict(A[:3]), HUBER.predict(A[:3]))


@pytest.mark.parametrize("status", Status)
def test_status(status):
    assert type(status.success) is bool
    assert status.verdict
    assert status.verdict[0].islower()
    assert not status.verdict.endswith(".")
    good = {"CONVERGED", "EXACT_FIT", "EFFICIENCY_LOWERED", "RANK_DEFICIENT", "AT_BOUND"}
    assert status.success == (status.name in good)


# -- inference -----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [OLS, HUBER, TUKEY], ids=["ols", "huber", "tukey"])
def test_standard_errors_t_and_p(fit):
    np.testing.assert_allclose(fit.bse, np.sqrt(np.diag(fit.cov)), rtol=1e-14)
    np.testing.assert_allclose(fit.tvalues, fit.x / fit.bse, rtol=1e-14)
    expected = 2.0 * stats.t(N - P).sf(np.abs(fit.tvalues))
    np.testing.assert_allclose(fit.pvalues, expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_confidence_intervals(level):
    expected = [
        stats.t(N - P, loc=x, scale=se).interval(level)
        for x, se in zip(HUBER.x, HUBER.bse, strict=True)
    ]
    np.testing.assert_allclose(HUBER.conf_int(level), expected, rtol=1e-11)
    if level == 0.95:
        np.testing.assert_array_equal(HUBER.conf_int(), HUBER.conf_int(0.95))


@pytest.mark.parametrize("fit", [OLS, HUBER], ids=["ols", "huber"])
def test_prediction(fit):
    new = np.array([[1.0, 0.5, -2.0], [1.0, 3.0, 3.0]])
    np.testing.assert_allclose(fit.predict(new), new @ fit.x, rtol=1e-13)
    np.testing.assert_array_equal(fit.predict(new[0]), fit.predict(new)[:1])
    np.testing.assert_array_equal(fit.predict(new.tolist()), fit.predict(new))
    np.testing.assert_allclose(fit.predict(A), fit.fittedvalues, rtol=1e-10)
    for level in (0.95, 0.8):
        t = stats.t.ppf(0.5 + level / 2.0, N - P)
        variance = np.diag(new @ fit.cov @ new.T)
        for interval, extra in (("confidence", 0.0), ("prediction", fit.scale**2)):
            half = t * np.sqrt(variance + extra)
            expected = np.column_stack([new @ fit.x, new @ fit.x - half, new @ fit.x + half])
            found = fit.predict(new, interval=interval, level=level)
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_prediction_intervals_of_least_squares_are_the_textbook_ones():
    A, b = STACKLOSS
    fit = rf.irls(A, b, "linear")
    s2 = np.sum((b - A @ fit.x) ** 2) / 17.0
    new = np.array([1.0, 60.0, 20.0, 85.0])
    h = new @ np.linalg.solve(A.T @ A, new)
    t = stats.t.ppf(0.975, 17)
    for interval, factor in (("confidence", h), ("prediction", 1.0 + h)):
        _, low, high = fit.predict(new, interval=interval)[0]
        assert (high - low) / 2.0 == pytest.approx(t * np.sqrt(s2 * factor), rel=1e-10)


def test_prediction_of_a_more_exact_response_is_narrower():
    new = A[:2]
    found = HUBER.predict(new, interval="prediction", var_weights=[1.0, 4.0])
    t = stats.t.ppf(0.975, N - P)
    variance = np.diag(new @ HUBER.cov @ new.T) + HUBER.scale**2 / np.array([1.0, 4.0])
    np.testing.assert_allclose(found[:, 2] - found[:, 0], t * np.sqrt(variance), rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-150, 1e150])
def test_intervals_do_not_overflow(unit):
    fit = rf.irls(A, unit * B, "huber", start="ols")
    plain = rf.irls(A, B, "huber", start="ols")
    for interval in ("confidence", "prediction"):
        found, expected = (f.predict(A[:3], interval=interval) for f in (fit, plain))
        np.testing.assert_allclose(found / unit, expected, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e200, 1e300])
def test_standard_errors_do_not_overflow(unit):
    fit = rf.irls(A, unit * B, "huber", start="ols")
    np.testing.assert_allclose(fit.bse / unit, HUBER.bse, rtol=1e-3)
    np.testing.assert_allclose(fit.tvalues, HUBER.tvalues, rtol=1e-3)


# -- tests of hypotheses -------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-250, 1e-150, 1e150, 1e250])
def test_inference_in_extreme_units(unit):
    fit = rf.irls(A, unit * B, Huber(1.345), start="ols", scale="mad")
    assert fit.wald_test(np.eye(3)[1:])["chi2"] == pytest.approx(
        HUBER.wald_test(np.eye(3)[1:])["chi2"], rel=1e-9
    )
    at = fit.wald_test([0.0, 1.0, 0.0], unit * HUBER.x[1])
    assert at["chi2"] == pytest.approx(0.0, abs=1e-12)
    for interval in ("confidence", "prediction"):
        expected = HUBER.predict(A[:2], interval=interval)
        np.testing.assert_allclose(fit.predict(A[:2], interval=interval) / unit, expected)
    found, plain = fit.to_dict(), HUBER.to_dict()
    np.testing.assert_allclose(np.array(found["conf_int"]) / unit, plain["conf_int"], rtol=1e-9)
    assert found["rsquared"] == pytest.approx(plain["rsquared"])
    json.dumps(found, allow_nan=False)
    ours, theirs = fit.to_matlab(), HUBER.to_matlab()
    for name in ("ols_s", "robust_s", "mad_s", "s", "se", "resid"):
        np.testing.assert_allclose(ours[name] / unit, theirs[name], rtol=1e-9, err_msg=name)
    for name in ("rstud", "coeffcorr", "t", "p", "w", "h"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-7, err_msg=name)


@pytest.mark.parametrize("power", [-200, -140, 140, 200])
def test_inference_on_columns_of_extreme_size(power):
    unit = np.array([1.0, 10.0**power, 10.0**-power])
    fit = rf.irls(A * unit, B, Huber(1.345), start="ols", scale="mad")
    np.testing.assert_allclose(fit.x * unit, HUBER.x, rtol=1e-9)
    np.testing.assert_allclose(fit.bse * unit, HUBER.bse, rtol=1e-9)
    R = np.eye(3)[1:]
    expected = HUBER.wald_test(R)["chi2"]
    assert fit.wald_test(R)["chi2"] == pytest.approx(expected, rel=1e-9)
    assert fit.wald_test(R * unit)["chi2"] == pytest.approx(expected, rel=1e-9)
    for interval in ("confidence", "prediction"):
        found = fit.predict(A[:2] * unit, interval=interval)
        np.testing.assert_allclose(found, HUBER.predict(A[:2], interval=interval), rtol=1e-9)
    np.testing.assert_allclose(fit.to_matlab()["t"], HUBER.to_matlab()["t"], rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(fit.to_matlab()["R"]), np.abs(np.linalg.qr(A * unit, mode="r")), rtol=1e-9
    )


@pytest.mark.parametrize("rows", [[1], [1, 2], [0, 1, 2]])
def test_wald_test_of_least_squares_is_the_f_test(rows):
    keep = np.delete(np.arange(P), rows)
    R, k = np.eye(P)[rows], len(rows)
    reduced = B - A[:, keep] @ np.linalg.lstsq(A[:, keep], B, rcond=None)[0]
    full = OLS.resid @ OLS.resid
    F = (reduced @ reduced - full) / k / (full / (N - P))
    found = OLS.wald_test(R)
    assert found["statistic"] == pytest.approx(F, rel=1e-10)
    assert found["chi2"] == pytest.approx(k * F, rel=1e-10)
    assert found["pvalue"] == pytest.approx(stats.f.sf(F, k, N - P), rel=1e-9)
    assert found["pvalue_chi2"] == pytest.approx(stats.chi2.sf(k * F, k), rel=1e-9)
    assert (found["df_num"], found["df_denom"]) == (k, N - P)
    assert all(type(value) is float for value in found.values())


def test_wald_test_of_one_coefficient_is_the_t_test():
    found = HUBER.wald_test([0.0, 1.0, 0.0])
    assert found["statistic"] == pytest.approx(HUBER.tvalues[1] ** 2, rel=1e-12)
    assert found["pvalue"] == pytest.approx(HUBER.pvalues[1], rel=1e-9)
    at = HUBER.wald_test([0.0, 1.0, 0.0], HUBER.x[1])
    assert at["statistic"] == pytest.approx(0.0, abs=1e-20)
    assert at["pvalue"] == pytest.approx(1.0)


def test_wald_test_does_not_depend_on_how_the_restriction_is_written():
    R, q = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.array([2.0, 3.0])
    M = np.array([[2.0, 1.0], [-1.0, 1e6]])
    expected = HUBER.wald_test(R, q)
    for name, value in HUBER.wald_test(M @ R, M @ q).items():
        assert value == pytest.approx(expected[name], rel=1e-8), name


def test_wald_test_of_columns_of_very_different_size():
    unit = np.array([1.0, 1e-7, 1e8])
    fit = rf.irls(A * unit, B, Huber(1.345), start="ols", scale="mad")
    expected = HUBER.wald_test(np.eye(P))
    assert fit.wald_test(np.eye(P))["statistic"] == pytest.approx(expected["statistic"], rel=1e-8)


def test_wald_test_where_there_is_no_covariance():
    exact = rf.irls(*EDGE_CASES["perfect_fit"], "linear")
    saturated = rf.irls(A[:3], B[:3], "linear")
    for fit in (exact, saturated):
        # The restriction is fine: it is the covariance that is missing.
        with pytest.raises(ValueError, match="covariance"):
            fit.wald_test(np.eye(len(fit.x))[1])


# -- R^2 -----------------------------------------------------------------------------------


def test_rsquared_of_least_squares_is_the_classical_one():
    rss, tss = OLS.resid @ OLS.resid, np.sum((B - B.mean()) ** 2)
    assert OLS.rsquared == pytest.approx(1.0 - rss / tss, rel=1e-12)
    assert OLS.rsquared_adj == pytest.approx(1.0 - rss / (N - P) / (tss / (N - 1)), rel=1e-12)


def test_rsquared_without_intercept_is_about_zero():
    fit = rf.irls(A[:, 1:], B, "linear")
    rss, tss = fit.resid @ fit.resid, B @ B
    assert fit.rsquared == pytest.approx(1.0 - rss / tss, rel=1e-12)
    assert fit.rsquared_adj == pytest.approx(1.0 - rss / (N - 2) / (tss / N), rel=1e-12)


def test_an_intercept_may_be_a_sum_of_columns():
    level = np.arange(N) % 2
    fit = rf.irls(np.column_stack([level, 1 - level]), B, "linear")
    rss, tss = fit.resid @ fit.resid, np.sum((B - B.mean()) ** 2)
    assert fit.rsquared == pytest.approx(1.0 - rss / tss, rel=1e-12)


def test_an_intercept_may_have_any_size():
    fit = rf.irls(A * [1e-12, 1.0, 1e12], B, "linear")
    assert fit.rsquared == pytest.approx(OLS.rsquared, rel=1e-9)


@pytest.mark.parametrize("loss", ["huber", "tukey", "welsch"])
def test_robust_rsquared(loss):
    fit = rf.irls(A, B, loss, start="lad", scale="mad")
    w, grid = fit.weights, np.linspace(-12.0, 12.0, 200_001)
    density = stats.norm.pdf(grid)
    a = np.sum(fit.loss.weight(grid) * density) / np.sum(fit.loss.dpsi(grid) * density)
    center = w @ B / w.sum()
    total, rest = w @ (B - center) ** 2, w @ fit.resid**2
    assert fit.rsquared == pytest.approx((total - rest) / (total + rest * (a - 1.0)), rel=1e-5)
    assert fit.rsquared_adj == pytest.approx(
        1.0 - (1.0 - fit.rsquared) * (N - 1) / (N - P), rel=1e-12
    )


# -- outliers ------------------------------------------------------------------------------


def test_outliers():
    np.testing.assert_array_equal(np.sort(TUKEY.outliers()), np.arange(6))
    found = HUBER.outliers(0.5)
    assert np.all(HUBER.weights[found] <= 0.5)
    assert np.all(np.diff(HUBER.weights[found]) >= 0.0)
    assert len(HUBER.outliers(1.0)) == N
    assert OLS.outliers().size == 0
    assert TUKEY.outliers().dtype.kind == "i"


def test_outliers_keep_the_row_numbers_of_the_caller():
    fit = omitting()
    np.testing.assert_array_equal(np.sort(fit.outliers()), [0, 1, 2, 3, 4])
    assert 5 not in fit.outliers(1.0)
    assert len(fit.outliers(1.0)) == N - 1


# -- other shapes --------------------------------------------------------------------------


CASES = {
    "converged": lambda: rf.irls(*STACKLOSS, Huber(1.345), start="ols", scale="mad"),
    "rank_deficient": lambda: rf.irls(
        *EDGE_CASES["rank_deficient"], Huber(1.345), start="ols", scale="mad"
    ),
    "maxiter": lambda: rf.irls(*STACKLOSS, Huber(1.345), start="ols", scale="mad", maxiter=2),
    "exact_fit": lambda: rf.irls(
        *EDGE_CASES["exact_fit_3_outliers"], Huber(1.345), start="lad", scale="mad"
    ),
    "no_weight": lambda: rf.irls(*STACKLOSS, "talwar", c=2.0, start="ols", scale=1e-3),
    "long_names": lambda: rf.irls(
        Named(["(Intercept)", "air flow of the cooling plant, per day", "<T>", "acid & water"]),
        STACKLOSS[1],
        Huber(1.345),
        start="ols",
        scale="mad",
    ),
    "huge": lambda: rf.irls(
        EDGE_CASES["huge"][0], -EDGE_CASES["huge"][1], Huber(1.345), start="ols", scale="mad"
    ),
}
each_case = pytest.mark.parametrize("case", CASES)


class Named:
    """The stackloss design with names."""

    def __init__(self, columns):
        self.columns = columns

    def __array__(self, dtype=None, copy=None):
        return np.array(STACKLOSS[0], dtype=dtype)


@pytest.fixture
def fit(case):
    if case == "rank_deficient":
        with pytest.warns(rf.RankWarning):
            return CASES[case]()
    if case in ("maxiter", "no_weight"):
        with pytest.warns(rf.ConvergenceWarning):
            return CASES[case]()
    return CASES[case]()


@each_case
def test_to_dict_is_json(case, fit):
    text = json.dumps(fit.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back["status"] == fit.status.name
    assert back["success"] is fit.success
    assert back["x"] == fit.x.tolist()
    assert len(back["weights"]) == len(back["resid"]) == len(fit.resid)
    assert len(back["conf_int"]) == len(back["names"]) == len(fit.x)


def test_to_dict_of_left_out_rows_is_json():
    back = json.loads(json.dumps(omitting().to_dict(), allow_nan=False))
    assert back["resid"][5] is None
    assert back["weights"][5] is None


# -- printing ------------------------------------------------------------------------------


@each_case
def test_repr_is_one_line(case, fit):
    text = repr(fit)
    assert "\n" not in text
    assert text.startswith(f"<FitResult {fit.status.name}: ")
    assert len(text) < 100


@pytest.mark.parametrize("case", [case for case in CASES if case != "huge"])
def test_summary(case, fit, golden):
    assert str(fit) == fit.summary()
    golden(f"summary_{case}.txt", fit.summary())


@each_case
def test_columns_of_the_summary_stand_apart(case, fit):
    lines = fit.summary().splitlines()
    table = lines[lines.index("") + 1 :]
    assert len(table) == 1 + len(fit.x)
    for name, line in zip(fit.names, table[1:], strict=True):
        assert line.startswith(name)
        assert len(line.removeprefix(name).split()) == 6
    assert len({len(line) for line in table}) == 1
    assert all(line == line.rstrip() for line in lines)


def test_level_of_the_summary():
    assert "[95 %" in HUBER.summary()
    text = HUBER.summary(level=0.9)
    assert "[90 %" in text
    assert f"{HUBER.conf_int(0.9)[0, 0]:.5g}" in text


def test_summary_counts_many_observations_exactly():
    text = rf.irls(A, B, "huber", start="ols", freq_weights=np.full(N, 1_000_001.0)).summary()
    assert "40000040" in text.replace(",", "")


def test_an_exact_fit_claims_no_significance():
    fit = rf.irls(*EDGE_CASES["constant_y"], "huber", start="ols")
    assert fit.x[1] == 0.0
    assert not np.any(fit.pvalues[1] < 0.05)


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and collects the cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.rows = [], [], 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@each_case
def test_html(case, fit):
    text = fit._repr_html_()
    reader = Reader(text)
    assert reader.rows == 1 + len(fit.x)
    assert all(name in reader.cells for name in fit.names)
    assert fit.status.verdict in text
    assert "<T>" not in text


# -- bad arguments -------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 95.0, np.nan])
def test_bad_level(level):
    for call in (
        lambda: HUBER.conf_int(level),
        lambda: HUBER.summary(level),
        lambda: HUBER.predict(A, interval="confidence", level=level),
    ):
        with pytest.raises(ValueError, match=r"^level must be in \(0, 1\), got level="):
            call()


BAD_CALLS = {
    "predict: columns": (lambda: HUBER.predict(np.ones((2, 4))), r"^A must .*\(k, 3\).*\(2, 4\)"),
    "predict: 3-d": (lambda: HUBER.predict(np.ones((1, 2, 3))), r"^A must .*\(1, 2, 3\)"),
    "predict: text": (lambda: HUBER.predict([["a", "b", "c"]]), "^A must"),
    "predict: interval": (lambda: HUBER.predict(A, interval="both"), "^interval must .*'both'"),
    "predict: short var_weights": (
        lambda: HUBER.predict(A, interval="prediction", var_weights=[1.0, 2.0]),
        "^var_weights must",
    ),
    "predict: zero var_weights": (
        lambda: HUBER.predict(A, interval="prediction", var_weights=np.zeros(N)),
        "^var_weights must",
    ),
    "predict: negative var_weights": (
        lambda: HUBER.predict(A, interval="prediction", var_weights=-np.ones(N)),
        "^var_weights must",
    ),
    "wald: columns": (lambda: HUBER.wald_test([1.0, 0.0]), r"^R must have 3 columns.*\(1, 2\)"),
    "wald: no rows": (lambda: HUBER.wald_test(np.ones((0, 3))), r"^R must .*\(0, 3\)"),
    "wald: 3-d": (lambda: HUBER.wald_test(np.ones((1, 3, 3))), "^R must"),
    "wald: q": (lambda: HUBER.wald_test(np.eye(3), [1.0, 2.0]), "^q must"),
    "wald: dependent": (lambda: HUBER.wald_test(np.ones((2, 3))), "not linearly independent"),
    "wald: zero": (lambda: HUBER.wald_test(np.zeros(3)), "not linearly independent"),
    "wald: nan": (lambda: HUBER.wald_test([np.nan, 0.0, 1.0]), "^R must"),
    "outliers: above": (lambda: HUBER.outliers(1.5), r"^threshold must be in \[0, 1\], got thr"),
    "outliers: below": (lambda: HUBER.outliers(-0.1), "^threshold must"),
    "outliers: text": (lambda: HUBER.outliers("x"), "^threshold must be a number, got thr"),
    "diagnostics: text": (lambda: HUBER.diagnostics("x"), "^threshold must be a number, got thr"),
    "conf_int: text": (lambda: HUBER.conf_int("x"), "^level must be a number, got level='x'"),
    "conf_int: list": (lambda: HUBER.conf_int([0.5]), "^level must be a number"),
    "summary: text": (lambda: HUBER.summary("x"), "^level must be a number, got level='x'"),
    "outliers: nan": (lambda: HUBER.outliers(np.nan), "^threshold must"),
}


@pytest.mark.parametrize(("call", "words"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
