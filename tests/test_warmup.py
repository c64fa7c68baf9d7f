"""After `warmup`, no fit waits for the compiler."""

import numpy as np
import pytest
from numba.core import event

import robustfit as rf


def compiled(call):
    """Return how often Numba compiled something during a call."""
    with event.install_recorder("numba:compile") as recorder:
        call()
    return sum(happened.is_start for _, happened in recorder.buffer)


@pytest.fixture(scope="module")
def warm():
    rf.warmup(["tukey", rf.losses.Huber()])


def fits():
    rng = np.random.default_rng(1)
    for loss in ("tukey", "huber"):
        for n, p in ((25, 3), (500, 4), (5_000, 5), (80_000, 5)):
            A, b = rng.standard_normal((n, p)), rng.standard_normal(n)
            b[: n // 5] += 20.0
            rf.irls(A, b, loss)
            rf.irls(A, b, loss, method="m")
        rf.irls(rng.standard_normal((6, 30, 3)), rng.standard_normal((6, 30)), loss)


@pytest.mark.usefixtures("warm")
def test_nothing_is_compiled_afterwards():
    assert compiled(fits) == 0


def test_the_count_sees_a_compilation():
    import numba

    assert compiled(lambda: numba.njit(lambda a: a + 1.0)(2.0)) > 0


@pytest.mark.parametrize("losses", ["no such loss", ["welsch", "no such loss"]])
def test_an_unknown_loss_is_refused(losses):
    with pytest.raises(ValueError, match="no such loss"):
        rf.warmup(losses)
