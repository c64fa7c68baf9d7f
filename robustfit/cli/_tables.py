"""What is shipped: lists of the data sets and the losses."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from robustfit import datasets
from robustfit.cli._output import DONE, check_outputs, format_of, picture, table, write
from robustfit.losses import LOSSES, get_loss


def dataset_rows() -> list[tuple[str, ...]]:
    """Return the shipped sets: name, rows, columns besides the intercept, response, text."""
    rows: list[tuple[str, ...]] = [("name", "rows", "variables", "response", "what it is")]
    for name in datasets.names():
        data = datasets.load(name)
        what = textwrap.shorten(data.description, 60, placeholder=" ...")
        rows.append((name, str(len(data.b)), str(len(data.names) - 1), data.response, what))
    return rows


def loss_rows() -> list[tuple[str, ...]]:
    """Return the losses: name, aliases, constants, breakdown point at 95 %, three properties."""
    rows: list[tuple[str, ...]] = [
        (
            "name", "also", "c at 95 %", "c for S", "breakdown", "bounded", "convex",
            "redescending",
        )
    ]  # fmt: skip
    for name, cls in LOSSES.items():
        loss = cls()
        tuned = abs(loss.efficiency() - 0.95) < 1e-9
        properties = (loss.bounded, loss.convex, loss.redescending)
        rows.append(
            (
                name,
                ", ".join(cls.aliases),
                f"{loss.c:.6f}" if tuned else "any",
                f"{get_loss(name, breakdown=0.5).c:.6f}" if loss.bounded else "",
                f"{loss.breakdown():.3f}",
                *("yes" if is_so else "" for is_so in properties),
            )
        )
    return rows


def show_datasets(args: argparse.Namespace) -> int:
    """List the shipped sets, or print what is known of one."""
    if args.name is None:
        print(table(dataset_rows()))
        return DONE
    data = datasets.load(args.name)
    formula = f"{data.response} ~ {' + '.join(data.names[1:])}"
    for text in (data.description, f"Source: {data.source}", f"Note: {data.note}"):
        print(textwrap.fill(text, 88, subsequent_indent="  "))
    print(f'\nrobustfit fit {data.name} "{formula}"')
    return DONE


def show_losses(args: argparse.Namespace) -> int:
    """List the losses, and draw them if asked."""
    if args.plot is not None:
        check_outputs([args.plot])
        from robustfit import plot  # isort: skip
        from matplotlib.figure import Figure  # isort: skip

        kind = format_of(args.plot)
        figure = Figure(figsize=(12.0, 6.4), layout="constrained")
        panels = figure.subplots(3, 6, sharex=True, sharey=True).ravel()
        for empty in panels[len(LOSSES) :]:
            empty.remove()
        plot.atlas(list(LOSSES), ax=panels[: len(LOSSES)])
        write(Path(args.plot), picture(figure, kind))
    print(table(loss_rows()))
    print(
        "\nc at 95 %: for that efficiency with normal errors, the default; c for S: for an "
        "S-estimate of\nbreakdown point 1/2; breakdown: that of an S-estimate with the default."
    )
    return DONE
