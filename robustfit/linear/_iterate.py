"""The iteration: reweighted least squares, with Newton and Anderson steps near the end."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from robustfit import linalg
from robustfit._inputs import Data
from robustfit._progress import Bar
from robustfit.linear._problem import Array, Problem, State
from robustfit.losses import Linear
from robustfit.result import Status
from robustfit.starts import row_sums

# A step shorter than this many standard errors is near enough to the solution for Newton
# and Anderson steps: farther out they could carry a redescender into another basin.
_NEAR = 1e-2
_ANDERSON_DEPTH = 5


def iterate(problem: Problem, x: Array, bar: Bar) -> State:
    """Reweight and solve from x until the distance to the solution is below `tol`."""
    data, loss, rule = problem.data, problem.loss, problem.rule
    resid = problem.residuals(x)
    scale = rule.estimate(problem.standardise(resid))
    if isinstance(loss, Linear) or np.all(resid == 0.0):
        state = State(x, scale, 0, Status.CONVERGED)
        return settled(data, state) if exactly_fitted(data, x, resid) else state
    memory, newton = Anderson(data), _Newton(problem)
    ratio, previous = 0.0, math.inf
    state = State(x, scale, 0, Status.MAXITER, math.inf)
    for nit in range(1, problem.maxiter + 1):
        if scale <= 1e-8 * data.size and exactly_fitted(data, x, resid):
            return settled(data, replace(state, x=x))
        if not scale > 0.0:
            return replace(state, status=Status.NO_WEIGHT)
        u = problem.standardise(resid) / scale
        w = data.row_weights * loss.weight(u)
        plain = _plain_step(problem, x, resid, w)
        if plain.rank < len(x):
            return replace(state, status=Status.NO_WEIGHT)
        step = plain.norm / scale
        near = step < _NEAR
        if nit > 1 and not near:
            ratio = min(step / previous, 0.999)
        previous = step
        d = plain.d
        if near and problem.bounds is None:
            d = newton.next(x, u, scale, plain) if rule.fixed else memory.next(x, d)
        x = x + d
        resid = data.b - data.A @ x
        if not rule.fixed:
            scale = rule.estimate(problem.standardise(resid))
        # A scale that collapses is on its way to an exact fit.
        near = near and scale > 0.5 * state.scale
        state = State(x, scale, nit, Status.MAXITER, step)
        bar.update()
        if problem.callback is not None and not report(problem, state):
            return replace(state, status=Status.CANCELLED)
        if near and converged(problem, state, ratio):
            return replace(state, status=Status.CONVERGED)
    return state


def iterate_fixed(problem: Problem, x: Array, bar: Bar) -> State:
    """Do as `iterate` at a fixed scale, with one compiled pass over the rows a step.

    For many rows and no option that changes the residuals; anything else, and a design that
    is nearly singular, goes to `iterate`.
    """
    data, scale = problem.data, problem.rule.estimate(np.zeros(1))
    plain = problem.ridge is None and problem.bounds is None and problem.solver == "auto"
    if not (plain and np.ndim(problem.adjust) == 0 and np.all(data.inv_sd == 1.0)):
        return iterate(problem, x, bar)
    sums = row_sums(data.A, data.b, data.freq, problem.loss)
    if sums is None:
        return iterate(problem, x, bar)
    newton, before, start, last = False, math.inf, x, math.inf
    state = State(x, scale, 0, Status.MAXITER, math.inf)
    for nit in range(1, problem.maxiter + 1):
        cost, _, G, g = sums(x, scale, newton)
        if newton and cost > before * (1.0 + 1e-14):
            # The last step raised the objective: back, and by reweighting from there.
            x, newton = start, False
            cost, _, G, g = sums(x, scale, newton)
        d = linalg.solve_gram(G, g)
        if d is None:
            return iterate(problem, start, bar)
        step = math.sqrt(max(float(d @ g), 0.0)) / scale
        start, before, x = x, cost, x + d
        state = State(x, scale, nit, Status.MAXITER, step)
        bar.update()
        if problem.callback is not None and not report(problem, state):
            return replace(state, status=Status.CANCELLED)
        stalled = _NEAR * _NEAR > step >= 0.5 * last
        if stalled or converged(problem, state, 0.0):
            return replace(state, status=Status.CONVERGED)
        newton, last = step < _NEAR, step if newton else math.inf
    return state


def _plain_step(problem: Problem, x: Array, resid: Array, w: Array) -> linalg.Step:
    """Return the step of iteratively reweighted least squares."""
    A = problem.data.A
    if problem.bounds is not None:
        low, high = problem.bounds
        return linalg.bounded_step(A, w, resid, x=x, low=low, high=high)
    return linalg.weighted_step(A, w, resid, x=x, ridge=problem.ridge, solver=problem.solver)


class _Newton:
    """Newton steps at a fixed scale, as long as they do not raise the objective."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.cost = math.inf

    def next(self, x: Array, u: Array, scale: float, plain: linalg.Step) -> Array:
        """Return the step to take from x, where the standardised residuals are u."""
        problem, data = self.problem, self.problem.data
        G, _ = linalg.gram(data.A, data.row_weights * problem.loss.dpsi(u), u)
        if problem.ridge is not None:
            G[np.diag_indices_from(G)] += problem.ridge
        d = linalg.solve_gram(G, plain.gradient)
        if d is None:
            self.cost = math.inf
            return plain.d
        before = self.cost if self.cost < math.inf else self._objective(x, scale)
        self.cost = self._objective(x + d, scale)
        # At the solution they agree to rounding, and the Newton step is the better one.
        if self.cost <= before * (1.0 + 1e-14):
            return d
        self.cost = math.inf
        return plain.d

    def _objective(self, x: Array, scale: float) -> float:
        problem = self.problem
        u = problem.standardise(problem.residuals(x)) / scale
        penalty = 0.0 if problem.ridge is None else 0.5 * float(problem.ridge @ x**2)
        return problem.cost(u, scale) + penalty


class Anderson:
    """Anderson acceleration of x -> x + step(x), forgetting what no longer helps."""

    def __init__(self, data: Data) -> None:
        self.unit = 1.0 / linalg.column_scale(data.A)
        self.points: list[Array] = []
        self.steps: list[Array] = []

    def next(self, x: Array, step: Array) -> Array:
        """Return the step to take from x, given the plain one."""
        if self.steps and self._length(step) > 2.0 * self._length(self.steps[-1]):
            self.points.clear()
            self.steps.clear()
        self.points.append(x)
        self.steps.append(step)
        del self.points[: -_ANDERSON_DEPTH - 1], self.steps[: -_ANDERSON_DEPTH - 1]
        if len(self.steps) == 1:
            return step
        steps = np.diff(np.array(self.steps), axis=0)
        points = np.diff(np.array(self.points), axis=0)
        mix = np.linalg.lstsq((steps * self.unit).T, step * self.unit, rcond=1e-10)[0]
        return np.asarray(step - mix @ (points + steps))

    def _length(self, step: Array) -> float:
        return float(np.linalg.norm(step * self.unit))


def converged(problem: Problem, state: State, ratio: float) -> bool:
    """Tell whether the last step was short enough, or as short as rounding allows.

    A plain iteration whose steps shrink by `ratio` is ``ratio / (1 - ratio)`` steps away
    from its limit. Where rounding of the residuals is not small against the scale, the
    scale is on its way to zero, an exact fit, and the iteration must go on.
    """
    if state.step <= problem.tol * (1.0 - ratio):
        return True
    if state.step > _NEAR * _NEAR:
        return False
    data, x = problem.data, state.x
    u = problem.standardise(problem.residuals(x)) / state.scale
    # A row without weight is not rounded into anything.
    w = np.where(data.freq > 0.0, problem.loss.weight(u), 0.0)
    size = float(np.max(w * data.inv_sd * (np.abs(data.A) @ np.abs(x) + np.abs(data.b))))
    # Rounding of x moves all rows together, that of each residual its own.
    rounding = linalg.EPS * size * (4.0 * math.sqrt(len(x)) + math.sqrt(data.nobs))
    return state.step * state.scale <= rounding <= _NEAR * state.scale


def settled(data: Data, state: State) -> State:
    """Return the exact fit near a state: the least-squares fit of the rows that are exact."""
    rows = exact_rows(data, state.x, data.b - data.A @ state.x)
    if data.rank is not None:
        # Many fits are exact; this is the one that penalty or bounds chose.
        return replace(state, status=Status.EXACT_FIT, scale=0.0)
    x = linalg.least_squares(data.A[rows], data.b[rows], data.row_weights[rows])
    # What a coefficient contributes below the rounding of the response is none of it.
    x = np.where(np.max(np.abs(data.A[rows]), axis=0) * np.abs(x) < linalg.EPS * data.size, 0.0, x)
    again = exact_rows(data, x, data.b - data.A @ x)
    if float(data.freq @ again) >= float(data.freq @ rows):
        state = replace(state, x=x)
    return replace(state, status=Status.EXACT_FIT, scale=0.0)


def exactly_fitted(data: Data, x: Array, resid: Array) -> bool:
    """Tell whether more than half of the observations are fitted to rounding."""
    return 2.0 * float(np.sum(data.freq[exact_rows(data, x, resid)])) > data.nobs


def exact_rows(data: Data, x: Array, resid: Array) -> NDArray[np.bool_]:
    size = np.abs(data.A) @ np.abs(x) + np.abs(data.b)
    # A row that happens to be zero is rounded like its neighbours.
    size = np.maximum(size, np.median(size))
    return np.asarray(np.abs(resid) <= 16.0 * len(x) * linalg.EPS * size)


def report(problem: Problem, state: State) -> bool:
    """Call the callback; False if it asks to stop."""
    assert problem.callback is not None
    unit = problem.data.unit
    intermediate = OptimizeResult(
        x=problem.data.expand(state.x),
        scale=state.scale * unit,
        nit=state.nit,
        step=state.step,
    )
    try:
        problem.callback(intermediate)
    except StopIteration:
        return False
    return True
