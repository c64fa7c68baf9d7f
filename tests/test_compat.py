"""The options of other programs, against what these programs found."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from regression_data import CLASSIC, classic, reference
from test_inference import CASES, LMROB, apart, comparable, full

import robustfit as rf
from robustfit import compat
from robustfit.losses import Huber, Linear, Tukey, Welsch

REFERENCE = Path(__file__).parent / "reference"
GSL = reference("gsl")["sets"]
R = reference("r")["sets"]
STATSMODELS = reference("statsmodels")["sets"]

# Their constants are kept, and irls says where the fit left the S-estimate.
left = pytest.mark.filterwarnings("ignore::robustfit.exceptions.BasinWarning")


def check(fit, found, tol):
    assert np.max(np.abs(fit.x - np.asarray(found["x"])) / fit.bse) < tol
    np.testing.assert_allclose(fit.bse, found["se"], rtol=tol)


# -- MATLAB and GSL ------------------------------------------------------------------------------


def test_the_example_of_matlab_as_matlab_prints_it():
    cars = json.loads((REFERENCE / "carsmall.json").read_text("utf-8"))
    weight, horsepower, mpg = np.array(cars["rows"], dtype=float).T
    assert len(mpg) == 93
    data = {"MPG": mpg, "Weight": weight, "Horsepower": horsepower}
    fit = rf.fit("MPG ~ Weight + Horsepower", data, **compat.matlab())
    assert fit.success
    assert [f"{x:.4f}" for x in fit.x] == cars["x"]
    assert fit.to_matlab()["dfe"] == 90
    np.testing.assert_allclose(fit.bse, fit.to_matlab()["se"], rtol=1e-12)


WFUNS = ("andrews", "bisquare", "cauchy", "fair", "huber", "logistic", "ols", "talwar", "welsch")
# The weight functions as MATLAB's documentation prints them.
WEIGHTS = {
    "andrews": lambda r: (np.abs(r) < np.pi) * np.sinc(r / np.pi),
    "bisquare": lambda r: (np.abs(r) < 1) * (1 - r**2) ** 2,
    "cauchy": lambda r: 1 / (1 + r**2),
    "fair": lambda r: 1 / (1 + np.abs(r)),
    "huber": lambda r: 1 / np.maximum(1, np.abs(r)),
    "logistic": lambda r: np.tanh(r) / r,
    "ols": lambda r: np.ones_like(r),
    "talwar": lambda r: 1.0 * (np.abs(r) < 1),
    "welsch": lambda r: np.exp(-(r**2)),
}


@pytest.mark.parametrize("wfun", WFUNS)
def test_matlab_weights_and_scale(wfun):
    A, b = classic("stackloss")
    fit = rf.irls(A, b, **compat.matlab(wfun))
    assert fit.success
    # The fixed point that MATLAB documents, written out.
    h = np.diagonal(A @ np.linalg.solve(A.T @ A, A.T))
    adjusted = fit.resid / np.sqrt(1.0 - h)
    s = np.median(np.sort(np.abs(adjusted))[A.shape[1] - 1 :]) / 0.6745
    w = WEIGHTS[wfun](adjusted / (s * fit.loss.c))
    # 0.6745 is rounded.
    assert fit.scale == pytest.approx(s, rel=3e-5)
    np.testing.assert_allclose(fit.weights, w, atol=1e-4)
    x = np.linalg.solve(A.T @ (w[:, None] * A), A.T @ (w * b))
    np.testing.assert_allclose(fit.x, x, rtol=1e-3)


def test_matlab_constants_and_functions():
    assert compat.matlab("welsch", 2.0)["loss"] == Welsch(2.0)
    assert compat.matlab("ols")["loss"] == Linear()
    assert compat.matlab(Huber(1.0))["loss"] == Huber(1.0)
    with pytest.raises(ValueError, match="tune is for wfun by name"):
        compat.matlab(Huber(1.0), 2.0)


GSL_CASES = [(name, loss) for name in CLASSIC for loss in GSL[name]]
KINDS = {"tukey": "bisquare", "linear": "ols"}


@pytest.mark.parametrize(("name", "loss"), GSL_CASES)
def test_gsl(name, loss):
    kind = KINDS.get(loss, loss)
    fit = rf.irls(*classic(name), **compat.gsl(kind), maxiter=1000)
    check(fit, GSL[name][loss], 1e-6)
    # GSL does as MATLAB does, but for the standard errors.
    other = rf.irls(*classic(name), **compat.matlab(kind), maxiter=1000)
    np.testing.assert_array_equal(other.x, fit.x)


def test_gsl_names():
    assert compat.gsl("gsl_multifit_robust_default") == compat.gsl() == compat.gsl("bisquare")
    assert compat.gsl("huber", tune=2.0)["loss"] == Huber(2.0)


# -- R -------------------------------------------------------------------------------------------

PSIS = {"huber": "psi.huber", "tukey": "psi.bisquare", "hampel": "psi.hampel"}
SCALES = {"mad": "MAD", "huber": "Huber"}
RLM_CASES = [
    (name, psi, scale)
    for name in CLASSIC
    for psi in PSIS
    for scale in SCALES
    if R[name][f"{psi} {scale}"]["converged"]
]


@pytest.mark.parametrize(("name", "psi", "scale"), RLM_CASES)
def test_rlm(name, psi, scale):
    options = compat.mass(PSIS[psi], scale_est=SCALES[scale])
    fit = rf.irls(*classic(name), **options, maxiter=500, tol=1e-12)
    check(fit, R[name][f"{psi} {scale}"], 1e-8)


LMROB_CASES = [name for name, fit in CASES if fit == "MM_tight" and comparable(name, fit)]


@left
@pytest.mark.parametrize("name", LMROB_CASES)
def test_lmrob(name):
    found = LMROB[name]["fits"]["MM_tight"]
    fit = rf.irls(*classic(name), **compat.robustbase())
    assert np.max(np.abs(fit.x - found["x"]) / fit.bse) < 1e-6
    assert apart(fit.cov, full(found["cov"])) < (1e-4 if name == "longley" else 1e-6)


@left
@pytest.mark.parametrize("name", CLASSIC)
def test_lmrob_with_the_setting_of_koller_and_stahel(name):
    found = LMROB[name]["fits"]["KS2011"]
    fit = rf.irls(*classic(name), **compat.robustbase(setting="KS2011"))
    if name == "starsCYG":
        # So does R's fit, at a slope of -0.42, and says that it converged.
        assert fit.status is rf.Status.LEFT_BASIN
        return
    # R integrates with ten points; with the exact integral the scale is this much smaller.
    assert 4e-4 < found["scale"] / fit.scale - 1.0 < 1.2e-3
    assert np.max(np.abs(fit.x - found["x"]) / fit.bse) < 3e-3
    assert apart(fit.cov, full(found["vcov_w"])) < 1e-3


@pytest.mark.parametrize("psi", ["bisquare", "welsh", "hampel", "lqq", "optimal"])
def test_lmrob_constants(psi):
    found = LMROB["stackloss"]["fits"]["MM_tight" if psi == "bisquare" else f"MM_{psi}"]
    options = compat.robustbase(psi)
    assert options["loss"].efficiency() == pytest.approx(0.95, abs=5e-5)
    assert options["s_loss"].breakdown() == pytest.approx(0.5, abs=1e-3)
    fit = rf.irls(*classic("stackloss"), **options)
    assert np.max(np.abs(fit.x - found["x"]) / fit.bse) < 1e-4
    assert fit.search.scale == pytest.approx(found["scale"], rel=1e-5)


# -- statsmodels -----------------------------------------------------------------------------------

NORMS = [(name, norm) for name in STATSMODELS for norm in STATSMODELS[name]["default"]]


@pytest.mark.parametrize(("name", "norm"), NORMS)
def test_statsmodels(name, norm):
    found = STATSMODELS[name]["default"][norm]
    fit = rf.irls(*classic(name), **compat.statsmodels(norm))
    check(fit, found, 1e-9)
    assert fit.scale == pytest.approx(found["scale"], rel=1e-10)


@pytest.mark.parametrize("cov", ["H1", "H2", "H3"])
def test_statsmodels_covariances(cov):
    found = STATSMODELS["stackloss"]
    options = compat.statsmodels(cov=cov) | {"scale": found["scale"]}
    fit = rf.irls(*classic("stackloss"), **options)
    assert apart(fit.cov, np.array(found["huber"][cov])) < 1e-9


# -- all of them -----------------------------------------------------------------------------------

ALL = [compat.matlab, compat.gsl, compat.mass, compat.robustbase, compat.statsmodels]


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.__name__)
def test_every_front_takes_them(preset):
    from robustfit.sklearn import RobustRegressor

    data = rf.datasets.load("stackloss")
    fit = rf.irls(data.A, data.b, **preset())
    model = RobustRegressor(**preset()).fit(data.A[:, 1:], data.b)
    np.testing.assert_array_equal(np.r_[model.intercept_, model.coef_], fit.x)
    by_name = rf.fit("stack_loss ~ air_flow + water_temp + acid_conc", data.columns, **preset())
    np.testing.assert_array_equal(by_name.x, fit.x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fit)).cov, fit.cov)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compat.matlab("tukey"), ValueError, "wfun must be one of andrews, bisquare"),
        (lambda: compat.matlab("huber", -1.0), ValueError, "tune must be positive"),
        (lambda: compat.gsl("andrews"), ValueError, "kind must be one of bisquare, cauchy"),
        (lambda: compat.gsl(3), ValueError, "kind must be one of"),
        (lambda: compat.mass("psi.cauchy"), ValueError, "psi must be one of huber, hampel"),
        (lambda: compat.mass("huber", c=1.0), TypeError, "the constants of psi='huber' are: k"),
        (lambda: compat.mass("huber", k=0.0), ValueError, "k must be positive"),
        (lambda: compat.mass(scale_est="mad"), ValueError, "scale_est must be one of MAD, Huber"),
        (lambda: compat.robustbase("ggw"), ValueError, "psi must be one of bisquare, welsh"),
        (lambda: compat.robustbase(setting="KS"), ValueError, "setting must be one of KS2011"),
        (lambda: compat.statsmodels("Huber"), ValueError, "M must be one of AndrewWave"),
        (lambda: compat.statsmodels("LeastSquares", c=1.0), TypeError, "are: none"),
        (lambda: compat.statsmodels(cov="HC3"), ValueError, "cov must be one of H1, H2, H3"),
    ],
)
def test_words_that_are_not_known(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_constants_by_their_names():
    assert compat.mass("psi.hampel", a=1.5, b=3.5)["loss"] == rf.losses.Hampel(1.0, 1.5, 3.5, 8.0)
    assert compat.statsmodels("RamsayE", a=0.5)["loss"] == rf.losses.Ramsay(2.0)
    assert compat.robustbase()["s_loss"] == Tukey(1.54764)
