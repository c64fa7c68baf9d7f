"""Model comparison: tests between nested fits, prediction error, and two fits of one model."""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks, linalg
from robustfit import scale as scales
from robustfit.covariance import Fitted
from robustfit.losses import Linear, Loss

Array = NDArray[np.float64]

# A column of the reduced design is in the span of the full one if this much of it is left.
_SPAN = 1e-8


def compare_nested(
    full: Fitted, reduced: Fitted, x: Array, cov: Array, test: Literal["wald", "deviance"] = "wald"
) -> dict[str, float]:
    """Test whether a model with fewer columns explains the response as well.

    Parameters
    ----------
    full, reduced : Fitted
        The two solutions. Each column of the reduced design must be a combination of columns
        of the full one.
    x, cov : ndarray
        Coefficients for the columns of ``full.A``, and their covariance.
    test : {"wald", "deviance"}, default: "wald"
        Wald's test with the covariance of the full model, or the difference of the objectives
        at the scale and with the loss of the full model.

    Returns
    -------
    dict
        ``statistic``, ``pvalue`` by chi-square, and ``df``, the number of restrictions.

    Raises
    ------
    ValueError
        If the models are not nested, or not of the same observations, or the full one is an
        exact fit or has no covariance.

    Notes
    -----
    The deviance test is ``2 mean(psi') / mean(psi^2) (sum rho_reduced - sum rho_full)`` with
    psi at the full model, which is asymptotically chi-square where the errors do not depend
    on the design (Ronchetti 1982; Hampel, Ronchetti, Rousseeuw and Stahel 1986, section 7.2,
    doi:10.1002/9781118186435). The reduced model is estimated anew at the scale of the full
    one, from its own solution.
    """
    test = _checks.known(test, "test", ("wald", "deviance"))
    _refuse_without_scale(full)
    R = _restrictions(full, reduced)
    if test == "wald":
        statistic = _wald(R, x, cov)
    else:
        psi, dpsi = full.loss.psi(full.u), full.dpsi
        factor = 2.0 * float(full.freq @ dpsi) / float(full.freq @ psi**2)
        statistic = factor * (_least_cost(full, reduced) - _cost(full, full.resid))
    df = len(R)
    return {
        "statistic": statistic,
        "pvalue": float(special.chdtrc(df, max(statistic, 0.0))),
        "df": float(df),
    }


def rfpe(fitted: Fitted) -> float:
    """Return the robust final prediction error, smaller for the better model.

    ``mean rho(u) + p mean psi^2 / (n mean psi')``, Maronna, Martin, Yohai and
    Salibian-Barrera (2019), *Robust Statistics*, doi:10.1002/9781119214656. Only fits with the
    same scale and loss can be compared by it. NaN for an exact fit.
    """
    if not fitted.scale > 0.0:
        return math.nan
    psi, f = fitted.loss.psi(fitted.u), fitted.freq
    optimism = fitted.A.shape[1] * float(f @ psi**2) / float(f @ fitted.dpsi)
    return float((_cost(fitted, fitted.resid) + optimism) / fitted.nobs)


def aic(fitted: Fitted) -> float:
    """Return Akaike's criterion of a least-squares fit, NaN if that is exact.

    Raises
    ------
    ValueError
        If the loss is not `robustfit.losses.Linear`.
    """
    if not isinstance(fitted.loss, Linear):
        raise ValueError(
            f"aic is defined by a likelihood, and loss={fitted.loss.name!r} has none: a "
            "redescender's exp(-rho) does not integrate, and the scale is not its maximum "
            "likelihood estimate. Use rfpe, or compare(reduced, test='deviance') for nested models"
        )
    if not fitted.scale > 0.0:
        return math.nan
    n, square = fitted.nobs, float(fitted.row_weights @ fitted.resid**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = float(np.sum(fitted.freq * np.log(fitted.inv_sd), where=fitted.freq > 0.0))
    log_likelihood = -0.5 * n * (np.log(2.0 * np.pi * square / n) + 1.0) + weights
    return float(2.0 * (fitted.A.shape[1] + 1.0) - 2.0 * log_likelihood)


def compare_start(fitted: Fitted) -> dict[str, float]:
    """Compare the fit with its S-estimate and with least squares.

    Parameters
    ----------
    fitted : Fitted
        The solution, with a positive scale.

    Returns
    -------
    dict
        For each pair, ``s`` and ``ls``: ``<pair>_distance`` in standard errors of the
        difference, ``<pair>_chi2`` its square, and ``<pair>_pvalue``. ``s_scale_ratio`` is the
        M-scale of the residuals over the S-scale. Without an S-step only those of ``ls``.

    Raises
    ------
    ValueError
        If the fit is exact.

    Notes
    -----
    With normal errors two such estimates differ by ``N(0, v s^2 (X'X)^-1)`` asymptotically,
    where ``v = E (psi_0 / E psi_0' - psi_1 / E psi_1')^2``: the difference of their influence
    functions. A small p-value says that the data are not normal errors about one plane, and
    not which of the fits is to be preferred. A far S-estimate with a scale ratio well above 1
    is the sign of an M-step that left its basin.
    """
    _refuse_without_scale(fitted)
    found: dict[str, float] = {}
    if fitted.s_stage is not None:
        stage = fitted.s_stage
        own = scales.m_scale(
            fitted.resid * fitted.inv_sd,
            loss=stage.loss,
            breakdown=stage.breakdown,
            ddof=fitted.A.shape[1],
            weights=fitted.freq,
        )
        found["s_scale_ratio"] = float(own / stage.scale)
        found |= _difference("s", fitted, fitted.A @ stage.step, stage.loss)
    step = linalg.least_squares(fitted.A, fitted.resid, fitted.row_weights)
    return found | _difference("ls", fitted, fitted.A @ step, Linear())


@functools.lru_cache(maxsize=256)
def difference_variance(loss0: Loss, loss1: Loss) -> float:
    """Return the variance of the difference of two M-estimates at the normal, at scale 1.

    That is ``E (psi0 / E psi0' - psi1 / E psi1')**2``, in units of (X'X)^-1.
    """

    def slope(loss: Loss) -> float:
        return loss.expectation(lambda u: u * loss.psi(u))

    slope0, slope1 = slope(loss0), slope(loss1)
    return loss0.expectation(lambda u: (loss0.psi(u) / slope0 - loss1.psi(u) / slope1) ** 2)


def _difference(name: str, fitted: Fitted, moved: Array, loss: Loss) -> dict[str, float]:
    """Return the length of A (x_1 - x) by its distribution for normal errors."""
    variance = difference_variance(fitted.loss, loss) * fitted.scale**2
    chi2 = float(fitted.row_weights @ moved**2)
    # The same estimate twice has difference and variance 0 up to rounding.
    chi2 = float(chi2 / variance) if variance > 1e-12 * fitted.scale**2 else 0.0
    p = fitted.A.shape[1]
    return {
        f"{name}_distance": float(np.sqrt(chi2)),
        f"{name}_chi2": chi2,
        f"{name}_pvalue": float(special.chdtrc(p, chi2)),
    }


def _refuse_without_scale(fitted: Fitted) -> None:
    """Refuse an exact fit: its differences cannot be measured."""
    if not fitted.scale > 0.0:
        raise ValueError(f"the comparison needs a positive scale, got scale={fitted.scale!r}")


def _restrictions(full: Fitted, reduced: Fitted) -> Array:
    """Return R with R x = 0 where A x is in the span of the reduced design."""
    if full.A.shape[0] != reduced.A.shape[0] or np.any(full.row_weights != reduced.row_weights):
        raise ValueError("reduced must be a fit to the same rows with the same weights")
    root = np.sqrt(full.row_weights)[:, None]
    Q, _ = np.linalg.qr(full.A * root)
    unit = linalg.column_scale(reduced.A)
    B = reduced.A * unit * root
    inside = Q.T @ B
    left = np.linalg.norm(B - Q @ inside, axis=0)
    if np.any(left > _SPAN * np.linalg.norm(B, axis=0)):
        column = int(np.argmax(left > _SPAN * np.linalg.norm(B, axis=0)))
        raise ValueError(
            f"reduced must be nested in the full model, but its column {column} is not a "
            "combination of the columns of the full design"
        )
    kept = np.linalg.qr(inside, mode="complete")[0][:, inside.shape[1] :]
    if kept.shape[1] == 0:
        raise ValueError("reduced must have fewer columns than the full model")
    return np.asarray(kept.T @ (Q.T @ (full.A * root)))


def _wald(R: Array, x: Array, cov: Array) -> float:
    gap = R @ x
    if not np.all(np.isfinite(cov)):
        raise ValueError("the covariance of the full model is not defined; use test='deviance'")
    return float(gap @ np.linalg.solve(R @ cov @ R.T, gap))


def _cost(fitted: Fitted, resid: Array) -> float:
    """Return sum rho of other residuals, with loss and scale of the fit."""
    u = resid * fitted.inv_sd / fitted.scale
    return float(fitted.freq @ fitted.loss.rho(u))


def _least_cost(full: Fitted, reduced: Fitted) -> float:
    """Return the smallest sum rho for the reduced design that its own solution leads to."""
    resid, last = reduced.resid, np.inf
    zero = np.zeros(reduced.A.shape[1])
    while (cost := _cost(full, resid)) < last * (1.0 - 1e-15):
        w = full.row_weights * full.loss.weight(resid * full.inv_sd / full.scale)
        resid = resid - reduced.A @ linalg.weighted_step(reduced.A, w, resid, x=zero).d
        last = cost
    return cost
