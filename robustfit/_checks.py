"""Checks of single arguments: each returns the value, or an error names what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np

Word = TypeVar("Word", bound=str)


def known(value: Any, name: str, allowed: Sequence[Word]) -> Word:
    """Return `value` if it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{name} must be one of {', '.join(allowed)}, got {name}={value!r}"
            f"{did_you_mean(value, allowed)}"
        )
    return cast(Word, value)


def did_you_mean(value: Any, allowed: Sequence[str]) -> str:
    """Return a question that ends a message about an unknown word, if one is like it."""
    close = difflib.get_close_matches(str(value).lower(), allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def real(value: Any, name: str) -> float:
    """Return `value` as a float if it is one number."""
    try:
        # Of text and of arrays with one element `float` would make a number, too.
        if isinstance(value, str | bytes) or getattr(value, "ndim", 0) != 0:
            raise TypeError("not a number")
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {name}={value!r}") from error


def between(value: Any, name: str, low: float, high: float, brackets: str = "()") -> float:
    """Return `value` as a float if it is in an interval; square brackets include its end."""
    number = real(value, name)
    above = number >= low if brackets[0] == "[" else number > low
    below = number <= high if brackets[1] == "]" else number < high
    if not (above and below):
        interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
        raise ValueError(f"{name} must be in {interval}, got {name}={value!r}")
    return number


def positive(value: Any, name: str) -> float:
    """Return `value` as a float if it is a finite number above 0."""
    number = real(value, name)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {name}={value!r}")
    return number


def nonnegative(value: Any, name: str) -> float:
    """Return `value` as a float if it is a finite number of at least 0."""
    number = real(value, name)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {name}={value!r}")
    return number


def whole(value: Any, name: str, least: int = 0) -> int:
    """Return `value` as an int if it is a whole number of at least `least`."""
    number = real(value, name)
    if not least <= number < math.inf or number != math.floor(number):
        raise ValueError(f"{name} must be a whole number of at least {least}, got {name}={value!r}")
    return int(number)


def seed(rng: Any) -> int | np.random.Generator:
    """Return `rng` if it is a seed, else the generator that it stands for.

    To make a generator takes longer than some fits that have no use for one.
    """
    return rng if type(rng) is int and rng >= 0 else generator(rng)


def generator(rng: Any) -> np.random.Generator:
    """Return the generator that `rng` stands for."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(
            "rng must be None, a whole number of at least 0 or a numpy.random.Generator, "
            f"got rng={rng!r}"
        ) from error
