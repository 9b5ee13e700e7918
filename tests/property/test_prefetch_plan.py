"""Laws of prefetches that must hold wherever the operator stops, and whatever users and nodes do in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kigi.gather import node_cache
from kigi.planning.prefetch_orders import Order, PrefetchOrders, order_of
from kigi.planning.prefetches import PrefetchPlan, PrefetchView, plan_prefetch
from tests.support.prefetch_worlds import STATES, PrefetchWorld

RETENTIONS = ["Evictable", "Pinned"]
specs = st.fixed_dictionaries(
    {"states": st.lists(st.sampled_from(sorted(STATES)), min_size=1, max_size=2, unique=True)},
    optional={
        "parallelism": st.integers(1, 2),
        "nodeCount": st.integers(1, 4),
        "retention": st.sampled_from(RETENTIONS),
    },
)
numbers = st.integers(0, 3)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), specs),
        st.tuples(st.just("prefetch"), st.booleans()),
        st.tuples(st.just("all"), st.none()),
        st.tuples(st.just("node"), numbers),
        st.tuples(st.just("slow-node"), numbers),
        st.tuples(st.just("fetch"), numbers),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("refuse"), numbers),
        st.tuples(st.just("lose"), numbers),
        st.tuples(st.just("delete"), st.none()),
    ),
    max_size=40,
)


def apply(world: PrefetchWorld, spec: dict[str, Any]) -> None:
    rest = {key: value for key, value in spec.items() if key != "states"}
    world.apply(targetRefs=[{"kind": "SystemNode", "name": name} for name in spec["states"]], **rest)


def run(world: PrefetchWorld, script: list[tuple[str, Any]]) -> None:
    for kind, argument in script:
        node = f"n{argument}"
        match kind:
            case "apply":
                apply(world, argument)
            case "prefetch":
                world.reconcile_prefetch(stop=argument)
            case "all":
                world.reconcile_prefetch()
                for name in world.nodes():
                    world.reconcile_node(name)
            case "node" | "slow-node" if ("NodeCache", None, node) in world.objects:
                world.reconcile_node(node, slow=kind == "slow-node")
            case "fetch":
                world.fetch(node)
            case "restart":
                world.restart()
            case "refuse":
                world.refuse(node)
            case "lose" if node in world.nodes():
                world.lose_node(node)
            case "delete":
                world.delete("SystemPrefetch", "ns", "monday")


def judge(
    first: dict[str, Any],
    script: list[tuple[str, Any]],
    planner: Callable[[PrefetchView], PrefetchPlan] = plan_prefetch,
) -> None:
    world = PrefetchWorld(planner)
    apply(world, first)
    run(world, script)
    world.settle()
    world.check_settled()


@settings(max_examples=300, deadline=None)
@given(specs, actions)
@example(
    {"states": ["a"]},
    [
        ("apply", {"states": ["a", "b"]}),
        ("all", None),
        ("apply", {"states": ["a"]}),
        ("delete", None),
        ("slow-node", 0),
        ("apply", {"states": ["a"], "parallelism": 1}),
    ],
).via("a node loses the layers by a write for the deleted prefetch after the turns of the next one were decided")
@example(
    {"states": ["a"]},
    [
        ("all", None),
        ("refuse", 1),
        ("apply", {"states": ["a"]}),
        ("apply", {"states": ["a", "b"], "parallelism": 1}),
        ("fetch", 1),
    ],
).via("a node whose refusal is still reported gets the new layers beside the one that has its turn")
def test_turns_are_kept_and_the_chosen_nodes_hold_everything_in_any_history(
    first: dict[str, Any], script: list[tuple[str, Any]]
) -> None:
    judge(first, script)


# Broken rules: each breaks the law in a history that the right rules survive.


def without_memory(view: PrefetchView) -> PrefetchPlan:
    """A turn may be given to another node until its NodeCache is written."""
    plan = plan_prefetch(replace(view, orders=None))
    return replace(plan, steps=plan.steps if plan.orders != view.orders else ())


def without_nodecaches(view: PrefetchView) -> PrefetchPlan:
    """An operator that starts does not know which nodes have their turn."""
    return plan_prefetch(replace(view, listed={}))


def hasty(orders: PrefetchOrders | None, uid: str, generation: int, node: str) -> Order:
    """Nodes hold another version of the prefetch before it is planned."""
    return order_of(orders, uid, orders.generation if orders is not None else generation, node)


ALL = ("all", None)
IN_TURN = ("apply", {"states": ["b"], "parallelism": 1})
BASE_ON_N1 = ("fetch", 1)
"""After this node n1 lacks less than n0, which has its turn."""


@pytest.mark.parametrize(
    ("planner", "rule", "script"),
    [
        (without_memory, order_of, [("prefetch", False), ("slow-node", 0), BASE_ON_N1, ALL, ("node", 0)]),
        (without_nodecaches, order_of, [ALL, BASE_ON_N1, ("restart", None), ALL]),
        (plan_prefetch, hasty, [("node", 0), ("node", 1)]),
    ],
)
def test_a_broken_rule_is_found(
    planner: Callable[[PrefetchView], PrefetchPlan],
    rule: Any,
    script: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = {"states": ["a"]}
    judge(first, [ALL, IN_TURN, *script])
    monkeypatch.setattr(node_cache, "order_of", rule)
    with pytest.raises(AssertionError, match="the limit is 1"):
        judge(first, [ALL, IN_TURN, *script], planner)


def test_an_operator_that_starts_changes_no_nodecache_before_the_prefetch_is_planned() -> None:
    world = PrefetchWorld()
    apply(world, {"states": ["a"]})
    world.settle()
    world.restart()
    assert not any(world.reconcile_node(node) for node in world.nodes())
    world.restart()
    world.delete("SystemPrefetch", "ns", "monday")
    assert all(world.reconcile_node(node) for node in world.nodes())
