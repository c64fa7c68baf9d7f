"""Covariance matrices of a robust regression with given residuals and scale.

With psi_i = psi(u_i), m = mean psi'_i, p the rank and X the design:

- ``"H1"``: K^2 [sum psi^2 s^2 / (n - p)] / m^2 (X'X)^-1, Huber's finite-sample form;
- ``"H2"``: K [sum psi^2 s^2 / (n - p)] / m W^-1, W = sum psi'_i x_i x_i';
- ``"H3"``: 1/K [sum psi^2 s^2 / (n - p)] W^-1 (X'X) W^-1;
- ``"huber"``: H1 with the unbiased variance of psi', as R's MASS computes it;
- ``"matlab"``, ``"gsl"``: sigma^2 (X'X)^-1 with the sigma of DuMouchel and O'Brien (1989);
  the two differ in the residuals that the median scale is taken from.

K = 1 + (p / n) var(psi') / m^2. The forms are those of Huber (1981), *Robust Statistics*,
section 7.6, doi:10.1002/0471725250.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import linalg
from robustfit.losses import Loss

Array = NDArray[np.float64]

COV_TYPES = ("H1", "H2", "H3", "huber", "matlab", "gsl")

#: MATLAB, GSL and MASS divide the median absolute residual by this, not by 0.67448975...
ROUNDED_MAD = 0.6745


@dataclass(frozen=True)
class SStage:
    """The S-estimate that an MM-estimate starts from and takes its scale from.

    Attributes
    ----------
    resid : ndarray of shape (n,)
        b - A x_S, in response units.
    loss : Loss
        The bounded loss of the S-estimate; the M-scale uses chi = rho / sup rho.
    breakdown : float
        Right-hand side of the M-scale equation, ``mean chi = breakdown``.
    x : ndarray of shape (p,)
        S-coefficients, for the columns of `Fitted.A`.
    scale : float
        M-scale of `resid`, in response units; also that of the M-step.
    """

    resid: Array
    loss: Loss
    breakdown: float
    x: Array
    scale: float


@dataclass(frozen=True)
class Fitted:
    """A solution, as far as its covariance depends on it.

    Attributes
    ----------
    A : ndarray of shape (n, p)
        Design of full column rank.
    resid : ndarray of shape (n,)
        b - A x, in response units.
    freq : ndarray of shape (n,)
        Frequency weights; their sum is the number of observations.
    inv_sd : ndarray of shape (n,)
        Root of the inverse-variance weights.
    leverage : ndarray of shape (n,)
        Leverage of each row.
    adjusted : bool
        Whether the fit divided the residuals by sqrt(1 - leverage).
    loss : Loss
        The loss of the fit.
    scale : float
        Scale, in response units.
    s_stage : SStage or None
        The S-estimate of an MM-estimate.
    groups : ndarray of shape (n,) or None
        Label of the cluster that each row belongs to.
    coordinates : ndarray of shape (columns, p) or None
        The caller's coefficients are this matrix times those of `A`; None if they are the same.
    """

    A: Array
    resid: Array
    freq: Array
    inv_sd: Array
    leverage: Array
    adjusted: bool
    loss: Loss
    scale: float
    s_stage: SStage | None = None
    groups: NDArray[Any] | None = None
    coordinates: Array | None = None

    def in_unit(self, unit: float) -> "Fitted":
        """Return the same solution with a response `unit` times as large."""
        s = self.s_stage
        if s is not None:
            s = replace(s, resid=s.resid * unit, x=s.x * unit, scale=s.scale * unit)
        return replace(self, resid=self.resid * unit, scale=self.scale * unit, s_stage=s)

    @functools.cached_property
    def row_weights(self) -> Array:
        """What a row counts for in X'X."""
        return self.freq * self.inv_sd**2

    @functools.cached_property
    def shrink(self) -> Array:
        """sqrt(1 - leverage), at least 0.01, as MATLAB and GSL bound it."""
        return np.asarray(np.sqrt(np.maximum(1.0 - self.leverage, 1e-4)))

    @functools.cached_property
    def u(self) -> Array:
        """Standardised residuals, the argument of psi."""
        standardised = self.resid * self.inv_sd / self.scale
        return standardised / self.shrink if self.adjusted else standardised

    @property
    def nobs(self) -> float:
        """Number of observations, repetitions counted."""
        return float(np.sum(self.freq))

    @property
    def df_resid(self) -> float:
        """Number of observations less the rank."""
        return self.nobs - float(self.A.shape[1])


def covariance(fitted: Fitted, cov_type: str) -> Array:
    """Return the covariance matrix of the coefficients, NaN where it is not defined.

    It is not defined when no degree of freedom is left or when mean psi' is not positive:
    then the estimate is not a regular solution of its equations.
    """
    p = fitted.A.shape[1]
    undefined = np.full((p, p), np.nan)
    if fitted.df_resid <= 0.0:
        return undefined
    if cov_type in ("matlab", "gsl"):
        sigma = matlab_sigmas(fitted, leveraged=cov_type == "matlab")["s"]
        return np.asarray(linalg.inverse_gram(fitted.A, fitted.row_weights) * sigma * sigma)
    dpsi = fitted.loss.dpsi(fitted.u)
    slope, spread = _mean_variance(dpsi, fitted.freq, ddof=int(cov_type == "huber"))
    if not slope > 0.0:
        return undefined
    correction = 1.0 + p / fitted.nobs * spread / slope**2
    psi_square = float(np.sum(fitted.freq * fitted.loss.psi(fitted.u) ** 2)) / fitted.df_resid

    def scaled(unit: Array) -> Array:
        # In two steps: the square of the scale may leave the range of doubles.
        return unit * fitted.scale * fitted.scale

    if cov_type in ("H1", "huber"):
        unit = linalg.inverse_gram(fitted.A, fitted.row_weights)
        return scaled((correction**2 * psi_square / slope**2) * unit)
    W, _ = linalg.gram(fitted.A, fitted.row_weights * dpsi, fitted.resid)
    try:
        W_inverse = np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return undefined
    if cov_type == "H2":
        return scaled((correction * psi_square / slope) * W_inverse)
    XtX, _ = linalg.gram(fitted.A, fitted.row_weights, fitted.resid)
    sandwich = W_inverse @ XtX @ W_inverse
    return scaled((psi_square / correction) * sandwich)


def matlab_sigmas(fitted: Fitted, *, leveraged: bool) -> dict[str, float]:
    """Return the four sigmas of MATLAB's and GSL's robust regression, in response units.

    ``ols_s`` is that of least squares, ``mad_s`` the median one, ``robust_s`` that of
    Street, Carroll and Ruppert (1988), doi:10.1080/00031305.1988.10475548, and ``s`` the
    compromise of DuMouchel and O'Brien (1989) that the standard errors use.

    Parameters
    ----------
    fitted : Fitted
        The solution.
    leveraged : bool
        Whether ``mad_s`` is taken from the leverage-adjusted residuals (MATLAB) or from the
        raw ones (GSL).
    """
    n, p = fitted.nobs, fitted.A.shape[1]
    standardised = fitted.resid * fitted.inv_sd
    adjusted = standardised / fitted.shrink
    # The residuals of least squares on the residuals are those on the response.
    ols = fitted.resid - fitted.A @ linalg.least_squares(fitted.A, fitted.resid, fitted.row_weights)
    ols_s = float(np.linalg.norm(np.sqrt(fitted.row_weights) * ols)) / fitted.df_resid**0.5
    mad_s = matlab_scale(adjusted if leveraged else standardised, fitted.freq, p)
    u = adjusted / mad_s if mad_s > 0.0 else np.sign(adjusted) * np.inf
    slope, _ = _mean_variance(fitted.loss.dpsi(u), fitted.freq, ddof=0)
    if not slope > 0.0:
        return {"ols_s": ols_s, "mad_s": mad_s, "robust_s": np.nan, "s": ols_s}
    psi = fitted.shrink * fitted.loss.psi(u)
    spread = float(np.sqrt(np.sum(fitted.freq * psi * psi) / fitted.df_resid))
    inflation = 1.0 + p / n * (1.0 - slope) / slope
    robust_s = inflation * spread * mad_s / slope
    pooled = float(np.hypot(ols_s * p, robust_s * n**0.5)) / (p**2 + n) ** 0.5
    return {"ols_s": ols_s, "mad_s": mad_s, "robust_s": robust_s, "s": max(robust_s, pooled)}


def matlab_scale(resid: Array, freq: Array, p: int) -> float:
    """Return the median of the n - p + 1 largest absolute residuals over 0.6745.

    Both manuals say that p are dropped; the code of GSL drops p - 1, and so does this.
    `freq` must be whole numbers.
    """
    a = np.sort(np.repeat(np.abs(resid), freq.astype(np.intp)))
    return float(np.median(a[max(p - 1, 0) :])) / ROUNDED_MAD


def _mean_variance(values: Array, freq: Array, ddof: int) -> tuple[float, float]:
    n = float(np.sum(freq))
    mean = float(np.sum(freq * values)) / n
    spread = float(np.sum(freq * (values - mean) ** 2))
    return mean, spread / (n - ddof) if n > ddof else np.nan
