"""Tables from files, from standard input, and from the shipped sets.

Nothing that is read is run: cells are numbers or text. No address is opened, only files.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from robustfit import datasets

_KINDS = {
    ".csv": "csv", ".txt": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
    ".pq": "parquet",
}  # fmt: skip
_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_PARQUET = b"PAR1"
KINDS = ("csv", "tsv", "parquet")


def read(
    source: str, kind: str | None = None, sep: str | None = None, decimal: str = "."
) -> tuple[Any, str]:
    """Return a data frame and the name of the data.

    Parameters
    ----------
    source : str
        A file, "-" for standard input, or the name of a shipped set if there is no such file.
    kind : str, optional
        "csv", "tsv" or "parquet". Default: by the ending of the name; for standard input, and an
        ending that says nothing, by the content.
    sep, decimal : str, optional
        Separator and decimal mark of text.

    Raises
    ------
    ValueError, OSError
        If there is no such file, or it is not a table with rows.
    ImportError
        If a package is missing that reads it.
    """
    path = Path(source)
    if source == "-":
        content, name = sys.stdin.buffer.read(), "standard input"
    elif not path.exists() and source in datasets.names():
        return _shipped(source), source
    else:
        content, name = _content(path, source), path.name
        ending = Path(path.stem).suffix if path.suffix.lower() in _UNPACK else path.suffix
        kind = kind or _KINDS.get(ending.lower())
    if not content.strip():
        raise ValueError(f"{name} is empty")
    frame = _parse(content, name, kind, sep, decimal)
    if frame.shape[0] == 0:
        raise ValueError(f"{name} has a header but no rows")
    return frame, name


def _content(path: Path, source: str) -> bytes:
    try:
        return _UNPACK.get(path.suffix.lower(), bytes)(path.read_bytes())
    except FileNotFoundError as error:
        raise OSError(
            f"there is no file {source}, and no shipped data set of that name "
            "(`robustfit datasets` lists them)"
        ) from error
    except OSError as error:
        raise OSError(f"cannot read {source}: {error.strerror or error}") from error
    except (EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise OSError(f"cannot read {source}: {error}") from error


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'robustfit[cli]'") from error
    return pd


def _shipped(name: str) -> Any:
    return _pandas().DataFrame(datasets.load(name).columns)


def _parse(content: bytes, name: str, kind: str | None, sep: str | None, decimal: str) -> Any:
    pd = _pandas()
    if kind == "parquet" or (kind is None and content.startswith(_PARQUET)):
        return _parquet(content, name)
    if sep is None:
        sep = "\t" if kind == "tsv" else _separator(content)
    options: dict[str, Any] = {
        "sep": sep, "encoding": "utf-8-sig", "index_col": False, "skipinitialspace": True,
    }  # fmt: skip
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would lose their end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            head = pd.read_csv(io.BytesIO(content), header=None, nrows=1, dtype=str, **options)
            _refuse_twice(head.iloc[0].dropna().tolist())
            return pd.read_csv(io.BytesIO(content), decimal=decimal, low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error.reason}") from error
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{name} has rows with more values than the header has names") from error
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        ValueError,
    ) as error:
        text = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise ValueError(f"{name} cannot be read as a table: {text}") from error


def _refuse_twice(names: list[str]) -> None:
    """Raise a ValueError where two columns have one name: the second would get another."""
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"two columns have the name {twice!r}")


def _separator(content: bytes) -> str:
    """Return the separator that is most frequent in the first line, outside of quotes."""
    first = re.split(rb"[\r\n]", content.lstrip(b"\xef\xbb\xbf\r\n"), maxsplit=1)[0]
    first = re.sub(rb'"[^"]*"', b"", first)
    return max((",", "\t", ";"), key=lambda mark: first.count(mark.encode()))


def _parquet(content: bytes, name: str) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'robustfit[cli]'") from error
    try:
        return _pandas().read_parquet(io.BytesIO(content), engine="pyarrow")
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read as Parquet: {text}") from error
