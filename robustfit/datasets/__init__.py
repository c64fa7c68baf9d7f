"""Ten classic regression data sets on which robust methods are compared.

Each set is a small CSV file in this folder: a header with the names of the variables,
the response last, no intercept column. Everything else that is known about a set stands
in the table `_ABOUT` below; to add a set, add its file and its row.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dataset", "load", "names"]


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """A regression data set, ready for `irls`; as `load` returns it.

    Attributes
    ----------
    name : str
        The name under which `load` knows the set.
    A : ndarray of shape (n, p)
        Design matrix with the intercept in its first column; float64, read-only.
    b : ndarray of shape (n,)
        Response; float64, read-only.
    names : tuple of str
        Names of the columns of `A`; the first is ``"Intercept"``.
    response : str
        Name of `b`.
    description : str
        What was measured, in which units, and why the set is a classic.
    source : str
        The literature that the numbers come from.
    note : str
        What to know about these digits: units, transformations, differing versions.
    """

    name: str
    A: NDArray[np.float64] = field(repr=False)
    b: NDArray[np.float64] = field(repr=False)
    names: tuple[str, ...]
    response: str
    description: str = field(repr=False)
    source: str = field(repr=False)
    note: str = field(repr=False)

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The variables by name, the response last: data for `robustfit.fit`."""
        variables = zip(self.names[1:], self.A.T[1:], strict=True)
        return {**dict(variables), self.response: self.b}


class _About(NamedTuple):
    description: str
    source: str
    note: str


_ROUSSEEUW_LEROY = (
    "P. J. Rousseeuw and A. M. Leroy (1987), Robust Regression and Outlier Detection, Wiley, "
    "{where}, doi:10.1002/0471725382"
)
_AS_PRINTED = "The digits are those of the published table."

_ABOUT = {
    "Animals2": _About(
        "Brain weight against body weight of 65 animal species, both as natural logarithms "
        "(grams; kilograms). Three dinosaurs lie far below the line of the others.",
        "S. Weisberg (1985), Applied Linear Regression, 2nd edition, Wiley, pp. 144-145; "
        + _ROUSSEEUW_LEROY.format(where="p. 57"),
        "Union of two published tables without repeated animals. The weights are exp() of the "
        "values here, which are natural logarithms to 17 digits; the slope is the same for "
        "decimal ones.",
    ),
    "coleman": _About(
        "Mean verbal test score of the sixth grade in 20 schools of the Mid-Atlantic and New "
        "England states, against staff salary per pupil, per cent of white-collar fathers, a "
        "socioeconomic index, the teachers' mean verbal score and the mothers' mean schooling "
        "(one unit is two years).",
        "F. Mosteller and J. W. Tukey (1977), Data Analysis and Regression, Addison-Wesley; "
        + _ROUSSEEUW_LEROY.format(where="p. 79, table 2"),
        _AS_PRINTED,
    ),
    "delivery": _About(
        "Time to stock 25 vending machines with soft drinks (minutes), against the number of "
        "products and the distance walked (feet). One point has a high leverage.",
        "D. C. Montgomery and E. A. Peck (1982), Introduction to Linear Regression Analysis, "
        "Wiley, p. 116; " + _ROUSSEEUW_LEROY.format(where="p. 155, table 23"),
        _AS_PRINTED,
    ),
    "education": _About(
        "Expenditure on public education per head in the 50 states of the USA, projected for "
        "1975, against residents per thousand in urban areas (1970), income per head (1973) and "
        "residents per thousand under 18 years (1974). The last row, Alaska, is an outlier.",
        "S. Chatterjee and B. Price (1977), Regression Analysis by Example, Wiley; "
        + _ROUSSEEUW_LEROY.format(where="p. 110, table 16"),
        _AS_PRINTED + " The published table also has the region, which is left out here.",
    ),
    "hbk": _About(
        "Artificial: 75 points, of which the first ten are outliers at high leverage and the next "
        "four are good points at high leverage. Single-case diagnostics accuse the wrong four.",
        "D. M. Hawkins, D. Bradu and G. V. Kass (1984), Location of several outliers in "
        "multiple-regression data using elemental sets, Technometrics 26, 197-208; "
        + _ROUSSEEUW_LEROY.format(where="p. 94"),
        _AS_PRINTED,
    ),
    "phones": _About(
        "International telephone calls from Belgium in the years 1950 to 1973, in millions. "
        "From 1964 to 1969 another quantity, the minutes, was recorded; 1963 and 1970 are mixed.",
        _ROUSSEEUW_LEROY.format(where="p. 26, table 2"),
        "The book prints tens of millions; `calls` is ten times its digits, as usual since. "
        "`year` is the year less 1900.",
    ),
    "salinity": _About(
        "Salinity of the water in Pamlico Sound, North Carolina, in 28 two-week periods of the "
        "spring, against the salinity two weeks earlier, the number of the period in its season "
        "and the river discharge.",
        "D. Ruppert and R. J. Carroll (1980), Trimmed least squares estimation in the linear "
        "model, Journal of the American Statistical Association 75, 828-838; "
        + _ROUSSEEUW_LEROY.format(where="p. 82, table 5"),
        _AS_PRINTED + " A version with two errors of transcription is also in circulation.",
    ),
    "stackloss": _About(
        "Ammonia lost up the stack (tenths of a per cent) on 21 days of a plant that oxidizes it "
        "to nitric acid, against air flow, temperature of the cooling water and concentration "
        "of the acid. Days 1, 3, 4 and 21 are the usual suspects.",
        "K. A. Brownlee (1965), Statistical Theory and Methodology in Science and Engineering, "
        "2nd edition, Wiley; " + _ROUSSEEUW_LEROY.format(where="p. 76, table 1"),
        _AS_PRINTED,
    ),
    "starsCYG": _About(
        "Light intensity against surface temperature of 47 stars in the direction of Cygnus, both "
        "as decimal logarithms. Four giant stars turn the slope of least squares negative.",
        "R. M. Humphreys (1978), Studies of luminous stars in nearby galaxies. I, Astrophysical "
        "Journal Supplement Series 38, 309-350, doi:10.1086/190559; "
        + _ROUSSEEUW_LEROY.format(where="p. 27, table 3"),
        "The digits are those of the book, which derived them from the catalogue.",
    ),
    "wood": _About(
        "Specific gravity of 20 pieces of wood against five anatomical measurements, with rows "
        "4, 6, 8 and 19 replaced by outliers that no single variable shows.",
        "N. R. Draper and H. Smith (1966), Applied Regression Analysis, Wiley, p. 227; changed "
        "by P. J. Rousseeuw (1984), Least median of squares regression, Journal of the American "
        "Statistical Association 79, 871-880, doi:10.1080/01621459.1984.10477105; "
        + _ROUSSEEUW_LEROY.format(where="p. 243, table 8"),
        "The digits are those of the changed table, not of 1966.",
    ),
}


def names() -> tuple[str, ...]:
    """Name the data sets that `load` knows.

    Returns
    -------
    tuple of str
        In alphabetical order, capital letters first.

    Examples
    --------
    >>> from robustfit import datasets
    >>> len(datasets.names())
    10
    """
    return tuple(_ABOUT)


def load(name: str) -> Dataset:
    """Load one of the shipped data sets.

    Parameters
    ----------
    name : str
        One of `names`; upper and lower case differ.

    Returns
    -------
    Dataset
        Design matrix `A` with an intercept column, response `b`, and what is known of them.

    Raises
    ------
    ValueError
        If there is no set of that name.

    Examples
    --------
    >>> from robustfit import datasets
    >>> data = datasets.load("stackloss")
    >>> data
    Dataset(name='stackloss', names=('Intercept', 'air_flow', 'water_temp', 'acid_conc'), \
response='stack_loss')
    >>> A, b = data.A, data.b
    >>> A.shape, b.shape
    ((21, 4), (21,))
    """
    if name not in _ABOUT:
        raise ValueError(f"name={name!r} is not a data set; choose one of {', '.join(_ABOUT)}")
    with (files(__name__) / f"{name}.csv").open(encoding="utf-8") as file:
        *columns, response = file.readline().strip().split(",")
        values = np.loadtxt(file, delimiter=",", dtype=np.float64, ndmin=2)
    A = np.column_stack([np.ones(len(values)), values[:, :-1]])
    b = values[:, -1].copy()
    A.flags.writeable = b.flags.writeable = False
    return Dataset(name, A, b, ("Intercept", *columns), response, *_ABOUT[name])
