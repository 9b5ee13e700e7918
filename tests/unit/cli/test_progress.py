"""Bars are drawn on a terminal, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from kigi.cli.progress import progress_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_progress_and_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bars() as bars:
        images, stored = bars.add("images", 10, items=True), bars.add("[stored]", 4 * 2**20)
        images(3)
        stored(2**20)
        print("mail1: stored", file=sys.stderr)
    assert "3/10" in terminal.getvalue()
    assert "[stored]" in terminal.getvalue()
    assert "mail1: stored" in terminal.getvalue()


def test_a_pipe_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as bars:
        bars.add("images", 10, items=True)(3)
    assert capsys.readouterr() == ("", "")


def test_a_pipe_does_not_import_rich() -> None:
    code = "from kigi.cli.progress import progress_bars\nwith progress_bars(): pass"
    code += "\nimport sys; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.PIPE)
