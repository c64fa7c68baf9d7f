"""Robust estimators, scorers and scaling for scikit-learn.

`RobustRegressor` is `robustfit.irls` as an estimator. The scorers judge predictions for data with
outliers, in cross-validation too, where outliers are in the test folds. `MScaler` centres and
scales columns by redescending estimates.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'robustfit.sklearn needs scikit-learn: pip install "robustfit[sklearn]"', name="sklearn"
    ) from error

from robustfit.sklearn._regressor import RobustRegressor
from robustfit.sklearn._scaler import MScaler
from robustfit.sklearn._scorers import (
    mad_error,
    neg_mad_error,
    neg_tau_error,
    neg_trimmed_mean_squared_error,
    tau_error,
    trimmed_mean_squared_error,
)

__all__ = [
    "MScaler",
    "RobustRegressor",
    "mad_error",
    "neg_mad_error",
    "neg_tau_error",
    "neg_trimmed_mean_squared_error",
    "tau_error",
    "trimmed_mean_squared_error",
]
