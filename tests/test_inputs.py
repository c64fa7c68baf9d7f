"""What irls takes as data, and what it refuses with which words."""

import numpy as np
import pytest
from regression_data import contaminated
from scipy import sparse

import robustfit as rf
from robustfit._inputs import prepare

A, B = contaminated()
N, P = A.shape
WHOLE = np.round(4.0 * A), np.round(4.0 * B)


def fit(A, b, loss="huber", **options):
    return rf.irls(A, b, loss, **{"start": "ols", "scale": "mad", **options})


def assert_same(found, expected):
    assert found.x.dtype == np.float64
    np.testing.assert_allclose(found.x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(found.cov, expected.cov, rtol=1e-11)
    assert found.scale == pytest.approx(expected.scale, rel=1e-12)


# -- accepted ------------------------------------------------------------------------------


class Frame:
    """As much of a data frame as irls may rely on."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def wider(array):
    """Return a view with negative and doubled strides that holds the same numbers."""
    block = np.full(tuple(2 * k for k in array.shape), np.nan)
    view = block[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


FORMS = {
    "fortran": np.asfortranarray,
    "read-only": read_only,
    "strided": wider,
    "big-endian": lambda a: a.astype(">f8"),
    "little-endian": lambda a: a.astype("<f8"),
    "longdouble": lambda a: a.astype(np.longdouble),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
    "masked": np.ma.masked_invalid,
    "frame": lambda a: Frame(a, ["one", "two", "three"]) if a.ndim == 2 else a,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_form_of_the_arrays(form):
    given = form(A), form(B)
    assert_same(fit(*given), fit(A, B))
    np.testing.assert_array_equal(np.asarray(given[0]), A)
    np.testing.assert_array_equal(np.asarray(given[1]), B)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_form_of_the_weights(form):
    freq, var = np.arange(1.0, N + 1), np.linspace(1.0, 2.0, N)
    found = fit(A, B, freq_weights=form(freq), var_weights=form(var))
    assert_same(found, fit(A, B, freq_weights=freq, var_weights=var))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", ">i4", "f2", "f4", ">f4"])
def test_small_types_hold_small_numbers(dtype):
    assert_same(fit(WHOLE[0].astype(dtype), WHOLE[1].astype(dtype)), fit(*WHOLE))


def test_unsigned_and_bool():
    levels = np.column_stack([np.ones(N, bool), np.arange(N) % 3 == 1])
    assert_same(fit(levels, B), fit(levels.astype(float), B))
    positive = np.abs(WHOLE[0]), np.abs(WHOLE[1])
    assert_same(fit(*(a.astype("u2") for a in positive)), fit(*positive))
    truth = (A @ [0.0, 1.0, 1.0]) > 0.0
    assert_same(fit(A, truth, scale=0.5), fit(A, truth.astype(float), scale=0.5))


def test_memmap(tmp_path):
    maps = []
    for name, array in (("A", A), ("b", B)):
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert_same(fit(*maps), fit(A, B))


def test_a_column_as_response():
    assert_same(fit(A, B[:, None]), fit(A, B))


def test_masked_values_count_as_missing():
    b = np.ma.array(B, mask=np.arange(N) == 5)
    with pytest.raises(ValueError, match=r"^b must be finite, but 1 rows .* row 5"):
        fit(A, b)
    keep = np.arange(N) != 5
    assert_same(fit(A, b, nan_policy="omit"), fit(A[keep], B[keep]))


def test_a_large_design_is_not_copied():
    large = np.ones((1_000_001, 1))
    data = prepare(large, np.arange(1_000_001.0), None, None, "raise")
    assert np.shares_memory(data.A, large)


def test_the_result_does_not_change_with_the_data():
    a, b = A.copy(), B.copy()
    found, expected = fit(a, b), fit(A, B)
    a[:], b[:] = 0.0, 0.0
    assert found.rsquared == expected.rsquared
    np.testing.assert_array_equal(found.to_matlab()["covb"], expected.to_matlab()["covb"])


@pytest.mark.parametrize("name", ["A", "b", "freq_weights", "var_weights"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_values(name, value):
    given = {"A": A, "b": B, "freq_weights": np.ones(N), "var_weights": np.ones(N)}
    broken = {**given, name: given[name].copy()}
    broken[name][7 if name != "A" else (7, 1)] = value
    broken[name][30 if name != "A" else (30, 2)] = value
    with pytest.raises(
        ValueError, match=rf"^{name} must be finite, but 2 rows are not, the first is row 7;"
    ):
        fit(**broken)
    keep = ~np.isin(np.arange(N), [7, 30])
    found = fit(**broken, nan_policy="omit")
    assert_same(found, fit(A[keep], B[keep]))
    assert found.nobs == N - 2
    np.testing.assert_array_equal(np.isnan(found.resid), ~keep)
    np.testing.assert_array_equal(fit(**given, nan_policy="omit").x, fit(A, B).x)


# -- names of the columns ------------------------------------------------------------------


def test_names():
    assert fit(A, B).names == ("x1", "x2", "x3")
    assert fit(Frame(A, ["one", "two", "three"]), B).names == ("one", "two", "three")
    assert fit(Frame(A, [0, ("a", 1), None]), B).names == ("0", "('a', 1)", "None")
    assert fit(Frame(A, ["too", "few"]), B).names == ("x1", "x2", "x3")


# -- refused -------------------------------------------------------------------------------

BAD_DATA = {
    "A is 1-d": (A[:, 0], B, ValueError, r"^A must be 2-dimensional, got shape \(40,\)"),
    "A is 3-d": (A[None], B, ValueError, r"^A must be 2-dimensional, got shape \(1, 40, 3\)"),
    "b is short": (A, B[:-1], ValueError, r"^b must have shape \(40,\).*got \(39,\)"),
    "b is a short matrix": (A, np.ones((N - 1, 2)), ValueError, r"^b must have shape \(40, k\)"),
    "b is a number": (A, 3.0, ValueError, r"^b must have shape \(40,\).*got \(\)"),
    "no rows": (A[:0], B[:0], ValueError, r"^A must have a row .*\(0, 3\)"),
    "no columns": (A[:, :0], B, ValueError, r"^A must have .* a column, got shape \(40, 0\)"),
    "complex": (A + 1j, B, TypeError, "^A must hold real numbers, got dtype complex128"),
    "complex b": (A, B + 1j, TypeError, "^b must hold real numbers, got dtype complex128"),
    "text": ([["a", "b"]], [1.0], TypeError, "^A must hold real numbers, got dtype <U1"),
    "objects": (A.astype(object), B, TypeError, "^A must hold real numbers, got dtype object"),
    "dates": (A, B.astype("M8[s]"), TypeError, "^b must hold real numbers, got dtype datetime"),
    "None": (None, B, TypeError, "^A must hold real numbers"),
    "ragged": ([[1.0, 2.0], [3.0]], [1.0, 2.0], ValueError, "^A must"),
    "sparse": (A, sparse.csr_array(B[:, None]), TypeError, "^b must .*sparse"),
}


@pytest.mark.parametrize(("a", "b", "error", "words"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data(a, b, error, words):
    with pytest.raises(error, match=words):
        fit(a, b)


def test_nothing_left():
    with pytest.raises(ValueError, match=r"^A must have a row"):
        fit(np.full_like(A, np.nan), B, nan_policy="omit")


BAD_WEIGHTS = {
    "short": (np.ones(3), ValueError, r" must have shape \(40,\) like the rows of A, got \(3,\)"),
    "matrix": (np.ones((N, 1)), ValueError, r" must have shape \(40,\).*got \(40, 1\)"),
    "number": (2.0, ValueError, r" must have shape \(40,\).*got \(\)"),
    "negative": (np.linspace(-2, 1, N), ValueError, r" must not be negative, got -2\.0"),
    "text": (["a"] * N, TypeError, " must hold real numbers"),
}


@pytest.mark.parametrize("name", ["freq_weights", "var_weights"])
@pytest.mark.parametrize(("value", "error", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights(name, value, error, words):
    with pytest.raises(error, match=f"^{name}{words}"):
        fit(A, B, **{name: value})


@pytest.mark.parametrize("name", ["freq_weights", "var_weights"])
def test_no_weight_at_all(name):
    with pytest.raises(ValueError, match="weight"):
        fit(A, B, **{name: np.zeros(N)})


def test_matlab_scale_counts():
    for options in ({"scale": "matlab"}, {"cov_type": "matlab"}, {"cov_type": "gsl"}):
        with pytest.raises(ValueError, match=r"^freq_weights must be whole numbers .*got 1\.5"):
            fit(A, B, freq_weights=np.full(N, 1.5), **options)
    with pytest.raises(ValueError, match=r"^freq_weights must be whole numbers"):
        fit(A, B, freq_weights=np.full(N, 1.5)).to_matlab()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, np.ones(3), "wide", None])
def test_scale_function_has_to_return_a_scale(value):
    with pytest.raises((ValueError, TypeError), match="scale must"):
        fit(A, B, scale=lambda r: value)


BAD_OPTIONS = {
    "tol": [-1.0, np.nan, np.inf, "small", None, [1.0]],
    "ridge": [-1.0, np.nan, np.inf, "small", None, [1.0]],
    "maxiter": [-1, 2.5, np.nan, np.inf, "many", None, [1]],
    "scale": [0.0, -1.0, np.nan, np.inf, "large", None, [1.0, 2.0], 1j],
    "start": [None, [1.0, 2.0], [1.0, np.nan, 2.0], np.ones((3, 1)), [1.0, "a", 2.0], "best", {}],
    "bounds": [5, (0.0,), (0.0, 1.0, 2.0), (1.0, 0.0), (0.0, 0.0), (np.nan, 1.0), (0.0, "a")],
    "c": [0.0, -1.0, np.nan, np.inf, "large", [1.0, 2.0]],
    "efficiency": [0.0, 1.0, 2.0, np.nan, "high"],
    "loss": ["parabola", None, 3, rf.losses.Loss],
    "solver": ["svd", None, 1],
    "cov_type": ["HC9", None, 1],
    "nan_policy": ["ignore", None],
    "callback": [3, "print"],
    "rng": ["x", -1, 1.5],
    "names": [5, "abc", 1.5],
}
REFUSED = [(name, value) for name, values in BAD_OPTIONS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=[f"{n}={v!r}" for n, v in REFUSED])
def test_bad_option(name, value):
    with pytest.raises((ValueError, TypeError), match=rf"^{name}\b.*(must|unknown)") as caught:
        fit(A, B, **{name: value})
    words = str(caught.value)
    assert f"{name}=" in words or "got" in words


def test_bounds_of_the_wrong_length():
    with pytest.raises(ValueError, match=r"^bounds must"):
        fit(A, B, bounds=([0.0, 0.0], [1.0, 1.0]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"c": 1.0, "efficiency": 0.9}, "at most one of c, efficiency"),
        ({"ridge": 1.0, "bounds": (0.0, 1.0)}, "bounds and ridge cannot be combined"),
    ],
)
def test_options_that_exclude_each_other(options, words):
    with pytest.raises(ValueError, match=words):
        fit(A, B, **options)


def test_options_after_the_loss_need_their_name():
    with pytest.raises(TypeError, match="positional"):
        rf.irls(A, B, "huber", 1.3)
    with pytest.raises(TypeError, match="tolerance"):
        rf.irls(A, B, "huber", tolerance=1e-3)
