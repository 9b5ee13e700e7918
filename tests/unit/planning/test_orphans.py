"""Overlays without a PersistentVolume are discarded, and no others."""

from __future__ import annotations

from dataclasses import replace

from kigi.planning.node_cache import orphans, plan_node_cache
from kigi.planning.steps import ApplyObject
from kigi.planning.view import NodeView
from tests.support.copies import order as order_of

LEFT = "kigi.ns.dep.0.web.r1.01234567"
VIEW = NodeView(
    "node", True, True, True, (), (), spec_current=True, volumes=frozenset({LEFT}), without_volume=frozenset({LEFT})
)


def ordered(view: NodeView) -> list[str]:
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    found: list[str] = step.manifest["spec"].get("discardVolumes", [])
    return found


def test_an_overlay_without_a_volume_is_discarded() -> None:
    assert ordered(VIEW) == [LEFT]


def test_a_report_of_an_earlier_generation_orders_nothing() -> None:
    assert ordered(replace(VIEW, spec_current=False)) == []


def test_an_order_stays_until_the_daemon_has_acted_on_it() -> None:
    assert ordered(replace(VIEW, spec_current=False, discard=frozenset({LEFT}))) == [LEFT]


def test_an_order_is_taken_back_when_a_volume_names_the_overlay() -> None:
    assert ordered(replace(VIEW, without_volume=frozenset(), discard=frozenset({LEFT}))) == []


def test_what_a_capture_copies_is_kept() -> None:
    order = order_of(volume=LEFT)
    assert orphans(replace(VIEW, captures=(order,))) == []


def test_a_deleted_node_may_come_back_until_its_grace_period_ends_or_its_nodecache_is_deleted() -> None:
    view = NodeView("n", False, False, True, (), (("pv", "handle"),), grace_left_s=30.0)
    waits = plan_node_cache(view)
    assert (waits.steps, waits.retry_after_s) == ((), 30.0)
    kinds = [type(step).__name__ for step in plan_node_cache(replace(view, grace_left_s=0.0)).steps]
    assert kinds == ["ReleaseVolume", "DeleteObject"]
    kinds = [type(step).__name__ for step in plan_node_cache(replace(view, cache_exists=False)).steps]
    assert kinds == ["ReleaseVolume"], "an administrator has deleted it"
