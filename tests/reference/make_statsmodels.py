"""Write linear_statsmodels.json: covariances of M-estimates as statsmodels computes them.

    python tests/reference/make_statsmodels.py

Needs statsmodels, which the tests do not. Each fit runs at a fixed scale, so that only the
loss and the form of the covariance matter, until the coefficients no longer move.
"""

import json
from pathlib import Path

import numpy as np
import statsmodels
from statsmodels.robust import norms
from statsmodels.robust.robust_linear_model import RLM

from robustfit import datasets

FILE = Path(__file__).with_name("linear_statsmodels.json")
SCALES = {"stackloss": 2.5, "hbk": 0.7, "education": 25.0}
NORMS = {"huber": norms.HuberT(1.345), "tukey": norms.TukeyBiweight(4.685)}
COV_TYPES = ("H1", "H2", "H3")
DEFAULTS = ("AndrewWave", "Hampel", "HuberT", "LeastSquares", "RamsayE", "TukeyBiweight")


def fit(name, norm, cov_type):
    data, scale = datasets.load(name), SCALES[name]
    model = RLM(data.b, data.A, M=norm)
    return model.fit(
        scale_est=lambda model, resid: scale,
        start_scale=scale,
        update_scale=False,
        cov=cov_type,
        conv="coefs",
        tol=1e-14,
        maxiter=5000,
    )


def default(name, norm):
    """Return RLM with its own constants and scale, until the coefficients no longer move."""
    data = datasets.load(name)
    model = RLM(data.b, data.A, M=getattr(norms, norm)())
    return model.fit(conv="coefs", tol=1e-13, maxiter=5000)


def main():
    sets = {}
    for name, scale in SCALES.items():
        sets[name] = {"scale": scale, "default": {}}
        for norm in DEFAULTS:
            found = default(name, norm)
            assert found.fit_history["iteration"] < 5000
            sets[name]["default"][norm] = {
                "x": found.params.tolist(),
                "se": found.bse.tolist(),
                "scale": float(found.scale),
            }
        for loss, norm in NORMS.items():
            fits = {cov_type: fit(name, norm, cov_type) for cov_type in COV_TYPES}
            sets[name][loss] = {
                "x": fits["H1"].params.tolist(),
                **{cov_type: f.cov_params().tolist() for cov_type, f in fits.items()},
            }
            assert all(np.all(f.scale == scale) for f in fits.values())
    about = (
        f"statsmodels {statsmodels.__version__}, RLM from least squares at a fixed scale; "
        "huber c=1.345, tukey c=4.685; and by its defaults, the scale re-estimated. "
        "Written by make_statsmodels.py."
    )
    FILE.write_text(json.dumps({"about": about, "sets": sets}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
