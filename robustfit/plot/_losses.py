"""Pictures of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robustfit import _checks
from robustfit.losses import LOSSES, Loss, get_loss
from robustfit.plot._canvas import COLORS, DASHES, panels, shortened

Kind = Literal["rho", "psi", "weight", "dpsi"]

_CURVES = {"rho": "ρ(u)", "psi": "ψ(u)", "weight": "weight(u)", "dpsi": "ψ′(u)"}
_ATLAS_COLUMNS = 6


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
    tuned = _tuned(losses)
    if isinstance(kinds, str) or not kinds or set(kinds) - set(_CURVES):
        raise ValueError(f"kinds must be some of {', '.join(_CURVES)}, got kinds={kinds!r}")
    limit = _checks.positive(limit, "limit")
    columns = 3 * len(kinds) // 2
    size = (3.6 * len(kinds) + 0.4, 3.5 - 0.22 * (-len(tuned) // columns))
    drawn = panels(ax, len(kinds), "of kinds", (1, len(kinds)), figsize=size)

    u = np.linspace(-limit, limit, 1601)
    for panel, kind in zip(drawn, kinds, strict=True):
        for i, one in enumerate(tuned):
            panel.plot(
                u, getattr(one, kind)(u), label=_title(one),
                color=COLORS[i % len(COLORS)], linestyle=DASHES[i % len(DASHES)],
            )  # fmt: skip
        panel.axhline(0.0, color="0.8", linewidth=0.8, zorder=0.0)
        panel.set(xlabel="u", title=_CURVES[kind])
    if ax is None:
        drawn[0].figure.legend(
            *drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns
        )
    else:
        drawn[0].legend()
    return drawn


def atlas(
    losses: Sequence[str | Loss] | None = None, *, ax: Any = None, limit: float = 6.0
) -> NDArray[np.object_]:
    """Draw rho, psi and weight of all losses, one panel for each loss.

    The dotted curve in each panel is u^2 / 2, the rho of least squares, which every rho follows
    near 0. The scales of all panels are the same, and rho is cut off where it leaves them.

    Parameters
    ----------
    losses : sequence of str or Loss, optional
        Default: all that are registered, tuned for 95 % efficiency.
    ax : sequence of matplotlib.axes.Axes, optional
        As many as there are losses. Default: a new figure.
    limit : float, default: 6.0
        Curves reach from -limit to limit; u is a residual divided by the scale.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        The Axes drawn into, one for each loss.

    Raises
    ------
    ValueError
        If a loss is unknown, or the number of Axes does not fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import robustfit as rf
    >>> panels = rf.plot.atlas()
    >>> len(panels) == len(rf.losses.LOSSES)
    True
    >>> plt.close()
    """
    tuned = _tuned(list(LOSSES) if losses is None else losses)
    limit = _checks.positive(limit, "limit")
    columns = min(_ATLAS_COLUMNS, len(tuned))
    lines = -(-len(tuned) // columns)
    size = (2.0 * columns + 0.4, 1.9 * lines + 0.5)
    drawn = _atlas_panels(ax, len(tuned), (lines, columns), size)
    u = np.linspace(-limit, limit, 601)
    for panel, one in zip(drawn, tuned, strict=True):
        panel.plot(u, 0.5 * u * u, ":", color="0.6", linewidth=1.0, label="u²/2")
        for i, kind in enumerate(("rho", "psi", "weight")):
            panel.plot(
                u, getattr(one, kind)(u), DASHES[i], color=COLORS[i], linewidth=1.5,
                label=_CURVES[kind],
            )  # fmt: skip
        panel.axhline(0.0, color="0.8", linewidth=0.8, zorder=0.0)
        panel.set(xlim=(-limit, limit), ylim=(-2.6, 5.2))
        panel.set_title(_title(one), fontsize="small", parse_math=False)
        panel.tick_params(labelsize="small")
    if ax is None:
        figure = drawn[0].figure
        figure.supxlabel("u = residual / scale", fontsize="medium")
        figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    else:
        drawn[0].legend(fontsize="x-small")
    return drawn


def _atlas_panels(
    ax: Any, count: int, shape: tuple[int, int], size: tuple[float, float]
) -> NDArray[np.object_]:
    """Return as many panels as there are losses; empty places of a new grid are taken away."""
    if ax is not None:
        return panels(ax, count, "loss", shape)
    grid = panels(None, shape[0] * shape[1], "loss", shape, figsize=size, sharex=True, sharey=True)
    for empty in grid[count:]:
        empty.remove()
    for lowest in grid[max(count - shape[1], 0) : count]:
        lowest.tick_params(labelbottom=True)
    return grid[:count]


def _tuned(losses: str | Loss | Sequence[str | Loss]) -> list[Loss]:
    items = [losses] if isinstance(losses, str | Loss) else list(losses)
    if not items:
        raise ValueError(f"losses must name at least one loss, got losses={losses!r}")
    return [get_loss(item) for item in items]


def _title(loss: Loss) -> str:
    """Return name and constant: equal names, as of several constants, are told apart by c."""
    return f"{shortened(loss.name or type(loss).__name__, 30)}, c = {loss.c:.4g}"
