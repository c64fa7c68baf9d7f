"""Rows of a linear problem that are not in memory: read block by block, again for each pass.

`irls` needs of the rows only sums over them. A `Rows` reads blocks of rows in order, ahead of the
threads that work on them, and adds up what these return. `from_arrays` is for files mapped into
memory, `from_blocks` for a sequence of blocks or a function that makes them, `from_parquet` for
Parquet files and whatever pyarrow calls a dataset. `robustfit.dask` has the same for Dask.
"""

from __future__ import annotations

import abc
import functools
import importlib
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import _checks
from robustfit._kernels import in_order, merged, worker_threads

__all__ = ["Block", "Rows", "from_arrays", "from_blocks", "from_parquet"]

# What a block takes: small enough for the cache that the processors share, large enough that the
# work on it takes many times what handing it over does.
_BLOCK_BYTES = 4 << 20
# Blocks in use may take this part of the memory, whatever the number of threads.
_MEMORY_SHARE = 16
# A mapped file that is larger than this part of the memory is read block by block.
_LARGE_SHARE = 8


@dataclass(frozen=True)
class Block:
    """Some of the rows, as they were given.

    Attributes
    ----------
    A : array_like of shape (m, p)
        Rows of the design.
    b : array_like of shape (m,)
        Their response.
    freq, var : array_like of shape (m,) or None
        Frequency and inverse-variance weights; None for ones.
    number : int
        Which block it is, from 0.
    first : int
        The number of its first row.
    """

    A: Any
    b: Any
    freq: Any
    var: Any
    number: int
    first: int


class Rows(abc.ABC):
    """Rows that are read block by block.

    Attributes
    ----------
    names : tuple of str or None
        Labels of the columns.
    passes : int
        How many passes over the rows were begun.
    progress : callable or None
        Called with `passes` and the number of blocks done in the pass.
    """

    names: tuple[str, ...] | None = None
    passes: int = 0
    progress: Callable[[int, int], object] | None = None

    @abc.abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield the blocks in order."""

    @contextmanager
    def _readers(self) -> Iterator[Iterable[Callable[[], Block]]]:
        """Give functions that return a block each, to be called in any thread.

        The block may be overwritten at the next call in that thread.
        """
        blocks = self.blocks()
        try:
            yield (functools.partial(_given, block) for block in blocks)
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    def map(self, function: Callable[..., Any], *args: Any) -> Iterator[Any]:
        """Yield ``function(block, *args)`` for the blocks in order; threads work on them."""
        self.passes += 1
        with self._readers() as readers:
            found = in_order(lambda read: function(read(), *args), readers)
            for blocks, result in enumerate(found, 1):
                self._tell(blocks)
                yield result

    def fold(
        self, function: Callable[..., Any], *args: Any, merge: Callable[[Any, Any], Any]
    ) -> Any:
        """Return what ``function(block, *args)`` returns for the blocks, merged in order."""
        self.passes += 1
        with self._readers() as readers:
            found = merged(lambda read: function(read(), *args), readers, merge, self._tell)
        if not found:
            raise ValueError("A must have at least a block of rows, got none")
        return found[0]

    def _tell(self, blocks: int) -> None:
        if self.progress is not None:
            self.progress(self.passes, blocks)

    def delayed(self, function: Callable[..., Any], *args: Any, rows: int) -> Any:
        """Return a lazy vector of `rows` values, those of ``function(block, *args)`` in order."""
        return LazyVector(self, function, args, rows)


def _given(block: Block) -> Block:
    return block


class LazyVector:
    """A vector with a value for each row, computed block by block when it is asked for.

    ``np.asarray(vector)`` has all of it in memory; ``vector.blocks()`` yields it in parts.
    """

    dtype = np.dtype(np.float64)
    ndim = 1

    def __init__(
        self, source: Rows, function: Callable[..., Any], args: tuple[Any, ...], rows: int
    ) -> None:
        self._source, self._function, self._args = source, function, args
        self.shape = (rows,)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyVector of {self.shape[0]} values; np.asarray() computes them>"

    def blocks(self) -> Iterator[NDArray[np.float64]]:
        """Yield the values, one array for each block of rows."""
        return self._source.map(self._function, *self._args)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the values of a LazyVector do not exist before they are computed")
        out = np.empty(self.shape)
        start = 0
        for part in self.blocks():
            out[start : start + len(part)] = part
            start += len(part)
        return out if dtype is None else out.astype(dtype, copy=False)


def add(left: Any, right: Any) -> Any:
    """Return the sum of two results of a pass: numbers, arrays, or tuples of them."""
    if left is None:
        return None
    if not isinstance(left, tuple):
        return left + right
    both = [add(a, b) for a, b in zip(left, right, strict=True)]
    return type(left)(*both) if hasattr(left, "_fields") else tuple(both)


def with_intercept(source: Rows) -> Rows:
    """Return the rows with a column of ones named "Intercept" before the others."""
    return _WithIntercept(source)


class _WithIntercept(Rows):
    def __init__(self, source: Rows) -> None:
        self._source = source
        self.names = None if source.names is None else ("Intercept", *source.names)

    @property
    def passes(self) -> int:
        return self._source.passes

    @passes.setter
    def passes(self, count: int) -> None:
        self._source.passes = count

    @property
    def progress(self) -> Callable[[int, int], object] | None:
        return self._source.progress

    @progress.setter
    def progress(self, told: Callable[[int, int], object] | None) -> None:
        self._source.progress = told

    def blocks(self) -> Iterator[Block]:
        return map(_with_ones, self._source.blocks())

    def map(self, function: Callable[..., Any], *args: Any) -> Iterator[Any]:
        return self._source.map(_on_ones, function, args)

    def fold(
        self, function: Callable[..., Any], *args: Any, merge: Callable[[Any, Any], Any]
    ) -> Any:
        return self._source.fold(_on_ones, function, args, merge=merge)

    def delayed(self, function: Callable[..., Any], *args: Any, rows: int) -> Any:
        return self._source.delayed(_on_ones, function, args, rows=rows)


def _with_ones(block: Block) -> Block:
    A = np.asarray(block.A)
    return replace(block, A=np.column_stack([np.ones(len(A)), A]))


def _on_ones(block: Block, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(_with_ones(block), *args)


def is_lazy(value: Any) -> bool:
    """Tell whether a value is an array or data frame of a package like Dask."""
    return type(value).__module__.partition(".")[0] in _FRONTS


def recognise(A: Any, b: Any, freq_weights: Any, var_weights: Any) -> Rows | None:
    """Return the rows of what `irls` was given, None where these are arrays in memory."""
    if b is not None and {type(A), type(b), type(freq_weights), type(var_weights)} <= _PLAIN:
        return None
    given = {"b": b, "freq_weights": freq_weights, "var_weights": var_weights}
    if isinstance(A, Rows):
        for name, value in given.items():
            if value is not None:
                raise TypeError(f"{name} is part of the Rows that A is, got {name}={value!r}")
        return A
    if b is None:
        raise TypeError("b must be given, unless A is a Rows that has the response, too")
    for value in (A, *given.values()):
        if is_lazy(value):
            front = _FRONTS[type(value).__module__.partition(".")[0]]
            found = importlib.import_module(front).rows_of(A, b, freq_weights, var_weights)
            return cast(Rows, found)
    if isinstance(A, np.memmap) and A.ndim == 2 and A.nbytes > _memory() // _LARGE_SHARE:
        return from_arrays(A, b, freq_weights=freq_weights, var_weights=var_weights)
    return None


# What most calls are given.
_PLAIN = {np.ndarray, type(None)}
# Modules that know the arrays of another package: by its name, so that nobody need load it.
_FRONTS = {"dask": "robustfit.dask", "dask_expr": "robustfit.dask"}


# -- arrays and mapped files -------------------------------------------------------------------


def from_arrays(
    A: ArrayLike,
    b: ArrayLike,
    *,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    block_rows: int | None = None,
    names: Sequence[str] | None = None,
) -> Rows:
    """Return the rows of arrays or of files that are mapped into memory, to be read in blocks.

    Parameters
    ----------
    A : array_like of shape (n, p)
        Design. Of a `numpy.memmap` whose rows lie one after the other, the blocks are read from
        its file, so that they do not add to the memory of the process.
    b : array_like of shape (n,)
        Response.
    freq_weights, var_weights : array_like of shape (n,), optional
        As in `irls`.
    block_rows : int, optional
        Rows of a block. Default: as many as fit into about 4 MiB, less where memory is scarce.
    names : sequence of str, optional
        Labels of the columns.

    Returns
    -------
    Rows
        To be given to `irls` in the place of A.

    Raises
    ------
    ValueError
        If the shapes do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> rng = np.random.default_rng(0)
    >>> A = np.column_stack([np.ones(10_000), rng.standard_normal(10_000)])
    >>> b = A @ [1.0, 2.0] + 0.1 * rng.standard_normal(10_000)
    >>> fit = rf.irls(rf.rows.from_arrays(A, b, block_rows=1000))
    >>> print(fit.x.round(2))
    [1. 2.]
    """
    design = np.asanyarray(A)
    if design.ndim != 2:
        raise ValueError(f"A must be 2-dimensional, got shape {design.shape}")
    given = {"b": b, "freq_weights": freq_weights, "var_weights": var_weights}
    vectors = {k: None if v is None else np.asanyarray(v) for k, v in given.items()}
    for name, vector in vectors.items():
        if vector is not None and vector.shape[:1] != design.shape[:1]:
            n = design.shape[0]
            raise ValueError(f"{name} must have shape ({n},) like A, got {vector.shape}")
    size = _block_rows(block_rows, design.shape[1] + 3)
    labels = names if names is not None else getattr(A, "columns", None)
    return _ArrayRows((design, *vectors.values()), size, _labels(labels))


class _ArrayRows(Rows):
    def __init__(self, arrays: Any, size: int, names: tuple[str, ...] | None) -> None:
        self._arrays, self._size, self.names = arrays, size, names

    def blocks(self) -> Iterator[Block]:
        with self._open(reuse=False) as readers:
            for read in readers:
                yield read()

    def _readers(self) -> Any:
        return self._open(reuse=True)

    @contextmanager
    def _open(self, *, reuse: bool) -> Iterator[Iterable[Callable[[], Block]]]:
        n = self._arrays[0].shape[0]
        with ExitStack() as stack:
            parts = [_reader(array, self._size, stack, reuse) for array in self._arrays]

            def read(number: int, start: int) -> Block:
                stop = min(start + self._size, n)
                A, b, freq, var = (part(start, stop) for part in parts)
                return Block(A, b, freq, var, number, start)

            yield (
                functools.partial(read, number, start)
                for number, start in enumerate(range(0, n, self._size))
            )


def _reader(array: Any, size: int, stack: ExitStack, reuse: bool) -> Callable[[int, int], Any]:
    """Return a function that returns the rows from `start` to `stop` of an array.

    Of a file they are read into memory that is used again in the same thread, if `reuse`.
    """
    if array is None:
        return lambda start, stop: None
    place = _place(array)
    if place is None:
        return lambda start, stop: array[start:stop]
    name, offset = place
    width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    own = threading.local()

    def read(start: int, stop: int) -> Any:
        if not hasattr(own, "file"):
            own.file = stack.enter_context(Path(name).open("rb", buffering=0))  # noqa: SIM115
        if not (reuse and hasattr(own, "buffer")):
            own.buffer = np.empty((size, *array.shape[1:]), array.dtype)
        rows = own.buffer[: stop - start]
        _fill(rows.reshape(-1).view(np.uint8), own.file, offset + start * width)
        return rows

    return read


def _fill(target: Any, file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    while len(target) > 0:
        count = cast(Any, file).readinto(target)
        if not count:
            raise OSError(f"{file.name} ended before all rows were read")
        target = target[count:]


def _place(array: Any) -> tuple[str, int] | None:
    """Return the file of a mapped array whose rows lie one after the other, and where it begins.

    Reading it is as fast as reading the mapping, whose pages would stay in the memory of the
    process. None for other arrays, and those whose changes do not reach the file.
    """
    mapped = isinstance(array, np.memmap) and array.flags.c_contiguous and array.size > 0
    if not mapped or array.mode == "c" or array.filename is None:
        return None
    raw = getattr(array, "_mmap", None)
    if raw is None or not Path(array.filename).is_file():
        return None
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    address = np.frombuffer(raw, dtype=np.uint8).__array_interface__["data"][0]
    return str(array.filename), begin + array.__array_interface__["data"][0] - address


# -- blocks ------------------------------------------------------------------------------------


def from_blocks(
    source: Sequence[Any] | Callable[[], Iterable[Any]],
    *,
    names: Sequence[str] | None = None,
) -> Rows:
    """Return the rows of blocks that the caller makes.

    Parameters
    ----------
    source : sequence or callable
        Blocks, or a function without arguments that returns an iterable of them: it is called for
        each pass over the rows and must yield the same blocks. A block is a tuple (A, b), (A, b,
        freq_weights) or (A, b, freq_weights, var_weights), where the weights may be None.
    names : sequence of str, optional
        Labels of the columns.

    Returns
    -------
    Rows
        To be given to `irls` in the place of A.

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> def blocks():
    ...     for seed in range(10):
    ...         rng = np.random.default_rng(seed)
    ...         A = np.column_stack([np.ones(500), rng.standard_normal(500)])
    ...         yield A, A @ [1.0, 2.0] + 0.1 * rng.standard_normal(500)
    >>> fit = rf.irls(rf.rows.from_blocks(blocks), loss="huber")
    >>> print(fit.x.round(2), fit.nobs)
    [1. 2.] 5000.0
    """
    again = callable(source) or (hasattr(source, "__len__") and hasattr(source, "__getitem__"))
    if not again:
        raise TypeError(
            "source must be a sequence of blocks or a function that returns an iterable of them, "
            f"because the rows are read several times, got source={source!r}"
        )
    return _BlockRows(source, _labels(names))


class _BlockRows(Rows):
    def __init__(self, source: Any, names: tuple[str, ...] | None) -> None:
        self._source, self.names = source, names

    def blocks(self) -> Iterator[Block]:
        first = 0
        made = self._source() if callable(self._source) else self._source
        for number, block in enumerate(made):
            if not isinstance(block, tuple | list) or not 2 <= len(block) <= 4:
                raise TypeError(f"block {number} must be a tuple of 2 to 4 arrays, got {block!r}")
            given: list[Any] = [*block, *[None] * (4 - len(block))]
            A, b, freq, var = given
            yield Block(A, b, freq, var, number, first)
            first += len(A)


# -- Parquet -----------------------------------------------------------------------------------


def from_parquet(
    source: Any,
    columns: Sequence[str],
    response: str,
    *,
    freq_weights: str | None = None,
    var_weights: str | None = None,
    intercept: bool = False,
    block_rows: int | None = None,
) -> Rows:
    """Return the rows of Parquet files or of another dataset of pyarrow.

    Parameters
    ----------
    source : path, sequence of paths, pyarrow.dataset.Dataset or pyarrow.Table
        Where the columns are.
    columns : sequence of str
        Names of the columns of the design.
    response : str
        Name of the response.
    freq_weights, var_weights : str, optional
        Names of the weights, as in `irls`.
    intercept : bool, default: False
        Whether to put a column of ones named "Intercept" before the others.
    block_rows : int, optional
        Most rows of a block. Default: as many as fit into about 4 MiB.

    Returns
    -------
    Rows
        To be given to `irls` in the place of A.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If a column is missing.
    """
    try:
        from pyarrow import dataset
    except ImportError as error:
        raise ImportError("from_parquet needs pyarrow: pip install 'robustfit[dask]'") from error
    found = source if isinstance(source, dataset.Dataset) else dataset.dataset(source)
    if isinstance(columns, str):
        raise TypeError(f"columns must be a sequence of names, got columns={columns!r}")
    wanted = [*columns, response, *(w for w in (freq_weights, var_weights) if w is not None)]
    missing = [name for name in wanted if name not in found.schema.names]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} must be among the columns {', '.join(found.schema.names)}"
        )
    size = _block_rows(block_rows, len(columns) + 3)
    rows = _ParquetRows(found, tuple(columns), response, (freq_weights, var_weights), size)
    return with_intercept(rows) if intercept else rows


class _ParquetRows(Rows):
    def __init__(
        self,
        source: Any,
        names: tuple[str, ...],
        response: str,
        weights: tuple[str | None, str | None],
        size: int,
    ) -> None:
        self._source, self._response, self._weights = source, response, weights
        self._columns, self._size, self.names = names, size, names

    def blocks(self) -> Iterator[Block]:
        columns = self._columns
        wanted = dict.fromkeys([*columns, self._response, *filter(None, self._weights)])
        batches = self._source.to_batches(
            columns=list(wanted), batch_size=self._size, batch_readahead=4, fragment_readahead=1
        )
        first = 0
        for number, batch in enumerate(batches):
            A = np.empty((batch.num_rows, len(columns)), order="F")
            for j, name in enumerate(columns):
                A[:, j] = _numbers(batch, name)
            freq, var = (None if w is None else _numbers(batch, w) for w in self._weights)
            yield Block(A, _numbers(batch, self._response), freq, var, number, first)
            first += batch.num_rows


def _numbers(batch: Any, name: str) -> Any:
    """Return a column; what is missing is NaN."""
    values = batch.column(name).to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got dtype {batch.schema.field(name).type}")
    return values


# -- sizes -------------------------------------------------------------------------------------


def _block_rows(asked: int | None, columns: int) -> int:
    """Return the rows of a block."""
    if asked is not None:
        return _checks.whole(asked, "block_rows", least=1)
    most = _memory() // (_MEMORY_SHARE * (worker_threads() + 3))
    return max(1, min(_BLOCK_BYTES, most) // (8 * columns))


@functools.cache
def _memory() -> int:
    """Return the bytes of memory of this machine, a usual number where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def _labels(names: Any) -> tuple[str, ...] | None:
    return None if names is None else tuple(str(name) for name in names)
