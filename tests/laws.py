"""Laws that every loss obeys, whatever engine evaluates it.

Each law takes a `Subject`: one loss, seen through one engine in one precision. It is used
over the registry by test_losses.py, and may be used on a loss of one's own::

    for law in LAWS:
        law(Subject(MyLoss(), "numpy", "float64"))
"""

import dataclasses

import numpy as np

from robustfit.losses import Loss

ENGINES = ("numpy", "numba", "torch")


@dataclasses.dataclass(frozen=True)
class Subject:
    """The four functions of a loss as one engine computes them."""

    loss: Loss
    engine: str
    dtype: str

    def __str__(self):
        return f"{self.loss!r}-{self.engine}-{self.dtype}"

    @property
    def eps(self):
        return float(np.finfo(self.dtype).eps)

    def array(self, u):
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(u).astype(self.dtype)

    @property
    def tiny(self):
        return float(np.finfo(self.dtype).tiny)

    def __getattr__(self, kind):
        if kind not in ("rho", "psi", "weight", "dpsi"):
            raise AttributeError(kind)
        return lambda u: self.evaluate(kind, self.array(u))

    def evaluate(self, kind, u):
        if self.engine == "numba":
            value = self.loss.ufunc(kind)(u, u.dtype.type(self.loss.c))
        elif self.engine == "torch":
            import torch

            value = getattr(self.loss, kind)(torch.from_numpy(u)).numpy()
        else:
            value = getattr(self.loss, kind)(u)
        assert value.dtype == u.dtype
        assert value.shape == u.shape
        return value

    def points(self, low=-6.0, high=3.0):
        """Return |u| on a logarithmic grid about c, and between the knots."""
        grid = np.logspace(low, high, 90)
        knots = np.array([0.0, *self.loss._breaks()])
        between = (knots[:-1, None] + np.diff(knots)[:, None] * [0.2, 0.5, 0.9]).ravel()
        return self.array(self.loss.c * np.union1d(grid, between))

    def away_from_knots(self, u, distance):
        """Return the points further than `distance`, relative, from every knot."""
        for knot in self.loss._breaks():
            u = u[np.abs(u / (self.loss.c * knot) - 1.0) > distance]
        return u


def rho_is_zero_at_zero_and_weight_is_one(f):
    zero = np.array([0.0, -0.0])
    assert (f.rho(zero) == 0.0).all()
    assert not np.signbit(f.rho(zero)).any()
    assert (f.psi(zero) == 0.0).all()
    assert (f.weight(zero) == 1.0).all()
    assert (f.dpsi(zero) == 1.0).all()


def rho_weight_and_dpsi_are_even_and_psi_is_odd(f):
    u = f.points()
    for kind, sign in (("rho", 1), ("psi", -1), ("weight", 1), ("dpsi", 1)):
        np.testing.assert_array_equal(f.evaluate(kind, -u), sign * f.evaluate(kind, u))


def rho_is_half_the_square_at_zero(f):
    # The next term is at most u**3 / (3 c), that of Fair.
    small = np.logspace(-17 if f.dtype == "float32" else -150, -9, 60)
    u = f.array(f.loss.c * small)
    np.testing.assert_allclose(f.rho(u), 0.5 * u * u, rtol=8 * f.eps + 1e-9, atol=0)


def rho_never_decreases(f):
    rho = f.rho(f.points())
    assert (np.diff(rho) >= -4 * f.eps * rho[1:]).all()
    assert (rho > 0).all()


def weights_lie_between_zero_and_one_and_fall(f):
    weight = f.weight(f.points())
    assert ((weight >= 0.0) & (weight <= 1.0)).all()
    assert (np.diff(weight) <= 4 * f.eps).all()


def psi_is_u_times_the_weight(f):
    u = f.points(-6.0, 30.0)
    np.testing.assert_allclose(f.psi(u), u * f.weight(u), rtol=8 * f.eps, atol=8 * f.eps * f.loss.c)


def psi_is_the_slope_of_rho(f):
    _is_slope(f, f.rho, f.psi, 1e-10)


def dpsi_is_the_slope_of_psi(f):
    _is_slope(f, f.psi, f.dpsi, 1e-9)


def _is_slope(f, function, slope, tol):
    # A fourth-order difference, in double precision: single has no digits to lose.
    if f.dtype != "float64":
        return
    c = f.loss.c
    u = f.away_from_knots(f.points(-1.5, 1.5), 0.01)
    h = 3e-4 * u
    difference = (
        function(u - 2 * h) - 8 * function(u - h) + 8 * function(u + h) - function(u + 2 * h)
    ) / (12 * h)
    np.testing.assert_allclose(slope(u), difference, rtol=tol, atol=1e-10 * c)


def a_constant_only_scales(f):
    # A power of two scales exactly, so this must hold to the last bits.
    u = f.points()
    wider = dataclasses.replace(f, loss=dataclasses.replace(f.loss, c=4.0 * f.loss.c))
    for kind, power in (("rho", 2), ("psi", 1), ("weight", 0), ("dpsi", 0)):
        expected = 4.0**power * f.evaluate(kind, u)
        np.testing.assert_allclose(
            wider.evaluate(kind, 4 * u), expected, rtol=4 * f.eps, atol=f.tiny
        )


def bounded_means_that_rho_has_a_finite_limit(f):
    with np.errstate(over="ignore"):
        end = f.rho(np.array([np.inf, -np.inf]))
    np.testing.assert_allclose(end, f.loss.sup, rtol=4 * f.eps)
    assert f.loss.bounded == np.isfinite(f.loss.sup)
    if f.loss.bounded:
        assert (f.rho(f.points(-6, 15)) <= f.loss.sup * (1 + 4 * f.eps)).all()
        np.testing.assert_allclose(f.rho(1e30 * f.loss.c), f.loss.sup, rtol=8 * f.eps)


def redescending_means_that_psi_returns_to_zero(f):
    near, far = f.psi(f.loss.c * np.array([1e3, 1e6]))
    assert f.loss.redescending == (far < 0.99 * near or far == 0.0)
    assert f.loss.redescending or not f.loss.bounded
    if f.loss.redescending:
        assert abs(f.psi(np.array([np.inf, -np.inf]))).max() < 1e-9 * f.loss.c


def convex_means_that_dpsi_is_never_negative(f):
    lowest = f.dpsi(f.points()).min()
    assert f.loss.convex == (lowest >= 0.0 and not f.loss.bounded)


def infinity_and_huge_values_stay_numbers(f):
    u = np.array([1e30, 3e38, 1e100, 1e155, 1e300, 1.7e308, np.inf])
    u = f.array(np.concatenate([u, -u]))
    with np.errstate(over="ignore"):
        values = {kind: f.evaluate(kind, u) for kind in ("rho", "psi", "weight", "dpsi")}
    assert not any(np.isnan(value).any() for value in values.values())
    assert (values["rho"] >= 0).all()
    assert (np.sign(values["psi"]) * np.sign(u) >= 0).all()
    assert ((values["weight"] >= 0) & (values["weight"] <= 1)).all()
    assert (np.abs(values["dpsi"]) <= 1).all()


def nan_stays_nan(f):
    u = f.array([np.nan, 1.0, -np.nan])
    with np.errstate(invalid="ignore"):
        for kind in ("rho", "psi", "weight", "dpsi"):
            np.testing.assert_array_equal(
                np.isnan(f.evaluate(kind, u)), [True, False, True], err_msg=kind
            )


def any_shape_and_memory_layout_will_do(f):
    block = f.array(np.linspace(-9.0, 9.0, 24)).reshape(4, 6)
    block.setflags(write=False)
    for kind in ("rho", "psi", "weight", "dpsi"):
        whole = f.evaluate(kind, block.copy())
        layouts = (
            [block, block[::2, 1::3], block.T, block[:, ::-1]]
            if f.engine != "torch"
            else [block.copy()[::2, 1::3], block.copy().T]
        )
        expected = (
            [whole, whole[::2, 1::3], whole.T, whole[:, ::-1]]
            if f.engine != "torch"
            else [whole[::2, 1::3], whole.T]
        )
        for view, value in zip(layouts, expected, strict=True):
            np.testing.assert_allclose(f.evaluate(kind, view), value, rtol=4 * f.eps, atol=f.eps)
        assert f.evaluate(kind, block[:0].copy()).shape == (0, 6)


def input_is_neither_changed_nor_returned(f):
    u = f.points()
    before = u.copy()
    for kind in ("rho", "psi", "weight", "dpsi"):
        value = f.evaluate(kind, u)
        assert value is not u
        assert not np.shares_memory(value, u)
        np.testing.assert_array_equal(u, before)


LAWS = (
    rho_is_zero_at_zero_and_weight_is_one,
    rho_weight_and_dpsi_are_even_and_psi_is_odd,
    rho_is_half_the_square_at_zero,
    rho_never_decreases,
    weights_lie_between_zero_and_one_and_fall,
    psi_is_u_times_the_weight,
    psi_is_the_slope_of_rho,
    dpsi_is_the_slope_of_psi,
    a_constant_only_scales,
    bounded_means_that_rho_has_a_finite_limit,
    redescending_means_that_psi_returns_to_zero,
    convex_means_that_dpsi_is_never_negative,
    infinity_and_huge_values_stay_numbers,
    nan_stays_nan,
    any_shape_and_memory_layout_will_do,
    input_is_neither_changed_nor_returned,
)
