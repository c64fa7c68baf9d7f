"""Many small problems: one call of `irls` beside loops over other programs.

``python -m tests.bench.many`` fits 10,000 problems of 50 x 4 with 10 % outliers, by an M-estimate
from least squares and by the default MM-estimate, and 1,000,000 responses of one design of which
only coefficients, standard errors and scales are kept. Loops are timed on 500 of the problems:
`irls` itself, statsmodels, GSL compiled with gcc, and R's `rlm` (MASS) and `lmrob` (robustbase)
where Rscript has them. All iterate to 1e-8, GSL to the tolerance that it has. Times are per
problem; ratios are to those of the one call, on all cores. ``--quick`` takes a tenth of everything.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import robustfit as rf

SEED = 20260105
N, P, SHARE, LOOP = 50, 4, 0.1, 500
R_SCRIPT = """
args <- commandArgs(TRUE); m <- as.integer(args[2]); n <- as.integer(args[3])
p <- as.integer(args[4]); data <- readBin(args[1], "double", m * n * (p + 1))
data <- array(data, c(n, p + 1, m)); X <- data[, 1:p, ]; y <- data[, p + 1, ]; x <- matrix(0, m, p)
control <- if (FUNCTION == "lmrob")
  robustbase::lmrob.control(refine.tol = 1e-8, rel.tol = 1e-8, max.it = 200, k.max = 500)
fit <- switch(FUNCTION,
  rlm = function(i) MASS::rlm(X[, , i], y[, i], psi = MASS::psi.bisquare, acc = 1e-8, maxit = 200),
  lmrob = function(i) robustbase::lmrob.fit(X[, , i], y[, i], control))
set.seed(1)
took <- system.time(for (i in 1:m) x[i, ] <- fit(i)$coefficients)[["elapsed"]]
cat(took, x, "\\n")
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
  size_t m = atol(argv[2]), n = atol(argv[3]), p = atol(argv[4]);
  gsl_set_error_handler_off();
  double *data = malloc(m * n * (p + 1) * sizeof(double)), *found = malloc(m * p * sizeof(double));
  FILE *f = fopen(argv[1], "rb");
  if (fread(data, sizeof(double), m * n * (p + 1), f) != m * n * (p + 1)) return 1;
  gsl_matrix *V = gsl_matrix_alloc(p, p);
  double begin = now();
  gsl_multifit_robust_workspace *w = gsl_multifit_robust_alloc(gsl_multifit_robust_bisquare, n, p);
  gsl_multifit_robust_maxiter(200, w);
  for (size_t i = 0; i < m; i++) {
    double *rows = data + i * n * (p + 1);
    gsl_matrix_view A = gsl_matrix_view_array_with_tda(rows, n, p, p + 1);
    gsl_vector_view b = gsl_vector_view_array_with_stride(rows + p, p + 1, n);
    gsl_vector_view x = gsl_vector_view_array(found + i * p, p);
    gsl_multifit_robust(&A.matrix, &b.vector, &x.vector, V, w);
  }
  printf("%.9f", now() - begin);
  for (size_t i = 0; i < m * p; i++) printf(" %.17g", found[i]);
  return 0;
}
"""


def make(m):
    """Return designs with an intercept, and responses with outliers."""
    rng = np.random.default_rng(SEED)
    A = rng.normal(size=(m, N, P))
    A[:, :, 0] = 1.0
    b = A @ np.ones(P) + rng.normal(size=(m, N))
    bad = round(SHARE * N)
    b[:, :bad] += 10.0 + 3.0 * rng.normal(size=(m, bad))
    return A, b


def timed(call, count, repeats=1):
    """Return the shortest time per problem, in microseconds, and the result."""
    best = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - begin)
    return 1e6 * best / count, result


def in_r(function, A, b):
    """Return the time per problem of an R function, and its coefficients or what went wrong."""
    if shutil.which("Rscript") is None:
        return None, "Rscript is not installed"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.bin"
        # Columns first: R's layout of an array (n, p + 1, m).
        np.concatenate([A, b[:, :, None]], axis=2).transpose(0, 2, 1).tofile(path)
        sizes = [str(size) for size in A.shape]
        script = R_SCRIPT.replace("FUNCTION", f'"{function}"')
        command = ["Rscript", "-e", script, str(path), *sizes]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
    took, *x = (float(value) for value in done.stdout.split())
    return 1e6 * took / len(A), np.array(x).reshape(P, len(A)).T


def by_statsmodels(A, b):
    """Return the coefficients by statsmodels, one problem after the other."""
    import statsmodels.api as sm

    tukey = sm.robust.norms.TukeyBiweight()
    fits = [
        sm.RLM(y, X, M=tukey).fit(tol=1e-8, maxiter=200, conv="coefs")
        for X, y in zip(A, b, strict=True)
    ]
    return np.array([fit.params for fit in fits])


def in_gsl(A, b):
    """Return the time per problem of a loop in C, and its coefficients or what went wrong."""
    if shutil.which("gcc") is None:
        return None, "gcc is not installed"
    with tempfile.TemporaryDirectory() as folder:
        source, program, data = (Path(folder) / name for name in ("many.c", "many", "data.bin"))
        source.write_text(GSL_PROGRAM)
        command = ["gcc", str(source), "-o", str(program), "-O3", "-march=native"]
        if subprocess.run([*command, "-lgsl", "-lgslcblas", "-lm"], capture_output=True).returncode:
            return None, "GSL is not installed"
        np.concatenate([A, b[:, :, None]], axis=2).tofile(data)
        command = [str(program), str(data), *(str(size) for size in A.shape)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    took, *x = (float(value) for value in done.stdout.split())
    return 1e6 * took / len(A), np.array(x).reshape(len(A), -1)


def show(name, took, x, own, reference):
    """Print the time of a peer, its ratio to ours, and how far its coefficients are from ours."""
    if took is None:
        print(f"             {name}: skipped, {x}", flush=True)
        return
    far = np.median(np.max(np.abs(x - reference.x[: len(x)]) / reference.bse[: len(x)], axis=1))
    print(
        f"{took:10.1f}  {name}: {took / own:.0f} times; median distance {far:.1g} standard errors",
        flush=True,
    )


def compare(title, A, b, peers, **options):
    """Time one call of `irls` on all problems, and loops on some."""
    print(f"{title}, {len(A):,} problems of {N} x {P}: microseconds per problem", flush=True)
    rf.irls(A[:10], b[:10], **options)
    own, batch = timed(lambda: rf.irls(A, b, **options), len(A), repeats=3)
    print(f"{own:10.1f}  one call of irls: {batch.success.mean():.2%} successful", flush=True)
    A, b = A[:LOOP], b[:LOOP]

    def loop():
        return np.array([rf.irls(X, y, **options).x for X, y in zip(A, b, strict=True)])

    show("loop over irls", *timed(loop, len(A)), own, batch)
    for name, peer in peers.items():
        show(f"loop over {name}", *peer(A, b), own, batch)
    return batch


def voxels(k):
    """Stream responses of one design; return whether all went well."""
    rng = np.random.default_rng(SEED)
    A = make(1)[0][0]
    B = np.empty((N, k), dtype=np.float32)
    # Row by row, so that the memory of the fits is not hidden by that of making the data.
    x = rng.normal(size=(P, k))
    for row, a in zip(B, A, strict=True):
        row[:] = a @ x + rng.standard_t(3, size=k)
    keep = ("x", "bse", "scale")
    rf.irls(A, B[:, :100], "huber", outputs=keep)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took, batch = timed(lambda: rf.irls(A, B, "huber", outputs=keep), k)
    # Kilobytes, on a Mac bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit
    arrays = (batch.x.nbytes + batch.bse.nbytes + batch.scale.nbytes) / 2**20
    print(f"one design, {k:,} responses in single precision ({B.nbytes / 2**20:.0f} MB), Huber")
    print(f"{took:10.1f}  microseconds per response, {batch.success.mean():.2%} successful")
    print(
        f"{grown:10.1f}  MB more at the peak, of which {arrays:.1f} MB are the results", flush=True
    )
    return bool(batch.success.all())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the problems")
    # How many fits are no success is printed.
    warnings.simplefilter("ignore")
    m = 1_000 if parser.parse_args().quick else 10_000
    done = voxels(100 * m)
    A, b = make(m)
    peers = {
        "statsmodels RLM": lambda A, b: timed(lambda: by_statsmodels(A, b), len(A)),
        "GSL": in_gsl,
        "R rlm": lambda A, b: in_r("rlm", A, b),
    }
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        peers["statsmodels RLM"] = lambda A, b: (None, "statsmodels is not installed")
    compare("M-estimate (Welsch) from least squares", A, b, {}, loss="welsch", start="ols")
    compare("M-estimate (Tukey) from least squares", A, b, peers, loss="tukey", start="ols")
    lmrob = {"R lmrob": lambda A, b: in_r("lmrob", A, b)}
    compare("MM-estimate (Tukey)", A, b, lmrob, loss="tukey")
    return 0 if done else 1


if __name__ == "__main__":
    raise SystemExit(main())
