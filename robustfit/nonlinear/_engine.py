"""The fit: search, choice of the start and the scale, and the last step with the wanted loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, least_squares

from robustfit._progress import Bar, progress_bar
from robustfit.losses import Loss, get_loss
from robustfit.nonlinear._descent import bent, chosen, least_squares_step
from robustfit.nonlinear._labels import nearest
from robustfit.nonlinear._problem import Array, Problem
from robustfit.nonlinear._scales import s_scale, weighted_fit_scale, weighted_scale
from robustfit.nonlinear._search import MOST, Candidate, Map, distinct, search
from robustfit.nonlinear._separable import Separation, separable_step
from robustfit.nonlinear._together import robust_steps

Callback = Callable[[OptimizeResult], object]

# An M-scale is at most so many times the weighted scale, which far outliers do not inflate: that
# of the result, and the one by which candidates are compared.
_INFLATED, _CAP = 1.5, 2.0
# Candidates are compared by the objective at this multiple of the smallest M-scale: the smallest
# of many is too small, and at a small scale the objective has more minima.
_WIDER = 1.5
# Least squares is preferred if a test at this level does not tell its residuals, of which so many
# are taken, from normal ones, and its M-scale is up to this multiple of the smallest.
_LEVEL, _TESTED, _PLAIN = 0.01, 4000, 3.0
# Of fewer residuals the test says nothing.
_TESTABLE = 20
# Fits with such a share of the support, and so little of it in common, are rivals.
_AS_GOOD, _COMMON = 0.9, 0.5
_TIGHT, _ENOUGH = 1e-9, 300


@dataclasses.dataclass(frozen=True)
class Options:
    """How to fit.

    Attributes
    ----------
    loss : Loss
        The wanted loss.
    scale : float or None
        The scale, in the caller's units; None to estimate it.
    start : {"auto", "ladder", "p0"}
        Where to start.
    rng : numpy.random.Generator
        Draws the subsets.
    run : callable
        ``map``, or one that works in parallel.
    solver : dict
        Arguments of `scipy.optimize.least_squares` for the last step.
    callback : callable or None
        Is told each candidate.
    progress : bool
        Whether to draw a bar.
    """

    loss: Loss
    scale: float | None
    start: Literal["auto", "ladder", "p0"]
    rng: np.random.Generator
    run: Map
    solver: dict[str, Any]
    callback: Callback | None = None
    progress: bool = False


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the last step starts, and the scale that it keeps; units of the problem.

    Attributes
    ----------
    x : ndarray of shape (p,)
        Parameters.
    scale : float
        Scale, 0 for an exact fit.
    rival : ndarray of shape (p,) or None
        Another fit that explains as many other observations.
    cancelled : bool
        Whether the callback stopped the search.
    """

    x: Array
    scale: float
    rival: Array | None = None
    cancelled: bool = False


class _Cancelled(Exception):
    """The callback asked to stop."""


class _Watch:
    """Keeps the candidates, tells the callback of them, and moves the bar."""

    def __init__(self, problem: Problem, callback: Callback | None, bar: Bar) -> None:
        self.problem, self.callback, self.bar = problem, callback, bar
        self.found: list[Candidate] = []

    def __call__(self, candidate: Candidate) -> None:
        """Note a candidate."""
        self.found.append(candidate)
        self.bar.update()
        if self.callback is None:
            return
        best = min(self.found, key=lambda c: c.scale)
        intermediate = OptimizeResult(
            x=best.x.copy(),
            scale=best.scale * self.problem.unit,
            nit=len(self.found),
            nfev=self.problem.evaluations,
        )
        try:
            self.callback(intermediate)
        except StopIteration:
            raise _Cancelled from None


def find_start(problem: Problem, options: Options) -> Start:
    """Return the best start of the wanted loss that the search finds."""
    given = None if options.scale is None else options.scale / problem.unit
    if options.start == "p0":
        return Start(problem.x0, s_scale(problem, problem.x0) if given is None else given)
    with progress_bar(MOST, "curve fit", options.progress) as bar:
        watch = _Watch(problem, options.callback, bar)
        try:
            search(problem, options.rng, options.start == "auto", options.run, watch)
            cancelled = False
        except _Cancelled:
            cancelled = True
    found = sorted(watch.found, key=lambda candidate: candidate.scale)
    if given is None and found[0].scale <= problem.floor:
        return Start(found[0].x, 0.0, cancelled=cancelled)
    if cancelled:
        return Start(found[0].x, found[0].scale if given is None else given, cancelled=True)
    start = _choose(problem, found, options.loss, given)
    return dataclasses.replace(start, x=nearest(problem, start.x, start.scale, options.rng))


def _choose(problem: Problem, found: list[Candidate], loss: Loss, given: float | None) -> Start:
    """Return the candidate with the best objective at a common scale, and its own scale."""
    judge, best = loss if loss.bounded else get_loss("tukey"), found[0]
    if given is None:
        inner = weighted_fit_scale(problem, best.x, judge, best.scale)
        common = _WIDER * min(best.scale, _CAP * inner)
    else:
        common = given
    points = np.array([candidate.x for candidate in distinct(found)])
    fits = robust_steps(problem, points, judge, common, _TIGHT, _ENOUGH)
    least = _least_squares(problem, np.array([*fits, problem.x0]))
    if given is None and _needs_no_outliers(problem, least, best.scale):
        return Start(least, _final_scale(problem, least, judge))
    costs = [float(np.sum(judge.rho(problem.norms(x) / common))) for x in fits]
    x = fits[int(np.argmin(costs))]
    rivals = (other for other in fits if _rival(problem, judge, common, x, other))
    scale = _final_scale(problem, x, judge) if given is None else given
    return Start(x, scale, next(rivals, None))


def _least_squares(problem: Problem, points: Array) -> Array:
    """Return the best of the least-squares fits that some points lead to."""
    if problem.sparse:
        fits = [least_squares_step(problem, x, None, _TIGHT, _ENOUGH) for x in points]
    else:
        rows = np.broadcast_to(np.arange(problem.n), (len(points), problem.n))
        fits = list(
            separable_step(problem, Separation.none(problem), points, rows, _TIGHT, _ENOUGH)
        )
    return min(fits, key=lambda x: float(np.sum(np.square(problem.residuals(x)))))


def _needs_no_outliers(problem: Problem, x: Array, smallest: float) -> bool:
    """Tell whether a fit leaves residuals like normal ones, and not much larger than others do."""
    r = problem.residuals(x)
    if len(r) < _TESTABLE or s_scale(problem, x) > _PLAIN * smallest:
        return False
    # An import that takes as long as all of robustfit's.
    from scipy.stats import shapiro

    return bool(shapiro(r[:: -(-len(r) // _TESTED)]).pvalue >= _LEVEL)


def _final_scale(problem: Problem, x: Array, loss: Loss) -> float:
    """Return the M-scale at x, less of what far outliers add to it."""
    scale = s_scale(problem, x)
    return min(scale, _INFLATED * weighted_scale(problem, x, loss, scale))


def _rival(problem: Problem, loss: Loss, scale: float, x: Array, other: Array) -> bool:
    """Tell whether another fit explains about as many observations, and other ones."""
    ours, theirs = (loss.weight(problem.norms(fit) / scale) for fit in (x, other))
    as_good = np.sum(theirs) >= _AS_GOOD * np.sum(ours)
    return bool(as_good and np.sum(np.minimum(ours, theirs)) <= _COMMON * np.sum(ours))


def exact_rows(problem: Problem, x: Array) -> NDArray[np.bool_]:
    """Tell which observations are fitted to rounding."""
    return problem.norms(x) <= 64.0 * problem.floor


def last_step(problem: Problem, options: Options, start: Start) -> OptimizeResult:
    """Return what SciPy's least_squares finds for the wanted loss, in the caller's units."""
    if start.scale > 0.0:
        fun, jac = bent(problem, options.loss, start.scale)
    else:
        fun, jac = chosen(problem, np.flatnonzero(exact_rows(problem, start.x)))
    solver = dict(options.solver)
    if problem.sparsity is not None:
        solver |= {"jac_sparsity": problem.sparsity, "diff_step": problem.step}
    found = least_squares(
        fun,
        np.clip(start.x, problem.lower, problem.upper),
        jac if problem.sparsity is None else problem.jac,
        (problem.lower, problem.upper),
        **solver,
    )
    unit = problem.unit
    found.fun = problem.residuals(found.x) * unit
    found.jac = found.jac * unit
    found.cost *= unit * unit
    found.grad = found.grad * unit * unit
    found.optimality *= unit * unit
    return found
