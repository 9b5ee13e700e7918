from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.domain.images import Image
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.mirror.trigger_rules import DECLARED_S, SUMMARY_S, daemon_is_back
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
    instance_body,
    lease_body,
    machine_body,
    namespace_body,
    node_body,
    stored_capture,
    system_body,
    target,
    vmi_body,
    volume_body,
)
from tests.support.mirrors import new_mirror

DEPLOYMENT = Key("deployment", NS, NAME)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
INSTANCE = Key("instance", NS, f"{NAME}-0")


@pytest.fixture
def mirror() -> Mirror:
    mirror = new_mirror()
    mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    mirror.put("SystemNode", system_body("a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}}]))
    mirror.put("SystemDeployment", deployment_body())
    mirror.put("SystemInstance", instance_body())
    mirror.put("Node", node_body())
    mirror.put("NodeCache", cache_body())
    mirror.put("PersistentVolume", volume_body(target()))
    return mirror


def enqueued(mirror: Mirror, kind: str, body: dict[str, Any]) -> set[Key]:
    change = mirror.put(kind, body)
    return {key for key, _ in enqueue_requests(mirror, change)} if change else set()


def test_children_enqueue_their_instance(mirror: Mirror) -> None:
    for kind, body in (
        ("PersistentVolumeClaim", claim_body(target())),
        ("VirtualMachine", machine_body(target())),
        ("VirtualMachineInstance", vmi_body(target())),
    ):
        assert enqueued(mirror, kind, body) == {INSTANCE}


def test_children_of_an_instance_that_is_gone_enqueue_the_deployment_which_deletes_them(mirror: Mirror) -> None:
    mirror.gone("SystemInstance", NS, f"{NAME}-0", "")
    assert enqueued(mirror, "VirtualMachine", machine_body(target())) == {DEPLOYMENT}


def test_a_report_of_an_instance_enqueues_its_deployment_alone_and_later(mirror: Mirror) -> None:
    body = {**instance_body(version=2), "status": {"observedGeneration": 1, "summary": "1/1"}}
    change = mirror.put("SystemInstance", body)
    assert change is not None
    assert list(enqueue_requests(mirror, change)) == [(DEPLOYMENT, SUMMARY_S)]


def test_a_changed_instance_enqueues_itself_and_states_that_gain_or_lose_it(mirror: Mirror) -> None:
    body = instance_body(version=2, systemRef={"name": "b"})
    body["metadata"]["generation"] = 2
    assert enqueued(mirror, "SystemInstance", body) == {INSTANCE, DEPLOYMENT, Key("system", NS, "b")}
    gone = mirror.gone("SystemInstance", NS, f"{NAME}-0", "")
    assert gone is not None
    found = set(enqueue_requests(mirror, gone))
    assert {(DEPLOYMENT, 0.0), (INSTANCE, 0.0), (Key("system", NS, "b"), 0.0)} <= found


def test_an_instance_without_a_node_is_enqueued_by_every_change_of_capacity(mirror: Mirror) -> None:
    far = Key("instance", NS, "far-1")
    mirror.unplaced.add((NS, "far-1"))
    assert far in enqueued(mirror, "NodeCache", cache_body(version=2, budget_bytes=2 * GIB))
    assert far in enqueued(mirror, "Node", node_body("n2"))


def test_a_volume_enqueues_its_instance_and_its_node(mirror: Mirror) -> None:
    assert enqueued(mirror, "PersistentVolume", volume_body(target("other"))) == {INSTANCE, Key("node", "", "n1")}


def test_a_new_layer_enqueues_the_instances_of_the_node_that_need_it_and_its_images(mirror: Mirror) -> None:
    keys = enqueued(mirror, "NodeCache", cache_body(version=2, held=(chain_of("top")[0].digest,)))
    assert keys == {INSTANCE, DEPLOYMENT, Key("image", NS, "top")}
    held = (chain_of("top")[0].digest, chain_of("other")[0].digest)
    assert enqueued(mirror, "NodeCache", cache_body(version=3, held=held)) == {DEPLOYMENT}


def test_a_heartbeat_enqueues_nothing(mirror: Mirror) -> None:
    assert mirror.heartbeats.put(lease_body(version=2), NOW, is_event=True) == "n1"
    assert mirror.heartbeats.put(lease_body(version=3, renewed="2026-01-01T00:00:30Z"), NOW, is_event=True) is None


def test_a_daemon_that_reports_again_enqueues_the_instances_of_its_node(mirror: Mirror) -> None:
    assert {INSTANCE, Key("node", "", "n1")} <= {key for key, _ in daemon_is_back(mirror, "n1")}


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
    body = deployment_body(2, prefetchRefs=[{"name": "b"}])
    body["metadata"]["generation"] = 2
    assert enqueued(mirror, "SystemDeployment", body) == {
        DEPLOYMENT,
        INSTANCE,
        Key("node", "", "n1"),
        Key("system", NS, "b"),
    }


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
    mirror.put("SystemNode", system_body("b", [{"name": "m", "rootDisk": {"imageRef": {"name": "child"}}}]))
    mirror.put("SystemNode", system_body("c", [], "b"))
    mirror.put("SystemDeployment", deployment_body(2, systemRef={"name": "c"}))
    keys = enqueued(mirror, "VMImageNode", image_body(Image("late", chain_of("late")[0].digest, 100, GIB, "top"), 2))
    assert keys == {
        *(Key("image", NS, name) for name in ("late", "child", "top")),
        *(Key("system", NS, name) for name in ("b", "c")),
        *(DEPLOYMENT, INSTANCE, Key("node", "", "n1")),
    }


def test_a_nodes_heartbeat_enqueues_nothing_and_its_readiness_does(mirror: Mirror) -> None:
    assert enqueued(mirror, "Node", node_body(version=2)) == set()
    lost = node_body(version=3)
    lost["status"]["conditions"][0]["status"] = "Unknown"
    assert enqueued(mirror, "Node", lost) == {Key("node", "", "n1"), INSTANCE}


def test_a_namespaces_labels_enqueue_its_objects_and_other_changes_nothing(mirror: Mirror) -> None:
    everything = {Key("image", NS, "top"), Key("system", NS, "a"), DEPLOYMENT, INSTANCE, Key("node", "", "n1")}
    assert enqueued(mirror, "Namespace", namespace_body(team="red")) == everything
    assert enqueued(mirror, "Namespace", namespace_body(version=2, team="red")) == set()
    assert enqueued(mirror, "Namespace", namespace_body(version=3, team="blue")) == everything
    assert enqueued(mirror, "Namespace", namespace_body("elsewhere", team="blue")) == set()
    assert mirror.namespace_labels(NS) == {"team": "blue"}
    gone = mirror.gone("Namespace", None, NS, "")
    assert gone is not None
    assert not list(enqueue_requests(mirror, gone))
    assert mirror.namespace_labels(NS) == {}


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
    assert {Key("node", "", "lost"), Key("node", "", "n1"), DEPLOYMENT, INSTANCE, Key("image", NS, "top")} <= set(keys)


def test_an_available_volume_enqueues_its_claim_and_a_bound_one_does_not(mirror: Mirror) -> None:
    claim = Key("claim", NS, "dep.0.m.r1")
    body = volume_body(target(), version=2)
    assert claim in enqueued(mirror, "PersistentVolume", {**body, "status": {"phase": "Available"}})
    body = volume_body(target(), version=3)
    assert claim not in enqueued(mirror, "PersistentVolume", {**body, "status": {"phase": "Bound"}})


def capture_body(stage: str, version: int, revision: int = 1) -> dict[str, Any]:
    body = stored_capture(stage, version, namespace=NS, node="n1", machine="m", base="top", revision=revision)
    return {**body, "spec": {"instanceRef": {"name": f"{NAME}-0"}, "requestedBy": "alice"}}


def test_a_capture_enqueues_its_nodes_and_what_it_uses(mirror: Mirror) -> None:
    node, system, image = Key("node", "", "n1"), Key("system", NS, "a"), Key("image", NS, "top")
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 1)) >= {node, system, image}
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 2, 2)) == {node}, "it asks for another disk"
    assert enqueued(mirror, "SystemCapture", capture_body("Checking", 3, 2)) == set()
    assert enqueued(mirror, "SystemCapture", capture_body("Storing", 4, 2)) == {node}
    assert enqueued(mirror, "SystemCapture", capture_body("Complete", 5, 2)) == {node, system, image}


def test_a_node_that_goes_or_comes_back_enqueues_captures_of_its_disks(mirror: Mirror) -> None:
    mirror.put("SystemCapture", capture_body("Storing", 1))
    capture = Key("capture", NS, "after")
    assert capture in {key for key, _ in daemon_is_back(mirror, "n1")}
    assert capture not in {key for key, _ in daemon_is_back(mirror, "n2")}
    change = mirror.gone("Node", None, "n1", mirror.nodes.get(None, "n1").meta.uid)  # type: ignore[union-attr]
    assert change is not None
    assert capture in {key for key, _ in enqueue_requests(mirror, change)}


def prefetch_body(version: int, generation: int = 1) -> dict[str, Any]:
    meta = {"name": "monday", "namespace": NS, "uid": "p", "generation": generation, "resourceVersion": str(version)}
    status = {"observedGeneration": version}
    return {"metadata": meta, "spec": {"targetRefs": [{"kind": "SystemNode", "name": "a"}]}, "status": status}


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
    found = enqueued(
        mirror,
        "SystemNode",
        system_body("a", [{"name": "other", "rootDisk": {"imageRef": {"name": "top"}}}], version=9),
    )
    assert {Key("prefetch", NS, "monday"), Key("node", "", "n7")} <= found
    assert Key("node", "", "n8") not in found


@pytest.mark.parametrize(("reason", "expected"), [("LayerRefused", {DECLARED_S}), ("DiskPressure", set())])
def test_a_layer_that_is_refused_as_it_is_declared_enqueues_its_node_later(
    mirror: Mirror, reason: str, expected: set[float]
) -> None:
    for version, layers in (
        (50, []),
        (51, [{"digest": chain_of("top")[0].digest, "state": "Refused", "reason": reason}]),
    ):
        body = cache_body(version=version)
        body["status"]["layers"] = layers
        change = mirror.put("NodeCache", body)
    assert change is not None
    assert {delay_s for key, delay_s in enqueue_requests(mirror, change) if key == Key("node", "", "n1")} == expected


def test_a_node_that_reports_a_layer_is_planned_again_and_not_for_its_progress(mirror: Mirror) -> None:
    layer = {"id": "c1", "state": "Storing", "digest": "sha256:" + "d" * 64, "sizeBytes": 9}

    def reported(version: int, **report: Any) -> set[Key]:
        body = cache_body(version=version)
        body["status"]["captures"] = [{**layer, **report}]
        change = mirror.put("NodeCache", body)
        assert change is not None
        return {key for key, _ in enqueue_requests(mirror, change)}

    node = Key("node", "", "n1")
    mirror.put("NodeCache", cache_body(version=10))
    assert node not in reported(11, digest=None, state="Copied")
    assert node in reported(12)
    assert node not in reported(13, uploadedBytes=1)
    assert node in reported(14, state="Refused", reason="AccessDenied", message="x")
    assert node in reported(15, state="Stored")


def test_written_bytes_enqueue_the_instance_that_writes_and_no_other(mirror: Mirror) -> None:
    (volume,) = mirror.volumes

    def report(version: int, **written: int) -> set[Key]:
        body = cache_body(version=version, volumes=(volume.handle, "other"))
        for each in body["status"]["volumes"]:
            each["writtenBytes"] = written.get("ours" if each["name"] == volume.handle else "other", 0)
        return enqueued(mirror, "NodeCache", body)

    report(2)
    assert report(3, ours=GIB) == {INSTANCE}
    assert report(4, ours=GIB, other=GIB) == set()
