"""What the two subset searches share: units, random subsets, and the compiled pieces.

The compiled pieces are plain functions; each search binds them into one kernel, on the
transposed design as those of `robustfit._kernels`.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg as lapack

from robustfit import _scalar, linalg
from robustfit._jit import inner, jitable
from robustfit._kernels import _dense, row_blocks
from robustfit.losses._compiled import source_stamp

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Above this many rows, subsets are drawn within groups of rows, and the candidates compared
# on a pool of rows: at least so many, and so many per column.
LARGE = 2000
GROUPS = 5
_GROUP_ROWS, _GROUP_ROWS_PER_COLUMN = 400, 20
_POOL_ROWS, _POOL_ROWS_PER_COLUMN = 4000, 100
# A row whose part outside the span of those chosen is smaller than this is skipped.
_DEPENDENT = 1e-11
# A column with fewer nonzeros in a sample of rows than this gets more of its rows.
_SPARSE = 20


# -- units -------------------------------------------------------------------------------


def typical(x: Array) -> float:
    """Return the power of two just above the median of the nonzero |x|."""
    size = np.abs(x[x != 0.0])
    return linalg.power_of_two(float(np.median(size))) if len(size) else 1.0


def preconditioner(A: Array, freq: Array | None = None) -> Array:
    """Return M such that the bulk of the rows of A M is well conditioned.

    Columns are divided by their typical size, and rows larger than the median row shrunk to
    it, so that neither units nor leverage points matter; M is the inverse of the triangular
    factor of what remains. A may be a stack of designs, `freq` how often each row counts.
    """
    n, p = A.shape[-2:]
    freq = np.ones(n) if freq is None else freq
    size = np.sort(np.abs(A), axis=-2)
    zeros = np.sum(size == 0.0, axis=-2, keepdims=True)
    middle = np.minimum((zeros + n) // 2, n - 1)
    unit = linalg.powers_of_two(np.take_along_axis(size, middle, axis=-2))
    scaled = A / unit
    norm = np.max(np.abs(scaled), axis=-1)
    bulk = median(norm, freq)[..., None]
    scaled *= (bulk / np.maximum(norm, bulk) * np.sqrt(freq))[..., None]
    # Rows of order one: R grows with the root of the number of rows.
    R = np.linalg.qr(scaled, mode="r") / np.sqrt(np.sum(freq, axis=-1))[..., None, None]
    pivots = np.abs(np.diagonal(R, axis1=-2, axis2=-1))
    poor = ~(np.min(pivots, axis=-1) > linalg.rank_tolerance(A) * np.max(pivots, axis=-1))
    R = np.where(poor[..., None, None], np.eye(p), R)
    # Elimination of a triangle is back substitution alone; LAPACK's own wakes the threads of BLAS.
    return np.asarray(np.linalg.solve(R, np.eye(p)) / np.swapaxes(unit, -1, -2))


def median(values: Array, freq: Array) -> Array:
    """Return the lower medians of the positive values along the last axis, 1 for none.

    Each value counts `freq` times; rows of zeros say nothing about the size of the others.
    """
    counts = np.where(values > 0.0, freq, 0.0)
    order = np.argsort(values, axis=-1)
    share = np.cumsum(np.take_along_axis(counts, order, axis=-1), axis=-1)
    middle = np.argmax(share >= 0.5 * share[..., -1:], axis=-1)[..., None]
    found = np.take_along_axis(values, np.take_along_axis(order, middle, axis=-1), axis=-1)
    return np.asarray(np.where(share[..., -1] > 0.0, found[..., 0], 1.0))


@dataclass(frozen=True)
class Rows:
    """Rows in the coordinates of the search: the design A M transposed, b / unit.

    Attributes
    ----------
    At : ndarray of shape (p, n)
        Transposed design.
    b, freq : ndarray of shape (n,)
        Response, and how often each row counts.
    """

    At: Array
    b: Array
    freq: Array

    @classmethod
    def of(cls, A: Array, b: Array, freq: Array, M: Array, unit: float) -> Rows:
        """Return the rows of A, b in the coordinates of M and `unit`."""
        # An outlier beyond 1e150 typical sizes is as far out there, and does not overflow.
        scaled = np.clip(b / unit, -1e150, 1e150)
        return cls(np.ascontiguousarray((A @ M).T), scaled, freq)

    @property
    def count(self) -> float:
        """How many rows there are, repeated rows counted."""
        return float(np.sum(self.freq))

    def take(self, rows: Indices) -> Rows:
        """Return a selection of the rows."""
        return Rows(np.ascontiguousarray(self.At[:, rows]), self.b[rows], self.freq[rows])


def counted(A: Array, b: Array, freq: Array | None) -> tuple[Array, Array, Array]:
    """Return the rows that count, and how often each does."""
    A, b = np.ascontiguousarray(A, dtype=np.float64), np.ascontiguousarray(b, dtype=np.float64)
    f = np.ones(len(b)) if freq is None else np.ascontiguousarray(freq, dtype=np.float64)
    if not np.all(f > 0.0):
        A, b, f = A[f > 0.0], b[f > 0.0], f[f > 0.0]
    if len(A) < A.shape[1]:
        raise ValueError(f"A needs at least as many rows as columns, got shape {A.shape}")
    return A, b, f


def exactly_fitted(A: Array, b: Array, x: Array) -> NDArray[np.bool_]:
    """Return the rows whose residual is rounding error."""
    fitted = np.empty(len(b), dtype=np.bool_)
    for rows in row_blocks(*A.shape):
        size = np.abs(b[rows]) + np.abs(A[rows]) @ np.abs(x)
        fitted[rows] = np.abs(b[rows] - A[rows] @ x) <= 8.0 * len(x) * linalg.EPS * size
    return fitted


# -- subsets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Row indices from which the kernel picks p independent ones per subset.

    Attributes
    ----------
    first : ndarray of shape (subsets, length)
        Tried in this order; a row that depends on those before it is skipped.
    order : ndarray of shape (n,)
        All rows in random order, tried when `first` is used up.
    offset : ndarray of shape (subsets,)
        Where in `order` a subset begins.
    """

    first: Indices
    order: Indices
    offset: Indices


def draw(rows: Rows, subsets: int, exhaustive: int, rng: np.random.Generator) -> Draws:
    """Draw subsets; all of them where there are at most `exhaustive`."""
    p, n = rows.At.shape
    order = rng.permutation(n)
    if math.comb(n, p) <= exhaustive:
        first = _every(n, p).copy()
        return Draws(first, order, np.zeros(len(first), dtype=np.int64))
    # A repeated row depends on itself, so indices need not be distinct.
    u = rng.random((subsets, 2 * p + 4))
    if np.all(rows.freq == 1.0):
        first = (u * n).astype(np.int64)
    else:
        share = np.cumsum(rows.freq)
        first = np.searchsorted(share, u * share[-1], side="right")
    return Draws(np.minimum(first, n - 1), order, rng.integers(n, size=subsets))


@functools.lru_cache(maxsize=8)
def _every(n: int, p: int) -> Indices:
    """Return all subsets of p of n rows."""
    every = itertools.chain.from_iterable(itertools.combinations(range(n), p))
    first = np.fromiter(every, dtype=np.int64).reshape(-1, p)
    first.setflags(write=False)
    return first


def pool(A: Array, rng: np.random.Generator) -> Indices:
    """Return the rows on which candidates are compared: all, unless there are many."""
    if len(A) <= LARGE:
        return np.arange(len(A))
    return sample_rows(A, max(_POOL_ROWS, _POOL_ROWS_PER_COLUMN * A.shape[1]), rng)


def groups(rows: Rows, rng: np.random.Generator) -> list[Rows]:
    """Return random groups of the rows of a pool, each with full column rank."""
    size = max(_GROUP_ROWS, _GROUP_ROWS_PER_COLUMN * len(rows.At))
    return [rows.take(sample_rows(rows.At.T, size, rng)) for _ in range(GROUPS)]


def starts(x: Array, criterion: Array, most: int, rows: Rows) -> Array:
    """Return the first fits and least squares, so that there always is one."""
    root = np.sqrt(rows.freq)
    ols = np.linalg.lstsq(rows.At.T * root[:, None], rows.b * root)[0]
    return np.vstack([x[np.isfinite(criterion)][:most], ols[None, :]])


NO_DRAWS = Draws(*(np.empty(shape, dtype=np.int64) for shape in ((0, 0), (0,), (0,))))


def sample_rows(A: Array, size: int, rng: np.random.Generator) -> Indices:
    """Return about `size` rows at random, with rows for every column that is mostly zero."""
    n = len(A)
    rows = rng.choice(n, size=min(size, n), replace=False, shuffle=False)
    extra = [rows]
    for j in np.flatnonzero(np.count_nonzero(A[rows], axis=0) < _SPARSE):
        holders = np.flatnonzero(A[:, j])
        extra.append(rng.choice(holders, size=min(_SPARSE, len(holders)), replace=False))
    rows = np.unique(np.concatenate(extra))
    if linalg.row_space(A[rows], np.ones(len(rows))) is not None:
        # Columns that are dependent everywhere but in a few rows: take the rows that differ.
        size = np.maximum(np.max(np.abs(A), axis=1), np.finfo(np.float64).tiny)
        pivots = lapack.qr(A.T / size, mode="r", pivoting=True)[1]
        rows = np.unique(np.concatenate([rows, pivots[: A.shape[1]]]))
    return np.asarray(rows, dtype=np.int64)


# -- compiled pieces ---------------------------------------------------------------------

_inner = inner(nogil=True, error_model="numpy")


@_inner
def upper_quantile(r: Any, f: Any, above: Any, a: Any, q: Any) -> Any:
    """Return the v with sum f[|r| > v] <= above < sum f[|r| >= v]; a and q are scratch."""
    for i in range(len(r)):
        a[i] = math.fabs(r[i])
        q[i] = f[i]
    low = 0
    high = len(r)
    while high - low > 1:
        first, middle, last = a[low], a[(low + high) // 2], a[high - 1]
        pivot = max(min(first, middle), min(max(first, middle), last))
        # [low, more) > pivot, [more, less) == pivot, [less, high) < pivot
        more, i, less = low, low, high
        weight_more, weight_equal = 0.0, 0.0
        while i < less:
            if a[i] > pivot:
                weight_more += q[i]
                a[i], a[more] = a[more], a[i]
                q[i], q[more] = q[more], q[i]
                more += 1
                i += 1
            elif a[i] < pivot:
                less -= 1
                a[i], a[less] = a[less], a[i]
                q[i], q[less] = q[less], q[i]
            else:
                weight_equal += q[i]
                i += 1
        if weight_more > above:
            high = more
        elif weight_more + weight_equal > above or less == high:
            return pivot
        else:
            above -= weight_more + weight_equal
            low = less
    return a[low]


@jitable()
def room(p: Any) -> Any:
    """Return scratch for `elemental`."""
    return np.empty((p, p)), np.empty((p, p)), np.empty(p), np.empty(p), np.empty(p, np.int64)


@_inner
def elemental(At: Any, b: Any, first: Any, order: Any, offset: Any, x: Any, room: Any) -> Any:
    """Set x to the exact fit of the first p independent rows; return whether there are p.

    Column-wise LU factorization with pivoting of the transposed subset: a row enters only
    if it adds a direction (Koller 2012, arXiv:1208.5595).
    """
    p, n = len(At), len(order)
    L, U, y, v, place = room
    for j in range(p):
        place[j] = j
    m = 0
    for trial in range(len(first) + n):
        if m == p:
            break
        later = trial - len(first)
        row = first[trial] if later < 0 else order[(offset + later) % n]
        size = 0.0
        for j in range(p):
            v[j] = At[place[j], row]
            size = max(size, math.fabs(v[j]))
        for k in range(m):
            for j in range(k + 1, p):
                v[j] -= L[j, k] * v[k]
        pivot = m
        for j in range(m + 1, p):
            if math.fabs(v[j]) > math.fabs(v[pivot]):
                pivot = j
        if not math.fabs(v[pivot]) > _DEPENDENT * size:
            continue
        v[m], v[pivot] = v[pivot], v[m]
        place[m], place[pivot] = place[pivot], place[m]
        for k in range(m):
            L[m, k], L[pivot, k] = L[pivot, k], L[m, k]
        for k in range(m + 1):
            U[k, m] = v[k]
        for j in range(m + 1, p):
            L[j, m] = v[j] / v[m]
        y[m] = b[row]
        m += 1
    if m < p:
        return False
    for j in range(p):
        total = y[j]
        for k in range(j):
            total -= U[k, j] * v[k]
        v[j] = total / U[j, j]
    for j in range(p - 1, -1, -1):
        for k in range(j + 1, p):
            v[j] -= L[k, j] * v[k]
        x[place[j]] = v[j]
    return True


#: Part of the name of every kernel that uses these, so that an edit here misses the disk cache.
STAMP = source_stamp(elemental, elemental, _scalar) + _dense.STAMP
