"""Samples as rows of a matrix: checked, at a safe magnitude, with weighted sums and medians."""

from __future__ import annotations

import math
import operator
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from robustfit import _checks
from robustfit._kernels import MANY_VALUES, median_size
from robustfit.exceptions import ConvergenceWarning
from robustfit.losses import Loss

Floats = NDArray[np.float64]
#: A scalar where ``axis=None``, else an array without that axis; float32 or float64.
Estimate = np.floating[Any] | NDArray[np.floating[Any]]
NanPolicy = Literal["raise", "omit"]
LossLike = str | Loss | type[Loss]

# The upper quartile of the standard normal: MAD and half the IQR estimate it times sigma.
QUARTILE = float(ndtri(0.75))
# |u| is cut off here, so that u**2 stays finite.
FAR = 1e150


@dataclass(frozen=True)
class Lanes:
    """The samples as rows of `x`, times 2**shift, and how to give the answer back."""

    x: Floats
    w: Floats | None
    shift: int
    shape: tuple[int, ...]
    dtype: type[np.floating[Any]]

    @property
    def total(self) -> Floats:
        """Sum of the weights of each sample."""
        m, n = self.x.shape
        return np.full(m, float(n)) if self.w is None else self.w.sum(axis=1)

    def sum(self, values: Floats) -> Floats:
        """Weighted sum over each sample."""
        if self.w is None:
            return np.asarray(values.sum(axis=1))
        return np.asarray((self.w * values).sum(axis=1))

    def median(self, values: Floats) -> Floats:
        """Weighted median over each sample, the mean of the middle two if there are two."""
        if self.w is None:
            return np.asarray(np.median(values, axis=1))
        order = np.argsort(values, axis=1)
        ranked = np.take_along_axis(values, order, axis=1)
        reach = np.cumsum(np.take_along_axis(self.w, order, axis=1), axis=1)
        half = 0.5 * reach[:, -1:]
        # Rounding in the sum must not decide whether half the weight is reached exactly.
        slack = np.minimum(
            values.shape[1] * np.finfo(float).eps * half,
            0.25 * np.min(self.w, axis=1, where=self.w > 0, initial=np.inf)[:, None],
        )
        low = np.argmax(reach >= half - slack, axis=1)[:, None]
        high = np.argmax(reach > half + slack, axis=1)[:, None]
        middle = np.take_along_axis(ranked, low, 1) + np.take_along_axis(ranked, high, 1)
        return np.asarray(0.5 * middle[:, 0])

    def median_size(self, values: Floats) -> Floats:
        """Weighted median of the absolute values over each sample."""
        if self.w is None and values.shape[1] > MANY_VALUES:
            return np.array([median_size(lane) for lane in values])
        return self.median(np.abs(values))

    def tail(self, values: Floats, weight: Floats) -> Floats:
        """Largest value such that more than `weight` lies at or above it."""
        n = values.shape[1]
        # The factor keeps 0.29 * 100 = 28.999999999999996 from counting as less than 29.
        weight = weight * (1.0 + 1e-12)
        if self.w is None:
            k = n - 1 - int(weight[0])
            return np.asarray(np.partition(values, k, axis=1)[:, k]) if k >= 0 else 0.0 * weight
        order = np.argsort(-values, axis=1)
        reach = np.cumsum(np.take_along_axis(self.w, order, axis=1), axis=1)
        above = reach > weight[:, None]
        at = np.take_along_axis(order, np.argmax(above, axis=1)[:, None], axis=1)
        found = np.take_along_axis(values, at, axis=1)[:, 0]
        return np.where(above.any(axis=1), found, 0.0)

    def sorted(self) -> list[Floats]:
        """Each sample in increasing order, without what was omitted."""
        if self.w is None:
            return list(np.sort(self.x, axis=1))
        return [np.sort(x[w > 0]) for x, w in zip(self.x, self.w, strict=True)]

    def finish(self, value: Floats) -> Estimate:
        """Return one value per sample in the units, dtype and shape of the caller."""
        with np.errstate(over="ignore", under="ignore"):
            out = np.ldexp(value, -self.shift).astype(self.dtype).reshape(self.shape)
        scalar_if_single: Estimate = out[()]
        return scalar_if_single


def _real(values: ArrayLike, name: str) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; pass {name}.compressed() or fill it with NaN")
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def real_values(values: ArrayLike, name: str) -> Floats:
    """Return finite numbers as float64."""
    array = np.asarray(_real(values, name), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {values!r}")
    return array


def _axis(axis: Any, array: NDArray[Any]) -> int | None:
    """Return `axis` if the array has it."""
    if axis is None:
        return None
    try:
        given = operator.index(axis)
    except TypeError as error:
        raise TypeError(f"axis must be a whole number or None, got axis={axis!r}") from error
    if not -array.ndim <= given < array.ndim:
        raise ValueError(
            f"axis must be None or from {-array.ndim} to {array.ndim - 1} for data of shape "
            f"{array.shape}, got axis={axis!r}"
        )
    return given


def _rows(array: NDArray[Any], axis: int | None) -> tuple[Floats, tuple[int, ...]]:
    """Return the samples along `axis` as the rows of a matrix, and the shape of a result."""
    last = array.reshape(-1) if axis is None else np.moveaxis(array, axis, -1)
    with np.errstate(over="ignore"):
        rows = np.asarray(last.reshape(-1, last.shape[-1]), dtype=np.float64)
    return rows, last.shape[:-1]


def per_sample(value: ArrayLike, name: str, shape: tuple[int, ...]) -> Floats:
    """Return one finite number per sample."""
    array = real_values(value, name)
    try:
        return np.broadcast_to(array, shape).reshape(-1)
    except ValueError:
        raise ValueError(
            f"{name} must be a number or broadcast to the shape {shape} of the result, "
            f"got shape {array.shape}"
        ) from None


def _row_weights(weights: ArrayLike, array: NDArray[Any], axis: int | None) -> Floats:
    given = _real(weights, "weights")
    if given.shape != array.shape:
        length = array.size if axis is None else array.shape[axis]
        if given.shape != (length,):
            raise ValueError(
                f"weights must have the shape {array.shape} of the data or one weight for each "
                f"of the {length} positions along axis={axis}, got shape {given.shape}"
            )
        shared = np.asarray(given, dtype=np.float64)
        rows = np.broadcast_to(shared, (array.size // length, length))
    else:
        rows, _ = _rows(given, axis)
    if not np.isfinite(rows).all() or (rows < 0).any():
        raise ValueError(f"weights must be finite and not negative, got {weights!r}")
    return rows


def _omit(rows: Floats, w: Floats | None, name: str, nan_policy: str) -> tuple[Floats, Floats]:
    """Give non-finite values weight zero, or refuse them."""
    keep = np.isfinite(rows)
    if nan_policy == "raise":
        raise ValueError(
            f"{name} has {keep.size - keep.sum()} non-finite of {keep.size} values; "
            "remove them, or pass nan_policy='omit' to leave them out"
        )
    return np.where(keep, rows, 0.0), np.where(keep, 1.0 if w is None else w, 0.0)


def lanes_of(
    values: ArrayLike,
    name: str,
    axis: int | None,
    nan_policy: str,
    weights: ArrayLike | None = None,
    center: ArrayLike = 0.0,
) -> Lanes:
    """Check the data and lay them out as rows, minus `center`, at a safe magnitude."""
    if nan_policy not in ("raise", "omit"):
        raise ValueError(f"nan_policy must be 'raise' or 'omit', got {nan_policy!r}")
    array = _real(values, name)
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    axis = _axis(axis, array)
    rows, shape = _rows(array, axis)
    w = None if weights is None else _row_weights(weights, array, axis)
    if np.any(center):
        with np.errstate(over="ignore", invalid="ignore"):
            rows = rows - per_sample(center, "center", shape)[:, None]
    top = max(rows.max(), -rows.min())
    if not math.isfinite(top):
        rows, w = _omit(rows, w, name, nan_policy)
        top = max(rows.max(), -rows.min())
    if w is not None and not (w > 0).any(axis=1).all():
        raise ValueError(f"{name} has a sample without any finite value of positive weight")
    exponent = math.frexp(top)[1]
    # Differences stay finite below 2**1000, and 2000 powers of two remain beneath it.
    shift = 0 if top == 0.0 or -900 <= exponent <= 1000 else 1000 - exponent
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    return Lanes(np.ldexp(rows, shift) if shift else rows, w, shift, shape, dtype)


def ratio(x: Floats, scale: Floats) -> Floats:
    """Return x / scale, cut off far out; a scale of 0 counts as 1."""
    with np.errstate(over="ignore"):
        u = x / np.where(scale > 0.0, scale, 1.0)[:, None]
    return np.clip(u, -FAR, FAR, out=u)


def denominator(lanes: Lanes, ddof: float) -> Floats:
    """Return n - ddof of each sample."""
    count = lanes.total - _checks.nonnegative(ddof, "ddof")
    if not (count > 0.0).all():
        raise ValueError(f"ddof={ddof!r} leaves no degrees of freedom of n={lanes.total.min():g}")
    return count


def mean_cut_square(c: float) -> float:
    """E min(U**2, c**2), U standard normal."""
    inside = 2.0 * float(ndtr(c)) - 1.0
    density = math.exp(-0.5 * c * c) / math.sqrt(2.0 * math.pi)
    return inside - 2.0 * c * density + 2.0 * c * c * float(ndtr(-c))


def warn(message: str) -> None:
    """Warn at the line that called the public function, two calls above the caller."""
    warnings.warn(message, ConvergenceWarning, stacklevel=4)
