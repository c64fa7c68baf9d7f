"""Small dense algebra for use inside kernels, on a transposed design.

The design is ``At`` of shape (p, n), so that every loop runs along the rows. The larger
functions are compiled once and called, not inlined: they are the same for every loss.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import _scalar
from robustfit._jit import inner, jit, jitable
from robustfit.losses._compiled import source_stamp

# So many rows of some columns stay in the first-level cache.
_BLOCK = 256

_jit = jit(nogil=True, error_model="numpy")
_inner = inner(nogil=True, error_model="numpy")
_contracted = inner(nogil=True, error_model="numpy", fastmath={"contract"})

# Rows in a vector register of any processor: what is left over of a loop is slow.
_LANES = 8

# A pivot of an equilibrated Gram matrix below this is rounding error.
_SMALL_PIVOT = 1e-13


def padded(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the values of rows, along the last axis, and zeros after them up to whole vectors."""
    n = rows.shape[-1]
    out = np.zeros((*rows.shape[:-1], -(-n // _LANES) * _LANES))
    out[..., :n] = rows
    return out


@jitable(fastmath={"reassoc", "contract"})
def dot(a: Any, b: Any) -> Any:
    """Return the sum of a[i] b[i]; its order is the compiler's."""
    out = 0.0
    for i in range(len(a)):
        out += a[i] * b[i]
    return out


@jitable()
def part(values: Any, low: Any, count: Any, out: Any) -> None:
    """Copy `count` values from `low` on, and zeros after them."""
    for i in range(count):
        out[i] = values[low + i]
    for i in range(count, len(out)):
        out[i] = 0.0


@_contracted
def residuals(At: Any, b: Any, x: Any, r: Any) -> None:
    """Set r = b - A x."""
    # Numba takes two seconds to compile a slice assignment, and none for a loop.
    for i in range(len(r)):
        r[i] = b[i]
    for j in range(At.shape[0]):
        column = At[j]
        xj = x[j]
        for i in range(len(r)):
            r[i] -= column[i] * xj


@_inner
def gram(At: Any, w: Any, t: Any, G: Any) -> None:
    """Set the lower triangle of G to A'WA; t is scratch of the length of w."""
    p, n = At.shape
    for low in range(0, n, _BLOCK):
        high = min(low + _BLOCK, n)
        # Slices, because an index that may be negative stops a loop from vectorising.
        weight, weighted = w[low:high], t[low:high]
        for j in range(p):
            column = At[j, low:high]
            for i in range(len(column)):
                weighted[i] = weight[i] * column[i]
            for k in range(j + 1):
                before = G[j, k] if low > 0 else 0.0
                G[j, k] = before + dot(weighted, At[k, low:high])


@_jit
def row_largest(A: Any, top: Any, defect: Any) -> None:
    """Raise top to the largest |A| of each column; defect becomes NaN where one is not finite."""
    n, p = A.shape
    if A.strides[1] <= A.strides[0]:
        for i in range(n):
            for j in range(p):
                a = math.fabs(A[i, j])
                top[j] = max(top[j], a)
                defect[j] += a - a
    else:
        for j in range(p):
            for i in range(n):
                a = math.fabs(A[i, j])
                top[j] = max(top[j], a)
                defect[j] += a - a


@_inner
def gradient(At: Any, w: Any, r: Any, t: Any, g: Any) -> None:
    """Set g to A'Wr; t is scratch of the length of r."""
    for i in range(len(r)):
        t[i] = w[i] * r[i]
    for j in range(len(g)):
        g[j] = dot(t, At[j])


@_inner
def cholesky(G: Any, L: Any) -> Any:
    """Factor the lower triangle of G; return whether G is clearly positive definite.

    A dependent column gets an infinite pivot, so that the solution is zero there.
    """
    positive = True
    p = len(G)
    for j in range(p):
        for i in range(j, p):
            rest = G[i, j]
            for k in range(j):
                rest -= L[i, k] * L[j, k]
            if i > j:
                L[i, j] = rest / L[j, j]
            elif rest > _SMALL_PIVOT * G[j, j]:
                L[j, j] = math.sqrt(rest)
            else:
                L[j, j] = math.inf
                positive = False
    return positive


@_inner
def cholesky_solve(L: Any, g: Any, d: Any) -> None:
    """Set d to the solution of L L' d = g."""
    p = len(g)
    for j in range(p):
        rest = g[j]
        for k in range(j):
            rest -= L[j, k] * d[k]
        d[j] = rest / L[j, j]
    for j in range(p - 1, -1, -1):
        rest = d[j]
        for k in range(j + 1, p):
            rest -= L[k, j] * d[k]
        d[j] = rest / L[j, j]


#: Part of the name of every kernel that uses these, so that an edit here misses the disk cache.
STAMP = source_stamp(dot, dot, _scalar)
