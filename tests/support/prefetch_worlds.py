"""A SystemPrefetch on a few nodes: API objects, an operator that may stop after any step, and the nodes' daemons.

The operator's memory is a mirror; an operator that starts has a new one with the API objects alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from kigi.domain.images import Image
from kigi.errors import KigiError
from kigi.gather.node_cache import gather_node
from kigi.gather.prefetch import gather_prefetch
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.prefetches import PrefetchPlan, PrefetchView, plan_prefetch
from kigi.planning.steps import ApplyObject, DeleteObject
from kigi.reconcilers.apply import apply_steps
from kigi.runtime.ports import Ports
from kigi.status.prefetches import prefetch_status
from tests.support import kstatus
from tests.support.bodies import cache_body, csi_node_body, image_body, node_body, system_body, with_meta
from tests.support.mirrors import new_mirror
from tests.support.worlds import GIB, digest

NS, NAME = "ns", "monday"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATES: Mapping[str, tuple[str, ...]] = {"a": ("base", "a1"), "b": ("base", "b1"), "c": ("c0", "c1")}
"""Images of the one machine of each state, root first."""


class PrefetchWorld:
    """See the module. ``planner`` may be a broken one, to show that the world finds it."""

    def __init__(self, planner: Callable[[PrefetchView], PrefetchPlan] = plan_prefetch, nodes: int = 4) -> None:
        self.planner = planner
        self.objects: dict[tuple[str, str | None, str], dict[str, Any]] = {}
        self.version = 0
        self.refusing: set[str] = set()
        self.excused: set[str] = set()
        """Nodes that were refused layers: when that ends they fetch beside those that took their turn."""
        self.behind: set[str] = set()
        """Nodes that get or lose layers by a write that was on its way when the user changed the prefetch: it is of an
        earlier limit, or takes layers from a node that had them when the turns were decided."""
        self.mirror = new_mirror()
        for number in range(nodes):
            name = f"n{number}"
            self.put(node_body(name))
            self.put(csi_node_body(name))
            self.put(cache_body(name))
        for state, images in STATES.items():
            for parent, image in zip((None, *images), images, strict=False):
                self.put(image_body(Image(image, digest(image), 100, GIB, parent), namespace=NS))
            self.put(system_body(state, [{"name": "m", "rootDisk": {"imageRef": {"name": images[-1]}}}], namespace=NS))
        self.generation = 0
        self.in_flight: dict[str, tuple[Mapping[str, Any], bool]] = {}
        """By node: a write of its NodeCache that the API server has not received yet."""

    # API objects.

    def put(self, body: Mapping[str, Any]) -> None:
        self.version += 1
        meta = {**body["metadata"], "resourceVersion": str(self.version)}
        stored = {**body, "metadata": meta}
        self.objects[body["kind"], meta.get("namespace"), meta["name"]] = stored
        self.mirror.put(body["kind"], stored)
        self.hear(body["kind"], meta["name"])

    def hear(self, kind: str, name: str) -> None:
        """Every daemon reports all the time."""
        if kind == "NodeCache":
            self.mirror.heartbeats.assume(name)

    def delete(self, kind: str, namespace: str | None, name: str) -> None:
        body = self.objects.pop((kind, namespace, name), None)
        if body is not None:
            self.mirror.gone(kind, namespace, name, body["metadata"]["uid"])

    def apply(self, **spec: Any) -> None:
        """The user creates or changes the prefetch."""
        self.generation += 1
        body = {"kind": "SystemPrefetch", "metadata": {"name": NAME, "namespace": NS}, "spec": spec}
        old = self.objects.get(("SystemPrefetch", NS, NAME), {})
        status = {"status": old["status"]} if "status" in old else {}
        uid = old["metadata"]["uid"] if old else f"u{self.version}"
        self.behind |= self.in_flight.keys()
        self.put({**with_meta(body, self.version, uid, generation=self.generation), **status})

    def nodes(self) -> list[str]:
        return sorted(name for kind, _, name in self.objects if kind == "Node")

    def cache(self, node: str) -> dict[str, Any]:
        return self.objects["NodeCache", None, node]

    def listed(self, node: str) -> frozenset[str]:
        return frozenset(layer["digest"] for layer in self.cache(node)["spec"].get("layers") or ())

    def held(self, node: str) -> frozenset[str]:
        layers = self.cache(node).get("status", {}).get("layers") or ()
        return frozenset(layer["digest"] for layer in layers if layer["state"] == "Held")

    def wanted(self) -> frozenset[str]:
        """Layers of the prefetch's states."""
        body = self.objects.get(("SystemPrefetch", NS, NAME))
        named = [ref["name"] for ref in body["spec"]["targetRefs"]] if body is not None else []
        return frozenset(digest(image) for state in named for image in STATES[state])

    def limit(self) -> int | None:
        body = self.objects.get(("SystemPrefetch", NS, NAME))
        return body["spec"].get("parallelism") if body is not None else None

    # The operator.

    def restart(self) -> None:
        """Another operator starts: nothing is left but API objects."""
        self.mirror = new_mirror()
        self.in_flight.clear()
        for (kind, _, _), body in self.objects.items():
            self.mirror.put(kind, body)
            self.hear(kind, body["metadata"]["name"])

    def reconcile_prefetch(self, *, stop: bool = False) -> bool:
        """One plan, without its status if ``stop``; whether there was a step."""
        record = self.mirror.prefetches.get(NS, NAME)
        if record is None or isinstance(record.spec, KigiError):
            self.mirror.prefetch_orders.pop((NS, NAME), None)
            return False
        view = gather_prefetch(self.mirror, record, NOW)
        plan = self.planner(view)
        ports = SimpleNamespace(mirror=self.mirror, queue=SimpleNamespace(add=lambda key: None))
        asyncio.run(apply_steps(cast(Ports, ports), plan.steps))
        if not stop:
            body = {**self.objects["SystemPrefetch", NS, NAME], "status": prefetch_status(view, plan).to_api()}
            kstatus.check(body)
            self.put(body)
        return bool(plan.steps)

    def reconcile_node(self, node: str, *, slow: bool = False) -> bool:
        """One plan; whether there was a step. ``slow``: its write is on its way."""
        if node in self.in_flight:
            self._write_cache(node, *self.in_flight.pop(node))
            return True
        view = gather_node(self.mirror, node)
        steps = plan_node_cache(view).steps
        for step in steps:
            if isinstance(step, DeleteObject):
                self.delete("NodeCache", None, node)
            elif isinstance(step, ApplyObject):
                self.in_flight[node] = step.manifest, view.keeps_prefetched
        if node in self.in_flight and not slow:
            self._write_cache(node, *self.in_flight.pop(node))
        return bool(steps)

    def _write_cache(self, node: str, manifest: Mapping[str, Any], keeps: bool) -> None:
        if ("NodeCache", None, node) not in self.objects:
            return
        before = self.listed(node)
        self.put({**self.cache(node), "spec": manifest["spec"]})
        after, wanted = self.listed(node), self.wanted()
        assert not keeps or before <= after, f"{node} waits, and loses layers"
        is_new = wanted <= after and not wanted <= before and not wanted <= self.held(node)
        if wanted and is_new and node not in self.behind | self.excused:
            limit, fetching = self.limit(), [n for n in self.fetching() if n not in {node, *self.excused}]
            assert limit is None or len(fetching) < limit, f"{node} fetches beside {fetching}; the limit is {limit}"

    def fetching(self) -> list[str]:
        """Nodes that fetch layers of the prefetch."""
        wanted = self.wanted()
        return [
            node
            for node in self.nodes()
            if ("NodeCache", None, node) in self.objects
            and wanted <= self.listed(node)
            and not wanted <= self.held(node)
            and node not in self.refusing
        ]

    # Daemons, nodes and users.

    def fetch(self, node: str) -> bool:
        """The daemon fetches one layer; whether it had to."""
        if node not in self.nodes() or ("NodeCache", None, node) not in self.objects:
            return False
        missing = sorted(self.listed(node) - self.held(node))
        if not missing:
            return False
        refused = node in self.refusing
        state = {"state": "Refused", "reason": "LayerCorrupt", "message": "damaged"} if refused else {"state": "Held"}
        layers = [layer for layer in self.cache(node)["status"]["layers"] if layer["digest"] != missing[0]]
        new = {**self.cache(node)["status"], "layers": [*layers, {"digest": missing[0], "sizeBytes": 100, **state}]}
        changed = new != self.cache(node)["status"]
        self.put({**self.cache(node), "status": new})
        return changed

    def refuse(self, node: str) -> None:
        self.refusing ^= {node}
        self.excused.add(node)

    def lose_node(self, node: str) -> None:
        if len(self.nodes()) > 2:
            self.delete("Node", None, node)
            self.delete("CSINode", None, node)

    def settle(self) -> None:
        self.refusing.clear()
        names = sorted({name for kind, _, name in self.objects if kind in ("Node", "NodeCache")})
        for _ in range(200):
            progress = self.reconcile_prefetch()
            for node in names:
                if node in self.nodes() or ("NodeCache", None, node) in self.objects:
                    progress |= self.reconcile_node(node)
                progress |= self.fetch(node)
            if not progress:
                return
        raise AssertionError("not settled")

    def check_settled(self) -> None:
        wanted = self.wanted()
        body = self.objects.get(("SystemPrefetch", NS, NAME))
        count = body["spec"].get("nodeCount") if body is not None else None
        holding = [
            node for node in self.nodes() if wanted and wanted <= self.held(node) and self.listed(node) == wanted
        ]
        rest = [node for node in self.nodes() if node not in holding]
        assert all(not self.listed(node) for node in rest), "a node that is not chosen holds layers for the prefetch"
        if body is not None:
            assert len(holding) == min(count or len(self.nodes()), len(self.nodes()))
            assert body["status"]["readyNodes"] == len(holding)
        assert all(name in self.nodes() for kind, _, name in self.objects if kind == "NodeCache")
