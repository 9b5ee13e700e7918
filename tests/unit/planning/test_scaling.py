"""Added instances are placed on the free memory that others leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.planning.instance import plan_instance
from kigi.planning.vm_manifest import machine_memory_bytes
from tests.support.worlds import World, deployment_spec

INSTANCE_BYTES = 2 * machine_memory_bytes({})
"""Web and db of state a."""


def node_of(world: World, name: str, rooms: dict[str, int]) -> str:
    """Node of an instance whose disks are to be made, when each node has memory for so many instances more."""
    world.create_instance(name)
    view = world.view(name)
    nodes = {name: replace(state, memory_bytes=rooms[name] * INSTANCE_BYTES) for name, state in view.nodes.items()}
    (node,) = {placed.node for placed in plan_instance(replace(view, nodes=nodes)).placed if placed.is_new}
    return node


def packed(replicas: int, **spec: Any) -> World:
    """All instances on n1."""
    placement = {"strategy": "Pack", "nodeSelector": {}}
    world = World(deployment_spec(replicas=replicas, placement=placement, **spec))
    world.settle()
    assert {volume.node for volume in world.volumes.values()} == {"n1"}
    return world


@pytest.mark.parametrize("strategy", ["Pack", "CacheAware"])
def test_an_added_instance_avoids_a_node_that_others_have_filled(strategy: str) -> None:
    world = packed(2)
    world.change(replicas=3, placement={"strategy": strategy})
    assert node_of(world, "2", {"n1": 0, "n2": 2}) == "n2"


def test_machines_that_get_a_new_disk_keep_their_memory() -> None:
    world = packed(2)
    world.change(replicas=3, resetToken="again")
    assert node_of(world, "0", {"n1": 1, "n2": 2}) == "n1"
    assert node_of(world, "2", {"n1": 0, "n2": 2}) == "n2"


def test_pack_continues_on_a_node_with_free_memory() -> None:
    world = packed(2)
    world.change(replicas=3)
    assert node_of(world, "2", {"n1": 1, "n2": 3}) == "n1"
