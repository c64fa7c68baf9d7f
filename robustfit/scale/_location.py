"""Location: the M-estimate, and the location and scale of Maronna and Zamar in one pass."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
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
    lanes_of,
    mean_cut_square,
    per_sample,
    ratio,
    warn,
)


@overload
def scale_tau2(
    x: ArrayLike,
    *,
    c1: float = ...,
    c2: float = ...,
    consistency: bool = ...,
    finite_sample: bool = ...,
    return_location: Literal[False] = ...,
    axis: int | None = ...,
    weights: ArrayLike | None = ...,
    nan_policy: NanPolicy = ...,
) -> Estimate: ...


@overload
def scale_tau2(
    x: ArrayLike,
    *,
    c1: float = ...,
    c2: float = ...,
    consistency: bool = ...,
    finite_sample: bool = ...,
    return_location: Literal[True],
    axis: int | None = ...,
    weights: ArrayLike | None = ...,
    nan_policy: NanPolicy = ...,
) -> tuple[Estimate, Estimate]: ...


def scale_tau2(
    x: ArrayLike,
    *,
    c1: float = 4.5,
    c2: float = 3.0,
    consistency: bool = True,
    finite_sample: bool = False,
    return_location: bool = False,
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate | tuple[Estimate, Estimate]:
    """Return the explicit tau-scale of Maronna and Zamar, and its location.

    Parameters
    ----------
    x : array_like
        Sample.
    c1, c2 : float, default: 4.5 and 3.0
        Cut-offs of the location and of the scale, in unscaled MADs.
    consistency : bool, default: True
        Whether to divide by its value at the standard normal.
    finite_sample : bool, default: False
        Whether to average over ``n - 2`` values instead of n.
    return_location : bool, default: False
        Whether to return the pair (location, scale).
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts; they count in n too.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray, or tuple of two
        Scale in the units of `x`; 0 where the MAD is. The location is then the median.

    See Also
    --------
    tau_scale : For residuals about zero, with any bounded loss.

    Notes
    -----
    With ``m`` the median and ``d = median(abs(x - m))``, the location is the mean of x under
    the weights ``(1 - ((x - m) / (c1 d))**2)**2``, 0 where that square exceeds 1, and
    ``scale**2 = d**2 mean(min(((x - location) / d)**2, c2**2))``. One pass, no iteration.
    Agrees with ``scaleTau2`` of R's robustbase.

    References
    ----------
    Maronna, R. A. and Zamar, R. H. (2002), Robust estimates of location and dispersion for
    high-dimensional datasets, *Technometrics* 44, 307-317, doi:10.1198/004017002188618509.

    Examples
    --------
    >>> from robustfit.scale import scale_tau2
    >>> location, scale = scale_tau2([1.0, 2.0, 3.0, 4.0, 1000.0], return_location=True)
    >>> print(f"{location:.6f} {scale:.6f}")
    2.626833 1.744097
    """
    for name, cut in (("c1", c1), ("c2", c2)):
        _checks.positive(cut, name)
    lanes = lanes_of(x, "x", axis, nan_policy, weights)
    if finite_sample and not (lanes.total > 2.0).all():
        raise ValueError(f"finite_sample needs n > 2, got a sample of n={lanes.total.min():g}")
    count = lanes.total - 2.0 if finite_sample else lanes.total
    center = lanes.median(lanes.x)
    deviation = lanes.x - center[:, None]
    raw = lanes.median(np.abs(deviation))
    u = ratio(deviation, raw)
    weight = np.maximum(1.0 - (u / c1) ** 2, 0.0) ** 2
    offset = lanes.sum(weight * u) / lanes.sum(weight)
    square = lanes.sum(np.minimum(np.abs(u - offset[:, None]), c2) ** 2) / count
    if consistency:
        square /= mean_cut_square(c2 * QUARTILE)
    scale = lanes.finish(raw * np.sqrt(square))
    return (lanes.finish(center + raw * offset), scale) if return_location else scale


def location(
    x: ArrayLike,
    loss: LossLike = "huber",
    *,
    c: float | None = None,
    scale: ArrayLike | Literal["mad"] = "mad",
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
    tol: float = 1e-12,
    maxiter: int = 500,
) -> Estimate:
    """Return the M-estimate of location that is reached from the median.

    Parameters
    ----------
    x : array_like
        Sample.
    loss : str or Loss, default: "huber"
        Any loss.
    c : float, optional
        Tuning constant in scale units; default: 95 % Gaussian efficiency, or that of the
        instance.
    scale : {"mad"} or float or array_like, default: "mad"
        Scale, held fixed: `mad` about the median, or positive numbers in the units of `x`.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.
    tol : float, default: 1e-12
        Stop when a step is at most `tol` times the scale.
    maxiter : int, default: 500
        Largest number of steps.

    Returns
    -------
    float or ndarray
        Location in the units of `x`; the median where the MAD is 0.

    Warns
    -----
    ConvergenceWarning
        If `maxiter` steps were not enough, or a given scale is so small that no value has a
        positive weight.

    See Also
    --------
    scale_tau2 : A location and a scale in one pass.

    Notes
    -----
    Solves ``sum(psi((x - location) / scale)) = 0`` by iterative reweighting from the median.
    With a redescending loss there may be several solutions; this finds the one in the
    median's basin, as the steps go downhill, and turn to Newton's only when they are small.

    References
    ----------
    Huber, P. J. (1964), Robust estimation of a location parameter, *Ann. Math. Statist.* 35,
    73-101, doi:10.1214/aoms/1177703732.

    Examples
    --------
    >>> from robustfit.scale import location
    >>> print(f"{location([1.0, 2.0, 4.0, 7.0, 1000.0]):.6f}")
    4.995572
    >>> print(f"{location([1.0, 2.0, 4.0, 7.0, 1000.0], 'welsch'):.6f}")
    3.464569
    """
    tuned = get_loss(loss, c=c)
    tol, maxiter = _checks.positive(tol, "tol"), _checks.whole(maxiter, "maxiter", least=1)
    lanes = lanes_of(x, "x", axis, nan_policy, weights)
    center = lanes.median(lanes.x)
    s = _location_scale(lanes, center, scale)
    return lanes.finish(_descend(lanes, tuned, center, s, tol, maxiter))


def _location_scale(lanes: Lanes, center: Floats, scale: ArrayLike) -> Floats:
    if isinstance(scale, str):
        if scale != "mad":
            raise ValueError(f"scale must be 'mad' or positive numbers, got {scale!r}")
        return lanes.median(np.abs(lanes.x - center[:, None])) / QUARTILE
    given = per_sample(scale, "scale", lanes.shape)
    if not (given > 0.0).all():
        raise ValueError(f"scale must be positive, got {scale!r}")
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(np.ldexp(given, lanes.shift), 2.0**-1000, 2.0**1010)


def _descend(lanes: Lanes, loss: Loss, mu: Floats, s: Floats, tol: float, maxiter: int) -> Floats:
    """Return the M-estimate of each lane from `mu`, with the scale held fixed."""
    done = s == 0.0
    stuck = np.zeros_like(done)
    for _ in range(maxiter):
        u = ratio(lanes.x - mu[:, None], s)
        mass = lanes.sum(loss.weight(u))
        slope = lanes.sum(loss.psi(u))
        stuck |= ~done & (mass == 0.0)
        done |= stuck
        step = slope / np.where(mass > 0.0, mass, 1.0)
        bend = lanes.sum(loss.dpsi(u))
        newton = (np.abs(step) < 1e-3) & (bend > 0.1 * mass)
        step = np.where(newton, slope / np.where(newton, bend, 1.0), step)
        new = np.where(done, mu, mu + s * step)
        done |= (np.abs(step) <= tol) | (new == mu)
        mu = new
        if done.all():
            break
    if stuck.any():
        warn(
            f"every weight is zero in {stuck.sum()} samples, whose median is returned: "
            "the given scale is too small for the loss"
        )
    elif not done.all():
        warn(
            f"the location of {(~done).sum()} samples still moved by more than tol={tol:g} times "
            f"the scale after maxiter={maxiter} steps; raise one of them"
        )
    return mu
