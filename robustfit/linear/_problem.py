"""What stays the same during the iterations, and how options become it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import covariance, linalg
from robustfit import scale as scales
from robustfit._checks import known, nonnegative, positive, real
from robustfit._inputs import Data, Frame
from robustfit._kernels import (
    FAR,
    RowSums,
    Sums,
    median_size,
    newton_scale,
    rho_sums,
    sizes_near,
)
from robustfit._streamed import Median, Streamed
from robustfit.losses import Linear, Loss, get_loss
from robustfit.result import Status
from robustfit.scale._sample import QUARTILE, mean_cut_square

Array = NDArray[np.float64]
Callback = Callable[[Any], object]

STARTS = ("auto", "ols", "gnc", "lad", "s", "lts")
SCALES = ("auto", "s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std")
# The scales that follow from an S-estimate.
S_SCALES = ("s", "d", "tau")
#: Data that are read block by block, in a message.
IN_PARTS = "rows that are read in blocks"
# Limit of the passes for a scale, and what is nothing beside rounding of a typical response.
_MOST_PASSES, _TINY = 100, linalg.EPS**2
# A psi that is wrong by less is that of the row.
_CUT = 1e-9
# What a design that is not a full matrix leaves of the options.
_IMPLICIT: dict[str, tuple[str, ...]] = {
    "start": ("ols",),
    "scale": ("mad", "mad-fixed", "huber", "std"),
    "leverage": (),
    "bounds": (),
    "solver": ("auto",),
    "cov_type": ("auto", "huber", "H1", "H2", "H3", "w"),
}
# Names of estimators: start and scale.
METHODS = {
    "m": ("auto", "mad"),
    "s": ("s", "s"),
    "mm": ("s", "s"),
    "smdm": ("s", "d"),
    "tau": ("s", "tau"),
}


@dataclass(frozen=True, slots=True)
class ScaleRule:
    """How the scale follows from the standardised residuals.

    `value` is one known before, `at` the function of the coefficients for rows not in memory.
    ``gradient(t, factor, s, reach)`` tells how s, the scale of t, changes with the coefficients
    when these move the residuals by about `reach`.
    """

    name: str
    estimate: Callable[[Array], float]
    fixed: bool = False
    value: float = 0.0
    at: Callable[[Array], float] | None = None
    gradient: Callable[[Array, Array | None, float, float], Array] | None = None


@dataclass(frozen=True)
class Problem:
    """Data and options of a fit.

    Attributes
    ----------
    data : Data or Streamed
        Design, response and weights.
    loss : Loss
        The loss of the M-step.
    rule : ScaleRule
        The scale.
    adjust : ndarray or float
        1 / sqrt(1 - leverage) where leverage is asked for, else 1.
    ridge, bounds, solver, tol, maxiter, callback
        As in `irls`, in inner units.
    """

    data: Data | Streamed
    loss: Loss
    rule: ScaleRule
    adjust: Array | float
    ridge: Array | None
    bounds: tuple[Array, Array] | None
    solver: str
    tol: float
    maxiter: int
    callback: Callback | None

    @property
    def memory(self) -> Data:
        """The data where they are in memory."""
        if not isinstance(self.data, Data):
            raise TypeError("this estimator needs all rows in memory")
        return self.data

    def residuals(self, x: Array) -> Array:
        """Return b - A x, read-only."""
        return self.memory.residuals(x)

    def keep(self, x: Array) -> None:
        """Have the residuals at x at hand, where rows are in memory."""
        if isinstance(self.data, Data):
            self.data.residuals(x)

    @functools.cached_property
    def factor(self) -> Array | None:
        """What a residual is multiplied by before it is divided by the scale; None for ones."""
        data = self.memory
        plain = data.plain and not isinstance(self.adjust, np.ndarray)
        return None if plain else data.inv_sd * self.adjust

    def part(self, stride: int) -> Problem:
        """Return the same problem for every `stride`-th row, or a sample, without the callback."""
        adjust = self.adjust
        if isinstance(self.data, Data):
            rows = np.arange(0, len(self.data.b), stride)
            data = self.data.take(rows)
            adjust = adjust[rows] if isinstance(adjust, np.ndarray) else adjust
        else:
            data = self.data.sample
        rule = scale_rule(self.rule.name, self.loss, data, self.ridge)
        return replace(self, data=data, adjust=adjust, rule=rule, callback=None)

    @property
    def implicit(self) -> bool:
        """Whether the design is sparse, or known by its products with vectors alone."""
        return isinstance(self.data, Data) and linalg.implicit(self.data.A)

    def standardise(self, resid: Array) -> Array:
        """Return the residuals that the scale and the loss see."""
        return resid if self.factor is None else resid * self.factor

    @property
    def vector(self) -> int:
        """How many residuals a vector of them has; none where rows are not in memory."""
        return len(self.data.b) if isinstance(self.data, Data) else 0

    def scale_at(self, x: Array) -> float:
        """Return the scale by the rule."""
        if isinstance(self.data, Data):
            return self.rule.estimate(self.standardise(self.residuals(x)))
        return self.scale_of(x, None)

    def scale_of(self, x: Array, resid: Array | None) -> float:
        """Return the scale by the rule, from the residuals where rows are in memory."""
        if self.rule.at is not None and not isinstance(self.data, Data):
            return self.rule.at(x)
        return self.rule.estimate(self.standardise(cast(Array, resid)))

    def sums(self) -> Callable[..., Sums]:
        """Return the function of (x, scale, newton, resid) that passes over the rows."""
        data, loss = self.data, self.loss
        if isinstance(data, Data):
            return row_sums(data, loss, self.adjust, self.factor)

        def fold(x: Array, s: float, newton: bool, resid: Array | None = None) -> Sums:
            return cast(Sums, data.fold(fold_sums, loss, x, s, newton, resid is not None))

        return fold


@dataclass(frozen=True, slots=True)
class State:
    """Where the iteration stands; `step` is the last one, in standard errors.

    `weights` are the robustness weights there, where they are known.
    """

    x: Array
    scale: float
    nit: int
    status: Status
    step: float = 0.0
    weights: Array | None = None


def row_sums(data: Data, loss: Loss, adjust: Array | float, factor: Array | None) -> RowSums:
    """Return the pass over the rows of a reweighting or Newton step."""
    return RowSums(
        data.A,
        data.b,
        loss,
        None if factor is None else _unless_one(data.freq / np.square(adjust)),
        factor,
        None if data.plain else _unless_one(data.row_weights),
    )


def fold_sums(data: Data, loss: Loss, x: Array, s: float, newton: bool, drift: bool) -> Sums:
    """Return the sums over the rows of a block."""
    factor = None if data.plain else data.inv_sd
    resid = np.empty(len(data.b)) if drift else None
    return row_sums(data, loss, 1.0, factor)(x, s, newton, resid)


def fold_rho(data: Data, loss: Loss, x: Array, s: float) -> tuple[float, float]:
    """Return what `rho_sums` does for the rows of a block."""
    if data.plain:
        return rho_sums(data.residuals(x), s, loss)
    return rho_sums(data.residuals(x) * data.inv_sd, s, loss, data.freq)


def fold_deviations(data: Data, x: Array) -> tuple[Array, Array]:
    """Return the absolute standardised residuals of a block and what they count for."""
    return np.abs(data.residuals(x)) * data.inv_sd, data.freq


def _unless_one(values: Array) -> Array | None:
    return None if np.all(values == 1.0) else values


def refuse_implicit(A: Any, **options: Any) -> None:
    """Raise a ValueError for options that need the rows of the design, if it has none."""
    option = needs_rows(**options) if linalg.implicit(A) else None
    if option is not None:
        words = " or ".join(repr(word) for word in _IMPLICIT[option]) or "its default"
        extra = " or coefficients" if option == "start" else ""
        kind = "sparse " if hasattr(A, "tocsr") else ""
        raise ValueError(
            f"{option}={options[option]!r} needs a dense A, got {kind}{type(A).__name__}; "
            f"use {option}={words}{extra}"
        )


def needs_rows(**options: Any) -> str | None:
    """Return the first option whose value needs the rows of the design, None if there is none."""
    for option, value in options.items():
        known = isinstance(value, str) and value in _IMPLICIT[option]
        if not (known or value is None or value is False or _is_number_like(option, value)):
            return option
    return None


def _is_number_like(option: str, value: Any) -> bool:
    return option in ("start", "scale") and not isinstance(value, str)


def inner_ridge(ridge: ArrayLike, data: Frame) -> Array | None:
    """Return the penalty of each column in inner units, None for no penalty."""
    if isinstance(cast(Any, ridge), float) and cast(Any, ridge) == 0.0:
        return None
    penalty = nonnegative(ridge, "ridge") if np.ndim(ridge) == 0 else _penalties(ridge, data)
    if not np.any(penalty):
        return None
    unit = np.ones(data.columns) if data.column_unit is None else data.column_unit
    return np.asarray(penalty * unit**2)


def _penalties(ridge: ArrayLike, data: Frame) -> Array:
    """Return a penalty for each column of the caller's."""
    try:
        found = np.asarray(ridge, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"ridge must hold numbers, got ridge={ridge!r}") from error
    if found.shape != (data.columns,) or not np.all((found >= 0.0) & (found < np.inf)):
        raise ValueError(
            f"ridge must be a number or {data.columns} finite numbers of at least 0, "
            f"got ridge={ridge!r}"
        )
    return found


def inner_bounds(
    bounds: tuple[ArrayLike, ArrayLike] | None, data: Frame, ridge: Array | None
) -> tuple[Array, Array] | None:
    """Return lower and upper limits in inner units."""
    if bounds is None:
        return None
    if ridge is not None:
        raise ValueError("bounds and ridge cannot be combined; give one of them")
    p = data.columns
    try:
        low, high = (np.array(np.broadcast_to(np.asarray(end, float), (p,))) for end in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"bounds must be a pair (lower, upper) of numbers or {p} numbers each, "
            f"got bounds={bounds!r}"
        ) from error
    if not np.all(low < high):
        raise ValueError(f"bounds must have lower < upper everywhere, got bounds={bounds!r}")
    return data.reduce(low), data.reduce(high)


def adjustment(data: Data) -> Array:
    """Return 1 / sqrt(1 - h), at most 100, as MATLAB and GSL bound it."""
    h = linalg.row_leverage(data.A, data.freq, data.inv_sd)
    return np.asarray(1.0 / np.sqrt(np.maximum(1.0 - h, 1e-4)))


def refuse_cut(problem: Problem, state: State) -> None:
    """Raise a ValueError where a response is so far out that its cut residual moves the fit.

    Raises
    ------
    ValueError
        If ``u (weight(FAR) - weight(u))``, what the cut adds to psi, is not nothing.
    """
    size, unit = problem.data.size, problem.data.unit
    if not 0.0 < state.scale < size / FAR:
        return
    loss, u = problem.loss, size / state.scale
    if u * float(loss.weight(FAR) - loss.weight(u)) > _CUT:
        raise ValueError(
            f"b must have no value of more than {FAR:g} times the scale with loss={loss.name!r}, "
            f"which gives every row a say, but the largest is {size * unit:.6g}; leave such rows "
            "out, or use a loss that rejects them, as 'welsch'"
        )


def fixed_scale(name: str, value: float) -> ScaleRule:
    """Return the rule that keeps a value."""
    return ScaleRule(name, lambda t: value, fixed=True, value=value, at=lambda x: value)


def scale_rule(
    scale: Any, loss: Loss, data: Data | Streamed, ridge: Array | None = None
) -> ScaleRule:
    """Return the rule for a scale that needs no high-breakdown start."""
    if callable(scale):
        if isinstance(data, Streamed):
            raise TypeError(f"scale must be a name or a number for {IN_PARTS}, got {scale!r}")
        return ScaleRule("callable", lambda t: _of_callable(scale(t * data.unit)) / data.unit)
    if not isinstance(scale, str):
        return fixed_scale("given", positive(scale, "scale") / data.unit)
    name = known(scale, "scale", SCALES)
    if name == "auto":
        name = "std" if isinstance(loss, Linear) else "mad"
    if name == "std":
        return _std(name, data, ridge)
    if not isinstance(data, Streamed):
        return _NAMED[name](name, data)
    if name not in _STREAMED:
        names = ", ".join((*_STREAMED, "std"))
        raise ValueError(f"scale must be one of {names} for {IN_PARTS}, got scale={name!r}")
    at = _STREAMED[name](data)
    return ScaleRule(name, _unavailable, name == "mad-fixed", at=at)


def _of_callable(value: Any) -> float:
    """Return what a scale function of the caller's returned, if it can be a scale."""
    number = real(value, "the value of scale")
    if not 0.0 <= number < math.inf:
        raise ValueError(
            f"scale must return a finite number of at least 0, got {number!r} for finite residuals"
        )
    return number


def _mad(name: str, data: Data) -> ScaleRule:
    freq = _counts(data)

    def estimate(t: Array) -> float:
        if freq is None:
            return median_size(t) / QUARTILE
        return float(scales.mad(t, center=0.0, weights=freq))

    def gradient(t: Array, factor: Array | None, s: float, reach: float) -> Array:
        # The median moves with the rows that it may come to lie at.
        t = t if freq is None else np.where(freq > 0.0, t, math.inf)
        rows = sizes_near(t, QUARTILE * s, reach)
        count = np.ones(len(rows)) if freq is None else freq[rows]
        sign = np.sign(t[rows]) * count / (QUARTILE * np.sum(count))
        return np.asarray(-(sign if factor is None else sign * factor[rows]) @ data.A[rows])

    return ScaleRule(name, estimate, name != "mad", gradient=gradient)


def _huber(name: str, data: Data) -> ScaleRule:
    freq, p = _counts(data), data.A.shape[1]
    if data.nobs <= p:
        return ScaleRule(name, lambda t: 0.0)
    return ScaleRule(name, lambda t: float(scales.huber_proposal2(t, ddof=p, weights=freq)))


def _std(name: str, data: Data | Streamed, ridge: Array | None) -> ScaleRule:
    df = data.nobs - data.width
    if ridge is not None:
        # The trace of the hat matrix, less than the rank (Hastie, Tibshirani and Friedman 2009,
        # The Elements of Statistical Learning, equation 3.50).
        gram = data.fold(_gram)
        df = data.nobs - float(np.trace(np.linalg.solve(gram + np.diag(ridge), gram)))
    if isinstance(data, Streamed):
        streamed = data
        return ScaleRule(
            name,
            _unavailable,
            at=lambda x: math.sqrt(streamed.fold(_square, x) / df) if df > 0.0 else 0.0,
        )
    return ScaleRule(name, lambda t: float(np.sqrt(data.freq @ t**2 / df)) if df > 0.0 else 0.0)


def _gram(data: Data) -> Array:
    if linalg.implicit(data.A):
        return linalg.implicit_gram(data.A, data.row_weights)
    return np.asarray((data.A.T * data.row_weights) @ data.A)


def _square(data: Data, x: Array) -> float:
    return float(data.row_weights @ data.residuals(x) ** 2)


def _matlab(name: str, data: Data) -> ScaleRule:
    p, floor = data.A.shape[1], 1e-6 * float(np.std(data.b)) or 1.0
    return ScaleRule(name, lambda t: max(covariance.matlab_scale(t, data.freq, p), floor))


_NAMED = {"mad": _mad, "mad-fixed": _mad, "huber": _huber, "matlab": _matlab}


def _unavailable(t: Array) -> float:
    raise TypeError(f"{IN_PARTS} have no vector of residuals")


def _streamed_mad(data: Streamed) -> Callable[[Array], float]:
    median = Median(data, fold_deviations)
    return lambda x: median(x) / QUARTILE


def _streamed_huber(data: Streamed) -> Callable[[Array], float]:
    """Return the function that solves the equation of `huber_proposal2`, from the last scale on."""
    if data.nobs <= data.width:
        return lambda x: 0.0
    loss = get_loss("talwar", c=1.345)
    goal = mean_cut_square(loss.c) / loss.c**2 * loss.sup * (data.nobs - data.width)
    last, least = [0.0], _TINY * typical_response(data)

    def solve(x: Array) -> float:
        t, freq = fold_deviations(data.sample, x)
        s = last[0] or float(scales.huber_proposal2(t, weights=freq))
        for _ in range(_MOST_PASSES):
            if not s > least:
                return 0.0
            rho, slope = data.fold(fold_rho, loss, x, s)
            before, s = s, newton_scale(s, rho, slope, goal)
            # The error is about the square of the step.
            if abs(s - before) <= 1e-7 * s:
                break
        last[0] = s
        return s

    return solve


_STREAMED = {
    "mad": _streamed_mad,
    "mad-fixed": _streamed_mad,
    "huber": _streamed_huber,
}


def typical_response(data: Data | Streamed) -> float:
    """Return the median absolute response of those that are not zero, of a sample if need be."""
    size = np.abs(data.b if isinstance(data, Data) else data.sample.b)
    return float(np.median(size[size > 0.0])) if np.any(size) else 1.0


def _counts(data: Data) -> Array | None:
    """Return the frequency weights, None where all are one: that is quicker."""
    return None if linalg.are_ones(data.freq) or np.all(data.freq == 1.0) else data.freq


def labels(names: Any) -> tuple[str, ...] | None:
    """Return `names` as a tuple of text, None for None."""
    if names is None:
        return None
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise TypeError(f"names must be a sequence of labels or None, got names={names!r}")
    return tuple(str(name) for name in names)


def clusters(groups: Any, data: Data, cov_type: str) -> NDArray[np.intp] | None:
    """Return the cluster of each row that takes part, as a number; None without clusters."""
    if cov_type != "cluster" and groups is not None:
        raise ValueError(f"groups is for cov_type='cluster' alone, got cov_type={cov_type!r}")
    if cov_type != "cluster":
        return None
    if groups is None:
        raise ValueError("cov_type='cluster' needs groups, got groups=None")
    given = np.asarray(groups)
    if given.dtype.kind in "US":
        # Beside text, NumPy takes numbers for text, too, and a missing value for "nan".
        given = np.asarray(groups, dtype=object)
    n = len(data.b) if data.keep is None else len(data.keep)
    if given.shape != (n,):
        raise ValueError(f"groups must have shape ({n},) like the rows of A, got {given.shape}")
    given = given if data.keep is None else given[data.keep]
    try:
        missing = int(np.sum(given != given))
        codes = np.unique(given, return_inverse=True)[1]
    except TypeError as error:
        raise TypeError(f"groups must be labels of one kind, none missing: {error}") from error
    if missing > 0:
        raise ValueError(f"groups must be a label for every row, but {missing} are NaN")
    return np.asarray(codes, dtype=np.intp)


def called(callback: Any) -> Callback | None:
    """Return `callback` if it can be called or is None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got callback={callback!r}")
    return cast(Callback | None, callback)
