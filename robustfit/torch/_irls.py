"""Robust linear regression on tensors: the fit of `robustfit.irls`, with derivatives.

The fit is that of NumPy; the derivatives are those of `robustfit.torch._implicit`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from robustfit import _checks, linear
from robustfit.linear import BatchResult
from robustfit.losses import Linear, Loss, get_loss
from robustfit.result import FitResult, Status
from robustfit.torch._implicit import Curve, Options, Rule, Stack, derived, mad, s_scale, std

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_NAMES = ("x", "scale", "weights", "resid", "bse")

# Where a fit ended at a solution of its equations, which are regular there.
_SOLVED = (
    Status.CONVERGED,
    Status.EFFICIENCY_LOWERED,
    Status.AT_BOUND,
    Status.LEFT_BASIN,
    Status.NO_MAJORITY,
)
# The verdicts after which the constant of the loss need not be the one asked for.
_OTHER_CONSTANT = (Status.EFFICIENCY_LOWERED, Status.NO_MAJORITY)


@dataclass(frozen=True, eq=False)
class IRLSResult:
    """Result of `robustfit.torch.irls`, with the batch dimensions of the problems.

    Attributes
    ----------
    x : Tensor of shape (..., p)
        Coefficients.
    scale : Tensor of shape (...)
        Scale of the residuals, in response units (divided by sqrt(var_weights) per row).
    weights, resid : Tensor of shape (..., n)
        Robustness weights in [0, 1] and residuals, in response units.
    bse : Tensor of shape (..., p)
        Standard errors, without gradient.
    status : Status, or ndarray of Status of shape (...)
        How each fit ended.
    fit : FitResult or BatchResult
        The result of `robustfit.irls`: covariance, messages, summary.
    """

    x: Tensor
    scale: Tensor
    weights: Tensor
    resid: Tensor
    bse: Tensor
    status: Status | NDArray[Any]
    fit: FitResult | BatchResult

    @property
    def success(self) -> Tensor:
        """Whether each result can be used as an estimate, bool of shape (...)."""
        flags = np.vectorize(lambda status: status.success, otypes=[bool])(self.status)
        return torch.tensor(flags, device=self.x.device)


def irls(
    A: Tensor,
    b: Tensor,
    loss: str | Loss = "welsch",
    *,
    c: float | None = None,
    efficiency: float | None = None,
    start: str | ArrayLike = "auto",
    scale: str | float | Tensor | Callable[[Any], float] = "auto",
    s_loss: str | Loss | None = None,
    method: str | None = None,
    freq_weights: Tensor | None = None,
    var_weights: Tensor | None = None,
    ridge: float = 0.0,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    unroll: int = 0,
    **options: Any,
) -> IRLSResult:
    r"""Fit b = A x robustly, with derivatives of the solution by the data.

    The answers and statuses are those of `robustfit.irls`, which does the fit on the CPU in
    float64. Leading dimensions are a batch, which goes through its compiled kernels in one call.

    Parameters
    ----------
    A : Tensor of shape (..., n, p)
        Design matrices, of real floating dtype. One design of shape (n, p) is shared.
    b : Tensor of shape (..., n)
        Responses, on the device of `A`. The batch is first, also for a shared design; in
        `robustfit.irls` it is last there.
    loss, c, efficiency, start, s_loss, method, ridge, bounds
        As in `robustfit.irls`.
    scale : str, float, callable or Tensor of one element, default: "auto"
        As in `robustfit.irls`. A tensor is kept like a number, and gets a gradient.
    freq_weights, var_weights : Tensor of shape (n,) or (..., n), optional
        Repeat counts, which need not be whole, and inverse variances.
    unroll : int, default: 0
        0 for the derivatives of the solution. With k > 0 they are those of k reweighted
        least-squares steps from the solution, which tend to them as k grows: biased, but they
        need no regular Hessian.
    **options
        The other arguments of `robustfit.irls` for single fits: solver, leverage, cov_type,
        groups, tol, maxiter, nan_policy, rng, names, callback and progress.

    Returns
    -------
    IRLSResult
        In the dtype of the data and on their device.

    Raises
    ------
    TypeError
        If A, b or weights are no dense tensors of real floating dtype, or an argument is unknown.
    ValueError
        If shapes or devices do not fit, an argument is out of range, or derivatives are needed
        with ``leverage=True`` or of a tau-estimate.
    RuntimeError
        In a backward pass with ``create_graph=True``: there are no second derivatives.

    Warns
    -----
    BasinWarning, ConvergenceWarning, RankWarning
        As `robustfit.irls` does.

    See Also
    --------
    robustfit.irls : What the arguments mean.
    RobustLinear : The same as a layer.

    Notes
    -----
    `x`, `scale`, `weights` and `resid` have derivatives by `A`, `b`, both weights and `scale`.
    At the solution

    .. math:: \sum_i f_i \sqrt{v_i}\, s\, \psi(u_i)\, a_i = 0, \qquad
        u_i = \sqrt{v_i}\, (b_i - a_i^T x) / s,

    and the implicit function theorem gives dx from the linearised equation, with the matrix
    :math:`\sum_i f_i v_i \psi'(u_i) a_i a_i^T`. The S-scale solves an equation of its own at the
    S-estimate, where that is stationary, so that ds needs no derivative of it (envelope
    theorem). A re-estimated MAD and the root mean square are solved for along with x; the MAD
    moves with the residuals in the middle of the order, and so is not smooth where they change
    places. The scales "mad-fixed", "huber", "matlab", "d" and a callable
    are constants in the derivatives, and so is the efficiency where the fit has lowered it.

    A row of weight zero gets no gradient. Where the solution is no smooth function of the data,
    the gradient is NaN, never a number: after an exact fit, in a rank-deficient design, with too
    few rows of weight, before convergence. It is zero if that fit takes no part in the loss, as
    after ``torch.where(fit.success, value, 0.0)``.

    With the derivative of one least-squares step from the solution, :math:`I - G^{-1} J`, the k
    steps of `unroll` sum the first k terms of the Neumann series of :math:`J^{-1}`.

    References
    ----------
    Krantz, S. G. and Parks, H. R. (2013), *The Implicit Function Theorem*, Birkhäuser,
    doi:10.1007/978-1-4614-5981-1.
    Lorraine, J., Vicol, P. and Duvenaud, D. (2020), Optimizing millions of hyperparameters by
    implicit differentiation, *AISTATS 2020*, PMLR 108, 1540-1552.

    Examples
    --------
    >>> import torch
    >>> from robustfit.torch import irls
    >>> t = torch.arange(20, dtype=torch.float64)
    >>> A = torch.stack([torch.ones_like(t), t], dim=1)
    >>> b = 1.0 + 2.0 * t + 0.1 * torch.cos(7.0 * t)
    >>> b[3] = 500.0
    >>> fit = irls(A, b.requires_grad_())
    >>> print(fit.x.detach().round(decimals=1))
    tensor([1., 2.], dtype=torch.float64)
    >>> fit.x[1].backward()
    >>> print(b.grad[3].item())
    0.0
    """
    unroll = _checks.whole(unroll, "unroll")
    if "outputs" in options:
        raise TypeError("irls of tensors has no argument outputs: it returns all of them")
    weights = {"freq_weights": freq_weights, "var_weights": var_weights}
    dtype, batch = _checked(A, b, weights, scale)
    if not isinstance(options.get("rng", 0), int):
        # As `robustfit.irls` does for a batch; a second call then draws the same.
        rng = _checks.generator(options["rng"])
        options["rng"] = int(rng.integers(1 << 62)) if batch else rng
    options |= {"s_loss": s_loss, "ridge": ridge, "bounds": bounds, "start": start}
    options |= {
        "scale": float(scale.detach()) if isinstance(scale, Tensor) else scale,
        "method": method,
    }
    stack = Stack.of(A, b, weights, batch)
    fit = _fit(stack, loss, c=c, efficiency=efficiency, **options)
    values = {name: _values(stack, fit, name).to(A.device) for name in _NAMES}
    status = np.array(fit.status, dtype=object).reshape(stack.count)
    inputs = [A, b, *weights.values(), scale]
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        for name, value in (("leverage", True), ("method", "tau"), ("scale", "tau")):
            if _is(options.get(name), value):
                raise ValueError(f"{name}={value!r} has no derivatives; detach the tensors")
        tuned = get_loss(loss, c=c, efficiency=efficiency)
        rule = _rule(tuned, fit, stack, options, scale)
        solved = torch.tensor([one in _SOLVED for one in status], device=A.device)
        values |= derived(stack, values, solved, rule, Options(ridge, bounds, unroll))
    shaped = {
        name: value.to(dtype).reshape((*batch, *value.shape[1:])) for name, value in values.items()
    }
    return IRLSResult(**shaped, status=status.reshape(batch) if batch else status[0], fit=fit)


# -- the fit -----------------------------------------------------------------------------------


def _checked(
    A: Any, b: Any, weights: dict[str, Any], scale: Any
) -> tuple[torch.dtype, tuple[int, ...]]:
    """Return the dtype of the result and the batch dimensions, or refuse the tensors."""
    tensors = {"A": A, "b": b, **{k: w for k, w in weights.items() if w is not None}}
    if isinstance(scale, Tensor):
        tensors["scale"] = scale
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x)}")
        if x.dtype not in _FLOATS or x.layout is not torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor of real floating dtype, got {x.dtype}, {x.layout}"
            )
        if x.device != A.device and name != "scale":
            raise ValueError(f"{name} must be on the device of A, {A.device}, got {x.device}")
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise ValueError(f"scale must have one element, got shape {list(scale.shape)}")
    if A.ndim < 2:
        raise ValueError(f"A must have shape (..., n, p), got shape {list(A.shape)}")
    n, leading = A.shape[-2], [A.shape[:-2]]
    for name in tensors.keys() - {"A", "scale"}:
        shape = tensors[name].shape
        if shape[-1:] != (n,):
            raise ValueError(
                f"{name} must have shape (..., {n}) for A of shape {list(A.shape)}, "
                f"got shape {list(shape)}"
            )
        leading.append(shape[:-1])
    try:
        batch = np.broadcast_shapes(*leading)
    except ValueError as error:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"the batch dimensions do not fit together: {shapes}") from error
    return torch.promote_types(A.dtype, b.dtype), tuple(batch)


def _fit(stack: Stack, loss: str | Loss, **options: Any) -> Any:
    """Return the fit by NumPy."""

    def rows(x: Tensor | None) -> Any:
        if x is None:
            return None
        array = _array(x)
        if stack.single or len(array) == 1 < stack.count:
            return array[0]
        return array.T if stack.shared else array

    A = _array(stack.A)
    return linear.irls(
        A[0] if stack.single or stack.shared else A,
        rows(stack.b),
        loss,
        freq_weights=rows(stack.freq),
        var_weights=rows(stack.var),
        **options,
    )


def _values(stack: Stack, fit: Any, name: str) -> Tensor:
    """Return an attribute of the fit with the problems first."""
    value = torch.tensor(getattr(fit, name), dtype=torch.float64)
    if stack.single:
        return value[None]
    return value.mT if stack.shared and value.ndim == 2 else value


def _array(x: Tensor) -> NDArray[Any]:
    """Return the values for NumPy, without a copy where they are on the CPU."""
    return np.asarray(x.detach().cpu().resolve_neg().numpy())


def _rule(loss: Loss, fit: Any, stack: Stack, options: dict[str, Any], given: Any) -> Rule:
    """Return the loss and the scale of the fit."""
    start, scale = linear._named(options["method"], options["start"], options["scale"])
    if options["method"] == "s":
        loss = linear._s_loss(options["s_loss"], loss)
    _, scale = linear._resolve(start, scale, loss, leverage=False, free=True)
    device = stack.b.device
    constants = torch.tensor(_constants(fit, stack, loss), dtype=torch.float64, device=device)
    curve = Curve(loss, (loss.c / constants)[:, None])
    if isinstance(given, Tensor):
        return Rule(curve, lambda rows, x, s: given.reshape(1).to(s).expand_as(s))
    if isinstance(scale, str) and scale == "s":
        chi = linear._s_loss(options["s_loss"], loss)
        return Rule(curve, s_scale(chi, _s_estimates(fit, stack, chi, options).to(device)))
    name = ("std" if isinstance(loss, Linear) else "mad") if _is(scale, "auto") else scale
    moving = {"mad": mad, "std": std}
    return Rule(curve, moving[name] if _is(name, *moving) else lambda rows, x, s: s)


def _is(value: Any, *names: str | bool) -> bool:
    """Tell whether a value is one of the names; it may be an array."""
    return isinstance(value, str | bool) and value in names


def _constants(fit: Any, stack: Stack, loss: Loss) -> list[float]:
    """Return the constant that the loss of each fit had in the end."""
    if stack.single:
        return [fit.loss.c]
    constants = [loss.c] * stack.count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, status in enumerate(fit.status):
            if status in _OTHER_CONSTANT:
                constants[i] = fit[i].loss.c
    return constants


def _s_estimates(fit: Any, stack: Stack, chi: Loss, options: dict[str, Any]) -> Tensor:
    """Return the S-estimates, (m, p): the M-estimates by the loss of the S-scale, at it."""
    if stack.single:
        x = fit.x if fit.search is None else fit.search.x
        return torch.tensor(x, dtype=torch.float64)[None]
    again = options | {"start": "s", "scale": "s", "method": None, "outputs": ("x",)}
    again |= {"ridge": 0.0, "bounds": None, "cov_type": "auto", "groups": None, "callback": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _values(stack, _fit(stack, chi, **again), "x")
