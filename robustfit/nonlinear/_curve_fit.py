"""`curve_fit`: SciPy's signature, robust by default."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from robustfit import linalg
from robustfit.losses import Linear, Loss
from robustfit.nonlinear._curve import Curve, feasible, parameter_names, prepare
from robustfit.nonlinear._engine import Callback
from robustfit.nonlinear._front import (
    check_start,
    given_scale,
    limits,
    run,
    solver_options,
    tuned,
)
from robustfit.nonlinear._problem import Array, Problem
from robustfit.nonlinear._result import CurveFit, derivative
from robustfit.nonlinear._search import LARGE
from robustfit.nonlinear._torch import TorchFunction
from robustfit.result import Status

# What a robust fit takes of the arguments of SciPy's leastsq and least_squares.
_KEYWORDS = (
    "ftol", "xtol", "gtol", "x_scale", "diff_step", "tr_solver", "tr_options", "max_nfev",
    "maxfev", "verbose", "workers",
)  # fmt: skip
# Of the largest response: a scale below this is rounding.
_FLOOR = 8.0 * float(np.finfo(np.float64).eps)


def curve_fit(
    f: Callable[..., Any],
    xdata: Any,
    ydata: ArrayLike,
    p0: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = (-np.inf, np.inf),
    method: Literal["lm", "trf", "dogbox"] | None = None,
    jac: Callable[..., Any] | str | None = None,
    *,
    full_output: bool = False,
    nan_policy: Literal["raise", "omit"] | None = None,
    loss: str | Loss = "welsch",
    c: float | None = None,
    efficiency: float | None = None,
    scale: float | Literal["auto"] = "auto",
    start: Literal["auto", "ladder", "p0"] = "auto",
    cov_type: str = "huber",
    rng: int | np.random.Generator | None = 0,
    callback: Callback | None = None,
    progress: bool = False,
    **kwargs: Any,
) -> CurveFit:
    """Fit a curve to data with outliers; SciPy's signature, robust by default.

    The call, its arguments and ``popt, pcov = curve_fit(...)`` are those of
    `scipy.optimize.curve_fit`. The noise level need not be known, and with up to 40 % of gross
    outliers a good `p0` is as important as it is without any, not more.

    Parameters
    ----------
    f : callable
        The model ``f(x, *params)``. It is tried with columns of parameters, shape (k, 1), and
        then called for several parameter vectors at once if it gives what it gives for one.
    xdata : array_like or object
        First argument of the model; shape (n,), or (k, n) for k predictors.
    ydata : array_like of shape (n,)
        Response.
    p0 : array_like of shape (p,), optional
        Where to start. Default: 1 for each parameter, or a point well within the bounds.
    sigma : float or array_like of shape (n,) or (n, n), optional
        Standard deviations of the response, or its covariance matrix. Residuals are divided by
        them, or whitened, before the loss sees them; with a full matrix one bad observation
        becomes several bad residuals.
    absolute_sigma : bool, default: False
        Whether `sigma` is in units of `ydata`: the scale is then 1 and not estimated.
    check_finite : bool, optional
        Whether non-finite values raise ValueError; default: True unless `nan_policy` is given.
    bounds : tuple of two array_like or scipy.optimize.Bounds, optional
        Lower and upper bounds of the parameters. The standard errors do not know of them.
    method : {"lm", "trf", "dogbox"}, optional
        SciPy's algorithm for the last step; default: "lm" without bounds, else "trf". Unlike
        SciPy's, "lm" takes any loss.
    jac : callable or {"2-point", "3-point", "cs", "torch"}, optional
        Derivatives of the model: ``jac(x, *params)`` of shape (n, p), or how to compute them.
        Default: "3-point"; where parameters nearly replace each other, "2-point" may stop
        early. With "torch" the model gets and returns tensors.
    full_output : bool, default: False
        Whether five values are unpacked: ``popt, pcov, infodict, mesg, ier``.
    nan_policy : {None, "raise", "omit"}, default: None
        Whether NaN is an error or its observations are left out.
    loss : str or Loss, default: "welsch"
        Any loss of ours; "linear" is SciPy's curve_fit itself. Names that SciPy has too are
        the same functions, but tuned for 95 % efficiency.
    c, efficiency : float, optional
        Tuning constant of the loss, in scale units, or the Gaussian efficiency that it follows
        from; default: 95 %.
    scale : float or "auto", default: "auto"
        Standard deviation of the good residuals, in units of `sigma` where that is given. "auto"
        is their M-scale of breakdown point 1/2.
    start : {"auto", "ladder", "p0"}, default: "auto"
        Where the loss starts: the best of random subsets and of a ladder of losses from p0, the
        best of the ladder, or p0 itself.
    cov_type : {"huber", "H1", "H2", "H3", "w", "HC"}, default: "huber"
        Covariance of the parameters, see `robustfit.covariance`; "HC" allows for errors of
        unequal variance.
    rng : int or numpy.random.Generator, default: 0
        Draws the subsets; the fixed default makes the same call give the same answer.
    callback : callable, optional
        Called as ``callback(intermediate_result)`` with an OptimizeResult of the best x so far,
        its scale, nit and nfev, whenever a start has been refined; raising StopIteration ends
        the search with the best one.
    progress : bool, default: False
        Whether to draw a progress bar (needs tqdm).
    **kwargs
        For the last step: ``ftol, xtol, gtol, x_scale, diff_step, tr_solver, tr_options,
        max_nfev, verbose``; ``workers``, a number of processes for the subsets or a function
        that works like ``map``. For ``loss="linear"`` whatever SciPy takes.

    Returns
    -------
    CurveFit
        Unpacks to ``popt, pcov``; has parameters, covariance, scale, weights, status,
        `predict`, `summary` and `plot`.

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
    least_squares : For residuals instead of a model, sparse Jacobians, and blocks.
    irls : For linear models.

    Notes
    -----
    The fit is a nonlinear MM-estimate (Yohai 1987, doi:10.1214/aos/1176350366). Candidates are
    the fits by least squares, pseudo-Huber and Cauchy from p0, and of random subsets; parameters
    in which the model is linear are solved for (Golub and Pereyra 1973, doi:10.1137/0710036).
    Each is refined to a minimum of the M-scale of the residuals; of more than 4000 observations
    a sample does for that. The best of them, or least squares where a test (Shapiro and Wilk
    1965, doi:10.1093/biomet/52.3-4.591) does not tell its residuals from normal ones, is where
    the wanted loss starts, with the scale found there; of several parameter vectors that
    describe one curve, the one that p0 leads to is returned. Nothing depends on the units of y.

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> t = np.linspace(0.0, 4.0, 40)
    >>> y = 3.0 * np.exp(-t) + 0.01 * np.cos(9.0 * t)
    >>> y[::8] += 5.0
    >>> popt, pcov = rf.curve_fit(lambda t, a, b: a * np.exp(-b * t), t, y)
    >>> print(popt.round(2))
    [3. 1.]
    >>> fit = rf.curve_fit(lambda t, a, b: a * np.exp(-b * t), t, y)
    >>> print(np.sort(fit.outliers()))
    [ 0  8 16 24 32]
    """
    wanted = tuned(loss, c, efficiency, 1)
    if isinstance(jac, str) and jac == "torch":
        f = TorchFunction(f, 1)
        jac = f.jacobian
    if isinstance(wanted, Linear):
        values = optimize.curve_fit(
            f,
            xdata,
            ydata,
            p0,
            sigma,
            absolute_sigma,
            check_finite,
            bounds,
            method,
            jac,
            full_output=True,
            nan_policy=nan_policy,
            **kwargs,
        )
        curve = prepare(f, xdata, ydata, sigma, False, nan_policy)
        return _least_squares(values, curve, wanted, parameter_names(f, p0), jac, full_output)
    names = parameter_names(f, p0)
    low, high = limits(bounds, len(names))
    first = feasible(low, high) if p0 is None else check_start(p0)
    finite = nan_policy is None if check_finite is None else check_finite
    curve = prepare(f, xdata, ydata, sigma, finite, nan_policy)
    given = _known_keywords(kwargs)
    jac = "3-point" if jac is None else jac
    problem = _problem(curve, jac, first, low, high, given.pop("diff_step", None))
    known = given_scale(scale, "scale")
    if known is None and absolute_sigma:
        known = 1.0
    last, worth = run(
        problem,
        loss=wanted,
        scale=known,
        start=start,
        cov_type=cov_type,
        rng=rng,
        workers=given.pop("workers", None),
        callback=callback,
        progress=progress,
        solver=solver_options(method or ("trf" if problem.bounded else "lm"), problem, given),
        stacklevel=2,
    )
    fvec = problem.residuals(last.x) * problem.unit
    return CurveFit(
        x=last.x,
        cov=worth.cov,
        cov_type=cov_type,
        scale=worth.scale,
        weights=curve.spread(worth.weights),
        resid=curve.spread(-curve.unwhiten(fvec)),
        loss=wanted,
        status=worth.status,
        message=worth.message,
        cost=last.cost,
        nobs=problem.n,
        df_resid=problem.n - problem.p,
        nfev=problem.evaluations,
        names=names,
        infodict={"nfev": problem.evaluations, "fvec": fvec},
        ier=last.status,
        _full_output=full_output,
        _curve=curve,
        _jac=jac,
    )


def _problem(
    curve: Curve, jac: Callable[..., Any] | str, first: Array, low: Array, high: Array, step: Any
) -> Problem:
    """Return the problem of fitting a curve."""
    with np.errstate(all="ignore"):
        divides = len(curve.y) > LARGE and curve.divides(first, jac)
    return Problem(
        fun=curve,
        jac=derivative(curve, jac),
        x0=first,
        lower=low,
        upper=high,
        n=len(curve.y),
        batch=curve.many if curve.batches(first) else None,
        unit=linalg.power_of_two(float(np.max(np.abs(curve.whiten(curve.y))))),
        floor=_FLOOR,
        step=step,
        sample=functools.partial(_part, curve, jac, first, low, high, step) if divides else None,
    )


def _part(
    curve: Curve,
    jac: Callable[..., Any] | str,
    first: Array,
    low: Array,
    high: Array,
    step: Any,
    rows: NDArray[np.intp],
) -> Problem:
    """Return the problem of fitting a curve to some of the observations."""
    return _problem(curve.take(rows), jac, first, low, high, step)


def _known_keywords(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for the solver, under the names of SciPy's least_squares."""
    if "args" in kwargs:
        raise ValueError("'args' is not a supported keyword argument.")
    given = dict(kwargs)
    if "maxfev" in given:
        given.setdefault("max_nfev", given.pop("maxfev"))
    unknown = sorted(set(given) - set(_KEYWORDS))
    if unknown:
        raise TypeError(
            f"curve_fit got an unexpected keyword argument {unknown[0]!r}; with a robust loss it "
            f"takes {', '.join(_KEYWORDS)}"
        )
    return given


def _least_squares(
    values: tuple[Any, ...],
    curve: Curve,
    loss: Loss,
    names: tuple[str, ...],
    jac: Any,
    full_output: bool,
) -> CurveFit:
    """Return SciPy's fit as ours."""
    x, cov, infodict, message, ier = values
    fvec = np.asarray(infodict["fvec"])
    n, p = len(fvec), len(x)
    cost = 0.5 * float(fvec @ fvec)
    return CurveFit(
        x=x,
        cov=cov,
        cov_type="classical",
        scale=float(np.sqrt(2.0 * cost / (n - p))) if n > p else np.nan,
        weights=curve.spread(np.ones(n)),
        resid=curve.spread(-curve.unwhiten(fvec)),
        loss=loss,
        status=Status.CONVERGED,
        message=message,
        cost=cost,
        nobs=n,
        df_resid=n - p,
        nfev=infodict["nfev"],
        names=names,
        infodict=infodict,
        ier=ier,
        _full_output=full_output,
        _curve=curve,
        _jac="3-point" if jac is None else jac,
    )
