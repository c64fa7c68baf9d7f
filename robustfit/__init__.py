"""Robust estimation and iteratively reweighted least squares.

`irls` fits a linear model when some of the data are wrong; `robustfit.losses` has the
losses, `robustfit.scale` the scales, `robustfit.datasets` data to try them on.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from robustfit import compat, datasets, losses, rows, scale
from robustfit.exceptions import BasinWarning, ConvergenceWarning, RankWarning
from robustfit.linear import BatchResult, irls
from robustfit.losses import get_loss, scipy_loss
from robustfit.result import FitResult, Status
from robustfit.scale import location

try:
    __version__ = version("robustfit")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from robustfit.formula import anova, fit
    from robustfit.linear._warm import warmup
    from robustfit.nonlinear import curve_fit, least_squares

#: Loaded on first use, because each needs a package that the core does not.
_FRONTS = ("plot",)
#: The same, or because SciPy's optimizers take longer to import than all the rest, or few need it.
_LATER = {
    "anova": "robustfit.formula",
    "fit": "robustfit.formula",
    "curve_fit": "robustfit.nonlinear",
    "least_squares": "robustfit.nonlinear",
    "warmup": "robustfit.linear._warm",
}

__all__ = [
    "BasinWarning",
    "BatchResult",
    "ConvergenceWarning",
    "FitResult",
    "RankWarning",
    "Status",
    "__version__",
    "anova",
    "compat",
    "curve_fit",
    "datasets",
    "fit",
    "get_loss",
    "irls",
    "least_squares",
    "location",
    "losses",
    "rows",
    "scale",
    "scipy_loss",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name in _FRONTS:
        return importlib.import_module(f"robustfit.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_FRONTS])
