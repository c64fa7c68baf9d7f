"""Least absolute deviations, by linear programming."""

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lad_estimate(A: Array, b: Array, w: Array) -> Array:
    """Return x that minimizes ``sum(w * abs(b - A x))``.

    The dual, max b'y subject to A'y = 0 and |y_i| <= w_i, has p rows; x are its multipliers
    (Wagner 1959, doi:10.1080/01621459.1959.10501506). Where the solution is not unique, one
    of the vertices is returned.

    Parameters
    ----------
    A : ndarray of shape (n, p)
        Design of full column rank, entries of order one.
    b : ndarray of shape (n,)
        Response, of order one.
    w : ndarray of shape (n,)
        Nonnegative row weights.
    """
    bounds = np.column_stack([-w, w])
    solution = scipy.optimize.linprog(
        -b,
        A_eq=scipy.sparse.csr_array(A.T),
        b_eq=np.zeros(A.shape[1]),
        bounds=bounds,
        method="highs-ds",
    )
    if solution.status != 0:
        raise RuntimeError(f"the linear program of the LAD start failed: {solution.message}")
    return -np.asarray(solution.eqlin.marginals)
