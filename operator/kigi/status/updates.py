"""How many machines of an instance run the present content of their state, while edits wait for resets."""

from __future__ import annotations

from collections.abc import Sequence

from kigi.api.conditions import UPDATED, Finding
from kigi.domain.listing import first_names
from kigi.planning.placed import PlacedTarget
from kigi.planning.view import InstanceView

SHOWN = 8
"""Machines that the message names; it counts the others."""


def updated_finding(view: InstanceView, placed: Sequence[PlacedTarget]) -> Finding:
    """The condition Updated: no machine runs older content of its state."""
    older = sorted(one.target.machine for one in placed if one.target.is_older)
    message = f"{len(placed) - len(older)} of {len(placed)} machines run the present content"
    if not older:
        return Finding(UPDATED, True, "ContentCurrent", message)
    some = first_names(older, SHOWN)
    text = f"{message} of SystemNode {view.system_name}; {some} run older content until their next reset"
    return Finding(UPDATED, False, "EditsWait", f"{text} (spec.updateStrategy.onEdit)")
