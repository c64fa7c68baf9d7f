"""Coverage of the heteroskedasticity-robust covariance "HC" with other leverage corrections.

``python tests/bench/hc_corrections.py`` takes a minute. It fits Tukey's M-estimate, started from
Huber's, at a fixed scale, to many samples at once, and prints for each correction how often
nominal 95 % intervals of a slope cover, for a normal and for a log-normal regressor.
"""

import numpy as np
from scipy import stats

from robustfit.losses import Huber, Tukey

REPETITIONS = 4000
SIZES = (20, 40, 100)
ERRORS = {
    "normal": lambda rng, x: rng.standard_normal(x.shape),
    "unequal": lambda rng, x: rng.standard_normal(x.shape) * (0.5 + np.abs(x)),
    "t3": lambda rng, x: rng.standard_t(3, x.shape),
    "outliers": lambda rng, x: rng.standard_normal(x.shape) + 10.0 * (rng.random(x.shape) < 0.1),
    "skewed": lambda rng, x: rng.exponential(size=x.shape) - 1.0,
}


def gram(w, A):
    return np.einsum("rn,rni,rnj->rij", w, A, A)


def estimate(A, b):
    """Return coefficients, scale and residuals of each sample."""
    _, n, p = A.shape
    loss = Huber()
    x = np.linalg.solve(gram(np.ones_like(b), A), np.einsum("rni,rn->ri", A, b)[..., None])
    for step in range(60):
        r = b - np.einsum("rni,ri->rn", A, x[..., 0])
        if step < 30:
            s = np.median(np.abs(r), axis=1)[:, None] / 0.6745 * n / (n - p)
        else:
            loss = Tukey()
        w = loss.weight(r / s)
        x = np.linalg.solve(gram(w, A), np.einsum("rni,rn->ri", A, w * b)[..., None])
    return x[..., 0], s, b - np.einsum("rni,ri->rn", A, x[..., 0])


def variances(A, r, s):
    """Return the variances of the coefficients under each correction."""
    _, n, p = A.shape
    u = r / s
    psi, dpsi, weight = Tukey().psi(u), Tukey().dpsi(u), Tukey().weight(u)

    def own(w):
        return np.minimum(w * np.einsum("rni,rij,rnj->rn", A, np.linalg.inv(gram(w, A)), A), 0.99)

    bread = np.linalg.inv(gram(dpsi, A))

    def sandwich(score):
        V = bread @ gram(score**2, A) @ bread
        return np.diagonal(V, axis1=1, axis2=2) * s**2

    found = {"none": sandwich(psi), "n / (n - p)": sandwich(psi) * n / (n - p)}
    for name, w in (("design", np.ones_like(weight)), ("weights", weight), ("psi'", dpsi)):
        found[f"HC2, {name}"] = sandwich(psi / np.sqrt(1.0 - own(w)))
        found[f"HC3, {name}"] = sandwich(psi / (1.0 - own(w)))
    return found


def main():
    rng = np.random.default_rng(1)
    rates = {}
    for n in SIZES:
        for lognormal in (False, True):
            for errors in ERRORS.values():
                X = rng.standard_normal((2, REPETITIONS, n))
                if lognormal:
                    X[0] = np.exp(X[0]) - 1.6
                A = np.stack([np.ones((REPETITIONS, n)), *X], axis=2)
                x, s, r = estimate(A, errors(rng, X[0]))
                for name, v in variances(A, r, s).items():
                    covers = np.abs(x) <= stats.t.ppf(0.975, n - 3) * np.sqrt(v)
                    rates.setdefault(name, {}).setdefault(lognormal, []).append(covers[:, 1].mean())
    print(f"{'correction':<14}{'normal x':>10}{'log-normal x':>14}{'worst':>8}")
    for name, rate in rates.items():
        print(
            f"{name:<14}{100 * np.mean(rate[False]):10.1f}{100 * np.mean(rate[True]):14.1f}"
            f"{100 * min(min(r) for r in rate.values()):8.1f}"
        )


if __name__ == "__main__":
    main()
