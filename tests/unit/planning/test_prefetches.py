"""Nodes that hold the layers of a prefetch, and the order in which they fetch."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.api.prefetch import SystemPrefetchSpec, SystemPrefetchStatus
from kigi.domain.layers import Digest, Layer
from kigi.errors import SystemMissing
from kigi.planning.prefetch_orders import PrefetchOrders, changed_nodes, order_of
from kigi.planning.prefetches import PrefetchView, plan_prefetch
from kigi.planning.steps import OrderPrefetch
from kigi.planning.view import NodeState
from kigi.status.prefetches import prefetch_status
from tests.support.worlds import GIB, digest

BASE = Layer(digest("base"), 100, GIB)
WEB = Layer(digest("web"), 10, GIB, BASE.digest)
DB = Layer(digest("db"), 20, GIB, BASE.digest)
ALL = frozenset({BASE.digest, WEB.digest, DB.digest})
CHAINS = ((BASE, WEB), (BASE, DB))
STATE = {"kind": "SystemNode", "name": "a"}


def node(name: str, **changes: Any) -> NodeState:
    return replace(NodeState(name, cache_free_bytes=GIB), **changes)


def view_of(*nodes: NodeState, **spec: object) -> PrefetchView:
    return PrefetchView(
        namespace="ns",
        name="monday",
        uid="u1",
        generation=1,
        spec=SystemPrefetchSpec.model_validate({"targetRefs": [STATE], **spec}),
        targets=(CHAINS,),
        nodes={state.name: state for state in nodes},
        listed={},
        orders=None,
        allowance=None,
        old_status=SystemPrefetchStatus(),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


def states(view: PrefetchView) -> dict[str, str]:
    return {node.name: node.state for node in plan_prefetch(view).nodes}


def after(view: PrefetchView, *nodes: NodeState, restarted: bool = False) -> PrefetchView:
    """The next reconcile, with these nodes changed: status and NodeCaches are written.

    ``restarted``: by another operator, which knows no more than that.
    """
    plan = plan_prefetch(view)
    listed = {name: layers for name, layers in view.listed.items() if name in plan.orders.keep}
    return replace(
        view,
        orders=None if restarted else plan.orders,
        listed={**listed, **dict.fromkeys(plan.orders.hold, frozenset(plan.layers))},
        old_status=prefetch_status(view, plan),
        nodes={**view.nodes, **{state.name: state for state in nodes}},
    )


def status_of(view: PrefetchView) -> SystemPrefetchStatus:
    return prefetch_status(view, plan_prefetch(view))


def ready(view: PrefetchView) -> tuple[str, str]:
    found = {c.type: c for c in status_of(view).conditions}["Ready"]
    return found.status, found.reason


RESTARTED = pytest.mark.parametrize("restarted", [False, True])


def test_every_node_with_a_cache_is_chosen_by_default() -> None:
    view = view_of(node("a"), node("b", held=ALL), node("without", has_driver=False))
    assert states(view) == {"a": "Fetching", "b": "Ready"}
    assert ready(view) == ("False", "LayersWarming")
    status = status_of(view)
    assert (status.desired_nodes, status.ready_nodes, status.node_bytes) == (2, 1, 130)
    assert (status.held_bytes, status.wanted_bytes, status.missing_bytes) == (130, 260, 130)


def test_it_is_ready_when_every_layer_is_on_every_node() -> None:
    view = view_of(node("a", held=ALL - {DB.digest}), node("b", held=ALL))
    assert ready(view) == ("False", "LayersWarming")
    view = after(view, node("a", held=ALL))
    assert ready(view) == ("True", "LayersCached")
    assert status_of(view).missing_bytes == 20, "what the last change cost stays"


def test_nodes_are_taken_by_labels_and_taints() -> None:
    nodes = (
        node("lab", labels={"pool": "lab"}),
        node("tainted", labels={"pool": "lab"}, taints=(("x", "", "NoSchedule"),)),
        node("other"),
    )
    assert states(view_of(*nodes, nodes={"matchLabels": {"pool": "lab"}})).keys() == {"lab"}
    tolerant = view_of(*nodes, nodes={"matchLabels": {"pool": "lab"}}, tolerations=[{"operator": "Exists"}])
    assert states(tolerant).keys() == {"lab", "tainted"}


def test_a_named_node_that_does_not_exist_is_reported() -> None:
    view = view_of(node("a", held=ALL), nodes={"names": ["a", "gone"]})
    assert states(view) == {"a": "Ready"}
    assert ready(view) == ("False", "NodesMissing")
    assert "there is no node gone" in status_of(view).conditions[0].message


@pytest.mark.parametrize("nodes", [(), (node("a", has_driver=False),)])
def test_no_node_at_all_is_not_ready(nodes: tuple[NodeState, ...]) -> None:
    assert ready(view_of(*nodes)) == ("False", "NodesMissing")


@RESTARTED
def test_a_count_takes_those_that_lack_least_and_stays_with_them(restarted: bool) -> None:
    nodes = (node("a"), node("b", held=ALL), node("c", held=frozenset({BASE.digest})))
    view = view_of(*nodes, nodeCount=2)
    assert states(view) == {"b": "Ready", "c": "Fetching"}
    # A node that would be better comes, and one that was taken is cordoned and away for a moment: nothing moves.
    view = after(view, node("a", held=ALL), node("c", schedulable=False, ready=False), restarted=restarted)
    assert states(view).keys() == {"b", "c"}
    # Its cache is lost: another takes its place.
    view = after(view, node("c", cache_alive=False), restarted=restarted)
    assert states(view) == {"a": "Ready", "b": "Ready"}


def test_fewer_nodes_than_asked_for_are_reported_with_the_cause() -> None:
    view = view_of(node("a", held=ALL), node("b", ready=False), nodeCount=2)
    assert states(view) == {"a": "Ready"}
    assert ready(view) == ("False", "NodesMissing")
    assert "2 nodes are asked for, 1 can be taken: 1 nodes not ready" in status_of(view).conditions[0].message


@RESTARTED
def test_nodes_fetch_in_turn(restarted: bool) -> None:
    view = view_of(node("a"), node("b"), node("c"), parallelism=1)
    assert states(view) == {"a": "Fetching", "b": "Queued", "c": "Queued"}
    assert plan_prefetch(view).orders == PrefetchOrders("u1", 1, frozenset("a"), frozenset("bc"))
    # Others lack less now: the turn does not change.
    view = after(view, node("b", held=frozenset({BASE.digest})), restarted=restarted)
    assert states(view) == {"a": "Fetching", "b": "Queued", "c": "Queued"}
    view = after(view, node("a", held=ALL), restarted=restarted)
    assert states(view) == {"a": "Ready", "b": "Fetching", "c": "Queued"}


def test_a_turn_is_not_given_twice_before_the_nodecache_is_written() -> None:
    view = view_of(node("a"), node("b"), parallelism=1)
    orders = plan_prefetch(view).orders
    nearer = replace(view, nodes={**view.nodes, "b": node("b", held=frozenset({BASE.digest}))})
    assert plan_prefetch(nearer).orders.hold == {"b"}, "a new decision would be another one"
    assert plan_prefetch(replace(nearer, orders=orders)).orders.hold == {"a"}


def test_a_step_exists_only_for_new_orders() -> None:
    view = view_of(node("a"))
    plan = plan_prefetch(view)
    assert plan.steps == (OrderPrefetch("ns", "monday", plan.orders),)
    assert plan_prefetch(replace(view, orders=plan.orders)).steps == ()
    assert plan_prefetch(replace(view, orders=plan.orders, generation=2)).steps != ()


def test_a_node_that_cannot_fetch_does_not_hold_up_the_others() -> None:
    refused = node("a", refused={DB.digest: ("LayerCorrupt", "its digest is another")})
    view = view_of(refused, node("b"), node("c", cache_alive=False), parallelism=1)
    assert states(view) == {"a": "Refused", "b": "Fetching", "c": "Away"}
    view = after(view, node("b", held=ALL))
    assert ready(view) == ("False", "CacheSilent")
    message = status_of(view).conditions[0].message
    assert "node a: its digest is another" in message
    assert "node c: its cache daemon does not report" in message


def test_a_node_that_waits_for_its_turn_keeps_what_its_nodecache_lists() -> None:
    before: frozenset[Digest] = frozenset({digest("before")})
    view = replace(view_of(node("a"), node("b"), parallelism=1), listed={"a": before, "b": before})
    assert plan_prefetch(view).orders == PrefetchOrders("u1", 1, hold=frozenset("a"), keep=frozenset("b"))


@RESTARTED
def test_a_state_that_is_missing_changes_nothing_on_the_nodes(restarted: bool) -> None:
    view = after(view_of(node("a", held=ALL), node("b", held=ALL), nodes={"names": ["a"]}), restarted=restarted)
    targets = [STATE, {**STATE, "name": "gone"}]
    spec = SystemPrefetchSpec.model_validate({"targetRefs": targets, "nodes": {"names": ["a"]}})
    missing = (CHAINS, SystemMissing("system 'gone' does not exist"))
    view = replace(view, spec=spec, generation=2, targets=missing)
    before = view.old_status
    after_it = status_of(view)
    assert (after_it.desired_nodes, after_it.ready_nodes) == (before.desired_nodes, before.ready_nodes) == (1, 1)
    assert ready(view) == ("False", "SystemMissing")
    assert plan_prefetch(view).orders == PrefetchOrders("u1", 2, keep=frozenset("a"))


def test_a_prefetch_that_was_never_resolved_keeps_nothing() -> None:
    view = replace(view_of(node("a", held=ALL)), targets=(SystemMissing("system 'a' does not exist"),))
    assert plan_prefetch(view).orders == PrefetchOrders("u1", 1)


def test_until_a_version_of_the_prefetch_is_planned_no_nodecache_changes() -> None:
    old = PrefetchOrders("u1", 1, frozenset("a"), frozenset("b"))
    assert [order_of(old, "u1", 1, name) for name in "abc"] == ["Hold", "Keep", "Drop"]
    assert [order_of(old, "u1", 2, name) for name in "abc"] == ["Keep", "Keep", "Drop"]
    assert [order_of(old, "u2", 1, name) for name in "abc"] == ["Keep"] * 3
    assert [order_of(None, "u1", 1, name) for name in "abc"] == ["Keep"] * 3
    new = PrefetchOrders("u1", 2, frozenset("ab"))
    assert changed_nodes(old, new, "abc") == ["a", "b"]
    assert changed_nodes(None, new, "abc") == ["a", "b", "c"]
