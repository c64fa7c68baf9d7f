"""The first fit of a process: how long it takes, and what is compiled for it.

``python -m tests.bench.first_call`` starts a process for each row: with an empty cache, with the
cache that this leaves, and where none can be written. The times are those of the import and of one
fit of 21 x 4, by an M-estimate from least squares and by the default. ``--kernels`` lists what is
compiled with an empty cache, and how long each takes, with what it calls.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CODE = """
import sys, time
begin = time.perf_counter()
import numpy as np
import robustfit as rf
loaded = time.perf_counter()
rng = np.random.default_rng(1)
A = np.column_stack([np.ones(21), rng.normal(size=(21, 3))])
b = A @ np.ones(4) + rng.normal(size=21)
rf.irls(A, b, start=sys.argv[1])
ended = time.perf_counter()
rf.irls(A, b, start=sys.argv[1])
print(loaded - begin, ended - loaded, time.perf_counter() - ended)
"""
KERNELS = """
import time
import numba.core.event as event

class Recorder(event.Listener):
    def __init__(self):
        self.begun, self.found = [], []

    def on_start(self, e):
        self.begun.append(time.perf_counter())

    def on_end(self, e):
        took = time.perf_counter() - self.begun.pop()
        self.found.append((took, len(self.begun), e.data["dispatcher"].py_func.__qualname__))

recorder = Recorder()
event.register("numba:compile", recorder)
"""
SHOW = """
for took, depth, name in recorder.found:
    print(f"{took:7.2f} s  {'  ' * depth}{name}", file=sys.stderr)
"""


def measure(start, cache, code=CODE):
    """Return the seconds of the import, the first and the second fit, in a new process."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code, start], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [float(value) for value in done.stdout.split()], done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", action="store_true", help="list what is compiled")
    listed = parser.parse_args().kernels
    print("seconds: import, first fit, second fit")
    for method, start in (("M", "ols"), ("MM", "auto")):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("empty cache", "warm cache"):
                begin, first, second = measure(start, folder)[0]
                print(f"{begin:7.2f} {first:7.2f} {second:9.5f}  {method}, {state}", flush=True)
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
            print(f"{'':26}{size / 2**20:.1f} MB in the cache")
        with tempfile.TemporaryDirectory() as folder:
            if listed:
                print(measure(start, folder, KERNELS + CODE + SHOW)[1])
    begin, first, second = measure("ols", "/proc/none")[0]
    print(f"{begin:7.2f} {first:7.2f} {second:9.5f}  M, no cache can be written", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
