"""Runs the command: ``python -m robustfit demo``."""

import sys

from robustfit.cli import main

if __name__ == "__main__":
    sys.exit(main())
