"""Least trimmed squares by FAST-LTS, with reweighting and small-sample corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from robustfit import linalg
from robustfit._jit import jit, jitable
from robustfit._kernels import LARGE_ELEMENTS, _dense, in_threads
from robustfit.losses._compiled import named
from robustfit.starts import _subsets
from robustfit.starts._subsets import NO_DRAWS, Draws, Rows

Array = NDArray[np.float64]

# C-steps on each subset's fit; how many of the fits go on to convergence; and of a large
# problem, how many are tried on all rows.
_STEPS = 2
_BEST = 10
_FINALISTS = 3
# Extrapolated C-steps on a large problem: so many for each finalist, and for the best until
# one gains less than this, relatively.
_LARGE_STEPS = 3
_FLAT = 1e-10
# A C-step lowers the objective or ends the descent, which it does after a few steps.
_MAXITER = 500

# Rows within this many raw scales of the raw fit are kept: 2.5 % of a normal sample are not.
_CUTOFF = float(ndtri(0.9875))


@dataclass(frozen=True)
class LtsFit:
    """A least trimmed squares estimate.

    Attributes
    ----------
    x : ndarray of shape (p,)
        Coefficients of least squares on the rows that the raw fit leaves.
    scale : float
        Their standard deviation, corrected for the rows left out; 0 on an exact fit.
    raw_x : ndarray of shape (p,)
        Minimizes the sum of the h smallest squared residuals.
    raw_scale : float
        The scale of the h smallest residuals, corrected.
    weights : ndarray of shape (n,)
        1 for the rows of the final fit, 0 for the others.
    best : ndarray of int
        Indices of the rows with the h smallest residuals of the raw fit.
    objective : float
        Their sum of squares.
    """

    x: Array
    scale: float
    raw_x: Array
    raw_scale: float
    weights: Array
    best: NDArray[np.int64]
    objective: float


def lts_estimate(
    A: Array,
    b: Array,
    *,
    alpha: float = 0.5,
    freq: Array | None = None,
    rng: np.random.Generator,
    nsubsets: int = 500,
    exhaustive_limit: int = 5000,
    intercept: bool | None = None,
) -> LtsFit:
    """Return the least trimmed squares estimate, raw and reweighted.

    Parameters
    ----------
    A : ndarray of shape (n, p)
        Design of full column rank.
    b : ndarray of shape (n,)
        Response.
    alpha : float, default: 0.5
        About the share of rows that are fitted, in [1/2, 1]: their number h is
        `subset_size`. One half has the highest breakdown point, 1 is least squares.
    freq : ndarray of shape (n,), optional
        How often each row counts. A row of 2 is two equal rows.
    rng : Generator
        Draws the subsets.
    nsubsets : int, default: 500
        How many are drawn.
    exhaustive_limit : int, default: 5000
        If there are at most so many subsets of p rows, all are tried instead.
    intercept : bool, optional
        Whether A has an intercept, on which the small-sample corrections depend. Default:
        whether it has a constant column.

    Returns
    -------
    LtsFit
        Both fits, their scales, and which rows they use.

    Notes
    -----
    C-steps (Rousseeuw and Van Driessen 2006) from fits to p rows: least squares on the h rows
    with the smallest residuals never increases the objective. With more than 2000 rows,
    subsets are drawn within groups of rows, as in `s_estimate`.

    Both scales are consistent at the normal and carry the small-sample corrections of Pison,
    Van Aelst and Willems (2002), fitted to simulations with up to a few hundred rows and
    about ten columns. Where their formula leaves its range, with hardly more rows than
    columns, the correction is kept at 10.

    References
    ----------
    Rousseeuw, P. J. and Van Driessen, K. (2006), Computing LTS regression for large data sets,
    *Data Min. Knowl. Disc.* 12, 29-45, doi:10.1007/s10618-005-0024-4.
    Pison, G., Van Aelst, S. and Willems, G. (2002), Small sample corrections for LTS and MCD,
    *Metrika* 55, 111-123, doi:10.1007/s001840200191.

    Examples
    --------
    >>> import numpy as np
    >>> from robustfit.datasets import load
    >>> from robustfit.starts import lts_estimate
    >>> stars = load("starsCYG")
    >>> fit = lts_estimate(stars.A, stars.b, rng=np.random.default_rng(0))
    >>> print(f"raw slope {fit.raw_x[1]:.4f}, slope {fit.x[1]:.4f}")
    raw slope 4.2192, slope 3.0462
    """
    if not 0.5 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0.5, 1], got alpha={alpha!r}")
    whole = len(b)
    kept = np.arange(whole) if freq is None else np.flatnonzero(np.asarray(freq) > 0.0)
    A, b, f = _subsets.counted(A, b, freq)
    p = A.shape[1]
    count = float(np.sum(f))
    h = subset_size(int(count), p, alpha)
    if intercept is None:
        intercept = bool(np.any(np.all(A[:1] == A, axis=0) & (A[0] != 0.0)))
    unit = _subsets.typical(b)
    problem = _Problem(A, b / unit, f, h)
    raw_x = problem.search(nsubsets, exhaustive_limit, rng)
    raw_x, w, objective = problem.settle(raw_x)
    fitted = problem.exactly_fitted(raw_x, w, objective)
    if np.sum(f[fitted]) >= h:
        raw_x = x = linalg.refit(A[fitted], problem.b[fitted], f[fitted], raw_x)
        w, keep, objective, raw_scale, scale = f * fitted, fitted, 0.0, 0.0, 0.0
    else:
        features = p - intercept
        mean = objective / (h if h < count else max(count - p, 1.0))
        raw_scale = math.sqrt(mean) * _consistency(h / count)
        raw_scale *= _correction(_RAW, features, intercept, count, alpha) if h < count else 1.0
        keep = np.abs(problem.b - A @ raw_x) <= _CUTOFF * raw_scale
        kept_count = float(np.sum(f[keep]))
        x = linalg.refit(A[keep], problem.b[keep], f[keep], raw_x)
        r = problem.b[keep] - A[keep] @ x
        scale = math.sqrt(float(f[keep] @ (r * r)) / max(kept_count - 1.0, 1.0))
        if kept_count < count:
            scale *= _consistency(kept_count / count)
            scale *= _correction(_REWEIGHTED, features, intercept, count, alpha)
    weights = np.zeros(whole)
    weights[kept[keep]] = 1.0
    return LtsFit(
        x * unit, scale * unit, raw_x * unit, raw_scale * unit, weights, kept[w > 0.0],
        objective * unit * unit,
    )  # fmt: skip


def subset_size(n: int, p: int, alpha: float) -> int:
    """Return h: (n + p + 1) // 2 for alpha = 1/2, n for 1, and linear between."""
    half = (n + p + 1) // 2
    # The tolerance keeps rounding from costing a row.
    return min(n, math.floor(2 * half - n + 2 * (n - half) * alpha + 1e-9))


# -- scales ------------------------------------------------------------------------------


def _consistency(share: float) -> float:
    """Return the ratio of sigma to the deviation of the given share of smallest |U|."""
    if share >= 1.0:
        return 1.0
    q = float(ndtri(0.5 * (1.0 + share)))
    density = math.exp(-0.5 * q * q) / math.sqrt(2.0 * math.pi)
    return 1.0 / math.sqrt(1.0 - 2.0 * q * density / share)


# The constants of Pison, Van Aelst and Willems. At alpha = 0.5 and 0.875, without and with
# intercept: (gamma, beta) of 1 - exp(gamma) / n**beta for no and for one feature, and for more
# features two values of (eta, kappa): 1 + eta / p**kappa is the factor at n = q p**2, q = 3, 5.
_LOCATION_RAW = ((0.262024211897096, 0.604756680630497), (-0.351584646688712, 1.01646567502486))
_LOCATION_REWEIGHTED = (
    (1.11098143415027, 1.5182890270453),
    (-0.66046776772861, 0.88939595831888),
)
_Pair = tuple[float, float]
_Table = dict[bool, tuple[tuple[_Pair, _Pair, _Pair, _Pair], tuple[_Pair, _Pair, _Pair, _Pair]]]
_RAW: _Table = {
    False: (
        (
            _LOCATION_RAW[0],
            (-0.0181777452315321, 0.697629772271099),
            (-0.487338281979106, 0.405511279418594),
            (-0.340762058011, 0.37972360544988),
        ),
        (
            _LOCATION_RAW[1],
            (-0.310122738776431, 1.06241615923172),
            (-0.251778730491252, 0.883966931611758),
            (-0.146660023184295, 0.86292940340761),
        ),
    ),
    True: (
        (
            _LOCATION_RAW[0],
            (0.630869217886906, 0.650789250442946),
            (-0.746945886714663, 0.56264937192689),
            (-0.535478048924724, 0.543323462033445),
        ),
        (
            _LOCATION_RAW[1],
            (0.565065391014791, 1.03044199012509),
            (-0.458580153984614, 1.12236071104403),
            (-0.267178168108996, 1.1022478781154),
        ),
    ),
}
_REWEIGHTED: _Table = {
    False: (
        (
            _LOCATION_REWEIGHTED[0],
            (0.6329852387657, 1.40361879788014),
            (-0.417574780492848, 1.83958876341367),
            (-0.175753709374146, 1.8313809497999),
        ),
        (
            _LOCATION_REWEIGHTED[1],
            (-0.642240988645469, 0.926325452943084),
            (-0.267522855927958, 1.17559984533974),
            (-0.161200683014406, 1.21675019853961),
        ),
    ),
    True: (
        (
            _LOCATION_REWEIGHTED[0],
            (1.58609654199605, 1.46340162526468),
            (-0.773365715932083, 2.02013996406346),
            (-0.337571678986723, 2.02037467454833),
        ),
        (
            _LOCATION_REWEIGHTED[1],
            (0.391653958727332, 1.03167487483316),
            (-0.474174840843602, 1.39681715704956),
            (-0.276640353112907, 1.42543242287677),
        ),
    ),
}
_LARGEST_CORRECTION = 10.0


def _correction(table: _Table, features: int, intercept: bool, n: float, alpha: float) -> float:
    """Return the small-sample correction of a scale."""
    half, most = (_share(rows, features, n) for rows in table[intercept])
    if alpha <= 0.875:
        share = half + (most - half) * (alpha - 0.5) / 0.375
    else:
        share = most + (1.0 - most) * (alpha - 0.875) / 0.125
    if features == 0:
        share = math.sqrt(max(share, 0.0))
    return 1.0 / max(share, 1.0 / _LARGEST_CORRECTION)


def _share(rows: tuple[_Pair, _Pair, _Pair, _Pair], features: int, n: float) -> float:
    """Return the share of the scale that is found on average among n rows."""
    if features < 2:
        gamma, beta = rows[features]
        return float(1.0 - math.exp(gamma) / n**beta)
    # log(1 - share) is linear in log n, through the two values of q.
    (eta3, kappa3), (eta5, kappa5) = rows[2:]
    low, high = math.log(-eta3 / features**kappa3), math.log(-eta5 / features**kappa5)
    beta = (low - high) / math.log(5.0 / 3.0)
    return 1.0 - math.exp(low + beta * (math.log(3.0 * features**2) - math.log(n)))


# -- search ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """All rows in the caller's coordinates, with b divided by its unit."""

    A: Array
    b: Array
    freq: Array
    h: int

    def search(self, nsubsets: int, exhaustive: int, rng: np.random.Generator) -> Array:
        """Return the fit with the smallest objective that the search finds."""
        n, p = self.A.shape
        count = float(np.sum(self.freq))
        if self.h >= count:
            return linalg.least_squares(self.A, self.b, self.freq)
        whole = np.all(self.freq == np.round(self.freq)) and count < 1e8
        if p == 1 and np.all(self.A[:1] == self.A) and whole:
            repeated = np.repeat(self.b, self.freq.astype(np.int64))
            return np.asarray(_location(repeated, self.h) / self.A[0])
        pool = _subsets.pool(self.A, rng)
        M = _subsets.preconditioner(self.A[pool])
        rows = Rows.of(self.A[pool], self.b[pool], self.freq[pool], M, 1.0)
        share = self.h / count
        if len(pool) < n:
            starts = []
            for part in _subsets.groups(rows, rng):
                draws = _subsets.draw(part, -(-nsubsets // _subsets.GROUPS), 0, rng)
                found = _c_steps(part, share, draws, None, _STEPS)
                starts.append(_subsets.starts(*found, _BEST, part))
            found = _c_steps(rows, share, NO_DRAWS, np.vstack(starts), _STEPS)
        else:
            draws = _subsets.draw(rows, nsubsets, exhaustive, rng)
            found = _c_steps(rows, share, draws, None, _STEPS)
        best = _subsets.starts(*found, _BEST, rows)
        x, objective = _c_steps(rows, share, NO_DRAWS, best, _MAXITER)
        if len(pool) == n:
            return np.asarray(M @ x[0])
        _, first = np.unique(objective, return_index=True)
        x = x[np.sort(first)][:_FINALISTS]
        if self.A.size <= LARGE_ELEMENTS:
            every = Rows.of(self.A, self.b, self.freq, M, 1.0)
            return np.asarray(M @ _c_steps(every, share, NO_DRAWS, x, _MAXITER)[0][0])
        first_steps = [self.descend(M @ z, _LARGE_STEPS) for z in x]
        return self.descend(min(first_steps, key=lambda fit: fit[1])[0], _MAXITER)[0]

    def descend(self, x: Array, steps: int) -> tuple[Array, float]:
        """Return x after extrapolated C-steps on all rows, and the objective.

        Near the solution a C-step leaves about the same share k of the error each time, so
        that d / (1 - k) is a better step than d; it is taken if it lowers the objective more.
        """
        w, objective = self.trim(x)
        last = np.zeros_like(x)
        for _ in range(steps):
            r = self.b - self.A @ x
            d = linalg.weighted_step(self.A, w, r, x=x).d
            share = float(last @ d) / float(last @ last) if np.any(last) else 0.0
            last = d
            for length in (1.0 / (1.0 - min(share, 0.95)), 1.0) if share > 0.1 else (1.0,):
                new_w, new = self.trim(x + length * d)
                if new < objective:
                    break
            else:
                break
            gain = objective - new
            x, w, objective = x + length * d, new_w, new
            if gain <= _FLAT * objective:
                break
        return x, objective

    def settle(self, x: Array) -> tuple[Array, Array, float]:
        """Return least squares on the h rows that are best at x, and what holds there."""
        w, objective = self.trim(x)
        for _ in range(_MAXITER):
            used = w > 0.0
            new = linalg.refit(self.A[used], self.b[used], w[used], x)
            new_w, new_objective = self.trim(new)
            same = np.array_equal(new_w, w)
            better = new_objective < objective * (1.0 - 1e-12)
            if same or new_objective < objective:
                x, w, objective = new, new_w, new_objective
            if same or not better:
                break
        return x, w, objective

    def trim(self, x: Array) -> tuple[Array, float]:
        """Return the weights of the h rows with the smallest residuals, and the objective."""
        r = self.b - self.A @ x
        w, scratch = np.empty_like(r), np.empty_like(r)
        above = float(np.sum(self.freq)) - self.h
        return w, float(_trim(r, self.freq, float(self.h), above, w, scratch))

    def exactly_fitted(self, x: Array, w: Array, objective: float) -> NDArray[np.bool_]:
        """Return which rows x fits to rounding; none if its objective is not close to zero."""
        if math.sqrt(objective / self.h) > 1e-6 * np.max(np.abs(self.b[w > 0.0])):
            return np.zeros(len(w), dtype=np.bool_)
        return _subsets.exactly_fitted(self.A, self.b, x)


def _c_steps(
    rows: Rows, share: float, draws: Draws, x: Array | None, steps: int
) -> tuple[Array, Array]:
    """Return fits after C-steps from the subsets drawn or from x, best first."""
    p, n = rows.At.shape
    x = np.zeros((len(draws.first), p)) if x is None else x.copy()
    objective = np.full(len(x), np.nan)
    h = max(float(p), math.floor(share * rows.count + 1e-9))

    def work(part: slice) -> None:
        _descend(
            rows.At, rows.b, rows.freq, h, rows.count - h, draws.first[part], draws.order,
            draws.offset[part], x[part], steps, objective[part],
        )  # fmt: skip

    cost = len(x) * n * (30.0 + p * p) * min(steps, 10)
    in_threads(work, len(x), max(1, len(x) // 64), cost)
    order = np.argsort(objective, kind="stable")
    return x[order], objective[order]


def _location(b: Array, h: int) -> Array:
    """Return the mean of the h consecutive sorted values with the smallest sum of squares."""
    b = np.sort(b)
    ranges = b[h - 1 :] - b[: len(b) - h + 1]
    # With h > n / 2 every window holds the median. The best one is not wider than reach, so
    # that clipping what is farther out leaves it the best and keeps the sums exact.
    centre, reach = b[len(b) // 2], math.sqrt(2.0 * h) * float(np.min(ranges))
    y = np.clip(b - centre, -reach, reach)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    squares = np.concatenate([[0.0], np.cumsum(y * y)])
    total = sums[h:] - sums[:-h]
    objective = (squares[h:] - squares[:-h]) - total * total / h
    k = int(np.argmin(objective))
    return np.array([centre + np.mean(b[k : k + h] - centre)])


@jitable()
def _trimmed(r: Any, f: Any, h: Any, above: Any, w: Any, t: Any) -> Any:
    """Set w to the weights of the h smallest |r|, and return their sum of squares."""
    edge = _subsets.upper_quantile(r, f, above, w, t)
    room = h
    for i in range(len(r)):
        w[i] = f[i] if math.fabs(r[i]) < edge else 0.0
        room -= w[i]
    # What is left of h goes to the rows at the edge, in their order.
    total = 0.0
    for i in range(len(r)):
        if math.fabs(r[i]) == edge and room > 0.0:
            w[i] = f[i] if f[i] < room else room
            room -= w[i]
        if w[i] > 0.0:
            total += w[i] * r[i] * r[i]
    return total


_unique = named(_subsets.STAMP)
_jit = jit(nogil=True, error_model="numpy")


@_jit
@_unique
def _trim(r: Any, f: Any, h: Any, above: Any, w: Any, t: Any) -> Any:
    """Return `_trimmed`, for NumPy."""
    return _trimmed(r, f, h, above, w, t)


@_jit
@_unique
def _descend(
    At: Any, b: Any, f: Any, h: Any, above: Any, first: Any, order: Any, offset: Any, x: Any,
    steps: Any, objective: Any,
) -> None:  # fmt: skip
    """Improve every fit by C-steps in place; draw it first if asked."""
    p, n = At.shape
    r, w, t = np.empty(n), np.empty(n), np.empty(n)
    G, L = np.empty((p, p)), np.empty((p, p))
    g, d, new_x, room = np.empty(p), np.empty(p), np.empty(p), _subsets.room(p)
    for k in range(len(objective)):
        if len(first) > 0 and not _subsets.elemental(At, b, first[k], order, offset[k], x[k], room):
            continue
        for j in range(p):
            new_x[j] = x[k, j]
        last = math.inf
        for step in range(steps + 1):
            _dense.residuals(At, b, new_x, r)
            total = _trimmed(r, f, h, above, w, t)
            if not total < last * (1.0 - 1e-14):
                break
            last = total
            for j in range(p):
                x[k, j] = new_x[j]
            if step == steps:
                break
            _dense.gram(At, w, t, G)
            _dense.gradient(At, w, r, t, g)
            _dense.cholesky(G, L)
            _dense.cholesky_solve(L, g, d)
            for j in range(p):
                new_x[j] += d[j]
        objective[k] = last
