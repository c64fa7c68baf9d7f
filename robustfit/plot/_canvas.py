"""What all pictures share: axes, colours, points shaded by weight, and names beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit.diagnostics import FAR_RESIDUAL
from robustfit.nonlinear import CurveFit
from robustfit.result import FitResult

try:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import NullLocator
except ImportError as error:
    raise ImportError(
        'robustfit.plot needs matplotlib: pip install "robustfit[plot]"', name="matplotlib"
    ) from error

Array = NDArray[np.float64]

# A row below this weight is ringed and numbered: about 2.5 scales away, whatever the loss.
RINGED = 0.5
# Of more rows than this only the lowest weights are numbered.
_MOST_NUMBERS = 20
# Of more rows than this the points are small, without outline, and an image in vector files.
MANY = 2000

# Of the palette of Okabe and Ito, which the colour-blind can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION = COLORS[:2]
DASHES = ("-", "--", "-.", ":")
# So long may a name be beside a point and below an axis.
_SHORT, _LONG = 20, 60
# Where a number may stand from its point, and how many points away, the best first. A distant one
# gets a line; one that has no place without covering another, or so many points, is left out.
_SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 0.8), (-1, 0.8), (1, -0.8), (-1, -0.8)])
_AWAY = (5.0, 16.0, 28.0, 40.0)
_MOST_HIDDEN = 4
_LEADER = {
    "arrowstyle": "-", "color": "0.5", "linewidth": 0.6, "shrinkA": 0.0, "shrinkB": 4.0
}  # fmt: skip
# Beyond so many scales the axis is logarithmic: else one gross error would press all other
# residuals into a line.
_GROSS = 60.0
# The same for the distances, in cutoffs.
_DISTANT = 5.0


def axes(ax: Axes | None) -> Axes:
    """Return the Axes given, or that of a new figure."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes, got {type(ax).__name__}")
    return ax


def panels(
    ax: Any, count: int, what: str, shape: tuple[int, int], **options: Any
) -> NDArray[np.object_]:
    """Return an array of so many Axes: those given, or those of a new figure."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(*shape, squeeze=False, **{"layout": "constrained", **options})[1]
    found = np.ravel(np.asarray(ax, dtype=object))
    if len(found) != count:
        raise ValueError(f"ax must hold {count} Axes, one for each {what}, got {len(found)}")
    return np.array([axes(panel) for panel in found], dtype=object)


def rows_of(
    fit: Any, kinds: Any = FitResult, labels: Sequence[object] | None = None
) -> NDArray[np.intp]:
    """Return the rows that took part; refuse what is no fit, and labels of another number."""
    if not isinstance(fit, kinds):
        raise TypeError(f"fit must be a FitResult, as irls returns it, got {type(fit).__name__}")
    if labels is not None and len(labels) != len(fit.weights):
        raise ValueError(f"labels must have length {len(fit.weights)}, got {len(labels)}")
    return np.flatnonzero(np.isfinite(fit.weights))


def scaled(fit: FitResult) -> Array:
    """Return the standardised residuals of the rows that took part; refuse a scale of zero."""
    if not fit.scale > 0.0:
        raise ValueError(f"fit must have a scale above 0 to divide by, got scale={fit.scale!r}")
    return fit.standardised[np.isfinite(fit.weights)]


def shortened(name: object, length: int = _LONG) -> str:
    """Return a name on one line, cut in the middle where it is long."""
    text = " ".join(str(name).split())
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 1]}…{text[len(text) - tail :]}"


def label_axes(ax: Axes, x: object, y: object) -> None:
    """Name both axes. A name that comes from data is text, whatever dollar signs it has."""
    ax.set_xlabel(shortened(x), parse_math=False)
    ax.set_ylabel(shortened(y), parse_math=False)


def band(ax: Axes, at: Array, low: Array, high: Array, label: str) -> None:
    """Shade the room between two curves."""
    shade = PolyCollection(
        [np.r_[np.c_[at, low], np.c_[at, high][::-1]]], color=BLUE, alpha=0.15, linewidth=0.0,
        label=label,
    )  # fmt: skip
    # Points and lines set the limits: a wide band would squeeze them.
    ax.add_collection(shade, autolim=False)


def limit_lines(ax: Axes) -> None:
    """Draw where a standardised residual is zero, and where it begins to be far."""
    ax.axhline(0.0, color="0.6", linewidth=0.8)
    for limit in (-FAR_RESIDUAL, FAR_RESIDUAL):
        ax.axhline(limit, color="0.35", linewidth=1.0, linestyle="--")


def stretch_residuals(ax: Axes, u: Array) -> None:
    """Make the vertical axis logarithmic, beyond the limits, where a residual is gross."""
    largest = float(np.max(np.abs(u), initial=0.0))
    if largest > _GROSS:
        ax.set_yscale("asinh", linear_width=FAR_RESIDUAL)
        far = _decades(largest)
        ax.set_yticks([*(-t for t in far[::-1]), 0.0, *far])
        ax.yaxis.set_major_formatter(_decade)
        ax.yaxis.set_minor_locator(NullLocator())


def stretch_distances(ax: Axes, largest: float, cutoff: float) -> None:
    """Make the horizontal axis logarithmic, beyond the cutoff, where a row is far out."""
    if largest > _DISTANT * cutoff:
        ax.set_xscale("asinh", linear_width=cutoff)
        steps = [m * 10.0**k for k in range(3) for m in (1.0, 2.0, 5.0)]
        far = _decades(largest) if largest > steps[-1] else [t for t in steps if t <= largest]
        ax.set_xticks([0.0, *far])
        ax.xaxis.set_major_formatter(_decade)
        ax.xaxis.set_minor_locator(NullLocator())


def _decades(largest: float) -> list[float]:
    """Return at most six powers of ten, up to a value."""
    last = int(np.floor(np.log10(largest)))
    return [10.0**k for k in range(last, 0, -max(1, -(-last // 6)))][::-1]


def _decade(value: float, _: float) -> str:
    """Return 1000 as it is, and 10000 as 1e4."""
    return (
        f"{value:.0e}".replace("e+0", "e").replace("e+", "e") if abs(value) > 5e3 else f"{value:g}"
    )


def points(
    ax: Axes,
    fit: FitResult | CurveFit,
    x: Array,
    y: Array,
    *,
    labels: Sequence[object] | None,
    colorbar: bool,
) -> None:
    """Draw one point per row that took part, shaded by weight; ring and number low weights."""
    rows = np.flatnonzero(np.isfinite(fit.weights))
    w = fit.weights[rows]
    many = len(rows) > MANY
    shaded = ax.scatter(
        x, y, c=w, cmap="Blues", vmin=0.0, vmax=1.0, s=7.0 if many else 26.0,
        edgecolor="0.25", linewidth=0.0 if many else 0.6, zorder=3.0, rasterized=many,
    )  # fmt: skip
    if colorbar:
        ax.figure.colorbar(shaded, ax=ax, label="robustness weight")
    low = np.flatnonzero(w < RINGED)
    low = low[np.argsort(w[low], kind="stable")]
    if not len(low):
        return
    settle(ax)
    crowded = len(low) > 10 * _MOST_NUMBERS
    ax.scatter(
        x[low], y[low], s=16.0 if crowded else 90.0, facecolor="none", edgecolor=VERMILION,
        linewidth=0.5 if crowded else 1.2, zorder=4.0, label=f"weight < {RINGED:g}",
        rasterized=many,
    )  # fmt: skip
    low = low[:_MOST_NUMBERS]
    names = [str(rows[i] if labels is None else labels[rows[i]]) for i in low]
    write(ax, np.column_stack([x, y]), low, [shortened(name, _SHORT) for name in names])


def write(ax: Axes, spots: Array, which: NDArray[np.intp], names: Sequence[str]) -> None:
    """Write names beside some of the points, each where it hides least.

    None covers another. One for which there is no place is left out.
    """
    places, corners = _in_points(ax, spots), _in_points(ax, None)
    # The names of regions, which stand in fractions of the axes, are there first.
    boxes = np.array([text.get_position() for text in ax.texts]).reshape(-1, 2)
    boxes = corners[0] + boxes * (corners[1] - corners[0])
    sizes = np.array([_half(text.get_text()) for text in ax.texts]).reshape(-1, 2)
    for i, name in zip(which, names, strict=True):
        half = _half(name)
        centers = np.concatenate([places[i] + _SIDES * (half + away) for away in _AWAY])
        away = np.repeat(np.arange(len(_AWAY)), len(_SIDES))
        near = np.all(np.abs(places - places[i]) < 2.0 * half + _AWAY[-1] + 4.0, axis=1)
        hidden = _hidden(centers, half, places[near], np.full(2, 4.0))
        refused = np.any((centers - half < corners[0]) | (centers + half > corners[1]), axis=1)
        refused |= (_hidden(centers, half, boxes, sizes) > 0) | (hidden > _MOST_HIDDEN)
        best = int(np.argmin(hidden + 0.5 * away + 1e6 * refused))
        if refused[best]:
            continue
        boxes, sizes = np.vstack([boxes, centers[best]]), np.vstack([sizes, half])
        ax.annotate(
            name, spots[i], xytext=centers[best] - places[i], textcoords="offset points",
            ha="center", va="center", fontsize="small", zorder=5.0, parse_math=False,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
            arrowprops=_LEADER if away[best] > 0 else None,
        )  # fmt: skip


def settle(ax: Axes) -> None:
    """Let the layout of the figure, if it has one, put the axes where they will be."""
    figure = ax.figure
    engine = figure.get_layout_engine() if isinstance(figure, Figure) else None
    if engine is not None and isinstance(figure, Figure):
        engine.execute(figure)


def _half(name: str) -> Array:
    """Return half the width and height of a name in points, with a margin."""
    return np.array([2.7 * len(name) + 1.0, 5.0])


def _in_points(ax: Axes, spots: Array | None) -> Array:
    """Return where data, or the corners of the axes, stand on the page in points.

    Call `settle` first: a layout moves the axes.
    """
    ax.get_ylim()  # brings the transform up to date with what was drawn
    if spots is None:
        spots, transform = np.array([(0.0, 0.0), (1.0, 1.0)]), ax.transAxes
    else:
        transform = ax.transData
    return np.asarray(transform.transform(spots)) * (72.0 / ax.figure.dpi)


def _hidden(centers: Array, half: Array, taken: Array, sizes: Array) -> NDArray[np.intp]:
    """Count for boxes at `centers` how many of the boxes that are there each would cover."""
    gaps = np.abs(centers[:, None] - taken) - (half + sizes)
    return np.asarray(np.sum(np.all(gaps < 0.0, axis=2), axis=1))


def write_region(
    ax: Axes, name: str, spots: Array, boxes: Sequence[tuple[float, float, float, float]]
) -> None:
    """Write the name of a region into one of its boxes, where it hides least.

    A box is (left, bottom, right, top) in fractions of the axes.
    """
    places, corners = _in_points(ax, spots), _in_points(ax, None)
    size = corners[1] - corners[0]
    half = _half(name) + np.array([3.0, 2.0])
    ends = np.array(boxes).reshape(-1, 2, 2) * size + corners[0]
    room = np.maximum(ends[:, 1] - ends[:, 0] - 2.0 * half, 0.0)
    grid = np.array([(0.0, 1.0), (1.0, 1.0), (0.5, 1.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.0)])
    centers = (ends[:, 0] + half + grid[:, None] * room).reshape(-1, 2)
    hidden = _hidden(centers, half, places, np.full(places.shape, 4.0))
    x, y = (centers[np.argmin(hidden)] - corners[0]) / size
    ax.text(
        x, y, name, transform=ax.transAxes, ha="center", va="center", style="italic",
        color="0.4", fontsize="small", zorder=4.5,
        path_effects=[withStroke(linewidth=2.0, foreground="white")],
    )  # fmt: skip
