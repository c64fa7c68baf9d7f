"""Numba kernels of a loss over the memory of two tensors, and the threads that run them.

They read the two inputs and write what is asked for, in one pass and without temporaries.
Doubles use the exact formulas of `robustfit.losses`. Floats use the same formulas in double
arithmetic with the functions of `_single`, and are rounded once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import torch
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable
from torch import Tensor

from robustfit import _scalar
from robustfit._kernels import in_threads
from robustfit.losses import Loss
from robustfit.losses._compiled import can_cache, named, source_stamp
from robustfit.torch import _single

# Elements that one call of a kernel works on, and the most calls: they depend on the number of
# elements alone, so that a mean does not depend on the number of threads.
_CHUNK = 2**17
_CHUNKS = 32
# Elements of which the losses are summed before these sums are.
_BLOCK = 2048
# No float32 is as far out as this, and its square is no infinity.
_FAR = 1e39


def values(loss: Loss, k: float, a: Tensor, b: Tensor) -> Tensor:
    """Return the loss of each element of a - b, with tuning constant `k`.

    Here and below the inputs are contiguous tensors of the CPU, all float32 or all float64.
    """
    run, _, _, shape = _bound(loss, a.dtype is torch.float32)
    out = torch.empty_like(a)

    def work(part: slice) -> None:
        run(a.data_ptr(), b.data_ptr(), out.data_ptr(), part.start, part.stop, k, shape)

    _in_chunks(work, a.numel())
    return out


def total(loss: Loss, k: float, a: Tensor, b: Tensor) -> float:
    """Return the sum of the losses of a - b."""
    _, run, _, shape = _bound(loss, a.dtype is torch.float32)

    def work(part: slice) -> Any:
        return run(a.data_ptr(), b.data_ptr(), part.start, part.stop, k, shape)

    return float(sum(_in_chunks(work, a.numel())))


def slopes(loss: Loss, k: float, a: Tensor, b: Tensor, factor: float, g: Tensor) -> Tensor:
    """Return factor g psi(a - b); a `g` of one element is the same for all."""
    _, _, run, shape = _bound(loss, a.dtype is torch.float32)
    out = torch.empty_like(a)
    one = g.numel() == 1

    def work(part: slice) -> None:
        at = a.data_ptr(), b.data_ptr(), g.data_ptr(), out.data_ptr()
        run(*at, part.start, part.stop, k, shape, factor, one)

    _in_chunks(work, a.numel())
    return out


def _in_chunks(work: Callable[[slice], Any], n: int) -> list[Any]:
    """Return `work` of the chunks of range(n), in order, by as many threads as torch uses.

    `work` holds the tensors, so that their memory outlives a call that is interrupted.
    """
    if n <= _CHUNK:
        return [work(slice(0, n))]
    size = max(_CHUNK, -(-n // (_CHUNKS * _BLOCK)) * _BLOCK)
    return in_threads(work, n, size, math.inf, torch.get_num_threads())


# -- compiled ----------------------------------------------------------------------------


@register_jitable(forceinline=True)
def _rho(rho1: Any, u: Any, k: Any, m: Any, *shape: Any) -> Any:
    """Return k**2 rho1(u / k) for a u that was a float32; the zero has no sign."""
    return m.where(u == u, k * k * m.abs(rho1(u / k, m, *shape)), u)


@register_jitable(forceinline=True)
def _psi(weight1: Any, u: Any, k: Any, m: Any, *shape: Any) -> Any:
    """Return u weight1(u / k) for a u that was a float32, at infinity its value far out."""
    t = m.minimum(m.maximum(u, -_FAR), _FAR)
    return m.where(u == u, t * weight1(t / k, m, *shape), u)


@register_jitable(forceinline=True, fastmath={"reassoc", "nsz"})
def _add(total: Any, x: Any) -> Any:
    """Return total + x; the compiler may reorder these sums, and only these."""
    return total + x


@cast(Any, intrinsic)
def _pointer(typingctx: Any, address: Any) -> Any:
    """Return an integer as a pointer: an array object per tensor costs more than a small loss."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@register_jitable(forceinline=True)
def _part(address: Any, low: Any, high: Any, dtype: Any, size: Any) -> Any:
    """Return the elements of a range: a loop from 0 need not look for a negative index."""
    return carray(_pointer(address + low * size), (high - low,), dtype)


@functools.lru_cache(maxsize=128)
def _bound(loss: Loss, single: bool) -> tuple[Any, Any, Any, tuple[float, ...]]:
    """Return the kernels of a loss and its shape parameters."""
    return *_kernels(cast(Any, type(loss)), single), loss.shape


@functools.cache
def _kernels(loss: type[Loss], single: bool) -> tuple[Any, Any, Any]:
    """Return three kernels for float32 or float64 inputs, compiled at their first call.

    They take addresses and the range of elements. ``values(a, b, out, low, high, k, shape)``
    sets the losses of a - b, ``total(a, b, low, high, k, shape)`` returns their sum, and
    ``slopes(a, b, g, out, low, high, k, shape, factor, one)`` sets factor g psi, with one g for
    all or one for each.
    """
    m: Any = _single if single else _scalar
    dtype: Any = np.float32 if single else np.float64
    size = dtype(0).itemsize
    rho, rho1 = (_rho, loss.rho1) if single else loss.engine("rho")
    psi, weight1 = (_psi, loss.weight1) if single else loss.engine("psi")
    for formula in (rho1, weight1):
        register_jitable(forceinline=True)(formula)
    unique = named(source_stamp(rho, rho1, m), source_stamp(psi, weight1, m), _STAMP)
    cache = can_cache(rho1) and can_cache(weight1)
    # What is compiled into a kernel inherits its flags, and exact formulas can bear none.
    loose = {"contract", "nsz", "arcp"} if single else False
    jit = numba.njit(nogil=True, cache=cache, error_model="numpy", fastmath=loose)

    @jit
    @unique
    def values(a: Any, b: Any, out: Any, low: Any, high: Any, k: Any, shape: Any) -> None:
        x, y = _part(a, low, high, dtype, size), _part(b, low, high, dtype, size)
        z = _part(out, low, high, dtype, size)
        for i in range(len(z)):
            z[i] = rho(rho1, np.float64(x[i]) - np.float64(y[i]), k, m, *shape)

    @jit
    @unique
    def total(a: Any, b: Any, low: Any, high: Any, k: Any, shape: Any) -> Any:
        total = 0.0
        for start in range(low, high, _BLOCK):
            stop = min(start + _BLOCK, high)
            x, y = _part(a, start, stop, dtype, size), _part(b, start, stop, dtype, size)
            block = 0.0
            for i in range(len(x)):
                u = np.float64(x[i]) - np.float64(y[i])
                block = _add(block, rho(rho1, u, k, m, *shape))
            total += block
        return total

    @jit
    @unique
    def slopes(
        a: Any, b: Any, g: Any, out: Any, low: Any, high: Any, k: Any, shape: Any,
        factor: Any, one: Any,
    ) -> None:  # fmt: skip
        x, y = _part(a, low, high, dtype, size), _part(b, low, high, dtype, size)
        z = _part(out, low, high, dtype, size)
        if one:
            factor *= np.float64(_part(g, 0, 1, dtype, size)[0])
            for i in range(len(z)):
                z[i] = factor * psi(weight1, np.float64(x[i]) - np.float64(y[i]), k, m, *shape)
        else:
            each = _part(g, low, high, dtype, size)
            for i in range(len(z)):
                u = np.float64(x[i]) - np.float64(y[i])
                z[i] = factor * np.float64(each[i]) * psi(weight1, u, k, m, *shape)

    return values, total, slopes


# What the compiled code depends on besides the formulas: this file and its numbers.
_STAMP = source_stamp(_rho, _psi, _scalar)
