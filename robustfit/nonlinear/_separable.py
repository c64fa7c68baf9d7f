"""Parameters in which a model is linear: found by trial, and solved for instead of searched.

Golub, G. H. and Pereyra, V. (1973), The differentiation of pseudo-inverses and nonlinear least
squares problems whose variables separate, *SIAM J. Numer. Anal.* 10, 413-432,
doi:10.1137/0710036, with the Jacobian of Kaufman (1975), doi:10.1007/BF01932995.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.optimize import leastsq

from robustfit.nonlinear._descent import components, least_squares_step
from robustfit.nonlinear._problem import FAR, Array, Problem

# A second difference below this, relative to the residuals, is rounding.
_LINEAR = 1e-10
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


def separate(problem: Problem, rng: np.random.Generator) -> Separation:
    """Return the parameters without bounds that the residuals are linear in."""
    everything = np.arange(problem.p)
    free = np.isinf(problem.lower) & np.isinf(problem.upper)
    if problem.sparse or not np.any(free):
        return Separation(everything[:0], everything)
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
    evaluations: int,
) -> Array:
    """Return the least-squares fit of some observations, by variable projection if it can be."""
    if problem.bounded or len(parts.linear) == 0:
        return least_squares_step(problem, x, rows, tol, evaluations)
    projection = _Projection(problem, parts, components(problem, rows))
    t = x[parts.nonlinear]
    if len(t) > 0:
        found = leastsq(
            projection.residuals,
            t,
            Dfun=projection.jacobian,
            ftol=tol,
            xtol=tol,
            maxfev=evaluations,
            full_output=True,
        )
        t = found[0]
    solved = projection.solve(t)
    return x if solved is None else solved.x


@dataclasses.dataclass(frozen=True)
class _Solved:
    """The best linear parameters for given nonlinear ones."""

    x: Array
    basis: Array  # orthonormal, of what the linear parameters can describe
    resid: Array


class _Projection:
    """Residuals of some observations as a function of the nonlinear parameters alone."""

    def __init__(self, problem: Problem, parts: Separation, each: NDArray[np.intp]) -> None:
        self.problem, self.parts, self.each = problem, parts, each
        self._last: tuple[bytes, _Solved | None] = (b"none", None)

    def residuals(self, t: Array) -> Array:
        """Return what the linear parameters leave over."""
        solved = self.solve(t)
        return np.full(len(self.each), FAR) if solved is None else solved.resid

    def jacobian(self, t: Array) -> Array:
        """Return its derivatives, without the part that is small near a good fit."""
        solved = self.solve(t)
        if solved is None:
            return np.zeros((len(self.each), len(t)))
        G = self.problem.jacobian(solved.x, self.parts.nonlinear)[self.each]
        return np.asarray(G - solved.basis @ (solved.basis.T @ G))

    def solve(self, t: Array) -> _Solved | None:
        """Return the linear least-squares solution at t; None if the model fails there."""
        if self._last[0] != t.tobytes():
            self._last = t.tobytes(), self._solve(t)
        return self._last[1]

    def _solve(self, t: Array) -> _Solved | None:
        problem, linear = self.problem, self.parts.linear
        points = np.zeros((1 + len(linear), problem.p))
        points[:, self.parts.nonlinear] = t
        points[1 + np.arange(len(linear)), linear] = problem.size[linear]
        values = problem.many(points)[:, self.each]
        if not np.max(np.abs(values)) < FAR:
            return None
        x, offset = points[0], values[0]
        A = (values[1:] - offset).T
        length = np.linalg.norm(A, axis=0)
        length[length == 0.0] = 1.0
        U, s, Vt = linalg.svd(A / length, full_matrices=False, check_finite=False)
        keep = s > 1e-14 * s[0]
        U = U[:, keep]
        x[linear] = -((U.T @ offset) / s[keep]) @ Vt[keep] / length * problem.size[linear]
        return _Solved(x, U, offset - U @ (U.T @ offset))
