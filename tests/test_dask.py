"""Dask arrays and data frames: the same answers, and what happens when something fails."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from rows_data import CHUNKINGS, ESTIMATORS, N, assert_same, problem

import robustfit as rf
from robustfit._kernels import Sums

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
front = pytest.importorskip("robustfit.dask")

# Of the name resolution of a machine without a network, and of closing sockets late.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CHUNKS = {name: tuple(c for c in chunks) for name, chunks in CHUNKINGS.items()}


@pytest.fixture(scope="module")
def in_memory():
    A, b = problem()
    return {name: rf.irls(A, b, **options) for name, options in ESTIMATORS.items()}


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def threads(request):
    """Use threads where a test does not ask for a cluster; one may be there already."""
    cluster = "client" in request.fixturenames or request.node.get_closest_marker("cluster")
    with dask.config.set({} if cluster else {"scheduler": "threads"}):
        yield


def lazy(chunks=(40, 40, 40, 40)):
    A, b = problem()
    return da.from_array(A, chunks=(chunks, (2, 1))), da.from_array(b, chunks=(chunks,))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=list(CHUNKS))
def test_threads_give_the_answer_of_memory(name, chunks, in_memory):
    if len(chunks) == N and name != "mm":
        chunks = (*chunks[:20], N - 20)
    assert_same(rf.irls(*lazy(chunks), **ESTIMATORS[name]), in_memory[name])


@pytest.mark.parametrize("name", ["mm", "mad", "huber scale"])
def test_processes_give_the_answer_of_memory(name, in_memory, client):
    A, b = lazy((3, 97, 0, 60))
    A, b = client.persist([A, b]) if name == "mm" else (A, b)
    assert_same(rf.irls(A, b, **ESTIMATORS[name]), in_memory[name])


def test_results_are_dask_arrays_aligned_with_the_input():
    A, b = problem()
    fit, expected = rf.irls(*lazy((3, 97, 0, 60))), rf.irls(A, b)
    for name in ("weights", "resid", "fittedvalues", "leverage"):
        values = getattr(fit, name)
        assert isinstance(values, da.Array)
        assert values.chunks == ((3, 97, 0, 60),)
        np.testing.assert_allclose(values.compute(), getattr(expected, name), atol=1e-9)
    assert (lazy((3, 97, 0, 60))[1] - fit.resid).sum().compute() == pytest.approx(
        np.sum(A @ expected.x)
    )
    np.testing.assert_array_equal(fit.outliers(), expected.outliers())
    assert fit.summary().splitlines()[-3:] == expected.summary().splitlines()[-3:]


def test_weights_and_mixed_arguments():
    A, b = problem()
    freq = np.arange(N) % 3.0
    lazy_A, lazy_b = lazy()
    expected = rf.irls(A, b, freq_weights=freq)
    assert_same(rf.irls(lazy_A, b, freq_weights=freq), expected)
    assert_same(rf.irls(A, lazy_b, freq_weights=freq), expected)
    assert_same(rf.irls(lazy_A, lazy_b.rechunk(33)[:, None], freq_weights=freq), expected)


def test_data_frames_give_names_to_the_coefficients(in_memory):
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    A, b = problem()
    table = pd.DataFrame({"one": A[:, 0], "x": A[:, 1], "z": A[:, 2], "y": b})
    frame = dd.from_pandas(table, npartitions=3)
    fit = rf.irls(frame[["one", "x", "z"]], frame["y"])
    assert fit.names == ("one", "x", "z")
    assert_same(fit, in_memory["mm"])
    assert fit.resid.shape == (N,)


def test_the_regressor_of_sklearn_takes_dask_arrays_and_frames():
    sklearn = pytest.importorskip("robustfit.sklearn")
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    A, b = problem()
    lazy_A, lazy_b = lazy()
    frame = dd.from_pandas(pd.DataFrame(A[:, 1:], columns=["x", "z"]), npartitions=3)
    counts = np.arange(len(b)) % 3
    for X, y, weights, options in (
        (lazy_A[:, 1:], lazy_b, None, {}),
        (frame, lazy_b[:, None], None, {}),
        (lazy_A[:, 1:], lazy_b, da.from_array(counts, chunks=50), {"loss": "huber"}),
        (lazy_A[:, 1:], lazy_b, counts, {"fit_intercept": False}),
    ):
        repeats = None if weights is None else counts
        expected = sklearn.RobustRegressor(**options).fit(A[:, 1:], b, repeats)
        model = sklearn.RobustRegressor(**options).fit(X, y, weights)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-10)
        assert model.intercept_ == pytest.approx(expected.intercept_, rel=1e-10)
        assert model.scale_ == pytest.approx(expected.scale_, rel=1e-10)
        assert model.n_features_in_ == 2
        for values in (model.weights_, model.outliers_, model.predict(X)):
            assert isinstance(values, da.Array)
        np.testing.assert_array_equal(model.outliers_.compute(), expected.outliers_)
        np.testing.assert_allclose(model.predict(X), expected.predict(A[:, 1:]), rtol=1e-9)


def test_the_regressor_of_sklearn_checks_the_columns_of_dask_frames():
    sklearn = pytest.importorskip("robustfit.sklearn")
    pd, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    A, _ = problem()
    lazy_A, lazy_b = lazy()
    frame = dd.from_pandas(pd.DataFrame(A[:, 1:], columns=["x", "z"]), npartitions=3)
    model = sklearn.RobustRegressor("huber").fit(frame, lazy_b)
    assert list(model.feature_names_in_) == ["x", "z"]
    assert model.result_.names == ("Intercept", "x", "z")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["z", "x"]])
    near = model.predict(pd.DataFrame(A[:5, 1:], columns=["x", "z"]))
    np.testing.assert_allclose(near, model.predict(frame).compute()[:5], rtol=1e-12)
    model.fit(lazy_A[:, 1:], lazy_b)
    assert not hasattr(model, "feature_names_in_")
    with pytest.raises(ValueError, match="X has 3 features"):
        model.predict(lazy_A)
    for given, message in (
        ((lazy_A, da.stack([lazy_b, lazy_b], axis=1)), "y must have one column"),
        ((lazy_A, None), "requires y"),
        ((lazy_A, lazy_b, np.ones(3)), "sample_weight must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*given)
    with pytest.raises(ValueError, match="ridge must be 0"):
        sklearn.RobustRegressor(ridge=1.0).fit(lazy_A, lazy_b)


def test_wrong_shapes_and_blocks_are_named():
    A, b = lazy()
    with pytest.raises(ValueError, match="b must have shape"):
        rf.irls(A, b[1:])
    with pytest.raises(ValueError, match="A must be 2-dimensional"):
        rf.irls(b, b)
    spoilt = da.concatenate([A[:80], np.nan * A[80:]])
    with pytest.raises(ValueError, match="the first is row 0 of block 2"):
        rf.irls(spoilt, b)
    narrow = da.concatenate(
        [
            A[:80].rechunk((40, 3)),
            A[80:].rechunk((40, 3)).map_blocks(lambda x: x[:, :2], dtype=float),
        ]
    )
    with pytest.raises(ValueError, match="block 2 has 2 columns"):
        rf.irls(narrow, b)


# -- failures ----------------------------------------------------------------------------------


@pytest.fixture
def during_pass_three(monkeypatch):
    """Call a function while the third pass over the rows is under way."""

    def arrange(act):
        plain = front.DaskRows.fold

        def fold(self, *args, merge):
            if self.passes == 2:
                threading.Timer(0.2, act).start()
            return plain(self, *args, merge=merge)

        monkeypatch.setattr(front.DaskRows, "fold", fold)

    return arrange


def slowed(A, seconds=0.1):
    def wait(block):
        time.sleep(seconds)
        return block

    return A.map_blocks(wait, dtype=float, meta=np.empty((0, 0)))


@pytest.mark.cluster
def test_a_killed_worker_costs_a_retry_and_not_the_answer(during_pass_three, in_memory):
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        killed = []

        def kill():
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

        during_pass_three(kill)
        A, b = lazy()
        fit = rf.irls(slowed(A), b, loss="huber", scale=1.5)
        assert killed
        assert pids[0] not in client.run(os.getpid).values()
    A, b = problem()
    assert_same(fit, rf.irls(A, b, loss="huber", scale=1.5))


def test_an_interrupt_cancels_what_is_outstanding(client, during_pass_three):
    during_pass_three(lambda: signal.raise_signal(signal.SIGINT))
    A, b = lazy((8,) * 20)
    with pytest.raises(KeyboardInterrupt):
        rf.irls(slowed(A), b)
    deadline = time.monotonic() + 10.0
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lost_scheduler_is_named(monkeypatch):
    def lost(self):
        raise distributed.client.FutureCancelledError("key", "scheduler-connection-lost")

    monkeypatch.setattr(front.Delayed, "compute", lost)
    with pytest.raises(ConnectionError, match="scheduler was lost during pass 1"):
        rf.irls(*lazy())


def test_what_travels_is_the_square_of_the_number_of_coefficients(monkeypatch):
    sizes = []
    plain = front._run

    def run(*args):
        found = plain(*args)
        if isinstance(found, Sums):
            sizes.append(len(pickle.dumps(found)))
        return found

    monkeypatch.setattr(front, "_run", run)
    measured = {}
    for n, p in ((400, 5), (8000, 5), (400, 20)):
        rng = np.random.default_rng(0)
        A, b = rng.standard_normal((n, p)), rng.standard_normal(n)
        sizes.clear()
        with dask.config.set(scheduler="synchronous"):
            rf.irls(da.from_array(A, chunks=(n // 4, p)), b, loss="huber", scale=1.0)
        measured[n, p] = max(sizes)
    assert measured[400, 5] == measured[8000, 5]
    assert measured[400, 20] - measured[400, 5] == pytest.approx(8 * (20**2 - 5**2), rel=0.1)
