"""Coverage of nominal 95 % intervals of the slopes, by covariance.

``python -m tests.bench.coverage`` writes docs/explanation/coverage_table.md (about half an
hour with two idle cores); ``--quick`` takes a hundred replicates and writes nothing.
``--bootstrap`` instead prints small samples with the fast bootstrap beside the covariances.

The true coefficients are zero: the estimates are equivariant. Intervals are Student's t.
"""

import argparse
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import numpy as np
from scipy import stats

import robustfit as rf
from robustfit import covariance

DOCS = Path(__file__).parents[2] / "docs"
SEED = 20260102
COV_TYPES = ("w", "avar1", "huber", "HC")
COLUMNS = 5
ROWS = (50, 100)
NORMAL = (
    "normal",
    "10 % symmetric",
    "10 % one-sided",
    "20 % symmetric",
    "20 % one-sided",
)
OTHER = ("skewed", "unequal variances", "skewed and unequal")
REPLICATES = 2000
# Nominal 95 %; the default is expected to be between these where the errors are normal.
LOWEST, HIGHEST = 93.5, 96.5


def errors(kind, A, rng):
    """Return errors; of the columns of A, the last decides on the variance."""
    n = len(A)
    if kind in NORMAL:
        e = rng.normal(size=n)
        if kind != "normal":
            share, side = int(kind[:2]) / 100.0, kind[5:]
            rows = rng.choice(n, round(share * n), replace=False)
            far = rng.normal(size=len(rows))
            e[rows] = 10.0 + far if side == "one-sided" else 10.0 * far
        return e
    e = rng.normal(size=n) if kind.startswith("unequal") else rng.exponential(size=n) - 1.0
    return e if kind == "skewed" else e * (0.5 + np.abs(A[:, -1]))


def chunk(job):
    """Return how often each interval of each slope covers, of some data sets."""
    n, kind, loss, first, count = job
    hits = {name: np.zeros(COLUMNS - 1) for name in COV_TYPES}
    quantile = stats.t.ppf(0.975, n - COLUMNS)
    for k in range(first, first + count):
        rng = np.random.default_rng((SEED, n, (*NORMAL, *OTHER).index(kind), k))
        A = np.column_stack([np.ones(n), rng.normal(size=(n, COLUMNS - 1))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = rf.irls(A, errors(kind, A, rng), loss)
        assert fit.cov_type == COV_TYPES[0]
        for name in COV_TYPES:
            bse = np.sqrt(np.diagonal(covariance.covariance(fit._fitted, name)))
            hits[name] += np.abs(fit.x[1:]) <= quantile * bse[1:]
    return hits


def covered(pool, n, kind, loss, replicates):
    """Return the percentage of covered slopes by covariance."""
    size = max(replicates // 20, 1)
    jobs = [(n, kind, loss, k, min(size, replicates - k)) for k in range(0, replicates, size)]
    parts = pool.map(chunk, jobs, chunksize=1)
    return {
        name: 100.0 * float(np.mean(sum(hits[name] for hits in parts))) / replicates
        for name in COV_TYPES
    }


def table(rows, replicates):
    """Return the page."""
    names = [f"`{name}`" for name in COV_TYPES]
    head = [
        "| errors | n | n/p | loss | " + " | ".join(names) + " |",
        "|---|--:|--:|---|" + "--:|" * len(names),
    ]

    def line(row):
        kind, n, loss, rates = row
        cells = [f"{rates[name]:.1f}" for name in COV_TYPES]
        if kind in NORMAL and not LOWEST <= rates[COV_TYPES[0]] <= HIGHEST:
            cells[0] = f"**{cells[0]}**"
        text = [kind, str(n), f"{n / COLUMNS:g}", loss, *cells]
        return "| " + " | ".join(text) + " |"

    outside = outsiders(rows)
    wanted = f"between {LOWEST:g} and {HIGHEST:g} %"
    verdict = f"The default, `w`, covers {wanted} in every row of the first table."
    if outside:
        verdict = f"The default, `w`, should cover {wanted}; it does not in the rows in bold: "
        verdict += "; ".join(
            f"{kind}, n = {n}, {loss}: {rates[COV_TYPES[0]]:.1f} %"
            for kind, n, loss, rates in outside
        )
        verdict += "."
    spread = 100.0 * np.sqrt(0.95 * 0.05 / (replicates * (COLUMNS - 1)))
    return "\n".join(
        [
            "---",
            "orphan: true",
            "---",
            "",
            "# Measured coverage",
            "",
            "<!-- table -->",
            "",
            "Percentage of nominal 95 % intervals that contain the true slope, averaged over the "
            f"{COLUMNS - 1} slopes of a normal design with an intercept; {replicates:,} data sets "
            f"per row, so one number has a standard error of about {spread:.1f}. Fits of any "
            "status are counted.",
            "",
            verdict,
            "",
            *head,
            *(line(row) for row in rows if row[0] in NORMAL),
            "",
            "Errors that are not normal, with the same design. *Skewed* errors are exponential, "
            "less their mean; where variances are *unequal*, errors are multiplied by 0.5 + |x| "
            "of one column.",
            "",
            *head,
            *(line(row) for row in rows if row[0] in OTHER),
            "",
        ]
    )


def outsiders(rows):
    """Return the rows with normal errors where the default misses its range."""
    return [r for r in rows if r[0] in NORMAL and not LOWEST <= r[3][COV_TYPES[0]] <= HIGHEST]


# -- small samples, with the bootstrap ---------------------------------------------------------


def with_bootstrap(replicates):
    """Print the coverage of small samples, the fast bootstrap included."""
    kinds = ("normal", "unequal", "t3", "skewed", "10 % outliers")
    names = (*COV_TYPES, "bootstrap")
    print(f"{'n':>4} {'design':<11}{'errors':<14}", *(f"{c:>13}" for c in names))
    for n in (20, 60):
        for design in ("normal", "log-normal"):
            for kind in kinds:
                rates = _small(n, design, kind, replicates)
                cells = (f"{a:6.3f} {b:6.3f}" for a, b in (rates[name] for name in names))
                print(f"{n:4} {design:<11}{kind:<14}", *cells, flush=True)


def _small(n, design, kind, replicates):
    rng, quantile = np.random.default_rng(1), stats.t.ppf(0.975, n - 3)
    hits = {name: np.zeros(2) for name in (*COV_TYPES, "bootstrap")}
    for _ in range(replicates):
        x = rng.standard_normal((n, 2))
        if design == "log-normal":
            x[:, 0] = np.exp(x[:, 0]) - 1.6
        fit = rf.irls(np.column_stack([np.ones(n), x]), _small_errors(kind, x[:, 0], rng), "tukey")
        for name in COV_TYPES:
            bse = covariance.covariance(fit._fitted, name).diagonal() ** 0.5
            hits[name] += np.abs(fit.x[1:]) <= quantile * bse[1:]
        limits = fit.bootstrap(999).conf_int()[1:]
        hits["bootstrap"] += (limits[:, 0] <= 0.0) & (limits[:, 1] >= 0.0)
    return {name: count / replicates for name, count in hits.items()}


def _small_errors(kind, x, rng):
    n = len(x)
    if kind == "unequal":
        return rng.standard_normal(n) * (0.5 + np.abs(x))
    if kind == "t3":
        return rng.standard_t(3, n)
    if kind == "skewed":
        return rng.exponential(size=n) - 1.0
    shift = 10.0 * (rng.random(n) < 0.1) if kind == "10 % outliers" else 0.0
    return rng.standard_normal(n) + shift


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 replicates, writes nothing")
    parser.add_argument("--bootstrap", action="store_true", help="small samples, printed only")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--loss", nargs="+", default=["welsch", "tukey"])
    parser.add_argument("--out", type=Path, default=DOCS, help="default: docs/")
    args = parser.parse_args()
    if args.bootstrap:
        warnings.simplefilter("ignore", rf.BasinWarning)
        with_bootstrap(100 if args.quick else 300)
        return 0
    replicates = 100 if args.quick else args.replicates
    # For the workers, which have not loaded anything yet: one thread each.
    for library in ("NUMBA", "OPENBLAS", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    rows, begin = [], time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for kind in (*NORMAL, *OTHER):
            for n in ROWS:
                for loss in args.loss:
                    rates = covered(pool, n, kind, loss, replicates)
                    rows.append((kind, n, loss, rates))
                    numbers = "  ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
                    spent = time.perf_counter() - begin
                    print(f"{kind}, n = {n}, {loss}: {numbers}  ({spent:.0f} s)", flush=True)
    text = table(rows, replicates)
    if not args.quick:
        (args.out / "explanation").mkdir(parents=True, exist_ok=True)
        (args.out / "explanation" / "coverage_table.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if outsiders(rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
