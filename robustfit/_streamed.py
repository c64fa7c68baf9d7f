"""Checked rows that are read block by block, and what takes more than one sum over them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg as lapack

from robustfit import _kernels, linalg
from robustfit._inputs import Data, Frame, column_labels, frame_of, matrix, response_unit
from robustfit.rows import Block, Rows, add

Array = NDArray[np.float64]
Values = Callable[..., tuple[Array, Array]]
Choice = Callable[[Data], NDArray[np.bool_]]

# So many rows are kept in memory, but not more elements: they tell where to begin.
_SAMPLE_ROWS, _SAMPLE_ELEMENTS = 50_000, 20_000_000
# A column with fewer nonzeros in the sample gets more of its rows.
_SPARSE = 20
# Of the response, so many values tell what a typical one is.
_TYPICAL = 1000
# Where so many values or fewer are left, a median is taken of them.
_FEW = 50_000
_BINS = 256
# Keys of so many rows are computed at a time.
_KEYS = 8192


@dataclass(frozen=True, kw_only=True)
class Streamed(Frame):
    """Design, response and weights of rows that are read block by block.

    Attributes
    ----------
    rows : Rows
        The rows as they were given.
    total : int
        Number of rows.
    omit : bool
        Whether rows that are not finite are left out.
    nobs : float
        Number of observations, repetitions counted.
    sharpest : float
        The largest root of an inverse-variance weight.
    chosen : callable or None
        Tells which rows of a block take part, in the caller's columns; None for all.
    """

    rows: Rows
    total: int
    omit: bool
    nobs: float
    sharpest: float
    chosen: Choice | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of columns in inner coordinates."""
        return self.total, self.width

    @functools.cached_property
    def normal(self) -> tuple[Array, Array]:
        """A'WA and A'Wb, W = diag(row_weights)."""
        return cast(tuple[Array, Array], self.fold(_normal))

    @functools.cached_property
    def frame(self) -> Frame:
        """The columns and units alone."""
        return Frame(**{f.name: getattr(self, f.name) for f in fields(Frame)})

    def fold(
        self,
        function: Callable[..., Any],
        *args: Any,
        merge: Callable[[Any, Any], Any] = add,
    ) -> Any:
        """Return what ``function(data, *args)`` returns for the blocks of rows, merged."""
        return self.rows.fold(_on_block, self._view, function, args, merge=merge)

    def each(self, function: Callable[..., Array], *args: Any) -> Any:
        """Return the lazy vector of ``function(data, *args)``, NaN for rows left out."""
        return self.rows.delayed(_spread, self._view, function, args, rows=self.total)

    @property
    def _view(self) -> _View:
        return _View(self.frame, self.omit, self.chosen)

    def where(self, chosen: Choice) -> Streamed:
        """Return the rows of which ``chosen(data)`` is true, in the same units."""
        inner = replace(self, chosen=chosen)
        found: _Extent = inner.fold(_extent, merge=_merge_extents)
        return replace(
            inner, total=found.rows, nobs=found.nobs, largest=found.largest, size=found.size,
            sharpest=found.sharpest,
        )  # fmt: skip

    def with_basis(self, basis: Array) -> Streamed:
        """Return the same data in coordinates of the row space."""
        inner = replace(self, basis=basis if self.basis is None else self.basis @ basis)
        # The blocks are in the coordinates of the basis from here on; their width is known.
        wide = replace(inner, largest=np.zeros(basis.shape[1]))
        return replace(inner, largest=wide.fold(_largest, merge=np.maximum))

    @functools.cached_property
    def sample(self) -> Data:
        """A uniform sample of the rows, with rows of every column that is mostly zero."""
        p = self.width
        most = max(min(_SAMPLE_ROWS, _SAMPLE_ELEMENTS // p), 100 * p)
        share = 1.0 if most >= self.total else (most + 4.0 * most**0.5) / self.total
        found = self.fold(_sampled, share, merge=merge_samples).first(most)
        if len(found.b) == self.total:
            return cast(Data, found.data(self.frame))
        scarce = np.flatnonzero(np.count_nonzero(found.A, axis=0) < _SPARSE)
        for part in (scarce[k : k + 8] for k in range(0, len(scarce), 8)):
            found = found.union(self.fold(_holders, part, merge=merge_samples))
        if linalg.row_space(found.A, np.ones(len(found.b))) is not None:
            found = found.union(self.fold(_spanning, merge=_span))
        return cast(Data, found.data(self.frame))


def stream(rows: Rows, nan_policy: str, names: Sequence[str] | None) -> Streamed:
    """Return the rows after a first pass over them, which checks every block."""
    if nan_policy not in ("raise", "omit"):
        raise ValueError(f"nan_policy must be 'raise' or 'omit', got nan_policy={nan_policy!r}")
    omit = nan_policy == "omit"
    found: _Survey = rows.fold(_survey, omit, merge=_merge_surveys)
    shape = (found.rows, len(found.largest))
    if found.bad > 0 and not omit:
        raise ValueError(
            f"A, b and the weights must be finite, but {found.bad} rows are not, the first is row "
            f"{found.where[1]} of block {found.where[0]}; nan_policy='omit' leaves such rows out"
        )
    for name, least in (("freq_weights", found.least[0]), ("var_weights", found.least[1])):
        if least < 0.0:
            raise ValueError(f"{name} must not be negative, got {least!r}")
    if shape[1] == 0:
        raise ValueError(f"A must have at least a column, got shape {shape}")
    if not found.nobs > 0.0:
        raise ValueError(f"A must have a row with positive weight, got shape {shape}")
    if not np.any(found.largest):
        raise ValueError(f"A must have a column that is not zero, got shape {shape}")
    labels = column_labels(None, names if names is not None else rows.names, shape[1])
    typical = float(np.median(found.typical)) if len(found.typical) else 1.0
    unit = response_unit(typical, found.top)
    return Streamed(
        **vars(frame_of(found.largest, unit, found.top, labels)),
        rows=rows,
        total=found.rows,
        omit=omit,
        nobs=found.nobs,
        sharpest=float(np.sqrt(found.sharpest)),
    )


# -- blocks ------------------------------------------------------------------------------------


def _arrays(block: Block, columns: int | None = None) -> tuple[Array, Array, Array, Array]:
    """Return design, response and weights of a block, or an error that names it."""
    where = f"block {block.number}"
    A, b = matrix(block.A, f"A of {where}"), matrix(block.b, f"b of {where}")
    if A.ndim != 2:
        raise ValueError(f"A of {where} must be 2-dimensional, got shape {A.shape}")
    if columns is not None and A.shape[1] != columns:
        raise ValueError(f"{where} has {A.shape[1]} columns, but those before it have {columns}")
    if b.ndim == 2 and b.shape[1] == 1:
        b = b[:, 0]
    freq, var = (
        np.broadcast_to(1.0, len(A)) if w is None else matrix(w, f"{name} of {where}")
        for name, w in (("freq_weights", block.freq), ("var_weights", block.var))
    )
    for name, values in (("b", b), ("freq_weights", freq), ("var_weights", var)):
        if values.shape != (len(A),):
            raise ValueError(
                f"{name} of {where} must have shape ({len(A)},) like the rows of A, "
                f"got {values.shape}"
            )
    return A, b, freq, var


class _View(NamedTuple):
    """How the rows are looked at: see `Streamed`."""

    frame: Frame
    omit: bool
    chosen: Choice | None


def _data(block: Block, view: _View) -> Data:
    """Return a block in inner coordinates."""
    frame = view.frame
    A, b, freq, var = _arrays(block, frame.columns)
    keep = None
    if view.omit:
        finite = np.isfinite(b) & np.isfinite(freq) & np.isfinite(var) & np.isfinite(A).all(axis=1)
        if not finite.all():
            keep, A, b, freq, var = finite, A[finite], b[finite], freq[finite], var[finite]
    data = replace(Data.of(frame, A, b, freq, var, keep), first=block.first)
    if view.chosen is not None:
        data = _some(data, view.chosen(data))
    return data if frame.basis is None else replace(data, A=data.A @ frame.basis)


def _some(data: Data, chosen: NDArray[np.bool_]) -> Data:
    """Return some of the rows of a block, which stay at their places."""
    if np.all(chosen):
        return data
    keep = chosen if data.keep is None else data.keep.copy()
    if data.keep is not None:
        keep[data.keep] = chosen
    return replace(data.take(chosen), keep=keep)


def _on_block(
    block: Block, view: _View, function: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    return function(_data(block, view), *args)


def _spread(
    block: Block, view: _View, function: Callable[..., Array], args: tuple[Any, ...]
) -> Array:
    data = _data(block, view)
    return data.spread(function(data, *args))


class _Extent(NamedTuple):
    """How many rows there are, and how large they are."""

    rows: int
    nobs: float
    largest: Array
    size: float
    sharpest: float


def _extent(data: Data) -> _Extent:
    size = float(np.max(np.abs(data.b), initial=0.0))
    return _Extent(len(data.b), data.nobs, _largest(data), size, data.sharpest)


def _merge_extents(left: _Extent, right: _Extent) -> _Extent:
    return _Extent(
        left.rows + right.rows, left.nobs + right.nobs, np.maximum(left.largest, right.largest),
        max(left.size, right.size), max(left.sharpest, right.sharpest),
    )  # fmt: skip


def _normal(data: Data) -> tuple[Array, Array]:
    return data.normal


def _largest(data: Data) -> Array:
    return _kernels.largest(data.A)


# -- the first pass ----------------------------------------------------------------------------


class _Survey(NamedTuple):
    """What a first pass tells; `typical` are some of the absolute responses, by random keys."""

    rows: int
    nobs: float
    largest: Array
    top: float
    sharpest: float
    least: tuple[float, float]
    bad: int
    where: tuple[int, int]
    keys: NDArray[np.uint64]
    typical: Array
    number: int


def _survey(block: Block, omit: bool) -> _Survey:
    A, b, freq, var = _arrays(block)
    n, bad, where = len(A), 0, (0, 0)
    largest = _kernels.largest(A)
    finite = bool(np.all(np.isfinite(largest))) and all(
        linalg.are_ones(v) or np.isfinite(np.max(np.abs(v), initial=0.0)) for v in (b, freq, var)
    )
    if not finite:
        good = np.isfinite(b) & np.isfinite(freq) & np.isfinite(var) & np.isfinite(A).all(axis=1)
        bad, where = int(np.sum(~good)), (block.number, int(np.argmin(good)))
        A, b, freq, var = A[good], b[good], freq[good], var[good]
        largest = _kernels.largest(A)
    least = (float(np.min(freq, initial=0.0)), float(np.min(var, initial=0.0)))
    plain = linalg.are_ones(freq) and linalg.are_ones(var)
    counts = freq if plain else np.where(var > 0.0, freq, 0.0)
    size = np.abs(b if plain else b[counts > 0.0])
    some = size if np.all(size) else size[size > 0.0]
    typical = some[:: -(-len(some) // _TYPICAL) or 1]
    keys = _keys(block.first, np.arange(len(typical)))
    return _Survey(
        n, float(len(b) if plain else np.sum(counts)), largest, float(np.max(size, initial=0.0)),
        float(np.max(var, initial=0.0)), least, bad, where, keys, typical, block.number,
    )  # fmt: skip


def _merge_surveys(left: _Survey, right: _Survey) -> _Survey:
    if len(left.largest) != len(right.largest):
        raise ValueError(
            f"block {right.number} has {len(right.largest)} columns, but those before it have "
            f"{len(left.largest)}"
        )
    keys = np.concatenate([left.keys, right.keys])
    chosen = np.argsort(keys, kind="stable")[:_TYPICAL]
    return _Survey(
        left.rows + right.rows,
        left.nobs + right.nobs,
        np.maximum(left.largest, right.largest),
        max(left.top, right.top),
        max(left.sharpest, right.sharpest),
        (min(left.least[0], right.least[0]), min(left.least[1], right.least[1])),
        left.bad + right.bad,
        left.where if left.bad > 0 else right.where,
        keys[chosen],
        np.concatenate([left.typical, right.typical])[chosen],
        left.number,
    )


# -- samples -----------------------------------------------------------------------------------


class Sampled(NamedTuple):
    """Rows in inner coordinates with random keys that depend on their place alone."""

    keys: NDArray[np.uint64]
    A: Array
    b: Array
    freq: Array
    inv_sd: Array

    @classmethod
    def of(cls, data: Data, chosen: NDArray[np.intp]) -> Sampled:
        """Return some of the rows of a block."""
        found: list[Any] = [a[chosen] for a in (data.A, data.b, data.freq, data.inv_sd)]
        return cls(row_keys(data, chosen), *found)

    def first(self, most: int) -> Sampled:
        """Return the rows with the smallest keys, in their order."""
        order = np.argsort(self.keys, kind="stable")[:most]
        return _each(lambda a: a[order], self)

    def union(self, other: Sampled) -> Sampled:
        """Return the rows that are in either."""
        both = merge_samples(self, other)
        chosen = np.sort(np.unique(both.keys, return_index=True)[1])
        return _each(lambda a: a[chosen], both)

    def data(self, frame: Frame) -> Data:
        """Return the rows as data."""
        shared = {f.name: getattr(frame, f.name) for f in fields(Frame)}
        return Data(A=self.A, b=self.b, freq=self.freq, inv_sd=self.inv_sd, **shared)


def row_keys(data: Data, chosen: NDArray[np.intp] | None = None) -> NDArray[np.uint64]:
    """Return a random key for each row of a block that takes part, for any chunking the same."""
    rows = np.arange(len(data.b)) if data.keep is None else np.flatnonzero(data.keep)
    return _keys(data.first, rows if chosen is None else rows[chosen])


def _keys(first: int, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return SplitMix64 of row numbers (Steele and others 2014, doi:10.1145/2660193.2660195)."""
    keys = rows.astype(np.uint64)
    with np.errstate(over="ignore"):
        # So few that temporaries stay in the cache.
        for low in range(0, len(keys), _KEYS):
            z = keys[low : low + _KEYS]
            z += np.uint64(first + 1)
            z *= np.uint64(0x9E3779B97F4A7C15)
            z ^= z >> np.uint64(30)
            z *= np.uint64(0xBF58476D1CE4E5B9)
            z ^= z >> np.uint64(27)
            z *= np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    return keys


def below(keys: NDArray[np.uint64], share: float) -> NDArray[np.intp]:
    """Return which keys are among the smallest `share` of all possible ones."""
    if share >= 1.0:
        return np.arange(len(keys))
    return np.flatnonzero(keys < np.uint64(share * 2.0**64))


def _sampled(data: Data, share: float) -> Sampled:
    return Sampled.of(data, below(row_keys(data), share))


def _holders(data: Data, columns: NDArray[np.intp]) -> Sampled:
    """Return rows of each of the columns that are not zero there."""
    keys, chosen = row_keys(data), [np.zeros(0, dtype=np.intp)]
    for j in columns:
        held = np.flatnonzero(data.A[:, j])
        chosen.append(held[np.argsort(keys[held])[:_SPARSE]])
    return Sampled.of(data, np.unique(np.concatenate(chosen)))


def _spanning(data: Data) -> Sampled:
    """Return p rows that span the rows of a block, as far as p rows can."""
    return _pivots(Sampled.of(data, np.arange(len(data.b))))


def _span(left: Sampled, right: Sampled) -> Sampled:
    return _pivots(merge_samples(left, right))


def _pivots(rows: Sampled) -> Sampled:
    if len(rows.b) == 0:
        return rows
    size = np.maximum(np.max(np.abs(rows.A), axis=1), np.finfo(np.float64).tiny)
    pivots = lapack.qr(rows.A.T / size, mode="r", pivoting=True)[1]
    return _each(lambda a: a[pivots[: rows.A.shape[1]]], rows)


def merge_samples(left: Sampled, right: Sampled) -> Sampled:
    """Return the rows of both."""
    return _each(lambda *pair: np.concatenate(pair), left, right)


def _each(function: Callable[..., Any], *samples: Sampled) -> Sampled:
    return Sampled(*(function(*arrays) for arrays in zip(*samples, strict=True)))


# -- order statistics --------------------------------------------------------------------------


class _Counts(NamedTuple):
    """How values lie about an interval (low, high]."""

    total: float
    rows: int
    least: float
    below: float
    largest: float
    weights: Array
    values: Array | None
    shares: Array | None


class Median:
    """The exact weighted median of values that are at least 0, one for each row.

    ``values(data, *args)`` returns the values of a block and their weights. Where two values are
    in the middle it is their mean, as everywhere in this package. A pass counts what lies below
    and above an interval and returns what is inside, or where that is too much, how it is
    distributed. The sample says where the interval should be, and the last result how wrong it is.
    """

    def __init__(self, data: Streamed, values: Values) -> None:
        self._data, self._values = data, values
        # The last median over that of the sample, and how well it was predicted by that.
        self._ratio, self._error = 1.0, 0.0

    def __call__(self, *args: Any) -> float:
        """Return the median at other arguments."""
        guess, spread = self._guess(*args)
        first = not self._error > 0.0
        half = spread if first else min(spread, 8.0 * self._error * guess)
        predicted = guess * self._ratio
        found = self._find(args, predicted - half, predicted + half)
        if guess > 0.0 and predicted > 0.0:
            self._error = max(abs(found / predicted - 1.0), 1e-9)
            if first:
                self._error = max(self._error, 1e-3)
            self._ratio = found / guess
        return found

    def _guess(self, *args: Any) -> tuple[float, float]:
        """Return the median of the sample and four of its standard errors."""
        values, weights = self._values(self._data.sample, *args)
        order = np.argsort(values)
        values, reach = values[order], np.cumsum(weights[order])
        if not reach[-1] > 0.0:
            return 0.0, 0.0
        side = 2.0 / np.sqrt(np.count_nonzero(weights))
        low, middle, high = np.searchsorted(
            reach, reach[-1] * np.array([max(0.5 - side, 0.0), 0.5, min(0.5 + side, 1.0)])
        ).clip(max=len(values) - 1)
        spread = max(values[high] - values[middle], values[middle] - values[low])
        return float(values[middle]), float(spread)

    def _find(self, args: tuple[Any, ...], low: float, high: float) -> float:
        """Return the median, searched from the interval (low, high] on."""
        low, high = max(low, -1.0), max(high, 0.0)
        while True:
            if not high > low:
                low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
            found: _Counts = self._data.fold(
                _count, self._values, args, low, high, merge=_merge_counts
            )
            half = 0.5 * found.total
            # Rounding in the sum must not decide whether half the weight is reached exactly.
            slack = min(found.rows * linalg.EPS * half, 0.25 * found.least)
            reach = found.below + np.cumsum(found.weights)
            width = high - low
            if not found.below < half - slack:
                low = max(low - 8.0 * width, -1.0)
                continue  # The two in the middle may lie on both sides of an end: keep both.
            if not reach[-1] > half + slack:
                high = max(high, min(high + 8.0 * width, found.largest))
                continue
            if found.values is not None and found.shares is not None:
                order = np.argsort(found.values, kind="stable")
                values = found.values[order]
                reach = found.below + np.cumsum(found.shares[order])
                middle = values[np.argmax(reach >= half - slack)]
                return float(0.5 * (middle + values[np.argmax(reach > half + slack)]))
            if high <= np.nextafter(low, np.inf):
                return high
            edges = _edges(low, high)
            first = int(np.argmax(reach >= half - slack))
            last = int(np.argmax(reach > half + slack))
            low, high = float(edges[first]), float(edges[last + 1])


def _edges(low: float, high: float) -> Array:
    return np.unique(np.append(np.linspace(low, high, _BINS + 1)[:-1], high))


def _count(data: Data, values: Values, args: tuple[Any, ...], low: float, high: float) -> _Counts:
    v, w = values(data, *args)
    inside = (v > low) & (v <= high)
    chosen, shares = v[inside], w[inside]
    edges = _edges(low, high)
    where = np.searchsorted(edges, chosen, side="left") - 1
    weights = np.bincount(where, shares, len(edges) - 1).astype(np.float64)
    few = len(chosen) <= _FEW
    return _Counts(
        float(np.sum(w)), len(v), float(np.min(w, where=w > 0.0, initial=np.inf)),
        float(np.sum(w[v <= low])), float(np.max(v, initial=0.0)), weights,
        chosen if few else None, shares if few else None,
    )  # fmt: skip


def _merge_counts(left: _Counts, right: _Counts) -> _Counts:
    values = _few(left.values, right.values)
    shares = _few(left.shares, right.shares)
    return _Counts(
        left.total + right.total, left.rows + right.rows, min(left.least, right.least),
        left.below + right.below, max(left.largest, right.largest),
        left.weights + right.weights, values, shares,
    )  # fmt: skip


def _few(left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None or len(left) + len(right) > _FEW:
        return None
    return np.concatenate([left, right])
