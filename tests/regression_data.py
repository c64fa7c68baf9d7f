"""Regression problems whose answers are known: classic sets, reference fits, hard inputs.

`classic` gives a data set as ``(A, b)``; `reference` gives what other programs found on it;
`EDGE_CASES` maps the name of a pathological input to ``(A, b)``.
"""

import json
from pathlib import Path

import numpy as np

from robustfit import datasets

_REFERENCE = Path(__file__).parent / "reference"


def reference(name):
    """Return the contents of ``reference/linear_<name>.json``."""
    return json.loads((_REFERENCE / f"linear_{name}.json").read_text("utf-8"))


_EXTRA = json.loads((_REFERENCE / "classic.json").read_text("utf-8"))["sets"]
CLASSIC = tuple(sorted({*datasets.names(), *_EXTRA}))


def classic(name):
    """Return design and response of a classic data set, shipped with the package or not."""
    if name in _EXTRA:
        rows = np.array(_EXTRA[name]["rows"], dtype=float)
        return np.column_stack([np.ones(len(rows)), rows[:, :-1]]), rows[:, -1].copy()
    data = datasets.load(name)
    return data.A, data.b


def contaminated(n=40, p=3, outliers=6, seed=0):
    """Return a design with intercept, normal noise of scale one, and some gross errors."""
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    b = A @ np.arange(1.0, p + 1.0) + rng.standard_normal(n)
    b[:outliers] += 15.0 + rng.standard_exponential(outliers)
    return A, b


def with_far_rows(n=200, share=0.15, shift=6.0, other=0.3, seed=0, dummies=False):
    """Return normal data, rows on one point far out that are off the plane, and other bad rows."""
    rng = np.random.default_rng(seed)
    A = np.column_stack([np.ones(n), rng.standard_normal((n, 4))])
    if dummies:
        A[:, 4] = np.arange(n) % 7 == 0
    far, bad = int(share * n), int((share + other) * n)
    b = A @ [3.0, -5.0, 8.0, 2.0, 10.0] + rng.standard_normal(n)
    A[:far, 1:4] = [1e3, -1e3, 2e3]
    b[:far] = A[:far] @ [3.0, -5.0, 8.0, 2.0, 10.0] + shift * np.sqrt(6e6 / n)
    b[far:bad] = 1e6 * rng.standard_normal(bad - far)
    return A, b, np.arange(n) >= bad


def _edge_cases():
    y = {k: np.array(v) for k, v in reference("edge").items() if k != "about"}
    t = np.arange(20.0)
    ones = np.ones(20)
    line = np.column_stack([ones, t])
    some_huge, no_number = line.copy(), y["line"].copy()
    some_huge[4, 1], no_number[4] = np.inf, np.nan
    level = np.repeat([0, 1, 2], [10, 7, 3])
    return {
        "exact_fit_3_outliers": (line, 1.0 + 2.0 * t + 50.0 * (t < 3)),
        "exact_fit_55_percent": (line, np.where(t < 11, 6.0 + 7.5 * t, 1.0 + 2.0 * t)),
        "perfect_fit": (line, 1.0 + 2.0 * t),
        "constant_y": (line, 3.0 * ones),
        "mostly_constant": (line, np.minimum(1.0 + np.maximum(t - 14.0, 0.0), 5.0)),
        "rank_deficient": (np.column_stack([line, 3.0 + 2.0 * t]), y["rank_deficient"]),
        "huge": (line, 1e150 * y["line"]),
        "tiny": (line, 1e-150 * y["line"]),
        "offset_1e8": (line + np.array([0.0, 1e8]), y["line"]),
        "nan_in_b": (line, no_number),
        "inf_in_A": (some_huge, y["line"]),
        "n_is_p_plus_1": (line[:3], np.array([0.0, 1.1, 1.9])),
        "leverage_one": (np.column_stack([ones, t == 19.0]), y["leverage_one"]),
        "small_level": (np.column_stack([ones, level == 1, level == 2]), y["small_level"]),
    }


EDGE_CASES = _edge_cases()
