"""The mathematics that a loss formula sees: NumPy, torch, or Numba scalars.

A formula is written once, as ``f(u, m, *shape)``, and `m` decides which engine runs it:
`numpy` itself, `Torch` for tensors, and the module `robustfit._scalar` inside compiled
code. torch is never imported here: a caller who holds a tensor has imported it.
"""

import sys
from typing import Any

import numpy as np

__all__ = ["Torch", "as_float", "is_tensor"]


def is_tensor(x: object) -> bool:
    """Tell whether `x` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_float(u: Any) -> Any:
    """Return `u` as a floating array or tensor, without a copy where it already is one.

    Integers and booleans become float64 (torch: its default dtype).

    Raises
    ------
    TypeError
        If the values are complex or not numeric.
    """
    if is_tensor(u):
        if u.is_complex():
            raise TypeError(f"u must be real, got a tensor of dtype {u.dtype}; pass abs(u)")
        return u if u.is_floating_point() else u.to(sys.modules["torch"].get_default_dtype())
    u = np.asarray(u)
    if u.dtype.kind == "f":
        return u
    if u.dtype.kind in "iub":
        return u.astype(np.float64)
    raise TypeError(f"u must hold real numbers, got an array of dtype {u.dtype}")


class _TorchNamespace:
    """torch functions under NumPy's names and with NumPy's treatment of Python scalars."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules.get("torch"), name)

    def minimum(self, a: Any, b: Any) -> Any:
        return self.clamp(a, max=b)

    def maximum(self, a: Any, b: Any) -> Any:
        return self.clamp(a, min=b)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        if isinstance(condition, bool):
            return a if condition else b
        return sys.modules["torch"].where(condition, a, b)

    def expm1(self, x: Any) -> Any:
        # torch.expm1 loses its digits twice: inductor compiles it to exp(x) - 1, and
        # autograd takes its derivative as result + 1, which is 0 from x = -17 in float32.
        t = self.tanh(0.5 * self.minimum(x, 1.0))
        return self.where(x < 1.0, 2.0 * t / (1.0 - t), self.exp(x) - 1.0)


Torch = _TorchNamespace()
