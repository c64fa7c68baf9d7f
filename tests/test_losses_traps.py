"""Traps of one formula run by three engines: caches, floating-point flags, names, imports."""

import dataclasses
import importlib
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import robustfit
from robustfit import _scalar, get_loss, losses
from robustfit.losses import LOSSES, Barron, Hampel, Loss, Tukey, Welsch
from robustfit.losses import _base as base
from robustfit.losses._base import KINDS

USER_LOSS = '''
from robustfit.losses import Loss

class Shared(Loss):
    """Half of u squared, saturating like Geman and McClure."""
    name = "shared"

    @staticmethod
    def rho1(v, m):
        return 0.5 * v * v / (1.0 + v * v)

    @staticmethod
    def weight1(v, m):
        w = 1.0 / (1.0 + v * v)
        return w * w * FACTOR

    @staticmethod
    def dpsi1(v, m):
        w = 1.0 / (1.0 + v * v)
        return w * w * (1.0 - 4.0 * v * v * w)

FACTOR = 1.0
'''


def run_python(*arguments, cwd, **environment):
    """Run another Python on this package with its own Numba cache below `cwd`."""
    package = str(Path(robustfit.__file__).parents[1])
    path = os.pathsep.join([str(cwd), package])
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=os.environ
        | {"NUMBA_CACHE_DIR": str(cwd / "cache"), "NUMBA_DEBUG_CACHE": "1", "PYTHONPATH": path}
        | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    cache = [line for line in lines if line.startswith("[cache]")]
    return [line for line in lines if line not in cache], "\n".join(cache)


# -- the cache on disk --------------------------------------------------------------------


def test_functions_cached_by_two_processes_are_loaded_by_a_third(tmp_path):
    # Numba numbers what it compiles from one in each process. Both of these get the same
    # number, and must not be taken for one another where they meet.
    for name in ("huber", "tukey"):
        code = f"from robustfit.losses import {name}_rho as f; print(float(f(3.0, 1.0)))"
        assert "data saved" in run_python("-c", code, cwd=tmp_path)[1]
    code = (
        "import sys, numba\n"
        "from robustfit.losses import huber_rho, tukey_rho\n"
        "@numba.njit\n"
        "def both(u, c):\n"
        "    return huber_rho(u, c), tukey_rho(u, c)\n"
        "print(*both(3.0, 1.0), huber_rho(3.0, 1.0), tukey_rho(3.0, 1.0), 'torch' in sys.modules)\n"
    )
    found, cache = run_python("-c", code, cwd=tmp_path)
    assert cache.count("data loaded") == 4  # two functions in two precisions
    assert "data saved" not in cache
    *values, has_torch = found[0].split()
    np.testing.assert_allclose(np.array(values, float), [2.5, 1 / 6, 2.5, 1 / 6], rtol=1e-14)
    # Trap: optional must mean optional, and torch alone takes longer to import than all else.
    assert has_torch == "False"


def test_edited_formula_is_compiled_again(tmp_path):
    module = tmp_path / "user_loss.py"
    code = (
        "from user_loss import Shared\n"
        "print(float(Shared(1.0).ufunc('weight')(1.0, 1.0)), float(Shared(1.0).weight(1.0)))\n"
    )
    module.write_text(USER_LOSS)
    assert run_python("-c", code, cwd=tmp_path)[0] == ["0.25 0.25"]
    module.write_text(USER_LOSS.replace("FACTOR = 1.0", "FACTOR = 0.5"))
    assert run_python("-c", code, cwd=tmp_path)[0] == ["0.125 0.125"]


def test_stamp_covers_every_file_that_a_compiled_loss_is_made_of(tmp_path, monkeypatch):
    sources = {}
    for kind in KINDS:
        scaled, formula = Welsch.engine(kind)
        for part in (scaled, formula):
            sources[Path(inspect.getsourcefile(part))] = None
    sources[Path(_scalar.__file__)] = None
    compiled = importlib.import_module("robustfit.losses._compiled")
    read = Path.read_bytes
    scaled, formula = Welsch.engine("weight")
    stamp = compiled.source_stamp(scaled, formula, _scalar)
    for edited in sources:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda p, e=edited: read(p) + b"#" * (p == e))
            assert compiled.source_stamp(scaled, formula, _scalar) != stamp, edited


def test_loss_defined_in_a_script_is_cached_and_in_a_notebook_is_not(tmp_path):
    use = "print(float(Shared(1.0).ufunc('weight')(1.0, 1.0)))\n"
    (tmp_path / "script.py").write_text(USER_LOSS + use)
    found, cache = run_python("script.py", cwd=tmp_path)
    assert found == ["0.25"]
    assert "data saved" in cache
    # A cell has no file, and the same cell may run twice with another formula.
    cells = (
        "cell = '''" + USER_LOSS.replace('"""', "'") + "'''\n"
        "for factor in ('1.0', '0.5'):\n"
        "    exec(compile(cell.replace('FACTOR = 1.0', 'FACTOR = ' + factor), '<cell>', 'exec'))\n"
        "    " + use
    )
    found, cache = run_python("-c", cells, cwd=tmp_path)
    assert found == ["0.25", "0.125"]
    assert "data saved" not in cache


# -- what compiled functions accept and raise ---------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_functions_raise_no_floating_point_warnings(name):
    loss = get_loss(name)
    for dtype in (np.float32, np.float64):
        ends = np.array([0.0, 1e-30, 1e-18, 1.0, loss.c, 1e9, 1e15, np.inf])
        u = np.concatenate([-ends, ends, [0.0] * 13]).astype(dtype)
        for kind in KINDS:
            evaluate = loss.ufunc(kind)
            # rho may be infinite, and an overflow is then no false alarm.
            over = "ignore" if kind == "rho" and not loss.bounded else "raise"
            with np.errstate(divide="raise", invalid="raise", over=over):
                block = evaluate(u, dtype(loss.c))
                one_by_one = [evaluate(x, dtype(loss.c)) for x in u]
            assert block.dtype == dtype
            np.testing.assert_allclose(block, one_by_one, rtol=4 * np.finfo(dtype).eps, atol=1e-37)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", LOSSES)
def test_numpy_evaluation_raises_no_warnings_at_any_value(name):
    u = np.array([0.0, 5e-324, 1e-160, 1.0, 1e155, 1.7e308, np.inf, -np.inf, np.nan])
    with np.errstate(all="warn"):
        for kind in KINDS:
            for dtype in (np.float64, np.float32):
                with np.errstate(all="ignore"):
                    values = u.astype(dtype)
                getattr(get_loss(name), kind)(values)


def test_compiled_functions_broadcast_and_keep_the_precision():
    u = np.linspace(-5, 5, 11)
    c = np.array([[1.0], [4.685]])
    both = losses.tukey_weight(u, c)
    np.testing.assert_allclose(both, [Tukey(1.0).weight(u), Tukey(4.685).weight(u)], rtol=1e-14)
    assert losses.tukey_weight(u.astype(np.float32), 4.685).dtype == np.float32
    assert losses.tukey_weight(u[::2], 1.0).shape == (6,)
    assert losses.tukey_weight([0, 1], 4.685).dtype == np.float64
    assert losses.tukey_weight(np.zeros((0, 2)), 1.0).shape == (0, 2)
    out = np.empty(11)
    assert losses.tukey_weight(u, 1.0, out=out) is out
    for wrong in (1j, np.array([None]), "1"):
        with pytest.raises(TypeError):
            losses.tukey_weight(wrong, 1.0)


def test_compiled_functions_are_one_object_per_formula():
    assert losses.tukey_rho is losses.tukey_rho
    assert losses.tukey_rho is Tukey(3.0).ufunc("rho")
    hampel = Hampel(1.0, 2.0, 4.0, 8.0)
    assert hampel.ufunc("rho") is Hampel(5.0, 2.0, 4.0, 8.0).ufunc("rho")
    assert hampel.ufunc("rho") is not losses.hampel_rho
    assert losses.barron_rho(1.0, 1.0) == pytest.approx(np.sqrt(2.0) - 1.0)
    assert hampel.ufunc("rho")(3.0, 1.0) == pytest.approx(4.0)


def test_compiled_functions_can_be_called_in_compiled_code():
    rho, weight = losses.welsch_rho, losses.welsch_weight

    @numba.njit
    def scalar_loop(u, c):
        total = 0.0
        for x in u:
            total += rho(x, c) + weight(x, c)
        return total

    @numba.njit
    def whole_array(u, c):
        return (rho(u, c) + weight(u, c)).sum()

    loss = Welsch(2.0)
    for dtype in (np.float64, np.float32):
        u = np.linspace(-4, 4, 33).astype(dtype)
        expected = (loss.rho(u) + loss.weight(u)).sum()
        assert scalar_loop(u, dtype(2.0)) == pytest.approx(expected, rel=1e-6)
        assert whole_array(u, dtype(2.0)) == pytest.approx(expected, rel=1e-6)


def test_scalar_namespace_has_the_names_of_numpy():
    # Trap: numba turns np.where on scalars into a zero-dimensional array.
    public = [
        name
        for name, value in vars(_scalar).items()
        if inspect.isfunction(value)
        and value.__module__ == _scalar.__name__
        and not name.startswith("_")
    ]
    assert "where" in public
    arguments = {"where": (True, 2.0, 3.0), "minimum": (2.0, 3.0), "maximum": (2.0, 3.0)}
    for name in public:
        values = arguments.get(name, (0.375,))
        assert float(getattr(_scalar, name)(*values)) == pytest.approx(
            float(getattr(np, name)(*values)), rel=1e-15
        )
    nan = float("nan")
    assert np.isnan([_scalar.minimum(nan, 1.0), _scalar.maximum(nan, 1.0)]).all()


# -- names --------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """Undo whatever a test registers."""
    monkeypatch.setattr(base, "LOSSES", registered := dict(LOSSES))
    monkeypatch.setattr(base, "_ALIASES", aliases := dict(base._ALIASES))
    return registered, aliases


def parts(**names):
    formulas = {kind: staticmethod(Tukey.__dict__[kind].__func__) for kind in ("rho1", "weight1")}
    return formulas | {"dpsi1": staticmethod(Tukey.dpsi1), "knots": (1.0,)} | names


def test_registered_subclass_is_known_by_name_and_alias(registry):
    cls = type("Mine", (Loss,), parts(name="mine", aliases=("my_own",)))
    assert get_loss("mine") == get_loss("my_own") == cls()
    assert get_loss("mine").c == pytest.approx(Tukey().c, rel=1e-14)
    np.testing.assert_array_equal(cls(2.0).ufunc("rho")([0.5, 3.0], 2.0), cls(2.0).rho([0.5, 3.0]))
    # A notebook cell run again replaces its own class.
    again = type("Mine", (Loss,), parts(name="mine", aliases=("my_own",)))
    assert type(get_loss("mine")) is again


@pytest.mark.parametrize(
    "names",
    [{"name": "tukey"}, {"name": "bisquare"}, {"name": "mine", "aliases": ("other", "welsh")}],
)
def test_name_that_is_taken_is_refused_and_leaves_no_trace(registry, names):
    before = dict(registry[0]), dict(registry[1])
    with pytest.raises(ValueError, match="already belongs to"):
        type("Mine", (Loss,), parts(**names))
    assert registry == before


def test_class_of_the_same_name_from_another_module_is_refused(registry):
    type("Mine", (Loss,), parts(name="mine", __module__="first"))
    with pytest.raises(ValueError, match=r"the name 'mine' of .*second.* belongs to .*first"):
        type("Mine", (Loss,), parts(name="mine", __module__="second"))


def test_unnamed_subclass_is_a_loss_without_being_registered(registry):
    cls = type("Quiet", (Loss,), parts())
    assert registry[0] == LOSSES
    assert cls().c == pytest.approx(Tukey().c, rel=1e-14)
    assert get_loss(cls, efficiency=0.85).c == pytest.approx(3.4436897847276797, rel=1e-12)


# Used by pickle, which needs a name that can be imported.
@dataclasses.dataclass(frozen=True, repr=False)
class Powered(Loss):
    """A loss of one's own with a shape parameter."""

    p: float = 2.0

    rho1 = staticmethod(lambda v, m, p: 0.5 * v * v)
    weight1 = staticmethod(lambda v, m, p: 1.0 / (1.0 + m.abs(v) ** p))
    dpsi1 = staticmethod(lambda v, m, p: 1.0 + 0.0 * v)


def test_shape_parameter_of_a_user_loss_reaches_the_formulas():
    loss = Powered(1.5, 3.0)
    assert loss.shape == (3.0,)
    assert loss.weight(3.0) == pytest.approx(1.0 / 9.0)
    assert loss.ufunc("weight")(3.0, 1.5) == pytest.approx(1.0 / 9.0)
    assert repr(loss) == "Powered(c=1.5, p=3.0)"
    assert loss == Powered(1.5, 3) != Powered(1.5, 2.0)


# -- torch --------------------------------------------------------------------------------


def test_torch_constants_do_not_fall_back_to_single_precision():
    # Trap: torch.where(condition, 1.0, 0.0) is float32 whatever the input.
    torch = pytest.importorskip("torch")
    u = torch.tensor([0.3, -2.0, 50.0], dtype=torch.float64)
    for name in LOSSES:
        loss = get_loss(name)
        for kind in KINDS:
            value = getattr(loss, kind)(u)
            assert value.dtype == torch.float64
            np.testing.assert_allclose(
                value, getattr(loss, kind)(u.numpy()), rtol=1e-13, atol=1e-15
            )


def test_torch_transforms_see_through_the_formulas():
    torch = pytest.importorskip("torch")
    u = torch.linspace(-4, 4, 9, dtype=torch.float64) + 0.013
    for loss in (Welsch(), Tukey(), Barron(1.0, -0.5), get_loss("cauchy")):
        torch.testing.assert_close(torch.vmap(loss.rho)(u), loss.rho(u))
        torch.testing.assert_close(torch.vmap(torch.func.grad(loss.rho))(u), loss.psi(u))


def test_torch_leaves_the_gradient_graph_alone():
    torch = pytest.importorskip("torch")
    u = torch.tensor([0.5, 2.0], requires_grad=True)
    assert Welsch().rho(u).requires_grad
    assert not Welsch().rho(u.detach()).requires_grad
    with torch.no_grad():
        assert not Welsch().rho(u).requires_grad


def test_pickled_loss_is_small_and_holds_no_compiled_code():
    loss = Welsch(2.0)
    loss.ufunc("rho")
    assert len(pickle.dumps(loss)) < 200
