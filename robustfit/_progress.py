"""A progress bar for long work, drawn by tqdm where the caller asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Bar(Protocol):
    """What a progress bar must do."""

    def update(self, n: int = 1) -> object:
        """Count n more steps as done."""


class _Silent:
    def update(self, n: int = 1) -> None:
        """Draw nothing."""


@contextmanager
def progress_bar(total: int, what: str, enabled: bool) -> Iterator[Bar]:
    """Yield a bar of `total` steps named `what`; one that draws nothing unless enabled.

    Raises
    ------
    ImportError
        If a bar is asked for and tqdm is not installed.
    """
    if not enabled:
        yield _Silent()
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'robustfit[cli]'") from error
    with tqdm(total=total, desc=what, leave=False) as bar:
        yield bar
