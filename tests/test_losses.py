"""The losses: laws over the registry, outside reference values, tuning, and conversions."""

import dataclasses
import importlib.util
import itertools
import json
import math
import pickle
from pathlib import Path

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import ENGINES, LAWS, Subject
from scipy.optimize import least_squares

from robustfit import _scalar, get_loss, losses, scipy_loss
from robustfit.losses import LOSSES, Barron, Hampel, Huber, Linear, Loss, Lqq, Welsch
from robustfit.losses._base import KINDS

REFERENCE = json.loads((Path(__file__).parent / "reference" / "losses.json").read_text("utf-8"))
INF = math.inf

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
ENGINE_PARAMS = [
    pytest.param(engine, marks=needs_torch if engine == "torch" else ()) for engine in ENGINES
]

DEFAULTS = {name: get_loss(name) for name in LOSSES}
# The same class with other shapes: enough in NumPy, since all engines run the same formulas.
VARIANTS = [
    Hampel(1.0, 2.0, 4.0, 8.0),
    Hampel(0.7, 1.0, 1.0, 4.0),
    Lqq(0.9, 0.75, 1.75),
    Barron(1.3, 0.5),
    Barron(1.0, 0.0),
    Barron(1.0, -0.5),
    Barron(2.0, -2.0),
    Barron(1.5, 1.5),
    Barron(1.0, 2.0),
    Barron(1.0, -INF),
]


def describe(value):
    return repr(value) if isinstance(value, Loss) else getattr(value, "__name__", None)


# -- laws ---------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=describe)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINE_PARAMS)
@pytest.mark.parametrize("name", LOSSES)
def test_law(name, engine, dtype, law):
    law(Subject(DEFAULTS[name], engine, dtype))


@pytest.mark.parametrize("law", LAWS, ids=describe)
@pytest.mark.parametrize("loss", VARIANTS, ids=describe)
def test_law_for_other_shapes(loss, law):
    law(Subject(loss, "numpy", "float64"))


anything = st.floats(-1e300, 1e300) | st.sampled_from([INF, -INF])
constants = st.floats(1e-3, 1e3)


@settings(max_examples=150, deadline=None)
@given(loss=st.sampled_from([*DEFAULTS.values(), *VARIANTS]), c=constants, u=anything)
def test_values_at_any_float(loss, c, u):
    loss = dataclasses.replace(loss, c=c)
    rho, psi, weight, dpsi = (float(getattr(loss, kind)(u)) for kind in KINDS)
    assert not any(map(math.isnan, (rho, psi, weight, dpsi)))
    assert 0.0 <= rho <= loss.sup * (1 + 1e-15)
    assert rho == loss.rho(-u)
    assert 0.0 <= weight <= 1.0
    assert abs(dpsi) <= 1.0
    assert psi == -loss.psi(-u)
    assert abs(psi) <= abs(u)
    # Concave in u**2: the chord from zero is steeper than the tangent. Subnormal values are
    # rounded to multiples of 5e-324.
    assert math.isinf(u) or u * psi <= 2.0 * rho * (1 + 1e-12) + 2e-323


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    c=constants,
    u=st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=5),
)
def test_compiled_functions_agree_with_numpy(name, c, u):
    loss = dataclasses.replace(DEFAULTS[name], c=c)
    for kind in KINDS:
        expected = getattr(loss, kind)(u)
        scale = {"rho": 0.0, "psi": c, "weight": 1.0, "dpsi": 1.0}[kind]
        np.testing.assert_allclose(
            loss.ufunc(kind)(np.array(u), c), expected, rtol=1e-13, atol=1e-14 * scale
        )


@settings(max_examples=60, deadline=None)
@given(
    loss=st.sampled_from([*DEFAULTS.values(), *VARIANTS]),
    u=st.floats(-1e6, 1e6),
    step=st.floats(1e-6, 1e3),
)
def test_rho_grows_with_any_step_away_from_zero(loss, u, step):
    near, far = loss.rho(u), loss.rho(u + math.copysign(step, u))
    assert far >= near * (1 - 1e-15)


# -- values from outside ------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINE_PARAMS)
@pytest.mark.parametrize(
    "row", REFERENCE["rows"], ids=lambda row: f"{row['loss']}{row['shape']}{row['c']:.3}"
)
def test_formulas_agree_with_the_papers(row, engine):
    shape = [float(s) for s in row["shape"]]
    loss = LOSSES[row["loss"]](row["c"], *shape)
    if engine == "numba" and loss.shape != DEFAULTS[loss.name].shape:
        pytest.skip("another shape is another compilation of the same formula")
    f = Subject(loss, engine, "float64")
    for kind in KINDS:
        # Near the end of a redescender only the absolute size of the error is small.
        scale = {"rho": 0.0, "psi": loss.c, "weight": 1.0, "dpsi": 1.0}[kind]
        np.testing.assert_allclose(
            f.evaluate(kind, np.array(row["u"])),
            row[kind],
            rtol=2e-14,
            atol=1e-15 * scale,
            err_msg=kind,
        )


def test_every_loss_has_reference_values():
    assert {row["loss"] for row in REFERENCE["rows"]} == set(LOSSES)


TABLES = {key: table for key, table in REFERENCE["robustbase"].items() if key != "x"}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_robustbase(table):
    table = TABLES[table]
    cc = table["cc"] if len(table["cc"]) > 1 else table["cc"][0]
    loss = LOSSES[table["loss"]].from_robustbase(cc)
    x = np.array(REFERENCE["robustbase"]["x"], dtype=float)
    for kind, column in (("rho", "rho"), ("psi", "psi"), ("weight", "wgt"), ("dpsi", "dpsi")):
        # At a jump of psi' either side is right.
        keep = np.ones(len(x), bool)
        if kind == "dpsi":
            keep = ~np.isin(np.abs(x), np.array(loss._breaks()) * loss.c)
        np.testing.assert_allclose(
            getattr(loss, kind)(x[keep]), np.array(table[column])[keep], rtol=1e-12, atol=1e-13
        )


# -- accuracy -----------------------------------------------------------------------------


def ulps(found, exact):
    """Return the largest error in units of the last place of the exact values."""
    found = np.asarray(found)
    errors = []
    for value, target in zip(found.ravel(), exact, strict=True):
        unit = mpmath.mpf(float(np.spacing(np.abs(found.dtype.type(float(target))))))
        errors.append(float(abs(mpmath.mpf(float(value)) - target) / unit))
    return max(errors)


def exact_welsch(u, c):
    with mpmath.workdps(60):
        k = mpmath.mpf(float(c)) ** 2
        return [-k / 2 * mpmath.expm1(-(mpmath.mpf(float(x)) ** 2) / k) for x in u]


@pytest.mark.parametrize("c", [1.0, 2.98463717629906, math.sqrt(2 / 3), 0.1])
@pytest.mark.parametrize("engine", ENGINE_PARAMS)
def test_welsch_is_exact_to_two_units_in_the_last_place(engine, c):
    rng = np.random.default_rng(3)
    # Below 1e-154 rho is subnormal, and its unit no longer a relative one.
    u = np.concatenate([10 ** rng.uniform(-160, 1, 300), 10 ** rng.uniform(-3, 1, 500)])
    rho = Subject(Welsch(c), engine, "float64").rho(u)
    assert (rho > 0).all()
    # torch makes expm1 of tanh, see Torch.expm1, which costs more.
    assert ulps(rho, exact_welsch(u, c)) <= (4.0 if engine == "torch" else 2.0)


@pytest.mark.parametrize("engine", ENGINE_PARAMS)
def test_welsch_in_single_precision_is_never_zero_by_accident(engine):
    rng = np.random.default_rng(4)
    u = np.concatenate([10 ** rng.uniform(-15, 1, 400), 10 ** rng.uniform(-3, 1, 400)])
    u = u.astype(np.float32)
    c = np.float32(2.98463717629906)
    rho = Subject(Welsch(float(c)), engine, "float32").rho(u)
    assert (rho > 0).all()
    # NumPy and torch round each step to single precision, and with AVX-512 NumPy's own expm1 is
    # exact to four units only; Numba computes in double.
    assert ulps(rho, exact_welsch(u, c)) <= {"numpy": 6.0, "numba": 1.0, "torch": 5.0}[engine]


@numba.vectorize(["f8(f8)"])
def compiled_exp(x):
    return _scalar.exp(x)


@numba.vectorize(["f8(f8)"])
def compiled_expm1(x):
    return _scalar.expm1(x)


def test_exp_is_exact_to_one_unit_in_the_last_place():
    rng = np.random.default_rng(5)
    x = np.concatenate(
        [
            rng.uniform(-745.1, 709.78, 1500),
            rng.uniform(-2, 2, 500),
            rng.uniform(-745.1, -708, 300),  # subnormal results
            10.0 ** rng.uniform(-300, 0, 100),
            [0.0, -0.0, 709.782712893384, -745.13321910194, 0.5 * math.log(2), 1.5 * math.log(2)],
        ]
    )
    with mpmath.workdps(40):
        assert ulps(compiled_exp(x), [mpmath.exp(mpmath.mpf(t)) for t in x]) <= 1.0
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            compiled_exp([INF, 709.8, 1e300, -INF, -746.0, -1e300, 0.0]), [INF] * 3 + [0] * 3 + [1]
        )
    with np.errstate(invalid="ignore"):
        assert np.isnan(compiled_exp(np.nan))


def test_expm1_is_exact_to_two_units_in_the_last_place():
    rng = np.random.default_rng(6)
    small = 10.0 ** rng.uniform(-300, 0, 400)
    x = np.concatenate(
        [
            rng.uniform(-50, 709.78, 800),
            rng.uniform(-3, 3, 1500),
            small,
            -small,
            [709.0, 709.4, 709.78, -0.34657359, 0.34657359, -37.0, -40.0, -41.0],
        ]
    )
    with mpmath.workdps(400):
        assert ulps(compiled_expm1(x), [mpmath.expm1(mpmath.mpf(t)) for t in x]) <= 2.0
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            compiled_expm1([INF, 709.8, -INF, -1e300, 0.0, -0.0]), [INF, INF, -1, -1, 0, 0]
        )
    with np.errstate(invalid="ignore"):
        assert np.isnan(compiled_expm1(np.nan))


# -- tuning -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    REFERENCE["tuning"],
    ids=lambda row: f"{row['loss']}{row['shape']}-{row['kind']}-{row['value']}",
)
def test_tuning_constants(row):
    loss = LOSSES[row["loss"]](1.0, *row["shape"])
    assert loss.constant(row["kind"], row["value"]) == pytest.approx(row["c"], rel=1e-12, abs=0)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"linear"}))
def test_default_constant_has_95_percent_efficiency(name):
    loss = DEFAULTS[name]
    assert loss.efficiency() == pytest.approx(0.95, rel=1e-13)
    assert get_loss(name, efficiency=0.95) == loss
    assert Huber(1.0).efficiency(2.0) == Huber(2.0).efficiency()


@pytest.mark.parametrize("name", [name for name, loss in DEFAULTS.items() if loss.bounded])
def test_breakdown_constant_gives_half_the_supremum(name):
    loss = get_loss(name, breakdown=0.5)
    assert loss.expectation(loss.rho) / loss.sup == pytest.approx(0.5, rel=1e-13)
    assert loss.breakdown() == pytest.approx(0.5, rel=1e-13)
    assert loss.breakdown(10.0) == pytest.approx(dataclasses.replace(loss, c=10.0).breakdown())


def test_linear_is_fully_efficient_for_any_constant():
    assert Linear() == Linear(1.0)
    assert Linear().efficiency() == pytest.approx(1.0, rel=1e-14)
    assert Linear().breakdown() == 0.0
    assert Barron(alpha=2.0).c == 1.0
    assert Barron(alpha=2.0).efficiency() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("c", [0.3, 0.8, 2.98463717629906, 9.0])
def test_welsch_expectations_have_closed_forms(c):
    loss = Welsch(c)
    a = c**-2
    for found, exact in [
        (loss.expectation(loss.weight), (1 + 2 * a) ** -0.5),
        (loss.expectation(loss.dpsi), (1 + 2 * a) ** -1.5),
        (loss.expectation(lambda u: loss.psi(u) ** 2), (1 + 4 * a) ** -1.5),
        (loss.expectation(loss.rho) / loss.sup, 1 - (1 + 2 * a) ** -0.5),
        (Loss.efficiency(loss), (1 + 4 * a) ** 1.5 / (1 + 2 * a) ** 3),
        (loss.efficiency(), (1 + 4 * a) ** 1.5 / (1 + 2 * a) ** 3),
        (Loss.breakdown(loss), 1 - (1 + 2 * a) ** -0.5),
        (loss.breakdown(), 1 - (1 + 2 * a) ** -0.5),
        (loss.expectation(np.ones_like), 1.0),
        (loss.expectation(np.square), 1.0),
    ]:
        assert found == pytest.approx(exact, rel=2e-14)


@pytest.mark.parametrize("loss", [*DEFAULTS.values(), *VARIANTS], ids=describe)
def test_stein_identity(loss):
    if loss.name == "talwar":
        pytest.skip("psi jumps, and its derivative there is not a function")
    assert loss.expectation(loss.dpsi) == pytest.approx(
        loss.expectation(lambda u: u * loss.psi(u)), rel=1e-12
    )


@pytest.mark.parametrize("kind", ["efficiency", "breakdown"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, math.nan, INF])
def test_level_out_of_range(kind, value):
    with pytest.raises(ValueError, match=rf"{kind} must be in \(0, .*{kind}={value}"):
        get_loss("tukey", **{kind: value})


def test_level_out_of_reach():
    with pytest.raises(ValueError, match=r"efficiency=0\.5 cannot be reached.*between 0\.63"):
        get_loss("huber", efficiency=0.5)
    with pytest.raises(ValueError, match=r"breakdown=0\.5 needs a bounded loss.*'huber'"):
        get_loss("huber", breakdown=0.5)
    with pytest.raises(ValueError, match=r"breakdown=0\.5 needs a bounded loss.*'linear'"):
        get_loss("linear", breakdown=0.5)
    with pytest.raises(ValueError, match=r"breakdown must be in \(0, 0\.5\], got breakdown=0\.6"):
        get_loss("tukey", breakdown=0.6)
    with pytest.raises(ValueError, match=r"efficiency=0\.95 cannot be reached"):
        Barron(alpha=1.9)
    with pytest.raises(ValueError, match="kind must be 'efficiency' or 'breakdown', got 'eff'"):
        Welsch().constant("eff", 0.4)


# -- as values ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [*DEFAULTS.values(), *VARIANTS], ids=describe)
def test_losses_are_values(loss):
    copy = pickle.loads(pickle.dumps(loss))
    assert copy == loss
    assert hash(copy) == hash(loss)
    assert eval(repr(loss), vars(losses)) == loss
    assert {loss: "found"}[copy] == "found"
    assert dataclasses.replace(loss, c=3.0) != loss
    assert all(loss != other for name, other in DEFAULTS.items() if name != loss.name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.c = 1.0
    assert type(loss.c) is float


def test_constants_become_floats():
    assert repr(Huber(np.float32(1.5))) == "Huber(c=1.5)"
    assert Huber(2) == Huber(2.0)
    assert repr(Barron(1, -INF)) == "Barron(c=1.0, alpha=float('-inf'))"


@pytest.mark.parametrize("c", [0.0, -1.0, INF, math.nan])
def test_bad_constant(c):
    with pytest.raises(ValueError, match=rf"c must be positive and finite, got c={c}"):
        Huber(c)
    with pytest.raises(ValueError, match="c must be positive and finite"):
        get_loss("huber", c=c)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Barron(alpha=2.5), r"alpha must be at most 2, got alpha=2\.5"),
        (lambda: Barron(1.0, math.nan), "alpha must be at most 2, got alpha=nan"),
        (lambda: Hampel(1.0, 0.0, 1.0, 2.0), "0 < a <= b < r, got a=0.0, b=1.0, r=2.0"),
        (lambda: Hampel(1.0, 2.0, 1.0, 3.0), "0 < a <= b < r, got a=2.0, b=1.0, r=3.0"),
        (lambda: Hampel(1.0, 1.0, 3.0, 3.0), "0 < a <= b < r, got a=1.0, b=3.0, r=3.0"),
        (lambda: Hampel(1.0, 1.0, 3.0, INF), "0 < a <= b < r, got a=1.0, b=3.0, r=inf"),
        (lambda: Lqq(1.0, 0.0, 1.5), "b > 0, s > 1, b s < 2 b .* got b=0.0, s=1.5"),
        (lambda: Lqq(1.0, 1.0, 1.0), "b > 0, s > 1, b s < 2 b .* got b=1.0, s=1.0"),
        (lambda: Lqq(1.0, 2.0, 3.0), "b > 0, s > 1, b s < 2 b .* got b=2.0, s=3.0"),
        (lambda: get_loss("huber", c=1.0, efficiency=0.9), "at most one of c, efficiency and"),
        (lambda: Huber().ufunc("chi"), r"kind must be one of \('rho', .*got 'chi'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^loss='turkey' is unknown; known are .*'tukey'\?$"):
        get_loss("turkey")
    with pytest.raises(AttributeError, match="no attribute 'turkey_rho'"):
        losses.turkey_rho  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'tukey_chi'"):
        losses.tukey_chi  # noqa: B018
    for wrong in (3.0, None, int):
        with pytest.raises(TypeError, match=r"loss must be a name or a robustfit\.losses\.Loss"):
            get_loss(wrong)


def test_get_loss_takes_names_aliases_classes_and_instances():
    for name, cls in LOSSES.items():
        for key in (name, *cls.aliases, cls, DEFAULTS[name]):
            assert get_loss(key) == DEFAULTS[name]
            assert get_loss(key, c=2.5) == dataclasses.replace(DEFAULTS[name], c=2.5)
    hampel = Hampel(1.0, 2.0, 4.0, 8.0)
    assert get_loss(hampel) is hampel
    tuned = get_loss(hampel, efficiency=0.95)
    assert tuned.shape == hampel.shape
    assert tuned.c == pytest.approx(0.69099871684139687, rel=1e-13)


def test_registry_is_complete():
    assert list(LOSSES) == [cls.name for cls in LOSSES.values()]
    classes = {v for v in vars(losses).values() if isinstance(v, type) and issubclass(v, Loss)}
    assert classes - {Loss} == set(LOSSES.values())
    assert {cls.__name__ for cls in classes} <= set(losses.__all__)


# -- arrays in, arrays out ----------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_numpy_precision_is_kept(name, dtype):
    u = np.linspace(-5, 5, 21).astype(dtype)
    tol = max(float(np.finfo(dtype).eps), 2e-16)
    for kind in KINDS:
        evaluate = getattr(DEFAULTS[name], kind)
        assert evaluate(u).dtype == dtype
        np.testing.assert_allclose(
            evaluate(u).astype(float), evaluate(u.astype(float)), rtol=9 * tol, atol=9 * tol
        )
        scalar = evaluate(dtype(1.5))
        assert type(scalar) is dtype


@pytest.mark.parametrize("name", LOSSES)
def test_whole_numbers_lists_and_scalars(name):
    loss = DEFAULTS[name]
    expected = loss.rho(np.array([0.0, 1.0, 2.0]))
    for u in ([0, 1, 2], (0.0, 1.0, 2.0), np.array([0, 1, 2], np.int8), np.arange(3, dtype="u8")):
        found = loss.rho(u)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(loss.rho([False, True]), expected[:2])
    for u in (1, 1.0, True, np.float64(1.0), np.array(1.0)):
        assert type(loss.rho(u)) is np.float64
        assert loss.rho(u) == expected[1]
    for empty in ([], np.zeros((0, 3))):
        assert loss.psi(empty).shape == np.shape(empty)


@pytest.mark.parametrize("u", [1j, [1 + 0j], np.array([None]), np.array(["1"]), "1"])
def test_what_is_not_real_is_refused(u):
    with pytest.raises(TypeError, match="u must hold real numbers, got an array of dtype"):
        Welsch().rho(u)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_that_cannot_hold_rho_is_infinite_without_a_warning(name):
    exact = DEFAULTS[name].rho(np.array([300.0, 60000.0], np.float32))
    expected = [np.inf if value > 65519.0 else value for value in exact]
    found = DEFAULTS[name].rho(np.array([300.0, 60000.0], np.float16))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_does_not_overflow_on_the_way(name):
    u = np.array([300.0, -60000.0, 1e-3, np.inf, 0.0], np.float16)
    exact = DEFAULTS[name].psi(u.astype(float))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(
            DEFAULTS[name].psi(u), exact.astype(np.float16), rtol=2e-3, atol=1e-7
        )


# -- torch --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", LOSSES)
def test_torch_precision_and_device_are_kept(name, torch):
    loss = DEFAULTS[name]
    u = torch.linspace(-5, 5, 21, dtype=torch.float64)
    for kind in KINDS:
        evaluate = getattr(loss, kind)
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            low = evaluate(u.to(dtype))
            assert low.dtype == dtype
            tol = 9 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                low.double(), evaluate(u.to(dtype).double()), rtol=tol, atol=tol
            )
        # The device without memory: any constant made on another would raise.
        meta = evaluate(u.float().to("meta"))
        assert (meta.device.type, meta.dtype, meta.shape) == ("meta", torch.float32, u.shape)
        assert evaluate(torch.tensor(1.5)).shape == ()
        assert evaluate(torch.tensor([1, 2])).dtype == torch.get_default_dtype()


def test_torch_refuses_complex_tensors(torch):
    with pytest.raises(TypeError, match="u must be real"):
        Welsch().rho(torch.tensor([1j]))


@pytest.mark.parametrize("loss", [*DEFAULTS.values(), *VARIANTS], ids=describe)
def test_autograd_of_rho_is_psi_and_of_psi_is_dpsi(loss, torch):
    points = Subject(loss, "numpy", "float64")
    grid = points.away_from_knots(points.points(), 1e-6)
    u = torch.tensor(np.concatenate([-grid, [0.0], grid]), requires_grad=True)
    for function, slope, size in ((loss.rho, loss.psi, loss.c), (loss.psi, loss.dpsi, 1.0)):
        (gradient,) = torch.autograd.grad(function(u).sum(), u)
        torch.testing.assert_close(gradient, slope(u).detach(), rtol=1e-12, atol=1e-13 * size)


@pytest.mark.parametrize("loss", [*DEFAULTS.values(), *VARIANTS], ids=describe)
def test_gradients_at_the_ends_are_finite(loss, torch):
    for dtype, largest in ((torch.float64, 1e100), (torch.float32, 1e9)):
        u = torch.tensor([0.0, -0.0, 1e-30, 1e-18, 1e6, -largest], dtype=dtype, requires_grad=True)
        for kind in ("rho", "psi", "weight"):
            (gradient,) = torch.autograd.grad(getattr(loss, kind)(u).sum(), u)
            assert gradient.isfinite().all(), (kind, dtype, gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name, torch):
    loss = DEFAULTS[name]
    u = loss.c * torch.tensor([-7.3, -1.7, -0.31, 0.013, 0.6, 2.4, 9.1], dtype=torch.float64)
    u.requires_grad_(True)
    assert torch.autograd.gradcheck(loss.rho, u)
    assert torch.autograd.gradgradcheck(loss.rho, u, atol=1e-4)


# -- SciPy --------------------------------------------------------------------------------


def exponential_decay():
    """Return the residuals of a curve with gross errors, and their exact Jacobian."""
    rng = np.random.default_rng(7)
    t = np.linspace(0, 3, 40)
    y = 2.0 * np.exp(-1.3 * t) + 0.05 * rng.standard_normal(40)
    y[::9] += 2.0

    def residuals(x):
        return x[0] * np.exp(-x[1] * t) + x[2] - y

    def jacobian(x):
        e = np.exp(-x[1] * t)
        return np.column_stack([e, -x[0] * t * e, np.ones_like(t)])

    return residuals, jacobian


@pytest.mark.parametrize("name", ["linear", "huber", "soft_l1", "cauchy", "arctan"])
@pytest.mark.parametrize("method", ["trf", "dogbox"])
def test_scipy_gives_the_same_fit_as_with_its_own_loss(name, method):
    residuals, jacobian = exponential_decay()

    def fit(loss, max_nfev):
        tight = {"ftol": 1e-14, "xtol": 1e-14, "gtol": 1e-14, "max_nfev": max_nfev}
        return least_squares(
            residuals, [1.0, 1.0, 0.0], jacobian, loss=loss, f_scale=0.2, method=method, **tight
        )

    # Where psi' <= 0 SciPy divides by the root of the machine epsilon, which turns the last
    # digit of a step into its eighth: only the first evaluation and the end can be compared.
    for max_nfev, tol in ((1, 1e-15), (None, 1e-6)):
        ours, theirs = fit(scipy_loss(name, c=1.0), max_nfev), fit(name, max_nfev)
        np.testing.assert_allclose(ours.x, theirs.x, rtol=tol)
        np.testing.assert_allclose(ours.grad, theirs.grad, atol=max(1e2 * tol, 1e-13))
        assert ours.cost == pytest.approx(theirs.cost, rel=max(tol, 1e-14))
    assert ours.cost == pytest.approx(theirs.cost, rel=1e-14)


@pytest.mark.parametrize("name", LOSSES)
def test_scipy_triple_obeys_its_contract(name):
    loss = scipy_loss(name)
    z = np.logspace(-3, 3, 50)
    z.setflags(write=False)
    first, second = loss(z), loss(z)
    assert first.shape == (3, 50)
    assert first.dtype == np.float64
    assert first.flags.writeable
    assert not np.shares_memory(first, second)
    assert np.isfinite(loss(np.array([0.0, 1e-320, 1e-30, 1e300, np.inf]))[1:]).all()
    np.testing.assert_allclose(loss(np.zeros(1))[:2], [[0.0], [1.0]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loss))(z), first)
    assert np.isnan(loss(np.array([np.nan]))).all()


@pytest.mark.parametrize("name", LOSSES)
def test_scipy_triple_is_rho_and_its_derivatives_in_z(name):
    loss, own = scipy_loss(name, c=1.5), dataclasses.replace(DEFAULTS[name], c=1.5)
    u = Subject(own, "numpy", "float64").points(-1, 1)
    z = Subject(own, "numpy", "float64").away_from_knots(u, 0.02) ** 2
    h = 1e-3 * z
    value = loss(z)
    slope = (loss(z - 2 * h) - 8 * loss(z - h) + 8 * loss(z + h) - loss(z + 2 * h)) / (12 * h)
    np.testing.assert_allclose(value[1], slope[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(value[2], slope[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(value[0], 2 * own.rho(np.sqrt(z)), rtol=1e-15)
    # What SciPy makes of it is psi'.
    np.testing.assert_allclose(value[1] + 2 * z * value[2], own.dpsi(np.sqrt(z)), atol=1e-14)


def test_scipy_loss_takes_what_get_loss_takes():
    z = np.array([0.0, 1.0, 30.0])
    np.testing.assert_array_equal(scipy_loss(Huber(2.0))(z), scipy_loss("huber", c=2.0)(z))
    np.testing.assert_array_equal(
        scipy_loss("tukey", efficiency=0.85)(z), scipy_loss(get_loss("tukey", efficiency=0.85))(z)
    )
    with pytest.raises(ValueError, match="loss='turkey' is unknown"):
        scipy_loss("turkey")


# -- other systems ------------------------------------------------------------------------


def barron_paper(x, c, alpha):
    a = abs(alpha - 2)
    return a / alpha * (((x / c) ** 2 / a + 1) ** (alpha / 2) - 1)


# (system, loss, constant) -> objective of that system at r, as it documents it, times the
# factor that gives it unit curvature. MATLAB and robustbase document weights or psi.
OBJECTIVES = {
    ("scipy", "linear", 0.8): lambda r: r**2 / 2,
    ("scipy", "pseudo_huber", 0.8): lambda r: 0.64 * (np.sqrt(1 + r**2 / 0.64) - 1),
    ("scipy", "huber", 0.8): lambda r: np.where(abs(r) <= 0.8, r**2 / 2, 0.8 * abs(r) - 0.32),
    ("scipy", "cauchy", 0.8): lambda r: 0.32 * np.log1p(r**2 / 0.64),
    ("scipy", "arctan", 0.8): lambda r: 0.32 * np.arctan(r**2 / 0.64),
    ("kornia", "welsch", 1.0): lambda r: 1 - np.exp(-(r**2) / 2),
    ("kornia", "cauchy", 1.0): lambda r: np.log1p(r**2 / 2),
    ("kornia", "geman_mcclure", 1.0): lambda r: 2 * r**2 / (r**2 + 4),
    ("kornia", "pseudo_huber", 1.0): lambda r: np.sqrt(r**2 + 1) - 1,
    ("gtsam", "fair", 1.4): lambda r: 1.96 * (abs(r) / 1.4 - np.log(1 + abs(r) / 1.4)),
    ("gtsam", "huber", 1.4): lambda r: np.where(abs(r) <= 1.4, r**2 / 2, 1.4 * (abs(r) - 0.7)),
    ("gtsam", "cauchy", 1.4): lambda r: 0.98 * np.log1p(r**2 / 1.96),
    ("gtsam", "tukey", 1.4): lambda r: 1.96 / 6 * (1 - np.maximum(1 - r**2 / 1.96, 0) ** 3),
    ("gtsam", "welsch", 1.4): lambda r: 0.98 * (1 - np.exp(-(r**2) / 1.96)),
    ("gtsam", "geman_mcclure", 1.4): lambda r: 0.5 * 1.96 * r**2 / (1.96 + r**2),
    ("gtsam", "talwar", 1.4): lambda r: np.minimum(r**2, 1.96) / 2,
    ("barron", "linear", 1.2): lambda r: 1.44 * (r / 1.2) ** 2 / 2,
    ("barron", "pseudo_huber", 1.2): lambda r: 1.44 * barron_paper(r, 1.2, 1.0),
    ("barron", "cauchy", 1.2): lambda r: 1.44 * np.log1p((r / 1.2) ** 2 / 2),
    ("barron", "geman_mcclure", 1.2): lambda r: 1.44 * barron_paper(r, 1.2, -2.0),
    ("barron", "welsch", 1.2): lambda r: 1.44 * (1 - np.exp(-((r / 1.2) ** 2) / 2)),
    ("barron", "barron", 1.2): lambda r: 1.44 * barron_paper(r, 1.2, 1.0),
}
WEIGHTS = {
    ("matlab", "andrews", 1.3): lambda r: np.sinc(r / 1.3 / np.pi) * (abs(r) < 1.3 * np.pi),
    ("matlab", "tukey", 1.3): lambda r: (abs(r) < 1.3) * (1 - (r / 1.3) ** 2) ** 2,
    ("matlab", "cauchy", 1.3): lambda r: 1 / (1 + (r / 1.3) ** 2),
    ("matlab", "fair", 1.3): lambda r: 1 / (1 + abs(r / 1.3)),
    ("matlab", "huber", 1.3): lambda r: 1 / np.maximum(1, abs(r / 1.3)),
    ("matlab", "logistic", 1.3): lambda r: np.tanh(r / 1.3) / (r / 1.3),
    ("matlab", "linear", 1.3): np.ones_like,
    ("matlab", "talwar", 1.3): lambda r: 1.0 * (abs(r) < 1.3),
    ("matlab", "welsch", 1.3): lambda r: np.exp(-((r / 1.3) ** 2)),
    ("robustbase", "welsch", 2.11): lambda r: np.exp(-(r**2) / (2 * 2.11**2)),
    ("robustbase", "huber", 2.11): lambda r: np.minimum(1, 2.11 / abs(r)),
    ("robustbase", "tukey", 2.11): lambda r: np.maximum(1 - (r / 2.11) ** 2, 0) ** 2,
}
# Compared with tables of robustbase above.
TABULATED = {("robustbase", name) for name in ("hampel", "lqq", "optimal")}


@pytest.mark.parametrize("key", [*OBJECTIVES, *WEIGHTS], ids=lambda key: "-".join(key[:2]))
def test_constants_of_other_systems(key):
    system, name, constant = key
    loss = getattr(get_loss(name, c=1.0), f"from_{system}")(constant)
    r = np.linspace(-9, 9, 180)
    if key in OBJECTIVES:
        np.testing.assert_allclose(loss.rho(r), OBJECTIVES[key](r), rtol=1e-13)
    else:
        np.testing.assert_allclose(loss.weight(r), WEIGHTS[key](r), rtol=1e-13, atol=1e-15)


def test_every_conversion_is_compared():
    compared = {key[:2] for key in (*OBJECTIVES, *WEIGHTS)} | TABULATED
    assert compared == {(system, cls.name) for cls in LOSSES.values() for system in cls.units}


@pytest.mark.parametrize(
    ("system", "name"),
    [
        (system, name)
        for system, name in itertools.product(
            ("matlab", "robustbase", "kornia", "scipy", "gtsam"), LOSSES
        )
        if system not in LOSSES[name].units
    ],
)
def test_a_loss_that_a_system_lacks(system, name):
    known = [other for other, cls in LOSSES.items() if system in cls.units]
    with pytest.raises(ValueError, match=f"{system} has no '{name}' loss; it has") as error:
        getattr(LOSSES[name], f"from_{system}")(1.0)
    assert all(other in str(error.value) for other in known)


@pytest.mark.parametrize(
    ("alpha", "loss"),
    [
        (2.0, losses.Linear(1.0)),
        (1.0, losses.PseudoHuber(1.2)),
        (0.0, losses.Cauchy(1.2 * math.sqrt(2))),
        (-2.0, losses.GemanMcClure(2.4)),
        (-INF, Welsch(1.2 * math.sqrt(2))),
    ],
)
def test_barron_contains_the_named_losses(alpha, loss):
    member = Barron.from_barron(1.2, alpha)
    u = np.concatenate([-np.logspace(-8, 2, 60), [0.0], np.logspace(-8, 2, 60)])
    # The limits 2 and -inf are taken at 2 - 1e-15 and -1e15.
    for kind in KINDS:
        np.testing.assert_allclose(
            getattr(member, kind)(u), getattr(loss, kind)(u), rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_barron_is_continuous_where_the_formula_of_the_paper_divides_by_zero(alpha):
    u = np.logspace(-3, 2, 50)
    centre = Barron(1.0, alpha)
    for step in (1e-300, 1e-16, 1e-13, 1e-10, 1e-7):
        for near in {alpha - step, min(alpha + step, 2.0)}:
            for kind in KINDS:
                np.testing.assert_allclose(
                    getattr(Barron(1.0, near), kind)(u),
                    getattr(centre, kind)(u),
                    rtol=1e-13 + 20 * step,
                    atol=1e-13 + 20 * step,
                )


@pytest.mark.parametrize("alpha", [-7.5, -1.0, -0.1, 0.1, 0.5, 1.2, 1.9])
def test_barron_is_the_formula_of_the_paper(alpha):
    r = np.linspace(0.3, 30, 70)
    np.testing.assert_allclose(
        Barron.from_barron(0.7, alpha).rho(r), 0.49 * barron_paper(r, 0.7, alpha), rtol=1e-12
    )
