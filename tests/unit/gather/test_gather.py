from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.domain import kinds
from kigi.domain.images import Image
from kigi.domain.kubevirt import LAUNCHER_OVERHEAD_BYTES
from kigi.domain.usage import User
from kigi.gather.capture import gather_capture
from kigi.gather.deployment import gather_deployment
from kigi.gather.node_cache import gather_node
from kigi.gather.nodes import gather_nodes
from kigi.gather.trees import gather_image, image_users, system_users
from kigi.mirror.store import Mirror
from kigi.planning.placed import Owner
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
    machine_body,
    node_body,
    system_body,
    target,
    vmi_body,
    volume_body,
    with_meta,
)

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


@pytest.fixture
def mirror() -> Mirror:
    mirror = Mirror()
    mirror.put("VMImageNode", image_body(Image("top", chain_of("top")[0].digest, 100, GIB)))
    mirror.put("SystemNode", system_body("a", [{"name": "m", "image": {"name": "top"}, "template": {"memory": "1Gi"}}]))
    mirror.put("SystemDeployment", deployment_body())
    mirror.put("Node", node_body())
    mirror.put("CSINode", csi_node_body())
    mirror.put("NodeCache", cache_body(held=(chain_of("top")[0].digest,)))
    return mirror


def view(mirror: Mirror, now: datetime = NOW):  # type: ignore[no-untyped-def]
    record = mirror.deployments.get(NS, NAME)
    assert record is not None
    return gather_deployment(mirror, record, now)


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
    mirror.put("PersistentVolume", volume_body(target(), owner=Owner(NS, NAME, "another")))
    seen = view(mirror)
    (volume,) = seen.volumes
    assert volume.fingerprint is not None
    assert seen.fingerprint_of(volume) is None


def test_a_vm_of_a_predecessor_is_not_owned(mirror: Mirror) -> None:
    mirror.put("VirtualMachine", machine_body(target(), owner=Owner(NS, NAME, "another")))
    seen = view(mirror)
    (machine,) = seen.machines
    assert not seen.owns(machine.vm)


def test_memory_of_other_deployments_is_not_free_and_of_this_one_is(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target(memory="2Gi")))
    mirror.put("VirtualMachine", machine_body(target(memory="2Gi")))
    assert view(mirror).nodes["n1"].memory_bytes == 8 * GIB
    others = gather_nodes(mirror, NOW, without=("ns", "other"))
    assert others["n1"].memory_bytes == 8 * GIB - 2 * GIB - LAUNCHER_OVERHEAD_BYTES


def test_memory_of_a_vm_that_waits_for_its_layers_is_reserved(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target()))
    others = gather_nodes(mirror, NOW, without=("ns", "other"))
    assert others["n1"].memory_bytes == 8 * GIB - GIB - LAUNCHER_OVERHEAD_BYTES


def test_old_revisions_reserve_no_memory(mirror: Mirror) -> None:
    for revision in (1, 2, 3):
        mirror.put("PersistentVolume", volume_body(target(), revision))
    others = gather_nodes(mirror, NOW, without=("ns", "other"))
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
    machine = {"name": "m", "image": {"name": "top"}, "template": {"instancetype": reference}}
    mirror.put("SystemNode", system_body("a", [machine], version=2))
    mirror.put("PersistentVolume", volume_body(target()))
    mirror.put(kind, instancetype_body("3Gi", namespace=namespace))

    def free() -> int:
        return gather_nodes(mirror, NOW, without=("ns", "other"))["n1"].memory_bytes

    assert free() == 8 * GIB - 3 * GIB - LAUNCHER_OVERHEAD_BYTES
    typed = target(template={"instancetype": reference})
    mirror.put("VirtualMachine", machine_body(typed))
    assert free() == 8 * GIB - 3 * GIB - LAUNCHER_OVERHEAD_BYTES
    mirror.put(kind, instancetype_body("5Gi", version=2, namespace=namespace))
    assert free() == 8 * GIB - 5 * GIB - LAUNCHER_OVERHEAD_BYTES
    assert (
        machine_memory_bytes(typed.blueprint.machine.template, view(mirror).instancetypes)
        == 5 * GIB + LAUNCHER_OVERHEAD_BYTES
    )


def test_an_instancetype_of_another_namespace_is_none_of_ours(mirror: Mirror) -> None:
    mirror.put("VirtualMachineInstancetype", instancetype_body("3Gi", namespace="elsewhere"))
    assert view(mirror).instancetypes == {}


@pytest.mark.parametrize(("age_s", "alive"), [(0, True), (119, True), (121, False)])
def test_a_daemon_is_dead_two_minutes_after_its_last_word(mirror: Mirror, age_s: int, alive: bool) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=age_s)
    assert view(mirror, now).nodes["n1"].cache_alive is alive


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
    mirror.put("SystemNode", system_body("b", [{"name": "m", "image": {"name": "next"}}], "a", 3))
    mirror.put("SystemDeployment", deployment_body(4, prefetch=[{"name": "b"}]))
    mirror.put("PersistentVolume", volume_body(target()))
    desired = gather_node(mirror, "n1").desired
    assert [w.chain[-1].digest for w in desired] == [chain_of("top")[0].digest, chain_of("next")[0].digest]
    assert desired[0].priority > desired[1].priority
    assert not gather_node(mirror, "n2").desired


def test_an_image_counts_the_nodes_that_hold_its_whole_chain(mirror: Mirror) -> None:
    mirror.put("VMImageNode", image_body(Image("child", chain_of("child")[0].digest, 100, GIB, "top"), 2))
    for name, child in (("top", 1), ("child", 0)):
        seen = gather_image(mirror, NS, name, NOW)
        assert seen is not None
        assert seen.cached_on == child
    mirror.put("NodeCache", cache_body(version=2, held=(chain_of("top")[0].digest, chain_of("child")[0].digest)))
    seen = gather_image(mirror, NS, "child", NOW)
    assert seen is not None
    assert seen.cached_on == 1


def test_only_an_unmounted_overlay_of_kigis_form_is_reported_without_a_volume(mirror: Mirror) -> None:
    mirror.put("PersistentVolume", volume_body(target("elsewhere"), node="n2"))
    left, mounted = "kigi.ns.dep.0.gone.r1.01234567", "kigi.ns.dep.0.gone.r2.01234567"
    named = "kigi.ns.dep.0.elsewhere.r1.01234567"
    body = cache_body(version=2, volumes=(left, mounted, named, "of-another-driver", "kigi.ns.dep.x.gone.r1.01234567"))
    body["status"]["volumes"][1]["mounted"] = True
    mirror.put("NodeCache", body)
    assert gather_node(mirror, "n1").without_volume == {left}


def capture_body(phase: str, version: int = 1) -> dict[str, Any]:
    place = {"name": "m", "machine": "m", "id": "c1", "node": "n1", "volume": "v"}
    disk = {**place, "image": "top", "parent": chain_of("top")[0].digest}
    return {
        "metadata": {"name": "after", "namespace": NS, "uid": "c", "generation": 1, "resourceVersion": str(version)},
        "spec": {"deployment": {"name": NAME}},
        "status": {"phase": phase, "parent": "a", "disks": [{**disk, "virtualSizeBytes": GIB}]},
    }


@pytest.mark.parametrize(("phase", "used"), [("Checking", True), ("Storing", True), ("Done", False), ("Failed", False)])
def test_a_capture_uses_its_state_and_images_until_it_has_ended(mirror: Mirror, phase: str, used: bool) -> None:
    mirror.put("SystemCapture", capture_body(phase))
    user = User(kinds.CAPTURE, "after")
    assert (user in image_users(mirror, NS, "top")) == used
    assert (user in system_users(mirror, NS, "a")) == used
    assert user not in image_users(mirror, "elsewhere", "top")


@pytest.mark.parametrize(("age_s", "life"), [(30, "Alive"), (3600, "Silent")])
def test_a_capture_sees_whether_nodes_live(mirror: Mirror, age_s: int, life: str) -> None:
    mirror.put("SystemCapture", capture_body("Storing"))
    record = mirror.captures.get(NS, "after")
    assert record is not None
    mirror.put("Node", node_body("n2"))  # no daemon yet
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=age_s)
    assert gather_capture(mirror, record, now).lives == {"n1": life, "n2": "Silent"}
