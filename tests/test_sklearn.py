"""The scikit-learn front: the checks of scikit-learn, laws, and what a search over models finds."""

import pickle
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse, stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, RobustScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import robustfit as rf
from robustfit.exceptions import RankWarning
from robustfit.sklearn import (
    MScaler,
    RobustRegressor,
    mad_error,
    neg_mad_error,
    neg_tau_error,
    neg_trimmed_mean_squared_error,
    tau_error,
    trimmed_mean_squared_error,
)

ESTIMATORS = [
    RobustRegressor(),
    RobustRegressor("huber"),
    RobustRegressor("linear", ridge=0.1),
    RobustRegressor("tukey", start="ols", scale="huber"),
    MScaler(),
]


# The checks fit pure noise and few samples: a redescender has reason to warn there.
@pytest.mark.filterwarnings("ignore::robustfit.exceptions.RobustfitWarning")
@parametrize_with_checks(ESTIMATORS)
def test_checks_of_sklearn(estimator, check):
    check(estimator)


def data(outliers=6, outputs=1):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(60, 3))
    Y = 4.0 + X @ rng.normal(size=(3, outputs)) + 0.2 * rng.normal(size=(60, outputs))
    Y[:outliers] += 40.0
    return X, Y[:, 0] if outputs == 1 else Y


# -- the regressor -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"loss": "tukey", "efficiency": 0.85}, {"method": "tau"}, {"loss": "huber", "scale": 2.0}],
    ids=str,
)
def test_it_is_irls(options):
    X, y = data()
    model, fit = RobustRegressor(**options).fit(X, y), rf.irls(np.c_[np.ones(60), X], y, **options)
    np.testing.assert_array_equal(np.r_[model.intercept_, model.coef_], fit.x)
    np.testing.assert_array_equal(model.weights_, fit.weights)
    assert np.flatnonzero(model.outliers_).tolist() == sorted(fit.outliers())
    assert (model.scale_, model.n_iter_) == (fit.scale, fit.nit)
    np.testing.assert_array_equal(model.predict(X), X @ fit.x[1:] + fit.x[0])
    assert model.result_.names == ("Intercept", "x1", "x2", "x3")
    bare = RobustRegressor(fit_intercept=False, **options).fit(X, y)
    np.testing.assert_array_equal(bare.coef_, rf.irls(X, y, **options).x)
    assert bare.intercept_ == 0.0


def test_the_huber_fit_of_sklearn_is_ours_at_its_scale():
    X, y = data()
    # It estimates the scale together with the coefficients, and stops early.
    theirs = HuberRegressor(epsilon=1.35, alpha=0.0, tol=1e-10, max_iter=2000).fit(X, y)
    ours = RobustRegressor("huber", c=1.35, scale=theirs.scale_).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-4)


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_that_of_sklearn_and_spares_the_intercept(intercept):
    X, y = data()
    ours = RobustRegressor("linear", ridge=7.0, fit_intercept=intercept).fit(X, y)
    theirs = Ridge(alpha=7.0, fit_intercept=intercept).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-9)
    if intercept:
        one, other = (RobustRegressor(ridge=7.0).fit(X, y + shift) for shift in (0.0, 1000.0))
        np.testing.assert_allclose(other.coef_, one.coef_, rtol=1e-6)
        assert other.intercept_ - one.intercept_ == pytest.approx(1000.0, abs=1e-6)


def test_several_outputs_are_fitted_each_for_itself():
    X, Y = data(outputs=3)
    both = RobustRegressor().fit(X, Y)
    assert isinstance(both.result_, rf.BatchResult)
    assert (both.coef_.shape, both.intercept_.shape, both.scale_.shape) == ((3, 3), (3,), (3,))
    for j in range(3):
        one = RobustRegressor().fit(X, Y[:, j])
        np.testing.assert_allclose(both.coef_[j], one.coef_, rtol=1e-8)
        np.testing.assert_allclose(both.weights_[:, j], one.weights_, atol=1e-8)
        np.testing.assert_array_equal(both.outliers_[:, j], one.outliers_)
        np.testing.assert_allclose(both.predict(X)[:, j], one.predict(X), rtol=1e-8)
    column = RobustRegressor().fit(X, Y[:, :1])
    assert (column.coef_.shape, column.predict(X).shape) == ((1, 3), (60, 1))
    assert column.weights_.shape == column.outliers_.shape == (60, 1)
    assert RobustRegressor(fit_intercept=False).fit(X, Y).intercept_.tolist() == [0.0] * 3


def test_sample_weight_is_repetition():
    X, y = data()
    counts = np.arange(60) % 3
    weighted = RobustRegressor("tukey").fit(X, y, sample_weight=counts)
    repeated = RobustRegressor("tukey").fit(X.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-8)
    assert weighted.scale_ == pytest.approx(repeated.scale_, rel=1e-8)
    assert weighted.result_.nobs == np.sum(counts)


def test_names_of_features():
    X, y = data()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = RobustRegressor().fit(frame, y)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert "Intercept" in model.result_.summary()
    assert model.result_.names == ("Intercept", "a", "b", "c")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c"]])
    np.testing.assert_array_equal(RobustRegressor().fit(pl.DataFrame(frame), y).coef_, model.coef_)


def test_clone_and_pickle():
    X, Y = data(outputs=2)
    model = RobustRegressor(rf.losses.Tukey(3.4), random_state=np.random.RandomState(1))
    assert clone(model).get_params()["loss"] == model.loss
    for y in (Y, Y[:, 0]):
        model.fit(X, y)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        assert again.result_.summary() == model.result_.summary()
    assert "Tukey" in repr(model)


def test_grid_search_in_a_pipeline():
    X, y = data(outliers=12)
    search = GridSearchCV(
        make_pipeline(MScaler(), RobustRegressor()),
        {
            "robustregressor__loss": ["welsch", "tukey", "huber"],
            "robustregressor__efficiency": [0.85, 0.95],
        },
        scoring=neg_tau_error,
        cv=KFold(4, shuffle=True, random_state=0),
        error_score="raise",
    )
    search.fit(X, y)
    assert search.best_params_["robustregressor__loss"] in ("welsch", "tukey")
    # Outliers, a fifth of the test data, raise the errors of 0.2 only so far.
    assert 0.15 < -search.best_score_ < 1.0
    assert cross_val_score(RobustRegressor("linear"), X, y, scoring=neg_tau_error).mean() < -5.0


def test_metadata_routing():
    X, y = data()
    with config_context(enable_metadata_routing=True):
        weights = np.where(np.arange(60) < 6, 0.0, 1.0)
        model = RobustRegressor("linear").set_fit_request(sample_weight=True)
        scorer = neg_mad_error.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"ridge": [0.0, 1.0]}, scoring=scorer, cv=3)
        search.fit(X, y, sample_weight=weights)
        expected = RobustRegressor("linear", **search.best_params_).fit(X[6:], y[6:])
        np.testing.assert_allclose(search.best_estimator_.coef_, expected.coef_, rtol=1e-9)


def test_warnings_are_those_of_sklearn_at_the_line_of_the_caller():
    X, y = data()
    with pytest.warns(SklearnConvergenceWarning, match="max_iter=1") as caught:
        model = RobustRegressor("huber", max_iter=1).fit(X, y)
    assert caught[0].filename == __file__
    assert not model.result_.success
    with pytest.warns(RankWarning):
        RobustRegressor().fit(np.c_[X, X[:, :1]], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "parabola"}, "parabola"),
        ({"efficiency": 2.0}, "efficiency must"),
        ({"max_iter": -1}, "max_iter must be a whole number"),
        ({"ridge": -1.0}, "ridge must be a finite number"),
        ({"tol": -1.0}, "tol must"),
        ({"random_state": -1}, "random_state must"),
        ({"random_state": "x"}, "x"),
        ({"start": "best"}, "start must be one of"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RobustRegressor(**options).fit(*data())


# -- sparse features ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize(
    "options",
    [
        {"start": "ols"},
        {"loss": "huber", "fit_intercept": False},
        {"loss": "huber", "ridge": 3.0, "scale": 0.5},
        {"loss": "linear"},
    ],
    ids=str,
)
def test_sparse_features_give_the_dense_numbers(options, form):
    X, y = data()
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    counts = np.arange(60) % 4
    dense = RobustRegressor(**options).fit(X, y, sample_weight=counts)
    found = RobustRegressor(**options).fit(form(X), y, sample_weight=counts)
    np.testing.assert_allclose(found.coef_, dense.coef_, rtol=1e-8)
    assert found.intercept_ == pytest.approx(dense.intercept_, rel=1e-8)
    assert found.scale_ == pytest.approx(dense.scale_, rel=1e-8)
    np.testing.assert_allclose(found.weights_, dense.weights_, atol=1e-8)
    np.testing.assert_array_equal(found.outliers_, dense.outliers_)
    assert found.result_.names == dense.result_.names
    predicted = found.predict(form(X))
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_allclose(predicted, dense.predict(X), rtol=1e-8)


def test_sparse_features_with_several_outputs():
    X, Y = data(outputs=2)
    dense = RobustRegressor("huber").fit(X, Y)
    found = RobustRegressor("huber").fit(sparse.csr_array(X), Y)
    np.testing.assert_allclose(found.coef_, dense.coef_, rtol=1e-8)
    np.testing.assert_allclose(found.predict(sparse.csr_array(X)), dense.predict(X), rtol=1e-8)
    np.testing.assert_allclose(found.weights_, dense.weights_, atol=1e-8)
    np.testing.assert_allclose(found.result_[1].x, found.result_.x[:, 1], rtol=1e-12)


def test_sparse_columns_of_factors_in_a_pipeline():
    rng = np.random.default_rng(7)
    X = rng.integers(0, 5, (200, 2))
    y = X[:, 0] + 2.0 * (X[:, 1] == 3) + 0.1 * rng.normal(size=200)
    y[:15] += 50.0
    whole, less, dense = (
        make_pipeline(OneHotEncoder(**options), RobustRegressor("tukey", start="ols")).fit(X, y)
        for options in ({}, {"drop": "first"}, {"drop": "first", "sparse_output": False})
    )
    # All columns of a factor add up to the intercept: predictions are determined, no coefficients.
    for model in (whole, less):
        np.testing.assert_allclose(model.predict(X), dense.predict(X), atol=1e-8)
    assert np.all(np.isnan(whole[-1].result_.bse))
    np.testing.assert_allclose(less[-1].result_.bse, dense[-1].result_.bse, rtol=1e-6)


def test_sparse_features_are_never_made_dense():
    rng = np.random.default_rng(6)
    rows, columns = 5000, 5000
    X = sparse.random_array((rows, columns), density=1.0 / columns, rng=rng, format="csr")
    X = sparse.hstack([X, sparse.eye_array(rows, columns)], format="csr")
    y = 3.0 + rng.normal(size=rows)
    # As a full matrix: 400 MB.
    tracemalloc.start()
    model = RobustRegressor("huber", scale=1.0, ridge=1e6).fit(X, y)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.coef_.shape == (2 * columns,)
    assert model.intercept_ == pytest.approx(3.0, abs=0.1)
    assert largest < 40e6


@pytest.mark.parametrize(
    ("options", "takes"),
    [
        ({}, False),
        ({"loss": "huber"}, True),
        ({"method": "m"}, False),
        ({"loss": "huber", "method": "m"}, True),
        ({"method": "mm"}, False),
        ({"start": "ols"}, True),
        ({"start": np.zeros(4)}, True),
        ({"start": "lts"}, False),
        ({"start": "ols", "scale": "s"}, False),
        ({"start": "ols", "leverage": True}, False),
        ({"start": "ols", "cov_type": "H1"}, True),
        ({"start": "ols", "cov_type": "HC"}, False),
        ({"loss": "parabola"}, False),
    ],
    ids=str,
)
def test_the_tag_tells_whether_sparse_features_are_taken(options, takes):
    X, y = data()
    model = RobustRegressor(**options)
    assert model.__sklearn_tags__().input_tags.sparse is takes
    if takes:
        model.fit(sparse.csr_array(X), y)
        return
    with pytest.raises(ValueError, match=r"needs a dense X, got sparse csr_array|parabola"):
        model.fit(sparse.csr_array(X), y)


def test_the_refusal_of_sparse_features_says_which_start_to_use():
    X, y = data()
    with pytest.raises(ValueError, match="use start='ols' or coefficients"):
        RobustRegressor().fit(sparse.csr_array(X), y)


def test_bad_sample_weight():
    X, y = data()
    with pytest.raises(ValueError, match="sample_weight must sum to more than 4"):
        RobustRegressor().fit(X, y, sample_weight=np.full(60, 0.01))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        RobustRegressor().fit(X, y, sample_weight=-np.ones(60))


# -- the errors --------------------------------------------------------------------------------

ERRORS = [tau_error, mad_error, trimmed_mean_squared_error]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)


def test_errors_at_the_normal():
    z = np.random.default_rng(2).normal(size=(1000, 400))
    zero = np.zeros_like(z)
    raw = {e: e(zero, 3.0 * z, multioutput="raw_values") for e in ERRORS}
    assert np.mean(raw[tau_error]) == pytest.approx(3.0, rel=0.005)
    assert np.mean(raw[mad_error]) == pytest.approx(3.0, rel=0.005)
    q = stats.norm.ppf(0.875)
    share = 1.0 - 2.0 * q * stats.norm.pdf(q) / 0.75
    assert np.mean(raw[trimmed_mean_squared_error]) == pytest.approx(9.0 * share, rel=0.01)
    # The variance of the logarithm is 1 / (2 n) for the root mean square.
    for error, efficiency in ((tau_error, 0.97), (mad_error, 0.368)):
        found = 1.0 / 2000.0 / np.var(np.log(raw[error]))
        assert found == pytest.approx(efficiency, rel=0.2)


@each_error
def test_outliers_do_not_ruin_the_error(error):
    rng = np.random.default_rng(0)
    true = rng.normal(size=200)
    predicted = true + 0.1 * rng.normal(size=200)
    clean = error(true, predicted)
    for size in (1e3, 1e12, 1e200):
        spoiled = true.copy()
        spoiled[:40] += size
        assert clean <= error(spoiled, predicted) < 4.0 * clean


@each_error
def test_weights_and_several_outputs(error):
    rng = np.random.default_rng(1)
    true, predicted = rng.normal(size=(2, 40, 2))
    counts = rng.integers(0, 4, 40)
    by_weight = error(true, predicted, sample_weight=counts, multioutput="raw_values")
    repeated = error(
        true.repeat(counts, axis=0), predicted.repeat(counts, axis=0), multioutput="raw_values"
    )
    np.testing.assert_allclose(by_weight, repeated, rtol=1e-10)
    each = [error(true[:, j], predicted[:, j]) for j in (0, 1)]
    assert error(true, predicted) == pytest.approx(np.mean(each))
    assert error(true, predicted, multioutput=[3.0, 1.0]) == pytest.approx(
        0.75 * each[0] + 0.25 * each[1]
    )
    assert error(true, true) == 0.0
    unit = error(3.0 * true, 3.0 * predicted) / error(true, predicted)
    assert unit == pytest.approx(9.0 if error is trimmed_mean_squared_error else 3.0)
    with pytest.raises(ValueError, match="number of outputs"):
        error(true, predicted[:, 0])
    with pytest.raises(ValueError, match="multioutput must be"):
        error(true, predicted, multioutput="mean")
    with pytest.raises(ValueError, match="multioutput must be a name or 2"):
        error(true, predicted, multioutput=[1.0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        error(true, predicted[1:])


def test_trimmed_error_counts_the_sample_at_the_limit_in_part():
    # Of squares 1, 4, 9, 16 the first 2.5 count: (1 + 4 + 4.5) / 2.5.
    found = trimmed_mean_squared_error([0.0] * 4, [1.0, -2.0, 3.0, 4.0], trim=0.375)
    assert found == pytest.approx(9.5 / 2.5)
    assert trimmed_mean_squared_error([0.0], [2.0], trim=0.0) == 4.0
    with pytest.raises(ValueError, match=r"trim must be in \[0, 1\)"):
        trimmed_mean_squared_error([0.0], [2.0], trim=1.0)


def test_scorers_are_the_negative_errors():
    X, y = data()
    model = RobustRegressor().fit(X, y)
    scorers = (neg_tau_error, neg_mad_error, neg_trimmed_mean_squared_error)
    for scorer, error in zip(scorers, ERRORS, strict=True):
        assert scorer(model, X, y) == -error(y, model.predict(X))


# -- the scaler --------------------------------------------------------------------------------


def test_scaler_is_location_and_tau_scale():
    X = np.random.default_rng(3).normal([5.0, -2.0], [3.0, 0.1], size=(500, 2))
    clean = MScaler().fit(X)
    np.testing.assert_allclose(clean.center_, [5.0, -2.0], atol=0.3)
    np.testing.assert_allclose(clean.scale_, [3.0, 0.1], rtol=0.1)
    for j in (0, 1):
        centre = rf.location(X[:, j], "tukey")
        assert clean.center_[j] == pytest.approx(centre, rel=1e-10)
        assert clean.scale_[j] == pytest.approx(rf.scale.tau_scale(X[:, j] - centre), rel=1e-10)
    # A fifth far out on one side: the centre hardly moves, which that of RobustScaler does.
    bad = X.copy()
    bad[:100] = 1e6
    moved = np.abs(MScaler().fit(bad).center_ - clean.center_) / clean.scale_
    theirs = np.abs(RobustScaler().fit(bad).center_ - RobustScaler().fit(X).center_) / clean.scale_
    assert np.all(moved < 0.15)
    assert np.all(moved < theirs)


def test_scaler_options_inverse_and_frames():
    X = np.random.default_rng(3).normal([5.0, -2.0], [3.0, 0.1], size=(50, 2))
    scaler = MScaler().fit(X)
    Z = scaler.transform(X)
    np.testing.assert_allclose(Z, (X - scaler.center_) / scaler.scale_, rtol=1e-12)
    np.testing.assert_allclose(scaler.inverse_transform(Z), X, rtol=1e-12)
    np.testing.assert_array_equal(
        MScaler(with_centering=False, with_scaling=False).fit_transform(X), X
    )
    frame = pd.DataFrame(X, columns=["a", "b"])
    out = MScaler().set_output(transform="pandas").fit_transform(frame)
    assert out.columns.tolist() == ["a", "b"]
    counts = np.arange(50) % 3
    weighted = MScaler().fit(X, sample_weight=counts)
    repeated = MScaler().fit(X.repeat(counts, axis=0))
    np.testing.assert_allclose(weighted.scale_, repeated.scale_, rtol=1e-9)
    assert MScaler().fit(np.ones((5, 1))).scale_.tolist() == [1.0]
    with pytest.raises(ValueError, match="2 features"):
        scaler.inverse_transform(X[:, :1])
