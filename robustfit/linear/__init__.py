"""Robust linear regression by iteratively reweighted least squares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from robustfit import _checks, covariance, linalg, rows
from robustfit import scale as scales
from robustfit._inputs import Data, prepare
from robustfit._kernels import threads_of_our_own
from robustfit._progress import Bar, progress_bar
from robustfit._streamed import Streamed, stream
from robustfit.linear import _batch, _far, _guard, _problem, _streams
from robustfit.linear._assemble import Outcome, assemble
from robustfit.linear._batch import BatchResult
from robustfit.linear._gnc import graduated
from robustfit.linear._iterate import bounded_step, compiled, iterate, settled
from robustfit.linear._problem import Array, Callback, Problem, State
from robustfit.linear._tau import tau_fit
from robustfit.losses import Linear, Loss, get_loss
from robustfit.result import FitResult, Status
from robustfit.starts import SFit, lad_estimate, lts_estimate, s_estimate, s_estimate_streamed

__all__ = ["BatchResult", "irls"]

Start = Literal["auto", "s", "lts", "lad", "gnc", "ols"]
Scale = Literal["auto", "s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std"]


def irls(
    A: ArrayLike | rows.Rows,
    b: ArrayLike | None = None,
    loss: str | Loss = "welsch",
    *,
    c: float | None = None,
    efficiency: float | None = None,
    start: Start | ArrayLike = "auto",
    scale: Scale | float | Callable[[Array], float] = "auto",
    s_loss: str | Loss | None = None,
    method: Literal["m", "s", "mm", "smdm", "tau"] | None = None,
    freq_weights: ArrayLike | None = None,
    var_weights: ArrayLike | None = None,
    leverage: bool = False,
    ridge: ArrayLike = 0.0,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    solver: Literal["auto", "cholesky", "qr"] = "auto",
    cov_type: str = "auto",
    groups: ArrayLike | None = None,
    tol: float = 1e-10,
    maxiter: int = 200,
    nan_policy: Literal["raise", "omit"] = "raise",
    rng: int | np.random.Generator | None = 0,
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    callback: Callback | None = None,
    progress: bool = False,
) -> FitResult:
    """Fit b = A x robustly by iteratively reweighted least squares.

    Minimizes ``sum(rho((b - A x) / scale))``; the scale is estimated along with x unless
    it is given. No intercept is added: put a column of ones into A where you want one.

    Parameters
    ----------
    A : array_like, sparse array or LinearOperator of shape (n, p), or array_like (m, n, p)
        Design matrix. A data frame gives its column names to the coefficients. For a sparse one or
        an operator see Notes. Rows that are not in memory (`robustfit.rows`), and Dask arrays and
        data frames, are read in blocks.
    b : array_like of shape (n,), (n, k) or (m, n), optional
        Response. With shape (n, k), k > 1, there are k fits with one design, and with shapes
        (m, n, p) and (m, n) there are m fits; see Notes.
    loss : str or Loss, default: "welsch"
        Name of a loss (``robustfit.losses.LOSSES``) or an instance.
    c : float, optional
        Tuning constant of the loss, in scale units.
    efficiency : float, optional
        Gaussian efficiency instead of `c`; default 0.95.
    start : {"auto", "s", "lts", "lad", "gnc", "ols"} or array_like of shape (p,), default: "auto"
        Where to start: S-estimate of breakdown point 1/2, least trimmed squares, least
        absolute deviations, graduated non-convexity (the loss itself, from a c so large that
        it is least squares down to its own), least squares, or given coefficients. "auto" is
        "ols" for a convex loss, for which it does not matter, and "s" for any other. Only "s"
        and "lts" resist leverage points.
    scale : str, float or callable, default: "auto"
        The residual scale. "s": the S-scale, kept, which makes the fit an MM-estimate; "d":
        the design-adaptive scale of Koller and Stahel after a first M-step (SMDM); "tau": that
        of a tau-estimate with the efficiency of `loss`; "mad": median absolute
        residual, re-estimated in each iteration; "mad-fixed": that of the start, kept;
        "huber": Huber's proposal 2, re-estimated; "matlab": MATLAB's and GSL's median of the
        n - p + 1 largest; "std": the root mean square with n - p, or with n less the trace of
        the hat matrix under a ridge; a number (response units) is kept; a callable gets the
        standardised residuals and is called in each iteration.
        "auto" is "s" with the start "s", "std" for ``loss="linear"``, otherwise "mad".
    method : {"m", "s", "mm", "smdm", "tau"}, optional
        The name of an estimator instead of `start` and `scale`: an M-estimate with the MAD,
        the S-estimate itself, an MM-estimate (S-start, S-scale), an MM-estimate with the
        design-adaptive scale, a tau-estimate.
    s_loss : str or Loss, optional
        Loss of the S-estimate. Default: `loss` itself if it is bounded, else Tukey's, at
        breakdown point 1/2.
    freq_weights : array_like of shape (n,), optional
        Repeat counts: the same result as repeating the rows.
    var_weights : array_like of shape (n,), optional
        Inverse variances: residual i is divided by ``scale / sqrt(var_weights[i])``.
    leverage : bool, default: False
        Divide the residuals by sqrt(1 - leverage), as MATLAB and GSL do.
    ridge : float or array_like of shape (p,), default: 0.0
        Adds ``sum(ridge * x**2) / 2`` to the objective, in units of the squared response: one
        penalty for all coefficients, or one for each. The standard errors are those without it.
    bounds : tuple of two array_like, optional
        Lower and upper limits of x, each a number or one per column, infinite for none. The
        standard errors take no account of limits that are active.
    solver : {"auto", "cholesky", "qr"}, default: "auto"
        How each weighted least-squares problem is solved: normal equations in residual
        form, or QR; "auto" changes to QR where the normal equations are nearly singular.
    cov_type : str, default: "auto"
        Covariance of the coefficients, one of ``robustfit.covariance.COV_TYPES``. "auto" is
        "huber" for a convex loss and "w" (Koller and Stahel 2011) for any other.
    groups : array_like of shape (n,), optional
        Cluster labels for ``cov_type="cluster"``, of one kind and none missing.
    tol : float, default: 1e-10
        Stops when the estimated distance to the solution is at most this many standard
        errors, in any units of A and b.
    maxiter : int, default: 200
        Largest number of iterations.
    nan_policy : {"raise", "omit"}, default: "raise"
        Whether non-finite values are an error or their rows are left out.
    rng : int or numpy.random.Generator, default: 0
        Draws the subsets of the S- and LTS-search. The fixed default makes the same call
        give the same answer.
    names : sequence of str, optional
        Labels of the coefficients. Default: the columns of a data frame, or x1, x2, ...
    outputs : sequence of str, optional
        Which arrays of a `BatchResult` to keep, of "x", "scale", "cov", "bse", "weights" and
        "resid". Default: all. For several fits only.
    callback : callable, optional
        Called after each iteration as ``callback(intermediate_result)`` with a
        `scipy.optimize.OptimizeResult` of x, scale, nit and step; raising StopIteration
        ends the fit with what it has.
    progress : bool, default: False
        Whether to draw a progress bar (needs tqdm); of rows read in blocks, one of passes and
        blocks.

    Returns
    -------
    FitResult
        Coefficients, scale, weights, covariance, status and `summary`. For several fits a
        `BatchResult` with the same attributes and an axis more.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; the message names it.

    Warns
    -----
    BasinWarning
        If the M-step left the solution that the S-estimate had found and `c` or
        `efficiency` was given, or if several well-separated fits explain the data about
        equally. Without a given constant the efficiency is lowered until the fit stays,
        and `status`, `message` and `summary` say so.
    ConvergenceWarning
        If the fit stopped early, or too few rows keep weight.
    RankWarning
        If the columns of A are linearly dependent.

    Notes
    -----
    With a fixed scale the objective never increases. Each iteration solves for a step from
    the current residuals, so the result is as accurate as the residuals are. Near the
    solution Newton steps (scale fixed) or Anderson acceleration (scale re-estimated,
    Anderson 1965, doi:10.1145/321296.321305) take over, with the plain step as fall-back.

    Several fits go through compiled kernels, block by block in parallel, if `start` is "ols" or
    "s", `scale` "s", "mad", "mad-fixed" or a number, and `cov_type` "auto", "huber" or "w",
    without `bounds`, `ridge`, `leverage`, `groups` or `callback`. Those that do not take the
    regular course there are fitted one by one, as all are with other options. The weights have
    shape (n,) or that of b. A fit agrees with the single one to 1e-9 standard errors.

    A sparse array or a `scipy.sparse.linalg.LinearOperator` is for M-estimates with the start
    "ols" or given coefficients: a search needs the rows. Each step then solves the sparse normal
    equations or, by LSMR, the weighted least-squares problem; memory is that of A, until a
    covariance is asked for, which has p x p numbers, as has the scale "std" with a ridge. The rank
    is not looked at.

    References
    ----------
    Yohai, V. J. (1987). High breakdown-point and high efficiency robust estimates for
    regression. Annals of Statistics 15, 642-656. doi:10.1214/aos/1176350366

    Holland, P. W. and Welsch, R. E. (1977). Robust regression using iteratively reweighted
    least-squares. Communications in Statistics A 6, 813-827. doi:10.1080/03610927708827533

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> t = np.arange(20.0)
    >>> A = np.column_stack([np.ones(20), t])
    >>> b = 1.0 + 2.0 * t + 0.1 * np.cos(7.0 * t)
    >>> b[3] = 500.0
    >>> fit = rf.irls(A, b, loss="welsch")
    >>> print(fit.x.round(1))
    [1. 2.]
    >>> fit.outliers()
    array([3])
    """
    options = dict(locals())
    found = rows.recognise(A, b, freq_weights, var_weights)
    if found is None and _batch.is_batch(A, b):
        # The static type is that of one fit: shapes are not known to it.
        return cast(FitResult, _batch.fit_batch(irls, **options))
    if outputs is not None:
        raise ValueError(f"outputs is for several fits, got outputs={outputs!r} for one")
    cov_type = _checks.known(cov_type, "cov_type", ("auto", *covariance.COV_TYPES))
    rng = _checks.seed(rng)
    labels = _problem.labels(names)
    data: Data | Streamed
    clusters = None
    if found is None:
        design, response = cast(ArrayLike, A), cast(ArrayLike, b)
        data = prepare(design, response, freq_weights, var_weights, nan_policy, labels)
        clusters = _problem.clusters(groups, data, cov_type)
    else:
        _streams.refuse(options)
        data = stream(found, nan_policy, labels)
    start, scale = _named(method, start, scale)
    tuned = get_loss(loss, c=c, efficiency=efficiency)
    if method == "s":
        tuned = _s_loss(s_loss, tuned)
    penalty = _problem.inner_ridge(ridge, data)
    limits = _problem.inner_bounds(bounds, data, penalty)
    solver = _checks.known(solver, "solver", ("auto", "cholesky", "qr"))
    tol, maxiter = _checks.nonnegative(tol, "tol"), _checks.whole(maxiter, "maxiter")
    callback = _problem.called(callback)

    def posed(data: Data | Streamed) -> tuple[Problem, Any, Any]:
        """Return the problem, the start and the scale for data of which the rank is known."""
        free = data.rank is None
        begin, size = _resolve(start, scale, tuned, leverage, free=free)
        searched = isinstance(size, str) and size in _problem.S_SCALES
        if searched and size != "s" and not (penalty is None and limits is None):
            raise ValueError(f"scale={size!r} cannot be combined with bounds or ridge")
        _problem.refuse_implicit(
            A, start=begin, scale=_or_mad(size), leverage=leverage, bounds=bounds, solver=solver,
            cov_type=cov_type,
        )  # fmt: skip
        problem = Problem(
            data=data,
            loss=tuned,
            rule=_problem.scale_rule("mad" if searched else size, tuned, data, penalty),
            adjust=_problem.adjustment(data) if leverage and isinstance(data, Data) else 1.0,
            ridge=penalty,
            bounds=limits,
            solver=solver,
            tol=tol,
            maxiter=maxiter,
            callback=callback,
        )
        return problem, begin, size

    problem, begin, size = posed(data)
    # The compiled fit finds out about the rank itself; it searches for nothing.
    alone = isinstance(begin, str) and begin == "ols" and not progress
    alone = alone and not (isinstance(size, str) and size in _problem.S_SCALES)
    with threads_of_our_own(*data.shape):
        state = compiled(problem) if alone else None
        if state is not None:
            outcome = Outcome(problem, state, begin)
        else:
            basis = None if problem.implicit else _streams.row_space(data)
            if basis is not None:
                free = penalty is None and limits is None
                data = data.with_basis(basis) if free else replace(data, rank=basis.shape[1])
                problem, begin, size = posed(data)
            fixed = c is not None or efficiency is not None or isinstance(loss, Loss)
            with (
                progress_bar(problem.maxiter, "irls", progress and found is None) as bar,
                _streams.watched(found, progress),
            ):
                outcome = _fit(problem, begin, size, s_loss, _checks.generator(rng), fixed, bar)
        _problem.refuse_cut(outcome.problem, outcome.state)
        automatic = cov_type == "auto"
        cov_type = _automatic(outcome) if automatic else cov_type
        ended = assemble if found is None else _streams.assemble
        result = ended(outcome, cov_type, clusters)
    if not automatic:
        # What was asked for and cannot be had is refused here, not at the first use.
        _ = result.cov
    return result


def _named(method: Any, start: Any, scale: Any) -> tuple[Any, Any]:
    """Return the start and the scale that a method stands for."""
    if method is None:
        return start, scale
    method = _checks.known(method, "method", tuple(_problem.METHODS))
    for name, value in (("start", start), ("scale", scale)):
        if not (isinstance(value, str) and value == "auto"):
            raise ValueError(f"method={method!r} sets {name}, so {name}={value!r} cannot be given")
    return _problem.METHODS[method]


def _resolve(start: Any, scale: Any, loss: Loss, leverage: bool, *, free: bool) -> tuple[Any, Any]:
    """Return start and scale with "auto" replaced; refuse what does not go together."""
    if isinstance(loss, Linear):
        start = "ols"
    if isinstance(start, str):
        start = _checks.known(start, "start", _problem.STARTS)
        if start == "auto":
            start = "s" if free and not loss.convex else "ols"
        if not free and start not in ("ols", "gnc"):
            raise ValueError(f"start={start!r} needs a design of full column rank; use 'ols'")
    if isinstance(scale, str):
        scale = _checks.known(scale, "scale", _problem.SCALES)
        if scale == "auto" and isinstance(start, str) and start == "s":
            scale = "s"
        if scale in _problem.S_SCALES and isinstance(loss, Linear):
            raise ValueError(f"loss='linear' cannot have scale={scale!r}; its scale is 'std'")
        if scale in ("d", "tau") and leverage:
            raise ValueError(f"leverage=True cannot be combined with scale={scale!r}")
        if scale in ("d", "tau") and not loss.bounded:
            raise ValueError(f"scale={scale!r} needs a bounded loss, got loss={loss!r}")
        if scale in ("d", "tau") and not (isinstance(start, str) and start == "s"):
            raise ValueError(f"scale={scale!r} starts from the S-estimate, got start={start!r}")
    return start, scale


def takes_sparse(
    loss: str | Loss, *, c: Any, efficiency: Any, method: Any, start: Any, scale: Any, **others: Any
) -> bool:
    """Tell whether `irls` with these options takes a sparse design; no, if they are wrong."""
    try:
        start, scale = _named(method, start, scale)
        tuned = get_loss(loss, c=c, efficiency=efficiency)
        start, scale = _resolve(start, scale, tuned, others["leverage"], free=True)
    except (ValueError, TypeError):
        return False
    return _problem.needs_rows(start=start, scale=_or_mad(scale), **others) is None


def _or_mad(scale: Any) -> Any:
    return "mad" if isinstance(scale, str) and scale == "auto" else scale


def _s_loss(s_loss: str | Loss | None, loss: Loss) -> Loss:
    if isinstance(s_loss, Loss):
        if not abs(s_loss.breakdown() - 0.5) < 1e-3:
            raise ValueError(
                "s_loss must be a bounded loss at breakdown point 1/2 (get_loss(name, "
                f"breakdown=0.5) is one), got s_loss={s_loss!r}"
            )
        return s_loss
    if s_loss is None:
        return get_loss(loss if loss.bounded else "tukey", breakdown=0.5)
    try:
        return get_loss(s_loss, breakdown=0.5)
    except (TypeError, ValueError) as error:
        raise type(error)(f"s_loss must be a bounded loss or its name: {error}") from error


def _automatic(outcome: Outcome) -> str:
    # A convex loss keeps every row in the fit; for the others the rows that are rejected
    # must not count as information. See docs: measured coverage.
    return "huber" if outcome.problem.loss.convex else "w"


# -- the estimators ----------------------------------------------------------------------------


def _fit(
    problem: Problem,
    start: Any,
    scale: Any,
    s_loss: str | Loss | None,
    rng: np.random.Generator,
    fixed: bool,
    bar: Bar,
) -> Outcome:
    """Run the S-step where one is needed, then the M-step."""
    s_fit, chi = None, None
    searched = isinstance(scale, str) and scale in _problem.S_SCALES
    if searched or (isinstance(start, str) and start == "s"):
        chi = _s_loss(s_loss, problem.loss)
        s_fit = _s_step(problem, chi, rng)
    x, name = _start(problem, start, s_fit, rng, bar)
    if s_fit is not None and s_fit.scale == 0.0:
        exact = settled(problem.data, State(s_fit.x, 0.0, 0, Status.EXACT_FIT))
        rule = _problem.fixed_scale("s", 0.0)
        return Outcome(replace(problem, rule=rule), exact, name, s_fit, chi)
    if s_fit is None or chi is None or not searched:
        return Outcome(problem, iterate(problem, x, bar), name, s_fit, chi)
    if scale == "tau":
        return _tau(problem, s_fit, chi, name, bar)
    return _mm(problem, s_fit, chi, x, name, scale, fixed, bar)


def _start(
    problem: Problem, start: Any, s_fit: SFit | None, rng: np.random.Generator, bar: Bar
) -> tuple[Array, str]:
    """Return the first x, within the bounds, and the name of the start."""
    data = problem.data
    if not isinstance(start, str):
        try:
            given = np.asarray(start, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"start must be a name or numbers, got start={start!r}") from error
        if given.shape != (data.columns,) or not np.all(np.isfinite(given)):
            raise ValueError(f"start must be {data.columns} finite numbers, got start={start!r}")
        x, start = data.reduce(given), "given"
    elif start == "s" and s_fit is not None:
        x = s_fit.x
    elif start in ("lad", "lts"):
        estimate = _lad if start == "lad" else functools.partial(_lts, rng=rng)
        x = _scaled(estimate, data if isinstance(data, Data) else data.sample)
    elif problem.bounds is None:
        x = _least_squares(problem)
    else:
        x = np.clip(np.zeros(data.columns), *problem.bounds)
        x = x + bounded_step(replace(problem, loss=Linear()), x, 1.0).d
    x = x if problem.bounds is None else np.clip(x, *problem.bounds)
    return graduated(problem, x, bar) if start == "gnc" else x, start


def _least_squares(problem: Problem) -> Array:
    """Return the penalised least-squares fit; as a start only, the first digits are enough."""
    data, ridge = problem.data, problem.ridge
    last = isinstance(problem.loss, Linear) or problem.rule.name == "mad-fixed"
    if problem.implicit:
        rows = problem.memory
        return linalg.implicit_least_squares(rows.A, rows.b, rows.row_weights, ridge)
    if not last:
        G, g = data.normal
        x = linalg.solve_gram(G if ridge is None else G + np.diag(ridge), g)
        if x is not None:
            return x
    if isinstance(data, Streamed):
        return _streams.least_squares(data, ridge)
    return linalg.least_squares(data.A, data.b, data.row_weights, ridge, refined=last)


def _scaled(estimate: Callable[[Array, Array, Array], Array], data: Data) -> Array:
    """Return the estimate of (A, b, freq), computed on columns of order one."""
    unit = linalg.column_scale(data.A)
    x = estimate(data.A * unit * data.inv_sd[:, None], data.b * data.inv_sd, data.freq)
    return x * unit


def _lad(A: Array, b: Array, freq: Array) -> Array:
    return lad_estimate(A, b, freq)


def _lts(A: Array, b: Array, freq: Array, rng: np.random.Generator) -> Array:
    return lts_estimate(A, b, freq=freq, rng=rng).x


def _s_step(problem: Problem, s_loss: Loss, rng: np.random.Generator) -> SFit:
    data = problem.data
    if data.nobs <= data.width < data.fold(_positive):
        raise ValueError(
            f"freq_weights must sum to more than {data.width}, the rank of A, got {data.nobs:g}"
        )

    def search(rows: Data, **options: int) -> SFit:
        unit = np.all(rows.inv_sd == 1.0)
        A = rows.A if unit else rows.A * rows.inv_sd[:, None]
        b = rows.b if unit else rows.b * rows.inv_sd
        freq = None if np.all(rows.freq == 1.0) else rows.freq
        return s_estimate(A, b, s_loss, freq=freq, rng=rng, breakdown=0.5, **options)

    if isinstance(data, Streamed):
        found = s_estimate_streamed(data, s_loss, rng=rng, breakdown=0.5)
    else:
        found = search(data)
    problem.keep(found.x)
    return _guard.with_rival(problem, found, s_loss, search)


def _positive(data: Data) -> int:
    return int(np.sum(data.freq > 0.0))


def _mm(
    problem: Problem,
    s_fit: SFit,
    s_loss: Loss,
    x: Array,
    name: str,
    scale: str,
    fixed: bool,
    bar: Bar,
) -> Outcome:
    """Return the M-estimate at the S-scale, or at the design-adaptive scale after it."""

    def solve(inner: Problem, start: Array) -> State:
        return iterate(inner, start, bar)

    m_problem = replace(problem, rule=_problem.fixed_scale("s", s_fit.scale))
    state = solve(m_problem, x)
    free = problem.bounds is None and problem.ridge is None
    guarded = name == "s" and free and not problem.loss.convex
    if not guarded or state.status is not Status.CONVERGED:
        return Outcome(m_problem, state, name, s_fit, s_loss)
    problem.keep(state.x)
    verdict = _guard.watch(m_problem, s_fit, s_loss, state, solve)
    if verdict.state.status is Status.CONVERGED:
        verdict = (
            _guard.with_scale(m_problem, s_fit, s_loss, verdict, solve, _design_scale)
            if scale == "d"
            else _guard.held(m_problem, s_fit, s_loss, verdict, solve)
        )
    final, used = verdict.state, verdict.loss
    if fixed and verdict.kept is not None:
        # The caller's constant is kept, and the fit that it leads to.
        final, used = verdict.asked, problem.loss
    ended = replace(m_problem, loss=used, rule=_problem.fixed_scale(scale, final.scale))
    outcome = Outcome(ended, final, name, s_fit, s_loss, tau=verdict.tau)
    if verdict.state.status is not Status.CONVERGED:
        return outcome
    divided = _guard.rivals(m_problem, s_fit, s_loss)
    if divided:
        return replace(outcome, state=replace(final, status=Status.NO_MAJORITY), note=divided)
    # A fit that left its basin is none to test.
    left = fixed and verdict.kept is not None
    contradiction = None if left else _far.contradicted(ended, s_fit, s_loss, final, solve)
    if contradiction is not None:
        s_fit, divided = contradiction
        divided_state = replace(final, status=Status.NO_MAJORITY)
        return replace(outcome, state=divided_state, s_fit=s_fit, note=divided)
    if verdict.kept is None:
        return outcome
    low = verdict.kept < _guard.LOWEST and verdict.inflation is None
    lowered = Status.NO_MAJORITY if low else Status.EFFICIENCY_LOWERED
    status = Status.LEFT_BASIN if fixed else lowered
    note = _guard.describe(verdict, fixed)
    return replace(outcome, state=replace(final, status=status), note=note)


def _tau(problem: Problem, s_fit: SFit, s_loss: Loss, name: str, bar: Bar) -> Outcome:
    """Return the tau-estimate whose efficiency is that of the loss."""
    efficiency = problem.loss.efficiency()
    _, outer = scales.tau_losses(problem.loss, inner=s_loss, efficiency=efficiency)
    return Outcome(*tau_fit(problem, s_fit, s_loss, outer, bar), name, s_fit, s_loss)


def _design_scale(problem: Problem, state: State) -> tuple[float, Array]:
    """Return the design-adaptive scale at a solution, and its factors of the rows."""
    data = problem.memory
    resid = problem.standardise(problem.residuals(state.x))
    w = np.asarray(problem.loss.weight(resid / state.scale))
    h = linalg.row_leverage(data.A, data.freq, data.inv_sd, w)
    scale = scales.d_scale(resid, h, problem.loss, start=state.scale, freq=data.freq)
    return scale, scales.tau_factors(problem.loss, h)
