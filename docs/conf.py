"""Sphinx configuration. Build with ``sphinx-build -W --keep-going docs docs/_build/html``."""

import importlib
import re
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

from robustfit.cli import loss_rows
from robustfit.losses import LOSSES

HERE = Path(__file__).parent

project = "robustfit"
author = "The robustfit developers"
copyright = "2026, The robustfit developers"
release = version = installed_version("robustfit")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
]
myst_enable_extensions = ["dollarmath"]
# The tutorial runs while it is built: its output is what the installed version prints.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
# The first cell compiles, on a machine that may have other work.
nb_execution_timeout = 300
numpydoc_show_class_members = False
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/losses.md"]
# Formulas in docstrings write absolute values as |u|, which reStructuredText takes for a
# substitution; so each letter stands for itself.
rst_prolog = "\n".join(rf".. |{letter}| replace:: \|{letter}\|" for letter in "ruvx")

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
# The first page belongs to no section.
html_sidebars = {"index": []}
html_theme_options = {"github_url": "https://github.com/robustfit/robustfit"}

# Modules whose `__all__` is documented, in the order of the page.
PUBLIC = [
    "robustfit",
    "robustfit.losses",
    "robustfit.scale",
    "robustfit.datasets",
    "robustfit.rows",
    "robustfit.compat",
    "robustfit.formula",
    "robustfit.sklearn",
    "robustfit.plot",
    "robustfit.exceptions",
]


def losses_table() -> str:
    """Return the table of all registered losses, in Markdown."""
    head, *losses = loss_rows()
    rows = [(*head, "ρ(u)"), ("---",) * (len(head) + 1)]
    for name, also, *values in losses:
        formula = (LOSSES[name].__doc__ or "").strip().splitlines()[0].removesuffix(".")
        aliases = ", ".join(f"`{alias}`" for alias in also.split(", ") if alias)
        rows.append((f"`{name}`", aliases, *values, formula.replace("|", r"\|")))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def names_pages() -> str:
    """Return the lists of public names, in reStructuredText."""
    parts = ["Public names", "============", ""]
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        documented = [n for n in module.__all__ if isinstance(getattr(module, n).__doc__, str)]
        # Constants and modules have pages elsewhere or none.
        documented = [n for n in documented if callable(getattr(module, n))]
        parts += [module_name, "-" * len(module_name), "", f".. currentmodule:: {module_name}", ""]
        parts += [".. autosummary::", "   :toctree: ../api", ""]
        parts += [f"   {n}" for n in documented] + [""]
    return "\n".join(parts)


def write_generated(*_: object) -> None:
    """Write the pages that are made from the package itself."""
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "losses.md").write_text(losses_table(), encoding="utf-8")
    (folder / "names.rst").write_text(names_pages(), encoding="utf-8")


def skip_generated(app: Sphinx, what: str, name: str, *_: object) -> bool | None:
    """Leave out the methods that scikit-learn makes: their text links into its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_generated)
    # Sphinx lists its source files right after this event: later would miss the new ones.
    app.connect("config-inited", write_generated)
