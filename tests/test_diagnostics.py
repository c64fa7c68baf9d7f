"""Robust distances, kinds of rows, and coefficients that rest on few rows."""

import numpy as np
import pytest
from regression_data import EDGE_CASES, classic, contaminated

import robustfit as rf
from robustfit.diagnostics import LABELS, local_breakdown, robust_distances


def far(A, **options):
    found = robust_distances(A, **options)
    return np.flatnonzero(found.distance > found.cutoff).tolist()


# -- distances -----------------------------------------------------------------------------


def test_leverage_points_of_the_classics():
    # Rousseeuw and Leroy (1987) name these.
    assert far(classic("hbk")[0]) == list(range(14))
    assert {10, 19, 29, 33} <= set(far(classic("starsCYG")[0]))
    assert far(classic("phones")[0]) == []


def test_normal_rows_are_rarely_far():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((4000, 3)) @ rng.standard_normal((3, 3)) + [1.0, -5.0, 9.0]
    assert len(far(A)) / 4000 == pytest.approx(0.025, abs=0.01)


def test_a_third_of_the_rows_far_away():
    rng = np.random.default_rng(1)
    A = rng.standard_normal((90, 3))
    A[:30] = 20.0 + 0.1 * rng.standard_normal((30, 3))
    assert set(range(30)) <= set(far(A))
    assert len(far(A)) < 38


def test_constants_and_dummies_are_left_out():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((50, 2))
    A = np.column_stack([np.ones(50), X[:, 0], np.arange(50) < 12, X[:, 1]])
    found = robust_distances(A)
    assert found.columns == (1, 3)
    np.testing.assert_array_equal(found.distance, robust_distances(X).distance)
    none = robust_distances(A[:, [0, 2]])
    assert none.columns == ()
    assert np.all(none.distance == 0.0)


def test_equivariance():
    rng = np.random.default_rng(3)
    A = rng.standard_t(3, (60, 3)) @ np.triu(np.ones((3, 3)))
    d = robust_distances(A).distance
    np.testing.assert_allclose(robust_distances(A * [1e-200, -3.0, 1e200]).distance, d, rtol=1e-9)
    np.testing.assert_allclose(robust_distances(A + np.arange(3.0)).distance, d, rtol=1e-9)
    order = rng.permutation(60)
    np.testing.assert_allclose(robust_distances(A[order]).distance, d[order], rtol=1e-9)
    freq = rng.integers(0, 4, 60)
    np.testing.assert_allclose(
        np.repeat(robust_distances(A, freq=freq).distance, freq),
        robust_distances(np.repeat(A, freq, axis=0)).distance,
        rtol=1e-9,
    )


def test_rows_off_a_plane_that_holds_most_rows():
    rng = np.random.default_rng(4)
    x = rng.standard_normal(40)
    A = np.column_stack([x, 2.0 * x])
    A[:5, 1] += 1.0
    assert set(range(5)) <= set(far(A))


def test_mcd():
    A = classic("hbk")[0]
    try:
        import sklearn.covariance  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="scikit-learn"):
            robust_distances(A, method="mcd")
    else:
        assert far(A, method="mcd") == list(range(14))


def test_distances_refuse():
    with pytest.raises(ValueError, match="A must be"):
        robust_distances(np.ones(5))
    with pytest.raises(ValueError, match="A must be"):
        robust_distances([[1.0], [np.nan]])
    with pytest.raises(ValueError, match="method"):
        robust_distances(np.ones((5, 2)), method="mve")
    design = np.arange(10.0).reshape(5, 2)
    with pytest.raises(ValueError, match="freq must be whole numbers for method='mcd'"):
        robust_distances(design, method="mcd", freq=np.full(5, 1.5))


@pytest.mark.parametrize("function", [robust_distances, local_breakdown])
def test_designs_and_counts_are_named(function):
    with pytest.raises(TypeError, match="A must hold real numbers"):
        function([["a", "b"]])
    with pytest.raises(ValueError, match=r"A must be a finite matrix, got shape \(3,\)"):
        function(np.ones(3))
    for freq in (np.ones(4), -np.ones(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="freq must be 5 finite numbers"):
            function(np.arange(10.0).reshape(5, 2), freq=freq)


# -- local breakdown -----------------------------------------------------------------------


def test_general_position():
    A, _ = contaminated(n=30, p=4)
    assert local_breakdown(A).tolist() == [14] * 4


def test_levels():
    level = np.repeat([0, 1, 2], [10, 7, 3])
    A = np.column_stack([np.ones(20), level == 1, level == 2, np.arange(20.0)])
    assert local_breakdown(A).tolist() == [5, 4, 2, 9]
    # The same with the levels as they are, without an intercept.
    cells = np.column_stack([level == k for k in range(3)])
    assert local_breakdown(cells).tolist() == [5, 4, 2]


def test_small_baseline_level():
    level = np.repeat([0, 1, 2], [3, 10, 17])
    A = np.column_stack([np.ones(30), level == 1, level == 2])
    assert local_breakdown(A).tolist() == [2, 2, 2]


def test_two_factors_have_a_baseline_each():
    one, two = np.divmod(np.arange(24) % 6, 3)
    A = np.column_stack([np.ones(24), one == 1, two == 1, two == 2])
    assert local_breakdown(A).tolist() == [4, 6, 4, 4]


def test_counts():
    A = np.column_stack([np.ones(6), [0, 0, 0, 0, 1, 1]])
    assert local_breakdown(A, freq=[3, 3, 3, 3, 4, 1]).tolist() == [6, 3]


def test_breaking_it_takes_that_many_rows():
    # Three rows carry the last coefficient: two bad ones break it, one does not.
    A, b = EDGE_CASES["small_level"]
    count = local_breakdown(A)[2]
    assert count == 2
    good = rf.irls(A, b, "tukey")
    for bad, broken in ((count - 1, False), (count, True)):
        y = b.copy()
        y[np.flatnonzero(A[:, 2])[:bad]] = 1000.0
        moved = rf.irls(A, y, "tukey").x[2] - good.x[2]
        assert (abs(moved) > 100.0) == broken


# -- the table -----------------------------------------------------------------------------


def test_kinds_of_rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(60)
    x[:3] = 10.0, 11.0, 12.0
    b = 1.0 + 2.0 * x + 0.5 * rng.standard_normal(60)
    b[1:3] -= 30.0
    b[3] += 20.0
    fit = rf.irls(np.column_stack([np.ones(60), x]), b, "tukey")
    table = fit.diagnostics()
    kind = dict(zip(table.row.tolist(), table.label, strict=True))
    assert kind[0] == "good leverage"
    assert kind[1] == kind[2] == "bad leverage"
    assert kind[3] == "vertical outlier"
    assert np.all(np.diff(table.weight) >= 0.0)
    np.testing.assert_array_equal(table.weight, fit.weights[table.row])
    np.testing.assert_array_equal(table.leverage, fit.leverage[table.row])
    np.testing.assert_allclose(table.resid, fit.resid[table.row] / fit.scale)
    everything = fit.diagnostics(1.0)
    assert set(everything.label) == set(LABELS)
    assert len(everything.row) == np.sum(fit.weights < 1.0) + np.sum(fit.weights == 1.0) * 0
    assert "bad leverage" in str(table)
    assert set(table.to_dict()) >= {"row", "weight", "label", "fragile"}


def test_row_numbers_are_those_of_the_caller():
    A, b = contaminated()
    A, b = A.copy(), b.copy()
    plain = rf.irls(A[2:], b[2:], "tukey").diagnostics()
    A[0, 1], b[1] = np.nan, np.nan
    omitted = rf.irls(A, b, "tukey", nan_policy="omit").diagnostics()
    np.testing.assert_array_equal(omitted.row, plain.row + 2)
    np.testing.assert_allclose(omitted.distance, plain.distance)


def test_fragile_coefficients_are_named():
    level = np.repeat([0, 1], [47, 3])
    rng = np.random.default_rng(0)
    A = np.column_stack([np.ones(50), level, rng.standard_normal(50)])
    table = rf.irls(A, rng.standard_normal(50), "tukey").diagnostics()
    assert table.fragile == {"x2": 2}
    assert "2 bad rows are enough to break the coefficient of x2" in str(table)


def test_an_exact_fit_has_diagnostics():
    A, b = EDGE_CASES["exact_fit_3_outliers"]
    table = rf.irls(A, b, "tukey").diagnostics()
    assert table.row.tolist() == [0, 1, 2]
    assert set(table.label) <= {"vertical outlier", "bad leverage"}


def test_repetitions_count():
    A, b = contaminated()
    freq = np.ones(40)
    freq[6:] = 2.0
    counted = rf.irls(A, b, "tukey", freq_weights=freq).diagnostics()
    rows = np.repeat(np.arange(40), freq.astype(int))
    repeated = rf.irls(A[rows], b[rows], "tukey").diagnostics()
    assert sorted(set(rows[repeated.row])) == sorted(counted.row)


def test_diagnostics_refuse():
    fit = rf.irls(*contaminated(), "tukey")
    with pytest.raises(ValueError, match="threshold"):
        fit.diagnostics(1.5)
