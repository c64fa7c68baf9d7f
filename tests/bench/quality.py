"""How good the answers are, beside those of other software: efficiency, bias, breakdown, coverage.

``python -m tests.bench.quality`` fits the same data sets by everything that is installed and
writes docs/explanation/quality_table.md and docs/_static/quality.png. The contaminations are
those of `tests.bench.basin_guard`. ``--quick`` takes a tenth and writes nothing; ``--replicates
100 20`` asks for so many clean and contaminated data sets of each design; ``--store FILE`` keeps
every answer in a file of JSON lines, from which an interrupted run goes on. R is one process.

The true coefficients are zero and the errors of good rows standard normal.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

import robustfit as rf
from tests.bench.basin_guard import CONTAMINATIONS, DOCS, FAR, contaminate, design

SEED = 20260105
DESIGNS = (
    ("normal", 50, 2),
    ("normal", 100, 5),
    ("t3", 100, 5),
    ("lognormal", 50, 5),
    ("dummies", 100, 6),
    ("leverage group", 100, 5),
)
SHARES = (0.1, 0.2, 0.3, 0.4)
# Of each design: clean data sets, and those of each contamination and share.
REPLICATES = (40, 4)
CLEAN = "none"

R_SCRIPT = """
suppressMessages(library(robustbase))
source <- file(commandArgs(TRUE)[1], "rb")
count <- readBin(source, "double", 1)
options(digits = 17)
one <- function(X, y, setting) {
  set.seed(1)
  fit <- if (setting == "") lmrob(y ~ X - 1) else lmrob(y ~ X - 1, setting = setting)
  # Without convergence there may be no covariance.
  se <- tryCatch(sqrt(diag(vcov(fit))), error = function(e) rep(NA, ncol(X)))
  c(fit$converged, coef(fit), se)
}
for (i in seq_len(count)) {
  shape <- readBin(source, "double", 2); n <- shape[1]; p <- shape[2]
  X <- matrix(readBin(source, "double", n * p), n, p); y <- readBin(source, "double", n)
  for (setting in c("", "KS2014")) {
    found <- tryCatch(suppressWarnings(one(X, y, setting)), error = function(e) rep(NA, 1 + 2 * p))
    cat(i - 1, if (setting == "") "lmrob" else setting, found, "\\n")
  }
  flush(stdout())
}
"""


class Case(NamedTuple):
    """One data set."""

    design: int
    contamination: str
    share: float
    replicate: int

    def data(self):
        """Return A, b and which rows are bad."""
        kind = (CLEAN, *CONTAMINATIONS).index(self.contamination)
        key = (SEED, self.design, kind, round(100 * self.share), self.replicate)
        rng, (name, n, p) = np.random.default_rng(key), DESIGNS[self.design]
        A, moving = design(name, n, p, rng)
        b, bad = rng.normal(size=n), np.zeros(n, dtype=bool)
        if self.contamination != CLEAN:
            bad = contaminate(A, b, moving, self.contamination, self.share, rng)
        return A, b, bad


class Answer(NamedTuple):
    """What one program made of one data set; `se` is empty where it tells none."""

    case: Case
    method: str
    success: bool
    x: list
    se: list


# -- the programs ------------------------------------------------------------------------------


def ours(A, b, loss):
    fit = rf.irls(A, b, loss)
    return fit.success, fit.x, fit.bse


def rlm(A, b):
    import statsmodels.api as sm

    fit = sm.RLM(b, A, M=sm.robust.norms.TukeyBiweight()).fit()
    return True, fit.params, fit.bse


def sklearn(A, b, name):
    from sklearn import linear_model

    options = {"fit_intercept": False}
    if name == "RANSACRegressor":
        plain = linear_model.LinearRegression(fit_intercept=False)
        fit = linear_model.RANSACRegressor(plain, random_state=0).fit(A, b)
        return True, fit.estimator_.coef_, []
    if name == "TheilSenRegressor":
        # Of its default, 10,000 subsets, a tenth.
        options |= {"random_state": 0, "max_subpopulation": 1000}
    return True, getattr(linear_model, name)(**options).fit(A, b).coef_, []


METHODS = {
    "robustfit": lambda A, b: ours(A, b, "welsch"),
    "robustfit, Huber": lambda A, b: ours(A, b, "huber"),
    "least squares": lambda A, b: ours(A, b, "linear"),
    "RLM, Tukey": rlm,
    "HuberRegressor": lambda A, b: sklearn(A, b, "HuberRegressor"),
    "RANSAC": lambda A, b: sklearn(A, b, "RANSACRegressor"),
    "Theil-Sen": lambda A, b: sklearn(A, b, "TheilSenRegressor"),
}
NEEDS = {"RLM, Tukey": "statsmodels"} | dict.fromkeys(
    ("HuberRegressor", "RANSAC", "Theil-Sen"), "sklearn"
)
IN_R = ("lmrob", "KS2014")
ORDER = ("robustfit", *IN_R, *list(METHODS)[3:], "robustfit, Huber", "least squares")


def by_python(task):
    """Return the answers of some methods to one case."""
    case, methods = task
    A, b, _ = case.data()
    answers = []
    for name in methods:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                success, x, se = METHODS[name](A, b)
            except ValueError:
                # RANSAC that finds no consensus.
                success, x, se = False, np.full(A.shape[1], np.nan), []
        answers.append(Answer(case, name, success, list(map(float, x)), list(map(float, se))))
    return answers


def by_r(cases):
    """Yield the answers of lmrob, with its defaults and with KS2014, from one process."""
    with tempfile.TemporaryDirectory() as folder:
        path, script = Path(folder) / "data.bin", Path(folder) / "fits.R"
        script.write_text(R_SCRIPT, encoding="utf-8")
        with path.open("wb") as file:
            np.array([float(len(cases))]).tofile(file)
            for case in cases:
                A, b, _ = case.data()
                for part in (np.array(A.shape, dtype=float), A.ravel(order="F"), b):
                    part.tofile(file)
        with subprocess.Popen(
            ["Rscript", str(script), str(path)], stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                i, name, *values = line.split()
                case, numbers = cases[int(i)], [float(v.replace("NA", "nan")) for v in values]
                p = len(numbers) // 2
                yield Answer(case, name, numbers[0] == 1.0, numbers[1 : 1 + p], numbers[1 + p :])
        if process.returncode:
            raise RuntimeError(f"Rscript ended with {process.returncode}")


def cases(clean, contaminated):
    """Return all data sets."""
    every = [Case(d, CLEAN, 0.0, k) for d in range(len(DESIGNS)) for k in range(clean)]
    return every + [
        Case(d, kind, share, k)
        for d in range(len(DESIGNS))
        for kind in CONTAMINATIONS
        for share in SHARES
        for k in range(contaminated)
    ]


def run(wanted, store):
    """Return the answers of everything that is installed."""
    found = read(store) if store is not None and store.exists() else {}
    there = [name for name in METHODS if installed(NEEDS.get(name))]
    in_r = IN_R if shutil.which("Rscript") else ()
    for name in [name for name in (*METHODS, *IN_R) if name not in (*there, *in_r)]:
        print(f"{name}: not installed, skipped")
    tasks = [(c, [m for m in there if (c, m) not in found]) for c in wanted]
    tasks = [task for task in tasks if task[1]]
    left = [c for c in wanted if any((c, m) not in found for m in in_r)]
    for library in ("NUMBA", "OPENBLAS", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"

    def keep(answers, number, of, what, begin):
        for answer in answers:
            found[answer.case, answer.method] = answer
        if store is not None:
            with store.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(answer) + "\n" for answer in answers)
        if number % 100 == 0 or number == of:
            print(f"{what}: {number}/{of}, {time.perf_counter() - begin:.0f} s", flush=True)

    begin = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number, answers in enumerate(pool.imap_unordered(by_python, tasks, 8), 1):
            keep(answers, number, len(tasks), "Python", begin)
    begin = time.perf_counter()
    for number, answer in enumerate(by_r(left) if left else (), 1):
        keep([answer], number, 2 * len(left), "R", begin)
    return [found[c, m] for c in wanted for m in (*there, *in_r) if (c, m) in found]


def installed(module):
    return module is None or __import__("importlib.util").util.find_spec(module) is not None


def read(store):
    """Return the answers of an earlier run."""
    found = {}
    for line in store.read_text(encoding="utf-8").splitlines():
        case, *rest = json.loads(line)
        answer = Answer(Case(*case), *rest)
        found[answer.case, answer.method] = answer
    return found


# -- how good they are ---------------------------------------------------------------------------


class Score(NamedTuple):
    """How good one answer is.

    `error` is the root mean square of its fitted values on the good rows, per coefficient; `best`
    that of least squares on the good rows. `drawn` is the squared displacement of least squares
    by the bad rows, `followed` how much of that the answer follows. `broken`: farther from the best
    than `FAR` times what least squares on good rows exceeds in 1 % of all samples. `covered`: the
    share of the 95 % intervals that hold the true value.
    """

    answer: Answer
    error: float
    best: float
    followed: float
    drawn: float
    broken: bool
    covered: float


def scores(answers):
    """Return the scores of all answers."""
    out, known = [], {}
    for answer in answers:
        if answer.case not in known:
            A, b, bad = answer.case.data()
            clean = A[~bad]
            x0, rss = np.linalg.lstsq(clean, b[~bad], rcond=None)[:2]
            drawn = clean @ (np.linalg.lstsq(A, b, rcond=None)[0] - x0)
            scale = np.sqrt(rss[0] / (len(clean) - len(x0)))
            known[answer.case] = clean, x0, drawn, scale * np.sqrt(stats.chi2.ppf(0.99, len(x0)))
        clean, x0, drawn, unit = known[answer.case]
        x, p = np.array(answer.x), len(x0)
        moved = clean @ (x - x0)
        covered = np.nan
        if answer.se:
            half = stats.t.ppf(0.975, DESIGNS[answer.case.design][1] - p) * np.array(answer.se)
            covered = float(np.mean(np.abs(x) <= half)) if np.all(np.isfinite(half)) else np.nan
        out.append(
            Score(
                answer,
                float(np.linalg.norm(clean @ x)) / np.sqrt(p),
                float(np.linalg.norm(clean @ x0)) / np.sqrt(p),
                float(moved @ drawn),
                float(drawn @ drawn),
                not np.linalg.norm(moved) <= FAR * unit,
                covered,
            )
        )
    return out


def efficiency(part):
    return 100.0 * np.mean([s.best**2 for s in part]) / np.mean([s.error**2 for s in part])


def relative_error(part):
    # A fit that is not there is as far away as can be.
    error = np.nan_to_num([s.error for s in part], nan=np.inf)
    return float(np.median(error) / np.median([s.best for s in part]))


def pull(part):
    # Fits that are not there do not follow anything.
    part = [s for s in part if np.isfinite(s.followed)]
    drawn = sum(s.drawn for s in part)
    return 100.0 * sum(s.followed for s in part) / drawn


def broken(part):
    return 100.0 * float(np.mean([s.broken for s in part]))


def silent(part):
    return 100.0 * float(np.mean([s.broken and s.answer.success for s in part]))


def coverage(part):
    known = [s.covered for s in part if np.isfinite(s.covered)]
    return 100.0 * float(np.mean(known)) if known else np.nan


# -- what it amounts to ------------------------------------------------------------------------

MEASURES = (
    (
        "Error",
        "Median, relative to that of least squares on the good rows alone.",
        relative_error,
        1,
    ),
    (
        "Breakdown",
        "Percentage of the fits that are farther from least squares on the good rows than "
        f"{FAR:g} times the distance that this exceeds in 1 % of all samples.",
        broken,
        0,
    ),
    (
        "Unnoticed breakdown",
        "The same, of fits that report success. Where a program reports nothing, every fit counts.",
        silent,
        0,
    ),
    (
        "Bias",
        "Percentage of the displacement of least squares by the bad rows that an estimate follows.",
        pull,
        0,
    ),
    ("Coverage", "Percentage of nominal 95 % intervals that hold the true value.", coverage, 0),
)


def table(found):
    """Return the page."""
    methods = [m for m in ORDER if any(s.answer.method == m for s in found)]
    settings = [(CLEAN, 0.0), *((k, s) for k in CONTAMINATIONS for s in SHARES)]
    groups = {
        (m, *where): [s for s in found if (s.answer.method, *s.answer.case[1:3]) == (m, *where)]
        for m in methods
        for where in settings
    }
    sizes = {where: len(groups[methods[0], *where]) for where in settings}
    designs = ", ".join(f"{kind} {n}×{p}" for kind, n, p in DESIGNS)
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# Measured quality",
        "",
        "<!-- table -->",
        "",
        f"Designs: {designs}. {sizes[CLEAN, 0.0]} clean data sets, and "
        f"{sizes[CONTAMINATIONS[0], SHARES[0]]} of each contamination and share; all programs saw "
        "the same.",
        "",
        "**Clean data.** Efficiency: mean squared error of least squares over that of the "
        "estimate. Coverage of nominal 95 % intervals, where there are any.",
        "",
        "| | " + " | ".join(methods) + " |",
        "|---" + "|--:" * len(methods) + "|",
        row("efficiency, %", (efficiency(groups[m, CLEAN, 0.0]) for m in methods), 0),
        row("coverage, %", (coverage(groups[m, CLEAN, 0.0]) for m in methods), 1),
    ]
    for title, text, score, digits in MEASURES:
        shown = [m for m in methods if score is not coverage or tells_errors(groups[m, CLEAN, 0.0])]
        lines += [
            "",
            f"**{title}.** {text}",
            "",
            "| bad rows | " + " | ".join(shown) + " |",
            "|---" + "|--:" * len(shown) + "|",
        ]
        lines += [
            row(f"{k}, {100 * s:.0f} %", (score(groups[m, k, s]) for m in shown), digits)
            for k, s in settings[1:]
            if score is not pull or k != "good leverage"
        ]
    return "\n".join(lines) + "\n"


def tells_errors(part):
    return any(s.answer.se for s in part)


def row(name, values, digits):
    # Adding zero makes 0 of -0.
    cells = (f"{round(v, digits) + 0.0:.{digits}f}" if np.isfinite(v) else "–" for v in values)
    return f"| {name} | " + " | ".join(cells) + " |"


def draw(found, path):
    """Draw the median error against the share of bad rows, for each contamination."""
    from matplotlib.figure import Figure

    methods = [m for m in ORDER if any(s.answer.method == m for s in found)]
    colors = dict(zip(ORDER, ("#c44e52", "#4c72b0", "#55a868", *["0.55"] * 6), strict=True))
    dashes = dict(zip(ORDER[3:], ("-", "--", "-.", ":", (0, (1, 3)), (0, (6, 3))), strict=True))
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    axes = figure.subplots(1, len(CONTAMINATIONS), sharey=True)
    for ax, kind in zip(axes, CONTAMINATIONS, strict=True):
        for m in reversed(methods):
            parts = [[s for s in found if s.answer.method == m and s.answer.case[1] == CLEAN]]
            parts += [
                [s for s in found if (s.answer.method, *s.answer.case[1:3]) == (m, kind, share)]
                for share in SHARES
            ]
            ax.plot(
                [0.0, *(100.0 * s for s in SHARES)], [relative_error(part) for part in parts],
                color=colors[m], linestyle=dashes.get(m, "-"), label=m,
                linewidth=2.4 if m == "robustfit" else 1.2,
            )  # fmt: skip
        ax.set(title=kind, xlabel="bad rows (%)", yscale="log", xticks=(0, 10, 20, 30, 40))
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("error / error of least\nsquares on the good rows")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right center", frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth, writes nothing")
    names = ("CLEAN", "CONTAMINATED")
    parser.add_argument("--replicates", type=int, nargs=2, metavar=names, default=REPLICATES)
    parser.add_argument("--store", type=Path, help="file of answers, read and added to")
    parser.add_argument("--out", type=Path, default=DOCS, help="default: docs/")
    args = parser.parse_args()
    replicates = args.replicates
    if args.quick:
        replicates = [max(number // 10, 1) for number in replicates]
    found = scores(run(cases(*replicates), args.store))
    text = table(found)
    print(text)
    if not args.quick:
        (args.out / "explanation" / "quality_table.md").write_text(text, encoding="utf-8")
        draw(found, args.out / "_static" / "quality.png")


if __name__ == "__main__":
    main()
