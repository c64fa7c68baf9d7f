"""The pictures: what is drawn where, what is refused, and that pyplot is left alone."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import robustfit as rf
from robustfit import plot


@pytest.fixture(autouse=True)
def agg():
    with plt.rc_context({"backend": "agg"}):
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def phones():
    data = rf.datasets.load("phones")
    return rf.irls(data.A, data.b, "tukey")


def fit_of(name, loss="tukey", **options):
    data = rf.datasets.load(name)
    return rf.irls(data.A, data.b, loss, **options)


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


FIT_PLOTS = [plot.line, plot.weights, plot.residuals]


# -- Axes in, Axes out -----------------------------------------------------------------------


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_draws_into_the_given_axes_and_leaves_pyplot_alone(draw, phones, ax):
    assert draw(phones, ax=ax) is ax
    assert ax.collections
    assert plt.get_fignums() == []
    ax.figure.canvas.draw()


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_opens_one_figure_without_axes(draw, phones):
    ax = draw(phones)
    assert isinstance(ax, Axes)
    assert [plt.gcf()] == [ax.figure]
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_refusal_opens_no_figure(draw):
    with pytest.raises(TypeError, match="fit must be a FitResult"):
        draw(np.zeros(3))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_refuses_what_does_not_fit(draw, phones, ax):
    with pytest.raises(TypeError, match="ax must be a matplotlib Axes"):
        draw(phones, ax=plt)
    with pytest.raises(ValueError, match="labels must have length 24, got 2"):
        draw(phones, ax=ax, labels=["a", "b"])


# -- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_shades_every_row_and_numbers_those_of_low_weight(draw, phones, ax):
    draw(phones, ax=ax)
    shaded = next(c for c in ax.collections if c.get_array() is not None)
    np.testing.assert_array_equal(shaded.get_array(), phones.weights)
    assert shaded.get_clim() == (0.0, 1.0)
    low = np.flatnonzero(phones.weights < plot.RINGED)
    assert sorted(map(int, texts(ax))) == low.tolist()
    rings = next(c for c in ax.collections if c.get_label() == "weight < 0.5")
    assert len(rings.get_offsets()) == len(low)


def test_labels_stand_for_numbers(phones, ax):
    plot.weights(phones, ax=ax, labels=[f"year {1950 + i}" for i in range(24)])
    assert "year 1964" in texts(ax)


def test_no_rings_where_every_row_is_believed(ax):
    fit = fit_of("phones", "linear")
    plot.line(fit, ax=ax)
    assert texts(ax) == []
    assert "weight < 0.5" not in legend(ax)


def test_at_most_twenty_rows_are_numbered(ax):
    b = np.r_[np.linspace(-1.0, 1.0, 90), np.full(30, 1e3)]
    fit = rf.irls(np.ones((120, 1)), b, "huber")
    plot.weights(fit, ax=ax)
    assert np.sum(fit.weights < plot.RINGED) == 30
    assert len(texts(ax)) == 20


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_omitted_rows_are_not_drawn_and_keep_their_number(draw, ax):
    data = rf.datasets.load("phones")
    b = data.b.copy()
    b[3] = np.nan
    fit = rf.irls(data.A, b, "tukey", nan_policy="omit")
    draw(fit, ax=ax)
    shaded = next(c for c in ax.collections if c.get_array() is not None)
    assert len(shaded.get_offsets()) == 23
    assert sorted(map(int, texts(ax))) == np.flatnonzero(fit.weights < 0.5).tolist()
    ax.figure.canvas.draw()


def test_numbers_of_a_cluster_lie_apart_and_inside(ax):
    plot.residuals(fit_of("hbk"), ax=ax, colorbar=False)
    assert sorted(map(int, texts(ax))) == list(range(10))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert ax.bbox.containsx(box.x0)
        assert ax.bbox.containsx(box.x1)
        assert ax.bbox.containsy(box.y0)
        assert ax.bbox.containsy(box.y1)


# -- line ------------------------------------------------------------------------------------


def test_line_draws_both_lines_and_the_band(phones, ax):
    plot.line(phones, ax=ax)
    assert legend(ax) == ["least squares", "robust (tukey)", "95 % confidence band", "weight < 0.5"]
    data = rf.datasets.load("phones")
    expected = np.linalg.lstsq(data.A, data.b, rcond=None)[0], phones.x
    for drawn, x in zip(ax.lines, expected, strict=True):
        t, y = drawn.get_data()
        assert (t[0], t[-1]) == (50.0, 73.0)
        np.testing.assert_allclose(y, x[0] + x[1] * t, rtol=1e-9, atol=1e-9)
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    _, low, high = phones.predict([[1.0, 50.0]], interval="confidence")[0]
    at_left = band.get_paths()[0].vertices
    at_left = at_left[at_left[:, 0] == 50.0, 1]
    np.testing.assert_allclose([at_left.min(), at_left.max()], [low, high])


def test_a_wide_band_does_not_squeeze_the_data(phones, ax):
    plot.line(phones, ax=ax, interval=None)
    limits = ax.get_ylim()
    other = Figure().subplots()
    plot.line(phones, ax=other, interval="prediction", level=1.0 - 1e-9)
    assert other.get_ylim() == limits


def test_line_weights_count_in_the_least_squares_line(ax):
    data = rf.datasets.load("phones")
    counts = np.arange(24) % 3 + 1
    plot.line(rf.irls(data.A, data.b, freq_weights=counts), ax=ax)
    t, y = ax.lines[0].get_data()
    x = np.polynomial.Polynomial.fit(data.A[:, 1], data.b, 1, w=np.sqrt(counts))
    np.testing.assert_allclose(y, x(t), rtol=1e-9)


def test_line_options(phones, ax):
    plot.line(phones, ax=ax, interval=None, ols=False, colorbar=False)
    assert legend(ax) == ["robust (tukey)", "weight < 0.5"]
    assert ax.figure.axes == [ax]
    plot.line(phones, ax=ax, interval="prediction", level=0.5)
    assert "50 % prediction band" in legend(ax)


def test_line_through_the_origin(ax):
    t = np.arange(1.0, 11.0)
    b = 2.0 * t + np.cos(9.0 * t)
    plot.line(rf.irls(t[:, None], b, "huber"), ax=ax)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), (t @ b) / (t @ t) * np.linspace(1, 10, 200))


def test_line_without_a_covariance_has_no_band(ax):
    fit = rf.irls([[1.0, 0.0], [1.0, 1.0]], [1.0, 3.0], "linear")
    plot.line(fit, ax=ax)
    assert legend(ax) == ["least squares", "robust (linear)"]


@pytest.mark.parametrize("name", ["stackloss", "hbk"])
def test_line_refuses_several_variables(name):
    with pytest.raises(ValueError, match="one column that varies"):
        plot.line(fit_of(name))
    assert plt.get_fignums() == []


def test_line_refuses_bad_options(phones):
    with pytest.raises(ValueError, match="level"):
        plot.line(phones, level=1.5)
    with pytest.raises(ValueError, match="interval"):
        plot.line(phones, interval="tolerance")
    assert plt.get_fignums() == []


# -- weights and residuals -------------------------------------------------------------------


def test_weights_by_row(phones, ax):
    plot.weights(phones, ax=ax)
    shaded = next(c for c in ax.collections if c.get_array() is not None)
    np.testing.assert_array_equal(shaded.get_offsets(), np.c_[np.arange(24), phones.weights])


def test_residuals_are_divided_by_the_scale(phones, ax):
    plot.residuals(phones, ax=ax)
    shaded = next(c for c in ax.collections if c.get_array() is not None)
    expected = np.c_[phones.fittedvalues, phones.resid / phones.scale]
    np.testing.assert_allclose(shaded.get_offsets(), expected)
    assert sorted(line.get_ydata()[0] for line in ax.lines) == [-2.5, 0.0, 2.5]


def test_residuals_refuse_an_exact_fit():
    A = np.c_[np.ones(9), np.arange(9.0)]
    with pytest.raises(ValueError, match=r"scale=0\.0"):
        plot.residuals(rf.irls(A, A @ [1.0, 2.0], "huber"))
    assert plt.get_fignums() == []


# -- losses ----------------------------------------------------------------------------------


def test_every_registered_loss_can_be_drawn():
    names = sorted(rf.losses.LOSSES)
    panels = plot.loss(names, kinds=("rho", "psi", "weight", "dpsi"))
    assert len(panels) == 4
    for panel, kind in zip(panels, ("rho", "psi", "weight", "dpsi"), strict=True):
        curves = panel.lines[: len(names)]
        for name, curve in zip(names, curves, strict=True):
            u, y = curve.get_data()
            np.testing.assert_array_equal(y, getattr(rf.get_loss(name), kind)(u))
    panels[0].figure.canvas.draw()


def test_loss_draws_into_given_axes(ax):
    (panel,) = plot.loss(rf.losses.Welsch(c=2.0), ax=ax, kinds=["psi"], limit=3.0)
    assert panel is ax
    assert legend(ax) == ["welsch, c = 2"]
    assert ax.lines[0].get_xdata()[[0, -1]].tolist() == [-3.0, 3.0]
    given = Figure().subplots(1, 3)
    assert list(plot.loss("huber", ax=given)) == list(given)
    assert plt.get_fignums() == []


def test_loss_of_a_class_without_name(ax):
    class Mine(rf.losses.Welsch):
        name = ""

    plot.loss(Mine(c=2.0), ax=ax, kinds=["rho"])
    assert legend(ax) == ["Mine, c = 2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": []}, "at least one loss"),
        ({"losses": "nothing"}, "loss='nothing' is unknown"),
        ({"losses": "huber", "kinds": "rho"}, "kinds must be some of"),
        ({"losses": "huber", "kinds": ["rho", "phi"]}, "kinds must be some of"),
        ({"losses": "huber", "kinds": []}, "kinds must be some of"),
        ({"losses": "huber", "limit": -1.0}, "limit must be positive"),
        ({"losses": "huber", "ax": Figure().subplots()}, "3 Axes"),
    ],
)
def test_loss_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot.loss(**arguments)
    assert plt.get_fignums() == []
