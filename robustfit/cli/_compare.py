"""``robustfit compare``: three fits of one model, and the rows they disagree on."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit.cli import _fit
from robustfit.cli._data import read
from robustfit.cli._output import ended, table
from robustfit.diagnostics import FAR_RESIDUAL

FITS: dict[str, dict[str, Any]] = {
    "OLS": {"loss": "linear"},
    "Huber": {"loss": "huber"},
    "MM": {"loss": "tukey", "method": "mm"},
}
# A p-value below this is told as such.
_SMALLEST = 1e-15


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    frame, _ = read(args.data, args.format, args.sep, args.decimal)
    fits = compared(args, frame)
    labels = _fit.row_labels(args, frame)
    if args.json:
        content: dict[str, Any] = {name: fit.to_dict() for name, fit in fits.items()}
        content["disagree"] = [int(i) for i in disagreement(fits)]
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(f"{args.formula}, n = {fits['OLS'].nobs:.12g}: estimate (standard error)\n")
        print(table(coefficients(fits), right=True))
        print(f"\n{textwrap.fill(verdict(fits), 88)}")
        rows = rows_of(fits, labels)
        if len(rows) > 1:
            print(f"\nstandardised residuals of the rows they disagree on\n{table(rows, True)}")
    return ended(fits["MM"])


def compared(args: argparse.Namespace, frame: Any) -> dict[str, Any]:
    """Return the three fits by name."""
    return {name: _fit.by_formula(args, frame, **options) for name, options in FITS.items()}


def coefficients(fits: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return estimates and standard errors side by side."""
    first = fits["OLS"]
    lines: list[tuple[str, ...]] = [("", *fits)]
    for j, name in enumerate(first.names):
        cells = (f"{fit.x[j]:.5g} ({fit.bse[j]:.3g})" for fit in fits.values())
        lines.append((name, *cells))
    lines.append(("scale", *(f"{fit.scale:.5g}" for fit in fits.values())))
    lines.append(("robust R2", *(f"{fit.rsquared:.4f}" for fit in fits.values())))
    lines.append(("rows beyond 2.5", *(str(int(np.sum(far(fit)))) for fit in fits.values())))
    return lines


def verdict(fits: dict[str, Any]) -> str:
    """Return a sentence on how far least squares is from the MM-estimate."""
    robust = fits["MM"]
    if not robust.scale > 0.0:
        return f"The MM-estimate: {robust.status.verdict}."
    found = robust.compare_start()
    apart, p = found["ls_distance"], found["ls_pvalue"]
    pvalue = f"p = {p:.2g}" if p > _SMALLEST else f"p < {_SMALLEST:g}"
    return (
        f"Least squares and the MM-estimate are {apart:.3g} standard errors of their difference "
        f"apart ({pvalue} if the errors were normal without outliers)."
    )


def far(fit: Any) -> NDArray[np.bool_]:
    """Tell which rows have a residual that is an outlier by a fit."""
    # NaN, of a row that was left out, is not beyond.
    return np.asarray(np.abs(fit.standardised) > FAR_RESIDUAL)


def disagreement(fits: dict[str, Any]) -> NDArray[np.intp]:
    """Return the rows that are outliers by some of the fits and not by all."""
    flags = np.array([far(fit) for fit in fits.values()])
    rows = np.flatnonzero(np.any(flags, axis=0) & ~np.all(flags, axis=0))
    return rows[np.argsort(fits["MM"].weights[rows], kind="stable")]


def rows_of(fits: dict[str, Any], labels: list[str] | None) -> list[tuple[str, ...]]:
    """Return the rows they disagree on, as a table; * marks an outlier by that fit."""
    lines: list[tuple[str, ...]] = [("row", *fits, "weight Huber", "weight MM")]
    flags = [far(fit) for fit in fits.values()]
    for i in disagreement(fits):
        cells = (
            f"{fit.standardised[i]:.2f}{'*' if flag[i] else ' '}"
            for fit, flag in zip(fits.values(), flags, strict=True)
        )
        weights = (f"{fits[name].weights[i]:.3f}" for name in ("Huber", "MM"))
        lines.append((str(i) if labels is None else labels[i], *cells, *weights))
    return lines
