"""A nonlinear problem as the solvers see it: residuals, Jacobian and bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator

Array = NDArray[np.float64]

#: What a residual is taken for that overflows or is not a number.
FAR = 1e100

_EPS = float(np.finfo(np.float64).eps)
# Of x: where truncation and rounding of the difference quotient are about equal.
_STEPS = {"2-point": _EPS ** (1 / 2), "3-point": _EPS ** (1 / 3), "cs": 1e-30}
#: The ways to take differences.
DIFFERENCES = tuple(_STEPS)


@dataclasses.dataclass
class Problem:
    """Residuals as a function of the parameters.

    Attributes
    ----------
    fun : callable
        ``fun(x)``: residuals, shape (n * block,), in the caller's units.
    jac : callable or {"2-point", "3-point", "cs"}
        ``jac(x)``: their derivatives, (n * block, p), as an array, a sparse matrix or a
        LinearOperator; or how to take differences.
    x0 : ndarray of shape (p,)
        Where the caller starts.
    lower, upper : ndarray of shape (p,)
        Bounds, infinite for none.
    batch : callable or None
        ``batch(points)``: the residuals at points (k, p), shape (k, n * block).
    n, block : int
        Number of observations, and how many consecutive residuals each of them has.
    unit : float
        The power of two that residuals are divided by.
    floor : float
        A scale up to this, in those units, is rounding: the fit is exact.
    step : float or ndarray or None
        Step of the differences, relative to x.
    sparsity : array_like or sparse matrix or None
        Where derivatives can differ from zero; SciPy then takes the differences.
    sparse : bool
        Whether the Jacobian is not a plain array.
    x_scale : "jac" or ndarray of shape (p,)
        How SciPy's solvers scale the parameters.
    evaluations : int
        How often `fun` has been called.
    """

    fun: Callable[[Array], Array]
    jac: Callable[[Array], Any] | str
    x0: Array
    lower: Array
    upper: Array
    n: int
    block: int = 1
    batch: Callable[[Any], Any] | None = None
    unit: float = 1.0
    floor: float = 0.0
    step: Any = None
    sparsity: Any = None
    sparse: bool = False
    x_scale: Any = "jac"
    evaluations: int = 0
    _last: tuple[bytes, Array] = dataclasses.field(init=False, default=(b"", np.zeros(0)))

    @property
    def p(self) -> int:
        """Number of parameters."""
        return len(self.x0)

    @property
    def bounded(self) -> bool:
        """Whether any parameter has a bound."""
        return bool(np.any(np.isfinite(self.lower)) or np.any(np.isfinite(self.upper)))

    @property
    def size(self) -> Array:
        """How large each parameter is, as far as the start tells."""
        return np.where(self.x0 != 0.0, np.abs(self.x0), 1.0)

    def residuals(self, x: Array) -> Array:
        """Return the residuals; `FAR` where the model fails, so that no solver stays there."""
        key = x.tobytes()
        if self._last[0] != key:
            self.evaluations += 1
            r = self._one(x)
            self._last = key, np.where(np.abs(r) < FAR, r, FAR)
        return self._last[1]

    def norms(self, x: Array) -> Array:
        """Return the absolute residuals, for blocks their lengths, shape (n,)."""
        r = self.residuals(x)
        return np.abs(r) if self.block == 1 else np.linalg.norm(r.reshape(self.n, -1), axis=1)

    def many(self, points: Any) -> Any:
        """Return the residuals at several points, shape (k, n * block), without replacing any."""
        self.evaluations += len(points)
        if self.batch is not None:
            return self.batch(points) / self.unit
        return np.stack([self._one(x) for x in points])

    def jacobian(self, x: Array, columns: NDArray[np.intp] | None = None) -> Any:
        """Return the derivatives of the residuals, only of some parameters if given."""
        if isinstance(self.jac, str):
            return self._differences(x, np.arange(self.p) if columns is None else columns)
        J = self.jac(x)
        if isinstance(J, LinearOperator):
            return J * (1.0 / self.unit)
        if isinstance(J, np.ndarray):
            J = np.where(np.isfinite(J), J, 0.0)
        J = J / self.unit
        return J if columns is None else J[:, columns]

    def _one(self, x: Any) -> Any:
        """Return the residuals at a point, `FAR` where the model cannot be evaluated."""
        try:
            return np.asarray(self.fun(x)) / self.unit
        except (ArithmeticError, ValueError):
            return np.full(self.n * self.block, FAR)

    def _differences(self, x: Array, columns: NDArray[np.intp]) -> Array:
        """Return difference quotients, of points within the bounds."""
        kind, k, at = str(self.jac), len(columns), x[columns]
        relative = np.broadcast_to(_STEPS[kind] if self.step is None else self.step, x.shape)
        h = (relative * np.where(x != 0.0, np.abs(x), self.size))[columns]
        if kind == "cs":
            points = np.tile(x.astype(np.complex128), (k, 1))
            points[np.arange(k), columns] += 1j * h
            quotients = self.many(points).imag.T / h
        elif kind == "2-point":
            moved = np.where(at + h <= self.upper[columns], at + h, at - h)
            points = np.tile(x, (k, 1))
            points[np.arange(k), columns] = moved
            quotients = (self.many(points) - self.residuals(x)).T / (moved - at)
        else:
            low = np.maximum(at - h, self.lower[columns])
            high = np.minimum(at + h, self.upper[columns])
            points = np.tile(x, (2 * k, 1))
            points[np.arange(k), columns], points[np.arange(k, 2 * k), columns] = high, low
            values = self.many(points)
            quotients = (values[:k] - values[k:]).T / (high - low)
        return np.asarray(np.where(np.isfinite(quotients), quotients, 0.0))
