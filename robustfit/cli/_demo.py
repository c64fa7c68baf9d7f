"""``robustfit demo``: shipped data, fitted robustly and by least squares."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from robustfit import datasets
from robustfit.cli._output import check_outputs, ended, format_of, picture, write
from robustfit.linear import irls
from robustfit.result import FitResult


def run(args: argparse.Namespace) -> int:
    """Fit a shipped set robustly and by least squares; print and draw what they say."""
    data, out = datasets.load(args.data), Path(args.out)
    check_outputs([args.out])
    fit = irls(data.A, data.b, args.loss, names=data.names)
    print(f"{data.name}: {data.description}\n\n{fit.summary()}\n")
    print(f"{out}: {_draw(data, fit, out)}")
    return ended(fit)


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
    write(out, picture(figure, format_of(str(out))))
    return text
