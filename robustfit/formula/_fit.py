"""`fit`: a formula, a frame, and the options of `irls`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustfit import _checks
from robustfit.formula._frame import Flags, Frame, row_values
from robustfit.formula._model import Model, Parsed, build, parse
from robustfit.formula._result import FormulaResult
from robustfit.linear import irls
from robustfit.losses import Loss
from robustfit.result import FitResult

Array = NDArray[np.float64]

# Values per row: names of columns, or arrays.
_PER_ROW = ("offset", "freq_weights", "var_weights", "groups")


def fit(
    formula: str,
    data: Any,
    loss: str | Loss = "welsch",
    *,
    offset: ArrayLike | str | None = None,
    freq_weights: ArrayLike | str | None = None,
    var_weights: ArrayLike | str | None = None,
    groups: ArrayLike | str | None = None,
    nan_policy: Literal["raise", "omit"] = "raise",
    context: Mapping[str, Any] | None = None,
    **options: Any,
) -> FormulaResult:
    """Fit a formula to the columns of a data frame, robustly.

    Parameters
    ----------
    formula : str
        Response and terms, as ``"y ~ x1 + C(g) + bs(x2, df=4)"``, in the grammar of formulaic.
        There is an intercept unless the formula has ``0 +`` or ``- 1``. A formula can contain
        Python expressions and is run as code: take none from strangers.
    data : data frame or mapping of str to array_like
        The variables: a frame in memory of pandas, polars, PyArrow or another library that
        narwhals knows, or columns by name.
    loss : str or Loss, default: "welsch"
        Name of a loss or an instance, as for `irls`.
    offset : array_like of shape (n,) or str, optional
        A term of the model whose coefficient is 1, or the column that holds it.
    freq_weights, var_weights, groups : array_like of shape (n,) or str, optional
        Repeat counts, inverse variances and clusters as for `irls`, or columns that hold them.
    nan_policy : {"raise", "omit"}, default: "raise"
        Whether missing or infinite values are an error, or their rows are left out. Only the
        columns that are used count.
    context : mapping, optional
        What the formula may name besides columns and formulaic's transforms: functions, knots.
    **options
        Any other option of `irls`: ``c``, ``efficiency``, ``start``, ``scale``, ``method``,
        ``cov_type``, ``ridge``, ``bounds``, ``tol``, ``maxiter``, ...

    Returns
    -------
    FormulaResult
        A `FitResult` that predicts for frames and tests hypotheses by name.

    Raises
    ------
    ValueError, TypeError
        If the formula cannot be read or evaluated, if a column is not there, is missing
        throughout, or holds text among numbers, or if an option does not fit.

    See Also
    --------
    irls : The fit itself, for arrays; its warnings are issued here, too.
    anova : Tests between nested fits, or of the terms of one.

    Examples
    --------
    >>> import robustfit as rf
    >>> data = rf.datasets.load("stackloss")
    >>> fit = rf.fit("stack_loss ~ air_flow + water_temp", data.columns, "tukey")
    >>> print(fit.names, fit.x.round(2))
    ('Intercept', 'air_flow', 'water_temp') [-47.95   0.9    0.54]
    >>> fit.predict({"air_flow": [60.0], "water_temp": [20.0]}).round(1)
    array([16.6])
    """
    nan_policy = _checks.known(nan_policy, "nan_policy", ("raise", "omit"))
    for name in ("names", "outputs"):
        if options.get(name) is not None:
            raise TypeError(
                f"{name} cannot be given: the formula names the coefficients of one fit"
            )
    frame, context = Frame(data), dict(context or {})
    parsed = parse(formula, frame, context)
    per_row = _per_row(
        frame, dict(zip(_PER_ROW, (offset, freq_weights, var_weights, groups), strict=True))
    )
    keep = _complete(parsed, frame, per_row, nan_policy)
    model, A, b = build(parsed, frame, keep, context)
    _refuse_nonfinite(model, parsed, A, b, np.flatnonzero(keep), nan_policy)
    given = per_row.pop("offset")
    if given is not None:
        b = b - given[keep]
    A, b = (_at_rows(values, keep) for values in (A, b))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = irls(A, b, loss, nan_policy=nan_policy, names=model.names, **per_row, **options)
    for warning in caught:
        # At the line that called `fit`.
        warnings.warn(warning.message, warning.category, stacklevel=2)
    return FormulaResult(
        **{field.name: getattr(result, field.name) for field in dataclasses.fields(FitResult)},
        formula=parsed.text,
        _model=model,
        _library=frame.library,
        _offset=given,
        _offset_column=offset if isinstance(offset, str) else None,
    )


def _per_row(frame: Frame, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that have a value per row as arrays, None for those not given."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        array = None if value is None else row_values(value, name, frame)
        if array is not None and array.shape != (frame.rows,):
            raise ValueError(
                f"{name} must be a column or have shape ({frame.rows},) like the rows of data, "
                f"got shape {array.shape}"
            )
        if array is not None and name != "groups" and array.dtype.kind not in "fiub":
            what = f"column {value!r}" if isinstance(value, str) else "it"
            raise TypeError(f"{name} must hold real numbers, but {what} has dtype {array.dtype}")
        found[name] = array
    return found


def _complete(parsed: Parsed, frame: Frame, per_row: dict[str, Any], nan_policy: str) -> Flags:
    """Return the rows where all that is used has a value."""
    columns = dict.fromkeys((*parsed.left, *parsed.right))
    missing = {f"column {name!r}": frame.missing(name) for name in columns}
    for name, array in per_row.items():
        if array is not None:
            numbers = array.dtype.kind in "fiub"
            missing[name] = ~np.isfinite(array) if numbers else _no_label(array)
    keep = np.ones(frame.rows, dtype=np.bool_)
    for what, where in missing.items():
        if np.any(where) and nan_policy == "raise":
            raise ValueError(
                f"{what} is missing or infinite in {int(np.sum(where))} of {frame.rows} rows, the "
                f"first is row {int(np.argmax(where))}; nan_policy='omit' leaves such rows out"
            )
        if np.all(where) and frame.rows > 0:
            raise ValueError(f"{what} is missing or infinite in all {frame.rows} rows")
        keep &= ~where
    if not np.any(keep):
        raise ValueError(f"data must have a row without missing values, got {frame.rows} rows")
    return keep


def _no_label(values: NDArray[Any]) -> Flags:
    """Tell where there is None or NaN."""
    return np.array([value is None or value != value for value in values.tolist()], dtype=np.bool_)


def _refuse_nonfinite(
    model: Model, parsed: Parsed, A: Array, b: Array, rows: NDArray[np.intp], nan_policy: str
) -> None:
    """Raise a ValueError that names a column of the design which a transform made non-finite."""
    if nan_policy == "omit":
        return
    response = parsed.text.partition("~")[0].strip()
    for name, values in [(response, b), *zip(model.names, A.T, strict=True)]:
        if not np.all(np.isfinite(values)):
            bad = ~np.isfinite(values)
            raise ValueError(
                f"formula {parsed.text!r}: {name} is not finite in {int(np.sum(bad))} rows, the "
                f"first is row {rows[np.argmax(bad)]}; nan_policy='omit' leaves such rows out"
            )


def _at_rows(values: Array, keep: Flags) -> Array:
    """Return values of the rows that are kept at all rows, NaN elsewhere."""
    if np.all(keep):
        return values
    out = np.full((len(keep), *values.shape[1:]), np.nan)
    out[keep] = values
    return out
