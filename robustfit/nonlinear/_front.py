"""What `curve_fit` and `least_squares` share: options, checks, and the run of a robust fit."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import Bounds, OptimizeResult

from robustfit import _checks
from robustfit.exceptions import BasinWarning, ConvergenceWarning
from robustfit.losses import Loss, get_loss
from robustfit.nonlinear._assess import BLOCK_COV_TYPES, COV_TYPES, Assessment, assess
from robustfit.nonlinear._blocks import efficient_loss
from robustfit.nonlinear._engine import Callback, Options, find_start, last_step
from robustfit.nonlinear._problem import DIFFERENCES, FAR, Array, Problem
from robustfit.nonlinear._search import Map
from robustfit.result import Status

_STARTS: tuple[Literal["auto", "ladder", "p0"], ...] = ("auto", "ladder", "p0")
_METHODS = ("trf", "dogbox", "lm")

# Of the normalised problem, where no criterion depends on units.
_TOLERANCES = {"ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-14}


def tuned(loss: Any, c: float | None, efficiency: float | None, block: int) -> Loss:
    """Return the loss; a constant that follows from an efficiency is that of the dimension."""
    named = get_loss(loss, c=c, efficiency=efficiency)
    if block == 1 or c is not None or (isinstance(loss, Loss) and efficiency is None):
        return named
    return efficient_loss(named, 0.95 if efficiency is None else efficiency, block)


def given_scale(scale: Any, name: str) -> float | None:
    """Return the scale that is given, None for "auto"."""
    if isinstance(scale, str):
        _checks.known(scale, name, ("auto",))
        return None
    return _checks.positive(scale, name)


def check_start(x0: ArrayLike) -> Array:
    """Return the start as a new array of finite numbers."""
    x = np.atleast_1d(np.array(x0, dtype=np.float64))
    if x.ndim > 1:
        raise ValueError(f"the start must have at most 1 dimension, got shape {x.shape}")
    if not np.all(np.isfinite(x)):
        raise ValueError(f"the start must be finite, got {x}")
    return x


def solver_options(method: Any, problem: Problem, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the last step: those given, and defaults of our own."""
    _checks.known(method, "method", _METHODS)
    if method == "lm" and problem.bounded:
        raise ValueError(
            "Method 'lm' only works for unconstrained problems. Use 'trf' or 'dogbox' instead."
        )
    own = {"max_nfev": 500 * (problem.p + 1), "x_scale": problem.x_scale, "method": method}
    return {**own, **_TOLERANCES, **given}


def limits(bounds: Any, p: int) -> tuple[Array, Array]:
    """Return lower and upper bounds, one per parameter."""
    low, high = (bounds.lb, bounds.ub) if isinstance(bounds, Bounds) else bounds
    try:
        low, high = (np.array(np.broadcast_to(np.asarray(b, float), (p,))) for b in (low, high))
    except ValueError as error:
        raise ValueError(
            f"bounds must be a pair (lower, upper) of numbers or {p} numbers each, "
            f"got bounds={bounds!r}"
        ) from error
    if not np.all(low < high):
        raise ValueError(
            f"Each lower bound must be strictly less than each upper bound, got bounds={bounds!r}"
        )
    return low, high


def run(
    problem: Problem,
    *,
    loss: Loss,
    scale: float | None,
    start: Any,
    cov_type: Any,
    rng: Any,
    workers: Any,
    callback: Any,
    progress: bool,
    solver: dict[str, Any],
    stacklevel: int,
) -> tuple[OptimizeResult, Assessment]:
    """Return the last step of a robust fit, and what the fit is worth."""
    _check(problem)
    allowed = COV_TYPES if problem.block == 1 else BLOCK_COV_TYPES
    cov_type = _checks.known(cov_type, "cov_type", allowed)
    # Trial steps may go where the model overflows.
    with _parallel(workers) as work, np.errstate(all="ignore"):
        options = Options(
            loss=loss,
            scale=scale,
            start=_checks.known(start, "start", _STARTS),
            rng=_checks.generator(rng),
            run=work,
            solver=solver,
            callback=_callable(callback),
            progress=progress,
        )
        begin = find_start(problem, options)
        last = last_step(problem, options, begin)
        worth = assess(problem, loss, begin, last, cov_type)
    if not worth.status.success and worth.status is not Status.CANCELLED:
        category = BasinWarning if worth.status is Status.NO_MAJORITY else ConvergenceWarning
        text = f"{worth.status.verdict}: {worth.message}"
        warnings.warn(text, category, stacklevel=stacklevel + 1)
    return last, worth


def _check(problem: Problem) -> None:
    """Raise an error if the problem cannot be started."""
    if isinstance(problem.jac, str):
        _checks.known(problem.jac, "jac", (*DIFFERENCES, "torch"))
    x = problem.x0
    if np.any((x < problem.lower) | (x > problem.upper)):
        raise ValueError(f"`x0` is infeasible: the start {x} is not within the bounds")
    if problem.n * problem.block <= problem.p:
        raise ValueError(
            f"a robust fit of {problem.p} parameters needs more than {problem.p} residuals, "
            f"got {problem.n * problem.block}"
        )
    # Outside of `residuals`, so that an error of the model is seen.
    r = np.asarray(problem.fun(x))
    if r.shape != (problem.n * problem.block,):
        raise ValueError(
            f"the residuals must have shape ({problem.n * problem.block},), got shape {r.shape}"
        )
    if not np.all(np.abs(r) < FAR * problem.unit):
        raise ValueError("Residuals are not finite in the initial point.")


def _callable(callback: Any) -> Callback | None:
    """Return the callback if it can be called or is None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got callback={callback!r}")
    return cast(Callback | None, callback)


@contextlib.contextmanager
def _parallel(workers: Any) -> Iterator[Map]:
    """Yield ``map``, or what does its work in parallel."""
    if workers is None or workers == 1:
        yield map
    elif callable(workers):
        yield workers
    elif isinstance(workers, int) and (workers > 1 or workers == -1):
        # An interrupt is for the parent, which then ends its workers.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        with multiprocessing.Pool(
            None if workers == -1 else workers, signal.signal, ignore
        ) as pool:
            yield pool.map
    else:
        raise ValueError(f"workers must be None, -1, a positive int or a map, got {workers!r}")
