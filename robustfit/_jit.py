# mypy: disable-error-code="no-untyped-call"
"""Numba's decorators, with a disk cache that no fault of a file or a folder can stop.

Every function of the package that is kept on disk is compiled through here. A file that is torn
or not the one meant counts as not there: the function is compiled again, and the file replaced.
Where no file can be written, the function is compiled in each process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import sigutils
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.ccallback import CFunc
from numba.core.registry import CPUDispatcher
from numba.extending import register_jitable

Decorator = Callable[[Callable[..., Any]], Any]
_BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_DIGEST = hashlib.sha256().digest_size


def jit(*signatures: Any, cache: bool = True, **options: Any) -> Decorator:
    """Return `numba.njit` with these options: for these signatures alone, if there are any."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        if cache:
            dispatcher._cache = _cache(function)
        for signature in signatures:
            dispatcher.compile(signature)
        if signatures:
            dispatcher.disable_compile()
        return dispatcher

    return decorate


def inner(**options: Any) -> Decorator:
    """Return the decorator of functions that compiled code alone calls; else they are Python's.

    They lack the wrappers for calls from Python, which take as long to compile as they do.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = _Inner(function, targetoptions={"nopython": True, **_BARE, **options})
        dispatcher._cache = _cache(function)
        return dispatcher

    return decorate


def jitable(**options: Any) -> Decorator:
    """Return `numba.extending.register_jitable` with these options, without needless wrappers."""
    decorator: Decorator = register_jitable(**_BARE, **options)
    return decorator


def vectorize(*signatures: str, cache: bool = True) -> Decorator:
    """Return `numba.vectorize` for these signatures."""

    def decorate(function: Callable[..., Any]) -> Any:
        ufunc: Any = numba.vectorize(function)
        if cache:
            ufunc._dispatcher.cache = _cache(function)
        for signature in signatures:
            ufunc.add(signature)
        ufunc.disable_compile()
        return ufunc

    return decorate


def cfunc(signature: Any, *, cache: bool = True, **options: Any) -> Decorator:
    """Return `numba.cfunc` with these options."""

    def decorate(function: Callable[..., Any]) -> Any:
        normal = sigutils.normalize_signature(signature)
        callback: Any = CFunc(function, normal, locals={}, options=options)
        if cache:
            callback._cache = _cache(function)
        callback.compile()
        return callback

    return decorate


def _cache(function: Callable[..., Any]) -> Any:
    try:
        return _Cache(function)
    except (RuntimeError, OSError):  # There is no place for its files.
        return NullCache()


class _Inner(CPUDispatcher):
    def __call__(self, *args: Any) -> Any:
        return self.py_func(*args)


class _Cache(FunctionCache):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _Files(
            locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp()
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # Whatever comes of unpickling names that are no more.
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError:  # A full disk, or a folder that is gone.
            return


class _Files(IndexDataCacheFile):
    """An index and files of data. Each of these bears its key, and at its end its digest.

    Two processes that write at the same time can leave an index that names the file of another
    signature.
    """

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def _load_index(self) -> dict[Any, str]:
        try:
            overloads = super()._load_index()
        except Exception:  # Unpickling what is no pickle can raise almost anything.
            return {}
        return overloads if isinstance(overloads, dict) else {}

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_data(self, name: str) -> Any:
        content = Path(self._data_path(name)).read_bytes()
        sound = hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]
        return super()._load_data(name) if sound else None
