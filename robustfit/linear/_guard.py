"""The basin guard: is the M-estimate still in the basin that the S-estimate found.

An MM-estimate starts from the S-estimate and raises the efficiency. A redescending M-step
may slide out of that basin and end at another solution, near least squares, without any
sign of it in the iteration. The guard looks for the jump.

First a cheap question. If the M-step only smooths the S-estimate, twice the logarithm of
the ratio of their M-scales, times n - p, divided by the variance of the difference of the
two estimates in units of (A'A)^-1 scale^2, is about chi-square with p degrees of freedom.
Only where it is larger than that, the solution is followed from the S-estimate through
rising efficiencies, each step started at the last. Along a basin the steps are short: the
difference of two M-estimates of similar efficiency has a small, known variance. A step that
is too long by that measure and also worsens the M-scale, however finely it is divided, is a
jump to another solution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _kernels, linalg, starts
from robustfit._inputs import Data
from robustfit._kernels import LARGE_ELEMENTS
from robustfit._streamed import Sampled, below, merge_samples, row_keys
from robustfit.compare import difference_variance
from robustfit.linear._problem import Array, Problem, State, fixed_scale, fold_rho
from robustfit.losses import Loss, get_loss
from robustfit.result import Status
from robustfit.starts import SFit

Solve = Callable[[Problem, Array], State]

#: Efficiencies through which the solution is followed from the S-estimate.
LADDER = (0.5, 0.7, 0.85, 0.9, 0.95)
#: A fit that stays only below this efficiency is one of several, not that of a majority.
LOWEST = 0.85 - 1e-9
# Calibrated by tests/bench/basin_guard.py; see the page "How the basin guard works".
SUSPICION_LEVEL = 0.05
JUMP_LEVEL = 1e-8
JUMP_RATIO = 1.03
HALVINGS = 4
# Two losses that hardly differ do not make every step a jump.
SMALLEST_VARIANCE = 0.02
# Drift is looked for where the S-estimate leaves out this share of the rows; skewed errors are
# below it.
DRIFT_SHARE = 0.25
# Two fits are rivals if they share so few of their rows and their S-scales are this close, or
# the second holds more than this share of all rows within 2.5 scales of its own, and more than
# this share of those within one, where normal errors have 69 % and a loose crowd has fewer.
RIVAL_OVERLAP = 0.5
RIVAL_RATIO = 1.25
RIVAL_MAJORITY = 0.5
RIVAL_CORE = 0.5
# A rival is looked for where the S-estimate leaves out this share of the rows, among so many of
# them, and so many per column. They agree with each other, so that few subsets are enough.
RIVAL_SHARE = 0.15
RIVAL_ROWS, RIVAL_ROWS_PER_COLUMN = 600, 20
RIVAL_SUBSETS = 300
# So many residuals tell where to begin with the scale of many.
_SOME = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard decided.

    Attributes
    ----------
    state : State
        The fit that stayed in the basin.
    loss : Loss
        Its loss.
    asked : State
        The fit with the loss that was asked for.
    kept : float or None
        The efficiency of `loss` if the fit that was asked for left the basin, else None.
    ratio : float
        M-scale of the fit that was asked for over the S-scale.
    tau : ndarray of shape (n,) or None
        Factors of the design-adaptive scale, where that is the scale of `state`.
    inflation : float or None
        S-scale over the scale of the rows that the S-estimate does not leave out, where the fit
        with a higher efficiency than `kept` drifted because of it.
    """

    state: State
    loss: Loss
    asked: State
    kept: float | None
    ratio: float
    tau: Array | None = None
    inflation: float | None = None


def watch(problem: Problem, s_fit: SFit, s_loss: Loss, state: State, solve: Solve) -> Verdict:
    """Return the fit of the highest efficiency that stays in the basin of the S-estimate.

    Parameters
    ----------
    problem : Problem
        With the loss and the scale of the M-step.
    s_fit, s_loss : SFit, Loss
        The S-estimate and its loss.
    state : State
        The M-estimate that started at the S-estimate.
    solve : callable
        ``solve(problem, x)`` runs the M-step from x.
    """
    if not _worse(problem, s_fit, s_loss, state):
        return Verdict(state, problem.loss, state, None, 1.0)
    ratio = m_scale(problem, state.x, s_loss) / s_fit.scale
    if not _suspicious(problem, s_loss, ratio):
        return Verdict(state, problem.loss, state, None, ratio)
    target = problem.loss.efficiency()
    here, loss = replace(state, x=s_fit.x, weights=None), s_loss
    for efficiency in (*(e for e in LADDER if e < target - 1e-9), target):
        last = efficiency == target
        next_loss = problem.loss if last else get_loss(problem.loss, efficiency=efficiency)
        step = _follow(problem, s_loss, solve, (here.x, loss), next_loss, HALVINGS)
        if step is None:
            return Verdict(here, loss, state, loss.efficiency(), ratio)
        if step.status is not Status.CONVERGED:
            return Verdict(step, next_loss, step, None, ratio)
        here, loss = step, next_loss
    return Verdict(here, loss, state, None, ratio)


def _follow(
    problem: Problem,
    s_loss: Loss,
    solve: Solve,
    here: tuple[Array, Loss],
    loss: Loss,
    halvings: int,
) -> State | None:
    """Return the fit with a new loss in the basin of the last one, None if it left.

    One that was cancelled or stopped at maxiter is returned as it is.

    A step that looks like a jump is halved. Where the solution only drifts, as it does with
    skewed errors, the halves change the M-scale half as much; a jump stays in one of them.
    """
    x, before = here
    step = solve(replace(problem, loss=loss), x)
    if step.status in (Status.CANCELLED, Status.MAXITER):
        return step
    if step.status is Status.CONVERGED and not _jumped(problem, s_loss, here, (step.x, loss)):
        return step
    if halvings == 0:
        return None
    between = get_loss(problem.loss, efficiency=0.5 * (before.efficiency() + loss.efficiency()))
    middle = _follow(problem, s_loss, solve, here, between, halvings - 1)
    if middle is None or middle.status is not Status.CONVERGED:
        return middle
    return _follow(problem, s_loss, solve, (middle.x, between), loss, halvings - 1)


def with_scale(
    problem: Problem,
    s_fit: SFit,
    s_loss: Loss,
    verdict: Verdict,
    solve: Solve,
    rescale: Callable[[Problem, State], tuple[float, Array]],
) -> Verdict:
    """Return the fit with a new scale that follows from the first one, guarded likewise.

    A larger scale admits more rows, so it can carry a fit out of its basin as a higher
    efficiency can; then the next lower efficiency is tried.
    """
    while True:
        inner = replace(problem, loss=verdict.loss)
        scale, tau = rescale(inner, verdict.state)
        after = solve(replace(inner, rule=fixed_scale("d", scale)), verdict.state.x)
        # At the first scale, this is the loss that the second one makes.
        wider = replace(verdict.loss, c=verdict.loss.c * scale / s_fit.scale)
        lost = after.status is Status.CONVERGED and _jumped(
            inner, s_loss, (verdict.state.x, verdict.loss), (after.x, wider)
        )
        if not lost:
            asked = after if verdict.kept is None else verdict.asked
            return replace(verdict, state=after, asked=asked, tau=tau)
        asked = after if verdict.kept is None else verdict.asked
        lower = [e for e in LADDER if e < verdict.loss.efficiency() - 1e-9]
        if not lower:
            return replace(verdict, asked=asked, kept=verdict.loss.efficiency(), tau=None)
        loss = get_loss(problem.loss, efficiency=lower[-1])
        state = solve(replace(problem, loss=loss), s_fit.x)
        ratio = m_scale(problem, after.x, s_loss) / s_fit.scale
        verdict = Verdict(state, loss, asked, lower[-1], ratio)


def held(problem: Problem, s_fit: SFit, s_loss: Loss, verdict: Verdict, solve: Solve) -> Verdict:
    """Return the fit of the highest efficiency that does not drift from the S-estimate.

    With many bad rows the S-scale is several times that of the good ones, and the M-step gives
    weight to rows that are just as many scales away. It need not jump: it can move to them.
    Among the good rows the two estimates are almost equally efficient, as both reject few of
    them, so that by their scale the two fits should almost be one.
    """
    data = problem.data
    within, _ = data.fold(_counts, s_fit.x, s_fit.scale)
    left_out = min(1.0 - within / data.nobs, 0.49)
    divided = verdict.kept is not None and verdict.kept < LOWEST
    if divided or left_out < DRIFT_SHARE:
        return verdict
    # The others have the rest of the level of the equation of the S-scale.
    others = get_loss(s_loss, breakdown=(0.5 - left_out) / (1.0 - left_out))
    inflation = others.c / s_loss.c
    inner = s_fit.scale / inflation

    def drifted(x: Array, loss: Loss) -> bool:
        # At the inner scale, these are the losses that the S-scale makes.
        before, after = (replace(f, c=f.c * inflation) for f in (s_loss, loss))
        return _excess(problem, (s_fit.x, before), (x, after), inner) > 1.0

    if not drifted(verdict.state.x, verdict.loss):
        return verdict
    state = verdict.state
    for efficiency in reversed([e for e in LADDER if e < verdict.loss.efficiency() - 1e-9]):
        loss = get_loss(problem.loss, efficiency=efficiency)
        state = solve(replace(problem, loss=loss), s_fit.x)
        if state.status is not Status.CONVERGED or not drifted(state.x, loss):
            break
    else:
        state = replace(state, x=s_fit.x, weights=None)
        loss, efficiency = s_loss, s_loss.efficiency()
    return replace(verdict, state=state, loss=loss, kept=efficiency, inflation=inflation)


def describe(verdict: Verdict, fixed: bool) -> str:
    """Return what happened, in words and numbers."""
    c, kept = verdict.loss.c, 100.0 * (verdict.kept or 0.0)
    if verdict.inflation is not None:
        left = (
            "the fit with the constant asked for drifted from the S-estimate towards rows that "
            f"this leaves out (S-scale {verdict.inflation:.1f} times that of the others)"
        )
    else:
        left = (
            "the fit with the constant asked for left the solution that the S-estimate found "
            f"(M-scale {verdict.ratio:.2f} times the S-scale)"
        )
    if fixed:
        return (
            f"{left}; it is kept because c or efficiency was given, {kept:.0f} % (c={c:.5g}) stays"
        )
    return f"{left}, so the efficiency was lowered to {kept:.0f} % (c={c:.5g})"


def with_rival(problem: Problem, s_fit: SFit, s_loss: Loss, search: Callable[..., SFit]) -> SFit:
    """Return the S-estimate with the one of the rows it leaves out among its alternatives.

    The search refines the best candidates only, and all of them may lead to one solution.
    Where the left-out rows are many and agree with each other, theirs is the rival.
    """
    rest = _left_out(problem, s_fit)
    if rest is None or linalg.row_space(rest.A, rest.row_weights) is not None:
        return s_fit
    x = search(rest, nsubsets=RIVAL_SUBSETS, exhaustive_limit=RIVAL_SUBSETS).x
    own, limit = _own_scale(rest, x, s_loss), RIVAL_RATIO * s_fit.scale
    rho, sets = problem.data.fold(_look, s_loss, s_fit.x, s_fit.scale, x, own, limit)
    # Where the sum of rho is larger, so is the scale.
    if rho > _goal(problem, s_loss) and not _majority(problem, sets):
        return s_fit
    scale = m_scale(problem, x, s_loss)
    added = replace(s_fit, alternatives=((x, scale),))
    if not rivals(problem, added, s_loss):
        return s_fit
    found = sorted([*s_fit.alternatives, (x, scale)], key=lambda fit: fit[1])
    return replace(s_fit, alternatives=tuple(found))


def rivals(problem: Problem, s_fit: SFit, s_loss: Loss) -> str:
    """Return a warning if another fit explains other rows about as well, else nothing."""
    if not s_fit.alternatives:
        return ""
    data, rest = problem.data, _left_out(problem, s_fit)
    for x, scale in s_fit.alternatives:
        both = _Pair(*data.fold(_pair, s_fit.x, s_fit.scale, x, scale))
        if scale < RIVAL_RATIO * s_fit.scale and both.overlap < RIVAL_OVERLAP:
            return (
                f"another fit with S-scale {scale / s_fit.scale:.3f} times the best explains "
                f"{_percent(both.second / data.nobs)}, {100.0 * both.overlap:.0f} % of "
                "them in common; see fit.alternatives"
            )
        own = _own_scale(rest, x, s_loss)
        sets = data.fold(_own_pair, s_fit.x, s_fit.scale, x, own)
        if _majority(problem, sets):
            return (
                "the rows that the S-estimate leaves out have a fit of their own, with scale "
                f"{own * data.unit:.4g}, that explains {_percent(sets[1] / data.nobs)}; see "
                "fit.alternatives"
            )
    return ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """How many observations a fit holds, a second one, both of them, and the second closely."""

    first: float
    second: float
    both: float
    near: float

    @property
    def overlap(self) -> float:
        """The share of the smaller set that is in both."""
        smaller = min(self.first, self.second)
        return self.both / smaller if smaller > 0.0 else 1.0


def _pair(data: Data, x: Array, scale: float, other: Array, own: float) -> Array:
    t, u = _deviations(data, x), _deviations(data, other)
    core, rows = _within(t, scale), _within(u, own)
    return np.array([data.count(held) for held in (core, rows, core & rows, u < own)])


def _own_pair(data: Data, x: Array, scale: float, other: Array, own: float) -> Array:
    """Return `_pair` with both fits at the scale of the second one, where that is the smaller."""
    return _pair(data, x, min(scale, own), other, own)


def _look(
    data: Data, s_loss: Loss, x: Array, scale: float, other: Array, own: float, limit: float
) -> tuple[float, Array]:
    """Return the sum of rho of the other fit at a scale, and `_own_pair`."""
    return fold_rho(data, s_loss, other, limit)[0], _own_pair(data, x, scale, other, own)


def _majority(problem: Problem, sets: Array) -> bool:
    """Tell whether the second of two fits, at its own scale, holds a majority of its own."""
    both = _Pair(*sets)
    majority = both.second > RIVAL_MAJORITY * problem.data.nobs
    near = both.near > RIVAL_CORE * both.second
    return bool(majority and near and both.overlap < RIVAL_OVERLAP)


def _deviations(data: Data, x: Array) -> Array:
    size = np.abs(data.residuals(x))
    return size if data.plain else size * data.inv_sd


def _counts(data: Data, x: Array, scale: float) -> tuple[float, int]:
    """Return how many observations a fit holds, and how many rows it does not."""
    held = _within(_deviations(data, x), scale)
    return data.count(held), int(np.count_nonzero(~held & (data.freq > 0.0)))


def _left_out(problem: Problem, s_fit: SFit) -> Data | None:
    """Return some of the rows that the S-estimate leaves out, None if they are few."""
    data = problem.data
    if s_fit.scale == 0.0:
        return None
    within, rows = data.fold(_counts, s_fit.x, s_fit.scale)
    if data.nobs - within < RIVAL_SHARE * data.nobs or rows <= 2 * data.width:
        return None
    most = max(RIVAL_ROWS, RIVAL_ROWS_PER_COLUMN * data.width)
    if isinstance(data, Data):
        rest = data.each(_is_left_out, s_fit.x, s_fit.scale, dtype=np.bool_)
        return data.take(np.flatnonzero(rest)[:: -(-rows // most)])
    share = (most + 4.0 * most**0.5) / rows
    found = data.fold(_sampled_rest, s_fit.x, s_fit.scale, share, merge=merge_samples)
    return Sampled(*found).first(most).data(data.frame)


def _sampled_rest(data: Data, x: Array, scale: float, share: float) -> Sampled:
    """Return a share of the rows of a block that a fit does not hold."""
    rest = _is_left_out(data, x, scale)
    chosen = below(row_keys(data), share)
    return Sampled.of(data, chosen[rest[chosen]])


def _is_left_out(data: Data, x: Array, scale: float) -> NDArray[np.bool_]:
    """Tell which rows a fit does not hold."""
    return ~_within(_deviations(data, x), scale) & (data.freq > 0.0)


def _own_scale(rest: Data | None, x: Array, s_loss: Loss) -> float:
    """Return the M-scale of the residuals of some of the rows, 0 for too few."""
    if rest is None or not rest.nobs > rest.width:
        return 0.0
    return starts.m_scale(_deviations(rest, x), rest.freq, s_loss, rest.width)


def _within(t: Array, scale: float) -> NDArray[np.bool_]:
    return np.asarray(t < 2.5 * scale)


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} % of the rows"


def m_scale(problem: Problem, x: Array, s_loss: Loss) -> float:
    """Return the M-scale of the residuals at x, as the S-estimate measures it."""
    data, goal = problem.data, _goal(problem, s_loss)
    if not isinstance(data, Data):
        some = starts.m_scale(_deviations(data.sample, x), data.sample.freq, s_loss)
        start = some or data.size
        return _kernels.solve_m_scale(
            lambda s: data.fold(fold_rho, s_loss, x, s), start, goal, 1e-6
        )
    t = problem.residuals(x) * data.inv_sd
    if len(t) <= LARGE_ELEMENTS:
        return starts.m_scale(t, data.freq, s_loss, data.width)
    rows = slice(None, None, len(t) // _SOME)
    start = starts.m_scale(t[rows], data.freq[rows], s_loss)
    return _kernels.m_scale(t, start or data.size, goal, s_loss, data.freq, 1e-6)


def _goal(problem: Problem, s_loss: Loss) -> float:
    """Return the sum of rho that is the equation of the S-scale."""
    return 0.5 * (problem.data.nobs - problem.data.width) * s_loss.sup


def _worse(problem: Problem, s_fit: SFit, s_loss: Loss, state: State) -> bool:
    """Tell whether the M-scale is more than `JUMP_RATIO` times the S-scale, in one pass."""
    data = problem.data
    rho, _ = data.fold(fold_rho, s_loss, state.x, JUMP_RATIO * s_fit.scale)
    return bool(rho > _goal(problem, s_loss))


def _suspicious(problem: Problem, s_loss: Loss, ratio: float) -> bool:
    p = problem.data.width
    statistic = 2.0 * (problem.data.nobs - p) * np.log(max(ratio, 1.0))
    spread = difference_variance(s_loss, problem.loss)
    return bool(statistic > spread * special.chdtri(p, SUSPICION_LEVEL))


def _jumped(
    problem: Problem, s_loss: Loss, before: tuple[Array, Loss], after: tuple[Array, Loss]
) -> bool:
    """Tell whether the second fit is farther from the first than estimates of one basin are."""
    if _excess(problem, before, after, problem.rule.estimate(np.zeros(1))) <= 1.0:
        return False
    return m_scale(problem, after[0], s_loss) > JUMP_RATIO * m_scale(problem, before[0], s_loss)


def _excess(
    problem: Problem, before: tuple[Array, Loss], after: tuple[Array, Loss], scale: float
) -> float:
    """Return the squared distance of two fits over the largest of two estimates of one basin."""
    data, p = problem.data, problem.data.width
    spread = max(difference_variance(before[1], after[1]), SMALLEST_VARIANCE)
    limit = spread * special.chdtri(p, JUMP_LEVEL) * data.nobs / max(data.nobs - p, 1.0)
    return float(data.fold(_moved, problem.adjust, before, after, scale) / limit)


def _moved(
    data: Data,
    adjust: Array | float,
    before: tuple[Array, Loss],
    after: tuple[Array, Loss],
    scale: float,
) -> float:
    """Return the squared distance of two fits in the rows that both of them hold."""
    # Rows that only one of the fits rejects would count for that fit alone.
    r = [data.residuals(x) for x, _ in (before, after)]
    w = data.freq.copy()
    for resid, (_, loss) in zip(r, (before, after), strict=True):
        w *= loss.weight(resid * (data.inv_sd * adjust) / scale)
    return float(w @ ((r[0] - r[1]) * data.inv_sd / scale) ** 2)
