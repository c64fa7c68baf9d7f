"""Of the parameters that describe one curve, those that the caller's start means.

Many models have several: the terms of a sum of exponentials or peaks can be exchanged, widths and
frequencies be negative.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from robustfit.nonlinear._descent import least_squares_step
from robustfit.nonlinear._problem import Array, Problem
from robustfit.nonlinear._separable import separable_step, separate

# Two parameter vectors describe one curve if it differs by less, in units of the scale; an
# exchange of parameters changes it by rounding only.
_ONE_CURVE, _SAME_CURVE = 0.1, 1e-6
_TIGHT, _ENOUGH = 1e-9, 200
# Terms of up to so many parameters are exchanged, in so many ways at most.
_PAIRS, _MOST = 3, 5000


def nearest(problem: Problem, x: Array, scale: float, rng: np.random.Generator) -> Array:
    """Return the parameters of the curve at x that the caller's start leads to, or is nearest to.

    Parameters
    ----------
    problem : Problem
        What is fitted.
    x : ndarray of shape (p,)
        Parameters of the curve.
    scale : float
        Scale of the residuals, in units of the problem.
    rng : numpy.random.Generator
        Draws the points at which linear parameters are looked for.
    """
    close = max(_ONE_CURVE * scale, 64.0 * problem.floor)
    target = problem.residuals(x) * problem.unit
    batch = None if problem.batch is None else _Gap(problem.batch, target)
    own = dataclasses.replace(problem, fun=_Gap(problem.fun, target), batch=batch)
    end = least_squares_step(own, problem.x0, None, _TIGHT, _ENOUGH)
    if np.max(own.norms(end)) <= close:
        return end
    parts = separate(own, rng)
    if len(parts.linear) > 0:
        # It goes another way than the caller's start may mean.
        everything = np.arange(problem.n)[None]
        end = separable_step(own, parts, problem.x0[None], everything, _TIGHT, _ENOUGH)[0]
        x = end if np.max(own.norms(end)) <= close else x
    return _exchanged(problem, x, scale)


@dataclasses.dataclass(frozen=True)
class _Gap:
    """Residuals about a given curve instead of the data."""

    fun: Callable[[Any], Any]
    target: Array

    def __call__(self, x: Any) -> Any:
        """Return the model less the curve, at one point or several."""
        return self.fun(x) - self.target


def _exchanged(problem: Problem, x: Array, scale: float) -> Array:
    """Return x with parameters exchanged or their signs changed, if that brings it nearer."""
    ways = np.array([x, *itertools.islice(_ways(x), _MOST)])
    inside = np.all((ways >= problem.lower) & (ways <= problem.upper), axis=1)
    size = np.abs(ways) + np.abs(problem.x0)
    # Each parameter counts for at most 1, which it does where the signs differ.
    apart = np.sum(np.abs(ways - problem.x0) / np.where(size > 0.0, size, 1.0), axis=1)
    curve, close = problem.residuals(x), max(_SAME_CURVE * scale, 64.0 * problem.floor)
    for k in np.argsort(apart, kind="stable"):
        if not apart[k] < apart[0]:
            break
        if inside[k] and np.max(np.abs(problem.residuals(ways[k]) - curve)) <= close:
            return np.asarray(ways[k])
    return x


def _ways(x: Array) -> Iterator[Array]:
    """Yield x with up to `_PAIRS` pairs of parameters exchanged, and with signs changed."""
    p = len(x)
    for j in range(p):
        yield np.where(np.arange(p) == j, -x, x)
    for count in range(1, _PAIRS + 1):
        for pairs in itertools.combinations(itertools.combinations(range(p), 2), count):
            indices = [j for pair in pairs for j in pair]
            if len(set(indices)) == 2 * count:
                way = x.copy()
                for first, second in pairs:
                    way[first], way[second] = x[second], x[first]
                yield way
