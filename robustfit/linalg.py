"""Weighted least squares: normal equations in residual form, QR, rank and leverage.

Everything is solved for a *step* d from the current residual r, so that the fixed point
is as accurate as the residual and not as the Gram matrix.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lsmr, splu

from robustfit import _kernels
from robustfit._kernels import block_rows, gram, largest, row_blocks

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)

# Cholesky in residual form follows QR to a condition number of about 1e7; the smallest
# pivot of the equilibrated matrix is about one over the condition number.
_SMALLEST_PIVOT = 1e-6
# Above this pivot the Gram matrix itself has lost less than half of the digits.
_GOOD_PIVOT = 1e-3
# Up to so many columns the normal equations of a sparse design are solved as a full matrix, and up
# to so many products of two entries for each entry of the design as a sparse one.
_FEW_COLUMNS, _PRODUCTS = 500, 20
# So many columns of the Gram matrix of an operator are computed at a time.
_AT_A_TIME = 16
# Up to this many elements the start is solved by QR with refinement: time is no matter.
_REFINED_ELEMENTS = 200_000
# Read-only, and so are arrays of it.
_ONE = np.float64(1.0).tobytes()

NEARLY_SINGULAR = "solver='cholesky' met nearly singular normal equations; use 'auto'"


@dataclass(frozen=True, slots=True)
class Step:
    """A weighted least-squares step.

    Attributes
    ----------
    d : ndarray of shape (p,)
        Minimizes ``sum(w * (r - A d)**2)``; of minimum norm if that has many solutions.
    norm : float
        ``sqrt(d' A' W A d)``, the length of the step in units of the residuals.
    rank : int
        Numerical rank of the weighted design.
    gradient : ndarray of shape (p,)
        ``A' W r``, less the gradient of the penalty.
    """

    d: Array
    norm: float
    rank: int
    gradient: Array


def solve_gram(G: Array, g: Array) -> Array | None:
    """Solve G d = g by Cholesky after equilibration; None if G is nearly singular.

    g may have several columns.
    """
    diagonal = np.diagonal(G)
    if not (np.all(diagonal > 0.0) and np.all(np.isfinite(diagonal))):
        return None
    scale = 1.0 / np.sqrt(diagonal)
    equal = G * scale * scale[:, None]
    factor, info = linalg.lapack.dpotrf(equal, lower=True)
    if info != 0 or np.min(np.diagonal(np.asarray(factor))) < _SMALLEST_PIVOT:
        return None
    # Where the first columns are nearly dependent, the pivot of one that is so indeed may be large.
    norm = np.max(np.sum(np.abs(equal), axis=0))
    if not linalg.lapack.dpocon(factor, norm, uplo="L")[0] > _SMALLEST_PIVOT**2 / len(g):
        return None
    solution, _ = linalg.lapack.dpotrs(factor, (g.T * scale).T, lower=True)
    return np.asarray((solution.T * scale).T)


def weighted_step(
    A: Array, w: Array, r: Array, *, x: Array, ridge: Array | None = None, solver: str = "auto"
) -> Step:
    """Return the step d that minimizes ``sum(w (r - A d)**2) + sum(ridge (x + d)**2)``.

    Raises
    ------
    ValueError
        If ``solver="cholesky"`` and the normal equations are too close to singular.
    """
    G, g = gram(A, w, r)
    if ridge is not None:
        G[np.diag_indices_from(G)] += ridge
        g = g - ridge * x
    d = solve_gram(G, g) if solver != "qr" else None
    if d is not None:
        return Step(d, float(np.sqrt(np.maximum(d @ g, 0.0))), len(d), g)
    if solver == "cholesky":
        raise ValueError(NEARLY_SINGULAR)
    root = np.sqrt(w)
    A, r = A * root[:, None], r * root
    if ridge is not None:
        A = np.vstack([A, np.diag(np.sqrt(ridge))])
        r = np.concatenate([r, -np.sqrt(ridge) * x])
    d, rank = minimum_norm(A, r, rank_tolerance(A))
    return Step(d, float(np.linalg.norm(A @ d)), rank, g)


def implicit(A: object) -> bool:
    """Tell whether a design is sparse, or known by its products with vectors alone."""
    return sparse.issparse(A) or isinstance(A, LinearOperator)


def with_columns_times(A: Any, factor: Array) -> Any:
    """Return an implicit design with column j multiplied by factor[j]."""
    if sparse.issparse(A):
        return A.multiply(factor).tocsr()
    return A @ aslinearoperator(sparse.diags_array(factor))


def implicit_gram(A: Any, w: Array) -> Array:
    """Return A'WA of an implicit design as a full matrix."""
    if sparse.issparse(A):
        return np.asarray((A.T @ A.multiply(w[:, None]).tocsr()).toarray())
    p = A.shape[1]
    G = np.empty((p, p))
    for low in range(0, p, _AT_A_TIME):
        unit = np.eye(p, min(_AT_A_TIME, p - low), -low)
        G[:, low : low + _AT_A_TIME] = A.rmatmat(w[:, None] * A.matmat(unit))
    return 0.5 * (G + G.T)


def implicit_step(A: Any, w: Array, r: Array, *, x: Array, ridge: Array | None = None) -> Step:
    """Return the step of `weighted_step` for an implicit design.

    The normal equations of a sparse one are solved where they are small or sparse as well; else
    LSMR (Fong and Saunders 2011, doi:10.1137/10079687X) needs products with vectors only. If many
    steps are solutions, it returns that of minimum norm, columns scaled.
    """
    penalty = np.zeros(A.shape[1]) if ridge is None else ridge
    g = A.T @ (w * r) - penalty * x
    d = _by_normal_equations(A, w, g, penalty) if sparse.issparse(A) else None
    if d is None:
        d = _by_lsmr(A, w, r, x, penalty)
    change = A @ d
    square = float(w @ (change * change)) + float(penalty @ (d * d))
    return Step(d, math.sqrt(square), len(d), g)


def implicit_least_squares(A: Any, b: Array, w: Array, ridge: Array | None) -> Array:
    """Return the weighted least-squares solution for an implicit design."""
    x: Array = np.zeros(A.shape[1])
    # The second step removes most of the rounding of the first.
    for _ in range(2):
        x = x + implicit_step(A, w, b - A @ x, x=x, ridge=ridge).d
    return x


def _by_normal_equations(A: Any, w: Array, g: Array, penalty: Array) -> Array | None:
    """Return the solution d of (A'WA + penalty) d = g, None if that is not worth it or singular."""
    if A.shape[1] <= _FEW_COLUMNS:
        G: Array = implicit_gram(A, w) + np.diag(penalty)
        return solve_gram(G, g)
    if float(np.sum(np.square(np.diff(A.indptr), dtype=np.float64))) > _PRODUCTS * A.nnz:
        return None
    G = A.T @ A.multiply(w[:, None]).tocsr() + sparse.diags_array(penalty)
    diagonal = G.diagonal()
    if not np.all(diagonal > 0.0):
        return None
    unit = sparse.diags_array(1.0 / np.sqrt(diagonal))
    try:
        factor = splu((unit @ G @ unit).tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0)
    except RuntimeError:
        return None
    if not np.min(factor.U.diagonal()) > _SMALLEST_PIVOT**2:
        return None
    return np.asarray(unit @ factor.solve(unit @ g))


def _by_lsmr(A: Any, w: Array, r: Array, x: Array, penalty: Array) -> Array:
    n, p = A.shape
    root, rest = np.sqrt(w), np.sqrt(penalty)
    unit = np.ones(p)
    if sparse.issparse(A):
        length = np.sqrt(A.power(2).T @ w + penalty)
        unit = 1.0 / np.where(length > 0.0, length, 1.0)
    operator = aslinearoperator(A)
    penalised = bool(np.any(penalty))

    def forward(z: Array) -> Array:
        d = unit * z.ravel()
        out = root * operator.matvec(d)
        return np.concatenate([out, rest * d]) if penalised else out

    def backward(y: Array) -> Array:
        out = operator.rmatvec(root * y[:n])
        return np.asarray(unit * (out + rest * y[n:] if penalised else out))

    rows = n + p if penalised else n
    scaled = LinearOperator((rows, p), matvec=forward, rmatvec=backward, dtype=np.float64)
    right = np.concatenate([root * r, -rest * x]) if penalised else root * r
    # As exact as it gets: the step is a small one in the end.
    solution = lsmr(scaled, right, atol=EPS, btol=EPS, conlim=0.0, maxiter=max(100, 4 * min(n, p)))
    return np.asarray(unit * solution[0])


def row_sizes(A: Any, x: Array) -> Array:
    """Return |A| |x|, a bound of the size of the terms of A x; of an operator only |A x|."""
    if isinstance(A, LinearOperator):
        return np.asarray(np.abs(A @ x))
    if sparse.issparse(A):
        return np.asarray(abs(A) @ np.abs(x))
    out = np.empty(len(A))
    for rows in row_blocks(*A.shape):
        out[rows] = np.abs(A[rows]) @ np.abs(x)
    return out


def bounded_step(A: Array, w: Array, r: Array, *, x: Array, low: Array, high: Array) -> Step:
    """Return the step d that minimizes ``sum(w (r - A d)**2)`` with low <= x + d <= high."""
    root = np.sqrt(w)
    A = A * root[:, None]
    scale = column_scale(A)
    limits = (low - x) / scale, (high - x) / scale
    solution = scipy.optimize.lsq_linear(A * scale, r * root, limits, method="bvls", tol=EPS)
    d = solution.x * scale
    return Step(d, float(np.linalg.norm(A @ d)), len(x), A.T @ (r * root))


def minimum_norm(A: Array, r: Array, tolerance: float) -> tuple[Array, int]:
    """Return the least-squares solution of minimum norm, and the rank of A."""
    scale = column_scale(A)
    d, _, rank, _ = linalg.lstsq(A * scale, r, cond=tolerance, lapack_driver="gelsy")
    return np.asarray(d * scale), int(rank)


def rank_tolerance(A: Array) -> float:
    """Return the relative size below which a singular value counts as zero."""
    return float(max(A.shape[-2:]) * EPS)


def column_scale(A: Array) -> Array:
    """Return powers of two that bring the largest entry of each column to about one."""
    return inverse_powers(largest(A))


def inverse_powers(x: Array) -> Array:
    """Return the powers of two that bring each x > 0 to about one."""
    return np.asarray(np.ldexp(1.0, -_exponent(x)))


def _exponent(x: Array) -> NDArray[np.int32]:
    exponent = np.frexp(x)[1]
    # 2**1024 is not a double; the last factors of two do not matter.
    return np.clip(np.where(x > 0.0, exponent, 0), -1022, 1022).astype(np.int32)


def powers_of_two(x: Array) -> Array:
    """Return the powers of two just above |x|, 1 for zero."""
    return np.asarray(np.ldexp(1.0, _exponent(np.abs(x))))


def ones(n: int) -> Array:
    """Return n ones, which are one number in memory."""
    return np.ndarray((n,), buffer=_ONE, strides=(0,))


def are_ones(values: Array) -> bool:
    """Tell whether weights are `ones`, which stand for those that were not given."""
    return values.strides == (0,)


def packed(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state to pickle, in which `ones` are their number: it would write them all."""
    return {
        name: _Ones(len(value)) if isinstance(value, np.ndarray) and are_ones(value) else value
        for name, value in state.items()
    }


def unpacked(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state that was packed. Sums over `ones` take a way of their own, to the bit."""
    return {k: ones(value.n) if isinstance(value, _Ones) else value for k, value in state.items()}


class _Ones(NamedTuple):
    n: int


def power_of_two(x: float) -> float:
    """Return the power of two just above |x|, 1 for zero."""
    return float(powers_of_two(np.array(x)))


def row_space(A: Array, w: Array, G: Array | None = None) -> Array | None:
    """Return an orthonormal basis (p, rank) of the rows of W A, None if it is all of R^p.

    The minimum-norm solution is then ``basis @ z`` for the full-rank problem ``A @ basis``. G is
    A'WA, if that is known.
    """
    G = gram(A, w, np.zeros(len(A)))[0] if G is None else G
    if solve_gram(G, np.zeros(len(G))) is not None:
        return None
    scale = column_scale(A)
    A = A[w > 0.0] * scale
    return triangle_space(linalg.qr(A, mode="r")[0][: A.shape[1]], scale, rank_tolerance(A))


def triangle_space(R: Array, scale: Array, tolerance: float) -> Array | None:
    """Return what `row_space` does, from a triangular factor of A diag(scale)."""
    _, singular, Vt = linalg.svd(R, full_matrices=False)
    rank = int(np.sum(singular > tolerance * singular[0])) if len(singular) else 0
    if rank == R.shape[1]:
        return None
    return np.asarray(linalg.qr(Vt[:rank].T / scale[:, None], mode="economic")[0])


def least_squares(
    A: Array, b: Array, w: Array, ridge: Array | None = None, *, refined: bool = True
) -> Array:
    """Return the weighted least-squares solution for A of full column rank.

    Small problems are solved by QR with iterative refinement in twice the working
    precision (Björck 1967, doi:10.1007/BF02162161), so that the error no longer grows
    with the condition number; large ones, and all without `refined`, by normal equations in
    residual form.
    """
    n, p = A.shape
    x = np.zeros(p)
    if ridge is not None or not refined or n * p > _REFINED_ELEMENTS:
        for _ in range(3):
            x = x + weighted_step(A, w, b - A @ x, ridge=ridge, x=x).d
        return x
    root = np.sqrt(w)
    return _refined(A * root[:, None], b * root)


def refit(A: Array, b: Array, w: Array, x: Array) -> Array:
    """Return the least-squares solution of some rows, x where they do not determine one."""
    return x if row_space(A, w) is not None else least_squares(A, b, w)


def _refined(A: Array, b: Array) -> Array:
    scale = column_scale(A)
    A = np.ascontiguousarray(A * scale)
    Q, R = linalg.qr(A, mode="economic", check_finite=False)
    x, r = np.zeros(A.shape[1]), np.zeros_like(b)
    f, previous = np.empty_like(b), np.inf
    for _ in range(10):
        _kernels.residual_twice(A, b, r, x, f)
        g = -_kernels.transposed_twice(A, r)
        h = linalg.solve_triangular(R, g, trans="T", check_finite=False)
        q = Q.T @ f
        d = linalg.solve_triangular(R, q - h, check_finite=False)
        size = float(np.max(np.abs(d), initial=0.0))
        # Beyond a condition number of 1 / eps the corrections stop shrinking.
        if not size < 0.5 * previous:
            break
        x, r, previous = x + d, r + (f - Q @ (q - h)), size
    return np.asarray(x * scale)


def inverse_gram(A: Array, w: Array) -> Array:
    """Return (A'WA)^-1 by QR of the weighted design; the pseudo-inverse if it is singular."""
    half = inverse_root(A, w)
    return np.asarray(half @ half.T)


def inverse_root(A: Array, w: Array) -> Array:
    """Return H (p, rank) with H H' = (A'WA)^-1.

    The columns of A H are orthonormal in the weights w. Small or ill-conditioned designs go
    through QR of the weighted design, large well-conditioned ones through its Gram matrix.
    """
    if implicit(A):
        G = implicit_gram(A, w)
        root = gram_root(G)
        return _pseudo_root(G) if root is None else root
    root = None
    if A.size > _REFINED_ELEMENTS:
        root = gram_root(gram(A, w, np.zeros(len(A)))[0])
    if root is not None:
        return root
    scale = column_scale(A)
    return triangle_root(triangular(A, w, scale), scale, rank_tolerance(A))


def gram_root(G: Array) -> Array | None:
    """Return H with H H' = G^-1; None if G is too near to a singular matrix for its digits."""
    unit = 1.0 / np.sqrt(np.maximum(np.diagonal(G), 1e-300))
    L, info = linalg.lapack.dpotrf(G * unit * unit[:, None], lower=True, clean=True)
    if info != 0 or not np.min(np.diagonal(np.asarray(L))) > _GOOD_PIVOT:
        return None
    inverse = linalg.solve_triangular(L, np.eye(len(unit)), lower=True)
    return np.asarray(unit[:, None] * inverse.T)


def triangle_root(R: Array, scale: Array, tolerance: float) -> Array:
    """Return what `inverse_root` does, from a triangular factor of W^(1/2) A diag(scale)."""
    _, singular, Vt = linalg.svd(R, full_matrices=False)
    keep = singular > tolerance * singular[0]
    return np.asarray((Vt[keep].T / singular[keep]) * scale[:, None])


def _pseudo_root(G: Array) -> Array:
    """Return H with H H' the pseudo-inverse of G, scaled to a unit diagonal; half the digits."""
    unit = 1.0 / np.sqrt(np.maximum(np.diagonal(G), 1e-300))
    values, vectors = linalg.eigh(G * unit * unit[:, None])
    keep = values > math.sqrt(EPS) * values[-1]
    return np.asarray(unit[:, None] * vectors[:, keep] / np.sqrt(values[keep]))


def triangular(A: Array, w: Array, scale: Array) -> Array:
    """Return R of W^(1/2) A D, folding row blocks into it so that A is never copied."""
    n, p = A.shape
    root = np.sqrt(w)
    R = np.zeros((0, p))
    size = max(4 * p, block_rows(p))
    for start in range(0, n, size):
        rows = slice(start, start + size)
        block = np.vstack([R, A[rows] * scale * root[rows, None]])
        R = linalg.qr(block, mode="r", check_finite=False)[0][:p]
    return R


def row_leverage(A: Array, freq: Array, inv_sd: Array, w: Array | float = 1.0) -> Array:
    """Return the leverage of each row as one observation, with extra weights w."""
    square = np.square(inv_sd) * w
    return np.asarray(np.minimum(leverage(A, freq * square) * square, 1.0))


def leverage(A: Array, w: Array) -> Array:
    """Return the diagonal of A (A'WA)^-1 A', per unit of row weight, in [0, 1].

    Rows repeated f times, w = f, each have the leverage returned here.
    """
    half = inverse_root(A, w)
    out = np.empty(len(A))
    for rows in row_blocks(*A.shape):
        out[rows] = np.sum((A[rows] @ half) ** 2, axis=1)
    # One over a subnormal number is beyond the range of doubles.
    return np.minimum(out, 1.0 / np.where(w > 0.0, np.maximum(w, 1e-300), 1.0))
