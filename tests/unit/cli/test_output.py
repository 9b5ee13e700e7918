"""Names and messages are shown as they are, whatever brackets they have."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from kigi.cli.output import table
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
