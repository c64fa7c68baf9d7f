"""Scalar mathematics for Numba under NumPy's names.

A loss formula calls ``m.exp``, ``m.where`` and so on, where ``m`` is NumPy, a torch
namespace, or this module when the formula is compiled. Only what differs from one
array library to another lives here. Every function is branch-free, so that a loop
over rows vectorises; NaN in the first argument comes out as NaN.
"""

import math
from typing import Any

import numpy as np

from robustfit._jit import jitable

_inline = jitable(forceinline=True)
# A product and a sum may become one operation, which is faster and rounds less.
_contracted = jitable(forceinline=True, fastmath={"contract"})

LOG2_E = 1.4426950408889634
# ln 2 in two parts: the first has 32 trailing zero bits, so k * LN2_HIGH is exact.
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
# 1.5 * 2**52: added to a smaller number, it leaves the nearest whole one in the last bits.
WHOLE = 6755399441055744.0


@_inline
def where(condition: Any, a: Any, b: Any) -> Any:
    """Return `a` where `condition` holds, else `b`."""
    return a if condition else b


@_inline
def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of the two, `a` where they do not compare."""
    return b if b < a else a


@_inline
def maximum(a: Any, b: Any) -> Any:
    """Return the larger of the two, `a` where they do not compare."""
    return b if b > a else a


@_inline
def abs(x: Any) -> Any:
    """Return the absolute value."""
    return math.fabs(x)


@_inline
def _whole(x: Any) -> Any:
    """Return the nearest whole number. Numba's `floor` and `rint` do not vectorise."""
    return (x + WHOLE) - WHOLE


@_contracted
def _reduce(x: Any) -> Any:
    """Split x = k ln 2 + r + low, |r| <= ln(2) / 2, low its rounding (Cody and Waite 1980)."""
    k = _whole(x * LOG2_E)
    high = x - k * LN2_HIGH
    r = high - k * LN2_LOW
    return k, r, (high - r) - k * LN2_LOW


@_contracted
def _expm1_reduced(r: Any, low: Any) -> Any:
    """Return exp(r + low) - 1 for |r| <= 0.35 by its Taylor series; the next term is 4e-18 r."""
    q = 1.0 / 6227020800.0
    q = q * r + 1.0 / 479001600.0
    q = q * r + 1.0 / 39916800.0
    q = q * r + 1.0 / 3628800.0
    q = q * r + 1.0 / 362880.0
    q = q * r + 1.0 / 40320.0
    q = q * r + 1.0 / 5040.0
    q = q * r + 1.0 / 720.0
    q = q * r + 1.0 / 120.0
    q = q * r + 1.0 / 24.0
    q = q * r + 1.0 / 6.0
    return r + (low + (0.5 * (r * r) + q * (r * r) * r))


@_inline
def _power_of_two(k: Any) -> Any:
    """Return 2**k for an integer-valued float -1022 <= k <= 1023 by its exponent bits."""
    # A conversion to integers would not vectorise without AVX-512.
    bits = np.float64(k + WHOLE).view(np.int64) + np.int64(1023)
    return np.int64(bits << np.int64(52)).view(np.float64)


@_inline
def _exponential(x: Any) -> Any:
    """Return (p, two, four): exp(x) is (1 + p) two four, with powers of two for the others.

    Both functions below use it, so that a loop with both computes it once. Two factors, because
    one power of two leaves the range of normal numbers at both ends.
    """
    k, r, low = _reduce(minimum(maximum(x, -746.0), 710.0))
    half = _whole(0.5 * k)
    return _expm1_reduced(r, low), _power_of_two(half), _power_of_two(k - half)


@_inline
def exp(x: Any) -> Any:
    """Return e**x, within one unit in the last place.

    libm's ``exp`` is a call that stops Numba from vectorising the loop around it.
    """
    p, two, four = _exponential(x)
    return (1.0 + p) * two * four


@_inline
def expm1(x: Any) -> Any:
    """Return e**x - 1, within two units in the last place."""
    p, two, four = _exponential(x)
    # From 709 on the power of two may overflow alone.
    power = two * where(x > 709.0, 1.0, four)
    return where(x > 709.0, (1.0 + p) * two * four, power * p + (power - 1.0))


@_inline
def log(x: Any) -> Any:
    """Return the natural logarithm."""
    return math.log(x)


@_inline
def log1p(x: Any) -> Any:
    """Return log(1 + x)."""
    return math.log1p(x)


@_inline
def sqrt(x: Any) -> Any:
    """Return the square root."""
    return math.sqrt(x)


@_inline
def sin(x: Any) -> Any:
    """Return the sine."""
    return math.sin(x)


@_inline
def cos(x: Any) -> Any:
    """Return the cosine."""
    return math.cos(x)


@_inline
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent."""
    return math.tanh(x)


@_inline
def arctan(x: Any) -> Any:
    """Return the inverse tangent."""
    return math.atan(x)
