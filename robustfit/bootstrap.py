"""The fast and robust bootstrap of M- and MM-estimates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks, covariance, linalg
from robustfit._progress import progress_bar
from robustfit.covariance import Fitted

Array = NDArray[np.float64]

# Elements of the counts of one chunk: one chunk should take well under a second.
_CHUNK_ELEMENTS = 1 << 21
# A resample whose equations are this much worse conditioned than the data is drawn anew.
_SINGULAR = 1e-10
_TRIES = 20


@dataclass(frozen=True, eq=False)
class BootstrapResult:
    """Resampled coefficients and what follows from them.

    Attributes
    ----------
    x : ndarray of shape (nboot, p)
        Coefficients of each resample.
    estimate : ndarray of shape (p,)
        Coefficients of the fit.
    """

    x: Array
    estimate: Array

    @property
    def cov(self) -> Array:
        """Covariance matrix of the coefficients."""
        unit = linalg.column_scale(self.x)
        with np.errstate(over="ignore", under="ignore"):
            return np.atleast_2d(np.cov(self.x * unit, rowvar=False)) / unit / unit[:, None]

    @property
    def bse(self) -> Array:
        """Standard errors of the coefficients; NaN where a single row determines one."""
        unit = linalg.column_scale(self.x)
        return np.asarray(np.std(self.x * unit, axis=0, ddof=1) / unit)

    def conf_int(
        self, level: float = 0.95, method: Literal["percentile", "normal"] = "percentile"
    ) -> Array:
        """Return confidence intervals of the coefficients, shape (p, 2).

        Parameters
        ----------
        level : float, default: 0.95
            Coverage, in (0, 1).
        method : {"percentile", "normal"}, default: "percentile"
            Quantiles of the resamples, which follow a skewed distribution, or the estimate
            plus and minus a normal quantile times `bse`, which needs fewer resamples.
        """
        tail = 0.5 - 0.5 * _checks.between(level, "level", 0.0, 1.0)
        if method == "percentile":
            return np.asarray(np.quantile(self.x, [tail, 1.0 - tail], axis=0).T)
        if method != "normal":
            raise ValueError(f"method must be 'percentile' or 'normal', got method={method!r}")
        half = -float(special.ndtri(tail)) * self.bse
        return np.column_stack([self.estimate - half, self.estimate + half])


def fast_bootstrap(
    fitted: Fitted, nboot: int, rng: np.random.Generator, progress: bool = False
) -> Array:
    """Return by how much each of `nboot` resamples moves the coefficients, (nboot, p).

    Parameters
    ----------
    fitted : Fitted
        The solution. If its scale is that of an S-estimate, the resamples vary the scale too;
        any other scale is held fixed.
    nboot : int
        Number of resamples.
    rng : numpy.random.Generator
        Source of the resamples.
    progress : bool, default: False
        Whether to draw a progress bar.

    Raises
    ------
    ValueError
        If mean psi' is not positive or the scale is 0, so that the estimate is not a regular
        solution, or nearly all resamples leave a coefficient undetermined.

    Notes
    -----
    A resample counts row i k_i times. Its weighted least squares, with the weights of the fit,
    gives a step d, and its S-residuals a relative change t of the scale. The move is the
    first-order solution of the estimating equations of the resample::

        (X' diag(psi') X)^-1 (X' diag(weight) X d - X' (psi' r) t),
        t = (sum(k chi) - sum(chi)) / sum(chi' u)

    so no equation is solved iteratively, and outliers, which have no weight, cannot take over
    a resample in which they are many (Salibian-Barrera and Zamar 2002, *Bootstrapping robust
    estimates of regression*, Annals of Statistics 30, 556-582, doi:10.1214/aos/1021379865).
    Resamples without the rows that a coefficient needs are drawn anew. A coefficient that a single
    row determines is in all of them what that row says; its moves are NaN, see
    `robustfit.covariance.lone_coefficients`.
    """
    if not (fitted.scale > 0.0 and np.all(fitted.shrink > 0.0)):
        raise ValueError("the bootstrap needs a positive scale, and this fit is exact")
    weight = np.asarray(fitted.loss.weight(fitted.u))
    try:
        bread = np.asarray(np.linalg.inv(covariance.gram(fitted, fitted.dpsi)), np.float64)
    except np.linalg.LinAlgError:
        raise ValueError("the bootstrap needs psi' to be positive on enough rows") from None
    correction = bread @ covariance.gram(fitted, weight)
    chi, by_scale = _scale_effect(fitted, bread)
    moves: list[Array] = []
    with progress_bar(nboot, "bootstrap", progress) as bar:
        for counts, steps in _resamples(fitted, weight, nboot, rng):
            growth = counts @ chi - np.sum(fitted.freq * chi)
            moves.append(steps @ correction.T - np.outer(growth, by_scale))
            bar.update(len(steps))
    found = np.asarray(np.concatenate(moves) @ fitted.root.T * fitted.scale)
    found[:, covariance.lone_coefficients(fitted)] = np.nan
    return found


def _scale_effect(fitted: Fitted, bread: Array) -> tuple[Array, Array]:
    """Return what a row adds to log S-scale, and how log scale moves the coefficients of z."""
    stage = fitted.s_stage
    if stage is None or not covariance.at_s_scale(fitted):
        return np.zeros(len(fitted.freq)), np.zeros(len(bread))
    u = fitted.s_resid * fitted.inv_sd / stage.scale
    growth = float(np.sum(fitted.freq * stage.loss.psi(u) * u))
    ratio = fitted.shrink if fitted.adjusted else 1.0
    by_scale = bread @ covariance.total(fitted, fitted.dpsi * fitted.u * ratio)
    return np.asarray(stage.loss.rho(u)) / growth, by_scale


def _resamples(
    fitted: Fitted, weight: Array, nboot: int, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    """Yield chunks of repeat counts (k, n) and least-squares steps (k, rank) at scale 1."""
    total = round(fitted.nobs)
    chunk = max(1, _CHUNK_ELEMENTS // len(fitted.freq))
    done = tried = 0
    while done < nboot:
        size = min(chunk, nboot - done)
        counts = rng.multinomial(total, fitted.freq / fitted.nobs, size=size).astype(np.float64)
        G, g = _normal_equations(fitted, weight, counts)
        values = np.linalg.eigvalsh(G)
        kept = values[:, 0] > _SINGULAR * values[:, -1]
        done, tried = done + int(np.sum(kept)), tried + size
        if tried > _TRIES * max(done, chunk):
            raise ValueError(
                f"only {done} of {tried} resamples determine all coefficients: some depend on too "
                "few rows, see diagnostics()"
            )
        steps = np.linalg.solve(G[kept], g[kept, :, None])[:, :, 0]
        yield counts[kept], np.asarray(steps, dtype=np.float64)


def _normal_equations(fitted: Fitted, weight: Array, counts: Array) -> tuple[Array, Array]:
    """Return sum k w z z' and sum k w z r / scale of each resample."""
    k, p = len(counts), fitted.root.shape[1]
    G, g = np.zeros((k, p * p)), np.zeros((k, p))
    scaled = weight * fitted.resid * fitted.inv_sd / fitted.scale
    for rows, z in covariance.z_blocks(fitted):
        square = (z * weight[rows, None])[:, :, None] * z[:, None, :]
        G += counts[:, rows] @ square.reshape(-1, p * p)
        g += counts[:, rows] @ (z * scaled[rows, None])
    return G.reshape(k, p, p), g
