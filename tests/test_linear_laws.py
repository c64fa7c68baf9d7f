"""The laws of regression_laws.py for every kind of linear fit."""

import numpy as np
import pytest
from regression_data import classic, contaminated
from regression_laws import LAWS, Estimator, frequency_weights_repeat_rows

import robustfit as rf
from robustfit.losses import Hampel

ESTIMATORS = (
    Estimator("linear"),
    Estimator("huber", start="ols", scale="mad"),
    Estimator("huber", start="ols", scale="huber"),
    Estimator("huber", start="ols", scale="matlab", leverage=True, cov_type="matlab"),
    Estimator("tukey", start="ols", scale="mad-fixed"),
    Estimator("welsch", start="ols", scale=1.5),
    Estimator("welsch", start="lad", scale="mad"),
    Estimator("cauchy", start="ols", scale="std", cov_type="H2"),
    Estimator("fair", start="ols", scale=2.0, solver="qr", cov_type="H3"),
    Estimator(Hampel(), start="ols", scale="mad-fixed", cov_type="H1"),
    Estimator("welsch"),
    Estimator("tukey", method="smdm"),
    Estimator("tukey", method="tau"),
    Estimator("lqq", method="s"),
    Estimator("welsch", start="lts", scale="mad"),
    Estimator("tukey", start="gnc", scale=1.5),
    Estimator("welsch", start="gnc", scale="huber"),
)
PROBLEMS = {"contaminated": contaminated(), "stackloss": classic("stackloss")}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("fit", ESTIMATORS, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_law(law, fit, problem):
    if problem == "stackloss" and law is frequency_weights_repeat_rows and fit.resistant:
        # Repeated so, four rows are more than half of the data, and any four fit exactly.
        problem = "contaminated"
    law(fit, *PROBLEMS[problem])


@pytest.mark.parametrize("loss", sorted(set(rf.losses.LOSSES) - {"linear"}))
@pytest.mark.parametrize("problem", PROBLEMS)
def test_objective_never_increases_at_a_fixed_scale(loss, problem):
    A, b = PROBLEMS[problem]
    loss, costs = rf.get_loss(loss), []

    def record(now):
        assert now.scale == 2.0
        costs.append(4.0 * np.sum(loss.rho((b - A @ now.x) / 2.0)))

    fit = rf.irls(A, b, loss, start="ols", scale=2.0, callback=record, tol=1e-13)
    assert fit.success
    assert len(costs) == fit.nit
    assert np.all(np.diff(costs) <= 1e-12 * np.array(costs[1:]))
    assert fit.cost == pytest.approx(costs[-1], rel=1e-12)
