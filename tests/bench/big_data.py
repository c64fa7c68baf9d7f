"""A fit of a file larger than memory: time, passes, peak memory, and what follows for more rows.

``python tests/bench/big_data.py make FILE`` writes rows (8 GB by default: 100,000,000 x 10) with a
tenth of them wrong; ``measure FILE`` fits it by MM in a process of its own, reads the file alone
before each pass, and prints the rates, from the page cache and from the disk; ``project`` measures
the cost of a block and prints what 10^9 and 10^12 rows would take. Delete the file afterwards.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import robustfit as rf
from robustfit import rows
from robustfit._kernels import RowSums

BLOCK = 1 << 16


def make(path, n, p):
    """Write the design, then the response, block by block."""
    rng = np.random.default_rng(0)
    x = np.arange(1.0, p + 1.0)
    design, response = path, path.with_suffix(".b")
    with design.open("wb") as a, response.open("wb") as b:
        for low in range(0, n, BLOCK):
            m = min(BLOCK, n - low)
            A = rng.standard_normal((m, p))
            A[:, 0] = 1.0
            y = A @ x + rng.standard_normal(m)
            y[: m // 10] += 50.0
            A.tofile(a)
            y.tofile(b)


def forget(path):
    """Take a file out of the page cache, as far as the system does that."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path):
    """Read a file by one thread, into the same memory again and again."""
    buffer = bytearray(4 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


class Beside(rows.Rows):
    """Rows in files that are also read alone, before each pass.

    Disks, the host's cache and other tenants have better and worse minutes: so both are measured
    in turns, and from the same place, the disk or the page cache.
    """

    def __init__(self, source, files, cold):
        self.source, self.files, self.cold = source, files, cold
        self.alone, self.fit = [], []

    def blocks(self):
        return self.source.blocks()

    def fold(self, function, *args, merge):
        self.passes += 1
        self.alone.append(self.timed(lambda: [read(file) for file in self.files])[1])
        found, seconds = self.timed(lambda: self.source.fold(function, *args, merge=merge))
        self.fit.append(seconds)
        return found

    def timed(self, work):
        if self.cold:
            for file in self.files:
                forget(file)
        start = time.perf_counter()
        return work(), time.perf_counter() - start


def fit(path, p, cold):
    """Fit the file and print what it took beside reading it alone, as JSON."""
    rf.warmup("welsch")
    A = np.memmap(path, np.float64, "r").reshape(-1, p)
    b = np.memmap(path.with_suffix(".b"), np.float64, "r")
    source = Beside(rows.from_arrays(A, b), (path, path.with_suffix(".b")), cold)
    if not cold:
        for file in source.files:
            read(file)
    found = rf.irls(source)
    bse = found.bse
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    error = float(np.max(np.abs(found.x - np.arange(1.0, p + 1.0)) / bse))
    print(json.dumps({
        "status": found.status.name, "seconds": sum(source.fit), "alone": sum(source.alone),
        "passes": source.passes, "peak": peak, "error": error, "scale": found.scale,
    }))  # fmt: skip


def measure(path, p):
    """Print the rate of the fit beside that of reading alone, and its peak memory."""
    size = path.stat().st_size + path.with_suffix(".b").stat().st_size
    for cold in (False, True):
        run = [sys.executable, __file__, "fit", str(path), "--columns", str(p)]
        run += ["--cold"] if cold else []
        found = json.loads(subprocess.run(run, capture_output=True, check=True).stdout)
        total = size * found["passes"] / 1e9
        print(
            f"{'from disk' if cold else 'from the page cache'}: {size / 1e9:.2f} GB, read alone "
            f"{total / found['alone']:.2f} GB/s; fit {found['status']}, {found['passes']} passes "
            f"in {found['seconds']:.1f} s, {total / found['seconds']:.2f} GB/s, "
            f"{100.0 * found['alone'] / found['seconds']:.0f} % of reading alone; "
            f"peak memory {found['peak'] / 1e6:.0f} MB; scale {found['scale']:.4f}, "
            f"largest error {found['error']:.2f} standard errors",
            flush=True,
        )


def project(p, passes):
    """Print what more rows take, from the cost of a block."""
    rng = np.random.default_rng(0)
    A, b, x = rng.standard_normal((BLOCK, p)), rng.standard_normal(BLOCK), np.zeros(p)
    sums = RowSums(A, b, rf.get_loss("welsch"))
    found = sums(x, 1.0, True)
    start = time.perf_counter()
    for _ in range(50):
        sums(x, 1.0, True)
    seconds = (time.perf_counter() - start) / 50.0
    result = len(pickle.dumps(found))
    print(f"a block of {BLOCK} x {p}: {1e3 * seconds:.2f} ms on all cores here, result {result} B")
    print("| rows | bytes read per pass | passes | tasks per pass of 1 GB | bytes back per pass |"
          " core-hours |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    cores = os.cpu_count() or 1
    for n in (10**9, 10**12):
        size = 8.0 * n * (p + 1)
        tasks = max(1.0, size / 1e9)
        hours = cores * seconds * n / BLOCK * passes / 3600.0
        print(
            f"| 10^{int(np.log10(n))} | {size / 1e9:,.0f} GB | {passes} | {tasks:,.0f} | "
            f"{tasks * result / 1e6:,.2f} MB | {hours:,.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "measure", "fit", "project"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--cold", action="store_true", help="read from the disk in each pass")
    parser.add_argument("--passes", type=int, default=20)
    given = parser.parse_args()
    if given.what == "make":
        make(given.path, given.rows, given.columns)
    elif given.what == "measure":
        measure(given.path, given.columns)
    elif given.what == "fit":
        fit(given.path, given.columns, given.cold)
    else:
        project(given.columns, given.passes)


if __name__ == "__main__":
    main()
