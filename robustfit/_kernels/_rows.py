"""One pass over the rows: what a reweighting or a Newton step needs, in one reading of A."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numpy.typing import NDArray

from robustfit._kernels import _dense, _loss
from robustfit._kernels._loss import ALL, CURVE, FAR, pointer, values
from robustfit._kernels._threads import WIDE, in_threads
from robustfit.losses import Loss
from robustfit.losses._compiled import named

Array = NDArray[np.float64]

#: Designs of more elements go through the compiled pass: for fewer, NumPy is as fast.
LARGE_ELEMENTS = 300_000
# Rows that a thread takes at a time.
_CHUNK = 1 << 15
# Elements of a block of rows: its weighted copy should stay in the second-level cache. But so many
# rows at least, or the products of a wide design are slow.
_BLOCK_ELEMENTS, _BLOCK_ROWS = 1 << 15, 256


def block_rows(p: int) -> int:
    """Return how many rows of p columns make a block small enough for the cache."""
    return max(_BLOCK_ROWS, _BLOCK_ELEMENTS // max(p, 1))


def row_blocks(n: int, p: int) -> Iterator[slice]:
    """Yield slices that cover n rows in blocks small enough for the cache."""
    size = block_rows(p)
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class Sums(NamedTuple):
    """Sums over the rows at coefficients x and a scale s, with u = factor r / s.

    Attributes
    ----------
    rho : float
        sum count rho(u).
    slope : float
        sum count psi(u) u.
    gram : ndarray of shape (p, p)
        A'WA, W = weight w(u), or weight psi'(u) for a Newton step.
    gradient : ndarray of shape (p,)
        A'Wr with W = weight w(u), in units of b.
    """

    rho: float
    slope: float
    gram: Array
    gradient: Array


@dataclass(frozen=True)
class RowSums:
    """The rows of a linear problem, and what they sum to.

    Attributes
    ----------
    A : ndarray of shape (n, p)
        Design, in any layout.
    b : ndarray of shape (n,)
        Response.
    loss : Loss
        The loss.
    count : ndarray of shape (n,) or None
        What a row counts for in the sums of rho; None for ones.
    factor : ndarray of shape (n,) or None
        What a residual is multiplied by before it is divided by the scale; None for ones.
    weight : ndarray of shape (n,) or None
        What a row counts for in the normal equations; None for ones.
    basis : ndarray of shape (p, p) or None
        An upper triangle M; `Sums.gram` and `Sums.gradient` are then those of A M.
    """

    A: Array
    b: Array
    loss: Loss
    count: Array | None = None
    factor: Array | None = None
    weight: Array | None = None
    basis: Array | None = None

    def __call__(self, x: Array, s: float, newton: bool = False) -> Sums:
        """Return the sums at (x, s); the Gram matrix is that of a Newton step if asked."""
        n, p = self.A.shape
        small = n * max(p, 1) <= LARGE_ELEMENTS
        sums = self._by_numpy if small or p > WIDE else self._compiled
        return sums(x, s, newton)

    def _by_numpy(self, x: Array, s: float, newton: bool) -> Sums:
        p = len(x)
        rho, slope, G, g = 0.0, 0.0, np.zeros((p, p)), np.zeros(p)
        for rows in row_blocks(*self.A.shape):
            block = self.A[rows]
            r = self.b[rows] - block @ x
            u = np.clip(_times(r, self.factor, rows) / s, -FAR, FAR)
            robust = self.loss.weight(u)
            rho += float(np.sum(_times(self.loss.rho(u), self.count, rows)))
            slope += float(np.sum(_times(robust * u * u, self.count, rows)))
            w = _times(robust, self.weight, rows)
            W = _times(self.loss.dpsi(u), self.weight, rows) if newton else w
            block = block if self.basis is None else block @ self.basis
            G += (block * W[:, None]).T @ block
            g += (w * r) @ block
        return Sums(rho, slope, G, g)

    def _compiled(self, x: Array, s: float, newton: bool) -> Sums:
        (n, p), loss, none = self.A.shape, self.loss, np.empty(0)
        count, factor, weight = (
            none if a is None else a for a in (self.count, self.factor, self.weight)
        )
        basis = np.empty((0, 0)) if self.basis is None else self.basis
        address, c, shape = pointer(loss)
        fold = _fold()

        def work(part: slice) -> Array:
            out = np.zeros(2 + p + p * p)
            fold(
                address, self.A[part], self.b[part], count[part], factor[part], weight[part], basis,
                x, s, newton, c, shape, out,
            )  # fmt: skip
            return out

        total = sum(in_threads(work, n, _CHUNK, n * (30.0 + p * p)))
        G = total[2 + p :].reshape(p, p)
        G = G + np.tril(G, -1).T
        return Sums(float(total[0]), float(total[1]), G, total[2 : 2 + p])


def residuals(A: Array, b: Array, x: Array) -> Array:
    """Return b - A x."""
    n, p = A.shape
    if n * p <= LARGE_ELEMENTS or p > WIDE:
        return np.asarray(b - A @ x)
    r = np.empty(n)

    def work(rows: slice) -> None:
        _dense.row_residuals(A[rows], b[rows], x, r[rows])

    in_threads(work, n, _CHUNK, 2.0 * n * p)
    return r


def largest(A: Array) -> Array:
    """Return the largest absolute value of each column, NaN where one is not finite."""
    n, p = A.shape
    if n * p <= LARGE_ELEMENTS:
        top = np.max(np.abs(A), axis=0, initial=0.0)
        return np.where(np.isfinite(top), top, np.nan)

    def work(rows: slice) -> Array:
        top, defect = np.zeros(p), np.zeros(p)
        _dense.row_largest(A[rows], top, defect)
        return top + defect

    return np.asarray(np.max(in_threads(work, n, _CHUNK, 2.0 * n * p), axis=0))


def gram(A: Array, w: Array, r: Array) -> tuple[Array, Array]:
    """Return A'WA and A'Wr in one pass over the rows."""
    n, p = A.shape
    compiled = n * p > LARGE_ELEMENTS and p <= WIDE

    def work(rows: slice) -> tuple[Array, Array]:
        block, v, right = A[rows], w[rows], r[rows]
        if not compiled:
            weighted = block * v[:, None]
            return weighted.T @ block, weighted.T @ right
        G, g = np.zeros((p, p)), np.zeros(p)
        _dense.row_gram(block, v, right, G, g)
        return G + np.tril(G, -1).T, g

    if compiled:
        parts = in_threads(work, n, _CHUNK, n * (10.0 + p * p))
    else:
        parts = [work(rows) for rows in row_blocks(n, p)]
    G, g = np.zeros((p, p)), np.zeros(p)
    for more_G, more_g in parts:
        G += more_G
        g += more_g
    return G, g


def by_rows(function: Callable[[Array], Array], u: Array) -> Array:
    """Return an elementwise function of many values, part by part: its temporaries stay small."""
    parts = in_threads(lambda rows: function(u[rows]), len(u), _CHUNK, 30.0 * len(u))
    return np.concatenate(parts) if len(parts) != 1 else parts[0]


def m_scale(
    r: Array,
    s: float,
    goal: float,
    loss: Loss,
    count: Array | None = None,
    tol: float = 1e-12,
) -> float:
    """Return the s with ``sum(count * rho(r / s)) = goal``, by Newton's method from s > 0.

    The error is about the square of `tol`, for a loss that is smooth.
    """
    for _ in range(60):
        rho, slope = rho_sums(r, s, loss, count)
        new = newton_scale(s, rho, slope, goal)
        if abs(new - s) <= tol * s:
            return new
        s = new
    return s


def rho_sums(r: Array, s: float, loss: Loss, count: Array | None = None) -> tuple[float, float]:
    """Return ``sum(count * rho(u))`` and ``sum(count * psi(u) * u)`` for u = r / s."""
    # Rows of no columns: nothing else is left of the sums.
    sums = RowSums(np.empty((len(r), 0)), r, loss, count)(np.empty(0), s)
    return sums.rho, sums.slope


def newton_scale(s: float, rho: float, slope: float, goal: float) -> float:
    """Return the next scale from the sums at s, at most four times larger or smaller."""
    q = 1.0 - 2.0 * (rho - goal) / slope if slope > 0.0 else 0.0
    return s * min(max(1.0 / math.sqrt(q) if q > 0.0 else 4.0, 0.25), 4.0)


def _times(values: Array, factor: Array | None, rows: slice) -> Array:
    return values if factor is None else values * factor[rows]


@functools.cache
def _fold() -> Callable[..., Any]:
    """Return the compiled pass, the same for every loss."""
    # One version for every layout, read-only or not: the block is copied anyway.
    vector = numba.types.Array(numba.float64, 1, "A", readonly=True)
    matrix = numba.types.Array(numba.float64, 2, "A", readonly=True)
    signature = numba.void(
        numba.int64, matrix, vector, vector, vector, vector, matrix, vector, numba.float64,
        numba.boolean, numba.float64, numba.types.Array(numba.float64, 1, "C", readonly=True),
        numba.float64[::1],
    )  # fmt: skip

    @numba.njit(signature, nogil=True, cache=True, error_model="numpy")
    @named(_dense.STAMP, _loss.STAMP)
    def fold(
        loss: Any, A: Any, b: Any, count: Any, factor: Any, own: Any, M: Any, x: Any, s: Any,
        newton: Any, c: Any, shape: Any, out: Any,
    ) -> None:  # fmt: skip
        """Add the sums of `Sums` to out, one after the other; G is a lower triangle."""
        n, p = A.shape
        m = _dense.BLOCK
        block, mixed = _dense.padded(p, m), _dense.padded(p if len(M) > 0 else 0, m)
        bk, r, t, q, w = np.empty(m), np.empty(m), np.empty(m), np.empty(m), np.empty(m)
        f, k, v = np.ones(m), np.ones(m), np.ones(m)
        T, S = np.empty((3, m)), np.empty((3, 3))
        G, g = np.zeros((p, p)), np.empty(p)
        for low in range(0, n, m):
            high = min(m, n - low)
            _dense.transpose(A, low, high, block)
            _dense.part(b, low, high, bk)
            if len(count) > 0:
                _dense.part(count, low, high, f)
            if len(factor) > 0:
                _dense.part(factor, low, high, k)
            if len(own) > 0:
                _dense.part(own, low, high, v)
            # Whole blocks vectorize: the last is filled up with rows that weigh 0.
            for i in range(high, m):
                f[i] = 0.0
                v[i] = 0.0
            _dense.residuals(block, bk, x, r)
            values(loss, ALL, r, k, s, c, shape, t, q, w)
            out[0] += _dense.dot(f, t)
            out[1] += _dense.dot(f, q)
            z = block
            if len(M) > 0:
                _dense.times_triangle(block, M, mixed)
                z = mixed
            for i in range(m):
                w[i] *= v[i]
                t[i] = w[i] * r[i]
            for j in range(p):
                g[j] = _dense.dot(t, z[j])
                out[2 + j] += g[j]
            if newton:
                values(loss, CURVE, r, k, s, c, shape, t, q, w)
                for i in range(m):
                    w[i] *= v[i]
            _dense.add_gram(z, w, 0, m, T, S, G)
        for j in range(p):
            for l in range(j + 1):
                out[2 + p + j * p + l] += G[j, l]

    return cast(Callable[..., Any], fold)
