"""Breakdown: 45 % of the rows replaced by anything, leverage included.

``python -m tests.bench.breakdown`` fits 200 random cases with n = 200 and p = 5 by the default
call. A fit has to be within five standard errors of least squares on the good rows, or must
not report success. ``--quick`` takes 20 cases, ``--loss tukey`` another loss.

Those that do not are of three kinds. *Search*: the good answer has a smaller S-scale than the fit
that was found. *Bias*: it has not, so that the S-estimate itself is wrong; below the breakdown
point it is bounded, but 45 % of the rows can move it far. *M-step*: the S-estimate is right and
the fit is not.
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


def s_scale(A, b, x, loss):
    """Return the smallest S-scale near x, by reweighting from there."""
    last = np.inf
    for _ in range(200):
        r = b - A @ x
        scale = float(rf.scale.m_scale(r, loss=loss, breakdown=0.5, ddof=A.shape[1]))
        if not 0.0 < scale < last * (1.0 - 1e-9):
            return min(scale, last)
        root, last = np.sqrt(loss.weight(r / scale)), scale
        # Rows without weight may be huge.
        kept = root > 0.0
        x = np.linalg.lstsq(A[kept] * root[kept, None], b[kept] * root[kept])[0]
    return last


def examine(seed, loss):
    """Return the kind, the status, the largest distance in standard errors, and its cause."""
    A, b, good, kind = data_of(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = rf.irls(A, b, loss)
    clean = rf.irls(A[good], b[good], "linear")

    def distance(x):
        return float(np.max(np.abs(x - clean.x) / clean.bse))

    s_loss = rf.get_loss(loss, breakdown=0.5)
    best = s_scale(A, b, clean.x, s_loss)
    if distance(fit.search.x) <= 2.0 * LIMIT:
        cause = "M-step"
    else:
        cause = "search" if best < fit.search.scale * (1.0 - 1e-6) else "bias"
    with np.errstate(divide="ignore", invalid="ignore"):
        own = float(np.max(np.abs(fit.x - clean.x) / fit.bse))
    cause += (
        f" ({own:.3g} of its own; S-scale {fit.search.scale:.4g}, near the good answer {best:.4g}; "
        f"S-estimate {distance(fit.search.x):.3g} standard errors off)"
    )
    return kind, fit.status, distance(fit.x), cause


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 cases")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--loss", default="welsch")
    args = parser.parse_args()
    count, begin = 20 if args.quick else args.cases, time.perf_counter()
    ends, failures = collections.Counter(), collections.defaultdict(list)
    worst = collections.defaultdict(float)
    for seed in range(count):
        kind, status, distance, cause = examine(seed, args.loss)
        near = distance <= LIMIT
        ends[status.name, "near" if near else "far"] += 1
        if status.success:
            worst[kind] = max(worst[kind], distance)
        if not near:
            print(f"seed {seed}, {kind}: {status.name}, {distance:.3g} standard errors; {cause}")
        if not near and status.success:
            failures[cause.partition(" ")[0]].append(seed)
        if (seed + 1) % 20 == 0:
            print(f"{seed + 1}/{count}: {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"\n{count} cases, n = {N}, p = {P}, {BAD} bad rows, loss {args.loss}")
    for (status, where), number in sorted(ends.items()):
        print(f"{number:4d}  {status}, {where}")
    for kind, distance in worst.items():
        print(f"{distance:7.2f} standard errors at most among the successes of: {kind}")
    print(f"success, but farther than {LIMIT:g} standard errors:")
    for cause in ("search", "M-step", "bias"):
        print(f"{len(failures[cause]):4d}  {cause} {failures[cause] or ''}")
    return 1 if failures["search"] or failures["M-step"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
