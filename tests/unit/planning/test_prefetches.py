"""Which nodes keep states warm, and in which order they fetch."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.api.prefetch import PrefetchedNode, SystemPrefetchSpec, SystemPrefetchStatus
from kigi.domain.layers import Layer
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import SystemMissing
from kigi.planning.prefetches import PrefetchView, plan_prefetch
from kigi.planning.view import NodeState
from kigi.status.prefetches import prefetch_status
from tests.support.worlds import GIB, digest

BASE = Layer(digest("base"), 100, GIB)
WEB = Layer(digest("web"), 10, GIB, BASE.digest)
DB = Layer(digest("db"), 20, GIB, BASE.digest)
ALL = frozenset({BASE.digest, WEB.digest, DB.digest})
SYSTEM = ResolvedSystem(
    "a", 1, (ResolvedMachine("web", "web", (BASE, WEB), {}), ResolvedMachine("db", "db", (BASE, DB), {}))
)


def node(name: str, **changes: Any) -> NodeState:
    return replace(NodeState(name, cache_free_bytes=GIB), **changes)


def view_of(*nodes: NodeState, status: SystemPrefetchStatus | None = None, **spec: object) -> PrefetchView:
    return PrefetchView(
        generation=1,
        spec=SystemPrefetchSpec.model_validate({"systems": [{"name": "a"}], **spec}),
        systems={"a": SYSTEM},
        nodes={state.name: state for state in nodes},
        status=status or SystemPrefetchStatus(),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


def states(view: PrefetchView) -> dict[str, str]:
    return {told.name: told.state for told in plan_prefetch(view).nodes}


def after(view: PrefetchView, *nodes: NodeState) -> PrefetchView:
    """The next pass: the status is written, and these nodes are otherwise."""
    return replace(view, status=prefetch_status(view), nodes={**view.nodes, **{state.name: state for state in nodes}})


def ready(view: PrefetchView) -> tuple[str, str]:
    found = {c.type: c for c in prefetch_status(view).conditions}["Ready"]
    return found.status, found.reason


def test_every_node_with_a_cache_is_meant_unless_something_is_said() -> None:
    view = view_of(node("a"), node("b", held=ALL), node("without", has_driver=False))
    assert states(view) == {"a": "Fetching", "b": "Ready"}
    assert ready(view) == ("False", "LayersWarming")
    status = prefetch_status(view)
    assert (status.wanted_nodes, status.ready_nodes, status.node_bytes) == (2, 1, 130)
    assert (status.held_bytes, status.wanted_bytes, status.missing_bytes) == (130, 260, 130)


def test_it_is_ready_when_every_layer_is_on_every_node() -> None:
    view = view_of(node("a", held=ALL - {DB.digest}), node("b", held=ALL))
    assert ready(view) == ("False", "LayersWarming")
    view = after(view, node("a", held=ALL))
    assert ready(view) == ("True", "LayersCached")
    assert prefetch_status(view).missing_bytes == 20, "what the last change cost stays"


def test_nodes_are_taken_by_labels_and_taints() -> None:
    nodes = (
        node("lab", labels={"pool": "lab"}),
        node("tainted", labels={"pool": "lab"}, taints=(("x", "", "NoSchedule"),)),
        node("other"),
    )
    assert states(view_of(*nodes, nodeSelector={"pool": "lab"})).keys() == {"lab"}
    tolerant = view_of(*nodes, nodeSelector={"pool": "lab"}, tolerations=[{"operator": "Exists"}])
    assert states(tolerant).keys() == {"lab", "tainted"}


def test_a_node_that_is_named_and_not_there_is_said() -> None:
    view = view_of(node("a", held=ALL), nodes=["a", "gone"])
    assert states(view) == {"a": "Ready"}
    assert ready(view) == ("False", "NodesMissing")
    assert "there is no node gone" in prefetch_status(view).conditions[0].message


@pytest.mark.parametrize("nodes", [(), (node("a", has_driver=False),)])
def test_no_node_at_all_is_not_ready(nodes: tuple[NodeState, ...]) -> None:
    assert ready(view_of(*nodes)) == ("False", "NodesMissing")


def test_a_count_takes_those_that_lack_least_and_stays_with_them() -> None:
    nodes = (node("a"), node("b", held=ALL), node("c", held=frozenset({BASE.digest})))
    view = view_of(*nodes, count=2)
    assert states(view) == {"b": "Ready", "c": "Fetching"}
    # A node that would be better comes, and one that was taken is cordoned and away for a moment: nothing moves.
    view = after(view, node("a", held=ALL), node("c", schedulable=False, ready=False))
    assert states(view).keys() == {"b", "c"}
    # Its cache is lost: another takes its place.
    view = after(view, node("c", cache_alive=False))
    assert states(view) == {"a": "Ready", "b": "Ready"}


def test_fewer_nodes_than_asked_for_are_said_with_the_cause() -> None:
    view = view_of(node("a", held=ALL), node("b", ready=False), count=2)
    assert states(view) == {"a": "Ready"}
    assert ready(view) == ("False", "NodesMissing")
    assert "2 nodes are asked for, 1 can be taken: 1 nodes not ready" in prefetch_status(view).conditions[0].message


def test_nodes_fetch_in_turn() -> None:
    view = view_of(node("a"), node("b"), node("c"), parallelism=1)
    assert states(view) == {"a": "Fetching", "b": "Queued", "c": "Queued"}
    assert [told.ordered for told in plan_prefetch(view).nodes] == [["a"], [], []]
    # Others lack less now: whose turn it is goes on.
    view = after(view, node("b", held=frozenset({BASE.digest})))
    assert states(view) == {"a": "Fetching", "b": "Queued", "c": "Queued"}
    view = after(view, node("a", held=ALL))
    assert states(view) == {"a": "Ready", "b": "Fetching", "c": "Queued"}


def test_a_node_that_cannot_fetch_does_not_hold_up_the_others() -> None:
    refused = node("a", refused={DB.digest: ("LayerCorrupt", "its digest is another")})
    view = view_of(refused, node("b"), node("c", cache_alive=False), parallelism=1)
    assert states(view) == {"a": "Refused", "b": "Fetching", "c": "Away"}
    view = after(view, node("b", held=ALL))
    assert ready(view) == ("False", "CacheSilent")
    message = prefetch_status(view).conditions[0].message
    assert "node a: its digest is another" in message
    assert "node c: its cache daemon is silent" in message


def test_until_its_turn_a_node_keeps_what_it_was_told_before() -> None:
    old = SystemPrefetchStatus(
        nodes=[PrefetchedNode(name=name, state="Ready", ordered=["before"]) for name in ("a", "b")]
    )
    view = view_of(node("a"), node("b"), parallelism=1, status=old)
    assert {told.name: told.ordered for told in plan_prefetch(view).nodes} == {"a": ["a"], "b": ["before"]}


def test_a_state_that_is_missing_changes_nothing_on_the_nodes() -> None:
    view = after(view_of(node("a", held=ALL)))
    view = replace(view, systems={"a": SystemMissing("system 'a' does not exist")})
    status = prefetch_status(view)
    assert [told.ordered for told in status.nodes] == [["a"]]
    assert ready(view) == ("False", "SystemMissing")
