"""Runs the commands of a page's ``console`` blocks in one shell and writes their output into the page.

``python -m tools.transcript docs/tutorial.md`` needs what the page needs: for the tutorial, a local cluster. A command
begins with ``$ ``; lines that begin with ``> `` continue it; the lines up to the next command are its output. The first
command that fails ends the run, and the page stays unchanged.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 1800.0
"""For one command; a deployment boots ten guests under emulation."""
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)

Run = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Command:
    """One command as it stands in the page, and the text that the shell gets."""

    shown: str
    script: str


class CommandFailed(Exception):
    """A command ended with another exit status than 0, or not in time."""


def commands(block: str) -> Iterator[Command]:
    """The commands of a block, in order. Raises ValueError for a block that begins with output."""
    shown: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            if shown:
                yield _command(shown)
            shown = [line]
        elif line.startswith("> "):
            shown.append(line)
        elif not shown:
            raise ValueError(f"a console block begins with output: {line!r}")
    if shown:
        yield _command(shown)


def rewrite(page: str, run: Run) -> str:
    """The page with the output of ``run`` below each command of its console blocks."""
    return _BLOCK.sub(lambda match: "".join(_transcript(command, run) for command in commands(match[0])), page)


def _command(shown: list[str]) -> Command:
    return Command("\n".join(shown), "\n".join(line[2:] for line in shown))


def _transcript(command: Command, run: Run) -> str:
    output = "\n".join(line.rstrip() for line in run(command.script).splitlines())
    return f"{command.shown}\n{output}\n" if output.strip() else f"{command.shown}\n"


class Shell:
    """A shell that keeps variables and functions from one command to the next."""

    def __init__(self) -> None:
        self._script = "set -e\n"

    def run(self, script: str) -> str:
        """Standard output and error of the script. Commands that only set variables run again before later ones."""
        if re.match(r"(export|eval|kubectl\(\))", script):
            self._script += f"{script}\n"
            return ""
        command = ["bash", "-c", f"{self._script}{script}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as exc:
            raise CommandFailed(f"{script}: no end after {TIMEOUT_S:.0f} s") from exc
        if done.returncode:
            raise CommandFailed(f"{script}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


def main() -> int:
    """Rewrite each page that is named; 1 if a command failed."""
    for name in sys.argv[1:]:
        page = Path(name)
        try:
            page.write_text(rewrite(page.read_text(), Shell().run))
        except CommandFailed as exc:
            print(f"{name}: {exc}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
