"""Medians of many values, and what is near them, in parallel and without a copy of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit._kernels import _tiles
from robustfit._kernels._threads import in_threads

Array = NDArray[np.float64]

#: Of so many values NumPy finds the median as fast.
MANY_VALUES = 4_000
# Values that a thread takes at a time.
_CHUNK = 1 << 15
# So many values, evenly spaced, or this part of all tell between which bounds the median is; in a
# random sample of them its rank is off by so many standard deviations in one case of a million.
_SAMPLE, _PART, _SURE = 1 << 12, 8, 5.0
# Of more values near a size, so many are enough.
_NEAR = 1 << 12


def median_size(values: Array) -> float:
    """Return the median of |values|, the mean of the middle two where there are two.

    A sample tells between which bounds it lies, and one reading of all values how many are below
    them and which are between. Where the sample misleads, all are sorted out by NumPy.
    """
    n = len(values)
    low, high = (n - 1) // 2, n // 2
    if n > MANY_VALUES:
        some = np.sort(np.abs(values[:: max(n // _SAMPLE, _PART)]))
        reach = int(0.5 * _SURE * math.sqrt(len(some))) + 1
        floor, ceiling = some[len(some) // 2 - reach], some[len(some) // 2 + reach]

        def work(part: slice) -> tuple[int, Array]:
            between = np.empty(part.stop - part.start)
            below, found = _between(values[part], floor, ceiling, between)
            return below, between[:found].copy()

        parts = in_threads(work, n, _CHUNK, 30.0 * n)
        below = sum(count for count, _ in parts)
        between = np.concatenate([found for _, found in parts])
        if below <= low and high < below + len(between):
            ranks = [low - below, high - below]
            return float(np.mean(np.partition(between, ranks)[ranks]))
    return float(np.median(np.abs(values)))


def sizes_near(values: Array, size: float, reach: float) -> NDArray[np.int64]:
    """Return where |values| is within `reach` of a size, or nearest to it; some, if they are many.

    The two in the middle are equally near to their mean.
    """

    def work(part: slice) -> tuple[NDArray[np.int64], float]:
        rows = np.empty(part.stop - part.start, dtype=np.int64)
        found, least = _near(values[part], size, reach, rows)
        return part.start + rows[:found], least

    parts = in_threads(work, len(values), _CHUNK, 10.0 * len(values))
    rows = np.concatenate([found for found, _ in parts])
    if len(rows) == 0:
        least = min(gap for _, gap in parts)
        return sizes_near(values, size, least + 4.0 * np.finfo(np.float64).eps * size)
    return rows[:: 1 + len(rows) // _NEAR]


@_tiles.jit
def _near(values: Any, size: Any, reach: Any, out: Any) -> Any:
    """Put into out where |values| is within reach of a size; return how many, and the least gap."""
    found, least = 0, math.inf
    for i in range(len(values)):
        gap = math.fabs(math.fabs(values[i]) - size)
        least = min(least, gap)
        out[found] = i
        found += gap <= reach
    return found, least


@_tiles.jit
def _between(values: Any, floor: Any, ceiling: Any, out: Any) -> Any:
    """Put what has a size between the bounds into out; return how many are below, and there."""
    below, found = 0, 0
    for i in range(len(values)):
        size = math.fabs(values[i])
        below += size < floor
        # Written in any case, so that there is no branch to be guessed.
        out[found] = size
        found += floor <= size <= ceiling
    return below, found
