"""Where a robust fit of a nonlinear model starts: a ladder of losses, and random subsets.

A redescending loss forgets what lies far away, so it may not start just anywhere. Starts are the
fits by least squares, pseudo-Huber and Cauchy that the caller's parameters lead to, and
least-squares fits of random subsets of just enough observations, each followed by a
concentration step (Rousseeuw and Van Driessen 2006, doi:10.1007/s10618-005-0024-4): the fit of
the better half. The best are refined to S-estimates, local minima of the M-scale of the residuals.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import scale as scales
from robustfit.losses import get_loss
from robustfit.nonlinear._blocks import s_loss
from robustfit.nonlinear._descent import least_squares_step, robust_step
from robustfit.nonlinear._problem import FAR, Array, Problem
from robustfit.nonlinear._scales import s_scale, s_scales
from robustfit.nonlinear._separable import Separation, separable_step, separate
from robustfit.nonlinear._together import Robust, descend

# Subsets in a round, and rounds.
_SUBSETS = 100
_ROUNDS = 3
# Of each round, so many candidates are refined; the search ends when so many of all agree.
_REFINED = 8
_AGREEING = 4
#: The largest number of candidates.
MOST = _REFINED * (_ROUNDS + 1)
#: Scales that differ by less, relative to the smaller, are those of one solution.
SAME = 1e-3
# So many candidates are compared in the end, of M-scales up to this multiple of the smallest.
_COMPARED, _NEAR = 5, 2.0
# In turn, subsets start from parameters multiplied by exp of so many standard normals: every
# fourth time from those of the best fit so far.
_SPREADS = (0.0, 1.0, 3.0)
#: With more observations, those of the search are a sample of half as many.
LARGE = 4000
# Where the work is shared, so many are one piece of it; residuals times parameters of a piece.
_SHARE, _VALUES = 5, 1 << 22
# Rows times evaluations of the model that the subsets may cost.
_BUDGET = 2e8

_ROUGH, _LOOSE, _CLOSE = 1e-3, 1e-4, 1e-7
# Steps of a descent: of subsets, of the ladder, and towards an S-estimate.
_FEW, _SOME, _MANY = 60, 25, 200
# After so many, those with an M-scale up to this multiple of the smallest go on.
_FIRST, _HOPEFUL = 25, 3.0


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A local minimum of the M-scale."""

    x: Array
    scale: float


Report = Callable[[Candidate], None]
Map = Callable[[Callable[[Any], Any], Any], Any]


def search(
    problem: Problem, rng: np.random.Generator, subsets: bool, run: Map, report: Report
) -> list[Candidate]:
    """Return S-estimates, the smallest scale first.

    Parameters
    ----------
    problem : Problem
        What to fit.
    rng : numpy.random.Generator
        Draws the subsets.
    subsets : bool
        Whether to try subsets, or only the ladder. With a sparse Jacobian there are too many
        parameters for subsets.
    run : callable
        ``map``, or one that works in parallel.
    report : callable
        Is told each S-estimate that has been found.
    """
    if problem.sparse:
        return _one_by_one(problem, report)
    if problem.sample is not None:
        return _sampled(problem, problem.sample, rng, subsets, run, report)
    parts = separate(problem, rng)
    found: list[Candidate] = []
    starts = ladder(problem, parts)
    rounds = _ROUNDS if subsets and problem.n > _enough(problem) else 0
    for k in range(rounds + 1):
        if k > 0:
            draws = _draws(problem, found[0].x, rng, run)
            starts = np.concatenate(list(run(_Subsets(problem, parts), draws)))
        best = np.argsort(trimmed(problem, starts), kind="stable")[:_REFINED]
        for candidate in refine(problem, starts[best]):
            found.append(candidate)
            report(candidate)
        found.sort(key=lambda candidate: candidate.scale)
        smallest = found[0].scale
        agreeing = sum(c.scale <= smallest * (1.0 + SAME) for c in found)
        done = k > 0 and agreeing >= _AGREEING
        if smallest <= problem.floor or done or problem.evaluations * problem.n > _BUDGET:
            break
    return found


def _sampled(
    problem: Problem,
    sample: Callable[[NDArray[np.intp]], Problem],
    rng: np.random.Generator,
    subsets: bool,
    run: Map,
    report: Report,
) -> list[Candidate]:
    """Return the S-estimates that the best ones of a sample of the observations lead to."""
    part = sample(np.sort(rng.choice(problem.n, LARGE // 2, replace=False)))
    found = distinct(search(part, rng, subsets, run, lambda candidate: None))
    problem.evaluations += part.evaluations
    points = [candidate.x for candidate in found]
    # What only few observations tell may not be in the sample.
    points.append(least_squares_step(problem, problem.x0, None, _LOOSE, _SOME * (problem.p + 1)))
    end = refine(problem, np.array(points))
    for candidate in end:
        report(candidate)
    return sorted(end, key=lambda candidate: candidate.scale)


def distinct(found: list[Candidate]) -> list[Candidate]:
    """Return the best candidates, each scale once."""
    best = found[:1]
    for candidate in found:
        far = candidate.scale > _NEAR * found[0].scale
        if not far and candidate.scale > best[-1].scale * (1.0 + SAME):
            best.append(candidate)
    return best[:_COMPARED]


def ladder(problem: Problem, parts: Separation) -> Array:
    """Return the fits by ever more robust losses that the caller's start leads to, (k, p)."""
    everything, none = np.arange(problem.n)[None], Separation.none(problem)
    x0 = problem.x0[None]
    firsts = [x0, separable_step(problem, none, x0, everything, _CLOSE, _SOME)]
    if len(parts.linear) > 0:
        firsts.append(separable_step(problem, parts, x0, everything, _CLOSE, _SOME))
    steps = [np.concatenate(firsts)]
    for name in ("pseudo_huber", "cauchy"):
        loss, x = get_loss(name), steps[-1]
        target = Robust(problem, loss, np.ones(len(x)), _median)
        steps.append(descend(target, x, _ROUGH, _SOME))
    return np.concatenate(steps)


def _median(lengths: Array, _: Array) -> Array:
    """Return the median absolute residual as a scale."""
    return np.asarray(scales.mad(lengths, center=0.0, axis=1))


def _one_by_one(problem: Problem, report: Report) -> list[Candidate]:
    """Return the S-estimates that the ladder leads to, for a Jacobian that is no array."""
    found: list[Candidate] = []
    x = problem.x0
    for loss in (None, get_loss("pseudo_huber"), get_loss("cauchy")):
        scale = 1.0 if loss is None else float(_median(problem.norms(x)[None], np.ones(1))[0])
        if not problem.floor < scale < FAR:
            break
        if loss is None:
            x = least_squares_step(problem, x, None, _CLOSE, _MANY)
        else:
            x = robust_step(problem, x, loss, scale, _LOOSE, _MANY)
        found.append(_refined(problem, x))
        report(found[-1])
    return sorted(found, key=lambda candidate: candidate.scale)


def _refined(problem: Problem, x: Array) -> Candidate:
    """Return the local minimum of the M-scale that x leads to, a fit at a time."""
    best = Candidate(x, s_scale(problem, x))
    for _ in range(8):
        if not problem.floor < best.scale < FAR:
            break
        x = robust_step(problem, best.x, s_loss(problem.block), best.scale, _CLOSE, _MANY)
        new = Candidate(x, s_scale(problem, x))
        if not new.scale < best.scale:
            break
        settled = new.scale > best.scale * (1.0 - SAME)
        best = new
        if settled:
            break
    return best


# -- subsets -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Subsets:
    """Fits subsets of the observations, and then the half that each fits best."""

    problem: Problem
    parts: Separation

    def __call__(self, draws: tuple[Array, NDArray[np.intp]]) -> Array:
        """Return the fits of the better halves, (k, p)."""
        problem, half = self.problem, _half(self.problem)
        x, rows = draws
        with np.errstate(all="ignore"):
            x = separable_step(problem, self.parts, x, rows, _LOOSE, _FEW)
            lengths = problem.lengths(problem.together(x))
            rows = np.argpartition(lengths, half - 1, axis=1)[:, :half]
            return separable_step(problem, self.parts, x, rows, _LOOSE, _FEW)


def _draws(
    problem: Problem, best: Array, rng: np.random.Generator, run: Map
) -> list[tuple[Array, NDArray[np.intp]]]:
    """Return where to start and the observations to fit, in parts for those who share the work."""
    rows = [rng.choice(problem.n, _enough(problem), replace=False) for _ in range(_SUBSETS)]
    spread = np.resize(_SPREADS, _SUBSETS)[:, None]
    factor = np.exp(spread * rng.standard_normal((_SUBSETS, problem.p)))
    centre = np.where(np.arange(_SUBSETS)[:, None] % 4 == 3, best, problem.x0)
    x = np.clip(centre * factor, problem.lower, problem.upper)
    share = _SUBSETS if run is map else _SHARE
    share = max(1, min(share, _VALUES // (problem.n * problem.block * problem.p)))
    starts = range(0, _SUBSETS, share)
    return [(x[k : k + share], np.array(rows[k : k + share])) for k in starts]


def _enough(problem: Problem) -> int:
    """Return the number of observations with one residual more than there are parameters."""
    return math.ceil((problem.p + 1) / problem.block)


def _half(problem: Problem) -> int:
    """Return the number of observations that a fit of the largest breakdown point rests on."""
    return min((problem.n + math.ceil(problem.p / problem.block) + 1) // 2, problem.n)


def trimmed(problem: Problem, x: Array) -> Array:
    """Return the sums of squares of the better half of the residuals, at points (k, p)."""
    half = _half(problem)
    lengths = problem.lengths(problem.together(x))
    smaller = np.partition(lengths, half - 1, axis=1)[:, :half]
    return np.asarray(np.sum(smaller**2, axis=1))


# -- S-estimates -------------------------------------------------------------------------------


def refine(problem: Problem, x: Array) -> list[Candidate]:
    """Return the local minima of the M-scale that points (k, p) lead to."""
    scale = s_scales(problem, problem.lengths(problem.together(x)))
    loss, rule = s_loss(problem.block), _MScale(problem)
    x, chosen = x.copy(), np.arange(len(x))
    for steps in (_FIRST, _MANY):
        end = descend(Robust(problem, loss, scale[chosen], rule), x[chosen], _CLOSE, steps)
        after = s_scales(problem, problem.lengths(problem.together(end)))
        lower = after <= scale[chosen]
        x[chosen[lower]], scale[chosen[lower]] = end[lower], after[lower]
        # The others would have far to go.
        chosen = np.flatnonzero(scale <= _HOPEFUL * np.min(scale))
    return [Candidate(point, float(s)) for point, s in zip(x, scale, strict=True)]


@dataclasses.dataclass(frozen=True)
class _MScale:
    """Follows the M-scale, by one step of Newton's method."""

    problem: Problem

    def __call__(self, lengths: Array, scale: Array) -> Array:
        """Return scales nearer to the M-scales."""
        problem, loss = self.problem, s_loss(self.problem.block)
        goal = 0.5 * loss.sup * (problem.n - problem.p / problem.block)
        u = lengths / np.maximum(scale, 1.0 / FAR)[:, None]
        excess = np.sum(loss.ufunc("rho")(u, loss.c), axis=1) - goal
        change = 1.0 - 2.0 * excess / np.sum(loss.ufunc("psi")(u, loss.c) * u, axis=1)
        factor = np.where(change > 0.0, 1.0 / np.sqrt(np.maximum(change, 1e-6)), 4.0)
        return np.asarray(scale * np.clip(np.nan_to_num(factor, nan=1.0), 0.25, 4.0))
