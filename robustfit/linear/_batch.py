"""Many problems in one call: compiled kernels for the regular course, single fits for the rest.

Blocks of problems go through the kernels of `robustfit.linear._small`. A problem that does not
take the regular course of a fit there, by its rank, by an exact fit, by the basin guard, is fitted
again by the ordinary `irls`, and so are all problems where the options ask for what the kernels do
not know. Answers and statuses are therefore those of the single function.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from robustfit import _checks, linalg
from robustfit._inputs import column_labels
from robustfit._kernels import in_threads
from robustfit._progress import progress_bar
from robustfit.linear import _problem, _regular
from robustfit.linear._problem import Array
from robustfit.linear._regular import Flags, Plan, Problems
from robustfit.result import FitResult, Status

Single = Callable[..., FitResult]

#: The arrays that a batch can keep.
OUTPUTS = ("x", "scale", "cov", "bse", "weights", "resid")
# Responses in a block of problems, which a thread takes at a time, and blocks between two updates
# of the progress bar.
_BLOCK_ELEMENTS = 1 << 14
_BLOCKS = 64
# Problems without success that `summary` lists.
_LISTED = 10


class BatchResult:
    """Result of many linear fits; every array in it is read-only.

    Attributes
    ----------
    x : ndarray of shape (m, p) or (p, k)
        Coefficients: (m, p) for designs (m, n, p), (p, k) for responses (n, k) of one design.
    scale : ndarray of shape (m,) or (k,)
        Scales of the residuals, in response units.
    cov : ndarray of shape (m, p, p) or (k, p, p)
        Covariance matrices of the coefficients; NaN where not defined.
    bse : ndarray of the shape of `x`
        Standard errors.
    weights, resid : ndarray of the shape of the responses
        Robustness weights in [0, 1] and residuals, in response units; NaN for rows that
        ``nan_policy="omit"`` left out.
    status : ndarray of Status, shape (m,) or (k,)
        How each fit ended.
    message : ndarray of str, shape (m,) or (k,)
        What there is to say beyond the status, mostly nothing.
    nit : ndarray of int, shape (m,) or (k,)
        Number of iterations. It may differ from that of the single fit.
    df_t : ndarray of shape (m,) or (k,)
        Degrees of freedom of Student's t.

    Notes
    -----
    ``fit[i]`` is the `FitResult` of problem i, computed when it is asked for by `irls` with the
    same options. The result refers to the data for that, and does not copy them.

    `x`, `scale`, `cov`, `bse`, `weights` and `resid` are there if `outputs` asked for them.

    Examples
    --------
    >>> import numpy as np
    >>> import robustfit as rf
    >>> t = np.arange(20.0)
    >>> A = np.column_stack([np.ones(20), t])
    >>> noise = 0.1 * np.cos(7.0 * t[:, None] + [0.0, 1.0, 2.0])
    >>> B = A @ [[1.0, 2.0, 3.0], [0.5, 1.0, 1.5]] + noise
    >>> B[3] = 500.0
    >>> fit = rf.irls(A, B)
    >>> print(fit.x.round(1))
    [[1.  2.  3. ]
     [0.5 1.  1.5]]
    >>> fit.success
    array([ True,  True,  True])
    >>> fit[1].outliers()
    array([3])
    """

    def __init__(self, problems: Problems, arrays: dict[str, Any], fit: Single) -> None:
        self._problems, self._arrays, self._fit = problems, arrays, fit
        for array in arrays.values():
            array.setflags(write=False)

    def __getattr__(self, name: str) -> Any:
        arrays = self.__dict__.get("_arrays", {})
        if name not in arrays:
            hint = f"; outputs={(name,)!r} would keep it" if name in OUTPUTS else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")
        # With the problems last, as in the responses of a shared design.
        last = self._problems.shared and name in ("x", "bse", "weights", "resid")
        return arrays[name].T if last else arrays[name]

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._arrays])

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writable.
        self.__init__(*(state[name] for name in ("_problems", "_arrays", "_fit")))  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, i: int) -> FitResult:
        i = operator.index(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"problem {i} of {len(self)} does not exist")
        return self._fit(**self._problems.single(i % len(self)))

    @property
    def success(self) -> Flags:
        """Whether each result can be used as an estimate."""
        return np.array([status.success for status in self.status], dtype=bool)

    @property
    def tvalues(self) -> Array:
        """Coefficients divided by their standard errors."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.x / self.bse)

    @property
    def pvalues(self) -> Array:
        """Two-sided p-values of x = 0 by Student's t with `df_t` degrees of freedom."""
        return np.asarray(
            2.0 * special.stdtr(self._per_coefficient(self.df_t), -np.abs(self.tvalues))
        )

    def conf_int(self, level: float = 0.95) -> Array:
        """Return confidence intervals, the shape of `x` with a last axis of 2.

        Parameters
        ----------
        level : float, default: 0.95
            Coverage, in (0, 1).
        """
        level = _checks.between(level, "level", 0.0, 1.0)
        quantile = special.stdtrit(self.df_t, 0.5 + 0.5 * level)
        half = self._per_coefficient(quantile) * self.bse
        return np.stack([self.x - half, self.x + half], axis=-1)

    def _per_coefficient(self, values: Array) -> Array:
        return values if self._problems.shared else values[:, None]

    def __repr__(self) -> str:
        return f"<BatchResult of {len(self)} fits, {int(np.sum(self.success))} of them successful>"

    def summary(self) -> str:
        """Return how many fits ended how, and the first of those without success."""
        counts = collections.Counter(self.status)
        lines = [f"{len(self)} robust linear fits"]
        for status, count in counts.most_common():
            lines.append(f"{count:>8}  {status.verdict}")
        failed = np.flatnonzero(~self.success)
        if len(failed):
            lines.append("without success:")
        for i in failed[:_LISTED]:
            lines.append(f"  [{i}] {self.message[i] or self.status[i].verdict}")
        if len(failed) > _LISTED:
            lines.append(f"  and {len(failed) - _LISTED} more")
        return "\n".join(lines)

    __str__ = summary


def is_batch(A: Any, b: Any) -> bool:
    """Tell whether A and b, by their shapes, are more than one problem."""
    try:
        a, y = np.shape(A), np.shape(b)
    except ValueError:
        # Ragged lists are no problem at all.
        return False
    return len(y) == 2 and (len(a) == 3 or (len(a) == 2 and y[1] != 1))


# -- the fits ----------------------------------------------------------------------------------


def fit_batch(
    single: Single, A: Any, b: Any, *, outputs: Any, progress: bool, **options: Any
) -> BatchResult:
    """Return the fits of many problems by `single`, or by what gives the same.

    Parameters
    ----------
    single : callable
        ``single(A, b, **options)`` fits one problem.
    A, b : array_like
        The problems.
    outputs : sequence of str or None
        Which of `OUTPUTS` to keep, None for all.
    progress : bool
        Whether to draw a bar over the problems.
    **options
        The other arguments of `single`.
    """
    kept = _kept(outputs)
    problems = Problems.of(A, b, options.pop("freq_weights"), options.pop("var_weights"))
    names = _problem.labels(options["names"])
    options["names"] = column_labels(A if problems.shared else None, names, problems.A.shape[-1])
    generator = _checks.generator(options["rng"])
    if options["rng"] is None or isinstance(options["rng"], np.random.Generator):
        # So that a problem that is fitted alone draws as it did in the batch.
        options["rng"] = int(generator.integers(1 << 62))
    omit = options["nan_policy"] == "omit"
    if not (omit or linalg.implicit(problems.A)):
        _refuse_nonfinite(problems)
    plan, fit = _regular.plan(problems, options), functools.partial(single, **options)
    table, caught = _Table(problems, kept), _Caught(len(problems))
    with progress_bar(len(problems), "irls", progress) as bar:
        for chunk in _parts(len(problems), _BLOCKS * _block(problems)):
            regular = np.zeros(chunk.stop - chunk.start, dtype=np.bool_)
            if plan is not None:
                regular = _solve(plan, chunk, table)
                bar.update(int(np.sum(regular)))
            for i in (chunk.start + np.flatnonzero(~regular)).tolist():
                if omit and not problems.has_rows(i):
                    table.arrays["message"][i] = "no row is finite"
                else:
                    with caught.of(i):
                        table.put(i, fit(**problems.single(i)))
                bar.update()
    caught.warn()
    return BatchResult(problems, table.arrays, fit)


def _kept(outputs: Any) -> tuple[str, ...]:
    """Return the names of the arrays to keep."""
    names = OUTPUTS if outputs is None else (outputs,) if isinstance(outputs, str) else outputs
    if not isinstance(names, Iterable):
        raise TypeError(f"outputs must be names of arrays, got outputs={outputs!r}")
    return tuple(_checks.known(name, "outputs", OUTPUTS) for name in names)


def _block(problems: Problems) -> int:
    """Return how many problems a thread takes at a time."""
    return max(1, _BLOCK_ELEMENTS // max(int(problems.A.shape[-2]), 1))


def _parts(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `size` that cover range(count)."""
    for low in range(0, count, size):
        yield slice(low, min(low + size, count))


def _solve(plan: Plan, chunk: slice, table: _Table) -> Flags:
    """Fit some problems, put those that are regular into the table and tell which they are."""

    def work(part: slice) -> Flags:
        rows = slice(chunk.start + part.start, chunk.start + part.stop)
        # What is not regular may divide by zero.
        with np.errstate(all="ignore"):
            regular, values = plan.fit(_regular.Block.of(plan.problems, rows))
        table.put_converged(rows, regular, values)
        return regular

    count = chunk.stop - chunk.start
    return np.concatenate(in_threads(work, count, _block(plan.problems), np.inf))


def _refuse_nonfinite(problems: Problems) -> None:
    """Raise a ValueError that names the first problem with non-finite values."""
    for part in _parts(len(problems), _block(problems)):
        finite = {
            "A": np.all(np.isfinite(problems.designs(part)), axis=2),
            "b": np.isfinite(problems.rows(problems.b, part)),
        }
        for name, rows in finite.items():
            if np.all(rows):
                continue
            k = int(np.argmin(np.all(rows, axis=1)))
            raise ValueError(
                f"{name} must be finite, but {int(np.sum(~rows[k]))} rows of problem "
                f"{part.start + k} are not, the first is row {int(np.argmin(rows[k]))}; "
                "nan_policy='omit' leaves such rows out"
            )


class _Table:
    """The arrays of the result, a problem a row; one that was not fitted has no weight."""

    def __init__(self, problems: Problems, kept: tuple[str, ...]) -> None:
        m, (n, p) = len(problems), problems.A.shape[-2:]
        shapes: dict[str, tuple[int, ...]] = {
            "x": (m, p), "scale": (m,), "cov": (m, p, p), "bse": (m, p), "weights": (m, n),
            "resid": (m, n),
        }  # fmt: skip
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.full(shapes[name], np.nan) for name in kept
        }
        self.arrays["df_t"] = np.full(m, np.nan)
        self.arrays["nit"] = np.zeros(m, dtype=np.intp)
        self.arrays["status"] = np.full(m, Status.NO_WEIGHT, dtype=object)
        self.arrays["message"] = np.full(m, "", dtype=object)

    def put(self, i: int, fit: FitResult) -> None:
        """Set a row to the attributes of a fit."""
        for name, array in self.arrays.items():
            array[i] = getattr(fit, name)

    def put_converged(self, part: slice, which: Flags, values: dict[str, Any]) -> None:
        """Set some of the rows of a part to those of arrays."""
        for name in self.arrays.keys() & values.keys():
            self.arrays[name][part][which] = values[name][which]
        self.arrays["status"][part][which] = Status.CONVERGED


class _Caught:
    """Warnings of single fits, issued as one of each class for all."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.first: dict[type[Warning], str] = {}
        self.counts: collections.Counter[type[Warning]] = collections.Counter()

    @contextlib.contextmanager
    def of(self, i: int) -> Iterator[None]:
        """Keep the warnings of problem i, and say in an error that it is from there."""
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            try:
                yield
            except (ValueError, TypeError) as error:
                error.add_note(f"in problem {i}")
                raise
        for warning in found:
            self.counts[warning.category] += 1
            self.first.setdefault(warning.category, f"problem {i}: {warning.message}")

    def warn(self) -> None:
        """Issue the warnings at the line that called `irls`."""
        for category, text in self.first.items():
            count = f"{self.counts[category]} of {self.total} problems, see status and message"
            warnings.warn(f"{count}; {text}", category, stacklevel=4)
