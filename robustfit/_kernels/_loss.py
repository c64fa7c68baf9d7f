"""What the compiled code needs of a loss: its values at an array of residuals.

It is compiled once for each loss, and called through a pointer. Everything else, the pass over the
rows and the searches, is compiled once for all of them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numba.np.unsafe import ndarray
from numpy.typing import NDArray

from robustfit import _scalar
from robustfit._jit import jit
from robustfit.losses import Loss
from robustfit.losses._compiled import formulas, source_stamp

_tuple: Any = ndarray.to_fixed_tuple
_array: Any = cast(Any, numba).carray
#: Standardised residuals are cut here: every rho is flat there, and their squares are finite.
FAR = 1e150
#: Which values are wanted: all three, the weights alone, or psi' in their place.
ALL, WEIGHT, CURVE = 0, 1, 2

_numbers: Any = cast(Any, types).CPointer(types.float64)
_signature = types.void(
    types.int64, types.intp, _numbers, _numbers, types.float64, types.float64, _numbers, _numbers,
    _numbers, _numbers,
)  # fmt: skip


def pointer(loss: Loss) -> tuple[int, float, NDArray[np.float64]]:
    """Return the address of what `values` calls for a loss, its c, and its shape parameters."""
    compiled = _compiled(cast(Any, type(loss)), len(loss.shape))
    return compiled[1], loss.c, np.array(loss.shape)


def compiles(loss: Loss) -> bool:
    """Tell whether Numba understands the formulas; those of a caller may be for NumPy alone."""
    return bool(_compiles(cast(Any, type(loss)), len(loss.shape)))


@functools.cache
def _compiles(loss: type[Loss], shapes: int) -> bool:
    try:
        _compiled(loss, shapes)
    except (numba.core.errors.NumbaError, AttributeError):
        return False
    return True


def _values(
    typing: Any, address: Any, kind: Any, r: Any, k: Any, s: Any, c: Any, shape: Any, t: Any,
    q: Any, w: Any,
) -> Any:  # fmt: skip
    """Set w = weight(u) for u = k r / s.

    For `ALL` set t = rho(u) and q = psi(u) u, too; for `CURVE` set w = psi'(u) instead. The arrays
    have the same length. Their addresses are handed over: whole arrays, or Numba's own pointers to
    functions, take longer than some rows to work on.
    """
    if any(array.layout != "C" for array in (r, k, shape, t, q, w)):
        return None

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def data(k: int) -> Any:
            return context.make_array(signature.args[k])(context, builder, arguments[k])

        convention, expected = context.call_conv, _signature.args
        kind_of = convention.get_function_type(types.void, expected).as_pointer()
        function = builder.inttoptr(arguments[0], kind_of)
        count = builder.extract_value(data(2).shape, 0)
        given = [arguments[1], count, data(2).data, data(3).data, *arguments[4:6]]
        given += [data(k).data for k in range(6, 10)]
        convention.call_function(builder, function, types.void, expected, given)
        return context.get_dummy_value()

    return types.void(
        types.int64, types.int64, r, k, types.float64, types.float64, shape, t, q, w
    ), call


values: Any = intrinsic(_values)


_lock = threading.Lock()


def _compiled(loss: type[Loss], shapes: int) -> tuple[Callable[..., Any], int]:
    """Return the compiled function of a loss, and its address while that is kept."""
    # Two threads that come first would compile two, of which one is lost.
    with _lock:
        return _compile(cast(Any, loss), shapes)


@functools.cache
def _compile(loss: type[Loss], shapes: int) -> tuple[Callable[..., Any], int]:
    pairs, unique, cache = formulas(loss, "rho", "weight", "dpsi", key=(shapes,))
    (rho, rho1), (weight, weight1), (dpsi, dpsi1) = pairs

    @jit(_signature, cache=cache, nogil=True, error_model="numpy")
    @unique
    def evaluate(
        kind: Any, n: Any, r: Any, k: Any, s: Any, c: Any, shape: Any, t: Any, q: Any, w: Any
    ) -> None:
        extra = _tuple(_array(shape, (shapes,)), shapes)
        inverse = 1.0 / s
        if kind == ALL:
            for i in range(n):
                u = min(max(r[i] * k[i] * inverse, -FAR), FAR)
                w[i] = weight(weight1, u, c, _scalar, *extra)
                t[i] = rho(rho1, u, c, _scalar, *extra)
                q[i] = w[i] * u * u
        elif kind == WEIGHT:
            for i in range(n):
                u = min(max(r[i] * k[i] * inverse, -FAR), FAR)
                w[i] = weight(weight1, u, c, _scalar, *extra)
        else:
            for i in range(n):
                u = min(max(r[i] * k[i] * inverse, -FAR), FAR)
                w[i] = dpsi(dpsi1, u, c, _scalar, *extra)

    found = cast(Any, evaluate).overloads[_signature.args]
    return evaluate, found.library.get_pointer_to_function(found.fndesc.llvm_func_name)


#: Part of the name of every kernel that uses these, so that an edit here misses the disk cache.
STAMP = source_stamp(_values, _values, _scalar)
