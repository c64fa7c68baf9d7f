"""Threads for kernels that release the interpreter lock."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numba

# Handing work to threads takes about as long as this many floating-point operations.
_WORTH_A_THREAD = 1e6

_here = threading.local()


def in_threads(
    work: Callable[[slice], Any],
    count: int,
    size: int,
    cost: float,
    threads: int | None = None,
) -> list[Any]:
    """Return ``work(part)`` for the parts of range(count), slices of `size`, in order.

    Plain threads, because Numba's own would start an OpenMP runtime, after which the process
    must not fork, and take longer to compile. The parts do not depend on the number of threads,
    so neither does the result. `cost` is the number of floating-point operations in all, `threads`
    the most threads, by default Numba's number.
    """
    parts = [slice(low, min(low + size, count)) for low in range(0, count, size)]
    most = cast(Any, numba.config).NUMBA_NUM_THREADS if threads is None else threads
    threads = min(most, len(parts))
    # Work inside of work waits for no thread: all of them may be waiting for it.
    if threads <= 1 or cost < _WORTH_A_THREAD or getattr(_here, "working", False):
        return [work(part) for part in parts]
    results: list[Any] = [None] * len(parts)
    waiting = iter(range(len(parts)))

    def worker() -> None:
        _here.working = True
        for k in waiting:
            results[k] = work(parts[k])

    running = [_pool(threads).submit(worker) for _ in range(threads)]
    try:
        for future in running:
            future.result()
    except BaseException:
        # After an error or an interrupt nothing more is begun, and nothing goes on unseen.
        waiting = iter(())
        for future in running:
            future.cancel()
            _ = future.cancelled() or future.exception()
        raise
    return results


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="robustfit")


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
