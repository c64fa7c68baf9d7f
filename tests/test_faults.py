"""What goes wrong around a fit: interrupts, errors of a callback, no memory, threads, processes."""

import importlib.util
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
import threadpoolctl
from regression_data import classic, contaminated

import robustfit as rf
from robustfit import _jit

A, B = contaminated(n=400, p=4, outliers=80)
LARGE = contaminated(n=120_000, p=5, outliers=30_000)
RNG = np.random.default_rng(0)
MANY = RNG.standard_normal((300, 40, 3)), RNG.standard_normal((300, 40))
T = np.linspace(0.0, 5.0, 200)
DECAY = 3.0 * np.exp(-1.3 * T) + 0.5 + 0.05 * RNG.standard_normal(200)


def decay(t, a, k, c):
    return a * np.exp(-k * t) + c


LONG = {
    "M": lambda: rf.irls(*LARGE, "huber").x,
    "MM": lambda: rf.irls(A, B).x,
    "MM of many rows": lambda: rf.irls(*LARGE).x,
    "tau": lambda: rf.irls(A, B, "tukey", method="tau").x,
    "least trimmed squares": lambda: rf.irls(A, B, start="lts").x,
    "a batch": lambda: rf.irls(*MANY).x,
    "bootstrap": lambda: rf.irls(A, B).bootstrap(300).cov,
    "curve_fit": lambda: rf.curve_fit(decay, T, DECAY, [1.0, 1.0, 0.0])[0],
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


# -- memory ----------------------------------------------------------------------------------

WITHOUT_MEMORY = """
import resource
import numpy as np
import robustfit as rf

rng = np.random.default_rng(0)
A = np.column_stack([np.ones(200_000), rng.standard_normal((200_000, 9))])
b = A @ np.arange(10.0) + rng.standard_normal(200_000)
expected = rf.irls(A, b).x
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
failed = 0
for spare in (0, 1, 2, 4):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare * 10**6, before[1]))
    try:
        found = rf.irls(A.copy(), b).x
    except MemoryError:
        failed += 1
    else:
        np.testing.assert_array_equal(found, expected)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
np.testing.assert_array_equal(rf.irls(A, b).x, expected)
print("failed", failed)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_without_memory_there_is_an_error_and_afterwards_the_answer():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[1]) > 0


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
