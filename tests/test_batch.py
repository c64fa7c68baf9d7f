"""Many fits in one call: each is the fit that the single function makes of it."""

import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from scipy import stats

import robustfit as rf
from robustfit import Status
from robustfit.linear import BatchResult
from robustfit.losses import Loss, get_loss
from robustfit.starts import s_estimate

OUTPUTS = ("x", "scale", "cov", "bse", "weights", "resid")


def make(m=6, n=40, p=3, share=0.1, seed=0):
    """Return designs with intercept and responses, a share of them with gross errors."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n, p))
    A[:, :, 0] = 1.0
    b = A @ np.arange(1.0, p + 1.0) + rng.standard_normal((m, n))
    bad = round(share * n)
    b[:, :bad] += 10.0 + 3.0 * rng.standard_normal((m, bad))
    return A, b


def quiet(*args, **options):
    """Return the fit of `irls` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rf.irls(*args, **options)


def assert_same(batch, i, single, tol=1e-9):
    """Compare problem i of stacked designs with a single fit."""
    assert batch.status[i] is single.status
    assert batch.success[i] == single.success
    unit = np.where(single.bse > 0.0, single.bse, 1.0)
    assert np.max(np.abs(batch.x[i] - single.x) / unit) <= tol
    np.testing.assert_allclose(batch.scale[i], single.scale, rtol=tol)
    size = np.max(np.abs(single.cov))
    np.testing.assert_allclose(batch.cov[i], single.cov, rtol=0, atol=10 * tol * size)
    np.testing.assert_allclose(batch.bse[i], single.bse, rtol=10 * tol)
    np.testing.assert_allclose(batch.weights[i], single.weights, atol=10 * tol)
    size = np.nanmax(np.abs(single.resid))
    np.testing.assert_allclose(batch.resid[i], single.resid, atol=10 * tol * size)
    assert batch.df_t[i] == single.df_t


@pytest.fixture
def no_single_fits(monkeypatch):
    """Let a test fail in which a problem is not fitted by the kernels."""
    from robustfit.linear import _batch

    def refuse(self, i, fit):
        raise AssertionError(f"problem {i} was fitted alone")

    monkeypatch.setattr(_batch._Table, "put", refuse)


# -- the law: as one by one --------------------------------------------------------------

KERNELS = {
    "M, redescending": {"start": "ols"},
    "M, convex": {"loss": "huber"},
    "M, unbounded and not convex": {"loss": "cauchy", "start": "ols"},
    "M, MAD of the start": {"loss": "tukey", "start": "ols", "scale": "mad-fixed"},
    "M, given scale": {"loss": "huber", "scale": 1.25},
    "MM": {},
    "MM, Tukey": {"loss": "tukey"},
    "MM, unbounded loss": {"loss": "cauchy"},
    "MM, convex loss": {"loss": "huber", "method": "mm"},
    "S-start, MAD": {"loss": "tukey", "method": "m"},
    "S-start, given scale": {"loss": "tukey", "scale": 0.8},
    "other constants": {"loss": "tukey", "efficiency": 0.8, "s_loss": "welsch"},
    "other covariance": {"loss": "huber", "cov_type": "w"},
}


@pytest.mark.parametrize("options", KERNELS.values(), ids=KERNELS)
def test_the_kernels_give_the_single_fits(options, no_single_fits):
    A, b = make(8)
    batch = rf.irls(A, b, **options)
    assert isinstance(batch, BatchResult)
    assert len(batch) == 8
    for i in range(8):
        assert_same(batch, i, rf.irls(A[i], b[i], **options))


@pytest.mark.parametrize("n", [39, 40])
def test_odd_and_even_numbers_of_rows(n, no_single_fits):
    A, b = make(5, n)
    batch = rf.irls(A, b, "huber")
    for i in range(5):
        assert_same(batch, i, rf.irls(A[i], b[i], "huber"))


LOOPS = {
    "LAD start": {"loss": "tukey", "start": "lad"},
    "given start": {"start": np.array([1.0, 2.0, 3.0])},
    "Huber's proposal 2": {"loss": "huber", "scale": "huber"},
    "a function as scale": {"loss": "huber", "scale": rf.scale.mad},
    "tau": {"loss": "tukey", "method": "tau"},
    "S": {"loss": "tukey", "method": "s"},
    "leverage": {"loss": "huber", "leverage": True},
    "ridge": {"loss": "huber", "ridge": 2.0},
    "bounds": {"loss": "huber", "bounds": (0.0, [1.0, 9.0, 2.0])},
    "QR": {"loss": "huber", "solver": "qr"},
    "HC": {"loss": "huber", "cov_type": "HC"},
    "avar1": {"loss": "tukey", "cov_type": "avar1"},
    "clusters": {"loss": "huber", "cov_type": "cluster", "groups": np.arange(40) // 4},
    "least squares": {"loss": "linear"},
    "S-loss": {"s_loss": get_loss("tukey", breakdown=0.5)},
}


@pytest.mark.parametrize("options", LOOPS.values(), ids=LOOPS)
def test_every_other_option_gives_the_single_fits_too(options):
    A, b = make(2)
    batch = rf.irls(A, b, **options)
    for i in range(2):
        assert_same(batch, i, rf.irls(A[i], b[i], **options), tol=1e-12)


def test_any_contamination_ends_as_single_fits_end():
    # From a clean sample to more than the guard accepts, leverage points and clusters included.
    rng = np.random.default_rng(5)
    A, b = make(40, 30, 2, share=0.0, seed=5)
    for i in range(40):
        bad = int(rng.integers(0, 15))
        A[i, :bad, 1] += 4.0 * (i % 3)
        b[i, :bad] += 12.0 * rng.standard_normal() + rng.standard_normal(bad) * (i % 2)
    batch = quiet(A, b, "tukey")
    singles = [quiet(A[i], b[i], "tukey") for i in range(40)]
    for i, single in enumerate(singles):
        assert_same(batch, i, single)
        assert batch.message[i] == single.message
    assert len({single.status for single in singles}) > 1


@pytest.mark.parametrize("shared", [False, True])
def test_rows_far_out_end_as_single_fits_end(shared):
    # A fifth of the rows on one far point, from where the others put it to far from there.
    A, b = make(20, 60, 3, share=0.0, seed=8)
    A[:, :12, 1:] = [1e4, -2e4]
    b[:, :12] = np.linspace(0.0, 2e5, 20)[:, None]
    b[:, :12] += A[:, :12] @ [1.0, 2.0, 3.0]
    if shared:
        A, b = A[0], b.T
    batch = quiet(A, b, "tukey")
    statuses = []
    for i in range(20):
        single = quiet(A if shared else A[i], b[:, i] if shared else b[i], "tukey")
        x = batch.x[:, i] if shared else batch.x[i]
        np.testing.assert_allclose(x, single.x, rtol=1e-8)
        assert batch.status[i] is single.status
        statuses.append(single.status)
    assert {Status.CONVERGED, Status.NO_MAJORITY} <= set(statuses)


def test_the_search_finds_the_s_scale_of_the_single_search():
    A, b = make(150, 30, 3, share=0.4, seed=7)
    loss = get_loss("tukey", breakdown=0.5)
    from robustfit.linear import _regular

    problems = _regular.Problems.of(A, b, None, None)
    options = {field.name: None for field in dataclasses.fields(_regular.Plan)}
    plan = _regular.Plan(
        **{**options, "problems": problems, "loss": loss, "s_loss": loss, "scale": "s"}
    )
    plan = dataclasses.replace(plan, draws=_regular._draws(problems, 0), tol=1e-10, maxiter=200)
    block = _regular.Block.of(problems, slice(0, 150))
    regular = block.usable.copy()
    _, scale = plan._start(block, regular)
    assert regular.all()
    found = scale * block.unit
    rng = np.random.default_rng
    single = [s_estimate(A[i], b[i], loss, rng=rng(0), breakdown=0.5).scale for i in range(150)]
    np.testing.assert_allclose(found, single, rtol=1e-9)


def test_a_loss_of_ones_own():
    class Exponential(Loss):
        """Weight exp(-|v|), without registering a name."""

        @staticmethod
        def rho1(v, m):
            a = m.minimum(m.abs(v), 700.0)
            return 1.0 - m.exp(-a) * (1.0 + a)

        @staticmethod
        def weight1(v, m):
            return m.exp(-m.abs(v))

        @staticmethod
        def dpsi1(v, m):
            a = m.minimum(m.abs(v), 700.0)
            return (1.0 - a) * m.exp(-a)

    A, b = make(3)
    loss = Exponential()
    batch = rf.irls(A, b, loss, start="ols")
    for i in range(3):
        assert_same(batch, i, rf.irls(A[i], b[i], loss, start="ols"))


# -- shapes ------------------------------------------------------------------------------


def shared(k=5, n=40, p=3):
    A, b = make(k, n, p, seed=3)
    return A[0], (A[0] @ np.ones((p, k))) + (b - A @ np.arange(1.0, p + 1.0)[:, None][:, 0]).T


@pytest.mark.parametrize("options", [{"loss": "huber"}, {"loss": "tukey"}, {"ridge": 1.0}])
def test_one_design_and_many_responses(options):
    A, B = shared()
    batch = rf.irls(A, B, **options)
    assert batch.x.shape == batch.bse.shape == (3, 5)
    assert batch.tvalues.shape == batch.pvalues.shape == (3, 5)
    assert batch.weights.shape == batch.resid.shape == B.shape
    assert batch.cov.shape == (5, 3, 3)
    assert batch.scale.shape == batch.status.shape == batch.nit.shape == (5,)
    assert batch.conf_int().shape == (3, 5, 2)
    for k in range(5):
        single = rf.irls(A, B[:, k], **options)
        assert np.max(np.abs(batch.x[:, k] - single.x) / single.bse) < 1e-9
        np.testing.assert_allclose(batch.bse[:, k], single.bse, rtol=1e-8)
        np.testing.assert_allclose(batch.cov[k], single.cov, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(batch.weights[:, k], single.weights, atol=1e-8)
        np.testing.assert_allclose(batch.conf_int(0.9)[:, k], single.conf_int(0.9), rtol=1e-7)
        np.testing.assert_allclose(batch.pvalues[:, k], single.pvalues, rtol=1e-5, atol=1e-12)
        np.testing.assert_array_equal(batch[k].x, single.x)


def test_inference_of_stacked_designs():
    A, b = make()
    batch = rf.irls(A, b, "huber")
    np.testing.assert_allclose(batch.tvalues, batch.x / batch.bse)
    np.testing.assert_allclose(batch.pvalues, 2.0 * stats.t.sf(np.abs(batch.tvalues), 37.0))
    low, high = np.moveaxis(batch.conf_int(0.8), -1, 0)
    np.testing.assert_allclose(high - low, 2.0 * stats.t.ppf(0.9, 37.0) * batch.bse)
    np.testing.assert_allclose(0.5 * (low + high), batch.x)
    with pytest.raises(ValueError, match=r"^level must be in \(0, 1\)"):
        batch.conf_int(1.0)


def test_a_column_is_one_problem_as_before():
    A, b = make(1)
    assert isinstance(rf.irls(A[0], b[0][:, None], "huber"), rf.FitResult)
    assert len(rf.irls(A, b, "huber")) == 1


def test_no_problem_is_a_batch_without_fits():
    stacked = rf.irls(np.zeros((0, 20, 3)), np.zeros((0, 20)))
    assert len(stacked) == 0
    assert stacked.x.shape == (0, 3)
    assert stacked.summary() == "0 robust linear fits"
    assert rf.irls(np.zeros((20, 3)), np.zeros((20, 0))).x.shape == (3, 0)


def test_any_layout_and_precision_will_do():
    A, b = make(4)
    expected = rf.irls(A, b, "huber")
    A32, b32 = A.astype(np.float32), b.astype(np.float32)
    single = rf.irls(A32.astype(float), b32.astype(float), "huber")
    wide_A, wide_b = np.repeat(A, 2, axis=1), np.repeat(b, 2, axis=1)
    for array in (A, b):
        array.setflags(write=False)
    for one, other in (
        (np.asfortranarray(A), np.asfortranarray(b)),
        (wide_A[:, ::2], wide_b[:, ::2]),
    ):
        np.testing.assert_array_equal(rf.irls(one, other, "huber").x, expected.x)
    np.testing.assert_array_equal(rf.irls(A.tolist(), b.tolist(), "huber").x, expected.x)
    found = rf.irls(A32, b32, "huber")
    assert found.x.dtype == np.float64
    np.testing.assert_array_equal(found.x, single.x)
    whole = np.round(8.0 * b)
    np.testing.assert_array_equal(
        rf.irls(A, whole.astype(np.int32), "huber").x, rf.irls(A, whole, "huber").x
    )


@pytest.mark.parametrize("unit", [2.0**-900, 2.0**-40, 2.0**300])
def test_a_power_of_two_in_the_response_changes_no_bit(unit):
    A, b = make(4)
    plain, scaled = rf.irls(A, b), rf.irls(A, unit * b)
    np.testing.assert_array_equal(scaled.x, unit * plain.x)
    np.testing.assert_array_equal(scaled.scale, unit * plain.scale)
    np.testing.assert_array_equal(scaled.bse, unit * plain.bse)
    np.testing.assert_array_equal(scaled.weights, plain.weights)


def test_columns_of_any_size():
    A, b = make(3)
    plain = rf.irls(A, b, "huber")
    for power in (-120, -20, 100):
        unit = 10.0 ** np.array([0.0, power / 2, power])
        scaled = rf.irls(A * unit, b, "huber")
        assert np.max(np.abs(scaled.x * unit - plain.x) / plain.bse) < 1e-9
        np.testing.assert_allclose(scaled.bse * unit, plain.bse, rtol=1e-7)


def test_data_are_not_changed_and_results_are_read_only():
    A, b = make(3)
    given = A.copy(), b.copy(), np.linspace(1.0, 2.0, 40)
    batch = rf.irls(given[0], given[1], "huber", var_weights=given[2])
    np.testing.assert_array_equal(given[0], A)
    np.testing.assert_array_equal(given[1], b)
    assert all(array.flags.writeable for array in given)
    for name in (*OUTPUTS, "status", "message", "nit", "df_t"):
        assert not getattr(batch, name).flags.writeable, name
    again = pickle.loads(pickle.dumps(batch))
    np.testing.assert_array_equal(again.x, batch.x)
    assert not again.x.flags.writeable
    np.testing.assert_array_equal(again[1].x, batch[1].x)


def test_the_same_call_gives_the_same_bits_on_any_number_of_threads(monkeypatch):
    import numba

    A, b = make(900, 20, 2)
    first = quiet(A, b, "tukey")
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)
    second = quiet(A, b, "tukey")
    for name in OUTPUTS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_generator_draws_once_for_all():
    A, b = make(3, 25)
    batch = rf.irls(A, b, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(batch[1].search.x, batch[1].search.x)
    assert_same(batch, 1, batch[1])


# -- weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "tukey"])
@pytest.mark.parametrize("each", [False, True])
def test_weights_of_rows_and_of_problems(loss, each, no_single_fits):
    A, b = make(4)
    rng = np.random.default_rng(10)
    shape = (4, 40) if each else (40,)
    freq = rng.integers(0, 3, shape)
    var = rng.uniform(0.5, 2.0, shape)
    var[..., 5] = 0.0
    batch = rf.irls(A, b, loss, freq_weights=freq, var_weights=var)
    for i in range(4):
        f, v = (w[i] if each else w for w in (freq, var))
        assert_same(batch, i, rf.irls(A[i], b[i], loss, freq_weights=f, var_weights=v))


def test_weights_of_the_responses_of_one_design(no_single_fits):
    A, B = shared()
    var = np.random.default_rng(8).uniform(0.5, 2.0, B.shape)
    batch = rf.irls(A, B, "huber", var_weights=var)
    for k in range(5):
        single = rf.irls(A, B[:, k], "huber", var_weights=var[:, k])
        assert np.max(np.abs(batch.x[:, k] - single.x) / single.bse) < 1e-9
        np.testing.assert_allclose(batch.bse[:, k], single.bse, rtol=1e-8)


def test_repeat_counts_repeat_rows():
    A, b = make(3)
    freq = np.random.default_rng(9).integers(1, 4, 40)
    weighted = rf.irls(A, b, "huber", freq_weights=freq)
    repeated = rf.irls(np.repeat(A, freq, axis=1), np.repeat(b, freq, axis=1), "huber")
    assert np.max(np.abs(weighted.x - repeated.x) / repeated.bse) < 1e-9
    np.testing.assert_allclose(weighted.cov, repeated.cov, rtol=1e-8)


# -- problems that are not regular ---------------------------------------------------------


def bad_apples():
    """Return a batch whose problems 1, 3, ... are each hard in their own way, and their names."""
    A, b = make(12, 24, 3, share=0.05, seed=2)
    t = np.arange(24.0)
    A[1, :, 2] = 2.0 * A[1, :, 1] - 1.0
    b[3] = A[3] @ [1.0, 2.0, 3.0]
    b[5] = np.where(t < 15, b[3] * 0.0 + A[5] @ [1.0, 0.0, -2.0], b[5])
    b[7] = 0.0
    A[9, :, 1] = 1.0 + 1e-7 * A[9, :, 1]
    b[11, :10] += 1e200
    return A, b


@pytest.mark.parametrize("options", [{"loss": "huber"}, {"loss": "tukey"}])
def test_a_bad_apple_is_fitted_alone_and_spoils_no_other(options):
    A, b = bad_apples()
    with pytest.warns(
        rf.RankWarning, match="^1 of 12 problems, .*; problem 1: the design has rank 2"
    ):
        batch = rf.irls(A, b, **options)
    assert batch.status[1] is Status.RANK_DEFICIENT
    assert batch.status[3] is Status.EXACT_FIT
    for i in range(12):
        single = quiet(A[i], b[i], **options)
        assert batch.status[i] is single.status
        np.testing.assert_allclose(batch.x[i], single.x, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(batch.scale[i], single.scale, rtol=1e-8)


def test_one_warning_for_all_problems():
    A, b = make(30)
    with pytest.warns(rf.ConvergenceWarning) as found:
        batch = rf.irls(A, b, "huber", maxiter=3)
    assert len(found) == 1
    assert str(found[0].message).startswith("30 of 30 problems, see status and message; problem 0")
    assert found[0].filename == __file__
    assert not batch.success.any()
    assert set(batch.status) == {Status.MAXITER}
    text = batch.summary()
    assert "30  stopped at maxiter before convergence" in text
    assert "[9] no convergence in maxiter=3" in text
    assert "and 20 more" in text


def test_fewer_rows_than_columns_is_what_it_is_for_one():
    rng = np.random.default_rng(0)
    A, b = rng.standard_normal((2, 3, 5)), rng.standard_normal((2, 3))
    batch, single = quiet(A, b, "huber"), quiet(A[1], b[1], "huber")
    assert batch.status[1] is single.status
    np.testing.assert_allclose(batch.x[1], single.x)


# -- non-finite values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("b", (2, 7), r"^b must be finite, but 1 rows of problem 2 are not, the first is row 7;"),
        (
            "A",
            (4, 3, 1),
            r"^A must be finite, but 1 rows of problem 4 are not, the first is row 3;",
        ),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_problem_with_non_finite_values_is_named(name, where, message, value):
    data = dict(zip("Ab", make(), strict=True))
    data[name][where] = value
    with pytest.raises(ValueError, match=message):
        rf.irls(**data)


def test_non_finite_rows_are_left_out_if_asked():
    A, b = make()
    b[2, [7, 9]] = np.nan
    A[4, 3, 1] = np.inf
    b[5] = np.nan
    batch = rf.irls(A, b, "huber", nan_policy="omit")
    for i in range(5):
        assert_same(batch, i, rf.irls(A[i], b[i], "huber", nan_policy="omit"))
    assert np.isnan(batch.weights[2, [7, 9]]).all()
    assert batch.status[5] is Status.NO_WEIGHT
    assert not batch.success[5]
    assert np.isnan(batch.x[5]).all()
    assert batch.message[5] == "no row is finite"


# -- what is kept --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["huber", "linear"])
def test_only_what_is_asked_for_is_kept(loss):
    A, b = make()
    full, some = rf.irls(A, b, loss), rf.irls(A, b, loss, outputs=("x", "scale"))
    np.testing.assert_array_equal(some.x, full.x)
    np.testing.assert_array_equal(some.scale, full.scale)
    assert some.success.all()
    for name in ("cov", "bse", "weights", "resid"):
        with pytest.raises(AttributeError, match=rf"outputs=\('{name}',\) would keep it"):
            getattr(some, name)
    assert "bse" not in dir(some)
    assert "bse" in dir(full)
    with pytest.raises(AttributeError, match=r"no attribute 'residuals'$"):
        _ = full.residuals
    assert rf.irls(A, b, loss, outputs="scale").scale.shape == (6,)


def test_problems_are_counted_from_both_ends():
    A, b = make(3)
    batch = rf.irls(A, b, "huber")
    np.testing.assert_array_equal(batch[-1].x, batch[2].x)
    assert [fit.nobs for fit in batch] == [40.0] * 3
    with pytest.raises(IndexError, match=r"^problem 3 of 3 does not exist$"):
        _ = batch[3]
    with pytest.raises(TypeError):
        _ = batch[1.0]
    assert repr(batch) == "<BatchResult of 3 fits, 3 of them successful>"


# -- bad arguments -------------------------------------------------------------------------

A_OK, B_OK = make(2)
BAD = {
    "b is short": (A_OK, B_OK[:, 1:], {}, ValueError, r"^b must have shape \(2, 40\) for A"),
    "b has too many": (A_OK, np.ones((3, 40)), {}, ValueError, r"^b must have shape \(2, 40\)"),
    "B is short": (
        A_OK[0],
        np.ones((39, 2)),
        {},
        ValueError,
        r"^b must have shape \(40, k\) for A",
    ),
    "A is text": (A_OK.astype(str), B_OK, {}, TypeError, r"^A must hold real numbers"),
    "A is complex": (A_OK * 1j, B_OK, {}, TypeError, r"^A must hold real numbers"),
    "outputs": (A_OK, B_OK, {"outputs": ("x", "y")}, ValueError, r"^outputs must be one of x, sc"),
    "outputs is a number": (A_OK, B_OK, {"outputs": 3}, TypeError, r"^outputs must be names"),
    "loss": (A_OK, B_OK, {"loss": "no"}, ValueError, r"^loss='no' is unknown"),
    "start": (A_OK, B_OK, {"start": "no"}, ValueError, r"^start must be one of"),
    "scale": (A_OK, B_OK, {"scale": -1.0}, ValueError, r"^scale must be positive"),
    "scale name": (A_OK, B_OK, {"scale": "no"}, ValueError, r"^scale must be one of"),
    "method": (
        A_OK,
        B_OK,
        {"method": "mm", "start": "ols"},
        ValueError,
        r"^method='mm' sets start",
    ),
    "cov_type": (A_OK, B_OK, {"cov_type": "no"}, ValueError, r"^cov_type must be one of"),
    "tol": (A_OK, B_OK, {"tol": -1.0}, ValueError, r"^tol must be"),
    "maxiter": (A_OK, B_OK, {"maxiter": 1.5}, ValueError, r"^maxiter must be"),
    "rng": (A_OK, B_OK, {"rng": "no"}, TypeError, r"^rng must be"),
    "nan_policy": (A_OK, B_OK, {"nan_policy": "no"}, ValueError, r"^nan_policy must be"),
    "names": (A_OK, B_OK, {"names": ["a"]}, ValueError, r"^names must be 3 labels"),
    "s_loss": (A_OK, B_OK, {"s_loss": "huber"}, ValueError, r"breakdown"),
    "freq_weights": (
        A_OK,
        B_OK,
        {"freq_weights": np.ones(2)},
        ValueError,
        r"^freq_weights must hav",
    ),
    "var_weights": (
        A_OK,
        B_OK,
        {"var_weights": -np.ones(40)},
        ValueError,
        r"^var_weights must not",
    ),
}


@pytest.mark.parametrize(("A", "b", "options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(A, b, options, error, message):
    with pytest.raises(error, match=message):
        rf.irls(A, b, **options)


def test_an_error_in_a_single_fit_says_in_which():
    A, b = make(3)
    freq = np.ones((3, 40))
    freq[1] = 0.0
    with pytest.raises(ValueError, match="A must have a row with positive weight") as found:
        rf.irls(A, b, "huber", freq_weights=freq)
    assert found.value.__notes__ == ["in problem 1"]


def test_outputs_are_for_several_fits():
    with pytest.raises(ValueError, match=r"^outputs is for several fits"):
        rf.irls(A_OK[0], B_OK[0], outputs=("x",))


# -- progress ------------------------------------------------------------------------------


class Count:
    """A progress bar that counts, and interrupts if asked."""

    def __init__(self, stop=None):
        self.total, self.done, self.stop = None, 0, stop

    def __call__(self, total, what, enabled):
        self.total = total
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def update(self, n=1):
        self.done += n
        if self.stop is not None and self.done >= self.stop:
            raise KeyboardInterrupt


@pytest.mark.parametrize("loss", ["huber", "linear"])
def test_the_bar_counts_problems(monkeypatch, loss):
    from robustfit.linear import _batch

    bar = Count()
    monkeypatch.setattr(_batch, "progress_bar", bar)
    A, b = make(7)
    rf.irls(A, b, loss, progress=True)
    assert (bar.total, bar.done) == (7, 7)


def test_an_interrupt_ends_the_call_and_changes_nothing(monkeypatch):
    from robustfit.linear import _batch

    A, b = make(7)
    expected = rf.irls(A, b, "huber").x
    with monkeypatch.context() as patch:
        patch.setattr(_batch, "progress_bar", Count(stop=1))
        with pytest.raises(KeyboardInterrupt):
            rf.irls(A, b, "huber", progress=True)
    np.testing.assert_array_equal(rf.irls(A, b, "huber").x, expected)
