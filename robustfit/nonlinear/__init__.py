"""Robust curve fitting and nonlinear least squares."""

from robustfit.nonlinear._curve_fit import curve_fit
from robustfit.nonlinear._least_squares import least_squares
from robustfit.nonlinear._result import CurveFit

__all__ = ["CurveFit", "curve_fit", "least_squares"]
