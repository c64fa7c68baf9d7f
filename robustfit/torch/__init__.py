"""Robust losses and robust fits for training with PyTorch, with the formulas of robustfit.

`welsch_loss`, `charbonnier_loss`, `cauchy_loss`, `geman_mcclure_loss` and their modules stand in
for those of ``kornia.losses``. `RobustLoss` is any loss. `AdaptiveRobustLoss` learns shape and
scale, `ScaleTracker` estimates the scale, and `GNCSchedule` anneals the tuning constant. `irls`
is `robustfit.irls` with derivatives, and `RobustLinear` the same as a layer.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        'robustfit.torch needs PyTorch: pip install "robustfit[torch]"', name="torch"
    ) from error

from robustfit.torch._adaptive import AdaptiveRobustLoss
from robustfit.torch._drop_in import (
    CauchyLoss,
    CharbonnierLoss,
    GemanMcclureLoss,
    WelschLoss,
    cauchy_loss,
    charbonnier_loss,
    geman_mcclure_loss,
    welsch_loss,
)
from robustfit.torch._evaluate import ShapeError
from robustfit.torch._irls import IRLSResult, irls
from robustfit.torch._linear import RobustLinear
from robustfit.torch._loss import RobustLoss, robust_loss
from robustfit.torch._schedule import GNCSchedule, ScaleTracker

__all__ = [
    "AdaptiveRobustLoss",
    "CauchyLoss",
    "CharbonnierLoss",
    "GNCSchedule",
    "GemanMcclureLoss",
    "IRLSResult",
    "RobustLinear",
    "RobustLoss",
    "ScaleTracker",
    "ShapeError",
    "WelschLoss",
    "cauchy_loss",
    "charbonnier_loss",
    "geman_mcclure_loss",
    "irls",
    "robust_loss",
    "welsch_loss",
]
