"""Tuning constants for the lengths of k-dimensional residuals.

The length of k independent standard normals has the density of the absolute value of one,
times ``t**(k - 1)``, up to a factor; so its expectations are those of one normal.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from robustfit.losses import Loss, get_loss

Array = NDArray[np.float64]


def expectation(loss: Loss, f: Callable[[Array], Array], k: int) -> float:
    """Return E f(t), t the length of k standard normals, for f with the knots of the loss."""
    if k == 1:
        return loss.expectation(f)
    total = loss.expectation(lambda u: np.abs(u) ** (k - 1))
    return loss.expectation(lambda u: np.abs(u) ** (k - 1) * f(u)) / total


@functools.cache
def s_loss(k: int) -> Loss:
    """Return Tukey's loss with ``E rho(t) = sup rho / 2`` for the lengths t of k normals."""
    tukey = get_loss("tukey", breakdown=0.5)
    if k == 1:
        return tukey

    def gap(c: float) -> float:
        loss = get_loss("tukey", c=c)
        return expectation(loss, loss.rho, k) / loss.sup - 0.5

    return get_loss("tukey", c=float(brentq(gap, tukey.c, 4.0 * k * tukey.c, xtol=1e-12)))


def efficient_loss(loss: Loss, target: float, k: int) -> Loss:
    """Return the loss with the c that has an efficiency at k-dimensional normal residuals."""

    def gap(c: float) -> float:
        return efficiency(dataclasses.replace(loss, c=c), k) - target

    return dataclasses.replace(loss, c=float(brentq(gap, loss.c, 4.0 * k * loss.c, xtol=1e-12)))


def efficiency(loss: Loss, k: int) -> float:
    """Return the asymptotic efficiency of the M-estimate of location of k-vectors.

    It is ``k m**2 / E psi**2`` with m the mean derivative of ``psi(|r|) r / |r|``, by Stein's
    lemma ``E t psi(t) / k``.
    """
    slope = expectation(loss, lambda u: u * loss.psi(u), k) / k
    return k * slope**2 / expectation(loss, lambda u: loss.psi(u) ** 2, k)


@dataclasses.dataclass(frozen=True)
class BlockLoss:
    """A loss of the lengths of blocks of k residuals, as a function of the residuals.

    Attributes
    ----------
    loss : Loss
        The loss of the lengths.
    k : int
        Residuals in a block.
    """

    loss: Loss
    k: int

    def weight(self, u: Array) -> Array:
        """Return the weight of each residual, that of its block."""
        return np.repeat(self.loss.weight(self._lengths(u)), self.k)

    def psi(self, u: Array) -> Array:
        """Return the components of ``psi(|u|) u / |u|``."""
        return self.weight(u) * u

    def dpsi(self, u: Array) -> Array:
        """Return the mean derivative of the components, the same for each in a block."""
        t = self._lengths(u)
        mean = (self.loss.dpsi(t) + (self.k - 1) * self.loss.weight(t)) / self.k
        return np.repeat(mean, self.k)

    def _lengths(self, u: Array) -> Array:
        return np.asarray(np.linalg.norm(u.reshape(-1, self.k), axis=1))
