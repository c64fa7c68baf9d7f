"""Speed of a robust linear fit beside other software, and of one pass beside the hardware.

``python -m tests.bench.performance`` times M-estimates (Welsch, scale re-estimated, from least
squares, converged to 1e-8) and the default MM-estimate on designs of 21 x 4 to 1,000,000 x 10.
Peers see the same arrays, one after the other in each round; the table gives medians. What is not
installed is named as skipped. The floor of a pass is the larger of the time to read A and the time
that its multiplications take at the speed of a matrix product, both measured here on all threads.

The table goes to docs/explanation/performance_table.md; ``--quick`` takes small sizes and writes
nothing.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import robustfit as rf
from robustfit._kernels import RowSums, in_threads
from robustfit._progress import progress_bar

SEED = 20261123
SIZES = ((21, 4), (1_000, 5), (10_000, 10), (100_000, 20), (1_000_000, 10))
QUICK = SIZES[:3]
PASSES = ((4, 1_000_000), (10, 1_000_000), (20, 1_000_000), (32, 500_000), (50, 400_000))
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance_table.md"
C = 2.98463717629906
# Enough rounds for a median where a fit takes so many seconds at most.
ROUNDS = ((0.01, 41), (0.1, 15), (1.0, 5), (np.inf, 3))

R_SCRIPT = """
a <- commandArgs(TRUE); n <- as.integer(a[2]); p <- as.integer(a[3]); rounds <- as.integer(a[5])
data <- matrix(readBin(a[1], "double", n * (p + 1)), n, p + 1)
X <- data[, 1:p]; y <- data[, p + 1]
psi.welsch <- function(u, c = 2.98463717629906, deriv = 0) {
  if (!deriv) exp(-(u / c)^2) else exp(-(u / c)^2) * (1 - 2 * (u / c)^2)
}
if (a[4] == "rlm") {
  fit <- function() MASS::rlm(X, y, psi = psi.welsch, init = "ls", maxit = 200, acc = 1e-8)
} else {
  control <- robustbase::lmrob.control(max.it = 200, k.max = 2000, maxit.scale = 1000,
                                       cov = ".vcov.w", rel.tol = 1e-8)
  fit <- function() robustbase::lmrob.fit(X, y, control)
}
once <- function() system.time(for (i in 1:loops) fit())[["elapsed"]] / loops
loops <- 1; first <- once(); loops <- max(1, min(1000, ceiling(0.2 / max(first, 1e-4))))
cat(median(replicate(rounds, once())))
"""


def make(n, p):
    """Return a design with an intercept and a response of which a fifth is wrong."""
    rng = np.random.default_rng((SEED, n, p))
    A = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    b = A @ rng.normal(size=p) + rng.normal(size=n)
    bad = rng.permutation(n)[: n // 5]
    b[bad] += 8.0 + 3.0 * rng.normal(size=len(bad))
    return A, b


# -- peers: each returns a function to time, or raises ImportError ------------------------------


def ours_m(A, b):
    return lambda: rf.irls(A, b, "welsch", start="ols", scale="mad", tol=1e-8)


def ours_mm(A, b):
    return lambda: rf.irls(A, b, "welsch")


def by_hand(A, b):
    """Return normal equations in five lines of NumPy, as people write them."""

    def fit():
        x = np.linalg.lstsq(A, b, rcond=None)[0]
        for _ in range(200):
            r = b - A @ x
            s = np.median(np.abs(r)) / 0.6744897501960817
            w = np.exp(-((r / (C * s)) ** 2))
            new = np.linalg.solve((A * w[:, None]).T @ A, A.T @ (w * b))
            if np.max(np.abs(new - x)) <= 1e-8 * np.max(np.abs(new)):
                return new
            x = new
        return x

    return fit


def statsmodels_rlm(A, b):
    import statsmodels.api as sm

    class Welsch(sm.robust.norms.RobustNorm):
        def rho(self, z):
            return 0.5 * C * C * -np.expm1(-((z / C) ** 2))

        def psi(self, z):
            return z * np.exp(-((z / C) ** 2))

        def weights(self, z):
            return np.exp(-((z / C) ** 2))

        def psi_deriv(self, z):
            return np.exp(-((z / C) ** 2)) * (1.0 - 2.0 * (z / C) ** 2)

    return lambda: sm.RLM(b, A, M=Welsch()).fit(maxiter=200, tol=1e-8)


def sklearn_huber(A, b):
    from sklearn.linear_model import HuberRegressor

    return lambda: HuberRegressor(alpha=0.0, fit_intercept=False, tol=1e-8, max_iter=500).fit(A, b)


def scipy_cauchy(A, b):
    from scipy.optimize import least_squares

    start = np.zeros(A.shape[1])
    return lambda: least_squares(
        lambda x: A @ x - b, start, jac=lambda x: A, loss="cauchy", xtol=1e-8, ftol=1e-8, gtol=1e-8
    )


def in_r(kind, package):
    """Return a function that times R on the arrays and returns the seconds."""

    def prepare(A, b):
        if shutil.which("Rscript") is None:
            raise ImportError("Rscript is not installed")
        found = subprocess.run(["Rscript", "-e", f"library({package})"], capture_output=True)
        if found.returncode:
            raise ImportError(f"R has no {package}")

        def seconds(rounds):
            n, p = A.shape
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "data.bin"
                np.column_stack([A, b]).ravel(order="F").tofile(path)
                command = ["Rscript", "-e", R_SCRIPT, str(path), str(n), str(p), kind, str(rounds)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
            return float(done.stdout)

        seconds.own_clock = True
        return seconds

    return prepare


PEERS = {
    "robustfit M": ours_m,
    "robustfit MM": ours_mm,
    "NumPy by hand": by_hand,
    "statsmodels RLM": statsmodels_rlm,
    "scikit-learn Huber": sklearn_huber,
    "SciPy cauchy": scipy_cauchy,
    "R MASS rlm": in_r("rlm", "MASS"),
    "R lmrob (MM)": in_r("lmrob", "robustbase"),
}


# -- timing --------------------------------------------------------------------------------------


def seconds(call):
    """Return the wall time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def compare(n, p, skipped, bar):
    """Return the median time of every peer that is here, rounds interleaved."""
    A, b = make(n, p)
    calls, medians, first = {}, {}, {}
    for name, peer in PEERS.items():
        try:
            calls[name] = peer(A, b)
        except ImportError as error:
            skipped[name] = str(error)
    python = {k: f for k, f in calls.items() if not hasattr(f, "own_clock")}
    for name, call in python.items():
        call()
        first[name] = seconds(call)
    found = {name: [] for name in python}
    slowest = max(first.values())
    rounds = next(count for limit, count in ROUNDS if slowest <= limit)
    for _ in range(rounds):
        for name, call in python.items():
            found[name].append(seconds(call))
        bar.update()
    medians = {name: float(np.median(times)) for name, times in found.items()}
    for name in calls.keys() - python.keys():
        medians[name] = calls[name](min(rounds, 5))
        bar.update()
    return medians


def bandwidth():
    """Return how many bytes all threads read in a second."""
    A = np.ones((1 << 24,))

    def read():
        in_threads(lambda part: A[part].sum(), len(A), 1 << 20, np.inf)

    return A.nbytes / min(seconds(read) for _ in range(7))


def multiplications():
    """Return how many multiply-adds a matrix product does in a second."""
    A = np.ones((1500, 1500))
    return 1500.0**3 / min(seconds(lambda: A @ A) for _ in range(7))


def floors(bar):
    """Return rows of p, rows, seconds of a pass, its floor, and NumPy's A'A."""
    bytes_per_second, products = bandwidth(), multiplications()
    rows = []
    for p, n in PASSES:
        A, b = make(n, p)
        x = np.linalg.lstsq(A[:1000], b[:1000], rcond=None)[0]
        sums = RowSums(A, b, rf.get_loss("welsch"))
        sums(x, 1.0)
        own = min(seconds(lambda: sums(x, 1.0)) for _ in range(9))  # noqa: B023
        plain = min(seconds(lambda: A.T @ A) for _ in range(5))  # noqa: B023
        # G is symmetric: half of its products are needed.
        floor = max(A.nbytes / bytes_per_second, n * p * (p + 1) / 2 / products)
        rows.append((p, n, own, floor, plain))
        bar.update()
    return rows, bytes_per_second, products


# -- the page ------------------------------------------------------------------------------------


def machine():
    """Return processor, threads and versions in a sentence."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    packages = ["numpy", "scipy", "numba", "statsmodels", "scikit-learn"]
    return f"{model}, {os.cpu_count()} threads, Python {platform.python_version()}, " + ", ".join(
        f"{name} {_version(name)}" for name in packages if _version(name)
    )


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _time(value):
    ms = 1e3 * value
    return f"{ms:.3g}" if ms < 1000.0 else f"{ms:,.0f}"


def page(times, passes, skipped):
    """Return the page with both tables."""
    rows, bytes_per_second, products = passes
    names = [name for name in PEERS if any(name in found for found in times.values())]
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# Speed, measured",
        "",
        "<!-- table -->",
        "",
        f"Milliseconds, medians of interleaved rounds. {machine()}.",
        "",
        "| n × p | " + " | ".join(names) + " |",
        "|---|" + "--:|" * len(names),
    ]
    for (n, p), found in times.items():
        cells = [_time(found[name]) if name in found else "–" for name in names]
        lines.append(f"| {n:,} × {p} | " + " | ".join(cells) + " |")
    lines += ["", "The same as ratios: how many times longer than ours a peer takes.", ""]
    lines += [f"| n × p | {' | '.join(names[2:])} |", "|---|" + "--:|" * (len(names) - 2)]
    for (n, p), found in times.items():
        cells = []
        for name in names[2:]:
            own = found["robustfit MM" if "MM" in name else "robustfit M"]
            cells.append(f"{found[name] / own:.3g}" if name in found else "–")
        lines.append(f"| {n:,} × {p} | " + " | ".join(cells) + " |")
    lines += ["", "`lmrob` is compared with our MM-estimate, all others with our M-estimate."]
    if skipped:
        lines.append("Skipped: " + "; ".join(f"{k} ({v})" for k, v in skipped.items()) + ".")
    lines += [
        "",
        "**One pass over the rows** (residuals, weights, rho, normal equations), all threads. The "
        f"floor is reading A at {bytes_per_second / 1e9:.1f} GB/s or half of p² multiply-adds a "
        f"row at {products / 1e9:.0f} billion a second, whichever takes longer.",
        "",
        "| p | rows | pass, ms | floor, ms | ratio | NumPy A'A, ms |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for p, n, own, floor, plain in rows:
        cells = (p, f"{n:,}", _time(own), _time(floor), f"{own / floor:.2f}", _time(plain))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    args = parser.parse_args()
    times, skipped = {}, {}
    with warnings.catch_warnings(), progress_bar(None, "performance", sys.stderr.isatty()) as bar:
        warnings.simplefilter("ignore")
        for n, p in QUICK if args.quick else SIZES:
            times[n, p] = compare(n, p, skipped, bar)
        passes = floors(bar)
    text = page(times, passes, skipped)
    print(text)
    if not args.quick:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
