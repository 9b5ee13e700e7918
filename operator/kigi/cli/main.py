"""``kigi`` and ``kubectl kigi``: one file per verb, imported when it is called."""

from __future__ import annotations

import gc
import sys
from enum import StrEnum
from typing import Annotated

from kigi.cli import maintenance as upkeep
from kigi.cli import publish_verbs as storing
from kigi.cli import verbs
from kigi.cli.commands import Argument, Verbs
from kigi.errors import KigiError


class Shell(StrEnum):
    """For which there is completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("kigi"))


def completion(shell: Annotated[Shell, Argument("The shell: source what is printed.")]) -> None:
    """Print what a shell sources to complete verbs, options, and names of deployments and states."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell.value)
    assert kind is not None
    print(kind(app, {}, "kigi", "_KIGI_COMPLETE").source())


_ODD = {upkeep.export_tree: "export", upkeep.import_tree: "import"}
app = Verbs(
    {
        _ODD.get(verb) or verb.__name__.replace("_", "-"): verb
        for verb in (*verbs.VERBS, *storing.VERBS, *upkeep.VERBS, completion, version)
    },
    "Trees of VM images and of states of whole systems.",
)


def main() -> None:
    """Run; what went wrong on purpose is one line on stderr and exit code 1."""
    gc.set_threshold(50_000)  # looking for garbage while modules are imported takes a tenth of a short verb's time
    try:
        app()
    except KigiError as exc:
        print(f"kigi: {exc.reason}: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
