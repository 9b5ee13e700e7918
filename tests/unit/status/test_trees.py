from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kigi.api.base import Condition
from kigi.domain.images import Image
from kigi.domain.systems import ResolvedSystem
from kigi.domain.usage import User
from kigi.errors import ImageCycle, SpecInvalid
from kigi.planning.view import ImageView, SystemView
from kigi.status.trees import image_status, system_status
from tests.support.bodies import chain_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOP = Image("top", chain_of("top")[0].digest, 100, 2**30, repository="cold")
CHAIN = tuple(replace(layer, repository="cold") for layer in chain_of("top"))
IMAGE = ImageView(1, CHAIN, 1, 0, TOP, False, NOW)
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


def test_the_layer_of_the_spec_is_in_the_status_even_without_its_parent() -> None:
    for view in (IMAGE, replace(IMAGE, chain=ImageCycle("a cycle"))):
        status = image_status(view)
        assert status.layer is not None
        assert (status.layer.digest, status.layer.size_bytes, status.layer.verified) == (TOP.digest, 100, False)
        assert status.repository_name == "cold"


def test_a_layer_is_verified_once_a_node_has_held_it_and_stays_so() -> None:
    held = image_status(replace(IMAGE, held=True))
    assert held.layer is not None and held.layer.verified
    later = image_status(replace(IMAGE, old_status=held))
    assert later.layer is not None and later.layer.verified
    other = replace(TOP, digest=chain_of("other")[0].digest)
    again = image_status(replace(IMAGE, old_status=held, image=other))
    assert again.layer is not None and not again.layer.verified


def test_an_invalid_image_has_no_layer_in_its_status() -> None:
    status = image_status(replace(IMAGE, image=None, chain=SpecInvalid("no layer")))
    assert (status.layer, status.repository_name) == (None, None)
