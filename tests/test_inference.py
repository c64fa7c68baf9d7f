"""Covariances, D-scale, bootstrap and model comparison: against robustbase, and by their laws."""

import json
from pathlib import Path

import numpy as np
import pytest
from regression_data import CLASSIC, classic, contaminated
from scipy import stats

import robustfit as rf
from robustfit import bootstrap, compare, covariance, linalg
from robustfit.losses import Hampel, Huber, Linear, Lqq, Optimal, Talwar, Tukey, Welsch
from robustfit.scale import d_scale, kappa, tau_factors

LMROB = json.loads((Path(__file__).parent / "reference" / "inference.json").read_text("utf-8"))[
    "sets"
]
CASES = [(name, fit) for name in CLASSIC for fit in LMROB[name]["fits"]]
MM_CASES = [(name, fit) for name, fit in CASES if fit.startswith("MM")]
# The M-estimate whose residuals the D-scale of an SMDM-estimate is taken from.
BEFORE = {"SMDM_bisquare": "MM_tight", "SMDM_welsh": "MM_welsh", "KS2011": "MM_lqq"}
D_CASES = [(name, fit) for name, fit in CASES if fit in BEFORE]
R_LOSSES = {
    "bisquare": Tukey,
    "welsh": Welsch,
    "lqq": Lqq,
    "hampel": Hampel,
    "optimal": Optimal,
}
# What robustbase divides by in R^2, where that is written down; the others are exact to 1e-6.
R_SQUARED_FACTOR = {"bisquare": 1.207617, "welsh": 1.224617}


def r_loss(psi, constant):
    loss = R_LOSSES[psi]
    if psi == "welsh":
        return loss(2.0**0.5 * constant[0])
    return loss.from_robustbase(constant if len(constant) > 1 else constant[0])


def full(lower):
    p = int((2 * len(lower)) ** 0.5)
    V = np.zeros((p, p))
    V[np.tril_indices(p)] = lower
    return V + np.tril(V, -1).T


def apart(V, expected):
    """Largest difference in units of the standard errors."""
    se = np.sqrt(np.diagonal(expected))
    return np.max(np.abs(V - expected) / np.outer(se, se))


def given(A, b, x, scale, loss, **rest):
    ones = np.ones(len(b))
    return covariance.Fitted(
        A=A,
        resid=b - A @ x,
        freq=rest.pop("freq", ones),
        inv_sd=rest.pop("inv_sd", ones),
        adjusted=False,
        loss=loss,
        scale=scale,
        **rest,
    )


def lmrob(name, fit):
    """Return the solution that R found."""
    A, b = classic(name)
    found = LMROB[name]["fits"][fit]
    x_s = np.array(LMROB[name]["s"][found["psi"]]["x"])
    chi = r_loss(found["psi"], found["tuning_chi"])
    stage = covariance.SStage(x_s - found["x"], chi, 0.5, found["scale"])
    loss = r_loss(found["psi"], found["tuning_psi"])
    tau = tau_factors(loss, weighted_leverage(name, BEFORE[fit])) if fit in BEFORE else None
    return given(A, b, found["x"], found["scale"], loss, s_stage=stage, tau=tau), found


def weighted_leverage(name, fit):
    A, b = classic(name)
    found = LMROB[name]["fits"][fit]
    loss = r_loss(found["psi"], found["tuning_psi"])
    w = loss.weight((b - A @ found["x"]) / found["scale"])
    return w * linalg.leverage(A, w)


# -- robustbase ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fit"), CASES)
def test_w(name, fit):
    fitted, found = lmrob(name, fit)
    # R and we iterate the M-step before the D-scale to different precision.
    tol = 1e-5 if fit in BEFORE else 1e-11
    assert apart(covariance.covariance(fitted, "w"), full(found["vcov_w"])) < tol


def comparable(name, fit):
    """Whether R started from the S-estimate that is known, and how well that is resolved."""
    found = LMROB[name]["fits"][fit]
    known = LMROB[name]["s"][found["psi"]]["scale"]
    gap = abs(found["scale"] / known - 1.0)
    # R's Hampel fit of aircraft has that scale, but no S-estimate is known that gives its cov.
    return gap < 1e-4 and (name, fit) != ("aircraft", "MM_hampel")


AVAR1_CASES = [case for case in MM_CASES if comparable(*case)]


def test_most_covariances_of_robustbase_can_be_compared():
    assert len(MM_CASES) == 73
    assert len(AVAR1_CASES) == 68
    assert all((name, "MM_tight") in AVAR1_CASES for name in CLASSIC)


@pytest.mark.parametrize(("name", "fit"), AVAR1_CASES)
def test_avar1(name, fit):
    fitted, found = lmrob(name, fit)
    V = covariance.covariance(fitted, "avar1")
    # The default S-estimate of R is iterated to 1e-7 of its coefficients. R inverts the normal
    # equations of Longley; ours agrees with 50 digits to 1e-12 (below).
    tol = {"MM_tight": 1e-11}.get(fit, 1e-5)
    assert apart(V, full(found["cov"])) < (5e-5 if name == "longley" else tol)
    assert np.all(np.linalg.eigvalsh(V / np.sqrt(np.outer(V.diagonal(), V.diagonal()))) > 0.0)


def test_avar1_of_longley_in_fifty_digits():
    mp = pytest.importorskip("mpmath")
    fitted, _ = lmrob("longley", "MM_tight")
    stage, (n, p) = fitted.s_stage, fitted.A.shape
    c, k = mp.mpf(fitted.loss.c), mp.mpf(stage.loss.c)
    with mp.workdps(50):
        X = [mp.matrix(row.tolist()) for row in fitted.A]
        u = [mp.mpf(r) / mp.mpf(fitted.scale) for r in fitted.resid]
        v = [mp.mpf(r) / mp.mpf(stage.scale) / k for r in fitted.s_resid]
        psi = [t * max(1 - (t / c) ** 2, 0) ** 2 for t in u]
        slope = [(1 - (t / c) ** 2) * (1 - 5 * (t / c) ** 2) if abs(t) < c else 0 for t in u]
        chi = [1 - max(1 - t * t, 0) ** 3 for t in v]
        growth = mp.fsum(6 * t * t * max(1 - t * t, 0) ** 2 for t in v) / n

        def gram(w):
            return sum((wi * x * x.T for wi, x in zip(w, X, strict=True)), mp.zeros(p, p))

        def total(w):
            return sum((wi * x for wi, x in zip(w, X, strict=True)), mp.zeros(p, 1))

        M = mp.inverse(gram(slope))
        a = M * total([s * t for s, t in zip(slope, u, strict=True)]) / growth
        cross = a * (M * total([s * t for s, t in zip(psi, chi, strict=True)])).T / n
        square = mp.fsum(t * t - mp.mpf(1) / 4 for t in chi) / n**2
        V = M * gram([t * t for t in psi]) * M - cross - cross.T + square * a * a.T
        exact = np.array((V * mp.mpf(fitted.scale) ** 2).tolist(), dtype=float)
    assert apart(covariance.covariance(fitted, "avar1"), exact) < 1e-10


@pytest.mark.parametrize(("name", "fit"), D_CASES)
def test_d_scale(name, fit):
    found, before = (LMROB[name]["fits"][k] for k in (fit, BEFORE[fit]))
    A, b = classic(name)
    loss = r_loss(found["psi"], found["tuning_psi"])
    sigma = d_scale(
        b - A @ before["x"],
        weighted_leverage(name, BEFORE[fit]),
        loss,
        before["scale"],
        kappa=kappa(loss, nodes=10),
    )
    # R stops the D-scale, and the M-step before it, at 1e-7; on hbk it found another S-scale.
    assert sigma == pytest.approx(found["scale"], rel=1e-5 if name == "hbk" else 1e-6)


@pytest.mark.parametrize(("name", "fit"), CASES)
def test_rsquared(name, fit):
    A, b = classic(name)
    found = LMROB[name]["fits"][fit]
    loss = r_loss(found["psi"], found["tuning_psi"])
    weight = loss.weight((b - A @ found["x"]) / found["scale"])
    factor = loss.expectation(loss.weight) / loss.expectation(loss.dpsi)
    known = R_SQUARED_FACTOR.get(found["psi"])
    y = b - weight @ b / np.sum(weight)
    total, rest = weight @ y**2, weight @ (b - A @ found["x"]) ** 2
    ours, theirs = ((total - rest) / (total + rest * (a - 1.0)) for a in (factor, known or factor))
    assert theirs == pytest.approx(found["rsquared"], rel=1e-9 if known else 2e-5)
    # Their factor has six digits, and for Welsch it belongs to another constant.
    assert ours == pytest.approx(found["rsquared"], rel=2e-4)


def mm(name):
    found = LMROB[name]["fits"]["MM_tight"]
    A, b = classic(name)
    loss, chi = (r_loss(found["psi"], found[k]) for k in ("tuning_psi", "tuning_chi"))
    return rf.irls(A, b, loss, s_loss=chi, tol=1e-12, cov_type="avar1"), found, A, b


@pytest.mark.parametrize("name", CLASSIC)
def test_whole_mm_fit(name):
    fit, found, A, _ = mm(name)
    assert np.max(np.abs(fit.x - found["x"]) / fit.bse) < 1e-7
    assert apart(fit.cov, full(found["cov"])) < (1e-5 if name == "longley" else 1e-7)
    np.testing.assert_allclose(fit.pvalues, found["pvalues"], rtol=1e-4, atol=1e-12)
    gap = (fit.conf_int() - found["conf_int"]) / fit.bse[:, None]
    assert np.max(np.abs(gap)) < 1e-4
    assert fit.rsquared == pytest.approx(found["rsquared"], rel=1e-6)
    assert fit.rsquared_adj == pytest.approx(found["rsquared_adj"], rel=1e-6, abs=1e-8)
    # R's predictions are of a fit that stopped at its default tolerance.
    theirs = LMROB[name]["predict"]
    for interval in ("prediction", "confidence"):
        ours = fit.predict(A[:8], interval=interval)
        assert np.max(np.abs(ours - theirs[interval])) < 2e-2 * fit.scale


@pytest.mark.parametrize("name", [name for name in CLASSIC if "wald" in LMROB[name]])
def test_nested_models(name):
    fit, _, A, b = mm(name)
    reduced = rf.irls(A[:, :-1], b, fit.loss)
    for test in ("wald", "deviance"):
        ours, theirs = fit.compare(reduced, test), LMROB[name][test]
        assert ours["df"] == 1.0
        # By default R misses the best S-estimate of hbk.
        tol = 1e-2 if name == "hbk" else 1e-3
        assert ours["statistic"] == pytest.approx(theirs["statistic"], rel=tol)
        assert ours["pvalue"] == pytest.approx(theirs["pvalue"], rel=tol, abs=1e-12)


# -- laws of the covariances ---------------------------------------------------------------

LAWFUL = ("H1", "H2", "H3", "huber", "avar1", "w", "HC", "cluster")
each_type = pytest.mark.parametrize("cov_type", LAWFUL)


def problem(seed=0, n=30, p=3):
    """Return a solution in general position, with everything that a covariance may need."""
    A, b = contaminated(n=n, p=p, seed=seed)
    fit = rf.irls(A, b, "tukey")
    rng = np.random.default_rng(seed)
    stage = fit._fitted.s_stage
    return given(A, b, fit.x, fit.scale, fit.loss, s_stage=stage, groups=rng.integers(0, 8, n))


def with_rows(fitted, rows, **changes):
    resid, A = fitted.resid[rows], fitted.A[rows]
    return given(
        A,
        resid,
        np.zeros(A.shape[1]),
        fitted.scale,
        fitted.loss,
        s_stage=fitted.s_stage,
        groups=fitted.groups[rows],
        **changes,
    )


@each_type
def test_frequencies_are_repetitions(cov_type):
    fitted = problem()
    freq = np.random.default_rng(1).integers(0, 4, 30)
    counted = with_rows(fitted, np.arange(30), freq=freq.astype(float))
    repeated = with_rows(fitted, np.repeat(np.arange(30), freq))
    V = covariance.covariance(repeated, cov_type)
    assert apart(covariance.covariance(counted, cov_type), V) < 1e-12
    df = [covariance.degrees_of_freedom(f, cov_type) for f in (counted, repeated)]
    assert df[0] == df[1]


@each_type
def test_inverse_variances_divide_the_rows(cov_type):
    fitted = problem()
    inv_sd = np.random.default_rng(2).uniform(0.5, 2.0, 30)
    rows = np.arange(30)
    weighted = with_rows(fitted, rows, inv_sd=inv_sd)
    divided = with_rows(fitted, rows)
    object.__setattr__(divided, "A", divided.A * inv_sd[:, None])
    object.__setattr__(divided, "resid", divided.resid * inv_sd)
    V = covariance.covariance(divided, cov_type)
    assert apart(covariance.covariance(weighted, cov_type), V) < 1e-12


@each_type
def test_equivariance(cov_type):
    fitted = problem()
    M = np.array([[1.0, 2.0, -1.0], [0.0, 3.0, 1e6], [0.0, 0.0, 1e3]])
    moved = problem()
    object.__setattr__(moved, "A", fitted.A @ M)
    object.__setattr__(moved.s_stage, "step", np.linalg.solve(M, fitted.s_stage.step))
    V = covariance.covariance(moved, cov_type)
    assert apart(M @ V @ M.T, covariance.covariance(fitted, cov_type)) < 1e-7


def linear(n=25):
    A, b = contaminated(n=n, outliers=3)
    x = np.linalg.lstsq(A, b, rcond=None)[0]
    scale = np.linalg.norm(b - A @ x) / (n - 3) ** 0.5
    return given(A, b, x, scale, Linear(), groups=np.arange(n) % 6)


def test_w_is_the_textbook_covariance_for_least_squares():
    f = linear()
    expected = f.scale**2 * np.linalg.inv(f.A.T @ f.A)
    assert apart(covariance.covariance(f, "w"), expected) < 1e-12


def test_hc_is_hc3_for_least_squares():
    f = linear()
    XtX = np.linalg.inv(f.A.T @ f.A)
    meat = sum(
        (r / (1 - x @ XtX @ x)) ** 2 * np.outer(x, x) for x, r in zip(f.A, f.resid, strict=True)
    )
    assert apart(covariance.covariance(f, "HC"), XtX @ meat @ XtX) < 1e-12


def test_hc_is_the_jackknife_of_an_m_estimate():
    # Leaving row i out moves x by about s W^-1 x_i psi_i / (1 - g_i).
    A, b = contaminated(n=60, outliers=0, seed=4)
    fit = rf.irls(A, b, "welsch", c=4.0, scale=1.0, start="ols", tol=1e-13)
    moves = []
    for i in range(60):
        rest = np.arange(60) != i
        moves.append(rf.irls(A[rest], b[rest], "welsch", c=4.0, scale=1.0, start=fit.x).x - fit.x)
    V = covariance.covariance(fit._fitted, "HC")
    assert apart(np.transpose(moves) @ moves, V) < 0.02


def test_cluster_for_least_squares():
    f = linear()
    XtX = np.linalg.inv(f.A.T @ f.A)
    scores = [f.A[f.groups == g].T @ f.resid[f.groups == g] for g in range(6)]
    meat = sum(np.outer(s, s) for s in scores) * 6 / 5 * 24 / 22
    assert apart(covariance.covariance(f, "cluster"), XtX @ meat @ XtX) < 1e-12


def test_cluster_has_one_degree_of_freedom_less_than_groups():
    A, b = contaminated()
    fit = rf.irls(A, b, "tukey", cov_type="cluster", groups=np.repeat(np.arange(10), 4))
    assert fit.df_t == 9.0
    assert fit.df_resid == 37.0
    np.testing.assert_allclose(fit.pvalues, 2 * stats.t.sf(abs(fit.tvalues), 9))
    half = stats.t.ppf(0.95, 9) * fit.bse
    np.testing.assert_allclose(fit.conf_int(0.9)[:, 1], fit.x + half)
    assert fit.wald_test([0, 0, 1])["df_denom"] == 9.0
    assert "Student's t with 9 degrees" in fit.summary()


def test_clusters_matter():
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(30), 5)
    A = np.column_stack([np.ones(150), rng.standard_normal(30)[g]])
    b = rng.standard_normal(30)[g] + 0.5 * rng.standard_normal(150)
    fit = rf.irls(A, b, "tukey", cov_type="cluster", groups=g)
    assert np.all(fit.bse > 1.5 * rf.irls(A, b, "tukey", cov_type="HC").bse)


@pytest.mark.parametrize(
    ("cov_type", "options", "message"),
    [
        ("avar1", {"start": "ols", "scale": "mad"}, "cov_type='avar1'"),
        ("avar1", {"scale": 3.0}, "cov_type='avar1'"),
        ("cluster", {}, "groups"),
        ("cluster", {"groups": np.zeros(40)}, "groups must have at least 2"),
        ("cluster", {"groups": np.zeros(39)}, r"groups must have shape \(40,\)"),
        ("cluster", {"groups": [0.0, np.nan] * 20}, "groups must .*but 20 are NaN"),
        ("cluster", {"groups": np.array([0, "NaT"] * 20, "M8[D]")}, "but 20 are NaN"),
        ("HC", {"groups": np.zeros(40)}, "groups is for cov_type='cluster' alone.*'HC'"),
        ("auto", {"groups": np.zeros(40)}, "groups is for cov_type='cluster' alone.*'auto'"),
    ],
)
def test_covariances_name_what_they_lack(cov_type, options, message):
    with pytest.raises(ValueError, match=message):
        rf.irls(*contaminated(), "tukey", cov_type=cov_type, **options)


@pytest.mark.parametrize("label", [np.nan, 1, None])
def test_groups_of_more_than_one_kind(label):
    with pytest.raises(TypeError, match=r"^groups must be labels of one kind, none missing"):
        rf.irls(*contaminated(), "tukey", cov_type="cluster", groups=["a", label] * 20)


def test_groups_of_rows_that_are_left_out_may_be_missing():
    A, b = contaminated()
    b = np.r_[b, np.nan]
    numbers = np.r_[np.arange(40) // 4, np.nan]
    options = {"cov_type": "cluster", "nan_policy": "omit"}
    found = rf.irls(np.vstack([A, A[0]]), b, "tukey", groups=numbers, **options)
    words = np.array([f"group {k}" for k in range(10)])[np.arange(40) // 4]
    expected = rf.irls(A, b[:-1], "tukey", groups=list(words), **options)
    np.testing.assert_allclose(found.bse, expected.bse, rtol=1e-12)


def test_groups_of_a_solution_without_them():
    with pytest.raises(ValueError, match="groups"):
        covariance.covariance(given(*contaminated(), np.zeros(3), 1.0, Huber()), "cluster")


# -- coefficients that a single row determines -------------------------------------------------


def with_lone_rows(n=40):
    """Return a design with a level of one row and one of four, noise, and ten clusters."""
    rng = np.random.default_rng(0)
    rows = np.arange(n)
    A = np.column_stack([np.ones(n), rng.standard_normal(n), rows == 7, rows < 4])
    return A, A @ [1.0, 2.0, 3.0, 4.0] + rng.standard_normal(n), rows // 4


@pytest.mark.parametrize(
    ("loss", "cov_type"),
    [
        *((loss, form) for loss in ("linear", "huber", "tukey") for form in ("HC", "cluster")),
        ("tukey", "avar1"),
    ],
)
def test_residuals_say_nothing_of_a_row_that_is_fitted_exactly(loss, cov_type):
    A, b, groups = with_lone_rows()
    clustered = {"groups": groups} if cov_type == "cluster" else {}
    fit = rf.irls(A, b, loss, cov_type=cov_type, **clustered)
    # The level of four rows is one cluster.
    lost = [2, 3] if cov_type == "cluster" else [2]
    assert np.flatnonzero(np.isnan(fit.bse)).tolist() == lost
    assert np.flatnonzero(np.isnan(fit.conf_int()[:, 0])).tolist() == lost
    without = np.arange(len(b)) != 7
    if cov_type == "HC":
        other = rf.irls(A[without][:, [0, 1, 3]], b[without], loss, scale=fit.scale, cov_type="HC")
        np.testing.assert_allclose(fit.bse[[0, 1, 3]], other.bse, rtol=1e-3)


def test_the_variance_of_such_a_coefficient_is_that_of_all_rows_where_a_form_assumes_it():
    A, b, _ = with_lone_rows()
    fit = rf.irls(A, b, "linear")
    expected = fit.scale * np.sqrt(np.diagonal(np.linalg.inv(A.T @ A)))
    np.testing.assert_allclose(fit.bse, expected, rtol=1e-12)


def test_a_very_far_row_determines_the_slope():
    rng = np.random.default_rng(1)
    x = np.r_[1e6, rng.standard_normal(29)]
    A = np.column_stack([np.ones(30), x])
    fit = rf.irls(A, 1.0 + 2.0 * x + rng.standard_normal(30), "linear", cov_type="HC")
    assert np.isnan(fit.bse).tolist() == [False, True]


def test_bootstrap_of_such_a_coefficient():
    A, b, _ = with_lone_rows()
    found = rf.irls(A, b, "tukey").bootstrap(100)
    assert np.isnan(found.bse).tolist() == [False, False, True, False]
    assert np.isnan(np.diagonal(found.cov)).tolist() == [False, False, True, False]
    assert np.isnan(found.conf_int()[:, 0]).tolist() == [False, False, True, False]


def test_tests_of_the_other_coefficients_remain():
    A, b, _ = with_lone_rows()
    fit = rf.irls(A, b, "linear", cov_type="HC")
    found = fit.wald_test([0.0, 1.0, 0.0, 0.0])
    assert found["statistic"] == pytest.approx(fit.tvalues[1] ** 2, rel=1e-12)
    with pytest.raises(ValueError, match="not defined"):
        fit.wald_test([0.0, 1.0, 1.0, 0.0])
    limits = fit.predict(A[[7, 8]], interval="confidence")
    assert np.isnan(limits).tolist() == [[False, True, True], [False, False, False]]
    with pytest.raises(ValueError, match="not defined"):
        fit.compare(rf.irls(A[:, :3], b, "linear"))


# -- tau and the D-scale -------------------------------------------------------------------


def test_published_approximation_is_near_the_definition():
    h = np.linspace(0.0, 0.7, 15)
    for loss in (Tukey(), Welsch(), Hampel(), Lqq(), Optimal()):
        fast, exact = tau_factors(loss, h), tau_factors(loss, h, exact=True)
        assert fast[0] == exact[0] == 1.0
        assert np.max(np.abs(fast - exact)) < 0.011
    # Any other constant has no approximation.
    loss = Tukey(4.0)
    np.testing.assert_array_equal(tau_factors(loss, h), tau_factors(loss, h, exact=True))


@pytest.mark.parametrize("loss", [Tukey(), Talwar(), Huber(), Tukey(3.4)], ids=repr)
def test_tau_solves_its_equation(loss):
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, 200_000))
    m, q = np.mean(u * loss.psi(u)), np.mean(loss.psi(u) ** 2)
    for h in (0.05, 0.2, 0.5):
        d = u - h / m * loss.psi(u) - np.sqrt(q * h * (1 - h)) / m * v
        t = d / tau_factors(loss, h, exact=True)
        bias = loss.weight(t) * (t * t - kappa(loss))
        assert abs(np.mean(bias)) < 5.0 * np.std(bias) / 200_000**0.5


def test_tau_of_least_squares_is_exact():
    h = np.linspace(0.0, 0.99, 34)
    np.testing.assert_allclose(tau_factors(Linear(), h), np.sqrt(1 - h), atol=1e-4)


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan])
def test_tau_refuses_what_is_no_leverage(bad):
    with pytest.raises(ValueError, match="h must be"):
        tau_factors(Tukey(), [0.5, bad])


def test_d_scale_of_least_squares_is_unbiased():
    A, b = contaminated(outliers=0)
    r = b - A @ np.linalg.lstsq(A, b, rcond=None)[0]
    h = linalg.leverage(A, np.ones(40))
    assert d_scale(r, h, Linear(), 1.0) == pytest.approx((r @ r / 37) ** 0.5, rel=1e-4)


def test_d_scale_laws():
    rng = np.random.default_rng(3)
    r, h = rng.standard_t(2, 50), rng.uniform(0.0, 0.4, 50)
    sigma = d_scale(r, h, Tukey(), 0.8)
    assert d_scale(2.0**600 * r, h, Tukey(), 2.0**600 * 0.8) == 2.0**600 * sigma
    assert d_scale(r, h, Tukey(), 1.1) == pytest.approx(sigma, rel=1e-13)
    freq = rng.integers(0, 3, 50)
    repeated = d_scale(np.repeat(r, freq), np.repeat(h, freq), Tukey(), 0.8)
    assert d_scale(r, h, Tukey(), 0.8, freq=freq) == pytest.approx(repeated, rel=1e-13)
    tau = tau_factors(Tukey(), h)
    w = Tukey().weight(r / (tau * sigma))
    assert w @ r**2 == pytest.approx(kappa(Tukey()) * sigma**2 * (w @ tau**2), rel=1e-12)
    assert d_scale(r, h, Tukey(), 0.0) == 0.0
    with pytest.raises(ValueError, match="start"):
        d_scale(r, h, Tukey(), -1.0)


# -- bootstrap -----------------------------------------------------------------------------


class Counts:
    """A generator whose one resample is given."""

    def __init__(self, counts):
        self.counts = counts

    def multinomial(self, total, share, size):
        assert size == 1
        return self.counts[None]


@pytest.mark.parametrize("scale", ["s", 1.3])
def test_bootstrap_is_the_derivative_of_the_estimate(scale):
    A, b = contaminated(n=40, outliers=5, seed=7)
    b[10:20] += np.random.default_rng(0).exponential(2.0, 10)  # makes the scale matter
    options = {"scale": scale, "tol": 1e-13, "maxiter": 1000}
    fit = rf.irls(A, b, "tukey", efficiency=0.85, **options)
    for i, j in ((0, 12), (15, 30), (22, 17)):
        step = np.zeros(40)
        step[[i, j]] = 1e-5, -1e-5
        up, down = (
            rf.irls(A, b, fit.loss, start=fit.x, freq_weights=1.0 + s, **options).x
            for s in (step, -step)
        )
        move = bootstrap.fast_bootstrap(fit._fitted, 1, Counts(1.0 + step))[0]
        assert np.max(np.abs(move - 0.5 * (up - down)) / fit.bse) < 1e-8
        if scale == "s":
            fixed = bootstrap.fast_bootstrap(
                rf.irls(A, b, fit.loss, start=fit.x, scale=fit.scale)._fitted, 1, Counts(1.0 + step)
            )
            assert np.max(np.abs(move - fixed)) > 1e-3 * np.max(np.abs(move))


def test_bootstrap_agrees_with_avar1_on_many_rows():
    rng = np.random.default_rng(5)
    A = np.column_stack([np.ones(1000), rng.standard_normal((1000, 2))])
    b = A @ [1.0, 2.0, 3.0] + rng.exponential(size=1000)
    fit = rf.irls(A, b, "tukey", cov_type="avar1")
    boot = fit.bootstrap(4000)
    np.testing.assert_allclose(boot.bse, fit.bse, rtol=0.06)
    np.testing.assert_allclose(boot.cov.diagonal(), boot.bse**2)
    gap = boot.conf_int(0.9) - fit.conf_int(0.9)
    assert np.max(np.abs(gap) / fit.bse[:, None]) < 0.25
    normal = boot.conf_int(0.9, "normal")
    np.testing.assert_allclose(normal.mean(axis=1), fit.x)
    np.testing.assert_allclose(normal[:, 1] - fit.x, stats.norm.ppf(0.95) * boot.bse)


def test_bootstrap_is_the_same_each_time_and_in_any_chunks(monkeypatch):
    fit = rf.irls(*contaminated(), "tukey")
    first = fit.bootstrap(50)
    np.testing.assert_array_equal(first.x, fit.bootstrap(50, rng=0).x)
    assert np.any(first.x != fit.bootstrap(50, rng=1).x)
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 40 * 7)
    np.testing.assert_allclose(fit.bootstrap(50).x, first.x, rtol=1e-12)


def test_bootstrap_in_the_units_of_the_caller():
    A, b = contaminated()
    plain = rf.irls(A, b, "tukey").bootstrap(20)
    huge = rf.irls(A * [1.0, 1e130, 1.0], 1e40 * b, "tukey").bootstrap(20)
    np.testing.assert_allclose(huge.x, plain.x * [1e40, 1e-90, 1e40], rtol=1e-9)
    with pytest.warns(rf.RankWarning):
        double = rf.irls(np.column_stack([A, A[:, 1]]), b, "tukey").bootstrap(20)
    np.testing.assert_allclose(double.x[:, 1] + double.x[:, 3], plain.x[:, 1], rtol=1e-9)


def test_bootstrap_draws_resamples_again_that_lose_a_level():
    rng = np.random.default_rng(0)
    A = np.column_stack([np.ones(30), np.arange(30) < 2])
    fit = rf.irls(A, rng.standard_normal(30), "huber")
    assert np.all(np.isfinite(fit.bootstrap(200).x))
    assert fit.bootstrap(200).x.shape == (200, 2)


def test_bootstrap_refuses():
    fit = rf.irls(*contaminated(), "tukey")
    for n in (1, 2.5, np.nan):
        with pytest.raises(ValueError, match=r"^n must be a whole number of at least 2, got n="):
            fit.bootstrap(n)
    with pytest.raises(TypeError, match=r"^n must be a number, got n='a'"):
        fit.bootstrap("a")
    with pytest.raises(TypeError, match=r"^rng must be .*got rng='x'"):
        fit.bootstrap(5, rng="x")
    with pytest.raises(TypeError, match=r"^level must be a number, got level='x'"):
        fit.bootstrap(5).conf_int("x")
    with pytest.raises(ValueError, match="level"):
        fit.bootstrap(5).conf_int(1.0)
    with pytest.raises(ValueError, match="method"):
        fit.bootstrap(5).conf_int(method="bca")
    t = np.arange(20.0)
    exact = rf.irls(np.column_stack([np.ones(20), t]), 1.0 + 2.0 * t + 50.0 * (t < 3), "tukey")
    with pytest.raises(ValueError, match="exact"):
        exact.bootstrap(5)


# -- model comparison ----------------------------------------------------------------------


def test_wald_of_a_reparametrised_reduction():
    A, b = contaminated(p=4)
    fit = rf.irls(A, b, "tukey")
    M = np.array([[1.0, 2.0], [3.0, -1.0]])
    reduced = rf.irls(A[:, :2] @ M, b, "tukey")
    ours = fit.compare(reduced)
    theirs = fit.wald_test(np.eye(4)[2:])
    assert ours["df"] == 2.0
    assert ours["statistic"] == pytest.approx(theirs["chi2"], rel=1e-9)
    assert ours["pvalue"] == pytest.approx(theirs["pvalue_chi2"], rel=1e-9)


def test_deviance_of_least_squares_is_the_f_test():
    A, b = contaminated(p=4, outliers=0)
    fit, reduced = rf.irls(A, b, "linear"), rf.irls(A[:, :2], b, "linear")
    f = (reduced.cost - fit.cost) / fit.cost * fit.nobs
    assert fit.compare(reduced, "deviance")["statistic"] == pytest.approx(f, rel=1e-9)


def test_models_that_cannot_be_compared():
    A, b = contaminated(p=4)
    fit = rf.irls(A, b, "tukey")
    other = rf.irls(np.column_stack([A[:, 0], A[:, 1] ** 2]), b, "tukey")
    with pytest.raises(ValueError, match="nested"):
        fit.compare(other)
    with pytest.raises(ValueError, match="fewer columns"):
        fit.compare(fit)
    with pytest.raises(ValueError, match="same response"):
        fit.compare(rf.irls(A[:, :2], b + 1.0, "tukey"))
    with pytest.raises(ValueError, match="same rows"):
        fit.compare(rf.irls(A[:, :2], b, "tukey", var_weights=np.arange(1.0, 41.0)))
    with pytest.raises(TypeError, match="reduced must be a FitResult, got reduced=3"):
        fit.compare(3)
    with pytest.raises(ValueError, match="test must be"):
        fit.compare(rf.irls(A[:, :2], b, "tukey"), "f")


def test_rfpe_of_least_squares_is_cp():
    A, b = contaminated(outliers=0)
    fit = rf.irls(A, b, "linear")
    rss = 2.0 * fit.cost / fit.scale**2
    assert fit.rfpe == pytest.approx((0.5 * rss + 3 * rss / 40) / 40)
    better = rf.irls(A, b, "tukey").rfpe
    noise = np.random.default_rng(0).standard_normal((40, 5))
    assert better < rf.irls(np.column_stack([A, noise]), b, "tukey").rfpe


def test_aic():
    A, b = contaminated(outliers=0)
    fit = rf.irls(A, b, "linear", var_weights=np.linspace(1.0, 2.0, 40))
    s = fit.scale * (37 / 40) ** 0.5
    sd = s / np.linspace(1.0, 2.0, 40) ** 0.5
    likelihood = np.sum(stats.norm.logpdf(b, A @ fit.x, sd))
    assert fit.aic == pytest.approx(8.0 - 2.0 * likelihood)
    with pytest.raises(ValueError, match="rfpe"):
        _ = rf.irls(A, b, "tukey").aic


def test_difference_of_two_estimates_has_the_variance_it_is_said_to_have():
    rng = np.random.default_rng(0)
    chi2 = []
    for _ in range(60):
        A = np.column_stack([np.ones(80), rng.standard_normal((80, 2))])
        chi2.append(rf.irls(A, rng.standard_normal(80), "tukey").compare_start()["ls_chi2"])
    assert 2.0 < np.mean(chi2) < 4.5


@pytest.mark.parametrize("loss", ["linear", "huber", "tukey"])
def test_exact_fits_are_not_compared(loss):
    t = np.arange(20.0)
    A = np.column_stack([np.ones(20), t])
    b = 1.0 + 2.0 * t + 50.0 * (t < 3) * (loss != "linear")
    full, reduced = rf.irls(A, b, loss, start="lad"), rf.irls(A[:, 1:], b, loss)
    assert full.status is rf.Status.EXACT_FIT
    assert np.isnan(full.rfpe)
    if loss == "linear":
        assert np.isnan(full.aic)
    for call in (
        full.compare_start,
        lambda: full.compare(reduced),
        lambda: full.compare(reduced, "deviance"),
    ):
        with pytest.raises(ValueError, match="positive scale"):
            call()


@pytest.mark.parametrize("unit", [1e-250, 1e250])
@pytest.mark.parametrize("loss", ["linear", "tukey"])
def test_comparisons_in_extreme_units(loss, unit):
    A, b = contaminated(p=4)
    plain, found = rf.irls(A, b, loss), rf.irls(A, unit * b, loss)
    for test in ("wald", "deviance"):
        reduced = [rf.irls(A[:, :2], y, loss) for y in (b, unit * b)]
        expected = plain.compare(reduced[0], test)["statistic"]
        assert found.compare(reduced[1], test)["statistic"] == pytest.approx(expected, rel=1e-7)
    for name, value in plain.compare_start().items():
        assert found.compare_start()[name] == pytest.approx(value, rel=1e-7), name
    assert found.rfpe == pytest.approx(plain.rfpe, rel=1e-9)
    if loss == "linear":
        assert found.aic == pytest.approx(plain.aic + 80.0 * np.log(unit), rel=1e-9)
    assert np.all(np.isfinite(found.bootstrap(20).bse))
    np.testing.assert_allclose(found.bootstrap(20).bse / unit, plain.bootstrap(20).bse, rtol=1e-6)


def test_compare_start():
    A, b = contaminated()
    found = rf.irls(A, b, "tukey").compare_start()
    assert found["ls_pvalue"] < 1e-10
    assert found["s_pvalue"] > 1e-3
    assert 1.0 <= found["s_scale_ratio"] < 1.5
    assert found["ls_distance"] == pytest.approx(found["ls_chi2"] ** 0.5)
    assert all(isinstance(value, float) for value in found.values())
    convex = rf.irls(A, b, "huber").compare_start()
    assert set(convex) == {"ls_distance", "ls_chi2", "ls_pvalue"}
    same = rf.irls(A, b, "linear").compare_start()
    assert same["ls_distance"] == 0.0
    assert compare.difference_variance(Huber(), Huber()) == 0.0
