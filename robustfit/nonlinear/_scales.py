"""Scales of the residuals of a nonlinear fit: one that resists, one that is not inflated.

The M-scale of breakdown point 1/2 stays finite whatever up to half of the observations do, but
grows with their number: 1.4 times at 20 % of far outliers, 2.7 times at 40 %. The weighted scale

    scale**2 = sum(w t**2) / (k (sum(w) - p E w)),  w = weight(t / scale),  k = E w t**2 / E w,

expectations at the normal, does not feel far outliers at all; but it has several solutions. The
one below the M-scale and next to it is taken. For Welsch's loss it is the scale of the estimate
that minimizes the gamma-divergence (Fujisawa and Eguchi 2008, doi:10.1016/j.jmva.2008.02.004).
"""

from __future__ import annotations

import functools
import math

import numpy as np

from robustfit import scale as scales
from robustfit.losses import Loss
from robustfit.nonlinear._blocks import expectation, s_loss
from robustfit.nonlinear._descent import robust_step
from robustfit.nonlinear._problem import Array, Problem

# A weighted scale that changes by less is settled; a fit takes so many steps to settle it, and
# one that shrinks it more is on its way to fit fewer and fewer observations exactly.
_SETTLED, _STEPS, _FARTHEST = 5e-3, 15, 4.0
_TOLERANCE, _EVALUATIONS = 1e-7, 200


def s_scales(problem: Problem, lengths: Array) -> Array:
    """Return the M-scales of residuals of lengths (k, n)."""
    loss, ddof = s_loss(problem.block), problem.p / problem.block
    return np.asarray(scales.m_scale(lengths, loss=loss, breakdown=0.5, ddof=ddof, axis=1))


def s_scale(problem: Problem, x: Array) -> float:
    """Return the M-scale of the residuals at x."""
    return float(s_scales(problem, problem.norms(x)[None])[0])


def weighted_scale(problem: Problem, x: Array, loss: Loss, above: float) -> float:
    """Return the largest weighted scale of the residuals at x that is at most `above`."""
    scale, new = above, weighted_update(problem, x, loss, above)
    while new < scale * (1.0 - _SETTLED):
        scale, new = new, weighted_update(problem, x, loss, new)
    return scale


def weighted_fit_scale(problem: Problem, x: Array, loss: Loss, above: float) -> float:
    """Return the largest weighted scale at most `above` of a fit that follows it, from x."""
    scale = above
    for _ in range(_STEPS):
        x = robust_step(problem, x, loss, scale, _TOLERANCE, _EVALUATIONS)
        new = weighted_update(problem, x, loss, scale)
        if not new < scale * (1.0 - _SETTLED) or new < above / _FARTHEST:
            break
        scale = new
    return scale


def weighted_update(problem: Problem, x: Array, loss: Loss, scale: float) -> float:
    """Return the weighted scale with the weights of a given one, `scale` if it has none."""
    t = problem.norms(x)
    w = np.asarray(loss.weight(t / scale))
    mean_weight, mean_square = _expectations(loss, problem.block)
    count = float(np.sum(w)) - problem.p / problem.block * mean_weight
    # A far residual without weight must not overflow.
    square = float(w @ np.square(np.where(w > 0.0, t, 0.0)))
    if not count > 0.0 or not square > 0.0:
        return scale
    return math.sqrt(square / count * mean_weight / mean_square)


@functools.cache
def _expectations(loss: Loss, k: int) -> tuple[float, float]:
    """Return E w and E w t**2 per component, t the length of k standard normals."""
    mean_weight = expectation(loss, loss.weight, k)
    return mean_weight, expectation(loss, lambda u: loss.weight(u) * u * u, k) / k
