"""The passes of a loss on a GPU: one kernel each, which Triton compiles in about a second.

The formula is written out as source text, once for each loss. Arithmetic is in single precision,
whatever the inputs have, and a result is rounded once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import linecache
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from robustfit.losses import Loss
from robustfit.torch._eager import HUGE
from robustfit.torch._kernels import keeps_nan
from robustfit.torch._trace import source

_BLOCK = 2048
_WARPS = 8
# Programs on each multiprocessor that share the work of a sum.
_SHARES = 8
_NARROW = (torch.float32, torch.float16, torch.bfloat16)

_HEAD = """
import triton
import triton.language as tl
from triton.language.extra import libdevice

INF: tl.constexpr = tl.constexpr(float("inf"))
exp, log, log1p = libdevice.exp, libdevice.log, libdevice.log1p
sin, cos, tanh, arctan = libdevice.sin, libdevice.cos, libdevice.tanh, libdevice.atan
sqrt, abs, where = libdevice.sqrt, tl.abs, tl.where

@triton.jit
def expm1(x):
    # Half the instructions of libdevice's, which would take longer than the memory.
    x = where(x < -104.0, -104.0, x)
    k = libdevice.rint(x * 1.4426950408889634)
    r = tl.fma(k, -1.42860682e-6, tl.fma(k, -0.693145752, x))
    q = tl.fma(r, 0.0013882521484917473, 0.008366520578601551)
    q = tl.fma(q, r, 0.041667199859404196)
    q = tl.fma(q, r, 0.16666543620996258)
    q = tl.fma(q, r, 0.5)
    s = tl.exp2(k)
    return where(x > 88.7, INF, tl.fma(s, tl.fma(q, r * r, r), s - 1.0))
"""

_DIFFERENCE = """\
        i = low + tl.arange(0, BLOCK)
        inside = i < n
        x = tl.load(a + i, mask=inside, other=0.0).to(tl.float32)
        u = x - tl.load(b + i, mask=inside, other=0.0).to(tl.float32)
"""

_VALUES = """
@triton.jit
def values(a, b, out, n, k, LOADED: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.load(k).to(tl.float32) if LOADED else k
    inverse = 1.0 / c
    low = tl.program_id(0).to(tl.int64) * BLOCK
    if low < n:
{difference}{lines}        tl.store(out + i, {value}, mask=inside)
"""

_TOTAL = """
@triton.jit
def total(a, b, sums, n, k, factor, LOADED: tl.constexpr, BLOCK: tl.constexpr):
    c = tl.load(k).to(tl.float32) if LOADED else k
    inverse = 1.0 / c
    sum = tl.zeros((BLOCK,), tl.float32)
    for low in range(tl.program_id(0).to(tl.int64) * BLOCK, n, tl.num_programs(0) * BLOCK):
{difference}{lines}        sum += where(inside, {value}, 0.0)
    tl.store(sums + tl.program_id(0), factor * tl.sum(sum, 0))
"""

_SLOPES = """
@triton.jit
def slopes(
    a, b, g, out, n, k, factor, ONE: tl.constexpr, LOADED: tl.constexpr, BLOCK: tl.constexpr
):
    c = tl.load(k).to(tl.float32) if LOADED else k
    inverse = 1.0 / c
    low = tl.program_id(0).to(tl.int64) * BLOCK
    if low < n:
{difference}{lines}        if ONE:
            each = tl.load(g).to(tl.float32)
        else:
            each = tl.load(g + i, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + i, factor * each * {value}, mask=inside)
"""


def usable(loss: Loss, a: Tensor, b: Tensor) -> bool:
    """Tell whether there are kernels for these tensors, which the first call finds out."""
    narrow = a.dtype in _NARROW and b.dtype in _NARROW
    return narrow and _kernels(cast(Any, type(loss)), loss.shape, a.device) is not None


def values(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the loss of each element of a - b, with tuning constant `k`, rounded to `dtype`."""
    a, b = _dense(a), _dense(b)
    out = torch.empty_like(a, dtype=dtype)
    n = a.numel()
    _launch(loss, "values", -(-n // _BLOCK), a, b, out, n, k, LOADED=isinstance(k, Tensor))
    return out


def total(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return factor times the sum of the losses of a - b."""
    a, b = _dense(a), _dense(b)
    n = a.numel()
    parts = min(-(-n // _BLOCK), _SHARES * _multiprocessors(a.device))
    sums = torch.empty(parts, dtype=torch.float32, device=a.device)
    _launch(loss, "total", parts, a, b, sums, n, k, factor, LOADED=isinstance(k, Tensor))
    return sums.sum() if parts > 1 else sums[0]


def slopes(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, factor: float, g: Tensor) -> Tensor:
    """Return factor g psi(a - b); a `g` of one element is the same for all."""
    a, b, g = _dense(a), _dense(b), _dense(g)
    out = torch.empty_like(a, dtype=a.dtype if a.dtype is b.dtype else torch.float32)
    n, one = a.numel(), g.numel() == 1
    flags = {"ONE": one, "LOADED": isinstance(k, Tensor)}
    _launch(loss, "slopes", -(-n // _BLOCK), a, b, g, out, n, k, factor, **flags)
    return out


def _dense(x: Tensor) -> Tensor:
    return x.resolve_neg().contiguous()


def _launch(loss: Loss, name: str, parts: int, a: Tensor, *args: Any, **flags: Any) -> None:
    kernel = getattr(_kernels(cast(Any, type(loss)), loss.shape, a.device), name)
    here = a.device.index == torch.cuda.current_device()
    with contextlib.nullcontext() if here else torch.cuda.device(a.device):
        kernel[(parts,)](a, *args, BLOCK=_BLOCK, num_warps=_WARPS, **flags)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _kernels(loss: Any, shape: tuple[float, ...], device: torch.device) -> Any:
    """Return the kernels of a loss, or None where there can be none.

    Triton can be missing, or its compiler, the GPU be too old, or the formula need what it does
    not have.
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        found = _compiled(loss, shape)
        one = torch.ones(1, device=device)
        with torch.cuda.device(device):
            found.values[(1,)](one, one, one, 1, 1.0, LOADED=False, BLOCK=_BLOCK, num_warps=_WARPS)
    except Exception:
        # Whatever it was, there is a slower way that needs none of this.
        return None
    return found


@functools.cache
def _compiled(loss: Any, shape: tuple[float, ...]) -> Any:
    """Return the three kernels of a loss, which are compiled for each dtype when first called."""
    text = kernel_source(loss, shape)
    name = f"<robustfit kernels of {loss.__module__}.{loss.__qualname__}{shape}>"
    # Triton reads the source of its functions from their file.
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    module: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec"), module)
    return SimpleNamespace(**{kind: module[kind] for kind in ("values", "total", "slopes")})


def kernel_source(loss: Any, shape: tuple[float, ...]) -> str:
    """Return the source text of the three kernels."""
    keeps = keeps_nan(loss, shape)

    # A product where a loss is continuous; its slope can jump, and then only a quotient will do.
    def rho(u: Any, c: Any, inverse: Any, m: Any) -> Any:
        value = c * c * loss.rho1(u * inverse, m, *shape)
        return value if keeps else m.where(u == u, value, u)

    def psi(u: Any, c: Any, inverse: Any, m: Any) -> Any:
        t = m.minimum(m.maximum(u, -HUGE), HUGE)
        return t * loss.weight1(t / c, m, *shape)

    text = _HEAD
    for template, formula in ((_VALUES, rho), (_TOTAL, rho), (_SLOPES, psi)):
        lines, value = source(formula, " " * 8, "u", "c", "inverse")
        text += template.format(difference=_DIFFERENCE, lines=lines, value=value)
    return text
