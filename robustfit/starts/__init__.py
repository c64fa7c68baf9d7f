"""Where a non-convex fit starts."""

from robustfit.starts._lad import lad_estimate
from robustfit.starts._lts import LtsFit, lts_estimate
from robustfit.starts._s import SFit, m_scale, s_estimate, s_estimate_streamed

__all__ = [
    "LtsFit",
    "SFit",
    "lad_estimate",
    "lts_estimate",
    "m_scale",
    "s_estimate",
    "s_estimate_streamed",
]
