"""Threads for kernels that release the interpreter lock."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

import numba
import threadpoolctl

#: Handing work to threads takes about as long as this many floating-point operations.
WORTH_A_THREAD = 2e6

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
    if threads <= 1 or cost < WORTH_A_THREAD or getattr(_here, "working", False):
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
    pool, tasks = _pool(threads), [_Task(worker) for _ in range(threads)]
    try:
        for task in tasks:
            pool.put(task)
        for task in tasks:
            task.result()
    except BaseException:
        # After an error or an interrupt nothing more is begun, and nothing goes on unseen.
        stop()
        for task in tasks:
            task.end()
        raise


def merged_in_threads(
    work: Callable[[slice], Any],
    count: int,
    size: int,
    cost: float,
    merge: Callable[[Any, Any], Any] = operator.add,
) -> Any:
    """Return the results of `in_threads` merged, by default added: they need not all be kept."""
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
                total[:] = [merge(total[0], value) if total else value]
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
    waiting: deque[_Task[_Result]] = deque()

    def read() -> list[_Item]:
        for item in source:
            return [item]
        return []

    def worker(item: _Item) -> _Result:
        with alone():
            return work(item)

    reading = _Task(read)
    try:
        pool.put(reading)
        while found := reading.result():
            reading = _Task(read)
            pool.put(reading)
            waiting.append(_Task(functools.partial(worker, found[0])))
            pool.put(waiting[-1])
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error or an interrupt nothing goes on unseen.
        unfinished: list[_Task[Any]] = [reading, *waiting]
        for task in unfinished:
            task.end()


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


class _Task(Generic[_Result]):
    """A call in another thread.

    Those of the standard library, and its pool of threads, take locks in Python code. An interrupt
    there leaves the lock taken, and all threads wait for it from then on. Queue and lock here are
    each of one piece.
    """

    def __init__(self, function: Callable[[], _Result]) -> None:
        self._function = function
        self._ended, self._at_work = False, threading.Lock()
        self._outcome: SimpleQueue[tuple[list[_Result], BaseException | None]] = SimpleQueue()

    def run(self) -> None:
        """Call the function, unless the task has ended."""
        with self._at_work:
            if self._ended:
                return
            try:
                self._outcome.put(([self._function()], None))
            except BaseException as error:
                self._outcome.put(([], error))

    def result(self) -> _Result:
        """Return what the function returns, or raise what it raises; once."""
        values, error = self._outcome.get()
        if error is not None:
            raise error
        return values[0]

    def end(self) -> None:
        """Do not begin, or wait until it is over."""
        self._ended = True
        with self._at_work:
            pass


@functools.cache
def _pool(threads: int) -> SimpleQueue[_Task[Any]]:
    """Return the queue from which so many threads take tasks."""
    tasks: SimpleQueue[_Task[Any]] = SimpleQueue()

    def work() -> None:
        while True:
            tasks.get().run()

    for k in range(threads):
        threading.Thread(target=work, name=f"robustfit_{k}", daemon=True).start()
    return tasks


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
