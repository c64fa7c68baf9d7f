"""The parts of the nonlinear fit: bent residuals, variable projection, blocks, the search."""

import dataclasses
import signal

import numpy as np
import pytest
from nist import NONLINEAR
from scipy import integrate, optimize, sparse, stats
from scipy.sparse.linalg import aslinearoperator

from robustfit import curve_fit, get_loss, linalg, scipy_loss
from robustfit.nonlinear import _blocks, _descent, _front, _search, _separable, _together
from robustfit.nonlinear._problem import FAR, Problem

T = np.linspace(0.0, 3.0, 24)
Y = 2.0 * np.exp(-1.5 * T) + 0.3 + 0.05 * np.sin(40.0 * T)


class Residuals:
    """Of an exponential with an offset; counts its calls."""

    def __init__(self, y=Y):
        self.y, self.calls = y, 0

    def __call__(self, x):
        self.calls += 1
        return x[0] * np.exp(-x[1] * T) + x[2] - self.y


def jacobian(x):
    e = np.exp(-x[1] * T)
    return np.column_stack([e, -x[0] * T * e, np.ones_like(T)])


def problem(fun=None, jac="3-point", x0=(1.0, 1.0, 0.0), **options):
    x0 = np.array(x0)
    free = np.full(len(x0), np.inf)
    n = options.pop("n", len(T))
    return Problem(fun or Residuals(), jac, x0, -free, free, n=n, **options)


# -- residuals and derivatives -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("2-point", 1e-5), ("3-point", 1e-8), ("cs", 1e-14)]
)
def test_differences_are_derivatives(kind, tolerance):
    x = np.array([2.0, 1.5, 0.1])
    found = problem(jac=kind).jacobian(x)
    np.testing.assert_allclose(found, jacobian(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["2-point", "3-point"])
def test_differences_stay_within_the_bounds(kind):
    seen = []

    def fun(x):
        seen.append(x.copy())
        return Residuals()(x)

    low, high = np.array([2.0, 0.0, 0.0]), np.array([3.0, 1.5, 1.0])
    bounded = dataclasses.replace(problem(fun, kind), lower=low, upper=high)
    x = np.array([2.0, 1.5, 0.5])
    np.testing.assert_allclose(bounded.jacobian(x), jacobian(x), atol=1e-4)
    assert np.all(seen >= low)
    assert np.all(seen <= high)


def test_a_unit_divides_residuals_and_derivatives():
    x = np.array([2.0, 1.5, 0.2])
    plain, halved = problem(), problem(unit=2.0)
    np.testing.assert_array_equal(halved.residuals(x), plain.residuals(x) / 2.0)
    np.testing.assert_allclose(halved.jacobian(x), plain.jacobian(x) / 2.0, rtol=1e-12)


@pytest.mark.parametrize("error", [OverflowError, ZeroDivisionError, ValueError])
def test_a_model_that_fails_has_far_residuals(error):
    def fun(x):
        if x[0] > 1.0:
            raise error("out of its domain")
        return Residuals()(x)

    one = problem(fun)
    assert np.all(one.residuals(np.array([2.0, 1.0, 0.0])) == FAR)
    assert np.all(one.residuals(np.array([0.5, 1.0, 0.0])) < 10.0)


def test_other_errors_of_a_model_are_seen():
    def fun(x):
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        problem(fun).residuals(np.ones(3))


def test_a_point_is_evaluated_once():
    fun = Residuals()
    one = problem(fun)
    for _ in range(3):
        one.residuals(np.ones(3))
        one.norms(np.ones(3))
    assert fun.calls == one.evaluations == 1


# -- bent residuals ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["welsch", "huber", "tukey", "cauchy", "pseudo_huber"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_squares_of_bent_residuals_are_the_loss(name, block):
    loss, x, scale = get_loss(name), np.array([1.0, 0.7, 0.4]), 0.07
    one = problem(n=len(T) // block, block=block)
    fun, _ = _descent.bent(one, loss, scale)
    u = np.linalg.norm(Residuals()(x).reshape(-1, block), axis=1) / scale
    expected = 2.0 * scale**2 * np.sum(loss.rho(u))
    assert np.sum(fun(x) ** 2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["welsch", "huber", "cauchy"])
@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, aslinearoperator])
def test_derivatives_of_bent_residuals(name, block, form):
    loss, x = get_loss(name), np.array([1.0, 0.7, 0.4])
    one = problem(jac=lambda x: form(jacobian(x)), n=len(T) // block, block=block)
    fun, jac = _descent.bent(one, loss, 0.07)
    found = jac(x) @ np.eye(3)
    differences = [
        (fun(x + h) - fun(x - h)) / 2e-6 for h in np.diag(np.full(3, 1e-6))
    ]  # central, to 1e-8
    np.testing.assert_allclose(found, np.transpose(differences), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["welsch", "huber", "cauchy"])
def test_descent_ends_where_scipy_does(name):
    x, scale = np.array([1.8, 1.4, 0.25]), 0.05
    y = Y.copy()
    y[::5] += 1.0
    found = _descent.robust_step(problem(Residuals(y)), x, get_loss(name), scale, 1e-14, 500)
    expected = optimize.least_squares(
        Residuals(y), x, loss=scipy_loss(name), f_scale=scale, ftol=1e-15, xtol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(found, expected.x, rtol=1e-6)


# -- variable projection -----------------------------------------------------------------------

LINEAR = {
    "Lanczos1": [0, 2, 4],
    "Thurber": [0, 1, 2, 3],
    "Gauss1": [0, 2, 5],
    "ENSO": [0, 1, 2, 4, 5, 7, 8],
    "MGH17": [0, 1, 2],
    "Nelson": [0, 1],
    "Chwirut1": [],
    "DanWood": [0],
}


def nist_problem(name, start=1, y=None):
    p = NONLINEAR[name]
    y = p.y if y is None else y
    return problem(lambda b: p.model(p.x, *b) - y, x0=p.starts[start], n=len(y))


@pytest.mark.parametrize("name", LINEAR)
def test_linear_parameters_are_found(name):
    parts = _separable.separate(nist_problem(name), np.random.default_rng(0))
    assert list(parts.linear) == LINEAR[name]
    assert sorted([*parts.linear, *parts.nonlinear]) == list(range(len(NONLINEAR[name].coef)))


def test_a_bounded_parameter_is_not_taken_for_linear():
    one = problem()
    one.lower[0] = 0.0
    assert list(_separable.separate(one, np.random.default_rng(0)).linear) == [2]


def test_products_are_linear_in_one_factor_only():
    def fun(x):
        return x[0] * x[1] * T + x[2]

    parts = _separable.separate(problem(fun), np.random.default_rng(0))
    assert list(parts.linear) == [0, 2]


@pytest.mark.parametrize("name", ["BoxBOD", "Lanczos3", "MGH17", "MGH10", "Gauss3", "DanWood"])
def test_variable_projection_finds_the_certified_values(name):
    one, p = nist_problem(name), NONLINEAR[name]
    parts = _separable.separate(one, np.random.default_rng(0))
    found = _separable.separable_step(one, parts, one.x0[None], np.arange(one.n)[None], 1e-13, 500)
    np.testing.assert_allclose(found[0], p.coef, rtol=1e-5)


def test_a_linear_model_is_solved_at_once():
    fun = Residuals()

    def straight(x):
        fun.calls += 1
        return x[0] + x[1] * T - Y

    one = problem(straight, x0=(50.0, -7.0))
    parts = _separable.Separation(np.arange(2), np.arange(0))
    rows = np.arange(3, 20)
    found = _separable.separable_step(one, parts, one.x0[None], rows[None], 1e-10, 50)[0]
    np.testing.assert_allclose(found, np.polyfit(T[rows], Y[rows], 1)[::-1], rtol=1e-10)
    assert fun.calls <= 4


# -- many at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 3])
def test_together_they_are_what_each_is_alone(block):
    loss, scale = get_loss("welsch"), np.array([0.07, 0.2])
    one = problem(n=len(T) // block, block=block)
    x = np.array([[1.0, 0.7, 0.4], [2.2, 1.1, 0.1]])
    target = _together.Robust(one, loss, scale.copy(), lambda _, s: s)
    which = np.arange(2)
    state = target.evaluate(x, which)
    for j in range(2):
        fun, jac = _descent.bent(one, loss, scale[j])
        np.testing.assert_allclose(target.residuals(state, which)[j], fun(x[j]), rtol=1e-12)
        J = jac(x[j])
        np.testing.assert_allclose(target.jacobian(x, state, which)[j], J, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("upper", [np.inf, 1.2])
def test_descents_end_where_scipy_does(upper):
    y = Y.copy()
    y[::5] += 1.0
    one = problem(Residuals(y))
    one.upper[1] = upper
    starts = np.array([[1.8, 1.1, 0.25], [2.5, 1.0, 0.2], [1.9, 1.15, 0.3]])
    found = _together.robust_steps(one, starts, get_loss("cauchy"), 0.05, 1e-14, 300)
    for start, end in zip(starts, found, strict=True):
        expected = optimize.least_squares(
            Residuals(y),
            start,
            bounds=(-np.inf, one.upper),
            loss=scipy_loss("cauchy"),
            f_scale=0.05,
            ftol=1e-15,
            xtol=1e-15,
            gtol=1e-15,
        )
        np.testing.assert_allclose(end, expected.x, rtol=1e-5)


def test_fits_of_subsets_do_not_depend_on_each_other():
    one, rng = nist_problem("MGH17"), np.random.default_rng(4)
    parts = _separable.separate(one, np.random.default_rng(0))
    rows = np.array([rng.choice(one.n, 12, replace=False) for _ in range(3)])
    x = np.tile(one.x0, (3, 1))
    together = _separable.separable_step(one, parts, x, rows, 1e-10, 100)
    for j in range(3):
        alone = _separable.separable_step(one, parts, x[:1], rows[j : j + 1], 1e-10, 100)
        np.testing.assert_allclose(together[j], alone[0], rtol=1e-6)


def test_a_large_problem_is_searched_in_a_sample():
    n = 2 * _search.LARGE
    t = np.linspace(0.0, 3.0, n)
    y = 2.0 * np.exp(-1.5 * t) + 0.3 + 0.05 * np.random.default_rng(0).standard_normal(n)
    y[::4] += 2.0
    asked = []

    def model(t, a, b, c):
        asked.append(np.size(t) * np.size(a))
        return a * np.exp(-b * t) + c

    def whole(t, a, b, c):
        # It looks at all of its argument.
        return model(t - np.mean(t), a, b, c)

    fit = curve_fit(model, t, y)
    np.testing.assert_allclose(fit.x, [2.0, 1.5, 0.3], atol=0.02)
    cheap, asked[:] = sum(asked), []
    other = curve_fit(whole, t, y)
    np.testing.assert_allclose(other.x[1:], fit.x[1:], rtol=1e-5)
    assert cheap < 0.5 * sum(asked)


def test_an_interrupt_is_left_to_the_parent_of_the_workers():
    with _front._parallel(2) as work:
        assert set(work(signal.getsignal, [signal.SIGINT])) == {signal.SIG_IGN}


# -- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_expectations_are_those_of_the_chi_distribution(k):
    loss = get_loss("tukey", c=3.0)
    expected = integrate.quad(lambda t: loss.rho(t) * stats.chi.pdf(t, k), 0.0, 40.0, points=[3.0])
    assert _blocks.expectation(loss, loss.rho, k) == pytest.approx(expected[0], rel=1e-8)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_m_scale_of_blocks_is_consistent(k):
    loss = _blocks.s_loss(k)
    mean = integrate.quad(lambda t: loss.rho(t) * stats.chi.pdf(t, k), 0.0, 40.0, points=[loss.c])[
        0
    ]
    assert mean / loss.sup == pytest.approx(0.5, rel=1e-7)


def test_efficiency_of_one_residual_is_that_of_the_loss():
    for name in ("welsch", "tukey", "huber"):
        assert _blocks.efficiency(get_loss(name), 1) == pytest.approx(0.95, rel=1e-8)


@pytest.mark.parametrize("k", [2, 3])
def test_efficiency_of_welsch_in_closed_form(k):
    # psi(r) = r exp(-r'r / c^2): Gaussian integrals in k dimensions.
    c = _blocks.efficient_loss(get_loss("welsch"), 0.95, k).c
    slope = (1.0 + 2.0 / c**2) ** (-k / 2 - 1)
    square = k * (1.0 + 4.0 / c**2) ** (-k / 2 - 1)
    assert k * slope**2 / square == pytest.approx(0.95, rel=1e-8)


def test_loss_of_blocks_is_the_derivative_of_its_psi():
    loss, k = _blocks.BlockLoss(get_loss("welsch"), 2), 2
    u = np.random.default_rng(3).normal(size=10)
    h = 1e-6
    trace = [
        (loss.psi(u + h * e) - loss.psi(u - h * e))[j] / (2.0 * h) for j, e in enumerate(np.eye(10))
    ]
    mean = np.repeat(np.mean(np.reshape(trace, (-1, k)), axis=1), k)
    np.testing.assert_allclose(loss.dpsi(u), mean, rtol=1e-7, atol=1e-8)


# -- search ------------------------------------------------------------------------------------


def test_refinement_does_not_raise_the_scale():
    one = nist_problem("Misra1a")
    x = NONLINEAR["Misra1a"].starts[1]
    (found,) = _search.refine(one, x[None])
    assert found.scale <= _search.s_scale(one, x)
    assert found.scale == pytest.approx(_search.s_scale(one, found.x), rel=1e-12)


def test_search_reports_what_it_finds_and_repeats_itself():
    def once():
        told = []
        found = _search.search(
            nist_problem("Misra1a"), np.random.default_rng(5), True, map, told.append
        )
        assert {c.scale for c in told} == {c.scale for c in found}
        return found[0]

    first, second = once(), once()
    np.testing.assert_array_equal(first.x, second.x)
    assert first.scale == second.scale


def test_search_runs_its_subsets_through_any_map():
    jobs = []

    def work(f, items):
        items = list(items)
        jobs.append(sum(len(x) for x, _ in items))
        return [f(item) for item in items]

    plain = _search.search(
        nist_problem("DanWood"), np.random.default_rng(0), True, map, lambda c: None
    )
    mapped = _search.search(
        nist_problem("DanWood"), np.random.default_rng(0), True, work, lambda c: None
    )
    assert sum(jobs) >= 50
    np.testing.assert_array_equal(plain[0].x, mapped[0].x)


def test_half_and_enough_count_observations():
    assert _search._enough(problem(n=12, block=2)) == 2
    assert linalg.power_of_two(3.0) == 4.0
