"""Columns of a data frame as arrays, whichever library the frame is of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Library:
    """The library of a frame, and the index of its rows if it is pandas."""

    implementation: Any
    index: pd.Index | None

    def frame(self, columns: Mapping[str, Any], labels: str | None = None) -> Any:
        """Return a frame of this library.

        Parameters
        ----------
        columns : mapping of str to array
            What it holds.
        labels : str, optional
            The column that is the index for pandas. Default: the index of the data, for
            columns with a value per row.
        """
        if self.index is None:
            return nw.from_dict(dict(columns), backend=self.implementation).to_native()
        if labels is None:
            return pd.DataFrame(dict(columns), index=self.index)
        return pd.DataFrame(dict(columns)).set_index(labels)


class Frame:
    """A data frame that is read column by column.

    Attributes
    ----------
    names : tuple of str
        The columns.
    rows : int
        Number of rows.
    """

    def __init__(self, data: Any) -> None:
        self._frame = _eager(data)
        self.names: tuple[str, ...] = tuple(self._frame.columns)
        self.rows: int = self._frame.shape[0]

    def require(self, names: Iterable[str], argument: str, place: str = "column of data") -> None:
        """Raise a ValueError for the first name that is no column."""
        for name in names:
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=1)
                hint = f", did you mean {near[0]!r}?" if near else ""
                listed = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
                raise ValueError(
                    f"{argument} names {name!r}, which is no {place}{hint}; "
                    f"the columns are: {listed}"
                )

    def missing(self, name: str) -> Flags:
        """Tell which rows of a column are missing or not finite."""
        column = self._frame[name]
        if column.dtype.is_float():
            finite: Flags = np.isfinite(column.to_numpy().astype(np.float64, copy=False))
            return ~finite
        return np.asarray(column.is_null().to_numpy(), dtype=np.bool_)

    def values(self, name: str, keep: Flags | slice) -> Any:
        """Return some rows of a column, none of them missing, as NumPy array or Categorical."""
        column = self._frame[name]
        dtype = column.dtype
        if dtype.is_numeric():
            kind = np.int64 if dtype.is_signed_integer() else np.float64
            return column.to_numpy()[keep].astype(kind, copy=False)
        if dtype == nw.Boolean:
            return column.to_numpy()[keep].astype(np.bool_)
        if isinstance(dtype, nw.Categorical | nw.Enum):
            found = np.asarray(column.to_list(), dtype=object)[keep]
            present = set(found.tolist())
            return pd.Categorical(found, [level for level in _levels(column) if level in present])
        if dtype.is_temporal():
            return column.to_numpy()[keep]
        if dtype.is_nested():
            raise ValueError(f"column {name!r} holds {dtype}, which is neither numbers nor text")
        found = np.asarray(column.to_list(), dtype=object)[keep]
        inferred = pd.Series(found).infer_objects().to_numpy()
        if inferred.dtype == object and all(isinstance(v, Decimal | Real) for v in found):
            return inferred.astype(np.float64)
        return inferred

    def table(self, names: Iterable[str], keep: Flags | slice) -> pd.DataFrame:
        """Return some rows of some columns, none of them missing."""
        return pd.DataFrame({name: self.values(name, keep) for name in names})

    @property
    def library(self) -> Library:
        """What the frame is made of."""
        native = nw.to_native(self._frame)
        index = native.index if isinstance(native, pd.DataFrame) else None
        return Library(self._frame.implementation, index)


def _eager(data: Any) -> Any:
    """Return data as a narwhals frame."""
    try:
        if isinstance(data, Mapping):
            data = _from_columns(data)
        elif isinstance(data, np.ndarray) and data.dtype.names:
            data = pd.DataFrame.from_records(data)
        if isinstance(data, pd.DataFrame) and not all(isinstance(n, str) for n in data.columns):
            data = data.set_axis([str(name) for name in data.columns], axis=1)
        return nw.from_native(data, eager_only=True)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            "data must be a data frame in memory (pandas, polars, PyArrow) or a mapping of "
            f"columns of one length, got {type(data).__name__}: {' '.join(str(error).split())}"
        ) from error


def _from_columns(data: Mapping[Any, Any]) -> pd.DataFrame:
    """Return columns as a frame, with the index that those of pandas have in common."""
    series = {name: values for name, values in data.items() if isinstance(values, pd.Series)}
    index = next((values.index for values in series.values()), None)
    for name, values in series.items():
        if not values.index.equals(index):
            raise ValueError(f"column {name!r} has another index than {next(iter(series))!r}")
    return pd.DataFrame({name: _column(values) for name, values in data.items()}, index=index)


def _column(values: Any) -> Any:
    """Return a column without its index, with its mask or its levels."""
    if isinstance(values, pd.Series):
        return values.array
    return values if isinstance(values, pd.Categorical | np.ma.MaskedArray) else np.asarray(values)


def _levels(column: Any) -> list[Any]:
    """Return the levels of a categorical column: in their own order, where they have one."""
    native = nw.to_native(column)
    if isinstance(native, pd.Series):
        return list(native.cat.categories)
    if isinstance(column.dtype, nw.Enum):
        return list(column.dtype.categories)
    return sorted(column.drop_nulls().unique().to_list())


def row_values(values: Any, argument: str, frame: Frame | None) -> Any:
    """Return one value per row: those of a column, or those given; NaN where there is none."""
    if not isinstance(values, str):
        index = None if frame is None else frame.library.index
        if isinstance(values, pd.Series) and not (index is None or values.index.equals(index)):
            raise ValueError(
                f"{argument} has another index than data; give it the index of data, or "
                "an array in the order of the rows"
            )
        if isinstance(values, np.ma.MaskedArray) and values.dtype.kind in "fiub":
            return np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
        return np.asarray(values)
    if frame is None:
        raise ValueError(f"{argument}={values!r} names a column, and there is no frame")
    frame.require([values], argument)
    missing = frame.missing(values)
    found = frame.values(values, ~missing)
    if not np.any(missing):
        return np.asarray(found)
    numeric = np.asarray(found).dtype.kind in "fiub"
    out = np.full(frame.rows, np.nan if numeric else None, dtype=None if numeric else object)
    out[~missing] = found
    return out
