"""What the results of all fits share: intervals, outliers, and how values are shown."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks
from robustfit.losses import Loss

Array = NDArray[np.float64]

#: What a fit is printed from: lines, the names of the columns, and rows with their labels.
Table = tuple[list[str], tuple[str, ...], list[tuple[str, tuple[str, ...]]]]

# Below this weight a row is counted as rejected.
LOW_WEIGHT = 0.1


def t_quantile(level: float, df: float) -> float:
    """Return how many standard errors a two-sided interval extends, by Student's t."""
    level = _checks.between(level, "level", 0.0, 1.0)
    return float(special.stdtrit(df, 0.5 + 0.5 * level))


def intervals(x: Array, bse: Array, df: float, level: float) -> Array:
    """Return confidence intervals, shape (p, 2)."""
    with np.errstate(over="ignore"):
        half = t_quantile(level, df) * bse
        return np.column_stack([x - half, x + half])


def outlier_limit(loss: Loss, nobs: float) -> float:
    """Return the largest weight of an outlier: 0.1 / n, or 0.1 where it does not reach zero."""
    return LOW_WEIGHT / nobs if loss.redescending else LOW_WEIGHT


def outlying(weights: Array, loss: Loss, nobs: float, threshold: float | None) -> NDArray[np.intp]:
    """Return the rows with a weight at most the threshold, the lowest weight first.

    Default: 0.1 / n, as in robustbase, or 0.1 for a loss whose weight does not reach zero.
    """
    if threshold is None:
        threshold = outlier_limit(loss, nobs)
    threshold = _checks.between(threshold, "threshold", 0.0, 1.0, "[]")
    rows = np.flatnonzero(weights <= threshold)
    return rows[np.argsort(weights[rows], kind="stable")]


def loss_text(loss: Loss) -> str:
    """Return a loss with its parameters, to six digits."""
    fields = ", ".join(
        f"{f.name}={_brief(getattr(loss, f.name))}" for f in dataclasses.fields(loss)
    )
    return f"{type(loss).__name__}({fields})"


def _brief(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def plain(value: Any) -> Any:
    """Return floats and arrays as Python numbers and lists, None for what is not finite."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value]
    return float(value) if np.isfinite(value) else None


def text_of(table: Table, names: Sequence[str]) -> str:
    """Return a table as text."""
    head, columns, rows = table
    width = max(10, *(len(name) for name in names))
    cell = max(11, *(len(value) for _, row in rows for value in row))
    lines = [*head, "", f"{'':<{width}}" + "".join(f" {c:>{cell}}" for c in columns)]
    lines += [f"{name:<{width}}" + "".join(f" {v:>{cell}}" for v in row) for name, row in rows]
    return "\n".join(lines)


def html_of(table: Table) -> str:
    """Return a table for a notebook."""
    head, columns, rows = table
    cells = "".join(f"<th>{c}</th>" for c in ("", *columns))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>" + "".join(f"<td>{v}</td>" for v in row) + "</tr>"
        for name, row in rows
    )
    text = "<br>".join(html.escape(line) for line in head)
    return f"<p>{text}</p><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"
