"""A click group that imports a verb's module when the verb is called, completed or asked for its help."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from kigi.extras import DISTRIBUTION


class Verb(NamedTuple):
    """Where a verb is, and its line in the group's help.

    ``module`` has the click command as its attribute ``command``; ``help`` is the first sentence of its docstring.
    """

    module: str
    help: str


class LazyGroup(click.Group):
    """The list of verbs and the completion of their names import no verb: both read the table ``verbs``."""

    def __init__(self, verbs: Mapping[str, Verb], **attrs: Any) -> None:
        super().__init__(**attrs)
        self._verbs = verbs
        _add_version(self)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in the order of the table."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the verb; None if the table has none of that name."""
        verb = self._verbs.get(cmd_name)
        if verb is None:
            return None
        command: click.Command = import_module(verb.module).command
        _add_version(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the verbs with their lines of help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self._verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs and options that begin with ``incomplete``."""
        verbs = [
            CompletionItem(name, help=verb.help) for name, verb in self._verbs.items() if name.startswith(incomplete)
        ]
        return [*verbs, *click.Command.shell_complete(self, ctx, incomplete)]


def _add_version(command: click.Command) -> None:
    """Adds ``--version`` to a command and its subcommands, unless they have it."""
    if not any("--version" in parameter.opts for parameter in command.params):
        click.version_option(package_name=DISTRIBUTION, message="%(version)s")(command)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_version(inner)
