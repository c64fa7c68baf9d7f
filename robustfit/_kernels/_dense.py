"""Small dense algebra for use inside kernels, on a transposed design.

The design is ``At`` of shape (p, n), so that every loop runs along the rows. The larger
functions are compiled once and called, not inlined: they are the same for every loss.
"""

import math
from typing import Any

from robustfit import _scalar
from robustfit._jit import inner, jit, jitable
from robustfit.losses._compiled import source_stamp

# Rows of which the loops keep a product in the first-level cache.
BLOCK = 256

_jit = jit(nogil=True, error_model="numpy")
_inner = inner(nogil=True, error_model="numpy")
_contracted = inner(nogil=True, error_model="numpy", fastmath={"contract"})

# Columns of so many rows are short.
_SHORT = 128

# A pivot of an equilibrated Gram matrix below this is rounding error.
_SMALL_PIVOT = 1e-13


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


@jitable(fastmath={"reassoc", "contract"})
def _nine(T: Any, At: Any, first: Any, low: Any, m: Any, S: Any) -> None:
    """Set S to the products of the rows of T with three rows of At, of m columns from `low`."""
    # Nine sums at a time need six loads for nine multiplications; one at a time needs two each.
    a0, a1, a2 = T[0], T[1], T[2]
    # A slice, because an index that may be negative stops the loop from vectorising.
    b0, b1, b2 = At[first, low:], At[first + 1, low:], At[first + 2, low:]
    s00, s01, s02 = 0.0, 0.0, 0.0
    s10, s11, s12 = 0.0, 0.0, 0.0
    s20, s21, s22 = 0.0, 0.0, 0.0
    for i in range(m):
        x0, x1, x2 = a0[i], a1[i], a2[i]
        y0, y1, y2 = b0[i], b1[i], b2[i]
        s00 += x0 * y0
        s01 += x0 * y1
        s02 += x0 * y2
        s10 += x1 * y0
        s11 += x1 * y1
        s12 += x1 * y2
        s20 += x2 * y0
        s21 += x2 * y1
        s22 += x2 * y2
    S[0, 0], S[0, 1], S[0, 2] = s00, s01, s02
    S[1, 0], S[1, 1], S[1, 2] = s10, s11, s12
    S[2, 0], S[2, 1], S[2, 2] = s20, s21, s22


@jitable(fastmath={"reassoc", "contract"})
def _one(w: Any, At: Any, j: Any, k: Any, low: Any, m: Any) -> Any:
    """Return the weighted product of two rows of At, of m columns from `low`."""
    a, b, v = At[j, low:], At[k, low:], w[low:]
    out = 0.0
    for i in range(m):
        out += v[i] * a[i] * b[i]
    return out


@_inner
def add_gram(At: Any, w: Any, low: Any, m: Any, T: Any, S: Any, G: Any) -> None:
    """Add A'WA of m <= BLOCK rows from `low` on to the lower triangle of G.

    T (3, BLOCK) and S (3, 3) are scratch.
    """
    p = len(G)
    if p < 3:
        for j in range(p):
            for k in range(j + 1):
                G[j, k] += _one(w, At, j, k, low, m)
        return
    v = w[low:]
    for j in range(0, p, 3):
        # The last three may overlap those before; what they have already is skipped.
        first = min(j, p - 3)
        for l in range(3):
            column, weighted = At[first + l, low:], T[l]
            for i in range(m):
                weighted[i] = v[i] * column[i]
        for k in range(0, first + 3, 3):
            other = min(k, p - 3)
            _nine(T, At, other, low, m, S)
            for l in range(j - first, 3):
                for q in range(k - other, 3):
                    if other + q <= first + l:
                        G[first + l, other + q] += S[l, q]


@_inner
def gram(At: Any, w: Any, T: Any, S: Any, G: Any) -> None:
    """Set the lower triangle of G to A'WA; T (3, BLOCK) and S (3, 3) are scratch."""
    p, n = len(G), len(w)
    if n <= _SHORT:
        # For short columns, sums one at a time take a third of the time of nine at a time.
        t = T[0]
        for j in range(p):
            column = At[j]
            for i in range(n):
                t[i] = w[i] * column[i]
            for k in range(j + 1):
                G[j, k] = dot(t[:n], At[k])
        return
    for j in range(p):
        for k in range(j + 1):
            G[j, k] = 0.0
    for low in range(0, n, BLOCK):
        add_gram(At, w, low, min(BLOCK, n - low), T, S, G)


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
