"""Random problems that people meet and fear, and random options, for the laws under fuzzing.

`ROBUSTFIT_FUZZ=5000` makes that many examples of each law instead of the few of the suite, and
other ones each time.
"""

import contextlib
import os
import re
import warnings

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import robustfit as rf
from robustfit.losses import LOSSES

LONG = "ROBUSTFIT_FUZZ" in os.environ


def fuzz(examples=60):
    """Return the settings of a law that has so many examples in the suite."""
    return settings(
        max_examples=int(os.environ.get("ROBUSTFIT_FUZZ", examples)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=not LONG,
    )


# -- data ------------------------------------------------------------------------------------

DESIGNS = {
    "normal": lambda rng, n, p: rng.standard_normal((n, p)),
    "intercept": lambda rng, n, p: np.column_stack(
        [np.ones(n), rng.standard_normal((n, p - 1))]
    ),
    "ties": lambda rng, n, p: rng.integers(-2, 3, (n, p)).astype(float),
    "one-hot": lambda rng, n, p: np.eye(p)[rng.integers(0, p, n)],
    "factor": lambda rng, n, p: np.column_stack(
        [np.ones(n), np.eye(p)[rng.integers(0, p, n)][:, 1:]]
    ),
    "duplicate": lambda rng, n, p: rng.standard_normal((n, 1)) * np.ones(p),
    "constant": lambda rng, n, p: np.full((n, p), 3.0) * (1.0 + np.arange(p)),
    "zeros": lambda rng, n, p: np.zeros((n, p)),
    "offset": lambda rng, n, p: np.column_stack(
        [np.ones(n), 1e8 + rng.standard_normal((n, p - 1))]
    ),
    "powers": lambda rng, n, p: np.arange(n)[:, None] ** np.arange(float(p)),
    "lone row": lambda rng, n, p: np.column_stack(
        [rng.standard_normal((n, p - 1)), np.arange(n) == 0]
    ),
    "far rows": lambda rng, n, p: (
        rng.standard_normal((n, p)) * np.where(rng.random((n, 1)) < 0.2, 1e6, 1.0)
    ),
    "heavy": lambda rng, n, p: rng.standard_cauchy((n, p)),
}  # fmt: skip

RESPONSES = {
    "normal": lambda rng, A, line: line + rng.standard_normal(len(line)),
    "outliers": lambda rng, A, line: (
        line + rng.standard_normal(len(line)) + 1e3 * (rng.random(len(line)) < 0.25)
    ),
    "exact": lambda rng, A, line: line,
    "half exact": lambda rng, A, line: np.where(
        np.arange(len(line)) % 2 == 0, line, line + rng.standard_normal(len(line))
    ),
    "constant": lambda rng, A, line: np.full(len(line), 7.0),
    "zero": lambda rng, A, line: np.zeros(len(line)),
    "signed zeros": lambda rng, A, line: np.where(np.arange(len(line)) % 2 == 0, 0.0, -0.0),
    "ties": lambda rng, A, line: rng.integers(0, 3, len(line)).astype(float),
    "cauchy": lambda rng, A, line: line + rng.standard_cauchy(len(line)),
    "gross": lambda rng, A, line: line + 10.0 ** rng.uniform(-10.0, 10.0, len(line)),
}


@st.composite
def problems(draw):
    """Draw a design (n, p) and a response, in any units, read-only, in any layout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    p = draw(st.integers(1, 4), label="p")
    n = draw(st.one_of(st.integers(1, p + 3), st.integers(1, 40)), label="n")
    A = DESIGNS[draw(st.sampled_from(sorted(DESIGNS)), label="design")](rng, n, p)
    line = A @ rng.standard_normal(p)
    b = RESPONSES[draw(st.sampled_from(sorted(RESPONSES)), label="response")](rng, A, line)
    units = st.sampled_from([0, 0, 0, -1, 7, -130, 130, -295, 295])
    with np.errstate(over="ignore", under="ignore"):
        A = A * 10.0 ** draw(units, label="unit of A")
        b = b * 10.0 ** draw(units, label="unit of b")
    A = np.asarray(A, order=draw(st.sampled_from("CF"), label="order"))
    for array in (A, b):
        array.flags.writeable = False
    return A, b


@st.composite
def regular_problems(draw, rows=40):
    """Draw a well-conditioned design and a response in general position, of order one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    p = draw(st.integers(1, 3), label="p")
    n = draw(st.integers(3 * p + 3, rows), label="n")
    A = DESIGNS[draw(st.sampled_from(["normal", "intercept"]), label="design")](rng, n, p)
    line = A @ rng.standard_normal(p)
    kind = draw(st.sampled_from(["normal", "outliers", "cauchy"]), label="response")
    return A, RESPONSES[kind](rng, A, line)


# -- options ---------------------------------------------------------------------------------

STARTS = ("auto", "ols", "s", "lad", "lts", "gnc")
SCALES = ("auto", "s", "d", "tau", "mad", "mad-fixed", "huber", "matlab", "std")


@st.composite
def options(draw):
    """Draw options of irls, some of which do not go together."""
    found = {"loss": draw(st.sampled_from(sorted(LOSSES)), label="loss")}
    if draw(st.booleans(), label="plain call"):
        return found
    method = draw(st.sampled_from([None, None, "m", "s", "mm", "smdm", "tau"]), label="method")
    if method:
        found["method"] = method
    else:
        found["start"] = draw(st.sampled_from(STARTS), label="start")
        found["scale"] = draw(st.sampled_from(SCALES), label="scale")
    found["solver"] = draw(st.sampled_from(["auto", "cholesky", "qr"]), label="solver")
    found["leverage"] = draw(st.sampled_from([False, False, True]), label="leverage")
    return found


# What an error is about.
NAMED = re.compile(r"\b(A|b|freq_weights)\b|\b(loss|scale|start|method|leverage|solver)=")


# What a call may warn of.
OURS = (rf.ConvergenceWarning, rf.RankWarning, rf.BasinWarning)


@contextlib.contextmanager
def only_our_warnings():
    """Make every warning an error but those that the documentation names."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ours in OURS:
            warnings.simplefilter("ignore", ours)
        yield


def attempt(A, b, *, fit=rf.irls, **options):
    """Return the fit, None where the call refuses the data with an error that says why."""
    before = A.copy(), b.copy()
    found, words = None, ""
    with only_our_warnings():
        try:
            found = fit(A, b, **options)
        except ValueError as error:
            words = str(error)
        if isinstance(found, rf.FitResult):
            found.summary()
            found.to_dict()
    assert found is not None or NAMED.search(words), words
    for array, copy in zip((A, b), before, strict=True):
        np.testing.assert_array_equal(array, copy)
    return found


def succeeded(fit):
    """Return whether a fit claims success: then it has numbers, else it says why not."""
    if not fit.success:
        assert fit.message
        return False
    assert np.all(np.isfinite(fit.x))
    assert 0.0 <= fit.scale < np.inf
    assert np.all((fit.weights >= 0.0) & (fit.weights <= 1.0))
    return True
