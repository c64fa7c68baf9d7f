"""Fixtures that several test files share."""

import os
import re
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Compare a text with a file in golden/; ROBUSTFIT_UPDATE_GOLDEN=1 writes it instead."""

    def compare(name, text):
        # How many iterations it takes depends on the linear algebra library.
        text = re.sub(r"(?<!=)\b\d+ iterations", "# iterations", text) + "\n"
        path = GOLDEN / name
        if os.environ.get("ROBUSTFIT_UPDATE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        assert text == path.read_text("utf-8")

    return compare
