"""Whatever value an option or argument has, a verb answers in one sentence, never with a traceback or a dump."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kigi.cli.main import VERBS, app, explained
from tests.support.answering import AnsweringServer

VALUES = ("", "a/b", "A B", "-1", "nan", "http://[", "http://x:99999", "x" * 5000, "\udce4", "/dev/null", "?x#y")
REQUIRED: dict[str, tuple[str, ...]] = {
    "plan": ("office",),
    "diff": ("a", "b"),
    "switch": ("office", "a"),
    "reset": ("office",),
    "capture": ("office", "--name", "x", "--instance", "1"),
    "console": ("office", "mail1"),
    "screenshot": ("office", "mail1"),
    "history": ("office",),
    "access": ("office", "7"),
    "start": ("office",),
    "stop": ("office", "--yes"),
    "publish": ("image.raw", "--name", "a"),
    "publish-tree": (".",),
    "delete": ("image", "a"),
    "flatten": ("a", "--name", "b"),
    "repository": ("check", "main"),
    "export": ("a", "--to", "out"),
    "import": ("image.raw",),
    "migrate": ("--crds", ".", "--backup", "backup"),
    "completion": ("bash",),
}
"""Arguments with which a verb gets as far as its options."""
SLOW = ("--context", "--kubeconfig", "--namespace")
"""Options that all verbs share: tried on one verb."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("values")
    (folder / "image.raw").write_bytes(bytes(512))
    before = Path.cwd()
    os.chdir(folder)
    with AnsweringServer() as server:
        yield {
            "KUBECONFIG": str(server.kubeconfig(folder / "kubeconfig")),
            "KIGI_CACHE": str(folder / "cache"),
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
    os.chdir(before)


def lines(verb: str) -> Iterator[list[str]]:
    """Calls with one odd value each: of an option, or in place of an argument."""
    command = import_module(VERBS[verb].module).command
    given = list(REQUIRED.get(verb, ()))
    if isinstance(command, click.Group):
        command = command.commands[given[0]]
    for option in command.params:
        name = option.opts[0]
        if isinstance(option, click.Option) and not option.is_flag and (verb == "status" or name not in SLOW):
            yield from ([verb, *given, f"{name}={value}"] for value in VALUES)
    for at, word in enumerate(given):
        if not word.startswith("--") and word != "check":
            yield from ([verb, *given[:at], value, *given[at + 1 :]] for value in VALUES if not value.startswith("-"))


@pytest.mark.parametrize("verb", VERBS)
def test_an_odd_value_gets_a_sentence(place: dict[str, str], verb: str) -> None:
    for line in lines(verb):
        exc = CliRunner().invoke(app, line, env=place, prog_name="kigi").exception
        if exc is None or isinstance(exc, SystemExit | UnicodeEncodeError):
            continue  # main() prints '?' for what the output's encoding lacks
        assert isinstance(exc, Exception)
        error = explained(exc)
        assert error is not None, (line[-1][:60], repr(exc))
        assert len(str(error).splitlines()) == 1, (line[-1][:60], str(error))
        assert "pydantic" not in str(error)
        assert "validation error" not in str(error)
