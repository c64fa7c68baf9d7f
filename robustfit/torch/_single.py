"""Scalar mathematics for Numba with the accuracy of single precision, in double arithmetic.

It stands in for `robustfit._scalar` where the data are float32: no formula can then lose more
than the last rounding, at a third of the cost of exact doubles. The functions here are within
4e-9 of the truth. They hold for the arguments that the formulas of the losses give them: those
of `log` and `1 + x` in `log1p` are positive normal numbers. NaN comes out as NaN.
"""

import math
from typing import Any

import numpy as np

from robustfit._jit import jitable
from robustfit._scalar import abs, arctan, cos, maximum, minimum, sin, sqrt, where

__all__ = [
    "abs",
    "arctan",
    "cos",
    "exp",
    "expm1",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "sin",
    "sqrt",
    "tanh",
    "where",
]

# Reordering sums would undo `_ROUND`; a fused multiply and add does no harm.
_inline = jitable(forceinline=True, fastmath={"contract", "nsz"})

_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453
# Added to a number below 2**51 it rounds it to an integer, which its low bits then hold: without
# AVX-512 no processor converts four doubles to integers at once.
_ROUND = 1.5 * 2.0**52
_BIAS = np.int64(1023)
_MANTISSA = np.int64(52)
_ROOT_HALF = np.int64(np.float64(math.sqrt(0.5)).view(np.int64))
_ONE = np.int64(np.float64(1.0).view(np.int64))
_FRACTION = np.int64(2**52 - 1)
_TWO_52 = np.int64(np.float64(2.0**52).view(np.int64))


@_inline
def _power_of_two(k: Any) -> Any:
    """Return 2**k for an integer -1022 <= k <= 1023."""
    return np.int64((k + _BIAS) << _MANTISSA).view(np.float64)


@_inline
def _exp_parts(x: Any) -> Any:
    """Return (s, p) with e**x = s (1 + p), s a power of two and |p| < 0.42."""
    x = minimum(maximum(x, -700.0), 700.0)
    rounded = x * _LOG2_E + _ROUND
    r = x - (rounded - _ROUND) * _LN2
    # (e**r - 1 - r) / r**2 for |r| <= ln(2) / 2: the polynomial with the least largest error
    # relative to e**r - 1, which is 2.4e-10 (Lawson's iteration on 400 Chebyshev points).
    q = 0.00019845878042666485
    q = q * r + 0.0013940627241426512
    q = q * r + 0.008333389368283508
    q = q * r + 0.04166636091459295
    q = q * r + 0.16666666370468392
    q = q * r + 0.5000000044163516
    return _power_of_two(np.float64(rounded).view(np.int64)), r + q * (r * r)


@_inline
def exp(x: Any) -> Any:
    """Return e**x."""
    s, p = _exp_parts(x)
    return s * p + s


@_inline
def expm1(x: Any) -> Any:
    """Return e**x - 1."""
    s, p = _exp_parts(x)
    return s * p + (s - 1.0)


@_inline
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent."""
    e = expm1(2.0 * x)
    return e / (e + 2.0)


@_inline
def _exponent(y: Any) -> Any:
    """Return k with y = 2**k m and m between the roots of 1/2 and 2, as integer and float."""
    bits = np.uint64(np.float64(y).view(np.int64) + (_ONE - _ROOT_HALF)) >> np.uint64(52)
    k = np.int64(bits) - _BIAS
    return k, np.int64(np.int64(bits) | _TWO_52).view(np.float64) - (2.0**52 + 1023.0)


@_inline
def _log1p_near(f: Any) -> Any:
    """Return log(1 + f) for 1 + f between the roots of 1/2 and 2."""
    s = f / (2.0 + f)
    z = s * s
    q = 1.0 / 9.0
    q = q * z + 1.0 / 7.0
    q = q * z + 1.0 / 5.0
    q = q * z + 1.0 / 3.0
    return 2.0 * s * (q * z + 1.0)


@_inline
def log(x: Any) -> Any:
    """Return the natural logarithm of a positive normal number."""
    k, exponent = _exponent(x)
    value = exponent * _LN2 + _log1p_near(x * _power_of_two(-k) - 1.0)
    return where(x < math.inf, value, x)


@_inline
def log1p(x: Any) -> Any:
    """Return log(1 + x), exact near zero."""
    k, exponent = _exponent(1.0 + x)
    near = (x - (_power_of_two(k) - 1.0)) * _power_of_two(-k)
    return where(x < math.inf, exponent * _LN2 + _log1p_near(near), x)
