from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kigi.api.base import Condition
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User
from kigi.errors import ImageCycle
from kigi.planning.view import ImageView, SystemView
from kigi.status.trees import image_status, system_status
from tests.support.bodies import chain_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGE = ImageView(1, chain_of("top"), 1, 0, NOW)
SYSTEM = SystemView(1, ResolvedSystem("s", 1, ()), None, NOW)
USERS = (User("SystemNode", "lab"), User("VMImageNode", "child"))


def conditions(view: ImageView | SystemView) -> dict[str, Condition]:
    status = image_status(view) if isinstance(view, ImageView) else system_status(view)
    return {condition.type: condition for condition in status.conditions}


@pytest.mark.parametrize("view", [IMAGE, SYSTEM, replace(IMAGE, chain=ImageCycle("a cycle"))])
def test_a_deleted_node_lists_its_users(view: ImageView | SystemView) -> None:
    found = conditions(replace(view, deleting=True, users=USERS))
    assert {kind: c.status for kind, c in found.items()} == {
        "Ready": "False",
        "Reconciling": "True",
        "Stalled": "False",
    }
    assert {c.reason for c in found.values()} == {"InUse"}
    assert "SystemNode lab, VMImageNode child" in found["Ready"].message


@pytest.mark.parametrize("view", [IMAGE, SYSTEM])
def test_a_node_that_is_only_used_or_only_deleted_is_ready(view: ImageView | SystemView) -> None:
    assert conditions(replace(view, users=USERS))["Ready"].status == "True"
    assert conditions(replace(view, deleting=True))["Ready"].status == "True"


def test_a_deleted_image_keeps_its_status() -> None:
    assert image_status(replace(IMAGE, deleting=True, users=USERS)).depth == len(chain_of("top"))
