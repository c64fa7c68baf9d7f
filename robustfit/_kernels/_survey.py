"""A look at the data of a small problem, in one call: are they ordinary, and of which size."""

from __future__ import annotations

import math
from typing import Any

from robustfit._jit import jit

_jit = jit(nogil=True, error_model="numpy")

# Columns within these limits can be squared, and so can what is left of the response.
_TINY, _HUGE = 1e-100, 1e100


@_jit
def survey(A: Any, b: Any, largest: Any) -> Any:
    """Set largest to that of each |column|; divide b by a power of two, and return it and max |b|.

    The power of two is the one just above the median of the |b| that are not zero. It is 0, and b
    is as it was, where the data are not ordinary: something is not finite, all of b is zero, or
    the sizes are extreme.
    """
    n, p = A.shape
    # What is not finite is not equal to itself when taken from itself.
    defect, size, least, count = 0.0, 0.0, math.inf, 0
    for j in range(p):
        largest[j] = 0.0
    for i in range(n):
        for j in range(p):
            a = math.fabs(A[i, j])
            largest[j] = max(largest[j], a)
            defect += a - a
        a = math.fabs(b[i])
        size = max(size, a)
        defect += a - a
        if a > 0.0:
            least = min(least, a)
            count += 1
    ordinary = defect == 0.0 and least > _TINY and 0.0 < size < _HUGE
    for j in range(p):
        ordinary = ordinary and _TINY < largest[j] < _HUGE
    if not ordinary:
        return 0.0, size
    low, high = math.frexp(least)[1] - 1, math.frexp(size)[1]
    while high - low > 1:
        middle = (low + high) // 2
        limit, below = math.ldexp(1.0, middle), 0
        for i in range(n):
            below += 0.0 < math.fabs(b[i]) < limit
        if 2 * below >= count:
            high = middle
        else:
            low = middle
    unit = math.ldexp(1.0, high)
    for i in range(n):
        b[i] /= unit
    return unit, size / unit
