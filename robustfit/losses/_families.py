"""The losses. Each is three formulas of v = u / c; everything else is derived from them.

Formulas are exact near zero (no ``1 - exp``), finite at infinity and branch-free. Where
two expressions are joined by ``m.where``, both are evaluated, so each clips its argument
to the range in which it is meant.
"""

import dataclasses
import math
from typing import Any, ClassVar

from robustfit._jit import jitable
from robustfit.losses._base import Loss

SQRT2 = math.sqrt(2.0)

# Between these, v**2 is a normal number in float32 too; outside, 1 adds nothing to it or it to 1.
_FAR = 1e18
_TINY = 1e-18


@jitable(forceinline=True)
def _split_square(v: Any, m: Any) -> Any:
    """Return (s, b) with v**2 = b / s and both in [0, 1], so that no v overflows.

    1 / (1 + v**2) is then s / (s + b), and v**2 / (1 + v**2) is b / (s + b).
    """
    a = m.abs(v)
    b = m.minimum(a, 1.0)
    s = 1.0 / m.maximum(a, 1.0)
    return s * s, b * b


@jitable(forceinline=True)
def _product_error(a: Any, b: Any, product: Any) -> Any:
    """Return a b - product, the rounding error of a product (Dekker 1971).

    In float32 the constant is too large to split anything and the result is
    ``fl(a b) - product`` instead, which is as good as no correction.
    """
    t = 134217729.0 * a
    high_a = t - (t - a)
    t = 134217729.0 * b
    high_b = t - (t - b)
    low_a = a - high_a
    low_b = b - high_b
    return ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


@jitable(forceinline=True)
def _welsch_rho(rho1: Any, u: Any, c: Any, m: Any) -> Any:
    """Return c**2 rho1(u / c) within two units in the last place.

    Rounding c**2, u**2 and their quotient z costs more than one. The terms in r, what is
    missing from z c**2, and in s, what is missing from c**2, take it out again.
    """
    k = c * c
    s = _product_error(c, c, k)
    a = m.minimum(m.abs(u), 30.0 * c)
    square = a * a
    z = square / k
    back = z * k
    r = (square - back) + (_product_error(a, a, square) - _product_error(z, k, back))
    e, w = m.expm1(-z), m.exp(-z)
    value = -0.5 * (k * e + (s * (e + z * w) - r * w))
    return m.where(a < _TINY * c, 0.5 * square, value)


@jitable(forceinline=True)
def _half_log1p_square(v: Any, m: Any) -> Any:
    """Return log(1 + v**2) / 2 without overflow."""
    a = m.abs(v)
    near = m.minimum(a, 1e9)
    return m.where(a < 1e9, 0.5 * m.log1p(near * near), m.log(m.maximum(a, 1e9)))


@jitable(forceinline=True)
def _expm1_ratio(y: Any, m: Any) -> Any:
    """Return the series of (exp(y) - 1) / y for |y| <= 1/2, where the quotient loses digits."""
    series = _INVERSE_FACTORIAL[14]
    for k in range(13, 0, -1):
        series = series * y + _INVERSE_FACTORIAL[k]
    return series


@jitable(forceinline=True)
def _optimal_q(v: Any, m: Any) -> Any:
    """Return (9 - v**2) / 5 for |v| between 2 and 3: 1 before, 0 after."""
    a = m.minimum(m.maximum(m.abs(v), 2.0), 3.0)
    return (3.0 - a) * (3.0 + a) / 5.0


_INVERSE_FACTORIAL = tuple(1.0 / math.factorial(k) for k in range(20))


class Welsch(Loss):
    r"""c^2/2 (1 - exp(-(u/c)^2)).

    The weight is exp(-(u/c)^2): smooth, and practically zero beyond 5 c. Also known as the
    Leclerc loss. Other systems write exp(-(r/k)^2 / 2): their k is c / sqrt(2).

    References
    ----------
    Dennis, J. E. and Welsch, R. E. (1978). Techniques for nonlinear least squares and
    robust regression. Communications in Statistics B 7, 345-359.
    doi:10.1080/03610917808812083
    """

    name = "welsch"
    aliases = ("welsh", "leclerc")
    units: ClassVar = {
        "matlab": 1.0,
        "robustbase": SQRT2,
        "kornia": SQRT2,
        "gtsam": 1.0,
        "barron": SQRT2,
    }

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 30.0)
        return -0.5 * m.expm1(-a * a)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 30.0)
        return m.exp(-a * a)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 30.0)
        return (1.0 - 2.0 * a * a) * m.exp(-a * a)

    @classmethod
    def engine(cls, kind: Any, *, exact: bool = True) -> Any:
        """As for every loss, with a more exact scaling for rho."""
        return (_welsch_rho, cls.rho1) if kind == "rho" and exact else super().engine(kind)

    def efficiency(self, c: float | None = None) -> float:
        """Return (1 + 4/c^2)^(3/2) / (1 + 2/c^2)^3."""
        a = (self.c if c is None else c) ** -2
        return float((1.0 + 4.0 * a) ** 1.5 / (1.0 + 2.0 * a) ** 3)

    def breakdown(self, c: float | None = None) -> float:
        """Return 1 - (1 + 2/c^2)^(-1/2)."""
        a = (self.c if c is None else c) ** -2
        return -math.expm1(-0.5 * math.log1p(2.0 * a))


class Huber(Loss):
    r"""u^2/2 up to c, then c|u| - c^2/2.

    References
    ----------
    Huber, P. J. (1964). Robust estimation of a location parameter. Annals of Mathematical
    Statistics 35, 73-101. doi:10.1214/aoms/1177703732
    """

    name = "huber"
    convex = True
    knots = (1.0,)
    units: ClassVar = {"matlab": 1.0, "robustbase": 1.0, "scipy": 1.0, "gtsam": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.abs(v)
        near = m.minimum(a, 1.0)
        return near * (a - 0.5 * near)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        return 1.0 / m.maximum(m.abs(v), 1.0)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        return m.where(m.abs(v) <= 1.0, 1.0 + 0.0 * m.minimum(m.abs(v), 1.0), 0.0)


class Tukey(Loss):
    r"""c^2/6 (1 - (1 - (u/c)^2)^3) up to c, then c^2/6; the biweight or bisquare.

    References
    ----------
    Beaton, A. E. and Tukey, J. W. (1974). The fitting of power series, meaning polynomials,
    illustrated on band-spectroscopic data. Technometrics 16, 147-185.
    doi:10.1080/00401706.1974.10489171
    """

    name = "tukey"
    aliases = ("bisquare", "biweight")
    knots = (1.0,)
    units: ClassVar = {"matlab": 1.0, "robustbase": 1.0, "gtsam": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 1.0)
        z = a * a
        return 0.5 * z * (1.0 - z * (1.0 - z / 3.0))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 1.0)
        d = (1.0 - a) * (1.0 + a)
        return d * d

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 1.0)
        return (1.0 - a) * (1.0 + a) * (1.0 - 5.0 * a * a)


class Cauchy(Loss):
    r"""c^2/2 log(1 + (u/c)^2); also the Lorentzian loss.

    References
    ----------
    Holland, P. W. and Welsch, R. E. (1977). Robust regression using iteratively reweighted
    least-squares. Communications in Statistics A 6, 813-827. doi:10.1080/03610927708827533
    """

    name = "cauchy"
    aliases = ("lorentzian",)
    units: ClassVar = {"matlab": 1.0, "scipy": 1.0, "kornia": SQRT2, "gtsam": 1.0, "barron": SQRT2}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        return _half_log1p_square(v, m)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return s / (s + b)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return s / (s + b) * ((s - b) / (s + b))


class GemanMcClure(Loss):
    r"""u^2/2 / (1 + (u/c)^2).

    References
    ----------
    Geman, S. and McClure, D. E. (1987). Statistical methods for tomographic image
    reconstruction. Bulletin of the International Statistical Institute 52(4), 5-21.
    """

    name = "geman_mcclure"
    aliases = ("geman", "gm")
    units: ClassVar = {"kornia": 2.0, "gtsam": 1.0, "barron": 2.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return 0.5 * (b / (s + b))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        w = s / (s + b)
        return w * w

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        w = s / (s + b)
        return w * w * ((s - 3.0 * b) / (s + b))


class Fair(Loss):
    r"""c^2 (|u|/c - log(1 + |u|/c)).

    References
    ----------
    Fair, R. C. (1974). On the robust estimation of econometric models. Annals of Economic
    and Social Measurement 3, 667-677.
    """

    name = "fair"
    convex = True
    units: ClassVar = {"matlab": 1.0, "gtsam": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        # log(1 + a) = 2 artanh(s) with s = a / (2 + a), so that the leading terms cancel
        # on paper: a - log(1 + a) = a s - 2 s^3 (1/3 + s^2/5 + s^4/7 + ...).
        a = m.abs(v)
        near = m.minimum(a, 0.5)
        s = near / (2.0 + near)
        q = s * s
        tail = 1.0 / 23.0
        for k in (21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
            tail = tail * q + 1.0 / k
        return m.where(a < 0.5, s * (near - 2.0 * q * tail), a - m.log1p(m.minimum(a, _FAR)))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        return 1.0 / (1.0 + m.abs(v))

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        w = 1.0 / (1.0 + m.abs(v))
        return w * w


class Logistic(Loss):
    r"""c^2 log cosh(u/c); also the log-cosh loss.

    References
    ----------
    Coleman, D., Holland, P., Kaden, N., Klema, V. and Peters, S. C. (1980). A system of
    subroutines for iteratively reweighted least squares computations. ACM Transactions on
    Mathematical Software 6, 327-336. doi:10.1145/355900.355905
    """

    name = "logistic"
    aliases = ("log_cosh",)
    convex = True
    units: ClassVar = {"matlab": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.abs(v)
        t = m.tanh(m.minimum(a, 1.0))
        far = a + (m.log1p(m.exp(-2.0 * m.minimum(a, 300.0))) - 0.6931471805599453)
        return m.where(a < 1.0, -0.5 * m.log1p(-t * t), far)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        a = m.maximum(m.abs(v), _TINY)
        # Some libraries round it up to more than 1.
        return m.minimum(m.tanh(a) / a, 1.0)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        e = m.exp(-2.0 * m.minimum(m.abs(v), 300.0))
        return 4.0 * e / ((1.0 + e) * (1.0 + e))


class PseudoHuber(Loss):
    r"""c^2 (sqrt(1 + (u/c)^2) - 1); SciPy's soft_l1, also Charbonnier and L1-L2.

    References
    ----------
    Charbonnier, P., Blanc-Feraud, L., Aubert, G. and Barlaud, M. (1997). Deterministic
    edge-preserving regularization in computed imaging. IEEE Transactions on Image
    Processing 6, 298-311. doi:10.1109/83.551699
    """

    name = "pseudo_huber"
    aliases = ("soft_l1", "charbonnier", "l1_l2")
    convex = True
    units: ClassVar = {"scipy": 1.0, "kornia": 1.0, "barron": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        root = m.sqrt(s + b)
        # |v| = sqrt(b / s): numerator and denominator of v / (1 + sqrt(1 + v^2)) times sqrt(s).
        return m.abs(v) * (m.minimum(m.abs(v), 1.0) / (1.0 / m.maximum(m.abs(v), 1.0) + root))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return 1.0 / m.maximum(m.abs(v), 1.0) / m.sqrt(s + b)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        w = 1.0 / m.maximum(m.abs(v), 1.0) / m.sqrt(s + b)
        return w * w * w


class Andrews(Loss):
    r"""c^2 (1 - cos(u/c)) up to pi c, then 2 c^2; Andrews' sine wave.

    References
    ----------
    Andrews, D. F. (1974). A robust method for multiple linear regression. Technometrics 16,
    523-531. doi:10.1080/00401706.1974.10489233
    """

    name = "andrews"
    aliases = ("sine",)
    knots = (math.pi,)
    units: ClassVar = {"matlab": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        s = m.sin(0.5 * m.minimum(m.abs(v), math.pi))
        return 2.0 * s * s

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        a = m.maximum(m.minimum(m.abs(v), math.pi), _TINY)
        return m.where(a < math.pi, m.sin(a) / a, 0.0)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), math.pi)
        return m.where(a < math.pi, m.cos(a), 0.0)


class Talwar(Loss):
    r"""u^2/2 below c, c^2/2 from there on; hard rejection, truncated least squares.

    References
    ----------
    Hinich, M. J. and Talwar, P. P. (1975). A simple method for robust regression. Journal
    of the American Statistical Association 70, 113-119. doi:10.1080/01621459.1975.10480271
    """

    name = "talwar"
    aliases = ("tls", "truncated")
    knots = (1.0,)
    units: ClassVar = {"matlab": 1.0, "gtsam": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 1.0)
        return 0.5 * a * a

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        return m.where(m.abs(v) < 1.0, 1.0 + 0.0 * m.minimum(m.abs(v), 1.0), 0.0)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        return m.where(m.abs(v) < 1.0, 1.0 + 0.0 * m.minimum(m.abs(v), 1.0), 0.0)


@dataclasses.dataclass(frozen=True, repr=False)
class Hampel(Loss):
    r"""psi is u up to a c, flat up to b c, falls to zero at r c; three-part redescender.

    Parameters
    ----------
    c : float, optional
        Scales the three corners. Default: 95 % efficiency for the given corners.
    a, b, r : float, default: 1.5, 3.5, 8.0
        The corners, a <= b < r. Other systems use (2, 4, 8).

    References
    ----------
    Hampel, F. R., Ronchetti, E. M., Rousseeuw, P. J. and Stahel, W. A. (1986). Robust
    Statistics. Wiley. doi:10.1002/9781118186435
    """

    a: float = 1.5
    b: float = 3.5
    r: float = 8.0

    name = "hampel"
    units: ClassVar = {"robustbase": 1.0}

    def __post_init__(self) -> None:
        if not 0.0 < self.a <= self.b < self.r < math.inf:
            raise ValueError(
                f"a, b, r must satisfy 0 < a <= b < r, got a={self.a!r}, b={self.b!r}, r={self.r!r}"
            )
        super().__post_init__()

    def _breaks(self) -> tuple[float, ...]:
        return self.shape

    @staticmethod
    def rho1(v: Any, m: Any, a: Any, b: Any, r: Any) -> Any:
        t = m.minimum(m.abs(v), r)
        x1 = m.minimum(t, a)
        x2 = m.maximum(m.minimum(t, b), a) - a
        x3 = m.maximum(t, b) - b
        return 0.5 * x1 * x1 + a * (x2 + x3 * (1.0 - x3 / (2.0 * (r - b))))

    @staticmethod
    def weight1(v: Any, m: Any, a: Any, b: Any, r: Any) -> Any:
        t = m.abs(v)
        fall = (r - m.minimum(t, r)) / (r - b)
        return m.minimum(fall, 1.0) * a / m.maximum(t, a)

    @staticmethod
    def dpsi1(v: Any, m: Any, a: Any, b: Any, r: Any) -> Any:
        t = m.minimum(m.abs(v), r)
        rise = m.where(t <= a, 1.0 + 0.0 * t, 0.0)
        return m.where(t <= b, rise, m.where(t < r, -a / (r - b) + 0.0 * t, 0.0))

    @classmethod
    def from_robustbase(cls, cc: Any) -> "Hampel":
        """Return this loss for robustbase's three corners, kept in units of c = 1."""
        a, b, r = cc
        return cls(1.0, a, b, r)


@dataclasses.dataclass(frozen=True, repr=False)
class Lqq(Loss):
    r"""psi is u up to c, then two parabolas down to zero; linear, quadratic, quadratic.

    Parameters
    ----------
    c : float, optional
        End of the linear part. Default: 95 % efficiency for the given shape.
    b : float, default: 1.5
        Length of the first parabola, in units of c.
    s : float, default: 1.5
        The steepest descent of psi is 1 - s.

    References
    ----------
    Koller, M. and Stahel, W. A. (2011). Sharpening Wald-type inference in robust regression
    for small samples. Computational Statistics & Data Analysis 55, 2504-2515.
    doi:10.1016/j.csda.2011.02.014
    """

    b: float = 1.5
    s: float = 1.5

    name = "lqq"
    units: ClassVar = {"robustbase": 1.0}

    def __post_init__(self) -> None:
        if not (self.b > 0.0 and self.s > 1.0 and self.b * self.s < 2.0 * self.b + 2.0):
            raise ValueError(
                f"b and s must satisfy b > 0, s > 1, b s < 2 b + 2, got b={self.b!r}, s={self.s!r}"
            )
        super().__post_init__()

    def _breaks(self) -> tuple[float, ...]:
        corner = 1.0 + self.b
        return 1.0, corner, corner + (2.0 * corner - self.b * self.s) / (self.s - 1.0)

    @staticmethod
    def rho1(v: Any, m: Any, b: Any, s: Any) -> Any:
        a = (2.0 + 2.0 * b - b * s) / (s - 1.0)
        t = m.abs(v)
        x1 = m.minimum(t, 1.0)
        x2 = m.minimum(m.maximum(t, 1.0) - 1.0, b)
        x3 = m.minimum(m.maximum(t, 1.0 + b) - (1.0 + b), a)
        first = x2 * (1.0 + x2 * (0.5 - s * x2 / (6.0 * b)))
        # psi = (s - 1) (a - x3)^2 / (2 a) on the last piece.
        rest = (s - 1.0) / (6.0 * a) * x3 * (3.0 * a * a - x3 * (3.0 * a - x3))
        return 0.5 * x1 * x1 + first + rest

    @staticmethod
    def weight1(v: Any, m: Any, b: Any, s: Any) -> Any:
        a = (2.0 + 2.0 * b - b * s) / (s - 1.0)
        t = m.abs(v)
        x2 = m.minimum(m.maximum(t, 1.0) - 1.0, b)
        left = a - m.minimum(m.maximum(t, 1.0 + b) - (1.0 + b), a)
        middle = m.minimum(t, 1.0 + b) - s * x2 * x2 / (2.0 * b)
        last = (s - 1.0) / (2.0 * a) * left * left
        psi = m.where(t <= 1.0 + b, middle, last)
        return m.where(t <= 1.0, 1.0 + 0.0 * x2, psi / m.maximum(t, 1.0))

    @staticmethod
    def dpsi1(v: Any, m: Any, b: Any, s: Any) -> Any:
        a = (2.0 + 2.0 * b - b * s) / (s - 1.0)
        t = m.abs(v)
        x2 = m.minimum(m.maximum(t, 1.0) - 1.0, b)
        left = a - m.minimum(m.maximum(t, 1.0 + b) - (1.0 + b), a)
        return m.where(t <= 1.0 + b, 1.0 - s * x2 / b, -(s - 1.0) * left / a)

    @classmethod
    def from_robustbase(cls, cc: Any) -> "Lqq":
        """Return this loss for robustbase's (b, c, s)."""
        b, c, s = cc
        return cls(c, b / c, s)


class Optimal(Loss):
    r"""psi is u up to 2 c, then a polynomial to zero at 3 c; close to bias-optimal.

    References
    ----------
    Yohai, V. J. and Zamar, R. H. (1997). Optimal locally robust M-estimates of regression.
    Journal of Statistical Planning and Inference 64, 309-323.
    doi:10.1016/S0378-3758(97)00040-8
    """

    name = "optimal"
    knots = (2.0, 3.0)
    units: ClassVar = {"robustbase": 1.0}

    # The published polynomial -1.944 + 1.728 z - 0.312 z^2 + 0.016 z^3 of z = v^2 is
    # q^2 (3 - 2 q) in q = (9 - z) / 5, which runs from 1 to 0 and has nothing to cancel.

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        near = m.minimum(m.abs(v), 2.0)
        q = _optimal_q(v, m)
        return 0.5 * near * near + 1.25 * (1.0 - q * q * q * (2.0 - q))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        q = _optimal_q(v, m)
        return q * q * (3.0 - 2.0 * q)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        q = _optimal_q(v, m)
        return q * (1.0 + (q - 1.0) * (22.6 - 14.0 * q))


class Arctan(Loss):
    r"""c^2/2 arctan((u/c)^2); SciPy's arctan, which redescends.

    References
    ----------
    The ``arctan`` loss of ``scipy.optimize.least_squares``.
    """

    name = "arctan"
    units: ClassVar = {"scipy": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), _FAR)
        return 0.5 * m.arctan(a * a)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return s * s / (s * s + b * b)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        q = s * s + b * b
        return s * s / q * ((s * s - 3.0 * b * b) / q)


class ArctanPsi(Loss):
    r"""c^2 (v arctan v - log(1 + v^2)/2), v = u/c: psi is c arctan(u/c).

    Convex and monotone, unlike `Arctan`. RobustModels.jl calls it arctan.
    """

    name = "arctan_psi"
    convex = True

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.abs(v)
        return a * m.arctan(a) - _half_log1p_square(m.minimum(a, _FAR), m)

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        a = m.maximum(m.abs(v), _TINY)
        return m.arctan(a) / a

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        s, b = _split_square(v, m)
        return s / (s + b)


class Ramsay(Loss):
    r"""c^2 (1 - exp(-|v|) (1 + |v|)), v = u/c; Ramsay's E_a with a = 1/c.

    References
    ----------
    Ramsay, J. O. (1977). A comparative study of several robust estimates of slope,
    intercept, and scale in linear regression. Journal of the American Statistical
    Association 72, 608-615. doi:10.1080/01621459.1977.10480624
    """

    name = "ramsay"

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 800.0)
        # e^a - 1 - a = a^2 (1/2! + a/3! + ...), where the closed form cancels.
        near = m.minimum(a, 1.0)
        series = _INVERSE_FACTORIAL[19]
        for k in range(18, 1, -1):
            series = series * near + _INVERSE_FACTORIAL[k]
        e = m.exp(-a)
        return m.where(a < 1.0, e * near * near * series, 1.0 - e * (1.0 + a))

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        return m.exp(-m.minimum(m.abs(v), 800.0))

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        a = m.minimum(m.abs(v), 800.0)
        return (1.0 - a) * m.exp(-a)


class Linear(Loss):
    r"""u^2/2: least squares, for any c.

    ``linear`` is SciPy's name for it: the loss is linear in the squared residual.
    """

    name = "linear"
    aliases = ("least_squares", "l2", "ols")
    convex = True
    units: ClassVar = {"matlab": 1.0, "scipy": 1.0, "barron": 1.0}

    @staticmethod
    def rho1(v: Any, m: Any) -> Any:
        return 0.5 * v * v

    @staticmethod
    def weight1(v: Any, m: Any) -> Any:
        return 1.0 + 0.0 * m.minimum(m.abs(v), 1.0)

    @staticmethod
    def dpsi1(v: Any, m: Any) -> Any:
        return 1.0 + 0.0 * m.minimum(m.abs(v), 1.0)

    def constant(self, kind: str, value: float) -> float:
        """Return 1: every constant gives least squares, whose efficiency is 1."""
        if kind == "breakdown":
            raise ValueError(f"breakdown={value!r} needs a bounded loss, and 'linear' is not one")
        return 1.0


@dataclasses.dataclass(frozen=True, repr=False)
class Barron(Loss):
    r"""Barron's family: from least squares (alpha = 2) to Welsch (alpha = -inf).

    Parameters
    ----------
    c : float, optional
        Barron's scale times the residual scale. Default: 95 % efficiency for this alpha.
    alpha : float, default: 1.0
        Shape, at most 2: 2 is `Linear`, 1 `PseudoHuber`, 0 `Cauchy` (at sqrt(2) c),
        -2 `GemanMcClure` (at 2 c), -inf `Welsch` (at sqrt(2) c).

    References
    ----------
    Barron, J. T. (2019). A general and adaptive robust loss function. CVPR 2019.
    doi:10.1109/CVPR.2019.00446
    """

    alpha: float = 1.0

    name = "barron"
    units: ClassVar = {"barron": 1.0}

    def __post_init__(self) -> None:
        if not self.alpha <= 2.0:
            raise ValueError(f"alpha must be at most 2, got alpha={self.alpha!r}")
        super().__post_init__()

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether rho is convex: alpha >= 1."""
        return self.alpha >= 1.0

    @property
    def shape(self) -> tuple[float, ...]:
        """Alpha, kept where 1/alpha and 1/(2 - alpha) are finite."""
        return (min(max(self.alpha, -1e15), 2.0 - 2.0**-52),)

    @staticmethod
    def rho1(v: Any, m: Any, alpha: Any) -> Any:
        # (b / alpha) ((v^2 / b + 1)^(alpha / 2) - 1), b = 2 - alpha, through
        # L = log(1 + v^2 / b) / 2, which needs no special case at alpha = 0.
        b = 2.0 - alpha
        L = _half_log1p_square(v / b**0.5, m)
        y = alpha * m.minimum(L, 1e30)
        near = b * L * _expm1_ratio(m.minimum(m.maximum(y, -0.5), 0.5), m)
        divisor = m.where(alpha == 0.0, 1.0, alpha)
        return m.where(m.abs(y) < 0.5, near, b / divisor * m.expm1(y))

    @staticmethod
    def weight1(v: Any, m: Any, alpha: Any) -> Any:
        b = 2.0 - alpha
        return m.exp(-b * _half_log1p_square(v / b**0.5, m))

    @staticmethod
    def dpsi1(v: Any, m: Any, alpha: Any) -> Any:
        b = 2.0 - alpha
        s, t = _split_square(v / b**0.5, m)
        w = m.exp(-b * _half_log1p_square(v / b**0.5, m))
        return w * (1.0 - b * (t / (s + t)))

    def constant(self, kind: Any, value: float) -> float:
        """Return the c for an efficiency or a breakdown point; 1 at alpha = 2."""
        if self.alpha == 2.0 and kind == "efficiency":
            return 1.0
        return super().constant(kind, value)

    @classmethod
    def from_barron(cls, scale: float, alpha: float = 1.0) -> "Barron":
        """Return the member with Barron's own `scale` and `alpha`."""
        return cls(scale, alpha)
