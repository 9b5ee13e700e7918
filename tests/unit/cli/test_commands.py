"""Verbs become commands as their annotations say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import click
import pytest
from click.testing import CliRunner

from kigi.cli.commands import Argument, Option, Verbs, command
from kigi.cli.main import app

CALLED: dict[str, Any] = {}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def paint(
    what: Annotated[str, Argument("Thing.", complete=lambda ctx, word: [f"{word}-done"])],
    colour: Annotated[Colour, Argument("Colour.")] = Colour.RED,
    times: Annotated[int, Option("How often.")] = 1,
    path: Annotated[Path | None, Option("File.", ("--file", "-f"))] = None,
    also: Annotated[list[Path] | None, Option("More.")] = None,
    dry: Annotated[bool, Option("Not really.")] = False,
    shade: Annotated[Colour, Option("Shade.", ("-s", "--shade"))] = Colour.BLUE,
) -> None:
    """Paints a thing."""
    CALLED.update(locals())


def call(*arguments: str) -> Any:
    CALLED.clear()
    return CliRunner().invoke(Verbs({"paint": paint}, "Test."), ["paint", *arguments])


def test_defaults_are_the_functions() -> None:
    assert call("wall").exit_code == 0
    assert CALLED == {
        "what": "wall",
        "colour": Colour.RED,
        "times": 1,
        "path": None,
        "also": (),
        "dry": False,
        "shade": Colour.BLUE,
    }
    assert isinstance(CALLED["shade"], Colour)


def test_what_is_given_has_its_type() -> None:
    given = ("wall", "blue", "--times", "3", "-f", "a", "--also", "b", "--also", "c", "--dry", "-s", "red")
    assert call(*given).exit_code == 0
    assert (CALLED["colour"], CALLED["times"], CALLED["path"]) == (Colour.BLUE, 3, Path("a"))
    assert (CALLED["also"], CALLED["dry"], CALLED["shade"]) == ((Path("b"), Path("c")), True, Colour.RED)
    call("wall", "--no-dry")
    assert CALLED["dry"] is False


@pytest.mark.parametrize("wrong", [(), ("wall", "green"), ("wall", "--times", "many"), ("wall", "--odd")])
def test_what_is_wrong_is_a_matter_of_usage(wrong: tuple[str, ...]) -> None:
    assert call(*wrong).exit_code == 2


def test_help_tells_of_arguments_and_defaults() -> None:
    text = call("--help").output
    for words in ("Paints a thing.", "WHAT: Thing.", "COLOUR: Colour.", "-s, --shade [red|blue]", "[default: blue]"):
        assert words in text


def test_words_are_completed() -> None:
    made = command("paint", paint)
    (found,) = made.params[0].shell_complete(click.Context(made), "wa")
    assert found.value == "wa-done"


def test_every_verb_is_one_and_has_help() -> None:
    with click.Context(app) as ctx:
        for name in app.list_commands(ctx):
            verb = app.get_command(ctx, name)
            assert verb is not None
            assert verb.get_short_help_str()
            assert all(isinstance(p, click.Argument) or p.help for p in verb.params if isinstance(p, click.Option))
