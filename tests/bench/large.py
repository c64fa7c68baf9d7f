"""A million rows, ten columns, 30 % outliers: the time of the default call beside others.

``python -m tests.bench.large`` prints the times and their ratios; ``--quick`` takes a tenth of
the rows. R's `lmrob` (Rscript with robustbase) and statsmodels are timed where they are
installed. Each sees the same data; the time is that of the fit, without reading them, the
shortest of three (of one for statsmodels), of the parts of ours the shortest of five.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import robustfit as rf
from robustfit import linear
from robustfit._kernels import RowSums

SEED = 20260104
ROWS, COLUMNS, SHARE = 1_000_000, 10, 0.3
R_SCRIPT = """
args <- commandArgs(TRUE); n <- as.integer(args[2]); p <- as.integer(args[3])
data <- matrix(readBin(args[1], "double", n * (p + 1)), n, p + 1)
control <- robustbase::lmrob.control(max.it = 200, k.max = 2000, maxit.scale = 1000)
control$cov <- ".vcov.w"
X <- data[, 1:p]; y <- data[, p + 1]
took <- min(sapply(1:3, function(i) {
  system.time(fit <<- robustbase::lmrob.fit(X, y, control))[["elapsed"]]
}))
cat(took, fit$converged, coef(fit), "\\n")
"""


def make(n, p):
    """Return a design, a response, and the true coefficients."""
    rng = np.random.default_rng(SEED)
    A = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    x = rng.normal(size=p)
    b = A @ x + rng.normal(size=n)
    bad = rng.permutation(n)[: round(SHARE * n)]
    # Half of them outliers in the response, half bad leverage points.
    b[bad] += 20.0 + 5.0 * rng.normal(size=len(bad))
    A[bad[::2], 1:] += 5.0
    return A, b, x


def timed(call, repeats=1):
    """Return the shortest time of a call and its result."""
    best = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - begin)
    return best, result


def lmrob(A, b):
    """Return the time, whether it converged, and the coefficients of R's lmrob."""
    n, p = A.shape
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.bin"
        np.column_stack([A, b]).ravel(order="F").tofile(path)
        done = subprocess.run(
            ["Rscript", "-e", R_SCRIPT, str(path), str(n), str(p)], capture_output=True, text=True
        )
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
    took, converged, *x = done.stdout.split()
    return float(took), (converged, np.array(x, dtype=float))


def searched(A, b):
    """Return the time of a fit, and that of the searches in it."""
    spent, search = [], linear.s_estimate

    def watched(*args, **options):
        begin = time.perf_counter()
        found = search(*args, **options)
        spent.append(time.perf_counter() - begin)
        return found

    linear.s_estimate = watched
    try:
        begin = time.perf_counter()
        rf.irls(A, b)
        return time.perf_counter() - begin, sum(spent)
    finally:
        linear.s_estimate = search


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    args = parser.parse_args()
    n = ROWS // 10 if args.quick else ROWS
    A, b, x = make(n, COLUMNS)
    print(f"{n:,} x {COLUMNS}, {100 * SHARE:.0f} % outliers", flush=True)
    one_pass, _ = timed(lambda: (A.T @ A, A.T @ b), repeats=5)
    print(f"{one_pass:8.3f} s  one pass: A'A and A'b by NumPy", flush=True)

    # Compile first, for a problem that takes the same path.
    rf.irls(A[: min(n, 50_000)], b[: min(n, 50_000)])
    own, fit = timed(lambda: rf.irls(A, b), repeats=3)
    error = np.max(np.abs(fit.x - x))
    print(f"{own:8.3f} s  rf.irls(A, b): {fit.status.name}, largest error {error:.2g}", flush=True)
    loss = rf.get_loss("welsch", breakdown=0.5)
    sums = RowSums(A, b, loss)
    fused, _ = timed(lambda: sums(x, 1.0), repeats=5)
    print(f"{fused:8.3f} s  one pass of ours: rho, weights, A'WA and A'Wr", flush=True)
    fits = [searched(A, b) for _ in range(5)]
    start, rest = min(spent for _, spent in fits), min(whole - spent for whole, spent in fits)
    print(f"{start:8.3f} s  searches: the S-estimate, and that of the rows it leaves out")
    print(f"{rest:8.3f} s  the rest, {rest / fused:.1f} passes")
    ratios = {"one pass by NumPy": one_pass, "one pass of ours": fused}

    try:
        import statsmodels.api as sm
    except ImportError:
        print("          statsmodels is not installed: skipped")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = sm.RLM(b, A, M=sm.robust.norms.TukeyBiweight())
            took, other = timed(model.fit)
        error = np.max(np.abs(other.params - x))
        print(f"{took:8.3f} s  statsmodels RLM (M-estimate, Tukey): largest error {error:.2g}")
        ratios["statsmodels RLM"] = took

    if shutil.which("Rscript") is None:
        print("          Rscript is not installed: lmrob skipped")
    else:
        took, result = lmrob(A, b)
        if took is None:
            print(f"          lmrob skipped: {result}")
        else:
            converged, coefficients = result
            error = np.max(np.abs(coefficients - x))
            print(f"{took:8.3f} s  lmrob: converged {converged}, largest error {error:.2g}")
            ratios["lmrob"] = took
    for name, took in ratios.items():
        print(f"time of rf.irls over that of {name}: {own / took:.3g}")
    return 0 if fit.success and np.max(np.abs(fit.x - x)) < 0.1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
