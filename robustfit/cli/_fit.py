"""``robustfit fit``: a table and a formula in, a summary and files out."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from robustfit.cli._data import read
from robustfit.cli._output import check_outputs, ended, format_of, picture, table, write

PICTURES = (
    "auto", "line", "diagnostics", "residuals", "qq", "outlier_map", "weights", "convergence"
)  # fmt: skip
# From so many rows on, a terminal gets a progress bar.
_MANY = 100_000
# Columns of the data that are shown beside a flagged row.
_SHOWN = 8


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_outputs([args.csv_out, args.plot], args.data)
    kind = None if args.plot is None else plot_format(args.plot)
    frame, _ = read(args.data, args.format, args.sep, args.decimal)
    say(args, frame, f"fitting {len(frame)} rows")
    steps: list[Any] = []
    fit = fitted(args, frame, callback=steps.append if args.picture == "convergence" else None)
    labels = row_labels(args, frame)
    if kind is not None:
        say(args, frame, "drawing")
    # All files are ready before the first is written.
    files = {}
    if args.csv_out is not None:
        files[args.csv_out] = by_row(fit, labels)
    if kind is not None:
        files[args.plot] = picture(drawn(fit, args.picture, labels, steps), kind)
    print(as_json(fit, labels, args.level) if args.json else fit.summary(args.level))
    if args.outliers and not args.json:
        print(f"\n{table(flagged(fit, frame, labels), right=True)}")
    for name, content in files.items():
        write(Path(name), content)
    return ended(fit)


def plot_format(path: str) -> str:
    """Return the format of a picture; refuse it where matplotlib is missing."""
    from robustfit import plot  # noqa: F401  # its message says what to install

    return format_of(path)


def fitted(args: argparse.Namespace, frame: Any, **more: Any) -> Any:
    """Return the fit that the arguments ask for."""
    options = {
        "ridge": args.ridge, "groups": args.groups, "maxiter": args.maxiter,
        "progress": shows_progress(args, frame),
    }  # fmt: skip
    return by_formula(args, frame, **estimator(args), **options, **more)


def estimator(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that say which estimator it is: those given, or those of a program."""
    names = ("loss", "c", "efficiency", "method", "start", "scale", "cov")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.like is None:
        return {"cov_type" if name == "cov" else name: value for name, value in given.items()}
    if given:
        name = next(iter(given))
        option = f"-{name}" if name == "c" else f"--{name}"
        raise ValueError(f"--like chooses the estimator, so {option} cannot be given with it")
    return dict(args.like)


def by_formula(args: argparse.Namespace, frame: Any, **options: Any) -> Any:
    """Return the fit of the formula with options of `irls`; refuse one without residual freedom."""
    from robustfit.formula import fit

    try:
        found = fit(
            args.formula, frame, nan_policy=args.missing, offset=args.offset,
            freq_weights=args.freq_weights, var_weights=args.var_weights, **options,
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        # The words of the command.
        text = str(error).replace("nan_policy='omit'", "--missing omit")
        raise ValueError(text.replace("cov_type=", "--cov=")) from error
    if not found.df_resid > 0.0:
        count = len(found.x)
        needs = "a coefficient needs" if count == 1 else f"the {count} coefficients need"
        raise ValueError(
            f"{needs} more rows than {found.nobs:g} "
            f"({', '.join(found.names[:6])}{', ...' if len(found.names) > 6 else ''})"
        )
    return found


def shows_progress(args: argparse.Namespace, frame: Any) -> bool:
    """Tell whether to draw a progress bar."""
    if args.progress is None:
        many = frame.shape[0] >= _MANY and sys.stderr.isatty()
        return many and importlib.util.find_spec("tqdm") is not None
    return bool(args.progress)


def say(args: argparse.Namespace, frame: Any, what: str) -> None:
    """Tell on standard error what is going on, where a progress bar would be drawn."""
    if shows_progress(args, frame):
        print(f"robustfit: {what}", file=sys.stderr, flush=True)


def row_labels(args: argparse.Namespace, frame: Any) -> list[str] | None:
    """Return the names of the rows, None for their numbers."""
    if args.labels is None:
        return None
    if args.labels not in frame.columns:
        raise ValueError(
            f"--labels names {args.labels!r}, which is no column; the columns are: "
            f"{', '.join(map(str, frame.columns[:20]))}"
        )
    return [str(value) for value in frame[args.labels]]


def response_name(fit: Any) -> str:
    """Return the left-hand side of the formula."""
    return str(fit.formula).partition("~")[0].strip()


# -- what comes out --------------------------------------------------------------------------


def by_row(fit: Any, labels: list[str] | None) -> bytes:
    """Return the values by row as CSV."""
    import pandas as pd

    rows = {"row": np.arange(len(fit.weights))} if labels is None else {"row": np.array(labels)}
    values = fit.rows()
    columns = rows | {name: np.asarray(values[name]) for name in values.columns}
    buffer = io.StringIO()
    pd.DataFrame(columns).to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue().encode()


def as_json(fit: Any, labels: list[str] | None, level: float) -> str:
    """Return all there is to say of a fit, with the flagged rows, as JSON."""
    content = fit.to_dict()
    limits = fit.conf_int(level)
    content["level"] = level
    content["conf_int"] = [[_number(v) for v in row] for row in limits]
    content["outliers"] = [int(i) for i in fit.outliers()]
    if labels is not None:
        content["labels"] = labels
    return json.dumps(content, indent=2, allow_nan=False)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def flagged(fit: Any, frame: Any, labels: list[str] | None) -> list[tuple[str, ...]]:
    """Return the rows that were down-weighted or lie far out, with their data, as a table."""
    head: tuple[str, ...] = ("row", "weight")
    if not fit.scale > 0.0:
        rows = np.flatnonzero(fit.weights < 0.5)
        cells: list[tuple[str, ...]] = [(f"{fit.weights[i]:.3f}",) for i in rows]
    else:
        found = fit.diagnostics()
        rows, head = found.row, (*head, "resid", "leverage", "distance", "label")
        numbers = zip(
            found.weight, found.resid, found.leverage, found.distance, found.label, strict=True
        )
        cells = [(f"{w:.3f}", _far(r), f"{h:.3f}", _far(d), t) for w, r, h, d, t in numbers]
    needed = {*fit._model.response, *fit._model.columns}
    used = [name for name in frame.columns if name in needed][:_SHOWN]
    lines: list[tuple[str, ...]] = [(*head, *map(str, used))]
    for i, values in zip(rows, cells, strict=True):
        name = str(i) if labels is None else labels[i]
        lines.append((name, *values, *(brief(frame[column].iloc[i]) for column in used)))
    return lines


def _far(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def brief(value: Any) -> str:
    """Return a cell of the data as text: numbers to six digits."""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def drawn(fit: Any, kind: str, labels: list[str] | None, steps: list[Any]) -> Any:
    """Return a figure of the fit."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from robustfit import plot

    if kind == "auto":
        kind = "line" if has_line(fit) else "diagnostics"
    if kind == "diagnostics":
        figure = Figure(figsize=(10.0, 8.0), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1))
        plot.diagnostics(fit, ax=figure.subplots(2, 2), labels=labels)
        return figure
    figure = Figure(figsize=(7.0, 4.8), layout="constrained")
    ax = figure.subplots()
    if kind == "convergence":
        plot.convergence(steps, ax=ax)
    else:
        getattr(plot, kind)(fit, ax=ax, labels=labels)
    if kind == "line":
        name_response(ax, fit)
    return figure


def has_line(fit: Any) -> bool:
    """Tell whether one column of the design varies, so that a line can be drawn."""
    varying = int(np.sum(np.ptp(fit.model_matrix, axis=0) > 0.0))
    return varying == 1 and int(fit.rank) == len(fit.x)


def name_response(ax: Any, fit: Any) -> None:
    """Write the name of the response at the vertical axis, where "response" stands."""
    name = response_name(fit)
    name = name if len(name) <= 40 else f"{name[:39]}…"
    ax.set_ylabel(ax.get_ylabel().replace("response", name, 1), parse_math=False)
