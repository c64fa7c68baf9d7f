"""Parameters in which a model is linear: found by trial, and solved for instead of searched.

Golub, G. H. and Pereyra, V. (1973), The differentiation of pseudo-inverses and nonlinear least
squares problems whose variables separate, *SIAM J. Numer. Anal.* 10, 413-432,
doi:10.1137/0710036, with the Jacobian of Kaufman (1975), doi:10.1007/BF01932995.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from robustfit.nonlinear._problem import FAR, Array, Problem
from robustfit.nonlinear._together import Indices, State, descend

# A second difference below this, relative to the residuals, is rounding.
_LINEAR = 1e-10
# Singular values of the linear parameters below this, relative to the largest, are noise.
_NOISE = 1e-14
# Points and steps that a set of parameters is tried at.
_TRIALS = 2


@dataclasses.dataclass(frozen=True)
class Separation:
    """Which parameters the residuals are jointly linear in.

    Attributes
    ----------
    linear, nonlinear : ndarray of int
        Indices of the parameters.
    """

    linear: NDArray[np.intp]
    nonlinear: NDArray[np.intp]

    @classmethod
    def none(cls, problem: Problem) -> Separation:
        """Return that of a model that is linear in no parameter."""
        everything = np.arange(problem.p)
        return cls(everything[:0], everything)


def separate(problem: Problem, rng: np.random.Generator) -> Separation:
    """Return the parameters without bounds that the residuals are linear in."""
    everything = np.arange(problem.p)
    free = np.isinf(problem.lower) & np.isinf(problem.upper)
    if problem.sparse or not np.any(free):
        return Separation.none(problem)
    spread = 0.3 * rng.standard_normal((_TRIALS, problem.p))
    points = np.clip(problem.x0 * np.exp(spread), problem.lower, problem.upper)
    linear: list[int] = []
    for j in np.flatnonzero(free):
        if all(_is_linear(problem, x, [*linear, int(j)], rng) for x in points):
            linear.append(int(j))
    chosen = np.array(linear, dtype=np.intp)
    return Separation(chosen, np.setdiff1d(everything, chosen))


def _is_linear(problem: Problem, x: Array, columns: list[int], rng: np.random.Generator) -> bool:
    """Tell whether a second difference along a random direction vanishes."""
    d = np.zeros(problem.p)
    d[columns] = problem.size[columns] * rng.uniform(0.5, 1.5, len(columns))
    d[columns] *= rng.choice([-1.0, 1.0], len(columns))
    first, middle, last = (problem.residuals(x + k * d) for k in range(3))
    size = max(float(np.max(np.abs(r))) for r in (first, middle, last))
    if not size < FAR:
        return False
    return float(np.max(np.abs(first - 2.0 * middle + last))) <= _LINEAR * size


def separable_step(
    problem: Problem,
    parts: Separation,
    x: Array,
    rows: NDArray[np.intp],
    tol: float,
    steps: int,
) -> Array:
    """Return least-squares fits of some observations, by variable projection where it can be.

    Parameters
    ----------
    problem : Problem
        What is fitted.
    parts : Separation
        Which parameters are linear.
    x : ndarray of shape (k, p)
        Starts; what they say of linear parameters does not matter.
    rows : ndarray of shape (k, m)
        The observations of each fit.
    tol, steps : float, int
        Precision, and steps at most.
    """
    each = (rows[:, :, None] * problem.block + np.arange(problem.block)).reshape(len(x), -1)
    projection = _Projection(problem, parts, each)
    t = x[:, parts.nonlinear]
    if t.shape[1] > 0:
        t = descend(projection, t, tol, steps)
    solved = projection.evaluate(t, np.arange(len(x)))[1]
    failed = ~np.all(np.isfinite(solved), axis=1)
    return np.where(failed[:, None], x, solved)


@dataclasses.dataclass
class _Projection:
    """Squares of some observations as a function of the nonlinear parameters alone."""

    problem: Problem
    parts: Separation
    each: NDArray[np.intp]  # residuals that count, (k, m)

    def evaluate(self, t: Array, which: Indices) -> State:
        """Return residuals, parameters, and a basis of what the linear ones can describe."""
        problem, linear = self.problem, self.parts.linear
        k, q = len(t), len(linear)
        points = np.zeros((k, 1 + q, problem.p))
        points[:, :, self.parts.nonlinear] = t[:, None]
        points[:, 1 + np.arange(q), linear] = problem.size[linear]
        values = problem.many(points.reshape(-1, problem.p)).reshape(k, 1 + q, -1)
        values = np.take_along_axis(values, self.each[which, None], axis=2)
        failed = ~(np.max(np.abs(values), axis=(1, 2)) < FAR)
        values[failed] = FAR
        x, offset = points[:, 0], values[:, 0]
        if q == 0:
            return offset, x, np.zeros((k, offset.shape[1], 0))
        A = (values[:, 1:] - values[:, :1]).transpose(0, 2, 1)
        length = np.linalg.norm(A, axis=1)
        length = np.where(length > 0.0, length, 1.0)
        U, s, Vt = np.linalg.svd(A / length[:, None], full_matrices=False)
        keep = s > _NOISE * s[:, :1]
        U = U * keep[:, None]
        along = np.einsum("kmj,km->kj", U, offset)
        best = np.einsum("kj,kji->ki", along / np.where(keep, s, 1.0), Vt)
        x[:, linear] = -best / length * problem.size[linear]
        x[failed] = np.nan
        return offset - np.einsum("kmj,kj->km", U, along), x, U

    def residuals(self, state: State, which: Indices) -> Array:
        """Return what the linear parameters leave over."""
        return state[0]

    def jacobian(self, t: Array, state: State, which: Indices) -> Array:
        """Return its derivatives, without the part that is small near a good fit."""
        _, x, U = state
        x = np.where(np.isfinite(x), x, self.problem.x0)
        G = self.problem.jacobians(x, self.parts.nonlinear)
        G = np.take_along_axis(G, self.each[which, :, None], axis=1)
        return np.asarray(G - U @ (U.transpose(0, 2, 1) @ G))

    def settle(self, state: State, which: Indices) -> NDArray[np.bool_]:
        """Return which fits are exact."""
        return np.asarray(np.max(np.abs(state[0]), axis=1) <= self.problem.floor)

    @property
    def limits(self) -> tuple[Array, Array]:
        """Lower and upper bounds of the nonlinear parameters."""
        nonlinear = self.parts.nonlinear
        return self.problem.lower[nonlinear], self.problem.upper[nonlinear]
