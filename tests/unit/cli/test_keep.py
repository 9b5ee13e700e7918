"""Captures before a change, and the command that undoes it."""

from __future__ import annotations

import pytest

from kigi.cli.choice import Chosen
from kigi.cli.exit_codes import OptionInvalid
from kigi.cli.keep import state_names, undo_command


def chosen(*names: str, machines: tuple[str, ...] = ()) -> Chosen:
    return Chosen("range", "office", None, (), names, machines, is_everything=False)


def test_one_instance_has_the_name_itself_and_several_have_their_own() -> None:
    assert state_names(("7",), "before") == {"7": "before"}
    assert state_names(("7", "red"), "before") == {"7": "before-7", "red": "before-red"}
    with pytest.raises(OptionInvalid, match="has 64 characters, and may have 63"):
        state_names(("1", "10"), "x" * 61)


@pytest.mark.parametrize(
    ("what", "command"),
    [
        (chosen("7"), "kigi switch office before 7 -n range"),
        (chosen("1", "2", "3", "12"), "kigi switch office 'before-{instance}' 1-3,12 -n range"),
        (chosen("7", machines=("mail", "db")), "kigi switch office before 7 mail db -n range"),
    ],
)
def test_the_undo_is_one_switch(what: Chosen, command: str) -> None:
    assert undo_command(what, "before") == command
