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
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import scale as scales
from robustfit.losses import Loss, get_loss
from robustfit.nonlinear._blocks import s_loss
from robustfit.nonlinear._descent import least_squares_step, robust_step
from robustfit.nonlinear._problem import FAR, Array, Problem
from robustfit.nonlinear._scales import s_scale
from robustfit.nonlinear._separable import Separation, separable_step, separate

# Subsets in a round, and rounds.
_SUBSETS = 50
_ROUNDS = 3
# Of each round, so many candidates are refined; the search ends when so many of all agree.
_REFINED = 8
_AGREEING = 4
#: The largest number of candidates.
MOST = _REFINED * (_ROUNDS + 1)
#: Scales that differ by less, relative to the smaller, are those of one solution.
SAME = 1e-3
# Every other subset starts from parameters multiplied by exp of so many standard normals.
_SPREAD = 1.0
# Rows times evaluations of the model that the subsets may cost.
_BUDGET = 2e8

_LOOSE, _CLOSE = 1e-4, 1e-7
_FEW, _MANY = 60, 200


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
    parts = separate(problem, rng)
    found: list[Candidate] = []
    starts = list(ladder(problem, parts))
    rounds = _ROUNDS if subsets and not problem.sparse and problem.n > _enough(problem) else 0
    for k in range(rounds + 1):
        if k > 0:
            starts = list(run(_Subset(problem, parts), _draws(problem, rng)))
        starts.sort(key=lambda x: trimmed(problem, x))
        for x in starts[:_REFINED]:
            found.append(refine(problem, x))
            report(found[-1])
        found.sort(key=lambda candidate: candidate.scale)
        best = found[0].scale
        agreeing = sum(c.scale <= best * (1.0 + SAME) for c in found)
        done = k > 0 and agreeing >= _AGREEING
        if best <= problem.floor or done or problem.evaluations * problem.n > _BUDGET:
            break
    return found


def ladder(problem: Problem, parts: Separation) -> Iterator[Array]:
    """Yield the fits by ever more robust losses that the caller's start leads to."""
    firsts = [problem.x0, least_squares_step(problem, problem.x0, None, _CLOSE, _MANY)]
    if len(parts.linear) > 0:
        everything = np.arange(problem.n)
        firsts.append(separable_step(problem, parts, problem.x0, everything, _CLOSE, _MANY))
    for x in firsts:
        yield x
        for name in ("pseudo_huber", "cauchy"):
            x = _with_own_scale(problem, get_loss(name), x)
            yield x


def _with_own_scale(problem: Problem, loss: Loss, x: Array) -> Array:
    """Return the fit with the median absolute residual as scale, re-estimated."""
    before = math.inf
    for _ in range(6):
        scale = float(scales.mad(problem.norms(x), center=0.0))
        if not problem.floor < scale < FAR or abs(scale - before) <= 0.01 * scale:
            break
        x, before = robust_step(problem, x, loss, scale, _LOOSE, _MANY), scale
    return x


# -- subsets -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Subset:
    """Fits a subset of the observations, and then the half that this fits best."""

    problem: Problem
    parts: Separation

    def __call__(self, draw: tuple[Array, NDArray[np.intp]]) -> Array:
        """Return the fit of the better half."""
        problem, half = self.problem, _half(self.problem)
        x, rows = draw
        with np.errstate(all="ignore"):
            x = separable_step(problem, self.parts, x, rows, _LOOSE, _FEW)
            rows = np.argpartition(problem.norms(x), half - 1)[:half]
            return separable_step(problem, self.parts, x, rows, _LOOSE, _FEW)


def _draws(problem: Problem, rng: np.random.Generator) -> Iterator[tuple[Array, NDArray[np.intp]]]:
    """Yield where to start and the observations to fit."""
    for k in range(_SUBSETS):
        rows = rng.choice(problem.n, _enough(problem), replace=False)
        factor = np.exp(_SPREAD * rng.standard_normal(problem.p)) if k % 2 else 1.0
        yield np.clip(problem.x0 * factor, problem.lower, problem.upper), rows


def _enough(problem: Problem) -> int:
    """Return the number of observations with one residual more than there are parameters."""
    return math.ceil((problem.p + 1) / problem.block)


def _half(problem: Problem) -> int:
    """Return the number of observations that a fit of the largest breakdown point rests on."""
    return min((problem.n + math.ceil(problem.p / problem.block) + 1) // 2, problem.n)


def trimmed(problem: Problem, x: Array) -> float:
    """Return the sum of squares of the better half of the residuals."""
    half = _half(problem)
    return float(np.sum(np.partition(problem.norms(x), half - 1)[:half] ** 2))


# -- S-estimates -------------------------------------------------------------------------------


def refine(problem: Problem, x: Array) -> Candidate:
    """Return the local minimum of the M-scale that x leads to."""
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
