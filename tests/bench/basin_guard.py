"""Calibrates the basin guard: how often it alarms for nothing, and what it misses.

``python -m tests.bench.basin_guard`` writes docs/explanation/basin_guard_table.md and
docs/_static/basin_guard.png. ``--quick`` takes a tenth of the replicates and writes nothing.
``--replicates 1000 200 50`` asks for more, of data with normal errors, with skewed errors, and
contaminated ones; ``--out FOLDER`` writes somewhere else. ``--designs 9 14`` takes these of the
designs, counted from 0, and writes nothing.

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
# Good data with exponential errors: no row is bad, but efficient estimates differ.
SKEWED = "skewed errors"
# Of each design and loss: normal errors, skewed errors, each contamination and share.
REPLICATES = (120, 30, 3)
# Distances are in units of the 99 % point of that of least squares on the clean rows.
NEAR, FAR = 2.0, 4.0
# Largest rate of false alarms with normal errors, in percent.
LIMIT = 1.0


class Case(NamedTuple):
    """One data set and one loss; `contamination` is "" for clean data, or `SKEWED`."""

    design: int
    loss: str
    contamination: str
    share: float
    replicate: int

    def rng(self) -> np.random.Generator:
        kind = ("", *CONTAMINATIONS, SKEWED).index(self.contamination)
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
    bad = np.zeros(n, dtype=bool)
    if case.contamination == SKEWED:
        return A, rng.exponential(size=n), bad
    b = rng.normal(size=n)
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
        if case.contamination in ("", SKEWED):
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


def cases(clean, skewed, contaminated, designs):
    """Yield the cases of one design after the other."""
    for d in designs:
        for loss in LOSSES:
            good = [Case(d, loss, "", 0.0, k) for k in range(clean)]
            good += [Case(d, loss, SKEWED, 0.0, k) for k in range(skewed)]
            yield good + [
                Case(d, loss, kind, share, k)
                for kind, share in itertools.product(CONTAMINATIONS, SHARES)
                for k in range(contaminated)
            ]


def run(replicates, designs):
    """Return what was found in all cases."""
    # For the workers, which have not loaded anything yet: one thread each.
    for library in ("NUMBA", "OPENBLAS", "OMP"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    found, begin = [], time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for number, part in enumerate(cases(*replicates, designs), 1):
            found += pool.map(examine, part, chunksize=max(1, len(part) // 16))
            kind, n, p = DESIGNS[part[0].design]
            print(
                f"{number:2d}/{len(designs) * len(LOSSES)} {kind} {n} x {p}, {part[0].loss}: "
                f"{time.perf_counter() - begin:.0f} s",
                flush=True,
            )
    return found


# -- what it amounts to ------------------------------------------------------------------------


class Alarms(NamedTuple):
    """What was reported of good data, in percent."""

    fits: int
    lowered: float
    divided: float
    other: float

    @classmethod
    def of(cls, found):
        status = [f.status for f in found]
        usual = ("CONVERGED", "EFFICIENCY_LOWERED", "NO_MAJORITY")
        numbers = [status.count("EFFICIENCY_LOWERED"), status.count("NO_MAJORITY")]
        numbers.append(sum(name not in usual for name in status))
        return cls(len(found), *(100.0 * number / len(found) for number in numbers))


class Misses(NamedTuple):
    """What was reported of contaminated data, in percent of those with the S-fit near the truth."""

    fits: int
    near: int
    missed_without: float
    missed: float
    lowered: float
    warned: float

    @classmethod
    def of(cls, found):
        near = [f for f in found if f.s_distance < NEAR]
        numbers = (
            sum(f.unguarded > FAR for f in near),
            sum(f.missed for f in near),
            sum(f.status == "EFFICIENCY_LOWERED" for f in near),
            sum(not rf.Status[f.status].success for f in near),
        )
        return cls(len(found), len(near), *(100.0 * k / max(len(near), 1) for k in numbers))

    def cells(self):
        return [f"{self.near} of {self.fits}", *(f"{rate:.1f}" for rate in self[2:])]


def split(found):
    """Return the fits of clean, skewed and contaminated data."""
    clean = [f for f in found if f.case.contamination == ""]
    skewed = [f for f in found if f.case.contamination == SKEWED]
    return clean, skewed, [f for f in found if f.case.contamination in CONTAMINATIONS]


def table(found, replicates):
    """Return the page: false alarms, and misses by design and by contamination."""
    clean, skewed, bad = split(found)
    lines = [
        "---",
        "orphan: true",
        "---",
        "",
        "# Calibration of the basin guard",
        "",
        "<!-- table -->",
        "",
        f"Of each design and loss (Welsch, Tukey) there are {replicates[0]} data sets with normal "
        f"errors, {replicates[1]} with exponential errors, which are good but skewed, and "
        f"{replicates[2]} of each contamination and share: {len(clean):,}, {len(skewed):,} and "
        f"{len(bad):,} fits.",
        "",
        "**Good data**: percentage of the fits whose efficiency was lowered, and of those without "
        f"success (`NO_MAJORITY`). {_above(clean)}",
        "",
        "| design | normal: lowered | normal: no success | skewed: lowered | skewed: no success |",
        "|---|--:|--:|--:|--:|",
    ]
    seen = {f.case.design for f in clean}
    names = [(d, _name(design)) for d, design in enumerate(DESIGNS) if d in seen]
    for d, name in (*names, (None, "**all**")):
        parts = ([f for f in part if d in (None, f.case.design)] for part in (clean, skewed))
        rates = [rate for part in parts for rate in Alarms.of(part)[1:3]]
        lines.append(_row([name, *(f"{rate:.2f}" for rate in rates)]))
    lines += [
        "",
        "**Contaminated data.** The S-fit is *right* if it is near least squares on the good rows. "
        "The columns after that are percentages of these data sets: fits far from it that report "
        "success, without the guard and with it; fits whose efficiency the guard lowered; fits "
        f"without success. Near and far are {NEAR:g} and {FAR:g} times the distance that least "
        "squares on the good rows exceeds in 1 % of all samples.",
        "",
        *_about_the_missed(bad),
        "| contamination | S-fit right | missed without | missed | lowered | no success |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind, share in itertools.product(CONTAMINATIONS, SHARES):
        part = [f for f in bad if f.case.contamination == kind and f.case.share == share]
        lines.append(_row([f"{kind}, {100 * share:.0f} %", *Misses.of(part).cells()]))
    lines.append(_row(["**all**", *Misses.of(bad).cells()]))
    lines += [
        "",
        "| design | S-fit right | missed without | missed | lowered | no success |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for d, name in names:
        lines.append(_row([name, *Misses.of([f for f in bad if f.case.design == d]).cells()]))
    return "\n".join(lines) + "\n"


def _above(clean):
    """Return which designs have more false alarms than allowed."""
    rates = {
        _name(design): max(Alarms.of([f for f in clean if f.case.design == d])[1:3])
        for d, design in enumerate(DESIGNS)
        if any(f.case.design == d for f in clean)
    }
    above = [f"{name} ({rate:.2f} %)" for name, rate in rates.items() if rate >= LIMIT]
    return f"With normal errors {LIMIT:g} % is reached by: {'; '.join(above) or 'no design'}."


def _name(design):
    kind, n, p = design
    return f"{kind}, {n}×{p}"


def _row(cells):
    return "| " + " | ".join(cells) + " |"


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


def draw(found, path):
    """Draw where the fits with and without the guard are, against the S-fit."""
    from matplotlib.figure import Figure

    bad = split(found)[2]
    near = [f for f in bad if f.s_distance < NEAR]
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
        by_kind = ([f for f in bad if f.case.contamination == kind] for kind in CONTAMINATIONS)
        rates = [getattr(Misses.of(part), name) for part in by_kind]
        bars = right.barh(y + offset, rates, 0.36, color=color, label=label)
        right.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=3, fontsize=8)
    right.set_yticks(y, CONTAMINATIONS)
    right.set(xlabel="success reported, but far from the clean answer (%)")
    right.margins(x=0.15)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth, writes nothing")
    names = ("CLEAN", "SKEWED", "CONTAMINATED")
    parser.add_argument("--replicates", type=int, nargs=3, metavar=names, default=REPLICATES)
    parser.add_argument("--out", type=Path, default=DOCS, help="default: docs/")
    parser.add_argument("--designs", type=int, nargs="+", choices=range(len(DESIGNS)))
    args = parser.parse_args()
    replicates = args.replicates
    if args.quick:
        replicates = [max(number // 10, 1) for number in replicates]
    every = tuple(range(len(DESIGNS)))
    designs = every if args.designs is None else args.designs
    found = run(replicates, designs)
    text = table(found, replicates)
    print(text)
    for f in found:
        if f.missed:
            print(f"missed: {f}")
    alarms = Alarms.of(split(found)[0])
    print(
        f"false alarms: {alarms.lowered:.2f} % lowered, {alarms.divided:.2f} % no majority "
        f"(limit {LIMIT:g} %), {alarms.other:.2f} % anything else"
    )
    if not args.quick and designs == every:
        for folder in ("explanation", "_static"):
            (args.out / folder).mkdir(parents=True, exist_ok=True)
        (args.out / "explanation" / "basin_guard_table.md").write_text(text, encoding="utf-8")
        draw(found, args.out / "_static" / "basin_guard.png")
    return 0 if max(alarms[1:]) < LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
