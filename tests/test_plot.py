"""The pictures: what is drawn where, what is refused, and that pyplot is left alone."""

import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

import robustfit as rf
from robustfit import plot
from robustfit.diagnostics import robust_distances

GOLDEN = Path(__file__).parent / "golden"


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


def overlaps(ax):
    """Return pairs of texts in the axes that cover each other."""
    ax.figure.draw_without_rendering()
    # That of an annotation would include its line.
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in ax.texts]
    return [
        (name, other)
        for i, (name, box) in enumerate(boxes)
        for other, second in boxes[:i]
        # Boxes have room above and below the letters.
        if box.padded(-1.5).overlaps(second.padded(-1.5))
    ]


def shades(ax):
    return next(c for c in ax.collections if c.get_array() is not None)


FIT_PLOTS = [plot.line, plot.weights, plot.residuals, plot.qq, plot.outlier_map]
REGIONS = ["regular", "good leverage", "vertical outlier", "bad leverage"]


# -- Axes in, Axes out -----------------------------------------------------------------------


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_draws_into_the_given_axes_and_leaves_pyplot_alone(draw, phones, ax):
    assert draw(phones, ax=ax) is ax
    assert ax.collections
    assert plt.get_fignums() == []
    ax.figure.draw_without_rendering()


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
    assert sorted(int(text) for text in texts(ax) if text not in REGIONS) == low.tolist()
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
    b = np.r_[np.linspace(-1.0, 1.0, 90), np.linspace(1e3, 2e3, 30)]
    fit = rf.irls(np.ones((120, 1)), b, "huber")
    plot.qq(fit, ax=ax, simulations=0)
    assert np.sum(fit.weights < plot.RINGED) == 30
    assert 10 <= len(texts(ax)) <= 20
    assert overlaps(ax) == []


@pytest.mark.parametrize("draw", FIT_PLOTS)
def test_omitted_rows_are_not_drawn_and_keep_their_number(draw, ax):
    data = rf.datasets.load("phones")
    b = data.b.copy()
    b[3] = np.nan
    fit = rf.irls(data.A, b, "tukey", nan_policy="omit")
    draw(fit, ax=ax)
    shaded = next(c for c in ax.collections if c.get_array() is not None)
    assert len(shaded.get_offsets()) == 23
    numbers = sorted(int(text) for text in texts(ax) if text not in REGIONS)
    assert numbers == np.flatnonzero(fit.weights < 0.5).tolist()
    ax.figure.draw_without_rendering()


def test_numbers_of_a_cluster_lie_apart_and_inside(ax):
    plot.residuals(fit_of("hbk"), ax=ax, colorbar=False)
    assert sorted(map(int, texts(ax))) == list(range(10))
    ax.figure.draw_without_rendering()
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


def test_gross_residuals_make_the_axis_logarithmic(ax):
    data = rf.datasets.load("phones")
    b = data.b.copy()
    b[3] = 1e9
    fit = rf.irls(data.A, b, "tukey")
    plot.residuals(fit, ax=ax)
    assert ax.get_yscale() == "asinh"
    ticks = ax.get_yticks()
    np.testing.assert_array_equal(ticks, -ticks[::-1])
    assert len(ticks) <= 13
    low, high = ax.get_ylim()
    assert low < fit.standardised.min() <= fit.standardised.max() < high
    ax.figure.draw_without_rendering()
    assert "1e8" in [label.get_text() for label in ax.get_yticklabels()]


def test_line_draws_a_gross_response_at_the_edge(ax):
    data = rf.datasets.load("phones")
    b = data.b.copy()
    b[3], b[5] = 1e9, -1e7
    plot.line(rf.irls(data.A, b, "tukey"), ax=ax)
    assert "(2 beyond the edges, drawn there)" in ax.get_ylabel()
    low, high = ax.get_ylim()
    y = np.asarray(shades(ax).get_offsets())[:, 1]
    assert low < y[5] == y.min() < y.max() == y[3] < high
    assert high - low < 1e4
    np.testing.assert_array_equal(np.delete(y, [3, 5]), np.delete(b, [3, 5]))


def test_names_from_data_are_text_and_not_mathematics(ax):
    data = rf.datasets.load("phones")
    long = "a name of $\\frac$ and many more letters than there is room for below an axis"
    fit = rf.irls(data.A, data.b, "tukey", names=["1", long])
    plot.line(fit, ax=ax, labels=["$\\nothing$ and a very long label"] * 24)
    ax.figure.draw_without_rendering()
    assert ax.get_xlabel().startswith("a name of $\\frac$")
    assert "…" in ax.get_xlabel()
    assert all("…" in text and len(text) <= 20 for text in texts(ax))
    assert overlaps(ax) == []


# -- outlier map -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hbk", "starsCYG", "stackloss"])
def test_outlier_map_has_four_named_regions(name, ax):
    fit = fit_of(name)
    plot.outlier_map(fit, ax=ax)
    far = robust_distances(fit.model_matrix)
    expected = np.c_[far.distance, fit.standardised]
    np.testing.assert_allclose(shades(ax).get_offsets(), expected)
    lines = sorted(float(np.ravel(line.get_ydata())[0]) for line in ax.lines[:3])
    assert lines == [-2.5, 0.0, 2.5]
    assert ax.lines[3].get_xdata()[0] == far.cutoff
    assert texts(ax)[:4] == REGIONS
    assert overlaps(ax) == []
    # Each name stands on its side of the lines.
    spots = [ax.transAxes.transform(text.get_position()) for text in ax.texts[:4]]
    x, y = ax.transData.inverted().transform(spots).T
    np.testing.assert_array_equal(x > far.cutoff, [False, True, False, True])
    np.testing.assert_array_equal(np.abs(y) > 2.5, [False, False, True, True])


def test_outlier_map_puts_infinite_distances_at_the_edge(ax):
    t = np.arange(20.0)
    A = np.c_[np.ones(20), t, 2.0 * t]
    A[7, 2] += 50.0
    plot.outlier_map(rf.irls(A, np.sin(9.0 * t), "huber"), ax=ax)
    assert np.isinf(robust_distances(A).distance[7])
    x = np.asarray(shades(ax).get_offsets())[:, 0]
    assert np.all(np.isfinite(x))
    assert np.argmax(x) == 7
    assert ax.get_xlabel() == "robust distance (right edge: infinite)"


# -- Q-Q -------------------------------------------------------------------------------------


def envelope(ax):
    (band,) = (c for c in ax.collections if isinstance(c, PolyCollection))
    vertices = band.get_paths()[0].vertices[:-1]
    half = len(vertices) // 2
    return vertices[:half], vertices[half:][::-1]


def test_qq_orders_residuals_against_normal_quantiles(phones, ax):
    plot.qq(phones, ax=ax, simulations=0)
    spots = np.asarray(shades(ax).get_offsets())
    order = np.argsort(phones.standardised)
    np.testing.assert_allclose(spots[:, 1], phones.standardised)
    # Hazen's positions.
    assert np.all(np.diff(spots[order, 0]) > 0.0)
    np.testing.assert_allclose(spots[order[0], 0], -2.0368, atol=1e-4)
    assert legend(ax) == ["normal", "weight < 0.5"]


def test_envelope_is_that_of_fits_to_normal_samples(ax):
    # Other samples, fitted one by one; and with fewer rows per coefficient than the envelope of
    # errors that were not fitted would allow for.
    data = rf.datasets.load("wood")
    fit = rf.irls(data.A, data.b, "tukey")
    plot.qq(fit, ax=ax, simulations=400)
    low, high = envelope(ax)
    rng = np.random.default_rng(5)
    again = rf.irls(data.A, rng.standard_normal((20, 400)), fit.loss)
    drawn = np.sort(again.resid / again.scale, axis=0)
    for edge, level in ((low, 0.025), (high, 0.975)):
        apart = np.abs(edge[:, 1] - np.quantile(drawn, level, axis=1))
        assert np.max(apart[2:-2]) < 0.35
    assert high[-1, 1] > 3.0


def test_envelope_of_many_rows_is_that_of_order_statistics(ax):
    rng = np.random.default_rng(3)
    n = 3000
    fit = rf.irls(np.ones((n, 1)), rng.standard_normal(n), "linear")
    plot.qq(fit, ax=ax)
    low, high = envelope(ax)
    assert len(low) < n
    # A uniform order statistic k of n has variance p (1 - p) / n, here at p = 0.9.
    at = np.argmin(np.abs(low[:, 0] - 1.2816))
    width = high[at, 1] - low[at, 1]
    # A normal sample that is divided by its own scale varies less: 0.3 / phi(z)^2 / n - z^2 / 2n.
    expected = 2.0 * 1.96 * np.sqrt((0.09 / 0.1755**2 - 1.2816**2 / 2.0) / n)
    np.testing.assert_allclose(width, expected, rtol=0.15)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "tau"},
        {"method": "smdm"},
        {"loss": "huber", "scale": "huber"},
        {"loss": "huber", "scale": 2.0, "var_weights": np.arange(1.0, 22.0)},
        {"leverage": True, "start": "ols", "scale": "matlab"},
        {"loss": "huber", "scale": lambda u: 1.0 + 0.0 * u[0]},
    ],
)
def test_every_kind_of_fit_has_an_envelope(options, ax):
    plot.qq(fit_of("stackloss", **{"loss": "tukey", **options}), ax=ax, simulations=5)
    low, high = envelope(ax)
    assert np.all(np.isfinite(low))
    assert np.all(low <= high)


def test_envelope_is_the_same_each_time(phones, ax):
    plot.qq(phones, ax=ax, simulations=20)
    other = Figure().subplots()
    plot.qq(phones, ax=other, simulations=20)
    np.testing.assert_array_equal(envelope(ax), envelope(other))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 1.0}, "level"), ({"simulations": 1.5}, "simulations"), ({"rng": "x"}, "rng")],
)
def test_qq_refuses_bad_options(options, message, phones):
    with pytest.raises((TypeError, ValueError), match=message):
        plot.qq(phones, **options)
    assert plt.get_fignums() == []


# -- convergence and diagnostics -------------------------------------------------------------


def test_convergence_draws_every_step(ax):
    steps = []
    fit_of("stackloss", callback=steps.append)
    plot.convergence(steps, ax=ax)
    t, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(t, np.arange(len(steps)) + 1)
    np.testing.assert_array_equal(y, [step.step for step in steps])
    assert ax.get_yscale() == "log"


def test_convergence_divides_the_iterations_of_the_guard(ax):
    steps = []
    fit_of("starsCYG", "welsch", callback=steps.append)
    plot.convergence(steps, ax=ax)
    restarts = sum(step.nit == 1 for step in steps)
    assert restarts > 2
    assert len(ax.lines) == restarts
    assert f"({restarts} iterations" in ax.get_xlabel()


def test_convergence_refuses_what_is_no_history(phones):
    with pytest.raises(ValueError, match="at least one step"):
        plot.convergence([])
    with pytest.raises(TypeError, match=r"callback=steps\.append"):
        plot.convergence(phones)
    assert plt.get_fignums() == []


def test_diagnostics_draws_four_pictures(phones):
    panels = plot.diagnostics(phones, simulations=5)
    assert [panel.get_title() for panel in panels] == [
        "Residuals",
        "Normal Q-Q",
        "Outlier map",
        "Weights",
    ]
    assert len(plt.get_fignums()) == 1
    assert all(overlaps(panel) == [] for panel in panels)
    given = Figure().subplots(2, 2)
    assert list(plot.diagnostics(phones, ax=given, simulations=0)) == list(given.ravel())
    with pytest.raises(ValueError, match="4 Axes"):
        plot.diagnostics(phones, ax=given[0])


@pytest.mark.parametrize("draw", [plot.qq, plot.outlier_map, plot.diagnostics])
def test_pictures_of_residuals_refuse_an_exact_fit(draw):
    A = np.c_[np.ones(9), np.arange(9.0)]
    with pytest.raises(ValueError, match=r"scale=0\.0"):
        draw(rf.irls(A, A @ [1.0, 2.0], "huber"))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_rows_can_be_drawn(n):
    t = np.arange(float(n))
    fit = rf.irls(np.c_[np.ones(n), t], np.cos(9.0 * t), "huber", scale=1.0)
    panels = plot.diagnostics(fit, simulations=5)
    panels[0].figure.draw_without_rendering()


def test_many_rows_are_drawn_as_an_image(ax):
    rng = np.random.default_rng(0)
    b = rng.standard_normal(2500)
    b[:300] += 20.0 * rng.random(300)
    plot.weights(rf.irls(np.ones((2500, 1)), b), ax=ax)
    assert all(c.get_rasterized() for c in ax.collections)
    assert overlaps(ax) == []


# -- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["line", "outlier_map", "qq"])
def test_image(name, phones, tmp_path):
    """Without text, which differs between versions of FreeType."""
    figure = Figure(figsize=(3.0, 2.4), dpi=60)
    ax = figure.subplots()
    getattr(plot, name)(phones, ax=ax, colorbar=False)
    ax.get_legend() and ax.get_legend().remove()
    ax.set(xlabel="", ylabel="", xticklabels=[], yticklabels=[])
    for text in list(ax.texts):
        text.remove()
    expected, actual = GOLDEN / f"plot_{name}.png", tmp_path / f"{name}.png"
    figure.savefig(expected if os.environ.get("ROBUSTFIT_UPDATE_GOLDEN") else actual)
    if not os.environ.get("ROBUSTFIT_UPDATE_GOLDEN"):
        copy = tmp_path / "expected.png"
        copy.write_bytes(expected.read_bytes())
        assert compare_images(copy, actual, tol=6.0) is None


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
    panels[0].figure.draw_without_rendering()


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


def test_atlas_has_a_panel_for_every_loss():
    panels = plot.atlas()
    assert len(panels) == len(rf.losses.LOSSES)
    for panel, name in zip(panels, rf.losses.LOSSES, strict=True):
        assert panel.get_title().startswith(name)
        for curve, kind in zip(panel.lines[1:4], ("rho", "psi", "weight"), strict=True):
            u, y = curve.get_data()
            np.testing.assert_array_equal(y, getattr(rf.get_loss(name), kind)(u))
    # In grey the curves differ by their dashes.
    assert len({line.get_linestyle() for line in panels[0].lines[:4]}) == 4


def test_atlas_of_some_losses(ax):
    (panel,) = plot.atlas(["tukey"], ax=ax)
    assert panel is ax
    # Empty places of the grid are taken away.
    panels = plot.atlas(list(rf.losses.LOSSES)[:7])
    assert len(panels[0].figure.axes) == 7
    with pytest.raises(ValueError, match="2 Axes"):
        plot.atlas(["tukey", "huber"], ax=ax)


def test_shades_and_colours_differ_in_grey():
    """A point gets darker with its weight, whatever the eye or printer makes of blue."""
    grey = plt.get_cmap("Blues")(np.linspace(0.0, 1.0, 11))[:, :3] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(grey) < -0.02)
