"""From a formula to a design, for the data of the fit and for new ones."""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula, ModelSpec
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.formula import SimpleFormula
from formulaic.parser.types import Factor
from formulaic.transforms import TRANSFORMS
from formulaic.utils.layered_mapping import LayeredMapping
from numpy.typing import NDArray

from robustfit.formula._frame import Flags, Frame

Array = NDArray[np.float64]

# Options with which formulaic leaves the treatment of missing values to us.
_OPTIONS = {"output": "numpy", "na_action": "ignore"}


@dataclass(frozen=True)
class Model:
    """A formula whose transforms and levels have been settled by data.

    Attributes
    ----------
    formula : str
        As it was given.
    spec : ModelSpec
        formulaic's description of the right-hand side.
    response, columns : tuple of str
        The columns of data that the left-hand and the right-hand side need.
    context : mapping
        What else the formula may refer to.
    """

    formula: str
    spec: ModelSpec
    response: tuple[str, ...]
    columns: tuple[str, ...]
    context: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the columns of the design."""
        return tuple(str(name) for name in self.spec.column_names)

    @property
    def terms(self) -> dict[str, list[int]]:
        """Terms and the columns of the design that belong to each."""
        return {str(term): found for term, found in self.spec.term_indices.items() if found}

    def design(self, frame: Frame) -> Array:
        """Return the design for new rows, with the encoding of the fit; NaN where data are missing.

        Raises
        ------
        ValueError
            If a column is missing, or has a level that the fit has not seen.
        """
        frame.require(self.columns, f"formula {self.formula!r}")
        keep = np.ones(frame.rows, dtype=np.bool_)
        for name in self.columns:
            keep &= ~frame.missing(name)
        A = np.full((frame.rows, len(self.names)), np.nan)
        if not np.any(keep):
            return A
        table = frame.table(self.columns, keep)
        self._refuse_new_levels(table, np.flatnonzero(keep))
        self._refuse_other_kinds(table)
        with _explained(self.formula):
            found = self.spec.get_model_matrix(table, context=self.context, **_OPTIONS)
        A[keep] = _real(found, self.formula)
        return A

    def _refuse_other_kinds(self, table: pd.DataFrame) -> None:
        """Raise a ValueError that names a column of numbers in the fit which holds none here."""
        for factor, (kind, _) in self.spec.encoder_state.items():
            name = str(factor).strip("`")
            if kind is not Factor.Kind.NUMERICAL or name not in table.columns:
                continue
            if not pd.api.types.is_numeric_dtype(table[name]):
                raise ValueError(
                    f"column {name!r} must hold numbers, as in the fit, got {table[name].iloc[0]!r}"
                )

    def _refuse_new_levels(self, table: pd.DataFrame, rows: NDArray[np.intp]) -> None:
        """Raise a ValueError that names a column with levels the fit has not seen."""
        for factor, contrasts in self.spec.factor_contrasts.items():
            names = [name for name in _names(factor) if name in table.columns]
            if len(names) != 1 or not _is_plain(factor):
                # Levels of an expression: formulaic notices, and cannot name the column.
                continue
            known = set(contrasts.levels)
            new = np.array([value not in known for value in table[names[0]]], dtype=np.bool_)
            if np.any(new):
                levels = sorted({repr(value) for value in table[names[0]][new]})
                raise ValueError(
                    f"column {names[0]!r} has levels that the fit has not seen: "
                    f"{', '.join(levels[:5])}, the first in row {rows[np.argmax(new)]}; "
                    f"it knows {', '.join(repr(level) for level in contrasts.levels[:20])}"
                )


@dataclass(frozen=True)
class Parsed:
    """A formula and the columns of data it needs."""

    text: str
    formula: Any
    left: tuple[str, ...]
    right: tuple[str, ...]


def parse(text: Any, frame: Frame, context: Mapping[str, Any]) -> Parsed:
    """Return a parsed formula; raise an error that says what is wrong with it."""
    if not isinstance(text, str):
        raise TypeError(f"formula must be text such as 'y ~ x', got formula={text!r}")
    # formulaic takes the columns for the operator "." from the layer of this name.
    available = LayeredMapping(LayeredMapping(dict.fromkeys(frame.names), name="data"))
    with _explained(text):
        formula = Formula.from_spec(text, context=available)
    sides = [getattr(formula, side, None) for side in ("lhs", "rhs")]
    if not all(isinstance(side, SimpleFormula) for side in sides):
        raise ValueError(
            f"formula must have one response and one side of terms, as 'y ~ x', got {text!r}"
        )
    left, right = (_used(side, frame, context, text) for side in sides)
    return Parsed(text, formula, left, right)


def build(
    parsed: Parsed, frame: Frame, keep: Flags | slice, context: Mapping[str, Any]
) -> tuple[Model, Array, Array]:
    """Return the model, the design and the response of the rows to keep.

    Raises
    ------
    ValueError
        If the formula cannot be evaluated, or the response is not one column of numbers.
    """
    table = frame.table(dict.fromkeys((*parsed.left, *parsed.right)), keep)
    _refuse_text_numbers(parsed, table, np.arange(frame.rows)[keep])
    with _explained(parsed.text):
        found = parsed.formula.get_model_matrix(table, context=context, **_OPTIONS)
    response = np.asarray(found.lhs)
    kinds = [kind for kind, _ in found.lhs.model_spec.encoder_state.values()]
    if response.shape[1] != 1 or Factor.Kind.CATEGORICAL in kinds:
        raise ValueError(
            f"formula must have one response of numbers, and the left side of {parsed.text!r} "
            f"gives {', '.join(map(str, found.lhs.model_spec.column_names))}"
        )
    spec = found.rhs.model_spec
    model = Model(parsed.text, spec, parsed.left, parsed.right, dict(context))
    if not model.names:
        raise ValueError(f"formula must have a term, got {parsed.text!r}")
    empty = next((str(term) for term, found in spec.term_indices.items() if not found), None)
    if empty is not None:
        raise ValueError(
            f"formula {parsed.text!r}: term {empty} has no column, because a factor in it has a "
            "single level in the rows of the fit; leave it out"
        )
    return model, _real(found.rhs, parsed.text), _real(response[:, 0], parsed.text)


def _real(values: Any, formula: str) -> Array:
    """Return what a formula gives as floats, from booleans too, and refuse complex numbers."""
    if np.iscomplexobj(values):
        raise ValueError(f"formula {formula!r} must give real numbers, got complex ones")
    return np.asarray(values, dtype=np.float64)


def _used(side: Any, frame: Frame, context: Mapping[str, Any], text: str) -> tuple[str, ...]:
    """Return the columns that the factors of a side refer to."""
    names = dict.fromkeys(
        name for term in side for factor in term.factors for name in _names(factor)
    )
    elsewhere = {*context, *TRANSFORMS, *dir(builtins)}
    unknown = (name for name in names if name not in elsewhere)
    frame.require(unknown, f"formula {text!r}", "column of data and no function")
    return tuple(name for name in names if name in frame.names)


def _names(factor: Factor) -> list[str]:
    """Return the names that a factor refers to, those of functions among them."""
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return [factor.expr]
    if factor.eval_method is not Factor.EvalMethod.PYTHON:
        return []
    quoted = re.findall(r"`([^`]+)`", factor.expr)
    tree = ast.parse(re.sub(r"`[^`]+`", "None", factor.expr), mode="eval")
    found = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    for node in ast.walk(tree):
        # Q("a name that is not one of Python's"), as in patsy.
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Q":
            quoted += [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    return [*quoted, *found]


def _is_plain(factor: Factor) -> bool:
    """Tell whether the factor is a column or C(column, ...), so that levels are its values."""
    return factor.eval_method is Factor.EvalMethod.LOOKUP or bool(
        re.match(r"C\((\w+|`[^`]+`)\s*[,)]", factor.expr)
    )


def _refuse_text_numbers(parsed: Parsed, table: pd.DataFrame, rows: NDArray[np.intp]) -> None:
    """Raise a ValueError for a column of numbers in which there is text.

    A column of text has levels, one for each number that is written in it.
    """
    factors = {
        factor.expr
        for side in (parsed.formula.lhs, parsed.formula.rhs)
        for term in side
        for factor in term.factors
        if factor.eval_method is Factor.EvalMethod.LOOKUP
    }
    for name in [name for name in table.columns if name in factors]:
        column = table[name]
        if pd.api.types.is_datetime64_any_dtype(column) or column.dtype.kind == "m":
            raise ValueError(
                f"column {name!r} holds dates; turn them into numbers, or use C({name})"
            )
        if pd.api.types.is_numeric_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype):
            continue
        other = next((value for value in column if not isinstance(value, str | Real)), None)
        if other is not None:
            raise ValueError(
                f"column {name!r} holds {other!r}, which is neither a number nor text; "
                f"C({name}) would take the values for levels"
            )
        text = pd.to_numeric(column, errors="coerce").isna().to_numpy()
        if 2 * int(np.sum(text)) > len(text) and name not in parsed.left:
            continue
        first = int(np.argmax(text)) if np.any(text) else 0
        hint = f"; C({name}) would take the values for levels" if name not in parsed.left else ""
        raise ValueError(
            f"column {name!r} must hold numbers, but there is text in {int(np.sum(text)) or 'all'} "
            f"of {len(text)} rows, the first is row {rows[first]}: {column.iloc[first]!r}{hint}"
        )


@contextmanager
def _explained(formula: str) -> Iterator[None]:
    """Turn what formulaic raises, and its warning of unknown levels, into a ValueError.

    NumPy's own warnings say less than the check of the values that follows.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", DataMismatchWarning)
            yield
    except (DataMismatchWarning, FormulaicError, ValueError, TypeError, SyntaxError) as error:
        text = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ValueError(f"formula {formula!r}: {text}") from error
