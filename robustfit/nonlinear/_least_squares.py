"""`least_squares`: SciPy's signature with our losses, an estimated scale and blocks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, sparse
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator

from robustfit import _checks, linalg
from robustfit.losses import Linear, Loss, get_loss
from robustfit.nonlinear._engine import Callback
from robustfit.nonlinear._front import check_start, given_scale, limits, run, solver_options, tuned
from robustfit.nonlinear._problem import Array, Problem
from robustfit.nonlinear._torch import TorchFunction
from robustfit.result import Status

Tolerance = float | Literal["auto"] | None


def least_squares(
    fun: Callable[..., Any],
    x0: ArrayLike,
    jac: Callable[..., Any] | str | None = None,
    bounds: Any = (-np.inf, np.inf),
    method: Literal["trf", "dogbox", "lm"] = "trf",
    ftol: Tolerance = "auto",
    xtol: Tolerance = "auto",
    gtol: Tolerance = "auto",
    x_scale: ArrayLike | Literal["jac"] | None = None,
    loss: str | Loss = "welsch",
    f_scale: float | Literal["auto"] = "auto",
    diff_step: ArrayLike | None = None,
    tr_solver: Literal["exact", "lsmr"] | None = None,
    tr_options: Mapping[str, Any] | None = None,
    jac_sparsity: Any = None,
    max_nfev: int | None = None,
    verbose: int = 0,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    workers: Any = None,
    *,
    c: float | None = None,
    efficiency: float | None = None,
    block_size: int = 1,
    start: Literal["auto", "ladder", "p0"] = "auto",
    cov_type: str = "huber",
    rng: int | np.random.Generator | None = 0,
    progress: bool = False,
) -> OptimizeResult:
    """Minimize the robust loss of residuals that are a nonlinear function of parameters.

    The arguments are those of `scipy.optimize.least_squares`, in its order. The scale is
    estimated unless `f_scale` is given, and the start is searched for: see `curve_fit`.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args, **kwargs)``: residuals, real or complex, shape (m,).
    x0 : array_like of shape (p,)
        Where to start.
    jac : {None, "2-point", "3-point", "cs", "torch"} or callable, default: None
        Derivatives: a function of the arguments of `fun` that returns an array, a sparse matrix
        or a LinearOperator of shape (m, p), or how to compute them. None is "3-point", for
        ``loss="linear"`` SciPy's "2-point". With "torch" `fun` gets and returns tensors.
    bounds : tuple of two array_like or scipy.optimize.Bounds, optional
        Lower and upper bounds of x.
    method : {"trf", "dogbox", "lm"}, default: "trf"
        SciPy's algorithm for the last step; unlike SciPy's, "lm" takes any loss.
    ftol, xtol, gtol : float or None or "auto", default: "auto"
        Tolerances of the last step, relative to a problem whose residuals are of order 1. "auto"
        is 1e-12, 1e-12 and 1e-14, for ``loss="linear"`` SciPy's 1e-8.
    x_scale : array_like or "jac" or None, default: None
        Size of the parameters; None is "jac", for ``loss="linear"`` SciPy's default.
    loss : str or Loss, default: "welsch"
        Any loss of ours; "linear" is SciPy itself. Names that SciPy has too ("huber",
        "soft_l1", "cauchy", "arctan") are the same functions, but tuned: with ``c=1`` they
        are SciPy's.
    f_scale : float or "auto", default: "auto"
        Standard deviation of the good residuals, of each component for blocks.
    diff_step : array_like, optional
        Relative step of difference quotients.
    tr_solver, tr_options
        As in SciPy, for the last step.
    jac_sparsity : array_like or sparse matrix, optional
        Where derivatives can differ from zero; only for difference quotients.
    max_nfev : int, optional
        Evaluations that the last step may take; default: 500 (p + 1).
    verbose : {0, 1, 2}, default: 0
        What SciPy prints of the last step.
    args, kwargs : tuple and dict, optional
        Further arguments of `fun` and `jac`.
    callback : callable, optional
        Called as ``callback(intermediate_result)`` with an OptimizeResult of the best x so far,
        its scale, nit and nfev, whenever a start has been refined; raising StopIteration ends
        the search. For ``loss="linear"`` as in SciPy.
    workers : int or callable, optional
        Processes for the subsets (-1: all processors), or a function that works like ``map``.
    c, efficiency : float, optional
        Tuning constant of the loss, or the Gaussian efficiency that it follows from.
    block_size : int, default: 1
        So many consecutive residuals are one observation: the loss is that of their length
        over the scale. Complex residuals count as one. The constant is that of the dimension.
    start : {"auto", "ladder", "p0"}, default: "auto"
        Random subsets and a ladder of losses; the ladder; or x0 itself.
    cov_type : str, default: "huber"
        Covariance: "huber", "H1", "H2", "H3", "w" or "HC", see `robustfit.covariance`; for
        blocks "huber" or "H1".
    rng : int or numpy.random.Generator, default: 0
        Draws the subsets; the fixed default makes the same call give the same answer.
    progress : bool, default: False
        Whether to draw a progress bar (needs tqdm).

    Returns
    -------
    scipy.optimize.OptimizeResult
        SciPy's fields, where `status` is SciPy's number for the last step, `jac` the Jacobian
        of that step and `nfev` counts all evaluations; and ``scale``, ``weights`` (one per
        observation), ``cov``, ``bse`` and ``fit_status``, a `robustfit.Status`. `success` is
        that of the fit.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; the message names it.

    Warns
    -----
    ConvergenceWarning, BasinWarning
        If the fit is not a success; the message says what to try.

    See Also
    --------
    curve_fit : For a model and data.

    Notes
    -----
    ``cost`` is ``scale**2 sum(rho(|r_i| / scale))``, as SciPy defines it.

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> t = np.linspace(0.0, 4.0, 40)
    >>> y = 3.0 * np.exp(-t) + 0.01 * np.cos(9.0 * t)
    >>> y[::8] += 5.0
    >>> fit = rf.least_squares(lambda x: x[0] * np.exp(-x[1] * t) - y, [1.0, 0.1])
    >>> print(fit.x.round(2))
    [3. 1.]
    >>> print(np.flatnonzero(fit.weights < 0.1))
    [ 0  8 16 24 32]
    """
    if isinstance(jac, str) and jac == "torch":
        fun = TorchFunction(fun, 0)
        jac = fun.jacobian
    tolerances = {"ftol": ftol, "xtol": xtol, "gtol": gtol}
    given = {
        "x_scale": x_scale,
        "tr_solver": tr_solver,
        "tr_options": tr_options,
        "max_nfev": max_nfev,
    }
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options |= {key: value for key, value in tolerances.items() if value != "auto"}
    options["verbose"] = verbose
    k = _checks.whole(block_size, "block_size", least=1)
    if isinstance(get_loss(loss), Linear):
        more = {"callback": callback, "workers": workers, "diff_step": diff_step}
        options |= {key: value for key, value in more.items() if value is not None}
        found = optimize.least_squares(
            fun,
            x0,
            "2-point" if jac is None else jac,
            bounds,
            method,
            f_scale=1.0 if isinstance(f_scale, str) else f_scale,
            jac_sparsity=jac_sparsity,
            args=args,
            kwargs=dict(kwargs or {}),
            **options,
        )
        return _with_inference(found, k)
    problem = _problem(
        _Residuals(fun, jac, tuple(args), dict(kwargs or {})),
        x0,
        bounds,
        k,
        jac_sparsity,
        diff_step,
    )
    last, worth = run(
        problem,
        loss=tuned(loss, c, efficiency, problem.block),
        scale=given_scale(f_scale, "f_scale"),
        start=start,
        cov_type=cov_type,
        rng=rng,
        workers=workers,
        callback=callback,
        progress=progress,
        solver=solver_options(method, problem, options),
        stacklevel=2,
    )
    last.fun = problem.residuals(last.x) * problem.unit
    last.nfev = problem.evaluations
    last.success = worth.status.success
    last.message = "; ".join(filter(None, (worth.status.verdict, worth.message)))
    last.update(
        scale=worth.scale,
        weights=worth.weights,
        cov=worth.cov,
        bse=np.sqrt(np.diagonal(worth.cov)),
        fit_status=worth.status,
    )
    return last


@dataclasses.dataclass(frozen=True)
class _Residuals:
    """The caller's functions of the parameters, complex values as pairs of real ones."""

    fun: Callable[..., Any]
    jac: Callable[..., Any] | str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, x: Any) -> Any:
        """Return the residuals."""
        r = self.raw(x)
        # A complex step is not a complex residual.
        return r.view(np.float64) if np.iscomplexobj(r) and not np.iscomplexobj(x) else r

    def raw(self, x: Any) -> Any:
        """Return the residuals as the caller's function gives them."""
        return np.ascontiguousarray(np.atleast_1d(self.fun(x, *self.args, **self.kwargs)))

    def jacobian(self, x: Array) -> Any:
        """Return the derivatives by the caller's function."""
        assert callable(self.jac)
        J = self.jac(x, *self.args, **self.kwargs)
        if isinstance(J, LinearOperator):
            return J
        if sparse.issparse(J):
            return sparse.csr_array(J)
        J = np.atleast_2d(J)
        if np.iscomplexobj(J):
            return np.stack([J.real, J.imag], axis=1).reshape(-1, J.shape[1])
        return np.asarray(J, dtype=np.float64)


def _problem(
    residuals: _Residuals, x0: ArrayLike, bounds: Any, k: int, sparsity: Any, step: Any
) -> Problem:
    """Return the problem of SciPy's arguments."""
    x = check_start(x0)
    low, high = limits(bounds, len(x))
    r = residuals.raw(x)
    if r.ndim != 1:
        raise ValueError(f"`fun` must return at most 1-d array_like, got shape {r.shape}")
    if len(r) % k != 0:
        raise ValueError(f"block_size={k} does not divide the number of residuals, {len(r)}")
    k *= 2 if np.iscomplexobj(r) else 1
    m = r.view(np.float64).size if np.iscomplexobj(r) else len(r)
    jac: Any = residuals.jacobian if callable(residuals.jac) else residuals.jac or "3-point"
    if jac == "cs" and np.iscomplexobj(r):
        raise ValueError("jac='cs' needs real residuals; use '3-point'")
    if isinstance(jac, str) and sparsity is not None:
        sparsity = _of_blocks(sparsity, m // k, k)
    else:
        sparsity = None
    J = jac(x) if callable(jac) else None
    J = None if isinstance(J, np.ndarray) else J
    return Problem(
        fun=residuals,
        jac=jac,
        x0=x,
        lower=low,
        upper=high,
        n=m // k,
        block=k,
        unit=linalg.power_of_two(float(np.max(np.abs(r), initial=0.0))),
        step=step,
        sparsity=sparsity,
        sparse=sparsity is not None or J is not None,
        x_scale=np.where(x != 0.0, np.abs(x), 1.0) if isinstance(J, LinearOperator) else "jac",
    )


def _of_blocks(sparsity: Any, n: int, k: int) -> Any:
    """Return where derivatives can differ from zero once residuals are bent block by block."""
    pattern = sparse.csr_array(sparsity)
    if k == 1:
        return pattern
    together = sparse.kron(sparse.eye_array(n), np.ones((k, k)), format="csr")
    return together @ sparse.kron(pattern, np.ones((k * n // pattern.shape[0], 1)), format="csr")


def _with_inference(found: OptimizeResult, k: int) -> OptimizeResult:
    """Return SciPy's result with scale, weights and covariance added."""
    m, p = len(found.fun), len(found.x)
    scale = math.sqrt(2.0 * found.cost / (m - p)) if m > p else math.nan
    cov = np.full((p, p), np.nan)
    if isinstance(found.jac, np.ndarray):
        cov = linalg.inverse_gram(found.jac, np.ones(m)) * scale**2
    found.update(
        scale=scale,
        weights=np.ones(m // k),
        cov=cov,
        bse=np.sqrt(np.diagonal(cov)),
        fit_status=Status.CONVERGED if found.success else Status.MAXITER,
    )
    return found
