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
# Residuals that one call of the model returns, at most or for one point.
_VALUES = 1 << 21
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
    sample : callable or None
        ``sample(rows)``: the problem of some observations alone; None if there is none.
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
    sample: Callable[[NDArray[np.intp]], Problem] | None = None
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
        return self.lengths(self.residuals(x))

    def many(self, points: Any) -> Any:
        """Return the residuals at several points, shape (k, n * block), without replacing any."""
        self.evaluations += len(points)
        if self.batch is None:
            return np.stack([self._one(x) for x in points])
        # A part at a time: temporaries of the model stay small.
        step = max(1, _VALUES // self.n)
        parts = [self._batch(points[low : low + step]) for low in range(0, len(points), step)]
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)) / self.unit

    def together(self, points: Array) -> Array:
        """Return what `residuals` returns, for several points."""
        r = self.many(points)
        return np.where(np.abs(r) < FAR, r, FAR)

    def lengths(self, r: Array) -> Array:
        """Return the absolute residuals, for blocks their lengths, shape (..., n)."""
        if self.block == 1:
            return np.abs(r)
        return np.asarray(np.linalg.norm(r.reshape(*r.shape[:-1], self.n, -1), axis=-1))

    def jacobian(self, x: Array) -> Any:
        """Return the derivatives of the residuals."""
        if isinstance(self.jac, str):
            return self._differences(x[None], np.arange(self.p))[0]
        J = self.jac(x)
        if isinstance(J, LinearOperator):
            return J * (1.0 / self.unit)
        if isinstance(J, np.ndarray):
            J = np.where(np.isfinite(J), J, 0.0)
        return J / self.unit

    def jacobians(self, points: Array, columns: NDArray[np.intp]) -> Array:
        """Return the derivatives in some parameters at several points, (k, n * block, q)."""
        if isinstance(self.jac, str):
            return self._differences(points, columns)
        return np.stack([self.jacobian(x)[:, columns] for x in points])

    def _batch(self, points: Any) -> Any:
        """Return the residuals at several points by one call of the model, `FAR` if it fails."""
        assert self.batch is not None
        try:
            return self.batch(points)
        except (ArithmeticError, ValueError):
            return np.stack([self._one(x) for x in points]) * self.unit

    def _one(self, x: Any) -> Any:
        """Return the residuals at a point, `FAR` where the model cannot be evaluated."""
        try:
            return np.asarray(self.fun(x)) / self.unit
        except (ArithmeticError, ValueError):
            return np.full(self.n * self.block, FAR)

    def _differences(self, x: Array, columns: NDArray[np.intp]) -> Array:
        """Return difference quotients at points (k, p), of points within the bounds."""
        kind, q, at = str(self.jac), len(columns), x[:, columns]
        relative = np.broadcast_to(_STEPS[kind] if self.step is None else self.step, x.shape[1])
        h = (relative * np.where(x != 0.0, np.abs(x), self.size))[:, columns]
        j = np.arange(q)
        if kind == "cs":
            points = np.repeat(x[:, None].astype(np.complex128), q, axis=1)
            points[:, j, columns] += 1j * h
            quotients = self._each(points).imag / h[:, :, None]
        elif kind == "2-point":
            moved = np.where(at + h <= self.upper[columns], at + h, at - h)
            points = np.repeat(x[:, None], q, axis=1)
            points[:, j, columns] = moved
            base = self.residuals(x[0])[None] if len(x) == 1 else self.together(x)
            quotients = (self._each(points) - base[:, None]) / (moved - at)[:, :, None]
        else:
            low = np.maximum(at - h, self.lower[columns])
            high = np.minimum(at + h, self.upper[columns])
            points = np.repeat(x[:, None], 2 * q, axis=1)
            points[:, j, columns], points[:, q + j, columns] = high, low
            values = self._each(points)
            quotients = (values[:, :q] - values[:, q:]) / (high - low)[:, :, None]
        return np.where(np.isfinite(quotients), quotients, 0.0).transpose(0, 2, 1)

    def _each(self, points: Any) -> Any:
        """Return the residuals at points (k, l, p), shape (k, l, n * block)."""
        k, l, p = points.shape
        return self.many(points.reshape(k * l, p)).reshape(k, l, -1)
