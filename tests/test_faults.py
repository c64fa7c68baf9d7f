"""What goes wrong around a fit: interrupts, errors of a callback, no memory, threads, processes."""

import contextlib
import importlib.util
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import polars as pl
import pytest
import threadpoolctl
import torch
from regression_data import classic, contaminated

import robustfit as rf
from robustfit import _jit, cli
from robustfit._kernels import in_threads
from robustfit.torch import irls as tensors

A, B = contaminated(n=400, p=4, outliers=80)
LARGE = contaminated(n=120_000, p=5, outliers=30_000)
RNG = np.random.default_rng(0)
MANY = RNG.standard_normal((300, 40, 3)), RNG.standard_normal((300, 40))
T = np.linspace(0.0, 5.0, 200)
DECAY = 3.0 * np.exp(-1.3 * T) + 0.5 + 0.05 * RNG.standard_normal(200)


def decay(t, a, k, c):
    return a * np.exp(-k * t) + c


def residuals(x):
    return DECAY - decay(T, *x)


def gradient():
    b = torch.tensor(MANY[1], requires_grad=True)
    tensors(torch.tensor(MANY[0]), b).x.sum().backward()
    return b.grad.numpy()


LONG = {
    "M": lambda: rf.irls(*LARGE, "huber").x,
    "MM": lambda: rf.irls(A, B).x,
    "MM of many rows": lambda: rf.irls(*LARGE).x,
    "tau": lambda: rf.irls(A, B, "tukey", method="tau").x,
    "least trimmed squares": lambda: rf.irls(A, B, start="lts").x,
    "a batch": lambda: rf.irls(*MANY).x,
    "bootstrap": lambda: rf.irls(A, B).bootstrap(300).cov,
    "curve_fit": lambda: rf.curve_fit(decay, T, DECAY, [1.0, 1.0, 0.0])[0],
    "least_squares": lambda: rf.least_squares(residuals, [1.0, 1.0, 0.0]).x,
    "graduated": lambda: rf.irls(*LARGE, start="gnc", scale=1.0).x,
    "SMDM": lambda: rf.irls(A, B, "tukey", method="smdm").x,
    "blocks": lambda: rf.irls(rf.rows.from_arrays(A, B, block_rows=50)).x,
    "tensors": lambda: tensors(*(torch.tensor(array) for array in MANY)).x.numpy(),
    "a gradient": gradient,
    "a scale": lambda: rf.scale.qn(LARGE[1]),
}


# -- interrupts ------------------------------------------------------------------------------


def interrupted(call, after):
    """Call under an interrupt after so many seconds; tell whether it came in time."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, after)
        call()
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    return False


def blas_threads():
    return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
@pytest.mark.filterwarnings("ignore::robustfit.BasinWarning")
@pytest.mark.parametrize("name", LONG)
def test_an_interrupt_at_any_moment_leaves_no_trace(name):
    call = LONG[name]
    expected, threads = call(), blas_threads()
    came = 0
    for after in np.geomspace(2e-4, 0.05, 6):
        came += interrupted(call, after)
        assert blas_threads() == threads
    assert came > 0
    np.testing.assert_array_equal(call(), expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_threads_stand_thousands_of_interrupts():
    busy = []

    def work(part):
        busy.append(part)
        busy.remove(part)
        return part.start

    def call():
        while True:
            in_threads(work, 4, 1, 1e9, threads=2)

    for after in RNG.uniform(2e-5, 4e-4, 2000):
        assert interrupted(call, after)
        # Nothing goes on unseen.
        assert not busy
    assert in_threads(work, 4, 1, 1e9, threads=2) == [0, 1, 2, 3]


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_an_error_of_the_callback_is_the_callers(calls):
    class Stop(Exception):
        pass

    seen = []

    def callback(now):
        seen.append(now.nit)
        if len(seen) == calls:
            raise Stop

    for data, options in ((LARGE, {"loss": "huber"}), ((A, B), {}), ((A, B), {"start": "ols"})):
        seen.clear()
        expected, threads = rf.irls(*data, **options), blas_threads()
        with pytest.raises(Stop):
            rf.irls(*data, callback=callback, **options)
        assert blas_threads() == threads
        np.testing.assert_array_equal(rf.irls(*data, **options).x, expected.x)


CALLBACKS = {
    "graduated": lambda f: rf.irls(A, B, start="gnc", scale=1.0, callback=f).x,
    "tau": lambda f: rf.irls(A, B, "tukey", method="tau", callback=f).x,
    "SMDM": lambda f: rf.irls(A, B, "tukey", method="smdm", callback=f).x,
    "blocks": lambda f: rf.irls(rf.rows.from_arrays(A, B, block_rows=50), callback=f).x,
    "several": lambda f: rf.irls(A, np.column_stack([B, -B]), callback=f).x,
    "curve_fit": lambda f: rf.curve_fit(decay, T, DECAY, [1.0, 1.0, 0.0], callback=f)[0],
    "least_squares": lambda f: rf.least_squares(residuals, [1.0, 1.0, 0.0], callback=f).x,
    "tensors": lambda f: tensors(torch.tensor(A), torch.tensor(B), callback=f).x.numpy(),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_fit_passes_on_an_error_of_the_callback(name):
    call = CALLBACKS[name]
    expected = call(lambda now: None)

    def callback(now):
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match=name):
        call(callback)
    np.testing.assert_array_equal(call(lambda now: None), expected)


def test_an_error_of_the_model_or_of_a_scale_is_the_callers():
    def broken(*_):
        raise ZeroDivisionError("theirs")

    for call in (
        lambda: rf.curve_fit(broken, T, DECAY, [1.0, 1.0]),
        lambda: rf.least_squares(broken, [1.0, 1.0]),
        lambda: rf.irls(A, B, "huber", scale=broken),
        lambda: rf.irls(rf.rows.from_blocks(broken)),
    ):
        with pytest.raises(ZeroDivisionError, match="theirs"):
            call()


# -- memory ----------------------------------------------------------------------------------

WITHOUT_MEMORY = """
import resource
import numpy as np
import robustfit as rf

rng = np.random.default_rng(0)
A = np.column_stack([np.ones(200_000), rng.standard_normal((200_000, 9))])
b = A @ np.arange(10.0) + rng.standard_normal(200_000)
stack, t = rng.standard_normal((4000, 40, 4)), rng.uniform(0.0, 4.0, 200_000)
several = np.sum(stack, axis=2) + rng.standard_normal((4000, 40))
y = 3.0 * np.exp(-t) + 0.1 * rng.standard_normal(200_000)

def decay(t, a, k):
    return a * np.exp(-k * t)

CALLS = {
    "one fit": lambda: rf.irls(A.copy(), b).x,
    "a batch": lambda: rf.irls(stack.copy(), several, "huber").x,
    "a curve": lambda: rf.curve_fit(decay, t.copy(), y, [2.0, 1.5], start="p0")[0],
}
expected = {name: call() for name, call in CALLS.items()}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
failed = 0
for name, call in CALLS.items():
    for spare in (0, 1, 2, 4):
        resource.setrlimit(resource.RLIMIT_AS, (used + spare * 10**6, before[1]))
        try:
            found = call()
        except Exception as error:
            # Of a lack of memory in a model function, MINPACK in SciPy makes an error of its own.
            assert isinstance(error, MemoryError) or "_minpack" in repr(type(error)), error
            failed += 1
        else:
            np.testing.assert_array_equal(found, expected[name])
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
    np.testing.assert_array_equal(call(), expected[name])
assert failed
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_without_memory_there_is_an_error_and_afterwards_the_answer():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# -- threads and processes -------------------------------------------------------------------

SETS = ("stackloss", "hbk", "coleman", "wood")


def fit(name):
    return rf.irls(*classic(name)).x


def test_threads_do_not_disturb_each_other():
    expected, large = {name: fit(name) for name in SETS}, rf.irls(*LARGE).x
    gate = threading.Barrier(4)

    def work(name):
        gate.wait()
        return [fit(name) for _ in range(5)], rf.irls(*LARGE).x

    with ThreadPoolExecutor(4) as pool:
        for name, (fits, x) in zip(SETS, pool.map(work, SETS), strict=True):
            assert all(np.array_equal(found, expected[name]) for found in fits)
            np.testing.assert_array_equal(x, large)


FIRST_CALLS_IN_THREADS = """
import threading
import numpy as np
import robustfit as rf

data = rf.datasets.load("stackloss")
found, gate = [], threading.Barrier(4)

def work():
    gate.wait()
    found.append(rf.irls(data.A, data.b).x)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 4
assert all(np.array_equal(x, found[0]) for x in found)
"""


def test_the_first_call_may_come_from_several_threads():
    subprocess.run([sys.executable, "-W", "error", "-c", FIRST_CALLS_IN_THREADS], check=True)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes_give_the_same_bits(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    data = classic("stackloss")
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply(rf.irls, data)
    np.testing.assert_array_equal(found.x, rf.irls(*data).x)
    np.testing.assert_array_equal(found.cov, rf.irls(*data).cov)


FORK = """
import os
import numpy as np
import robustfit as rf

rng = np.random.default_rng(0)
A = rng.standard_normal((120_000, 5))
b = A @ np.arange(5.0) + rng.standard_normal(120_000)
many = rng.standard_normal((300, 40, 3)), rng.standard_normal((300, 40))
data = rf.datasets.load("stackloss")

def fits():
    return [rf.irls(A, b).x, rf.irls(*many).x, rf.irls(data.A, data.b).x]

# Threads run in the parent, which a child does not inherit.
expected = fits()
child = os.fork()
same = all(np.array_equal(x, y) for x, y in zip(fits(), expected, strict=True))
if not child:
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not fork")
def test_a_forked_child_gives_the_same_bits():
    # Python 3.12 and later warn of threads beside a fork; there are some of NumPy's, too.
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=300)


# -- extras that are not there ---------------------------------------------------------------

WITHOUT_EXTRAS = """
import sys

EXTRAS = {"torch", "sklearn", "pandas", "polars", "matplotlib", "formulaic", "narwhals", "dask",
          "distributed", "pyarrow", "tqdm"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import numpy as np
import robustfit as rf

data = rf.datasets.load("stackloss")
fit = rf.irls(data.A, data.b)
assert fit.success and fit.summary() and fit.bootstrap(20).cov.shape == (4, 4)
assert rf.irls(data.A, np.column_stack([data.b, data.b])).success.all()
t = np.arange(20.0)
curve = rf.curve_fit(lambda t, a, k: a * np.exp(-k * t), t, np.exp(-t) + 0.01 * np.cos(9 * t))
assert curve.success

def needs(extra, call):
    try:
        call()
    except ImportError as error:
        assert any(f"pip install {to}" in str(error).replace('"', "").replace("'", "")
                   for to in (extra, f"robustfit[{extra}]")), error
    else:
        raise AssertionError(extra)

def module(name):
    return lambda: __import__(f"robustfit.{name}")

needs("torch", module("torch"))
needs("sklearn", module("sklearn"))
needs("formula", module("formula"))
needs("dask", module("dask"))
needs("plot", module("plot"))
needs("formula", lambda: rf.fit("y ~ x", {"x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 4.0]}))
needs("plot", lambda: rf.plot.diagnostics(fit))
needs("plot", lambda: curve.plot())
needs("cli", lambda: rf.irls(data.A, data.b, progress=True))
needs("dask", lambda: rf.rows.from_parquet("x.parquet", ["x"], "y"))
needs("torch", lambda: rf.curve_fit(lambda t, a: a * t, t, t, jac="torch"))
needs("scikit-learn", lambda: fit.diagnostics(method="mcd"))

from robustfit import cli
for command in (["fit", "stackloss", "stack_loss ~ ."], ["demo"]):
    try:
        code = cli.main(command)
    except SystemExit as end:
        code = end.code
    assert code not in (0, None), command
"""


def test_without_an_extra_its_front_says_what_to_install():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("pip install") == 2
    assert "Traceback" not in run.stderr


# -- data that would like to be code ---------------------------------------------------------

CODE = "__import__('pathlib').Path('executed').touch()"


def test_nothing_in_the_data_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = 30
    rng = np.random.default_rng(0)
    texts = [CODE, f"{{{CODE}}}", f"=cmd|'{CODE}'!A1", f"C({CODE})", "`x`"]
    frame = pd.DataFrame({
        "y": rng.standard_normal(n), "x": rng.standard_normal(n), CODE: rng.standard_normal(n),
        "cell": [texts[i % len(texts)] for i in range(n)],
    })  # fmt: skip
    frame.to_csv("data.csv", index=False)
    frame.to_parquet("data.parquet")
    for name in ("data.csv", "data.parquet"):
        for command in (
            ["fit", name, "y ~ .", "--loss", "huber", "--outliers"],
            ["compare", name, "y ~ x + C(cell)"],
            ["report", name, "y ~ .", "--loss", "huber", "--out", "report.html"],
        ):
            # A name of a column like this one may be refused, but it is never run.
            assert cli.main(command) in (0, 2, 3)
    for data in (frame, pl.DataFrame(frame.to_dict("list")), frame.to_dict("list")):
        with contextlib.suppress(ValueError, SyntaxError):
            rf.fit("y ~ .", data, loss="huber")
    assert rf.fit("y ~ x + cell", frame, loss="huber").success
    assert not Path("executed").exists()


class Runs:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_no_reader_unpickles(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Runs())
    objects = np.array([Runs()], dtype=object)
    for name in ("data.csv", "data.parquet", "data.tsv", "data.pkl"):
        Path(name).write_bytes(content)
        assert cli.main(["fit", name, "y ~ x"]) == 2
    np.save("data.npy", objects)
    assert cli.main(["fit", "data.npy", "y ~ x"]) == 2
    with pytest.raises(TypeError, match="A must hold real numbers"):
        rf.irls(objects[:, None], [1.0])
    with pytest.raises(ValueError, match="not a parquet file"):
        rf.irls(rf.rows.from_parquet("data.parquet", ["x"], "y"))
    assert not Path("executed").exists()


# -- the disk cache of compiled code ---------------------------------------------------------


def flipped(content):
    """Change the last byte before the digest."""
    return content[:-33] + bytes([content[-33] ^ 1]) + content[-32:]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"\x93" * len(content),
    "text": lambda content: b"I1\n.I2\n.",
    "one bit": flipped,
}
SOURCE = "def double(x):\n    return 2.0 * x\n"
BUILDS = {
    "jit": lambda f: _jit.jit(nogil=True)(f),
    "jit with a signature": lambda f: _jit.jit("f8(f8)", error_model="numpy")(f),
    "jit of floats": lambda f: _jit.jit("f4(f4)")(f),
    "vectorize": lambda f: _jit.vectorize("f8(f8)")(f),
    "cfunc": lambda f: _jit.cfunc("f8(f8)")(f).ctypes,
}


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return a function that builds `double` anew, and tells whether it had to be compiled."""
    path = tmp_path / "doubling.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("doubling", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    compiled = []
    original = numba.core.compiler.compile_extra
    monkeypatch.setattr(
        numba.core.compiler,
        "compile_extra",
        lambda *args, **options: compiled.append(1) or original(*args, **options),
    )

    def build(kind):
        compiled.clear()
        assert BUILDS[kind](module.double)(21.0) == 42.0
        return bool(compiled)

    return build


def cached(folder, *suffixes):
    return sorted(path for path in folder.rglob("*") if path.suffix in suffixes)


@pytest.mark.parametrize("suffixes", [[".nbi"], [".nbc"], [".nbi", ".nbc"]], ids="+".join)
@pytest.mark.parametrize("kind", ["jit", "vectorize"])
def test_a_damaged_cache_file_is_replaced(build, kind, suffixes, tmp_path):
    assert build(kind)
    assert not build(kind)
    for name, damage in DAMAGES.items():
        for path in cached(tmp_path, *suffixes):
            path.write_bytes(damage(path.read_bytes()))
        assert build(kind), name
        assert not build(kind), name


@pytest.mark.parametrize("kind", BUILDS)
def test_a_cache_folder_that_goes_is_no_error(build, kind, tmp_path):
    assert build(kind)
    shutil.rmtree(tmp_path / "cache")
    assert build(kind)
    assert not build(kind)


@pytest.mark.parametrize("kind", BUILDS)
def test_without_a_place_for_a_cache_there_is_none(build, kind, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    (tmp_path / "__pycache__").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file" / "cache"))
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    assert build(kind)
    assert build(kind)
    assert not cached(tmp_path, ".nbi", ".nbc")


def test_a_function_without_wrappers_runs_from_python_too(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    double = _jit.inner(nogil=True)(lambda x: 2 * x)
    assert _jit.jit(cache=False)(lambda x: double(x) + 0.5)(4.0) == 8.5
    assert double.signatures
    assert double(4.0) == 8.0
    assert double("a") == "aa"


def test_a_full_disk_is_no_error(build, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.os, "replace", full)
    assert build("jit")
    assert build("jit")


def test_the_file_of_another_signature_is_not_used(build, tmp_path):
    """Two processes that write at the same time leave an index like this one."""
    assert build("jit with a signature")
    (path,) = cached(tmp_path, ".nbc")
    other = path.read_bytes()
    shutil.rmtree(tmp_path / "cache")
    assert build("jit of floats")
    assert cached(tmp_path, ".nbc") == [path]
    path.write_bytes(other)
    assert build("jit of floats")
    assert not build("jit of floats")


PACKAGE = """
import numpy as np
import robustfit as rf
from robustfit._kernels import _loss

x, huber = np.linspace(-3.0, 5.0, 41), rf.losses.Huber()
assert _loss.pointer(huber)[0]
weight = huber.ufunc("weight")
print(weight(x, huber.c).sum(), weight(x.astype("f4"), np.float32(1.0)).sum(), rf.scale.sn(x))
"""


def run(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", PACKAGE],
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_package_stands_faults_of_its_cache(tmp_path):
    home = Path(rf.__file__).parents[1]
    expected = run(home, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    files = cached(tmp_path, ".nbi", ".nbc")
    assert len(files) > 5
    for path, damage in zip(files, itertools.cycle(DAMAGES.values())):
        path.write_bytes(damage(path.read_bytes()))
    assert run(home, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == expected


def test_the_package_works_where_nothing_can_be_written(tmp_path):
    shutil.copytree(
        Path(rf.__file__).parent,
        tmp_path / "robustfit",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for folder in [tmp_path / "robustfit", *(tmp_path / "robustfit").rglob("*/")]:
        if folder.is_dir():
            (folder / "__pycache__").touch()
    nowhere = str(tmp_path / "robustfit" / "__init__.py")
    places = ("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA")
    assert run(tmp_path, **dict.fromkeys(places, nowhere)) == run(Path(rf.__file__).parents[1])
    assert not cached(tmp_path, ".nbi", ".nbc")
