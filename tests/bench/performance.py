"""Speed of a robust linear fit beside other software, of one pass beside the hardware, memory.

``python -m tests.bench.performance`` times M-estimates (Welsch, scale re-estimated, from least
squares, converged to 1e-8) and the default MM-estimate on designs of 21 x 4 to 1,000,000 x 10.
Peers see the same arrays, one after the other in each round; the table gives medians. What is not
installed is named as skipped. The floor of a pass is the larger of the time to read A and the time
that its multiplications take at the speed of a matrix product, both measured here on all threads.
Then: passes and time of a wide design, the memory that a large fit takes beyond its data, and the
first call in a new process, with and without compiled code on disk.

The table goes to docs/explanation/performance_table.md; ``--quick`` takes small sizes and writes
nothing.
"""

import argparse
import functools
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
PASSES = (
    *((4, 1_000_000), (10, 1_000_000), (20, 1_000_000)),
    *((32, 500_000), (50, 400_000), (200, 100_000)),
)
WIDE = (2_000, 1_000)
WIDE_OPTIONS = (
    {"loss": "huber", "scale": "mad"},
    {"loss": "welsch", "scale": "huber"},
    {"loss": "welsch", "scale": "mad"},
)
# Rows and columns of the fit whose memory is measured.
LARGE = (4_000_000, 20)
PLOT = Path(__file__).parents[2] / "docs" / "_static" / "performance.png"
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "performance_table.md"
C = 2.98463717629906
# What takes so many seconds is timed once.
SLOW = 2.0
# Enough rounds for a median where a fit takes so many seconds at most.
ROUNDS = ((0.01, 41), (0.1, 15), (1.0, 5), (2.0, 3), (np.inf, 1))
# In each, a peer is called for so many seconds at least.
TURN = 0.01

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

GSL_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <gsl/gsl_errno.h>
#include <gsl/gsl_multifit.h>
static double now(void) {
  struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec;
}
int main(int argc, char **argv) {
  size_t n = atol(argv[2]), p = atol(argv[3]); int rounds = atoi(argv[4]);
  gsl_set_error_handler_off();
  gsl_matrix *X = gsl_matrix_alloc(n, p), *V = gsl_matrix_alloc(p, p);
  gsl_vector *y = gsl_vector_alloc(n), *x = gsl_vector_alloc(p);
  FILE *f = fopen(argv[1], "rb");
  for (size_t j = 0; j < p; j++) for (size_t i = 0; i < n; i++) {
    double v; if (fread(&v, 8, 1, f) != 1) return 1; gsl_matrix_set(X, i, j, v);
  }
  if (gsl_vector_fread(f, y)) return 1;
  for (int k = 0; k < rounds; k++) {
    double begin = now();
    gsl_multifit_robust_workspace *w = gsl_multifit_robust_alloc(gsl_multifit_robust_welsch, n, p);
    gsl_multifit_robust_maxiter(200, w);
    gsl_multifit_robust(X, y, x, V, w);
    gsl_multifit_robust_free(w);
    printf("%.9f\n", now() - begin);
  }
  return 0;
}
"""
FIRST_CALL = """
import time
begin = time.perf_counter()
import numpy as np
import robustfit as rf
A = np.column_stack([np.ones(50), np.arange(50.0)])
b = A @ [1.0, 2.0] + np.cos(np.arange(50.0))
rf.irls(A, b{options})
print(time.perf_counter() - begin)
"""
# The memory of a process by the kernel's book; the peak is reset, so that it is that of the fit.
MEMORY = """
import sys
import numpy as np
import robustfit as rf
n, p, options = {n}, {p}, dict({options})
rng = np.random.default_rng(0)
def fill(n):
    A, b = np.empty((n, p)), np.empty(n)
    for low in range(0, n, 50_000):
        part = slice(low, min(low + 50_000, n))
        A[part] = rng.normal(size=A[part].shape)
        b[part] = A[part].sum(axis=1) + rng.standard_t(3.0, size=len(b[part]))
    return A, b
rf.irls(*fill(60_000), **options)
A, b = fill(n)
def book(name):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = book("VmRSS")
rf.irls(A, b, **options)
print(book("VmHWM") - before, A.nbytes)
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


@functools.cache
def gsl_program():
    """Return the path of the compiled program, or raise ImportError."""
    if shutil.which("gcc") is None:
        raise ImportError("gcc is not installed")
    folder = Path(tempfile.mkdtemp())
    source = folder / "robust.c"
    source.write_text(GSL_PROGRAM)
    flags = ["-O3", "-march=native", "-lgsl", "-lgslcblas", "-lm"]
    command = ["gcc", str(source), "-o", str(folder / "robust"), *flags]
    if subprocess.run(command, capture_output=True).returncode:
        raise ImportError("GSL is not installed")
    return folder / "robust"


def in_gsl(A, b):
    """Return a function that times GSL on the arrays and returns the seconds."""
    program = gsl_program()

    def seconds(rounds):
        n, p = A.shape
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.bin"
            np.column_stack([A, b]).ravel(order="F").tofile(path)
            command = [str(program), str(path), str(n), str(p), str(rounds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(np.median([float(line) for line in done.stdout.split()]))

    seconds.own_clock = True
    return seconds


PEERS = {
    "robustfit M": ours_m,
    "robustfit MM": ours_mm,
    "NumPy by hand": by_hand,
    "statsmodels RLM": statsmodels_rlm,
    "scikit-learn Huber": sklearn_huber,
    "SciPy cauchy": scipy_cauchy,
    "GSL robust": in_gsl,
    "R MASS rlm": in_r("rlm", "MASS"),
    "R lmrob (MM)": in_r("lmrob", "robustbase"),
}


# -- timing --------------------------------------------------------------------------------------


def seconds(call, times=1):
    """Return the wall time of a call, by so many."""
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times


def compare(n, p, skipped, bar):
    """Return the median time of every peer that is here, rounds interleaved.

    Short calls are repeated in each round, as R and GSL do in their own processes: alone, after the
    others, a call finds its code and data gone from the caches.
    """
    A, b = make(n, p)
    calls, medians, first = {}, {}, {}
    for name, peer in PEERS.items():
        try:
            calls[name] = peer(A, b)
        except ImportError as error:
            skipped[name] = str(error)
    python = {k: f for k, f in calls.items() if not hasattr(f, "own_clock")}
    for name, call in python.items():
        first[name] = seconds(call)
        # What takes long does not become faster by being called again.
        if first[name] < SLOW:
            first[name] = seconds(call)
        bar.update()
    found = {name: [first[name]] if first[name] >= SLOW else [] for name in python}
    rounds = {name: rounds_for(first[name]) for name in python}
    times = {name: max(1, round(TURN / first[name])) for name in python}
    for k in range(max(rounds.values())):
        for name, call in python.items():
            if k < rounds[name] and first[name] < SLOW:
                found[name].append(seconds(call, times[name]))
        bar.update()
    medians = {name: float(np.median(times)) for name, times in found.items()}
    for name in calls.keys() - python.keys():
        once = calls[name](1)
        medians[name] = once if once >= SLOW else calls[name](min(rounds_for(once), 5))
        bar.update()
    return medians


def rounds_for(time_of_one):
    """Return how many rounds give a median."""
    return next(count for limit, count in ROUNDS if time_of_one <= limit)


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


# -- a wide design, memory, the first call --------------------------------------------------------


def wide(bar):
    """Return iterations and seconds of fits of many columns, by loss and scale.

    With two rows for each column and a loss that redescends, the MAD has no size at which to stay:
    step by step it goes down towards an exact fit of half of the rows, in plain reweighting by
    NumPy as here.
    """
    A, b = make(*WIDE)
    found = {}
    for options in WIDE_OPTIONS:
        begin = time.perf_counter()
        fit = rf.irls(A, b, start="ols", tol=1e-8, **options)
        took = time.perf_counter() - begin
        found[" and ".join(options.values())] = fit.nit, took, fit.success
        bar.update()
    return found


def in_new_process(script, **variables):
    """Return what a script prints, as numbers."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True,
        env=environment, check=True,
    )  # fmt: skip
    return [float(word) for word in done.stdout.split()]


def memory(bar, n, p):
    """Return peak memory beyond the data over that of A, for an M- and an MM-estimate."""
    found = {}
    for name, options in (("M", "start='ols', scale='mad'"), ("MM", "")):
        found[name] = in_new_process(MEMORY.format(n=n, p=p, options=options))
        bar.update()
    return found


def first_calls(bar):
    """Return the seconds of import and first fit, without and with compiled code on disk."""
    found = {}
    for name, options in (("M", ", start='ols', scale='mad'"), ("MM", "")):
        with tempfile.TemporaryDirectory() as folder:
            script = FIRST_CALL.format(options=options)
            found[name] = [in_new_process(script, NUMBA_CACHE_DIR=folder)[0] for _ in range(2)]
        bar.update()
    return found


def draw(times, passes):
    """Draw times of fits over the rows, and the pass beside its floor."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    sizes = list(times)
    for name in PEERS:
        own = name.startswith("robustfit")
        values = [1e3 * times[size].get(name, np.nan) for size in sizes]
        left.plot(range(len(sizes)), values, "o-", label=name, lw=3 if own else 1, ms=4)
    left.set(yscale="log", ylabel="milliseconds", title="Time of a fit")
    left.set_xticks(range(len(sizes)), [f"{n:,}\n× {p}" for n, p in sizes])
    left.legend(fontsize=7)
    rows = passes[0]
    right.bar(range(len(rows)), [own / floor for _, _, own, floor, _ in rows], color="C0")
    right.axhline(1.0, color="black", lw=1)
    right.set_xticks(range(len(rows)), [f"{p}" for p, *_ in rows])
    right.set(xlabel="columns", ylabel="time over floor", title="One pass over the rows")
    figure.savefig(PLOT, dpi=110)


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


def page(times, passes, skipped, others):
    """Return the page with all tables."""
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
        "![Time of a fit by its size, and of one pass over the rows](../_static/performance.png)",
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
    fits = [
        f"{name} {nit} iterations, {_time(took)} ms" + ("" if success else ", not converged")
        for name, (nit, took, success) in others["wide"].items()
    ]
    lines += ["", f"**Many columns.** {WIDE[0]:,} × {WIDE[1]:,}: {'; '.join(fits)}."]
    for name, (extra, size) in others["memory"].items():
        vectors = extra / (8 * others["rows"])
        lines += [
            "",
            f"**Memory** of an {name}-estimate with A of {size / 1e9:.2g} GB, {LARGE[1]} columns: "
            f"{extra / size:.1%} of A beyond the data, that is {vectors:.1f} vectors of n numbers; "
            f"less two such vectors {extra / size - 2.0 / LARGE[1]:.1%} of A.",
        ]
    for name, (cold, warm) in others["first"].items():
        lines += [
            "",
            f"**First call** of an {name}-estimate in a new process, with the import: {cold:.2f} "
            f"s, and {warm:.2f} s once compiled code is on disk.",
        ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; writes nothing")
    args = parser.parse_args()
    times, skipped = {}, {}
    with warnings.catch_warnings(), progress_bar(None, "performance", sys.stderr.isatty()) as bar:
        warnings.simplefilter("ignore")
        # Compile first: it would be taken for a slow fit.
        for size in QUICK[::2]:
            for ours in (ours_m, ours_mm):
                ours(*make(*size))()
        for n, p in QUICK if args.quick else SIZES:
            times[n, p] = compare(n, p, skipped, bar)
        passes = floors(bar)
        rows = LARGE[0] // (10 if args.quick else 1)
        others = {
            "wide": wide(bar),
            "rows": rows,
            "memory": memory(bar, rows, LARGE[1]),
            "first": first_calls(bar),
        }
    text = page(times, passes, skipped, others)
    print(text)
    if not args.quick:
        PAGE.write_text(text, encoding="utf-8")
        draw(times, passes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
