"""Sphinx configuration. Build with ``sphinx-build -W --keep-going docs docs/_build/html``."""

import importlib
import re
from importlib.metadata import version as installed_version
from pathlib import Path

import matplotlib.pyplot as plt
from sphinx.application import Sphinx

from robustfit import plot
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
    "sphinx_design",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
# The tutorial runs while it is built: its output is what the installed version prints.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
# The first cell compiles, on a machine that may have other work.
nb_execution_timeout = 300
numpydoc_show_class_members = False
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/losses.md", "generated/formulas.md"]
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
    "robustfit.torch",
    "robustfit.exceptions",
]


def table(rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown, of which the first row is the head."""
    head, *others = rows
    lines = [head, ("---",) * len(head), *others]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def losses_table() -> str:
    """Return the table of the constants of all registered losses, in Markdown."""
    head, *losses = loss_rows()
    rows = [("name", *head[2:5], "rho is")]
    for name, _, *constants, bounded, convex, redescending in losses:
        words = zip(head[5:], (bounded, convex, redescending), strict=True)
        kind = ", ".join(word for word, holds in words if holds)
        rows.append((class_link(name), *constants, kind))
    return table(rows)


def formulas_table() -> str:
    """Return the table of the formulas of all registered losses, in Markdown."""
    rows = [("name", "rho(u)", "also")]
    for name, cls in LOSSES.items():
        formula = (cls.__doc__ or "").strip().splitlines()[0].removesuffix(".")
        aliases = ", ".join(f"`{alias}`" for alias in cls.aliases)
        rows.append((class_link(name), formula.replace("|", r"\|"), aliases))
    return table(rows)


def class_link(name: str) -> str:
    """Return a link from the name of a loss to the page of its class."""
    return f"{{class}}`{name} <robustfit.losses.{LOSSES[name].__name__}>`"


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
    (folder / "formulas.md").write_text(formulas_table(), encoding="utf-8")
    figure, axes = plt.subplots(6, 3, figsize=(8, 12), layout="constrained")
    plot.atlas(ax=axes.ravel())
    figure.savefig(folder / "losses.png", dpi=120)
    (folder / "names.rst").write_text(names_pages(), encoding="utf-8")


def skip_generated(app: Sphinx, what: str, name: str, *_: object) -> bool | None:
    """Leave out the methods that scikit-learn makes: their text links into its own pages."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", skip_generated)
    # Sphinx lists its source files right after this event: later would miss the new ones.
    app.connect("config-inited", write_generated)
