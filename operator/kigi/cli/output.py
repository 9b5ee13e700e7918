"""What verbs print: tables for people, JSON or YAML for programs.

rich is imported only when something is drawn: JSON for programs does not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PIPED_WIDTH = 100_000
"""Columns of a table that no terminal shows: one line per row, for grep and awk. Nothing is padded to it."""


class Format(StrEnum):
    """Values of the option ``-o``."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_data(data: Any, render: Callable[[], RenderableType], form: Format) -> None:
    """Prints ``data`` (plain JSON) as JSON or YAML, or what ``render`` returns as a table."""
    match form:
        case Format.JSON:
            import json

            print(json.dumps(data, indent=2))
        case Format.YAML:
            import yaml

            print(yaml.safe_dump(data, sort_keys=False), end="")
        case Format.TABLE:
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(render())


def print_result(data: Any, form: Format) -> None:
    """Prints what a verb did, for programs; nothing with ``TABLE``, as messages were printed already."""
    if form is not Format.TABLE:
        print_data(data, lambda: "", form)


def print_message(text: str, style: str = "") -> None:
    """Prints a line for a person on stderr, without markup: names and messages may contain brackets."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style))


@contextmanager
def spinner(message: str) -> Iterator[Callable[[str], None]]:
    """Shows ``message`` while the context lasts, if stderr is a terminal; the yielded function changes it."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(message)) as line:
        yield lambda text: line.update(Text(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table without borders, as kubectl prints; ``NAME#`` is a column NAME of numbers, aligned to the right.

    Cells are plain text without markup; a cell with a style is a rich Text, and None is an empty cell.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made
