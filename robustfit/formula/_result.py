"""The result of a fit by formula: predictions for frames, hypotheses by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from formulaic.errors import FormulaicError
from formulaic.utils.constraints import LinearConstraints
from numpy.typing import ArrayLike, NDArray
from scipy import special

from robustfit._estimate import Table, intervals, t_quantile
from robustfit._inputs import matrix
from robustfit.formula._frame import Frame, Library, row_values
from robustfit.formula._model import Model
from robustfit.result import FitResult

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True, eq=False)
class FormulaResult(FitResult):
    """Result of `robustfit.fit`: a `FitResult` that knows its formula.

    Attributes
    ----------
    formula : str
        The formula.
    terms : dict
        The terms and the columns of the design that belong to each.

    Notes
    -----
    ``x``, ``bse``, ``weights``, ``resid`` and all else of `FitResult` are arrays; ``names`` has the
    labels of the coefficients. Values per row are in the order of the data, NaN for rows that
    ``nan_policy="omit"`` left out. With an offset, ``response`` and ``fittedvalues`` are those less
    the offset, and `predict` adds it.
    """

    formula: str
    _model: Model
    _library: Library
    _offset: Array | None
    _offset_column: str | None

    @property
    def terms(self) -> dict[str, list[int]]:
        """The terms and the columns of the design that belong to each."""
        return self._model.terms

    def predict(
        self,
        A: Any,
        *,
        interval: Literal["confidence", "prediction"] | None = None,
        level: float = 0.95,
        var_weights: ArrayLike | str | None = None,
        offset: ArrayLike | str | None = None,
    ) -> Array:
        """Return the prediction for new rows, with an interval if asked.

        Parameters
        ----------
        A : data frame or array_like of shape (k, p)
            Frame with the columns that the right-hand side needs, encoded as in the fit; or
            rows of the design.
        interval : {None, "confidence", "prediction"}, default: None
            Interval for the mean response, or for a new good (uncontaminated) response.
        level : float, default: 0.95
            Coverage of the interval.
        var_weights : array_like of shape (k,) or str, optional
            Inverse variances of the new responses, or their column.
        offset : array_like of shape (k,) or str, optional
            Offset of the new rows, or its column. Default: the column of the fit.

        Returns
        -------
        ndarray of shape (k,) or (k, 3)
            The prediction; with an interval: prediction, lower and upper limit. NaN where a
            column has no value.

        Raises
        ------
        ValueError
            If a column is missing or has a level that the fit has not seen, or if the fit had
            an offset and there is none here.
        """
        array = isinstance(A, np.ndarray | list | tuple) and getattr(A, "dtype", None) is None
        array = array or (isinstance(A, np.ndarray) and A.dtype.names is None)
        frame = None if array else Frame(A)
        design = np.atleast_2d(matrix(A, "A")) if frame is None else self._model.design(frame)
        count = len(design)
        if var_weights is not None:
            var_weights = _of_new_rows(var_weights, "var_weights", frame, count)
        if offset is None and self._offset is not None:
            if frame is None or self._offset_column is None:
                raise ValueError("the fit had an offset, so predict needs one, got offset=None")
            offset = self._offset_column
        complete: NDArray[np.bool_] = np.all(np.isfinite(design), axis=1)
        mean = super().predict(
            np.where(complete[:, None], design, 0.0),
            interval=interval,
            level=level,
            var_weights=var_weights,
        )
        out = np.where(complete if interval is None else complete[:, None], mean, np.nan)
        if offset is not None:
            # Transposed, so that it is added to the limits, too.
            out = (out.T + _of_new_rows(offset, "offset", frame, count)).T
        return out

    # -- hypotheses by name -----------------------------------------------------------------

    def wald_test(self, R: Any, q: ArrayLike = 0.0) -> dict[str, float]:
        """Test linear hypotheses about the coefficients by Wald's statistic.

        Parameters
        ----------
        R : str, list of str, dict or array_like of shape (k, p)
            ``"x1 = x2"``, ``["x1 = 0", "x2 = 2"]``, ``{"x1 - x2": 0.5}``, or restrictions of which
            `q` is the right-hand side. Names are those of ``names``.
        q : array_like of shape (k,) or float, default: 0
            Right-hand side for an array R.

        Returns
        -------
        dict
            As by `FitResult.wald_test`.

        Raises
        ------
        ValueError
            If a hypothesis cannot be read or names no coefficient.

        Examples
        --------
        >>> import robustfit as rf
        >>> data = rf.datasets.load("stackloss").columns
        >>> fit = rf.fit("stack_loss ~ air_flow + water_temp", data)
        >>> print(f"{fit.wald_test('air_flow = water_temp')['pvalue']:.2f}")
        0.49
        """
        if not _by_name(R):
            return super().wald_test(R, q)
        rows, values = self._restrictions(R)
        return super().wald_test(rows, values)

    def contrasts(self, spec: Any, level: float = 0.95) -> Any:
        """Return linear combinations of coefficients with standard errors and intervals.

        Parameters
        ----------
        spec : str, list of str, dict or array_like of shape (k, p)
            Combinations, as in `wald_test`: ``"x1 - x2"`` is estimated and tested against 0,
            ``"x1 - x2 = 1"`` is the estimate of ``x1 - x2 - 1``.
        level : float, default: 0.95
            Coverage of the intervals.

        Returns
        -------
        data frame
            In the library of the data: contrast (the index for pandas), estimate, std_error, t,
            pvalue, low, high.
        """
        rows, values = self._restrictions(spec)
        found = super().predict(rows, interval="confidence", level=level)
        estimate = found[:, 0] - values
        error = (found[:, 2] - found[:, 1]) / (2.0 * t_quantile(level, self.df_t))
        return self._estimates("contrast", _labels(spec, len(rows)), estimate, error, level)

    def _restrictions(self, spec: Any) -> tuple[Array, Array]:
        """Return R and q of R x = q."""
        try:
            found = LinearConstraints.from_spec(spec, variable_names=list(self.names))
        except KeyError as error:
            raise ValueError(
                f"hypothesis {spec!r} names {error.args[0]!r}, which is no coefficient; they are: "
                f"{', '.join(self.names)}"
            ) from error
        except (FormulaicError, ValueError, TypeError) as error:
            text = str(error).splitlines()[0] if str(error) else repr(error)
            raise ValueError(f"hypothesis {spec!r} cannot be read: {text}") from error
        R = np.asarray(found.constraint_matrix, dtype=np.float64)
        if len(R) == 0:
            raise ValueError(f"hypothesis {spec!r} says nothing about a coefficient")
        return R, np.asarray(found.constraint_values, dtype=np.float64)

    # -- frames -----------------------------------------------------------------------------

    def to_frame(self, level: float = 0.95) -> Any:
        """Return the table of coefficients as a frame of the library of the data.

        Parameters
        ----------
        level : float, default: 0.95
            Coverage of the intervals.

        Returns
        -------
        data frame
            term (the index for pandas), estimate, std_error, t, pvalue, low, high.
        """
        return self._estimates("term", self.names, self.x, self.bse, level)

    def rows(self) -> Any:
        """Return what the fit says about each row, in the library of the data.

        Returns
        -------
        data frame
            fitted (offset included), resid, standardised, weight, leverage, outlier; for pandas
            with the index of the data. NaN and False for rows that were left out.
        """
        outlier = np.zeros(len(self.weights), dtype=np.bool_)
        outlier[self.outliers()] = True
        return self._library.frame(
            {
                "fitted": self.fittedvalues + (0.0 if self._offset is None else self._offset),
                "resid": np.array(self.resid),
                "standardised": np.array(self.standardised),
                "weight": np.array(self.weights),
                "leverage": np.array(self.leverage),
                "outlier": outlier,
            }
        )

    def _estimates(self, of: str, labels: Sequence[str], x: Array, se: Array, level: float) -> Any:
        """Return a frame of estimates; `of` is the heading of the labels."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = x / se
        low, high = intervals(x, se, self.df_t, level).T
        columns = {
            of: list(labels),
            "estimate": np.array(x),
            "std_error": np.array(se),
            "t": t,
            "pvalue": 2.0 * special.stdtr(self.df_t, -np.abs(t)),
            "low": low,
            "high": high,
        }
        return self._library.frame(columns, of)

    # -- printing ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python values, ready for JSON (NaN as None)."""
        return {"formula": self.formula, **super().to_dict()}

    def _table(self, level: float) -> Table:
        (title, *head), columns, rows = super()._table(level)
        offset = "" if self._offset is None else f", offset {self._offset_column or 'given'}"
        return [title, f"formula {self.formula}{offset}", *head], columns, rows


def _of_new_rows(values: Any, argument: str, frame: Frame | None, count: int) -> Array:
    """Return a value for each new row, of one number too."""
    found = np.asarray(row_values(values, argument, frame))
    if found.shape not in ((), (count,)) or found.dtype.kind not in "fiub":
        raise ValueError(
            f"{argument} must be a column of numbers or have shape ({count},) like the new rows, "
            f"got shape {found.shape}, dtype {found.dtype}"
        )
    return np.broadcast_to(found.astype(np.float64), (count,))


def _by_name(R: Any) -> bool:
    """Tell whether hypotheses are text rather than numbers."""
    return isinstance(R, str | Mapping) or (
        isinstance(R, list | tuple) and len(R) > 0 and all(isinstance(part, str) for part in R)
    )


def _labels(spec: Any, count: int) -> list[str]:
    """Return a label for each hypothesis."""
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    if _by_name(spec) and len(parts) == count:
        return [str(part).strip() for part in parts]
    return [f"row {i}" for i in range(count)]
