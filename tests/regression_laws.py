"""Laws that every linear robust fit obeys, whatever its loss, scale and start.

Each law takes an `Estimator`, a way to fit, and a design A with a response b. They may be
used on an estimator of one's own::

    for law in LAWS:
        law(Estimator("welsch", start="s"), A, b)
"""

import dataclasses

import numpy as np

import robustfit as rf

POWERS = (-300, -31, -1, 1, 40, 300)


class Estimator:
    """`irls` with its options, some of which follow the units of the data."""

    def __init__(self, loss, **options):
        self.loss, self.options = loss, options

    def __str__(self):
        return "-".join(
            [str(self.loss), *(f"{key}={value}" for key, value in self.options.items())]
        )

    def __call__(self, A, b, **more):
        return rf.irls(A, b, self.loss, **self.options, **more)

    @property
    def resistant(self):
        """Whether it starts with a search over subsets of rows."""
        return "method" in self.options or self.options.get("start", "s") in ("s", "lts")

    def in_units(self, a):
        """Return the same estimator for a response a times as large."""
        scale = self.options.get("scale")
        if not isinstance(scale, float):
            return self
        return Estimator(self.loss, **{**self.options, "scale": scale * abs(a)})


def assert_same_x(found, x, se, tol=1e-9):
    """Compare coefficients in standard errors."""
    se = np.where(np.isfinite(se) & (se > 0.0), se, np.max(np.abs(x)))
    assert np.max(np.abs(found - x) / se) <= tol


def assert_same_fit(found, expected, tol=1e-8):
    """Compare everything but the rows, which may be others."""
    assert found.status is expected.status
    assert_same_x(found.x, expected.x, expected.bse)
    assert abs(found.scale - expected.scale) <= tol * expected.scale
    np.testing.assert_allclose(found.cov, expected.cov, rtol=tol, atol=tol * np.max(expected.cov))
    np.testing.assert_allclose(found.bse, expected.bse, rtol=tol)
    np.testing.assert_allclose(found.nobs, expected.nobs, rtol=1e-14)
    np.testing.assert_allclose(found.df_resid, expected.df_resid, rtol=1e-14)
    np.testing.assert_allclose(found.rsquared, expected.rsquared, rtol=tol)
    np.testing.assert_allclose(found.cost, expected.cost, rtol=tol)


# -- equivariance ------------------------------------------------------------------------


def the_same_call_gives_the_same_bits(fit, A, b):
    first, second = fit(A, b), fit(A.copy(), b.copy())
    for field in dataclasses.fields(first):
        value = getattr(first, field.name)
        if isinstance(value, (np.ndarray, float, int, str)):
            np.testing.assert_array_equal(value, getattr(second, field.name), err_msg=field.name)


def adding_a_fit_to_the_response_adds_its_coefficients(fit, A, b):
    v = np.linspace(-3.0, 5.0, A.shape[1])
    plain, shifted = fit(A, b), fit(A, b + A @ v)
    assert_same_x(shifted.x - v, plain.x, plain.bse)
    np.testing.assert_allclose(shifted.scale, plain.scale, rtol=1e-9)
    np.testing.assert_allclose(shifted.weights, plain.weights, atol=1e-7)
    np.testing.assert_allclose(shifted.bse, plain.bse, rtol=1e-7)


def a_power_of_two_in_the_response_changes_no_bit(fit, A, b):
    plain = fit(A, b)
    for k in POWERS:
        a = 2.0**k
        scaled = fit.in_units(a)(A, a * b)
        np.testing.assert_array_equal(scaled.x, a * plain.x)
        assert scaled.scale == a * plain.scale
        np.testing.assert_array_equal(scaled.weights, plain.weights)
        np.testing.assert_array_equal(scaled.resid, a * plain.resid)
        np.testing.assert_array_equal(scaled.bse, a * plain.bse)
        np.testing.assert_array_equal(scaled.pvalues, plain.pvalues)
        assert scaled.nit == plain.nit
        assert scaled.status is plain.status


def a_factor_in_the_response_is_one_in_the_fit(fit, A, b):
    plain = fit(A, b)
    for a in (-1.0, 3.7, -1e-60, 1e60):
        scaled = fit.in_units(a)(A, a * b)
        np.testing.assert_allclose(scaled.x, a * plain.x, rtol=1e-12, atol=0)
        np.testing.assert_allclose(scaled.scale, abs(a) * plain.scale, rtol=1e-12)
        np.testing.assert_allclose(scaled.weights, plain.weights, atol=1e-11)
        np.testing.assert_allclose(scaled.cov / a / a, plain.cov, rtol=1e-10)
        np.testing.assert_allclose(scaled.rsquared, plain.rsquared, rtol=1e-10)


def mixing_the_columns_mixes_the_coefficients_back(fit, A, b):
    p = A.shape[1]
    rng = np.random.default_rng(3)
    M = np.linalg.qr(rng.standard_normal((p, p)))[0] @ np.diag(np.logspace(-2, 2, p))
    plain, mixed = fit(A, b), fit(A @ M, b)
    assert_same_x(M @ mixed.x, plain.x, plain.bse)
    np.testing.assert_allclose(mixed.scale, plain.scale, rtol=1e-9)
    np.testing.assert_allclose(mixed.leverage, plain.leverage, rtol=1e-8)
    cov = M @ mixed.cov @ M.T
    np.testing.assert_allclose(cov, plain.cov, rtol=1e-6, atol=1e-7 * np.max(np.abs(plain.cov)))


def columns_of_any_size_are_alike(fit, A, b):
    plain = fit(A, b)
    for power in (-180, 180):
        unit = 10.0 ** (power * np.arange(A.shape[1]) / A.shape[1])
        scaled = fit(A * unit, b)
        assert_same_x(scaled.x * unit, plain.x, plain.bse)
        np.testing.assert_allclose(scaled.bse * unit, plain.bse, rtol=1e-7)


def the_order_of_rows_does_not_matter(fit, A, b):
    order = np.random.default_rng(4).permutation(len(b))
    plain, permuted = fit(A, b), fit(A[order], b[order])
    assert_same_fit(permuted, plain)
    for name in ("weights", "leverage", "resid"):
        expected = getattr(plain, name)[order]
        size = np.max(np.abs(expected))
        np.testing.assert_allclose(getattr(permuted, name), expected, atol=1e-8 * size)


# -- weights -----------------------------------------------------------------------------


def frequency_weights_repeat_rows(fit, A, b):
    freq = np.random.default_rng(5).integers(1, 4, len(b))
    freq[0] = 25
    weighted = fit(A, b, freq_weights=freq)
    repeated = fit(np.repeat(A, freq, axis=0), np.repeat(b, freq))
    assert_same_fit(weighted, repeated)
    np.testing.assert_allclose(np.repeat(weighted.weights, freq), repeated.weights, atol=1e-8)
    np.testing.assert_allclose(np.repeat(weighted.leverage, freq), repeated.leverage, rtol=1e-9)


def zero_weight_removes_a_row(fit, A, b):
    keep = np.ones(len(b))
    keep[[2, -1]] = 0.0
    rows = keep == 1.0
    odd = b.copy()
    odd[2] = 1e3 * np.max(np.abs(b))
    expected = fit(A[rows], b[rows])
    for name in ("freq_weights", "var_weights"):
        found = fit(A, odd, **{name: keep})
        assert_same_fit(found, expected)
        np.testing.assert_allclose(found.weights[rows], expected.weights, atol=1e-8)


def inverse_variances_multiply_rows(fit, A, b):
    for unit in (1.0, 0.125):
        root = unit * np.random.default_rng(6).uniform(0.5, 2.0, len(b))
        _inverse_variance_multiplies_rows(fit, A, b, root)


def _inverse_variance_multiplies_rows(fit, A, b, root):
    weighted = fit.in_units(root[0])(A, b, var_weights=root**2)
    multiplied = fit.in_units(root[0])(A * root[:, None], b * root)
    assert weighted.status is multiplied.status
    assert_same_x(weighted.x, multiplied.x, multiplied.bse)
    np.testing.assert_allclose(weighted.scale, multiplied.scale, rtol=1e-9)
    np.testing.assert_allclose(weighted.weights, multiplied.weights, atol=1e-8)
    np.testing.assert_allclose(weighted.cov, multiplied.cov, rtol=1e-6)
    np.testing.assert_allclose(weighted.resid * root, multiplied.resid, atol=1e-8)
    np.testing.assert_allclose(weighted.leverage, multiplied.leverage, rtol=1e-9)


# -- what makes a solution -----------------------------------------------------------------


def a_success_solves_its_equations(fit, A, b):
    found = fit(A, b)
    assert found.success
    if found.scale == 0.0:
        return
    shrink = np.sqrt(np.maximum(1.0 - found.leverage, 1e-4)) if fit.options.get("leverage") else 1.0
    psi = found.loss.psi(found.resid / found.scale / shrink) * shrink
    # In standard errors of least squares at this scale.
    Q = np.linalg.qr(A)[0]
    assert np.max(np.abs(Q.T @ psi)) < 1e-8
    np.testing.assert_allclose(
        found.weights, found.loss.weight(found.resid / found.scale / shrink), atol=1e-12
    )
    np.testing.assert_allclose(found.resid + found.fittedvalues, b, atol=1e-12 * np.max(np.abs(b)))


def weights_lie_between_zero_and_one(fit, A, b):
    weights = fit(A, b).weights
    assert weights.shape == b.shape
    assert np.all((weights >= 0.0) & (weights <= 1.0))


def neither_data_nor_weights_are_changed(fit, A, b):
    given = [A.copy(), b.copy(), np.ones(len(b)), np.linspace(1.0, 2.0, len(b))]
    before = [array.copy() for array in given]
    found = fit(given[0], given[1], freq_weights=given[2], var_weights=given[3])
    found.to_dict()
    found.to_matlab()
    for array, expected in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.flags.writeable


LAWS = (
    the_same_call_gives_the_same_bits,
    adding_a_fit_to_the_response_adds_its_coefficients,
    a_power_of_two_in_the_response_changes_no_bit,
    a_factor_in_the_response_is_one_in_the_fit,
    mixing_the_columns_mixes_the_coefficients_back,
    columns_of_any_size_are_alike,
    the_order_of_rows_does_not_matter,
    frequency_weights_repeat_rows,
    zero_weight_removes_a_row,
    inverse_variances_multiply_rows,
    a_success_solves_its_equations,
    weights_lie_between_zero_and_one,
    neither_data_nor_weights_are_changed,
)
