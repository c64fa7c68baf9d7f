"""The benchmarks: ``python -m tests.bench`` lists them, with names it runs some, ``all`` every one.

What follows the names goes to each, such as ``--quick``. Tables that are part of the documentation
are written by their benchmark, see its own description.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

from robustfit._progress import progress_bar

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def main(arguments=None):
    """List the benchmarks, or run some one after the other; return how many failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__.split("\n")[0]
    )
    parser.add_argument("names", nargs="*", choices=[*NAMES, "all", []], help="which; none: a list")
    chosen, options = parser.parse_known_args(arguments)
    if not chosen.names:
        for name in NAMES:
            doc = importlib.import_module(f"tests.bench.{name}").__doc__ or ""
            print(f"{name:20} {doc.strip().splitlines()[0]}")
        return 0
    names = NAMES if "all" in chosen.names else chosen.names
    failed = 0
    with progress_bar(len(names), "benchmarks", sys.stderr.isatty()) as bar:
        for name in names:
            print(f"== {name}", flush=True)
            begin, argv = time.perf_counter(), sys.argv
            # Each reads its options from the command line, as if it were alone.
            sys.argv = [name, *options]
            try:
                ended = importlib.import_module(f"tests.bench.{name}").main()
            finally:
                sys.argv = argv
            failed += bool(ended)
            print(f"== {name}: {time.perf_counter() - begin:.0f} s", flush=True)
            bar.update()
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
