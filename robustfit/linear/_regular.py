"""Stacks of problems, and the fits of those that take the regular course.

A `Plan` sends blocks of problems through the kernels of `robustfit.linear._small` and adds, for
all problems of a block at once, weights, covariances and the questions of the basin guard. It
tells which problems did not take the regular course; their answers are not to be used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks, linalg
from robustfit import scale as scales
from robustfit._inputs import matrix
from robustfit._kernels import LARGE_ELEMENTS, _dense
from robustfit._kernels._loss import pointer
from robustfit.compare import difference_variance
from robustfit.linear import _far, _guard, _problem, _small
from robustfit.linear._problem import Array
from robustfit.losses import Linear, Loss, get_loss
from robustfit.starts import _subsets

Flags = NDArray[np.bool_]

# Columns within these limits can be squared.
_TINY, _HUGE = 1e-60, 1e60
# With half of the rows bad, all subsets are contaminated with this probability.
_MISSED = 1e-6
_MOST_SUBSETS = 1000
# How many candidates are refined, at most in so many steps, up to so many standard errors.
_CANDIDATES = 10
_S_STEPS, _S_TOL = 500, 1e-10
# The options that the kernels are made for, besides those that are numbers.
_USUAL: dict[str, tuple[Any, ...]] = {
    "start": ("auto", "ols", "s"),
    "method": (None, "m", "mm"),
    "leverage": (False,),
    "ridge": (0.0,),
    "bounds": (None,),
    "solver": ("auto",),
    "cov_type": ("auto", "huber", "w"),
    "groups": (None,),
    "nan_policy": ("raise", "omit"),
    "callback": (None,),
}


# -- the problems ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problems:
    """The data as the caller gave them, and views of single problems.

    Attributes
    ----------
    A : ndarray of shape (m, n, p) or (n, p)
        Designs, or the one that all share, which may be sparse or an operator.
    b : ndarray of shape (m, n) or (n, m)
        Responses.
    freq, var : ndarray of shape (n,) or of the shape of `b`, or None
        Weights.
    """

    A: NDArray[Any]
    b: NDArray[Any]
    freq: NDArray[Any] | None
    var: NDArray[Any] | None

    @classmethod
    def of(cls, A: Any, b: Any, freq: Any, var: Any) -> Problems:
        """Return checked problems; raise a ValueError or TypeError that names the argument."""
        design = A if linalg.implicit(A) else _numbers(A, "A")
        response = _numbers(b, "b")
        shape = (design.shape[0],) if design.ndim == 2 else design.shape[:2]
        if response.shape[: len(shape)] != shape:
            wanted = f"({shape[0]}, k)" if len(shape) == 1 else f"{shape}"
            raise ValueError(
                f"b must have shape {wanted} for A of shape {design.shape}, got {response.shape}"
            )
        weights = []
        for values, name in ((freq, "freq_weights"), (var, "var_weights")):
            array = None if values is None else _numbers(values, name)
            if array is not None and array.shape not in (design.shape[-2:-1], response.shape):
                raise ValueError(
                    f"{name} must have shape {design.shape[-2:-1]} or, like b, {response.shape}, "
                    f"got {array.shape}"
                )
            weights.append(array)
        return cls(design, response, *weights)

    @property
    def shared(self) -> bool:
        """Whether all problems have one design."""
        return self.A.ndim == 2

    def __len__(self) -> int:
        return int(self.b.shape[1 if self.shared else 0])

    def rows(self, values: NDArray[Any], part: slice) -> Array:
        """Return some problems' part of b, or of weights, as rows; one row if they share it."""
        if values.ndim == 1:
            rows = values[None]
        else:
            rows = values[:, part].T if self.shared else values[part]
        return np.ascontiguousarray(rows, dtype=np.float64)

    def has_rows(self, i: int) -> bool:
        """Tell whether problem i has a row without non-finite values."""
        one = self.single(i)
        return bool(np.any(np.isfinite(one["A"]).all(axis=1) & np.isfinite(one["b"])))

    def designs(self, part: slice) -> Array:
        """Return the designs of some problems, (1 or m, n, p)."""
        return np.asarray(self.A[None] if self.shared else self.A[part], dtype=np.float64)

    def single(self, i: int) -> dict[str, Any]:
        """Return the arguments of `irls` for problem i."""
        part = slice(i, i + 1)
        weights = {"freq_weights": self.freq, "var_weights": self.var}
        return {
            "A": self.A if self.shared else self.A[i],
            "b": self.rows(self.b, part)[0],
            **{k: None if w is None else self.rows(w, part)[0] for k, w in weights.items()},
        }


def _numbers(values: Any, name: str) -> NDArray[Any]:
    """Return an array of real numbers, in its own precision: converted, many may not fit."""
    plain = isinstance(values, np.ndarray) and not isinstance(values, np.ma.MaskedArray)
    return values if plain and values.dtype.kind in "fiub" else matrix(values, name)


@dataclass(frozen=True)
class Block:
    """Some problems, with responses of order one.

    Attributes
    ----------
    A : ndarray of shape (1 or m, n, p)
        Designs.
    b : ndarray of shape (m, n)
        Responses divided by `unit`.
    freq, inv_sd : ndarray of shape (1 or m, n)
        Frequency weights and the root of the inverse-variance weights.
    unit : ndarray of shape (m,)
        Powers of two.
    usable : ndarray of bool, shape (m,)
        Whether everything is finite and of a size that can be squared.
    """

    A: Array
    b: Array
    freq: Array
    inv_sd: Array
    unit: Array
    usable: Flags

    @classmethod
    def of(cls, problems: Problems, part: slice) -> Block:
        """Return some of the problems."""
        A, b = problems.designs(part), problems.rows(problems.b, part)
        freq, var = (
            np.ones((1, b.shape[1])) if w is None else problems.rows(w, part)
            for w in (problems.freq, problems.var)
        )
        largest, size = np.max(np.abs(A), axis=1), np.max(np.abs(b), axis=1)
        smallest = np.min(np.abs(b), axis=1, where=b != 0.0, initial=np.inf)
        usable = np.all((largest > _TINY) & (largest < _HUGE), axis=1)
        usable = usable & (size > 0.0) & np.isfinite(size) & (smallest > _TINY * size)
        for w in (freq, var):
            usable = usable & np.all((w >= 0.0) & (w < _HUGE), axis=1)
        unit = np.ldexp(1.0, np.clip(np.frexp(size)[1], -1022, 1022))
        freq = np.where(var > 0.0, freq, 0.0)
        return cls(A, b / unit[:, None], freq, np.sqrt(var), unit, usable)

    @functools.cached_property
    def rows(self) -> tuple[Array, Array, Array]:
        """Designs (1 or m, p, n), responses (m, n) and counts (1 or m, n) for the kernels.

        A row without weight is zero, so that it depends on any other and is in no subset.
        """
        factor = np.where(self.freq > 0.0, self.inv_sd, 0.0)
        design = self.A.transpose(0, 2, 1) * factor[:, None, :]
        return _dense.padded(design), _dense.padded(self.b * factor), _dense.padded(self.freq)

    @property
    def design(self) -> Array:
        """The designs as the kernels see them, (1 or m, p, n)."""
        return self.rows[0][..., : self.b.shape[1]]

    @functools.cached_property
    def nobs(self) -> Array:
        """Number of observations, (1 or m,)."""
        return np.asarray(np.sum(self.freq, axis=1))

    @functools.cached_property
    def df(self) -> Array:
        """Number of observations less that of the coefficients, (1 or m,)."""
        return np.asarray(self.nobs - self.A.shape[2])

    def residuals(self, x: Array) -> Array:
        """Return b - A x."""
        if len(self.A) == 1:
            return np.asarray(self.b - x @ self.A[0].T)
        return np.asarray(self.b - np.einsum("mnp,mp->mn", self.A, x))

    def standardised(self, x: Array, s: Array) -> Array:
        """Return the residuals divided by their scales."""
        return np.asarray(self.residuals(x) * self.inv_sd / s[:, None])

    def take(self, which: NDArray[np.intp]) -> Block:
        """Return a selection of the problems."""

        def some(values: Array) -> Array:
            return values if len(values) == 1 else values[which]

        return Block(
            A=some(self.A),
            b=self.b[which],
            freq=some(self.freq),
            inv_sd=some(self.inv_sd),
            unit=self.unit[which],
            usable=self.usable[which],
        )

    def mean(self, values: Array | Flags) -> Array:
        """Return the mean over the observations of each problem."""
        return np.asarray(np.sum(self.freq * values, axis=1) / self.nobs)


@dataclass(frozen=True)
class Plan:
    """What the kernels do with every problem.

    Attributes
    ----------
    problems : Problems
        The data.
    loss : Loss
        The loss of the M-step.
    s_loss, draws : Loss and Draws, or None
        The loss of the S-estimate and the subsets that it is searched with, where that is the
        start.
    scale : str or float
        "s", "mad", "mad-fixed", or the scale itself.
    weighted : bool
        Whether the covariance is "w"; else it is "huber".
    tol, maxiter
        As in `irls`.
    """

    problems: Problems
    loss: Loss
    s_loss: Loss | None
    draws: _subsets.Draws | None
    scale: str | float
    weighted: bool
    tol: float
    maxiter: int

    def fit(self, block: Block) -> tuple[Flags, dict[str, Any]]:
        """Return which problems are regular, and the arrays of the result."""
        p, unit = block.A.shape[2], block.unit
        regular = block.usable & (block.df > 0.0)
        x, s = self._start(block, regular)
        start = x.copy()
        nit = self._iterate(block, self.loss, x, s, regular)
        if self.scale == "s" and self.s_loss is not None and not self.loss.convex:
            self._watch(block, self.s_loss, start, x, s, regular)
            regular &= ~self._hang_on_few(block, x, s)
        u = block.standardised(x, s)
        weights = np.asarray(self.loss.weight(u))
        regular &= block.mean(weights) ** 2 * block.nobs >= p * block.mean(weights**2)
        cov, defined = self._covariance(block, u, weights, regular)
        cov *= (s * s)[:, None, None]
        regular &= defined
        bse = np.sqrt(np.diagonal(cov, axis1=1, axis2=2)) * unit[:, None]
        return regular, {
            "x": x * unit[:, None],
            "scale": s * unit,
            "cov": cov * (unit * unit)[:, None, None],
            "bse": bse,
            "weights": weights,
            "resid": block.residuals(x) * unit[:, None],
            "nit": nit,
            "df_t": np.broadcast_to(block.df, s.shape),
        }

    def _iterate(
        self, block: Block, loss: Loss, x: Array, s: Array, regular: Flags
    ) -> NDArray[np.intp]:
        """Move x to the M-estimates, s with it if it is to move; return the numbers of steps."""
        nit = np.zeros(len(s), dtype=np.intp)
        # A fit that takes longer may be one that takes the single function more than maxiter.
        limit = self.maxiter // 2
        address, c, shape = pointer(loss)
        _small.solve(
            address, *block.rows, True, x, s, self.scale == "mad", limit, self.tol, c, shape, nit,
            regular, np.empty((0, 0)),
        )  # fmt: skip
        return nit

    def _start(self, block: Block, regular: Flags) -> tuple[Array, Array]:
        """Return coefficients and scales to start from."""
        x, s = np.zeros((len(block.b), block.A.shape[2])), np.ones(len(block.b))
        _small.least_squares(*block.rows, x, regular)
        chi = self.s_loss
        if chi is not None and self.draws is not None:
            draws, goal = self.draws, 0.5 * block.df
            address, c, shape = pointer(chi)
            _small.estimate(
                address, *block.rows, goal * chi.sup, chi.sup,
                draws.first, draws.order, draws.offset, _CANDIDATES, _S_TOL, _S_STEPS, c, shape, x,
                s, regular,
            )  # fmt: skip
        if self.scale == "mad-fixed":
            t = np.where(regular[:, None], block.standardised(x, s), 0.0)
            s[:] = scales.mad(t, center=0.0, axis=1, weights=np.broadcast_to(block.freq, t.shape))
        elif isinstance(self.scale, float):
            s[:] = self.scale / block.unit
        return x, s

    def _watch(
        self, block: Block, chi: Loss, start: Array, x: Array, s: Array, regular: Flags
    ) -> None:
        """Do what `robustfit.linear._guard` does for most fits; others are not regular.

        Two fits that share less than half of their rows, and hold no fewer than their M-scales
        allow, cannot both hold almost all rows: a fit with few rows left out has no rival.
        """
        ratio = np.maximum(_guard.JUMP_RATIO, np.exp(0.5 * self._suspicious / block.df))
        u = block.standardised(x, s) / ratio[:, None]
        worse = block.mean(chi.rho(u)) * block.nobs > 0.5 * block.df * chi.sup
        rest = np.abs(block.standardised(start, s)) >= 2.5
        share = block.mean(rest)
        held = 1.0 - 0.5 * chi.sup / float(chi.rho(2.5))
        regular &= share < min(_guard.DRIFT_SHARE, _guard.RIVAL_OVERLAP * held)
        far = np.flatnonzero(regular & worse)
        if len(far):
            x[far], regular[far] = self._follow(block.take(far), chi, start[far], s[far])
        many = np.sum(rest & (block.freq > 0.0), axis=1) > 2 * x.shape[1]
        left = np.flatnonzero(regular & many & (share >= _guard.RIVAL_SHARE))
        if len(left):
            regular[left] = self._no_crowd(block.take(left), rest[left], s[left])

    def _follow(self, block: Block, chi: Loss, x: Array, s: Array) -> tuple[Array, Flags]:
        """Return the M-estimates after rising efficiencies, and which came in short steps."""
        calm, before = np.ones(len(s), dtype=np.bool_), chi
        for loss, longest in self._ladder:
            after = x.copy()
            self._iterate(block, loss, after, s, calm)
            u, new = block.standardised(x, s), block.standardised(after, s)
            moved = block.mean(before.weight(u) * loss.weight(new) * (new - u) ** 2)
            calm &= moved <= longest / block.df
            x, before = after, loss
        return x, calm

    def _hang_on_few(self, block: Block, x: Array, s: Array) -> Flags:
        """Tell where rows far out in the design decide about the fit: others may disagree."""
        far, Z = _far.far_rows(block.design.transpose(0, 2, 1), block.freq)
        held = far & (np.abs(block.standardised(x, s)) < _far.BELIEVED)
        out = np.asarray(np.any(held, axis=1))
        some = np.flatnonzero(out)

        def of(values: NDArray[Any]) -> NDArray[Any]:
            return values if len(values) == 1 else values[some]

        if len(some):
            out[some] = _far.dominate(of(Z), of(far), held[some], of(block.freq))
        return out

    def _no_crowd(self, block: Block, rest: Flags, s: Array) -> Flags:
        """Tell where the rows left out have no smaller S-scale of their own."""
        alone = replace(block, freq=block.freq * rest)
        regular = alone.df > 0.0
        _, own = self._start(alone, regular)
        return np.asarray(regular & (own >= s))

    @functools.cached_property
    def _suspicious(self) -> float:
        """Twice the log of the ratio of M-scales from which on a fit is followed, times n - p."""
        level = special.chdtri(self.problems.A.shape[-1], _guard.SUSPICION_LEVEL)
        return difference_variance(cast(Loss, self.s_loss), self.loss) * float(level)

    @functools.cached_property
    def _ladder(self) -> list[tuple[Loss, float]]:
        """Losses of rising efficiency, each with the longest step to it, squared, in scales."""
        level = float(special.chdtri(self.problems.A.shape[-1], _guard.JUMP_LEVEL))
        target, before, steps = self.loss.efficiency(), cast(Loss, self.s_loss), []
        lower = [e for e in _guard.LADDER if e < target - 1e-9]
        for loss in (*(get_loss(self.loss, efficiency=e) for e in lower), self.loss):
            spread = max(difference_variance(before, loss), _guard.SMALLEST_VARIANCE)
            steps.append((loss, spread * level))
            before = loss
        return steps

    def _covariance(
        self, block: Block, u: Array, weights: Array, regular: Flags
    ) -> tuple[Array, Flags]:
        """Return the covariances at scale one, and where they are defined.

        The formulas are those of "w" and "huber" in `robustfit.covariance`.
        """
        p, ddof = block.A.shape[2], 0 if self.weighted else 1
        dpsi = np.asarray(self.loss.dpsi(u))
        slope = block.mean(dpsi)
        spread = block.mean((dpsi - slope[:, None]) ** 2) * block.nobs / (block.nobs - ddof)
        factor = 1.0 + p / block.nobs * spread / slope**2
        factor = (factor / slope) ** 2 * block.mean((u * weights) ** 2) * block.nobs / block.df
        w = block.freq
        if self.weighted:
            w, factor = w * weights, factor * block.mean(weights)
        gram = (block.design * w[:, None, :]) @ block.design.transpose(0, 2, 1)
        if len(gram) == len(regular):
            # One singular matrix would be an error for all.
            gram[~regular] = np.eye(p)
        return _inverse(gram) * factor[:, None, None], slope > 0.0


def _inverse(gram: Array) -> Array:
    """Return the inverses of positive definite matrices."""
    unit = 1.0 / np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    square = unit[:, :, None] * unit[:, None, :]
    return np.asarray(np.linalg.inv(gram * square) * square)


def plan(problems: Problems, options: dict[str, Any]) -> Plan | None:
    """Return what the kernels are to do, None where the options need single fits.

    Options that no kernel knows, or that are wrong, are for `irls` to deal with.
    """
    if linalg.implicit(problems.A):
        return None
    n, p = problems.A.shape[-2:]
    loss = get_loss(options["loss"], c=options["c"], efficiency=options["efficiency"])
    usual = all(_one_of(options[name], allowed) for name, allowed in _USUAL.items())
    start, scale = options["start"], options["scale"]
    if not usual or isinstance(loss, Linear) or isinstance(options["s_loss"], Loss):
        return None
    if options["method"] is not None:
        if start != "auto" or not _one_of(scale, ("auto",)):
            return None
        start, scale = _problem.METHODS[options["method"]]
    if start == "auto":
        start = "ols" if loss.convex else "s"
    if _one_of(scale, ("auto",)):
        scale = "s" if start == "s" else "mad"
    if isinstance(scale, int | float):
        scale = _checks.positive(scale, "scale")
    elif not _one_of(scale, ("s", "mad", "mad-fixed")) or (start, scale) == ("ols", "s"):
        return None
    if not 0 < p < n or n * p > LARGE_ELEMENTS or (start == "s" and n > _subsets.LARGE):
        return None
    s_loss = options["s_loss"] or (loss if loss.bounded else "tukey")
    automatic = "huber" if loss.convex else "w"
    return Plan(
        problems=problems,
        loss=loss,
        s_loss=get_loss(s_loss, breakdown=0.5) if start == "s" else None,
        draws=_draws(problems, options["rng"]) if start == "s" else None,
        scale=scale,
        weighted=(automatic if options["cov_type"] == "auto" else options["cov_type"]) == "w",
        tol=_checks.nonnegative(options["tol"], "tol"),
        maxiter=_checks.whole(options["maxiter"], "maxiter"),
    )


def _one_of(value: Any, allowed: Sequence[Any]) -> bool:
    """Tell whether a value is one of the allowed ones; an array is not."""
    return isinstance(value, str | int | float | None) and value in allowed


def _draws(problems: Problems, rng: Any) -> _subsets.Draws:
    """Return the subsets for the S-estimates of all problems."""
    n, p = problems.A.shape[-2:]
    freq = np.ones(n) if problems.freq is None else np.asarray(problems.freq, dtype=np.float64)
    if freq.ndim == 2:
        freq = np.mean(freq, axis=1 if problems.shared else 0)
    rows = _subsets.Rows(np.zeros((p, n)), np.zeros(n), freq)
    all_good = 0.5 ** min(p, 50)
    count = min(math.ceil(math.log(_MISSED) / math.log1p(-all_good)), _MOST_SUBSETS)
    return _subsets.draw(rows, count, count, np.random.default_rng(rng))
