"""Barron's general loss with a shape and a scale that are learned by maximum likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from robustfit import _checks
from robustfit._namespace import Torch
from robustfit.losses import Barron
from robustfit.torch._evaluate import (
    REDUCTIONS,
    check_pair,
    real_pair,
    result_dtype,
    weighted,
)

# Of the rule for the partition function: with this step and this end its error is below 1e-14.
_STEP = 0.125
_NODES = 321


class AdaptiveRobustLoss(nn.Module):
    r"""Negative log-likelihood of residuals under Barron's density, with learned parameters.

    Each element of r = input - target costs
    :math:`\rho_\alpha(r / s) + \log s + \log Z(\alpha)`, where :math:`\rho_\alpha` is
    `robustfit.losses.Barron` at c = 1 and Z makes a density of it: normal at alpha = 2, Cauchy
    at alpha = 0. The scale cannot run away, because log s charges for a large one and
    :math:`\rho` for a small one.

    Parameters
    ----------
    num_channels : int, default: 1
        Number of pairs (alpha, scale). One pair is shared by all elements.
    dim : int, default: 1
        Dimension of the inputs that has ``num_channels`` entries; not used if that is 1.
    alpha : float, default: 1.0
        Shape to start from, inside `alpha_range`.
    scale : float, default: 1.0
        Scale to start from, in the units of the residuals, above `min_scale`.
    learn_alpha, learn_scale : bool, default: True
        Whether the parameter is learned or stays at its start.
    alpha_range : tuple of float, default: (0.0, 1.999)
        Open interval of the shape, within [0, 2). Below 0 there is no density: Z is infinite.
        At 2 the derivative by alpha is.
    min_scale : float, default: 1e-5
        What the scale stays above, for residuals that are exactly zero.
    reduction : {"mean", "sum", "none"}, default: "mean"
        As in `robust_loss`.

    Attributes
    ----------
    alpha, scale : Tensor
        The current values, of shape (num_channels,).

    Raises
    ------
    ValueError
        If a start is outside its range, or the inputs have another number of channels.

    Notes
    -----
    The module has parameters of its own, ``raw_alpha`` and ``raw_scale``: give them to the
    optimizer. Weights and masks are given to ``forward(input, target, weight=None, mask=None)``.
    Losses can be negative: they are minus the logarithm of a density.

    Z is computed, not read from a table: substituting :math:`\sqrt{2 - \alpha} \sinh t` for the
    residual leaves a smooth integrand that falls at least like :math:`e^{-|t|}`, for which the
    trapezoidal rule converges geometrically (Trefethen and Weideman 2014).

    References
    ----------
    Barron, J. T. (2019), A general and adaptive robust loss function, *CVPR 2019*,
    doi:10.1109/CVPR.2019.00446.
    Trefethen, L. N. and Weideman, J. A. C. (2014), The exponentially convergent trapezoidal
    rule, *SIAM Review* 56, 385-458, doi:10.1137/130932132.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import AdaptiveRobustLoss
    >>> criterion = AdaptiveRobustLoss()
    >>> criterion
    AdaptiveRobustLoss(num_channels=1, alpha=1, scale=1, reduction='mean')
    >>> optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    >>> residuals = torch.distributions.Cauchy(0.0, 0.1).icdf(torch.linspace(0.001, 0.999, 999))
    >>> for _ in range(300):
    ...     optimizer.zero_grad()
    ...     criterion(residuals, torch.zeros(999)).backward()
    ...     _ = optimizer.step()
    >>> bool(criterion.alpha < 0.1)
    True
    >>> print(f"{criterion.scale.item() * 2**0.5:.2f}")
    0.10
    """

    raw_alpha: Tensor
    raw_scale: Tensor

    def __init__(
        self,
        num_channels: int = 1,
        *,
        dim: int = 1,
        alpha: float = 1.0,
        scale: float = 1.0,
        learn_alpha: bool = True,
        learn_scale: bool = True,
        alpha_range: tuple[float, float] = (0.0, 1.999),
        min_scale: float = 1e-5,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        low, high = alpha_range
        _checks.between(low, "alpha_range[0]", 0.0, 2.0, "[)")
        _checks.between(high, "alpha_range[1]", low, 2.0)
        alpha = _checks.between(alpha, "alpha", low, high)
        min_scale = _checks.positive(min_scale, "min_scale")
        scale = _checks.between(scale, "scale", min_scale, math.inf)
        self.num_channels = _checks.whole(num_channels, "num_channels", 1)
        self.dim, self.alpha_range, self.min_scale = dim, (low, high), min_scale
        self.reduction = _checks.known(reduction, "reduction", REDUCTIONS)
        share = (alpha - low) / (high - low)
        starts = {
            "raw_alpha": (math.log(share / (1.0 - share)), learn_alpha),
            "raw_scale": (math.log(scale - min_scale), learn_scale),
        }
        for name, (start, learned) in starts.items():
            self.register_parameter(
                name, nn.Parameter(torch.full((num_channels,), start), requires_grad=learned)
            )

    @property
    def alpha(self) -> Tensor:
        """The shape of each channel."""
        low, high = self.alpha_range
        return low + (high - low) * torch.sigmoid(self.raw_alpha)

    @property
    def scale(self) -> Tensor:
        """The scale of each channel, in the units of the residuals."""
        return self.min_scale + torch.exp(self.raw_scale)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the negative log-likelihood of `input` against `target`."""
        check_pair(input, target)
        dtype = result_dtype(input, target)
        a, b = real_pair(input, target, mask, dtype)
        wide = torch.promote_types(a.dtype, self.raw_alpha.dtype)
        r = a.to(wide) - b.to(wide)
        alpha, scale = self.alpha, self.scale
        level = torch.log(scale) + log_partition(alpha)
        alpha, scale, level = (self._spread(x, r) for x in (alpha, scale, level))
        value = Barron.rho1(r / scale, Torch, alpha) + level
        return weighted(value, weight, mask, self.reduction).to(dtype)

    def _spread(self, x: Tensor, r: Tensor) -> Tensor:
        """Return a parameter in the shape that broadcasts to the residuals."""
        if self.num_channels == 1:
            return x.squeeze(0)
        if not -r.ndim <= self.dim < r.ndim or r.shape[self.dim] != self.num_channels:
            raise ValueError(
                f"the inputs must have num_channels={self.num_channels} entries along "
                f"dim={self.dim}, got shape {list(r.shape)}"
            )
        shape = [1] * r.ndim
        shape[self.dim] = self.num_channels
        return x.view(shape)

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the printed module."""
        many = self.num_channels > 1
        alpha, scale = (
            "learned" if many else f"{x.item():.4g}" for x in (self.alpha.mean(), self.scale.mean())
        )
        return (
            f"num_channels={self.num_channels}, alpha={alpha}, scale={scale}, "
            f"reduction={self.reduction!r}"
        )


def log_partition(alpha: Tensor) -> Tensor:
    r"""Return log Z, :math:`Z = \int \exp(-\rho_\alpha(v)) dv`, for 0 <= alpha < 2.

    The result has the shape, dtype and derivatives that `alpha` gives it.
    """
    t = _STEP * torch.arange(_NODES, dtype=alpha.dtype, device=alpha.device)
    width = torch.sqrt(2.0 - alpha)[..., None]
    rho = Barron.rho1(width * torch.sinh(t), Torch, alpha[..., None])
    # The rule runs over the whole line, where the node at zero stands once.
    node = torch.where(t == 0.0, 0.5, torch.cosh(t))
    return torch.logsumexp(torch.log(width * node) - rho, -1) + math.log(2.0 * _STEP)
