"""NIST Statistical Reference Datasets for regression, with their certified values.

`LINEAR` and `NONLINEAR` map a problem's name to its data; `MODELS` maps the name of a nonlinear
problem to its model function ``f(x, *b)``. The numbers stand in ``reference/nist_*.json`` with all
the digits that NIST gives: 15 for the linear problems, 11 for the nonlinear ones.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_REFERENCE = Path(__file__).parent / "reference"


@dataclass(frozen=True)
class Linear:
    """A linear problem; `rsquared` is about zero, not about the mean, without an intercept."""

    name: str
    difficulty: str
    intercept: bool
    powers: tuple[int, ...]
    x: np.ndarray  # (n,), or (n, 6) for Longley
    y: np.ndarray
    coef: np.ndarray
    se: np.ndarray
    sigma: float
    rsquared: float
    df: int

    @property
    def design(self):
        """The design matrix, the column of ones first, then the powers of x in rising order."""
        x = self.x.reshape(len(self.y), -1)
        ones = [np.ones((len(x), 1))] if self.intercept else []
        return np.hstack(ones + [x**power for power in self.powers])


@dataclass(frozen=True)
class Nonlinear:
    """A nonlinear problem; `y` is what the model describes, so log(y) of the data for Nelson."""

    name: str
    difficulty: str
    model: Callable[..., np.ndarray]
    expression: str
    x: np.ndarray  # (n,), or (2, n) for Nelson
    y: np.ndarray
    starts: tuple[np.ndarray, np.ndarray]  # far from the solution, near to it
    coef: np.ndarray
    se: np.ndarray
    rss: float
    sigma: float
    df: int


def _bennett5(x, b1, b2, b3):
    return b1 * (b2 + x) ** (-1 / b3)


def _saturation(x, b1, b2):
    return b1 * (1 - np.exp(-b2 * x))


def _chwirut(x, b1, b2, b3):
    return np.exp(-b1 * x) / (b2 + b3 * x)


def _danwood(x, b1, b2):
    return b1 * x**b2


def _enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    year, nino, southern = (2 * np.pi * x / period for period in (12, b4, b7))
    return (
        b1
        + b2 * np.cos(year)
        + b3 * np.sin(year)
        + b5 * np.cos(nino)
        + b6 * np.sin(nino)
        + b8 * np.cos(southern)
        + b9 * np.sin(southern)
    )


def _eckerle4(x, b1, b2, b3):
    return b1 / b2 * np.exp(-0.5 * ((x - b3) / b2) ** 2)


def _gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    return (
        b1 * np.exp(-b2 * x)
        + b3 * np.exp(-((x - b4) ** 2) / b5**2)
        + b6 * np.exp(-((x - b7) ** 2) / b8**2)
    )


def _cubic_ratio(x, b1, b2, b3, b4, b5, b6, b7):
    return (b1 + b2 * x + b3 * x**2 + b4 * x**3) / (1 + b5 * x + b6 * x**2 + b7 * x**3)


def _kirby2(x, b1, b2, b3, b4, b5):
    return (b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2)


def _lanczos(x, b1, b2, b3, b4, b5, b6):
    return b1 * np.exp(-b2 * x) + b3 * np.exp(-b4 * x) + b5 * np.exp(-b6 * x)


def _mgh09(x, b1, b2, b3, b4):
    return b1 * (x**2 + x * b2) / (x**2 + x * b3 + b4)


def _mgh10(x, b1, b2, b3):
    return b1 * np.exp(b2 / (x + b3))


def _mgh17(x, b1, b2, b3, b4, b5):
    return b1 + b2 * np.exp(-x * b4) + b3 * np.exp(-x * b5)


def _misra1b(x, b1, b2):
    return b1 * (1 - (1 + b2 * x / 2) ** -2)


def _misra1c(x, b1, b2):
    return b1 * (1 - (1 + 2 * b2 * x) ** -0.5)


def _misra1d(x, b1, b2):
    return b1 * b2 * x / (1 + b2 * x)


def _nelson(x, b1, b2, b3):
    return b1 - b2 * x[0] * np.exp(-b3 * x[1])


def _rat42(x, b1, b2, b3):
    return b1 / (1 + np.exp(b2 - b3 * x))


def _rat43(x, b1, b2, b3, b4):
    return b1 / (1 + np.exp(b2 - b3 * x)) ** (1 / b4)


def _roszman1(x, b1, b2, b3, b4):
    return b1 - b2 * x - np.arctan(b3 / (x - b4)) / np.pi


MODELS = {
    "Bennett5": _bennett5,
    "BoxBOD": _saturation,
    "Chwirut1": _chwirut,
    "Chwirut2": _chwirut,
    "DanWood": _danwood,
    "ENSO": _enso,
    "Eckerle4": _eckerle4,
    "Gauss1": _gauss,
    "Gauss2": _gauss,
    "Gauss3": _gauss,
    "Hahn1": _cubic_ratio,
    "Kirby2": _kirby2,
    "Lanczos1": _lanczos,
    "Lanczos2": _lanczos,
    "Lanczos3": _lanczos,
    "MGH09": _mgh09,
    "MGH10": _mgh10,
    "MGH17": _mgh17,
    "Misra1a": _saturation,
    "Misra1b": _misra1b,
    "Misra1c": _misra1c,
    "Misra1d": _misra1d,
    "Nelson": _nelson,
    "Rat42": _rat42,
    "Rat43": _rat43,
    "Roszman1": _roszman1,
    "Thurber": _cubic_ratio,
}


def _problems(kind):
    text = (_REFERENCE / f"nist_{kind}.json").read_text(encoding="utf-8")
    return json.loads(text)["problems"].items()


def _array(values):
    array = np.array(values, dtype=float)
    array.flags.writeable = False  # the problems are shared by all tests
    return array


def _linear(name, p):
    arrays = {key: _array(p[key]) for key in ("x", "y", "coef", "se")}
    plain = {key: p[key] for key in ("difficulty", "intercept", "sigma", "rsquared", "df")}
    return Linear(name=name, powers=tuple(p["powers"]), **plain, **arrays)


def _nonlinear(name, p):
    arrays = {key: _array(p[key]) for key in ("x", "coef", "se")}
    plain = {key: p[key] for key in ("difficulty", "rss", "sigma", "df")}
    return Nonlinear(
        name=name,
        model=MODELS[name],
        expression=p["model"],
        y=_array(np.log(p["y"]) if p["response"] == "log(y)" else p["y"]),
        starts=(_array(p["start1"]), _array(p["start2"])),
        **plain,
        **arrays,
    )


LINEAR = {name: _linear(name, p) for name, p in _problems("linear")}
NONLINEAR = {name: _nonlinear(name, p) for name, p in _problems("nonlinear")}
