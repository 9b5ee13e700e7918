"""``kigi`` and ``kubectl kigi``: one file per verb, imported when it is called."""

from __future__ import annotations

import sys

import typer

from kigi.cli import storing, upkeep, verbs
from kigi.errors import KigiError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a plain help needs no rich: half the time to start
    help="Trees of VM images and of states of whole systems.",
)
for group in (storing, verbs, upkeep):
    group.register(app)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(installed("kigi"))


def main() -> None:
    """Run; what went wrong on purpose is one line on stderr and exit code 1."""
    try:
        app()
    except KigiError as exc:
        print(f"kigi: {exc.reason}: {exc}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
