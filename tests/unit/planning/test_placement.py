"""Placement of disks on nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kigi.api.placement import Placement
from kigi.domain.guests import Guest
from kigi.domain.layers import Layer
from kigi.domain.systems import ResolvedMachine
from kigi.planning.candidates import ARCHITECTURE_LABEL, NoNode, candidate_nodes
from kigi.planning.placement import place
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.view import NodeState
from tests.support.placements import place_all
from tests.support.worlds import GIB, digest

BASE = Layer(digest("base"), 100, GIB)
WEB = Layer(digest("web"), 10, GIB, BASE.digest)
DB = Layer(digest("db"), 20, GIB, BASE.digest)


def target(
    instance: str, machine: str = "web", chain: tuple[Layer, ...] = (BASE, WEB), system: str = "a"
) -> MachineTarget:
    blueprint = Blueprint.of(system, ResolvedMachine(machine, machine, chain), Placement(), "Sidecar", "hook")
    return MachineTarget(instance, blueprint, f"dep-{instance}-{machine}", True, (None, None, None))


def node(name: str, **changes: Any) -> NodeState:
    return replace(NodeState(name, memory_bytes=10 * GIB, cache_free_bytes=10 * GIB), **changes)


def nodes_of(
    count: int, *nodes: NodeState, strategy: str = "CacheAware", memory: int = GIB, load: dict[str, int] | None = None
) -> list[str]:
    unplaced = {instance: [target(instance)] for instance in map(str, range(count))}
    choices = place_all(
        unplaced,
        {state.name: state for state in nodes},
        Placement(strategy=strategy),  # type: ignore[arg-type]
        load=load or {},
        memory_of={(instance, "web"): memory for instance in map(str, range(count))},
    )
    return [choices[(instance, "web")].node for instance in map(str, range(count))]


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


def test_a_node_whose_disk_guests_fill_is_taken_last() -> None:
    warm = {"held": frozenset({BASE.digest, WEB.digest})}
    full = {**warm, "filling": frozenset({"pv/uid"})}
    assert nodes_of(2, node("a", **full), node("b")) == ["b", "b"]
    assert nodes_of(2, node("a", **full), node("b", memory_bytes=0)) == ["b", "b"]
    assert nodes_of(1, node("a", **full)) == ["a"]


def test_a_machine_leaves_the_node_of_its_instance_if_guests_fill_its_disk() -> None:
    nodes = {"a": node("a", filling=frozenset({"pv/uid"})), "b": node("b")}
    choices = place([target("0")], nodes, Placement(), home="a", memory_of={("0", "web"): GIB})
    assert choices[("0", "web")].node == "b"


def test_a_system_that_fits_on_no_node_is_split() -> None:
    machines = [target("0", f"m{number}") for number in range(4)]
    choices = place(
        machines,
        {"a": node("a", memory_bytes=2 * GIB), "b": node("b", memory_bytes=2 * GIB)},
        Placement(),
        memory_of={machine.slot: GIB for machine in machines},
    )
    assert sorted(choice.node for choice in choices.values()) == ["a", "a", "b", "b"]
    assert all("no node has enough free capacity for the whole system" in choice.why for choice in choices.values())


def test_a_new_machine_goes_to_the_node_of_its_instance() -> None:
    warm = node("a", held=frozenset({BASE.digest, WEB.digest}))
    choices = place(
        [target("0")],
        {"a": warm, "b": node("b")},
        Placement(),
        load={"b": 1},
        home="b",
        memory_of={("0", "web"): GIB},
    )
    assert choices[("0", "web")].node == "b"


def test_the_reason_names_bytes_and_strategy() -> None:
    partly = node("a", held=frozenset({BASE.digest}))
    choices = place([target("0")], {"a": partly}, Placement(), memory_of={("0", "web"): 0})
    assert choices[("0", "web")].why == "CacheAware: a lacks 10 B of 110 B, has 0 other instances"


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
        place([target("0")], {"a": state}, rules, memory_of={("0", "web"): 0})


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
    assert candidate_nodes({"a": tainted}, rules) == [tainted]


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "k", "operator": "Later", "value": "v"},
        {"key": "k", "operator": "Exists", "effect": "NoLater"},
        {"key": "k", "operator": "Equal"},
    ],
    ids=["operator of a later Kubernetes", "effect of a later Kubernetes", "other value"],
)
def test_an_unknown_toleration_tolerates_nothing(toleration: dict[str, str]) -> None:
    tainted = node("a", taints=(("k", "v", "NoSchedule"),))
    rules = Placement.model_validate({"tolerations": [toleration]})
    assert candidate_nodes({"a": tainted}, rules) == []


def test_machines_without_common_layers_are_scored_each_by_their_own() -> None:
    choices = place_all(
        {"0": [target("0")], "1": [target("1", "db", (BASE, DB))]},
        {"a": node("a", held=frozenset({WEB.digest})), "b": node("b", held=frozenset({DB.digest}))},
        Placement(),
        memory_of={("0", "web"): 0, ("1", "db"): 0},
    )
    assert {slot: choice.node for slot, choice in choices.items()} == {("0", "web"): "a", ("1", "db"): "b"}


def test_memory_of_placed_machines_is_not_assigned_again() -> None:
    nodes = {name: node(name, memory_bytes=2 * GIB) for name in ("a", "b")}
    choices = place(
        [target("2")],
        nodes,
        Placement(strategy="Pack"),
        load={"a": 2},
        memory_of={("2", "web"): GIB},
        used={"a": 2 * GIB},
    )
    assert choices[("2", "web")].node == "b"


def test_machines_of_one_instance_share_the_free_space_of_a_cache() -> None:
    alone = [Layer(digest(f"alone{number}"), 60, GIB) for number in range(2)]
    machines = [target("0", f"m{number}", (layer,)) for number, layer in enumerate(alone)]
    choices = place(
        machines,
        {name: node(name, cache_free_bytes=100) for name in ("a", "b")},
        Placement(),
        memory_of={machine.slot: 0 for machine in machines},
    )
    assert sorted(choice.node for choice in choices.values()) == ["a", "b"]


def test_instances_of_different_states_share_the_free_space_of_a_cache() -> None:
    mail, file = Layer(digest("mail"), 60, GIB), Layer(digest("file"), 60, GIB)
    choices = place_all(
        {"0": [target("0", chain=(mail,))], "1": [target("1", chain=(file,), system="b")]},
        {name: node(name, cache_free_bytes=100) for name in ("a", "b")},
        Placement(strategy="Pack"),
        memory_of={("0", "web"): 0, ("1", "web"): 0},
    )
    assert {choice.node for choice in choices.values()} == {"a", "b"}


def test_shared_layers_use_the_space_of_a_cache_once() -> None:
    choices = place_all(
        {"0": [target("0")], "1": [target("1", "db", (BASE, DB))]},
        {"a": node("a", cache_free_bytes=130), "b": node("b", cache_free_bytes=130)},
        Placement(strategy="Pack"),
        memory_of={("0", "web"): 0, ("1", "db"): 0},
    )
    assert {choice.node for choice in choices.values()} == {"a"}


def on(architecture: str | None, instance: str = "0", machine: str = "web") -> MachineTarget:
    chain = (BASE, replace(WEB, guest=Guest(architecture)))
    resolved = ResolvedMachine(machine, machine, chain, guest=Guest(architecture))
    blueprint = Blueprint.of("a", resolved, Placement(), "Sidecar", "hook")
    return MachineTarget(instance, blueprint, f"dep-{instance}-{machine}", True)


AMD, ARM = {ARCHITECTURE_LABEL: "amd64"}, {ARCHITECTURE_LABEL: "arm64"}


def nodes_for(*targets: MachineTarget, states: list[NodeState], home: str | None = None) -> list[str]:
    nodes = {state.name: state for state in states}
    memory = {target.slot: GIB for target in targets}
    choices = place(targets, nodes, Placement(), home=home, memory_of=memory)
    return [choices[target.slot].node for target in targets]


@pytest.mark.parametrize(("architecture", "node_name"), [("amd64", "a"), ("arm64", "b"), (None, "b")])
def test_a_machine_runs_on_nodes_of_its_images_architecture(architecture: str | None, node_name: str) -> None:
    held = frozenset({BASE.digest, WEB.digest})
    states = [node("a", labels=AMD), node("b", labels=ARM, held=held), node("c")]
    assert nodes_for(on(architecture), states=states) == [node_name]


def test_a_full_node_of_the_architecture_is_preferred_to_a_free_one_of_another() -> None:
    assert nodes_for(on("amd64"), states=[node("a", labels=AMD, memory_bytes=0), node("b", labels=ARM)]) == ["a"]


def test_the_home_of_an_instance_does_not_take_a_machine_of_another_architecture() -> None:
    states = [node("a", labels=AMD), node("b", labels=ARM)]
    assert nodes_for(on("arm64"), states=states, home="a") == ["b"]


def test_machines_of_two_architectures_go_to_two_nodes() -> None:
    states = [node("a", labels=AMD), node("b", labels=ARM)]
    assert nodes_for(on("amd64"), on("arm64", machine="db"), on(None, machine="c"), states=states)[:2] == ["a", "b"]
