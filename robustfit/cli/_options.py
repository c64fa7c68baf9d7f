"""The arguments of the command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import robustfit
from robustfit import compat, covariance
from robustfit.cli import _compare, _data, _demo, _fit, _report, _tables
from robustfit.linear._problem import METHODS, SCALES, STARTS

_DATA = (
    "a file (CSV, TSV or Parquet), - for standard input, or the name of a shipped set "
    "(robustfit datasets)"
)
_FORMULA = "response and terms, as 'y ~ x1 + C(group)'; quote it. It is run as code: see the docs"
_CODES = "exit codes: 0 fitted, 2 bad input, 3 not converged or left the solution it had found"


def parser() -> argparse.ArgumentParser:
    """Return the parser; ``args.run`` is the function of the command."""
    top = argparse.ArgumentParser(
        prog="robustfit",
        description="Regression that a few bad points cannot spoil.",
        epilog=_CODES,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"robustfit {robustfit.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_CODES,
            allow_abbrev=False,
        )  # fmt: skip
        made.set_defaults(run=run)
        return made

    fit = command("fit", _fit.run, "fit a formula to a table")
    _add_data(fit)
    _add_fit(fit)
    fit.add_argument("--json", action="store_true", help="print the result as JSON")
    fit.add_argument("--csv-out", metavar="FILE", help="write fitted values, weights ... by row")
    fit.add_argument("--plot", metavar="FILE", help="draw the fit: .png, .svg or .pdf")
    fit.add_argument(
        "--picture", choices=_fit.PICTURES, default="auto",
        help="what --plot draws (default: the line of one regressor, else diagnostics)",
    )  # fmt: skip
    fit.add_argument(
        "--outliers", action="store_true", help="list the rows that were down-weighted or lie far"
    )

    compare = command(
        "compare", _compare.run, "fit by least squares, Huber's loss and an MM-estimate"
    )
    _add_data(compare)
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")

    report = command("report", _report.run, "write a page with the fit, pictures and flagged rows")
    _add_data(report)
    _add_fit(report)
    report.add_argument("--out", metavar="FILE", default="report.html", help="default: %(default)s")

    demo = command("demo", _demo.run, "fit shipped data, print the fit and draw it")
    demo.add_argument("--data", default="starsCYG", help="a shipped set (default: %(default)s)")
    demo.add_argument("--loss", default="welsch", help="name of a loss (default: %(default)s)")
    demo.add_argument(
        "--out", default="robustfit-demo.png", help="where the picture goes (default: %(default)s)"
    )
    sets = command("datasets", _tables.show_datasets, "list the shipped data sets")
    sets.add_argument("name", nargs="?", help="tell what is known of this one")
    losses = command("losses", _tables.show_losses, "list the losses")
    losses.add_argument("--plot", metavar="FILE", help="draw rho, psi and weight of all")
    return top


def _add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", metavar="DATA", help=_DATA)
    command.add_argument("formula", metavar="FORMULA", help=_FORMULA)
    group = command.add_argument_group("the table")
    group.add_argument("--format", choices=_data.KINDS, help="default: by the name of the file")
    group.add_argument("--sep", type=_one_letter, help="separator of a text file")
    group.add_argument(
        "--decimal", type=_one_letter, default=".", help="decimal mark (default: %(default)s)"
    )
    group.add_argument(
        "--missing", choices=("raise", "omit"), default="raise",
        help="rows without a value: refuse, or leave out (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--labels", metavar="COLUMN", help="names of the rows, instead of numbers")
    for name, what in (
        ("freq-weights", "repeat counts"),
        ("var-weights", "inverse variances"),
        ("offset", "a term whose coefficient is 1"),
    ):
        group.add_argument(f"--{name}", metavar="COLUMN", help=what)


def _add_fit(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("the estimator")
    group.add_argument("--loss", help="robustfit losses (default: welsch)")
    group.add_argument("-c", type=float, help="tuning constant of the loss")
    group.add_argument("--efficiency", type=float, help="that it is tuned for (default: 0.95)")
    group.add_argument("--method", choices=tuple(METHODS), help="instead of --start and --scale")
    group.add_argument(
        "--start", type=_start, metavar="START",
        help=f"{', '.join(STARTS)}, or coefficients as --start=1,-2.5",
    )  # fmt: skip
    group.add_argument(
        "--scale", type=_scale, metavar="SCALE",
        help=f"{', '.join(SCALES)}, or a number",
    )  # fmt: skip
    group.add_argument("--cov", choices=("auto", *covariance.COV_TYPES),
                       help="covariance of the coefficients (default: auto)")  # fmt: skip
    group.add_argument(
        "--like", type=_like, metavar="PROGRAM",
        help=f"with the options of {', '.join(compat.__all__)}, in place of the above; also with "
        "the name of a weight function there, as matlab:welsch",
    )  # fmt: skip
    group.add_argument("--ridge", type=float, default=0.0, help="penalty (default: none)")
    group.add_argument("--groups", metavar="COLUMN", help="clusters, for --cov cluster")
    group.add_argument("--maxiter", type=int, default=200, help="default: %(default)s")
    group.add_argument("--level", type=float, default=0.95, help="of intervals (default: 0.95)")
    group.add_argument("--progress", action=argparse.BooleanOptionalAction,
                       help="draw a bar (default: on a terminal, for many rows)")  # fmt: skip


def _like(text: str) -> dict[str, Any]:
    """Return the options of a program, or of one of its weight functions."""
    program, *function = text.split(":", 1)
    if program not in compat.__all__:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(compat.__all__)}, got {program!r}"
        )
    try:
        return dict(getattr(compat, program)(*function))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _one_letter(text: str) -> str:
    text = "\t" if text == "\\t" else text
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"must be one character, got {text!r}")
    return text


def _start(text: str) -> Any:
    """Return the name of a start, or coefficients."""
    if text in STARTS:
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        names = ", ".join(STARTS)
        raise argparse.ArgumentTypeError(
            f"must be one of {names}, or numbers with commas, got {text!r}"
        ) from error


def _scale(text: str) -> Any:
    """Return the name of a scale, or a number."""
    if text in SCALES:
        return text
    try:
        return float(text)
    except ValueError as error:
        names = ", ".join(SCALES)
        raise argparse.ArgumentTypeError(
            f"must be one of {names}, or a number, got {text!r}"
        ) from (error)
