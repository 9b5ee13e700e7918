"""Manifests of volumes, claims and VMs fit together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kigi.api.placement import Placement
from kigi.domain import names
from kigi.domain.fingerprint import Fingerprint
from kigi.domain.systems import ResolvedDisk, ResolvedMachine
from kigi.errors import SpecInvalid
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner, PlacedTarget, disk_targets
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.vm_manifest import VmSettings, build_machine
from tests.support.bodies import OWNER, chain_of, machine_body, placed, target

SETTINGS = VmSettings(Placement(), "Sidecar", "hook", running=True)


def with_extra_disk(revision: int = 3, owner: Owner = OWNER) -> PlacedTarget:
    """Machine m of instance 0 with the extra disk data."""
    extra = ResolvedDisk("data", "data", chain_of("data"), "sata")
    machine = ResolvedMachine("m", "top", chain_of("top"), {}, (extra,))
    blueprint = Blueprint.of("a", machine, Placement(), "Sidecar", "hook")
    desired = MachineTarget("0", blueprint, "dep-0-m", True, ("token:r",))
    return PlacedTarget(
        desired, revision, "n1", desired.fingerprint(), disk_targets(owner, desired, revision), is_cached=True
    )


def test_a_claim_and_its_volume_name_each_other() -> None:
    one = with_extra_disk()
    for disk in one.disks:
        volume, claim = build_volume(OWNER, one, disk), build_claim(OWNER, one, disk)
        assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
        assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]
        assert volume["spec"]["claimRef"]["namespace"] == claim["metadata"]["namespace"]
        assert volume["metadata"]["labels"] == claim["metadata"]["labels"]
        for field in ("accessModes", "volumeMode", "storageClassName"):
            assert volume["spec"][field] == claim["spec"][field]


def test_a_volume_records_the_decision() -> None:
    one = with_extra_disk()
    volume = build_volume(OWNER, one, one.disks[0])
    annotations = volume["metadata"]["annotations"]
    assert Fingerprint.from_text(annotations[names.ANNOTATION_FINGERPRINT]) == one.fingerprint
    assert annotations[names.ANNOTATION_OWNER] == OWNER.uid
    assert volume["metadata"]["labels"][names.LABEL_REVISION] == "3"
    term = volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]
    assert (term["key"], term["values"]) == (names.TOPOLOGY_NODE, ["n1"])
    chain = json.loads(volume["spec"]["csi"]["volumeAttributes"]["chain"])
    assert [layer["digest"] for layer in chain] == [layer.digest for layer in chain_of("top")]


def test_only_extra_disks_have_a_disk_label() -> None:
    one = with_extra_disk()
    labels = [build_volume(OWNER, one, disk)["metadata"]["labels"].get(names.LABEL_DISK) for disk in one.disks]
    assert labels == [None, "data"]


def test_a_recreated_instance_gets_other_overlays_under_the_same_names() -> None:
    other = replace(OWNER, uid="another-uid")
    before, after = with_extra_disk(), with_extra_disk(owner=other)
    volumes = build_volume(OWNER, before, before.disks[0]), build_volume(other, after, after.disks[0])
    assert volumes[0]["metadata"]["name"] == volumes[1]["metadata"]["name"]
    handles = {volume["spec"]["csi"]["volumeHandle"] for volume in volumes}
    assert len(handles) == 2


def test_a_vm_names_the_claims_of_its_disks_in_order() -> None:
    one = with_extra_disk()
    spec = build_machine(OWNER, one, SETTINGS)["spec"]["template"]["spec"]
    claims = [volume["persistentVolumeClaim"]["claimName"] for volume in spec["volumes"]]
    assert claims == ["dep.0.m.r3", "dep.0.m.r3.data"] == [disk.claim for disk in one.disks]
    assert [disk["disk"]["bus"] for disk in spec["domain"]["devices"]["disks"]] == ["virtio", "sata"]


def test_the_identity_of_a_vm_does_not_change_with_the_revision() -> None:
    domains = [
        build_machine(OWNER, with_extra_disk(revision), SETTINGS)["spec"]["template"]["spec"]["domain"]
        for revision in (1, 2)
    ]
    assert domains[0]["firmware"] == domains[1]["firmware"]
    assert domains[0]["devices"]["interfaces"] == domains[1]["devices"]["interfaces"]


def test_instances_have_different_identities() -> None:
    domains = [machine_body(target(instance=instance))["spec"]["template"]["spec"]["domain"] for instance in ("0", "1")]
    assert domains[0]["firmware"] != domains[1]["firmware"]
    assert domains[0]["devices"]["interfaces"] != domains[1]["devices"]["interfaces"]


def test_a_halted_vm_records_until_when() -> None:
    from datetime import UTC, datetime

    until = datetime(2026, 1, 1, tzinfo=UTC)
    body = build_machine(OWNER, placed(target()), replace(SETTINGS, running=False, halted_until=until))
    assert body["spec"]["runStrategy"] == "Halted"
    assert body["metadata"]["annotations"][names.ANNOTATION_HALTED_UNTIL] == until.isoformat()


def test_only_the_sidecar_hook_needs_an_annotation() -> None:
    annotations = [
        build_machine(OWNER, placed(target()), replace(SETTINGS, hook=hook))["spec"]["template"]["metadata"]
        for hook in ("Sidecar", "Plugin")
    ]
    assert [names.HOOK_SIDECARS in meta["annotations"] for meta in annotations] == [True, False]


def test_invalid_hardware_is_refused_with_its_machine() -> None:
    broken = placed(target(settings={"hardware": {"cpu": {"cores": 0}}}))
    with pytest.raises(SpecInvalid, match=r"SystemNode a: spec.machines\[m\].hardware"):
        build_machine(OWNER, broken, SETTINGS)
