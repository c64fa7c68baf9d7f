"""``robustfit report``: one page with a fit, its pictures and the rows it flags.

The page is one file: pictures are in it, nothing is loaded, no script can run. All that comes from
the data or the arguments is escaped where the page is put together, in `_tag` and `_table`.
"""

from __future__ import annotations

import argparse
import base64
import html
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import robustfit
from robustfit.cli import _compare, _fit
from robustfit.cli._data import read
from robustfit.cli._output import check_outputs, ended, picture, write

# Rows of the table of flagged ones; a page of thousands is of no use.
_MOST_ROWS = 200
# Nothing may be loaded or run, whatever should slip through.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc; }
.verdict { padding: .6rem .9rem; border-left: 5px solid #0072B2; background: #eef5fa; }
.verdict.failed { border-color: #D55E00; background: #fdf1e8; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3;
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 6rem;
                                 max-width: 24rem; overflow-wrap: break-word; }
thead th { border-bottom: 2px solid #888; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; }
figcaption, .note { color: #555; font-size: .92rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere;
            white-space: pre-wrap; }
"""
_CAPTIONS = {
    "line": (
        "Data and fit. A point is as dark as its weight; rings mark rows with a weight below 0.5. "
        "Least squares is dashed."
    ),
    "diagnostics": (
        "Residuals over their scale, beside limits at 2.5; their order against that of normal "
        "errors, with the envelope of samples that are fitted as the data were; residuals against "
        "robust distances of the rows; weights by row."
    ),
}


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_outputs([args.out], args.data)
    _fit.plot_format("page.png")
    frame, name = read(args.data, args.format, args.sep, args.decimal)
    _fit.say(args, frame, f"fitting {len(frame)} rows")
    fit = _fit.fitted(args, frame)
    _fit.say(args, frame, "drawing")
    content = page(args, fit, frame, name)
    write(Path(args.out), content.encode())
    print(f"{args.out}: {fit.status.verdict}; {len(fit.outliers(0.5))} of {len(fit.weights)} rows "
          "have a weight below 0.5")  # fmt: skip
    return ended(fit)


def page(args: argparse.Namespace, fit: Any, frame: Any, name: str) -> str:
    """Return the page."""
    labels = _fit.row_labels(args, frame)
    title = f"{fit.formula}, {name}"
    head, columns, rows = fit._table(args.level)
    failed = "" if fit.success else " failed"
    parts = [
        _tag("h1", f"Robust regression: {title}"),
        f'<p class="verdict{failed}">{_escaped(head[0])}</p>',
        f"<p>{'<br>'.join(_escaped(text) for text in head[1:])}</p>",
        _tag("h2", "Coefficients"),
        _table([("", *columns), *((label, *cells) for label, cells in rows)]),
        *_pictures(fit, labels),
        *_flagged(fit, frame, labels),
        *_comparison(args, frame, labels),
        *_origin(args, name, frame),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            _tag("title", title),
            f"<style>{_STYLE}</style></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )


# -- parts -----------------------------------------------------------------------------------


def _pictures(fit: Any, labels: list[str] | None) -> Iterable[str]:
    yield _tag("h2", "Pictures")
    if not fit.scale > 0.0:
        yield _tag("p", "The fit is exact: its scale is zero, so that residuals cannot be drawn.")
        return
    for kind in ("line", "diagnostics"):
        if kind == "line" and not _fit.has_line(fit):
            continue
        content = base64.b64encode(picture(_fit.drawn(fit, kind, labels, []))).decode()
        caption = _CAPTIONS[kind]
        yield (
            f'<figure><img src="data:image/png;base64,{content}" alt="{_escaped(caption)}">'
            f"<figcaption>{_escaped(caption)}</figcaption></figure>"
        )


def _flagged(fit: Any, frame: Any, labels: list[str] | None) -> Iterable[str]:
    head, *rows = _fit.flagged(fit, frame, labels)
    yield _tag("h2", "Rows to look at")
    if not rows:
        yield _tag("p", "No row was down-weighted below 0.5, and none lies far out.")
        return
    yield _tag(
        "p",
        "Rows with a weight below 0.5 or far from the others, the lowest weight first. A low "
        "weight says that the other rows do not predict this one. Whether it is an error or a "
        "discovery, the data cannot say.",
    )
    yield _table([head, *rows[:_MOST_ROWS]])
    if len(rows) > _MOST_ROWS:
        yield _tag("p", f"... and {len(rows) - _MOST_ROWS} rows more; "
                        "robustfit fit --csv-out writes all.")  # fmt: skip
    numbers = "Rows are numbered from 0, without the header; " if labels is None else ""
    yield f'<p class="note">{numbers}resid is the residual over the scale.</p>'


def _comparison(args: argparse.Namespace, frame: Any, labels: list[str] | None) -> Iterable[str]:
    fits = _compare.compared(args, frame)
    yield _tag("h2", "Beside least squares")
    yield _tag("p", "Estimates with standard errors in brackets.")
    yield _table(_compare.coefficients(fits))
    yield _tag("p", _compare.verdict(fits))
    rows = _compare.rows_of(fits, labels)
    if len(rows) > 1:
        yield _tag(
            "p",
            "Standardised residuals of the rows they disagree on; * is an outlier by that fit.",
        )
        yield _table(rows[: _MOST_ROWS + 1])


def _origin(args: argparse.Namespace, name: str, frame: Any) -> Iterable[str]:
    yield _tag("h2", "How this was made")
    rows, columns = frame.shape
    yield _tag("p", f"{name}: {rows} rows, {columns} columns. robustfit {robustfit.__version__}.")
    yield _tag("pre", f"robustfit {shlex.join(args.arguments)}")


# -- HTML ------------------------------------------------------------------------------------


def _escaped(text: object) -> str:
    return html.escape(str(text), quote=True)


def _tag(name: str, text: object) -> str:
    return f"<{name}>{_escaped(text)}</{name}>"


def _table(rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose first row is its head."""
    head, *body = rows
    lines = ["".join(_tag("th", cell) for cell in head)]
    lines += ["".join(_tag("td", cell) for cell in row) for row in body]
    content = "\n".join(f"<tr>{line}</tr>" for line in lines[1:])
    return (
        f'<div class="scroll"><table><thead><tr>{lines[0]}</tr></thead>\n'
        f"<tbody>{content}</tbody></table></div>"
    )
