from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.api.placement import Placement
from kigi.api.repositories import Repository
from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.kubevirt import LAUNCHER_OVERHEAD_BYTES
from kigi.domain.node_protocol import UploadRefused
from kigi.domain.usage import User
from kigi.gather.capture import gather_capture
from kigi.gather.instance import gather_instance
from kigi.gather.node_cache import gather_node
from kigi.gather.nodes import nodes_for
from kigi.gather.trees import gather_image, image_users, system_users
from kigi.mirror.store import Mirror
from kigi.planning.candidates import candidate_nodes
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.placed import Owner
from kigi.planning.signed_uploads import RENEW_S
from kigi.planning.steps import ApplyObject
from kigi.planning.vm_manifest import machine_memory_bytes
from tests.support.bodies import (
    GIB,
    NAME,
    NS,
    cache_body,
    chain_of,
    claim_body,
    csi_node_body,
    deployment_body,
    image_body,
    instance_body,
    lease_body,
    machine_body,
    node_body,
    repository_body,
    stored_capture,
    system_body,
    target,
    vmi_body,
    volume_body,
    with_meta,
)
from tests.support.mirrors import new_mirror

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
SECONDS = {"now": 1000.0}
"""The mirror's monotonic clock."""


@pytest.fixture
def mirror() -> Mirror:
    mirror = new_mirror(lambda: SECONDS["now"])
    mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    mirror.put(
        "SystemNode",
        system_body(
            "a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}, "hardware": {"memory": {"guest": "1Gi"}}}]
        ),
    )
    mirror.put("SystemDeployment", deployment_body())
    mirror.put("SystemInstance", instance_body())
    mirror.put("Node", node_body())
    mirror.put("CSINode", csi_node_body())
    mirror.put("NodeCache", cache_body(held=(chain_of("top")[0].digest,)))
    mirror.heartbeats.put(lease_body(), NOW)
    return mirror


def view(mirror: Mirror, now: datetime = NOW):  # type: ignore[no-untyped-def]
    record = mirror.instances.get(NS, f"{NAME}-0")
    assert record is not None
    return gather_instance(mirror, record, now)


def test_a_machine_is_seen_with_its_instance_and_its_disk(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("PersistentVolumeClaim", claim_body(target()))
    mirror.put("VirtualMachine", machine_body(target()))
    mirror.put("VirtualMachineInstance", vmi_body(target()))
    seen = view(mirror)
    (machine,), (volume,), (claim,) = seen.machines, seen.volumes, seen.claims
    assert (machine.vm.claim, machine.vmi_claim, machine.vmi_phase) == (claim.meta.name, claim.meta.name, "Running")
    assert seen.owns(machine.vm)
    assert machine.vmi is not None
    assert machine.vmi.ready
    assert claim.bound
    assert (volume.node, volume.revision, volume.chain[-1].digest) == ("n1", 1, chain_of("top")[0].digest)


def test_a_volume_of_a_predecessor_of_the_same_name_has_no_fingerprint(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target(), owner=Owner(NS, NAME, "0", "another")))
    seen = view(mirror)
    (volume,) = seen.volumes
    assert volume.fingerprint is not None
    assert seen.fingerprint_of(volume) is None


def test_a_vm_of_a_predecessor_is_not_owned(mirror: Mirror) -> None:
    mirror.put("VirtualMachine", machine_body(target(), owner=Owner(NS, NAME, "0", "another")))
    seen = view(mirror)
    (machine,) = seen.machines
    assert not seen.owns(machine.vm)


def test_memory_of_other_instances_is_not_free_and_of_this_one_is(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target(memory="2Gi")))
    mirror.put("VirtualMachine", machine_body(target(memory="2Gi")))
    assert view(mirror).nodes["n1"].memory_bytes == 8 * GIB
    others = nodes_for(mirror, ("ns", "dep", "other"))
    assert others["n1"].memory_bytes == 8 * GIB - 2 * GIB - LAUNCHER_OVERHEAD_BYTES


def test_memory_of_a_vm_that_waits_for_its_layers_is_reserved(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    others = nodes_for(mirror, ("ns", "dep", "other"))
    assert others["n1"].memory_bytes == 8 * GIB - GIB - LAUNCHER_OVERHEAD_BYTES


def test_old_revisions_reserve_no_memory(mirror: Mirror) -> None:
    for revision in (1, 2, 3):
        mirror.put("PersistentVolume", volume_body(target(), revision))
    others = nodes_for(mirror, ("ns", "dep", "other"))
    assert others["n1"].memory_bytes == 8 * GIB - GIB - LAUNCHER_OVERHEAD_BYTES


def instancetype_body(memory: str, version: int = 1, namespace: str | None = NS) -> dict[str, Any]:
    metadata = {"name": "big", **({"namespace": namespace} if namespace else {})}
    return with_meta({"kind": "Type", "metadata": metadata, "spec": {"memory": {"guest": memory}}}, version)


@pytest.mark.parametrize(
    ("reference", "kind", "namespace"),
    [
        ({"name": "big"}, "VirtualMachineClusterInstancetype", None),
        ({"name": "big", "kind": "VirtualMachineInstancetype"}, "VirtualMachineInstancetype", NS),
    ],
)
def test_an_instancetype_determines_the_memory_of_its_machine(
    mirror: Mirror, reference: dict[str, str], kind: str, namespace: str | None
) -> None:
    machine = {"name": "m", "rootDisk": {"imageRef": {"name": "top"}}, "hardware": {"instancetypeRef": reference}}
    mirror.put("SystemNode", system_body("a", [machine], version=2))
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put(kind, instancetype_body("3Gi", namespace=namespace))

    def free() -> int:
        return nodes_for(mirror, ("ns", "dep", "other"))["n1"].memory_bytes

    assert free() == 8 * GIB - 3 * GIB - LAUNCHER_OVERHEAD_BYTES
    typed = target(settings={"hardware": {"instancetypeRef": reference}})
    mirror.put("VirtualMachine", machine_body(typed))
    assert free() == 8 * GIB - 3 * GIB - LAUNCHER_OVERHEAD_BYTES
    mirror.put(kind, instancetype_body("5Gi", version=2, namespace=namespace))
    assert free() == 8 * GIB - 5 * GIB - LAUNCHER_OVERHEAD_BYTES
    assert (
        machine_memory_bytes(typed.blueprint.machine.hardware, view(mirror).instancetypes)
        == 5 * GIB + LAUNCHER_OVERHEAD_BYTES
    )


def test_an_instancetype_of_another_namespace_is_none_of_ours(mirror: Mirror) -> None:
    mirror.put("VirtualMachineInstancetype", instancetype_body("3Gi", namespace="elsewhere"))
    assert view(mirror).instancetypes == {}


@pytest.mark.parametrize(("age_s", "alive"), [(0, True), (119, True), (121, False)])
def test_a_daemon_is_dead_two_minutes_after_its_last_word(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, age_s: int, alive: bool
) -> None:
    monkeypatch.setitem(SECONDS, "now", SECONDS["now"] + age_s)
    assert view(mirror).nodes["n1"].cache_alive is alive


def test_a_node_without_the_driver_is_marked(mirror: Mirror) -> None:
    mirror.put("CSINode", csi_node_body(version=2, driver="other"))
    assert not view(mirror).nodes["n1"].has_driver


def test_a_node_wants_the_chains_of_its_live_volumes(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("PersistentVolume", volume_body(target("gone"), deletionTimestamp="2026-01-01T00:00:00Z"))
    node = gather_node(mirror, "n1")
    assert [w.chain for w in node.desired] == [chain_of("top")]
    assert [name for name, _ in node.terminating] == ["kigi.ns.dep.0.gone.r1"]


def test_the_overlay_of_a_running_instance_is_in_use(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target(), deletionTimestamp="2026-01-01T00:00:00Z"))
    mirror.put("VirtualMachineInstance", vmi_body(target()))
    assert gather_node(mirror, "n1").terminating_in_use == {"kigi.ns.dep.0.m.r1"}


def test_prefetched_states_are_wanted_where_the_machine_is(mirror: Mirror) -> None:
    mirror.put("VMImageNode", image_body(Image("next", chain_of("next")[0].digest, 100, GIB), 2))
    mirror.put("SystemNode", system_body("b", [{"name": "m", "rootDisk": {"imageRef": {"name": "next"}}}], "a", 3))
    mirror.put("SystemDeployment", deployment_body(4, prefetchRefs=[{"name": "b"}]))
    mirror.put("PersistentVolume", volume_body(target()))
    desired = gather_node(mirror, "n1").desired
    assert [w.chain[-1].digest for w in desired] == [chain_of("top")[0].digest, chain_of("next")[0].digest]
    assert (desired[0].purpose, desired[1].purpose) == ("Disk", "Prefetch")
    assert not gather_node(mirror, "n2").desired


def test_an_image_counts_the_nodes_that_hold_its_whole_chain(mirror: Mirror) -> None:
    mirror.put("VMImageNode", image_body(Image("child", chain_of("child")[0].digest, 100, GIB, "top"), 2))
    for name, child in (("top", 1), ("child", 0)):
        seen = gather_image(mirror, NS, name, NOW)
        assert seen is not None
        assert seen.cached_nodes == child
    mirror.put("NodeCache", cache_body(version=2, held=(chain_of("top")[0].digest, chain_of("child")[0].digest)))
    seen = gather_image(mirror, NS, "child", NOW)
    assert seen is not None
    assert seen.cached_nodes == 1


def test_only_an_unmounted_overlay_of_kigis_form_is_reported_without_a_volume(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target("elsewhere"), node="n2"))
    left, mounted = "kigi.ns.dep.0.gone.r1.01234567", "kigi.ns.dep.0.gone.r2.01234567"
    named = "kigi.ns.dep.0.elsewhere.r1.11223344"
    body = cache_body(version=2, volumes=(left, mounted, named, "of-another-driver", "kigi.ns.dep.X.gone.r1.01234567"))
    body["status"]["volumes"][1]["mounted"] = True
    mirror.put("NodeCache", body)
    assert gather_node(mirror, "n1").without_volume == {left}


def capture_body(stage: str, version: int = 1, **spec: Any) -> dict[str, Any]:
    body = stored_capture(stage, version, namespace=NS, node="n1", machine="m", base="top")
    return {**body, "spec": {"instanceRef": {"name": f"{NAME}-0"}, "requestedBy": "alice", **spec}}


@pytest.mark.parametrize(
    ("stage", "used"), [("Checking", True), ("Storing", True), ("Complete", False), ("Failed", False)]
)
def test_a_capture_uses_its_state_and_images_until_it_has_ended(mirror: Mirror, stage: str, used: bool) -> None:
    mirror.put("SystemCapture", capture_body(stage))
    user = User(kinds.CAPTURE, "after")
    assert (user in image_users(mirror, NS, "top")) == used
    assert (user in system_users(mirror, NS, "a")) == used
    assert user not in image_users(mirror, "elsewhere", "top")


def test_a_node_is_ordered_to_copy_the_overlay_of_the_instance(mirror: Mirror) -> None:
    volume = volume_body(target())
    mirror.put("PersistentVolume", volume)
    mirror.put("SystemCapture", capture_body("Copying"))
    (order,) = gather_node(mirror, "n1").captures
    assert order.volume == volume["spec"]["csi"]["volumeHandle"]
    assert (order.action, order.parent_digest, order.id[:3]) == ("Copy", chain_of("top")[-1].digest, "cc-")
    assert not gather_node(mirror, "n2").captures


def test_an_order_to_keep_outlives_the_volume_in_the_nodecache(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("SystemCapture", capture_body("Copying"))
    (order,) = gather_node(mirror, "n1").captures
    body = cache_body(version=5)
    mirror.put("NodeCache", {**body, "spec": {**body["spec"], "captures": [order.to_api()]}})
    volume = mirror.volumes.objects[next(iter(mirror.volumes.objects))]
    mirror.gone("PersistentVolume", None, volume.meta.name, volume.meta.uid)
    assert not gather_node(mirror, "n1").captures, "there is nothing to copy any more"
    mirror.put("SystemCapture", capture_body("Storing", 2))
    assert gather_node(mirror, "n1").captures == (order.model_copy(update={"action": "Keep"}),)


def test_no_status_orders_anything_beyond_the_instance_of_the_spec(mirror: Mirror) -> None:
    """A tenant's capture whose status names the disk of another deployment, another instance or another capture."""
    mirror.put("PersistentVolume", volume_body(target()))
    for name in ("other-0", "dep-1", "de-p-0"):
        mirror.put("SystemCapture", capture_body("Copying", 1, instanceRef={"name": name}))
        assert not gather_node(mirror, "n1").captures
        mirror.gone("SystemCapture", NS, "after", "c")
        mirror._tombstones.clear()
    elsewhere = capture_body("Copying")
    mirror.put("SystemCapture", {**elsewhere, "metadata": {**elsewhere["metadata"], "namespace": "tenant-b"}})
    assert not gather_node(mirror, "n1").captures
    foreign = {
        "id": "cvictim-1-0011223344556677",
        "volume": "kigi.ns.dep.0.m.r1.01234567",
        "parentDigest": chain_of("top")[-1].digest,
        "virtualSizeBytes": GIB,
        "repositoryName": "default",
        "action": "Copy",
        "mounted": True,
    }
    body = cache_body(version=6)
    mirror.put("NodeCache", {**body, "spec": {**body["spec"], "captures": [foreign]}})
    mirror.put("SystemCapture", capture_body("Storing", 3))
    assert foreign["id"] not in {order.id for order in gather_node(mirror, "n1").captures}


def test_a_capture_with_a_status_that_cannot_be_read_keeps_the_orders_that_it_has(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("SystemCapture", capture_body("Copying"))
    (order,) = gather_node(mirror, "n1").captures
    body = cache_body(version=5)
    mirror.put("NodeCache", {**body, "spec": {**body["spec"], "captures": [order.to_api()]}})
    unreadable = capture_body("Copying", 2)
    unreadable["status"]["machines"] = [{"name": "m", "method": "Migrate"}]
    mirror.put("SystemCapture", unreadable)
    assert gather_node(mirror, "n1").captures == (order,)


@pytest.mark.parametrize(("age_s", "life"), [(30, "Alive"), (3600, "Silent")])
def test_a_capture_sees_whether_nodes_live(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, age_s: int, life: str
) -> None:
    monkeypatch.setitem(SECONDS, "now", SECONDS["now"] + age_s)
    mirror.put("SystemCapture", capture_body("Storing"))
    record = mirror.captures.get(NS, "after")
    assert record is not None
    mirror.put("Node", node_body("n2"))  # no daemon yet
    assert gather_capture(mirror, record, NOW).lives == {"n1": life, "n2": "Silent"}


def test_a_capture_with_a_spec_that_cannot_be_read_keeps_the_orders_that_it_has(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("SystemCapture", capture_body("Copying"))
    (order,) = gather_node(mirror, "n1").captures
    body = cache_body(version=5)
    mirror.put("NodeCache", {**body, "spec": {**body["spec"], "captures": [order.to_api()]}})
    mirror.put("SystemCapture", capture_body("Copying", 2, quiescePolicy="AsANewerVersionHasIt"))
    assert gather_node(mirror, "n1").captures == (order,)


def test_a_deleted_node_is_missed_by_the_operators_own_clock(mirror: Mirror) -> None:
    assert gather_node(mirror, "n1", grace_s=600).node_exists
    record = mirror.nodes.get(None, "n1")
    assert record is not None
    mirror.gone("Node", None, "n1", record.meta.uid)
    assert gather_node(mirror, "n1", grace_s=600).grace_left_s == pytest.approx(600, abs=5)
    mirror.missing_since["n1"] -= 700
    assert gather_node(mirror, "n1", grace_s=600).grace_left_s == 0
    mirror.put("Node", with_meta({"kind": "Node", "metadata": {"name": "n1"}}, 900, "again"))
    assert gather_node(mirror, "n1", grace_s=600).node_exists
    assert "n1" not in mirror.missing_since


def test_a_deleted_node_with_a_nodecache_keeps_its_disks_and_takes_no_others(mirror: Mirror) -> None:
    record, cache = mirror.nodes.get(None, "n1"), mirror.caches.get(None, "n1")
    assert record is not None
    assert cache is not None
    mirror.gone("Node", None, "n1", record.meta.uid)
    nodes = nodes_for(mirror, (NS, NAME, "0"))
    assert "n1" in set(nodes)
    assert not nodes["n1"].exists
    assert "n1" not in [state.name for state in candidate_nodes(nodes, Placement())]
    mirror.gone("NodeCache", None, "n1", cache.meta.uid)
    assert "n1" not in nodes_for(mirror, (NS, NAME, "0"))


def test_the_state_of_a_node_is_built_again_only_after_a_change(mirror: Mirror) -> None:
    mirror.put("Node", node_body("n2"))
    before = nodes_for(mirror, ("ns", "dep", "other"))
    mirror.put("Node", node_body("n2", 2, memory="16Gi"))
    after = nodes_for(mirror, ("ns", "dep", "other"))
    assert after["n1"] is before["n1"]
    assert (before["n2"].memory_bytes, after["n2"].memory_bytes) == (8 * GIB, 16 * GIB)


LAYER = {"digest": "sha256:" + "d" * 64, "sizeBytes": 4096}


def stored_order(mirror: Mirror, report: dict[str, Any], **upload: Any) -> str:
    """Id of an order to keep a copy, in a NodeCache whose daemon reports that about it."""
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put("SystemCapture", capture_body("Copying"))
    (order,) = gather_node(mirror, "n1").captures
    kept = {**order.to_api(), "action": "Keep", **({"upload": {**LAYER, **upload}} if upload else {})}
    body = cache_body(version=5)
    body["spec"]["captures"] = [kept]
    body["status"]["captures"] = [{"id": order.id, **report}]
    mirror.put("NodeCache", body)
    mirror.put("SystemCapture", capture_body("Storing", 2))
    return order.id


def test_a_reported_layer_gets_a_request_and_keeps_it_in_later_plans(mirror: Mirror) -> None:
    id_ = stored_order(mirror, {"state": "Storing", **LAYER})
    writer = Repository(endpoint="http://s3.example", bucket="kigi", access_key_id="w", secret_access_key="hush")
    now = datetime(2026, 3, 1, tzinfo=UTC)
    view = gather_node(mirror, "n1", writers={"default": writer}, now=now)
    plan = plan_node_cache(view)
    (step,) = (step for step in plan.steps if isinstance(step, ApplyObject))
    spec = step.manifest["spec"]
    (order,) = spec["captures"]
    assert (order["id"], order["upload"]["digest"]) == (id_, LAYER["digest"])
    assert order["upload"]["request"]["url"].endswith("/kigi/layers/sha256/" + "d" * 64)
    assert plan.retry_after_s == RENEW_S
    body = {**cache_body(version=6), "spec": spec}
    body["status"]["captures"] = [{"id": id_, "state": "Storing", **LAYER}]
    mirror.put("NodeCache", body)
    later = gather_node(mirror, "n1", writers={"default": writer}, now=now + timedelta(seconds=9))
    assert not plan_node_cache(later).steps
    assert not plan_node_cache(gather_node(mirror, "n1", now=now)).steps, "an operator without the Secret yet"


def test_a_refused_upload_is_an_obstacle_of_the_capture(mirror: Mirror) -> None:
    id_ = stored_order(mirror, {"state": "Storing", **LAYER}, reason="UploadRefused", message="no writer")
    record = mirror.captures.get(NS, "after")
    assert record is not None
    report = gather_capture(mirror, record, datetime.now(UTC)).reports[id_]
    assert (report.state, report.reason, report.message, report.digest) == (
        "Refused",
        "UploadRefused",
        "no writer",
        LAYER["digest"],
    )


def test_a_refusal_of_before_does_not_hide_that_a_layer_is_stored(mirror: Mirror) -> None:
    id_ = stored_order(mirror, {"state": "Stored", **LAYER}, reason="UploadRefused", message="no writer")
    record = mirror.captures.get(NS, "after")
    assert record is not None
    assert gather_capture(mirror, record, datetime.now(UTC)).reports[id_].state == "Stored"


def test_a_capture_into_a_repository_without_a_writer_is_refused_before_any_vm_is_paused(mirror: Mirror) -> None:
    mirror.put("SystemCapture", capture_body("Checking"))
    record = mirror.captures.get(NS, "after")
    assert record is not None
    refused = gather_capture(mirror, record, datetime.now(UTC)).repository
    assert isinstance(refused, UploadRefused)
    assert "repository default takes no captures" in str(refused)
    credentials = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}}
    mirror.put("LayerRepository", repository_body(version=99, credentials=credentials))
    assert gather_capture(mirror, record, datetime.now(UTC)).repository == "default"
