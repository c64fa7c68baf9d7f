"""The passes of a loss by torch's own operations, for devices that have no kernels of ours.

Nothing is recorded, since slopes come from psi, and few temporaries are written: that is what
takes the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustfit import _namespace
from robustfit.losses import Loss
from robustfit.torch._kernels import keeps_nan

#: psi(+-inf) is taken as psi here, so that inf * 0 cannot occur; finite in float32.
HUGE = 1e37


class _Unrecorded(type(_namespace.Torch)):  # type: ignore[misc]
    """The namespace of formulas where neither autograd nor a compiler looks at them."""

    def expm1(self, x: Tensor) -> Tensor:
        return torch.expm1(x)


_m: Any = _Unrecorded()


def values(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the loss of each element of a - b, with tuning constant `k`, at least in `dtype`."""
    r = _difference(a, b)
    if r.dtype is torch.float64:
        scaled, formula = loss.engine("rho")
        return _tensor(scaled(formula, r, k, _m, *loss.shape))
    value = (k * k) * type(loss).rho1(r / k, _m, *loss.shape)
    return _tensor(value if keeps_nan(type(loss), loss.shape) else torch.where(r == r, value, r))


def total(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return factor times the sum of the losses of a - b."""
    return values(loss, k, a, b, a.dtype).sum().mul_(factor)


def total_and_slopes(
    loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, factor: float
) -> tuple[Tensor, None]:
    """Return what `total` does, and None: slopes made along with it would save nothing here."""
    return total(loss, k, a, b, factor), None


def slopes(loss: Loss, k: float | Tensor, a: Tensor, b: Tensor, factor: float, g: Tensor) -> Tensor:
    """Return factor g psi(a - b); a `g` of one element is the same for all."""
    r = _difference(a, b)
    if r.dtype is torch.float64:
        scaled, formula = loss.engine("psi")
        slope = scaled(formula, r, k, _m, *loss.shape)
    else:
        r.clamp_(-HUGE, HUGE)
        slope = type(loss).weight1(r / k, _m, *loss.shape) * r
    return _tensor(slope.mul_(g * factor if g.numel() == 1 else g))


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Return a - b in double precision if one of them is, and in single otherwise."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype) - b.to(dtype)


def _tensor(x: Any) -> Tensor:
    assert isinstance(x, Tensor)
    return x
