"""Fits by formula: the design against one written by hand, frames, missing rows, hypotheses."""

import datetime as dt
import decimal
import pickle
import re

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import interpolate, stats

import robustfit as rf
from robustfit.exceptions import RankWarning

N = 60
FORMULA = "y ~ x1 + C(g) + bs(x2, df=4) + `a b` + flag"


def make():
    rng = np.random.default_rng(3)
    columns = {
        "x1": rng.normal(size=N),
        "x2": rng.uniform(size=N),
        "g": np.array(list("cab") * (N // 3), dtype=object),
        "k": rng.integers(0, 3, N),
        "w": rng.integers(1, 4, N),
        "flag": rng.uniform(size=N) > 0.5,
        "a b": rng.normal(size=N),
    }
    y = 1.0 + 2.0 * columns["x1"] + 0.5 * (columns["g"] == "b") + np.sin(4.0 * columns["x2"])
    columns["y"] = y + 0.1 * rng.normal(size=N)
    columns["y"][5] = 100.0
    return columns


COLUMNS = make()
PANDAS = pd.DataFrame(COLUMNS, index=np.arange(100, 100 + N))
POLARS = pl.DataFrame(COLUMNS)

each_frame = pytest.mark.parametrize("frame", [PANDAS, POLARS], ids=["pandas", "polars"])


def by_hand():
    """Return the design of `FORMULA` without formulaic: SciPy's splines, 0 and 1 for levels."""
    x2 = COLUMNS["x2"]
    # df=4 cubic without intercept: one knot inside, at the median.
    knots = np.r_[[x2.min()] * 4, np.median(x2), [x2.max()] * 4]
    splines = interpolate.BSpline.design_matrix(x2, knots, 3).toarray()[:, 1:]
    g = COLUMNS["g"]
    return np.column_stack(
        [np.ones(N), COLUMNS["x1"], g == "b", g == "c", splines, COLUMNS["a b"], COLUMNS["flag"]]
    )


def with_gaps():
    frame = PANDAS.copy()
    frame.loc[110, "x1"] = np.nan
    frame.loc[111, "g"] = None
    frame.loc[112, "x2"] = np.inf
    return frame


# -- the design --------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [PANDAS, POLARS, COLUMNS, nw.from_native(POLARS)], ids=type)
def test_the_fit_is_that_of_the_design_by_hand(data):
    fit = rf.fit(FORMULA, data, "tukey")
    expected = rf.irls(by_hand(), COLUMNS["y"], "tukey")
    assert fit.names == (
        *("Intercept", "x1", "C(g)[T.b]", "C(g)[T.c]"),
        *(f"bs(x2, df=4)[{i}]" for i in (1, 2, 3, 4)),
        *("a b", "flag"),
    )
    assert np.max(np.abs(fit.x - expected.x) / expected.bse) < 1e-9
    np.testing.assert_allclose(fit.cov, expected.cov, rtol=1e-7)
    assert isinstance(fit, rf.FitResult)
    assert fit.outliers().tolist() == [5]


def test_options_go_to_irls():
    fit = rf.fit("y ~ x1 - 1", PANDAS, "huber", c=2.0, scale="huber", cov_type="H1")
    expected = rf.irls(PANDAS[["x1"]], PANDAS["y"], "huber", c=2.0, scale="huber", cov_type="H1")
    np.testing.assert_array_equal(fit.cov, expected.cov)
    assert fit.loss == expected.loss


def test_every_column_by_a_dot_functions_of_the_caller_and_quoted_names():
    assert rf.fit("y ~ .", PANDAS[["y", "x1", "x2"]]).names == ("Intercept", "x1", "x2")
    fit = rf.fit("np.exp(y / 100) ~ own(x1) + Q('a b')", PANDAS, context={"own": np.sin})
    np.testing.assert_allclose(fit.model_matrix[:, 1], np.sin(PANDAS["x1"]))
    np.testing.assert_allclose(fit.response, np.exp(PANDAS["y"] / 100.0))


def test_levels_that_do_not_occur_give_no_column():
    frame = PANDAS.assign(g=pd.Categorical(PANDAS["g"], categories=["c", "b", "a", "z"]))
    assert rf.fit("y ~ g", frame, "linear").names == ("Intercept", "g[T.b]", "g[T.a]")
    enum = POLARS.with_columns(pl.col("g").cast(pl.Enum(["c", "b", "a", "z"])))
    assert rf.fit("y ~ g", enum, "linear").names == ("Intercept", "g[T.b]", "g[T.a]")
    plain = POLARS.with_columns(pl.col("g").cast(pl.Categorical))
    assert rf.fit("y ~ g", plain, "linear").names == ("Intercept", "g[T.b]", "g[T.c]")


def test_nullable_types():
    frame = PANDAS.assign(
        x1=PANDAS["x1"].astype("Float64"),
        k=PANDAS["k"].astype("Int64"),
        flag=PANDAS["flag"].astype("boolean"),
    )
    frame.loc[[103, 104], "k"] = pd.NA
    frame.loc[104, "flag"] = pd.NA
    fit = rf.fit("y ~ x1 + C(k) + C(flag)", frame, nan_policy="omit")
    assert fit.names[2:] == ("C(k)[T.1]", "C(k)[T.2]", "C(flag)[T.True]")
    assert np.flatnonzero(np.isnan(fit.weights)).tolist() == [3, 4]
    again = rf.fit(
        "y ~ x1 + C(k) + C(flag)",
        pl.DataFrame(nw.from_native(frame).to_polars()),
        nan_policy="omit",
    )
    np.testing.assert_array_equal(again.x, fit.x)


# -- values per row ----------------------------------------------------------------------------


@each_frame
def test_weights_by_name_and_as_arrays(frame):
    counted = rf.fit("y ~ x1", frame, freq_weights="w")
    repeated = rf.fit("y ~ x1", PANDAS.loc[PANDAS.index.repeat(PANDAS["w"])])
    assert np.max(np.abs(counted.x - repeated.x) / counted.bse) < 1e-8
    by_name = rf.fit("y ~ x1", frame, var_weights="w", groups="g", cov_type="cluster")
    A = np.column_stack([np.ones(N), COLUMNS["x1"]])
    options = {"var_weights": COLUMNS["w"], "groups": COLUMNS["g"], "cov_type": "cluster"}
    expected = rf.irls(A, COLUMNS["y"], **options)
    np.testing.assert_allclose(by_name.cov, expected.cov, rtol=1e-12)
    np.testing.assert_array_equal(rf.fit("y ~ x1", frame, **options).cov, by_name.cov)


@each_frame
def test_offset(frame):
    fit = rf.fit("y ~ x1", frame, offset="x2")
    A = np.column_stack([np.ones(N), COLUMNS["x1"]])
    np.testing.assert_array_equal(fit.x, rf.irls(A, COLUMNS["y"] - COLUMNS["x2"]).x)
    # Prediction adds it, and so do the limits and the table of rows.
    np.testing.assert_allclose(fit.predict(frame), A @ fit.x + COLUMNS["x2"], rtol=1e-12)
    limits = fit.predict(frame, interval="confidence")
    np.testing.assert_allclose(limits[:, 1:].mean(axis=1), fit.predict(frame), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(fit.rows()["fitted"]), fit.predict(frame), rtol=1e-12)
    given = rf.fit("y ~ x1", frame, offset=COLUMNS["x2"])
    np.testing.assert_array_equal(given.x, fit.x)
    with pytest.raises(ValueError, match="predict needs one"):
        given.predict(frame)
    np.testing.assert_array_equal(given.predict(frame, offset="x2"), fit.predict(frame))
    assert "offset x2" in fit.summary()


def test_missing_rows():
    frame = with_gaps()
    fit = rf.fit(FORMULA, frame, nan_policy="omit")
    rest = rf.fit(FORMULA, frame.drop(index=[110, 111, 112]))
    np.testing.assert_array_equal(fit.x, rest.x)
    assert np.flatnonzero(np.isnan(fit.weights)).tolist() == [10, 11, 12]
    np.testing.assert_array_equal(np.delete(fit.weights, [10, 11, 12]), rest.weights)
    assert np.flatnonzero(np.isnan(fit.predict(frame))).tolist() == [10, 11, 12]
    # A row counts as missing only for what is used.
    assert rf.fit("y ~ w", frame).nobs == N
    np.testing.assert_array_equal(
        rf.fit(FORMULA, pl.from_pandas(frame), nan_policy="omit").x, fit.x
    )
    # Rows without weight or cluster are left out, too.
    gaps = PANDAS.assign(
        w=PANDAS["w"].where(PANDAS.index > 101), g=PANDAS["g"].where(PANDAS.index > 100)
    )
    fit = rf.fit(
        "y ~ x1", gaps, freq_weights="w", groups="g", cov_type="cluster", nan_policy="omit"
    )
    assert np.flatnonzero(np.isnan(fit.weights)).tolist() == [0, 1]


def test_values_that_a_transform_makes_nonfinite():
    with pytest.raises(ValueError, match=r"log\(x1\) is not finite in \d+ rows, the first is row"):
        rf.fit("y ~ log(x1)", PANDAS)
    fit = rf.fit("y ~ log(x1)", PANDAS, nan_policy="omit")
    assert fit.nobs == np.sum(COLUMNS["x1"] > 0.0)


# -- the result --------------------------------------------------------------------------------


@each_frame
def test_predict_encodes_as_the_fit_did(frame):
    fit = rf.fit(FORMULA, frame)
    np.testing.assert_allclose(fit.predict(frame), fit.fittedvalues, rtol=1e-12)
    # One level, another order, no response: the knots and levels are those of the fit.
    few = frame[40:43]
    few = few.drop(columns="y") if frame is PANDAS else few.drop("y")
    np.testing.assert_allclose(fit.predict(few), fit.fittedvalues[40:43], rtol=1e-12)
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.predict(few), fit.predict(few))
    assert again.summary() == fit.summary()
    A = fit.model_matrix[40:43]
    expected = rf.FitResult.predict(fit, A, interval="prediction", level=0.9, var_weights=4.0)
    given = {"interval": "prediction", "level": 0.9, "var_weights": 4.0}
    np.testing.assert_allclose(fit.predict(few, **given), expected, rtol=1e-12)
    np.testing.assert_allclose(fit.predict(A, **given), expected, rtol=1e-12)


@each_frame
def test_unknown_levels_and_missing_columns(frame):
    fit = rf.fit(FORMULA, frame)
    few = {name: values[:4].copy() for name, values in COLUMNS.items()}
    few["g"][2] = "z"
    with pytest.raises(ValueError, match=r"column 'g' has levels .*'z', the first in row 2; .*'a'"):
        fit.predict(few)
    with pytest.raises(ValueError, match="names 'x1', which is no column"):
        fit.predict(frame[["y", "x2"]])
    # Levels of an expression.
    fit = rf.fit("y ~ C(k + 1)", frame)
    with pytest.raises(ValueError, match="categories outside"):
        fit.predict({"k": [7, 1]})


def test_hypotheses_by_name():
    fit = rf.fit(FORMULA, PANDAS, "tukey")
    R = np.zeros((2, len(fit.x)))
    R[0, [1, 2]], R[1, 3] = (1.0, -1.0), 1.0
    expected = fit.wald_test(R, [0.5, 0.0])
    assert fit.wald_test("x1 - C(g)[T.b] = 0.5, C(g)[T.c]") == expected
    assert fit.wald_test(["x1 = C(g)[T.b] + 0.5", "C(g)[T.c] = 0"]) == expected
    assert fit.wald_test({"x1 - C(g)[T.b]": 0.5, "C(g)[T.c]": 0.0}) == expected
    table = fit.contrasts(["x1 - C(g)[T.b] = 0.5", "`a b`"], level=0.9)
    assert table.index.tolist() == ["x1 - C(g)[T.b] = 0.5", "`a b`"]
    first = table.iloc[0]
    assert first["estimate"] == pytest.approx(fit.x[1] - fit.x[2] - 0.5)
    v = fit.cov[1, 1] + fit.cov[2, 2] - 2.0 * fit.cov[1, 2]
    assert first["std_error"] == pytest.approx(np.sqrt(v), rel=1e-9)
    half = stats.t.ppf(0.95, fit.df_t) * np.sqrt(v)
    assert first["high"] - first["estimate"] == pytest.approx(half, rel=1e-9)
    assert first["pvalue"] == pytest.approx(2 * stats.t.sf(abs(first["t"]), fit.df_t), rel=1e-9)
    own = fit.contrasts("`a b`").iloc[0]
    np.testing.assert_allclose(own, fit.to_frame().loc["a b"], rtol=1e-9)


@pytest.mark.parametrize(
    ("hypothesis", "message"),
    [("x9 = 1", "'x9', which is no coefficient"), ("x1 = = 2", "cannot be read"), ("", "nothing")],
)
def test_hypotheses_that_cannot_be_read(hypothesis, message):
    with pytest.raises(ValueError, match=message):
        rf.fit("y ~ x1", PANDAS).wald_test(hypothesis)


def test_frames_of_the_library_of_the_data():
    fit, other = rf.fit(FORMULA, PANDAS), rf.fit(FORMULA, POLARS)
    assert fit.to_frame().loc["x1", "estimate"] == fit.x[1]
    assert fit.rows().loc[105, "outlier"]
    assert fit.rows().index.equals(PANDAS.index)
    assert isinstance(other.to_frame(), pl.DataFrame)
    assert other.to_frame()["term"].to_list() == list(fit.names)
    assert other.rows()["weight"].to_numpy() == pytest.approx(fit.weights)
    assert fit.summary().splitlines()[1] == f"formula {FORMULA}"
    assert FORMULA in fit._repr_html_()
    assert fit.to_dict()["formula"] == FORMULA


# -- anova -------------------------------------------------------------------------------------


def test_anova_of_nested_fits():
    full, middle, small = (
        rf.fit(f, PANDAS, "huber") for f in ("y ~ x1 + C(g) + x2", "y ~ x1 + C(g)", "y ~ x1")
    )
    table = rf.anova(full, small, middle)
    assert table.labels == ("y ~ x1", "y ~ x1 + C(g)", "y ~ x1 + C(g) + x2")
    np.testing.assert_array_equal(table.column("df"), [np.nan, 2.0, 1.0])
    wald, deviance = middle.compare(small), middle.compare(small, "deviance")
    assert table.column("wald")[1] == wald["statistic"]
    assert table.column("deviance_pvalue")[1] == deviance["pvalue"]
    assert "y ~ x1 + C(g) + x2" in str(table)
    assert table.to_dict()["wald"][0] is None
    # Fits of irls, too.
    A = full.model_matrix
    np.testing.assert_allclose(
        rf.anova(rf.irls(A, full.response, "huber"), small).values,
        rf.anova(full, small).values,
        rtol=1e-6,
    )


def test_anova_of_the_terms():
    fit = rf.fit(FORMULA, PANDAS)
    table = rf.anova(fit)
    assert table.labels == ("Intercept", "x1", "C(g)", "bs(x2, df=4)", "a b", "flag")
    assert table.column("df").tolist() == [1, 1, 2, 4, 1, 1]
    assert table.column("F")[1] == pytest.approx(fit.tvalues[1] ** 2, rel=1e-9)
    assert table.column("pvalue")[2] == fit.wald_test("C(g)[T.b], C(g)[T.c]")["pvalue"]
    with pytest.raises(ValueError, match="name must be one of df"):
        table.column("t")


def test_anova_refuses():
    fit = rf.fit("y ~ x1", PANDAS)
    with pytest.raises(ValueError, match="one result of fit, or two"):
        rf.anova()
    with pytest.raises(TypeError, match="must be results"):
        rf.anova(fit, 3)
    with pytest.raises(ValueError, match="not of the same rows"):
        rf.anova(rf.fit("y ~ x1 + x2", with_gaps(), nan_policy="omit"), fit)
    with pytest.raises(ValueError, match="nested"):
        rf.anova(fit, rf.fit("y ~ x2 + flag", PANDAS))


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x9", "'x9', which is no column"),
        ("y ~ flagg", "did you mean 'flag'"),
        ("y ~ foo(x1)", "'foo', which is no column of data and no function"),
        ("y ~ x1 +", "Operator `\\+`"),
        ("y ~ np.nothing(x1)", "no attribute 'nothing'"),
        ("y ~ bs(x1, df=2)", "`df` must be greater"),
        ("~ x1", "one response"),
        ("x1 + x2", "one response"),
        ("", "one response"),
        ("y ~ x1 | x2", "one response"),
        ("y + x1 ~ x2", "gives y, x1"),
        ("C(g) ~ x1", "must have one response of numbers"),
        ("g ~ x1", "column 'g' must hold numbers, but there is text in 60 of 60 rows"),
        ("y ~ 0", "must have a term"),
    ],
)
def test_formulas_that_cannot_be_used(formula, message):
    with pytest.raises(ValueError, match=message):
        rf.fit(formula, PANDAS)


def changed(name, values):
    frame = PANDAS.astype({name: object})
    frame[name] = values
    return frame


def test_text_among_numbers():
    values = PANDAS["x1"].astype(object).copy()
    values.iloc[7] = "abc"
    for formula in ("y ~ x1", "x1 ~ y"):
        with pytest.raises(ValueError, match=r"column 'x1' .* in 1 of 60 rows, .* row 7: 'abc'"):
            rf.fit(formula, changed("x1", values))
    with pytest.raises(ValueError, match=r"text in all of 60 rows.*C\(x1\)"):
        rf.fit("y ~ x1", changed("x1", PANDAS["x1"].astype(str)))
    with pytest.raises(ValueError, match="column 'x1' holds dates"):
        rf.fit("y ~ x1", changed("x1", pd.date_range("2020-01-01", periods=N)))


def test_missing_values_are_an_error_that_names_the_column():
    frame = with_gaps()
    with pytest.raises(
        ValueError, match=r"column 'x1' is missing or infinite in 1 of 60 .* row 10"
    ):
        rf.fit("y ~ x1", frame)
    with pytest.raises(ValueError, match="column 'g' is missing"):
        rf.fit("y ~ g", pl.from_pandas(frame))
    with pytest.raises(ValueError, match="column 'x1' is missing or infinite in all 60 rows"):
        rf.fit("y ~ x1", PANDAS.assign(x1=np.nan), nan_policy="omit")
    with pytest.raises(ValueError, match="must have a row"):
        rf.fit("y ~ x1", PANDAS[:0])


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"freq_weights": "v"}, "freq_weights names 'v', which is no column"),
        (TypeError, {"var_weights": "g"}, "var_weights must hold real numbers, but column 'g'"),
        (ValueError, {"offset": [1.0, 2.0]}, r"offset must be a column or have shape \(60,\)"),
        (ValueError, {"nan_policy": "drop"}, "nan_policy must be one of raise, omit"),
        (TypeError, {"names": ["a"]}, "names cannot be given"),
        (TypeError, {"foo": 1}, "foo"),
    ],
)
def test_options_that_do_not_fit(error, options, message):
    with pytest.raises(error, match=message):
        rf.fit("y ~ x1", PANDAS, **options)


def test_data_that_are_no_frame():
    for data in ([1.0, 2.0], POLARS.lazy(), None):
        with pytest.raises(TypeError, match="data must be a data frame in memory"):
            rf.fit("y ~ x1", data)
    twice = pd.concat([PANDAS, PANDAS["x1"]], axis=1)
    for data in (twice, {"y": [1.0, 2.0], "x1": [1.0]}):
        with pytest.raises(ValueError, match="data must be a data frame in memory"):
            rf.fit("y ~ x1", data)
    with pytest.raises(TypeError, match="formula must be text"):
        rf.fit(3, PANDAS)


def test_warnings_are_those_of_irls_and_inputs_are_not_modified():
    before = PANDAS.copy(deep=True)
    with pytest.warns(RankWarning, match="rank 2 with 3 columns") as caught:
        rf.fit("y ~ x1 + {2 * x1}", PANDAS)
    assert caught[0].filename == __file__
    pd.testing.assert_frame_equal(PANDAS, before)


def test_what_pandas_aligns_is_refused_where_the_index_is_another():
    other = PANDAS["x2"].sort_index(ascending=False)
    with pytest.raises(ValueError, match="offset has another index than data"):
        rf.fit("y ~ x1", PANDAS, "linear", offset=other)
    with pytest.raises(ValueError, match="column 'x2' has another index than 'y'"):
        rf.fit("y ~ x2", {"y": PANDAS["y"], "x2": other}, "linear")
    fit = rf.fit("y ~ x1", PANDAS, "linear", offset=PANDAS["x2"])
    assert np.array_equal(fit.x, rf.fit("y ~ x1", POLARS, "linear", offset=COLUMNS["x2"]).x)
    parts = rf.fit("y ~ x1", {"y": PANDAS["y"], "x1": PANDAS["x1"]}, "linear")
    assert parts.rows().index.equals(PANDAS.index)


def test_masked_values_are_missing():
    mask = np.arange(N) < 3
    columns = {**COLUMNS, "x1": np.ma.array(COLUMNS["x1"], mask=mask)}
    with pytest.raises(ValueError, match="column 'x1' is missing or infinite in 3 of 60"):
        rf.fit("y ~ x1", columns, "linear")
    of_rest = rf.fit("y ~ x1", PANDAS[~mask], "linear")
    for data, weights in ((columns, None), (COLUMNS, np.ma.array(np.ones(N, int), mask=mask))):
        fit = rf.fit("y ~ x1", data, "linear", freq_weights=weights, nan_policy="omit")
        assert np.allclose(fit.x, of_rest.x, rtol=1e-12)


def test_columns_by_name_keep_their_levels():
    levels = pd.Categorical(COLUMNS["g"], ["c", "zz", "a", "b"])
    assert rf.fit("y ~ g", {**COLUMNS, "g": levels}).names == ("Intercept", "g[T.a]", "g[T.b]")


def test_decimals_are_numbers_and_names_need_not_be_text():
    rounded = COLUMNS["x1"].round(3)
    frame = pd.DataFrame({"y": COLUMNS["y"], 7: [decimal.Decimal(f"{v:.3f}") for v in rounded]})
    fit = rf.fit("y ~ .", frame, "linear")
    assert fit.names == ("Intercept", "7")
    assert np.array_equal(fit.x, rf.fit("y ~ x", {"y": COLUMNS["y"], "x": rounded}, "linear").x)
    assert np.allclose(fit.predict(frame), fit.fittedvalues)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pl.Series([[1.0, 2.0]] * N), r"column 'q' holds List"),
        (pl.Series([dt.time(i % 24) for i in range(N)]), r"holds datetime.time\(0, 0\), wh"),
        (pd.period_range("2020", periods=N, freq="M"), r"column 'q' holds Period"),
        (COLUMNS["x1"] + 1j, "must give real numbers, got complex"),
    ],
    ids=["list", "time", "period", "complex"],
)
def test_columns_that_are_neither_numbers_nor_text(values, message):
    polars = isinstance(values, pl.Series)
    frame = POLARS.with_columns(q=values) if polars else PANDAS.assign(q=values)
    with pytest.raises(ValueError, match=message):
        rf.fit("y ~ x1 + q", frame)


def test_predict_refuses_other_kinds_and_lengths():
    fit = rf.fit("y ~ x1 + `a b` + log(w)", PANDAS, "linear", offset="x2")
    row = {"x1": [1.0], "a b": [1.0], "w": [1.0], "x2": [0.0]}
    for name, value in (("x1", "1"), ("a b", "?"), ("x1", pd.Timestamp(0))):
        with pytest.raises(ValueError, match=f"column '{name}' must hold numbers, as in the fit"):
            fit.predict({**row, name: [value]})
    with pytest.raises(ValueError, match=r"offset must be a column of numbers or have shape \(1,"):
        fit.predict(row, offset=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"var_weights must be a column of numbers or have shape"):
        fit.predict(row, interval="prediction", var_weights=[1.0, 2.0])
    assert np.isclose(fit.predict(row, offset=2.0), fit.predict(row) + 2.0)


def test_a_factor_of_one_level_is_refused_by_name():
    # formulaic gives it no column, and the fit was one without it.
    data = {"y": [1.0, 2.0, 4.0, 8.0], "x": [0.0, 1.0, 2.0, 4.0], "g": ["a"] * 4}
    for formula, term in (("y ~ x + g", "g"), ("y ~ x + C(g)", "C(g)"), ("y ~ x * g", "g")):
        with pytest.raises(
            ValueError, match=rf"term {re.escape(term)} has no column.*single level"
        ):
            rf.fit(formula, data)
    # Without an intercept it is one.
    assert rf.fit("y ~ 0 + x + g", data).names == ("x", "g[a]")


def test_anova_says_where_the_losses_differ():
    data = rf.datasets.load("stackloss").columns
    full = rf.fit("stack_loss ~ air_flow + water_temp", data, "tukey")
    alike = rf.fit("stack_loss ~ air_flow", data, "tukey")
    other = rf.fit("stack_loss ~ air_flow", data, "huber")
    assert "losses" not in rf.anova(full, alike).note
    assert "losses differ" in rf.anova(full, other).summary()
    assert "Huber(c=1.345), Tukey(c=4.68506)" in rf.anova(full, other).note
