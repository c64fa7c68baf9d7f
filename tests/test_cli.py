"""The command: what it prints and writes, its exit codes, and that errors are one line."""

import subprocess
import sys
from pathlib import Path

import pytest

import robustfit as rf
from robustfit import cli
from robustfit.cli import _demo, _output, _tables

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Processes shall import this checkout, wherever they start.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def process(*command, **options):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, **options
    )


# -- demo ------------------------------------------------------------------------------------


def test_demo_prints_the_fit_and_writes_the_picture(tmp_path, capsys):
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    data = rf.datasets.load("starsCYG")
    fit, ols = rf.irls(data.A, data.b), rf.irls(data.A, data.b, "linear")
    assert "Robust linear fit: " + fit.status.verdict in out
    assert "log_te" in out
    sentence = out.splitlines()[-1]
    assert sentence.startswith("robustfit-demo.png: ")
    assert f"{ols.x[1]:+.3g}" in sentence
    assert f"{fit.x[1]:+.3g}" in sentence
    assert err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["robustfit-demo.png"]
    assert (tmp_path / "robustfit-demo.png").read_bytes().startswith(PNG)


def test_demo_of_another_set_and_loss(tmp_path, capsys):
    assert cli.main(["demo", "--data", "stackloss", "--loss", "biweight", "--out", "s.svg"]) == 0
    out = capsys.readouterr().out
    assert "loss Tukey(" in out
    assert "scale of the residuals" in out.splitlines()[-1]
    assert (tmp_path / "s.svg").read_text("utf-8").startswith("<?xml")


@pytest.mark.parametrize("name", rf.datasets.names())
def test_demo_of_every_set(name, capsys):
    assert cli.main(["demo", "--data", name, "--loss", "huber"]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")


def test_not_converged_is_exit_code_3(tmp_path, capsys, monkeypatch):
    def hasty(*args, **kwargs):
        return rf.irls(*args, maxiter=1, **kwargs)

    monkeypatch.setattr(_demo, "irls", hasty)
    assert cli.main(["demo", "--loss", "cauchy"]) == 3
    out, err = capsys.readouterr()
    assert "stopped at maxiter" in out
    assert err.startswith("robustfit: no convergence")
    assert err.count("\n") == 1
    assert (tmp_path / "robustfit-demo.png").exists()


def test_without_matplotlib_the_fit_is_still_printed():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from robustfit.cli import main; sys.exit(main(['demo']))"
    )
    done = process("-c", code)
    assert done.returncode == 2
    assert "Robust linear fit" in done.stdout
    assert 'pip install "robustfit[plot]"' in done.stderr
    assert done.stderr.count("\n") == 1


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "name='nowhere' is not a data set"),
        (["--loss", "nothing"], "loss='nothing' is unknown"),
        (["--out", "missing/demo.png"], "No such file"),
        (["--out", "file/demo.png"], "Not a directory"),
        (["--out", "folder"], "not a regular file"),
        (["--out", "demo.doc"], "Format 'doc' is not supported"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(arguments, message, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["demo", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("robustfit: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_write_keeps_the_old_picture(tmp_path, capsys, monkeypatch):
    path = tmp_path / "demo.png"
    path.write_bytes(b"old")

    def full(self, content):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_output.Path, "write_bytes", full)
    assert cli.main(["demo", "--out", "demo.png"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("demo.png", b"old")]


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo", "--nothing"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: robustfit" in capsys.readouterr().err


# -- lists -----------------------------------------------------------------------------------


def test_datasets_lists_every_set(capsys):
    assert cli.main(["datasets"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["name", "rows", "variables", "response"]
    assert tuple(line.split()[0] for line in lines) == rf.datasets.names()
    assert lines[-3].split()[:4] == ["stackloss", "21", "3", "stack_loss"]


def test_losses_lists_every_loss(capsys):
    assert cli.main(["losses"]) == 0
    header, *lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(rf.losses.LOSSES)
    welsch = next(line for line in lines if line.startswith("welsch"))
    assert f"{rf.losses.Welsch().c:.6f}" in welsch
    assert f"{rf.losses.Welsch().breakdown():.3f}" in welsch
    assert f"{rf.get_loss('welsch', breakdown=0.5).c:.6f}" in welsch
    linear = next(line for line in lines if line.startswith("linear"))
    at = header.index("convex")
    assert linear[at : at + 3] == "yes"
    assert welsch[at : at + 3] == "   "


def test_datasets_tells_what_is_known_of_one(capsys):
    assert cli.main(["datasets", "hbk"]) == 0
    out = capsys.readouterr().out
    assert "Hawkins" in out
    assert out.splitlines()[-1] == 'robustfit fit hbk "y ~ x1 + x2 + x3"'
    assert cli.main(["datasets", "nowhere"]) == 2


def test_losses_can_be_drawn(tmp_path, capsys, monkeypatch):
    some = {name: rf.losses.LOSSES[name] for name in ("huber", "tukey")}
    monkeypatch.setattr(_tables, "LOSSES", some)
    assert cli.main(["losses", "--plot", "losses.png"]) == 0
    assert (tmp_path / "losses.png").read_bytes().startswith(PNG)
    assert capsys.readouterr().out.startswith("name")


# -- the process -----------------------------------------------------------------------------


def test_python_m_robustfit():
    done = process("-m", "robustfit", "datasets")
    assert (done.returncode, done.stderr) == (0, "")
    assert "starsCYG" in done.stdout


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "robustfit", "losses"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
    assert command.returncode == 0
