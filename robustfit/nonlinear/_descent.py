"""Local descent: least squares of some observations, or a loss of all of them.

A loss is minimised as a sum of squares, that of ``r a(u)`` with ``a(u) = sqrt(2 rho(u)) / u`` and
u the residual, or the length of a block of residuals, over the scale. The gradient of these bent
residuals is exact and their Gauss-Newton matrix positive, whatever the loss, so that any
least-squares solver serves, with bounds, sparse Jacobians and blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import least_squares, leastsq
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from robustfit.losses import Loss
from robustfit.nonlinear._problem import FAR, Array, Problem

Fun = Callable[[Array], Array]
Jac = Callable[[Array], Any]


def least_squares_step(
    problem: Problem, x: Array, rows: NDArray[np.intp] | None, tol: float, evaluations: int
) -> Array:
    """Return the least-squares fit of some observations, or of all, that x leads to."""
    fun, jac = (problem.residuals, problem.jacobian) if rows is None else chosen(problem, rows)
    return minimise(problem, fun, jac, x, tol, evaluations)


def robust_step(
    problem: Problem, x: Array, loss: Loss, scale: float, tol: float, evaluations: int
) -> Array:
    """Return the minimum of ``sum(rho(r / scale))`` that x leads to."""
    fun, jac = bent(problem, loss, scale)
    return minimise(problem, fun, jac, x, tol, evaluations)


def minimise(problem: Problem, fun: Fun, jac: Jac, x: Array, tol: float, evaluations: int) -> Array:
    """Return the local minimum of ``sum(fun(x)**2)``, to a relative precision of `tol`."""
    if problem.bounded or problem.sparse:
        derivative: Any = problem.jac if problem.sparsity is not None else jac
        found = least_squares(
            fun,
            np.clip(x, problem.lower, problem.upper),
            derivative,
            (problem.lower, problem.upper),
            ftol=tol,
            xtol=tol,
            gtol=None,
            x_scale=problem.x_scale,
            jac_sparsity=problem.sparsity,
            diff_step=problem.step,
            max_nfev=evaluations,
        )
        return np.asarray(found.x)
    found = leastsq(fun, x, Dfun=jac, ftol=tol, xtol=tol, maxfev=evaluations, full_output=True)
    return np.asarray(found[0])


def chosen(problem: Problem, rows: NDArray[np.intp]) -> tuple[Fun, Jac]:
    """Return the residuals of some observations, and their Jacobian."""
    each = components(problem, rows)
    return lambda x: problem.residuals(x)[each], lambda x: problem.jacobian(x)[each]


def components(problem: Problem, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the positions of the residuals of some observations."""
    each = rows[:, None] * problem.block + np.arange(problem.block)
    return each.ravel()


def bent(problem: Problem, loss: Loss, scale: float) -> tuple[Fun, Jac]:
    """Return residuals whose sum of squares is ``2 scale**2 sum(rho(u))``, and their Jacobian."""

    def fun(x: Array) -> Array:
        return problem.residuals(x) * np.repeat(bend(loss, problem.norms(x) / scale), problem.block)

    def jac(x: Array) -> Any:
        u = problem.norms(x) / scale
        a = bend(loss, u)
        along = slope(loss, u, a)
        J = problem.jacobian(x)
        if problem.block == 1 and isinstance(J, np.ndarray):
            return along[:, None] * J
        turn = _turn(problem.residuals(x).reshape(problem.n, -1), a, along)
        return aslinearoperator(turn) @ J if isinstance(J, LinearOperator) else turn @ J

    return fun, jac


def bend(loss: Loss, u: Array) -> Array:
    """Return the factor ``a(u)`` of the residuals."""
    # Below, a(u) is 1 to rounding and rho may underflow.
    rho = loss.ufunc("rho")(u, loss.c)
    return np.where(u > 1e-8, np.sqrt(2.0 * rho) / np.maximum(u, 1e-8), 1.0)


def slope(loss: Loss, u: Array, a: Array) -> Array:
    """Return the derivative of ``u a(u)``."""
    weight = loss.ufunc("weight")(u, loss.c)
    return np.where(a > 0.0, weight / np.maximum(a, 1.0 / FAR), 0.0)


def _turn(r: Array, a: Array, along: Array) -> Any:
    """Return the derivative of the bent residuals in the residuals, a matrix of blocks.

    It is `along` in the direction of a block of residuals, and a across it.
    """
    n, k = r.shape
    e = r / np.maximum(np.linalg.norm(r, axis=1, keepdims=True), 1.0 / FAR)
    blocks = a[:, None, None] * np.eye(k) + (along - a)[:, None, None] * e[:, :, None] * e[:, None]
    return sparse.bsr_array((blocks, np.arange(n), np.arange(n + 1)), shape=(n * k, n * k))
