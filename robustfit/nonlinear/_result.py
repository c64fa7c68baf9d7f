"""The result of a curve fit: SciPy's tuple, and all there is to know of the fit."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import _checks
from robustfit._estimate import LOW_WEIGHT, intervals, loss_text, outlying, plain, t_quantile
from robustfit.losses import Loss
from robustfit.nonlinear._curve import Curve
from robustfit.nonlinear._problem import Array, Problem
from robustfit.result import Status


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True, eq=False)
class CurveFit(Sequence[Any]):
    """Result of `curve_fit`; unpacks like SciPy's, ``popt, pcov = fit``.

    Attributes
    ----------
    x : ndarray of shape (p,)
        Parameters, ``popt``.
    cov : ndarray of shape (p, p)
        Their covariance, ``pcov``; infinite where it is not defined.
    cov_type : str
        Which covariance it is.
    scale : float
        Standard deviation of the good residuals: in units of `sigma` where that was given,
        else in those of the response.
    weights : ndarray of shape (n,)
        Robustness weights in [0, 1]; NaN for observations that were left out.
    resid : ndarray of shape (n,)
        ``ydata - f(xdata, *x)``; NaN for observations that were left out.
    loss : Loss
        The loss with its tuning constant.
    status : Status
        How the fit ended.
    message : str
        What there is to say beyond the verdict, and what to try.
    cost : float
        ``scale**2 * sum(rho(u))``: half the sum of squares for least squares.
    nobs, df_resid : int
        Number of observations, and that less the number of parameters.
    nfev : int
        How often the model was evaluated.
    names : tuple of str
        Names of the parameters.
    infodict : dict
        ``nfev`` and ``fvec``, SciPy's residuals; more from SciPy itself.
    ier : int
        SciPy's reason for the end of the last step; 1 to 4 for convergence.
    """

    x: Array
    cov: Array
    cov_type: str
    scale: float
    weights: Array
    resid: Array
    loss: Loss
    status: Status
    message: str
    cost: float
    nobs: int
    df_resid: int
    nfev: int
    names: tuple[str, ...]
    infodict: dict[str, Any]
    ier: int
    _full_output: bool
    _curve: Curve
    _jac: Callable[..., Any] | str

    # -- SciPy's tuple --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    @property
    def _items(self) -> tuple[Any, ...]:
        more = (self.infodict, self.message or self.status.verdict, self.ier)
        return (self.x, self.cov, *(more if self._full_output else ()))

    # -- inference ------------------------------------------------------------------------------

    @property
    def success(self) -> bool:
        """Whether the result can be used as an estimate."""
        return self.status.success

    @property
    def xdata(self) -> Any:
        """First argument of the model, without observations that were left out."""
        return self._curve.x

    @property
    def ydata(self) -> Array:
        """Response, without observations that were left out."""
        return self._curve.y

    @property
    def bse(self) -> Array:
        """Standard errors of the parameters."""
        return np.asarray(np.sqrt(np.diagonal(self.cov)))

    def conf_int(self, level: float = 0.95) -> Array:
        """Return confidence intervals of the parameters, shape (p, 2).

        Parameters
        ----------
        level : float, default: 0.95
            Coverage, in (0, 1).
        """
        return intervals(self.x, self.bse, self.df_resid, level)

    def predict(
        self,
        x: Any,
        interval: Literal["confidence", "prediction"] | None = None,
        level: float = 0.95,
        *,
        sigma: ArrayLike | None = None,
    ) -> Array:
        """Return the fitted curve, with a band if asked.

        Parameters
        ----------
        x : object
            Where; what the model takes as its first argument.
        interval : {None, "confidence", "prediction"}, default: None
            Band of the curve, or of a new good observation.
        level : float, default: 0.95
            Coverage of the band, point by point.
        sigma : array_like, optional
            Standard deviations of the new observations, where the fit was given them.

        Returns
        -------
        ndarray of shape (k,) or (k, 3)
            The curve; with an interval: the curve, its lower and its upper limit.

        Notes
        -----
        By the delta method: ``g' cov g`` with g the derivatives of the model in its parameters.
        """
        x = np.asarray(x, dtype=np.float64) if isinstance(x, list | tuple | np.ndarray) else x
        curve = np.asarray(self._curve.f(x, *self.x), dtype=np.float64)
        if interval is None:
            return curve
        _checks.known(interval, "interval", ("confidence", "prediction"))
        new = Curve(self._curve.f, x, np.zeros(np.shape(curve)))
        free = np.full(len(self.x), np.inf)
        G = Problem(
            new, derivative(new, self._jac), self.x, -free, free, n=np.size(curve)
        ).jacobian(self.x)
        variance = np.einsum("ij,jk,ik->i", G, self.cov, G)
        if interval == "prediction":
            share = 1.0 if sigma is None else np.asarray(sigma, dtype=np.float64)
            variance = variance + np.square(self.scale * share)
        half = t_quantile(level, self.df_resid) * np.sqrt(np.maximum(variance, 0.0))
        return np.column_stack([curve, curve - half, curve + half])

    # -- what the weights say -------------------------------------------------------------------

    def outliers(self, threshold: float | None = None) -> NDArray[np.intp]:
        """Return the positions of the outliers, the lowest weight first.

        Parameters
        ----------
        threshold : float, optional
            Observations with a weight at most this. Default: 0.1 / n, or 0.1 for a loss whose
            weight does not reach zero.
        """
        return outlying(self.weights, self.loss, self.nobs, threshold)

    def plot(self, ax: Any = None) -> Any:
        """Draw the data, the curve and its confidence band (needs matplotlib).

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; default: a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            The Axes drawn into.
        """
        return importlib.import_module("robustfit.plot").curve(self, ax=ax)

    # -- other shapes ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python values, ready for JSON (not finite as None)."""
        return {
            "success": self.success,
            "status": self.status.name,
            "message": self.message,
            "names": list(self.names),
            "x": plain(self.x),
            "bse": plain(self.bse),
            "conf_int": plain(self.conf_int()),
            "cov": plain(self.cov),
            "cov_type": self.cov_type,
            "scale": plain(self.scale),
            "cost": plain(self.cost),
            "nobs": self.nobs,
            "df_resid": self.df_resid,
            "nfev": self.nfev,
            "loss": repr(self.loss),
            "weights": plain(self.weights),
            "resid": plain(self.resid),
        }

    def __repr__(self) -> str:
        name = self.loss.name or type(self.loss).__name__
        return (
            f"<CurveFit {self.status.name}: {name}, n={self.nobs}, p={len(self.x)}, "
            f"scale={self.scale:.6g}>"
        )

    def summary(self, level: float = 0.95) -> str:
        """Return the fit as a table, the verdict first.

        Parameters
        ----------
        level : float, default: 0.95
            Coverage of the confidence intervals.
        """
        low = int(np.sum(self.weights < LOW_WEIGHT))
        tail = f"{100.0 * level:g} %"
        width = max(10, *(len(name) for name in self.names))
        columns = ("estimate", "std error", f"[{tail}", f"{tail}]")
        table = np.column_stack([self.x, self.bse, self.conf_int(level)])
        return "\n".join(
            [
                f"Robust curve fit: {self.status.verdict}",
                *([self.message] if self.message else []),
                f"loss {loss_text(self.loss)}, {self.nfev} evaluations",
                f"n = {self.nobs}, p = {len(self.x)}, scale = {self.scale:.6g}, "
                f"weight < {LOW_WEIGHT:g} on {low} observations",
                f"standard errors {self.cov_type}, Student's t with {self.df_resid} degrees of "
                "freedom",
                "",
                f"{'':<{width}}" + "".join(f" {name:>11}" for name in columns),
                *(
                    f"{name:<{width}}" + "".join(f" {value:>11.5g}" for value in row)
                    for name, row in zip(self.names, table, strict=True)
                ),
            ]
        )

    __str__ = summary


def derivative(curve: Curve, jac: Callable[..., Any] | str) -> Callable[[Array], Any] | str:
    """Return what a problem takes as the derivatives of a curve."""
    return functools.partial(curve.jacobian, jac=jac) if callable(jac) else jac
