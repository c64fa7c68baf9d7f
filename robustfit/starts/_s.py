"""S-estimates of regression by the fast-S search."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import _kernels, linalg
from robustfit._inputs import Data
from robustfit._kernels import LARGE_ELEMENTS, RowSums, Sums, in_threads
from robustfit._kernels._dense import padded
from robustfit._kernels._loss import pointer
from robustfit._streamed import Streamed
from robustfit.losses import Loss
from robustfit.starts import _s_kernels, _subsets
from robustfit.starts._s_kernels import ROUNDING
from robustfit.starts._subsets import NO_DRAWS, Draws, Rows

Array = NDArray[np.float64]

# Of a large problem, so many distinct candidates are refined on all rows.
_FINALISTS = 3
# Of a very large one, so many rows bring them nearer first, to this many standard errors.
_MIDDLE, _MIDDLE_TOL = 50_000, 1e-2

# So many subsets share a list of the best, and a thread.
_PART = 250
# Two candidates are the same solution if their scales agree to this, relatively.
_SAME_SCALE = 1e-6
# Where a step changes the fit by less than this many scales, Newton's method is tried.
_NEAR = 0.1
# A scale below this, relative to 1 + sum |x|, may be rounding error.
_EXACT = 1e-11
# A scale above this is not on its way to zero.
_NOT_EXACT = 1e-3
# Up to this condition number of the columns, Gram matrices keep half of their digits.
_WELL = 1e4
# A candidate this many times larger in scale on the pool of rows is not the best on all.
_HOPELESS = 1.1
# The error of a scale, relatively, is about the square of this.
_SCALE_TOL = 1e-7


@dataclass(frozen=True)
class SFit:
    """An S-estimate.

    Attributes
    ----------
    x : ndarray of shape (p,)
        Coefficients.
    scale : float
        M-scale of the residuals, in response units; 0 on an exact fit.
    reached : int
        How many of the candidates ended within 1e-6, relatively, of the best scale.
    candidates : int
        How many were refined to convergence.
    alternatives : tuple of (ndarray, float)
        Coefficients and scale of the other local minima found, each more than about one
        standard error from `x` and from one another, best first.
    converged : bool
        Whether the refinement of `x` met the tolerance.
    """

    x: Array
    scale: float
    reached: int
    candidates: int
    alternatives: tuple[tuple[Array, float], ...]
    converged: bool


def s_estimate(
    A: Array,
    b: Array,
    loss: Loss,
    *,
    freq: Array | None = None,
    rng: np.random.Generator,
    breakdown: float | None = None,
    exhaustive_limit: int = 5000,
    nsubsets: int = 1000,
    k_steps: int = 2,
    nbest: int = 20,
    tol: float = 1e-10,
    maxiter: int = 500,
) -> SFit:
    """Return the S-estimate: the x whose residuals have the smallest M-scale.

    Parameters
    ----------
    A : ndarray of shape (n, p)
        Design of full column rank.
    b : ndarray of shape (n,)
        Response.
    loss : Loss
        A bounded loss; its constant decides about the breakdown point.
    freq : ndarray of shape (n,), optional
        How often each row counts. A row of 2 is two equal rows.
    rng : Generator
        Draws the subsets.
    breakdown : float, optional
        Level of the scale equation. Default: ``loss.breakdown()``, at which the scale is
        consistent at the normal.
    exhaustive_limit : int, default: 5000
        If there are at most so many subsets of p rows, all are tried.
    nsubsets : int, default: 1000
        Otherwise, how many are drawn.
    k_steps : int, default: 2
        Reweighting steps that each subset's fit is improved by.
    nbest : int, default: 20
        How many of these are refined to convergence.
    tol : float, default: 1e-10
        Size of the last step in standard errors.
    maxiter : int, default: 500
        Limit of the steps of each refinement.

    Returns
    -------
    SFit
        The best fit found, and how the search went.

    Raises
    ------
    ValueError
        If the loss is unbounded or the problem has fewer rows than columns.

    Notes
    -----
    The scale solves ``sum(freq * rho(r / s)) = breakdown (n - p) sup rho`` with n the sum of
    `freq`. It is 0 where at most ``breakdown (n - p)`` residuals differ from zero by more than
    rounding; x then fits the other rows exactly.

    The search is fast-S (Salibian-Barrera and Yohai 2006) with nonsingular subsampling
    (Koller and Stahel 2017), so that designs with factors work. With more than 2000 rows,
    subsets are drawn within five random groups of rows, the candidates compared on a few
    thousand rows and the best refined on all. Each refinement step is a reweighting step,
    which never increases the scale, or near the solution a Newton step if it decreases it.

    References
    ----------
    Rousseeuw, P. J. and Yohai, V. (1984), Robust regression by means of S-estimators,
    *Lecture Notes in Statistics* 26, 256-272, doi:10.1007/978-1-4615-7821-5_15.
    Salibian-Barrera, M. and Yohai, V. J. (2006), A fast algorithm for S-regression estimates,
    *J. Comput. Graph. Statist.* 15, 414-427, doi:10.1198/106186006X113629.
    Koller, M. and Stahel, W. A. (2017), Nonsingular subsampling for regression S estimators
    with categorical predictors, *Comput. Statist.* 32, 631-646,
    doi:10.1007/s00180-016-0679-x.

    Examples
    --------
    >>> import numpy as np
    >>> from robustfit.datasets import load
    >>> from robustfit.losses import get_loss
    >>> from robustfit.starts import s_estimate
    >>> stars = load("starsCYG")
    >>> fit = s_estimate(
    ...     stars.A, stars.b, get_loss("tukey", breakdown=0.5), rng=np.random.default_rng(0)
    ... )
    >>> print(f"slope {fit.x[1]:.4f}, scale {fit.scale:.6f}")
    slope 3.2904, scale 0.471456
    """
    if not loss.bounded:
        raise ValueError(f"loss must be bounded for an S-estimate, got {loss!r}")
    A, b, f = _subsets.counted(A, b, freq)
    level = loss.breakdown() if breakdown is None else float(breakdown)
    if not 0.0 < level < 1.0:
        raise ValueError(f"breakdown must be in (0, 1), got breakdown={breakdown!r}")
    pool = _subsets.pool(A, rng)
    unit = _subsets.typical(b[pool])
    M = _subsets.preconditioner(A[pool])
    goal = level * (float(np.sum(f)) - A.shape[1])
    problem = _Problem(M, loss, goal, A, b / unit, f)
    part = A[pool], b[pool], f[pool]
    plan = _Plan(level, exhaustive_limit, nsubsets, k_steps, nbest, tol, maxiter)
    large = len(A) > _subsets.LARGE
    middle = None
    if len(A) > 4 * _MIDDLE:
        middle = functools.partial(problem.sample, _MIDDLE, rng)
    return _estimate(problem, part, unit, plan, middle, rng, large)


def s_estimate_streamed(
    data: Streamed, loss: Loss, *, rng: np.random.Generator, breakdown: float, tol: float = 1e-10
) -> SFit:
    """Return the S-estimate of rows that are read in blocks.

    The search is that of `s_estimate` for many rows, on a uniform sample; passes over all rows
    refine what it finds.
    """
    some = data.sample
    A, b, f = _subsets.counted(some.A * some.inv_sd[:, None], some.b * some.inv_sd, some.freq)
    pool = _subsets.pool(A, rng)
    unit = _subsets.typical(b[pool])
    M = _subsets.preconditioner(A[pool])
    count = data.nobs - data.width
    problem = _StreamedProblem(M, loss, breakdown * count, data, unit)
    part = A[pool], b[pool], f[pool]
    middle = None
    if len(pool) < len(A):
        goal = breakdown * (float(np.sum(f)) - data.width)
        sample = _Problem(M, loss, goal, A, b / unit, f)

        def middle() -> _Problem:
            return sample

    plan = _Plan(breakdown, 5000, 1000, 2, 20, tol, 500)
    return _estimate(problem, part, unit, plan, middle, rng, large=True)


@dataclass(frozen=True)
class _Plan:
    """The options of `s_estimate`."""

    level: float
    exhaustive_limit: int
    nsubsets: int
    k_steps: int
    nbest: int
    tol: float
    maxiter: int


def _estimate(
    problem: _Whole,
    pool: tuple[Array, Array, Array],
    unit: float,
    plan: _Plan,
    middle: Callable[[], _Problem] | None,
    rng: np.random.Generator,
    large: bool,
) -> SFit:
    """Search on a pool of rows, refine what is found on all."""
    A, b, f = pool
    M = problem.M
    search = _Search(Rows.of(A, b, f, M, unit), problem.loss, plan.level, plan.tol, plan.maxiter)
    if len(A) > _subsets.LARGE:
        starts = search.grouped(plan.nsubsets, plan.k_steps, plan.nbest, rng)
    else:
        draws = _subsets.draw(search.rows, plan.nsubsets, plan.exhaustive_limit, rng)
        starts = search.of_draws(draws, plan.k_steps, plan.nbest)
    found = search.converge(starts)
    reached = int(np.sum(found.s <= found.s[0] * (1.0 + _SAME_SCALE)))
    candidates = len(found.s)
    found = search.distinct(found, 1.0)
    if large:
        found = found.take(np.arange(min(_FINALISTS, len(found.s))))
        if middle is not None:
            found = middle().refine(found, _MIDDLE_TOL, plan.maxiter)
        found = problem.refine(found, plan.tol, plan.maxiter)
    best = problem.polish(found.x[0], found.s[0])
    others = [
        (M @ z * unit, float(s * unit)) for z, s in zip(found.x[1:], found.s[1:], strict=True)
    ]
    return SFit(
        best[0] * unit, best[1] * unit, reached, candidates, tuple(others), bool(found.done[0])
    )


def m_scale(t: Array, freq: Array, loss: Loss, ddof: int = 0) -> float:
    """Return the M-scale of residuals by the equation of `s_estimate` at breakdown 1/2."""
    goal = 0.5 * (float(np.sum(freq)) - ddof) * loss.sup
    address, c, shape = pointer(loss)
    rows = padded(t), padded(freq)
    return float(_s_kernels.m_scale(address, *rows, goal, loss.sup, _SCALE_TOL, c, shape))


# -- candidates --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """Fits x (k, p) in the coordinates of the search with scales s, best first."""

    x: Array
    s: Array
    done: NDArray[np.bool_]

    def take(self, which: Any) -> _Candidates:
        return _Candidates(self.x[which], self.s[which], self.done[which])

    def sorted(self) -> _Candidates:
        # NaN sorts last.
        return self.take(np.argsort(self.s, kind="stable"))


@dataclass(frozen=True)
class _Search:
    """Candidates on one set of rows."""

    rows: Rows
    loss: Loss
    level: float
    tol: float
    maxiter: int

    @property
    def goal(self) -> float:
        return self.level * max(self.rows.count - len(self.rows.At), 0.0) * self.loss.sup

    @functools.cached_property
    def _padded(self) -> tuple[Array, Array, Array]:
        """The rows as the kernels see them."""
        rows = self.rows
        return padded(rows.At), padded(rows.b), padded(rows.freq)

    def best(self, draws: Draws, given: Array, steps: int, most: int) -> Array:
        """Return starts: the best fits to subsets, or of the given ones, and least squares."""
        rows, loss, goal = self.rows, self.loss, self.goal
        address, c, shape = pointer(loss)
        At, b, freq = self._padded
        p, n = At.shape

        def work(part: slice) -> tuple[Array, Array]:
            x, s = np.zeros((most, p)), np.empty(most)
            _s_kernels.screen(
                address, At, b, freq, goal, loss.sup, draws.first[part],
                draws.order, draws.offset[part], given[part], steps, c, shape, x, s,
            )  # fmt: skip
            return x, s

        count = max(len(draws.first), len(given))
        found = in_threads(work, count, _PART, count * n * (100.0 + p * p))
        x, s = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        order = np.argsort(s, kind="stable")
        return _subsets.starts(x[order], s[order], most, rows)

    def of_draws(self, draws: Draws, steps: int, most: int) -> Array:
        return self.best(draws, np.empty((0, len(self.rows.At))), steps, most)

    def grouped(self, nsubsets: int, k_steps: int, nbest: int, rng: np.random.Generator) -> Array:
        """Return starts from subsets of groups of rows, improved on all rows here."""
        starts = []
        for rows in _subsets.groups(self.rows, rng):
            draws = _subsets.draw(rows, -(-nsubsets // _subsets.GROUPS), 0, rng)
            starts.append(replace(self, rows=rows).of_draws(draws, k_steps, nbest))
        return self.best(NO_DRAWS, np.vstack(starts), k_steps, nbest)

    def converge(self, starts: Array) -> _Candidates:
        """Return the candidates that refinement of the starts leads to."""
        loss, goal, x = self.loss, self.goal, starts.copy()
        s, done = np.full(len(x), np.nan), np.zeros(len(x), dtype=np.bool_)
        address, c, shape = pointer(loss)
        At, b, freq = self._padded
        p, n = At.shape

        def work(part: slice) -> None:
            _s_kernels.refine(
                address, At, b, freq, goal, loss.sup, x[part], self.maxiter,
                self.tol, 1e-14, c, shape, s[part], done[part],
            )  # fmt: skip

        in_threads(work, len(x), 3, len(x) * n * (30.0 + p * p) * 10.0)
        return _Candidates(x, s, done).sorted()

    def distinct(self, found: _Candidates, apart: float) -> _Candidates:
        """Return the candidates that differ by more than `apart` standard errors."""
        kept, rest = [], np.flatnonzero(np.isfinite(found.s))
        while len(rest) > 0:
            kept.append(rest[0])
            rest = rest[1:][self.separation(found, rest[0], rest[1:]) > apart]
        return found.take(np.array(kept))

    def separation(self, found: _Candidates, j: Any, others: NDArray[np.intp]) -> Array:
        """Return about how many standard errors lie between one candidate and others.

        The mean square of a difference of one is p / n squared scales; a row counts for at
        most one squared scale, so that a leverage point alone does not separate.
        """
        change = (found.x[others] - found.x[j]) @ self.rows.At
        s = max(found.s[j], _EXACT * (1.0 + float(np.sum(np.abs(found.x[j])))))
        square = np.minimum(np.abs(change) / s, 1.0) ** 2
        return np.asarray(np.sqrt(square @ self.rows.freq / len(self.rows.At)))


# -- all rows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Whole(abc.ABC):
    """All rows in the caller's coordinates, with b divided by its unit.

    ``goal`` is the scale equation's right-hand side over sup rho.
    """

    M: Array
    loss: Loss
    goal: float

    @property
    @abc.abstractmethod
    def count(self) -> float:
        """How many rows there are, repeated rows counted."""

    @property
    @abc.abstractmethod
    def many(self) -> bool:
        """Whether refinement goes over the rows of A as they are."""

    @abc.abstractmethod
    def sums(self, x: Array, s: float, newton: bool, basis: Array | None) -> Sums:
        """Return the sums at (x, s)."""

    @abc.abstractmethod
    def scale(self, z: Array, s: float, tol: float) -> float:
        """Return the M-scale at z, starting from s where that is no rounding error."""

    @abc.abstractmethod
    def exact(self, x: Array) -> Array | None:
        """Return the exact fit, if x fits all but the rows that the scale ignores."""

    @functools.cached_property
    def basis(self) -> Array | None:
        """M where A alone is too ill-conditioned to be squared."""
        poor = not np.linalg.cond(self.M / np.linalg.norm(self.M, axis=1)[:, None]) < _WELL
        return self.M if poor else None

    def fold(self, x: Array, s: float, newton: bool) -> Sums:
        """Return the sums at (x, s), with Gram matrix and gradient in the coordinates of M."""
        sums = self.sums(x, s, newton, self.basis)
        if self.basis is not None:
            return sums
        M = self.M
        return sums._replace(gram=M.T @ sums.gram @ M, gradient=M.T @ sums.gradient)

    def refine(self, found: _Candidates, tol: float, maxiter: int) -> _Candidates:
        """Return the candidates refined on all rows."""
        x, s, done = found.x.copy(), found.s.copy(), np.zeros(len(found.s), dtype=np.bool_)
        for k, exact in enumerate(s < _EXACT * (1.0 + np.sum(np.abs(x), axis=1))):
            # That some of the rows are fitted exactly does not mean that enough of all are.
            s[k] = self.scale(x[k], s[k], 1e-2) if exact else s[k]
        best = np.min(s)
        for k in range(len(x)):
            if s[k] <= _HOPELESS * best:
                x[k], s[k], done[k] = self.joint(x[k], s[k], tol, maxiter)
            else:
                s[k] = self.scale(x[k], s[k], 1e-2)
        return _Candidates(x, s, done).sorted()

    def newton_scale(self, s: float, sums: Sums) -> float:
        return _kernels.newton_scale(s, sums.rho, sums.slope, self.goal * self.loss.sup)

    def joint(self, z: Array, s: float, tol: float, maxiter: int) -> tuple[Array, float, bool]:
        """Return coefficients and scale refined together, one pass over the rows a step.

        At the solution the scale is stationary in x, so that the two Newton steps do not
        disturb each other and the passes need not wait for an exact scale.
        """
        # A candidate of the search is near its solution.
        last, newton = math.inf, True
        near = _NEAR * math.sqrt(self.count)
        for _ in range(maxiter):
            if s < ROUNDING * (1.0 + float(np.sum(np.abs(z)))):
                return z, s, True
            sums = self.fold(self.M @ z, s, newton)
            G, g = sums.gram, sums.gradient
            d = linalg.solve_gram(G, g)
            if d is None:
                if newton:
                    newton = False
                    continue
                d = np.asarray(np.linalg.lstsq(G, g)[0], dtype=np.float64)
            size = math.sqrt(max(float(d @ g), 0.0)) / s
            new = self.newton_scale(s, sums)
            change = abs(new - s) / s
            z, s = z + d, new
            # The next step of Newton's method would be smaller by more than this one was, and
            # the next change of the scale about the square of this one.
            ended = size <= tol or (newton and size * size <= tol * last < math.inf)
            ended = ended or (newton and size < 1e-7 and size >= 0.5 * last)
            if ended and change <= max(1e-7, 1e-3 * tol):
                return z, s, True
            # A Newton step that does not shrink was not near the solution.
            newton = size < 0.5 * last if newton else size < near
            last = size
        return z, s, False

    def polish(self, z: Array, s: float) -> tuple[Array, float]:
        """Return x and the scale, with the last digits from residuals in A's coordinates."""
        x, size = self.M @ z, 1.0 + float(np.sum(np.abs(z)))
        if s >= _EXACT * size and not self.many:
            for _ in range(2):
                sums = self.fold(x, s, True)
                d = linalg.solve_gram(sums.gram, sums.gradient)
                # Away from a regular minimum there is nothing to polish.
                if d is None or not math.sqrt(max(float(d @ sums.gradient), 0.0)) < 1e-6 * s:
                    break
                x, s = x + self.M @ d, self.newton_scale(s, sums)
        # No row can be fitted to rounding where the scale is so large and no column cancels.
        if s > _NOT_EXACT * size and self.basis is None:
            return x, s
        exact = self.exact(x)
        return (x, s) if exact is None else (exact, 0.0)


@dataclass(frozen=True)
class _Problem(_Whole):
    """All rows in memory."""

    A: Array
    b: Array
    freq: Array

    @property
    def count(self) -> float:
        """How many rows there are, repeated rows counted."""
        return float(np.sum(self.freq))

    @property
    def many(self) -> bool:
        """Whether refinement goes over the rows of A as they are."""
        return self.A.size > LARGE_ELEMENTS

    def sample(self, size: int, rng: np.random.Generator) -> _Problem:
        """Return the problem of some of the rows."""
        rows = _subsets.sample_rows(self.A, size, rng)
        freq, p = self.freq[rows], len(self.M)
        goal = self.goal * (float(np.sum(freq)) - p) / (self.count - p)
        return replace(self, A=self.A[rows], b=self.b[rows], freq=freq, goal=goal)

    @functools.cached_property
    def _counts(self) -> Array | None:
        return None if np.all(self.freq == 1.0) else self.freq

    def sums(self, x: Array, s: float, newton: bool, basis: Array | None) -> Sums:
        """Return the sums at (x, s)."""
        freq = self._counts
        return RowSums(self.A, self.b, self.loss, freq, None, freq, basis)(x, s, newton)

    def refine(self, found: _Candidates, tol: float, maxiter: int) -> _Candidates:
        """Return the candidates refined on all rows."""
        if self.many:
            return super().refine(found, tol, maxiter)
        p = self.A.shape[1]
        every = _Search(
            Rows.of(self.A, self.b, self.freq, self.M, 1.0), self.loss,
            self.goal / max(self.count - p, 1.0), tol, maxiter,
        )  # fmt: skip
        return every.distinct(every.converge(found.x), 1.0)

    def scale(self, z: Array, s: float, tol: float) -> float:
        """Return the M-scale at z, starting from s where that is no rounding error."""
        r = _kernels.residuals(self.A, self.b, self.M @ z)
        rounding = _EXACT * (1.0 + float(np.sum(np.abs(z))))
        if s < rounding:
            size = np.abs(r)
            far = size > rounding
            if float(np.sum(self.freq[far])) <= self.goal:
                return 0.0
            s = float(np.median(size[far]))
        return _kernels.m_scale(r, s, self.goal * self.loss.sup, self.loss, self.freq, tol)

    def exact(self, x: Array) -> Array | None:
        """Return the exact fit, if x fits all but the rows that the scale ignores."""
        fitted = _subsets.exactly_fitted(self.A, self.b, x)
        if np.sum(self.freq[~fitted]) > self.goal:
            return None
        A, b, freq = self.A[fitted], self.b[fitted], self.freq[fitted]
        # A few rows that are repeated often may be enough, and not determine x.
        return linalg.refit(A, b, freq, x)


@dataclass(frozen=True)
class _StreamedProblem(_Whole):
    """All rows, read in blocks."""

    data: Streamed
    unit: float

    @property
    def count(self) -> float:
        """How many rows there are, repeated rows counted."""
        return self.data.nobs

    @property
    def many(self) -> bool:
        """Whether refinement goes over the rows of A as they are."""
        return True

    def sums(self, x: Array, s: float, newton: bool, basis: Array | None) -> Sums:
        """Return the sums at (x, s)."""
        unit = self.unit
        sums: Sums = self.data.fold(_block_sums, self.loss, basis, x * unit, s * unit, newton)
        return sums._replace(gradient=sums.gradient / unit)

    def scale(self, z: Array, s: float, tol: float) -> float:
        """Return the M-scale at z, starting from s where that is no rounding error."""
        x, unit, loss = self.M @ z * self.unit, self.unit, self.loss
        rounding = _EXACT * (1.0 + float(np.sum(np.abs(z))))
        if s < rounding:
            far, size = self.data.fold(_far, x, rounding * unit)
            if far <= self.goal:
                return 0.0
            s = size / far / unit
        found = _kernels.solve_m_scale(
            lambda s: self.data.fold(_block_rho, loss, x, s), s * unit, self.goal * loss.sup, tol
        )
        return found / unit

    def exact(self, x: Array) -> Array | None:
        """Return x if it fits all but the rows that the scale ignores exactly.

        The exact fit itself is found by the iteration, see `settled` there.
        """
        return x if self.data.fold(_unfitted, x * self.unit) <= self.goal else None


def _block_sums(
    data: Data, loss: Loss, basis: Array | None, x: Array, s: float, newton: bool
) -> Sums:
    if data.plain:
        return RowSums(data.A, data.b, loss, basis=basis)(x, s, newton)
    freq, sd = data.freq, data.inv_sd
    return RowSums(data.A, data.b, loss, freq, sd, data.row_weights, basis)(x, s, newton)


def _block_rho(data: Data, loss: Loss, x: Array, s: float) -> tuple[float, float]:
    return _kernels.rho_sums(data.residuals(x) * data.inv_sd, s, loss, data.freq)


def _far(data: Data, x: Array, rounding: float) -> tuple[float, float]:
    """Return how many residuals are larger than rounding, and their sum."""
    size = np.abs(data.residuals(x)) * data.inv_sd
    counts = np.where(size > rounding, data.freq, 0.0)
    return float(np.sum(counts)), float(counts @ size)


def _unfitted(data: Data, x: Array) -> float:
    fitted = _subsets.exactly_fitted(data.A, data.b, x)
    return float(np.sum(data.freq[~fitted]))
