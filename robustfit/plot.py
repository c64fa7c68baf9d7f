"""Pictures of a fit and of the losses, with matplotlib.

Every function takes the Axes to draw into as ``ax`` and returns it; without one it opens a
new pyplot figure. A point is as dark as its robustness weight: full at 1, hollow at 0.
Rows are numbered as in ``fit.weights``, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustfit import linalg
from robustfit.losses import Loss, get_loss
from robustfit.nonlinear import CurveFit
from robustfit.result import FitResult

try:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.patheffects import withStroke
except ImportError as error:
    raise ImportError(
        'robustfit.plot needs matplotlib: pip install "robustfit[plot]"', name="matplotlib"
    ) from error

__all__ = ["curve", "line", "loss", "residuals", "weights"]

Array = NDArray[np.float64]
Kind = Literal["rho", "psi", "weight", "dpsi"]

# A row below this weight is ringed and numbered: about 2.5 scales away, whatever the loss.
RINGED = 0.5
# Of more rows than this only the lowest weights are numbered.
_MOST_NUMBERS = 20

# Of the palette of Okabe and Ito, which the colour-blind can tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Where a number may stand from its point, the best first.
_SIDES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 0.8), (-1, 0.8), (1, -0.8), (-1, -0.8)])
_DASHES = ("-", "--", "-.", ":")
_BLUE, _VERMILION = _COLORS[:2]
_CURVES = {"rho": "ρ(u)", "psi": "ψ(u)", "weight": "weight(u)", "dpsi": "ψ′(u)"}


def line(
    fit: FitResult,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    interval: Literal["confidence", "prediction"] | None = "confidence",
    ols: bool = True,
    labels: Sequence[object] | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the data and the fitted line of a regression on one variable.

    Parameters
    ----------
    fit : FitResult
        A fit whose design has one column that varies; others are constant, as an intercept.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    level : float, default: 0.95
        Coverage of the band.
    interval : {"confidence", "prediction"} or None, default: "confidence"
        The band around the line: of the mean response, or of a new good response.
    ols : bool, default: True
        Whether to draw the least-squares line of the same rows too.
    labels : sequence of length n, optional
        What to write beside the rows of low weight instead of their number.
    colorbar : bool, default: True
        Whether to explain the shades of the points by a bar; it takes room from `ax`.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes drawn into. The labels of its axes are the names of the coefficient and
        "response"; ``ax.set(xlabel=..., ylabel=...)`` replaces them.

    Raises
    ------
    ValueError
        If not exactly one column varies, or an argument does not fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("phones")
    >>> fit = rf.irls(data.A, data.b)
    >>> ax = rf.plot.line(fit)
    >>> ax.get_legend_handles_labels()[1]
    ['least squares', 'robust (welsch)', '95 % confidence band', 'weight < 0.5']
    >>> plt.close()
    """
    A, column = _one_variable(fit)
    rows = _rows(fit)
    t, y = A[:, column], (fit.fittedvalues + fit.resid)[rows]
    grid = np.repeat(A[:1], 200, axis=0)
    grid[:, column] = np.linspace(t.min(), t.max(), len(grid))
    at = grid[:, column]
    # Before a figure is opened: it refuses an unknown interval or level.
    curve = fit.predict(grid, interval=interval, level=level).reshape(len(grid), -1)

    ax = _axes(ax)
    if ols:
        x = linalg.least_squares(A, y, fit.row_weights)
        ax.plot(at, grid @ x, "--", color="0.35", label="least squares")
    _band(ax, fit, at, curve, interval, level)
    _points(ax, fit, t, y, labels=labels, colorbar=colorbar)
    ax.set(xlabel=fit.names[column], ylabel="response")
    ax.legend()
    return ax


def curve(
    fit: CurveFit,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    interval: Literal["confidence", "prediction"] | None = "confidence",
    labels: Sequence[object] | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the data and the fitted curve of `robustfit.curve_fit`.

    Parameters
    ----------
    fit : CurveFit
        A fit whose ``xdata`` is one array of shape (n,).
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    level : float, default: 0.95
        Coverage of the band.
    interval : {"confidence", "prediction"} or None, default: "confidence"
        The band around the curve: of the curve, or of a new good observation.
    labels : sequence of length n, optional
        What to write beside the observations of low weight instead of their number.
    colorbar : bool, default: True
        Whether to explain the shades of the points by a bar; it takes room from `ax`.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes drawn into.

    Raises
    ------
    ValueError
        If ``xdata`` is not one array of shape (n,), or an argument does not fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> import robustfit as rf
    >>> t = np.linspace(0.0, 4.0, 30)
    >>> y = 3.0 * np.exp(-t) + 0.01 * np.cos(9.0 * t)
    >>> y[5] = 4.0
    >>> fit = rf.curve_fit(lambda t, a, b: a * np.exp(-b * t), t, y)
    >>> ax = rf.plot.curve(fit)
    >>> ax.get_legend_handles_labels()[1]
    ['robust (welsch)', '95 % confidence band', 'weight < 0.5']
    >>> plt.close()
    """
    t, y = fit.xdata, fit.ydata
    if np.shape(t) != y.shape:
        raise ValueError(f"xdata must have shape {y.shape} to be drawn, got shape {np.shape(t)}")
    at = np.linspace(np.min(t), np.max(t), 200)
    drawn = fit.predict(at, interval, level).reshape(len(at), -1)
    ax = _axes(ax)
    _band(ax, fit, at, drawn, interval, level)
    _points(ax, fit, t, y, labels=labels, colorbar=colorbar)
    ax.set(xlabel="x", ylabel="y")
    ax.legend()
    return ax


def weights(
    fit: FitResult, *, ax: Axes | None = None, labels: Sequence[object] | None = None
) -> Axes:
    """Draw the robustness weight of each row.

    Parameters
    ----------
    fit : FitResult
        Any fit.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    labels : sequence of length n, optional
        What to write beside the rows of low weight instead of their number.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes drawn into.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> ax = rf.plot.weights(rf.irls(data.A, data.b))
    >>> ax.get_ylabel()
    'robustness weight'
    >>> plt.close()
    """
    rows = _rows(fit)
    ax = _axes(ax)
    ax.vlines(rows, fit.weights[rows], 1.0, color="0.75", linewidth=1.0)
    _points(ax, fit, rows.astype(np.float64), fit.weights[rows], labels=labels, colorbar=False)
    ax.set(xlabel="row", ylabel="robustness weight", ylim=(-0.06, 1.06))
    return ax


def residuals(
    fit: FitResult,
    *,
    ax: Axes | None = None,
    labels: Sequence[object] | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the standardised residuals against the fitted values.

    Residuals are divided by the scale, as the loss saw them; of good normal ones about one
    in eighty lies outside the lines at -2.5 and 2.5.

    Parameters
    ----------
    fit : FitResult
        A fit whose scale is not zero.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    labels : sequence of length n, optional
        What to write beside the rows of low weight instead of their number.
    colorbar : bool, default: True
        Whether to explain the shades of the points by a bar; it takes room from `ax`.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes drawn into.

    Raises
    ------
    ValueError
        If the scale is zero, or an argument does not fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> ax = rf.plot.residuals(rf.irls(data.A, data.b))
    >>> ax.get_ylabel()
    'standardised residual'
    >>> plt.close()
    """
    rows = _rows(fit)
    if not fit.scale > 0.0:
        raise ValueError(f"fit must have a scale above 0 to divide by, got scale={fit.scale!r}")
    ax = _axes(ax)
    ax.axhline(0.0, color="0.6", linewidth=0.8)
    for limit in (-2.5, 2.5):
        ax.axhline(limit, color="0.35", linewidth=1.0, linestyle="--")
    _points(
        ax, fit, fit.fittedvalues[rows], fit.standardised[rows], labels=labels, colorbar=colorbar
    )
    ax.set(xlabel="fitted value", ylabel="standardised residual")
    return ax


def loss(
    losses: str | Loss | Sequence[str | Loss],
    *,
    ax: Any = None,
    kinds: Sequence[Kind] = ("rho", "psi", "weight"),
    limit: float = 8.0,
) -> NDArray[np.object_]:
    """Draw the functions of one or more losses, one panel for each kind.

    Parameters
    ----------
    losses : str, Loss or sequence of these
        Names, tuned for 95 % efficiency, or instances.
    ax : sequence of matplotlib.axes.Axes, optional
        As many as `kinds`; or one Axes for one kind. Default: a new figure.
    kinds : sequence of {"rho", "psi", "weight", "dpsi"}, default: ("rho", "psi", "weight")
        Which functions.
    limit : float, default: 8.0
        Curves reach from -limit to limit; u is a residual divided by the scale.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        The Axes drawn into, one for each kind.

    Raises
    ------
    ValueError
        If a loss or kind is unknown, or the number of Axes does not fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> panels = rf.plot.loss(["huber", "tukey", rf.losses.Welsch(c=2.0)])
    >>> len(panels)
    3
    >>> plt.close()
    """
    items = [losses] if isinstance(losses, str | Loss) else list(losses)
    if not items:
        raise ValueError(f"losses must name at least one loss, got losses={losses!r}")
    tuned = [get_loss(item) for item in items]
    if isinstance(kinds, str) or not kinds or set(kinds) - set(_CURVES):
        raise ValueError(f"kinds must be some of {', '.join(_CURVES)}, got kinds={kinds!r}")
    if not 0.0 < limit < np.inf:
        raise ValueError(f"limit must be positive and finite, got limit={limit!r}")
    panels = _panels(ax, len(kinds), len(tuned))

    u = np.linspace(-limit, limit, 1601)
    for panel, kind in zip(panels, kinds, strict=True):
        for i, one in enumerate(tuned):
            # Equal names, as of one loss with several constants, are told apart by c.
            name = one.name or type(one).__name__
            panel.plot(
                u, getattr(one, kind)(u), label=f"{name}, c = {one.c:.4g}",
                color=_COLORS[i % len(_COLORS)], linestyle=_DASHES[i % len(_DASHES)],
            )  # fmt: skip
        panel.axhline(0.0, color="0.8", linewidth=0.8, zorder=0.0)
        panel.set(xlabel="u", title=_CURVES[kind])
    if ax is None:
        panels[0].figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=_legend_columns(len(kinds)),
        )
    else:
        panels[0].legend()
    return panels


# -- shared ----------------------------------------------------------------------------------


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes, got {type(ax).__name__}")
    return ax


def _legend_columns(panels: int) -> int:
    return 3 * panels // 2


def _panels(ax: Any, count: int, curves: int) -> NDArray[np.object_]:
    if ax is None:
        import matplotlib.pyplot as plt

        lines = -(-curves // _legend_columns(count))
        size = (3.6 * count + 0.4, 3.5 + 0.22 * lines)
        ax = plt.subplots(1, count, figsize=size, layout="constrained", squeeze=False)[1]
    panels = np.ravel(np.asarray(ax, dtype=object))
    if len(panels) != count:
        raise ValueError(f"ax must hold {count} Axes, one for each of kinds, got {len(panels)}")
    return np.array([_axes(panel) for panel in panels], dtype=object)


def _rows(fit: FitResult | CurveFit) -> NDArray[np.intp]:
    """Return the rows that took part."""
    if not isinstance(fit, FitResult | CurveFit):
        raise TypeError(f"fit must be a FitResult, as irls returns it, got {type(fit).__name__}")
    return np.flatnonzero(np.isfinite(fit.weights))


def _one_variable(fit: FitResult) -> tuple[Array, int]:
    """Return the design of the rows that took part, and its only column that varies."""
    _rows(fit)
    A = fit.model_matrix
    varying = np.flatnonzero(np.ptp(A, axis=0) > 0.0)
    if fit.rank < len(fit.x) or len(varying) != 1:
        raise ValueError(
            "fit must have one column that varies, besides constant ones, and full rank; got "
            f"{len(varying)} that vary of {len(fit.x)} columns, rank {fit.rank}. "
            "residuals(fit) draws any fit"
        )
    return A, int(varying[0])


def _band(
    ax: Axes, fit: FitResult | CurveFit, at: Array, curve: Array, interval: str | None, level: float
) -> None:
    """Draw a fitted curve, the first column, and its band, the others."""
    name = fit.loss.name or type(fit.loss).__name__
    ax.plot(at, curve[:, 0], "-", color=_BLUE, linewidth=2.0, label=f"robust ({name})")
    if np.all(np.isfinite(curve)) and interval is not None:
        low, high = curve[:, 1:].T
        band = PolyCollection(
            [np.r_[np.c_[at, low], np.c_[at, high][::-1]]], color=_BLUE, alpha=0.15, linewidth=0.0,
            label=f"{100.0 * level:g} % {interval} band",
        )  # fmt: skip
        # Points and lines set the limits: a wide band would squeeze them.
        ax.add_collection(band, autolim=False)


def _points(
    ax: Axes,
    fit: FitResult | CurveFit,
    x: Array,
    y: Array,
    *,
    labels: Sequence[object] | None,
    colorbar: bool,
) -> None:
    """Draw one point per row that took part, shaded by weight; ring and number low weights."""
    if labels is not None and len(labels) != len(fit.weights):
        raise ValueError(f"labels must have length {len(fit.weights)}, got {len(labels)}")
    rows = _rows(fit)
    w = fit.weights[rows]
    points = ax.scatter(
        x, y, c=w, cmap="Blues", vmin=0.0, vmax=1.0, s=26.0, edgecolor="0.25", linewidth=0.6,
        zorder=3.0,
    )  # fmt: skip
    if colorbar:
        ax.figure.colorbar(points, ax=ax, label="robustness weight")
    low = np.flatnonzero(w < RINGED)
    low = low[np.argsort(w[low], kind="stable")]
    if not len(low):
        return
    ax.scatter(
        x[low], y[low], s=90.0, facecolor="none", edgecolor=_VERMILION, linewidth=1.2,
        zorder=4.0, label=f"weight < {RINGED:g}",
    )  # fmt: skip
    names = [str(rows[i] if labels is None else labels[rows[i]]) for i in low]
    _write(ax, np.column_stack([x, y]), low[:_MOST_NUMBERS], names)


def _write(ax: Axes, points: Array, which: NDArray[np.intp], names: Sequence[str]) -> None:
    """Write names beside some of the points, each on the side where it hides least."""
    ax.get_ylim()  # brings the transform up to date with what was drawn
    to_points = 72.0 / ax.figure.dpi
    spots = ax.transData.transform(points) * to_points
    corners = ax.transAxes.transform([(0.0, 0.0), (1.0, 1.0)]) * to_points
    taken, sizes = spots, np.full(spots.shape, 4.0)
    for i, name in zip(which, names, strict=False):
        half = np.array([2.7 * len(name) + 1.0, 5.0])
        centers = spots[i] + _SIDES * (half + 5.0)
        gaps = np.abs(centers[:, None] - taken) - (half + sizes)
        hidden = np.sum(np.all(gaps < 0.0, axis=2), axis=1)
        outside = np.any((centers - half < corners[0]) | (centers + half > corners[1]), axis=1)
        best = centers[np.argmin(hidden + len(taken) * outside)]
        taken, sizes = np.vstack([taken, best]), np.vstack([sizes, half])
        ax.annotate(
            name, points[i], xytext=best - spots[i], textcoords="offset points",
            ha="center", va="center", fontsize="small", zorder=5.0,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )  # fmt: skip
