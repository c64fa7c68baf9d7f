"""The iteration: reweighted least squares, with Newton steps near the end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import scipy
from numpy.typing import NDArray

from robustfit import linalg
from robustfit._inputs import Data, Frame
from robustfit._kernels import Sums, gram, residuals
from robustfit._kernels._dense import padded
from robustfit._kernels._loss import compiles, pointer
from robustfit._progress import Bar
from robustfit._streamed import Median, Streamed
from robustfit.linear import _small
from robustfit.linear._problem import Array, Problem, State, typical_response
from robustfit.losses import Linear, Loss
from robustfit.result import Status

# A step shorter than this many standard errors is near enough to the solution for Newton
# and Anderson steps: farther out they could carry a redescender into another basin.
_NEAR = 1e-2
# The same in units of the scale, for a row: a Newton step is safe from farther in many rows.
_CLOSE = 1e-2
# Residuals whose rounding is more than this, at most, in units of the scale, tell no weights.
_ROUNDED = 1.0
# Newton steps that are shorter than this and no longer shrink are rounding.
_SETTLED = 1e-7
# One that is so many times longer than the step before is looked at before it is taken.
_LEAP = 10.0
# At the solution two objectives agree to rounding: up to this multiple one is not above the other.
_SAME_COST = 1.0 + 1e-14
_ANDERSON_DEPTH = 5
# A smaller scale, relative to the largest response, may be on its way to an exact fit.
_COLLAPSED = 1e-8
# A part of the rows has so many, and so many for each column. It is worth the trouble if all are
# so many times more. Its fit is away from that of all by this times what is to be expected, or it
# is another solution.
_SOME_ROWS, _ROWS_PER_COLUMN, _MANY, _FAR_AWAY = 2_000, 200, 4, 5.0
# It is known to so many of its standard errors.
_ROUGH = 1e-3
# The scale follows from the one before it by less than this, or the two do not tell how.
_FOLLOWS = 0.5
# Where the gradient tells, it may be this, but no more: a step would then be ten times as long.
_STEEP = 0.9
# Every joint step is shorter than this times the one before, or it was the last.
_SHRINKS = 0.9
# Where the next joint step would be this times the tolerance, as they shrink, it is not taken.
_CERTAIN = 1e-2
# After a Newton step that failed, the next is tried where the steps are shorter by this factor.
_AGAIN = 0.1
# Small problems of so many elements and columns, and with responses up to so many typical ones, are
# compiled.
_SMALL, _NARROW, _MODEST = 1 << 17, 32, 1e3
# In designs of fewer elements the median moves in large steps, which joint steps would not follow.
_FEW = 1 << 15


def iterate(problem: Problem, x: Array, bar: Bar, sampled: bool = True) -> State:
    """Reweight and solve from x until the distance to the solution is below `tol`.

    A scale that moves is that of the residuals at x, which takes a reading of A before that of the
    step. Near the solution one is enough, see `_Solver`. The first steps of many rows are those
    of a part of them, unless `sampled` is False.
    """
    data = problem.data
    quick = compiled(problem, x)
    if quick is not None:
        bar.update(quick.nit)
        return quick
    some = _of_some_rows(problem, x, bar) if sampled else None
    if some is None:
        scale = problem.scale_at(x)
        if isinstance(problem.loss, Linear) or _all_zero(problem, x):
            state = State(x, scale, 0, Status.CONVERGED)
            return settled(data, state) if exactly_fitted(data, x) else state
        begin = x
    else:
        begin, scale = some.x, some.scale
    ended = _steps(problem, begin, scale, bar, _away(problem) if some is not None else None)
    if ended is None:
        return iterate(problem, x, bar, sampled=False)
    # As many coefficients as rows fit them, whatever the scale.
    fitted = data.shape[0] <= data.width and ended.status is Status.CONVERGED
    return settled(data, ended) if fitted and exactly_fitted(data, ended.x) else ended


def _steps(
    problem: Problem, x: Array, scale: float, bar: Bar, most: float | None = None
) -> State | None:
    """Iterate from (x, scale); None if the first step, by Newton's method, is longer than `most`.

    Without that limit the first step is one of reweighting.
    """
    data, rule = problem.data, problem.rule
    solver, memory = _Solver(problem), None if rule.fixed else Anderson(data)
    solver.newton = most is not None
    ratio, previous, joint_before = 0.0, math.inf, False
    state = State(x, scale, 0, Status.MAXITER, math.inf)
    for nit in range(1, problem.maxiter + 1):
        if scale <= _COLLAPSED * data.size and exactly_fitted(data, x):
            return settled(data, replace(state, x=x))
        if not scale > 0.0:
            return replace(state, status=Status.NO_WEIGHT)
        x, plain = solver.step(x, scale)
        if plain.rank < len(x):
            return replace(state, status=Status.NO_WEIGHT)
        step = plain.norm / scale
        near, joint = step < _NEAR, solver.scale is not None
        if most is not None and nit == 1 and not (joint and step <= most):
            return None
        if nit > 1 and not near:
            ratio = min(step / previous, 0.999)
        # Joint steps may shrink slowly, and are then not rounding.
        settling = solver.newton and not joint and previous < _NEAR
        settling = settling and 0.5 * previous <= step < _SETTLED
        # Where the scale moves there is no objective to judge a Newton step by: it must shrink.
        if joint and joint_before and not step < _SHRINKS * previous:
            solver.limit = 0.0
        # Joint steps that know the gradient of the scale are Newton's: the next would be shorter by
        # more than this one was.
        ending = joint and joint_before and rule.gradient is not None
        ending = ending and step * step <= _CERTAIN * problem.tol * previous
        # The scale was not that of x, but that which x was found for: the step says nothing.
        stale = joint_before and not joint
        grew = step > previous
        joint_before, previous, d = joint, step, plain.d
        # The last step is a plain one: what is made of it could be longer.
        last = step <= problem.tol * (1.0 - ratio)
        if near and not last and problem.bounds is None and memory is not None and not joint:
            d = memory.next(x, d)
        x = x + d
        if solver.scale is not None:
            scale = solver.scale
        elif not rule.fixed:
            scale = problem.scale_at(x)
        # A scale that collapses is on its way to an exact fit.
        near = near and scale > 0.5 * state.scale and not stale
        state = State(x, scale, nit, Status.MAXITER, step)
        bar.update()
        if problem.callback is not None and not report(problem, state):
            return replace(state, status=Status.CANCELLED)
        rest = _FOLLOWS if joint else 0.0 if solver.newton else ratio
        if settling or (near and (ending or converged(problem, state, rest, grew))):
            if joint:
                scale = solver.scale_at(x)
            return replace(state, scale=scale, status=Status.CONVERGED)
        close = step < max(_NEAR, _CLOSE * math.sqrt(data.nobs))
        able = problem.bounds is None and not problem.implicit
        able = able and (rule.fixed or data.shape[0] * data.width > _FEW)
        solver.newton = (close or joint) and able and step < solver.limit
    return replace(state, x=solver.kept(x, scale))


def _of_some_rows(problem: Problem, x: Array, bar: Bar) -> State | None:
    """Return where a part of the rows leads from x, None where that is no use.

    That is some standard errors from the solution, and takes hardly any time.
    """
    data, rule = problem.data, problem.rule
    moving = not rule.fixed and rule.name != "callable" and problem.bounds is None
    moving = moving and not problem.implicit
    stride = _parts(*data.shape)
    if not moving or stride < _MANY or problem.maxiter < 2 or isinstance(problem.loss, Linear):
        return None
    part = replace(problem.part(stride), tol=max(problem.tol, _ROUGH))
    if linalg.solve_gram(*part.data.normal) is None:
        return None
    state = iterate(part, x, bar)
    return state if state.status is Status.CONVERGED and state.scale > 0.0 else None


def _parts(n: int, p: int) -> int:
    """Return how many parts of the rows there are of which one tells about where all lead."""
    return n // max(_SOME_ROWS, _ROWS_PER_COLUMN * p)


def _away(problem: Problem) -> float:
    """Return how many standard errors the fit of a part of the rows is away, at most."""
    n, p = problem.data.shape
    return _FAR_AWAY * math.sqrt(n / max(_SOME_ROWS / p, _ROWS_PER_COLUMN))


def compiled(problem: Problem, x: Array | None = None) -> State | None:
    """Return the fit of a small problem that takes the regular course, None for any other.

    It starts from x, by default from least squares. Start, scale, iterations and weights are one
    compiled call, which takes less time than one iteration does in NumPy.
    """
    data, rule, loss = problem.data, problem.rule, problem.loss
    if not isinstance(data, Data):
        return None
    n, p = data.A.shape
    plain = problem.bounds is None and problem.ridge is None and problem.callback is None
    plain = plain and isinstance(data.A, np.ndarray)
    plain = plain and problem.solver == "auto" and not isinstance(problem.adjust, np.ndarray)
    known = rule.value > 0.0 or rule.name in ("mad", "mad-fixed")
    small = p <= min(_NARROW, n - 1) and n * p <= _SMALL and data.size < _MODEST
    if not (plain and known and small) or (not rule.fixed and _parts(n, p) >= _MANY):
        return None
    if isinstance(loss, Linear) or problem.maxiter < 2 or not compiles(loss):
        return None
    address, c, shape = pointer(loss)
    # Rows without weights are as the caller has them, and so are then the kernel's weights.
    alike = data.plain or bool(np.all(data.freq == 1.0) and np.all(data.inv_sd == 1.0))
    factor = None if alike else np.where(data.freq > 0.0, data.inv_sd, 0.0)
    A, b = (data.A, data.b) if factor is None else (data.A * factor[:, None], data.b * factor)
    begun, found = x is not None, np.zeros((1, p)) if x is None else np.array(x, ndmin=2)
    At, rows, count = padded(A.T), padded(b), padded(data.freq)
    weights = np.empty((1, len(rows)) if alike else (0, 0))
    scale, nit, done = np.array([rule.value]), np.zeros(1, np.intp), np.ones(1, np.bool_)
    _small.solve(
        address, At[None], rows[None], count[None], begun, found, scale, not rule.fixed,
        # One that takes longer is on a course of its own.
        problem.maxiter // 2, problem.tol, c, shape, nit, done, weights,
    )  # fmt: skip
    if not (done[0] and scale[0] > _COLLAPSED * data.size):
        return None
    kept = weights[0, :n] if alike else None
    return State(found[0], float(scale[0]), int(nit[0]), Status.CONVERGED, weights=kept)


class _Solver:
    """Solves for steps: by reweighting, and by Newton's method as long as that is asked for.

    A Newton step that raised the objective is taken back at the next call, which returns a step
    by reweighting from where it began; that cannot raise it.

    Where the scale moves, a Newton step is one in x and log s together, and `scale` is the scale
    after it. The sums at the old scale tell how they change with it, so that the one reading of A
    that gives the new scale is enough. As x follows the scale, and the scale x, the scale that is
    found depends on the one assumed by a slope. The gradient of the scale gives it; where there is
    none, two steps do (a secant step, which is Anderson's method of depth one).
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sums = problem.sums()
        self.newton = False
        # A Newton step that failed fails again until the steps are much shorter.
        self.limit = math.inf
        # How far the last step went.
        self.last = math.inf
        # Where the last Newton step began, and the objective there; None after any other step.
        self.origin: tuple[Array, float] | None = None
        # The scale after the last step, None if that is to be estimated at the new x.
        self.scale: float | None = None
        # The scales assumed and found by the last step that began after a Newton step.
        self.followed: tuple[float, float] | None = None
        self.resid: Array | None = None

    def step(self, x: Array, scale: float) -> tuple[Array, linalg.Step]:
        """Return where to step from, x unless that is taken back, and the step."""
        problem = self.problem
        if self.newton and not problem.rule.fixed:
            joint = self._joint(x, scale)
            if joint is not None:
                return x, joint
            self.newton = False
        self.scale = self.followed = None
        if problem.implicit:
            w, resid = weighted(problem, x, scale)
            return x, linalg.implicit_step(problem.memory.A, w, resid, x=x, ridge=problem.ridge)
        if problem.bounds is not None:
            return x, bounded_step(problem, x, scale)
        sums, cost = self._at(x, scale)
        wanted = self.newton
        if self.origin is not None and cost > self.origin[1] * _SAME_COST:
            x, self.newton, wanted = self.origin[0], False, True
            sums, cost = self._at(x, scale)
        self.origin = None
        d = linalg.solve_gram(sums.gram, sums.gradient)
        if self.newton and (d is None or self._misled(x, d, scale, cost)):
            self.newton = False
            sums, cost = self._at(x, scale)
            d = linalg.solve_gram(sums.gram, sums.gradient)
        if d is None or (problem.solver == "qr" and not self.newton):
            step = self._orthogonal(x, scale)
        else:
            self.last = float(np.linalg.norm(d * problem.data.largest))
            norm = math.sqrt(max(float(d @ sums.gradient), 0.0))
            step = linalg.Step(d, norm, len(d), sums.gradient)
        if self.newton:
            self.origin = x, cost
        elif wanted:
            self.limit = _AGAIN * step.norm / scale
        return x, step

    def _misled(self, x: Array, d: Array, scale: float, cost: float) -> bool:
        """Tell whether a step goes suddenly far, as where there is little curvature, and up.

        Any that goes up, where a callback would see it.
        """
        far = float(np.linalg.norm(d * self.problem.data.largest)) > _LEAP * self.last
        watched = far or self.problem.callback is not None
        return watched and self._at(x + d, scale)[1] > cost * _SAME_COST

    def kept(self, x: Array, scale: float) -> Array:
        """Return x, or where the last Newton step began if that raised the objective."""
        if self.origin is None or self._at(x, scale)[1] <= self.origin[1] * _SAME_COST:
            return x
        return self.origin[0]

    def scale_at(self, x: Array) -> float:
        """Return the scale at the solution; its residuals take the place of the last ones."""
        problem, data = self.problem, self.problem.data
        if isinstance(data, Data):
            data.remember(x, residuals(data.A, data.b, x, self.resid))
            self.resid = None
        return problem.scale_at(x)

    def _joint(self, x: Array, scale: float) -> linalg.Step | None:
        """Return the Newton step in x and the scale, and set `scale`; None where there is none."""
        problem, ridge = self.problem, self.problem.ridge
        self.resid = np.empty(problem.vector) if self.resid is None else self.resid
        sums = self.sums(x, scale, True, self.resid)
        found = problem.scale_of(x, self.resid)
        if not found > 0.0 or sums.drift is None:
            return None
        before, self.followed = self.followed, None if self.scale is None else (scale, found)
        G, g, drift = sums.gram, sums.gradient, sums.gradient - sums.drift
        if ridge is not None:
            G, g = G + np.diag(ridge), g - ridge * x
        both = linalg.solve_gram(G, np.column_stack([g, drift]))
        if both is None:
            return None
        # Where the step would go at this scale, and how it turns with the log of the scale.
        ahead, turn = both.T
        goal, slope = found, 0.0
        if problem.rule.gradient is not None:
            reach = math.sqrt(max(float(ahead @ g), 0.0) / problem.data.nobs)
            t = problem.standardise(self.resid)
            gradient = problem.rule.gradient(t, problem.factor, found, reach)
            goal, slope = found + float(gradient @ ahead), float(gradient @ turn) / scale
            slope = slope if slope < _STEEP else 0.0
        elif before is not None and scale != before[0]:
            slope = (found - before[1]) / (scale - before[0])
            slope = slope if abs(slope) < _FOLLOWS else 0.0
        aim = max(scale + (goal - scale) / (1.0 - slope), 0.5 * found)
        change = math.log(aim / scale)
        d = ahead + change * turn
        self.scale = aim
        norm = math.sqrt(max(float(d @ (g + change * drift)), 0.0))
        return linalg.Step(d, norm, len(d), g)

    def _at(self, x: Array, scale: float) -> tuple[Sums, float]:
        """Return the sums with the penalty, and the objective."""
        ridge, sums = self.problem.ridge, self.sums(x, scale, self.newton)
        cost = sums.rho * scale * scale
        if ridge is None:
            return sums, cost
        G = sums.gram + np.diag(ridge)
        penalised = sums._replace(gram=G, gradient=sums.gradient - ridge * x)
        return penalised, cost + 0.5 * float(ridge @ x**2)

    def _orthogonal(self, x: Array, scale: float) -> linalg.Step:
        """Return a step by QR of the weighted rows; by normal equations where that serves."""
        problem, data = self.problem, self.problem.data
        if isinstance(data, Data):
            w, resid = weighted(problem, x, scale)
            return linalg.weighted_step(
                data.A, w, resid, x=x, ridge=problem.ridge, solver=problem.solver
            )
        if problem.solver == "cholesky":
            raise ValueError(linalg.NEARLY_SINGULAR)
        R = data.fold(triangle, problem.loss, x, scale, merge=stacked)
        if problem.ridge is not None:
            root = np.sqrt(problem.ridge)
            R = stacked(R, np.column_stack([np.diag(root), -root * x]))
        tolerance = max(data.total, data.width) * linalg.EPS
        d, rank = linalg.minimum_norm(R[:, :-1], R[:, -1], tolerance)
        return linalg.Step(d, float(np.linalg.norm(R[:, :-1] @ d)), rank, R[:, :-1].T @ R[:, -1])


def weighted(problem: Problem, x: Array, scale: float) -> tuple[Array, Array]:
    """Return the weight of each row in the normal equations, and the residuals."""
    resid = problem.residuals(x)
    u = problem.standardise(resid) / scale
    return problem.memory.row_weights * problem.loss.weight(u), resid


def bounded_step(problem: Problem, x: Array, scale: float) -> linalg.Step:
    """Return the step of reweighted least squares that stays within the bounds."""
    low, high = cast(tuple[Array, Array], problem.bounds)
    if isinstance(problem.data, Data):
        A, (w, resid) = problem.memory.A, weighted(problem, x, scale)
    else:
        # Their triangle has the sums of squares of all rows.
        R = problem.data.fold(triangle, problem.loss, x, scale, merge=stacked)
        A, resid, w = R[:, :-1], R[:, -1], np.ones(len(R))
    return linalg.bounded_step(A, w, resid, x=x, low=low, high=high)


def triangle(data: Data, loss: Loss, x: Array, scale: float) -> Array:
    """Return R of the weighted rows of a block, with the residuals as last column."""
    resid = data.residuals(x)
    root = np.sqrt(data.row_weights * loss.weight(resid * data.inv_sd / scale))
    rows = np.column_stack([data.A, resid]) * root[:, None]
    return np.asarray(np.linalg.qr(rows, mode="r"))


def stacked(above: Array, under: Array) -> Array:
    return np.asarray(np.linalg.qr(np.vstack([above, under]), mode="r"))


def _all_zero(problem: Problem, x: Array) -> bool:
    data = problem.data
    if isinstance(data, Data):
        return bool(np.all(problem.residuals(x) == 0.0))
    # A response that large is far from its sample if that is fitted exactly.
    return not np.any(_misfit(data.sample, x)) and not np.any(data.fold(_misfit, x))


def _misfit(data: Data, x: Array) -> float:
    return float(np.max(np.abs(data.residuals(x)), initial=0.0))


class Anderson:
    """Anderson acceleration of x -> x + step(x), forgetting what no longer helps."""

    def __init__(self, data: Frame) -> None:
        self.unit = np.where(data.largest > 0.0, data.largest, 1.0)
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


def converged(problem: Problem, state: State, ratio: float, grew: bool = False) -> bool:
    """Tell whether the last step was short enough, or as short as rounding allows.

    A plain iteration whose steps shrink by `ratio` is ``ratio / (1 - ratio)`` steps away
    from its limit. Where rounding of the residuals is not small against the scale, the
    scale is on its way to zero, an exact fit, and the iteration must go on; unless the scale is
    kept, and the step was longer than that before, as it is where both are rounding.
    """
    if state.step <= problem.tol * (1.0 - ratio):
        return True
    rounded = grew and problem.rule.fixed
    if state.step > (_NEAR if rounded else _NEAR * _NEAR):
        return False
    data, x, scale = problem.data, state.x, state.scale
    bound = data.sharpest * (float(data.largest @ np.abs(x)) + data.size)
    if state.step * scale > _rounding(data, bound):
        return False
    return state.step <= rounding(problem, state) <= (_ROUNDED if rounded else _NEAR)


def rounding(problem: Problem, state: State) -> float:
    """Return how long a step rounding of the rows that keep weight makes, in standard errors."""
    x, scale = state.x, state.scale
    size = problem.data.fold(_weighted_size, problem.loss, problem.adjust, x, scale, merge=max)
    return _rounding(problem.data, size) / scale


def _weighted_size(data: Data, loss: Loss, adjust: Array | float, x: Array, scale: float) -> float:
    """Return the size of the largest number that is rounded into the equations."""
    u = data.residuals(x) * (data.inv_sd * adjust) / scale
    # A row without weight is not rounded into anything.
    w = np.where(data.freq > 0.0, loss.weight(u), 0.0)
    return float(np.max(w * data.inv_sd * _sizes(data, x), initial=0.0))


def _rounding(data: Data | Streamed, size: float) -> float:
    """Return the length of a step that rounding of residuals of this size makes.

    Rounding of x moves all rows together, that of each residual its own.
    """
    return linalg.EPS * size * (4.0 * math.sqrt(data.width) + math.sqrt(data.nobs))


def settled(data: Data | Streamed, state: State) -> State:
    """Return the exact fit near a state: the least-squares fit of the rows that are exact."""
    x, floor = state.x, typical_size(data, state.x)
    state = replace(state, status=Status.EXACT_FIT, scale=0.0)
    if data.rank is not None or (isinstance(data, Data) and linalg.implicit(data.A)):
        # Many fits are exact; this is the one that penalty or bounds chose.
        return state
    if isinstance(data, Data):
        rows = exact_rows(data, x, floor)
        if linalg.row_space(data.A[rows], data.row_weights[rows]) is not None:
            return replace(state, status=Status.NO_WEIGHT)
        new = linalg.least_squares(data.A[rows], data.b[rows], data.row_weights[rows])
    else:
        new = x
        for _ in range(3):
            G, g = data.fold(_exact_gram, x, floor, new)
            d = linalg.solve_gram(G, g)
            if d is None:
                return replace(state, status=Status.NO_WEIGHT)
            new = new + d
    # What a coefficient contributes below the rounding of the response is none of it.
    largest = data.fold(_exact_largest, x, floor, merge=np.maximum)
    new = np.where(largest * np.abs(new) < linalg.EPS * data.size, 0.0, new)
    better = data.fold(exact_count, new, typical_size(data, new)) >= data.fold(
        exact_count, x, floor
    )
    return replace(state, x=new) if better else state


def exactly_fitted(data: Data | Streamed, x: Array) -> bool:
    """Tell whether more than half of the observations are fitted to rounding."""
    return bool(2.0 * data.fold(exact_count, x, typical_size(data, x)) > data.nobs)


def typical_size(data: Data | Streamed, x: Array) -> float:
    """Return the median of the numbers that a residual is the difference of.

    Where most responses are zero and x goes to zero it stays above what is nothing.
    """
    if isinstance(data, Data):
        size = float(np.median(_sizes(data, x)))
    else:
        size = Median(data, _sizes_once)(x)
    if size >= linalg.EPS * data.size > 0.0:
        return size
    return max(size, linalg.EPS * typical_response(data))


def exact_rows(data: Data, x: Array, floor: float) -> NDArray[np.bool_]:
    """Tell which rows are fitted to rounding; `floor` is their typical size."""
    # A row that happens to be zero is rounded like its neighbours.
    size = np.maximum(_sizes(data, x), floor)
    return np.asarray(np.abs(data.b - data.A @ x) <= 16.0 * len(x) * linalg.EPS * size)


def exact_count(data: Data, x: Array, floor: float) -> float:
    """Return how many observations are fitted to rounding."""
    return data.count(exact_rows(data, x, floor))


def _sizes(data: Data, x: Array) -> Array:
    return np.asarray(linalg.row_sizes(data.A, x) + np.abs(data.b))


def _sizes_once(data: Data, x: Array) -> tuple[Array, Array]:
    return _sizes(data, x), np.ones(len(data.b))


def _exact_gram(data: Data, x: Array, floor: float, new: Array) -> tuple[Array, Array]:
    rows = exact_rows(data, x, floor)
    return gram(data.A, data.row_weights * rows, data.b - data.A @ new)


def _exact_largest(data: Data, x: Array, floor: float) -> Array:
    rows = exact_rows(data, x, floor)
    return np.asarray(np.max(np.abs(data.A[rows]), axis=0, initial=0.0))


def report(problem: Problem, state: State) -> bool:
    """Call the callback; False if it asks to stop."""
    assert problem.callback is not None
    unit = problem.data.unit
    intermediate = scipy.optimize.OptimizeResult(
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
