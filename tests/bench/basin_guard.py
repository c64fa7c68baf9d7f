"""Calibrates the basin guard: how often it alarms for nothing, and what it misses.

``python -m tests.bench.basin_guard`` writes docs/explanation/basin_guard_table.md and
docs/_static/basin_guard.png. ``--quick`` takes a tenth of the replicates and writes nothing.
``--replicates 1000 60`` asks for more, on clean and on contaminated data; ``--out FOLDER``
writes somewhere else.

The true coefficients are zero and the errors standard normal: the estimates are equivariant.
"""

import argparse
import itertools
import multiprocessing
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

import robustfit as rf

DOCS = Path(__file__).parents[2] / "docs"
SEED = 20260101
LOSSES = ("welsch", "tukey")
# kind of design, n, p
DESIGNS = (
    ("normal", 20, 2),
    ("normal", 50, 2),
    ("normal", 50, 5),
    ("normal", 100, 5),
    ("normal", 100, 10),
    ("normal", 200, 5),
    ("normal", 500, 2),
    ("normal", 500, 10),
    ("t3", 30, 3),
    ("t3", 50, 5),
    ("t3", 100, 5),
    ("t3", 200, 10),
    ("lognormal", 20, 2),
    ("lognormal", 50, 5),
    ("lognormal", 100, 10),
    ("lognormal", 300, 5),
    ("dummies", 40, 4),
    ("dummies", 100, 6),
    ("dummies", 400, 8),
    ("leverage group", 30, 2),
    ("leverage group", 50, 3),
    ("leverage group", 100, 5),
    ("leverage group", 200, 5),
    ("leverage group", 500, 5),
)
CONTAMINATIONS = (
    "vertical, symmetric",
    "vertical, one-sided",
    "good leverage",
    "bad leverage",
    "cluster",
)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.45)
CLEAN_REPLICATES, CONTAMINATED_REPLICATES = 150, 3
# Distances are in units of the 99 % point of that of least squares on the clean rows.
NEAR, FAR = 2.0, 4.0


class Case(NamedTuple):
    """One data set and one loss; `contamination` is "" for clean data."""

    design: int
    loss: str
    contamination: str
    share: float
    replicate: int

    def rng(self) -> np.random.Generator:
        kind = CONTAMINATIONS.index(self.contamination) + 1 if self.contamination else 0
        key = (SEED, self.design, kind, round(100 * self.share), self.replicate)
        return np.random.default_rng(key)


class Found(NamedTuple):
    """What a fit did: distances of the S-fit, of the fit, and of the fit without guard.

    `own` is the largest error of a coefficient in the standard errors that the fit reports.
    """

    case: Case
    status: str
    s_distance: float = np.nan
    distance: float = np.nan
    unguarded: float = np.nan
    own: float = np.nan

    @property
    def missed(self) -> bool:
        """Whether the fit is far from the truth, the S-fit is not, and the status is good."""
        success = rf.Status[self.status].success
        return self.s_distance < NEAR and self.distance > FAR and success


# -- data --------------------------------------------------------------------------------------


def design(kind, n, p, rng):
    """Return a design with an intercept first, and its columns that are not 0/1."""
    X = rng.normal(size=(n, p - 1))
    moving = slice(1, p)
    if kind == "t3":
        X = rng.standard_t(3, size=X.shape)
    elif kind == "lognormal":
        X = np.exp(X)
    elif kind == "dummies":
        # Levels with 50, 30 and 20 % of the rows.
        level = rng.permutation(np.repeat([0, 1, 2], [n - n // 2, n // 2 - n // 5, n // 5]))
        X[:, -2:] = level[:, None] == [1, 2]
        moving = slice(1, p - 2)
    elif kind == "leverage group":
        X[: n // 10] += 10.0
    return np.column_stack([np.ones(n), X]), moving


def contaminate(A, b, moving, kind, share, rng):
    """Change a share of the rows in place; return which."""
    n = len(b)
    rows = rng.choice(n, round(share * n), replace=False)
    m = len(rows)
    # From hardly visible to very far.
    size = np.exp(rng.uniform(np.log(3.0), np.log(30.0)))
    X = A[:, moving]
    spread = np.sqrt(np.mean((X - X.mean(axis=0)) ** 2, axis=0))
    if kind == "vertical, symmetric":
        b[rows] = size * rng.normal(size=m)
    elif kind == "vertical, one-sided":
        b[rows] = size * (0.5 + rng.random(m))
    else:
        # Between 2 and 20 standard deviations out, to one side.
        away = spread * np.exp(rng.uniform(np.log(2.0), np.log(20.0)))
        tight = 0.1 if kind == "cluster" else 1.0
        A[rows, moving] = X.mean(axis=0) + away + tight * spread * rng.normal(size=(m, len(spread)))
        if kind == "bad leverage":
            b[rows] = size * np.sign(rng.normal()) + rng.normal(size=m)
        elif kind == "cluster":
            b[rows] = size + 0.1 * rng.normal(size=m)
    bad = np.zeros(n, dtype=bool)
    bad[rows] = kind != "good leverage"
    return bad


def data_of(case):
    """Return A, b and which rows are bad."""
    rng, (kind, n, p) = case.rng(), DESIGNS[case.design]
    A, moving = design(kind, n, p, rng)
    b = rng.normal(size=n)
    bad = np.zeros(n, dtype=bool)
    if case.contamination:
        bad = contaminate(A, b, moving, case.contamination, case.share, rng)
    return A, b, bad


# -- one case ----------------------------------------------------------------------------------


def examine(case):
    """Fit a case with and without the guard."""
    A, b, bad = data_of(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = rf.irls(A, b, case.loss)
        if not case.contamination:
            return Found(case, fit.status.name)
        # What `irls(A, b, loss, efficiency=0.95)` finds, without another search.
        plain = rf.irls(A, b, case.loss, start=fit.search.x, scale=fit.search.scale)
    clean = A[~bad]
    x0, rss = np.linalg.lstsq(clean, b[~bad], rcond=None)[:2]
    scale = np.sqrt(rss[0] / (len(clean) - len(x0)))
    unit = scale * np.sqrt(stats.chi2.ppf(0.99, len(x0)))

    def distance(x):
        return float(np.linalg.norm(clean @ (x - x0)) / unit)

    return Found(
        case,
        fit.status.name,
        distance(fit.search.x),
        distance(fit.x),
        distance(plain.x),
        float(np.max(np.abs(fit.x - x0) / fit.bse)),
    )


def cases(clean, contaminated):
    """Yield the cases of one design after the other."""
    for d in range(len(DESIGNS)):
        for loss in LOSSES:
            yield [Case(d, loss, "", 0.0, k) for k in range(clean)] + [
                Case(d, loss, kind, share, k)
                for kind, share in itertools.product(CONTAMINATIONS, SHARES)
                for k in range(contaminated)
            ]


def run(clean, contaminated):
    """Return what was found in all cases."""
    # For the workers, which have not loaded anything yet: one thread each.
    for library in ("NUMBA", "OPENBLAS", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    found, begin = [], time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number, part in enumerate(cases(clean, contaminated), 1):
            found += pool.map(examine, part, chunksize=max(1, len(part) // 16))
            kind, n, p = DESIGNS[part[0].design]
            print(
                f"{number:2d}/{len(DESIGNS) * len(LOSSES)} {kind} {n} x {p}, {part[0].loss}: "
                f"{time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    return found


# -- what it amounts to ------------------------------------------------------------------------


class Counts(NamedTuple):
    """Of clean fits: alarms. Of contaminated ones with an S-fit near the truth: misses."""

    clean: int
    lowered_clean: int
    divided_clean: int
    other_clean: int
    contaminated: int
    near: int
    lowered: int
    warned: int
    missed_without: int
    missed: int

    @classmethod
    def of(cls, found):
        clean = [f.status for f in found if not f.case.contamination]
        bad = [f for f in found if f.case.contamination]
        near = [f for f in bad if f.s_distance < NEAR]
        usual = ("CONVERGED", "EFFICIENCY_LOWERED", "NO_MAJORITY")
        return cls(
            clean=len(clean),
            lowered_clean=clean.count("EFFICIENCY_LOWERED"),
            divided_clean=clean.count("NO_MAJORITY"),
            other_clean=sum(status not in usual for status in clean),
            contaminated=len(bad),
            near=len(near),
            lowered=sum(f.status == "EFFICIENCY_LOWERED" for f in near),
            warned=sum(not rf.Status[f.status].success for f in near),
            missed_without=sum(f.unguarded > FAR for f in near),
            missed=sum(f.missed for f in near),
        )


def percent(count, total):
    return f"{100.0 * count / total:.2f}" if total else "–"


def table(found, clean, contaminated):
    """Return the page: by design, and by contamination."""
    whole = Counts.of(found)
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# Calibration of the basin guard",
        "",
        "<!-- table -->",
        "",
        f"Normal errors; {clean} clean data sets per design and loss, {contaminated} per design, "
        f"loss, contamination and share ({', '.join(f'{100 * s:.0f}' for s in SHARES)} %): "
        f"{whole.clean:,} clean and {whole.contaminated:,} contaminated fits. False alarms are "
        "percentages of the clean fits. *S-fit right* counts the contaminated data sets whose "
        "S-fit is near least squares on the good rows; the columns after it are percentages of "
        "these: fits far from it that report success, without and with the guard; fits whose "
        "efficiency the guard lowered; fits it declared no success (`NO_MAJORITY`). Near and far "
        f"are {NEAR:g} and {FAR:g} times the distance that least squares on the good rows exceeds "
        "in 1 % of all samples.",
        "",
        *_about_the_missed(found),
        "| design | n | p | alarm: lowered | alarm: no majority | S-fit right "
        "| missed without | missed | lowered | no success |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for d, (kind, n, p) in enumerate(DESIGNS):
        count = Counts.of([f for f in found if f.case.design == d])
        lines.append(_row([kind, n, p], count))
    lines.append(_row(["**all**", "", ""], whole))
    lines += [
        "",
        "| contamination | share | data sets | S-fit right | missed without | missed | lowered "
        "| no success |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, share in itertools.product(CONTAMINATIONS, SHARES):
        part = [f for f in found if f.case.contamination == kind and f.case.share == share]
        count = Counts.of(part)
        cells = [kind, f"{100 * share:.0f} %", count.contaminated, *_rates(count)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _about_the_missed(found):
    """Return what the missed fits have in common."""
    missed = [f for f in found if f.missed]
    if not missed:
        return []
    where = sorted({f"{f.case.contamination}, {100 * f.case.share:.0f} %" for f in missed})
    honest = sum(f.own < 3.0 for f in missed)
    return [
        f"The {len(missed)} fits that the guard misses: {'; '.join(where)}. In {honest} of "
        "them all coefficients are within three of their own reported standard errors.",
        "",
    ]


def _rates(count):
    parts = (count.missed_without, count.missed, count.lowered, count.warned)
    return [count.near, *(percent(part, count.near) for part in parts)]


def _row(head, count):
    alarms = [percent(part, count.clean) for part in (count.lowered_clean, count.divided_clean)]
    return "| " + " | ".join(map(str, [*head, *alarms, *_rates(count)])) + " |"


def draw(found, path):
    """Draw where the fits with and without the guard are, against the S-fit."""
    from matplotlib.figure import Figure

    near = [f for f in found if f.case.contamination and f.s_distance < NEAR]
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.25])
    levels = np.geomspace(0.5, 200.0, 200)
    told = np.array([rf.Status[f.status].success for f in near])
    for label, distance, color in (
        ("without guard", np.array([f.unguarded for f in near]), "#c44e52"),
        ("with guard", np.where(told, [f.distance for f in near], 0.0), "#4c72b0"),
    ):
        rate = [100.0 * np.mean(distance > level) for level in levels]
        left.plot(levels, rate, color=color, label=label)
    left.axvline(FAR, color="0.6", linewidth=0.8, linestyle=":")
    left.set(
        xscale="log", xlabel="distance from the clean answer", ylabel="success, yet farther (%)"
    )
    left.set_yscale("log")
    left.legend(frameon=False)
    y = np.arange(len(CONTAMINATIONS))[::-1]
    for offset, name, color, label in (
        (0.2, "missed_without", "#c44e52", "without guard"),
        (-0.2, "missed", "#4c72b0", "with guard"),
    ):
        rates = []
        for kind in CONTAMINATIONS:
            count = Counts.of([f for f in found if f.case.contamination == kind])
            rates.append(100.0 * getattr(count, name) / max(count.near, 1))
        bars = right.barh(y + offset, rates, 0.36, color=color, label=label)
        right.bar_label(bars, [f"{rate:.2f}" for rate in rates], padding=3, fontsize=8)
    right.set_yticks(y, CONTAMINATIONS)
    right.set(xlabel="success reported, but far from the clean answer (%)")
    right.margins(x=0.15)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth, writes nothing")
    parser.add_argument("--replicates", type=int, nargs=2, metavar=("CLEAN", "CONTAMINATED"))
    parser.add_argument("--out", type=Path, default=DOCS, help="default: docs/")
    args = parser.parse_args()
    clean, contaminated = args.replicates or (CLEAN_REPLICATES, CONTAMINATED_REPLICATES)
    if args.quick:
        clean, contaminated = max(clean // 10, 1), 1
    found = run(clean, contaminated)
    text = table(found, clean, contaminated)
    print(text)
    for f in found:
        if f.missed:
            print(f"missed: {f}")
    count = Counts.of(found)
    alarms = max(count.lowered_clean, count.divided_clean) / count.clean
    print(f"false alarms: {100 * alarms:.2f} % (limit 1 %); other statuses: {count.other_clean}")
    if not args.quick:
        for folder in ("explanation", "_static"):
            (args.out / folder).mkdir(parents=True, exist_ok=True)
        (args.out / "explanation" / "basin_guard_table.md").write_text(text, encoding="utf-8")
        draw(found, args.out / "_static" / "basin_guard.png")
    return 0 if alarms < 0.01 else 1


if __name__ == "__main__":
    raise SystemExit(main())
