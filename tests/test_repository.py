"""What holds of the repository as a whole: its texts, its examples and its imports."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import robustfit

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION = PYPROJECT["project"]["version"]

# Only files that belong to the project: no caches, builds or environments.
FOLDERS = (".ci", ".github", "robustfit", "tests", "docs", "notebooks")
SUFFIXES = {".py", ".md", ".rst", ".toml", ".yaml", ".yml", ".cff", ".csv", ".json", ".ipynb", ""}
GENERATED = {"__pycache__", "_build", "api", "generated", ".ipynb_checkpoints"}

MODULES = sorted(
    ["robustfit"]
    + [module.name for module in pkgutil.walk_packages(robustfit.__path__, "robustfit.")]
)
# Fronts may need an extra that is not installed.
OPTIONAL = ("torch", "sklearn", "pandas", "matplotlib", "dask", "formulaic", "narwhals", "tqdm")


def project_files():
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if path.suffix in SUFFIXES
        and path.name != ".git"  # a file, in a work tree of its own
        and not GENERATED & set(path.relative_to(ROOT).parts)
    ]


def import_or_skip(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in OPTIONAL or "robustfit[" in str(error):
            pytest.skip(str(error))
        raise


def python_blocks(path):
    text = path.read_text("utf-8")
    # Lines such as ":tags: [remove-cell]" speak to the documentation, not to Python.
    fence = r"^```(?:python|\{code-cell\}[^\n]*)\n(?::[^\n]*\n)*(.*?)^```$"
    return re.findall(fence, text, re.M | re.S)


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = re.search(r"```bash\n(.*?)```", readme, re.S).group(1).splitlines()
    assert len(commands) == 2
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    for command in commands:
        assert re.search(rf"^ *readme '{re.escape(command)}'( |$)", ci, re.M)


def test_version_stands_in_one_place():
    assert robustfit.__version__ == VERSION
    for path in (ROOT / "robustfit").rglob("*.py"):
        assert VERSION not in path.read_text("utf-8"), path
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)


def test_changelog_has_a_section_for_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(VERSION)})\]", changelog, re.M)


def test_no_file_names_a_path_of_some_machine():
    # Spelled apart, so that this file does not accuse itself.
    pattern = re.compile("/" + r"(work|root|home/\w+|Users/\w+|tmp/\w+)" + "/")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in project_files()
        for match in pattern.finditer(path.read_text("utf-8"))
    ]
    assert not found


def test_links_in_texts_lead_somewhere():
    for path in project_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8")):
            # The documentation makes some of its pictures itself.
            if not target.startswith(("http:", "https:", "../generated/")):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_importing_robustfit_asks_for_no_extra():
    # The finder also hears of packages that are not installed here.
    code = (
        "import sys\n"
        "asked = []\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        asked.append(name.partition('.')[0])\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import robustfit\n"
        f"print(*sorted(set(asked) & set({OPTIONAL!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name):
    assert (import_or_skip(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    failed, _ = doctest.testmod(import_or_skip(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if not GENERATED & set(path.relative_to(ROOT).parts) and python_blocks(path)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_of_the_texts_run(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(python_blocks(page), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    # README and tutorial print; a page that prints nothing must at least assert.
    assert capsys.readouterr().out or "assert" in "".join(python_blocks(page))
