"""A daemon that does not understand the operator's protocol gets no new orders, and keeps those that it has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kigi.api.deployment import Placement
from kigi.api.node_cache import NodeCacheSpec, WantedLayer
from kigi.domain.node_protocol import PROTOCOL, skew
from kigi.planning.candidates import candidate_nodes, why_no_candidates
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.steps import ApplyObject, ReleaseVolume
from kigi.planning.view import NodeState, NodeView
from tests.unit.planning.test_node_cache_bound import chains

OLD = PROTOCOL - 1
HELD = WantedLayer(
    digest="sha256:" + "9" * 64, size_bytes=1, virtual_size_bytes=512, repository_name="r", purpose="Disk"
)
PRESENT = NodeCacheSpec(
    node_name="node", operator_protocol=OLD, protocol=OLD, layers=[HELD], discard_volumes=["gone", "left"]
)
VIEW = NodeView(
    "node",
    node_exists=True,
    has_driver=True,
    cache_exists=True,
    desired=tuple(chains(3, "Disk")),
    terminating=(("pv-gone", "gone"), ("pv-new", "new")),
    spec_current=True,
    discard=frozenset(PRESENT.discard_volumes),
    volumes=frozenset({"left", "new"}),
    protocols=(OLD,),
    present=PRESENT,
)


def test_the_operators_protocol_is_shown_and_nothing_else_changes() -> None:
    shown, released = plan_node_cache(VIEW).steps
    assert isinstance(shown, ApplyObject)
    assert shown.manifest["spec"] == PRESENT.model_copy(update={"operator_protocol": PROTOCOL}).to_api()
    assert released == ReleaseVolume("pv-gone"), "the daemon has carried out this order"


def test_a_daemon_that_is_upgraded_gets_its_orders() -> None:
    for protocols in ((OLD, PROTOCOL), (PROTOCOL,), ()):
        step = plan_node_cache(replace(VIEW, protocols=protocols)).steps[0]
        assert isinstance(step, ApplyObject)
        spec = step.manifest["spec"]
        assert (spec["protocol"], spec["operatorProtocol"], len(spec["layers"])) == (PROTOCOL, PROTOCOL, 3)
        assert "new" in spec["discardVolumes"]


def test_it_is_shown_once() -> None:
    shown = PRESENT.model_copy(update={"operator_protocol": PROTOCOL})
    plan = plan_node_cache(replace(VIEW, present=shown, terminating=()))
    assert plan.steps == ()
    assert "understands protocol 1, and the operator uses 2" in plan.waiting_for


def test_the_operators_version_is_shown_to_every_daemon() -> None:
    for protocols in ((OLD,), (PROTOCOL,)):
        step = plan_node_cache(replace(VIEW, protocols=protocols, operator_version="0.7.0")).steps[0]
        assert isinstance(step, ApplyObject)
        spec = step.manifest["spec"]
        assert (spec["operatorVersion"], spec["operatorProtocol"]) == ("0.7.0", PROTOCOL)


def test_no_new_disk_is_placed_there() -> None:
    nodes = {"node": NodeState("node", skew=skew("node", (OLD,)))}
    assert candidate_nodes(nodes, Placement()) == []
    assert "1 nodes whose cache daemon does not understand" in why_no_candidates(nodes, Placement())


@pytest.mark.parametrize(
    ("protocols", "side"), [((1,), "upgrade the daemon"), ((3, 4), "upgrade the operator"), ((2, 3), ""), ((), "")]
)
def test_the_older_side_is_named(protocols: tuple[int, ...], side: str) -> None:
    assert (side in skew("n", protocols, 2)) if side else skew("n", protocols, 2) == ""
