"""Compiled kernels: the pass over the rows, small dense algebra, sums in twice the precision."""

from robustfit._kernels._loss import FAR
from robustfit._kernels._order import MANY_VALUES, median_size, sizes_near
from robustfit._kernels._rows import (
    LARGE_ELEMENTS,
    RowSums,
    Sums,
    block_rows,
    by_rows,
    gram,
    largest,
    m_scale,
    moments,
    newton_scale,
    residuals,
    rho_sums,
    row_blocks,
    solve_m_scale,
)
from robustfit._kernels._survey import survey
from robustfit._kernels._threads import (
    alone,
    in_order,
    in_threads,
    merged,
    merged_in_threads,
    threads_of_our_own,
    worker_threads,
)
from robustfit._kernels._twice import residual_twice, transposed_twice

__all__ = [
    "FAR",
    "LARGE_ELEMENTS",
    "MANY_VALUES",
    "RowSums",
    "Sums",
    "alone",
    "block_rows",
    "by_rows",
    "gram",
    "in_order",
    "in_threads",
    "largest",
    "m_scale",
    "median_size",
    "merged",
    "merged_in_threads",
    "moments",
    "newton_scale",
    "residual_twice",
    "residuals",
    "rho_sums",
    "row_blocks",
    "sizes_near",
    "solve_m_scale",
    "survey",
    "threads_of_our_own",
    "transposed_twice",
    "worker_threads",
]
