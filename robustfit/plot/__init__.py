"""Pictures of a fit and of the losses, with matplotlib.

Every function takes the Axes to draw into as ``ax`` and returns it; without one it opens a
new pyplot figure. A point is as dark as its robustness weight: full at 1, hollow at 0.
Rows are numbered as in ``fit.weights``, from 0.
"""

from robustfit.plot._canvas import RINGED
from robustfit.plot._diagnosis import convergence, diagnostics, outlier_map, qq
from robustfit.plot._fits import curve, line, residuals, weights
from robustfit.plot._losses import atlas, loss

__all__ = [
    "RINGED",
    "atlas",
    "convergence",
    "curve",
    "diagnostics",
    "line",
    "loss",
    "outlier_map",
    "qq",
    "residuals",
    "weights",
]
