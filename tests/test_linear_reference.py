"""irls against other programs: R's lm, rlm and rq, GSL, NIST, and plain IRLS."""

import nist
import numpy as np
import pytest
from regression_data import CLASSIC, classic, reference

import robustfit as rf
from robustfit import covariance
from robustfit.losses import Hampel, Huber, Tukey, get_loss
from robustfit.starts import lad_estimate

M = reference("m")
R = reference("r")["sets"]
GSL = reference("gsl")

each_set = pytest.mark.parametrize("name", CLASSIC)


def in_standard_errors(fit, x):
    return np.max(np.abs(fit.x - np.asarray(x)) / fit.bse)


def relative(values, expected):
    return np.max(np.abs(np.asarray(values) / np.asarray(expected) - 1.0))


# -- M-estimates by plain IRLS -----------------------------------------------------------

M_CASES = [(name, *case.split()) for name in CLASSIC for case in M["sets"][name]]


def test_all_reference_m_estimates_are_there():
    assert len(M_CASES) == 15 * 11 * 3


@pytest.mark.parametrize("loss", M["c"])
def test_reference_m_estimates_use_our_constants(loss):
    assert get_loss(loss).c == pytest.approx(M["c"][loss], rel=1e-13)


@pytest.mark.parametrize(("name", "loss", "scale"), M_CASES)
def test_m_estimate(name, loss, scale):
    A, b = classic(name)
    *x, expected_scale = M["sets"][name][f"{loss} {scale}"]
    fit = rf.irls(A, b, loss, start="ols", scale=scale, leverage=scale == "matlab")
    assert fit.status is rf.Status.CONVERGED
    # Talwar's weights are 0 or 1: its standard errors may be zero or undefined.
    se = fit.bse if np.all(fit.bse > 0.0) else rf.irls(A, b, "linear").bse
    # Columns with a condition number of 5e9: rounding of the residuals is 1e-9 standard errors.
    assert np.max(np.abs(fit.x - x) / se) < (1e-8 if name == "longley" else 1e-9)
    assert fit.scale == pytest.approx(expected_scale, rel=1e-8)


# -- R -----------------------------------------------------------------------------------

RLM_LOSSES = {"huber": Huber(1.345), "tukey": Tukey(4.685), "hampel": Hampel(1.0, 2, 4, 8)}
# R stopped because x no longer moved, while its scale did.
RLM_SCALE_MOVES = {("hampel huber", k) for k in ("hbk", "longley", "starsCYG", "wood")}
RLM_CASES = [
    (name, case)
    for name in CLASSIC
    for case, found in R[name].items()
    if case not in ("ols", "lad", "lts") and found["converged"]
]


def rlm_mad(t):
    return np.median(np.abs(t)) / 0.6745


def fit_like_rlm(name, case):
    psi, scale, *start = case.split()
    return rf.irls(
        *classic(name),
        RLM_LOSSES[psi],
        start=R[name]["lts"] if start else "ols",
        scale=rlm_mad if scale == "mad" else scale,
        cov_type="huber",
        maxiter=500,
        tol=1e-12,
    )


@pytest.mark.parametrize(("name", "case"), RLM_CASES)
def test_rlm(name, case):
    fit, found = fit_like_rlm(name, case), R[name][case]
    assert fit.status is rf.Status.CONVERGED
    assert relative(fit.x, found["x"]) < 1e-8
    assert relative(fit.bse, found["se"]) < 1e-8
    if (case, name) not in RLM_SCALE_MOVES:
        assert relative(fit.scale, found["scale"]) < 1e-8


@pytest.mark.parametrize(("case", "name"), sorted(RLM_SCALE_MOVES))
def test_scale_of_rlm_that_is_no_solution_of_proposal_2(case, name):
    fit, found = fit_like_rlm(name, case), R[name][case]
    huber = Huber(1.345)
    target = huber.expectation(lambda u: huber.psi(u) ** 2) * fit.df_resid

    def gap(scale):
        return np.sum(huber.psi(fit.resid / scale) ** 2) / target - 1.0

    assert abs(gap(fit.scale)) < 1e-8
    assert abs(gap(found["scale"])) > 1e-2


@each_set
def test_least_squares(name):
    A, b = classic(name)
    fit, found = rf.irls(A, b, "linear"), R[name]["ols"]
    tol = 1e-9 if name == "longley" else 1e-11
    assert relative(fit.x, found["x"]) < tol
    assert relative(fit.bse, found["se"]) < tol
    assert fit.scale == pytest.approx(found["scale"], rel=1e-11)
    assert fit.rsquared == pytest.approx(found["rsquared"], rel=1e-11)
    np.testing.assert_allclose(fit.leverage, found["hat"], rtol=1e-9)


@each_set
def test_least_absolute_deviations(name):
    A, b = classic(name)
    unit = np.max(np.abs(A), axis=0)
    x = lad_estimate(A / unit, b, np.ones(len(b))) / unit
    found = R[name]["lad"]
    assert np.sum(np.abs(b - A @ x)) == pytest.approx(found["sum"], rel=1e-10)
    # These two have many solutions, all with that sum.
    if name not in ("faithful", "phones"):
        np.testing.assert_allclose(x, found["x"], rtol=1e-8)


# -- GSL ---------------------------------------------------------------------------------

GSL_CASES = [(name, loss) for name in CLASSIC for loss in GSL["sets"][name]]


@pytest.mark.parametrize(("name", "loss"), GSL_CASES)
def test_gsl(name, loss):
    A, b = classic(name)
    found = GSL["sets"][name][loss]
    fit = rf.irls(
        A,
        b,
        loss,
        c=GSL["c"][loss],
        start="ols",
        scale="matlab",
        leverage=True,
        cov_type="gsl",
        maxiter=1000,
    )
    assert fit.success
    assert in_standard_errors(fit, found["x"]) < 1e-6
    assert relative(fit.bse, found["se"]) < 1e-6
    lower = np.tril_indices(len(fit.x))
    expected = [found["cov"][i][j] for i, j in zip(*lower, strict=True)]
    gap = np.abs(fit.cov[lower] - expected) / np.outer(fit.bse, fit.bse)[lower]
    assert np.max(gap) < 1e-6
    np.testing.assert_allclose(fit.weights, found["weights"], atol=1e-6)
    sigmas = covariance.matlab_sigmas(fit._fitted, leveraged=False)
    ours = [sigmas[key] for key in ("ols_s", "mad_s", "robust_s", "s")]
    np.testing.assert_allclose(ours, found["sigmas"], rtol=1e-6)


# -- NIST --------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", nist.LINEAR.values(), ids=nist.LINEAR)
def test_nist(problem):
    fit = rf.irls(problem.design, problem.y, "linear", start="ols")
    filip = problem.name == "Filip"
    tol = 1e-7 if filip else 1e-13
    assert fit.success
    assert relative(fit.x, problem.coef) < tol
    assert fit.df_resid == problem.df
    exact = problem.sigma == 0.0
    if exact:
        assert fit.status is rf.Status.EXACT_FIT
        assert fit.scale == 0.0
        assert np.all(fit.bse == 0.0)
    else:
        # The residuals of Longley lose three digits to cancellation.
        assert fit.scale == pytest.approx(problem.sigma, rel=10 * tol)
        assert relative(fit.bse, problem.se) < 10 * tol
    assert fit.rsquared == pytest.approx(problem.rsquared, rel=tol)
