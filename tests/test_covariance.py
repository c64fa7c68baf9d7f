"""The covariances of H1 to H3, MASS, MATLAB and GSL: references, formulas, laws."""

import numpy as np
import pytest
from regression_data import classic, contaminated, reference
from scipy import stats

import robustfit as rf
from robustfit import covariance
from robustfit.losses import Huber, Talwar, Tukey

STATSMODELS = reference("statsmodels")["sets"]
A, B = contaminated()
N, P = A.shape
TYPES = ("H1", "H2", "H3", "huber", "matlab", "gsl")
each_type = pytest.mark.parametrize("cov_type", TYPES)


def fit(loss="huber", cov_type="auto", A=A, b=B, **options):
    return rf.irls(A, b, loss, cov_type=cov_type, **{"start": "ols", "scale": "mad", **options})


# -- references ----------------------------------------------------------------------------


@pytest.mark.parametrize("cov_type", ["H1", "H2", "H3"])
@pytest.mark.parametrize("loss", [Huber(1.345), Tukey(4.685)], ids=lambda loss: loss.name)
@pytest.mark.parametrize("name", STATSMODELS)
def test_statsmodels(name, loss, cov_type):
    case = STATSMODELS[name]
    A, b = classic(name)
    found = fit(loss, cov_type, A, b, scale=case["scale"])
    expected = case[loss.name]
    np.testing.assert_allclose(found.x, expected["x"], rtol=1e-9)
    size = np.sqrt(np.diag(expected[cov_type]))
    gap = (found.cov - expected[cov_type]) / np.outer(size, size)
    assert np.max(np.abs(gap)) < 1e-8
    assert found.cov_type == cov_type


@each_type
@pytest.mark.parametrize("name", ["stackloss", "longley", "mtcars"])
def test_least_squares_has_its_classical_covariance(name, cov_type):
    A, b = classic(name)
    found = rf.irls(A, b, "linear", cov_type=cov_type)
    expected = reference("r")["sets"][name]["ols"]
    np.testing.assert_allclose(found.bse, expected["se"], rtol=1e-8)
    # The whole matrix, on columns that are not nearly dependent.
    if name != "longley":
        s2 = found.resid @ found.resid / found.df_resid
        np.testing.assert_allclose(found.cov, s2 * np.linalg.inv(A.T @ A), rtol=1e-8)


@each_type
@pytest.mark.parametrize("scale", ["mad", 17.0])
def test_least_squares_does_not_depend_on_the_scale(cov_type, scale):
    plain, found = rf.irls(A, B, "linear"), rf.irls(A, B, "linear", scale=scale, cov_type=cov_type)
    np.testing.assert_allclose(found.cov, plain.cov, rtol=1e-10)


# -- the formulas, once more and in plain words --------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "welsch", "tukey"])
def test_the_four_forms(loss):
    found = {cov_type: fit(loss, cov_type) for cov_type in TYPES[:4]}
    f = found["H1"]
    u = f.resid / f.scale
    psi, dpsi = f.loss.psi(u), f.loss.dpsi(u)
    m = dpsi.mean()
    variance = f.scale**2 * np.sum(psi**2) / (N - P)
    K, K1 = (1.0 + P / N * dpsi.var(ddof=ddof) / m**2 for ddof in (0, 1))
    XtX, W = A.T @ A, (A.T * dpsi) @ A
    inverse, bread = np.linalg.inv(XtX), np.linalg.inv(W)
    expected = {
        "H1": K**2 * variance / m**2 * inverse,
        "H2": K * variance / m * bread,
        "H3": variance / K * bread @ XtX @ bread,
        "huber": K1**2 * variance / m**2 * inverse,
    }
    for cov_type, cov in expected.items():
        np.testing.assert_allclose(found[cov_type].cov, cov, rtol=1e-9, err_msg=cov_type)


def test_auto_is_the_form_of_mass():
    np.testing.assert_array_equal(fit().cov, fit(cov_type="huber").cov)
    assert fit().cov_type == "huber"


# -- MATLAB --------------------------------------------------------------------------------


def test_to_matlab():
    found = fit("welsch", c=2.985, scale="matlab", leverage=True, cov_type="matlab")
    m = found.to_matlab()
    sigmas, table = ["ols_s", "mad_s", "robust_s", "s"], ["se", "covb", "coeffcorr", "t", "p"]
    assert list(m) == [*sigmas, "resid", "rstud", *table, "w", "h", "dfe", "R"]
    h = found.leverage
    adjusted = found.resid / np.sqrt(1.0 - h)
    ols = rf.irls(A, B, "linear")
    assert m["ols_s"] == pytest.approx(ols.scale, rel=1e-12)
    # The scale of the fit is the MAD of its adjusted residuals.
    assert m["mad_s"] == pytest.approx(np.median(np.sort(np.abs(adjusted))[P - 1 :]) / 0.6745)
    assert m["mad_s"] == pytest.approx(found.scale, rel=1e-9)
    pooled = np.sqrt((m["ols_s"] ** 2 * P**2 + m["robust_s"] ** 2 * N) / (P**2 + N))
    assert m["s"] == pytest.approx(max(m["robust_s"], pooled), rel=1e-12)
    assert m["dfe"] == N - P
    np.testing.assert_allclose(m["covb"], m["s"] ** 2 * np.linalg.inv(A.T @ A), rtol=1e-10)
    np.testing.assert_allclose(m["covb"], found.cov, rtol=1e-12)
    np.testing.assert_allclose(m["se"], found.bse, rtol=1e-12)
    np.testing.assert_allclose(m["t"], found.tvalues, rtol=1e-12)
    np.testing.assert_allclose(m["p"], 2.0 * stats.t.sf(np.abs(m["t"]), N - P), rtol=1e-12)
    np.testing.assert_allclose(m["rstud"], adjusted / m["s"], rtol=1e-12)
    np.testing.assert_allclose(np.diag(m["coeffcorr"]), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(m["w"], found.weights)
    np.testing.assert_array_equal(m["h"], found.leverage)
    np.testing.assert_array_equal(m["resid"], found.resid)
    np.testing.assert_allclose(m["R"].T @ m["R"], A.T @ A, rtol=1e-10)


def test_to_matlab_is_the_same_for_every_covariance():
    options = {"scale": "matlab", "leverage": True}
    expected = fit(cov_type="matlab", **options).to_matlab()
    for cov_type in TYPES:
        found = fit(cov_type=cov_type, **options).to_matlab()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_robust_sigma_is_that_of_its_formula():
    found = fit("tukey", scale="matlab", leverage=True)
    for leveraged in (True, False):
        sigmas = covariance.matlab_sigmas(found._fitted, leveraged=leveraged)
        shrink = np.sqrt(1.0 - found.leverage)
        adjusted = found.resid / shrink
        u = adjusted / sigmas["mad_s"]
        a = np.mean(found.loss.dpsi(u))
        spread = np.sqrt(np.sum((shrink * found.loss.psi(u)) ** 2) / (N - P))
        factor = 1.0 + P / N * (1.0 - a) / a
        assert sigmas["robust_s"] == pytest.approx(factor * spread * sigmas["mad_s"] / a, rel=1e-9)


# -- laws and limits -----------------------------------------------------------------------


@each_type
def test_units(cov_type):
    plain = fit(cov_type=cov_type)
    response = fit(cov_type=cov_type, b=2.0**70 * B)
    np.testing.assert_allclose(response.cov / 4.0**70, plain.cov, rtol=1e-12)
    unit = np.array([1.0, 1e-6, 1e8])
    columns = fit(cov_type=cov_type, A=A * unit)
    np.testing.assert_allclose(columns.cov * np.outer(unit, unit), plain.cov, rtol=1e-8)


@each_type
def test_symmetric_and_positive(cov_type):
    cov = fit("welsch", cov_type).cov
    np.testing.assert_allclose(cov, cov.T, rtol=1e-12)
    assert np.all(np.linalg.eigvalsh(cov) > 0.0)


@each_type
@pytest.mark.parametrize("rows", [3, 2])
def test_undefined_without_degrees_of_freedom(cov_type, rows):
    if rows < P:
        with pytest.warns(rf.RankWarning):
            found = fit("linear", cov_type, A[:rows], B[:rows])
    else:
        found = fit("linear", cov_type, A[:rows], B[:rows])
    assert found.df_resid == 0.0
    for value in (found.cov, found.bse, found.tvalues, found.pvalues, found.conf_int()):
        assert np.all(np.isnan(value))


@pytest.mark.parametrize("cov_type", ["H1", "H2", "H3", "huber"])
def test_undefined_where_the_mean_slope_is_negative(cov_type):
    # Two clusters far apart: at x = 0, by symmetry a solution, psi falls at every residual.
    half = 3.0 + 0.01 * np.cos(np.arange(10.0))
    b = np.r_[half, -half]
    found = rf.irls(np.ones((20, 1)), b, "welsch", start=[0.0], scale=1.0, cov_type=cov_type)
    assert np.mean(found.loss.dpsi(found.resid / found.scale)) < 0.0
    assert np.all(np.isnan(found.cov))
    assert "nan" in found.summary()


def test_slope_of_a_group_may_be_singular():
    # Every row of one group is rejected: the sum of psi' x x' is singular.
    level = np.repeat([0.0, 1.0], [12, 6])
    b = np.r_[np.sin(np.arange(12.0)), 99.0 + 20.0 * np.cos(np.pi * np.arange(6.0))]
    design = np.column_stack([np.ones(18), level])
    for cov_type in TYPES[:4]:
        with pytest.warns(rf.ConvergenceWarning):
            found = rf.irls(design, b, Talwar(2.0), start=[0.0, 99.0], scale=1.0, cov_type=cov_type)
        assert not found.success
        assert np.all(np.isnan(found.cov))


def test_matlab_sigma_of_a_residual_scale_of_zero():
    t = np.arange(12.0)
    design = np.column_stack([np.ones(12), t])
    found = rf.irls(design, 1.0 + 2.0 * t + 9.0 * (t > 9), "huber", start="lad")
    assert found.status is rf.Status.EXACT_FIT
    m = found.to_matlab()
    assert m["mad_s"] < 1e-10
    assert np.isfinite(m["ols_s"])
    assert m["s"] >= 0.0


@pytest.mark.parametrize("rows", [12, 2])
def test_to_matlab_where_nothing_is_left_to_estimate(rows):
    t = np.arange(float(rows))
    found = rf.irls(np.column_stack([np.ones(rows), t]), 1.0 + 2.0 * t, "huber", start="ols")
    m = found.to_matlab()
    assert m["dfe"] == rows - 2
    assert m["s"] == 0.0 if rows > 2 else np.isnan(m["s"])
    np.testing.assert_array_equal(m["w"], 1.0)
