"""Robust estimates of scale and location of one sample, along an axis.

Every scale is in the units of the data and consistent at the normal: on a large Gaussian
sample it estimates the standard deviation. Some centre the sample themselves (`mad`, `iqr`,
`qn`, `sn`, `scale_tau2`); those that judge residuals measure them about zero (`m_scale`,
`tau_scale`, `huber_proposal2`, and `mad` with ``center=0``).

Common to all of them:

- ``axis=None``, the default, takes all values as one sample.
- float32 in, float32 out; every other real dtype gives float64. The arithmetic is float64.
  Inputs are never modified, and not copied where dtype and layout serve.
- Non-finite values raise ``ValueError``; ``nan_policy="omit"`` leaves them out. An empty
  sample raises ``ValueError``. One value has scale 0, unless it is a residual about zero.
- `weights` are repeat counts: weight 2 is the same as writing the value twice, weight 0 the
  same as leaving it out. They may be fractional. Their shape is that of the data, or one
  weight for each position along `axis`.
- Multiplying the data by a power of two multiplies the answer by it, to the last bit; no
  intermediate result overflows or underflows.
"""

from robustfit.scale._design import d_scale, kappa, tau_factors
from robustfit.scale._equation import huber_proposal2, m_scale, tau_losses, tau_scale
from robustfit.scale._location import location, scale_tau2
from robustfit.scale._order import iqr, mad, qn, sn

__all__ = [
    "d_scale",
    "huber_proposal2",
    "iqr",
    "kappa",
    "location",
    "m_scale",
    "mad",
    "qn",
    "scale_tau2",
    "sn",
    "tau_factors",
    "tau_losses",
    "tau_scale",
]
