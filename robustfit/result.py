"""What a fit found and how sure one can be: values, inference, printing."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustfit import _checks, covariance, linalg
from robustfit import compare as comparison
from robustfit._estimate import (
    LOW_WEIGHT,
    Table,
    html_of,
    intervals,
    loss_text,
    outlying,
    plain,
    t_quantile,
    text_of,
)
from robustfit._status import Search, Status
from robustfit.bootstrap import BootstrapResult, fast_bootstrap
from robustfit.diagnostics import Diagnostics, diagnose
from robustfit.losses import Loss

if TYPE_CHECKING:
    from robustfit._inputs import Data
    from robustfit.covariance import Fitted

Array = NDArray[np.float64]

__all__ = ["FitResult", "Search", "Status"]


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True, eq=False)
class FitResult:
    """Result of a robust linear fit; every array in it is read-only.

    Attributes
    ----------
    x : ndarray of shape (p,)
        Coefficients.
    scale : float
        Scale of the residuals, in response units (divided by sqrt(var_weights) per row).
    weights : ndarray of shape (n,)
        Robustness weights in [0, 1]; NaN for rows that ``nan_policy="omit"`` left out.
    cov_type : str
        Which covariance `cov` is.
    loss : Loss
        The loss with its tuning constant.
    status : Status
        How the fit ended.
    message : str
        The verdict with numbers, and what to try next where there is something to try.
    nit : int
        Number of iterations.
    rank : int
        Rank of the design.
    nobs, df_resid : float
        Number of observations (the sum of freq_weights), and that less the rank.
    start, scale_rule : str
        The start and the scale that were used.
    search : Search or None
        The S-estimate and its rivals, where there was an S-step.
    names : tuple of str
        Labels of the coefficients.

    Notes
    -----
    Covariance, leverage and what else takes a pass over the rows are computed when they are first
    asked for. Small data are copied for that; a design of more than a million elements, or more
    than 100,000 responses, are referred to, and must not be changed before.
    """

    x: Array
    scale: float
    weights: Array
    cov_type: str
    loss: Loss
    status: Status
    message: str
    nit: int
    rank: int
    nobs: float
    df_resid: float
    start: str
    scale_rule: str
    search: Search | None
    names: tuple[str, ...]
    _inner: Fitted
    _data: Data

    def __post_init__(self) -> None:
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writable.
        self.__dict__.update(state)
        self.__post_init__()

    @functools.cached_property
    def resid(self) -> Array:
        """Residuals b - A x, in response units, shape (n,)."""
        return _frozen(self._data.spread(self._inner.resid * self._data.unit))

    @functools.cached_property
    def fittedvalues(self) -> Array:
        """A x, shape (n,)."""
        return _frozen(self._data.spread((self._data.b - self._inner.resid) * self._data.unit))

    @functools.cached_property
    def leverage(self) -> Array:
        """Diagonal of the hat matrix of the design, shape (n,)."""
        return _frozen(self._data.spread(self._inner.leverage))

    @functools.cached_property
    def cost(self) -> float:
        """``scale**2 * sum(rho(u))``: half the sum of squares for least squares."""
        inner = self._inner
        if not inner.scale > 0.0:
            return 0.0 if self.status is Status.EXACT_FIT else math.nan
        rho = inner.loss.rho(inner.u)
        if inner.adjusted:
            rho = rho * inner.shrink**2
        return float(inner.freq @ rho) * float(self.scale) * float(self.scale)

    @functools.cached_property
    def cov(self) -> Array:
        """Covariance matrix of x, shape (p, p); NaN where it is not defined."""
        inner, unit = self._expanded(self._inner_cov)
        with np.errstate(over="ignore", under="ignore"):
            return _frozen(inner * unit * unit[:, None])

    @functools.cached_property
    def bse(self) -> Array:
        """Standard errors of x, shape (p,); they can be right where their squares overflow."""
        inner, unit = self._expanded(self._inner_cov)
        with np.errstate(over="ignore", under="ignore"):
            return _frozen(np.sqrt(np.maximum(np.diagonal(inner), 0.0)) * unit)

    @property
    def model_matrix(self) -> Array:
        """The design, as the caller gave it, without rows that were left out."""
        return self._data.model_matrix

    @property
    def response(self) -> Array:
        """The response, without rows that were left out."""
        return self._data.b * self._data.unit

    @property
    def freq_weights(self) -> Array:
        """Repeat counts of the rows that took part."""
        return _frozen(self._data.freq.view())

    @property
    def row_weights(self) -> Array:
        """What a row counts for in a sum of squares: freq_weights times var_weights."""
        return self._data.row_weights

    @property
    def leverage_adjusted(self) -> bool:
        """Whether the fit divided the residuals by sqrt(1 - leverage)."""
        return self._inner.adjusted

    @property
    def standardised(self) -> Array:
        """Residuals divided by their scale; NaN for rows that were left out."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array(self._data.spread(self._inner.u))

    @property
    def alternatives(self) -> tuple[tuple[Array, float], ...]:
        """Other local minima of the S-scale that the search met: (coefficients, M-scale)."""
        return () if self.search is None else self.search.alternatives

    # -- inference ------------------------------------------------------------------------

    @property
    def success(self) -> bool:
        """Whether the result can be used as an estimate."""
        return self.status.success

    @functools.cached_property
    def tvalues(self) -> Array:
        """Coefficients divided by their standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _frozen(self.x / self.bse)

    @functools.cached_property
    def df_t(self) -> float:
        """Degrees of freedom of Student's t: n - rank, or the number of clusters less one."""
        return covariance.degrees_of_freedom(self._inner, self.cov_type)

    @functools.cached_property
    def pvalues(self) -> Array:
        """Two-sided p-values of x = 0 by Student's t with `df_t` degrees of freedom."""
        return _frozen(2.0 * special.stdtr(self.df_t, -np.abs(self.tvalues)))

    def conf_int(self, level: float = 0.95) -> Array:
        """Return confidence intervals of the coefficients, shape (p, 2).

        Parameters
        ----------
        level : float, default: 0.95
            Coverage, in (0, 1).
        """
        return intervals(self.x, self.bse, self.df_t, level)

    @functools.cached_property
    def _fitted(self) -> Fitted:
        """The solution in the caller's units; in those of `_inner` no square overflows."""
        return self._inner.in_units(1.0 / self._data.unit)

    @functools.cached_property
    def _inner_cov(self) -> Array:
        """Covariance of the coefficients of `_inner`."""
        inner = self._inner
        p = inner.A.shape[1]
        exact = self.status is Status.EXACT_FIT
        weights = self.weights if self._data.keep is None else self.weights[self._data.keep]
        undetermined = exact and not np.all(weights[inner.freq > 0.0] == 1.0)
        if self.status is Status.NO_WEIGHT or undetermined or inner.df_resid <= 0.0:
            return np.full((p, p), np.nan)
        return np.zeros((p, p)) if exact else covariance.covariance(inner, self.cov_type)

    def _contrasts(self, rows: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return combinations of the coefficients for `_inner`, their unit and which are lost.

        The rows are divided by the unit. Lost is one with a part of a coefficient that has no
        variance.
        """
        inner = rows if self._data.coordinates is None else rows @ self._data.coordinates
        unit = 1.0 / linalg.column_scale(inner.T)
        lost = np.any(inner[:, np.isnan(np.diagonal(self._inner_cov))] != 0.0, axis=1)
        return inner / unit[:, None], unit, lost

    def predict(
        self,
        A: ArrayLike,
        *,
        interval: Literal["confidence", "prediction"] | None = None,
        level: float = 0.95,
        var_weights: ArrayLike | None = None,
    ) -> Array:
        """Return A x for new rows, with an interval if asked.

        Parameters
        ----------
        A : array_like of shape (k, p)
            New rows of the design.
        interval : {None, "confidence", "prediction"}, default: None
            Interval for the mean response, or for a new good (uncontaminated) response.
        level : float, default: 0.95
            Coverage of the interval.
        var_weights : array_like of shape (k,), optional
            Inverse variances of the new responses, relative to those of the fit.

        Returns
        -------
        ndarray of shape (k,) or (k, 3)
            The prediction; with an interval: prediction, lower and upper limit.
        """
        A = np.atleast_2d(_numbers(A, "A"))
        if A.ndim != 2 or A.shape[1] != len(self.x):
            raise ValueError(f"A must have shape (k, {len(self.x)}), got shape {A.shape}")
        mean = A @ self.x
        if interval is None:
            return mean
        _checks.known(interval, "interval", ("confidence", "prediction"))
        rows, unit, lost = self._contrasts(A)
        variance = np.einsum("ij,jk,ik->i", rows, np.nan_to_num(self._inner_cov), rows)
        sd = np.where(lost, np.nan, np.sqrt(np.maximum(variance, 0.0)) * unit)
        if interval == "prediction":
            sd = np.hypot(sd, self._inner.scale / np.sqrt(_shares(var_weights, len(A))))
        half = t_quantile(level, self.df_t) * sd * self._data.unit
        return np.column_stack([mean, mean - half, mean + half])

    def wald_test(self, R: ArrayLike, q: ArrayLike = 0.0) -> dict[str, float]:
        """Test R x = q by Wald's statistic.

        Parameters
        ----------
        R : array_like of shape (k, p) or (p,)
            Restrictions, linearly independent.
        q : array_like of shape (k,) or float, default: 0
            Right-hand side.

        Returns
        -------
        dict
            ``statistic`` (W / k), ``pvalue`` by F(k, `df_t`), ``chi2`` (W),
            ``pvalue_chi2`` by chi-square(k), ``df_num`` and ``df_denom``.
        """
        R, q = np.atleast_2d(_numbers(R, "R")), _numbers(q, "q")
        if R.ndim != 2 or R.shape[1] != len(self.x) or len(R) == 0:
            raise ValueError(
                f"R must have {len(self.x)} columns and at least a row, got shape {R.shape}"
            )
        k = R.shape[0]
        if q.shape not in ((), (k,)):
            raise ValueError(f"q must be a number or have shape ({k},), got shape {q.shape}")
        rows, unit, lost = self._contrasts(R)
        if np.any(lost) or not np.any(self.bse > 0.0):
            raise ValueError(
                "the covariance of this fit is not defined for these coefficients "
                f"({self.status.verdict}, cov_type={self.cov_type!r})"
            )
        middle = rows @ np.nan_to_num(self._inner_cov) @ rows.T
        size = np.sqrt(np.maximum(np.diagonal(middle), 0.0))
        if not np.all(size > 0.0) or np.linalg.matrix_rank(middle / np.outer(size, size)) < k:
            raise ValueError(f"the {k} rows of R are not linearly independent restrictions")
        gap = (rows @ self._data.reduce(self.x) - q / self._data.unit / unit) / size
        chi2 = float(gap @ np.linalg.solve(middle / np.outer(size, size), gap))
        return {
            "statistic": chi2 / k,
            "pvalue": float(special.fdtrc(k, self.df_t, chi2 / k)),
            "chi2": chi2,
            "pvalue_chi2": float(special.chdtrc(k, chi2)),
            "df_num": float(k),
            "df_denom": self.df_t,
        }

    @functools.cached_property
    def rsquared(self) -> float:
        """Robust R^2 of Renaud and Victoria-Feser (2010), doi:10.1016/j.jspi.2010.01.008.

        1 - a S_r / (S_f + a S_r) with weighted sums of squares of the residuals and of the
        centred fitted values, and a = E weight / E psi' at the normal. About zero instead
        of the mean if the design has no intercept.
        """
        return self._explained()[0]

    @functools.cached_property
    def rsquared_adj(self) -> float:
        """Robust R^2 corrected for the degrees of freedom."""
        r2, intercept = self._explained()
        if not self.df_resid > 0.0:
            return float("nan")
        return 1.0 - (1.0 - r2) * (self.nobs - intercept) / self.df_resid

    def _explained(self) -> tuple[float, int]:
        f = self._inner
        weights = self.weights[np.isfinite(self.weights)]
        w = weights * f.row_weights
        intercept = int(_has_intercept(f.A))
        y, r = self._data.b, f.resid
        center = float(w @ y) / float(np.sum(w)) if intercept and np.sum(w) > 0.0 else 0.0
        total, rest = float(w @ (y - center) ** 2), float(w @ r**2)
        factor = self.loss.expectation(self.loss.weight) / self.loss.expectation(self.loss.dpsi)
        if not total > 0.0:
            return float("nan"), intercept
        return (total - rest) / (total + rest * (factor - 1.0)), intercept

    # -- resampling and comparison -----------------------------------------------------------

    def bootstrap(
        self,
        n: int = 2000,
        *,
        rng: int | np.random.Generator | None = 0,
        progress: bool = False,
    ) -> BootstrapResult:
        """Return the fast and robust bootstrap of the coefficients.

        Parameters
        ----------
        n : int, default: 2000
            Number of resamples.
        rng : int or numpy.random.Generator, default: 0
            Draws the resamples. The fixed default makes the same call give the same answer.
        progress : bool, default: False
            Whether to draw a progress bar (needs tqdm).

        Returns
        -------
        BootstrapResult
            With ``x``, ``cov``, ``bse`` and ``conf_int``.

        See Also
        --------
        robustfit.bootstrap.fast_bootstrap : How it works.

        Examples
        --------
        >>> import robustfit as rf
        >>> data = rf.datasets.load("education")
        >>> fit = rf.irls(data.A, data.b, "tukey", cov_type="avar1")
        >>> print((fit.bootstrap(1000).bse / fit.bse).round(1))
        [1.1 1.1 1.1 1.1]
        """
        n, generator = _checks.whole(n, "n", least=2), _checks.generator(rng)
        moves = fast_bootstrap(self._fitted, n, generator, progress)
        back = self._data.coordinates
        samples = self.x + (moves if back is None else moves @ back.T)
        return BootstrapResult(x=samples, estimate=self.x)

    def compare(
        self, reduced: FitResult, test: Literal["wald", "deviance"] = "wald"
    ) -> dict[str, float]:
        """Test whether a fit with fewer columns explains the response as well.

        Parameters
        ----------
        reduced : FitResult
            Fit of the same response, whose columns are combinations of columns of this fit.
        test : {"wald", "deviance"}, default: "wald"
            Wald's test with the covariance of this fit, or the difference of the objectives.

        Returns
        -------
        dict
            ``statistic``, ``pvalue`` by chi-square, and ``df``, the number of restrictions.

        See Also
        --------
        robustfit.compare.compare_nested : The formulas.
        wald_test : Any linear restrictions.

        Examples
        --------
        >>> import robustfit as rf
        >>> data = rf.datasets.load("stackloss")
        >>> full = rf.irls(data.A, data.b, "tukey", cov_type="avar1")
        >>> reduced = rf.irls(data.A[:, :3], data.b, "tukey")
        >>> print(f"{full.compare(reduced)['pvalue']:.4f}")
        0.1062
        """
        if not isinstance(reduced, FitResult):
            raise TypeError(f"reduced must be a FitResult, got reduced={reduced!r}")
        if not np.array_equal(self.response, reduced.response):
            raise ValueError("reduced must be a fit of the same response, row by row")
        x, smaller = self._data.reduce(self.x), reduced._fitted.in_units(self._data.unit)
        return comparison.compare_nested(self._inner, smaller, x, self._inner_cov, test)

    def compare_start(self) -> dict[str, float]:
        """Compare the fit with its S-estimate and with least squares.

        See `robustfit.compare.compare_start` for what is returned.
        """
        return comparison.compare_start(self._inner)

    @property
    def rfpe(self) -> float:
        """Robust final prediction error, in units of the squared scale; smaller is better.

        NaN for an exact fit, which has no scale.
        """
        return comparison.rfpe(self._inner)

    @property
    def aic(self) -> float:
        """Akaike's criterion for ``loss="linear"``; a ValueError for losses without likelihood.

        NaN for an exact fit, whose likelihood has no bound.
        """
        return comparison.aic(self._inner) + 2.0 * self.nobs * math.log(self._data.unit)

    # -- what the weights say ---------------------------------------------------------------

    def outliers(self, threshold: float | None = None) -> NDArray[np.intp]:
        """Return the row numbers of the outliers, the lowest weight first.

        Parameters
        ----------
        threshold : float, optional
            Rows with a weight at most this. Default: 0.1 / n, as in robustbase, or 0.1 for a
            loss whose weight does not reach zero.
        """
        return outlying(self.weights, self.loss, self.nobs, threshold)

    def diagnostics(
        self, threshold: float = 0.5, *, method: Literal["ogk", "mcd"] = "ogk"
    ) -> Diagnostics:
        """Return the rows that were down-weighted or lie far out, with what kind they are.

        Parameters
        ----------
        threshold : float, default: 0.5
            Rows with a weight below this are listed whatever their kind.
        method : {"ogk", "mcd"}, default: "ogk"
            Estimate of scatter for the robust distances; see
            `robustfit.diagnostics.robust_distances`.

        Examples
        --------
        >>> import robustfit as rf
        >>> data = rf.datasets.load("starsCYG")
        >>> fit = rf.irls(data.A, data.b, "tukey")
        >>> print(fit.diagnostics())
           row   weight    resid  leverage  distance  label
            10    0.000     6.02     0.194      5.21  bad leverage
            19    0.000     6.35     0.194      5.21  bad leverage
            29    0.000     6.74     0.198      5.26  bad leverage
            33    0.000     7.20     0.194      5.21  bad leverage
             6    0.653     2.05     0.078      3.22  good leverage
            13    1.000    -0.03     0.044      2.26  good leverage
        leverage points have a distance above 2.24 (ogk)
        """
        left = np.flatnonzero(np.isfinite(self.weights))
        table = diagnose(
            self.model_matrix,
            weights=self.weights[left],
            standardised=self.standardised[left],
            leverage=self.leverage[left],
            freq=self._inner.freq,
            names=self.names,
            threshold=threshold,
            method=method,
        )
        return dataclasses.replace(table, row=left[table.row])

    # -- other shapes -----------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python values, ready for JSON (NaN as None)."""
        return {
            "success": self.success,
            "status": self.status.name,
            "message": self.message,
            "names": list(self.names),
            "x": plain(self.x),
            "bse": plain(self.bse),
            "tvalues": plain(self.tvalues),
            "pvalues": plain(self.pvalues),
            "conf_int": plain(self.conf_int()),
            "cov": plain(self.cov),
            "cov_type": self.cov_type,
            "scale": plain(self.scale),
            "cost": plain(self.cost),
            "rsquared": plain(self.rsquared),
            "rsquared_adj": plain(self.rsquared_adj),
            "nit": self.nit,
            "nobs": plain(self.nobs),
            "df_resid": plain(self.df_resid),
            "rank": self.rank,
            "loss": repr(self.loss),
            "start": self.start,
            "scale_rule": self.scale_rule,
            **self._of_rows(),
        }

    def _of_rows(self) -> dict[str, Any]:
        """Return what `to_dict` has of each row."""
        return {"weights": plain(self.weights), "resid": plain(self.resid)}

    def to_matlab(self) -> dict[str, Any]:
        """Return the ``stats`` structure of MATLAB's robustfit.

        ``ols_s, robust_s, mad_s, s`` (sigmas), ``resid``, ``rstud``, ``se``, ``covb``,
        ``coeffcorr``, ``t``, ``p``, ``w``, ``h``, ``dfe`` and ``R``, the triangular factor of the
        design (its rows times the root of their weights). The standard errors are those of
        MATLAB whatever `cov_type` is.

        Raises
        ------
        ValueError
            If freq_weights are not whole numbers: MATLAB's scale counts residuals.
        """
        f = self._inner
        sigmas = covariance.matlab_sigmas(f, leveraged=True)
        inner, unit = self._expanded(covariance.covariance(f, "matlab"))
        size = np.sqrt(np.diagonal(inner))
        se = size * unit
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            t = self.x / se
            rstud = f.resid * f.inv_sd / f.shrink / sigmas["s"]
            coeffcorr = inner / np.outer(size, size)
            covb = inner * unit * unit[:, None]
        return {
            **{name: sigma * self._data.unit for name, sigma in sigmas.items()},
            "resid": np.array(self.resid),
            "rstud": self._data.spread(rstud),
            "se": se,
            "covb": covb,
            "coeffcorr": coeffcorr,
            "t": t,
            "p": 2.0 * special.stdtr(self.df_resid, -np.abs(t)),
            "w": np.array(self.weights),
            "h": np.array(self.leverage),
            "dfe": self.df_resid,
            "R": np.linalg.qr(self.model_matrix * np.sqrt(f.row_weights)[:, None], mode="r"),
        }

    def _expanded(self, cov: Array) -> tuple[Array, Array]:
        """Return a covariance of `_inner` for the caller's columns, and its unit for each."""
        data, columns = self._data, self._data.coordinates
        if data.basis is None or columns is None:
            unit = np.ones(len(cov)) if data.column_unit is None else data.column_unit
            return cov, unit * data.unit
        unit = 1.0 / linalg.column_scale(columns.T)
        columns = columns / unit[:, None]
        return columns @ cov @ columns.T, unit * data.unit

    # -- printing ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        return (
            f"<FitResult {self.status.name}: {self.loss.name or type(self.loss).__name__}, "
            f"n={self.nobs:g}, p={len(self.x)}, scale={self.scale:.6g}>"
        )

    def summary(self, level: float = 0.95) -> str:
        """Return the fit as a table, the verdict first.

        Parameters
        ----------
        level : float, default: 0.95
            Coverage of the confidence intervals.
        """
        return text_of(self._table(level), self.names)

    __str__ = summary

    def _repr_html_(self) -> str:
        return html_of(self._table(0.95))

    def _table(self, level: float) -> Table:
        limits, low = self.conf_int(level), self._rejected()
        verdict = self.status.verdict
        head = [
            f"Robust linear fit: {verdict}",
            *([] if self.message == "" else [self.message]),
            f"loss {loss_text(self.loss)}, start {self.start}, scale {self.scale_rule}, "
            f"{self.nit} iterations",
            f"n = {self.nobs:.12g}, rank = {self.rank}, scale = {self.scale:.6g}, "
            f"robust R2 = {self.rsquared:.4f}, weight < {LOW_WEIGHT:g} on {low} rows",
            *self._search_lines(),
            self._inference_line(),
        ]
        tail = f"{100.0 * level:g} %"
        columns = ("estimate", "std error", "t", "P(>|t|)", f"[{tail}", f"{tail}]")
        rows: list[tuple[str, tuple[str, ...]]] = [
            (
                name,
                (
                    f"{self.x[i]:.5g}",
                    f"{self.bse[i]:.4g}",
                    f"{self.tvalues[i]:.3f}",
                    f"{self.pvalues[i]:.3g}",
                    f"{limits[i, 0]:.5g}",
                    f"{limits[i, 1]:.5g}",
                ),
            )
            for i, name in enumerate(self.names)
        ]
        return head, columns, rows

    def _rejected(self) -> int:
        """Return how many rows have a low weight."""
        return int(np.sum(self.weights < LOW_WEIGHT))

    def _inference_line(self) -> str:
        if not np.any(np.isfinite(self.bse)):
            return "no standard errors: they are not defined for this fit"
        df = f"{self.df_t:.6g} degrees of freedom"
        return f"standard errors {self.cov_type}, Student's t with {df}"

    def _search_lines(self) -> list[str]:
        found = self.search
        if found is None:
            return []
        line = f"S-scale {found.scale:.6g}, reached by {found.reached} of {found.candidates} starts"
        if found.alternatives:
            line += f", next local minimum {found.alternatives[0][1]:.6g}"
        return [line]


def _has_intercept(A: Array) -> bool:
    """Tell whether a constant is in the column space of A."""
    ones = np.ones(A.shape[0])
    if linalg.implicit(A):
        step = linalg.implicit_step(A, ones, ones, x=np.zeros(A.shape[1]))
        return bool(np.max(np.abs(ones - A @ step.d)) < 1e-8)
    A = A * linalg.column_scale(A)
    fitted = A @ np.linalg.lstsq(A, ones, rcond=None)[0]
    return bool(np.max(np.abs(ones - fitted), initial=0.0) < 1e-8)


def _numbers(values: ArrayLike, name: str) -> Array:
    """Return a finite float64 array."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers: {error}") from error
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got {name}={values!r}")
    return array


def _shares(var_weights: ArrayLike | None, rows: int) -> Array:
    share = _numbers(1.0 if var_weights is None else var_weights, "var_weights")
    if share.shape not in ((), (rows,)) or not np.all(share > 0.0):
        raise ValueError(
            f"var_weights must be positive, one number or {rows}, got var_weights={var_weights!r}"
        )
    return share


def _frozen(values: Array) -> Array:
    values = np.asarray(values)
    values.setflags(write=False)
    return values
