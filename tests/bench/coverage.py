"""Coverage of nominal 95 % intervals by the covariances of an MM-estimate.

Run ``python tests/bench/coverage.py [repetitions]``; 300 take about five minutes. The
intervals are Student's t; "bootstrap" is the percentile interval of the fast bootstrap.
"""

import sys
import warnings

import numpy as np
from scipy import stats

import robustfit as rf
from robustfit import covariance

COV_TYPES = ("huber", "avar1", "w", "HC")
ERRORS = ("normal", "unequal", "t3", "skewed", "10 % outliers")


def errors(kind, x, rng):
    n = len(x)
    if kind == "unequal":
        return rng.standard_normal(n) * (0.5 + np.abs(x))
    if kind == "t3":
        return rng.standard_t(3, n)
    if kind == "skewed":
        return rng.exponential(size=n) - 1.0
    shift = 10.0 * (rng.random(n) < 0.1) if kind == "10 % outliers" else 0.0
    return rng.standard_normal(n) + shift


def covered(n, design, kind, repetitions):
    """Return how often the interval of each slope covers, by covariance."""
    rng = np.random.default_rng(1)
    hits = {name: np.zeros(2) for name in (*COV_TYPES, "bootstrap")}
    for _ in range(repetitions):
        x = rng.standard_normal((n, 2))
        if design == "log-normal":
            x[:, 0] = np.exp(x[:, 0]) - 1.6
        fit = rf.irls(np.column_stack([np.ones(n), x]), errors(kind, x[:, 0], rng), "tukey")
        for name in COV_TYPES:
            half = (
                stats.t.ppf(0.975, n - 3)
                * covariance.covariance(fit._fitted, name).diagonal() ** 0.5
            )
            hits[name] += np.abs(fit.x[1:]) <= half[1:]
        limits = fit.bootstrap(999).conf_int()[1:]
        hits["bootstrap"] += (limits[:, 0] <= 0.0) & (limits[:, 1] >= 0.0)
    return {name: count / repetitions for name, count in hits.items()}


def main(repetitions):
    warnings.simplefilter("ignore", rf.BasinWarning)
    print(
        f"{'n':>4} {'design':<11}{'errors':<14}", *(f"{c:>13}" for c in (*COV_TYPES, "bootstrap"))
    )
    for n in (20, 60):
        for design in ("normal", "log-normal"):
            for kind in ERRORS:
                rates = covered(n, design, kind, repetitions)
                cells = (f"{a:6.3f} {b:6.3f}" for a, b in rates.values())
                print(f"{n:4} {design:<11}{kind:<14}", *cells, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
