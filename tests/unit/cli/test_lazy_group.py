"""The table of verbs agrees with their modules, and the list of verbs imports none of them."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner, Result

from kigi.cli.main import VERBS, app

COMMANDS = {name: import_module(verb.module).command for name, verb in VERBS.items()}
HELP_WIDTH = 78


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="kigi")


@pytest.mark.parametrize("name", VERBS)
def test_the_table_has_the_name_and_the_first_sentence_of_each_verb(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, click.Command)
    assert command.name == name
    assert command.get_short_help_str(limit=200).rstrip(".") == VERBS[name].help


@pytest.mark.parametrize("name", VERBS)
def test_each_option_has_help_and_each_argument_is_explained(name: str) -> None:
    command = COMMANDS[name]
    text = inspect.cleandoc(command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
        else:
            assert f"\n{str(parameter.name).upper()}: " in text


def test_every_verb_module_is_in_the_table() -> None:
    names = {module.name for module in pkgutil.iter_modules(import_module("kigi.cli.verbs").__path__)}
    assert {verb.module.rpartition(".")[2] for verb in VERBS.values()} == names


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_verb_on_one_line(flag: str) -> None:
    done = call(flag)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    commands = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in commands] == list(VERBS)
    assert all(len(line) <= HELP_WIDTH for line in commands)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_a_verb_explains_its_arguments(flag: str) -> None:
    text = call("switch", flag).output
    for words in (
        "Usage: kigi switch [OPTIONS] DEPLOYMENT STATE",
        "STATE: SystemNode",
        "--instance INSTANCES",
        "--wait",
    ):
        assert words in text


SUBCOMMANDS = {
    (name, inner)
    for name, command in COMMANDS.items()
    if isinstance(command, click.Group)
    for inner in command.commands
}
CALLS = [(), *((name,) for name in VERBS), *sorted(SUBCOMMANDS)]


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_every_verb_takes_the_options_of_help_and_version(words: tuple[str, ...]) -> None:
    assert call(*words, "--version").output == f"{version('kigi')}\n"
    short, long = call(*words, "-h"), call(*words, "--help")
    assert short.exit_code == long.exit_code == 0
    assert short.output == long.output
    assert short.output.startswith(" ".join(("Usage: kigi", *words)))


def test_the_version_of_the_program_alone_is_one_word() -> None:
    assert call("version", "--client").output == f"{version('kigi')}\n"


@pytest.mark.parametrize("words", [call for call in CALLS if call], ids=" ".join)
def test_o_is_a_format_in_every_verb(words: tuple[str, ...]) -> None:
    text = call(*words, "-h").output
    if words not in (("console",), ("completion",), ("repository",), ("events",)):  # they print no data
        assert "-o, --output" in text
        assert "json" in text.partition("-o, --output")[2]


@pytest.mark.parametrize(
    "wrong",
    [
        ("nothing",),
        ("--odd",),
        ("switch", "office"),
        ("tree", "-o", "xml"),
        ("delete", "system", "a"),
        ("export",),
        ("publish", "disk.raw"),
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_a_usage_error(wrong: tuple[str, ...]) -> None:
    done = call(*wrong)
    assert done.exit_code == 2
    assert done.output.startswith("Usage: kigi")


def test_without_a_verb_the_help_is_shown() -> None:
    assert "Commands:" in call().output


NO_VERB = "assert not [name for name in sys.modules if name.startswith('kigi.cli.verbs.')]"


@pytest.mark.parametrize(
    "call_app",
    [
        "app(['--help'], standalone_mode=False)",
        "names = app.shell_complete(app.make_context('kigi', [], resilient_parsing=True), 's')",
    ],
    ids=["help", "completion"],
)
def test_a_list_of_verbs_imports_none(call_app: str) -> None:
    code = f"import sys\nfrom kigi.cli.main import app\n{call_app}\n{NO_VERB}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_names_of_verbs_and_options_are_completed() -> None:
    context = app.make_context("kigi", [], resilient_parsing=True)
    found = {item.value: item.help for item in app.shell_complete(context, "s")}
    assert found == {name: VERBS[name].help for name in ("status", "switch", "start", "stop", "screenshot")}
    assert {item.value for item in app.shell_complete(context, "--")} == {"--version", "--help"}
