"""Many descents at once, from different starts: one call of the model serves them all.

Levenberg-Marquardt steps with the damping of Nielsen (1999), *Damping parameter in Marquardt's
method*, IMM-REP-1999-05, DTU. Each descent has a target of its own: a subset of the observations,
or a loss of all of them whose scale follows the fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robustfit.losses import Loss
from robustfit.nonlinear._descent import bend, robust_step, slope
from robustfit.nonlinear._problem import FAR, Array, Problem

Indices = NDArray[np.intp]
State = tuple[Array, ...]

_DAMPING, _GROWTH = 0.1, 2.0
# Of a step: what is left of the damping at least, and a damping at which nothing moves.
_RELIEF, _STUCK = 1.0 / 3.0, 1e16
_SMALL = 1e-14


class Target(Protocol):
    """Sums of squares to minimise, one for each descent."""

    def evaluate(self, x: Array, which: Indices) -> State:
        """Return what is known at the points x (k, q) of the descents `which`, arrays (k, ...)."""

    def residuals(self, state: State, which: Indices) -> Array:
        """Return residuals, shape (k, m)."""

    def jacobian(self, x: Array, state: State, which: Indices) -> Array:
        """Return their derivatives, shape (k, m, q)."""

    def settle(self, state: State, which: Indices) -> NDArray[np.bool_]:
        """Take note of accepted points; return which descents are at their end."""

    @property
    def limits(self) -> tuple[Array, Array]:
        """Lower and upper bounds, shape (q,)."""


def descend(target: Target, x: Array, tol: float, steps: int) -> Array:
    """Return local minima, to a relative precision of `tol` each.

    Parameters
    ----------
    target : Target
        What to minimise.
    x : ndarray of shape (k, q)
        Starts.
    tol : float
        A descent ends where its cost, or its parameters, change by less.
    steps : int
        So many are taken at most.
    """
    low, high = target.limits
    x = np.clip(x, low, high)
    k, q = x.shape
    active, fresh = np.arange(k), np.ones(k, dtype=np.bool_)
    state = target.evaluate(x, active)
    active = active[~target.settle(state, active)]
    damping, growth = np.full(k, _DAMPING), np.full(k, _GROWTH)
    size, s, z = np.zeros((k, q)), np.zeros((k, q)), np.zeros((k, q))
    V = np.zeros((k, q, q))
    cost = np.sum(np.square(target.residuals(state, np.arange(k))), axis=1)
    for _ in range(steps):
        new = active[fresh[active]]
        if len(new) > 0:
            here = tuple(part[new] for part in state)
            J, r = target.jacobian(x[new], here, new), target.residuals(here, new)
            downhill = -np.einsum("kmq,km->kq", J, r)
            held = ((x[new] <= low) & (downhill < 0.0)) | ((x[new] >= high) & (downhill > 0.0))
            s[new], z[new], V[new] = _factors(np.where(held[:, None], 0.0, J), r, size, new)
        if len(active) == 0:
            break
        lam = damping[active, None]
        shrink = s[active] / (s[active] ** 2 + lam)
        d = -np.einsum("kji,kj->ki", V[active], shrink * z[active]) / size[active]
        trial = np.clip(x[active] + d, low, high)
        there = target.evaluate(trial, active)
        after = np.sum(np.square(target.residuals(there, active)), axis=1)
        before = cost[active]
        gain = before - after
        left = lam / (s[active] ** 2 + lam)
        hoped = np.sum(z[active] ** 2 * (1.0 - left**2), axis=1)
        better = gain > 0.0
        moved = np.linalg.norm((trial - x[active]) * size[active], axis=1)
        far = np.linalg.norm(x[active] * size[active], axis=1)
        # A step that the damping has made short says nothing.
        ended = (hoped <= tol * before) & (np.abs(gain) <= tol * before)
        ended |= (moved <= tol * far) & better
        ended |= (moved <= _SMALL * far) | (damping[active] > _STUCK)
        _damp(damping, growth, active, better, gain / np.maximum(hoped, 1.0 / FAR))
        fresh[active] = better
        kept = active[better]
        if len(kept) > 0:
            here = tuple(values[better] for values in there)
            x[kept] = trial[better]
            for part, values in zip(state, here, strict=True):
                part[kept] = values
            ended[better] |= target.settle(here, kept)
            cost[kept] = np.sum(np.square(target.residuals(here, kept)), axis=1)
        active = active[~ended]
    return x


def _damp(
    damping: Array, growth: Array, active: Indices, better: NDArray[np.bool_], ratio: Array
) -> None:
    """Relieve the damping after good steps, and raise it ever faster after others."""
    good, bad = active[better], active[~better]
    damping[good] *= np.maximum(_RELIEF, 1.0 - (2.0 * np.minimum(ratio[better], 1.0) - 1.0) ** 3)
    growth[good] = _GROWTH
    damping[bad] *= growth[bad]
    growth[bad] *= _GROWTH


def _factors(J: Array, r: Array, size: Array, which: Indices) -> tuple[Array, Array, Array]:
    """Return singular values, rotated residuals and right singular vectors of scaled J."""
    q = J.shape[2]
    length = np.linalg.norm(J, axis=1)
    size[which] = np.maximum(size[which], length)
    size[which] = np.where(size[which] > 0.0, size[which], 1.0)
    R = np.asarray(
        np.linalg.qr(np.concatenate([J / size[which, None], r[:, :, None]], axis=2), mode="r")
    )
    U, s, Vt = np.linalg.svd(R[:, :q, :q])
    return s, np.einsum("kij,ki->kj", U, R[:, :q, q]), Vt


@dataclasses.dataclass
class Robust:
    """``2 scale**2 sum(rho(r / scale))`` of all observations, each descent with its scale.

    Attributes
    ----------
    problem : Problem
        What is fitted.
    loss : Loss
        The loss.
    scale : ndarray of shape (k,)
        Scales.
    rule : callable
        ``rule(lengths, scale)``: the scales after a step, from the lengths (k, n) of the
        residuals and the scales before.
    """

    problem: Problem
    loss: Loss
    scale: Array
    rule: Callable[[Array, Array], Array]

    def evaluate(self, x: Array, which: Indices) -> State:
        """Return the residuals and their lengths."""
        r = self.problem.together(x)
        return r, self.problem.lengths(r)

    def residuals(self, state: State, which: Indices) -> Array:
        """Return bent residuals."""
        r, t = state
        a = bend(self.loss, t / self.scale[which, None])
        return r * np.repeat(a, self.problem.block, axis=1)

    def jacobian(self, x: Array, state: State, which: Indices) -> Array:
        """Return the derivatives of the bent residuals."""
        r, t = state
        problem = self.problem
        u = t / self.scale[which, None]
        a = bend(self.loss, u)
        along = slope(self.loss, u, a)
        J = problem.jacobians(x, np.arange(problem.p))
        if problem.block == 1:
            return along[:, :, None] * J
        # `along` in the direction of a block of residuals, a across it.
        k, n, p = len(x), problem.n, problem.p
        J = J.reshape(k, n, -1, p)
        e = r.reshape(k, n, -1) / np.maximum(t, 1.0 / FAR)[:, :, None]
        inner = np.einsum("knb,knbp->knp", e, J)
        across = (along - a)[:, :, None, None] * e[:, :, :, None] * inner[:, :, None, :]
        return np.asarray(a[:, :, None, None] * J + across).reshape(k, -1, p)

    def settle(self, state: State, which: Indices) -> NDArray[np.bool_]:
        """Re-estimate the scale."""
        scale = self.rule(state[1], self.scale[which])
        good = (scale > self.problem.floor) & (scale < FAR)
        self.scale[which] = np.where(good, scale, self.scale[which])
        return ~good

    @property
    def limits(self) -> tuple[Array, Array]:
        """Lower and upper bounds."""
        return self.problem.lower, self.problem.upper


def robust_steps(
    problem: Problem, points: Array, loss: Loss, scale: float, tol: float, steps: int
) -> Array:
    """Return the minima of ``sum(rho(r / scale))`` that points (k, p) lead to."""
    if problem.sparse:
        return np.array([robust_step(problem, x, loss, scale, tol, steps) for x in points])
    same = Robust(problem, loss, np.full(len(points), scale), lambda _, scale: scale)
    return descend(same, points, tol, steps)
