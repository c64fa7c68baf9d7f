"""What changes during training: the scale of the residuals, and the tuning constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustfit import _checks
from robustfit.scale._sample import QUARTILE, mean_cut_square
from robustfit.torch._evaluate import check_broadcast, check_pair, real_pair, result_dtype
from robustfit.torch._loss import Criterion

METHODS = ("mad", "tau")
# Cut-off of the tau-scale in unscaled MADs, as in `robustfit.scale.scale_tau2`.
_TAU_CUT = 3.0
_TAU_MEAN = mean_cut_square(_TAU_CUT * QUARTILE)


class ScaleTracker(nn.Module):
    """Running robust scale of the residuals, so that c is in standard deviations.

    Called with input, target and mask, as a criterion calls it, it returns the scale; in
    training mode it first lets the batch change it. No gradient flows through it.

    Parameters
    ----------
    method : {"mad", "tau"}, default: "mad"
        Scale of a batch about zero: the median absolute residual, or the more efficient
        explicit tau-scale. Both are consistent at the normal and stand up to half of outliers.
    decay : float, default: 0.99
        What is kept of the old scale at each step, in [0, 1). The first 1 / (1 - decay) batches
        are averaged with equal weights instead.
    num_channels : int, optional
        Number of scales, one for each entry of dimension `dim`. Default: one for all.
    dim : int, default: 1
        The dimension of the channels.
    sample : int, default: 65536
        A larger batch is judged by this many of its residuals per channel, evenly spread. The
        scale is then uncertain by half a percent, at a thousandth of the cost.

    Attributes
    ----------
    scale : Tensor
        Current scale of shape () or (num_channels,), in the units of the residuals; 1 before
        the first batch. It and ``steps`` are in the ``state_dict``.

    Notes
    -----
    A batch without finite residuals, or whose scale is zero because more than half of them are,
    changes nothing. Where ``torch.distributed`` is initialized, every process receives the mean
    of the scales of all, so that they stay equal; all of them have to take each step.

    References
    ----------
    Maronna, R. A. and Zamar, R. H. (2002), Robust estimates of location and dispersion for
    high-dimensional datasets, *Technometrics* 44, 307-317, doi:10.1198/004017002188618509.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import RobustLoss, ScaleTracker
    >>> criterion = RobustLoss("welsch", scale=ScaleTracker())
    >>> input = torch.tensor([0.1, -0.2, 0.3, -0.4, 100.0])
    >>> loss = criterion(input, torch.zeros(5))
    >>> print(f"{criterion.scale.scale:.4f}")
    0.4448
    """

    scale: Tensor
    steps: Tensor

    def __init__(
        self,
        method: str = "mad",
        decay: float = 0.99,
        *,
        num_channels: int | None = None,
        dim: int = 1,
        sample: int = 65536,
    ) -> None:
        super().__init__()
        self.method = _checks.known(method, "method", METHODS)
        self.decay = _checks.between(decay, "decay", 0.0, 1.0, "[)")
        self.sample = _checks.whole(sample, "sample", 1)
        if num_channels is not None:
            _checks.whole(num_channels, "num_channels", 1)
        self.num_channels, self.dim = num_channels, dim
        shape = () if num_channels is None else (num_channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("steps", torch.zeros(shape))

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the scale in a shape that broadcasts to the inputs.

        Parameters
        ----------
        input, target : Tensor
            Of the same shape.
        mask : Tensor of bool, optional
            Broadcast. Residuals where it is False do not count.
        """
        check_pair(input, target)
        if self.training:
            with torch.no_grad():
                self._update(self._batch_scale(input, target, mask))
        if self.num_channels is None:
            return self.scale.clone()
        shape = [1] * input.ndim
        shape[self.dim] = self.num_channels
        return self.scale.clone().view(shape)

    def _batch_scale(self, input: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        masks = None
        if mask is not None:
            check_broadcast("mask", mask, input)
            masks = self._lanes(mask.expand(input.shape))
        dtype = result_dtype(input, target)
        a, b = real_pair(self._lanes(input), self._lanes(target), masks, dtype)
        r = (a.to(self.scale.dtype) - b.to(self.scale.dtype)).abs()
        # NaN are left out by what follows, and infinite residuals are outliers.
        return lane_scale(r if masks is None else torch.where(masks, r, torch.nan), self.method)

    def _lanes(self, x: Tensor) -> Tensor:
        """Return at most `sample` elements of each channel, as rows."""
        if self.num_channels is None:
            x = x.reshape(1, -1)
        elif not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != self.num_channels:
            raise ValueError(
                f"the inputs must have num_channels={self.num_channels} entries along "
                f"dim={self.dim}, got shape {list(x.shape)}"
            )
        else:
            x = x.movedim(self.dim, 0).flatten(1) if x.ndim > 1 else x[:, None]
        n = x.shape[1]
        if n <= self.sample:
            return x
        # Multiples of the golden section: a fixed stride could stay in one column of an image.
        index = torch.arange(self.sample, device=x.device) * (int(0.6180339887 * n) | 1) % n
        return x[:, index]

    def _update(self, batch: Tensor) -> None:
        valid = torch.isfinite(batch) & (batch > 0.0)
        batch = torch.where(valid, batch, 0.0)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            both = torch.stack([batch, valid.to(batch.dtype)])
            torch.distributed.all_reduce(both)
            valid = both[1] > 0.0
            batch = both[0] / both[1].clamp(min=1.0)
        batch, valid = batch.view_as(self.scale), valid.view_as(self.scale)
        self.steps += valid
        share = (1.0 / self.steps.clamp(min=1.0)).clamp(min=1.0 - self.decay)
        self.scale.copy_(torch.where(valid, torch.lerp(self.scale, batch, share), self.scale))

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the printed module."""
        channels = "" if self.num_channels is None else f", num_channels={self.num_channels}"
        return f"{self.method!r}, decay={self.decay}{channels}"


def lane_scale(r: Tensor, method: str) -> Tensor:
    """Return the scale about zero of each row of absolute residuals, without its NaN.

    Rows of shape (k, n), scales of shape (k,); NaN for a row of NaN.
    """
    if r.shape[-1] == 0:
        return r.new_full(r.shape[:-1], torch.nan)
    # torch takes the lower of two middle values; this is their mean.
    middle = 0.5 * (r.nanmedian(-1).values - (-r).nanmedian(-1).values)
    if method == "mad":
        return middle / QUARTILE
    u = r / middle[:, None]
    square = u.clamp(max=_TAU_CUT).square().nanmean(-1) / _TAU_MEAN
    return middle * torch.sqrt(square)


class GNCSchedule:
    """Graduated non-convexity: anneal the tuning constant of a criterion to its target.

    At first c is so large that the loss is nearly least squares, which has no local minima; at
    each step it is divided by `factor`, until it is the c that the criterion was made with.

    Parameters
    ----------
    criterion : RobustLoss or one of Kornia's four
        Its c is multiplied from now on. Its other properties do not change.
    start : float, default: 10.0
        What c is multiplied with at first, at least 1: c times the scale should exceed the
        largest residual. A scale that a `ScaleTracker` follows starts large by itself.
    factor : float, default: 1.4
        What c is divided by at each `step`, above 1. From 10 it takes 7 steps.

    Attributes
    ----------
    c : float
        The current tuning constant.
    done : bool
        Whether c has reached its target.

    Notes
    -----
    Call `step` after each batch or each epoch, as a scheduler of ``torch.optim``. Only the value
    of a tensor changes: a compiled criterion is compiled anew once, at the end.

    References
    ----------
    Blake, A. and Zisserman, A. (1987), *Visual Reconstruction*, MIT Press.
    Yang, H., Antonante, P., Tzoumas, V. and Carlone, L. (2020), Graduated non-convexity for
    robust spatial perception, *IEEE Robotics and Automation Letters* 5, 1127-1134,
    doi:10.1109/LRA.2020.2965893.

    Examples
    --------
    >>> from robustfit.torch import GNCSchedule, RobustLoss
    >>> schedule = GNCSchedule(RobustLoss("tukey", c=4.685), start=2.0)
    >>> for _ in range(4):
    ...     print(f"{schedule.c:.4f}", schedule.done)
    ...     schedule.step()
    9.3700 False
    6.6929 False
    4.7806 False
    4.6850 True
    """

    def __init__(self, criterion: Criterion, start: float = 10.0, factor: float = 1.4) -> None:
        if not isinstance(criterion, Criterion):
            raise TypeError(
                f"criterion must be a RobustLoss or one of Kornia's four, got {criterion!r}"
            )
        self.criterion = criterion
        self.start = _checks.positive(start, "start")
        self.factor = _checks.positive(factor, "factor")
        for name, value, least in (("start", start, "at least"), ("factor", factor, "above")):
            if value < 1.0 or (value == 1.0 and least == "above"):
                raise ValueError(f"{name} must be {least} 1, got {name}={value!r}")
        self.steps = 0
        self._apply()

    @property
    def multiple(self) -> float:
        """What c is multiplied with now."""
        # Not start / factor**steps, which overflows in a long training.
        return max(self.start * self.factor ** -min(self.steps, 10_000), 1.0)

    @property
    def c(self) -> float:
        """The current tuning constant, in units of the scale."""
        return self.criterion.loss.c * self.multiple

    @property
    def done(self) -> bool:
        """Whether c has reached its target."""
        return self.multiple == 1.0

    def step(self) -> None:
        """Divide c by the factor, unless it has reached its target."""
        self.steps += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as the schedulers of ``torch.optim`` do."""
        return {"steps": self.steps, "start": self.start, "factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned."""
        self.steps, self.start, self.factor = state["steps"], state["start"], state["factor"]
        self._apply()

    def _apply(self) -> None:
        if self.done:
            self.criterion.widening = None
        elif self.criterion.widening is None:
            self.criterion.widening = torch.tensor(self.multiple)
        else:
            self.criterion.widening.fill_(self.multiple)
