"""Sparse designs and linear operators, beside the same numbers as a full matrix."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import robustfit as rf


def problem(n=600, p=8, seed=0):
    rng = np.random.default_rng(seed)
    A = np.where(rng.random((n, p)) < 0.4, rng.normal(size=(n, p)), 0.0)
    A[:, 0] = 1.0
    b = A @ rng.normal(size=p) + rng.standard_t(2.0, size=n)
    return A, b


FORMS = {
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "coo matrix": sparse.coo_matrix,
    "integers": lambda A: sparse.csr_array(np.round(10.0 * A).astype(int)),
    "operator": aslinearoperator,
}


def full(A):
    return A @ np.eye(A.shape[1]) if isinstance(A, LinearOperator) else A.toarray().astype(float)


@pytest.mark.parametrize(
    ("form", "loss", "scale"),
    [
        *((form, "welsch", "mad") for form in FORMS),
        *((form, "huber", s) for form in ("csr", "operator") for s in ("mad-fixed", "huber", 0.8)),
    ],
)
def test_as_a_full_matrix(form, loss, scale):
    A, b = problem()
    design = FORMS[form](A)
    fit = rf.irls(design, b, loss, start="ols", scale=scale)
    dense = rf.irls(full(design), b, loss, start="ols", scale=scale)
    assert fit.success
    assert np.max(np.abs(fit.x - dense.x) / dense.bse) < 1e-8
    assert fit.scale == pytest.approx(dense.scale, rel=1e-9)
    np.testing.assert_allclose(fit.weights, dense.weights, atol=1e-8)
    np.testing.assert_allclose(fit.resid, dense.resid, atol=1e-8)
    np.testing.assert_allclose(fit.cov, dense.cov, rtol=1e-6, atol=1e-9)
    assert fit.conf_int().shape == (8, 2)
    assert "huber" in fit.summary().lower() or "welsch" in fit.summary().lower()


@pytest.mark.parametrize("cov_type", ["huber", "H1", "H2", "H3", "w"])
def test_covariances(cov_type):
    A, b = problem()
    options = {"loss": "huber", "start": "ols", "scale": "mad", "cov_type": cov_type}
    dense = rf.irls(A, b, **options).cov
    for form in ("csr", "operator"):
        np.testing.assert_allclose(rf.irls(FORMS[form](A), b, **options).cov, dense, rtol=1e-7)


@pytest.mark.parametrize("form", ["csr", "operator"])
def test_weights_and_ridge(form):
    A, b = problem()
    rng = np.random.default_rng(1)
    options = {
        "freq_weights": rng.integers(0, 3, len(b)),
        "var_weights": rng.uniform(0.5, 2.0, len(b)),
        "ridge": 5.0,
        "start": "ols",
        "scale": "mad",
    }
    fit, dense = rf.irls(FORMS[form](A), b, **options), rf.irls(A, b, **options)
    assert np.max(np.abs(fit.x - dense.x) / dense.bse) < 1e-8


@pytest.mark.parametrize("form", ["csr", "operator"])
def test_least_squares_with_ridge(form):
    A, b = problem()
    options = {"loss": "linear", "ridge": 5.0}
    fit, dense = rf.irls(FORMS[form](A), b, **options), rf.irls(A, b, **options)
    np.testing.assert_allclose(fit.x, dense.x, rtol=1e-8)
    assert fit.scale == pytest.approx(dense.scale, rel=1e-10)


def test_several_responses():
    A, b = problem()
    B = np.column_stack([b, A[:, 1] - 2.0 * b])
    fit, dense = (rf.irls(D, B, "huber") for D in (sparse.csr_array(A), A))
    assert np.max(np.abs(fit.x - dense.x) / dense.bse) < 1e-8
    np.testing.assert_array_equal(fit[1].x, fit.x[:, 1])
    bad = sparse.csr_array(A)
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match="A must be finite"):
        rf.irls(bad, B, "huber")
    with pytest.raises(ValueError, match=r"b must have shape \(600, k\)"):
        rf.irls(sparse.csr_array(A), B[1:], "huber")


@pytest.mark.parametrize("form", ["csr", "operator"])
def test_fewer_rows_than_columns_with_ridge(form):
    A, b = problem(30, 50)
    options = {"loss": "huber", "ridge": 3.0, "scale": 1.0, "start": "ols"}
    fit, dense = rf.irls(FORMS[form](A), b, **options), rf.irls(A, b, **options)
    np.testing.assert_allclose(fit.x, dense.x, atol=1e-8 * np.max(np.abs(dense.x)))


def factors(n, levels, seed=2):
    """Return a design of two factors, of which each row has one level, and a column of ones."""
    rng = np.random.default_rng(seed)
    rows, blocks = np.arange(n), [sparse.csr_array(np.ones((n, 1)))]
    for k in levels:
        code = rng.integers(0, k, n)
        one = sparse.csr_array((np.ones(n), (rows, code)), shape=(n, k))
        blocks.append(one[:, 1:])
    return sparse.hstack(blocks, format="csr")


def test_many_columns():
    """600 columns take the sparse normal equations, as an operator LSMR: the same solution."""
    A = factors(6000, (500, 120))
    rng = np.random.default_rng(3)
    b = A @ rng.normal(size=A.shape[1]) + rng.standard_t(2.0, size=A.shape[0])
    options = {"loss": "huber", "scale": 1.0, "start": "ols"}
    direct, by_lsmr = rf.irls(A, b, **options), rf.irls(aslinearoperator(A), b, **options)
    g = A.T @ direct.loss.psi(b - A @ direct.x)
    assert np.max(np.abs(g)) < 1e-7
    np.testing.assert_allclose(by_lsmr.x, direct.x, atol=1e-7)


def test_a_badly_conditioned_design():
    rng = np.random.default_rng(4)
    t = np.linspace(0.0, 1.0, 400)
    A = np.vander(t, 9, increasing=True)
    b = A @ rng.normal(size=9) + 0.1 * rng.standard_t(3.0, size=400)
    options = {"loss": "huber", "start": "ols", "scale": "mad"}
    dense = rf.irls(A, b, **options)
    for form in ("csr", "operator"):
        fit = rf.irls(FORMS[form](A), b, **options)
        assert np.max(np.abs(A @ (fit.x - dense.x))) < 1e-7 * dense.scale


def test_an_exact_fit():
    A, _ = problem()
    x = np.arange(1.0, 9.0)
    for form in ("csr", "operator"):
        fit = rf.irls(FORMS[form](A), A @ x, "huber", start="ols", scale="mad")
        assert fit.status is rf.Status.EXACT_FIT
        np.testing.assert_allclose(fit.x, x, rtol=1e-10)


@pytest.mark.parametrize("form", ["csr", "operator"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "start='s' needs a dense A"),
        ({"method": "mm"}, "start='s' needs a dense A"),
        ({"start": "lts"}, "use start='ols' or coefficients"),
        ({"start": "ols", "scale": "matlab"}, "scale='matlab' needs a dense A"),
        ({"start": "ols", "leverage": True}, "leverage=True needs a dense A"),
        ({"start": "ols", "bounds": (0.0, 1.0)}, "bounds=.* needs a dense A"),
        ({"start": "ols", "solver": "qr"}, "solver='qr' needs a dense A"),
        ({"start": "ols", "cov_type": "HC"}, "cov_type='HC' needs a dense A"),
        ({"start": "ols", "nan_policy": "omit"}, "nan_policy='omit' needs a dense A"),
        ({"start": np.zeros(3)}, "start must be 8 finite numbers"),
    ],
)
def test_what_needs_the_rows_is_refused(form, options, match):
    A, b = problem()
    with pytest.raises(ValueError, match=match):
        rf.irls(FORMS[form](A), b, **options)


def test_bad_input():
    A, b = problem()
    bad = sparse.csr_array(A)
    bad.data[3] = np.nan
    with pytest.raises(ValueError, match="A must be finite"):
        rf.irls(bad, b, start="ols")
    with pytest.raises(ValueError, match="b must have shape"):
        rf.irls(sparse.csr_array(A), b[1:], start="ols")
    with pytest.raises(ValueError, match="b must be finite"):
        rf.irls(sparse.csr_array(A), np.where(np.arange(600) == 5, np.inf, b), start="ols")
    with pytest.raises(TypeError, match="must hold real numbers"):
        rf.irls(sparse.csr_array(A * 1j), b, start="ols")


def test_the_design_is_left_alone():
    A, b = problem()
    design = sparse.csr_array(A)
    before = design.copy()
    rf.irls(design, b, "huber")
    assert (design != before).nnz == 0


def chain(p):
    """Return a design whose normal equations are large and sparse: differences of neighbours."""
    A = sparse.vstack([sparse.eye_array(p), sparse.eye_array(p) - sparse.eye_array(p, k=1)])
    return sparse.csr_array(A), np.cos(np.arange(2.0 * p)) ** 3


@pytest.mark.parametrize("spoilt", ["zero column", "one column twice"])
def test_many_columns_that_are_dependent(spoilt):
    A, b = chain(600)
    kept = A.tolil()
    kept[:, 7] = 0.0 if spoilt == "zero column" else kept[:, [8]]
    fit = rf.irls(sparse.csr_array(kept), b, "huber", scale=0.3)
    assert fit.success
    expected = rf.irls(
        sparse.csr_array(kept)[:, np.delete(np.arange(600), 7)], b, "huber", scale=0.3
    )
    np.testing.assert_allclose(fit.fittedvalues, expected.fittedvalues, atol=1e-7)
    if spoilt == "zero column":
        assert fit.x[7] == 0.0


def test_many_columns_with_full_rows():
    # Rows without zeros would fill the normal equations.
    A, b = chain(600)
    A = sparse.vstack([A, np.ones((60, 600))]).tocsr()
    b = np.r_[b, 600.0 * np.ones(60)]
    fit = rf.irls(A, b, "huber", scale=0.3)
    expected = rf.irls(A.toarray(), b, "huber", scale=0.3)
    np.testing.assert_allclose(fit.x, expected.x, atol=1e-7)
