"""Added instances are placed on the free memory that others leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.deployment import SystemDeploymentSpec
from kigi.planning.deployment import plan_deployment
from kigi.planning.vm_manifest import machine_memory_bytes
from tests.support.worlds import World

INSTANCE_BYTES = 2 * machine_memory_bytes({})
"""Web and db of state a."""


def added_nodes(world: World, rooms: dict[str, int]) -> dict[int, set[str]]:
    """Nodes of each instance that is to be made, when each node has memory for so many instances."""
    view = world.view()
    nodes = {name: replace(state, memory_bytes=rooms[name] * INSTANCE_BYTES) for name, state in view.nodes.items()}
    nodes_of: dict[int, set[str]] = {}
    for placed in plan_deployment(replace(view, nodes=nodes)).placed:
        if placed.is_new:
            nodes_of.setdefault(placed.target.instance, set()).add(placed.node)
    return nodes_of


def packed(replicas: int, **spec: Any) -> World:
    """All instances on n1."""
    placement = {"strategy": "Pack", "nodeSelector": {}}
    world = World(
        SystemDeploymentSpec.model_validate(
            {"system": {"name": "a"}, "replicas": replicas, "placement": placement, **spec}
        )
    )
    world.settle()
    assert {volume.node for volume in world.volumes.values()} == {"n1"}
    return world


@pytest.mark.parametrize("strategy", ["Pack", "CacheAware"])
def test_an_added_instance_avoids_a_node_that_this_deployment_has_filled(strategy: str) -> None:
    world = packed(2)
    world.change(replicas=3, placement={"strategy": strategy})
    assert added_nodes(world, {"n1": 2, "n2": 2}) == {2: {"n2"}}


def test_machines_that_get_a_new_disk_keep_their_memory() -> None:
    world = packed(2)
    world.change(replicas=3, reset="again")
    assert added_nodes(world, {"n1": 2, "n2": 2}) == {0: {"n1"}, 1: {"n1"}, 2: {"n2"}}


def test_pack_continues_on_a_node_with_free_memory() -> None:
    world = packed(2)
    world.change(replicas=3)
    assert added_nodes(world, {"n1": 3, "n2": 3}) == {2: {"n1"}}
