"""Exit codes, files that are written whole or not at all, and tables of text."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DONE, BAD_INPUT, NOT_CONVERGED = 0, 2, 3


def ended(fit: Any) -> int:
    """Return the exit code of a fit; say on standard error why it is not 0."""
    if fit.success:
        return DONE
    print(f"robustfit: {fit.message or fit.status.verdict}", file=sys.stderr)
    return NOT_CONVERGED


def check_outputs(paths: Iterable[str | None], source: str | None = None) -> None:
    """Refuse, before any work is done, what cannot be written, and to replace the data."""
    seen: set[Path] = set()
    for name in paths:
        if name is None:
            continue
        path = Path(name).resolve()
        if path in seen:
            raise ValueError(f"{name} is named for two outputs")
        seen.add(path)
        if source is not None and path == Path(source).resolve() and path.exists():
            raise ValueError(f"{name} is the data; name another file for the output")
        _refuse(path)
        if not path.parent.is_dir():
            kind = "Not a directory" if path.parent.exists() else "No such file or directory"
            raise OSError(f"cannot write {path}: {kind}: {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise OSError(f"cannot write {path}: Permission denied: {path.parent}")


def write(path: Path, content: bytes) -> None:
    """Write the file whole or not at all."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _refuse(path)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if str(error).startswith("cannot write"):
            raise
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _refuse(path: Path) -> None:
    """Refuse to replace a device or a folder."""
    if path.exists() and not path.is_file():
        raise OSError(f"cannot write {path}: it is not a regular file")


def picture(figure: Any, kind: str = "png") -> bytes:
    """Return a figure as the bytes of a file."""
    buffer = io.BytesIO()
    # Without the date the same command writes the same file.
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, dpi=110, metadata=dated.get(kind))
    return buffer.getvalue()


def format_of(path: str) -> str:
    """Return the format of a picture that its name asks for, refusing one that is unknown."""
    from matplotlib.backend_bases import FigureCanvasBase

    kind = Path(path).suffix[1:].lower() or "png"
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if kind not in known:
        raise ValueError(f"Format {kind!r} is not supported (supported: {', '.join(known)})")
    return kind


def table(rows: Sequence[Sequence[str]], right: bool = False) -> str:
    """Return rows of text in columns; all but the first to the right where they are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right and i > 0 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
