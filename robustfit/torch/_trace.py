"""A formula of a loss as the source text of straight-line code, for compilers that want one.

Formulas have no branches on data, so that one evaluation with symbols in place of numbers meets
every operation there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_UNARY = ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "arctan", "abs")


class _Symbol:
    """An intermediate result by its name; arithmetic with it is written down."""

    def __init__(self, trace: Trace, name: str) -> None:
        self.trace, self.name = trace, name

    def __neg__(self) -> _Symbol:
        return self.trace.let(f"-{self.name}")

    def __bool__(self) -> bool:
        raise TypeError("a formula must not depend on its data by an `if`; use m.where")

    __hash__ = None  # type: ignore[assignment]


def _operator(sign: str, swapped: bool = False) -> Callable[[_Symbol, Any], _Symbol]:
    def operate(self: _Symbol, other: Any) -> _Symbol:
        a, b = _text(self), _text(other)
        return self.trace.let(f"{b} {sign} {a}" if swapped else f"{a} {sign} {b}")

    return operate


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}.items():
    setattr(_Symbol, f"__{_name}__", _operator(_sign))
    setattr(_Symbol, f"__r{_name}__", _operator(_sign, swapped=True))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    setattr(_Symbol, f"__{_name}__", _operator(_sign))


def _text(x: Any) -> str:
    if isinstance(x, _Symbol):
        return x.name
    value = float(x)
    if not math.isfinite(value):
        return "NAN" if math.isnan(value) else "INF" if value > 0.0 else "-INF"
    return f"({value!r})" if value < 0.0 else repr(value)


class Trace:
    """The maths namespace `m` of a formula that writes down what it is asked for.

    The text calls functions of the same names, and has ``INF`` for infinity.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def let(self, text: str) -> _Symbol:
        """Return the name of a value; equal texts have one name."""
        return _Symbol(self, self._names.setdefault(text, f"t{len(self._names)}"))

    def __getattr__(self, name: str) -> Any:
        if name not in _UNARY:
            raise AttributeError(f"a formula cannot use m.{name}")
        return lambda x: self.let(f"{name}({_text(x)})")

    def minimum(self, a: Any, b: Any) -> _Symbol:
        """Return the smaller of the two, `a` where they do not compare."""
        return self.let(f"where({_text(b)} < {_text(a)}, {_text(b)}, {_text(a)})")

    def maximum(self, a: Any, b: Any) -> _Symbol:
        """Return the larger of the two, `a` where they do not compare."""
        return self.let(f"where({_text(b)} > {_text(a)}, {_text(b)}, {_text(a)})")

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Return `a` where `condition` holds, else `b`."""
        if not isinstance(condition, _Symbol):
            return a if condition else b
        return self.let(f"where({_text(condition)}, {_text(a)}, {_text(b)})")


def source(formula: Callable[..., Any], indent: str, *names: str) -> tuple[str, str]:
    """Return the lines that evaluate ``formula(*names, m)``, and the name of its value."""
    trace = Trace()
    value = formula(*(_Symbol(trace, name) for name in names), trace)
    lines = [f"{indent}{name} = {text}\n" for text, name in trace._names.items()]
    return "".join(lines), _text(value)
