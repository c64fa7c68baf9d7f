"""Tables from files, from standard input, and from the shipped sets.

Nothing that is read is run: cells are numbers or text. No address is opened, only files.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

from robustfit import datasets

_KINDS = {
    ".csv": "csv", ".txt": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet",
    ".pq": "parquet",
}  # fmt: skip
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
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
        content, name, compression = sys.stdin.buffer.read(), "standard input", None
    elif not path.exists() and source in datasets.names():
        return _shipped(source), source
    else:
        content, name = _content(path, source), path.name
        compression = _COMPRESSED.get(path.suffix.lower())
        ending = Path(path.stem).suffix if compression else path.suffix
        kind = kind or _KINDS.get(ending.lower())
    if not content.strip():
        raise ValueError(f"{name} is empty")
    frame = _parse(content, name, kind, sep, decimal, compression)
    if frame.shape[0] == 0:
        raise ValueError(f"{name} has a header but no rows")
    return frame, name


def _content(path: Path, source: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise OSError(
            f"there is no file {source}, and no shipped data set of that name "
            "(`robustfit datasets` lists them)"
        ) from error
    except OSError as error:
        raise OSError(f"cannot read {source}: {error.strerror or error}") from error


def _shipped(name: str) -> Any:
    import pandas as pd

    return pd.DataFrame(datasets.load(name).columns)


def _parse(
    content: bytes, name: str, kind: str | None, sep: str | None, decimal: str, compression: Any
) -> Any:
    import pandas as pd

    if kind == "parquet" or (kind is None and content.startswith(_PARQUET)):
        return _parquet(content, name)
    if sep is None:
        sep = "\t" if kind == "tsv" else "," if kind == "csv" else _separator(content)
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would lose their end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.BytesIO(content), sep=sep, decimal=decimal, encoding="utf-8-sig",
                index_col=False, low_memory=False, skipinitialspace=True, compression=compression,
            )  # fmt: skip
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not text in UTF-8: {error.reason}") from error
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{name} has rows with more values than the header has names") from error
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        ValueError,
        OSError,
        EOFError,
    ) as error:
        text = " ".join(str(error).removeprefix("Error tokenizing data. C error: ").split())
        raise ValueError(f"{name} cannot be read as a table: {text}") from error


def _separator(content: bytes) -> str:
    """Return the separator that is most frequent in the first line."""
    first = content.lstrip(b"\xef\xbb\xbf\r\n").partition(b"\n")[0]
    return max((",", "\t", ";"), key=lambda mark: first.count(mark.encode()))


def _parquet(content: bytes, name: str) -> Any:
    import pandas as pd

    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'robustfit[cli]'") from error
    try:
        return pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read as Parquet: {text}") from error
