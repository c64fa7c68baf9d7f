"""What stays the same during the iterations, and how options become it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import covariance, linalg
from robustfit import scale as scales
from robustfit._checks import known, nonnegative, positive, real
from robustfit._inputs import Data
from robustfit._kernels import median_size, residuals
from robustfit.losses import Linear, Loss
from robustfit.result import Status
from robustfit.scale._sample import QUARTILE

Array = NDArray[np.float64]
# So many vectors of residuals are kept: at the S-estimate, a rival of it and the M-estimate.
_RECENT = 3
Callback = Callable[[Any], object]

STARTS = ("auto", "ols", "gnc", "lad", "s", "lts")
SCALES = ("auto", "s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std")
# The scales that follow from an S-estimate.
S_SCALES = ("s", "d", "tau")
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
    """How the scale follows from the standardised residuals; `value` is one known before."""

    name: str
    estimate: Callable[[Array], float]
    fixed: bool = False
    value: float = 0.0


@dataclass(frozen=True)
class Problem:
    """Data and options of a fit.

    Attributes
    ----------
    data : Data
        Design, response and weights.
    loss : Loss
        The loss of the M-step.
    rule : ScaleRule
        The scale.
    adjust : ndarray or float
        1 / sqrt(1 - leverage) where leverage is asked for, else 1.
    ridge, bounds, solver, tol, maxiter, callback
        As in `irls`, in inner units.
    recent : dict
        The last residuals and what they belong to.
    """

    data: Data
    loss: Loss
    rule: ScaleRule
    adjust: Array | float
    ridge: Array | None
    bounds: tuple[Array, Array] | None
    solver: str
    tol: float
    maxiter: int
    callback: Callback | None
    recent: dict[bytes, Array] = field(default_factory=dict, repr=False, compare=False)

    def residuals(self, x: Array) -> Array:
        """Return b - A x, read-only; the last few are kept, because the guard asks again."""
        known = self.recent.get(x.tobytes())
        return self.keep(x, residuals(self.data.A, self.data.b, x)) if known is None else known

    def keep(self, x: Array, r: Array) -> Array:
        """Return the residuals r of x, kept."""
        r.setflags(write=False)
        for old in list(self.recent)[: 1 - _RECENT]:
            del self.recent[old]
        self.recent[x.tobytes()] = r
        return r

    @functools.cached_property
    def factor(self) -> Array | None:
        """What a residual is multiplied by before it is divided by the scale; None for ones."""
        data = self.data
        plain = data.plain and not isinstance(self.adjust, np.ndarray)
        return None if plain else data.inv_sd * self.adjust

    def part(self, rows: NDArray[np.intp]) -> Problem:
        """Return the same problem for some of the rows, without the callback."""
        data = self.data.take(rows)
        adjust = self.adjust[rows] if isinstance(self.adjust, np.ndarray) else self.adjust
        rule = _NAMED[self.rule.name](self.rule.name, data)
        return replace(self, data=data, adjust=adjust, rule=rule, callback=None, recent={})

    def standardise(self, resid: Array) -> Array:
        """Return the residuals that the scale and the loss see."""
        return resid if self.factor is None else resid * self.factor


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


def inner_ridge(ridge: ArrayLike, data: Data) -> Array | None:
    """Return the penalty of each column in inner units, None for no penalty."""
    penalty = nonnegative(ridge, "ridge") if np.ndim(ridge) == 0 else _penalties(ridge, data)
    if not np.any(penalty):
        return None
    unit = np.ones(data.columns) if data.column_unit is None else data.column_unit
    return np.asarray(penalty * unit**2)


def _penalties(ridge: ArrayLike, data: Data) -> Array:
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
    bounds: tuple[ArrayLike, ArrayLike] | None, data: Data, ridge: Array | None
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


def fixed_scale(name: str, value: float) -> ScaleRule:
    """Return the rule that keeps a value."""
    return ScaleRule(name, lambda t: value, fixed=True, value=value)


def scale_rule(scale: Any, loss: Loss, data: Data, ridge: Array | None = None) -> ScaleRule:
    """Return the rule for a scale that needs no high-breakdown start."""
    if callable(scale):
        return ScaleRule("callable", lambda t: _of_callable(scale(t * data.unit)) / data.unit)
    if not isinstance(scale, str):
        return fixed_scale("given", positive(scale, "scale") / data.unit)
    name = known(scale, "scale", SCALES)
    if name == "auto":
        name = "std" if isinstance(loss, Linear) else "mad"
    return _std(name, data, ridge) if name == "std" else _NAMED[name](name, data)


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

    return ScaleRule(name, estimate, name != "mad")


def _huber(name: str, data: Data) -> ScaleRule:
    freq, p = _counts(data), data.A.shape[1]
    if data.nobs <= p:
        return ScaleRule(name, lambda t: 0.0)
    return ScaleRule(name, lambda t: float(scales.huber_proposal2(t, ddof=p, weights=freq)))


def _std(name: str, data: Data, ridge: Array | None) -> ScaleRule:
    df = data.nobs - data.A.shape[1]
    if ridge is not None:
        # The trace of the hat matrix, less than the rank (Hastie, Tibshirani and Friedman 2009,
        # The Elements of Statistical Learning, equation 3.50).
        gram = (data.A.T * data.row_weights) @ data.A
        df = data.nobs - float(np.trace(np.linalg.solve(gram + np.diag(ridge), gram)))
    return ScaleRule(name, lambda t: float(np.sqrt(data.freq @ t**2 / df)) if df > 0.0 else 0.0)


def _matlab(name: str, data: Data) -> ScaleRule:
    p, floor = data.A.shape[1], 1e-6 * float(np.std(data.b)) or 1.0
    return ScaleRule(name, lambda t: max(covariance.matlab_scale(t, data.freq, p), floor))


_NAMED = {"mad": _mad, "mad-fixed": _mad, "huber": _huber, "matlab": _matlab}


def _counts(data: Data) -> Array | None:
    """Return the frequency weights, None where all are one: that is quicker."""
    return None if data.freq.strides == (0,) or np.all(data.freq == 1.0) else data.freq


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
