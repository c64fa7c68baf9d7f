"""Checked input of a linear fit, in units in which nothing overflows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import _kernels, linalg
from robustfit.rows import add

Array = NDArray[np.float64]

# The largest response in inner units; reached only by rows that do not count.
_LARGEST = 1e150
# A product of two numbers below this does not overflow.
_MODEST = 1e150
# Designs of up to this many elements are copied.
_SMALL = 1_000_000
# A value that is so many times as large as others of its column cannot be squared beside them.
_WILD = 1e100
# Rows of a block of many.
_BLOCK_ROWS = 1 << 16
# So many vectors of residuals are kept: at the S-estimate, a rival of it and the M-estimate.
_RECENT = 3
# So many values tell what a typical one is.
_SOME = 100_000
# More responses than that, of up to this size, or one over it, are of order one.
_ORDINARY = 2.0**20


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Columns and units of a design.

    Attributes
    ----------
    largest : ndarray of shape (rank,)
        The largest absolute value of each column of the design in inner coordinates.
    size : float
        The largest absolute response, in inner units.
    unit : float
        A power of two, so that dividing the response by it is exact.
    columns : int
        Number of columns the caller gave.
    names : tuple of str
        Labels of the columns.
    rank : int or None
        Rank of the design where it is less than the number of its columns; None if not.
    basis : ndarray of shape (columns, rank) or None
        Orthonormal basis of the row space; None if the design has full rank.
    column_unit : ndarray of shape (columns,) or None
        Powers of two that columns of extreme size were multiplied by.
    """

    largest: Array
    size: float
    unit: float
    columns: int
    names: tuple[str, ...]
    rank: int | None = None
    basis: Array | None = None
    column_unit: Array | None = None

    @property
    def width(self) -> int:
        """Number of columns of the design in inner coordinates."""
        return len(self.largest)

    @property
    def coordinates(self) -> Array | None:
        """The matrix of `expand` without the unit, (columns, rank); None for the identity."""
        if self.basis is None and self.column_unit is None:
            return None
        basis = np.eye(self.columns) if self.basis is None else self.basis
        return basis if self.column_unit is None else basis * self.column_unit[:, None]

    def expand(self, z: Array) -> Array:
        """Return coefficients of the caller's columns, in the caller's units.

        Raises
        ------
        ValueError
            If one is beyond the range of double precision.
        """
        x = z if self.basis is None else self.basis @ z
        modest = self.column_unit is None and 1.0 / _MODEST < self.unit < _MODEST
        if modest and np.abs(x).max() < _MODEST:
            return np.asarray(x * self.unit)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            unit = self.unit if self.column_unit is None else self.column_unit * self.unit
            scaled = np.array(x * unit)
            lost = np.isfinite(x) & ~(np.isfinite(scaled) & np.isfinite(unit) & (unit != 0.0))
        if np.any(lost):
            raise ValueError(
                f"the coefficient of A's column {self.names[int(np.argmax(lost))]!r} is beyond the "
                "range of double precision: change the units of the column or of b"
            )
        return scaled

    def reduce(self, x: Array) -> Array:
        """Return the inner coefficients of the caller's x."""
        x = x / self.unit if self.column_unit is None else x / self.unit / self.column_unit
        return x if self.basis is None else self.basis.T @ x


@dataclass(frozen=True, kw_only=True)
class Data(Frame):
    """Design, response and weights of the rows that take part.

    Attributes
    ----------
    A : ndarray of shape (n, rank)
        Design, of full column rank once `with_basis` was applied.
    b : ndarray of shape (n,)
        Response divided by `unit`.
    freq, inv_sd : ndarray of shape (n,)
        Frequency weights and the root of the inverse-variance weights. Where none were given to
        many rows, one number with a stride of zero: vectors of ones would be a good part of the
        memory.
    keep : ndarray of bool or None
        The rows of the caller's A that take part; None if all do.
    first : int
        The number of the first row among all, where these are a block of them.
    """

    A: Array
    b: Array
    freq: Array
    inv_sd: Array
    keep: NDArray[np.bool_] | None = None
    first: int = 0

    @classmethod
    def of(
        cls,
        frame: Frame,
        A: Array,
        b: Array,
        freq: Array,
        var: Array,
        keep: NDArray[np.bool_] | None = None,
    ) -> Data:
        """Return rows in the units of a frame whose basis they do not have yet."""
        if frame.column_unit is not None:
            times = linalg.with_columns_times if linalg.implicit(A) else np.multiply
            A = times(A, frame.column_unit)
        return cls(
            A=A,
            b=_in_unit(b, frame),
            freq=freq if linalg.are_ones(var) else np.where(var > 0.0, freq, 0.0),
            inv_sd=var if linalg.are_ones(var) else np.sqrt(var),
            keep=keep,
            **{f.name: getattr(frame, f.name) for f in fields(Frame)},
        )

    def fold(
        self,
        function: Callable[..., Any],
        *args: Any,
        merge: Callable[[Any, Any], Any] = add,
    ) -> Any:
        """Return ``function(data, *args)``, merged from blocks of rows if there are many.

        Vectors of n among the arguments are divided as the rows are.
        """
        n, p = self.shape
        if not self._many:
            return function(self, *args)

        def work(rows: slice) -> Any:
            return function(self._block(rows), *(_part(a, rows, n) for a in args))

        return _kernels.merged_in_threads(work, n, _BLOCK_ROWS, 30.0 * n * p, merge)

    def each(
        self, function: Callable[..., NDArray[Any]], *args: Any, dtype: Any = np.float64
    ) -> NDArray[Any]:
        """Return the vector of what ``function(data, *args)`` returns for each row."""
        n, p = self.shape
        if not self._many:
            return function(self, *args)
        out = np.empty(n, dtype)

        def work(rows: slice) -> None:
            out[rows] = function(self._block(rows), *(_part(a, rows, n) for a in args))

        _kernels.in_threads(work, n, _BLOCK_ROWS, 30.0 * n * p)
        return out

    @property
    def _many(self) -> bool:
        """Whether what is computed of the rows is computed in blocks of them."""
        return len(self.b) * self.width > _kernels.LARGE_ELEMENTS and not linalg.implicit(self.A)

    def _block(self, rows: slice) -> Data:
        """Return some of the rows, as views."""
        own = {name: getattr(self, name)[rows] for name in ("A", "b", "freq", "inv_sd")}
        block = replace(self, **own, keep=None)
        block._recent.update((x, r[rows]) for x, r in self._recent.items())
        return block

    @functools.cached_property
    def _recent(self) -> dict[bytes, Array]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return linalg.packed({k: value for k, value in vars(self).items() if k != "_recent"})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(linalg.unpacked(state))

    def residuals(self, x: Array) -> Array:
        """Return b - A x, read-only; the last few are kept, because the guard asks again."""
        known = self._recent.get(x.tobytes())
        return self.remember(x, _kernels.residuals(self.A, self.b, x)) if known is None else known

    def remember(self, x: Array, r: Array) -> Array:
        """Return the residuals r of x, kept."""
        r.setflags(write=False)
        for old in list(self._recent)[: 1 - _RECENT]:
            del self._recent[old]
        self._recent[x.tobytes()] = r
        return r

    def forget(self) -> None:
        """Keep no residuals any longer."""
        self._recent.clear()

    @property
    def plain(self) -> bool:
        """Whether no weights were given."""
        return linalg.are_ones(self.freq) and linalg.are_ones(self.inv_sd)

    def count(self, rows: NDArray[np.bool_]) -> float:
        """Return how many observations some rows are."""
        return float(np.count_nonzero(rows) if self.plain else self.freq @ rows)

    @property
    def row_weights(self) -> Array:
        """What a row counts for in a sum of squares."""
        return self.freq if self.plain else self.freq * self.inv_sd**2

    @functools.cached_property
    def normal(self) -> tuple[Array, Array]:
        """A'WA and A'Wb, W = diag(row_weights)."""
        return _kernels.gram(self.A, None if self.plain else self.row_weights, self.b)

    @functools.cached_property
    def nobs(self) -> float:
        """Number of observations, repetitions counted."""
        return float(self.freq.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of columns in inner coordinates."""
        return len(self.b), self.width

    @property
    def sharpest(self) -> float:
        """The largest `inv_sd`."""
        return float(np.max(self.inv_sd, initial=0.0))

    def take(self, rows: Any) -> Data:
        """Return some of the rows, in the same units."""
        A, b = self.A[rows], self.b[rows]
        return replace(
            self,
            A=A,
            b=b,
            freq=_some(self.freq, rows, len(b)),
            inv_sd=_some(self.inv_sd, rows, len(b)),
            largest=_kernels.largest(A),
            size=float(np.max(np.abs(b), initial=0.0)),
            keep=None,
        )

    def with_basis(self, basis: Array) -> Data:
        """Return the same data in coordinates of the row space."""
        A = self.A @ basis
        whole = basis if self.basis is None else self.basis @ basis
        return replace(self, A=A, largest=_kernels.largest(A), basis=whole)

    @property
    def model_matrix(self) -> Array:
        """The rows that take part, in the caller's columns and units; read-only."""
        if linalg.implicit(self.A):
            unit = self.column_unit
            return self.A if unit is None else linalg.with_columns_times(self.A, 1.0 / unit)
        A = self.A if self.basis is None else self.A @ self.basis.T
        A = A.view() if self.column_unit is None else A / self.column_unit
        A.setflags(write=False)
        return A

    def spread(self, values: Array) -> Array:
        """Return values of the rows that take part at the caller's rows, NaN elsewhere."""
        if self.keep is None:
            return values
        out = np.full(len(self.keep), np.nan)
        out[self.keep] = values
        return out


def _part(value: Any, rows: slice, n: int) -> Any:
    """Return the part of a vector of n that belongs to some rows, anything else as it is."""
    return value[rows] if isinstance(value, np.ndarray) and value.shape == (n,) else value


def prepare(
    A: ArrayLike,
    b: ArrayLike,
    freq_weights: ArrayLike | None,
    var_weights: ArrayLike | None,
    nan_policy: str,
    names: Sequence[str] | None = None,
) -> Data:
    """Return checked data; raise a ValueError or TypeError that names the argument."""
    if nan_policy not in ("raise", "omit"):
        raise ValueError(f"nan_policy must be 'raise' or 'omit', got nan_policy={nan_policy!r}")
    implicit = linalg.implicit(A)
    design, response = _implicit(A, nan_policy) if implicit else _design(A), matrix(b, "b")
    if design.ndim != 2:
        raise ValueError(f"A must be 2-dimensional, got shape {design.shape}")
    n, p = design.shape
    labels = column_labels(A, names, p)
    if response.ndim == 2 and response.shape[1] == 1:
        response = response[:, 0]
    if response.shape != (n,):
        raise ValueError(f"b must have shape ({n},) like the rows of A, got {response.shape}")
    plain = freq_weights is None and var_weights is None and not implicit
    if plain and 0 < design.size <= _kernels.LARGE_ELEMENTS:
        ordinary = _ordinary(design, response, labels)
        if ordinary is not None:
            return ordinary
    freq, var = _weights(freq_weights, "freq_weights", n), _weights(var_weights, "var_weights", n)
    largest = _largest_of_implicit(design) if implicit else _kernels.largest(design)
    given = {"b": response, "freq_weights": freq, "var_weights": var}
    sizes = {name: _size(values) for name, values in given.items()}
    finite = bool(np.all(np.isfinite([*largest, *sizes.values()])))
    checked = given if implicit else {"A": design, **given}
    keep = None if finite else _finite_rows(checked, nan_policy)
    if keep is not None:
        design, response = design[keep], response[keep]
        n = len(response)
        freq, var = _some(freq, keep, n), _some(var, keep, n)
        largest, sizes["b"] = _kernels.largest(design), _size(response)
    for name, w in (("freq_weights", freq), ("var_weights", var)):
        if not linalg.are_ones(w) and np.min(w, initial=0.0) < 0.0:
            raise ValueError(f"{name} must not be negative, got {float(np.min(w))!r}")
    if p == 0:
        raise ValueError(f"A must have at least a column, got shape {(n, p)}")
    if var_weights is not None:
        freq = np.where(var > 0.0, freq, 0.0)
    counted = freq_weights is not None or var_weights is not None
    known = response[freq > 0.0] if counted else response
    if len(known) == 0:
        raise ValueError(f"A must have a row with positive weight, got shape {(n, p)}")
    if not np.any(largest):
        raise ValueError(f"A must have a column that is not zero, got shape {(n, p)}")
    unit = _unit(known, _size(known) if counted else sizes["b"])
    if n > _SOME and 1.0 / _ORDINARY <= unit <= _ORDINARY:
        # Many responses are referred to rather than copied.
        unit = 1.0
    frame = frame_of(largest, unit, sizes["b"], labels)
    if frame.column_unit is not None and not implicit:
        _refuse_wild_columns(design, labels)
    return Data.of(frame, _own(design, A), response, freq, var, keep)


def _refuse_wild_columns(design: Array, names: tuple[str, ...]) -> None:
    """Raise a ValueError for a column that no unit makes small enough to be squared."""
    for name, column in zip(names, design.T, strict=True):
        size = np.abs(column[column != 0.0])
        typical = float(np.median(size)) if len(size) else 1.0
        if np.max(size, initial=0.0) / _WILD > typical:
            raise ValueError(
                f"A must have no value of more than {_WILD:g} times the median of its column, but "
                f"column {name!r} has {float(np.max(size)):.6g}, and the median of those that are "
                f"not zero is {typical:.6g}; leave such rows out"
            )


def _size(values: Array) -> float:
    """Return the largest absolute value, NaN where one is not finite."""
    some = values[:1] if linalg.are_ones(values) else values
    return float(_kernels.largest(some[:, None])[0])


def frame_of(largest: Array, unit: float, top: float, names: tuple[str, ...]) -> Frame:
    """Return the units of columns and a response with these largest values."""
    column_unit = _extreme_columns(largest)
    return Frame(
        largest=largest if column_unit is None else largest * column_unit,
        size=min(top / unit, _LARGEST),
        unit=unit,
        columns=len(names),
        names=names,
        column_unit=column_unit,
    )


def _ordinary(design: Array, response: Array, names: tuple[str, ...]) -> Data | None:
    """Return a small problem without weights, None if there is anything special about it.

    What takes ten calls of NumPy for any data takes one compiled one for most.
    """
    n, p = design.shape
    A, b, largest = np.array(design, order="C"), np.array(response), np.empty(p)
    unit, size = _kernels.survey(A, b, largest)
    if not unit > 0.0:
        return None
    ones = linalg.ones(n)
    return Data(
        A=A, b=b, freq=ones, inv_sd=ones, largest=largest, size=size, unit=unit, columns=p,
        names=names,
    )  # fmt: skip


def _unit(b: Array, top: float) -> float:
    """Return the power of two to divide a response by, of which the largest is `top`.

    That of a typical value, so that the squares of good residuals do not vanish beside a gross
    error, but large enough that nothing leaves the range of doubles.
    """
    if top == 0.0:
        return 1.0
    some = np.abs(b[:: max(1, len(b) // _SOME)])
    # Where most are zero, the others count.
    some = some[some > 0.0] if np.any(some) else np.abs(b[b != 0.0])
    return response_unit(float(np.median(some)), top)


def response_unit(typical: float, largest: float) -> float:
    """Return the unit of a response with this typical and this largest absolute value."""
    # 2**498 is the last power below `_LARGEST`.
    return max(linalg.power_of_two(typical), 2.0**-498 * linalg.power_of_two(largest))


def _in_unit(b: Array, frame: Frame) -> Array:
    """Return b / unit, cut off where that is no longer a number whose square is finite."""
    if frame.unit == 1.0 and frame.size < _LARGEST:
        return b
    scaled = b / frame.unit
    return np.clip(scaled, -_LARGEST, _LARGEST, out=scaled)


def _own(design: Array, A: Any) -> Array:
    """Return a small design as a copy, so that later changes to A do not reach the result.

    A large one is referred to: a second copy of it may not fit into memory.
    """
    shared = isinstance(A, np.ndarray) and np.shares_memory(design, A)
    return design.copy() if shared and design.size <= _SMALL else design


def column_labels(A: Any, names: Sequence[str] | None, p: int) -> tuple[str, ...]:
    """Return the given names, else those of a data frame, else x1, x2, ..."""
    if names is not None:
        if len(names) != p:
            raise ValueError(f"names must be {p} labels, one per column of A, got names={names!r}")
        return tuple(str(name) for name in names)
    found = tuple(str(name) for name in getattr(A, "columns", ()))
    return found if len(found) == p else _numbered(p)


@functools.lru_cache(maxsize=16)
def _numbered(p: int) -> tuple[str, ...]:
    return tuple(f"x{j + 1}" for j in range(p))


def matrix(values: Any, name: str) -> Array:
    """Return a float64 array; a view where dtype and layout serve."""
    if hasattr(values, "toarray"):
        raise TypeError(
            f"{name} must be dense, not sparse, got {type(values).__name__}; use {name}.toarray()"
        )
    try:
        array = np.asarray(values)
        if array.dtype == object and hasattr(values, "to_numpy"):
            # Frames of mixed numeric columns and nullable types; NaN for what is missing.
            array = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a rectangular array of numbers: {error}") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        array = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    return array.astype(np.float64, copy=False)


def _weights(values: ArrayLike | None, name: str, n: int) -> Array:
    if values is None:
        return linalg.ones(n)
    array = matrix(values, name)
    if array.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},) like the rows of A, got {array.shape}")
    return array.copy() if array.strides == (0,) else array


def _design(A: Any) -> Array:
    """Return A as an array of float64; a large one of float32 as it is: sums are of float64."""
    plain = isinstance(A, np.ndarray) and not isinstance(A, np.ma.MaskedArray)
    return A if plain and A.dtype == np.float32 and A.size > _SMALL else matrix(A, "A")


def _implicit(A: Any, nan_policy: str) -> Any:
    """Return a sparse design by rows in double precision, or an operator as it is."""
    name = type(A).__name__
    if nan_policy == "omit":
        raise ValueError(f"nan_policy='omit' needs a dense A, got {name}")
    if np.dtype(A.dtype or np.float64).kind not in "fiub":
        raise TypeError(f"A must hold real numbers, got {name} of dtype {A.dtype}")
    return A.tocsr().astype(np.float64) if hasattr(A, "tocsr") else A


def _largest_of_implicit(A: Any) -> Array:
    """Return the largest absolute value of each column; of an operator only where it is extreme."""
    if not hasattr(A, "tocsr"):
        y = np.random.default_rng(0).standard_normal(A.shape[0])
        size = np.abs(np.asarray(A.rmatvec(y), dtype=np.float64))
        return np.where((size == 0.0) | ((size > 1e-100) & (size < 1e100)), 1.0, size)
    if not np.all(np.isfinite(A.data)):
        raise ValueError(
            f"A must be finite, but {int(np.sum(~np.isfinite(A.data)))} entries are not"
        )
    return np.asarray(abs(A).max(axis=0).toarray(), dtype=np.float64).ravel()


def _some(weights: Array, rows: Any, n: int) -> Array:
    """Return the weights of some rows, n of them; those not given stay one number."""
    return linalg.ones(n) if linalg.are_ones(weights) else weights[rows]


def _finite_rows(arrays: dict[str, Array], nan_policy: str) -> NDArray[np.bool_] | None:
    """Return the rows where everything is finite; None if that is all of them."""
    keep = np.ones(len(arrays["b"]), dtype=bool)
    for name, array in arrays.items():
        finite = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        if nan_policy == "raise" and not finite.all():
            row = int(np.argmin(finite))
            raise ValueError(
                f"{name} must be finite, but {int(np.sum(~finite))} rows are not, the first is "
                f"row {row}; nan_policy='omit' leaves such rows out"
            )
        keep &= finite
    return None if keep.all() else keep


def _extreme_columns(largest: Array) -> Array | None:
    """Return powers of two for columns whose squares could overflow or underflow."""
    if np.all((largest == 0.0) | ((largest > 1e-100) & (largest < 1e100))):
        return None
    return np.array([1.0 / linalg.power_of_two(float(value)) for value in largest])
