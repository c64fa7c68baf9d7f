"""How a fit ended, and what the search for its start found."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Status(enum.Enum):
    """How a fit ended; `success` follows from it.

    Each member's value is (whether the fit can be used, a short verdict).
    """

    CONVERGED = (True, "converged")
    EXACT_FIT = (True, "exact fit: more than half of the rows are fitted exactly")
    EFFICIENCY_LOWERED = (True, "converged, at a lower efficiency than asked for")
    RANK_DEFICIENT = (True, "converged to the minimum-norm solution of a rank-deficient design")
    AT_BOUND = (True, "converged with a parameter at its bound")
    LEFT_BASIN = (False, "left the solution that the high-breakdown start had found")
    NO_MAJORITY = (False, "several well-separated fits explain the data about equally")
    NO_WEIGHT = (False, "the rows that keep weight do not determine the coefficients")
    FLAT = (False, "no row keeps weight: the loss is flat at the start")
    SINGULAR_JACOBIAN = (False, "the data do not determine all parameters")
    MAXITER = (False, "stopped at maxiter before convergence")
    CANCELLED = (False, "cancelled by the callback")

    @property
    def success(self) -> bool:
        """Whether the result can be used as an estimate."""
        return bool(self.value[0])

    @property
    def verdict(self) -> str:
        """A short sentence without capital and full stop."""
        return str(self.value[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """What the search for the S-estimate found.

    Attributes
    ----------
    x : ndarray of shape (p,)
        S-estimate of the coefficients.
    scale : float
        The smallest M-scale found, in response units.
    reached : int
        How many of the refined candidates ended there.
    candidates : int
        How many candidates were refined.
    alternatives : tuple of (ndarray, float)
        Coefficients and M-scale of the other local minima, best first.
    """

    x: Array
    scale: float
    reached: int
    candidates: int
    alternatives: tuple[tuple[Array, float], ...]

    def __post_init__(self) -> None:
        for x in (self.x, *(x for x, _ in self.alternatives)):
            x.setflags(write=False)
