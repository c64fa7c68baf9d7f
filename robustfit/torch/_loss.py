"""Any loss of `robustfit.losses` as a training loss: `robust_loss` and `RobustLoss`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustfit.losses import Loss, get_loss
from robustfit.torch._evaluate import REDUCTIONS, evaluate


def robust_loss(
    input: Tensor,
    target: Tensor,
    loss: str | Loss = "welsch",
    c: float | None = None,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Return the robust loss :math:`s^2 \rho(r / s)` of r = input - target.

    Near zero it is r**2 / 2 for every loss and scale, and its gradient, s psi(r / s), is in the
    units of the residuals: ``loss="huber", c=delta`` is ``torch.nn.functional.huber_loss``.

    Parameters
    ----------
    input, target : Tensor
        Of the same shape and device: nothing is broadcast. Half precision is computed in single
        and rounded once, the residual of complex numbers is its absolute value, and integers
        become the default dtype.
    loss : str or Loss, default: "welsch"
        Name of a registered loss, or a `robustfit.losses.Loss`, also one of your own.
    c : float, optional
        Tuning constant in units of the scale. Default: that of 95 % Gaussian efficiency.
    scale : float or Tensor, default: 1.0
        Scale s of the good residuals, broadcast, differentiable. By gradient alone it would
        shrink to zero: it needs a `ScaleTracker`, or the likelihood of `AdaptiveRobustLoss`.
    weight : Tensor, optional
        Non-negative factor of each loss, broadcast. The mean is divided by the sum of the
        weights, as if an element of weight 2 stood there twice; PyTorch's own losses divide by
        the number of elements.
    mask : Tensor of bool, optional
        Broadcast. Where it is False there is no loss and no gradient, even where the inputs are
        NaN. The mean is over the others, and NaN where there are none.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Mean, sum, or each loss.

    Returns
    -------
    Tensor
        A scalar, or the shape of the inputs for "none"; in their floating dtype.

    Raises
    ------
    TypeError
        If an input is no dense tensor of numbers, or the mask is not boolean.
    ValueError
        If shapes or devices differ, something does not broadcast, or the loss, c, scale or
        reduction is unknown or out of range.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import robust_loss
    >>> input = torch.tensor([0.5, 1.0, 50.0])
    >>> print(f"{robust_loss(input, torch.zeros(3), 'huber', c=1.0):.4f}")
    16.7083
    >>> print(f"{robust_loss(input, torch.zeros(3), 'welsch'):.4f}")
    1.6834
    """
    if c is None and isinstance(loss, str) and torch.compiler.is_compiling():
        c = _default_c(loss)
    chosen = get_loss(loss, c=c)
    return evaluate(input, target, chosen, reduction, scale=scale, weight=weight, mask=mask)


def _default_c(name: str) -> float:
    """Return the default constant of a loss: a search that the compiler must not follow."""
    return get_loss(name).c


# The mark that torch.compiler.assume_constant_result sets, which first imports the compiler.
_default_c._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Criterion(nn.Module):
    """A loss, a scale and a reduction; what the loss modules here are made of.

    The scale may be a number, a tensor, a ``Parameter``, or a module that is called with the
    two inputs and the mask and returns one, as `ScaleTracker` does.
    """

    scale: Any
    widening: Tensor | None

    def __init__(self, loss: Loss, scale: float | Tensor | nn.Module, reduction: Any) -> None:
        super().__init__()
        self.loss = loss
        self.reduction = reduction
        if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
            self.register_buffer("scale", scale, persistent=False)
        else:
            self.scale = scale
        # What `GNCSchedule` multiplies c with: a tensor, so that a change compiles nothing anew.
        self.register_buffer("widening", None, persistent=False)

    def current_scale(self, a: Tensor, b: Tensor, mask: Tensor | None) -> Any:
        """Return the scale for these inputs, widened while it is annealed."""
        scale = self.scale(a, b, mask) if isinstance(self.scale, nn.Module) else self.scale
        return scale if self.widening is None else scale * self.widening

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the printed module."""
        scale = "" if isinstance(self.scale, nn.Module) else f"scale={self.scale}, "
        return f"{self.loss}, {scale}reduction={self.reduction!r}"


class RobustLoss(Criterion):
    r"""Robust loss :math:`s^2 \rho(r / s)` of r = input - target, for any loss.

    Parameters
    ----------
    loss, c, reduction
        As in `robust_loss`.
    scale : float or Tensor or Parameter or Module, default: 1.0
        As in `robust_loss`, or a module that makes a scale from input, target and mask:
        a `ScaleTracker`.

    Notes
    -----
    Weights and masks are given to ``forward(input, target, weight=None, mask=None)``. The
    ``state_dict`` is empty unless the scale is a ``Parameter`` or a module.

    See Also
    --------
    robust_loss : The function, and what the arguments mean.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import RobustLoss
    >>> criterion = RobustLoss("tukey", c=4.685, scale=0.5)
    >>> criterion
    RobustLoss(Tukey(c=4.685), scale=0.5, reduction='mean')
    >>> input = torch.tensor([0.1, 50.0], requires_grad=True)
    >>> criterion(input, torch.zeros(2)).backward()
    >>> input.grad
    tensor([0.0498, 0.0000])
    """

    def __init__(
        self,
        loss: str | Loss = "welsch",
        c: float | None = None,
        scale: float | Tensor | nn.Module = 1.0,
        reduction: str = "mean",
    ) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
        super().__init__(get_loss(loss, c=c), scale, reduction)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `input` against `target`; see `robust_loss`."""
        scale = self.current_scale(input, target, mask)
        return evaluate(
            input, target, self.loss, self.reduction, scale=scale, weight=weight, mask=mask
        )
