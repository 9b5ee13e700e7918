"""Progress bars on stderr for long steps; nothing is drawn unless stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Takes the progress since the last call: bytes, or items."""


class Bars:
    """A set of bars, one per step; this one draws nothing."""

    def add(self, what: str, total: int | None = None, *, items: bool = False) -> Advance:
        """A bar that counts bytes, or ``items``; ``total`` None: unknown."""
        return lambda count: None


class _TerminalBars(Bars):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        console = Console(stderr=True)
        self._bytes = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=console,
            auto_refresh=False,
        )
        self._items = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
            auto_refresh=False,
        )
        self._console = console

    def add(self, what: str, total: int | None = None, *, items: bool = False) -> Advance:
        progress = self._items if items else self._bytes
        task = progress.add_task(what, total=total)
        return lambda count: progress.advance(task, count)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draws the bars while the context lasts, and removes them at its end."""
        from rich.console import Group
        from rich.live import Live

        with Live(Group(self._bytes, self._items), console=self._console, transient=True):
            yield


@contextmanager
def progress_bars() -> Iterator[Bars]:
    """Bars while the context lasts; messages that are printed meanwhile appear above them."""
    if not sys.stderr.isatty():
        yield Bars()
        return
    bars = _TerminalBars()
    with bars.shown():
        yield bars
