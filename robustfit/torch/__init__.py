"""Robust losses for training with PyTorch, with the formulas of `robustfit.losses`.

`welsch_loss`, `charbonnier_loss`, `cauchy_loss`, `geman_mcclure_loss` and their modules stand in
for those of ``kornia.losses``. `RobustLoss` is any loss. `AdaptiveRobustLoss` learns shape and
scale, `ScaleTracker` estimates the scale, and `GNCSchedule` anneals the tuning constant.
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
from robustfit.torch._loss import RobustLoss, robust_loss
from robustfit.torch._schedule import GNCSchedule, ScaleTracker

__all__ = [
    "AdaptiveRobustLoss",
    "CauchyLoss",
    "CharbonnierLoss",
    "GNCSchedule",
    "GemanMcclureLoss",
    "RobustLoss",
    "ScaleTracker",
    "ShapeError",
    "WelschLoss",
    "cauchy_loss",
    "charbonnier_loss",
    "geman_mcclure_loss",
    "robust_loss",
    "welsch_loss",
]
