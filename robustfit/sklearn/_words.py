"""The words of scikit-learn for what `irls` calls otherwise, in errors and warnings."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sklearn.exceptions import ConvergenceWarning as SklearnConvergenceWarning

from robustfit.exceptions import ConvergenceWarning

_WORDS = {"freq_weights": "sample_weight", "maxiter": "max_iter", "rng": "random_state"}
_PATTERN = re.compile(rf"\b({'|'.join(_WORDS)})\b")


@contextmanager
def in_words_of_sklearn() -> Iterator[None]:
    """Rename arguments in what is raised; warn at the line that called the caller's caller."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (ValueError, TypeError) as error:
            raise type(error)(_renamed(str(error))) from error
    for warning in caught:
        lost = issubclass(warning.category, ConvergenceWarning)
        category = SklearnConvergenceWarning if lost else warning.category
        # Beyond this generator, contextlib and `fit`.
        warnings.warn(_renamed(str(warning.message)), category, stacklevel=4)


def _renamed(text: str) -> str:
    text = text.replace("a dense A", "a dense X")
    return _PATTERN.sub(lambda match: _WORDS[match.group()], text)
