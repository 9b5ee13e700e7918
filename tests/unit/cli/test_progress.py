"""Bars are drawn where somebody looks, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from kigi.cli.progress import bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal)
    with bars() as drawn:
        images, stored = drawn.add("images", 10, things=True), drawn.add("[stored]", 4 * 2**20)
        images(3)
        stored(2**20)
        print("mail1: stored", file=sys.stderr)
    assert "3/10" in terminal.getvalue()
    assert "[stored]" in terminal.getvalue()
    assert "mail1: stored" in terminal.getvalue()


def test_a_program_sees_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with bars() as drawn:
        drawn.add("images", 10, things=True)(3)
    assert capsys.readouterr() == ("", "")


def test_and_waits_for_nothing() -> None:
    code = "import sys; from kigi.cli.progress import bars\nwith bars(): pass\nassert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.PIPE)
