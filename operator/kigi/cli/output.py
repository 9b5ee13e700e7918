"""What verbs print: tables for people, JSON or YAML for programs.

rich is imported when something is drawn: programs that ask for JSON do not wait for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


class Format(StrEnum):
    """Of ``-o``."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def show(data: Any, render: Callable[[], RenderableType], form: Format) -> None:
    """``data`` is plain JSON; ``render`` is asked for tables only."""
    match form:
        case Format.JSON:
            print(json.dumps(data, indent=2))
        case Format.YAML:
            import yaml

            print(yaml.safe_dump(data, sort_keys=False), end="")
        case _:
            from rich.console import Console

            Console(soft_wrap=False).print(render())


def tell(data: Any, form: Format) -> None:
    """What a verb has done, for programs; people have been told on the way."""
    if form is not Format.TABLE:
        show(data, lambda: "", form)


def say(text: str, style: str = "") -> None:
    """A line for a person, on stderr, as it is: names and messages may have brackets."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style))


@contextmanager
def spinner(message: str) -> Iterator[Callable[[str], None]]:
    """Shows what is waited for while it is waited, if a person looks; the function changes the message."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(message)) as line:
        yield lambda text: line.update(Text(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """Without borders, as kubectl prints; columns that end in ``#`` are numbers. Text is shown as it is: a cell with a
    style is a Text.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made
