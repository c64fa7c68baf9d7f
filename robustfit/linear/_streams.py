"""Fits of rows that are read block by block: what is not the same as for rows in memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from robustfit import _checks, covariance, linalg
from robustfit._estimate import LOW_WEIGHT, outlier_limit
from robustfit._inputs import Data
from robustfit._kernels import gram
from robustfit._progress import pass_bar
from robustfit._streamed import Streamed
from robustfit.linear._assemble import Outcome, final_status, message_of, search_of
from robustfit.linear._iterate import exact_rows, stacked, triangle, typical_size
from robustfit.linear._problem import IN_PARTS, Array, fold_sums
from robustfit.losses import Linear, Loss
from robustfit.result import FitResult, Status
from robustfit.rows import Rows, add

# The options whose value must be one of these.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "start": ("auto", "s", "lts", "lad", "ols", "gnc"),
    "scale": ("auto", "s", "mad", "mad-fixed", "huber", "std"),
    "method": (None, "m", "s", "mm"),
    "leverage": (False,),
    "groups": (None,),
    "cov_type": ("auto", *(t for t in covariance.COV_TYPES if t not in covariance.IN_MEMORY)),
}


def refuse(options: dict[str, Any]) -> None:
    """Raise a ValueError for options that need all rows in memory."""
    for name, allowed in _ALLOWED.items():
        value = options[name]
        named = value is None or isinstance(value, str | bool)
        if not named and name in ("start", "scale") and not callable(value):
            continue
        if not named or value not in allowed:
            listed = " or ".join(repr(a) for a in allowed)
            raise ValueError(f"{name} must be {listed} for {IN_PARTS}, got {name}={value!r}")


@contextmanager
def watched(source: Rows | None, enabled: bool) -> Iterator[None]:
    """Draw a bar of the passes over the rows and of the blocks done."""
    if source is None or not enabled:
        yield
        return
    with pass_bar(True) as told:
        source.progress = told
        try:
            yield
        finally:
            source.progress = None


# -- least squares -----------------------------------------------------------------------------


def row_space(data: Data | Streamed) -> Array | None:
    """Return a basis of the rows, None if it is all of R^p."""
    if isinstance(data, Data):
        return linalg.row_space(data.A, data.row_weights, data.normal[0])
    if linalg.solve_gram(*data.normal) is not None:
        return None
    scale = linalg.inverse_powers(data.largest)
    R = data.fold(_design_triangle, scale, merge=stacked)
    return linalg.triangle_space(R[: data.width], scale, _tolerance(data))


def least_squares(data: Streamed, ridge: Array | None) -> Array:
    """Return the least-squares solution."""
    x = np.zeros(data.width)
    for _ in range(3):
        G, g = data.fold(_block_gram, x) if np.any(x) else data.normal
        if ridge is not None:
            G, g = G + np.diag(ridge), g - ridge * x
        d = linalg.solve_gram(G, g)
        if d is None:
            R = data.fold(triangle, Linear(), x, 1.0, merge=stacked)
            if ridge is not None:
                root = np.sqrt(ridge)
                R = stacked(R, np.column_stack([np.diag(root), -root * x]))
            d, _ = linalg.minimum_norm(R[:, :-1], R[:, -1], _tolerance(data))
        x = x + d
    return x


def _block_gram(data: Data, x: Array) -> tuple[Array, Array]:
    return gram(data.A, data.row_weights, data.residuals(x))


def _design_triangle(data: Data, scale: Array) -> Array:
    A = data.A[data.row_weights > 0.0] * scale
    return np.asarray(np.linalg.qr(A, mode="r"))


def _tolerance(data: Streamed) -> float:
    return max(data.total, data.width) * linalg.EPS


# -- the solution ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A solution, as far as a block of rows needs to know it; see `covariance.Fitted`."""

    x: Array
    loss: Loss
    scale: float
    stage: covariance.SStage | None

    def fitted(self, data: Data, root: Array | None) -> covariance.Fitted:
        """Return the solution in the rows of a block."""
        return covariance.Fitted(
            data.A, data.residuals(self.x), data.freq, data.inv_sd, False, self.loss, self.scale,
            s_stage=self.stage, known_root=root,
        )  # fmt: skip


@dataclass(frozen=True)
class StreamedFitted:
    """A solution whose rows are read block by block; the counterpart of `covariance.Fitted`."""

    data: Streamed
    part: Part
    weighted: bool

    @property
    def loss(self) -> Loss:
        """The loss of the fit."""
        return self.part.loss

    @property
    def scale(self) -> float:
        """Scale, in inner units."""
        return self.part.scale

    @property
    def nobs(self) -> float:
        """Number of observations, repetitions counted."""
        return self.data.nobs

    @property
    def width(self) -> int:
        """Number of coefficients."""
        return self.data.width

    @property
    def df_resid(self) -> float:
        """Number of observations less the rank."""
        return self.nobs - float(self.width)

    @property
    def s_stage(self) -> covariance.SStage | None:
        """The S-estimate of an MM-estimate."""
        return self.part.stage

    @functools.cached_property
    def _first(self) -> tuple[covariance.Moments, Array]:
        found = self.data.fold(_first_sums, self.part, self.weighted)
        return cast(tuple[covariance.Moments, Array], found)

    @property
    def moments(self) -> covariance.Moments:
        """Sums over the rows."""
        return self._first[0]

    @functools.cached_property
    def root(self) -> Array:
        """See `covariance.Fitted.root`."""
        found = linalg.gram_root(self._first[1])
        if found is not None:
            return found
        scale = linalg.inverse_powers(self.data.largest)
        R = self.data.fold(_root_triangle, self.part, self.weighted, scale, merge=stacked)
        return linalg.triangle_root(R, scale, _tolerance(self.data))

    def of_design(self) -> StreamedFitted:
        """Return the same with the root of the whole design."""
        return replace(self, weighted=False)

    def fold(
        self, function: Callable[..., Any], *args: Any, merge: Callable[[Any, Any], Any] = add
    ) -> Any:
        """Return what a function of `covariance.Fitted` returns for the blocks, merged."""
        if self.weighted and function is covariance.gram_of and args == ("weight",):
            # The root is that of this Gram matrix, unless it was too near to a singular one.
            G = self._first[1]
            if linalg.gram_root(G) is not None:
                return self.root.T @ G @ self.root
        return self.data.fold(_in_part, self.part, self.root, function, args, merge=merge)


def _in_part(
    data: Data, part: Part, root: Array, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    return function(part.fitted(data, root), *args)


def _first_sums(data: Data, part: Part, weighted: bool) -> tuple[covariance.Moments, Array]:
    fitted = part.fitted(data, None)
    if weighted:
        G = fold_sums(data, part.loss, part.x, part.scale, False, True).gram
    else:
        G = gram(data.A, None if data.plain else data.row_weights, fitted.resid)[0]
    return covariance.moments_of(fitted), G


def _root_triangle(data: Data, part: Part, weighted: bool, scale: Array) -> Array:
    weight = part.fitted(data, None).weight if weighted else 1.0
    return linalg.triangular(data.A, data.row_weights * weight, scale)


# -- the result --------------------------------------------------------------------------------


class StreamedResult(FitResult):
    """Result of a fit of rows that are read block by block.

    It is a `FitResult`, except that `weights`, `resid`, `fittedvalues`, `leverage` and
    `standardised` are computed when they are asked for: they are Dask arrays aligned with the input
    of a fit of Dask arrays, else each a `robustfit.rows.LazyVector`. What needs all rows in memory
    (`bootstrap`, `compare`, `diagnostics`, `to_matlab`) raises a TypeError.
    """

    @property
    def _streamed(self) -> Streamed:
        return cast(Streamed, self._data)

    @property
    def _part(self) -> Part:
        return cast(StreamedFitted, self._inner).part

    @functools.cached_property
    def resid(self) -> Any:
        """Residuals b - A x, in response units, shape (n,)."""
        return self._streamed.each(_resid, self._part)

    @functools.cached_property
    def fittedvalues(self) -> Any:
        """A x, shape (n,)."""
        return self._streamed.each(_fitted_values, self._part)

    @functools.cached_property
    def leverage(self) -> Any:
        """Diagonal of the hat matrix of the design, shape (n,)."""
        root = cast(StreamedFitted, self._inner).of_design().root
        return self._streamed.each(_leverage, root)

    @functools.cached_property
    def standardised(self) -> Any:
        """Residuals divided by their scale."""
        return self._streamed.each(_standardised, self._part)

    @functools.cached_property
    def cost(self) -> float:
        """``scale**2 * sum(rho(u))``: half the sum of squares for least squares."""
        if not self._part.scale > 0.0:
            return 0.0 if self.status is Status.EXACT_FIT else np.nan
        return float(self._streamed.fold(_cost, self._part)) * self.scale * self.scale

    @functools.cached_property
    def _inner_cov(self) -> Array:
        inner, p = cast(StreamedFitted, self._inner), self._streamed.width
        exact = self.status is Status.EXACT_FIT
        undetermined = exact and not np.all(self._streamed.fold(_all_exact, self._part, merge=min))
        if self.status is Status.NO_WEIGHT or undetermined or inner.df_resid <= 0.0:
            return np.full((p, p), np.nan)
        return np.zeros((p, p)) if exact else covariance.covariance(inner, self.cov_type)

    def _explained(self) -> tuple[float, int]:
        data, part = self._streamed, self._part
        ones, G = data.fold(_ones)
        beta = np.linalg.lstsq(G, ones, rcond=None)[0]
        intercept = int(data.fold(_from_one, beta, merge=max) < 1e-8)
        floor = typical_size(data, part.x) if self.status is Status.EXACT_FIT else 0.0
        w, wy = data.fold(_weighted_response, part, floor)
        center = wy / w if intercept and w > 0.0 else 0.0
        total, rest = data.fold(_squares, part, floor, center)
        factor = self.loss.expectation(self.loss.weight) / self.loss.expectation(self.loss.dpsi)
        if not total > 0.0:
            return float("nan"), intercept
        return (total - rest) / (total + rest * (factor - 1.0)), intercept

    def _rejected(self) -> int:
        floor = typical_size(self._streamed, self._part.x) if self._part.scale == 0.0 else 0.0
        return int(self._streamed.fold(_low, self._part, floor))

    def outliers(self, threshold: float | None = None) -> NDArray[np.intp]:
        """Return the row numbers of the outliers, the lowest weight first.

        Parameters
        ----------
        threshold : float, optional
            As for `FitResult.outliers`.
        """
        if threshold is None:
            threshold = outlier_limit(self.loss, self.nobs)
        limit = _checks.between(threshold, "threshold", 0.0, 1.0, "[]")
        floor = typical_size(self._streamed, self._part.x) if self._part.scale == 0.0 else 0.0
        rows, weights = self._streamed.fold(_outlying, self._part, floor, limit, merge=_joined)
        return np.asarray(rows[np.argsort(weights, kind="stable")])

    def _of_rows(self) -> dict[str, Any]:
        return {}

    def _needs_memory(self, *args: Any, **options: Any) -> NoReturn:
        raise TypeError(f"this needs all rows in memory, and the fit is one of {IN_PARTS}")

    def bootstrap(self, *args: Any, **options: Any) -> NoReturn:
        """Raise a TypeError: resampling needs all rows in memory."""
        self._needs_memory()

    def compare(self, reduced: FitResult, test: Literal["wald", "deviance"] = "wald") -> NoReturn:
        """Raise a TypeError: the comparison needs all rows in memory; `wald_test` does not."""
        self._needs_memory()

    def compare_start(self) -> NoReturn:
        """Raise a TypeError: the comparison needs all rows in memory."""
        self._needs_memory()

    def diagnostics(self, *args: Any, **options: Any) -> NoReturn:
        """Raise a TypeError: robust distances need all rows in memory."""
        self._needs_memory()

    def to_matlab(self) -> NoReturn:
        """Raise a TypeError: MATLAB's scale needs all rows in memory."""
        self._needs_memory()

    model_matrix = response = freq_weights = row_weights = rfpe = aic = property(_needs_memory)
    leverage_adjusted = False


def assemble(
    outcome: Outcome, cov_type: str, groups: NDArray[np.intp] | None = None
) -> StreamedResult:
    """Return the result in the caller's units; issue at most one warning of each class."""
    problem, state = outcome.problem, outcome.state
    data = cast(Streamed, problem.data)
    exact = state.status is Status.EXACT_FIT
    scale = 0.0 if exact else state.scale
    part = Part(state.x, problem.loss, scale, outcome.stage)
    floor = typical_size(data, state.x) if exact else 0.0
    total, square = data.fold(_weight_sums, part, floor)
    status = final_status(problem, state, total, square)
    fitted = StreamedFitted(data, part, weighted=not problem.loss.convex)
    return StreamedResult(
        x=data.expand(state.x),
        scale=scale * data.unit,
        weights=data.each(weights_of, part, floor),
        cov_type=cov_type,
        loss=problem.loss,
        status=status,
        message=message_of(outcome, status),
        nit=state.nit,
        rank=data.rank or data.width,
        nobs=data.nobs,
        df_resid=fitted.df_resid,
        start=outcome.start,
        scale_rule=problem.rule.name,
        search=search_of(outcome),
        names=data.names,
        _inner=cast(Any, fitted),
        _data=cast(Any, data),
    )


def weights_of(data: Data, part: Part, floor: float) -> Array:
    """Return the robustness weights of a block."""
    if floor > 0.0:
        return exact_rows(data, part.x, floor).astype(np.float64)
    if not part.scale > 0.0:
        return np.zeros(len(data.b))
    resid = data.residuals(part.x)
    u = (resid if data.plain else resid * data.inv_sd) / part.scale
    return np.asarray(part.loss.weight(u))


def _weight_sums(data: Data, part: Part, floor: float) -> tuple[float, float]:
    weights = weights_of(data, part, floor)
    counted = weights if data.plain else data.freq * weights
    return float(np.sum(counted)), float(counted @ weights)


def _resid(data: Data, part: Part) -> Array:
    return data.residuals(part.x) * data.unit


def _fitted_values(data: Data, part: Part) -> Array:
    return (data.b - data.residuals(part.x)) * data.unit


def _standardised(data: Data, part: Part) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(data.residuals(part.x) * data.inv_sd / part.scale)


def _leverage(data: Data, root: Array) -> Array:
    square = np.square(data.inv_sd)
    w = data.freq * square
    h = np.sum((data.A @ root) ** 2, axis=1)
    own = np.minimum(h, 1.0 / np.where(w > 0.0, w, 1.0)) * square
    return np.asarray(np.minimum(own, 1.0))


def _cost(data: Data, part: Part) -> float:
    return float(data.freq @ part.loss.rho(data.residuals(part.x) * data.inv_sd / part.scale))


def _all_exact(data: Data, part: Part) -> bool:
    w = exact_rows(data, part.x, 0.0)
    return bool(np.all(w[data.freq > 0.0]))


def _ones(data: Data) -> tuple[Array, Array]:
    return np.sum(data.A, axis=0), data.A.T @ data.A


def _from_one(data: Data, beta: Array) -> float:
    return float(np.max(np.abs(1.0 - data.A @ beta), initial=0.0))


def _weighted_response(data: Data, part: Part, floor: float) -> tuple[float, float]:
    w = weights_of(data, part, floor) * data.row_weights
    return float(np.sum(w)), float(w @ data.b)


def _squares(data: Data, part: Part, floor: float, center: float) -> tuple[float, float]:
    w = weights_of(data, part, floor) * data.row_weights
    return float(w @ (data.b - center) ** 2), float(w @ data.residuals(part.x) ** 2)


def _low(data: Data, part: Part, floor: float) -> int:
    return int(np.sum(weights_of(data, part, floor) < LOW_WEIGHT))


def _outlying(data: Data, part: Part, floor: float, limit: float) -> tuple[NDArray[np.intp], Array]:
    weights = data.spread(weights_of(data, part, floor))
    rows = np.flatnonzero(weights <= limit)
    return data.first + rows, weights[rows]


def _joined(left: tuple[Any, Any], right: tuple[Any, Any]) -> tuple[Any, Any]:
    return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])
