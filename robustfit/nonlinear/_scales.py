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
from robustfit.nonlinear._problem import Array, Problem


def s_scale(problem: Problem, x: Array) -> float:
    """Return the M-scale of the residuals at x."""
    loss, ddof = s_loss(problem.block), problem.p / problem.block
    return float(scales.m_scale(problem.norms(x), loss=loss, breakdown=0.5, ddof=ddof))


def weighted_scale(problem: Problem, x: Array, loss: Loss, above: float) -> float:
    """Return the largest weighted scale that is at most `above`."""
    t, scale = problem.norms(x), above
    mean_weight, mean_square = _expectations(loss, problem.block)
    for _ in range(100):
        w = np.asarray(loss.weight(t / scale))
        count = float(np.sum(w)) - problem.p / problem.block * mean_weight
        if not count > 0.0:
            break
        new = math.sqrt(float(w @ t**2) / count * mean_weight / mean_square)
        if not 0.0 < new < scale * (1.0 - 1e-3):
            break
        scale = new
    return scale


@functools.cache
def _expectations(loss: Loss, k: int) -> tuple[float, float]:
    """Return E w and E w t**2 per component, t the length of k standard normals."""
    mean_weight = expectation(loss, loss.weight, k)
    return mean_weight, expectation(loss, lambda u: loss.weight(u) * u * u, k) / k
