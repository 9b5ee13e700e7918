"""What verbs print: tables for people; JSON, YAML, CSV or names for programs.

rich is imported only when something is drawn: JSON for programs does not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from kigi.domain.names import GROUP

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

PIPED_WIDTH = 100_000
"""Columns of a table that no terminal shows: one line per row, for grep and awk. Nothing is padded to it."""


class Format(StrEnum):
    """Values of the option ``-o``; each verb takes those that make sense for what it prints."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


class Rows(NamedTuple):
    """What ``-o csv`` prints: the values of these keys of each row, under a line with the keys."""

    columns: Sequence[str]
    rows: Iterable[Mapping[str, Any]]


def print_data(
    data: Any,
    render: Callable[[], RenderableType],
    form: Format,
    *,
    rows: Callable[[], Rows] | None = None,
    names: Callable[[], Iterable[str]] | None = None,
) -> None:
    """Prints ``data`` (plain JSON) as JSON or YAML, or what ``render`` returns as a table, without cutting anything.

    ``rows`` is for ``-o csv``. ``names`` is for ``-o name``; without it, the objects that ``data`` lists are named.
    """
    match form:
        case Format.JSON:
            import json

            print(json.dumps(data, indent=2))
        case Format.YAML:
            import yaml

            print(yaml.safe_dump(data, sort_keys=False), end="")
        case Format.NAME:
            for name in names() if names is not None else object_names(data):
                print(name)
        case Format.CSV:
            assert rows is not None, "the verb takes -o csv"
            print_csv(rows())
        case Format.TABLE | Format.WIDE:
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(render())


def plain(text: str) -> Text:
    """Text without markup, for ``render``: it may contain brackets."""
    from rich.text import Text

    return Text(text)


def print_result(data: Any, form: Format) -> None:
    """Prints what a verb did, for programs; nothing with ``TABLE``, as messages were printed already."""
    if form not in (Format.TABLE, Format.WIDE):
        print_data(data, lambda: "", form)


def object_name(kind: str, name: str) -> str:
    """An object as ``kubectl get -o name`` prints it, such as ``systemdeployment.kigi.dev/office``."""
    return f"{kind.lower()}.{GROUP}/{name}"


def object_names(data: Any) -> Iterator[str]:
    """The objects in the result of a verb: itself, each of a list, and those that an import created."""
    for each in data if isinstance(data, list) else (data,):
        if "created" in each:
            yield from object_names(each["created"])
        elif "kind" in each:
            yield object_name(each["kind"], each.get("name") or each["metadata"]["name"])


def print_csv(table: Rows, *, header: bool = True) -> None:
    """Prints the rows as CSV, under their names."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    if header:
        writer.writerow(table.columns)
    writer.writerows([_cell(row.get(column)) for column in table.columns] for row in table.rows)


def _cell(value: Any) -> str:
    """A value in CSV: true and false as in JSON, the items of a list between spaces, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(_cell, value)) if isinstance(value, list) else str(value)


def print_message(text: str, style: str = "") -> None:
    """Prints a line for a person on stderr, without markup: names and messages may contain brackets."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True).print(Text(text, style))


def print_on_stderr(drawn: RenderableType) -> None:
    """Prints something for a person beside the result of a verb, without cutting anything in a pipe."""
    from rich.console import Console

    Console(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH).print(drawn)


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

    Cells are plain text without markup, in one line; a cell with a style is a rich Text, and None is an empty cell.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_one_line(cell)) for cell in row))
    return made


def _one_line(cell: object) -> str:
    return "" if cell is None else " ".join(str(cell).splitlines())
