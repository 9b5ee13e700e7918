"""Placement of disks on nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.deployment import Placement
from kigi.domain.layers import Layer
from kigi.domain.systems import ResolvedMachine
from kigi.planning.candidates import NoNode, candidate_nodes
from kigi.planning.placement import place
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.view import NodeState
from tests.support.worlds import GIB, digest

BASE = Layer(digest("base"), 100, GIB)
WEB = Layer(digest("web"), 10, GIB, BASE.digest)
DB = Layer(digest("db"), 20, GIB, BASE.digest)


def target(
    instance: int, machine: str = "web", chain: tuple[Layer, ...] = (BASE, WEB), system: str = "a"
) -> MachineTarget:
    blueprint = Blueprint.of(system, ResolvedMachine(machine, machine, chain), Placement(), "Sidecar", "hook")
    return MachineTarget(instance, blueprint, f"dep-{instance}-{machine}", True, (None, None, None))


def node(name: str, **changes: Any) -> NodeState:
    return replace(NodeState(name, memory_bytes=10 * GIB, cache_free_bytes=10 * GIB), **changes)


def nodes_of(
    count: int, *nodes: NodeState, strategy: str = "CacheAware", memory: int = GIB, load: dict[str, int] | None = None
) -> list[str]:
    unplaced = {instance: [target(instance)] for instance in range(count)}
    choices = place(
        unplaced,
        {state.name: state for state in nodes},
        Placement(strategy=strategy),  # type: ignore[arg-type]
        load=load or {},
        home={},
        memory_of={(instance, "web"): memory for instance in range(count)},
    )
    return [choices[(instance, "web")].node for instance in range(count)]


def test_a_cold_cluster_is_filled_evenly() -> None:
    assert sorted(nodes_of(4, node("a"), node("b"))) == ["a", "a", "b", "b"]


def test_the_node_that_holds_the_layers_is_taken_first() -> None:
    warm = node("b", held=frozenset({BASE.digest, WEB.digest}))
    assert nodes_of(1, node("a"), warm) == ["b"]


def test_a_warm_node_takes_its_fair_share_only_while_others_have_capacity() -> None:
    warm = node("b", held=frozenset({BASE.digest, WEB.digest}))
    assert sorted(nodes_of(4, node("a"), warm)) == ["a", "a", "b", "b"]


def test_spread_goes_by_instances_and_pack_by_fullness() -> None:
    pair = (node("a"), node("b"))
    assert nodes_of(2, *pair, strategy="Spread", load={"a": 3}) == ["b", "b"]
    assert nodes_of(3, *pair, strategy="Pack", load={"b": 1}) == ["b", "b", "b"]


def test_a_node_without_free_memory_is_avoided() -> None:
    assert nodes_of(3, node("a", memory_bytes=GIB), node("b"), strategy="Pack", load={"a": 5}) == ["a", "b", "b"]


def test_a_node_without_free_cache_space_is_avoided() -> None:
    assert nodes_of(1, node("a", cache_free_bytes=109), node("b")) == ["b"]
    assert nodes_of(1, node("a", cache_free_bytes=110), node("b")) == ["a"]


def test_a_system_that_fits_on_no_node_is_split() -> None:
    machines = [target(0, f"m{number}") for number in range(4)]
    choices = place(
        {0: machines},
        {"a": node("a", memory_bytes=2 * GIB), "b": node("b", memory_bytes=2 * GIB)},
        Placement(),
        load={},
        home={},
        memory_of={machine.slot: GIB for machine in machines},
    )
    assert sorted(choice.node for choice in choices.values()) == ["a", "a", "b", "b"]
    assert all("no node has enough free capacity for the whole system" in choice.why for choice in choices.values())


def test_a_new_machine_goes_to_the_node_of_its_instance() -> None:
    warm = node("a", held=frozenset({BASE.digest, WEB.digest}))
    choices = place(
        {0: [target(0)]},
        {"a": warm, "b": node("b")},
        Placement(),
        load={"b": 1},
        home={0: "b"},
        memory_of={(0, "web"): GIB},
    )
    assert choices[(0, "web")].node == "b"


def test_the_reason_names_bytes_and_strategy() -> None:
    partly = node("a", held=frozenset({BASE.digest}))
    choices = place({0: [target(0)]}, {"a": partly}, Placement(), load={}, home={}, memory_of={(0, "web"): 0})
    assert choices[(0, "web")].why == "CacheAware: a lacks 10 B of 110 B, has 0 other instances"


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        pytest.param(node("a", ready=False), "not ready", id="not-ready"),
        pytest.param(node("a", schedulable=False), "cordoned", id="cordoned"),
        pytest.param(node("a", has_driver=False), "disk.kigi.dev", id="no-driver"),
        pytest.param(node("a", cache_alive=False), "silent", id="silent"),
        pytest.param(node("a", labels={"pool": "other"}), "nodeSelector", id="selector"),
        pytest.param(node("a", labels={"pool": "vm"}, taints=(("k", "v", "NoSchedule"),)), "taint", id="taint"),
    ],
)
def test_the_error_names_why_no_node_is_a_candidate(state: NodeState, cause: str) -> None:
    rules = Placement(node_selector={"pool": "vm"}) if "pool" in state.labels else Placement()
    with pytest.raises(NoNode, match=f"1 nodes .*{cause}"):
        place({0: [target(0)]}, {"a": state}, rules, load={}, home={}, memory_of={(0, "web"): 0})


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": "k", "operator": "Exists"},
        {"key": "k", "value": "v"},
        {"key": "k", "value": "v", "effect": "NoSchedule"},
    ],
)
def test_a_tolerated_taint_is_no_obstacle(toleration: dict[str, str]) -> None:
    tainted = node("a", taints=(("k", "v", "NoSchedule"),))
    rules = Placement.model_validate({"tolerations": [toleration]})
    assert list(candidate_nodes({"a": tainted}, rules)) == ["a"]


def test_machines_without_common_layers_are_scored_each_by_their_own() -> None:
    choices = place(
        {0: [target(0)], 1: [target(1, "db", (BASE, DB))]},
        {"a": node("a", held=frozenset({WEB.digest})), "b": node("b", held=frozenset({DB.digest}))},
        Placement(),
        load={},
        home={},
        memory_of={(0, "web"): 0, (1, "db"): 0},
    )
    assert {slot: choice.node for slot, choice in choices.items()} == {(0, "web"): "a", (1, "db"): "b"}


def test_memory_of_placed_machines_is_not_assigned_again() -> None:
    unplaced = {2: [target(2)]}
    nodes = {name: node(name, memory_bytes=2 * GIB) for name in ("a", "b")}
    choices = place(
        unplaced,
        nodes,
        Placement(strategy="Pack"),
        load={"a": 2},
        home={},
        memory_of={(2, "web"): GIB},
        used={"a": 2 * GIB},
    )
    assert choices[(2, "web")].node == "b"


def test_machines_of_one_instance_share_the_free_space_of_a_cache() -> None:
    alone = [Layer(digest(f"alone{number}"), 60, GIB) for number in range(2)]
    machines = [target(0, f"m{number}", (layer,)) for number, layer in enumerate(alone)]
    choices = place(
        {0: machines},
        {name: node(name, cache_free_bytes=100) for name in ("a", "b")},
        Placement(),
        load={},
        home={},
        memory_of={machine.slot: 0 for machine in machines},
    )
    assert sorted(choice.node for choice in choices.values()) == ["a", "b"]


def test_instances_of_different_states_share_the_free_space_of_a_cache() -> None:
    mail, file = Layer(digest("mail"), 60, GIB), Layer(digest("file"), 60, GIB)
    choices = place(
        {0: [target(0, chain=(mail,))], 1: [target(1, chain=(file,), system="b")]},
        {name: node(name, cache_free_bytes=100) for name in ("a", "b")},
        Placement(strategy="Pack"),
        load={},
        home={},
        memory_of={(0, "web"): 0, (1, "web"): 0},
    )
    assert {choice.node for choice in choices.values()} == {"a", "b"}


def test_shared_layers_use_the_space_of_a_cache_once() -> None:
    choices = place(
        {0: [target(0)], 1: [target(1, "db", (BASE, DB))]},
        {"a": node("a", cache_free_bytes=130), "b": node("b", cache_free_bytes=130)},
        Placement(strategy="Pack"),
        load={},
        home={},
        memory_of={(0, "web"): 0, (1, "db"): 0},
    )
    assert {choice.node for choice in choices.values()} == {"a"}
