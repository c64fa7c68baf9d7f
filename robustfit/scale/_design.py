"""The design-adaptive scale of Koller and Stahel: residuals judged by their leverage."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import ArrayLike

from robustfit import _checks
from robustfit.losses import LOSSES, Loss
from robustfit.scale._sample import FAR, Floats, real_values, warn

# Fitted by Koller and Stahel to their definition: tau = sqrt(1 - a h) (1 + b h).
_FAST = {
    "optimal": (0.94735878, -0.09444537),
    "tukey": (0.9473684, -0.0900833),
    "welsch": (0.94732953, -0.07569506),
    "lqq": (0.94736359, -0.08594805),
    "hampel": (0.9473977, -0.04103958),
}
_MAXITER = 500
# A row of leverage one has no residual to speak of; tau must not be zero.
_SMALLEST_TAU = 1e-3


def kappa(loss: Loss, *, nodes: int | None = None) -> float:
    """Return the consistency constant ``E[U psi(U)] / E[weight(U)]`` of the D-scale.

    Parameters
    ----------
    loss : Loss
        The loss whose weights the scale uses.
    nodes : int, optional
        Integrate by Gauss-Hermite quadrature with so many nodes instead of exactly. R's
        robustbase does so with 10, which is wrong from the fifth digit on.

    Examples
    --------
    >>> from robustfit.losses import Tukey
    >>> from robustfit.scale import kappa
    >>> print(f"{kappa(Tukey()):.6f} {kappa(Tukey(), nodes=10):.6f}")
    0.828077 0.828091
    """
    _formulas(loss)
    if nodes is None:
        return _kappa(loss)
    x, w = np.polynomial.hermite.hermgauss(_checks.whole(nodes, "nodes", least=1))
    w = w * np.exp(0.5 * x * x)
    return float(w @ (x * loss.psi(x)) / (w @ loss.weight(x)))


def tau_factors(loss: Loss, h: ArrayLike, *, exact: bool = False) -> Floats:
    """Return by how much a row of leverage h shrinks its residual, as its weight sees it.

    Parameters
    ----------
    loss : Loss
        The loss of the fit.
    h : array_like
        Leverages in [0, 1].
    exact : bool, default: False
        Whether to use the definition for every loss. By default Tukey's, Hampel's, Welsch's,
        the lqq and the optimal loss at 95 % efficiency use the published approximation
        ``sqrt(1 - a h) (1 + b h)``, as R's robustbase does; it is within 0.01 of the
        definition for h up to 0.7, and up to 0.13 too large at h = 1.

    Returns
    -------
    ndarray
        tau, 1 where h is 0; shape of `h`.

    Notes
    -----
    To first order the residual of a row is ``d = u - h psi(u) / m - v sqrt(q h (1 - h)) / m``
    with independent standard normal u and v, m = E psi', q = E psi^2. Tau is where the term
    of the D-scale is unbiased: ``E weight(d / tau) ((d / tau)^2 - kappa) = 0``.

    References
    ----------
    Koller, M. and Stahel, W. A. (2011), Sharpening Wald-type inference in robust regression
    for small samples, *Computational Statistics & Data Analysis* 55, 2504-2515,
    doi:10.1016/j.csda.2011.02.014.

    Examples
    --------
    >>> from robustfit.losses import Huber
    >>> from robustfit.scale import tau_factors
    >>> tau_factors(Huber(), [0.0, 0.1, 0.5]).round(3)
    array([1.   , 0.943, 0.705])
    """
    _formulas(loss)
    h = real_values(h, "h")
    if not np.all((h >= 0.0) & (h <= 1.0)):
        raise ValueError(f"h must be in [0, 1], got h={h!r}")
    fast = None if exact else _fast(loss)
    if fast is None:
        return np.asarray(np.sqrt(_tau_square(loss)(h)))
    return np.asarray(np.sqrt(1.0 - fast[0] * h) * (1.0 + fast[1] * h))


def d_scale(
    r: ArrayLike,
    leverage: ArrayLike,
    loss: Loss,
    start: float,
    *,
    freq: ArrayLike | None = None,
    kappa: float | None = None,
) -> float:
    """Return the design-adaptive scale of the residuals of a regression.

    Parameters
    ----------
    r : array_like of shape (n,)
        Residuals of an M-estimate.
    leverage : array_like of shape (n,)
        Leverages of the rows in its weighted least-squares problem,
        ``w_i x_i' (X'WX)^-1 x_i`` with the robustness weights w.
    loss : Loss
        The loss of the estimate.
    start : float
        A robust scale in units of `r`, usually that of the S-estimate.
    freq : array_like of shape (n,), optional
        Repeat counts; `leverage` is that of each single repetition.
    kappa : float, optional
        Default: the exact constant, see `kappa`.

    Returns
    -------
    float
        Scale in the units of `r`; 0 if `start` is.

    Raises
    ------
    ValueError, TypeError
        If an argument is not finite, of another shape, or not in its range.

    Notes
    -----
    Solves ``sigma^2 = sum(w r^2) / (kappa sum(w tau^2))``, the weights w at
    ``r / (tau sigma)``, by its fixed-point iteration with Aitken's acceleration. It is
    more efficient than the S-scale, and less biased where the number of coefficients is not
    small against n.

    References
    ----------
    Koller and Stahel (2011), doi:10.1016/j.csda.2011.02.014.

    Examples
    --------
    >>> import numpy as np
    >>> from robustfit.losses import Tukey
    >>> from robustfit.scale import d_scale
    >>> r = np.array([-1.2, 0.3, 0.8, -0.4, 1.1, 50.0])
    >>> print(f"{d_scale(r, np.full(6, 1 / 6), Tukey(), start=1.0):.4f}")
    0.9979
    """
    start = _checks.nonnegative(start, "start")
    tau, r = tau_factors(loss, leverage), real_values(r, "r")
    f = np.ones_like(r) if freq is None else real_values(freq, "freq")
    if not r.shape == tau.shape == f.shape:
        raise ValueError(
            f"r, leverage and freq must have one shape, got {r.shape}, {tau.shape} and {f.shape}"
        )
    if not np.all(f >= 0.0):
        raise ValueError(f"freq must not be negative, got freq={freq!r}")
    constant = _kappa(loss) if kappa is None else _checks.positive(kappa, "kappa")
    if start == 0.0:
        return 0.0
    # In units of the start, so that no square overflows.
    with np.errstate(over="ignore"):
        z = np.clip(r / start, -FAR, FAR)

    def improved(s: float) -> float:
        w = f * loss.weight(z / (tau * s))
        # Far out w is 0, and 0 times infinity must not count.
        square, count = float(np.sum(w * z * z, where=w > 0.0)), float(np.sum(w * tau * tau))
        return float(np.sqrt(square / (constant * count))) if count > 0.0 else 0.0

    return start * _fixed_point(improved)


def _formulas(loss: Loss) -> None:
    """Refuse what is not a loss with its constant."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a robustfit.losses.Loss, got loss={loss!r}")


def _fixed_point(improved: Callable[[float], float]) -> float:
    s = 1.0
    for _ in range(_MAXITER):
        first = improved(s)
        if not first > 0.0 or abs(first - s) <= 1e-14 * s:
            return first
        second = improved(first)
        rate = (second - first) / (first - s)
        # The step to the limit of a geometric series; a plain one where it is not yet one.
        s = second + (second - first) * rate / (1.0 - rate) if 0.0 < rate < 0.95 else second
    warn(f"the D-scale did not settle in {_MAXITER} iterations")
    return s


@functools.lru_cache(maxsize=256)
def _kappa(loss: Loss) -> float:
    return loss.expectation(lambda u: u * loss.psi(u)) / loss.expectation(loss.weight)


@functools.lru_cache(maxsize=256)
def _fast(loss: Loss) -> tuple[float, float] | None:
    """Return the constants of the published approximation, if it was made for this loss."""
    if loss.name not in _FAST:
        return None
    u = np.linspace(0.0, 12.0, 241)
    same = np.max(np.abs(loss.weight(u) - LOSSES[loss.name]().weight(u))) < 1e-3
    return _FAST[loss.name] if same else None


@functools.lru_cache(maxsize=256)
def _tau_square(loss: Loss) -> scipy.interpolate.PchipInterpolator:
    """Return tau^2 by the definition, interpolated between 33 leverages."""
    h = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, 33))
    tau, last = np.ones_like(h), 1.0
    for i in range(1, len(h)):
        tau[i] = last = _tau(loss, float(h[i]), last)
    return scipy.interpolate.PchipInterpolator(h, tau * tau)


def _tau(loss: Loss, h: float, near: float) -> float:
    """Solve the equation of tau for one leverage, searching from the value at a near one."""
    m = loss.expectation(lambda x: x * loss.psi(x))
    q = loss.expectation(lambda x: loss.psi(x) ** 2)
    # The trapezoidal rule is exact to rounding here where the loss is smooth; (u, v) and
    # (-u, -v) give the same.
    u, v = np.arange(0.0, 8.0, 0.05)[:, None], np.arange(-8.0, 8.05, 0.1)
    density = np.exp(-0.5 * (u * u + v * v))
    density[0] *= 0.5
    d = u - h / m * loss.psi(u) - np.sqrt(q * h * (1.0 - h)) / m * v

    def bias(tau: float) -> float:
        t = d / tau
        return float(np.sum(density * loss.weight(t) * (t * t - _kappa(loss))))

    low, high = 0.95 * near, near
    while bias(high) > 0.0:
        low, high = high, 1.2 * high
    while bias(low) < 0.0:
        if low < _SMALLEST_TAU:
            return _SMALLEST_TAU
        low, high = 0.8 * low, low
    return float(scipy.optimize.brentq(bias, low, high, xtol=1e-12))
