"""What a fit is worth: weights, covariance, and the status with advice."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import numpy as np
from scipy import sparse
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator

from robustfit import covariance, linalg
from robustfit.losses import Loss
from robustfit.nonlinear._blocks import BlockLoss
from robustfit.nonlinear._engine import Start, exact_rows
from robustfit.nonlinear._problem import Array, Problem
from robustfit.result import Status

COV_TYPES = ("huber", "H1", "H2", "H3", "w", "HC")
#: The forms that hold for blocks of residuals, too.
BLOCK_COV_TYPES = ("huber", "H1")

# Singular values of the scaled Jacobian below this, relative to the largest, are noise.
_NOISE = {"2-point": 1e-8, "3-point": 1e-10}
_ANALYTIC = 1e-13
# A sum of weights up to this is of none.
_FLAT = 1e-3
# A sparse Jacobian with more elements is not made dense for a covariance.
_DENSE = 50_000_000


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What a fit is worth, in the caller's units.

    Attributes
    ----------
    scale : float
        Scale of the residuals.
    weights : ndarray of shape (n,)
        Robustness weights.
    cov : ndarray of shape (p, p)
        Covariance of the parameters, infinite where it is not defined.
    status : Status
        How the fit ended.
    message : str
        What there is to say beyond the verdict.
    """

    scale: float
    weights: Array
    cov: Array
    status: Status
    message: str


def assess(
    problem: Problem,
    loss: Loss,
    start: Start,
    last: OptimizeResult,
    cov_type: str,
) -> Assessment:
    """Return what the fit is worth."""
    x = np.asarray(last.x)
    if start.scale > 0.0:
        weights = np.asarray(loss.weight(problem.norms(x) / start.scale))
    else:
        weights = exact_rows(problem, x).astype(np.float64)
    J = _array(problem, x)
    status = _status(problem, start, last, weights, J)
    scale = start.scale * problem.unit
    cov = np.full((problem.p, problem.p), math.inf)
    if status is Status.EXACT_FIT and np.all(weights == 1.0):
        cov = np.zeros_like(cov)
    elif start.scale > 0.0 and J is not None and status not in (Status.FLAT, Status.NO_WEIGHT):
        cov = _covariance(problem, loss, start.scale, x, J, cov_type)
    message = _message(problem, status, scale, last)
    return Assessment(scale, weights, cov, status, message)


def _array(problem: Problem, x: Array) -> Array | None:
    """Return the Jacobian as an array, None if it cannot or should not be one."""
    if problem.sparsity is not None:
        problem = dataclasses.replace(problem, sparsity=None, jac="3-point")
    if problem.n * problem.block * problem.p > _DENSE:
        return None
    J = problem.jacobian(x)
    if isinstance(J, LinearOperator):
        return None
    return np.asarray(J.toarray() if sparse.issparse(J) else J)


def _status(
    problem: Problem, start: Start, last: OptimizeResult, weights: Array, J: Array | None
) -> Status:
    if start.cancelled:
        return Status.CANCELLED
    if start.scale == 0.0:
        return Status.EXACT_FIT
    # Weights that are all about 0 are as equal as others, but not of a fit.
    if not np.sum(weights) > _FLAT:
        return Status.FLAT
    if not _determined(problem, weights):
        return Status.NO_WEIGHT
    if last.status == 0:
        return Status.MAXITER
    if J is not None and _singular(problem, J, weights):
        return Status.SINGULAR_JACOBIAN
    if start.rival is not None:
        return Status.NO_MAJORITY
    return Status.AT_BOUND if np.any(last.active_mask) else Status.CONVERGED


def _determined(problem: Problem, weights: Array) -> bool:
    """Tell whether the weights are worth more equal ones than there are parameters.

    ``sum(w)**2 / sum(w**2)`` equal weights would be as informative.
    """
    total, square = float(np.sum(weights)), float(np.sum(weights**2))
    return total * total * problem.block > problem.p * square * (1.0 + 1e-9)


def _singular(problem: Problem, J: Array, weights: Array) -> bool:
    """Tell whether some combination of the parameters has no effect where there is weight."""
    A = J * np.sqrt(np.repeat(weights, problem.block))[:, None]
    length = np.linalg.norm(A, axis=0)
    if not np.all(length > 0.0):
        return True
    noise = _NOISE.get(str(problem.jac), _ANALYTIC)
    singular = np.linalg.svd(A / length, compute_uv=False)
    return bool(singular[-1] <= noise * singular[0])


def _covariance(
    problem: Problem, loss: Loss, scale: float, x: Array, J: Array, cov_type: str
) -> Array:
    """Return the covariance of the parameters, infinite where it is not defined."""
    rows = len(J)
    ones, unit = np.ones(rows), linalg.column_scale(J)
    fitted = covariance.Fitted(
        A=J * unit,
        resid=problem.residuals(x),
        freq=ones,
        inv_sd=ones,
        adjusted=False,
        loss=loss if problem.block == 1 else cast(Loss, BlockLoss(loss, problem.block)),
        scale=scale,
    )
    cov = covariance.covariance(fitted, cov_type) * np.outer(unit, unit)
    return np.where(np.isfinite(cov), cov, math.inf)


def _message(problem: Problem, status: Status, scale: float, last: OptimizeResult) -> str:
    """Return the numbers behind the verdict and what to try next."""
    if status is Status.EXACT_FIT:
        return "the scale is 0; the standard errors are those of an exact fit"
    if status is Status.FLAT:
        return (
            f"every observation is an outlier at scale={scale:.6g}, so that nothing pulls at the "
            "parameters; search for a start (start='auto'), or give a p0 nearer to the data or a "
            "larger scale"
        )
    if status is Status.NO_WEIGHT:
        return (
            f"at scale={scale:.6g} no more observations keep weight than there are parameters, "
            f"{problem.p}, so that anything would fit them; "
            "give a larger scale or a larger c, or leave scale='auto'"
        )
    if status is Status.MAXITER:
        return (
            f"no convergence in {last.nfev} evaluations of the last step; raise max_nfev, give "
            "the derivatives (jac) or another p0, or look for parameters that replace each other"
        )
    if status is Status.SINGULAR_JACOBIAN:
        return (
            "some combination of the parameters changes nothing where there is data; fix one "
            "of them, write the model with fewer, or give bounds or more data"
        )
    if status is Status.NO_MAJORITY:
        return (
            "another fit explains about as many observations, and other ones; look at the data, "
            "and give p0, bounds or scale to say which is meant"
        )
    if status is Status.AT_BOUND:
        at = ", ".join(str(j) for j in np.flatnonzero(last.active_mask))
        return f"parameter {at} is at a bound; the standard errors do not know of bounds"
    return ""
