"""The loss of a difference, with derivatives from psi and psi' instead of from autograd.

Two ways lead to the same numbers. Ordinary tensors take one pass forward and one backward, and
only the inputs are kept: by compiled kernels on the CPU and on GPUs, by few operations of torch
elsewhere. Of a total of few elements on the CPU, the pass forward makes the slopes as well, and
these are kept. Everything else (``torch.compile``, ``torch.func``, a second derivative, a tensor as
constant) takes the formula of the loss in torch. The way is chosen here, from the inputs alone.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from robustfit._namespace import Torch
from robustfit.losses import Loss
from robustfit.torch import _eager, _kernels, _triton

Reduction = Literal["none", "mean", "sum"]

_PLAIN = (Tensor, torch.nn.Parameter)
# torch has no types for these. The second tells whether a transform of torch.func is running,
# and the compiler can follow it.
_tracing: Any = cast(Any, torch.jit).is_tracing
_transforming: Any = torch._C._are_functorch_transforms_active
_unpack_dual: Any = forward_ad.unpack_dual
_ORDERS: tuple[Literal["rho", "psi", "dpsi"], ...] = ("rho", "psi", "dpsi")


def loss_of_difference(
    a: Tensor,
    b: Tensor,
    k: float | Tensor,
    loss: Loss,
    reduction: Reduction,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the loss of a - b with tuning constant `k` in place of the loss's own.

    `a` and `b` are real floating tensors of one shape, `k` is a number or a tensor that
    broadcasts to it. The result is at least float32, which the caller may have to round, or already
    rounded to `dtype`.
    """
    passes = _passes(a, b, k, loss)
    if passes is not None:
        derived = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        fused: Tensor = _fused(a, b, (passes, loss, k, reduction, dtype, derived))
        return fused
    values = _curve(*_difference(a, b, k), loss, 0)
    return values if reduction == "none" else getattr(values, reduction)()


def _passes(a: Tensor, b: Tensor, k: float | Tensor, loss: Loss) -> Any:
    """Return the module whose passes can be used, or None where somebody records what is done."""
    if torch.compiler.is_compiling() or _transforming() or _tracing() or not _in_memory(a, b):
        return None
    if isinstance(k, Tensor) and not _is_constant(k, a):
        return None
    if a.is_cpu:
        return _kernels
    return _triton if a.is_cuda and _triton.usable(loss, a, b) else _eager


def _is_constant(k: Tensor, a: Tensor) -> bool:
    """Tell whether `k` is one number that nothing is differentiated by."""
    derived = k.requires_grad or _unpack_dual(k).tangent is not None
    return k.numel() == 1 and not derived and k.device == a.device and _in_memory(k)


def _in_memory(*tensors: Tensor) -> bool:
    """Tell whether these are ordinary tensors, not empty, and no wrappers."""
    try:
        for x in tensors:
            # A wrapper raises an error; a tensor on the meta device is ordinary, but nowhere.
            if type(x) not in _PLAIN or (x.data_ptr() == 0 and (x.is_cpu or x.numel() == 0)):
                return False
    except RuntimeError:
        return False
    return True


def _working_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    double = a.dtype is torch.float64 or b.dtype is torch.float64
    return torch.float64 if double else torch.float32


def _difference(a: Tensor, b: Tensor, k: float | Tensor) -> tuple[Tensor, float | Tensor, bool]:
    """Return a - b, `k` in its shape, and whether the last digits of double precision count."""
    exact = _working_dtype(a, b) is torch.float64
    # In single precision each step would lose a digit; a GPU that is made for it may have no other.
    dtype = torch.float64 if exact or a.is_cpu else torch.float32
    r = a.to(dtype) - b.to(dtype)
    return r, k.to(r).expand_as(r) if isinstance(k, Tensor) else k, exact


# -- by passes ---------------------------------------------------------------------------


class _Fused(torch.autograd.Function):
    """Value and slope by one pass each."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, how: tuple[Any, ...]) -> Any:
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)
        passes, loss, k, reduction, dtype, derived = ctx.how = how
        ctx.slope = None
        if a.is_cpu:
            k = float(k)
        if reduction == "none":
            return passes.values(loss, k, a, b, dtype)
        factor = 1.0 / a.numel() if reduction == "mean" else 1.0
        if not (derived and a.is_cpu):
            return passes.total(loss, k, a, b, factor)
        value, ctx.slope = passes.total_and_slopes(loss, k, a, b, factor)
        return value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        a, b = ctx.saved_tensors
        passes, loss, k, reduction, *_ = ctx.how
        factor = 1.0 / a.numel() if reduction == "mean" else 1.0
        if torch.is_grad_enabled() or not _in_memory(a, b, g):
            slope = g * factor * _slope(a, b, k, loss)
        elif ctx.slope is not None:
            # Once: what is returned may be changed.
            slope, ctx.slope = ctx.slope, None
            if g.item() != 1.0:
                slope.mul_(g)
        else:
            # One number that is expanded, as by a sum, stays one number.
            each = g[(0,) * g.ndim] if g.ndim and not any(g.stride()) else g
            slope = passes.slopes(loss, float(k) if a.is_cpu else k, a, b, factor, each)
        for_a, for_b, _ = ctx.needs_input_grad
        return slope if for_a else None, -slope if for_b else None, None

    @staticmethod
    def jvp(ctx: Any, da: Tensor, db: Tensor, *_: Any) -> Tensor:
        a, b = ctx.saved_tensors
        _, loss, k, reduction, *_ = ctx.how
        change = (_slope(a, b, k, loss) * (da - db)).to(_working_dtype(a, b))
        return change if reduction == "none" else getattr(change, reduction)()


def _slope(a: Tensor, b: Tensor, k: float | Tensor, loss: Loss) -> Tensor:
    return _curve(*_difference(a, b, k), loss, 1)


# -- by the formula in torch -------------------------------------------------------------


def _curve(r: Tensor, k: float | Tensor, exact: bool, loss: Loss, order: int) -> Tensor:
    """Return rho, psi or psi' of `r` at order 0, 1 or 2, each with the next as derivative."""
    if order == 2:
        return _formula(r, k, exact, loss, order)
    if not torch.compiler.is_compiling():
        return cast(Tensor, _forward_curve(r, k, exact, loss, order))
    # The compiler has no rule for a function of one's own inside torch.func.
    if _transforming():
        return _formula(r, k, exact, loss, order)
    return cast(Tensor, cast(Any, _Curve).apply(r, k, exact, loss, order))


def _formula(r: Tensor, k: float | Tensor, exact: bool, loss: Loss, order: int) -> Tensor:
    # The class, because the compiler cannot follow a method of a loss that it has made itself.
    scaled, formula = type(loss).engine(_ORDERS[order], exact=exact)
    value: Tensor = scaled(formula, r, k, Torch, *loss.shape)
    return value


class _Curve(torch.autograd.Function):
    """The formula of one order, with the formula of the next as its derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(r: Tensor, k: float | Tensor, exact: bool, loss: Loss, order: int) -> Tensor:
        return _formula(r, k, exact, loss, order)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        r, k, ctx.exact, ctx.loss, ctx.order = inputs
        ctx.k = None if isinstance(k, Tensor) else k
        saved = (r, k) if isinstance(k, Tensor) else (r,)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        slope, by_k = _Curve.slopes(ctx, ctx.needs_input_grad[1])
        return g * slope, None if by_k is None else g * by_k, None, None, None

    @staticmethod
    def slopes(ctx: Any, with_k: bool) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives by r and, if asked for, by k."""
        r, k = ctx.saved_tensors if ctx.k is None else (*ctx.saved_tensors, ctx.k)
        slope = _curve(r, k, ctx.exact, ctx.loss, ctx.order + 1)
        if not with_k:
            return slope, None
        # Order j is homogeneous in (r, k) of degree 2 - j (Euler).
        value = _curve(r, k, ctx.exact, ctx.loss, ctx.order)
        return slope, ((2 - ctx.order) * value - r * slope) / k


class _ForwardCurve(_Curve):
    """The same with forward-mode derivatives, which the compiler refuses to see."""

    @staticmethod
    def jvp(ctx: Any, dr: Tensor | None, dk: Tensor | None, *_: Any) -> Tensor:
        slope, by_k = _Curve.slopes(ctx, dk is not None)
        change = torch.zeros_like(slope) if dr is None else slope * dr
        return change if by_k is None or dk is None else change + by_k * dk


# Looked up once: `apply` is not typed. The first is that of the class above `Function`, whose own
# only adds what transforms need, and those do not come here.
_fused: Any = cast(Any, super(torch.autograd.Function, _Fused)).apply
_forward_curve: Any = _ForwardCurve.apply
