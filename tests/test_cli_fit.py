"""`robustfit fit`, `compare` and `report`: what they read, say and write, and their errors."""

import gzip
import html.parser
import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import robustfit as rf
from robustfit import cli, compat
from robustfit.cli import _data, _fit, _output, _report

PNG = b"\x89PNG\r\n\x1a\n"
LINE = "y ~ x"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def frame():
    t = np.arange(30.0)
    y = 1.0 + 2.0 * t + np.cos(9.0 * t)
    y[4] = 300.0
    return pd.DataFrame({"x": t, "y": y, "name": [f"row {i}" for i in range(30)]})


@pytest.fixture
def data(frame):
    frame.to_csv("data.csv", index=False)
    return "data.csv"


def stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# -- reading ---------------------------------------------------------------------------------


def test_every_kind_of_table_is_the_same(frame, monkeypatch):
    frame.to_csv("a.csv", index=False)
    frame.to_csv("a.tsv", index=False, sep="\t")
    frame.to_csv("a.csv.gz", index=False)
    frame.to_csv("semicolon.txt", index=False, sep=";", decimal=",")
    frame.to_csv("bom.csv", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    frame.to_parquet("a.parquet")
    found = [
        _data.read("a.csv"),
        _data.read("a.tsv"),
        _data.read("a.csv.gz"),
        _data.read("bom.csv"),
        _data.read("a.parquet"),
        _data.read("semicolon.txt", sep=";", decimal=","),
    ]
    for name in ("a.csv", "a.tsv", "a.parquet"):
        stdin(monkeypatch, Path(name).read_bytes())
        found.append(_data.read("-"))
    for read, _ in found:
        pd.testing.assert_frame_equal(read, frame)
    assert [name for _, name in found][-1] == "standard input"


def test_separators_of_csv_are_told_by_the_header(frame):
    for sep in ",;\t":
        frame.rename(columns={"name": "a, b; c"}).to_csv("a.csv", index=False, sep=sep)
        found, _ = _data.read("a.csv")
        assert list(found) == ["x", "y", "a, b; c"]
        assert found["y"].equals(frame["y"])


def test_shipped_sets_are_known_by_name_unless_there_is_a_file(frame):
    read, name = _data.read("stackloss")
    assert (name, list(read.columns)[-1]) == ("stackloss", "stack_loss")
    frame.to_csv("stackloss", index=False)
    assert list(_data.read("stackloss")[0].columns) == ["x", "y", "name"]


def test_no_address_is_opened():
    with pytest.raises(OSError, match="there is no file https"):
        _data.read("https://example.org/data.csv")


# -- fit -------------------------------------------------------------------------------------


def test_fit_prints_the_summary_of_the_library(data, frame, capsys):
    assert cli.main(["fit", data, LINE]) == 0
    out, err = capsys.readouterr()
    assert out == rf.fit(LINE, frame).summary() + "\n"
    assert err == ""


def test_fit_options_reach_the_fit(data, frame, capsys):
    options = ["--loss", "tukey", "--efficiency", "0.85", "--cov", "avar1", "--level", "0.9"]
    assert cli.main(["fit", data, LINE, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    fit = rf.fit(LINE, frame, "tukey", efficiency=0.85, cov_type="avar1")
    assert found["x"] == fit.x.tolist()
    assert found["cov"] == fit.cov.tolist()
    assert found["conf_int"] == fit.conf_int(0.9).tolist()
    assert found["outliers"] == [4]
    assert cli.main(["fit", data, LINE, "--start=1,2", "--scale", "1.5", "--loss", "huber"]) == 0
    assert "start given, scale given" in capsys.readouterr().out
    assert cli.main(["fit", data, LINE, "--method", "smdm", "--cov", "w"]) == 0
    assert "scale d" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("like", "options"),
    [
        ("matlab", compat.matlab()),
        ("matlab:welsch", compat.matlab("welsch")),
        ("gsl:cauchy", compat.gsl("cauchy")),
        ("mass", compat.mass()),
        ("robustbase", compat.robustbase()),
        ("statsmodels:TukeyBiweight", compat.statsmodels("TukeyBiweight")),
    ],
)
def test_fit_like_another_program(like, options, data, frame, capsys):
    assert cli.main(["fit", data, LINE, "--like", like, "--json"]) == 0
    found, fit = json.loads(capsys.readouterr().out), rf.fit(LINE, frame, **options)
    assert found["x"] == fit.x.tolist()
    assert found["cov"] == fit.cov.tolist()


def test_the_example_of_matlab_by_the_command(folder, capsys):
    cars = json.loads((Path(__file__).parent / "reference" / "carsmall.json").read_text("utf-8"))
    columns = ["Weight", "Horsepower", "MPG"]
    pd.DataFrame(cars["rows"], columns=columns).to_csv("cars.csv", index=False)
    arguments = ["fit", "cars.csv", "MPG ~ Weight + Horsepower", "--like", "matlab", "--json"]
    assert cli.main(arguments) == 0
    assert [f"{x:.4f}" for x in json.loads(capsys.readouterr().out)["x"]] == cars["x"]


def test_fit_of_standard_input(frame, monkeypatch, capsys):
    stdin(monkeypatch, frame.to_csv(index=False).encode())
    assert cli.main(["fit", "-", LINE]) == 0
    assert "Robust linear fit: converged" in capsys.readouterr().out


def test_columns_weigh_and_offset(frame, capsys):
    frame["times"] = 1 + np.arange(30) % 3
    frame["known"] = 0.5 * frame["x"]
    frame.to_csv("data.csv", index=False)
    assert cli.main(
        ["fit", "data.csv", LINE, "--freq-weights", "times", "--offset", "known", "--json",
         "--plot", "fit.png"]
    ) == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["nobs"] == frame["times"].sum()
    assert found["x"][1] == pytest.approx(1.5, abs=0.02)


def test_missing_rows_are_refused_or_left_out(frame, capsys):
    frame.loc[7, "x"] = np.nan
    frame.to_csv("data.csv", index=False)
    assert cli.main(["fit", "data.csv", LINE]) == 2
    assert "--missing omit leaves such rows out" in capsys.readouterr().err
    assert cli.main(["fit", "data.csv", LINE, "--missing", "omit", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["nobs"] == 29
    assert found["weights"][7] is None


def test_flagged_rows_are_shown_with_the_columns_of_the_formula(folder, capsys):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"e": rng.normal(size=30), "x p": rng.normal(size=30)})
    table["size"] = 2.0 * table["x p"] + 0.1 * rng.normal(size=30)
    table.loc[4, "size"] = 50.0
    table.to_csv("table.csv", index=False)
    for formula, columns in (("size ~ .", ["e", "x p", "size"]), ("size ~ `x p`", ["x p", "size"])):
        assert cli.main(["fit", "table.csv", formula, "--outliers"]) == 0
        lines = capsys.readouterr().out.splitlines()
        head = next(line for line in lines if line.startswith("row "))
        assert re.split(r"\s{2,}", head.strip())[6:] == columns


def test_files_by_row_and_picture(data, frame, folder, capsys):
    options = ["--csv-out", "rows.csv", "--plot", "fit.png", "--outliers", "--labels", "name"]
    assert cli.main(["fit", data, LINE, *options]) == 0
    fit = rf.fit(LINE, frame)
    rows = pd.read_csv("rows.csv")
    assert rows["row"].tolist() == frame["name"].tolist()
    np.testing.assert_allclose(rows["weight"], fit.weights, rtol=1e-12)
    np.testing.assert_allclose(rows["resid"], fit.resid, rtol=1e-9, atol=1e-12)
    assert rows["outlier"].to_numpy().nonzero()[0].tolist() == [4]
    assert (folder / "fit.png").read_bytes().startswith(PNG)
    out = capsys.readouterr().out
    assert "row 4" in out
    assert "vertical outlier" in out
    assert sorted(p.name for p in folder.iterdir()) == ["data.csv", "fit.png", "rows.csv"]


@pytest.mark.parametrize("kind", ["diagnostics", "convergence", "qq"])
def test_pictures(kind, data, folder):
    options = ["--plot", "fit.svg", "--picture", kind, "--loss", "huber"]
    assert cli.main(["fit", data, LINE, *options]) == 0
    assert (folder / "fit.svg").read_text("utf-8").startswith("<?xml")


def test_not_converged_is_exit_code_3(data, capsys):
    assert cli.main(["fit", data, LINE, "--loss", "cauchy", "--maxiter", "1"]) == 3
    out, err = capsys.readouterr()
    assert "stopped at maxiter" in out
    assert err.startswith("robustfit: no convergence")
    assert err.count("\n") == 1


def test_left_basin_is_exit_code_3(capsys):
    arguments = ["fit", "starsCYG", "log_light ~ log_te", "--efficiency", "0.95"]
    assert cli.main(arguments) == 3
    assert "left the solution" in capsys.readouterr().err
    assert cli.main(arguments[:3]) == 0


def test_exact_fit_is_told(capsys):
    pd.DataFrame({"x": range(9), "y": range(9)}).to_csv("line.csv", index=False)
    assert cli.main(["fit", "line.csv", LINE, "--outliers"]) == 0
    assert "exact fit" in capsys.readouterr().out
    assert cli.main(["report", "line.csv", LINE]) == 0


def test_progress_is_drawn_where_it_is_asked_for(data, capsys):
    assert cli.main(["fit", data, LINE, "--progress"]) == 0
    err = capsys.readouterr().err
    assert "irls" in err
    assert "robustfit: fitting 30 rows" in err
    assert cli.main(["fit", data, LINE]) == 0
    assert capsys.readouterr().err == ""


# -- errors ----------------------------------------------------------------------------------

COMMANDS = [
    ["fit", "--csv-out", "out.csv", "--plot", "out.png"],
    ["compare"],
    ["report", "--out", "out.html"],
]
TABLES = {
    "empty": "",
    "blank": "\n\n",
    "header": "x,y\n",
    "one": "x,y\n1,2\n",
    "two": "x,y\n1,2\n2,3\n",
    "text": "x,y\n" + "".join(f"{i},{2 * i + i % 3}\n" for i in range(20)) + "21,many\n",
    "missing": "x,y\n" + "".join(f",{i}\n" for i in range(20)),
    "long": "x,y\n1,2,3\n4,5,6\n",
    "ragged": "x,y\n1,2\n1,2,3\n",
    "twice": "x,y,x\n" + "".join(f"{i},{2 * i + i % 3},{i % 5}\n" for i in range(20)),
}
GOOD = "x,y,none\n" + "".join(f"{i},{2 * i + i % 3},\n" for i in range(20))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("table", "formula", "message"),
    [
        ("no such file", LINE, "there is no file no such file.csv"),
        ("empty", LINE, "empty.csv is empty"),
        ("blank", LINE, "blank.csv is empty"),
        ("header", LINE, "header.csv has a header but no rows"),
        ("one", LINE, "the 2 coefficients need more rows than 1"),
        ("two", LINE, "the 2 coefficients need more rows than 2"),
        ("one", "y ~ x - 1", "a coefficient needs more rows than 1 (x)"),
        ("text", LINE, "column 'y' must hold numbers, but there is text in 1 of 21 rows"),
        ("missing", LINE, "column 'x' is missing or infinite in 20 of 20 rows"),
        ("long", LINE, "more values than the header has names"),
        ("ragged", LINE, "Expected 2 fields in line 3, saw 3"),
        ("twice", LINE, "twice.csv cannot be read as a table: two columns have the name 'x'"),
        ("good", "y ~ z", "names 'z', which is no column of data"),
        ("good", "y ~ x +", "formula 'y ~ x +'"),
        ("good", "y ~ (x", "formula 'y ~ (x'"),
        ("good", "x", "one response"),
        ("good", "y ~ log(x", "formula"),
        ("good", "y ~ nothing(x)", "nothing"),
        ("good", "y ~ none", "column 'none' is missing or infinite in 20 of 20 rows"),
    ],
)
def test_bad_data_is_one_line_and_leaves_no_file(command, table, formula, message, folder, capsys):
    for name, content in {**TABLES, "good": GOOD}.items():
        (folder / f"{name}.csv").write_text(content)
    before = sorted(folder.iterdir())
    assert cli.main([command[0], f"{table}.csv", formula, *command[1:]]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("robustfit: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv-out", "missing/rows.csv"], "No such file or directory"),
        (["--csv-out", "data.csv/rows.csv"], "Not a directory"),
        (["--csv-out", "folder"], "not a regular file"),
        (["--csv-out", "data.csv"], "data.csv is the data"),
        (["--csv-out", "a.png", "--plot", "a.png"], "named for two outputs"),
        (["--plot", "a.doc"], "Format 'doc' is not supported"),
        (["--plot", "a.png", "--picture", "line"], "one column that varies"),
        (["--loss", "nothing"], "loss='nothing' is unknown"),
        (["--efficiency", "2"], "efficiency"),
        (["-c", "1", "--efficiency", "0.9"], "efficiency"),
        (["--method", "mm", "--start", "ols"], "start"),
        (["--like", "gsl", "--loss", "welsch"], "--like chooses the estimator, so --loss cannot"),
        (["--like", "mass", "-c", "2"], "so -c cannot be given"),
        (["--groups", "g"], "groups"),
        (["--cov", "cluster"], "groups"),
        (["--groups", "nowhere", "--cov", "cluster"], "names 'nowhere', which is no column"),
        (["--labels", "nowhere"], "--labels names 'nowhere'"),
        (["--freq-weights", "nowhere"], "freq_weights names 'nowhere'"),
        (["--freq-weights", "name"], "freq_weights must hold real numbers"),
        (["--maxiter", "-1"], "maxiter"),
        (["--level", "1"], "level"),
    ],
)
def test_bad_options_are_one_line_and_leave_no_file(options, message, data, folder, capsys):
    (folder / "folder").mkdir()
    before = sorted(folder.iterdir())
    assert cli.main(["fit", data, "y ~ x + I(x**2)", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "options",
    [
        *(["--start", "x"], ["--scale", "x"], ["--cov", "x"], ["--sep", "ab"], ["--nothing"]),
        *(["--like", name] for name in ("SAS", "matlab:nothing", "mass:", "gsl:huber:1")),
    ],
)
def test_wrong_usage_is_exit_code_2(options, data, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fit", data, LINE, *options])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_files_that_are_no_tables(folder, capsys):
    (folder / "bytes.csv").write_bytes(b"x,y\n\xff\xfe,1\n")
    (folder / "bad.parquet").write_bytes(b"PAR1 and no more")
    (folder / "bad.csv.gz").write_bytes(b"not compressed")
    (folder / "cut.csv.gz").write_bytes(gzip.compress(b"x,y\n1,2\n")[:-12])
    (folder / "bad.csv.xz").write_bytes(b"not compressed")
    (folder / "folder.csv").mkdir()
    for name, message in (
        ("bytes.csv", "is not text in UTF-8"),
        ("bad.parquet", "cannot be read as Parquet"),
        ("bad.csv.gz", "cannot read bad.csv.gz"),
        ("cut.csv.gz", "cannot read cut.csv.gz"),
        ("bad.csv.xz", "cannot read bad.csv.xz"),
        ("folder.csv", "Is a directory"),
    ):
        assert cli.main(["fit", name, LINE]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("matplotlib", ["fit", "data.csv", LINE, "--plot", "a.png"]),
        ("matplotlib", ["report", "data.csv", LINE]),
        ("formulaic", ["fit", "data.csv", LINE]),
        ("pyarrow", ["fit", "data.parquet", LINE]),
    ],
)
def test_a_missing_package_is_one_line(package, arguments, frame, folder, monkeypatch, capsys):
    frame.to_csv("data.csv", index=False)
    frame.to_parquet("data.parquet")
    before = sorted(folder.iterdir())
    loaded = ("robustfit.plot", "robustfit.formula", f"{package}.")
    for name in [name for name in sys.modules if name.startswith(loaded)]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("plot", "formula"):
        monkeypatch.delattr(rf, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert "pip install" in err
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_an_interrupted_write_leaves_nothing(folder, monkeypatch):
    def interrupted(self, content):
        self.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(_output.Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _output.write(folder / "a.csv", b"")
    assert list(folder.iterdir()) == []


def test_an_interrupt_is_no_traceback(data, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_fit, "fitted", interrupted)
    assert cli.main(["fit", data, LINE]) == 130
    assert capsys.readouterr().err == "robustfit: interrupted\n"


def test_the_page_on_the_command_line_shows_what_it_prints(capsys):
    page = (Path(__file__).parents[1] / "docs/how_to/use_the_command_line.md").read_text("utf-8")
    blocks = re.findall(r"^```console\n\$ robustfit ([^\n]*)\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) == 2
    for command, expected in blocks:
        assert cli.main(shlex.split(command)) == 0
        # How many iterations it takes depends on the linear algebra library.
        shown, printed = (
            re.sub(r"\d+ iterations", "# iterations", text)
            for text in (expected, capsys.readouterr().out)
        )
        assert printed == shown


# -- compare ---------------------------------------------------------------------------------


def test_compare_puts_three_fits_side_by_side(data, frame, capsys):
    assert cli.main(["compare", data, LINE]) == 0
    out = capsys.readouterr().out
    for loss, options in (("linear", {}), ("huber", {}), ("tukey", {"method": "mm"})):
        fit = rf.fit(LINE, frame, loss, **options)
        assert f"{fit.x[1]:.5g} ({fit.bse[1]:.3g})" in out
    assert "standard errors of their difference apart" in out


def test_compare_lists_the_rows_they_disagree_on(capsys):
    arguments = ["compare", "starsCYG", "log_light ~ log_te"]
    assert cli.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # The four giants that least squares and Huber's estimate follow.
    assert sorted(found["disagree"]) == [10, 19, 29, 33]
    assert found["OLS"]["x"][1] < 0.0 < found["MM"]["x"][1]
    assert cli.main(arguments) == 0
    table = capsys.readouterr().out.partition("disagree on\n")[2].splitlines()
    assert [line.split()[0] for line in table[1:]] == [str(i) for i in found["disagree"]]
    assert all(line.count("*") == 1 for line in table[1:])


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of the time."""
    monkeypatch.setattr(_report, "_pictures", lambda fit, labels: [])


# -- report ----------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Tags and text of a page; a ValueError where tags do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_is_one_page_that_needs_nothing_else(data, folder, capsys):
    assert cli.main(["report", data, LINE, "--labels", "name"]) == 0
    assert "report.html: converged; 1 of 30 rows" in capsys.readouterr().out
    page = Page((folder / "report.html").read_text("utf-8"))
    names = [tag for tag, _ in page.tags]
    assert names.count("img") == 2
    assert not {"script", "link", "iframe", "object"} & set(names)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
        assert attributes.get("src", "data:").startswith("data:")
    assert "row 4" in page.text
    assert "Robust linear fit: converged" in page.text
    assert f"{rf.fit(LINE, _data.read(data)[0]).x[1]:.5g}" in page.text


def test_report_tells_the_command_that_makes_it(data, folder, no_pictures):
    arguments = ["report", data, LINE, "--like", "matlab:huber", "--labels", "name"]
    assert cli.main(arguments) == 0
    first = (folder / "report.html").read_text("utf-8")
    shown = next(line for line in Page(first).text.splitlines() if "robustfit report" in line)
    again = shlex.split(shown[shown.index("robustfit report") :])[1:]
    assert again == arguments
    assert cli.main(again) == 0
    assert (folder / "report.html").read_text("utf-8") == first


def test_report_escapes_what_comes_from_the_data(folder, no_pictures):
    evil = "<script>alert(1)</script>"
    t = np.arange(20.0)
    b = 2.0 * t + np.cos(9.0 * t)
    b[5] = 99.0
    frame = pd.DataFrame({evil: t, "y": b, "x\"'><img src=x onerror=alert(2)>": [evil] * 20})
    name = "<b>&amp;.csv"
    frame.to_csv(name, index=False)
    label = frame.columns[2]
    assert cli.main(["report", name, f"y ~ `{evil}`", "--labels", label]) == 0
    content = (folder / "report.html").read_text("utf-8")
    page = Page(content)
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "br", "title", "style", "body", "h1", "h2", "p", "div", "table",
        "thead", "tbody", "tr", "th", "td", "pre",
    }  # fmt: skip
    assert "<script" not in content
    assert evil in page.text
    assert name in page.text


def test_report_of_a_fit_that_failed_says_so(folder, no_pictures, capsys):
    arguments = ["report", "starsCYG", "log_light ~ log_te", "--efficiency", "0.95"]
    assert cli.main(arguments) == 3
    content = (folder / "report.html").read_text("utf-8")
    assert 'class="verdict failed"' in content
    assert "left the solution" in Page(content).text
    assert capsys.readouterr().err.startswith("robustfit: ")


def test_report_of_many_rows_lists_some(folder, no_pictures, monkeypatch):
    monkeypatch.setattr(_report, "_MOST_ROWS", 3)
    assert cli.main(["report", "hbk", "y ~ x1 + x2 + x3"]) == 0
    text = Page((folder / "report.html").read_text("utf-8")).text
    assert "... and 11 rows more" in text
