"""``kigi completion``."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes verbs, options, and names of deployments and states: source <(kigi completion bash)

    \b
    SHELL: the shell that sources the script.
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None, f"click has no completion for {shell}"
    print(script(ctx.find_root().command, {}, "kigi", "_KIGI_COMPLETE").source())
