"""From the end of the iteration to the result."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustfit import covariance
from robustfit._inputs import Data
from robustfit._kernels import by_rows
from robustfit.exceptions import BasinWarning, ConvergenceWarning, RankWarning
from robustfit.linear._iterate import exact_rows, rounding, typical_size
from robustfit.linear._problem import Array, Problem, State
from robustfit.losses import Loss
from robustfit.result import FitResult, Search, Status
from robustfit.starts import SFit

# The caller of `irls`, seen from `_warn`.
_STACK_LEVEL = 5


@dataclass(frozen=True)
class Outcome:
    """A finished fit, before it is put into the caller's units.

    Attributes
    ----------
    problem : Problem
        With the loss that was used in the end.
    state : State
        The last iterate.
    start : str
        Name of the start.
    s_fit, s_loss : SFit or None, Loss or None
        The S-estimate, where there was one.
    note : str
        What the basin guard has to say.
    tau : ndarray or None
        Factors of the design-adaptive scale.
    """

    problem: Problem
    state: State
    start: str
    s_fit: SFit | None = None
    s_loss: Loss | None = None
    note: str = ""
    tau: Array | None = None

    @property
    def stage(self) -> covariance.SStage | None:
        """The S-estimate, as the covariance needs it."""
        if self.s_fit is None or self.s_loss is None:
            return None
        step = self.s_fit.x - self.state.x
        return covariance.SStage(step, self.s_loss, breakdown=0.5, scale=self.s_fit.scale)


def assemble(outcome: Outcome, cov_type: str, groups: NDArray[np.intp] | None) -> FitResult:
    """Return the result in the caller's units; issue at most one warning of each class.

    The covariance will be a `cov_type`, with `groups` as cluster labels.
    """
    problem, state = outcome.problem, outcome.state
    data, loss, unit = problem.memory, problem.loss, problem.data.unit
    nobs = data.nobs
    resid = problem.residuals(state.x)
    data.forget()
    weights, scale = _weights(problem, state, resid)
    counted = weights if data.plain else data.freq * weights
    total, square = float(np.sum(counted)), float(np.vdot(counted, weights))
    status = final_status(problem, state, total, square)
    fitted = covariance.Fitted(
        A=data.A,
        resid=resid,
        freq=data.freq,
        inv_sd=data.inv_sd,
        adjusted=isinstance(problem.adjust, np.ndarray),
        loss=loss,
        scale=scale,
        s_stage=outcome.stage,
        groups=groups,
        tau=outcome.tau,
        root_weights=None if loss.convex else _times_row_weights(data, weights),
    )
    return FitResult(
        x=data.expand(state.x),
        scale=scale * unit,
        weights=data.spread(weights),
        cov_type=cov_type,
        loss=loss,
        status=status,
        message=message_of(outcome, status),
        nit=state.nit,
        rank=data.rank or data.width,
        nobs=nobs,
        df_resid=nobs - data.width,
        start=outcome.start,
        scale_rule=problem.rule.name,
        search=search_of(outcome),
        names=data.names,
        _inner=fitted,
        _data=data,
    )


def _weights(problem: Problem, state: State, resid: Array) -> tuple[Array, float]:
    """Return robustness weights and scale at the solution."""
    data = problem.memory
    if state.status is Status.EXACT_FIT:
        return exact_rows(data, state.x, typical_size(data, state.x)).astype(np.float64), 0.0
    if state.weights is not None:
        return state.weights, state.scale
    if not state.scale > 0.0:
        return np.zeros(len(resid)), state.scale
    weight, factor = problem.loss.weight, problem.factor
    if factor is None:
        return by_rows(lambda r: weight(r / state.scale), resid), state.scale
    return by_rows(lambda r, k: weight(r * k / state.scale), resid, factor), state.scale


def _times_row_weights(data: Data, weights: Array) -> Array:
    return weights if data.plain else data.row_weights * weights


def final_status(problem: Problem, state: State, total: float, square: float) -> Status:
    """Return the status, from the sums of the weights and of their squares."""
    data = problem.data
    if state.status is not Status.EXACT_FIT and not _determined(problem, total, square):
        return Status.NO_WEIGHT
    deficient = data.basis is not None or (data.rank is not None and problem.ridge is None)
    if state.status is Status.CONVERGED and deficient:
        return Status.RANK_DEFICIENT
    return state.status


def _determined(problem: Problem, total: float, square: float) -> bool:
    """Tell whether the rows that keep weight count for as many as there are coefficients.

    ``total**2 / square`` is the number of equal weights that would be as informative.
    """
    p, ridge = problem.data.width, problem.ridge
    need = p if ridge is None else max(1, int(np.sum(ridge == 0.0)))
    return square > 0.0 and total * total >= need * square * (1.0 - 1e-12)


def search_of(outcome: Outcome) -> Search | None:
    fit, data = outcome.s_fit, outcome.problem.data
    if fit is None:
        return None
    return Search(
        x=data.expand(fit.x),
        scale=fit.scale * data.unit,
        reached=fit.reached,
        candidates=fit.candidates,
        alternatives=tuple((data.expand(x), s * data.unit) for x, s in fit.alternatives),
    )


def message_of(outcome: Outcome, status: Status) -> str:
    """Return what there is to say beyond the verdict, and warn of it."""
    problem, state, data = outcome.problem, outcome.state, outcome.problem.data
    rank, text = data.rank or data.width, []
    if rank < data.columns and problem.ridge is None:
        chosen = "the minimum-norm solution" if data.basis is not None else "one of many solutions"
        text.append(f"the design has rank {rank} with {data.columns} columns; x is {chosen}")
        _warn(text[-1], RankWarning)
    if status is Status.MAXITER:
        reason = "; raise maxiter, or use another start or loss"
        if state.scale > 0.0 and state.step <= rounding(problem, state):
            reason = (
                ", which is rounding error: rows that keep weight are too large for the scale "
                f"{state.scale * data.unit:.3g}; leave them out, or subtract what they share"
            )
        text.append(
            f"no convergence in maxiter={problem.maxiter} iterations: the last step was "
            f"{state.step:.3g} standard errors{reason}"
        )
        _warn(text[-1], ConvergenceWarning)
    elif status is Status.NO_WEIGHT:
        text.append(
            f"fewer than {rank} rows keep weight at scale={state.scale * data.unit:.6g}, so the "
            "coefficients are not determined; use another start, a larger scale or a larger c"
        )
        _warn(text[-1], ConvergenceWarning)
    if outcome.note:
        text.append(outcome.note)
        if status in (Status.LEFT_BASIN, Status.NO_MAJORITY):
            _warn(outcome.note, BasinWarning)
    return "; ".join(text)


def _warn(text: str, category: type[Warning]) -> None:
    warnings.warn(text, category, stacklevel=_STACK_LEVEL)
