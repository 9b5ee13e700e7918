"""The commands of a page, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """The text below a heading, to the next one of its level or of a higher one (from ``##``)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    level = len(heading.partition(" ")[0])
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{2,{level}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no {heading!r}"
    return found[1]


def commands(text: str) -> list[str]:
    """Each command of the shell blocks, in order, without indentation and comments. Quotes may span lines."""
    found: list[str] = []
    for indent, block in _BLOCK.findall(text):
        lines = [line.removeprefix(indent) for line in block.splitlines()]
        command = ""
        for line in lines:
            command = f"{command}\n{line}" if command else line
            if command.count("'") % 2 == 0 and not command.endswith("\\"):
                found.append(re.sub(r"\s+#.*$", "", command))
                command = ""
        assert not command, f"a quote does not end: {command!r}"
    return [command for command in found if command.strip()]
