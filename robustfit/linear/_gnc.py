"""Graduated non-convexity: from least squares to the loss itself, a step at a time.

A redescending loss with a c above every residual is least squares, which has one minimum. Made
smaller by a constant factor after each step of weighted least squares, c rejects the rows one by
one, the farthest first, and the fit follows (Yang, Antonante, Tzoumas and Carlone 2020, IEEE
Robotics and Automation Letters 5, 1127-1134, doi:10.1109/LRA.2020.2965893; there for two losses,
here for any).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robustfit._inputs import Data
from robustfit._progress import Bar
from robustfit.linear._iterate import iterate
from robustfit.linear._problem import Array, Problem
from robustfit.result import Status

# The factor of the paper, and how far above the largest residual c begins.
_FACTOR = 1.4
_ABOVE = 2.0


def graduated(problem: Problem, x: Array, bar: Bar) -> Array:
    """Return the coefficients at which c has come down to that of the loss, starting at x.

    The scale is the one of the M-step: kept if it is given, else re-estimated after each step,
    so that the rejection limit is c times a scale that shrinks as bad rows lose their weight.
    """
    scale = problem.scale_at(x)
    if not scale > 0.0:
        return x
    largest = problem.data.fold(_largest, problem.adjust, x, merge=max)
    ratio = _ABOVE * largest / (scale * problem.loss.c)
    while ratio > 1.0:
        wider = replace(problem.loss, c=ratio * problem.loss.c)
        step = iterate(replace(problem, loss=wider, maxiter=1, callback=None), x, bar)
        x, ratio = step.x, ratio / _FACTOR
        if step.status is not Status.MAXITER:
            break
    return x


def _largest(data: Data, adjust: Array | float, x: Array) -> float:
    t = np.abs(data.residuals(x)) * (data.inv_sd * adjust)
    return float(np.max(t, where=data.freq > 0.0, initial=0.0))
