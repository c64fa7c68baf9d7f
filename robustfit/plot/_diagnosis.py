"""Pictures that ask whether a fit can be believed: normality, leverage, convergence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks
from robustfit import scale as scales
from robustfit.diagnostics import FAR_RESIDUAL, robust_distances
from robustfit.exceptions import RobustfitWarning
from robustfit.linear import irls
from robustfit.linear._tau import Mixture
from robustfit.losses import get_loss
from robustfit.plot._canvas import (
    COLORS,
    DASHES,
    MANY,
    Array,
    axes,
    band,
    label_axes,
    limit_lines,
    panels,
    points,
    rows_of,
    scaled,
    settle,
    stretch_distances,
    stretch_residuals,
    write_region,
)
from robustfit.plot._fits import residuals, weights
from robustfit.result import FitResult

# Simulated samples are fitted if there are up to so many rows, or less than so many per
# coefficient. Beyond both, a fit moves the order statistics by less than they vary.
_FITTED_ROWS, _FITTED_SHARE = 1000, 50
# Beyond so many rows, and with other scales than these, there are fewer samples by default.
_MOST_ROWS, _TOGETHER = 50_000, ("s", "mad", "mad-fixed", "std", "given")
# The envelope is drawn at so many of the lowest, of the middle and of the highest ranks.
_TAIL = 500
# Of the scales that a result names, those that need no number or function of the caller's.
_SCALES = ("s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std")
# Steps that are marked, and iterations that a legend lists.
_MOST_MARKED, _MOST_NAMED = 60, 6
_SPACING = {
    "left": 0.09, "right": 0.98, "bottom": 0.07, "top": 0.95, "wspace": 0.22, "hspace": 0.28
}  # fmt: skip


def outlier_map(
    fit: FitResult,
    *,
    ax: Axes | None = None,
    method: Literal["ogk", "mcd"] = "ogk",
    labels: Sequence[object] | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the standardised residuals against the robust distances of the rows.

    The lines divide the rows into regular ones, vertical outliers (a response that the others
    do not predict), good leverage points (far out, and where the others predict them) and bad
    leverage points (far out, and off), as `FitResult.diagnostics` does.

    Parameters
    ----------
    fit : FitResult
        A fit whose scale is not zero.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    method : {"ogk", "mcd"}, default: "ogk"
        Estimate of scatter for the distances, see `robustfit.diagnostics.robust_distances`.
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

    Notes
    -----
    A row off a plane that holds more than half of the others is infinitely far. It is drawn at
    the right edge, which is then named.

    References
    ----------
    Rousseeuw, P. J. and van Zomeren, B. C. (1990). Unmasking multivariate outliers and leverage
    points. *Journal of the American Statistical Association* 85, 633-639.
    doi:10.1080/01621459.1990.10474920

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("hbk")
    >>> ax = rf.plot.outlier_map(rf.irls(data.A, data.b))
    >>> ax.get_xlabel()
    'robust distance'
    >>> plt.close()
    """
    rows_of(fit, labels=labels)
    u = scaled(fit)
    far = robust_distances(fit.model_matrix, method=method, freq=fit.freq_weights)
    finite = np.isfinite(far.distance)
    edge = 1.1 * max(float(np.max(far.distance[finite], initial=0.0)), 1.6 * far.cutoff)
    distance = np.where(finite, far.distance, edge)
    spots = np.column_stack([distance, u])
    ax = axes(ax)
    limit_lines(ax)
    ax.axvline(far.cutoff, color="0.35", linewidth=1.0, linestyle="--")
    stretch_residuals(ax, u)
    stretch_distances(ax, edge, far.cutoff)
    # Every region has room for its name, also one without rows.
    ax.update_datalim([*spots, (0.0, -2.0 * FAR_RESIDUAL), (edge, 2.0 * FAR_RESIDUAL)])
    ax.margins(0.08)
    ax.autoscale_view()
    label_axes(
        ax,
        "robust distance" + ("" if np.all(finite) else " (right edge: infinite)"),
        "standardised residual",
    )
    settle(ax)
    _name_regions(ax, spots, far.cutoff)
    points(ax, fit, distance, u, labels=labels, colorbar=colorbar)
    return ax


def _name_regions(ax: Axes, spots: Array, cutoff: float) -> None:
    """Write the name of each region where it hides few points."""
    corner = ax.transData.transform([(cutoff, -FAR_RESIDUAL), (cutoff, FAR_RESIDUAL)])
    (x, low), (_, high) = ax.transAxes.inverted().transform(corner)
    for name, left, right in (("regular", 0.0, x), ("good leverage", x, 1.0)):
        write_region(ax, name, spots, [(left, low, right, high)])
    for name, left, right in (("vertical outlier", 0.0, x), ("bad leverage", x, 1.0)):
        write_region(ax, name, spots, [(left, high, right, 1.0), (left, 0.0, right, low)])


def qq(
    fit: FitResult,
    *,
    ax: Axes | None = None,
    level: float = 0.95,
    simulations: int | None = None,
    rng: int | np.random.Generator | None = 0,
    labels: Sequence[object] | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw the ordered standardised residuals against normal quantiles, with an envelope.

    The envelope is where residuals lie if all errors are normal: so many samples of normal errors
    are drawn and fitted as the data were, with the same design, loss and scale. It holds
    the middle `level` of each order statistic; some of many rows are outside by chance.

    Parameters
    ----------
    fit : FitResult
        A fit whose scale is not zero.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    level : float, default: 0.95
        Coverage of the envelope, point by point.
    simulations : int, optional
        Number of samples; 0 for no envelope. Default: 200, or 40 where each would take long: for
        more than 50 000 rows, ``leverage=True``, and scales but "s", "mad" and a given one.
    rng : int or numpy.random.Generator, default: 0
        Draws the samples. The fixed default makes the same call draw the same picture.
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

    Notes
    -----
    The start is the S-estimate for a loss that is not convex, and least squares for one that is.
    Bounds, ridge and a scale function are not part of a result: samples are fitted without, and
    with the MAD. A given scale is given for them, too. A row is one point, whatever its repeat
    count.

    Beyond 1000 rows, and 50 rows per coefficient, the samples are not fitted: the errors are
    divided by their own scale.

    References
    ----------
    Atkinson, A. C. (1981). Two graphical displays for outlying and influential observations in
    regression. *Biometrika* 68, 13-20. doi:10.1093/biomet/68.1.13

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> ax = rf.plot.qq(rf.irls(data.A, data.b))
    >>> ax.get_legend_handles_labels()[1]
    ['normal', '95 % envelope', 'weight < 0.5']
    >>> plt.close()
    """
    rows_of(fit, labels=labels)
    u = scaled(fit)
    level = _checks.between(level, "level", 0.0, 1.0)
    if simulations is None:
        together = fit.scale_rule in _TOGETHER and not fit.leverage_adjusted
        simulations = 200 if len(u) <= _MOST_ROWS and together else 40
    simulations = _checks.whole(simulations, "simulations")
    generator = _checks.generator(rng)
    quantiles = special.ndtri((np.arange(len(u)) + 0.5) / len(u))
    at = np.empty(len(u))
    at[np.argsort(u, kind="stable")] = quantiles
    ends = np.array([quantiles[0] - 0.3, quantiles[-1] + 0.3])

    ax = axes(ax)
    stretch_residuals(ax, u)
    ax.plot(ends, ends, color="0.35", linewidth=1.0, label="normal")
    if simulations > 0 and fit.df_resid > 0.0:
        tail = 0.5 * (1.0 - level)
        ranks = _ranks(len(u))
        drawn = _simulated(fit, simulations, generator, ranks)
        low, high = np.quantile(drawn, (tail, 1.0 - tail), axis=0)
        band(ax, quantiles[ranks], low, high, f"{100.0 * level:g} % envelope")
    label_axes(ax, "normal quantile", "standardised residual")
    points(ax, fit, at, u, labels=labels, colorbar=colorbar)
    ax.legend(loc="best" if len(u) <= MANY else "upper left")
    return ax


def _ranks(n: int) -> NDArray[np.intp]:
    """Return the ranks at which the envelope is drawn: all, or some and both tails."""
    if n <= 2 * _TAIL:
        return np.arange(n)
    middle = np.linspace(_TAIL, n - _TAIL, _TAIL).astype(np.intp)
    return np.unique(np.concatenate([np.arange(_TAIL), middle, np.arange(n - _TAIL, n)]))


def _simulated(
    fit: FitResult, count: int, rng: np.random.Generator, ranks: NDArray[np.intp]
) -> Array:
    """Return standardised residuals of normal samples, those of some ranks, (count, ranks)."""
    n, p = fit.model_matrix.shape
    if n > max(_FITTED_ROWS, _FITTED_SHARE * p):
        drawn = np.empty((count, len(ranks)))
        for k in range(count):
            errors = rng.standard_normal((n,))
            drawn[k] = np.sort(errors)[ranks] / _sample_scale(fit, errors)
        return drawn
    freq = fit.freq_weights
    A = fit.model_matrix * np.sqrt(fit.row_weights / np.where(freq > 0.0, freq, 1.0))[:, None]
    # The result of a tau-estimate has a loss that is made of two; the second is the caller's.
    loss = fit.loss.outer.name if isinstance(fit.loss, Mixture) else fit.loss
    scale = fit.scale_rule if fit.scale_rule in _SCALES else "mad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RobustfitWarning)
        again = irls(
            A, rng.standard_normal((n, count)), loss, start="ols" if fit.loss.convex else "s",
            scale=1.0 if fit.scale_rule == "given" else cast(Any, scale),
            leverage=fit.leverage_adjusted, freq_weights=freq, outputs=("scale", "resid"),
        )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        u = again.resid.T / np.asarray(again.scale)[:, None]
    if fit.leverage_adjusted:
        u = u / np.sqrt(np.maximum(1.0 - fit.leverage[np.isfinite(fit.weights)], 1e-4))
    # A sample that is fitted exactly, as may happen to one of hardly more rows than coefficients,
    # has no scale.
    return np.asarray(np.sort(u[np.all(np.isfinite(u), axis=1)], axis=1)[:, ranks])


def _sample_scale(fit: FitResult, errors: Array) -> float:
    """Return the scale of a large normal sample, of the kind that the fit has.

    An M-scale is that after one Newton step from the true scale, 1.
    """
    if fit.search is not None:
        loss = get_loss("tukey", breakdown=0.5)
        excess = float(np.mean(loss.rho(errors))) - loss.expectation(loss.rho)
        return 1.0 + excess / loss.expectation(lambda u: u * loss.psi(u))
    if fit.scale_rule == "std":
        return float(np.sqrt(np.mean(errors * errors)))
    return float(scales.mad(errors, center=0.0))


def convergence(steps: Sequence[Any], *, ax: Axes | None = None) -> Axes:
    """Draw the length of each step of the iteration.

    A result does not keep the iterates. A callback does: ``irls(A, b, callback=steps.append)``
    with an empty list ``steps``.

    Parameters
    ----------
    steps : sequence of scipy.optimize.OptimizeResult
        What the callback of `robustfit.irls` was given, in order.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The Axes drawn into.

    Raises
    ------
    ValueError
        If there is no step: least squares and exact fits need no iteration.

    Notes
    -----
    A straight descent is the linear convergence of reweighting; where it turns steep, Newton or
    Anderson steps have taken over. Where the basin guard follows the solution through several
    efficiencies, each of them is an iteration of its own, drawn as another line.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> steps = []
    >>> fit = rf.irls(data.A, data.b, callback=steps.append)
    >>> ax = rf.plot.convergence(steps)
    >>> ax.get_yscale()
    'log'
    >>> plt.close()
    """
    try:
        nit = np.array([step.nit for step in steps], dtype=np.intp)
        size = np.array([step.step for step in steps], dtype=np.float64)
    except (TypeError, AttributeError) as error:
        raise TypeError(
            "steps must be what a callback of irls was given, as a list collects it by "
            f"callback=steps.append, got {type(steps).__name__}"
        ) from error
    if len(nit) == 0:
        raise ValueError("steps must hold at least one step, got none: the fit did not iterate")
    ax = axes(ax)
    runs = np.split(np.arange(len(nit)), np.flatnonzero(np.diff(nit) <= 0) + 1)
    # A step of exactly zero has no place on a logarithmic axis.
    floor = np.min(size[size > 0.0], initial=1.0)
    named = 1 < len(runs) <= _MOST_NAMED
    for i, run in enumerate(runs):
        ax.plot(
            run + 1, np.maximum(size[run], floor), DASHES[i % len(DASHES)],
            color=COLORS[i % len(COLORS)], marker="o" if len(nit) <= _MOST_MARKED else None,
            markersize=4.0, label=f"iteration {i + 1}" if named else None,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    together = f" ({len(runs)} iterations, one after the other)" if len(runs) > 1 else ""
    label_axes(ax, f"step{together}", "length in standard errors")
    if named:
        ax.legend()
    return ax


def diagnostics(
    fit: FitResult,
    *,
    ax: Any = None,
    labels: Sequence[object] | None = None,
    simulations: int | None = None,
) -> NDArray[np.object_]:
    """Draw four pictures of a fit: residuals, Q-Q, outlier map, weights.

    Parameters
    ----------
    fit : FitResult
        A fit whose scale is not zero.
    ax : sequence of four matplotlib.axes.Axes, optional
        Where to draw; default: a new figure.
    labels : sequence of length n, optional
        What to write beside the rows of low weight instead of their number.
    simulations : int, optional
        Number of samples for the envelope of the Q-Q picture; 0 for none. Default: see `qq`.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        The four Axes drawn into.

    Raises
    ------
    ValueError
        If the scale is zero, or an argument does not fit.

    See Also
    --------
    residuals, qq, outlier_map, weights

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> panels = rf.plot.diagnostics(rf.irls(data.A, data.b))
    >>> [panel.get_title() for panel in panels]
    ['Residuals', 'Normal Q-Q', 'Outlier map', 'Weights']
    >>> plt.close()
    """
    rows_of(fit, labels=labels)
    scaled(fit)
    # Standardised residuals and weights are numbers of known width: no layout has to be searched.
    drawn = panels(
        ax, 4, "picture", (2, 2), figsize=(10.0, 8.0), layout=None, gridspec_kw=_SPACING
    )  # fmt: skip
    for panel, title in zip(
        drawn, ("Residuals", "Normal Q-Q", "Outlier map", "Weights"), strict=True
    ):
        panel.set_title(title)
    # The vertical axis of the weights explains the shades of all four.
    shared: dict[str, Any] = {"labels": labels, "colorbar": False}
    residuals(fit, ax=drawn[0], **shared)
    qq(fit, ax=drawn[1], simulations=simulations, **shared)
    outlier_map(fit, ax=drawn[2], **shared)
    weights(fit, ax=drawn[3], **shared)
    return drawn
