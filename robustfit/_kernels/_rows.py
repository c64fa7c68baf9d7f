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

from robustfit._jit import jit
from robustfit._kernels import _dense, _loss, _tiles
from robustfit._kernels._loss import ALL, CURVE, FAR, WEIGHT, compiles, pointer, values
from robustfit._kernels._threads import WORTH_A_THREAD, in_threads, merged_in_threads
from robustfit.losses import Loss
from robustfit.losses._compiled import kernels, named

Array = NDArray[np.float64]

#: Designs of more elements are large: what is done once must not take a copy of them.
LARGE_ELEMENTS = 300_000
# Those of more go through the compiled pass: for fewer, NumPy is as fast.
_FEW = 1 << 15
# Rows that a thread takes at a time: at most the first, and elements, unless they are so few rows.
_CHUNK, _CHUNK_ELEMENTS, _FEW_ROWS = 1 << 15, 1 << 20, 1 << 10
# So many parts of all, or so many rows, that no thread waits long for another.
_CHUNKS, _SOME_ROWS = 16, 1 << 12
# Rows of a block: they and what is computed of them stay in the first-level cache, or for a wide
# design in the second, and the next come from memory meanwhile.
_BLOCK = 128
# Elements of a block of rows that NumPy works on, but so many rows at least.
_BLOCK_ELEMENTS, _BLOCK_ROWS = 1 << 15, 256
# What a pass is for, beside the kinds of values of a loss: weights that are given, and residuals.
_GIVEN, _RESIDUALS = 3, 4


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
        sum count rho(u), NaN where the residuals were asked for.
    slope : float
        sum count psi(u) u, NaN where the residuals were asked for.
    gram : ndarray of shape (p, p)
        A'WA, W = weight w(u), or weight psi'(u) for a Newton step.
    gradient : ndarray of shape (p,)
        A'Wr with W = weight w(u), in units of b.
    drift : ndarray of shape (p,)
        A'Wr with W = weight psi'(u), where a Newton step and the residuals were asked for: by so
        much the gradient falls where the scale grows by a factor of e, less the gradient itself.
    """

    rho: float
    slope: float
    gram: Array
    gradient: Array
    drift: Array | None = None


@dataclass(frozen=True)
class RowSums:
    """The rows of a linear problem, and what they sum to.

    Attributes
    ----------
    A : ndarray of shape (n, p)
        Design, in any layout, float32 or float64.
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

    A: NDArray[Any]
    b: Array
    loss: Loss
    count: Array | None = None
    factor: Array | None = None
    weight: Array | None = None
    basis: Array | None = None

    def __call__(
        self, x: Array, s: float, newton: bool = False, resid: Array | None = None
    ) -> Sums:
        """Return the sums at (x, s); the Gram matrix is that of a Newton step if asked.

        The residuals go to `resid` (n,), if that is given.
        """
        few = max(self.A.size, len(self.A)) <= _FEW
        sums = self._by_numpy if few or not compiles(self.loss) else self._compiled
        return sums(x, s, newton, resid)

    def _by_numpy(self, x: Array, s: float, newton: bool, resid: Array | None) -> Sums:
        p = len(x)
        rho, slope, G, g, h = 0.0, 0.0, np.zeros((p, p)), np.zeros(p), np.zeros(p)
        for rows in row_blocks(*self.A.shape):
            block = self.A[rows]
            r = self.b[rows] - block @ x
            u = np.clip(_times(r, self.factor, rows) / s, -FAR, FAR)
            w = robust = self.loss.weight(u)
            if resid is None:
                rho += float(np.sum(_times(self.loss.rho(u), self.count, rows)))
                slope += float(np.sum(_times(robust * u * u, self.count, rows)))
            else:
                resid[rows], rho, slope = r, math.nan, math.nan
            w = _times(robust, self.weight, rows)
            W = _times(self.loss.dpsi(u), self.weight, rows) if newton else w
            block = block if self.basis is None else block @ self.basis
            G += (block * W[:, None]).T @ block
            g += (w * r) @ block
            h += (W * r) @ block
        return Sums(rho, slope, G, g, h if newton and resid is not None else None)

    def _compiled(self, x: Array, s: float, newton: bool, resid: Array | None) -> Sums:
        p = len(x)
        address, c, shape = pointer(self.loss)
        kind = ALL if resid is None else WEIGHT
        total = _pass(
            kind, self.A, self.b, x, (self.count, self.factor, self.weight), self.basis, resid,
            newton, (address, s, c, shape),
        )  # fmt: skip
        rho, slope = (total[-1, 0], total[-1, 1]) if resid is None else (math.nan, math.nan)
        drift = total[-2, :p] if newton and resid is not None else None
        return Sums(float(rho), float(slope), _symmetric(total, p), total[-3, :p], drift)


def _pass(
    kind: int,
    A: NDArray[Any],
    b: Array,
    x: Array,
    weights: tuple[Array | None, Array | None, Array | None],
    basis: Array | None = None,
    resid: Array | None = None,
    newton: bool = False,
    loss: tuple[int, float, float, Array] = (0, 1.0, 1.0, np.empty(0)),
) -> Array:
    """Return what `_fold` adds up, over all rows."""
    n, p = A.shape
    none, width = np.empty(0), -(-p // _tiles.WIDTH) * _tiles.WIDTH
    count, factor, own = (none if a is None else a for a in weights)
    out_resid = none if resid is None else resid
    M = np.empty((0, 0)) if basis is None else basis
    padded = np.zeros(width)
    padded[:p] = x
    fold = _fold(A.dtype.char)
    sizes = (3, _tiles.WIDTH) if kind == _RESIDUALS else (width + 3, max(width, _tiles.WIDTH))

    def work(part: slice) -> Array:
        out = np.zeros(sizes)
        # Other vectors would not vectorise; of these only a part is copied at a time.
        right, f, k, v = (np.ascontiguousarray(a[part]) for a in (b, count, factor, own))
        fold(kind, newton, *loss, A[part], right, padded, f, k, v, M, out_resid[part], out)
        return out

    return np.asarray(merged_in_threads(work, n, _chunk(n, p), _operations(n, p)))


def _operations(n: int, p: int) -> float:
    return n * (30.0 + p * p)


def _chunk(n: int, p: int) -> int:
    """Return how many rows a thread takes at a time: many enough for p x p sums not to count."""
    if _operations(n, p) < WORTH_A_THREAD:
        return n
    rows = min(_CHUNK, max(_CHUNK_ELEMENTS // max(p, 1), _FEW_ROWS), max(n // _CHUNKS, _SOME_ROWS))
    return -(-rows // _BLOCK) * _BLOCK


def _symmetric(total: Array, p: int) -> Array:
    G = total[:p, :p]
    return np.where(_lower(p), G, G.T)


@functools.lru_cache(maxsize=8)
def _lower(p: int) -> NDArray[np.bool_]:
    return np.tri(p, dtype=np.bool_)


def residuals(A: Any, b: Array, x: Array, out: Array | None = None) -> Array:
    """Return b - A x, in `out` if that is given and there are many."""
    if not isinstance(A, np.ndarray) or A.size <= _FEW:
        return np.asarray(b - A @ x)
    r = np.empty(len(b)) if out is None else out
    _pass(_RESIDUALS, A, b, x, (None, None, None), resid=r)
    return r


def largest(A: NDArray[Any]) -> Array:
    """Return the largest absolute value of each column, NaN where one is not finite."""
    n, p = A.shape
    if A.size <= _FEW:
        top = np.max(np.abs(A), axis=0, initial=0.0)
        return np.where(np.isfinite(top), top, np.nan)

    def work(rows: slice) -> Array:
        top, defect = np.zeros(p), np.zeros(p)
        _dense.row_largest(A[rows], top, defect)
        return top + defect

    return np.asarray(np.max(in_threads(work, n, _chunk(n, p), 2.0 * n * p), axis=0))


def gram(A: NDArray[Any], w: Array | None, r: Array) -> tuple[Array, Array]:
    """Return A'WA and A'Wr in one pass over the rows."""
    n, p = A.shape
    if A.size > _FEW:
        total = _pass(_GIVEN, A, r, np.zeros(p), (None, None, w))
        return _symmetric(total, p), total[-3, :p]
    G, g = np.zeros((p, p)), np.zeros(p)
    for rows in row_blocks(n, p):
        block = A[rows]
        weighted = block if w is None else block * w[rows, None]
        G += weighted.T @ block
        g += weighted.T @ r[rows]
    return G, g


def by_rows(function: Callable[..., Array], *values: Array) -> Array:
    """Return an elementwise function of many values, part by part: its temporaries stay small."""
    n, out = len(values[0]), np.empty(len(values[0]))

    def work(rows: slice) -> None:
        out[rows] = function(*(a[rows] for a in values))

    in_threads(work, n, _chunk(n, 1), 30.0 * n)
    return out


def moments(u: Array, loss: Loss, count: Array | None) -> Array:
    """Return the sums of psi', (psi' - 1)**2, psi**2 and the weight at u, times the count."""
    if len(u) <= _FEW or not compiles(loss):
        w, slope = np.asarray(loss.weight(u)), np.asarray(loss.dpsi(u))
        values = np.stack([slope, (slope - 1.0) ** 2, (w * u) ** 2, w])
        return values.sum(axis=1) if count is None else values @ count
    address, c, shape = pointer(loss)

    def work(part: slice) -> Array:
        out = np.zeros(4)
        f = np.empty(0) if count is None else np.array(count[part])
        _add_moments(address, u[part], c, shape, f, out)
        return out

    return np.asarray(merged_in_threads(work, len(u), _CHUNK, 30.0 * len(u)))


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
    return solve_m_scale(lambda s: rho_sums(r, s, loss, count), s, goal, tol)


def solve_m_scale(
    sums: Callable[[float], tuple[float, float]], s: float, goal: float, tol: float
) -> float:
    """Return the s at which the first of the two numbers that `rho_sums` returns is the goal."""
    for _ in range(60):
        rho, slope = sums(s)
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
def _fold(kind: str) -> Callable[..., Any]:
    """Return the compiled pass over a design of this kind of numbers, the same for every loss."""
    # One version for every layout, read-only or not.
    number = numba.float32 if kind == "f" else numba.float64
    design = numba.types.Array(number, 2, "A", readonly=True)
    matrix = numba.types.Array(numba.float64, 2, "A", readonly=True)
    vector = numba.types.Array(numba.float64, 1, "C", readonly=True)
    signature = numba.void(
        numba.int64, numba.boolean, numba.int64, numba.float64, numba.float64, vector, design,
        vector, vector, vector, vector, vector, matrix, numba.float64[::1], numba.float64[:, ::1],
    )  # fmt: skip
    aligned, address = kind == "d", _tiles.address

    @jit(signature, nogil=True, error_model="numpy")
    @named(kind, _dense.STAMP, _loss.STAMP, _tiles.STAMP)
    def fold(
        kind: Any, newton: Any, loss: Any, s: Any, c: Any, shape: Any, A: Any, b: Any, x: Any,
        count: Any, factor: Any, own: Any, M: Any, resid: Any, out: Any,
    ) -> None:  # fmt: skip
        """Add to out: G (a lower triangle), and in the rows after it g, the drift, rho and slope.

        Where the rows lie as the tiles need them, they are read where they are, else copied.
        """
        (n, p), m, width = A.shape, _BLOCK, len(x)
        in_place = aligned and len(M) == 0 and A.strides[1] == 8 and A.strides[0] >= 8 * p
        # What stands between the rows of a view may be no number, and 0 times that is not 0.
        in_place = in_place and (A.strides[0] == 8 * p or p % _tiles.LANES == 0)
        block, mixed = np.empty((m + 1, width)), np.empty((m + 1 if len(M) > 0 else 0, width))
        r, t, q, w = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
        f, k, v = np.ones(m), np.ones(m), np.ones(m)
        first, step, last = address(A), A.strides[0], len(out) - 3
        out_step = out.strides[0]
        G, g, h = address(out), address(out) + last * out_step, address(out) + (last + 1) * out_step
        for low in range(0, n, m):
            rows = min(m, n - low)
            R, R_step = first + low * step, step
            # Tiles read beyond the last row of a block.
            direct = in_place and low + m + _tiles.LANES <= n
            if not direct:
                _tiles.pack(A, low, rows, block)
                R, R_step = address(block), 8 * width
            _tiles.multiply(R, R_step, address(x), p, m, address(r))
            for i in range(rows):
                r[i] = b[low + i] - r[i]
            for i in range(rows, m):
                r[i] = 0.0
            if len(resid) > 0:
                for i in range(rows):
                    resid[low + i] = r[i]
            if kind == _RESIDUALS:
                continue
            # Whole blocks vectorise: the last is filled up with rows that weigh 0.
            if len(count) > 0:
                _dense.part(count, low, rows, f)
            if len(factor) > 0:
                _dense.part(factor, low, rows, k)
            if len(own) > 0:
                _dense.part(own, low, rows, v)
            for i in range(rows, m):
                f[i], v[i] = 0.0, 0.0
            ahead = first + min(low + m, n - m) * step if direct else 0
            share = m * step // 3 if direct and step < 16 * p else 0
            _tiles.fetch(ahead, ahead + share)
            if kind == _GIVEN:
                for i in range(m):
                    w[i] = v[i]
            else:
                values(loss, kind, r, k, s, c, shape, t, q, w)
                if kind == ALL:
                    out[last + 2, 0] += _dense.dot(f, t)
                    out[last + 2, 1] += _dense.dot(f, q)
                for i in range(m):
                    w[i] *= v[i]
            _tiles.fetch(ahead + share, ahead + 2 * share)
            if len(M) > 0:
                _mix(block, M, mixed)
                R = address(mixed)
            _tiles.add_gradient(R, R_step, address(w), address(r), p, m, g)
            if newton:
                values(loss, CURVE, r, k, s, c, shape, t, q, w)
                for i in range(m):
                    w[i] *= v[i]
                if kind == WEIGHT:
                    _tiles.add_gradient(R, R_step, address(w), address(r), p, m, h)
            _tiles.fetch(ahead + 2 * share, ahead + 3 * share)
            _tiles.add_gram(R, R_step, address(w), p, m, G, out_step)

    return cast(Callable[..., Any], fold)


@kernels(_dense.STAMP, _loss.STAMP)
def _add_moments(address: Any, u: Any, c: Any, shape: Any, count: Any, out: Any) -> None:
    """Add to out what `moments` returns."""
    m = _BLOCK
    r, one, f, w, slope = np.empty(m), np.ones(m), np.ones(m), np.empty(m), np.empty(m)
    for low in range(0, len(u), m):
        rows = min(m, len(u) - low)
        _dense.part(u, low, rows, r)
        if len(count) > 0:
            _dense.part(count, low, rows, f)
        for i in range(rows, m):
            f[i] = 0.0
        values(address, WEIGHT, r, one, 1.0, c, shape, slope, slope, w)
        values(address, CURVE, r, one, 1.0, c, shape, slope, slope, slope)
        for i in range(m):
            r[i] = min(max(r[i], -FAR), FAR) * w[i]
        out[3] += _dense.dot(f, w)
        out[0] += _dense.dot(f, slope)
        for i in range(m):
            slope[i] = (slope[i] - 1.0) * (slope[i] - 1.0)
            r[i] *= r[i]
        out[1] += _dense.dot(f, slope)
        out[2] += _dense.dot(f, r)


@_tiles.jit
def _mix(block: Any, M: Any, out: Any) -> None:
    """Set out to the product of a block and an upper triangle."""
    m, width = block.shape
    for i in range(m):
        for j in range(width):
            out[i, j] = 0.0
        for l in range(len(M)):
            for j in range(l, len(M)):
                out[i, j] += block[i, l] * M[l, j]
