"""Compile ahead of time what fits need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from robustfit._kernels import LARGE_ELEMENTS
from robustfit.linear import irls
from robustfit.losses import Loss


def warmup(losses: str | Loss | Sequence[str | Loss] = "welsch") -> None:
    """Compile what `irls` needs, so that the first fit of a service does not wait.

    Kernels are compiled when they are first needed, a few seconds for each loss, and kept on disk
    where that can be written. This calls `irls` on small made-up problems instead: one, many at
    once, and one with many rows, each by the default and by an M-estimate.

    Parameters
    ----------
    losses : str or Loss or sequence of them, default: "welsch"
        The losses that will be used.

    Raises
    ------
    ValueError
        If a loss is not known.

    Examples
    --------
    >>> import robustfit as rf
    >>> rf.warmup("huber")
    """
    methods: tuple[Literal["m"] | None, ...] = (None, "m")
    alone = [losses] if isinstance(losses, str | Loss) else losses
    rng = np.random.default_rng(0)
    n, p = 40, 2
    many = LARGE_ELEMENTS // p + 1
    A, b = rng.standard_normal((many, p)), rng.standard_normal(many)
    few = A[: 3 * n].reshape(3, n, p), b[: 3 * n].reshape(3, n)
    for loss in alone:
        for method in methods:
            irls(A[:n], b[:n], loss, method=method)
            irls(*few, loss, method=method)
            irls(A, b, loss, method=method)
