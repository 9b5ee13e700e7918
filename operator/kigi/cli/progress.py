"""Bars on stderr for what takes long; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Called with what has been done since the last call: bytes, or things."""


class Bars:
    """Where bars are drawn; ``add`` one for each step."""

    def add(self, what: str, total: int | None = None, *, things: bool = False) -> Advance:
        """A bar for bytes, or for ``things``. ``total`` None: not known."""
        return lambda count: None


class _Drawn(Bars):
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
        self._things = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            console=console,
            auto_refresh=False,
        )
        self.console = console

    def add(self, what: str, total: int | None = None, *, things: bool = False) -> Advance:
        kind = self._things if things else self._bytes
        task = kind.add_task(what, total=total)
        return lambda count: kind.advance(task, count)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draws them meanwhile; takes them away at the end."""
        from rich.console import Group
        from rich.live import Live

        with Live(Group(self._bytes, self._things), console=self.console, transient=True):
            yield


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars for the time of the context; messages are printed before or behind it."""
    if not sys.stderr.isatty():
        yield Bars()
        return
    drawn = _Drawn()
    with drawn.drawn():
        yield drawn
