"""The compiled pieces of the search for S-estimates, for one problem and for many.

They work on the transposed design, as those of `robustfit._kernels` do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robustfit._jit import inner
from robustfit._kernels import _dense, _loss
from robustfit._kernels._loss import ALL, CURVE, WEIGHT, values
from robustfit.losses._compiled import kernels, source_stamp
from robustfit.starts import _subsets

# Median of |U| for a standard normal U.
_QUARTILE = 0.6744897501960817
# Where a step changes the fit by less than this many scales, Newton's method is tried.
_NEAR = 0.1
#: A scale below this, relative to 1 + sum |x|, is rounding error.
ROUNDING = 4e-16
# So many rows tell where to begin with the scale of many.
_SOME = 64
# The M-scale of an exact fit to p good rows is about 1.4 sqrt(p) times that of all, with a long
# tail. A subset's fit is not improved where its scale is this times sqrt(p) that of a candidate,
# and no more after a step where it is this many times.
_HOPELESS, _HOPELESS_AFTER_A_STEP = 2.5, 1.5
# How exactly the scale of a candidate is known, the error is about the square, and that of a fit
# which is to become one.
_SEARCH_SCALE, _ROUGH_SCALE = 1e-2, 3e-2
# No M-scale of responses of order one is larger than this.
_FAR = 1e100

_jit = kernels(_subsets.STAMP, _loss.STAMP)
_inner = kernels(_subsets.STAMP, _loss.STAMP, build=inner)


@_inner
def _first_scale(r: Any, f: Any, above: Any, t: Any, q: Any) -> Any:
    """Return about the scale; that of some of the rows where there are many."""
    n = len(r)
    step = n // _SOME
    if step > 2:
        whole, some = 0.0, 0.0
        for i in range(n):
            whole += f[i]
        for i in range(_SOME):
            t[i] = r[i * step]
            q[i] = f[i * step]
            some += q[i]
        s = _subsets.upper_quantile(
            t[:_SOME],
            q[:_SOME],
            above * some / whole,
            t[_SOME : 2 * _SOME],
            q[_SOME : 2 * _SOME],
        )
        if s > 0.0:
            return s / _QUARTILE
    return _subsets.upper_quantile(r, f, above, t, q) / _QUARTILE


@_inner
def _m_scale(
    loss: Any, r: Any, f: Any, k: Any, goal: Any, top: Any, s: Any, tol: Any, c: Any, shape: Any,
    t: Any, q: Any, w: Any,
) -> Any:  # fmt: skip
    """Return the root of sum f rho(r / s) = goal; s > 0 is where to start."""
    if not goal > 0.0:
        return 0.0
    if not s > 0.0:
        s = _first_scale(r, f, goal / top, t, q)
    low, high, last = 0.0, math.inf, math.inf
    for _ in range(200):
        if not s > 1e-300:
            return s
        values(loss, ALL, r, k, s, c, shape, t, q, w)
        slope, excess = _dense.dot(q, f), _dense.dot(t, f) - goal
        if excess >= 0.0:
            low = s
        else:
            high = s
        square = 1.0 - 2.0 * excess / slope
        new = s / math.sqrt(square) if square > 0.0 else -1.0
        if not (new >= low * (1.0 - 1e-9) and new <= high * (1.0 + 1e-9) and new > 0.0):
            if high == math.inf:
                new = 4.0 * s
            elif low == 0.0:
                new = 0.25 * s
            else:
                new = math.sqrt(low) * math.sqrt(high)
        step = math.fabs(new - s) / s
        s = new
        if step <= tol or (step < 1e-7 and step >= 0.5 * last):
            break
        last = step
    return s


@_jit
def m_scale(loss: Any, r: Any, f: Any, goal: Any, top: Any, tol: Any, c: Any, shape: Any) -> Any:
    """Return the root of sum f rho(r / s) = goal; its error is about the square of `tol`."""
    n = len(r)
    t, q, w = np.empty(n), np.empty(n), np.empty(n)
    return _m_scale(loss, r, f, np.ones(n), goal, top, -1.0, tol, c, shape, t, q, w)


@_inner
def _below(
    loss: Any, r: Any, f: Any, k: Any, goal: Any, s: Any, c: Any, shape: Any, t: Any, q: Any, w: Any
) -> Any:  # fmt: skip
    """Return whether the scale is below s, and then a step of Newton's method to it from s."""
    values(loss, ALL, r, k, min(s, _FAR), c, shape, t, q, w)
    excess, slope = _dense.dot(t, f) - goal, _dense.dot(q, f)
    # Without a slope all residuals are zero, and the scale is not to be found by it.
    return excess < 0.0, s / math.sqrt(1.0 - 2.0 * excess / slope) if slope > 0.0 else -1.0


@_jit
def screen(
    loss: Any, At: Any, b: Any, f: Any, goal: Any, top: Any, first: Any, order: Any, offset: Any,
    given: Any, steps: Any, c: Any, shape: Any, x: Any, s: Any,
) -> None:  # fmt: skip
    """Set x and s to the candidates with the smallest M-scales, infinite for those not found.

    They are the fits to subsets, or else the given ones, each improved by reweighting steps. One
    becomes a candidate only if its scale is below the largest of the best so far (Salibian-Barrera
    and Yohai 2006), which takes one sum over the rows to see. The scale of a fit on the way is a
    single step towards the root from a larger one, which is enough for the weights.
    """
    p, n = At.shape
    r, w, t, q, k = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.ones(n)
    G, L = np.empty((p, p)), np.empty((p, p))
    g, d, z, room = np.empty(p), np.empty(p), np.empty(p), _subsets.room(p)
    hopeless, worst = _HOPELESS * math.sqrt(p), 0
    for i in range(len(s)):
        s[i] = math.inf
    for l in range(len(first) if len(first) > 0 else len(given)):
        if len(first) > 0:
            if not _subsets.elemental(At, b, first[l], order, offset[l], z, room):
                continue
        else:
            for j in range(p):
                z[j] = given[l, j]
        _dense.residuals(At, b, z, r)
        scale = -1.0
        if s[worst] < math.inf:
            far = hopeless * s[worst]
            below, scale = _below(loss, r, f, k, goal, far, c, shape, t, q, w)
            if not below:
                continue
        scale = _m_scale(loss, r, f, k, goal, top, scale, _ROUGH_SCALE, c, shape, t, q, w)
        for taken in range(steps):
            floor = 1.0
            for j in range(p):
                floor += math.fabs(z[j])
            lost = taken > 0 and scale > _HOPELESS_AFTER_A_STEP * s[worst]
            if lost or not scale > ROUNDING * floor:
                break
            values(loss, WEIGHT, r, k, scale, c, shape, t, q, w)
            for i in range(n):
                w[i] *= f[i]
            _dense.gradient(At, w, r, t, g)
            _dense.gram(At, w, t, G)
            _dense.cholesky(G, L)
            _dense.cholesky_solve(L, g, d)
            for j in range(p):
                z[j] += d[j]
            _dense.residuals(At, b, z, r)
            if taken + 1 < steps:
                values(loss, ALL, r, k, scale, c, shape, t, q, w)
                scale *= math.sqrt(_dense.dot(t, f) / goal)
        if s[worst] < math.inf:
            below, scale = _below(loss, r, f, k, goal, s[worst], c, shape, t, q, w)
            if not below:
                continue
        scale = _m_scale(loss, r, f, k, goal, top, scale, _SEARCH_SCALE, c, shape, t, q, w)
        if scale < s[worst]:
            s[worst] = scale
            for j in range(p):
                x[worst, j] = z[j]
            for i in range(len(s)):
                if s[i] > s[worst]:
                    worst = i


@_inner
def _descend(
    loss: Any, At: Any, b: Any, f: Any, goal: Any, top: Any, x: Any, steps: Any, tol: Any,
    scale_tol: Any, c: Any, shape: Any, room: Any,
) -> Any:  # fmt: skip
    """Refine x in place; return its scale and whether the tolerance was met."""
    p, n = At.shape
    r, new_r, w, t, q, k, G, L, g, d, new_x = room
    for j in range(p):
        new_x[j] = x[j]
    # A reweighting step (0), then if that is small a Newton step (1), and the reweighting
    # step after all (2) if that does not decrease the scale.
    attempt, taken, s, size, last = 0, -1, -1.0, math.inf, math.inf
    near = _NEAR * math.sqrt(n)
    while True:
        _dense.residuals(At, b, new_x, new_r)
        new_s = _m_scale(loss, new_r, f, k, goal, top, s, scale_tol, c, shape, t, q, w)
        if attempt == 1 and not new_s <= s * (1.0 + 1e-15):
            attempt = 2
        else:
            attempt, s = 0, new_s
            r, new_r = new_r, r
            floor = 1.0
            for j in range(p):
                x[j] = new_x[j]
                floor += math.fabs(x[j])
            taken += 1
            if taken > 0:
                if size <= tol or (size < 1e-7 and size >= 0.5 * last):
                    return s, True
                last = size
            if taken == steps:
                return s, False
            # What is left is rounding error: an exact fit.
            if not s > ROUNDING * floor:
                return s, True
        while True:
            values(loss, CURVE if attempt == 1 else WEIGHT, r, k, s, c, shape, t, q, w)
            for i in range(n):
                w[i] *= f[i]
            if attempt != 1:
                _dense.gradient(At, w, r, t, g)
            _dense.gram(At, w, t, G)
            positive = _dense.cholesky(G, L)
            _dense.cholesky_solve(L, g, d)
            if attempt == 0:
                size = math.sqrt(max(_dense.dot(d, g), 0.0)) / s
            if (attempt == 0 and size < near) or (attempt == 1 and not positive):
                attempt += 1
            else:
                break
        for j in range(p):
            new_x[j] = x[j] + d[j]


@_jit
def refine(
    loss: Any, At: Any, b: Any, f: Any, goal: Any, top: Any, x: Any, steps: Any, tol: Any,
    scale_tol: Any, c: Any, shape: Any, s: Any, done: Any,
) -> None:  # fmt: skip
    """Refine every candidate in place; set its scale and whether the tolerance was met."""
    p, n = At.shape
    room = (
        np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.ones(n),
        np.empty((p, p)), np.empty((p, p)), np.empty(p), np.empty(p), np.empty(p),
    )  # fmt: skip
    for k in range(len(s)):
        s[k], done[k] = _descend(
            loss, At, b, f, goal, top, x[k], steps, tol, scale_tol, c, shape, room
        )


#: Part of the name of every kernel that uses these, so that an edit here misses the disk cache.
STAMP = source_stamp(refine, refine, _dense) + _subsets.STAMP + _loss.STAMP
