"""Rows read in blocks: the same answers as in memory, for every source and every chunking."""

import pickle
import warnings

import numpy as np
import pytest
from regression_data import with_far_rows
from rows_data import CHUNKINGS, ESTIMATORS, assert_same, cut, problem

import robustfit as rf
from robustfit import rows
from robustfit.result import Status


def memory_mapped(tmp_path, array, name, **options):
    array.tofile(tmp_path / name)
    return np.memmap(tmp_path / name, array.dtype, "r", shape=array.shape, **options)


@pytest.fixture(scope="module")
def in_memory():
    A, b = problem()
    return {name: rf.irls(A, b, **options) for name, options in ESTIMATORS.items()}


# -- the same answers --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("chunks", CHUNKINGS.values(), ids=list(CHUNKINGS))
def test_blocks_of_any_size_give_the_answer_of_all_rows_at_once(name, chunks, in_memory):
    A, b = problem()
    fit = rf.irls(rows.from_blocks(cut(A, b, chunks=chunks)), **ESTIMATORS[name])
    assert_same(fit, in_memory[name])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_mapped_files_give_the_answer_of_memory(name, in_memory, tmp_path):
    A, b = problem()
    source = rows.from_arrays(
        memory_mapped(tmp_path, A, "A"), memory_mapped(tmp_path, b, "b"), block_rows=67
    )
    assert_same(rf.irls(source, **ESTIMATORS[name]), in_memory[name])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parquet_gives_the_answer_of_memory(name, in_memory, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    A, b = problem()
    table = pa.table({"z": A[:, 1], "y": b, "x": A[:, 2], "text": ["a"] * len(b)})
    for k, part in enumerate([table.slice(0, 100), table.slice(100)]):
        pq.write_table(part, tmp_path / f"{k}.parquet", row_group_size=70)
    source = rows.from_parquet(tmp_path, ["z", "x"], "y", intercept=True, block_rows=64)
    fit = rf.irls(source, **ESTIMATORS[name])
    assert fit.names == ("Intercept", "z", "x")
    assert_same(fit, in_memory[name])
    assert_same(rf.irls(rows.from_parquet(table, ["z", "x"], "y", intercept=True)), in_memory["mm"])


@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"loss": "huber", "scale": "huber"}])
def test_weights_of_rows_count_as_in_memory(options):
    A, b = problem()
    rng = np.random.default_rng(3)
    freq, var = rng.integers(0, 4, len(b)).astype(float), rng.uniform(0.5, 2.0, len(b))
    expected = rf.irls(A, b, freq_weights=freq, var_weights=var, **options)
    blocks = cut(A, b, freq, var, chunks=CHUNKINGS["uneven"])
    assert_same(rf.irls(rows.from_blocks(blocks), **options), expected)
    source = rows.from_arrays(A, b, freq_weights=freq, var_weights=var, block_rows=50)
    assert_same(rf.irls(source, **options), expected)


@pytest.mark.parametrize("cov_type", ["H1", "H2", "H3", "huber", "avar1", "w", "HC"])
def test_every_covariance_is_that_of_memory(cov_type):
    A, b = problem()
    fit = rf.irls(rows.from_arrays(A, b, block_rows=61), cov_type=cov_type)
    np.testing.assert_allclose(fit.cov, rf.irls(A, b, cov_type=cov_type).cov, rtol=1e-9)


def test_what_a_result_tells_is_what_it_tells_in_memory():
    A, b = problem()
    fit, expected = rf.irls(rows.from_arrays(A, b, block_rows=61)), rf.irls(A, b)
    for name in ("weights", "resid", "fittedvalues", "standardised", "leverage"):
        lazy = getattr(fit, name)
        assert len(lazy) == len(b)
        np.testing.assert_allclose(lazy, getattr(expected, name), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(np.concatenate(list(lazy.blocks())), np.asarray(lazy))
    for name in ("cost", "rsquared", "rsquared_adj", "nobs", "df_resid", "df_t"):
        assert getattr(fit, name) == pytest.approx(getattr(expected, name), rel=1e-10)
    np.testing.assert_array_equal(fit.outliers(), expected.outliers())
    np.testing.assert_array_equal(fit.outliers(0.5), expected.outliers(0.5))
    assert fit.search.scale == pytest.approx(expected.search.scale, rel=1e-10)
    np.testing.assert_allclose(fit.conf_int(), expected.conf_int(), rtol=1e-9)
    np.testing.assert_allclose(fit.predict(A[:3]), expected.predict(A[:3]), rtol=1e-10)
    assert fit.wald_test([0.0, 1.0, 0.0])["pvalue"] == pytest.approx(
        expected.wald_test([0.0, 1.0, 0.0])["pvalue"], rel=1e-8
    )
    assert fit.summary().splitlines()[-3:] == expected.summary().splitlines()[-3:]
    assert set(expected.to_dict()) - set(fit.to_dict()) == {"weights", "resid"}
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.resid, fit.resid)


def test_many_rows_are_sampled_and_the_answer_is_that_of_all():
    rng = np.random.default_rng(5)
    n, p = 120_000, 5
    A = np.column_stack([np.ones(n), rng.standard_normal((n, p - 1))])
    # A column that is zero but for a few rows, which a sample would miss.
    A[:, 4] = 0.0
    A[rng.choice(n, 40, replace=False), 4] = 1.0
    b = A @ np.arange(1.0, p + 1.0) + rng.standard_normal(n)
    b[: n // 5] += 30.0
    expected = rf.irls(A, b)
    for size in (n, 50_000, 9_999):
        fit = rf.irls(rows.from_arrays(A, b, block_rows=size))
        assert_same(fit, expected)
    found = rf.irls(rows.from_arrays(A, b, block_rows=9_999), loss="huber")
    assert_same(found, rf.irls(A, b, loss="huber"))


def test_median_is_exact_for_ties_and_for_an_even_count():
    A = np.ones((1000, 1))
    b = np.repeat([0.0, 1.0, 2.0, 5.0], 250)
    options = {"loss": "huber", "start": [0.0], "maxiter": 0}
    with pytest.warns(rf.ConvergenceWarning):
        fit = rf.irls(rows.from_arrays(A, b, block_rows=7), **options)
    with pytest.warns(rf.ConvergenceWarning):
        expected = rf.irls(A, b, **options)
    assert fit.scale == expected.scale


@pytest.mark.parametrize(
    "options",
    [
        {"bounds": (-1.5, 2.5)},
        {"bounds": ([-np.inf, -1.0, 0.0], np.inf), "loss": "huber", "scale": "huber"},
        {"bounds": (0.0, 2.0), "loss": "linear"},
        {"start": "lad", "loss": "tukey"},
        {"start": "lts", "scale": "mad"},
        {"ridge": 3.0, "loss": "huber"},
    ],
)
def test_starts_and_constraints(options):
    A, b = problem()
    for chunks in (CHUNKINGS["uneven"], CHUNKINGS["single rows"]):
        fit = rf.irls(rows.from_blocks(cut(A, b, chunks=chunks)), **options)
        assert_same(fit, rf.irls(A, b, **options))


@pytest.mark.parametrize("loss", ["welsch", "tukey"])
def test_the_guard_decides_as_in_memory(loss):
    data = rf.datasets.load("starsCYG")
    fit = rf.irls(rows.from_arrays(data.A, data.b, block_rows=5), loss=loss)
    expected = rf.irls(data.A, data.b, loss=loss)
    assert fit.status is expected.status
    assert fit.message == expected.message
    assert_same(fit, expected)


@pytest.mark.parametrize("n", [100, 12_000])
def test_two_halves_have_no_majority(n):
    rng = np.random.default_rng(3)
    t = rng.uniform(0.0, 10.0, n)
    b = np.where(np.arange(n) < n // 2, 20.0 - t, 1.0 + 3.0 * t) + 0.2 * rng.standard_normal(n)
    with pytest.warns(rf.BasinWarning, match="another fit") as caught:
        fit = rf.irls(rows.from_arrays(np.column_stack([np.ones(n), t]), b, block_rows=n // 3))
    assert fit.status is Status.NO_MAJORITY
    assert not fit.success
    assert caught[0].filename == __file__


@pytest.mark.parametrize("shift", [0.0, 14.0])
@pytest.mark.parametrize("kind", ["plain", "weights", "dependent", "missing"])
def test_far_rows_are_judged_as_in_memory(shift, kind):
    A, b, _ = with_far_rows(shift=shift)
    weights, options = {}, {}
    if kind == "weights":
        spread = np.exp(np.sin(np.arange(200.0)))
        A, b = A * spread[:, None], b * spread
        weights = {"freq_weights": np.arange(200) % 3 + 1, "var_weights": spread**-2}
    elif kind == "dependent":
        A = np.column_stack([A, A[:, 1] + A[:, 2]])
    elif kind == "missing":
        b[3], options = np.nan, {"nan_policy": "omit"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = rf.irls(A, b, **weights, **options)
        fit = rf.irls(rows.from_arrays(A, b, **weights, block_rows=33), **options)
    assert expected.success is (shift == 0.0)
    assert fit.message == expected.message
    assert_same(fit, expected)
    for one, other in zip(fit.alternatives, expected.alternatives, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=1e-9)


def test_exact_fit():
    A, b = problem()
    b = A @ [1.0, 2.0, 3.0]
    b[:60] += 17.0
    fit, expected = rf.irls(rows.from_arrays(A, b, block_rows=33)), rf.irls(A, b)
    assert fit.status is expected.status is Status.EXACT_FIT
    np.testing.assert_allclose(fit.x, [1.0, 2.0, 3.0], rtol=1e-13)
    np.testing.assert_array_equal(fit.weights, expected.weights)
    assert fit.scale == 0.0
    huber = rf.irls(rows.from_arrays(A, A @ [1.0, 2.0, 3.0], block_rows=33), loss="huber")
    assert huber.status is Status.EXACT_FIT


@pytest.mark.parametrize("loss", ["welsch", "huber"])
def test_dependent_columns_give_the_fit_of_minimum_norm(loss):
    A, b = problem()
    A = np.column_stack([A, A[:, 1] + A[:, 2]])
    with pytest.warns(rf.RankWarning):
        fit = rf.irls(rows.from_arrays(A, b, block_rows=33), loss=loss)
    with pytest.warns(rf.RankWarning):
        expected = rf.irls(A, b, loss=loss)
    assert fit.rank == 3
    assert_same(fit, expected)
    np.testing.assert_allclose(fit.weights, expected.weights, atol=1e-9)


def test_nearly_dependent_columns_go_through_qr():
    A, b = problem()
    A = np.column_stack([A, A[:, 1] + 1e-8 * np.cos(np.arange(len(b)))])
    fit = rf.irls(rows.from_arrays(A, b, block_rows=33), loss="huber", scale=1.0)
    expected = rf.irls(A, b, loss="huber", scale=1.0)
    np.testing.assert_allclose(A @ fit.x, A @ expected.x, atol=1e-6)


@pytest.mark.parametrize("factor", [2.0**-400, 2.0**300])
def test_units_of_the_response_do_not_matter(factor):
    A, b = problem()
    fit = rf.irls(rows.from_arrays(A, b, block_rows=64))
    moved = rf.irls(rows.from_arrays(A, b * factor, block_rows=64))
    np.testing.assert_array_equal(moved.x, fit.x * factor)


def test_columns_of_extreme_size():
    A, b = problem()
    fit = rf.irls(rows.from_arrays(A, b, block_rows=64))
    moved = rf.irls(rows.from_arrays(A * [1.0, 2.0**-500, 2.0**500], b, block_rows=64))
    np.testing.assert_allclose(moved.x, fit.x * [1.0, 2.0**500, 2.0**-500], rtol=1e-12)


# -- sources -----------------------------------------------------------------------------------


def test_a_function_that_makes_blocks_is_called_for_each_pass():
    A, b = problem()
    calls = []

    def blocks():
        calls.append(1)
        for low in range(0, len(b), 40):
            yield A[low : low + 40], b[low : low + 40]

    fit = rf.irls(rows.from_blocks(blocks), loss="huber", names=["one", "two", "three"])
    assert_same(fit, rf.irls(A, b, loss="huber"))
    assert fit.names == ("one", "two", "three")
    assert len(calls) > 5


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_arrays_of_other_types_and_layouts(order, dtype):
    A, b = problem()
    A, b = np.asarray(np.round(4.0 * A), dtype, order=order), np.round(4.0 * b).astype(dtype)
    A.setflags(write=False)
    assert_same(rf.irls(rows.from_arrays(A, b, block_rows=33)), rf.irls(A, b))


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_parts_of_mapped_files(mode, tmp_path):
    A, b = problem()
    padded = np.column_stack([b, A])
    np.save(tmp_path / "all.npy", padded)
    mapped = np.load(tmp_path / "all.npy", mmap_mode=mode)
    if mode != "r":
        # Changes count, whether they reach the file or not.
        mapped[7, 0] += 100.0
        padded[7, 0] += 100.0
    expected = rf.irls(padded[5:, 1:], padded[5:, 0], loss="huber")
    source = rows.from_arrays(mapped[5:, 1:], mapped[5:, 0], block_rows=33)
    assert_same(rf.irls(source, loss="huber"), expected)
    whole = rows.from_arrays(mapped[5:], mapped[5:, 0], block_rows=33)
    design = next(whole.blocks()).A
    np.testing.assert_array_equal(design, padded[5:38])


def test_large_mapped_files_are_read_in_blocks(tmp_path, monkeypatch):
    A, b = problem()
    mapped = memory_mapped(tmp_path, A, "A")
    assert isinstance(rf.irls(mapped, b).resid, np.ndarray)
    monkeypatch.setattr(rows, "_memory", lambda: 8 * A.nbytes - 8)
    fit = rf.irls(mapped, b)
    assert not isinstance(fit.resid, np.ndarray)
    assert_same(fit, rf.irls(A, b))
    with pytest.raises(ValueError, match="leverage must be False"):
        rf.irls(mapped, b, leverage=True)


def test_block_size_follows_memory_and_can_be_set(monkeypatch):
    A = np.ones((100_000, 10))
    number = [
        len(list(rows.from_arrays(A, A[:, 0], **o).blocks())) for o in ({}, {"block_rows": 7})
    ]
    assert number == [3, 14286]
    monkeypatch.setattr(rows, "_memory", lambda: 1 << 20)
    assert len(list(rows.from_arrays(A, A[:, 0]).blocks())) > 100


# -- refused -----------------------------------------------------------------------------------


def test_a_block_with_nan_is_named():
    A, b = problem()
    A[101, 2] = np.nan
    with pytest.raises(ValueError, match=r"the first is row 1 of block 2"):
        rf.irls(rows.from_arrays(A, b, block_rows=50))
    fit = rf.irls(rows.from_arrays(A, b, block_rows=50), nan_policy="omit")
    expected = rf.irls(A, b, nan_policy="omit")
    assert_same(fit, expected)
    np.testing.assert_allclose(fit.weights, expected.weights, atol=1e-9, equal_nan=True)
    np.testing.assert_array_equal(fit.outliers(0.9), expected.outliers(0.9))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([(np.ones((3, 2)), np.ones(3)), (np.ones((3, 1)), np.ones(3))], "block 1 has 1 columns"),
        ([(np.ones((3, 2)), np.ones(3)), (np.ones(3), np.ones(3))], "A of block 1 must be 2-dim"),
        ([(np.ones((3, 2)), np.ones(4))], "b of block 0 must have shape"),
        ([(np.ones((3, 2)), np.ones(3), -np.ones(3))], "freq_weights must not be negative"),
        ([(np.ones((3, 2)), np.ones(3), None, np.zeros(3))], "positive weight"),
        ([(np.zeros((3, 2)), np.ones(3))], "not zero"),
        ([(np.ones((3, 0)), np.ones(3))], "at least a column"),
        ([(np.ones((0, 2)), np.ones(0))], "positive weight"),
        ([], "at least a block"),
        ([(np.full((3, 2), "a"), np.ones(3))], "A of block 0"),
        ([np.ones((3, 2))], "block 0 must be a tuple"),
    ],
)
def test_blocks_that_cannot_be_fitted(blocks, message):
    with pytest.raises((ValueError, TypeError), match=message):
        rf.irls(rows.from_blocks(blocks))


@pytest.mark.parametrize(
    "options",
    [
        {"leverage": True},
        {"scale": "d"},
        {"scale": "matlab"},
        {"scale": lambda r: 1.0},
        {"scale": "tau"},
        {"method": "tau"},
        {"groups": [1, 2]},
        {"cov_type": "cluster"},
    ],
)
def test_options_that_need_all_rows_in_memory(options):
    A, b = problem()
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        rf.irls(rows.from_arrays(A, b), **options)


def test_wrong_arguments():
    A, b = problem()
    source = rows.from_arrays(A, b)
    with pytest.raises(TypeError, match="b is part of the Rows"):
        rf.irls(source, b)
    with pytest.raises(TypeError, match="b must be given"):
        rf.irls(A)
    with pytest.raises(TypeError, match="read several times"):
        rows.from_blocks(block for block in [(A, b)])
    with pytest.raises(ValueError, match="2-dimensional"):
        rows.from_arrays(b, b)
    with pytest.raises(ValueError, match="b must have shape"):
        rows.from_arrays(A, b[1:])
    with pytest.raises(ValueError, match="block_rows"):
        rows.from_arrays(A, b, block_rows=0)
    with pytest.raises(ValueError, match="nan_policy"):
        rf.irls(source, nan_policy="drop")
    fit = rf.irls(source)
    for call in (fit.bootstrap, fit.diagnostics, fit.to_matlab, fit.compare_start):
        with pytest.raises(TypeError, match="in memory"):
            call()
    with pytest.raises(TypeError, match="in memory"):
        _ = fit.model_matrix


def test_wrong_columns_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, None], "name": ["a", "b"]})
    with pytest.raises(ValueError, match="z must be among the columns x, y, name"):
        rows.from_parquet(table, ["z"], "y")
    with pytest.raises(TypeError, match="sequence of names"):
        rows.from_parquet(table, "x", "y")
    with pytest.raises(ValueError, match="the first is row 1 of block 0"):
        rf.irls(rows.from_parquet(table, ["x"], "y"))
    with pytest.raises(TypeError, match="name must hold numbers"):
        rf.irls(rows.from_parquet(table, ["name"], "y"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_reading_ends_the_fit_and_leaves_nothing_behind(error):
    A, b = problem()
    passes = []

    def blocks():
        passes.append(1)
        yield A[:100], b[:100]
        if len(passes) == 3:
            raise error("the disk is gone")
        yield A[100:], b[100:]

    with pytest.raises(error, match="the disk is gone"):
        rf.irls(rows.from_blocks(blocks))
    assert len(passes) == 3
    # The threads that read and work are free again.
    assert_same(rf.irls(rows.from_blocks(blocks)), rf.irls(A, b))


def test_progress_counts_passes_and_blocks(capsys):
    pytest.importorskip("tqdm")
    A, b = problem()
    source = rows.from_arrays(A, b, block_rows=40)
    rf.irls(source, loss="huber", scale=1.0, progress=True)
    assert "pass 3, blocks" in capsys.readouterr().err
    told = []
    source.progress = lambda *numbers: told.append(numbers)
    before = source.passes
    rf.irls(source, loss="huber", scale=1.0)
    assert told[:4] == [(before + 1, k) for k in (1, 2, 3, 4)]
    assert told[-1] == (source.passes, 4)
    one = rows.with_intercept(rows.from_arrays(A[:, 1:], b, block_rows=40))
    one.progress = lambda *numbers: told.append(numbers)
    rf.irls(one, loss="huber", scale=1.0)
    assert told[-1] == (one.passes, 4)
    assert one.passes > 2


def test_callback_ends_the_fit():
    A, b = problem()

    def stop(intermediate_result):
        raise StopIteration

    fit = rf.irls(rows.from_arrays(A, b), loss="huber", callback=stop)
    assert fit.status is Status.CANCELLED


def test_huber_scale_beside_zeros_and_gross_errors():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3000, 1))
    mostly_zero = np.where(rng.random(3000) < 0.1, 2.0, 0.0)
    gross = A[:, 0] + rng.normal(size=3000) + np.where(np.arange(3000) == 7, 1e22, 0.0)
    for b in (mostly_zero, gross):
        options = {"loss": "tukey", "start": [1.0], "scale": "huber"}
        fit = rf.irls(rf.rows.from_arrays(A, b, block_rows=500), **options)
        other = rf.irls(A, b, **options)
        assert fit.success
        assert fit.status is other.status
        np.testing.assert_allclose(fit.x, other.x, rtol=1e-9)
        np.testing.assert_allclose(fit.scale, other.scale, rtol=1e-9)
