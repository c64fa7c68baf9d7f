"""Laws under fuzzing of what stands beside `irls`: its other paths, scales, curves, tensors."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from fuzzing import (
    attempt,
    fuzz,
    only_our_warnings,
    options,
    problems,
    regular_problems,
    succeeded,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import robustfit as rf
import robustfit.torch as rft
from robustfit import scale as scales
from robustfit.linalg import leverage
from robustfit.losses import LOSSES

CONVEX = sorted(name for name in LOSSES if rf.get_loss(name).convex and name != "linear")
BOUNDED = sorted(name for name in LOSSES if rf.get_loss(name).bounded)

# -- the containers of the data --------------------------------------------------------------


def spread(array):
    """Return a view with negative and doubled strides."""
    block = np.full(tuple(2 * k for k in array.shape), np.nan)
    view = block[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


CONTAINERS = {
    "Fortran": np.asfortranarray,
    "strides": spread,
    "big-endian": lambda a: a.astype(">f8"),
    "half": lambda a: a.astype(np.float16),
    "single": lambda a: a.astype(np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "bytes": lambda a: a.astype(np.int8),
    "integers": lambda a: a.astype(">i8"),
    "masked": np.ma.masked_invalid,
    "list": lambda a: a.tolist(),
    "pandas": lambda a: pd.DataFrame(a) if a.ndim == 2 else pd.Series(a),
    "nullable": lambda a: (pd.DataFrame(a) if a.ndim == 2 else pd.Series(a)).astype("Int64"),
    "polars": lambda a: pl.DataFrame(a) if a.ndim == 2 else pl.Series(a),
    "bool": lambda a: a.astype(bool),
}


@fuzz(40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 20),
    p=st.integers(1, 3),
    containers=st.tuples(*[st.sampled_from(sorted(CONTAINERS))] * 2),
    options=options(),
)
def test_the_container_changes_no_bit(seed, n, p, containers, options):
    rng = np.random.default_rng(seed)
    A, b = rng.integers(-9, 10, (n, p)).astype(float), rng.integers(-99, 100, n).astype(float)
    A, b = (np.sign(np.abs(x)) if "bool" in containers else x for x in (A, b))
    expected = attempt(A, b, **options)
    found = attempt(
        A, b, fit=lambda A, b, **o: rf.irls(*(
            CONTAINERS[name](x) for name, x in zip(containers, (A, b), strict=True)
        ), **o), **options,
    )  # fmt: skip
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.status is expected.status
        for name in ("x", "scale", "weights", "bse"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("dtype", [complex, object, "datetime64[s]", str])
@pytest.mark.parametrize("which", [0, 1])
def test_other_types_are_refused_by_name(dtype, which):
    data = [np.eye(3)[:, :2], np.arange(3.0)]
    data[which] = data[which].astype(int).astype(dtype)
    with pytest.raises(TypeError, match=rf"^{'Ab'[which]} must hold real numbers"):
        rf.irls(*data)


# -- other paths to the same fit -------------------------------------------------------------

PATHS = {
    "sparse": lambda A, b, **options: rf.irls(sparse.csr_array(A), b, **options),
    "operator": lambda A, b, **options: rf.irls(aslinearoperator(A), b, **options),
    "blocks": lambda A, b, **options: rf.irls(
        rf.rows.from_arrays(A, b, block_rows=3), **options
    ),
    "single": lambda A, b, **options: rf.irls(A.astype(np.float32), b, **options),
    "batch": lambda A, b, **options: rf.irls(
        np.stack([A, A]), np.stack([b, b]), **options
    )[1],
    "QR": lambda A, b, **options: rf.irls(A, b, **options, solver="qr"),
}  # fmt: skip


@fuzz(40)
@given(
    problem=problems(),
    loss=st.sampled_from(CONVEX),
    scale=st.sampled_from(["number", "mad-fixed"]),
    path=st.sampled_from(sorted(PATHS)),
)
def test_every_path_leads_to_the_same_objective(problem, loss, scale, path):
    A, b = problem
    if path == "single":
        if np.max(np.abs(A)) > 1e30:
            return
        A = A.astype(np.float32).astype(float)
    size = float(np.median(np.abs(b))) or 1.0
    options = {"loss": loss, "start": "ols", "scale": size if scale == "number" else scale}
    expected = attempt(A, b, **options)
    found = attempt(A, b, fit=PATHS[path], **options)
    if found is None or expected is None or not (found.success and expected.success):
        return
    unit = np.max(np.abs(A), axis=0)
    singular = np.linalg.svd(A / np.where(unit > 0.0, unit, 1.0), compute_uv=False)
    if np.any((singular > 1e-13 * singular[0]) & (singular < 1e-6 * singular[0])):
        # Rounding decides what such a design determines.
        return
    if found.scale > 0.0 and expected.scale > 0.0:
        assert found.scale == pytest.approx(expected.scale, rel=1e-6)
        u, v = np.asarray(found.resid) / expected.scale, expected.resid / expected.scale
        cost = [np.sum(rf.get_loss(loss).rho(values)) for values in (u, v)]
        with np.errstate(over="ignore"):
            size = (np.abs(A) @ np.abs(expected.x) + np.abs(b)) / expected.scale
        rounding = 1e-13 * np.sum(size * np.abs(v)) + 1e-26 * np.sum(size**2)
        # Products alone do not tell apart columns that are nearly dependent.
        rounding += 1e-12 if path == "operator" else 0.0
        assert abs(cost[0] - cost[1]) <= 1e-9 * max(cost) + rounding


# -- scales and locations --------------------------------------------------------------------

CENTRED = {
    "mad": scales.mad,
    "iqr": scales.iqr,
    "qn": scales.qn,
    "sn": scales.sn,
    "scale_tau2": scales.scale_tau2,
}
ABOUT_ZERO = {
    "mad about 0": lambda x, **o: scales.mad(x, center=0.0, **o),
    "m_scale": scales.m_scale,
    "m_scale welsch": lambda x, **o: scales.m_scale(x, loss="welsch", **o),
    "tau_scale": scales.tau_scale,
    "huber_proposal2": scales.huber_proposal2,
}
LOCATIONS = {
    f"location {loss}": lambda x, loss=loss, **o: scales.location(x, loss, **o)
    for loss in sorted(LOSSES)
}
WEIGHTED = {*ABOUT_ZERO, *LOCATIONS, "mad", "scale_tau2"}
ESTIMATES = CENTRED | ABOUT_ZERO | LOCATIONS


@st.composite
def samples(draw):
    """Draw one sample, in any unit, from one value to many."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    n = draw(st.integers(1, 40), label="n")
    x = draw(
        st.sampled_from([
            rng.standard_normal(n), rng.standard_cauchy(n), rng.integers(-1, 2, n).astype(float),
            np.full(n, 3.0), np.zeros(n), np.where(rng.random(n) < 0.3, 1e3, 1.0),
            1e8 + rng.standard_normal(n), np.where(rng.random(n) < 0.5, 0.0, -0.0),
            10.0 ** rng.uniform(-300.0, 300.0, n), rng.integers(1, 9, n) * 5e-324,
        ]),
        label="kind",
    )  # fmt: skip
    x.flags.writeable = False
    return x


def estimate(name, x, **options):
    """Return the estimate; the sample stays as it is, and only our warnings are raised."""
    before = x.copy()
    with only_our_warnings():
        found = float(ESTIMATES[name](x, **options))
    np.testing.assert_array_equal(x, before)
    return found


@fuzz(200)
@given(x=samples(), name=st.sampled_from(sorted(ESTIMATES)), seed=st.integers(0, 99))
def test_estimates_of_a_sample(x, name, seed):
    rng = np.random.default_rng(seed)
    found = estimate(name, x)
    # iqr and qn of 1e300 and -1e300 may be beyond the range of doubles.
    assert not np.isnan(found)
    if name in LOCATIONS:
        assert np.min(x) <= found <= np.max(x)
        assert estimate(name, -x) == pytest.approx(-found, rel=1e-9, abs=1e-9 * np.max(np.abs(x)))
    else:
        assert found >= 0.0
    permuted = estimate(name, rng.permutation(x))
    spread = np.max(x) / 2.0 - np.min(x) / 2.0
    assert permuted == pytest.approx(found, rel=1e-9, abs=1e-12 * spread)
    modest = x[x != 0.0]
    if np.all((np.abs(modest) > 1e-280) & (np.abs(modest) < 1e280)):
        assert estimate(name, 2.0**-60 * x) == 2.0**-60 * found
    if name in WEIGHTED:
        freq = rng.integers(1, 4, len(x))
        counted, repeated = estimate(name, x, weights=freq), estimate(name, np.repeat(x, freq))
        assert counted == pytest.approx(repeated, rel=1e-9, abs=1e-12 * spread)


@fuzz(60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(9, 60),
    share=st.floats(0.0, 0.4),
    size=st.sampled_from([1e4, 1e9, 1e300]),
    name=st.sampled_from(
        sorted({*CENTRED, *ABOUT_ZERO, *LOCATIONS} - {"iqr", "huber_proposal2", "location linear"})
    ),
)
def test_estimates_are_not_carried_away(seed, n, share, size, name):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n)
    x[: int(share * (n - 1))] = size
    assert abs(estimate(name, x)) < 30.0


# -- curves ----------------------------------------------------------------------------------


def straight(t, a, k):
    return a + k * t


def decay(t, a, k):
    return a * np.exp(-k * t)


@fuzz(25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    model=st.sampled_from([straight, decay]),
    # The linear loss is SciPy's curve_fit.
    loss=st.sampled_from(sorted(set(LOSSES) - {"linear"})),
    kind=st.sampled_from(["normal", "outliers", "exact", "constant", "zero", "ties"]),
    start=st.sampled_from(["auto", "ladder", "p0"]),
    unit=st.sampled_from([1.0, 1e-9, 1e12, 2.0**-300]),
)
def test_a_curve_that_is_a_success_is_one(seed, n, model, loss, kind, start, unit):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.uniform(0.0, 4.0, n))
    truth = np.array([rng.uniform(1.0, 5.0) * unit, rng.uniform(0.3, 2.0)])
    truth[1] *= unit if model is straight else 1.0
    y = model(t, *truth)
    noise = unit * rng.standard_normal(n)
    y = {
        "normal": y + 0.1 * noise,
        "outliers": y + 0.1 * noise + 50.0 * unit * (rng.random(n) < 0.2),
        "exact": y,
        "constant": np.full(n, unit),
        "zero": np.zeros(n),
        "ties": np.round(y / unit) * unit,
    }[kind]
    p0 = 0.8 * truth
    for array in (t, y, p0):
        array.flags.writeable = False
    words = ""
    with only_our_warnings():
        try:
            fit = rf.curve_fit(model, t, y, p0, loss=loss, start=start)
        except (ValueError, TypeError, RuntimeError) as error:
            words, fit = str(error), None
    if fit is None:
        assert "residuals" in words or "ydata" in words, words
        return
    assert fit.summary()
    if not succeeded(fit):
        return
    assert np.all(fit.resid == y - model(t, *fit.x))
    if fit.scale > 1e-9 * np.max(np.abs(y)):
        u = fit.resid / fit.scale
        J = np.column_stack(
            [np.ones(n), t] if model is straight else [np.exp(-fit.x[1] * t), -t * model(t, *fit.x)]
        )
        Q = np.linalg.qr(J / np.max(np.abs(J), axis=0))[0]
        assert np.max(np.abs(Q.T @ fit.loss.psi(u))) < 1e-3


# -- tensors ---------------------------------------------------------------------------------


@fuzz(30)
@given(problem=regular_problems(), options=options(), seed=st.integers(0, 99))
def test_tensors_give_the_same_bits_and_derivatives_that_obey_equivariance(problem, options, seed):
    A, b = problem
    expected = attempt(A, b, **options)
    derivable = not (options.get("leverage") or "tau" in options.values())

    def fit(A, b, **options):
        return rft.irls(torch.tensor(A), torch.tensor(b, requires_grad=derivable), **options)

    response = torch.tensor(b, requires_grad=derivable)
    found = attempt(A, b, fit=lambda A, b, **o: rft.irls(torch.tensor(A), response, **o), **options)
    assert (found is None) == (expected is None)
    if found is None:
        return
    assert found.status is expected.status
    for name in ("x", "scale", "weights"):
        values = getattr(found, name).detach().numpy()
        np.testing.assert_array_equal(values, getattr(expected, name))
    if not derivable:
        return
    # As x(b + A v) = x(b) + v, the derivative of x in the direction A v is v.
    v, g = (torch.tensor(x) for x in np.random.default_rng(seed).standard_normal((2, A.shape[1])))
    (found.x @ g).backward()
    slope = float(response.grad @ (torch.tensor(A) @ v))
    if bool(found.success) and not np.isnan(slope):
        assert slope == pytest.approx(float(g @ v), rel=1e-5, abs=1e-5)
    elif not bool(found.success) and found.status in (rf.Status.NO_WEIGHT, rf.Status.MAXITER):
        assert np.isnan(slope)


@fuzz(100)
@given(
    seed=st.integers(0, 2**32 - 1),
    loss=st.sampled_from(sorted(LOSSES)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1.0, 1e-3, 30.0]),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 1e3, np.inf]),
)
def test_losses_of_tensors(seed, loss, dtype, scale, spread):
    rng = np.random.default_rng(seed)
    values = {0.0: np.zeros(17), np.inf: 10.0 ** rng.uniform(-5.0, 4.5, 17)}
    r = torch.tensor(values.get(spread, spread * rng.standard_normal(17))).to(dtype)
    r.requires_grad_()
    value = rft.robust_loss(r, torch.zeros_like(r), loss, scale=scale, reduction="none")
    assert value.dtype == dtype
    value.sum().backward()
    exact = r.detach().double().numpy()
    chosen, top = rf.get_loss(loss), torch.finfo(dtype).max
    eps = torch.finfo(dtype).eps + 64.0 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    with np.errstate(over="ignore"):
        rho = scale**2 * chosen.rho(exact / scale)
        psi = scale * chosen.psi(exact / scale)
    for given_by_torch, wanted, unit in ((value, rho, scale**2), (r.grad, psi, scale)):
        found = given_by_torch.detach().double().numpy()
        inside = np.abs(wanted) < 0.99 * top
        smallest = torch.finfo(dtype).smallest_normal
        np.testing.assert_allclose(
            found[inside], wanted[inside], rtol=eps, atol=eps * eps * unit + 16.0 * smallest
        )
        assert np.all(np.abs(found[~inside]) > 0.9 * top)


# -- what fuzzing has found ------------------------------------------------------------------


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix, aslinearoperator])
@pytest.mark.parametrize("unit", [[1e-295, 1.0], [1.0, 1e295], [1e-200, 1e200]])
def test_columns_of_extreme_units_in_implicit_designs(form, unit):
    rng = np.random.default_rng(0)
    A, unit = rng.standard_normal((30, 2)), np.array(unit)
    b = A @ [1.0, -2.0] + rng.standard_normal(30)
    plain = rf.irls(A, b, "huber")
    found = rf.irls(form(A * unit), b, "huber")
    np.testing.assert_allclose(found.x * unit, plain.x, rtol=1e-9)
    np.testing.assert_allclose(found.bse * unit, plain.bse, rtol=1e-9)
    np.testing.assert_allclose(found.model_matrix @ found.x, found.fittedvalues, rtol=1e-9)


@pytest.mark.parametrize("weight", [5e-324, 1e-310, 1e-300, 0.0])
def test_leverage_of_a_row_that_next_to_does_not_count(weight):
    w = np.array([1.0, 1.0, weight])
    np.testing.assert_allclose(leverage(np.ones((3, 1)), w), 0.5, rtol=1e-15)
