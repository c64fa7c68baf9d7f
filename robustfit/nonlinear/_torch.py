"""Derivatives by torch, for models written with torch: ``jac="torch"``."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TorchFunction:
    """A function of tensors as one of arrays, with its derivatives in the last arguments.

    Attributes
    ----------
    f : callable
        The function; it gets and returns float64 tensors.
    fixed : int
        So many first arguments are data, not parameters.
    """

    f: Callable[..., Any]
    fixed: int

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function."""
        return inspect.signature(self.f)

    def __call__(self, *arguments: Any) -> Array:
        """Return the values."""
        return np.asarray(self.f(*(_tensor(a) for a in arguments)).detach())

    def jacobian(self, *arguments: Any) -> Array:
        """Return the derivatives in the parameters, one more axis."""
        torch = load_torch()
        data = [_tensor(a) for a in arguments[: self.fixed]]
        params = arguments[self.fixed :]
        one = len(params) == 1 and np.ndim(params[0]) == 1
        at = _tensor(params[0]) if one else torch.stack([_tensor(a) for a in params])
        with warnings.catch_warnings():
            # Of torch about itself, when it first takes a forward derivative.
            warnings.simplefilter("ignore", DeprecationWarning)
            value = torch.func.jacfwd(lambda v: self.f(*data, v) if one else self.f(*data, *v))(at)
        return np.asarray(value.detach())


def load_torch() -> Any:
    """Return torch.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError("jac='torch' needs torch: pip install 'robustfit[torch]'") from error


def _tensor(value: Any) -> Any:
    """Return numbers as a float64 tensor, anything else as it is."""
    if isinstance(value, np.ndarray | float | int):
        return load_torch().tensor(np.asarray(value, dtype=np.float64))
    return value
