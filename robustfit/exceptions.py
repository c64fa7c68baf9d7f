"""Warnings and errors that robustfit raises.

Plain ``ValueError`` and ``TypeError`` are raised for bad arguments; the classes here
mark what only a robust fit can meet.
"""

__all__ = ["BasinWarning", "ConvergenceWarning", "RankWarning", "RobustfitWarning"]


class RobustfitWarning(UserWarning):
    """Base class of every warning that robustfit issues."""


class ConvergenceWarning(RobustfitWarning):
    """The iteration stopped before its convergence criterion was met."""


class RankWarning(RobustfitWarning):
    """The design matrix has linearly dependent columns; the fit is the minimum-norm one."""


class BasinWarning(RobustfitWarning):
    """A redescending fit left the solution that its high-breakdown start had found."""
