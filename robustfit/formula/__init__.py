"""Fits by formula, to the columns of a data frame.

`fit` takes ``"y ~ x1 + C(g)"`` and a frame of pandas, polars or PyArrow. The result knows its
formula: it predicts for new frames, tests hypotheses by name and prints labelled coefficients.
"""

from __future__ import annotations

try:
    import formulaic  # noqa: F401
    import narwhals  # noqa: F401
    import pandas  # noqa: ICN001, F401
except ImportError as error:
    raise ImportError(
        'robustfit.fit needs formulaic and narwhals: pip install "robustfit[formula]"',
        name=error.name,
    ) from error

from robustfit.formula._anova import Anova, anova
from robustfit.formula._fit import fit
from robustfit.formula._result import FormulaResult

__all__ = ["Anova", "FormulaResult", "anova", "fit"]
