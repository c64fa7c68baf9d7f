"""A model with its data: whitened residuals of one or several parameter vectors."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from robustfit.nonlinear._problem import Array

Model = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Residuals ``f(x, *params) - y``, whitened.

    Attributes
    ----------
    f : callable
        The model.
    x : object
        First argument of the model.
    y : ndarray of shape (n,)
        Response.
    sigma : ndarray or None
        Standard deviations of y, one or (n,), or the lower Cholesky factor (n, n) of its
        covariance matrix.
    keep : ndarray of bool or None
        Which of the caller's observations these are; None for all.
    """

    f: Model
    x: Any
    y: Array
    sigma: Array | None = None
    keep: NDArray[np.bool_] | None = None

    def __call__(self, params: Any) -> Any:
        """Return the residuals at one parameter vector."""
        return self.whiten(self.f(self.x, *params) - self.y)

    def many(self, points: Any) -> Any:
        """Return the residuals at parameter vectors (k, p), by one call of the model."""
        return self.whiten(self.f(self.x, *points.T[:, :, None]) - self.y)

    def jacobian(self, params: Array, jac: Model) -> Any:
        """Return the derivatives of the residuals by a caller's function."""
        return self.whiten(np.asarray(jac(self.x, *params), dtype=np.float64).T).T

    def whiten(self, r: Any) -> Any:
        """Return residuals, shape (..., n), in units of their standard deviations."""
        if self.sigma is None:
            return r
        if self.sigma.ndim == 2:
            return linalg.solve_triangular(
                self.sigma, np.transpose(r), lower=True, check_finite=False
            ).T
        return r / self.sigma

    def unwhiten(self, r: Array) -> Array:
        """Return whitened residuals in units of y."""
        if self.sigma is None:
            return r
        return self.sigma @ r if self.sigma.ndim == 2 else r * self.sigma

    def spread(self, values: Array) -> Array:
        """Return values of the observations for all of the caller's, NaN where left out."""
        if self.keep is None:
            return values
        full = np.full(len(self.keep), np.nan)
        full[self.keep] = values
        return full

    def take(self, rows: NDArray[np.intp]) -> Curve:
        """Return the curve of some observations."""
        sigma = self.sigma if self.sigma is None or self.sigma.ndim == 0 else self.sigma[rows]
        return dataclasses.replace(self, x=self.x[..., rows], y=self.y[rows], sigma=sigma)

    def divides(self, point: Array, jac: Model | str) -> bool:
        """Tell whether the model of some observations gives what it gives for them among all."""
        matrix = self.sigma is not None and self.sigma.ndim == 2
        if matrix or not isinstance(self.x, np.ndarray) or self.x.shape[-1] != len(self.y):
            return False
        rows = np.arange(len(self.y) // 3, len(self.y), 7)
        part = self.take(rows)

        def same(whole: Any, some: Any) -> bool:
            alike = np.shape(some) == np.shape(whole[rows])
            return alike and bool(np.allclose(some, whole[rows], rtol=1e-12, atol=0.0))

        try:
            values = all(same(self(x), part(x)) for x in (point, 1.01 * point))
            return values and (
                isinstance(jac, str) or same(self.jacobian(point, jac), part.jacobian(point, jac))
            )
        except Exception:  # models say in ways of their own that they cannot
            return False

    def batches(self, point: Array) -> bool:
        """Tell whether the model takes columns of parameters, and gives what it gives for one."""
        # A compiled model would be compiled again for arrays.
        if hasattr(self.f, "py_func"):
            return False
        points = point * np.array([1.0, 1.001, 0.999])[:, None]
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")
                together = self.many(points)
                single = np.stack([self(x) for x in points])
        except Exception:  # models say in ways of their own that they cannot
            return False
        same = np.shape(together) == single.shape
        return same and bool(np.allclose(together, single, rtol=1e-12, atol=0.0, equal_nan=True))


def prepare(
    f: Model, xdata: Any, ydata: ArrayLike, sigma: ArrayLike | None, finite: bool, nan_policy: Any
) -> Curve:
    """Return the curve of SciPy's arguments, or SciPy's errors."""
    if nan_policy not in (None, "raise", "omit"):
        raise ValueError(f"nan_policy must be None, 'raise' or 'omit', got {nan_policy!r}")
    as_array = np.asarray_chkfinite if finite else np.asarray
    y = np.ascontiguousarray(as_array(ydata, float))
    if y.ndim != 1:
        raise ValueError(f"ydata must have shape (n,), got shape {y.shape}")
    if y.size == 0:
        raise ValueError("`ydata` must not be empty!")
    x = xdata
    if isinstance(xdata, list | tuple | np.ndarray):
        x = np.ascontiguousarray(as_array(xdata, float))
    deviation, keep = _deviation(sigma, len(y)), None
    if not finite and nan_policy is not None:
        keep = _without_nan(x, y)
        if not np.all(keep) and nan_policy == "raise":
            raise ValueError("The input contains nan values")
        if deviation is not None and deviation.ndim > 0:
            deviation = deviation[keep]
            deviation = deviation[:, keep] if deviation.ndim == 2 else deviation
        x, y = (x[..., keep] if isinstance(x, np.ndarray) else x), y[keep]
    if deviation is not None and deviation.ndim == 2:
        deviation = _cholesky(deviation)
    return Curve(f, x, y, deviation, keep)


def _deviation(sigma: ArrayLike | None, n: int) -> Array | None:
    """Return standard deviations, or the covariance matrix, as they are given."""
    if sigma is None:
        return None
    given = np.asarray(sigma, dtype=np.float64)
    if given.size == 1:
        given = given.reshape(())
    if given.shape not in ((), (n,), (n, n)):
        raise ValueError(f"`sigma` has incorrect shape: {given.shape} with {n} observations.")
    if not np.all(np.isfinite(given)) or (given.ndim < 2 and not np.all(given > 0.0)):
        raise ValueError("`sigma` must hold positive finite standard deviations.")
    return given


def _cholesky(matrix: Array) -> Array:
    try:
        return np.asarray(linalg.cholesky(matrix, lower=True))
    except linalg.LinAlgError as error:
        raise ValueError("`sigma` must be positive definite.") from error


def _without_nan(x: Any, y: Array) -> NDArray[np.bool_]:
    bad = np.isnan(y)
    if isinstance(x, np.ndarray):
        bad = bad | np.any(np.isnan(x), axis=tuple(range(x.ndim - 1)))
    return np.asarray(~bad)


def parameter_names(f: Model, p0: ArrayLike | None) -> tuple[str, ...]:
    """Return the names of the parameters after the first argument of the model."""
    try:
        parameters = list(inspect.signature(f).parameters.values())[1:]
    except (TypeError, ValueError):
        parameters = []
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain]
    if p0 is None:
        if not names:
            raise ValueError("Unable to determine number of fit parameters.")
        return tuple(names)
    count = np.size(p0)
    return tuple(names) if len(names) == count else tuple(f"p{j + 1}" for j in range(count))


def feasible(low: Array, high: Array) -> Array:
    """Return SciPy's start where none is given: 1, or what is well within the bounds."""
    start = np.ones_like(low)
    below, above = np.isfinite(low), np.isfinite(high)
    start[below & ~above] = low[below & ~above] + 1.0
    start[~below & above] = high[~below & above] - 1.0
    start[below & above] = 0.5 * (low[below & above] + high[below & above])
    return start
