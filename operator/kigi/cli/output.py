"""What verbs print: tables for people, JSON or YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


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
            console = Console(soft_wrap=False)
            console.print(render())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """Without borders, as kubectl prints; columns that end in ``#`` are numbers. Text is shown as it is: a cell with a
    style is a Text.
    """
    made = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return made
