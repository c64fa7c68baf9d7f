"""Tests between nested fits, and of the terms of one fit."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit._estimate import loss_text, plain
from robustfit.formula._result import FormulaResult
from robustfit.result import FitResult


@dataclass(frozen=True)
class Anova:
    """A table of robust tests, which prints itself.

    Attributes
    ----------
    columns : tuple of str
        Headings.
    labels : tuple of str
        What each row is about: a model, or a term.
    values : tuple of tuple of float
        The rows; NaN where there is nothing to test.
    note : str
        What is tested, and how.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    note: str

    def column(self, name: str) -> NDArray[np.float64]:
        """Return the column with this heading."""
        if name not in self.columns:
            raise ValueError(f"name must be one of {', '.join(self.columns)}, got name={name!r}")
        return np.array([row[self.columns.index(name)] for row in self.values])

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain Python values, ready for JSON (NaN as None)."""
        columns = {name: plain(self.column(name)) for name in self.columns}
        return {"labels": list(self.labels), **columns, "note": self.note}

    def summary(self) -> str:
        """Return the table as text."""
        width = max(len(label) for label in self.labels)
        sizes = [max(11, len(name)) for name in self.columns]
        head = "".join(f" {name:>{n}}" for name, n in zip(self.columns, sizes, strict=True))
        lines = [self.note, "", " " * width + head]
        for label, row in zip(self.labels, self.values, strict=True):
            texts = ("" if math.isnan(value) else f"{value:.5g}" for value in row)
            cells = "".join(f" {text:>{n}}" for text, n in zip(texts, sizes, strict=True))
            lines.append(f"{label:<{width}}{cells}".rstrip())
        return "\n".join(lines)

    __str__ = __repr__ = summary


def anova(*fits: FitResult) -> Anova:
    """Test nested fits against each other, or the terms of one fit.

    Parameters
    ----------
    *fits : FitResult
        Two or more fits of the same rows, each nested in the one with the next higher rank, in
        any order; or one result of `fit`.

    Returns
    -------
    Anova
        Of several fits, a row for each: rank, and against the next smaller fit the number of
        restrictions ``df``, Wald's statistic and the difference of the objectives ("deviance"),
        each with its p-value by chi-square. Of one fit, a row for each term: Wald's F test that
        all its coefficients are zero.

    Raises
    ------
    ValueError
        If the fits are not nested, or are not of the same response and rows.

    Notes
    -----
    Wald's test takes the covariance, and the deviance test loss and scale, of the larger fit; see
    `robustfit.compare.compare_nested`. With a redescending loss the two fits can disagree on which
    rows to believe: compare ``weights`` before trusting either test.

    Examples
    --------
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss").columns
    >>> full = rf.fit("stack_loss ~ air_flow + water_temp + acid_conc", data, "tukey")
    >>> small = rf.fit("stack_loss ~ air_flow + water_temp", data, "tukey")
    >>> rf.anova(full, small).column("df")
    array([nan,  1.])
    """
    for one in fits:
        if not isinstance(one, FitResult):
            raise TypeError(f"fits must be results of fit or irls, got {one!r}")
    if len(fits) == 1 and isinstance(fits[0], FormulaResult):
        return _terms(fits[0])
    if len(fits) < 2:
        raise ValueError("anova needs one result of fit, or two or more fits")
    ordered = sorted(fits, key=lambda one: one.rank)
    rows: list[tuple[float, ...]] = [(float(ordered[0].rank), *(math.nan,) * 5)]
    for reduced, full in itertools.pairwise(ordered):
        rows.append((float(full.rank), *_against(full, reduced)))
    note = "Robust tests of each model against the one above it, by chi-square"
    losses = [loss_text(one.loss) for one in ordered]
    if len(set(losses)) > 1:
        note += (
            f"\nThe losses differ, and a test takes that of the larger model: {', '.join(losses)}"
        )
    return Anova(
        ("rank", "df", "wald", "wald_pvalue", "deviance", "deviance_pvalue"),
        tuple(_label(one, i) for i, one in enumerate(ordered, 1)),
        tuple(rows),
        note,
    )


def _against(full: FitResult, reduced: FitResult) -> tuple[float, ...]:
    """Return df, Wald's test and the deviance test of a pair."""
    if len(full.weights) != len(reduced.weights) or np.any(
        np.isnan(full.weights) != np.isnan(reduced.weights)
    ):
        raise ValueError(
            "the fits are not of the same rows: nan_policy='omit' leaves out those with a missing "
            "value in the columns of the fit; leave them out of the data first"
        )
    wald, deviance = (full.compare(reduced, test) for test in ("wald", "deviance"))
    return (
        wald["df"],
        wald["statistic"],
        wald["pvalue"],
        deviance["statistic"],
        deviance["pvalue"],
    )


def _terms(one: FormulaResult) -> Anova:
    rows, labels = [], []
    identity = np.eye(len(one.x))
    for term, columns in one.terms.items():
        test = one.wald_test(identity[columns])
        labels.append("Intercept" if term == "1" else term)
        rows.append((test["df_num"], test["df_denom"], test["statistic"], test["pvalue"]))
    note = "Wald's F test of each term, given all the others"
    return Anova(("df", "df_resid", "F", "pvalue"), tuple(labels), tuple(rows), note)


def _label(one: FitResult, number: int) -> str:
    return one.formula if isinstance(one, FormulaResult) else f"model {number}"
