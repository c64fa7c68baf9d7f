"""Expectations under the standard normal, and the tuning constants that follow from them.

The Gaussian efficiency of an M-estimate of location is ``(E psi')**2 / E psi**2`` and the
breakdown point of the S-estimate that uses rho is ``E rho / sup rho`` (Huber 1981, ch. 4;
Rousseeuw and Yohai 1984). Both are integrals over u >= 0 of an even function.
"""

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The normal density is below the smallest double beyond 38.6.
_END = 39.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
_GRID = np.concatenate([np.arange(0.0, 12.0, 0.5), np.arange(12.0, _END + 1.0, 3.0)])
# A loss varies on the scale of c; these edges, times c, follow it there.
_RELATIVE_GRID = np.array([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 1.5, 2, 3, 4, 6, 8, 12])


def normal_expectation(f: Callable[[Array], Array], knots: Array, c: float = 1.0) -> float:
    """Return E f(|U|), U standard normal, by composite Gauss-Legendre quadrature.

    Parameters
    ----------
    f : callable
        Vectorised and smooth between the knots, in scale units.
    knots : ndarray
        Points, in units of `c`, at which f or a derivative of f jumps.
    c : float, default: 1.0
        The length over which f varies.
    """
    edges = np.unique(np.concatenate([_GRID, c * _RELATIVE_GRID, c * np.asarray(knots)]))
    edges = edges[edges <= _GRID[-1]]
    half = 0.5 * np.diff(edges)[:, None]
    u = edges[:-1, None] + half * (1.0 + _NODES)
    density = np.sqrt(2.0 / np.pi) * np.exp(-0.5 * u * u)
    return float(np.sum(half * _WEIGHTS * density * f(u.ravel()).reshape(u.shape)))


def solve_constant(curve: Callable[[float], float], target: float, what: str) -> float:
    """Return the c at which an increasing or decreasing `curve` takes the value `target`.

    Raises
    ------
    ValueError
        If no c between 1e-3 and 1e3 does; `what` names the quantity.
    """
    low, high = np.log(1e-3), np.log(1e3)

    def gap(log_c: float) -> float:
        return curve(float(np.exp(log_c))) - target

    ends = gap(low), gap(high)
    if not ends[0] * ends[1] <= 0.0:
        reached = sorted(end + target for end in ends)
        raise ValueError(
            f"{what}={target!r} cannot be reached by this loss: "
            f"it takes values between {reached[0]:.4g} and {reached[1]:.4g}"
        )
    start = scipy.optimize.brentq(gap, low, high, xtol=1e-6)
    # A second search in c itself, because the logarithm costs two digits.
    a, b = np.exp(start - 1e-4), np.exp(start + 1e-4)
    return float(scipy.optimize.brentq(lambda c: curve(c) - target, a, b, xtol=1e-300, rtol=9e-16))
