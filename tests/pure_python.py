"""A plugin of pytest that runs the compiled kernels as Python, so that coverage sees their lines.

    PYTHONPATH=tests python -m pytest -p pure_python tests/test_small.py

Numba's decorators then return the functions as they are. A test that takes longer than `LIMIT`
seconds is skipped from there on.
"""

import ctypes
import functools
import inspect
import itertools
import signal
import sys
from types import SimpleNamespace

import numba
import numba.extending
import numpy as np
import pytest
from numba.np.unsafe import ndarray

LIMIT = 2.0

_addresses = itertools.count(1)
_functions = {}


class _Dispatcher:
    """As much of Numba's dispatcher as robustfit asks for, for a function left as it is."""

    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.__code__ = function.__code__
        self.py_func, self._cache, self.signatures = function, None, ()

    def __call__(self, *args):
        return self.py_func(*args)

    def compile(self, signature):
        self.signatures = (*self.signatures, signature)

    def disable_compile(self):
        pass

    @property
    def overloads(self):
        address = next(_addresses)
        _functions[address] = self.py_func
        library = SimpleNamespace(get_pointer_to_function=lambda name: address)
        compiled = SimpleNamespace(library=library, fndesc=SimpleNamespace(llvm_func_name=""))
        return dict.fromkeys([s.args for s in self.signatures], compiled)


def _njit(*args, **options):
    return _Dispatcher(*args) if args else _Dispatcher


# -- what robustfit writes in LLVM's language ------------------------------------------------


def _rows(address, step, rows, columns):
    """Return the numbers at an address as a matrix whose rows are `step` bytes apart."""
    size = max(rows - 1, 0) * step + 8 * columns
    memory = (ctypes.c_char * size).from_address(address)
    return np.ndarray((rows, columns), np.float64, memory, strides=(step, 8))


def _values(address, *args):
    _functions[address](*args)


def _multiply(R, R_step, x, p, m, out):
    _rows(out, 8, m, 1)[:, 0] = _rows(R, R_step, m, p) @ _rows(x, 8, p, 1)[:, 0]


def _fetch(begin, end):
    pass


def _address(array):
    return array.ctypes.data


def _tile(tall, broad):
    lanes = sys.modules["robustfit._kernels._tiles"].LANES

    def add(L, L_step, R, R_step, w, m, G, G_step):
        weighted = _rows(R, R_step, m, broad * lanes) * _rows(w, 8, m, 1)
        _rows(G, G_step, tall, broad * lanes)[:] += _rows(L, L_step, m, tall).T @ weighted

    return add


def _intrinsic(function):
    if function.__name__ == "add":
        variables = inspect.getclosurevars(function).nonlocals
        return _tile(variables["tall"], variables["broad"])
    return {
        "_values": _values, "_multiply": _multiply, "_fetch": _fetch, "_address": _address,
    }.get(function.__name__, function)  # fmt: skip


numba.njit = _njit
numba.extending.intrinsic = _intrinsic
ndarray.to_fixed_tuple = lambda values, length: tuple(values[:length])
# As in compiled code, where a division by zero is no error.
np.seterr(all="ignore")


# -- what takes too long ---------------------------------------------------------------------


class TooLong(BaseException):
    """Not an error that code under test may catch."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        return (yield)
    except TooLong:
        pytest.skip(f"more than {LIMIT} s without Numba")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
