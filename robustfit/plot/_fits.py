"""Pictures of a fit: the line or curve, the residuals, the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustfit import linalg
from robustfit.nonlinear import CurveFit
from robustfit.plot._canvas import (
    BLUE,
    MANY,
    RINGED,
    Array,
    axes,
    band,
    label_axes,
    limit_lines,
    points,
    rows_of,
    scaled,
    stretch_residuals,
)
from robustfit.result import FitResult

# A response so many times as far out as the others reach is drawn at the edge.
_FRAME = 20.0


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

    A response far beyond all others is drawn at the edge, and the vertical axis says so.

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
    rows = rows_of(fit, labels=labels)
    A, column = _one_variable(fit)
    t, y = A[:, column], (fit.fittedvalues + fit.resid)[rows]
    grid = np.repeat(A[:1], 200, axis=0)
    grid[:, column] = np.linspace(t.min(), t.max(), len(grid))
    at = grid[:, column]
    # Before a figure is opened: it refuses an unknown interval or level.
    # That of the base class: an offset is no part of the response here.
    curve = FitResult.predict(fit, grid, interval=interval, level=level).reshape(len(grid), -1)

    ax = axes(ax)
    if ols:
        x = linalg.least_squares(A, y, fit.row_weights)
        ax.plot(at, grid @ x, "--", color="0.35", label="least squares")
    _band(ax, fit, at, curve, interval, level)
    label_axes(ax, fit.names[column], "response")
    y = _framed(ax, y, fit.weights[rows], curve[:, 0])
    points(ax, fit, t, y, labels=labels, colorbar=colorbar)
    ax.legend(loc="best" if len(t) <= MANY else "upper left")
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

    A response far beyond all others is drawn at the edge, and the vertical axis says so.

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
    rows_of(fit, CurveFit, labels)
    t, y = fit.xdata, fit.ydata
    if np.shape(t) != y.shape:
        raise ValueError(f"xdata must have shape {y.shape} to be drawn, got shape {np.shape(t)}")
    at = np.linspace(np.min(t), np.max(t), 200)
    drawn = fit.predict(at, interval, level).reshape(len(at), -1)
    ax = axes(ax)
    _band(ax, fit, at, drawn, interval, level)
    label_axes(ax, "x", "y")
    y = _framed(ax, y, fit.weights[np.isfinite(fit.weights)], drawn[:, 0])
    points(ax, fit, t, y, labels=labels, colorbar=colorbar)
    ax.legend(loc="best" if len(t) <= MANY else "upper left")
    return ax


def weights(
    fit: FitResult | CurveFit,
    *,
    ax: Axes | None = None,
    labels: Sequence[object] | None = None,
    colorbar: bool = False,
) -> Axes:
    """Draw the robustness weight of each row.

    Parameters
    ----------
    fit : FitResult or CurveFit
        Any fit.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    labels : sequence of length n, optional
        What to write beside the rows of low weight instead of their number.
    colorbar : bool, default: False
        Whether to explain the shades of the points by a bar; the vertical axis does.

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
    rows = rows_of(fit, (FitResult, CurveFit), labels)
    ax = axes(ax)
    many = len(rows) > MANY
    ax.vlines(
        rows, fit.weights[rows], 1.0, color="0.75", linewidth=0.3 if many else 1.0,
        rasterized=many,
    )  # fmt: skip
    ax.set_ylim(-0.06, 1.06)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    label_axes(ax, "row", "robustness weight")
    points(ax, fit, rows.astype(np.float64), fit.weights[rows], labels=labels, colorbar=colorbar)
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
    in eighty lies outside the lines at -2.5 and 2.5. Where one is beyond 60, the axis is
    logarithmic outside of them.

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
    rows = rows_of(fit, labels=labels)
    u = scaled(fit)
    ax = axes(ax)
    limit_lines(ax)
    stretch_residuals(ax, u)
    label_axes(ax, "fitted value", "standardised residual")
    points(ax, fit, fit.fittedvalues[rows], u, labels=labels, colorbar=colorbar)
    return ax


def _one_variable(fit: FitResult) -> tuple[Array, int]:
    """Return the design of the rows that took part, and its only column that varies."""
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
    ax.plot(at, curve[:, 0], "-", color=BLUE, linewidth=2.0, label=f"robust ({name})")
    if np.all(np.isfinite(curve)) and interval is not None:
        low, high = curve[:, 1:].T
        band(ax, at, low, high, f"{100.0 * level:g} % {interval} band")


def _framed(ax: Axes, y: Array, w: Array, curve: Array) -> Array:
    """Return where the points are drawn: those far beyond the others at the edge.

    One gross error would press all others into a line. The label of the axis names the edge.
    """
    low, high = (float(f(np.concatenate([y[w >= RINGED], curve]))) for f in (np.min, np.max))
    room = _FRAME * (high - low)
    far = (y < low - room) | (y > high + room)
    if not np.any(far):
        return y
    inside = np.concatenate([y[~far], curve])
    low, high = float(np.min(inside)), float(np.max(inside))
    edge = 0.15 * (high - low)
    # Where least squares follows the gross errors, its line leaves the frame.
    ax.set_ylim(low - 1.5 * edge, high + 1.5 * edge)
    ax.set_ylabel(f"{ax.get_ylabel()} ({np.sum(far)} beyond the edges, drawn there)")
    return np.where(far, np.where(y > high, high + edge, low - edge), y)
