"""The page ``docs/reference/output.md``: what each verb prints with ``-o json``, from ``kigi.cli.shapes``."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from kigi.cli.shapes import SHAPES

HEADER = """\
<!-- Made by 'make docs' from operator/kigi/cli/shapes.py; do not edit. -->
# Output of the command line

What each verb of [kigi](../cli.md) prints with `-o json`, and with `-o yaml` in the same form. Sizes are in bytes, \
times are RFC 3339 in UTC. Later releases add fields; within one API version none is removed or gets another meaning. \
Ignore fields that you do not know.

`-o csv` prints a line of names and a line for each row, with the same names and values; spaces separate the items of \
a list. `-o name` prints a line such as `systemdeployment.kigi.dev/office` for each object, as kubectl does. publish, \
publish-tree and flatten print a list of [VMImageNodes](vmimagenode.md).
"""


def render_output() -> str:
    """The whole page."""
    sections = [HEADER]
    shown: set[type] = set()
    for shape in SHAPES.values():
        kinds = [kind for kind in _kinds(shape) if kind not in shown]
        if not kinds:
            continue
        shown.update(kinds)
        calls = " and ".join(f"kigi {other}" for other, same in SHAPES.items() if same == shape)
        what = _name(shape) if get_origin(shape) is list else f"one {_name(shape)}"
        sections.append(f"## {calls}\n\nPrints {what.replace('list of', 'a list of')}.\n")
        sections += [_table(kind) for kind in kinds]
    return "\n".join(sections)


def _kinds(shape: Any) -> Iterator[type]:
    """The TypedDicts of a type, outer ones first, each once."""
    found: dict[type, None] = {}
    _collect(shape, found)
    return iter(found)


def _collect(shape: Any, found: dict[type, None]) -> None:
    if is_typeddict(shape):
        if shape in found:
            return
        found[shape] = None
        for hint in get_type_hints(shape, include_extras=True).values():
            _collect(hint, found)
        return
    for argument in get_args(shape):
        _collect(argument, found)


def _table(kind: type) -> str:
    rows = ["| Field | Type | Meaning |", "|---|---|---|"]
    for field, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        plain, meaning = get_args(get_args(hint)[0] if optional else hint)
        name = _name(plain).replace("|", "\\|")
        rows.append(f"| `{field}` | {name}{', or absent' if optional else ''} | {meaning} |")
    return f"### {kind.__name__}\n\n{(kind.__doc__ or '').replace('``', '`')}\n\n" + "\n".join(rows) + "\n"


_PLAIN = {str: "string", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def _name(shape: Any) -> str:
    origin, arguments = get_origin(shape), get_args(shape)
    if shape in _PLAIN:
        return _PLAIN[shape]
    if is_typeddict(shape):
        return str(shape.__name__)
    if origin is Annotated:
        return _name(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_name(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is not list:
        return "object"
    inner = _name(arguments[0])
    return f"list of {inner}s" if inner in ("object", "string", "integer") else f"list of {inner}"
