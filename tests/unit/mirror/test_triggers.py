from __future__ import annotations

from typing import Any

import pytest

from kigi.domain.images import Image
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.mirror.triggers import all_keys, enqueue_requests
from kigi.planning.prefetch_orders import PrefetchOrders
from tests.support.bodies import (
    GIB,
    NAME,
    NS,
    cache_body,
    chain_of,
    claim_body,
    deployment_body,
    image_body,
    machine_body,
    node_body,
    system_body,
    target,
    vmi_body,
    volume_body,
)

DEPLOYMENT = Key("deployment", NS, NAME)


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror()
    mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    mirror.put("SystemNode", system_body("a", [{"name": "m", "image": {"name": "top"}}]))
    mirror.put("SystemDeployment", deployment_body())
    mirror.put("Node", node_body())
    mirror.put("NodeCache", cache_body())
    mirror.put("PersistentVolume", volume_body(target()))
    return mirror


def enqueued(mirror: Mirror, kind: str, body: dict[str, Any]) -> set[Key]:
    change = mirror.put(kind, body)
    return {key for key, _ in enqueue_requests(mirror, change)} if change else set()


def test_children_enqueue_their_deployment(mirror: Mirror) -> None:
    for kind, body in (
        ("PersistentVolumeClaim", claim_body(target())),
        ("VirtualMachine", machine_body(target())),
        ("VirtualMachineInstance", vmi_body(target())),
    ):
        assert DEPLOYMENT in enqueued(mirror, kind, body)


def test_a_volume_enqueues_its_deployment_and_its_node(mirror: Mirror) -> None:
    assert enqueued(mirror, "PersistentVolume", volume_body(target("other"))) == {DEPLOYMENT, Key("node", "", "n1")}


def test_a_new_layer_enqueues_the_deployments_of_the_node_and_its_images(mirror: Mirror) -> None:
    keys = enqueued(mirror, "NodeCache", cache_body(version=2, held=(chain_of("top")[0].digest,)))
    assert keys == {DEPLOYMENT, Key("image", NS, "top")}


def test_a_heartbeat_enqueues_nothing(mirror: Mirror) -> None:
    assert enqueued(mirror, "NodeCache", cache_body(version=2, heartbeat="2026-01-01T00:00:30Z")) == set()


def test_a_daemon_that_reports_again_enqueues_every_deployment(mirror: Mirror) -> None:
    assert DEPLOYMENT in enqueued(mirror, "NodeCache", cache_body(version=2, heartbeat="2026-01-01T00:05:00Z"))


def test_a_deleted_overlay_enqueues_its_node(mirror: Mirror) -> None:
    assert Key("node", "", "n1") in enqueued(mirror, "NodeCache", cache_body(version=2, volumes=("x",)))


def test_a_status_write_enqueues_nothing(mirror: Mirror) -> None:
    body = deployment_body(2)
    body["status"] = {"observedGeneration": 1, "replicas": 1}
    assert enqueued(mirror, "SystemDeployment", body) == set()
    image = image_body(Image("top", chain_of("top")[0].digest, 100, GIB), 2)
    image["status"] = {"observedGeneration": 1, "depth": 1}
    assert enqueued(mirror, "VMImageNode", image) == set()


def test_a_new_generation_enqueues_the_deployment_and_its_caches(mirror: Mirror) -> None:
    body = deployment_body(2, prefetch=[{"name": "b"}])
    body["metadata"]["generation"] = 2
    assert enqueued(mirror, "SystemDeployment", body) == {DEPLOYMENT, Key("node", "", "n1"), Key("system", NS, "b")}


def test_a_removed_user_enqueues_what_it_used(mirror: Mirror) -> None:
    gone = mirror.gone("SystemDeployment", NS, NAME, "")
    assert gone is not None
    assert (Key("system", NS, "a"), 0.0) in set(enqueue_requests(mirror, gone))
    gone = mirror.gone("SystemNode", NS, "a", "")
    assert gone is not None
    assert (Key("image", NS, "top"), 0.0) in set(enqueue_requests(mirror, gone))


def test_a_deleted_tree_node_is_enqueued(mirror: Mirror) -> None:
    image = image_body(Image("top", chain_of("top")[0].digest, 100, GIB), 2)
    image["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["kigi.dev/in-use"]}
    assert enqueued(mirror, "VMImageNode", image) == {Key("image", NS, "top")}


def test_a_late_image_enqueues_its_dependents(mirror: Mirror) -> None:
    child = Image("child", chain_of("child")[0].digest, 100, GIB, "late")
    mirror.put("VMImageNode", image_body(child))
    keys = enqueued(mirror, "VMImageNode", image_body(Image("late", chain_of("late")[0].digest, 100, GIB, "top"), 2))
    assert {Key("image", NS, name) for name in ("late", "child", "top")} <= keys
    assert {Key("system", NS, "a"), DEPLOYMENT} <= keys


def test_a_nodes_heartbeat_enqueues_nothing_and_its_readiness_does(mirror: Mirror) -> None:
    assert enqueued(mirror, "Node", node_body(version=2)) == set()
    lost = node_body(version=3)
    lost["status"]["conditions"][0]["status"] = "Unknown"
    assert enqueued(mirror, "Node", lost) == {Key("node", "", "n1"), DEPLOYMENT}


def test_an_ended_instance_lets_overlays_be_deleted(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target(), version=2, deletionTimestamp="2026-01-01T00:00:00Z"))
    mirror.put("VirtualMachineInstance", vmi_body(target()))
    change = mirror.gone("VirtualMachineInstance", NS, "dep-0-m", "vmi-1")
    assert change is not None
    assert Key("node", "", "n1") in {key for key, _ in enqueue_requests(mirror, change)}


def test_everything_is_every_object_and_every_node_that_still_has_a_volume(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target("far"), node="lost"))
    keys = list(all_keys(mirror))
    assert len(keys) == len(set(keys))
    assert {Key("node", "", "lost"), Key("node", "", "n1"), DEPLOYMENT, Key("image", NS, "top")} <= set(keys)


def test_an_available_volume_enqueues_its_claim_and_a_bound_one_does_not(mirror: Mirror) -> None:
    claim = Key("claim", NS, "dep.0.m.r1")
    body = volume_body(target(), version=2)
    assert claim in enqueued(mirror, "PersistentVolume", {**body, "status": {"phase": "Available"}})
    body = volume_body(target(), version=3)
    assert claim not in enqueued(mirror, "PersistentVolume", {**body, "status": {"phase": "Bound"}})


def capture_body(phase: str, version: int, **disk: Any) -> dict[str, Any]:
    disk = {
        "name": "m",
        "machine": "m",
        "id": "c1",
        "node": "n1",
        "volume": "v",
        "image": "top",
        "parent": "sha256:" + "1" * 64,
        **disk,
    }
    return {
        "metadata": {"name": "after", "namespace": NS, "uid": "c", "generation": 1, "resourceVersion": str(version)},
        "spec": {"deployment": {"name": NAME}},
        "status": {"phase": phase, "parent": "a", "disks": [{**disk, "virtualSizeBytes": GIB}]},
    }


def test_a_capture_enqueues_its_nodes_and_what_it_uses(mirror: Mirror) -> None:
    node, system, image = Key("node", "", "n1"), Key("system", NS, "a"), Key("image", NS, "top")
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 1)) >= {node, system, image}
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 2, id="c2")) == {node}, "it asks for another disk"
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 3, id="c2")) == set()
    assert enqueued(mirror, "SystemCapture", capture_body("Storing", 4, id="c2")) == {node}
    assert enqueued(mirror, "SystemCapture", capture_body("Done", 5, id="c2")) == {node, system, image}


def test_a_node_that_goes_or_comes_back_enqueues_captures_of_its_disks(mirror: Mirror) -> None:
    mirror.put("SystemCapture", capture_body("Storing", 1))
    capture = Key("capture", NS, "after")
    later = cache_body(version=2, heartbeat="2026-01-01T01:00:00Z")
    assert capture in enqueued(mirror, "NodeCache", later)
    assert capture not in enqueued(mirror, "NodeCache", cache_body(version=3, heartbeat="2026-01-01T01:00:30Z"))
    change = mirror.gone("Node", None, "n1", mirror.nodes.get(None, "n1").meta.uid)  # type: ignore[union-attr]
    assert change is not None
    assert capture in {key for key, _ in enqueue_requests(mirror, change)}


def prefetch_body(version: int, generation: int = 1) -> dict[str, Any]:
    meta = {"name": "monday", "namespace": NS, "uid": "p", "generation": generation, "resourceVersion": str(version)}
    status = {"observedGeneration": version}
    return {"metadata": meta, "spec": {"systems": [{"name": "a"}]}, "status": status}


def test_a_prefetch_is_enqueued_when_it_changes_or_goes_and_its_reconcile_enqueues_the_nodes(mirror: Mirror) -> None:
    prefetch, system = Key("prefetch", NS, "monday"), Key("system", NS, "a")
    assert enqueued(mirror, "SystemPrefetch", prefetch_body(1)) == {prefetch, system}
    assert enqueued(mirror, "SystemPrefetch", prefetch_body(2)) == set(), "its own status"
    assert enqueued(mirror, "SystemPrefetch", prefetch_body(3, generation=2)) == {prefetch}
    gone = mirror.gone("SystemPrefetch", NS, "monday", "p")
    assert gone is not None
    assert {key for key, _ in enqueue_requests(mirror, gone)} == {prefetch, system}


def test_a_tree_that_changes_concerns_the_nodes_that_prefetch_it(mirror: Mirror) -> None:
    mirror.put("SystemPrefetch", prefetch_body(1))
    mirror.prefetch_orders[NS, "monday"] = PrefetchOrders("p", 1, frozenset({"n7"}), frozenset({"n8"}))
    found = enqueued(mirror, "SystemNode", system_body("a", [{"name": "other", "image": {"name": "top"}}], version=9))
    assert {Key("prefetch", NS, "monday"), Key("node", "", "n7")} <= found
    assert Key("node", "", "n8") not in found
