"""Verbs as functions whose annotations say what is asked for, made commands of click when they are called.

``name: Annotated[TYPE, Option(...)] = default``; TYPE is str, int, float, bool, Path, an enumeration of words, a list
of these (an option that may be repeated), or one of them or None. (typer does the same by pydantic, which takes longer
to import than the API server takes to answer.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

Complete = Callable[[click.Context, str], list[str]]
"""Words for the shell that begin as the one that is being typed."""


@dataclass(frozen=True, slots=True)
class Option:
    """``flags``: as click declares them; none: ``--name``, and ``--no-name`` beside it for a bool."""

    help: str
    flags: tuple[str, ...] = ()
    complete: Complete | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """By its place; optional if the function has a default for it."""

    help: str
    complete: Complete | None = None


class Verbs(click.Group):
    """Makes a command when it is asked for; a verb's work is imported by its function."""

    def __init__(self, verbs: Mapping[str, Callable[..., None]], help_text: str) -> None:
        super().__init__(help=help_text, no_args_is_help=True)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in their order."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb; None if there is none of that name."""
        function = self._verbs.get(cmd_name)
        return command(cmd_name, function) if function is not None else None


def command(name: str, function: Callable[..., None]) -> click.Command:
    """The command that calls a function."""
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function).parameters
    made = [_Parameter(key, hints[key], signature[key].default) for key in signature]
    words = {each.name: each.kind for each in made if issubclass(each.kind, StrEnum)}

    def call(**values: Any) -> None:
        function(**{key: words[key](value) if key in words and value else value for key, value in values.items()})

    text = "\n\n".join(filter(None, [inspect.getdoc(function), _arguments_text(made)]))
    return click.Command(name, params=[each.made() for each in made], callback=call, help=text)


class _Parameter:
    """One parameter of a verb, taken apart."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name, self.default = name, default
        hint, self.says = get_args(hint)
        if get_origin(hint) in (Union, UnionType):
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
        self.many = get_origin(hint) is list
        self.kind: type = get_args(hint)[0] if self.many else hint

    def made(self) -> click.Parameter:
        says = self.says
        shared: dict[str, Any] = {"required": self.default is inspect.Parameter.empty}
        if not shared["required"]:
            shared["default"] = self.default.value if isinstance(self.default, StrEnum) else self.default
        if says.complete is not None:
            complete = says.complete
            shared["shell_complete"] = lambda ctx, param, incomplete: complete(ctx, incomplete)
        if isinstance(says, Argument):
            return click.Argument([self.name], type=self._type(), **shared)
        word = self.name.replace("_", "-")
        flags = says.flags or ((f"--{word}/--no-{word}",) if self.kind is bool else (f"--{word}",))
        shared |= {"show_default": self.default not in (None, False, True), "multiple": self.many, "help": says.help}
        kind = {"is_flag": True} if self.kind is bool else {"type": self._type()}
        return click.Option([self.name, *flags], **kind, **shared)

    def _type(self) -> Any:
        if issubclass(self.kind, StrEnum):
            return click.Choice([word.value for word in self.kind])
        return click.Path(path_type=Path) if self.kind is Path else self.kind


def _arguments_text(made: list[_Parameter]) -> str:
    """Click says nothing of arguments by itself."""
    told = [(each.name.upper(), each.says.help) for each in made if isinstance(each.says, Argument)]
    return "\b\n" + "\n".join(f"{name}: {text}" for name, text in told) if told else ""
