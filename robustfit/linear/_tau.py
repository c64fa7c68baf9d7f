"""Tau-estimates: the smallest efficient scale, found by reweighting with two losses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from robustfit import linalg
from robustfit._progress import Bar
from robustfit.linear._guard import m_scale
from robustfit.linear._iterate import Anderson, converged, report, settled
from robustfit.linear._problem import Problem, State, fixed_scale
from robustfit.losses import Loss
from robustfit.result import Status
from robustfit.starts import SFit

# The same as in the M-step: from here on, acceleration cannot lead astray.
_NEAR = 1e-2


@dataclasses.dataclass(frozen=True, repr=False)
class Mixture(Loss):
    """(share rho_inner + rho_outer) / (share + 1): the loss that a tau-estimate ends with.

    At its solution a tau-estimate is an M-estimate with this psi at the M-scale of `inner`,
    so that weights and covariances follow from it as for any other loss.

    Parameters
    ----------
    c : float
        The constant of `outer`.
    inner, outer : Loss
        The loss of the M-scale, which gives the breakdown point, and that of the tau-scale,
        which gives the efficiency.
    share : float
        Weight of `inner`, estimated from the residuals.
    """

    inner: Loss = None  # type: ignore[assignment]
    outer: Loss = None  # type: ignore[assignment]
    share: float = 0.0

    def __post_init__(self) -> None:
        """Take the fields as they are."""

    def __repr__(self) -> str:
        return f"Mixture(c={self.c!r}, {self.inner!r}, {self.outer!r}, share={self.share!r})"

    def _evaluate(self, kind: Any, u: Any) -> Any:
        inner, outer = getattr(self.inner, kind)(u), getattr(self.outer, kind)(u)
        return (self.share * inner + outer) / (self.share + 1.0)

    def constant(self, kind: Any, value: float) -> float:
        """Refuse: the two constants of a tau-estimate come from its two losses."""
        raise TypeError(f"a Mixture cannot be tuned, got {kind}={value!r}; tune its losses")

    @classmethod
    def engine(cls, kind: Any, *, exact: bool = True) -> Any:
        """Refuse: a mixture has no formula of its own."""
        raise TypeError(f"a Mixture has no compiled {kind}")

    def _breaks(self) -> tuple[float, ...]:
        ratio = self.inner.c / self.outer.c
        return *(k * ratio for k in self.inner._breaks()), *self.outer._breaks()


def tau_fit(
    problem: Problem, s_fit: SFit, inner: Loss, outer: Loss, bar: Bar
) -> tuple[Problem, State]:
    """Return the tau-estimate near the S-estimate.

    It is the local minimum of the tau-scale (Yohai and Zamar 1988,
    doi:10.1080/01621459.1988.10478611) in that basin. Where p is not small against n the
    global minimum can be a fit that the S-estimate rejects: on starsCYG and wood it is one
    that follows the outliers.
    """
    data, memory, share, x = problem.memory, Anderson(problem.data), 0.0, s_fit.x
    state = State(x, s_fit.scale, 0, Status.MAXITER, math.inf)
    for nit in range(1, problem.maxiter + 1):
        resid, scale = problem.residuals(x), m_scale(problem, x, inner)
        if scale == 0.0:
            state = settled(data, dataclasses.replace(state, x=x))
            break
        u = resid * data.inv_sd / scale
        rho, slope = data.freq @ outer.rho(u), data.freq @ (outer.psi(u) * u)
        # Not negative, but for rounding.
        share = max(float(2.0 * rho - slope), 0.0) / float(data.freq @ (inner.psi(u) * u))
        w = data.row_weights * (share * inner.weight(u) + outer.weight(u)) / (share + 1.0)
        step = linalg.weighted_step(data.A, w, resid, x=x, solver=problem.solver)
        length = step.norm / scale
        state = State(x, scale, nit, Status.MAXITER, length)
        bar.update()
        if problem.callback is not None and not report(problem, state):
            state = dataclasses.replace(state, status=Status.CANCELLED)
            break
        if converged(problem, state, 0.0):
            state = dataclasses.replace(state, status=Status.CONVERGED)
            break
        x = x + (memory.next(x, step.d) if length < _NEAR else step.d)
    loss = Mixture(outer.c, inner, outer, share)
    return dataclasses.replace(problem, loss=loss, rule=fixed_scale("tau", state.scale)), state
