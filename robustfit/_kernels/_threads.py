"""Threads for kernels that release the interpreter lock."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import threadpoolctl

# Handing work to threads takes about as long as this many floating-point operations.
_WORTH_A_THREAD = 2e6

# Operands of fewer elements than this are not worth a thread to any BLAS.
_BLAS_THREADS = 8000
# Beyond this many columns BLAS is faster than the compiled loops.
WIDE = 160

_here = threading.local()

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    most = worker_threads() if threads is None else threads
    threads = min(most, len(parts))
    # Work inside of work waits for no thread: all of them may be waiting for it.
    if threads <= 1 or cost < _WORTH_A_THREAD or getattr(_here, "working", False):
        return [work(part) for part in parts]
    results: list[Any] = [None] * len(parts)
    waiting, stopped = iter(range(len(parts))), threading.Event()

    def worker() -> None:
        _here.working = True
        for k in waiting:
            if stopped.is_set():
                return
            results[k] = work(parts[k])

    _run(worker, threads, stopped.set)
    return results


def _run(worker: Callable[[], None], threads: int, stop: Callable[[], None]) -> None:
    """Run a worker in each of several threads until all have ended."""
    running = [_pool(threads).submit(worker) for _ in range(threads)]
    try:
        for future in running:
            future.result()
    except BaseException:
        # After an error or an interrupt nothing more is begun, and nothing goes on unseen.
        stop()
        for future in running:
            future.cancel()
            _ = future.cancelled() or future.exception()
        raise


def added_in_threads(work: Callable[[slice], Any], count: int, size: int, cost: float) -> Any:
    """Return the sum of the results of `in_threads`, which need not all be kept."""
    ready: dict[int, Any] = {}
    total: list[Any] = []
    lock, turn = threading.Lock(), iter(range(0, count, size))
    due = next(turn, None)

    def one(part: slice) -> None:
        nonlocal due
        result = work(part)
        # In the order of the parts, whichever is ready first.
        with lock:
            ready[part.start] = result
            while due in ready:
                value = ready.pop(due)
                total[:] = [total[0] + value if total else value]
                due = next(turn, None)

    in_threads(one, count, size, cost)
    return total[0]


def merged(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    merge: Callable[[_Result, _Result], _Result],
    done: Callable[[int], object],
) -> list[_Result]:
    """Return what ``work(item)`` returns for the items, merged in order; nothing for no items.

    A thread that is through with an item reads the next itself: to hand it over to another takes
    as long as some thousand rows. At most two more items than threads are in use at a time. `done`
    is told how many are merged.
    """
    source, most = iter(items), worker_threads() + 2
    reading, turn = threading.Lock(), threading.Condition()
    ready: dict[int, Future[_Result]] = {}
    total: list[_Result] = []
    read = due = 0
    ended = False

    def end() -> None:
        nonlocal ended
        with turn:
            ended = True
            turn.notify_all()

    def take() -> tuple[int, list[_Item]]:
        nonlocal read
        with reading:
            with turn:
                turn.wait_for(lambda: ended or read - due < most)
            number, read = read, read + 1
            for item in () if ended else source:
                return number, [item]
            end()
            return number, []

    def put(number: int, future: Future[_Result]) -> None:
        nonlocal due
        with turn:
            # In the order of the items, whichever is ready first; so are errors.
            ready[number] = future
            while due in ready:
                result = ready.pop(due).result()
                total[:] = [merge(total[0], result) if total else result]
                due += 1
                done(due)
            turn.notify_all()

    def worker() -> None:
        try:
            with alone():
                while True:
                    number, found = take()
                    if not found:
                        return
                    future: Future[_Result] = Future()
                    try:
                        future.set_result(work(found[0]))
                    except BaseException as error:
                        future.set_exception(error)
                    put(number, future)
        except BaseException:
            end()
            raise

    if getattr(_here, "working", False):
        worker()
    else:
        with _one_thread_for_blas():
            _run(worker, worker_threads(), end)
    return total


def in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> Iterator[_Result]:
    """Yield ``work(item)`` for the items in order, worked on by threads while the next is read.

    At most `threads` + 2 items are in use at a time: that which is read, those in work, and that
    whose result was yielded last.
    """
    most = worker_threads() if threads is None else threads
    if getattr(_here, "working", False):
        yield from map(work, items)
        return
    source, pool = iter(items), _pool(most + 1)
    waiting: deque[Future[_Result]] = deque()

    def read() -> list[_Item]:
        for item in source:
            return [item]
        return []

    def worker(item: _Item) -> _Result:
        with alone():
            return work(item)

    reading = pool.submit(read)
    try:
        while found := reading.result():
            reading = pool.submit(read)
            waiting.append(pool.submit(worker, found[0]))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error or an interrupt nothing goes on unseen.
        unfinished: list[Future[Any]] = [reading, *waiting]
        for future in unfinished:
            future.cancel()
            _ = future.cancelled() or future.exception()


def worker_threads() -> int:
    """Return how many threads work at a time."""
    return int(cast(Any, numba.config).NUMBA_NUM_THREADS)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep kernels that are called here to this thread."""
    before = getattr(_here, "working", False)
    _here.working = True
    try:
        yield
    finally:
        _here.working = before


@functools.cache
def _blas() -> Any:
    """Return the BLAS libraries of this process."""
    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def threads_of_our_own(n: int, p: int) -> Iterator[None]:
    """Keep BLAS to one thread while a design of n rows and p columns goes through `in_threads`.

    After each call its threads spin for a while, on the cores that ours then have to share:
    that doubled the time of a fit. A wide design is left to BLAS, and so is a fit in another than
    the main thread: the limit is one of the process, and threads that set it and take it back
    in turns can leave it behind.
    """
    if p > WIDE or n * p < _BLAS_THREADS:
        yield
        return
    with _one_thread_for_blas():
        yield


def _one_thread_for_blas() -> contextlib.AbstractContextManager[Any]:
    main = threading.current_thread() is threading.main_thread()
    return cast(Any, _blas().limit(limits=1)) if main else contextlib.nullcontext()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="robustfit")


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
