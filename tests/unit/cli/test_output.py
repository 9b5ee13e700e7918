"""Output for people and for pipes: brackets are shown unchanged, and a pipe gets one line per row."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from rich.console import Console, RenderableType

from kigi.cli.output import Format, print_data, print_result, table
from kigi.cli.verbs.tree import _image_line
from kigi.cli.verbs.why import _render

WORDS = "spec.overrides[instance 0].machines[nobody] [/Error] [red]"


def shown(what: RenderableType) -> str:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as text:
        console.print(what)
    return text.get()


def test_a_cell_of_a_table() -> None:
    assert WORDS in shown(table(("MESSAGE",), [(WORDS,)]))


def test_an_answer_of_why() -> None:
    entry: dict[str, Any] = {
        "object": "SystemDeployment/a",
        "reason": "MachineUnknown",
        "stalled": True,
        "message": WORDS,
        "cause": "a machine [x] is named",
        "remedy": "correct [it]",
        "because": [],
    }
    text = shown(_render([entry], None))
    assert WORDS in text
    assert "a machine [x] is named" in text
    assert "correct [it]" in text


def test_a_node_of_a_tree_that_has_a_problem() -> None:
    assert WORDS in shown(_image_line({"name": "web", "problem": WORDS}))


ROW = ("office", "x" * 300, "a message of many words " * 20)
COLUMNS = ("NAME", "LONG", "MESSAGE")


def printed(monkeypatch: pytest.MonkeyPatch, stdout: io.StringIO, rows: Sequence[Sequence[object]] = (ROW,)) -> str:
    monkeypatch.setattr(sys, "stdout", stdout)
    print_data({}, lambda: table(COLUMNS, rows), Format.TABLE)
    return stdout.getvalue()


@pytest.mark.parametrize("columns", [None, "80", "200"])
def test_a_piped_table_has_one_line_per_row(monkeypatch: pytest.MonkeyPatch, columns: str | None) -> None:
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    header, line = printed(monkeypatch, io.StringIO()).splitlines()
    assert header.split() == list(COLUMNS)
    assert line.startswith("office  " + ROW[1])
    assert line.rstrip().endswith(ROW[2].rstrip())


def test_a_piped_table_is_padded_to_its_cells_only(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, io.StringIO(), [("a", "b", "c"), ("a", "b", "longer")]).splitlines()
    assert {len(line) for line in lines} == {len("NAME  LONG  MESSAGE")}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_on_a_terminal_fits_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = Console(color_system=None).render_str(printed(monkeypatch, Terminal())).plain.splitlines()
    assert len(lines) > 2


def test_programs_get_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    data = [{"name": "office", "bytes": 2**40}]
    print_data(data, lambda: "not drawn", Format.JSON)
    assert json.loads(capsys.readouterr().out) == data
    print_data(data, lambda: "not drawn", Format.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == data


def test_a_result_is_printed_for_programs_only(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"name": "office"}, Format.TABLE)
    assert capsys.readouterr().out == ""
    print_result({"name": "office"}, Format.JSON)
    assert json.loads(capsys.readouterr().out) == {"name": "office"}
