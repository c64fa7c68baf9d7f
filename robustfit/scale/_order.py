"""Scales that are order statistics: MAD, IQR, Qn and Sn."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit._jit import jit
from robustfit.scale._sample import QUARTILE, Estimate, Floats, NanPolicy, lanes_of

# The published consistency constants, as the finite-sample factors presuppose. The exact ones
# are 1 / (sqrt(2) Phi^-1(5/8)) = 2.219144466 (2e-6 more) and 1.192598553 (1e-6 less).
_QN = 2.21914
_SN = 1.1926
# Factors for n = 2, 3, ... (Croux and Rousseeuw 1992). Those of Qn have five digits instead of
# their three and reach n = 12: n = 2 is sqrt(pi) / 2 / 2.21914, n = 3, 5 and 10 reproduce R's
# robustbase, the others are 1 / E Qn by simulation (standard error below 3e-5).
_SN_SMALL = (0.743, 1.851, 0.954, 1.351, 0.993, 1.198, 1.005, 1.131)
_QN_SMALL = (
    *(0.399356, 0.99365, 0.51321, 0.84401, 0.61216, 0.85877),
    *(0.66991, 0.87343, 0.72014, 0.88906, 0.75744),
)
# 1 / factor = 1 + sum_j a[j] / n**(j + 1) for larger n: the curves of R's robustbase, solved
# from its values at eight n; tests/test_scale.py checks them and their unbiasedness.
_QN_ODD = (1.60188, -2.1284, -5.172)
_QN_EVEN = (3.67561, 1.9654, 6.987, -77.0)


def mad(
    x: ArrayLike,
    *,
    center: ArrayLike | Literal["median"] = "median",
    axis: int | None = None,
    weights: ArrayLike | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return the median absolute deviation, consistent at the normal.

    Parameters
    ----------
    x : array_like
        Sample or residuals.
    center : {"median"} or float or array_like, default: "median"
        What the deviations are from; one value, or one per sample. Residuals take 0.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    weights : array_like, optional
        Repeat counts.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `x`.

    See Also
    --------
    qn, sn : As resistant and more efficient.

    Notes
    -----
    ``median(abs(x - center)) / Phi^-1(3/4)``. The constant is exact, 1.482602218505602; R's
    ``mad`` rounds it to 1.4826 and MATLAB's ``robustfit`` to 1/0.6745. Breakdown point 1/2,
    Gaussian efficiency 37 %. It is 0 where more than half of the values are equal.

    References
    ----------
    Hampel, F. R. (1974), The influence curve and its role in robust estimation, *JASA* 69,
    383-393, doi:10.1080/01621459.1974.10482962.

    Examples
    --------
    >>> from robustfit.scale import mad
    >>> print(f"{mad([1.0, 2.0, 3.0, 4.0, 1000.0]):.6f}")
    1.482602
    >>> print(f"{mad([-1.0, 2.0, -3.0], center=0.0):.6f}")
    2.965204
    """
    median = isinstance(center, str)
    if median and center != "median":
        raise ValueError(f"center must be 'median' or a number, got {center!r}")
    lanes = lanes_of(x, "x", axis, nan_policy, weights, 0.0 if median else center)
    deviation = lanes.x - lanes.median(lanes.x)[:, None] if median else lanes.x
    return lanes.finish(lanes.median_size(deviation) / QUARTILE)


def iqr(x: ArrayLike, *, axis: int | None = None, nan_policy: NanPolicy = "raise") -> Estimate:
    """Return the interquartile range, consistent at the normal.

    Parameters
    ----------
    x : array_like
        Sample.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `x`.

    Notes
    -----
    ``(Q3 - Q1) / (2 Phi^-1(3/4))`` with NumPy's default quantiles (type 7 of Hyndman and Fan
    1996, doi:10.1080/00031305.1996.10473566). Breakdown point 1/4, efficiency 37 %.

    Examples
    --------
    >>> from robustfit.scale import iqr
    >>> print(f"{iqr([1.0, 2.0, 3.0, 4.0, 1000.0]):.6f}")
    1.482602
    """
    lanes = lanes_of(x, "x", axis, nan_policy)
    spread = [_type7(lane, 0.75) - _type7(lane, 0.25) for lane in lanes.sorted()]
    return lanes.finish(np.array(spread) / (2.0 * QUARTILE))


def _type7(lane: Floats, p: float) -> float:
    at = (lane.size - 1) * p
    low = int(at)
    high = min(low + 1, lane.size - 1)
    return float(lane[low] + (at - low) * (lane[high] - lane[low]))


def qn(
    x: ArrayLike,
    *,
    finite_sample: bool = True,
    axis: int | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return Rousseeuw and Croux's Qn, a quantile of the pairwise differences.

    Parameters
    ----------
    x : array_like
        Sample.
    finite_sample : bool, default: True
        Whether to multiply by the factor that makes it unbiased at the normal for small n.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `x`.

    See Also
    --------
    sn, mad

    Notes
    -----
    ``2.21914 * k``-th smallest of ``abs(x[i] - x[j])``, ``i < j``, with ``k = h (h - 1) / 2``
    and ``h = n // 2 + 1``. It needs no centre, so it suits skewed data. Breakdown point 1/2,
    Gaussian efficiency 82 %. Time O(n log n), memory O(n). Agrees with ``Qn`` of R's
    robustbase, except that for n = 4, 6 to 9, 11 and 12 the factor has been simulated anew.

    References
    ----------
    Rousseeuw, P. J. and Croux, C. (1993), Alternatives to the median absolute deviation,
    *JASA* 88, 1273-1283, doi:10.1080/01621459.1993.10476408.
    Croux, C. and Rousseeuw, P. J. (1992), Time-efficient algorithms for two highly robust
    estimators of scale, *Computational Statistics* 1, 411-428,
    doi:10.1007/978-3-662-26811-7_58.

    Examples
    --------
    >>> from robustfit.scale import qn
    >>> print(f"{qn([1.0, 2.0, 3.0, 4.0, 1000.0], finite_sample=False):.5f}")
    2.21914
    """
    lanes = lanes_of(x, "x", axis, nan_policy)
    return lanes.finish(np.array([_qn(lane, finite_sample) for lane in lanes.sorted()]))


def _qn(lane: Floats, finite_sample: bool) -> float:
    n = lane.size
    if n == 1:
        return 0.0
    h = n // 2 + 1
    raw = _QN * float(_kth_difference(lane, h * (h - 1) // 2))
    return raw * _qn_factor(n) if finite_sample else raw


def _qn_factor(n: int) -> float:
    if n - 2 < len(_QN_SMALL):
        return _QN_SMALL[n - 2]
    series = _QN_ODD if n % 2 else _QN_EVEN
    return 1.0 / (1.0 + sum(a / float(n) ** (j + 1) for j, a in enumerate(series)))


def sn(
    x: ArrayLike,
    *,
    finite_sample: bool = True,
    axis: int | None = None,
    nan_policy: NanPolicy = "raise",
) -> Estimate:
    """Return Rousseeuw and Croux's Sn, a median of median distances.

    Parameters
    ----------
    x : array_like
        Sample.
    finite_sample : bool, default: True
        Whether to multiply by the factor that makes it unbiased at the normal for small n.
    axis : int, optional
        Axis of the samples; default: all values are one sample.
    nan_policy : {"raise", "omit"}, default: "raise"
        What to do with non-finite values.

    Returns
    -------
    float or ndarray
        Scale in the units of `x`.

    See Also
    --------
    qn, mad

    Notes
    -----
    ``1.1926 * lomed_i himed_j abs(x[i] - x[j])``, where lomed and himed are the order
    statistics ``(n + 1) // 2`` and ``n // 2 + 1``. Breakdown point 1/2, Gaussian efficiency
    58 %. Time O(n log n): in the sorted sample, himed is the distance to the
    ``n // 2 + 1``-th nearest neighbour, whose window only ever moves right.

    References
    ----------
    Rousseeuw, P. J. and Croux, C. (1993), Alternatives to the median absolute deviation,
    *JASA* 88, 1273-1283, doi:10.1080/01621459.1993.10476408.

    Examples
    --------
    >>> from robustfit.scale import sn
    >>> print(f"{sn([1.0, 2.0, 3.0, 4.0, 1000.0], finite_sample=False):.4f}")
    2.3852
    """
    lanes = lanes_of(x, "x", axis, nan_policy)
    return lanes.finish(np.array([_sn(lane, finite_sample) for lane in lanes.sorted()]))


def _sn(lane: Floats, finite_sample: bool) -> float:
    lomed = (lane.size - 1) // 2
    raw = _SN * float(np.partition(_himed_distances(lane), lomed)[lomed])
    return raw * _sn_factor(lane.size) if finite_sample else raw


def _sn_factor(n: int) -> float:
    if n - 2 < len(_SN_SMALL):
        return _SN_SMALL[n - 2] if n > 1 else 1.0
    return n / (n - 0.9) if n % 2 else 1.0


@jit(nogil=True)
def _himed_distances(x: Floats) -> Floats:
    """Distance from each sorted x to its (n // 2 + 1)-th nearest neighbour, itself the first."""
    n = x.size
    h = n // 2 + 1
    out = np.empty(n)
    left = 0
    for i in range(n):
        while left + h < n and x[left + h] - x[i] < x[i] - x[left]:
            left += 1
        out[i] = max(x[i] - x[left], x[left + h - 1] - x[i])
    return out


@jit(nogil=True)
def _kth_difference(x: Floats, k: int) -> float:
    """k-th smallest (from 1) of x[j] - x[i], i < j, for sorted x.

    Row i of the matrix of differences increases, so its candidates are the columns
    low[i] <= j < high[i]. Each trial, a weighted median of the rows' medians, removes at
    least a quarter of them (Johnson and Mizoguchi 1978, doi:10.1137/0207013).
    """
    n = x.size
    low = np.arange(1, n + 1)
    high = np.full(n, n)
    below = np.empty(n, np.int64)
    upto = np.empty(n, np.int64)
    middle = np.empty(n)
    width = np.empty(n, np.int64)
    while np.sum(high - low) > n:
        rows = 0
        for i in range(n):
            if high[i] > low[i]:
                middle[rows] = x[(low[i] + high[i] - 1) // 2] - x[i]
                width[rows] = high[i] - low[i]
                rows += 1
        trial = _weighted_median(middle[:rows], width[:rows])
        b = u = 0
        n_below = n_upto = 0
        for i in range(n):
            b = max(b, i + 1)
            while b < n and x[b] - x[i] < trial:
                b += 1
            u = max(u, b)
            while u < n and x[u] - x[i] <= trial:
                u += 1
            below[i], upto[i] = b, u
            n_below += b - i - 1
            n_upto += u - i - 1
        if k <= n_below:
            high = np.minimum(high, below)
        elif k > n_upto:
            low = np.maximum(low, upto)
        else:
            return float(trial)
    rest = np.empty(np.sum(high - low))
    found = smaller = 0
    for i in range(n):
        smaller += low[i] - i - 1
        for j in range(low[i], high[i]):
            rest[found] = x[j] - x[i]
            found += 1
    return float(np.sort(rest)[k - smaller - 1])


@jit(nogil=True)
def _weighted_median(a: Floats, w: NDArray[np.int64]) -> float:
    """Smallest value up to which lies more than half of the weight; reorders a and w."""
    half = np.sum(w) // 2
    start, stop, before = 0, a.size, 0
    while True:
        first, mid, last = a[start], a[(start + stop) // 2], a[stop - 1]
        pivot = max(min(first, mid), min(max(first, mid), last))
        less, i, more = start, start, stop
        w_less = w_equal = 0
        while i < more:
            if a[i] < pivot:
                w_less += w[i]
                a[i], a[less] = a[less], a[i]
                w[i], w[less] = w[less], w[i]
                less += 1
                i += 1
            elif a[i] > pivot:
                more -= 1
                a[i], a[more] = a[more], a[i]
                w[i], w[more] = w[more], w[i]
            else:
                w_equal += w[i]
                i += 1
        if before + w_less > half:
            stop = less
        elif before + w_less + w_equal > half:
            return float(pivot)
        else:
            before += w_less + w_equal
            start = more
