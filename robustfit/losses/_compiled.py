"""Numba builds of the loss formulas, made on first use and cached on disk."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from robustfit import _scalar
from robustfit._jit import Decorator, jit, jitable, vectorize

F = TypeVar("F", bound=Callable[..., Any])


@functools.cache
def ufunc(
    scaled: Callable[..., Any],
    formula: Callable[..., Any],
    shape: tuple[float, ...],
    m: ModuleType,
) -> Any:
    """Return ``scaled(formula, u, c, m, *shape)`` as a Numba ufunc of (u, c)."""
    jitable(forceinline=True)(formula)

    # Both signatures at once: without them float32 input would give float64 output.
    @vectorize("f4(f4,f4)", "f8(f8,f8)", cache=can_cache(formula))
    @named(source_stamp(scaled, formula, m), *shape)
    def evaluate(u: Any, c: Any) -> Any:
        return scaled(formula, u, c, m, *shape)

    return evaluate


def formulas(loss: Any, *kinds: str, key: tuple[object, ...] = ()) -> tuple[Any, Any, bool]:
    """Return what a kernel factory needs of a loss.

    Parameters
    ----------
    loss : type of Loss
        The loss.
    *kinds : {"rho", "psi", "weight", "dpsi"}
        The functions that the kernel evaluates.
    key : tuple, optional
        What the kernel depends on besides their formulas.

    Returns
    -------
    pairs : list of (scaled, formula)
        For each kind, to be called as ``scaled(formula, u, c, _scalar, *shape)``.
    unique : callable
        The decorator `named` for every function compiled in the factory.
    cache : bool
        Whether the kernel may be kept on disk.
    """
    pairs = [loss.engine(kind, exact=False) for kind in kinds]
    for _, formula in pairs:
        jitable(forceinline=True)(formula)
    stamps = (source_stamp(scaled, formula, _scalar) for scaled, formula in pairs)
    return pairs, named(*stamps, *key), all(can_cache(formula) for _, formula in pairs)


def named(*key: object) -> Callable[[F], F]:
    """Return a decorator that makes the name of a function unique to `key`.

    Numba names a compiled function by its qualified name and a counter that starts anew in
    each process. Two closures made by the same code, with different formulas, that were
    cached by different processes can so have one name, and when both are loaded one of them
    silently runs in place of the other. Every function compiled inside a factory needs this,
    those that only other compiled functions call included.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    def rename(function: F) -> F:
        function.__qualname__ += f"_{digest}"
        return function

    return rename


def kernels(*key: object, build: Callable[..., Decorator] = jit) -> Decorator:
    """Return the decorator of compiled functions that release the interpreter lock.

    They are kept on disk by names unique to `key`: the digests of the other files they use.
    `build` is `jit`, or `inner` for those that compiled code alone calls.
    """
    compiled = build(nogil=True, error_model="numpy")
    return lambda function: compiled(named(*key)(function))


def can_cache(formula: Callable[..., Any]) -> bool:
    """Tell whether compiled code of this formula may be kept on disk.

    It may if the file says all there is to know: not in a notebook, and not with values from
    an enclosing function.
    """
    return Path(formula.__code__.co_filename).is_file() and not formula.__closure__


def source_stamp(scaled: Callable[..., Any], formula: Callable[..., Any], m: ModuleType) -> str:
    """Return a digest of the names and the source that a compiled loss depends on.

    Numba invalidates its disk cache by the file of the compiled function alone. The digest
    in its name makes an edited formula miss the cache instead of running the old code.
    """
    digest = hashlib.sha256()
    for part in (scaled, formula):
        digest.update(f"{part.__module__}.{part.__qualname__}".encode())
    for name in (scaled.__code__.co_filename, formula.__code__.co_filename, str(m.__file__)):
        path = Path(name)
        digest.update(path.read_bytes() if path.is_file() else name.encode())
    return digest.hexdigest()
