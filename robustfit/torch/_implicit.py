"""Derivatives of a robust fit from the equations that hold at the solution.

They are linearised there in torch, by the implicit function theorem: no iteration is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from robustfit.losses import Loss
from robustfit.scale._sample import QUARTILE

# The equations hold if a Newton step is shorter, in standard errors or relative to the scale.
_SETTLED = 1e-3
# Largest inverse of a matrix with a diagonal of one that is taken for regular.
_REGULAR = 1e12


# -- the problems ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The problems with one batch dimension, in float64, with the graph of the tensors.

    Attributes
    ----------
    A : Tensor of shape (1 or m, n, p)
        Designs.
    b : Tensor of shape (m, n)
        Responses.
    freq, var : Tensor of shape (1 or m, n), or None
        Weights.
    single : bool
        Whether there was no batch dimension.
    """

    A: Tensor
    b: Tensor
    freq: Tensor | None
    var: Tensor | None
    single: bool

    @classmethod
    def of(
        cls, A: Tensor, b: Tensor, weights: dict[str, Tensor | None], batch: tuple[int, ...]
    ) -> Stack:
        """Return the problems of checked tensors."""
        n, count = b.shape[-1], math.prod(batch)

        def rows(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            wide = x.to(torch.float64)
            return wide[None] if x.ndim == 1 else wide.expand(*batch, n).reshape(count, n)

        A = A.to(torch.float64)
        A = A[None] if A.ndim == 2 else A.expand(*batch, *A.shape[-2:]).reshape(count, n, -1)
        b = b.to(torch.float64).expand(*batch, n).reshape(count, n)
        freq, var = (rows(w) for w in weights.values())
        return cls(A, b, freq, var, not batch)

    @property
    def count(self) -> int:
        """Number of problems."""
        return len(self.b)

    @property
    def shared(self) -> bool:
        """Whether `robustfit.irls` gets one design and the responses as columns."""
        return len(self.A) == 1 < self.count

    def rows(self, resid: Tensor) -> Rows:
        """Return what the equations see: rows that were left out, or weigh nothing, are zero."""
        keep = torch.isfinite(resid)
        ones = torch.ones_like(self.b[:1])
        freq, var = (ones if w is None else w for w in (self.freq, self.var))
        keep = keep & (var > 0.0) & (freq > 0.0)
        A = torch.where(keep[:, :, None], self.A, 0.0)
        b, freq = (torch.where(keep, x, 0.0) for x in (self.b, freq))
        return Rows(A, b, freq, torch.sqrt(torch.where(keep, var, 1.0)))


# -- the equations -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What else the equations need; `unroll` is the number of steps, 0 for all."""

    ridge: float
    bounds: tuple[ArrayLike, ArrayLike] | None
    unroll: int


@dataclass(frozen=True)
class Rows:
    """Designs (m, n, p), responses, repeat counts and roots of inverse variances (m, n)."""

    A: Tensor
    b: Tensor
    freq: Tensor
    root: Tensor

    def detached(self) -> Rows:
        """Return the rows without their graph."""
        return Rows(self.A.detach(), self.b.detach(), self.freq.detach(), self.root.detach())

    def residuals(self, x: Tensor) -> Tensor:
        """Return b - A x, divided by the standard deviation at scale one."""
        return self.root * (self.b - (self.A @ x[:, :, None])[:, :, 0])

    def sum(self, y: Tensor) -> Tensor:
        """Return the sums of the rows of the designs times y."""
        return (self.A.mT @ y[:, :, None])[:, :, 0]

    def gram(self, weight: Tensor) -> Tensor:
        """Return the sums of squares of the designs with these weights."""
        return self.A.mT @ (self.A * (self.freq * self.root**2 * weight)[:, :, None])

    @property
    def df(self) -> Tensor:
        """Number of observations less that of the coefficients."""
        return self.freq.sum(1) - self.A.shape[2]


@dataclass(frozen=True)
class Curve:
    """A loss, with a constant for each problem: `ratio` is c over it, shape (m, 1)."""

    loss: Loss
    ratio: Tensor

    def at(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return psi, psi' and the weight."""
        v = u * self.ratio
        return self.loss.psi(v) / self.ratio, self.loss.dpsi(v), self.loss.weight(v)


@dataclass(frozen=True)
class Rule:
    """The loss, and how the scale follows from the rows and x, with its derivatives."""

    curve: Curve
    scale: Callable[[Rows, Tensor, Tensor], Tensor]


# -- the scales -------------------------------------------------------------------------------


def s_scale(chi: Loss, at: Tensor) -> Callable[[Rows, Tensor, Tensor], Tensor]:
    """Return the rule of the S-scale, one Newton step on its equation at the S-estimate."""

    def scale(rows: Rows, x: Tensor, s: Tensor) -> Tensor:
        t = rows.residuals(at)
        u = t.detach() / s[:, None]
        psi = chi.psi(u)
        rho = chi.rho(u) + psi * (t / s[:, None] - u)
        slope = (rows.freq.detach() * psi * u).sum(1)
        excess = (rows.freq * rho).sum(1) - 0.5 * chi.sup * rows.df
        # Without scale there is no slope either; a NaN would then come from a gradient of zero.
        return torch.as_tensor(s + s / torch.where(slope > 0.0, slope, 1.0) * excess)

    return scale


def mad(rows: Rows, x: Tensor, s: Tensor) -> Tensor:
    """Return the MAD as a function of the one or two residuals in the middle."""
    size = rows.residuals(x).abs()
    ranked, order = size.sort(1)
    reach = rows.freq.detach().gather(1, order).cumsum(1)
    half = 0.5 * reach[:, -1:]
    slack = size.shape[1] * torch.finfo(half.dtype).eps * half
    middle = [(reach >= half - slack), (reach > half + slack)]
    low, high = (ranked.gather(1, flags.byte().argmax(1, keepdim=True)) for flags in middle)
    return 0.5 * (low + high)[:, 0] / QUARTILE


def std(rows: Rows, x: Tensor, s: Tensor) -> Tensor:
    """Return the root mean square with n - p."""
    total = (rows.freq * rows.residuals(x) ** 2).sum(1)
    defined = (total > 0.0) & (rows.df > 0.0)
    return torch.sqrt(torch.where(defined, total, 1.0) / torch.where(defined, rows.df, 1.0))


# -- the derivatives ---------------------------------------------------------------------------


def derived(
    stack: Stack, values: dict[str, Tensor], solved: Tensor, rule: Rule, options: Options
) -> dict[str, Tensor]:
    """Return x, scale, weights and resid with derivatives.

    Those of a problem that is not solved, or whose equations do not hold at `values` or do not
    determine x, are NaN.
    """
    x = torch.nan_to_num(values["x"])
    s = torch.where(values["scale"] > 0.0, values["scale"], 1.0)
    rows = stack.rows(values["resid"])
    step, moved, defined = _newton(rows, x, s, rule, options)
    defined &= solved & (values["scale"] > 0.0)
    at = _attach(x, step, defined)
    scale = _attach(s, moved, defined)
    # The residuals of the data, and not of rows scaled or left out.
    keep = torch.isfinite(values["resid"])
    A, b = torch.where(keep[:, :, None], stack.A, 0.0), torch.where(keep, stack.b, 0.0)
    resid = b - (A @ at[:, :, None])[:, :, 0]
    u = rows.detached().residuals(x) / s[:, None]
    _, slope, weight = rule.curve.at(u)
    # The weight is flat at zero.
    bend = torch.where(u.abs() > 1e-8, (slope - weight) / u, 0.0)
    weights = bend * rows.residuals(at) / scale[:, None]
    found = {"x": at, "scale": scale, "resid": resid, "weights": weights}
    return {name: _attach(values[name], linear, None) for name, linear in found.items()}


def _newton(
    rows: Rows, x: Tensor, s: Tensor, rule: Rule, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Newton steps of x, the scales after them, and where they are defined.

    The steps are zero, up to rounding, but for their derivatives by the rows. s psi(t / s) is
    homogeneous of degree one in (t, s): with its slopes held it is linear, and has its value.
    """
    flat = rows.detached()
    t = flat.residuals(x)
    u = t / s[:, None]
    psi, slope, weight = rule.curve.at(u)
    scale, drift = rule.scale(rows, x, s), _drift(flat, x, s, rule)
    pull = slope * rows.residuals(x) + (psi - u * slope) * scale[:, None]
    gradient = rows.sum(rows.freq * rows.root * pull) - options.ridge * x
    free = _free(x, options.bounds)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    both = free[:, :, None] & free[:, None, :]
    by_scale = flat.sum(flat.freq * flat.root * (psi - u * slope))
    gram = torch.where(both, flat.gram(weight) + options.ridge * eye, eye)
    full = flat.gram(slope) + options.ridge * eye - by_scale[:, :, None] * drift[:, None, :]
    full = torch.where(both, full, eye)
    inverse, regular = _inverse(gram if options.unroll else full, gram)
    if options.unroll:
        inverse = _series(inverse, full, options.unroll)
    step = (inverse @ torch.where(free, gradient, 0.0)[:, :, None])[:, :, 0]
    moved = scale + (drift * step).sum(1)
    still = step.detach()
    length = torch.sqrt(((gram @ still[:, :, None])[:, :, 0] * still).sum(1)) / s
    settled = (length < _SETTLED) & ((scale.detach() / s - 1.0).abs() < _SETTLED)
    return step, moved, regular & settled


def _drift(flat: Rows, x: Tensor, s: Tensor, rule: Rule) -> Tensor:
    """Return the derivatives of the scales by x, (m, p)."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        scale = rule.scale(flat, x, s)
        # Not every scale depends on x.
        total = scale.sum() + 0.0 * x.sum()
    return torch.autograd.grad(total, x)[0]


def _free(x: Tensor, bounds: tuple[ArrayLike, ArrayLike] | None) -> Tensor:
    """Return which coefficients are inside their bounds."""
    if bounds is None:
        return torch.ones_like(x, dtype=torch.bool)
    low, high = (torch.tensor(np.asarray(end, dtype=np.float64)).to(x) for end in bounds)
    return (x > low) & (x < high)


def _inverse(matrix: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return inverses, computed with the diagonal of `gram` at one, and where they are regular."""
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    unit = torch.rsqrt(torch.where(diagonal > 0.0, diagonal, 1.0))
    square = unit[:, :, None] * unit[:, None, :]
    inverse, info = torch.linalg.inv_ex(matrix * square)
    # A comparison with NaN is false.
    regular = (info == 0) & (inverse.abs().amax((1, 2)) < _REGULAR)
    return torch.where(regular[:, None, None], inverse * square, 0.0), regular


def _series(inverse: Tensor, matrix: Tensor, terms: int) -> Tensor:
    """Return the Neumann series of the inverse of `matrix` about another inverse."""
    total = inverse
    for _ in range(terms - 1):
        total = total + inverse - inverse @ (matrix @ total)
    return total


class _Attached(torch.autograd.Function):
    """Values with the derivatives of others; NaN where these are not defined but asked for."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor, defined: Tensor | None) -> Tensor:
        ctx.defined = defined
        return value.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "robustfit.torch.irls has first derivatives only; call backward or grad without "
                "create_graph=True"
            )
        if ctx.defined is not None:
            defined = ctx.defined.reshape(-1, *[1] * (g.ndim - 1))
            g = torch.where(defined | (g == 0.0), g, torch.nan)
        return None, g, None


# Looked up once: `apply` is not typed.
_attach: Any = _Attached.apply
