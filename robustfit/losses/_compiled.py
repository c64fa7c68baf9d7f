"""Numba builds of the loss formulas, made on first use and cached on disk."""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
from numba.extending import register_jitable


@functools.cache
def ufunc(
    scaled: Callable[..., Any],
    formula: Callable[..., Any],
    shape: tuple[float, ...],
    m: ModuleType,
) -> Any:
    """Return ``scaled(formula, u, c, m, *shape)`` as a Numba ufunc of (u, c)."""
    register_jitable(forceinline=True)(formula)
    stamp = source_stamp(scaled, formula, m)

    # Both signatures at once: without them float32 input would give float64 output.
    @numba.vectorize(["f4(f4,f4)", "f8(f8,f8)"], cache=can_cache(formula))  # type: ignore[no-untyped-call]
    def evaluate(u: Any, c: Any) -> Any:
        _ = stamp
        return scaled(formula, u, c, m, *shape)

    return evaluate


def can_cache(formula: Callable[..., Any]) -> bool:
    """Tell whether compiled code of this formula may be kept on disk."""
    return Path(formula.__code__.co_filename).is_file()


def source_stamp(scaled: Callable[..., Any], formula: Callable[..., Any], m: ModuleType) -> str:
    """Return a digest of the source that a compiled loss depends on.

    Numba invalidates its disk cache by the file of the compiled function alone. A digest
    in the closure makes an edited formula miss the cache instead of running the old code.
    """
    digest = hashlib.sha256()
    for name in (scaled.__code__.co_filename, formula.__code__.co_filename, str(m.__file__)):
        path = Path(name)
        digest.update(path.read_bytes() if path.is_file() else name.encode())
    return digest.hexdigest()
