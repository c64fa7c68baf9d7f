"""Compiled fits of many small problems: a call fits a block of them, one after the other.

The designs are transposed, (problems or 1, p, n), with rows divided by their standard deviation and
rows that do not count set to zero; the responses are of order one. Both kernels take the regular
course of a fit only. Whatever does not take it, they report as not done.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robustfit._jit import inner
from robustfit._kernels import _dense
from robustfit._kernels._loss import CURVE, WEIGHT, values
from robustfit.losses._compiled import kernels
from robustfit.starts import _s_kernels, _subsets

# Where a step moves the fit by fewer standard errors than this, Newton's method is tried, and
# steps shorter than the next that no longer shrink are rounding: as in the single fit.
_NEAR = 1e-2
_SETTLED = 1e-7
# The responses are of order one: a smaller scale may be on its way to an exact fit.
_EXACT = 1e-8
# Of an equilibrated Gram matrix; below it, the single fit takes more care.
_SMALL_PIVOT = 1e-6
# Median of |U| for a standard normal U.
_QUARTILE = 0.6744897501960817
# The best is known when the last step of each, in standard errors, and the last change of the scale
# are so small: the error of the scale is about the square of the second, and of the first over n.
_LOOSE, _LOOSE_SCALE = 1e-2, 1e-3
_jit, _inner = kernels(_s_kernels.STAMP), kernels(_s_kernels.STAMP, build=inner)


@_inner
def _regular(L: Any, G: Any) -> Any:
    """Return whether no pivot of the factor L of G is small."""
    for j in range(len(L)):
        if not L[j, j] * L[j, j] > _SMALL_PIVOT * G[j, j] or L[j, j] == math.inf:
            return False
    return True


@_inner
def _length(L: Any, d: Any) -> Any:
    """Return sqrt(d' L L' d)."""
    out = 0.0
    for j in range(len(d)):
        part = 0.0
        for i in range(j, len(d)):
            part += L[i, j] * d[i]
        out += part * part
    return math.sqrt(out)


@_inner
def _slack(f: Any) -> Any:
    """Return half of the sum of f, and what rounding of partial sums may add to it."""
    total, least = 0.0, math.inf
    for i in range(len(f)):
        total += f[i]
        if f[i] > 0.0:
            least = min(least, f[i])
    return 0.5 * total, min(2.2e-16 * len(f) * 0.5 * total, 0.25 * least)


@_inner
def _mad(At: Any, r: Any, f: Any, half: Any, slack: Any, a: Any, q: Any, v: Any) -> Any:
    """Return the MAD about zero and set v to its gradient in x; a and q are scratch."""
    low = _subsets.upper_quantile(r, f, half + slack, a, q)
    # The other of the two in the middle is the same or the next.
    over, high = 0.0, math.inf
    for i in range(len(r)):
        size = math.fabs(r[i])
        if size > low:
            over += f[i]
            high = min(high, size)
    if not over > half - slack:
        high = low
    for j in range(len(v)):
        v[j] = 0.0
    for i in range(len(r)):
        size = math.fabs(r[i])
        if size in (low, high):
            share = 0.5 if low != high else 1.0
            share *= (-1.0 if r[i] > 0.0 else 1.0) / _QUARTILE
            for j in range(len(v)):
                v[j] += share * At[j, i]
    return 0.5 * (low + high) / _QUARTILE


@_inner
def _least_squares(
    At: Any, b: Any, f: Any, x: Any, r: Any, t: Any, G: Any, L: Any, g: Any, d: Any
) -> Any:
    """Set x to the least-squares fit; return whether the design is far from singular."""
    _dense.gram(At, f, t, G)
    _dense.cholesky(G, L)
    for j in range(len(x)):
        x[j] = 0.0
    # The second step removes most of the rounding of the first.
    for _ in range(2):
        _dense.residuals(At, b, x, r)
        _dense.gradient(At, f, r, t, g)
        _dense.cholesky_solve(L, g, d)
        for j in range(len(x)):
            x[j] += d[j]
    return _regular(L, G)


@_jit
def least_squares(At: Any, b: Any, f: Any, x: Any, done: Any) -> None:
    """Set the rows of x to the least-squares fits."""
    n, p = b.shape[1], At.shape[1]
    r, t = np.empty(n), np.empty(n)
    G, L = np.empty((p, p)), np.empty((p, p))
    g, d = np.empty(p), np.empty(p)
    for k in range(len(b)):
        if done[k]:
            At_k, f_k = At[k % len(At)], f[k % len(f)]
            done[k] = _least_squares(At_k, b[k], f_k, x[k], r, t, G, L, g, d)


@_jit
def solve(
    loss: Any, At: Any, b: Any, f: Any, begun: Any, x: Any, s: Any, moving: Any, limit: Any,
    tol: Any, c: Any, shape: Any, nit: Any, done: Any, weights: Any,
) -> None:  # fmt: skip
    """Iterate from x, or from least squares where it is not `begun`, to the M-estimates.

    With `moving` the scale is the MAD throughout; without, that at the start where s is 0. The
    robustness weights are set where there is room for them.

    Near the solution Newton steps take over. Where the scale moves, its dependence on x adds
    a term of rank one to their equations.
    """
    m, n = b.shape
    p = At.shape[1]
    r, w, q, t, unit = np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.ones(n)
    G, L = np.empty((p, p)), np.empty((p, p))
    g, d, v, e = np.empty(p), np.empty(p), np.empty(p), np.empty(p)
    for k in range(m):
        if not done[k]:
            continue
        At_k, b_k, f_k, x_k, s_k = At[k % len(At)], b[k], f[k % len(f)], x[k], s[k]
        half, slack = _slack(f_k)
        if not begun and not _least_squares(At_k, b_k, f_k, x_k, r, t, G, L, g, d):
            done[k] = False
            continue
        if not (s_k > 0.0 or moving):
            _dense.residuals(At_k, b_k, x_k, r)
            s_k = _mad(At_k, r, f_k, half, slack, t, q, v)
        done[k] = False
        newton, ended, last = False, False, math.inf
        for taken in range(limit + 1):
            _dense.residuals(At_k, b_k, x_k, r)
            if moving:
                s_k = _mad(At_k, r, f_k, half, slack, t, q, v)
            if ended:
                # A scale that is given does not tell an exact fit.
                s[k], nit[k], done[k] = s_k, taken, _dense.dot(r, r) > 0.0
                if len(weights) > 0:
                    values(loss, WEIGHT, r, unit, s_k, c, shape, t, q, weights[k])
                break
            if not s_k > _EXACT:
                break
            values(loss, WEIGHT, r, unit, s_k, c, shape, t, q, w)
            for i in range(n):
                w[i] *= f_k[i]
            _dense.gradient(At_k, w, r, t, g)
            if newton:
                values(loss, CURVE, r, unit, s_k, c, shape, t, q, q)
                for i in range(n):
                    q[i] *= f_k[i]
                _dense.gram(At_k, q, t, G)
                newton = _dense.cholesky(G, L) and _regular(L, G)
            if not newton:
                _dense.gram(At_k, w, t, G)
                if not (_dense.cholesky(G, L) and _regular(L, G)):
                    break
            _dense.cholesky_solve(L, g, d)
            if newton and moving:
                for i in range(n):
                    t[i] = q[i] * r[i] / s_k
                for j in range(p):
                    g[j] = _dense.dot(t, At_k[j])
                _dense.cholesky_solve(L, g, e)
                factor = _dense.dot(v, d) / (1.0 + _dense.dot(v, e))
                for j in range(p):
                    d[j] -= factor * e[j]
            for j in range(p):
                x_k[j] += d[j]
            size = _length(L, d) / s_k
            ratio = 0.0 if newton else min(size / last, 0.999)
            settled = newton and size < _SETTLED and size >= 0.5 * last
            ended = settled or size <= tol * (1.0 - ratio)
            # After a Newton step that did not shrink comes a plain one.
            newton = size < _NEAR and not (newton and size >= 0.5 * last)
            last = size


@_jit
def estimate(
    loss: Any, At: Any, b: Any, f: Any, goal: Any, top: Any, first: Any, order: Any,
    offset: Any, best: Any, tol: Any, limit: Any, c: Any, shape: Any, x: Any, s: Any, done: Any,
) -> None:  # fmt: skip
    """Set x and s to the fits with the smallest M-scale; x are starts, too.

    Each subset's fit is improved by a reweighting step, and the best are refined to convergence.
    """
    m, p = len(b), At.shape[1]
    none, xs, ss = np.empty((0, p)), np.empty((best + 1, p)), np.empty(best + 1)
    ended = np.empty(best + 1, np.bool_)
    for k in range(m):
        if not done[k]:
            continue
        At_k, b_k, f_k = At[k % len(At)], b[k], f[k % len(f)]
        goal_k = goal[k % len(goal)]
        # Least squares is a candidate, too, and stands for those that are not found.
        for i in range(best + 1):
            for j in range(p):
                xs[i, j] = x[k, j]
        _s_kernels.screen(
            loss, At_k, b_k, f_k, goal_k, top, first, order, offset, none, 1, c, shape, xs[:best],
            ss[:best],
        )  # fmt: skip
        if not np.min(ss[:best]) > _EXACT:
            done[k] = False
            continue
        _s_kernels.refine(
            loss, At_k, b_k, f_k, goal_k, top, xs, limit, _LOOSE, _LOOSE_SCALE, c, shape, ss, ended
        )
        i = int(np.argmin(ss))
        _s_kernels.refine(
            loss, At_k, b_k, f_k, goal_k, top, xs[i : i + 1], limit, tol, 1e-14, c, shape,
            ss[i : i + 1], ended[i : i + 1],
        )  # fmt: skip
        s[k], done[k] = ss[i], ended[i] and ss[i] > _EXACT
        for j in range(p):
            x[k, j] = xs[i, j]
