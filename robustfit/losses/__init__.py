"""Losses: rho, psi, weight and dpsi, written once for NumPy, Numba and torch.

Conventions: u is a residual divided by the scale; rho(u) is about u**2 / 2 at zero;
psi = rho'; weight = psi / u, 1 at zero; c is in scale units.

For each registered loss there are compiled functions ``<name>_rho``, ``<name>_psi``,
``<name>_weight`` and ``<name>_dpsi`` of (u, c), for example `welsch_rho`: Numba ufuncs
that broadcast over NumPy arrays and can be called inside code compiled with
``numba.njit``. They are compiled on first use.

Examples
--------
>>> from robustfit.losses import welsch_weight
>>> welsch_weight([0.0, 1.0, 10.0], 2.985).round(6)
array([1.00000e+00, 8.93838e-01, 1.30000e-05])
"""

from typing import Any

from robustfit.losses._base import KINDS, LOSSES, Loss, get_loss, scipy_loss
from robustfit.losses._families import (
    Andrews,
    Arctan,
    ArctanPsi,
    Barron,
    Cauchy,
    Fair,
    GemanMcClure,
    Hampel,
    Huber,
    Linear,
    Logistic,
    Lqq,
    Optimal,
    PseudoHuber,
    Ramsay,
    Talwar,
    Tukey,
    Welsch,
)

__all__ = [
    "LOSSES",
    "Andrews",
    "Arctan",
    "ArctanPsi",
    "Barron",
    "Cauchy",
    "Fair",
    "GemanMcClure",
    "Hampel",
    "Huber",
    "Linear",
    "Logistic",
    "Loss",
    "Lqq",
    "Optimal",
    "PseudoHuber",
    "Ramsay",
    "Talwar",
    "Tukey",
    "Welsch",
    "get_loss",
    "scipy_loss",
]


def __getattr__(name: str) -> Any:
    loss, _, kind = name.rpartition("_")
    if loss in LOSSES and kind in KINDS:
        return LOSSES[loss](1.0).ufunc(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
