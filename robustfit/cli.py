"""The command ``robustfit``: a demonstration, and what is shipped.

Exit codes: 0 done, 2 bad input or a missing package, 3 the fit did not converge.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustfit import datasets
from robustfit.exceptions import BasinWarning, ConvergenceWarning, RankWarning
from robustfit.linear import irls
from robustfit.losses import LOSSES
from robustfit.result import FitResult

__all__ = ["main"]

DONE, BAD_INPUT, NOT_CONVERGED = 0, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default: those of the process.

    Returns
    -------
    int
        0 done, 2 bad input or a missing package, 3 the fit did not converge.

    Examples
    --------
    >>> from robustfit.cli import main
    >>> main(["demo", "--data", "nowhere"])
    2
    """
    args = _parser().parse_args(argv)
    try:
        if args.command == "demo":
            code = demo(args.data, args.loss, Path(args.out))
        else:
            print(_table(dataset_rows() if args.command == "datasets" else loss_rows()))
            code = DONE
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, as `head`, has what it wanted. Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, OSError, ImportError) as error:
        print(f"robustfit: error: {error}", file=sys.stderr)
        return BAD_INPUT
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robustfit", description="Regression that a few bad points cannot spoil."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    show = commands.add_parser("demo", help="fit shipped data, print the fit and draw it")
    show.add_argument("--data", default="starsCYG", help="a shipped set (default: %(default)s)")
    show.add_argument("--loss", default="welsch", help="name of a loss (default: %(default)s)")
    show.add_argument(
        "--out", default="robustfit-demo.png", help="where the picture goes (default: %(default)s)"
    )
    commands.add_parser("datasets", help="list the shipped data sets")
    commands.add_parser("losses", help="list the losses")
    return parser


# -- demo ------------------------------------------------------------------------------------


def demo(name: str, loss: str, out: Path) -> int:
    """Fit a shipped set robustly and by least squares; print and draw what they say."""
    data = datasets.load(name)
    with warnings.catch_warnings():
        # The summary and the exit code say the same.
        for category in (BasinWarning, ConvergenceWarning, RankWarning):
            warnings.simplefilter("ignore", category)
        fit = irls(data.A, data.b, loss, names=data.names)
    print(f"{data.name}: {data.description}\n\n{fit.summary()}\n")
    print(f"{out}: {_draw(data, fit, out)}")
    if not fit.success:
        print(f"robustfit: {fit.message or fit.status.verdict}", file=sys.stderr)
        return NOT_CONVERGED
    return DONE


def _draw(data: datasets.Dataset, fit: FitResult, out: Path) -> str:
    """Write the picture and return a sentence on what it shows."""
    # plot comes first: without matplotlib its message says what to install.
    from robustfit import plot  # isort: skip
    from matplotlib.figure import Figure  # isort: skip

    n, ols = len(fit.weights), irls(data.A, data.b, "linear")
    low = np.flatnonzero(fit.weights < plot.RINGED)
    doubted = f"gives {len(low)} of {n} rows a weight below {plot.RINGED:g}"
    if len(low):
        doubted += f" (ringed: {', '.join(map(str, low))})"
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    ax = figure.subplots()
    if len(fit.x) == 2:
        plot.line(fit, ax=ax).set(ylabel=data.response)
        text = (
            f"the slope is {ols.x[1]:+.3g} by least squares (dashed) and {fit.x[1]:+.3g} by the "
            f"robust fit (solid), which {doubted}."
        )
    else:
        plot.residuals(fit, ax=ax)
        text = (
            f"the scale of the residuals is {ols.scale:.3g} by least squares and {fit.scale:.3g} "
            f"by the robust fit, drawn here, which {doubted}."
        )
    ax.set_title(data.name)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=out.suffix[1:] or "png", dpi=110)
    _write(out, buffer.getvalue())
    return text


def _write(path: Path, content: bytes) -> None:
    """Write the file whole or not at all."""
    path = path.resolve()
    part = path.with_name(f"{path.name}.part")
    try:
        # A device or a folder must not be replaced.
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


# -- tables ----------------------------------------------------------------------------------


def dataset_rows() -> list[tuple[str, ...]]:
    """Return the shipped sets: name, rows, columns besides the intercept, response, text."""
    rows: list[tuple[str, ...]] = [("name", "rows", "variables", "response", "what it is")]
    for name in datasets.names():
        data = datasets.load(name)
        what = textwrap.shorten(data.description, 60, placeholder=" ...")
        rows.append((name, str(len(data.b)), str(len(data.names) - 1), data.response, what))
    return rows


def loss_rows() -> list[tuple[str, ...]]:
    """Return the losses: name, aliases, constant, breakdown point there, and three properties."""
    rows: list[tuple[str, ...]] = [
        ("name", "also", "c at 95 %", "breakdown", "bounded", "convex", "redescending")
    ]
    for name, cls in LOSSES.items():
        loss = cls()
        tuned = abs(loss.efficiency() - 0.95) < 1e-9
        properties = (loss.bounded, loss.convex, loss.redescending)
        rows.append(
            (
                name,
                ", ".join(cls.aliases),
                f"{loss.c:.6f}" if tuned else "any",
                f"{loss.breakdown():.3f}",
                *("yes" if is_so else "" for is_so in properties),
            )
        )
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
