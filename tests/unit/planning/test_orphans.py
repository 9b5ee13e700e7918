"""Overlays without a PersistentVolume are discarded, and no others."""

from __future__ import annotations

from dataclasses import replace

from kigi.api.node_cache import CaptureOrder
from kigi.planning.node_cache import orphans, plan_node_cache
from kigi.planning.steps import ApplyObject
from kigi.planning.view import NodeView
from tests.support.worlds import digest

LEFT = "kigi.ns.dep.0.web.r1.01234567"
VIEW = NodeView(
    "node", True, True, True, (), (), spec_current=True, volumes=frozenset({LEFT}), without_volume=frozenset({LEFT})
)


def ordered(view: NodeView) -> list[str]:
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    found: list[str] = step.manifest["spec"].get("discard", [])
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
    order = CaptureOrder(id="c", volume=LEFT, parent=digest("web"), virtual_size_bytes=512, action="Copy")
    assert orphans(replace(VIEW, captures=(order,))) == []
