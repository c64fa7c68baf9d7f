"""Mutation testing: the share of small changes of the source that the tests notice.

    python -m tests.bench.mutation losses scale linear --sample 150

draws mutants at random, of operators, comparisons, constants, conditions, returned values and
statements left out; applies one at a time to a copy of the project; and runs the tests of the
package until the first failure. A mutant is killed by a failure or by running for too long. It
prints every survivor, and the share of the killed with a 95 % interval (Wilson). Survivors that
return what the original does, such as a longer list of candidates, count as survivors.
"""

import argparse
import ast
import math
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy  # noqa: F401, ICN001
import pytest
import scipy.optimize
import scipy.sparse.linalg  # noqa: F401

ROOT = Path(__file__).parents[2]

# The tests of a package, those that find most in the least time first.
TESTS = {
    "losses": ["losses", "linear_reference", "linear_edge_cases"],
    "scale": ["scale", "inference", "linear_reference", "mm"],
    "linear": [
        "linear_edge_cases", "small", "inputs", "gnc", "linear_convergence", "batch", "rows", "mm",
        "linear_reference", "passes", "fuzz", "linear_laws",
    ],
}  # fmt: skip

SWAPPED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.GtE, ast.LtE: ast.Lt, ast.Gt: ast.LtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
    ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Mutant:
    """One change of one file."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before}  ->  {self.after}"


def changes(node: ast.AST) -> Iterator[ast.AST | str]:
    """Yield what a node may become."""
    match node:
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield ast.BinOp(left, SWAPPED[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPPED[type(op)](), values)
        case ast.Compare(left, [op, *ops], comparators):
            yield ast.Compare(left, [SWAPPED[type(op)](), *ops], comparators)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2.0 * value if value else 1.0)
        case ast.Return(ast.expr()):
            yield "return None"
        case ast.Expr(ast.Call()) | ast.AugAssign():
            yield "pass"


def skipped(node: ast.AST) -> bool:
    """Tell what is no part of the behaviour: texts, types, names of what is public."""
    match node:
        case ast.JoinedStr() | ast.Raise():
            return True
        case ast.Expr(ast.Constant(str())):
            return True
        case ast.Assign([ast.Name("__all__")]):
            return True
        case ast.Call(ast.Attribute(_, "warn")):
            return True
    return False


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walk over the nodes that may change."""
    if skipped(node):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from walk(child)


def mutants(file: str, root: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file of the project at `root`."""
    source = (root / file).read_text("utf-8")
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    lines = source.splitlines()

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    for node in walk(ast.parse(source)):
        for change in changes(node):
            start = offset(node.lineno, node.col_offset)
            end = offset(node.end_lineno, node.end_col_offset)
            before = source[start:end]
            after = change if isinstance(change, str) else f"({ast.unparse(change)})"
            if isinstance(change, ast.Constant):
                after = ast.unparse(change)
            yield Mutant(file, node.lineno, start, end, before, after)


class Tree:
    """A copy of the project in which mutants live, with a cache of compiled code."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mutation-"))
        for name in ("robustfit", "tests", "docs", "notebooks", "README.md", "pyproject.toml"):
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "_build")
                shutil.copytree(source, self.path / name, ignore=ignore)
            else:
                shutil.copy2(source, self.path / name)
        self.cache = self.path / "cache"

    def run(self, package: str, cache: Path, seconds: float = math.inf) -> bool:
        """Run the tests of a package; return whether all passed in so much processor time.

        In a child that has the dependencies from this process, which takes a third of the time
        that a new interpreter does.
        """
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == 0
        code = 1
        try:
            if seconds < math.inf:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds),) * 2)
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            os.chdir(self.path)
            os.environ["PYTHONPATH"] = str(self.path)
            os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(cache)
            sys.path.insert(0, str(self.path))
            sys.dont_write_bytecode = True
            files = [f"tests/test_{name}.py" for name in TESTS[package]]
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files]))
        finally:
            os._exit(code)

    def survives(self, mutant: Mutant, package: str, seconds: float) -> bool:
        """Return whether all tests pass with a mutant."""
        file = self.path / mutant.file
        source, when = file.read_text("utf-8"), file.stat()
        file.write_text(source[: mutant.start] + mutant.after + source[mutant.end :], "utf-8")
        # What this mutant compiles must not reach the next.
        cache = self.path / "cache of a mutant"
        shutil.copytree(self.cache, cache, copy_function=os.link)
        try:
            return self.run(package, cache, seconds)
        finally:
            shutil.rmtree(cache)
            file.write_text(source, "utf-8")
            # Numba knows a file by its time.
            os.utime(file, ns=(when.st_atime_ns, when.st_mtime_ns))


def interval(killed: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z, share = 1.96, killed / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packages", nargs="*", default=list(TESTS), choices=[*TESTS, []])
    parser.add_argument("--sample", type=int, default=150, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    trees = [Tree() for _ in range(arguments.jobs)]
    try:
        for package in arguments.packages:
            measure(package, arguments, trees)
    finally:
        for tree in trees:
            shutil.rmtree(tree.path)


def _begin(free: multiprocessing.SimpleQueue, package: str, limit: float) -> None:
    global _job
    _job = free.get(), package, limit


def _try(mutant: Mutant) -> tuple[Mutant, bool]:
    tree, package, limit = _job
    return mutant, tree.survives(mutant, package, limit)


def measure(package: str, arguments: argparse.Namespace, trees: list[Tree]) -> None:
    """Print the result for one package."""
    for tree in trees:
        if not tree.run(package, tree.cache):
            raise SystemExit(f"the tests of {package} fail without any mutant")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    trees[0].run(package, trees[0].cache)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Compiling what a mutant changes takes some seconds more.
    limit = 30.0 + 1.5 * (after.ru_utime - before.ru_utime)
    root = trees[0].path
    files = sorted(str(f.relative_to(root)) for f in (root / "robustfit" / package).rglob("*.py"))
    every = sorted(mutant for file in files for mutant in mutants(file, root))
    drawn = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))

    free = multiprocessing.SimpleQueue()
    for tree in trees:
        free.put(tree)

    survivors = []
    context = multiprocessing.get_context("fork")
    with context.Pool(len(trees), _begin, (free, package, limit)) as pool:
        for number, (mutant, survived) in enumerate(pool.imap_unordered(_try, drawn), 1):
            if survived:
                survivors.append(mutant)
                print(f"survived: {mutant}", flush=True)
            if number % 10 == 0:
                print(f"{package}: {number} tried, {len(survivors)} survived", flush=True)
    killed = len(drawn) - len(survivors)
    low, high = interval(killed, len(drawn))
    print(
        f"{package}: {killed} of {len(drawn)} killed, {100 * killed / len(drawn):.1f} % "
        f"(95 % interval {100 * low:.0f} to {100 * high:.0f} %), of {len(every)} possible mutants",
        flush=True,
    )


if __name__ == "__main__":
    main()
