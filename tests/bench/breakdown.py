"""Breakdown: 45 % of the rows replaced by anything, leverage included.

``python -m tests.bench.breakdown`` fits 200 random cases with n = 200 and p = 5 by the default
call. A fit has to be within five standard errors of least squares on the good rows, or must
not report success. ``--quick`` takes 20 cases, ``--loss tukey`` another loss.
"""

import argparse
import collections
import time
import warnings

import numpy as np

import robustfit as rf

SEED = 20260103
N, P, BAD = 200, 5, 90
LIMIT = 5.0
KINDS = (
    "scattered over all magnitudes",
    "one point",
    "one line through the origin",
    "far leverage, modest response",
    "modest leverage, huge response",
    "a plane of their own",
    "some columns only",
    "a mixture",
)


def magnitude(rng, size=None):
    """Return a number between 1 and 1e12, as likely in each decade."""
    return 10.0 ** rng.uniform(0.0, 12.0, size)


def signs(rng, size):
    return rng.choice([-1.0, 1.0], size)


def bad_rows(kind, rng, m):
    """Return m rows of regressors and their responses."""
    X, y = rng.normal(size=(m, P - 1)), rng.normal(size=m)
    if kind == "scattered over all magnitudes":
        X, y = signs(rng, X.shape) * magnitude(rng, X.shape), signs(rng, m) * magnitude(rng, m)
    elif kind == "one point":
        X = np.tile(signs(rng, P - 1) * magnitude(rng, P - 1), (m, 1))
        y = np.full(m, signs(rng, 1)[0] * magnitude(rng))
    elif kind == "one line through the origin":
        t = magnitude(rng, m) * signs(rng, m)
        X, y = t[:, None] * rng.normal(size=P - 1), t * rng.normal()
    elif kind == "far leverage, modest response":
        X = X * magnitude(rng)
    elif kind == "modest leverage, huge response":
        X, y = 3.0 * X, y * magnitude(rng)
    elif kind == "a plane of their own":
        X = X * magnitude(rng)
        y = X @ rng.normal(size=P - 1) * magnitude(rng) ** 0.5
        X, y = np.clip(X, -1e12, 1e12), np.clip(y, -1e12, 1e12)
    elif kind == "some columns only":
        j = rng.integers(P - 1)
        X[:, j] = signs(rng, m) * magnitude(rng, m)
        y = signs(rng, m) * magnitude(rng, m)
    return X, y


def data_of(seed):
    """Return A, b, which rows are good, and the kind of the others."""
    rng = np.random.default_rng((SEED, seed))
    kind = KINDS[seed % len(KINDS)]
    X, b = rng.normal(size=(N, P - 1)), rng.normal(size=N)
    x = rng.normal(size=P) * 10.0
    b += x[0] + X @ x[1:]
    rows = rng.choice(N, BAD, replace=False)
    if kind == "a mixture":
        for part in np.array_split(rows, 3):
            X[part], b[part] = bad_rows(KINDS[rng.integers(len(KINDS) - 1)], rng, len(part))
    else:
        X[rows], b[rows] = bad_rows(kind, rng, BAD)
    good = np.ones(N, dtype=bool)
    good[rows] = False
    return np.column_stack([np.ones(N), X]), b, good, kind


def examine(seed, loss):
    """Return the kind, the status and the largest distance in standard errors."""
    A, b, good, kind = data_of(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = rf.irls(A, b, loss)
    clean = rf.irls(A[good], b[good], "linear")
    return kind, fit.status, float(np.max(np.abs(fit.x - clean.x) / clean.bse))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 cases")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--loss", default="welsch")
    args = parser.parse_args()
    count, begin = 20 if args.quick else args.cases, time.perf_counter()
    ends, failures, worst = collections.Counter(), [], collections.defaultdict(float)
    for seed in range(count):
        kind, status, distance = examine(seed, args.loss)
        near = distance <= LIMIT
        ends[status.name, "near" if near else "far"] += 1
        if status.success:
            worst[kind] = max(worst[kind], distance)
        if not near:
            print(f"seed {seed}, {kind}: {status.name}, {distance:.3g} standard errors", flush=True)
            failures += [seed] if status.success else []
        if (seed + 1) % 20 == 0:
            print(f"{seed + 1}/{count}: {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"\n{count} cases, n = {N}, p = {P}, {BAD} bad rows, loss {args.loss}")
    for (status, where), number in sorted(ends.items()):
        print(f"{number:4d}  {status}, {where}")
    for kind, distance in worst.items():
        print(f"{distance:7.2f} standard errors at most among the successes of: {kind}")
    print(f"success, but farther than {LIMIT:g} standard errors: {len(failures)} {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
