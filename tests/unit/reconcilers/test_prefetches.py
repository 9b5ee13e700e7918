"""The reconcile of a SystemPrefetch: its orders are in memory, and nodes with another order are enqueued."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from kigi.domain.images import Image
from kigi.mirror.keys import Key
from kigi.planning.prefetch_orders import PrefetchOrders
from kigi.reconcilers.prefetches import RECHECK_S, reconcile_prefetch
from kigi.runtime.ports import Ports
from tests.support.bodies import GIB, NS, cache_body, chain_of, csi_node_body, image_body, node_body, system_body
from tests.support.mirrors import new_mirror

KEY = Key("prefetch", NS, "monday")


class Operator:
    """Ports with a real mirror of two nodes and a state; statuses are written into the mirror."""

    def __init__(self, **spec: Any) -> None:
        self.kube = self
        self.mirror = new_mirror()
        self.enqueued: list[str] = []
        self.queue = SimpleNamespace(add=lambda key: self.enqueued.append(key.name))
        self.settings = SimpleNamespace(identity="test")
        self.events = SimpleNamespace(allows=lambda uid: False)
        for name in ("n1", "n2"):
            for body in (node_body(name), csi_node_body(name), cache_body(name)):
                self.mirror.put(body["kind"], body)
            self.mirror.heartbeats.assume(name)
        self.mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
        self.mirror.put("SystemNode", system_body("a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}}]))
        self.meta = {"name": "monday", "namespace": NS, "uid": "p", "generation": 1}
        self.spec = {"targetRefs": [{"kind": "SystemNode", "name": "a"}], **spec}
        self.put()

    def put(self, **status: Any) -> dict[str, Any]:
        self.meta = {**self.meta, "resourceVersion": str(int(str(self.meta.get("resourceVersion", 0))) + 1)}
        body = {"kind": "SystemPrefetch", "metadata": self.meta, "spec": self.spec, **status}
        self.mirror.put("SystemPrefetch", body)
        return body

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def see(self, kind: str, body: Any) -> None:
        """The mirror has it already."""

    async def write_status(self, resource: Any, namespace: str, name: str, uid: str, status: Any, *, old: Any) -> Any:
        return self.put(status=status)

    async def reconcile(self) -> float | None:
        self.enqueued.clear()
        return await reconcile_prefetch(cast(Ports, self), KEY)

    def status(self) -> Any:
        record = self.mirror.prefetches.get(NS, "monday")
        assert record is not None
        return record.status


async def test_nodes_with_another_order_are_enqueued_once() -> None:
    operator = Operator(parallelism=1)
    assert await operator.reconcile() == RECHECK_S
    assert operator.mirror.prefetch_orders[NS, "monday"] == PrefetchOrders("p", 1, frozenset({"n1"}), frozenset({"n2"}))
    assert operator.enqueued == ["n1"], "n2 keeps what it has, as before the prefetch was planned"
    assert [node.state for node in operator.status().unready_nodes] == ["Fetching", "Queued"]
    await operator.reconcile()
    assert operator.enqueued == []


async def test_the_nodes_of_a_deleted_prefetch_are_enqueued() -> None:
    operator = Operator(nodes={"names": ["n1"]})
    await operator.reconcile()
    assert operator.enqueued == ["n1", "n2"], "until it was planned, n2 kept its layers"
    operator.mirror.gone("SystemPrefetch", NS, "monday", "p")
    assert await operator.reconcile() is None
    assert operator.enqueued == ["n1"]
    assert not operator.mirror.prefetch_orders
    await operator.reconcile()
    assert operator.enqueued == ["n1", "n2"], "an operator that has not planned it enqueues all nodes"


async def test_a_spec_that_does_not_validate_is_reported_and_changes_no_order() -> None:
    operator = Operator()
    await operator.reconcile()
    orders = dict(operator.mirror.prefetch_orders)
    operator.spec = {"targetRefs": "a"}
    operator.meta = {**operator.meta, "generation": 2}
    operator.put()
    assert await operator.reconcile() is None
    assert operator.mirror.prefetch_orders == orders
    assert {c.type: c.status for c in operator.status().conditions}["Stalled"] == "True"
