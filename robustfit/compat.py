"""The options of other programs in one word, under the names that they have there.

Each function returns keyword arguments for `robustfit.irls`, `robustfit.fit` and
`robustfit.sklearn.RobustRegressor` that lead to the numbers of that program: its loss with its
typed constant, its start, its scale and its standard errors::

    rf.irls(A, b, **compat.matlab("welsch"))
    rf.fit("y ~ x", frame, **compat.robustbase(setting="KS2014"))

The iteration goes on until it has converged, which not all of these programs do. None of them
guards against a fit that leaves the solution it started from; with their constants `irls` keeps
their fit, and warns where that has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustfit import _checks
from robustfit.losses import (
    Andrews,
    Cauchy,
    Fair,
    Hampel,
    Huber,
    Linear,
    Logistic,
    Loss,
    Lqq,
    Optimal,
    Ramsay,
    Talwar,
    Tukey,
    Welsch,
)

__all__ = ["gsl", "mass", "matlab", "robustbase", "statsmodels"]

Options = dict[str, Any]

# Weight functions and their default constants, as the documentation of MATLAB R2024b and of GSL
# 2.7 prints them.
_MATLAB: Mapping[str, tuple[type[Loss], float]] = {
    "andrews": (Andrews, 1.339),
    "bisquare": (Tukey, 4.685),
    "cauchy": (Cauchy, 2.385),
    "fair": (Fair, 1.4),
    "huber": (Huber, 1.345),
    "logistic": (Logistic, 1.205),
    "ols": (Linear, 1.0),
    "talwar": (Talwar, 2.795),
    "welsch": (Welsch, 2.985),
}
_GSL = ("bisquare", "cauchy", "fair", "huber", "ols", "welsch")


def matlab(wfun: str | Loss = "bisquare", tune: float | None = None) -> Options:
    """Return the options of MATLAB's ``robustfit(X, y, wfun, tune)``.

    Parameters
    ----------
    wfun : str or Loss, default: "bisquare"
        "andrews", "bisquare", "cauchy", "fair", "huber", "logistic", "ols", "talwar" or "welsch";
        or a loss in place of a function handle.
    tune : float, optional
        Tuning constant. Default: MATLAB's for `wfun`.

    Returns
    -------
    dict
        Least squares as start, the median of the n - p + 1 largest absolute residuals in each
        iteration, residuals divided by sqrt(1 - leverage), MATLAB's standard errors.

    Notes
    -----
    MATLAB adds a column of ones unless ``const`` is "off"; `irls` does not, `fit` does. Its
    ``stats`` is ``result.to_matlab()``. It leaves out rows with NaN: ``nan_policy="omit"``.

    Examples
    --------
    >>> import robustfit as rf
    >>> from robustfit import compat
    >>> data = rf.datasets.load("stackloss")
    >>> rf.irls(data.A, data.b, **compat.matlab("welsch")).loss
    Welsch(c=2.985)
    """
    if isinstance(wfun, Loss):
        if tune is not None:
            raise ValueError(f"tune is for wfun by name: wfun has a constant, got tune={tune!r}")
        loss = wfun
    else:
        loss = _tuned(_MATLAB, "wfun", wfun, "tune", tune)
    return _leveraged(loss, "matlab")


def gsl(kind: str = "bisquare", tune: float | None = None) -> Options:
    """Return the options of GSL's ``gsl_multifit_robust_alloc(kind, n, p)``.

    Parameters
    ----------
    kind : str, default: "bisquare"
        "bisquare", "cauchy", "fair", "huber", "ols" or "welsch", with or without the prefix
        ``gsl_multifit_robust_``; "default" is "bisquare".
    tune : float, optional
        The constant for ``gsl_multifit_robust_tune``. Default: GSL's for `kind`.

    Returns
    -------
    dict
        As those of `matlab`, with GSL's standard errors.

    Examples
    --------
    >>> from robustfit import compat
    >>> compat.gsl("cauchy")["loss"]
    Cauchy(c=2.385)
    """
    if isinstance(kind, str):
        kind = kind.removeprefix("gsl_multifit_robust_")
        kind = "bisquare" if kind == "default" else kind
    known = {name: _MATLAB[name] for name in _GSL}
    return _leveraged(_tuned(known, "kind", kind, "tune", tune), "gsl")


def mass(psi: str = "huber", *, scale_est: str = "MAD", **constants: float) -> Options:
    """Return the options of ``rlm(..., psi, scale.est)`` of R's MASS, with ``method = "M"``.

    Parameters
    ----------
    psi : {"huber", "hampel", "bisquare"}, default: "huber"
        With or without the prefix ``psi.``.
    scale_est : {"MAD", "Huber"}, default: "MAD"
        The median absolute residual over 0.6745, or Huber's proposal 2.
    **constants : float
        The tuning constants under R's names: ``k`` of huber (1.345), ``c`` of bisquare (4.685),
        ``a``, ``b`` and ``c`` of hampel (2, 4, 8).

    Returns
    -------
    dict
        Least squares as start (``init = "ls"``), the scale in each iteration, and the standard
        errors of ``summary.rlm``.

    Notes
    -----
    For ``method = "MM"``, use `robustbase`: the S-estimate of MASS depends on the subsamples that
    it happened to draw.

    Examples
    --------
    >>> from robustfit import compat
    >>> compat.mass("psi.huber", k=1.5)["loss"]
    Huber(c=1.5)
    """
    if isinstance(psi, str):
        psi = psi.removeprefix("psi.")
    families: dict[str, tuple[Callable[..., Loss], dict[str, float]]] = {
        "huber": (lambda k: Huber(k), {"k": 1.345}),
        "hampel": (lambda a, b, c: Hampel(1.0, a, b, c), {"a": 2.0, "b": 4.0, "c": 8.0}),
        "bisquare": (lambda c: Tukey(c), {"c": 4.685}),
    }
    _checks.known(scale_est, "scale_est", ("MAD", "Huber"))
    return {
        "loss": _with_constants(families, "psi", psi, constants),
        "start": "ols",
        "scale": _mad_of_mass if scale_est == "MAD" else "huber",
        "cov_type": "huber",
    }


def robustbase(psi: str | None = None, *, setting: str | None = None) -> Options:
    """Return the options of ``lmrob(..., lmrob.control(setting, psi))`` of R's robustbase.

    Parameters
    ----------
    psi : {"bisquare", "welsh", "hampel", "lqq", "optimal"}, optional
        Default: "bisquare", or "lqq" with a setting.
    setting : {"KS2011", "KS2014"}, optional
        The SMDM-estimates of Koller and Stahel, with the covariance ``.vcov.w``. They differ in how
        long R searches for the S-estimate. Default: an MM-estimate with ``.vcov.avar1``.

    Returns
    -------
    dict
        R's constants for the S- and for the M-step, and its covariance.

    Notes
    -----
    R draws 500 subsamples, and where it misses the best S-estimate its numbers are others; compare
    the scales. With a setting, R's final scale is about 0.07 % larger, because it integrates with
    ten points where we integrate to rounding. ``psi = "ggw"`` has no loss here.

    Examples
    --------
    >>> from robustfit import compat
    >>> compat.robustbase()["loss"], compat.robustbase(setting="KS2014")["method"]
    (Tukey(c=4.685061), 'smdm')
    """
    if setting is not None:
        _checks.known(setting, "setting", ("KS2011", "KS2014"))
    psi = ("bisquare" if setting is None else "lqq") if psi is None else psi
    # The losses of the M- and of the S-step, with the constants that R prints.
    families: dict[str, tuple[Loss, Loss]] = {
        "bisquare": (Tukey(4.685061), Tukey(1.54764)),
        "welsh": (Welsch.from_robustbase(2.11), Welsch.from_robustbase(0.5773502)),
        "hampel": (Hampel(0.9016085, 1.5, 3.5, 8.0), Hampel(0.2119163, 1.5, 3.5, 8.0)),
        "lqq": (
            Lqq.from_robustbase((1.4734061, 0.9822707, 1.5)),
            Lqq.from_robustbase((0.4015457, 0.2676971, 1.5)),
        ),
        "optimal": (Optimal(1.060158), Optimal(0.4047)),
    }
    loss, s_loss = families[_checks.known(psi, "psi", tuple(families))]
    return {
        "loss": loss,
        "s_loss": s_loss,
        "method": "mm" if setting is None else "smdm",
        "cov_type": "avar1" if setting is None else "w",
    }


def statsmodels(M: str = "HuberT", *, cov: str = "H1", **constants: float) -> Options:
    """Return the options of ``RLM(endog, exog, M).fit(cov=cov)`` of statsmodels.

    Parameters
    ----------
    M : str, default: "HuberT"
        "AndrewWave", "Hampel", "HuberT", "LeastSquares", "RamsayE", "TrimmedMean" or
        "TukeyBiweight", of ``statsmodels.robust.norms``.
    cov : {"H1", "H2", "H3"}, default: "H1"
        Covariance of the coefficients.
    **constants : float
        The tuning constants under the names that they have there: ``t`` of HuberT (1.345), ``a``
        of AndrewWave (1.339) and RamsayE (0.3), ``c`` of TukeyBiweight (4.685) and TrimmedMean
        (2), ``a``, ``b`` and ``c`` of Hampel (2, 4, 8).

    Returns
    -------
    dict
        Least squares as start, and the median absolute residual in each iteration.

    Examples
    --------
    >>> from robustfit import compat
    >>> compat.statsmodels("TukeyBiweight", c=3.9)["loss"]
    Tukey(c=3.9)
    """
    families: dict[str, tuple[Callable[..., Loss], dict[str, float]]] = {
        "AndrewWave": (lambda a: Andrews(a), {"a": 1.339}),
        "Hampel": (lambda a, b, c: Hampel(1.0, a, b, c), {"a": 2.0, "b": 4.0, "c": 8.0}),
        "HuberT": (lambda t: Huber(t), {"t": 1.345}),
        "LeastSquares": (lambda: Linear(), {}),
        "RamsayE": (lambda a: Ramsay(1.0 / a), {"a": 0.3}),
        "TrimmedMean": (lambda c: Talwar(c), {"c": 2.0}),
        "TukeyBiweight": (lambda c: Tukey(c), {"c": 4.685}),
    }
    return {
        "loss": _with_constants(families, "M", M, constants),
        "start": "ols",
        "scale": "mad",
        "cov_type": _checks.known(cov, "cov", ("H1", "H2", "H3")),
    }


def _leveraged(loss: Loss, cov_type: str) -> Options:
    return {
        "loss": loss,
        "start": "ols",
        "scale": "matlab",
        "leverage": True,
        "cov_type": cov_type,
    }


def _tuned(
    known: Mapping[str, tuple[type[Loss], float]],
    argument: str,
    name: str,
    constant: str,
    value: float | None,
) -> Loss:
    """Return the loss of a name with one constant."""
    family, default = known[_checks.known(name, argument, tuple(known))]
    return family(default if value is None else _checks.positive(value, constant))


def _with_constants(
    families: Mapping[str, tuple[Callable[..., Loss], dict[str, float]]],
    argument: str,
    name: str,
    given: dict[str, float],
) -> Loss:
    """Return the loss of a name with constants that are named."""
    make, defaults = families[_checks.known(name, argument, tuple(families))]
    for key, value in given.items():
        if key not in defaults:
            allowed = ", ".join(defaults) or "none"
            raise TypeError(
                f"the constants of {argument}={name!r} are: {allowed}, got {key}={value!r}"
            )
        _checks.positive(value, key)
    return make(**{**defaults, **given})


def _mad_of_mass(resid: NDArray[np.float64]) -> float:
    """Return MASS's scale, which divides by a rounded quartile of the normal."""
    return float(np.median(np.abs(resid))) / 0.6745
