"""A small problem, how it is cut into blocks, and what is fitted to it."""

import itertools

import numpy as np

N = 160
CHUNKINGS = {
    "one": [N],
    "single rows": [1] * N,
    "uneven": [3, 97, 1, 40, 19],
    "empty": [0, 80, 0, 0, 80, 0],
}
ESTIMATORS = {
    "mm": {},
    "mm tukey": {"loss": "tukey"},
    "mad": {"loss": "huber"},
    "kept mad": {"loss": "huber", "scale": "mad-fixed"},
    "huber scale": {"loss": "huber", "scale": "huber"},
    "fixed": {"loss": "cauchy", "scale": 1.5, "start": "ols"},
    "linear": {"loss": "linear"},
}


def problem():
    """Return a design with an intercept, and a response of which a tenth is wrong."""
    rng = np.random.default_rng(1)
    A = np.column_stack([np.ones(N), rng.standard_normal((N, 2))])
    b = A @ [1.0, -2.0, 3.0] + rng.standard_normal(N)
    b[: N // 10] += 15.0
    return A, b


def cut(*arrays, chunks):
    """Return the arrays in blocks of these numbers of rows."""
    ends = np.cumsum([0, *chunks])
    return [tuple(a[low:high] for a in arrays) for low, high in itertools.pairwise(ends)]


def assert_same(fit, expected, rtol=1e-10):
    assert fit.status is expected.status
    np.testing.assert_allclose(fit.x, expected.x, rtol=rtol)
    np.testing.assert_allclose(fit.scale, expected.scale, rtol=rtol)
    np.testing.assert_allclose(fit.bse, expected.bse, rtol=rtol)
