"""`irls` as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from robustfit import _checks
from robustfit._estimate import outlier_limit, outlying
from robustfit.linear import irls, takes_sparse
from robustfit.losses import Loss, get_loss
from robustfit.result import FitResult
from robustfit.rows import Rows, is_lazy, recognise, with_intercept
from robustfit.sklearn._words import in_words_of_sklearn

Array = NDArray[np.float64]


class RobustRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Robust linear regression; the default is an MM-estimate of 95 % efficiency.

    Parameters
    ----------
    loss : str or Loss, default: "welsch"
        Name of a loss (``robustfit.losses.LOSSES``) or an instance.
    c : float, optional
        Tuning constant of the loss, in scale units.
    efficiency : float, optional
        Gaussian efficiency instead of `c`; default 0.95.
    method : {"m", "s", "mm", "smdm", "tau"}, optional
        The name of an estimator instead of `start` and `scale`.
    start : {"auto", "s", "lts", "lad", "gnc", "ols"} or array_like, default: "auto"
        Where to start; see `robustfit.irls`. Coefficients are those of the features, after that of
        the intercept if there is one.
    scale : str, float or callable, default: "auto"
        The residual scale; see `robustfit.irls`.
    s_loss : str or Loss, optional
        Loss of the S-estimate; see `robustfit.irls`.
    fit_intercept : bool, default: True
        Whether there is an intercept.
    ridge : float, default: 0.0
        Adds ``ridge / 2 * sum(coef_**2)`` to the objective ``scale**2 sum(rho(r / scale))``. The
        intercept is not penalised.
    leverage : bool, default: False
        Divide the residuals by sqrt(1 - leverage), as MATLAB does.
    cov_type : str, default: "auto"
        Covariance of the coefficients, for `result_`; see `robustfit.irls`.
    tol : float, default: 1e-10
        Stops when the estimated distance to the solution is at most this many standard errors.
    max_iter : int, default: 200
        Largest number of iterations.
    random_state : int, RandomState or None, default: 0
        Draws the subsets of the search for the start. The fixed default makes the same call give
        the same answer.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept, 0.0 without one.
    scale_ : float or ndarray of shape (n_outputs,)
        Scale of the residuals, in units of y.
    weights_ : ndarray of the shape of y
        Robustness weights in [0, 1]: 1 fully believed, 0 ignored. They do not contain
        `sample_weight`.
    outliers_ : ndarray of bool, of the shape of y
        Which samples the fit rejects; see `robustfit.FitResult.outliers`.
    n_iter_ : int
        Number of iterations, the largest of all outputs, and at least 1.
    result_ : FitResult or BatchResult
        The fit itself, with standard errors, status and `summary`; a `BatchResult` for several
        outputs. It holds the data of the fit.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of str
        Names of the features, if X had names that are all text.

    See Also
    --------
    robustfit.irls : The fit itself.
    robustfit.sklearn.neg_tau_error : A scorer for data with outliers.

    Notes
    -----
    `sample_weight` means repetition: weight 2 is the same as the sample twice. It does not help
    against outliers; the weights that do are estimated, and are `weights_`.

    ``score`` is the ordinary R squared, which outliers among the test data ruin. Cross-validate
    with the scorers of this module.

    Where a fit cannot be trusted, there is a `robustfit.exceptions.BasinWarning` or a
    `sklearn.exceptions.ConvergenceWarning`, and ``result_.success`` is False.

    Examples
    --------
    >>> import numpy as np
    >>> from robustfit.sklearn import RobustRegressor
    >>> X = np.arange(20.0)[:, None]
    >>> y = 1.0 + 2.0 * X[:, 0] + 0.1 * np.cos(7.0 * X[:, 0])
    >>> y[3] = 500.0
    >>> model = RobustRegressor().fit(X, y)
    >>> print(model.coef_.round(1), round(model.intercept_, 1))
    [2.] 1.0
    >>> np.flatnonzero(model.outliers_)
    array([3])
    """

    def __init__(
        self,
        loss: str | Loss = "welsch",
        *,
        c: float | None = None,
        efficiency: float | None = None,
        method: Any = None,
        start: Any = "auto",
        scale: Any = "auto",
        s_loss: str | Loss | None = None,
        fit_intercept: bool = True,
        ridge: float = 0.0,
        leverage: bool = False,
        cov_type: str = "auto",
        tol: float = 1e-10,
        max_iter: int = 200,
        random_state: Any = 0,
    ) -> None:
        self.loss = loss
        self.c = c
        self.efficiency = efficiency
        self.method = method
        self.start = start
        self.scale = scale
        self.s_loss = s_loss
        self.fit_intercept = fit_intercept
        self.ridge = ridge
        self.leverage = leverage
        self.cov_type = cov_type
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array_like or sparse array of shape (n_samples, n_features)
            Features. A sparse X stays sparse, and needs ``start="ols"``, coefficients to start
            from, or a convex loss: a search for the start needs the rows. Of a Dask array or data
            frame no block is gathered, and `weights_`, `outliers_` and predictions are Dask
            arrays.
        y : array_like of shape (n_samples,) or (n_samples, n_outputs)
            Target. Several outputs are fitted each for itself.
        sample_weight : array_like of shape (n_samples,), optional
            Repeat counts.

        Returns
        -------
        RobustRegressor
            The estimator itself.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; the message names it.
        """
        if is_lazy(X):
            return self._fit_lazily(X, y, sample_weight)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=("csr", "csc"),
            dtype=np.float64,
            y_numeric=True,
            multi_output=True,
            ensure_min_samples=2,
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        features = getattr(self, "feature_names_in_", [f"x{j + 1}" for j in range(X.shape[1])])
        penalty = np.full(X.shape[1], _checks.nonnegative(self.ridge, "ridge"))
        if self.fit_intercept:
            ones = np.ones((X.shape[0], 1))
            columns = [ones, X]
            X = sparse.hstack(columns, format="csr") if sparse.issparse(X) else np.hstack(columns)
            features, penalty = ["Intercept", *features], np.concatenate([[0.0], penalty])
        with in_words_of_sklearn():
            self.result_ = self._irls(
                X,
                y,
                freq_weights=sample_weight,
                ridge=penalty if np.any(penalty) else 0.0,
                names=tuple(features),
            )
        self._keep(y, len(y) if sample_weight is None else float(np.sum(sample_weight)))
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = takes_sparse(**self._estimator)
        return tags

    @property
    def _estimator(self) -> dict[str, Any]:
        """The parameters that say which estimator it is."""
        return {
            "loss": self.loss, "c": self.c, "efficiency": self.efficiency, "method": self.method,
            "start": self.start, "scale": self.scale, "leverage": self.leverage,
            "cov_type": self.cov_type,
        }  # fmt: skip

    def _irls(self, A: Any, b: Any, **options: Any) -> FitResult:
        return irls(
            A,
            b,
            **self._estimator,
            s_loss=self.s_loss,
            tol=self.tol,
            maxiter=_checks.whole(self.max_iter, "max_iter"),
            rng=_seed(self.random_state),
            **options,
        )

    def _keep(self, y: Array, count: float) -> None:
        """Set the attributes of the fit, in the shape that y asks for."""
        found = self.result_
        x = found.x.T if y.ndim == 1 else found.x.reshape(-1, y.shape[1]).T
        one = int(self.fit_intercept)
        self.coef_ = np.array(x[..., one:])
        self.intercept_: Any = np.array(x[..., 0]) if one else np.zeros(x.shape[:-1])
        self.scale_: Any = np.array(np.reshape(found.scale, y.shape[1:]))
        if y.ndim == 1:
            self.intercept_, self.scale_ = self.intercept_.item(), self.scale_.item()
        self.weights_ = np.array(found.weights).reshape(y.shape)
        self.outliers_ = np.zeros(y.shape, dtype=np.bool_)
        loss = get_loss(self.loss, c=self.c, efficiency=self.efficiency)
        columns = (a.reshape(len(y), -1).T for a in (self.weights_, self.outliers_))
        for weights, outlier in zip(*columns, strict=True):
            outlier[outlying(weights, loss, count, None)] = True
        self.n_iter_ = max(1, int(np.max(found.nit)))

    def _fit_lazily(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Fit rows that are not in memory; `weights_` and `outliers_` are computed when needed."""
        if self.ridge:
            raise ValueError(f"ridge must be 0 for lazy data, got ridge={self.ridge!r}")
        if y is not None and len(getattr(y, "shape", ())) > 1 and y.shape[1] != 1:
            raise ValueError(f"y must have one column for lazy data, got {y.shape[1]}")
        validate_data(self, _columns_of(X), y, skip_check_array=True)
        one = int(self.fit_intercept)
        with in_words_of_sklearn():
            source = cast(Rows, recognise(X, y, sample_weight, None))
            found = self._irls(with_intercept(source) if one else source, None)
        self.result_ = found
        self.coef_ = np.array(found.x[one:])
        self.intercept_ = float(found.x[0]) if one else 0.0
        self.scale_, self.weights_ = found.scale, found.weights
        self.outliers_ = found.weights <= outlier_limit(found.loss, found.nobs)
        self.n_iter_ = max(1, found.nit)
        return self

    def predict(self, X: Any) -> Array:
        """Return the prediction for each sample.

        Parameters
        ----------
        X : array_like or sparse array of shape (n_samples, n_features)
            Features. For a Dask array or data frame the prediction is a Dask array.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Prediction, in units of y.
        """
        check_is_fitted(self)
        if is_lazy(X):
            validate_data(self, _columns_of(X), skip_check_array=True, reset=False)
            lazy = X.to_dask_array() if hasattr(X, "to_dask_array") else X
            return cast(Array, lazy @ self.coef_.T + self.intercept_)
        X = validate_data(self, X, accept_sparse=("csr", "csc"), dtype=np.float64, reset=False)
        return np.asarray(X @ self.coef_.T + self.intercept_)


def _columns_of(X: Any) -> Any:
    """Return lazy data as scikit-learn can tell their columns: of a frame, one without rows."""
    return X._meta if hasattr(X, "columns") else X


def _seed(random_state: Any) -> Any:
    """Return what `irls` takes: a whole number as it is, anything else as a draw from it."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
