"""Kornia's robust losses under its names: a drop-in for ``kornia.losses``.

The constants are those of Kornia at ``c=None``; the formulas are those of `robustfit.losses`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch import Tensor, nn

from robustfit.losses import Cauchy, GemanMcClure, Loss, PseudoHuber, Welsch
from robustfit.torch._evaluate import REDUCTIONS, evaluate
from robustfit.torch._loss import Criterion

_WELSCH = Welsch.from_kornia()
_CHARBONNIER = PseudoHuber.from_kornia()
_CAUCHY = Cauchy.from_kornia()
_GEMAN_MCCLURE = GemanMcClure.from_kornia()

# Kornia takes None for "none" in all but `welsch_loss`.
_OR_NONE = (*REDUCTIONS, None)


def _tuned(loss: Loss, c: float | None) -> Loss:
    return loss if c is None else dataclasses.replace(loss, c=c)


def welsch_loss(
    img1: Tensor,
    img2: Tensor,
    reduction: str = "none",
    *,
    c: float | None = None,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the Welsch loss, :math:`1 - \exp(-r^2 / 2)` of r = img1 - img2.

    Parameters
    ----------
    img1, img2 : Tensor
        Prediction and target, of the same shape and device. Half precision is computed in
        single and rounded once; the difference of integers cannot wrap around.
    reduction : {"none", "mean", "sum"}, default: "none"
        Each loss, their mean or their sum.
    c : float, optional
        Tuning constant in the units of `robustfit.losses`. Default: sqrt(2), which is Kornia's
        formula.
    scale : float or Tensor, default: 1.0
        Scale of the residuals, broadcast, differentiable. The loss is
        ``scale**2 rho(r / scale)``: r**2 / 2 at zero, in squared units of r.
    weight : Tensor, optional
        Non-negative factor of each loss, broadcast. The mean is divided by the sum of the
        weights, as if an element of weight 2 stood there twice.
    mask : Tensor of bool, optional
        Where it is False there is no loss and no gradient, even where the inputs are NaN.

    Returns
    -------
    Tensor
        Shape of the inputs for "none", a scalar otherwise.

    Raises
    ------
    TypeError
        If an input is no tensor, or a sparse or boolean one.
    ValueError
        If shapes or devices differ, or the reduction is unknown. `ShapeError` is both.

    References
    ----------
    Dennis, J. E. and Welsch, R. E. (1978), Techniques for nonlinear least squares and robust
    regression, *Communications in Statistics B* 7, 345-359, doi:10.1080/03610917808812083.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import welsch_loss
    >>> welsch_loss(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3))
    tensor([0.0000, 0.3935, 1.0000])
    """
    loss = _tuned(_WELSCH, c)
    return evaluate(img1, img2, loss, reduction, scale=scale, weight=weight, mask=mask)


def charbonnier_loss(
    img1: Tensor,
    img2: Tensor,
    reduction: str | None = "none",
    *,
    c: float | None = None,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the Charbonnier loss, :math:`\sqrt{r^2 + 1} - 1` of r = img1 - img2.

    Parameters
    ----------
    img1, img2, scale, weight, mask
        As in `welsch_loss`.
    reduction : {"none", "mean", "sum"} or None, default: "none"
        As in `welsch_loss`; None is "none".
    c : float, optional
        Tuning constant in the units of `robustfit.losses`. Default: 1, which is Kornia's
        formula.

    Returns
    -------
    Tensor
        As in `welsch_loss`, which also names the errors.

    See Also
    --------
    robustfit.losses.PseudoHuber : The loss, and its other names.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import charbonnier_loss
    >>> charbonnier_loss(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3), "mean")
    tensor(2.8232)
    """
    loss = _tuned(_CHARBONNIER, c)
    return evaluate(
        img1, img2, loss, reduction, scale=scale, weight=weight, mask=mask, reductions=_OR_NONE
    )


def cauchy_loss(
    img1: Tensor,
    img2: Tensor,
    reduction: str | None = "none",
    *,
    c: float | None = None,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the Cauchy loss, :math:`\log(r^2 / 2 + 1)` of r = img1 - img2.

    Parameters
    ----------
    img1, img2, scale, weight, mask
        As in `welsch_loss`.
    reduction : {"none", "mean", "sum"} or None, default: "none"
        As in `welsch_loss`; None is "none".
    c : float, optional
        Tuning constant in the units of `robustfit.losses`. Default: sqrt(2), which is Kornia's
        formula.

    Returns
    -------
    Tensor
        As in `welsch_loss`, which also names the errors.

    See Also
    --------
    robustfit.losses.Cauchy : The loss.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import cauchy_loss
    >>> cauchy_loss(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3), "mean")
    tensor(1.3771)
    """
    loss = _tuned(_CAUCHY, c)
    return evaluate(
        img1, img2, loss, reduction, scale=scale, weight=weight, mask=mask, reductions=_OR_NONE
    )


def geman_mcclure_loss(
    img1: Tensor,
    img2: Tensor,
    reduction: str | None = "none",
    *,
    c: float | None = None,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Return the Geman-McClure loss, :math:`2 r^2 / (r^2 + 4)` of r = img1 - img2.

    Parameters
    ----------
    img1, img2, scale, weight, mask
        As in `welsch_loss`.
    reduction : {"none", "mean", "sum"} or None, default: "none"
        As in `welsch_loss`; None is "none".
    c : float, optional
        Tuning constant in the units of `robustfit.losses`. Default: 2, which is Kornia's
        formula.

    Returns
    -------
    Tensor
        As in `welsch_loss`, which also names the errors.

    See Also
    --------
    robustfit.losses.GemanMcClure : The loss.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import geman_mcclure_loss
    >>> geman_mcclure_loss(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3), "mean")
    tensor(0.7686)
    """
    loss = _tuned(_GEMAN_MCCLURE, c)
    return evaluate(
        img1, img2, loss, reduction, scale=scale, weight=weight, mask=mask, reductions=_OR_NONE
    )


# -- modules -----------------------------------------------------------------------------


class _DropIn(Criterion):
    """Kornia's constructor and ``forward``; as there, the reduction is checked at the call."""

    default: ClassVar[Loss]
    reductions: ClassVar[tuple[Any, ...]] = REDUCTIONS

    def __init__(
        self,
        reduction: str | None = "none",
        *,
        c: float | None = None,
        scale: float | Tensor | nn.Module = 1.0,
    ) -> None:
        super().__init__(_tuned(self.default, c), scale, reduction)

    def forward(
        self,
        img1: Tensor,
        img2: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `img1` against `img2`."""
        return evaluate(
            img1,
            img2,
            self.loss,
            self.reduction,
            scale=self.current_scale(img1, img2, mask),
            weight=weight,
            mask=mask,
            reductions=self.reductions,
        )


class WelschLoss(_DropIn):
    r"""Welsch loss of img1 - img2, :math:`1 - \exp(-r^2 / 2)` by default.

    Parameters
    ----------
    reduction, c
        As in `welsch_loss`.
    scale : float or Tensor or Parameter or Module, default: 1.0
        As in `RobustLoss`.

    Notes
    -----
    Weights and masks are given to ``forward(img1, img2, *, weight=None, mask=None)``.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import WelschLoss
    >>> WelschLoss(reduction="sum")(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3))
    tensor(1.3935)
    """

    default = _WELSCH


class CharbonnierLoss(_DropIn):
    r"""Charbonnier loss of img1 - img2, :math:`\sqrt{r^2 + 1} - 1` by default.

    Parameters
    ----------
    reduction, c
        As in `charbonnier_loss`.
    scale : float or Tensor or Parameter or Module, default: 1.0
        As in `RobustLoss`.

    Notes
    -----
    Weights and masks are given to ``forward(img1, img2, *, weight=None, mask=None)``.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import CharbonnierLoss
    >>> CharbonnierLoss(reduction="sum")(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3))
    tensor(8.4696)
    """

    default = _CHARBONNIER
    reductions = _OR_NONE


class CauchyLoss(_DropIn):
    r"""Cauchy loss of img1 - img2, :math:`\log(r^2 / 2 + 1)` by default.

    Parameters
    ----------
    reduction, c
        As in `cauchy_loss`.
    scale : float or Tensor or Parameter or Module, default: 1.0
        As in `RobustLoss`.

    Notes
    -----
    Weights and masks are given to ``forward(img1, img2, *, weight=None, mask=None)``.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import CauchyLoss
    >>> CauchyLoss(reduction="sum")(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3))
    tensor(4.1312)
    """

    default = _CAUCHY
    reductions = _OR_NONE


class GemanMcclureLoss(_DropIn):
    r"""Geman-McClure loss of img1 - img2, :math:`2 r^2 / (r^2 + 4)` by default.

    Parameters
    ----------
    reduction, c
        As in `geman_mcclure_loss`.
    scale : float or Tensor or Parameter or Module, default: 1.0
        As in `RobustLoss`.

    Notes
    -----
    Weights and masks are given to ``forward(img1, img2, *, weight=None, mask=None)``.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import GemanMcclureLoss
    >>> GemanMcclureLoss(reduction="sum")(torch.tensor([0.0, 1.0, 9.0]), torch.zeros(3))
    tensor(2.3059)
    """

    default = _GEMAN_MCCLURE
    reductions = _OR_NONE
