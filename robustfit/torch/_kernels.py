"""Compiled passes of a loss over the memory of two tensors, on torch's own threads.

They read the two inputs and write what is asked for, in one pass and without temporaries.
Doubles use the exact formulas of `robustfit.losses`. Floats use the same formulas in double
arithmetic with the functions of `_single`, and are rounded once.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.unsafe import ndarray
from numpy.typing import NDArray
from torch import Tensor

from robustfit import _scalar
from robustfit._jit import cfunc, jitable
from robustfit._kernels import in_threads
from robustfit.losses import Loss
from robustfit.losses._compiled import can_cache, kernels, named, source_stamp
from robustfit.torch import _single

_tuple: Any = ndarray.to_fixed_tuple
Kind = Literal["values", "total", "slopes", "total and slopes"]

# The least elements that are worth a thread, and the most parts: they depend on the number of
# elements alone, so that a mean does not depend on the number of threads.
_CHUNK = 2**14
_CHUNKS = 256
# Elements of which the losses are summed before these sums are.
_BLOCK = 2048
# Up to so many elements the slopes are computed along with a total.
_AT_ONCE = 2**20
# No float32 is as far out as this, and its square is no infinity.
_FAR = 1e39


def values(loss: Loss, k: float, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the loss of each element of a - b, with tuning constant `k`, at least in `dtype`."""
    a, b = _dense(a, b)
    out = torch.empty_like(a)
    _run("values", loss, k, a, b, a, out, 1.0)
    return out


def total(loss: Loss, k: float, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return factor times the sum of the losses of a - b."""
    a, b = _dense(a, b)
    total = _run("total", loss, k, a, b, a, a, 1.0)
    return torch.scalar_tensor(factor * total, dtype=a.dtype)


def slopes(loss: Loss, k: float, a: Tensor, b: Tensor, factor: float, g: Tensor) -> Tensor:
    """Return factor g psi(a - b); a `g` of one element is the same for all."""
    a, b, g = _dense(a, b, g)
    out = torch.empty_like(a)
    _run("slopes", loss, k, a, b, g, out, factor)
    return out


def total_and_slopes(
    loss: Loss, k: float, a: Tensor, b: Tensor, factor: float
) -> tuple[Tensor, Tensor | None]:
    """Return what `total` does, and factor psi(a - b), in less time than that of two passes.

    Of many elements there is the total alone: there the memory counts.
    """
    if a.numel() > _AT_ONCE:
        return total(loss, k, a, b, factor), None
    a, b = _dense(a, b)
    slopes = torch.empty_like(a)
    sum_of_all = _run("total and slopes", loss, k, a, b, slopes, a, factor)
    return torch.scalar_tensor(factor * sum_of_all, dtype=a.dtype), slopes


def keeps_nan(loss: type[Loss], shape: tuple[float, ...], m: Any = _scalar) -> bool:
    """Tell whether the formula of rho is NaN where its argument is, as far as can be seen."""
    try:
        with np.errstate(all="ignore"):
            return math.isnan(loss.rho1(math.nan, m, *shape))
    except AttributeError:
        # A formula of a caller for torch alone.
        return False


def _dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one dtype, float32 or float64, with their elements in order in memory.

    Each is itself where it is such a tensor.
    """
    a, b = tensors[:2]
    double = a.dtype is torch.float64 or b.dtype is torch.float64
    dtype = torch.float64 if double else torch.float32
    return tuple(
        [
            x
            if x.dtype is dtype and x.is_contiguous() and not x.is_neg()
            else x.to(dtype).resolve_neg().contiguous()
            for x in tensors
        ]
    )


def _run(
    kind: Kind, loss: Loss, k: float, a: Tensor, b: Tensor, g: Tensor, out: Tensor, factor: float
) -> float:
    """Run a kernel over all elements and return the sum of what its parts leave behind.

    The arguments hold the tensors, so that their memory outlives a call that is interrupted.
    """
    kernel, shape = _bound(kind, loss, a.dtype is torch.float32)
    n = a.numel()
    at = a.data_ptr(), b.data_ptr(), g.data_ptr(), out.data_ptr(), g.numel() == 1
    chunk, threads = _CHUNK, 1
    if n > _CHUNK:
        chunk = max(_CHUNK, -(-n // (_CHUNKS * _BLOCK)) * _BLOCK)
        threads = min(torch.get_num_threads(), -(-n // chunk))
    if threads == 1 or _pool.start:
        start = _pool if threads > 1 else _NO_POOL
        return cast(float, _launch(kernel, *start, threads, *at, 0, n, chunk, k, factor, shape))

    def work(part: slice) -> float:
        ends = part.start, part.stop
        return cast(float, _launch(kernel, *_NO_POOL, 1, *at, *ends, chunk, k, factor, shape))

    return cast(float, sum(in_threads(work, n, chunk, math.inf, threads)))


# -- threads -----------------------------------------------------------------------------


class _Pool(NamedTuple):
    """Addresses of the functions of an OpenMP runtime, zero where there is none."""

    start: int
    rank: int
    size: int


_NO_POOL = _Pool(0, 0, 0)


def _find_pool() -> _Pool:
    """Return torch's own pool of threads: `GOMP_parallel` of the runtime that it has loaded.

    Its threads spin for a while after each of torch's operations, so that any others, just then,
    would have to share the processors with them.
    """
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return _NO_POOL
    try:
        loaded = ctypes.CDLL(None)
        names = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"
        found = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0 for name in names]
    except (AttributeError, OSError, TypeError):
        return _NO_POOL
    return _Pool(*found)


def _leave_pool() -> None:
    global _pool
    _pool = _NO_POOL


_pool = _find_pool()
# OpenMP's threads do not survive a fork, and it would wait for them.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_pool)


# -- compiled ----------------------------------------------------------------------------


@jitable(forceinline=True)
def _rho(rho1: Any, u: Any, k: Any, m: Any, *shape: Any) -> Any:
    """Return k**2 rho1(u / k) for a u that was a float32; the zero has no sign."""
    return k * k * m.abs(rho1(u / k, m, *shape))


@jitable(forceinline=True)
def _psi(weight1: Any, u: Any, k: Any, m: Any, *shape: Any) -> Any:
    """Return u weight1(u / k) for a u that was a float32, at infinity its value far out."""
    t = m.minimum(m.maximum(u, -_FAR), _FAR)
    return t * weight1(t / k, m, *shape)


@jitable(forceinline=True)
def _value(rho: Any, rho1: Any, x: Any, y: Any, k: Any, m: Any, keeps: Any, shape: Any) -> Any:
    """Return the loss of x - y, NaN where that is."""
    u = np.float64(x) - np.float64(y)
    value = rho(rho1, u, k, m, *shape)
    return value if keeps else m.where(u == u, value, u)


@jitable(forceinline=True, fastmath={"reassoc", "nsz"})
def _add(total: Any, x: Any) -> Any:
    """Return total + x; the compiler may reorder these sums, and only these."""
    return total + x


def _generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Call the C function at an address. It takes and returns whole numbers and addresses."""
    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word] * (len(args) - 1))
    return builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])


@cast(Any, intrinsic)
def _ask(typing: Any, function: Any) -> Any:
    """Return what a function without arguments does."""
    return types.int64(types.int64), _generate


@cast(Any, intrinsic)
def _start(typing: Any, function: Any, task: Any) -> Any:
    """Run a kernel in this thread."""
    return types.int64(types.int64, types.int64), _generate


@cast(Any, intrinsic)
def _start_all(typing: Any, pool: Any, function: Any, task: Any, threads: Any, flags: Any) -> Any:
    """Run a kernel in each of several threads, of which this is one."""
    return types.int64(*[types.int64] * 5), _generate


@cast(Any, intrinsic)
def _widen(typing: Any) -> Any:
    """Let the compiler use the widest vectors: for Intel's it would take half of them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        attributes = builder.function.attributes
        # The method of llvmlite's own refuses what it does not know.
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


@cast(Any, intrinsic)
def _pointer(typing: Any, address: Any) -> Any:
    """Return an integer as a pointer: an array object per tensor costs more than a small loss."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@jitable(forceinline=True)
def _part(address: Any, low: Any, high: Any, dtype: Any, size: Any) -> Any:
    """Return the elements of a range: a loop from 0 need not look for a negative index."""
    return carray(_pointer(address + low * size), (high - low,), dtype)


# What a kernel is given: the first words of a task. Then follow the shape parameters of the loss
# and one sum for each part.
_WORDS = 12
_A, _B, _G, _OUT, _ONE, _LOW, _HIGH, _SIZE, _RANK, _COUNT = range(10)
_K, _FACTOR = 10, 11
_LONGEST = 2**16


@jitable(forceinline=True)
def _read(address: Any, shapes: Any) -> Any:
    """Return a task as numbers and as words, and the shape parameters of the loss."""
    task = carray(_pointer(address), (_LONGEST,), np.float64)
    words = carray(_pointer(address), (_LONGEST,), np.int64)
    return task, words, _tuple(task[_WORDS : _WORDS + shapes], shapes)


@jitable(forceinline=True)
def _share(words: Any) -> Any:
    """Return the first of the parts that are for this thread, the step to the next, and the end."""
    parts = -(-(words[_HIGH] - words[_LOW]) // words[_SIZE])
    if words[_RANK] == 0:
        return 0, 1, parts
    # C returns half a word.
    half = np.int64(0xFFFFFFFF)
    return _ask(words[_RANK]) & half, _ask(words[_COUNT]) & half, parts


@jitable(forceinline=True)
def _ends(words: Any, part: Any) -> Any:
    """Return where a part begins and ends."""
    low = words[_LOW] + part * words[_SIZE]
    return low, min(low + words[_SIZE], words[_HIGH])


@kernels(source_stamp(_rho, _psi, _scalar))
def _launch(
    kernel: Any, pool: Any, rank: Any, count: Any, threads: Any, a: Any, b: Any, g: Any, out: Any,
    one: Any, low: Any, high: Any, size: Any, k: Any, factor: Any, shape: Any,
) -> Any:  # fmt: skip
    """Run a kernel over a range of elements, in parts, and return the total of its sums."""
    sums = _WORDS + len(shape)
    parts = -(-(high - low) // size)
    task = np.empty(sums + parts)
    words = task.view(np.int64)
    words[_A], words[_B], words[_G], words[_OUT], words[_ONE] = a, b, g, out, one
    words[_LOW], words[_HIGH], words[_SIZE], words[_RANK], words[_COUNT] = (
        low, high, size, rank, count,
    )  # fmt: skip
    task[_K], task[_FACTOR] = k, factor
    for i in range(len(shape)):
        task[_WORDS + i] = shape[i]
    task[sums:] = 0.0
    if rank == 0:
        _start(kernel, task.ctypes.data)
    else:
        _start_all(pool, kernel, task.ctypes.data, threads, 0)
    total = 0.0
    for part in range(parts):
        total += task[sums + part]
    return total


@functools.lru_cache(maxsize=512)
def _bound(kind: Kind, loss: Loss, single: bool) -> tuple[int, NDArray[np.float64]]:
    """Return the address of a kernel of a loss, and its shape parameters."""
    keeps = not single or keeps_nan(type(loss), loss.shape, _single)
    compiled = _kernel(kind, cast(Any, type(loss)), len(loss.shape), single, keeps)
    return compiled.address, np.array(loss.shape, dtype=np.float64)


@functools.cache
def _kernel(kind: Kind, loss: type[Loss], shapes: int, single: bool, keeps: bool) -> Any:
    """Return a kernel for float32 or float64 inputs: a C function of the address of a task.

    "values" sets the losses of a - b, "total" leaves their sum behind, and "slopes" sets
    factor g psi, with one g for all or one for each. With a total it sets factor psi in the place
    of g. `keeps` tells that the formula of rho is NaN where its argument is.
    """
    m: Any = _single if single else _scalar
    dtype: Any = np.float32 if single else np.float64
    size = dtype(0).itemsize
    rho, rho1 = (_rho, loss.rho1) if single else loss.engine("rho")
    psi, weight1 = (_psi, loss.weight1) if single else loss.engine("psi")
    both = kind == "total and slopes"
    used = (rho1, weight1) if both else (weight1,) if kind == "slopes" else (rho1,)
    for formula in used:
        jitable(forceinline=True)(formula)
    unique = named(
        source_stamp(rho, rho1, m), source_stamp(psi, weight1, m), _STAMP, kind, shapes, keeps
    )

    @unique
    def values(address: Any) -> None:
        _widen()
        task, words, shape = _read(address, shapes)
        k = task[_K]
        first, step, parts = _share(words)
        for part in range(first, parts, step):
            low, high = _ends(words, part)
            x, y, z = (
                _part(words[_A], low, high, dtype, size),
                _part(words[_B], low, high, dtype, size),
                _part(words[_OUT], low, high, dtype, size),
            )
            for i in range(len(z)):
                z[i] = _value(rho, rho1, x[i], y[i], k, m, keeps, shape)

    @unique
    def total(address: Any) -> None:
        _widen()
        task, words, shape = _read(address, shapes)
        k, factor = task[_K], task[_FACTOR]
        first, step, parts = _share(words)
        for part in range(first, parts, step):
            low, high = _ends(words, part)
            sum_of_part = 0.0
            for start in range(low, high, _BLOCK):
                stop = min(start + _BLOCK, high)
                x, y, z = (
                    _part(words[_A], start, stop, dtype, size),
                    _part(words[_B], start, stop, dtype, size),
                    _part(words[_G], start, stop, dtype, size),
                )
                block = 0.0
                for i in range(len(x)):
                    value = _value(rho, rho1, x[i], y[i], k, m, keeps, shape)
                    block = _add(block, value)
                    if both:
                        u = np.float64(x[i]) - np.float64(y[i])
                        z[i] = factor * psi(weight1, u, k, m, *shape)
                sum_of_part += block
            task[_WORDS + shapes + part] = sum_of_part

    @unique
    def slopes(address: Any) -> None:
        _widen()
        task, words, shape = _read(address, shapes)
        k, factor = task[_K], task[_FACTOR]
        if words[_ONE]:
            factor *= np.float64(_part(words[_G], 0, 1, dtype, size)[0])
        first, step, parts = _share(words)
        for part in range(first, parts, step):
            low, high = _ends(words, part)
            x, y, z = (
                _part(words[_A], low, high, dtype, size),
                _part(words[_B], low, high, dtype, size),
                _part(words[_OUT], low, high, dtype, size),
            )
            if words[_ONE]:
                for i in range(len(z)):
                    z[i] = factor * psi(weight1, np.float64(x[i]) - np.float64(y[i]), k, m, *shape)
            else:
                g = _part(words[_G], low, high, dtype, size)
                for i in range(len(z)):
                    u = np.float64(x[i]) - np.float64(y[i])
                    z[i] = factor * np.float64(g[i]) * psi(weight1, u, k, m, *shape)

    chosen = {"values": values, "slopes": slopes}.get(kind, total)
    # What is compiled into a kernel inherits its flags, and exact formulas can bear none.
    loose = {"contract", "nsz", "arcp"} if single else False
    signature = types.void(types.int64)
    cache = all(map(can_cache, used))
    compiled: Any = cfunc(signature, cache=cache, error_model="numpy", fastmath=loose)(chosen)
    return compiled


# What the compiled code depends on besides the formulas: this file and its numbers.
_STAMP = source_stamp(_rho, _psi, _scalar)
