"""Compiled kernels: the pass over the rows, small dense algebra, sums in twice the precision."""

from robustfit._kernels._rows import (
    LARGE_ELEMENTS,
    RowSums,
    Sums,
    block_rows,
    m_scale,
    newton_scale,
    rho_sums,
    row_blocks,
)
from robustfit._kernels._threads import in_threads
from robustfit._kernels._twice import residual_twice, transposed_twice

__all__ = [
    "LARGE_ELEMENTS",
    "RowSums",
    "Sums",
    "block_rows",
    "in_threads",
    "m_scale",
    "newton_scale",
    "residual_twice",
    "rho_sums",
    "row_blocks",
    "transposed_twice",
]
