"""YAML with Go template expressions in it, from objects with the nodes below in place of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that ``expression`` makes, on one line: ``name: {{ .Values.name | quote }}``."""

    expression: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A value that ``expression``, such as ``.Values.operator.resources``, yields as a map or list."""

    expression: str


@dataclass(frozen=True, slots=True)
class When:
    """An entry of a map or list that exists only if ``condition`` is true."""

    condition: str
    value: Any


@dataclass(frozen=True, slots=True)
class Splice:
    """Further entries of a map or list: those of ``expression``, or what the named template writes."""

    expression: str


def render(item: Mapping[str, Any]) -> str:
    """One document. Literal text with braces stays literal."""
    return "\n".join(_map(item, 0)) + "\n"


def _map(node: Mapping[str, Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for key, value in node.items():
        if isinstance(value, When):
            yield f"{pad}{{{{- if {value.condition} }}}}"
            yield from _entry(f"{pad}{_text(key)}:", value.value, indent)
            yield f"{pad}{{{{- end }}}}"
        elif isinstance(value, Splice):
            yield _spliced(value, indent)
        else:
            yield from _entry(f"{pad}{_text(key)}:", value, indent)


def _entry(head: str, value: Any, indent: int) -> Iterator[str]:
    match value:
        case Tree(expression):
            yield f"{head} {{{{- toYaml {expression} | nindent {indent + 2} }}}}"
        case Mapping() if value:
            yield head
            yield from _map(value, indent + 2)
        case list() | tuple() if value:
            yield head
            yield from _list(value, indent + 2)
        case _:
            yield f"{head} {_scalar(value)}"


def _list(node: Sequence[Any], indent: int) -> Iterator[str]:
    pad = " " * indent
    for item in node:
        if isinstance(item, When):
            yield f"{pad}{{{{- if {item.condition} }}}}"
            yield from _list([item.value], indent)
            yield f"{pad}{{{{- end }}}}"
        elif isinstance(item, Splice):
            yield _spliced(item, indent)
        elif isinstance(item, Mapping) and item:
            first, *rest = _map(item, indent + 2)
            yield f"{pad}- {first.lstrip()}"
            yield from rest
        elif isinstance(item, list) and item:
            first, *rest = _list(item, indent + 2)
            yield f"{pad}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{pad}- {_scalar(item)}"


def _spliced(node: Splice, indent: int) -> str:
    return f"{' ' * indent}{{{{- {node.expression} | nindent {indent} }}}}"


def _scalar(value: Any) -> str:
    if isinstance(value, Scalar):
        return f"{{{{ {value.expression} }}}}"
    return _text(value)


def _text(value: Any) -> str:
    """A literal scalar in one line; ``{{`` is written so that the template engine prints it."""
    style = '"' if isinstance(value, str) and "\n" in value else None
    text = yaml.safe_dump(value, default_style=style, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").replace("{{", '{{ "{{" }}')
