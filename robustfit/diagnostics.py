"""What kind of row was down-weighted, and which coefficients rest on few rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustfit import _checks
from robustfit import scale as scales
from robustfit._inputs import matrix

Array = NDArray[np.float64]

#: Labels of rows, by |standardised residual| > 2.5 and robust distance > cutoff.
LABELS = ("regular", "vertical outlier", "good leverage", "bad leverage")
#: Beyond so many scales a residual is an outlier.
FAR_RESIDUAL = 2.5
_FAR_QUANTILE = 0.975
# A coefficient that fewer than this share of the rows can break is reported.
_FRAGILE_SHARE = 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Distances:
    """Robust distances of the rows of a design.

    Attributes
    ----------
    distance : ndarray of shape (n,)
        Mahalanobis distance from the robust centre; 0 if no column could be used.
    cutoff : float
        Root of the chi-square quantile 0.975; rows farther out are leverage points.
    columns : tuple of int
        The columns that were used.
    method : str
        "ogk" or "mcd".
    """

    distance: Array
    cutoff: float
    columns: tuple[int, ...]
    method: str


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """The rows that were down-weighted or lie far out, lowest weight first; as a table by str.

    Attributes
    ----------
    row : ndarray of int
        Row numbers.
    weight, resid, leverage, distance : ndarray
        Robustness weight, residual over scale, leverage in the design, robust distance.
    label : tuple of str
        "regular", "vertical outlier", "good leverage" or "bad leverage".
    cutoff : float
        Robust distance above which a row is a leverage point.
    method : str
        How the robust distances were computed.
    fragile : dict of str to int
        Coefficients that less than a tenth of the rows can break, with their number.
    """

    row: NDArray[np.intp]
    weight: Array
    resid: Array
    leverage: Array
    distance: Array
    label: tuple[str, ...]
    cutoff: float
    method: str
    fragile: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dict; the columns of the table make a data frame."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'row':>6}{'weight':>9}{'resid':>9}{'leverage':>10}{'distance':>10}  label"]
        values = zip(
            self.row, self.weight, self.resid, self.leverage, self.distance, self.label, strict=True
        )
        lines += [f"{i:6d}{w:9.3f}{r:9.2f}{h:10.3f}{d:10.2f}  {t}" for i, w, r, h, d, t in values]
        lines.append(f"leverage points have a distance above {self.cutoff:.2f} ({self.method})")
        lines += [
            f"warning: {count} bad rows are enough to break the coefficient of {name}"
            for name, count in self.fragile.items()
        ]
        return "\n".join(lines)


def diagnose(
    A: Array,
    weights: Array,
    standardised: Array,
    leverage: Array,
    freq: Array,
    names: tuple[str, ...],
    threshold: float,
    method: Literal["ogk", "mcd"],
) -> Diagnostics:
    """Return the table of rows with weight below `threshold` or with a label but "regular".

    Parameters
    ----------
    A : ndarray of shape (n, p)
        Design.
    weights, standardised, leverage, freq : ndarray of shape (n,)
        Robustness weights, residuals over scale, leverages, repeat counts.
    names : tuple of str
        Labels of the columns.
    threshold : float
        Weight below which a row is listed.
    method : {"ogk", "mcd"}
        Which robust distances.
    """
    threshold = _checks.between(threshold, "threshold", 0.0, 1.0, "[]")
    far = robust_distances(A, method=method, freq=freq)
    outlying = np.abs(standardised) > FAR_RESIDUAL
    kind = outlying + 2 * (far.distance > far.cutoff)
    rows = np.flatnonzero((freq > 0.0) & ((weights < threshold) | (kind > 0)))
    rows = rows[np.argsort(weights[rows], kind="stable")]
    least = local_breakdown(A, freq=freq)
    fragile = {
        name: int(count)
        for name, count in zip(names, least, strict=True)
        if count < _FRAGILE_SHARE * np.sum(freq)
    }
    return Diagnostics(
        row=rows,
        weight=weights[rows],
        resid=standardised[rows],
        leverage=leverage[rows],
        distance=far.distance[rows],
        label=tuple(LABELS[k] for k in kind[rows]),
        cutoff=far.cutoff,
        method=far.method,
        fragile=fragile,
    )


def robust_distances(
    A: ArrayLike, *, method: Literal["ogk", "mcd"] = "ogk", freq: ArrayLike | None = None
) -> Distances:
    """Return robust Mahalanobis distances of the rows of a design.

    Parameters
    ----------
    A : array_like of shape (n, p)
        Design. The intercept, and columns that are the same number on half of the rows
        (dummies), are left out: no robust scatter exists for them.
    method : {"ogk", "mcd"}, default: "ogk"
        "ogk" is the orthogonalised Gnanadesikan-Kettenring estimate, reweighted; "mcd" is
        scikit-learn's minimum covariance determinant, which is affine equivariant but slower,
        and needs scikit-learn.
    freq : array_like of shape (n,), optional
        Repeat counts, whole numbers for "mcd".

    Notes
    -----
    OGK: the covariance of two columns is ``(s(y + z)^2 - s(y - z)^2) / 4`` with the robust scale
    s (`robustfit.scale.scale_tau2`) of columns divided by theirs; the columns are replaced by
    their coordinates along its eigenvectors, twice, and the centre and scatter are then those
    of the rows within the 0.9 quantile. Maronna, R. A. and Zamar, R. H. (2002), Robust
    estimates of location and dispersion for high-dimensional datasets, *Technometrics* 44,
    307-317, doi:10.1198/004017002188618509. Distances are scaled so that their median is that
    of normal data.

    Examples
    --------
    >>> import robustfit as rf
    >>> from robustfit.diagnostics import robust_distances
    >>> data = rf.datasets.load("hbk")
    >>> far = robust_distances(data.A)
    >>> print((far.distance > far.cutoff).nonzero()[0])
    [ 0  1  2  3  4  5  6  7  8  9 10 11 12 13]
    """
    A, f = _design(A, freq)
    method = _checks.known(method, "method", ("ogk", "mcd"))
    if method == "mcd" and not np.all(f == np.floor(f)):
        raise ValueError(f"freq must be whole numbers for method='mcd', got freq={freq!r}")
    # Scales of zero would divide; a column of huge numbers is no column of small ones.
    spread = np.array([float(scales.scale_tau2(column, weights=f)) for column in A.T])
    columns = np.flatnonzero(spread > _ROUNDING * np.max(np.abs(A), axis=0, initial=0.0))
    cutoff = float(np.sqrt(special.chdtri(max(len(columns), 1), 1.0 - _FAR_QUANTILE)))
    if len(columns) == 0:
        return Distances(np.zeros(len(A)), cutoff, (), method)
    X = A[:, columns] / spread[columns]
    square = _ogk(X, f) if method == "ogk" else _mcd(X, f)
    return Distances(np.sqrt(square), cutoff, tuple(int(j) for j in columns), method)


def _design(A: ArrayLike, freq: ArrayLike | None) -> tuple[Array, Array]:
    """Return a finite matrix, and how often each row counts."""
    design = matrix(A, "A")
    if design.ndim != 2 or not np.all(np.isfinite(design)):
        raise ValueError(f"A must be a finite matrix, got shape {design.shape}")
    f = np.ones(len(design)) if freq is None else matrix(freq, "freq")
    if f.shape != (len(design),) or not np.all((f >= 0.0) & np.isfinite(f)):
        raise ValueError(
            f"freq must be {len(design)} finite numbers, none negative, got freq={freq!r}"
        )
    return design, f


def _ogk(X: Array, f: Array) -> Array:
    """Return squared distances by the reweighted OGK estimate."""
    p = X.shape[1]
    Z = X
    for _ in range(2):
        s = _scale(Z, f)[1]
        # A combination that is constant on half of the rows keeps its units.
        Z = Z / np.where(s > _ROUNDING, s, 1.0)
        Z = Z @ np.linalg.eigh(_correlations(Z, f))[1]
    center, s = _scale(Z, f)
    square = _squares(Z - center, s)
    near = square <= _calibration(square, f, p) * special.chdtri(p, 0.1)
    w = f * near
    apart = X - w @ X / np.sum(w)
    values, vectors = np.linalg.eigh(apart.T @ (apart * w[:, None]) / np.sum(w))
    square = _squares(apart @ vectors, np.sqrt(np.maximum(values, 0.0)))
    return np.asarray(square / _calibration(square, f, p))


def _squares(apart: Array, s: Array) -> Array:
    """Return sum (apart / s)^2; a row off a plane that holds the others is infinitely far."""
    flat = s <= _ROUNDING
    beyond = np.where(np.abs(apart) > _ROUNDING, np.inf, 0.0)
    return np.asarray(np.sum(np.where(flat, beyond, apart / np.where(flat, 1.0, s)) ** 2, axis=1))


def _scale(Z: Array, f: Array) -> tuple[Array, Array]:
    center, s = scales.scale_tau2(Z, axis=0, weights=f, return_location=True)
    return np.asarray(center, dtype=np.float64), np.asarray(s, dtype=np.float64)


def _correlations(Z: Array, f: Array) -> Array:
    """Return the pairwise robust covariances of columns of scale one."""
    p = Z.shape[1]
    U = np.eye(p)
    for j in range(p):
        for k in range(j):
            plus, minus = Z[:, j] + Z[:, k], Z[:, j] - Z[:, k]
            high, low = (float(scales.scale_tau2(c, weights=f)) for c in (plus, minus))
            U[j, k] = U[k, j] = 0.25 * (high * high - low * low)
    return U


def _calibration(square: Array, f: Array, p: int) -> float:
    """Return the median of squared distances over that of normal data."""
    middle = float(np.quantile(square, 0.5, weights=f, method="inverted_cdf"))
    return middle / float(special.chdtri(p, 0.5)) if middle > 0.0 else 1.0


def _mcd(X: Array, f: Array) -> Array:
    try:
        from sklearn.covariance import MinCovDet
    except ImportError as error:
        raise ImportError("method='mcd' needs scikit-learn: pip install scikit-learn") from error
    estimate = MinCovDet(random_state=0).fit(np.repeat(X, f.astype(np.intp), axis=0))
    return np.asarray(estimate.mahalanobis(X))


def local_breakdown(A: ArrayLike, *, freq: ArrayLike | None = None) -> NDArray[np.intp]:
    """Return for each coefficient how many bad rows are enough to break it.

    Parameters
    ----------
    A : array_like of shape (n, p)
        Design.
    freq : array_like of shape (n,), optional
        Repeat counts.

    Returns
    -------
    ndarray of int, shape (p,)
        ``(m + 1) // 2``, where m is the number of rows without which the coefficient is not
        determined. Whatever the estimator, half of those rows can carry it anywhere.

    Notes
    -----
    m is n - p + 1 for a design in general position. Smaller groups are looked for where
    designs of analysis of variance have them: the rows of a 0/1 column, the rows where a
    column is not at its most frequent value if there is an intercept, and the baseline rows
    of a set of disjoint 0/1 columns, which carry the intercept and every contrast with it.

    References
    ----------
    Mili, L. and Coakley, C. W. (1996), Robust estimation in structured linear regression,
    *Annals of Statistics* 24, 2593-2607.

    Examples
    --------
    >>> import numpy as np
    >>> from robustfit.diagnostics import local_breakdown
    >>> level = np.repeat([0, 1, 2], [10, 7, 3])
    >>> A = np.column_stack([np.ones(20), level == 1, level == 2])
    >>> local_breakdown(A)
    array([5, 4, 2])
    """
    A, f = _design(A, freq)
    p = A.shape[1]
    needed = np.full(p, np.sum(f) - np.linalg.matrix_rank(A) + 1.0)
    constant = np.array([np.all(column == column[0]) for column in A.T])
    for j in range(p):
        needed[j] = min(needed[j], float(f @ (A[:, j] != 0.0)))
        if np.any(constant) and not constant[j]:
            values, codes = np.unique(A[:, j], return_inverse=True)
            counts = np.bincount(codes, weights=f, minlength=len(values))
            needed[j] = min(needed[j], float(np.sum(f) - np.max(counts)))
    for group in _factors(A, constant):
        baseline = float(f @ ~np.any(A[:, group] != 0.0, axis=1))
        touched = [*group, *np.flatnonzero(constant)]
        if np.any(constant) and baseline > 0.0:
            needed[touched] = np.minimum(needed[touched], baseline)
    return np.asarray((needed + 1.0) // 2.0, dtype=np.intp)


def _factors(A: Array, constant: NDArray[np.bool_]) -> list[list[int]]:
    """Return sets of 0/1 columns of which no two are 1 in the same row."""
    groups: list[list[int]] = []
    for j in np.flatnonzero(~constant & np.all((A == 0.0) | (A == 1.0), axis=0)):
        for group in groups:
            if not np.any(A[:, group].any(axis=1) & (A[:, j] != 0.0)):
                group.append(int(j))
                break
        else:
            groups.append([int(j)])
    return groups
