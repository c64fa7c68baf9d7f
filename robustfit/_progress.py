"""A progress bar for long work, drawn by tqdm where the caller asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
def pass_bar(enabled: bool) -> Iterator[Callable[[int, int], object]]:
    """Yield what is told the number of the pass over the rows and of blocks done in it."""
    with progress_bar(None, "pass 1, blocks", enabled) as bar:
        last = [0, 0]

        def told(passes: int, blocks: int) -> None:
            if passes != last[0]:
                rename = getattr(bar, "set_description", None)
                if rename is not None:
                    rename(f"pass {passes}, blocks")
                last[:] = passes, 0
            bar.update(blocks - last[1])
            last[1] = blocks

        yield told


@contextmanager
def progress_bar(total: int | None, what: str, enabled: bool) -> Iterator[Bar]:
    """Yield a bar of `total` steps named `what`, if known; it draws nothing unless enabled.

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
