"""Pictures of a terminal for the pages: what a command prints in 100 columns, as SVG.

``make pictures`` writes them into ``docs/images``. Without it, tests compare the words of each picture there with those
of the command's output now: numbers and times differ from run to run.
"""

from __future__ import annotations

import html
import io
import os
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.support.documented import ROOT

FOLDER = ROOT / "docs/images"
COLUMNS = 100
TARGET = "KIGI_PICTURES"
"""Variable with the folder that gets the pictures of this run."""
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z]{3,}")


def draw(name: str, command: str, output: str) -> str:
    """SVG of a terminal with this output, which may have colours. It asks no other host for a font."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output.replace("\r", "").rstrip()))
    return _FONT_FACE.sub("", console.export_svg(title=command, unique_id=f"kigi-{name}"))


def words(svg: str) -> set[str]:
    """Words that the picture shows."""
    shown = "".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    return set(_WORD.findall(html.unescape(shown).replace("\xa0", " ")))


def check_or_write(name: str, svg: str) -> None:
    """Compares the picture with the one in the docs, or writes it if ``KIGI_PICTURES`` has a folder."""
    if target := os.environ.get(TARGET):
        Path(target).mkdir(parents=True, exist_ok=True)
        (Path(target) / f"{name}.svg").write_text(svg, encoding="utf-8")
        return
    kept = FOLDER / f"{name}.svg"
    assert kept.exists(), f"{kept.relative_to(ROOT)} is missing; make pictures"
    differ = words(svg) ^ words(kept.read_text(encoding="utf-8"))
    assert not differ, f"{kept.relative_to(ROOT)} differs from what the command prints: {sorted(differ)}; make pictures"
