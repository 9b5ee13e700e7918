"""Nodes as placement sees them: what is kept between reconciles equals what the mirror has, after any change."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kigi.domain.heartbeat import SILENT_AFTER_S
from kigi.gather.nodes import gather_nodes, node_state, nodes_for
from kigi.mirror.node_use import LAYERS_FORGOTTEN_AFTER_S
from kigi.planning.view import NodeState
from tests.support.bodies import (
    NAME,
    NS,
    cache_body,
    chain_of,
    csi_node_body,
    lease_body,
    node_body,
    target,
    volume_body,
)
from tests.support.mirrors import new_mirror

NODES = ("n1", "n2", "n3")
nodes = st.sampled_from(NODES)
instances = st.sampled_from(("1", "2"))


class Nodes(RuleBasedStateMachine):
    """Objects of three nodes and volumes of two instances change in any order, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.version = 1000.0, 1
        self.mirror = new_mirror(lambda: self.now_s)
        for node in NODES:
            self.mirror.put("Node", node_body(node))
            self.mirror.put("CSINode", csi_node_body(node))
            self.mirror.put("NodeCache", cache_body(node, held=(chain_of("top")[0].digest,)))

    def next(self) -> int:
        self.version += 1
        return self.version

    @rule(node=nodes, cordoned=st.booleans())
    def node_changes(self, node: str, cordoned: bool) -> None:
        self.mirror.put("Node", node_body(node, self.next(), unschedulable=cordoned))

    @rule(node=nodes, driver=st.sampled_from(["disk.kigi.dev", "other"]))
    def driver_changes(self, node: str, driver: str) -> None:
        self.mirror.put("CSINode", csi_node_body(node, self.next(), driver))

    @rule(node=nodes, images=st.sets(st.sampled_from(["top", "other"])))
    def cache_changes(self, node: str, images: set[str]) -> None:
        held = tuple(chain_of(image)[0].digest for image in sorted(images))
        self.mirror.put("NodeCache", cache_body(node, self.next(), held=held))

    @rule(kind=st.sampled_from(["Node", "CSINode", "NodeCache"]), node=nodes)
    def object_goes(self, kind: str, node: str) -> None:
        self.mirror.gone(kind, None, node, "", self.next())

    @rule(node=nodes, old=st.booleans())
    def daemon_is_heard(self, node: str, old: bool) -> None:
        version = self.next()
        renewed = "2025-01-01T00:00:00Z" if old else f"2026-01-01T00:{version // 60 % 60:02}:{version % 60:02}Z"
        self.mirror.heartbeats.put(lease_body(node, version, renewed), datetime(2026, 1, 1, tzinfo=UTC))

    @rule(node=nodes)
    def lease_goes(self, node: str) -> None:
        self.mirror.heartbeats.forget(node)

    @rule(instance=instances, node=nodes, revision=st.integers(1, 2))
    def volume_appears(self, instance: str, node: str, revision: int) -> None:
        body = volume_body(target(instance=instance), revision, node, self.next())
        self.mirror.put("PersistentVolume", body)

    @rule(instance=instances)
    def volumes_go(self, instance: str) -> None:
        for volume in list(self.mirror.volumes.by("instance", (NS, NAME, instance))):
            self.mirror.gone("PersistentVolume", None, volume.meta.name, "", self.next())

    @rule(instance=instances, node=nodes)
    def plan_reserves(self, instance: str, node: str) -> None:
        layers = {layer.digest: layer for layer in chain_of("top")}
        self.mirror.node_use.reserve((NS, NAME, instance), {node: 5}, {node: layers})

    @rule(instance=instances)
    def plan_ends(self, instance: str) -> None:
        self.mirror.node_use.release((NS, NAME, instance))

    @rule()
    def another_operator_led(self) -> None:
        self.mirror.node_use.clear_reservations()

    @rule(seconds=st.sampled_from([1.0, SILENT_AFTER_S / 2, SILENT_AFTER_S, LAYERS_FORGOTTEN_AFTER_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def what_is_kept_is_what_the_mirror_has(self) -> None:
        kept = gather_nodes(self.mirror)
        fresh = {name: state for name in NODES if (state := node_state(self.mirror, name)) is not None}
        assert kept == {name: state for name, state in fresh.items() if state.exists}
        assert nodes_for(self.mirror, ("ns", "other", "1")) == fresh

    @invariant()
    def memory_of_an_instance_is_free_for_itself(self) -> None:
        def free_bytes(states: dict[str, NodeState]) -> dict[str, int]:
            return {name: state.memory_bytes for name, state in states.items() if state.exists}

        key = (NS, NAME, "1")
        others = free_bytes(gather_nodes(self.mirror))
        own = self.mirror.node_use.of(key)
        assert free_bytes(nodes_for(self.mirror, key)) == {n: free + own.get(n, 0) for n, free in others.items()}


TestNodes = Nodes.TestCase
TestNodes.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
