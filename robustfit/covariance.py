"""Covariance matrices of a robust regression with given residuals and scale.

With psi_i = psi(u_i), m = mean psi'_i, p the rank and X the design:

- ``"H1"``: K^2 [sum psi^2 s^2 / (n - p)] / m^2 (X'X)^-1, Huber's finite-sample form;
- ``"H2"``: K [sum psi^2 s^2 / (n - p)] / m W^-1, W = sum psi'_i x_i x_i';
- ``"H3"``: 1/K [sum psi^2 s^2 / (n - p)] W^-1 (X'X) W^-1;
- ``"huber"``: H1 with the unbiased variance of psi', as R's MASS computes it;
- ``"matlab"``, ``"gsl"``: sigma^2 (X'X)^-1 with the sigma of DuMouchel and O'Brien (1989);
  the two differ in the residuals that the median scale is taken from;
- ``"avar1"``: that of an MM-estimate by Croux, Dhaene and Hoorelbeke (2003), *Robust standard
  errors for robust estimators*, KU Leuven DPS 03.16. It allows for errors that are asymmetric
  or of unequal variance, and for the scale being estimated by the S-step;
- ``"w"``: f s^2 (X' diag(weight) X)^-1, Koller and Stahel (2011),
  doi:10.1016/j.csda.2011.02.014, for few observations per coefficient. At the scale of an
  S-estimate f = K^2 mean psi^2 / m^2 mean(weight) n / (n - p). At the design-adaptive scale
  f = mean(tau^2 psi(u/tau)^2) / mean(psi'(u/tau))^2 mean(weight) / mean(tau^2);
- ``"HC"``: s^2 W^-1 [sum psi^2 / (1 - g)^2 x x'] W^-1, g = psi' x' W^-1 x: allows for unequal
  variances. To first order it is the jackknife, as HC3 is for least squares (MacKinnon and
  White 1985, doi:10.1016/0304-4076(85)90158-7);
- ``"cluster"``: the same with psi x summed over the rows of each of G groups, times
  G / (G - 1) (n - 1) / (n - p), for errors that depend on one another within a group
  (Liang and Zeger 1986, doi:10.1093/biomet/73.1.13).

"avar1", "HC" and "cluster" take the variance of a row or group from its own residuals. A row that
alone determines a coefficient, as the only one of a factor level does, has none to speak of: it
is fitted exactly, whatever its error. The variance of such a coefficient is NaN, see
`lone_coefficients`; "w", "huber" and the other forms give it the variance of all rows.

K = 1 + (p / n) var(psi') / m^2. The forms are those of Huber (1981), *Robust Statistics*,
section 7.6, doi:10.1002/0471725250.

Of the corrections that "HC" could have, this one covers best. In simulated samples of 20 to 100
with errors of equal and unequal variance, t3, skewed and with 10 % outliers, nominal 95 % intervals
covered on average 94.2 % for a normal regressor and 91.1 % for a log-normal one, worst 79.4 %;
without correction 91.3, 80.5 and 57.9 %, with n / (n - p) 92.4, 81.9 and 60.6 %, with the leverage
of the design 94.5, 89.6 and 73.4 % (tests/bench/hc_corrections.py).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from robustfit import _kernels, linalg
from robustfit._kernels import row_blocks
from robustfit.losses import Loss

Array = NDArray[np.float64]

# A row of a larger leverage in the fit says nothing about its own error.
_LONE = 0.99
# A coefficient is lost if so much of its variance, with equal errors, is that of such rows.
_LOST = 0.5

#: MATLAB, GSL and MASS divide the median absolute residual by this, not by 0.67448975...
ROUNDED_MAD = 0.6745


@dataclass(frozen=True)
class SStage:
    """The S-estimate that an MM-estimate starts from and takes its scale from.

    Attributes
    ----------
    step : ndarray of shape (p,)
        S-coefficients less those of the fit, for the columns of `Fitted.A`.
    loss : Loss
        The bounded loss of the S-estimate; the M-scale uses chi = rho / sup rho.
    breakdown : float
        Right-hand side of the M-scale equation, ``mean chi = breakdown``.
    scale : float
        M-scale of the residuals, in response units; also that of the M-step.
    """

    step: Array
    loss: Loss
    breakdown: float
    scale: float


@dataclass(frozen=True)
class Fitted:
    """A solution, as far as its covariance depends on it.

    Attributes
    ----------
    A : ndarray of shape (n, p)
        Design of full column rank.
    resid : ndarray of shape (n,)
        b - A x, in response units.
    freq : ndarray of shape (n,)
        Frequency weights; their sum is the number of observations.
    inv_sd : ndarray of shape (n,)
        Root of the inverse-variance weights.
    adjusted : bool
        Whether the fit divided the residuals by sqrt(1 - leverage).
    loss : Loss
        The loss of the fit.
    scale : float
        Scale, in response units.
    s_stage : SStage or None
        The S-estimate of an MM-estimate.
    groups : ndarray of shape (n,) or None
        Label of the cluster that each row belongs to.
    root_weights : ndarray of shape (n,) or None
        Row weights that `root` is made with; None for `row_weights`.
    tau : ndarray of shape (n,) or None
        Factors of the design-adaptive scale, see `robustfit.scale.tau_factors`; None if `scale`
        is another one.
    known_root : ndarray or None
        `root`, where these are a block of the rows.
    """

    A: Array
    resid: Array
    freq: Array
    inv_sd: Array
    adjusted: bool
    loss: Loss
    scale: float
    s_stage: SStage | None = None
    groups: NDArray[Any] | None = None
    tau: Array | None = None
    root_weights: Array | None = None
    known_root: Array | None = None

    def __getstate__(self) -> dict[str, Any]:
        return linalg.packed(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(linalg.unpacked(state))

    def fold(self, function: Callable[..., Any], *args: Any, merge: object = None) -> Any:
        """Return ``function(self, *args)``: all rows are one block."""
        return function(self, *args)

    @functools.cached_property
    def row_weights(self) -> Array:
        """What a row counts for in X'X."""
        return self.freq * self.inv_sd**2

    @functools.cached_property
    def leverage(self) -> Array:
        """Leverage of each row as one observation."""
        return linalg.row_leverage(self.A, self.freq, self.inv_sd)

    @property
    def s_resid(self) -> Array:
        """Residuals of the S-estimate, in response units."""
        assert self.s_stage is not None
        return _kernels.residuals(self.A, self.resid, self.s_stage.step)

    @functools.cached_property
    def shrink(self) -> Array:
        """sqrt(1 - leverage), at least 0.01, as MATLAB and GSL bound it."""
        return np.asarray(np.sqrt(np.maximum(1.0 - self.leverage, 1e-4)))

    @functools.cached_property
    def u(self) -> Array:
        """Standardised residuals, the argument of psi."""
        standardised = self.resid * self.inv_sd / self.scale
        return standardised / self.shrink if self.adjusted else standardised

    @functools.cached_property
    def psi(self) -> Array:
        """Factor of the row in the estimating equations, psi(u) unless leverage-adjusted."""
        psi = np.asarray(self.loss.psi(self.u))
        return psi * self.shrink if self.adjusted else psi

    @functools.cached_property
    def dpsi(self) -> Array:
        """Psi'(u)."""
        return np.asarray(self.loss.dpsi(self.u))

    @functools.cached_property
    def weight(self) -> Array:
        """Robustness weights."""
        return np.asarray(self.loss.weight(self.u))

    @property
    def psi_square(self) -> Array:
        """Square of `psi`."""
        return self.psi**2

    @functools.cached_property
    def moments(self) -> "Moments":
        """Sums over the rows."""
        return moments_of(self)

    @functools.cached_property
    def root(self) -> Array:
        """H with H H' = (X' W X)^-1; the rows z of X H are those that the sums below run over.

        W are the weights that the fit ends with, where it has a redescending loss: in the
        coordinates of the whole design, rejected leverage points would hide the good rows.
        """
        if self.known_root is not None:
            return self.known_root
        weights = self.row_weights if self.root_weights is None else self.root_weights
        return linalg.inverse_root(self.A, weights)

    def in_units(self, unit: float) -> "Fitted":
        """Return the same solution of the response divided by `unit`."""
        stage = self.s_stage
        if stage is not None:
            stage = dataclasses.replace(stage, step=stage.step / unit, scale=stage.scale / unit)
        return dataclasses.replace(
            self, resid=self.resid / unit, scale=self.scale / unit, s_stage=stage
        )

    @property
    def nobs(self) -> float:
        """Number of observations, repetitions counted."""
        return float(np.sum(self.freq))

    @property
    def df_resid(self) -> float:
        """Number of observations less the rank."""
        return self.nobs - float(self.width)

    @property
    def width(self) -> int:
        """Number of coefficients."""
        return int(self.A.shape[1])

    def of_design(self) -> "Fitted":
        """Return the same with the root of the whole design."""
        return dataclasses.replace(self, root_weights=None)


class Solution(Protocol):
    """What a covariance needs of a solution: `Fitted`, or one whose rows are not in memory."""

    @property
    def loss(self) -> Loss:
        """The loss of the fit."""

    @property
    def scale(self) -> float:
        """Scale, in response units."""

    @property
    def root(self) -> Array:
        """See `Fitted.root`."""

    @property
    def nobs(self) -> float:
        """Number of observations, repetitions counted."""

    @property
    def df_resid(self) -> float:
        """Number of observations less the rank."""

    @property
    def width(self) -> int:
        """Number of coefficients."""

    @property
    def moments(self) -> "Moments":
        """Sums over the rows."""

    @property
    def s_stage(self) -> SStage | None:
        """The S-estimate of an MM-estimate."""

    def fold(
        self, function: Callable[..., Any], *args: Any, merge: Callable[[Any, Any], Any] = ...
    ) -> Any:
        """Return what a function of `Fitted` returns for the blocks of rows, merged."""

    def of_design(self) -> "Solution":
        """Return the same with the root of the whole design."""


class Moments(NamedTuple):
    """Sums of psi', (psi' - 1)^2, psi^2 and the weights over the rows, repetitions counted."""

    dpsi: float
    spread: float
    psi_square: float
    weight: float


def moments_of(fitted: Fitted) -> Moments:
    """Return the sums over the rows of a block, or over all."""
    count = None if linalg.are_ones(fitted.freq) else fitted.freq
    return Moments(*_kernels.moments(fitted.u, fitted.loss, count).tolist())


def degrees_of_freedom(fitted: Solution, cov_type: str) -> float:
    """Return those of Student's t for the estimates over their standard errors."""
    if cov_type == "cluster" and isinstance(fitted, Fitted):
        return float(np.max(_codes(fitted)))
    return fitted.df_resid


def covariance(fitted: Solution, cov_type: str) -> Array:
    """Return the covariance matrix of the coefficients, NaN where it is not defined.

    It is not defined when no degree of freedom is left or when mean psi' is not positive:
    then the estimate is not a regular solution of its equations. For single coefficients,
    "avar1", "HC" and "cluster" do not define it either, see `lone_coefficients`.

    Raises
    ------
    ValueError
        If the solution lacks what `cov_type` needs: the S-estimate whose scale it has for
        "avar1", the groups for "cluster".
    """
    p = fitted.width
    undefined = np.full((p, p), np.nan)
    if fitted.df_resid <= 0.0:
        return undefined
    if cov_type in IN_MEMORY and not isinstance(fitted, Fitted):
        raise ValueError(f"cov_type={cov_type!r} needs all rows in memory")
    if cov_type in ("matlab", "gsl") and isinstance(fitted, Fitted):
        sigma = matlab_sigmas(fitted, leveraged=cov_type == "matlab")["s"]
        return np.asarray(linalg.inverse_gram(fitted.A, fitted.row_weights) * sigma * sigma)
    if not _slope(fitted) > 0.0:
        return undefined
    if cov_type in _OF_DESIGN:
        fitted = fitted.of_design()
    if fitted.root.shape[1] < p:
        return undefined
    try:
        unit = _FORMS[cov_type](fitted)
    except np.linalg.LinAlgError:
        return undefined
    # In two steps: the square of the scale may leave the range of doubles.
    cov = np.asarray((fitted.root @ unit @ fitted.root.T) * fitted.scale * fitted.scale)
    if cov_type in _OF_RESIDUALS:
        lost = lone_coefficients(fitted, clustered=cov_type == "cluster")
        cov[lost] = cov[:, lost] = np.nan
    return cov


def lone_coefficients(fitted: Solution, *, clustered: bool = False) -> NDArray[np.bool_]:
    """Tell which coefficients rest on rows, or groups, that their own residuals do not judge.

    Parameters
    ----------
    fitted : Fitted
        The solution.
    clustered : bool, default: False
        Whether to ask for groups instead of rows.

    Returns
    -------
    ndarray of bool, shape (p,)

    Notes
    -----
    In coordinates in which the weighted design is orthonormal, a row or group u has the matrix
    ``M_u = sum(weight z z')``, and these sum to the identity. Along an eigenvector of M_u whose
    eigenvalue, for a row its leverage, is about 1, only u has anything to say, and the fit
    follows it. With equal errors, the variance of a coefficient is the squared length of its
    contrast in these coordinates. It is lost where more than half of that lies along such
    eigenvectors.
    """
    values, vectors = np.linalg.eigh(fitted.fold(gram_of, "weight"))
    if not values[0] > 0.0:
        return np.zeros(fitted.width, dtype=bool)
    half = vectors / np.sqrt(values)
    contrasts = fitted.root @ half
    find = _lone_groups if clustered else _lone_rows
    lone = fitted.fold(find, half, merge=_stack)
    share = np.sum((contrasts @ lone.T) ** 2, axis=1) / np.sum(contrasts**2, axis=1)
    return np.asarray(share > _LOST)


def _stack(above: Array, under: Array) -> Array:
    return np.concatenate([above, under])


def _lone_rows(fitted: Fitted, half: Array) -> Array:
    """Return the directions that single rows determine, of length 1."""
    found = [np.zeros((0, len(half)))]
    for rows, z in z_blocks(fitted):
        z = (z @ half) * np.sqrt(fitted.weight[rows, None])
        leverage = np.sum(z * z, axis=1)
        lone = (leverage > _LONE) & (fitted.freq[rows] > 0.0)
        found.append(z[lone] / np.sqrt(leverage[lone, None]))
    return np.concatenate(found)


def _lone_groups(fitted: Fitted, half: Array) -> Array:
    """Return the directions that single groups determine, of length 1."""
    code, weight = _codes(fitted), fitted.weight
    trace = np.zeros(np.max(code) + 1)
    for rows, z in z_blocks(fitted):
        square = np.sum((z @ half) ** 2, axis=1)
        np.add.at(trace, code[rows], (fitted.freq * weight)[rows] * square)
    found = [np.zeros((0, len(half)))]
    # The traces sum to the number of columns, so few groups can have an eigenvalue of 1.
    for group in np.flatnonzero(trace > _LONE):
        own = np.flatnonzero(code == group)
        z = fitted.A[own] @ fitted.root @ half * fitted.inv_sd[own, None]
        values, vectors = np.linalg.eigh((z.T * (fitted.freq * weight)[own]) @ z)
        found.append(vectors.T[values > _LONE])
    return np.concatenate(found)


# -- the forms: covariance of the coefficients of z = H'x, at scale 1; for those of _OF_DESIGN,
#    X'X = I there -------------------------------------------------------------------------------


def _huber1(fitted: Solution, ddof: int = 0) -> Array:
    factor = _correction(fitted, ddof) ** 2 * _psi_square(fitted) / _slope(fitted) ** 2
    return factor * np.eye(fitted.root.shape[1])


def _huber2(fitted: Solution) -> Array:
    bread = np.linalg.inv(fitted.fold(gram_of, "dpsi"))
    return np.asarray(bread * _correction(fitted) * _psi_square(fitted) / _slope(fitted))


def _huber3(fitted: Solution) -> Array:
    bread = np.linalg.inv(fitted.fold(gram_of, "dpsi"))
    return np.asarray(bread @ bread * _psi_square(fitted) / _correction(fitted))


def _avar1(fitted: Solution) -> Array:
    stage, n = fitted.s_stage, fitted.nobs
    if stage is None or not at_s_scale(fitted):
        raise ValueError(
            "cov_type='avar1' is for an MM-estimate, whose scale is that of its S-estimate; "
            "cov_type='w', 'HC' or 'huber' serve any other fit"
        )
    parts = fitted.fold(_avar_sums)
    growth = parts.growth / n
    if not growth > 0.0:
        raise np.linalg.LinAlgError("the S-scale is not a regular solution")
    bread = np.linalg.inv(fitted.fold(gram_of, "dpsi"))
    by_scale = bread @ parts.slope / growth
    cross = np.outer(by_scale, bread @ parts.mixed) / n
    direct = bread @ fitted.fold(gram_of, "psi_square") @ bread
    spread = parts.spread / n**2
    return _nonnegative(direct - cross - cross.T + spread * np.outer(by_scale, by_scale))


class _AvarSums(NamedTuple):
    """Sums over the rows for "avar1"."""

    growth: float
    slope: Array
    mixed: Array
    spread: float


def _avar_sums(fitted: Fitted) -> _AvarSums:
    stage = fitted.s_stage
    assert stage is not None
    u = fitted.s_resid * fitted.inv_sd / stage.scale
    chi = stage.loss.rho(u) / stage.loss.sup
    ratio = fitted.shrink if fitted.adjusted else 1.0
    return _AvarSums(
        float(np.sum(fitted.freq * stage.loss.psi(u) * u)) / stage.loss.sup,
        total(fitted, fitted.dpsi * fitted.u * ratio),
        total(fitted, fitted.psi * chi),
        float(np.sum(fitted.freq * (chi**2 - stage.breakdown**2))),
    )


def _weighted(fitted: Solution) -> Array:
    n = fitted.nobs
    mean_weight = fitted.moments.weight / n
    if isinstance(fitted, Fitted) and fitted.tau is not None:
        u, square, f = fitted.u / fitted.tau, fitted.tau**2, fitted.freq
        slope = float(f @ fitted.loss.dpsi(u)) / n
        factor = float(f @ (square * fitted.loss.psi(u) ** 2)) / n / slope**2
        factor *= mean_weight / (float(f @ square) / n)
    else:
        factor = _psi_square(fitted) * (_correction(fitted) / _slope(fitted)) ** 2 * mean_weight
    return np.asarray(factor * np.linalg.inv(fitted.fold(gram_of, "weight")))


def _jackknife(fitted: Solution) -> Array:
    bread = np.linalg.inv(fitted.fold(gram_of, "dpsi"))
    return np.asarray(bread @ fitted.fold(_gram_without, bread) @ bread)


def _gram_without(fitted: Fitted, bread: Array) -> Array:
    """Return the Gram matrix with psi of each row as it would be without the row."""
    own = np.empty(len(fitted.freq))
    for rows, z in z_blocks(fitted):
        own[rows] = fitted.dpsi[rows] * np.einsum("ij,jk,ik->i", z, bread, z)
    return gram(fitted, (fitted.psi / np.maximum(1.0 - own, 0.01)) ** 2)


def _cluster(fitted: Fitted) -> Array:
    code, n = _codes(fitted), fitted.nobs
    count = int(np.max(code)) + 1
    if count < 2:
        raise ValueError(f"groups must have at least 2 different labels, got {count}")
    sums = np.zeros((count, fitted.root.shape[1]))
    for rows, z in z_blocks(fitted):
        np.add.at(sums, code[rows], z * (fitted.freq * fitted.psi)[rows, None])
    half = sums @ np.linalg.inv(fitted.fold(gram_of, "dpsi"))
    factor = count / (count - 1.0) * (n - 1.0) / fitted.df_resid
    return np.asarray(half.T @ half * factor)


_FORMS: dict[str, Callable[[Any], Array]] = {
    "H1": _huber1,
    "H2": _huber2,
    "H3": _huber3,
    "huber": functools.partial(_huber1, ddof=1),
    "avar1": _avar1,
    "w": _weighted,
    "HC": _jackknife,
    "cluster": _cluster,
}
# The forms that take variances from the residuals of single rows or groups.
_OF_RESIDUALS = ("avar1", "HC", "cluster")
#: The forms that need all rows in memory.
IN_MEMORY = ("cluster", "matlab", "gsl")
# The forms that contain X'X.
_OF_DESIGN = ("H1", "H3", "huber")
COV_TYPES = (*_FORMS, "matlab", "gsl")


# -- their parts -------------------------------------------------------------------------------


def at_s_scale(fitted: Solution) -> bool:
    """Tell whether the scale of the solution is that of its S-estimate."""
    stage = fitted.s_stage
    return stage is not None and abs(stage.scale - fitted.scale) <= 1e-8 * fitted.scale


def z_blocks(fitted: Fitted) -> Iterator[tuple[slice, Array]]:
    """Yield the rows z, divided by their standard deviation, block by block."""
    for rows in row_blocks(*fitted.A.shape):
        yield rows, (fitted.A[rows] @ fitted.root) * fitted.inv_sd[rows, None]


def gram(fitted: Fitted, values: Array) -> Array:
    """Return the sum of values z z', repetitions counted."""
    w = fitted.freq * values
    root, own = fitted.root, w * fitted.inv_sd**2
    if linalg.implicit(fitted.A):
        return np.asarray(root.T @ linalg.implicit_gram(fitted.A, own) @ root)
    if root.shape[0] == root.shape[1] and not np.any(np.tril(root, -1)):
        # A triangle is the root of a Gram matrix: the digits of another one serve as well.
        return np.asarray(root.T @ _kernels.gram(fitted.A, own, w)[0] @ root)
    start = np.zeros((root.shape[1],) * 2)
    parts = ((z * w[rows, None]).T @ z for rows, z in z_blocks(fitted))
    return np.asarray(sum(parts, start))


def gram_of(fitted: Fitted, name: str) -> Array:
    """Return `gram` of an attribute."""
    return gram(fitted, getattr(fitted, name))


def total(fitted: Fitted, values: Array) -> Array:
    """Return the sum of values z, repetitions counted."""
    w = fitted.freq * values
    parts = (w[rows] @ z for rows, z in z_blocks(fitted))
    return np.asarray(sum(parts, np.zeros(fitted.root.shape[1])))


def _slope(fitted: Solution) -> float:
    return fitted.moments.dpsi / fitted.nobs


def _correction(fitted: Solution, ddof: int = 0) -> float:
    """Return Huber's K."""
    n, slope = fitted.nobs, _slope(fitted)
    square = max(fitted.moments.spread - n * (slope - 1.0) ** 2, 0.0)
    spread = square / (n - ddof) if n > ddof else np.nan
    return 1.0 + float(fitted.width) / n * spread / slope**2


def _psi_square(fitted: Solution) -> float:
    return fitted.moments.psi_square / fitted.df_resid


def _groups(fitted: Fitted) -> NDArray[Any]:
    """Return the labels of the rows that count."""
    if fitted.groups is None:
        raise ValueError("cov_type='cluster' needs groups, the cluster of each row")
    return fitted.groups[fitted.freq > 0.0]


def _codes(fitted: Fitted) -> NDArray[np.intp]:
    """Return the groups as numbers from 0; that of a row that does not count is 0."""
    code = np.zeros(len(fitted.freq), dtype=np.intp)
    code[fitted.freq > 0.0] = np.unique(_groups(fitted), return_inverse=True)[1]
    return code


def _nonnegative(V: Array) -> Array:
    """Return the nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(V)
    return V if values[0] >= 0.0 else (vectors * np.maximum(values, 0.0)) @ vectors.T


# -- MATLAB and GSL ----------------------------------------------------------------------------


def matlab_sigmas(fitted: Fitted, *, leveraged: bool) -> dict[str, float]:
    """Return the four sigmas of MATLAB's and GSL's robust regression, in response units.

    ``ols_s`` is that of least squares, ``mad_s`` the median one, ``robust_s`` that of
    Street, Carroll and Ruppert (1988), doi:10.1080/00031305.1988.10475548, and ``s`` the
    compromise of DuMouchel and O'Brien (1989) that the standard errors use.

    Parameters
    ----------
    fitted : Fitted
        The solution.
    leveraged : bool
        Whether ``mad_s`` is taken from the leverage-adjusted residuals (MATLAB) or from the
        raw ones (GSL).
    """
    n, p = fitted.nobs, fitted.A.shape[1]
    standardised = fitted.resid * fitted.inv_sd
    adjusted = standardised / fitted.shrink
    # The residuals of least squares on the residuals are those on the response.
    ols = fitted.resid - fitted.A @ linalg.least_squares(fitted.A, fitted.resid, fitted.row_weights)
    df = fitted.df_resid if fitted.df_resid > 0.0 else np.nan
    ols_s = float(np.linalg.norm(np.sqrt(fitted.row_weights) * ols)) / df**0.5
    mad_s = matlab_scale(adjusted if leveraged else standardised, fitted.freq, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        u = np.where(adjusted == 0.0, 0.0, adjusted / mad_s)
    slope = float(fitted.freq @ fitted.loss.dpsi(u)) / n
    if not slope > 0.0:
        return {"ols_s": ols_s, "mad_s": mad_s, "robust_s": np.nan, "s": ols_s}
    psi = fitted.shrink * fitted.loss.psi(u)
    spread = float(np.sqrt(np.sum(fitted.freq * psi * psi) / df))
    inflation = 1.0 + p / n * (1.0 - slope) / slope
    robust_s = inflation * spread * mad_s / slope
    pooled = float(np.hypot(ols_s * p, robust_s * n**0.5)) / (p**2 + n) ** 0.5
    return {
        "ols_s": ols_s,
        "mad_s": mad_s,
        "robust_s": robust_s,
        "s": float(np.maximum(robust_s, pooled)),
    }


def matlab_scale(resid: Array, freq: Array, p: int) -> float:
    """Return the median of the n - p + 1 largest absolute residuals over 0.6745.

    Both manuals say that p are dropped; the code of GSL drops p - 1, and so does this.

    Raises
    ------
    ValueError
        If `freq` are not whole numbers.
    """
    if np.any(freq != np.round(freq)):
        raise ValueError(
            "freq_weights must be whole numbers for the scale of MATLAB and GSL, which counts "
            f"residuals, got {float(freq[freq != np.round(freq)][0])!r}"
        )
    a = np.sort(np.repeat(np.abs(resid), freq.astype(np.intp)))
    return float(np.median(a[max(p - 1, 0) :])) / ROUNDED_MAD
