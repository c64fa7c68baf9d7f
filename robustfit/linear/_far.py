"""Rows far out in the design, on which a fit may hang though the others contradict them.

Rows that are far enough out determine coefficients by themselves, however few they are. An
S-estimate that goes through such a group fits all of it, and follows the other rows less closely:
with a tenth of the rows on one point the bias can be ten standard errors, and no row is rejected.
But where few rows dominate a coefficient, the others are an independent estimate of it. If the
two differ by more than the second one's error allows, the data are divided.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import covariance
from robustfit._inputs import Data
from robustfit._kernels import row_blocks
from robustfit._streamed import Streamed
from robustfit.linear._guard import m_scale
from robustfit.linear._iterate import stacked
from robustfit.linear._problem import Array, Problem, State, fixed_scale
from robustfit.linear._streams import Part, StreamedFitted, row_space
from robustfit.losses import Loss
from robustfit.result import Status
from robustfit.starts import SFit, _subsets

Solve = Callable[[Problem, Array], State]
Flags = NDArray[np.bool_]

# Calibrated by tests/bench/basin_guard.py and tests/bench/breakdown.py.
# A row is far if its squared norm is so many times the median, in the coordinates of the half of
# the rows that is nearest: as many as 45 % may be far, so that all of them would not tell.
FAR = 6.0
HALVES = 2
# What is added to the second moments of that half, relative to their mean: some columns may have
# no nonzeros in it.
SMALLEST_MOMENT = 0.5
# Far rows dominate where their information is so many times that of the others.
DOMINANCE = 3.0
# They are contradicted if the other rows differ so much with this probability.
LEVEL = 1e-4
# The fit believes the rows within so many scales.
BELIEVED = 2.5


def contradicted(
    problem: Problem, s_fit: SFit, s_loss: Loss, state: State, solve: Solve
) -> tuple[SFit, str] | None:
    """Tell whether far rows decide about the fit although the others differ from them.

    Parameters
    ----------
    problem : Problem
        With the loss and the scale of the fit.
    s_fit, s_loss : SFit, Loss
        The S-estimate and its loss.
    state : State
        The fit.
    solve : callable
        ``solve(problem, x)`` runs the M-step from x.

    Returns
    -------
    tuple of (SFit, str), or None
        The S-estimate with the fit of the other rows among its alternatives, and a warning.
    """
    data, x = problem.data, state.x
    rows = data if isinstance(data, Data) else data.sample
    some = _subsets.pool(rows.A, np.random.default_rng(0))
    bulk = _Bulk.of(rows.A[some] * rows.inv_sd[some, None], rows.freq[some])
    reach = BELIEVED * state.scale
    held: _Held = data.fold(_held, bulk, x, reach, merge=_both_held)
    if held.rows == 0 or not _positive(data.fold(_excess, bulk, x, reach)):
        return None
    rest = _others(data, bulk)
    basis = row_space(rest)
    if basis is not None:
        # What the other rows do not determine, they cannot contradict.
        rest = rest.with_basis(basis)
    reduce = np.eye(len(x)) if basis is None else basis
    R, x = held.triangle @ reduce, reduce.T @ x
    if not rest.nobs > 2.0 * len(x):
        return None
    alone = replace(problem, data=rest, adjust=1.0)
    if len(_dominated(R, _solution(alone, x, state.scale).of_design().root, rest.normal[0])) == 0:
        return None
    scale = m_scale(alone, x, s_loss)
    if not scale > 0.0:
        return None
    alone = replace(alone, rule=fixed_scale("s", scale))
    after = solve(alone, x)
    if after.status is not Status.CONVERGED:
        return None
    step = after.x - x
    chi2, q = _distance(alone, after, R, step)
    if q == 0 or special.fdtrc(q, rest.nobs - len(x), chi2 / q) > LEVEL:
        return None
    x = state.x + reduce @ step
    scale = m_scale(problem, x, s_loss)
    found = sorted([*s_fit.alternatives, (x, scale)], key=lambda fit: fit[1])
    note = (
        f"{held.rows} rows far out in the design decide about the fit, and the others do not "
        f"predict them: the fit without these, with S-scale {scale * data.unit:.4g}, is "
        f"{math.sqrt(chi2):.1f} of its standard errors away; see fit.alternatives"
    )
    return replace(s_fit, alternatives=tuple(found)), note


def far_rows(A: Array, freq: Array) -> tuple[Flags, Array]:
    """Return which rows of a design, or of a stack of designs, are far out, and coordinates.

    In those, the near half of the rows is of order one in every direction.
    """
    far, Z = _Bulk.of(A, freq).split(A)
    return far & (freq > 0.0), Z


class _Bulk(NamedTuple):
    """Coordinates A M of the rows, and the squared norm there from which on one is far out."""

    M: Array
    limit: Array

    @classmethod
    def of(cls, A: Array, freq: Array) -> _Bulk:
        """Return those of a design, or of a stack of designs."""
        M = _coordinates(A, freq)
        square = _squares(A @ M)
        return cls(M, FAR * _subsets.median(square, freq)[..., None])

    def split(self, A: Array) -> tuple[Flags, Array]:
        """Return which rows are far out, and their coordinates."""
        Z = A @ self.M
        return _squares(Z) > self.limit, Z


def _squares(Z: Array) -> Array:
    """Return the squared norms of the rows."""
    return np.asarray(np.einsum("...j,...j->...", Z, Z))


def _split(data: Data, bulk: _Bulk) -> tuple[Flags, Array]:
    """Return which rows are far out, and coordinates."""
    far, Z = bulk.split(data.A if data.plain else data.A * data.inv_sd[:, None])
    return far & (data.freq > 0.0), Z


def _is_far(data: Data, bulk: _Bulk) -> Flags:
    """Return which rows are far out, with no more of their coordinates than the cache holds."""
    square = np.empty(len(data.b))
    for rows in row_blocks(*data.A.shape):
        square[rows] = _squares(data.A[rows] @ bulk.M)
    if data.plain:
        return np.asarray(square > bulk.limit)
    return np.asarray((square * data.inv_sd**2 > bulk.limit) & (data.freq > 0.0))


def _is_near(data: Data, bulk: _Bulk) -> Flags:
    """Return which rows count and are not far out."""
    return ~_is_far(data, bulk) & (data.freq > 0.0)


def _others(data: Data | Streamed, bulk: _Bulk) -> Data | Streamed:
    """Return the rows that are not far out."""
    if isinstance(data, Data):
        return data.take(data.each(_is_near, bulk, dtype=np.bool_))
    # Rows are chosen before they are in the coordinates of a basis.
    whole = bulk if data.basis is None else bulk._replace(M=data.basis @ bulk.M)
    return data.where(functools.partial(_is_near, bulk=whole))


class _Held(NamedTuple):
    """How many far rows a fit believes, and the triangle of them."""

    rows: int
    triangle: Array


def _held(data: Data, bulk: _Bulk, x: Array, reach: float) -> _Held:
    rows = np.flatnonzero(_is_far(data, bulk))
    if len(rows) > 0:
        rows = rows[_believed(data, rows, x, reach)]
    A = data.A[rows] * np.sqrt(data.row_weights[rows])[:, None]
    return _Held(len(rows), np.asarray(np.linalg.qr(A, mode="r")))


def _both_held(left: _Held, right: _Held) -> _Held:
    return _Held(left.rows + right.rows, stacked(left.triangle, right.triangle))


def _believed(data: Data, rows: Any, x: Array, reach: float) -> Flags:
    """Tell which of some rows are within reach of a fit."""
    return np.asarray(np.abs(data.residuals(x)[rows]) * data.inv_sd[rows] < reach)


def _excess(data: Data, bulk: _Bulk, x: Array, reach: float) -> Array:
    """Return the information by which `dominate` tells."""
    far, Z = _split(data, bulk)
    return _information(Z, far, _believed(data, slice(None), x, reach), data.freq)


def _coordinates(A: Array, freq: Array) -> Array:
    """Return M such that the half of the rows with the smallest norm in A M has unit moments.

    These are the concentration steps of Rousseeuw and Van Driessen (1999,
    doi:10.1080/00401706.1999.10485670), about zero.
    """
    M = _subsets.preconditioner(A, freq)
    p = A.shape[-1]
    for _ in range(HALVES):
        Z = A @ M
        square = _squares(Z)
        near = freq * (square <= _subsets.median(square, freq)[..., None])
        G = (Z * near[..., None]).swapaxes(-1, -2) @ Z
        mean = np.trace(G, axis1=-2, axis2=-1)[..., None, None] / p
        # Without a nonzero row there is nothing to scale.
        G = np.where(mean > 0.0, G / np.where(mean > 0.0, mean, 1.0), np.eye(p))
        root = np.linalg.cholesky(G + SMALLEST_MOMENT * np.eye(p))
        M = M @ np.linalg.inv(root).swapaxes(-1, -2)
    return np.asarray(M)


def dominate(Z: Array, far: Flags, believed: Flags, freq: Array) -> Flags:
    """Tell of each of a stack of designs whether far rows that are believed may dominate."""
    return _positive(_information(Z, far, believed, freq))


def _information(Z: Array, far: Flags, believed: Flags, freq: Array) -> Array:
    """Return that of the far rows that are believed, less `DOMINANCE` times that of the others."""
    w = freq * np.where(far, believed, -DOMINANCE)
    return np.asarray((Z * w[..., None]).swapaxes(-1, -2) @ Z)


def _positive(G: Array) -> Flags:
    """Tell whether there is a direction in which it is positive."""
    return np.asarray(np.linalg.eigvalsh(G)[..., -1] > 0.0)


def _dominated(R: Array, half: Array, G: Array) -> Array:
    """Return C such that C x are the combinations that the rows of a triangle dominate.

    G is the Gram matrix of the other rows, and H H' = G^-1 for H = `half`, so that H^-1 = H'G.
    """
    _, singular, Vt = np.linalg.svd(R @ half, full_matrices=False)
    return np.asarray((Vt[singular**2 >= DOMINANCE] @ half.T) @ G)


def _distance(problem: Problem, state: State, R: Array, step: Array) -> tuple[float, int]:
    """Return Wald's statistic of the step in what the rows of R dominate, and the dimension."""
    fitted = _solution(problem, state.x, state.scale)
    C = _dominated(R, fitted.root, problem.sums()(state.x, state.scale, False).gram)
    if len(C) == 0:
        return 0.0, 0
    gap = C @ step
    return float(gap @ np.linalg.solve(C @ covariance.covariance(fitted, "w") @ C.T, gap)), len(C)


def _solution(problem: Problem, x: Array, scale: float) -> covariance.Solution:
    data, loss = problem.data, problem.loss
    if isinstance(data, Streamed):
        return StreamedFitted(data, Part(x, loss, scale, None), weighted=True)
    resid = problem.residuals(x)
    weights = data.row_weights * loss.weight(resid * data.inv_sd / scale)
    return covariance.Fitted(
        data.A, resid, data.freq, data.inv_sd, False, loss, scale, root_weights=weights
    )
