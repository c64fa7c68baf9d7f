"""What the training losses share: checks, weights, masks and reductions."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from robustfit import _checks
from robustfit.losses import Loss
from robustfit.torch._autograd import loss_of_difference

REDUCTIONS = ("none", "mean", "sum")

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_COMPLEX = (torch.complex64, torch.complex128)


class ShapeError(ValueError, TypeError):
    """Two tensors that must have the same shape have not.

    It is a ``ValueError``, as in Kornia from 0.9 on, and a ``TypeError``, as before.
    """


def evaluate(
    a: Tensor,
    b: Tensor,
    loss: Loss,
    reduction: Any,
    *,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reductions: tuple[Any, ...] = REDUCTIONS,
) -> Tensor:
    """Return the loss of a - b: checked, weighted, masked, reduced, and then rounded.

    It is ``scale**2 rho((a - b) / scale)``, the loss with constant c scale of the difference.
    """
    check_pair(a, b)
    if reduction not in reductions:
        error = ValueError(
            f"Given type of reduction is not supported. Got: {reduction}; "
            "it must be 'none', 'mean' or 'sum'"
        )
        raise _kornia(error, "BaseError")
    dtype = result_dtype(a, b)
    unit = isinstance(scale, float) and scale == 1.0
    k = loss.c if unit else loss.c * checked_scale(scale, a)
    if mask is not None or not (a.is_floating_point() and b.is_floating_point()):
        a, b = real_pair(a, b, mask, dtype)
    if weight is None and mask is None:
        value = loss_of_difference(a, b, k, loss, reduction or "none", dtype)
    else:
        value = loss_of_difference(a, b, k, loss, "none")
        value = weighted(value, weight, mask, reduction or "none")
    return value if value.dtype is dtype else value.to(dtype)


def weighted(value: Tensor, weight: Any, mask: Tensor | None, reduction: str) -> Tensor:
    """Return the weighted values, their sum, or their sum over that of the weights.

    Where the mask is False the weight is zero, and the value is selected away instead of
    multiplied: zero times NaN is NaN.
    """
    if weight is None:
        weight = value.new_ones(())
    elif not isinstance(weight, Tensor) or weight.is_complex():
        raise TypeError(f"weight must be a real tensor, got {weight!r}")
    check_broadcast("weight", weight, value)
    value = weight.to(value.dtype) * value
    if mask is not None:
        value = torch.where(mask, value, 0.0)
        weight = torch.where(mask, weight, 0.0)
    if reduction == "none":
        return value
    return value.sum() if reduction == "sum" else value.sum() / weight.expand_as(value).sum()


def real_pair(a: Tensor, b: Tensor, mask: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return real floating tensors with the same absolute differences, zero off the mask."""
    if not (a.is_floating_point() and b.is_floating_point()):
        # Integers would wrap around, and half precision has too few digits for them.
        wide = torch.promote_types(dtype, torch.float32)
        a, b = (x if x.is_floating_point() or x.is_complex() else x.to(wide) for x in (a, b))
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a boolean tensor, got {mask!r}")
        check_broadcast("mask", mask, a)
        a, b = torch.where(mask, a, 0.0), torch.where(mask, b, 0.0)
    if a.is_complex() or b.is_complex():
        a = torch.abs(a - b)
        b = torch.zeros_like(a)
    return a, b


# -- checks ------------------------------------------------------------------------------


def check_pair(a: Any, b: Any) -> None:
    """Refuse what cannot be subtracted, in Kornia's order and in the words of all its versions."""
    for x in (a, b):
        if not isinstance(x, Tensor):
            error: Exception = TypeError(
                f"Type mismatch: expected Tensor, got {type(x)}. Not a Tensor type. Got: {type(x)}."
            )
            raise _kornia(error, "TypeCheckError")
    if a.shape != b.shape:
        error = ShapeError(
            "Shape mismatch: tensors must have the same shape.\n"
            f"  First tensor shape: {list(a.shape)}\n  Second tensor shape: {list(b.shape)}\n"
            f"Not same shape for tensors. Got: {list(a.shape)} and {list(b.shape)}"
        )
        raise _kornia(error, "ShapeError")
    if not (a.is_cpu and b.is_cpu) and a.device != b.device:
        error = ValueError(
            "Device mismatch: tensors must be on the same device.\n"
            f"  First tensor device: {a.device}\n  Second tensor device: {b.device}"
        )
        raise _kornia(error, "DeviceError")


def _kornia(error: Exception, name: str) -> Exception:
    """Return an error that is one of Kornia's as well, where Kornia is loaded.

    What catches Kornia's errors need not change with the import of the loss.
    """
    theirs = getattr(sys.modules.get("kornia.core.exceptions"), name, None)
    if theirs is None:
        return error
    ours = type(error)
    both: type[Exception] = type(ours.__name__, (theirs, ours), {"__module__": ours.__module__})
    return both(*error.args)


def result_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Return the real floating dtype of the loss, or refuse what has none."""
    dtype = a.dtype
    if dtype is b.dtype and dtype in _FLOATS and a.layout is b.layout is torch.strided:
        return dtype
    for x in (a, b):
        if x.layout is not torch.strided:
            raise TypeError(f"input and target must be dense, got layout {x.layout}")
        if x.dtype not in _FLOATS and x.dtype not in _INTEGERS and x.dtype not in _COMPLEX:
            raise TypeError(
                f"input and target must hold real or complex numbers, got dtype {x.dtype}"
            )
    dtype = torch.promote_types(a.dtype, b.dtype)
    return (
        dtype.to_real()
        if dtype.is_floating_point or dtype.is_complex
        else torch.get_default_dtype()
    )


def checked_scale(scale: Any, a: Tensor) -> Any:
    """Return the scale if it is a positive number, or a real tensor that broadcasts to `a`."""
    if isinstance(scale, Tensor):
        if scale.is_complex():
            raise TypeError(f"scale must be real, got dtype {scale.dtype}")
        check_broadcast("scale", scale, a)
        # The product with c would be rounded, which far out counts a hundred times.
        return scale.double() if scale.is_cpu else scale
    return _checks.positive(scale, "scale")


def check_broadcast(name: str, x: Tensor, a: Tensor) -> None:
    """Refuse an `x` that does not broadcast to the shape of `a`."""
    sizes = zip(reversed(x.shape), reversed(a.shape), strict=False)
    if x.ndim > a.ndim or any(m not in (1, n) for m, n in sizes):
        raise ShapeError(f"{name} must broadcast to {list(a.shape)}, got shape {list(x.shape)}")
