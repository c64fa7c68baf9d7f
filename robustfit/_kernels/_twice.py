"""Sums that must carry more than double precision."""

from typing import Any

import numpy as np

from robustfit._jit import jit, jitable

_jit = jit(error_model="numpy")


@jitable(forceinline=True)
def _two_sum(a: Any, b: Any) -> Any:
    """Return (a + b, its rounding error); Knuth."""
    total = a + b
    z = total - a
    return total, (a - (total - z)) + (b - z)


@jitable(forceinline=True)
def _split(a: Any) -> Any:
    t = 134217729.0 * a
    high = t - (t - a)
    return high, a - high


@jitable(forceinline=True)
def _two_product(a: Any, b: Any) -> Any:
    """Return (a b, its rounding error); Dekker and Veltkamp."""
    product = a * b
    high_a, low_a = _split(a)
    high_b, low_b = _split(b)
    error = ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b
    return product, error


@_jit
def residual_twice(A: Any, b: Any, r: Any, x: Any, out: Any) -> None:
    """Set out = b - r - A x, computed in twice the working precision.

    The compensated dot product of Ogita, Rump and Oishi (2005), doi:10.1137/030601818.
    """
    n, p = A.shape
    for i in range(n):
        total, tail = _two_sum(b[i], -r[i])
        for j in range(p):
            product, error = _two_product(-A[i, j], x[j])
            total, carry = _two_sum(total, product)
            tail += carry + error
        out[i] = total + tail


@_jit
def transposed_twice(A: Any, r: Any) -> Any:
    """Return A' r, computed in twice the working precision."""
    n, p = A.shape
    total = np.zeros(p)
    tail = np.zeros(p)
    for i in range(n):
        for j in range(p):
            product, error = _two_product(A[i, j], r[i])
            total[j], carry = _two_sum(total[j], product)
            tail[j] += carry + error
    return total + tail
