"""Robust linear regression as a layer of a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from robustfit import _checks
from robustfit.losses import Loss, get_loss
from robustfit.torch._irls import irls


class RobustLinear(nn.Module):
    """Layer that solves a robust regression: from A and b to the coefficients.

    It has no weights of its own to learn: it gives the layers before it, which make the data or
    the weights of the rows, the derivatives of the solution.

    Parameters
    ----------
    loss, c, efficiency, unroll
        As in `robustfit.torch.irls`.
    scale : str, float, callable, Tensor or Parameter, default: "auto"
        As there. A ``Parameter`` is learned.
    **options
        The other arguments of `robustfit.torch.irls`, without the weights.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; some are only known to be wrong at the first call.

    Notes
    -----
    Call it as ``forward(A, b, freq_weights=None, var_weights=None)``; the coefficients have shape
    (..., p). A network that tells how far to trust a row gives ``freq_weights``: a row of weight
    1/2 counts half, in the fit and in the scale. They must sum to more than p. The S-estimate
    that most losses start from is searched anew in each call; a convex loss (``loss="huber"``)
    needs none.

    The ``state_dict`` is empty unless the scale is a ``Parameter``.

    See Also
    --------
    irls : The function, with scale, weights and status, and what has derivatives.

    Examples
    --------
    Weights for the rows, learned from the error of the solution alone: the first three rows are
    wrong, all in the same way, and too consistent to stand out.

    >>> import torch
    >>> from robustfit.torch import RobustLinear
    >>> t = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)
    >>> A = torch.stack([torch.ones_like(t), t], dim=1)
    >>> truth = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> b = A @ truth + 0.01 * torch.cos(40.0 * t)
    >>> b[:3] += 0.5
    >>> layer = RobustLinear("huber", c=1.345)
    >>> layer
    RobustLinear(Huber(c=1.345), scale='auto')
    >>> trust = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    >>> optimizer = torch.optim.Adam([trust], lr=0.3)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     x = layer(A, b, freq_weights=torch.sigmoid(trust))
    ...     (x - truth).square().sum().backward()
    ...     optimizer.step()
    >>> bool(torch.sigmoid(trust[:3]).max() < torch.sigmoid(trust[3:]).min())
    True
    """

    scale: Any

    def __init__(
        self,
        loss: str | Loss = "welsch",
        *,
        c: float | None = None,
        efficiency: float | None = None,
        scale: Any = "auto",
        unroll: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        # Not the loss itself: a constant that is given is kept, a default one may be lowered.
        self.loss, self.c, self.efficiency = loss, c, efficiency
        self.tuned = get_loss(loss, c=c, efficiency=efficiency)
        self.unroll = _checks.whole(unroll, "unroll")
        self.options = options
        if isinstance(scale, Tensor) and not isinstance(scale, nn.Parameter):
            self.register_buffer("scale", scale, persistent=False)
        else:
            self.scale = scale

    def forward(
        self,
        A: Tensor,
        b: Tensor,
        freq_weights: Tensor | None = None,
        var_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the coefficients of the fit of `b` by `A`; see `irls`."""
        fit = irls(
            A,
            b,
            self.loss,
            c=self.c,
            efficiency=self.efficiency,
            scale=self.scale,
            freq_weights=freq_weights,
            var_weights=var_weights,
            unroll=self.unroll,
            **self.options,
        )
        return fit.x

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the printed module."""
        scale = "learned" if isinstance(self.scale, nn.Parameter) else repr(self.scale)
        unroll = f", unroll={self.unroll}" if self.unroll else ""
        others = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"{self.tuned}, scale={scale}{unroll}{others}"
