"""Fits of Dask arrays and data frames: a task for each block and pass, sums over a tree.

`robustfit.irls` takes them as they are. No block is gathered: what travels is the coefficients
there and a p x p matrix back, and what Dask moves between workers to keep all of them busy. Each
pass computes the blocks anew, so that data which fit into the memory of the workers should be
persisted first. `weights` and `resid` of the result are Dask arrays with the chunks of the input.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from robustfit._kernels import alone
from robustfit.rows import Block, Rows

try:
    import dask
    import dask.array as da
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    try:
        from dask.task_spec import Task, TaskRef
    except ImportError:  # where the module is not public yet
        from dask._task_spec import Task, TaskRef
except ImportError as error:
    raise ImportError("robustfit.dask needs dask: pip install 'robustfit[dask]'") from error

__all__ = ["DaskRows", "rows_of"]

# So many results are merged by a task.
_FAN_IN = 8


class DaskRows(Rows):
    """The rows of Dask arrays whose chunks match.

    Parameters
    ----------
    A : dask.array.Array of shape (n, p)
        Design, with one chunk of columns.
    vectors : tuple of three dask.array.Array or None
        Response, frequency weights and inverse-variance weights, with the chunks of the rows of A.
    names : tuple of str or None
        Labels of the columns.
    """

    def __init__(
        self, A: Any, vectors: tuple[Any, Any | None, Any | None], names: tuple[str, ...] | None
    ) -> None:
        self._A, self._vectors, self.names = A, vectors, names
        self._first = [0, *itertools.accumulate(A.chunks[0])]

    def blocks(self) -> Iterator[Block]:
        """Refuse: the blocks stay where they are."""
        raise TypeError("the blocks of Dask arrays stay with their workers")

    def fold(
        self, function: Callable[..., Any], *args: Any, merge: Callable[[Any, Any], Any]
    ) -> Any:
        """Return what ``function(block, *args)`` returns for the blocks, merged over a tree."""
        name = f"robustfit-fold-{uuid.uuid4().hex}"
        graph = self._tasks(name, function, args)
        keys = list(graph)
        for level in itertools.count():
            if len(keys) == 1:
                break
            groups = [keys[k : k + _FAN_IN] for k in range(0, len(keys), _FAN_IN)]
            keys = [(f"{name}-{level}", k) for k in range(len(groups))]
            graph |= {
                key: Task(key, _merged, merge, *map(TaskRef, group))
                for key, group in zip(keys, groups, strict=True)
            }
        self.passes += 1
        layered = HighLevelGraph.from_collections(name, graph, dependencies=self._inputs)
        try:
            found = Delayed(keys[0], layered, layer=name).compute()
        except Exception as error:
            self._explain(error)
        if self.progress is not None:
            self.progress(self.passes, len(self._A.chunks[0]))
        return found

    def delayed(self, function: Callable[..., Any], *args: Any, rows: int) -> Any:
        """Return the Dask array of the values of ``function(block, *args)``."""
        name = f"robustfit-rows-{uuid.uuid4().hex}"
        graph = self._tasks(name, function, args)
        layered = HighLevelGraph.from_collections(name, graph, dependencies=self._inputs)
        return da.Array(layered, name, chunks=(self._A.chunks[0],), dtype=np.float64)

    @property
    def _inputs(self) -> list[Any]:
        return [self._A, *(v for v in self._vectors if v is not None)]

    def _tasks(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> dict[Any, Any]:
        """Return a task for each block."""
        given = [v is not None for v in self._vectors]
        vectors = [v.name for v in self._vectors if v is not None]

        def task(k: int) -> Any:
            # A partial keeps its arguments from being looked through for tasks.
            work = functools.partial(_run, function, args, given, k, self._first[k])
            blocks = [(self._A.name, k, 0), *((vector, k) for vector in vectors)]
            return Task((name, k), work, *map(TaskRef, blocks))

        return {(name, k): task(k) for k in range(len(self._A.chunks[0]))}

    def _explain(self, error: Exception) -> NoReturn:
        """Raise an error again; that of a lost scheduler with words."""
        cancelled = isinstance(error, asyncio.CancelledError | concurrent.futures.CancelledError)
        foreign = type(error).__module__.startswith("distributed")
        if type(error).__name__ != "KilledWorker" and (cancelled or foreign):
            raise ConnectionError(
                f"the Dask scheduler was lost during pass {self.passes} over the rows: {error}"
            ) from error
        raise error


def _run(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    given: list[bool],
    number: int,
    first: int,
    A: Any,
    *vectors: Any,
) -> Any:
    values = iter(vectors)
    b, freq, var = (next(values) if there else None for there in given)
    # Dask has its own threads: ours would be too many.
    with alone():
        return function(Block(A, b, freq, var, number, first), *args)


def _merged(merge: Callable[[Any, Any], Any], *found: Any) -> Any:
    return functools.reduce(merge, found)


def rows_of(A: Any, b: Any, freq_weights: Any = None, var_weights: Any = None) -> DaskRows:
    """Return the rows of Dask arrays or data frames; others among them are cut alike.

    Parameters
    ----------
    A : dask array or data frame of shape (n, p), or array_like
        Design.
    b, freq_weights, var_weights : dask array or series of shape (n,), or array_like
        Response and weights, as in `robustfit.irls`; the weights may be None.

    Returns
    -------
    DaskRows

    Raises
    ------
    ValueError
        If the shapes do not go together.

    Notes
    -----
    Where the lengths of the blocks are not known, as for data frames, they are computed first.
    """
    names = tuple(str(c) for c in A.columns) if hasattr(A, "columns") else None
    given = {"A": A, "b": b, "freq_weights": freq_weights, "var_weights": var_weights}
    found = {name: _lazy(value) for name, value in given.items() if value is not None}
    # All lengths that are not known take one computation together.
    found = _measured(found)
    model = next(v for v in found.values() if isinstance(v, da.Array))
    n, chunks = model.shape[0], found["A"].chunks[0] if _is_dask(found["A"]) else model.chunks[0]
    if found["A"].ndim != 2:
        raise ValueError(f"A must be 2-dimensional, got shape {found['A'].shape}")
    vectors = []
    for name, value in found.items():
        flat = value[:, 0] if name == "b" and value.ndim == 2 and value.shape[1] == 1 else value
        if (name != "A" and flat.shape != (n,)) or flat.shape[0] != n:
            raise ValueError(f"{name} must have shape ({n},) like A, got {flat.shape}")
        shape = (chunks, *((-1,) * (flat.ndim - 1)))
        cut = flat.rechunk(shape) if _is_dask(flat) else da.from_array(flat, chunks=shape)
        vectors.append(cut)
    by_name = dict(zip(found, dask.optimize(*vectors), strict=True))
    design = by_name.pop("A")
    return DaskRows(
        design, (by_name["b"], by_name.get("freq_weights"), by_name.get("var_weights")), names
    )


def _is_dask(value: Any) -> bool:
    return isinstance(value, da.Array)


def _lazy(value: Any) -> Any:
    """Return a Dask array of a Dask array or data frame, else an array."""
    if hasattr(value, "to_dask_array"):
        return value.to_dask_array()
    return value if isinstance(value, da.Array) else np.asarray(value)


def _measured(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays with known lengths of their chunks."""
    unknown = {k: v for k, v in arrays.items() if _is_dask(v) and np.isnan(v.shape[0])}
    lengths = dask.compute(
        {
            k: [dask.delayed(len)(part) for part in v.to_delayed().ravel()]
            for k, v in unknown.items()
        }
    )[0]
    known = {
        k: da.Array(v.dask, v.name, (tuple(lengths[k]), *v.chunks[1:]), meta=v._meta)
        for k, v in unknown.items()
    }
    return arrays | known
