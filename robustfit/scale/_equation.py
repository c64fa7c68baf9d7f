"""Scales that solve an equation: the M-scale, Huber's proposal 2, and the tau-scale on top."""

from __future__ import annotations

import functools

import numpy as np
import scipy
from numpy.typing import ArrayLike

from robustfit import _checks
from robustfit.losses import Loss, get_loss
from robustfit.scale._sample import (
    QUARTILE,
    Estimate,
    Floats,
    Lanes,
    LossLike,
    NanPolicy,
    denominator,
    lanes_of,
    mean_cut_square,
    ratio,
    warn,
)

_MAXITER = 200


def m_scale(
    r: ArrayLike,
    *,
    loss: LossLike = "tukey",
    breakdown: float | None = None,
    ddof: float = 0,
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return the M-scale of residuals about zero.

    Parameters
    ----------
    r : array_like
        Residuals; nothing is subtracted from them.
    loss : str or Loss, default: "tukey"
        A bounded loss. A name gets the constant of the breakdown point; an instance keeps
        its own.
    breakdown : float, optional
        The level ``b`` of the equation, in (0, 1/2]. Default: 1/2 for a name, and for an
        instance the level ``E rho / sup rho`` at which its constant is consistent at the
        normal. Any other level given with an instance estimates a multiple of sigma.
    ddof : float, default: 0
        The mean is a sum over ``n - ddof``. R's robustbase takes the number of coefficients.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts; they count in n too.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `r`; 0 where at most ``b (n - ddof)`` residuals differ from 0.

    Raises
    ------
    ValueError
        If the loss is unbounded.

    See Also
    --------
    tau_scale : As resistant, and efficient as well.

    Notes
    -----
    Solves ``sum(rho(r / s)) / (n - ddof) = b sup rho`` for s, to rounding, by Newton's method
    in ``1 / s**2``: there the equation is concave, so the iteration is monotone after the
    first step. It is kept inside a bracket for losses of your own.

    References
    ----------
    Huber, P. J. (1964), Robust estimation of a location parameter, *Ann. Math. Statist.* 35,
    73-101, doi:10.1214/aoms/1177703732.
    Rousseeuw, P. J. and Yohai, V. (1984), Robust regression by means of S-estimators,
    *Lecture Notes in Statistics* 26, 256-272, doi:10.1007/978-1-4615-7821-5_15.

    Examples
    --------
    >>> from robustfit.scale import m_scale
    >>> print(f"{m_scale([-1.2, 0.3, 0.8, -0.4, 1.1, 1e9]):.6f}")
    1.286330
    >>> float(m_scale([0.0, 0.0, 0.0, 1.0, 2.0]))
    0.0
    """
    tuned, level = _tuned(loss, breakdown)
    lanes = lanes_of(r, "r", axis, nan_policy, weights)
    return lanes.finish(_solve(lanes, tuned, level, denominator(lanes, ddof)))


def _tuned(loss: LossLike, breakdown: float | None) -> tuple[Loss, float]:
    """Return the loss of an M-scale and the level of its equation."""
    level = 0.5 if breakdown is None else _checks.between(breakdown, "breakdown", 0.0, 0.5, "(]")
    if not isinstance(loss, Loss):
        return get_loss(loss, breakdown=level), level
    if not loss.bounded:
        raise ValueError(f"loss must be bounded for a scale, got {loss!r}")
    return loss, _level(loss) if breakdown is None else level


@functools.lru_cache(maxsize=256)
def _level(loss: Loss) -> float:
    return loss.breakdown()


def _solve(lanes: Lanes, loss: Loss, level: float, count: Floats) -> Floats:
    """Return the M-scale of each lane, 0 on an exact fit."""
    size = np.abs(lanes.x)
    start = lanes.tail(size, level * count)
    positive = start > 0.0
    goal = level * loss.sup * count
    s = np.where(positive, start / QUARTILE, 1.0)
    low, high, last = np.zeros_like(s), np.full_like(s, np.inf), np.full_like(s, np.inf)
    done = ~positive
    for _ in range(_MAXITER):
        if done.all():
            break
        u = ratio(size, s)
        excess = lanes.sum(loss.rho(u)) - goal
        low, high = np.where(excess >= 0.0, s, low), np.where(excess <= 0.0, s, high)
        new, step = _newton(s, excess, lanes.sum(loss.psi(u) * u), low, high)
        # Rounding ends the descent: the last steps are about as large as one another.
        ended = (step <= 1e-14) | ((step < 1e-7) & (step >= 0.5 * last))
        s, last = np.where(done, s, new), step
        done = done | ended
    else:
        warn(f"the M-scale of {(~done).sum()} samples did not settle in {_MAXITER} iterations")
    return np.where(positive, s, 0.0)


def _newton(
    s: Floats, excess: Floats, slope: Floats, low: Floats, high: Floats
) -> tuple[Floats, Floats]:
    """Return the next s, and the size of the step relative to s."""
    with np.errstate(all="ignore"):
        new = s / np.sqrt(1.0 - 2.0 * excess / slope)
        inside = (new >= low * (1.0 - 1e-9)) & (new <= high * (1.0 + 1e-9)) & (new > 0.0)
        halfway = np.sqrt(low) * np.sqrt(high)
    inside &= np.isfinite(new)
    fallback = np.where(np.isinf(high), 4.0 * s, np.where(low == 0.0, 0.25 * s, halfway))
    new = np.where(inside, new, fallback)
    return new, np.abs(new - s) / s


def huber_proposal2(
    r: ArrayLike,
    *,
    c: float = 1.345,
    ddof: float = 0,
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return the scale of Huber's proposal 2, for residuals about zero.

    Parameters
    ----------
    r : array_like
        Residuals; nothing is subtracted from them.
    c : float, default: 1.345
        Where the residuals are cut off, in scale units: ``k2`` of R's ``MASS::rlm``, whose
        default this is.
    ddof : float, default: 0
        The mean is a sum over ``n - ddof``: in a regression, the number of coefficients.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts; they count in n too.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `r`; 0 where too few residuals differ from 0.

    See Also
    --------
    m_scale : With ``loss=Talwar(c)`` it is this scale.

    Notes
    -----
    Solves ``sum(min((r / s)**2, c**2)) / (n - ddof) = E min(U**2, c**2)``, U standard normal,
    where the right-hand side is ``t + c**2 (1 - t) - 2 c phi(c)`` with ``t = 2 Phi(c) - 1``.
    Breakdown point 39 % at the default c, falling towards 0 as c grows.

    References
    ----------
    Huber, P. J. (1964), Robust estimation of a location parameter, *Ann. Math. Statist.* 35,
    73-101, doi:10.1214/aoms/1177703732.

    Examples
    --------
    >>> from robustfit.scale import huber_proposal2
    >>> print(f"{huber_proposal2([-1.2, 0.3, 0.8, -0.4, 1.1, 1e9]):.6f}")
    1.201558
    """
    # rho of Talwar's loss is min(u**2, c**2) / 2.
    loss = get_loss("talwar", c=c)
    lanes = lanes_of(r, "r", axis, nan_policy, weights)
    level = mean_cut_square(loss.c) / loss.c**2
    return lanes.finish(_solve(lanes, loss, level, denominator(lanes, ddof)))


def tau_scale(
    r: ArrayLike,
    *,
    loss: LossLike | tuple[Loss, Loss] = "tukey",
    breakdown: float = 0.5,
    efficiency: float = 0.95,
    ddof: float = 0,
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return Yohai and Zamar's tau-scale of residuals about zero.

    Parameters
    ----------
    r : array_like
        Residuals; nothing is subtracted from them.
    loss : str or tuple of two Loss, default: "tukey"
        A bounded loss, tuned by `tau_losses`; or the two losses themselves, whose constants
        then stand and the next two arguments are unused.
    breakdown, efficiency : float, default: 0.5 and 0.95
        Breakdown point, and Gaussian efficiency of the regression that minimises this scale.
    ddof : float, default: 0
        Both means are sums over ``n - ddof``.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts; they count in n too.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `r`; 0 where the M-scale is.

    See Also
    --------
    scale_tau2 : The explicit tau-scale of a sample with unknown centre.

    Notes
    -----
    ``tau**2 = s**2 mean(rho2(r / s)) / E rho2(U)``, where s is the M-scale of rho1.

    References
    ----------
    Yohai, V. J. and Zamar, R. H. (1988), High breakdown-point estimates of regression by means
    of the minimization of an efficient scale, *JASA* 83, 406-413,
    doi:10.1080/01621459.1988.10478611.

    Examples
    --------
    >>> from robustfit.scale import tau_scale
    >>> print(f"{tau_scale([-1.2, 0.3, 0.8, -0.4, 1.1, 1e9]):.6f}")
    2.065800
    """
    if not isinstance(loss, tuple):
        loss = tau_losses(loss, breakdown=breakdown, efficiency=efficiency)
    inner, outer = loss
    inner, level = _tuned(inner, None)
    lanes = lanes_of(r, "r", axis, nan_policy, weights)
    count = denominator(lanes, ddof)
    s = _solve(lanes, inner, level, count)
    u = ratio(lanes.x, s)
    square = lanes.sum(outer.rho(u)) / (count * outer.expectation(outer.rho))
    return lanes.finish(s * np.sqrt(square))


def tau_losses(
    loss: LossLike = "tukey",
    *,
    inner: Loss | None = None,
    breakdown: float = 0.5,
    efficiency: float = 0.95,
) -> tuple[Loss, Loss]:
    """Return the two losses of a tau-estimate: rho1 for resistance, rho2 for efficiency.

    Parameters
    ----------
    loss : str or Loss, default: "tukey"
        A bounded loss; rho2 is of this family, and so is rho1 if `inner` is not given.
    inner : Loss, optional
        rho1 itself, a bounded loss of any family; `breakdown` is then unused.
    breakdown : float, default: 0.5
        Breakdown point, which sets the constant of rho1.
    efficiency : float, default: 0.95
        Gaussian efficiency of the regression tau-estimate, which sets that of rho2.

    Returns
    -------
    tuple of two Loss
        rho1 and rho2.

    Notes
    -----
    The tau-estimate is an M-estimate with ``psi = W psi1 + psi2``, where
    ``W = E[2 rho2(U) - psi2(U) U] / E[psi1(U) U]``; its efficiency is
    ``E[U psi(U)]**2 / E psi(U)**2`` (Yohai and Zamar 1988,
    doi:10.1080/01621459.1988.10478611).

    Examples
    --------
    >>> from robustfit.scale import tau_losses
    >>> print("{0.c:.4f} {1.c:.4f}".format(*tau_losses("tukey")))
    1.5476 6.0400
    """
    efficiency = _checks.between(efficiency, "efficiency", 0.0, 1.0)
    same = get_loss(loss, breakdown=breakdown if inner is None else 0.5)
    inner = same if inner is None else _tuned(inner, None)[0]
    return inner, _outer_loss(inner, same, efficiency)


@functools.lru_cache(maxsize=256)
def _outer_loss(inner: Loss, family: Loss, efficiency: float) -> Loss:
    """Return the loss of a family that gives the tau-estimate its efficiency."""

    def gap(c: float) -> float:
        return _tau_efficiency(inner, get_loss(family, c=c)) - efficiency

    low, high = family.c, 20.0 * family.c
    if not gap(low) < 0.0 < gap(high):
        raise ValueError(
            f"efficiency={efficiency!r} cannot be reached with {inner!r}: the tau-estimate has "
            f"between {gap(low) + efficiency:.4g} and {gap(high) + efficiency:.4g}"
        )
    return get_loss(family, c=float(scipy.optimize.brentq(gap, low, high, xtol=1e-14, rtol=1e-14)))


def _tau_efficiency(inner: Loss, outer: Loss) -> float:
    # Each product goes to the loss whose jumps it has: rho1 has redescended before rho2 bends.
    slope1 = inner.expectation(lambda u: inner.psi(u) * u)
    slope2 = outer.expectation(lambda u: outer.psi(u) * u)
    share = (2.0 * outer.expectation(outer.rho) - slope2) / slope1
    square1 = inner.expectation(lambda u: inner.psi(u) ** 2)
    mixed = inner.expectation(lambda u: inner.psi(u) * outer.psi(u))
    square2 = outer.expectation(lambda u: outer.psi(u) ** 2)
    variance = share**2 * square1 + 2.0 * share * mixed + square2
    return (share * slope1 + slope2) ** 2 / variance
