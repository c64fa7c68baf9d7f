"""The command ``robustfit``: fits to tables in files, reports of them, and what is shipped.

Exit codes: 0 done, 2 bad input or a missing package, 3 the fit did not converge or left the
solution that it had found.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from robustfit.cli._options import parser
from robustfit.cli._output import BAD_INPUT, DONE
from robustfit.cli._tables import dataset_rows, loss_rows

__all__ = ["dataset_rows", "loss_rows", "main"]

# What a shell reports for a process that the user interrupted.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default: those of the process.

    Returns
    -------
    int
        0 done, 2 bad input or a missing package, 3 the fit did not converge or left the
        solution that it had found.

    Examples
    --------
    >>> from robustfit.cli import main
    >>> main(["fit", "nowhere.csv", "y ~ x"])
    2
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(arguments, argparse.Namespace(arguments=arguments))
    try:
        with warnings.catch_warnings():
            # What they would say of a fit is in its summary, and in the exit code.
            warnings.simplefilter("ignore")
            code = int(args.run(args))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, as `head`, has what it wanted. Python would flush once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"robustfit: error: {text}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("robustfit: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return code
