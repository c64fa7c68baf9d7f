"""The NIST reference data agree with their models: what is certified follows from x and y."""

import mpmath
import numpy as np
import pytest
from nist import LINEAR, MODELS, NONLINEAR

HALF_UNIT_15 = 5.1e-15  # half a unit of the 15th digit, relative to a value that starts with 1
HALF_UNIT_11 = 5.1e-11


def _least_squares(problem):
    """Coefficients, standard errors, sigma and R-squared of the decimal data, to 60 digits."""

    def exact(value):
        return mpmath.mpf(repr(float(value)))

    rows = problem.x.reshape(len(problem.y), -1)
    y = mpmath.matrix([exact(v) for v in problem.y])
    design = mpmath.matrix(
        [
            [mpmath.mpf(1)] * problem.intercept
            + [exact(v) ** power for power in problem.powers for v in row]
            for row in rows
        ]
    )
    inverse = (design.T * design) ** -1
    coef = inverse * (design.T * y)
    rss = mpmath.fsum(r**2 for r in y - design * coef)
    center = mpmath.fsum(y) / len(y) if problem.intercept else 0
    variance = rss / problem.df
    se = [mpmath.sqrt(variance * inverse[i, i]) for i in range(len(coef))]
    rsquared = 1 - rss / mpmath.fsum((v - center) ** 2 for v in y)
    return [*coef, *se, mpmath.sqrt(variance), rsquared]


def test_all_problems_are_there():
    assert len(LINEAR) == 11
    assert len(NONLINEAR) == 27
    assert set(NONLINEAR) == set(MODELS)
    classes = [p.difficulty for p in NONLINEAR.values()]
    assert {c: classes.count(c) for c in classes} == {"lower": 8, "average": 11, "higher": 8}


@pytest.mark.parametrize("problem", LINEAR.values(), ids=LINEAR)
def test_linear_certified_values(problem):
    assert problem.design.shape == (len(problem.y), len(problem.coef))
    assert problem.df == len(problem.y) - len(problem.coef)
    with mpmath.workdps(60):
        found = _least_squares(problem)
        certified = [*problem.coef, *problem.se, problem.sigma, problem.rsquared]
        for value, target in zip(found, certified, strict=True):
            target = mpmath.mpf(repr(float(target)))
            assert abs(value - target) <= HALF_UNIT_15 * abs(target) + mpmath.mpf(10) ** -30


@pytest.mark.parametrize("problem", NONLINEAR.values(), ids=NONLINEAR)
def test_nonlinear_certified_residuals(problem):
    residuals = problem.y - problem.model(problem.x, *problem.coef)
    rss = residuals @ residuals
    if problem.name == "Lanczos1":  # certified 1.4e-25: below what eleven digits of b can give
        assert rss < 1e-20
    else:
        assert rss == pytest.approx(problem.rss, rel=1e-9, abs=0)
    assert problem.df == len(problem.y) - len(problem.coef)
    assert problem.sigma == pytest.approx(np.sqrt(problem.rss / problem.df), rel=2 * HALF_UNIT_11)


@pytest.mark.parametrize("problem", NONLINEAR.values(), ids=NONLINEAR)
def test_nonlinear_standard_errors(problem):
    step = 1e-5 * np.abs(problem.coef)
    jacobian = np.column_stack(
        [
            (
                problem.model(problem.x, *(problem.coef + h))
                - problem.model(problem.x, *(problem.coef - h))
            )
            / (2 * h.sum())
            for h in np.diag(step)
        ]
    )
    scaled = np.linalg.qr(jacobian * problem.se, mode="r")
    se = problem.se * problem.sigma * np.sqrt((np.linalg.inv(scaled) ** 2).sum(axis=1))
    np.testing.assert_allclose(se, problem.se, rtol=1e-4)


@pytest.mark.parametrize("problem", NONLINEAR.values(), ids=NONLINEAR)
def test_models_are_defined_at_both_starts(problem):
    for start in problem.starts:
        fitted = problem.model(problem.x, *start)
        assert fitted.shape == problem.y.shape
        assert np.isfinite(fitted).all()
