from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.kubevirt import (
    disk_error,
    is_blocked_by_ghost_record,
    kubevirt_state,
    persistent_state,
    root_claim,
    trouble,
)


def kubevirt(version: str, *gates: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates": list(gates)}}},
        "status": {"observedKubeVirtVersion": version},
    }


@pytest.mark.parametrize(
    ("version", "gates", "hook"),
    [
        ("v1.7.0", ("Sidecar",), "Sidecar"),
        ("v1.8.2", ("Sidecar", "Plugins"), "Sidecar"),
        ("v1.9.0", ("Sidecar", "Plugins"), "Plugin"),
        ("v1.9.0-rc.1", ("Plugins",), "Plugin"),
        ("v1.10.0", ("Plugins",), "Plugin"),
        ("1.9.1", ("Sidecar",), "Sidecar"),
        ("v1.7.0", ("Plugins",), None),
        ("v1.6.9", ("Sidecar",), None),
        ("", ("Sidecar",), None),
    ],
)
def test_the_hook_follows_version_and_gates(version: str, gates: tuple[str, ...], hook: str | None) -> None:
    assert kubevirt_state([kubevirt(version, *gates)]).hook == hook


@pytest.mark.parametrize(("version", "gate"), [("v1.7.0", "Sidecar"), ("v1.8.0", "Sidecar"), ("v1.9.0", "Plugins")])
def test_without_a_gate_the_reason_names_the_one_to_set(version: str, gate: str) -> None:
    state = kubevirt_state([kubevirt(version)])
    assert state.hook is None
    assert f"feature gate {gate} " in state.why_not


def test_a_disabled_gate_is_off() -> None:
    body = kubevirt("v1.7.0", "Sidecar")
    body["spec"]["configuration"]["developerConfiguration"]["disabledFeatureGates"] = ["Sidecar"]
    assert kubevirt_state([body]).hook is None


def test_a_missing_kubevirt_is_reported() -> None:
    assert "not installed" in kubevirt_state([]).why_not


def test_the_disk_is_found_among_other_volumes() -> None:
    volumes = [{"name": "cloud-init"}, {"name": "kigi-root", "persistentVolumeClaim": {"claimName": "c"}}]
    assert root_claim(volumes, "kigi-root") == "c"
    assert root_claim([], "kigi-root") is None
    assert root_claim(None, "kigi-root") is None


@pytest.mark.parametrize(
    ("kind", "status", "reason", "message"),
    [
        ("Failure", "True", "FailedCreate", "no such preference"),
        ("Ready", "False", "PodNotExists", ""),
        ("Ready", "False", "Unschedulable", "0/1 nodes"),
        ("Ready", "True", "", ""),
    ],
)
def test_trouble_is_kubevirts_reason_and_no_stage_of_a_start(kind: str, status: str, reason: str, message: str) -> None:
    vm = {"status": {"conditions": [{"type": kind, "status": status, "reason": reason, "message": message or "stage"}]}}
    assert trouble(vm) == message


def vm(*conditions: tuple[str, str, str, str], status: str = "Starting", probe: bool = False) -> dict[str, Any]:
    """A VirtualMachine with (type, status, reason, message)."""
    template = {"readinessProbe": {"tcpSocket": {"port": 22}}} if probe else {}
    reported = [dict(zip(("type", "status", "reason", "message"), c, strict=True)) for c in conditions]
    return {"spec": {"template": {"spec": template}}, "status": {"printableStatus": status, "conditions": reported}}


STAGE = ("Ready", "False", "GuestNotRunning", "Guest VM is not reported as running")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        pytest.param(
            "Synchronizing with the Domain failed.",
            'server error. command SyncVMI failed: "hook sidecar refused the domain"',
            id="hook",
        ),
        pytest.param("FailedCreate", 'network-attachment-definitions "lan" not found', id="network"),
        pytest.param("FailedPvcNotFound", "failed to find the claim", id="claim"),
    ],
)
def test_an_instance_that_kubevirt_cannot_start_has_a_reason(reason: str, message: str) -> None:
    assert trouble(vm(STAGE, ("Synchronized", "False", reason, message))) == message


def test_an_instance_that_came_up_after_all_is_in_no_trouble() -> None:
    assert trouble(vm(STAGE, ("Synchronized", "True", "", ""))) == ""


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ErrImagePull", 'failed to pull and unpack image "r.example/hook:1": not found'),
        ("ImagePullBackOff", 'Back-off pulling image "r.example/hook:1"'),
    ],
)
def test_a_failing_pull_has_one_text_for_both_reasons(reason: str, message: str) -> None:
    reported = trouble(vm(STAGE, ("Synchronized", "False", reason, message), status=reason))
    assert reported == "image r.example/hook:1 of its pod cannot be pulled"


@pytest.mark.parametrize("reason", ["ContainersNotReady", "GuestNotRunning"])
@pytest.mark.parametrize(
    ("status", "probe", "reported"),
    [("Running", True, True), ("Running", False, False), ("Starting", True, False), ("Paused", True, False)],
)
def test_a_probe_without_an_answer_is_reported_for_running_vms_only(
    reason: str, status: str, probe: bool, reported: bool
) -> None:
    message = trouble(vm(("Ready", "False", reason, "containers with unready status"), status=status, probe=probe))
    assert (message == "it runs, and its readiness probe does not answer") == reported


@pytest.mark.parametrize(("status", "reported"), [("Running", True), ("Starting", False), ("Stopping", False)])
def test_a_part_of_a_running_vms_pod_that_died_is_named(status: str, reported: bool) -> None:
    words = "containers with unready status: [hook-sidecar-0]"
    message = trouble(vm(("Ready", "False", "ContainersNotReady", words), status=status))
    assert message == (f"it runs, in a pod that has lost a part: {words}; restart it" if reported else "")


@pytest.mark.parametrize(
    ("domain", "field"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"devices": {"tpm": {}}}, "", id="tpm"),
        pytest.param({"devices": {"tpm": {"persistent": True}}}, "devices.tpm", id="persistent-tpm"),
        pytest.param({"devices": {"tpm": {"persistent": True, "enabled": False}}}, "", id="tpm-off"),
        pytest.param({"firmware": {"bootloader": {"efi": {}}}}, "", id="efi"),
        pytest.param(
            {"firmware": {"bootloader": {"efi": {"persistent": True}}}}, "firmware.bootloader.efi", id="persistent-efi"
        ),
    ],
)
def test_state_beside_the_disk_is_seen_in_an_instance(domain: dict[str, Any], field: str) -> None:
    assert persistent_state({"spec": {"domain": domain}}) == field


@pytest.mark.parametrize(
    ("status", "message", "blocked_by_ghost_record"),
    [
        (
            "False",
            "unable to create virt-launcher client connection: can not add ghost record when entry already exists "
            "with differing UID",
            True,
        ),
        ("True", "can not add ghost record when entry already exists with differing UID", False),
        ("False", "kigi-disk-hook: the domain has no disk of ours", False),
    ],
)
def test_an_instance_blocked_by_a_ghost_record_is_recognized(
    status: str, message: str, blocked_by_ghost_record: bool
) -> None:
    assert is_blocked_by_ghost_record(
        {"status": {"conditions": [{"type": "Synchronized", "status": status, "message": message}]}}
    ) is (blocked_by_ghost_record)


@pytest.mark.parametrize(
    ("reason", "status", "found"),
    [("PausedIOError", "True", True), ("PausedByUser", "True", False), ("PausedIOError", "False", False)],
)
def test_a_vm_that_its_disk_has_stopped_says_what_to_do(reason: str, status: str, found: bool) -> None:
    paused = {"type": "Paused", "status": status, "reason": reason}
    vmi = {"metadata": {"name": "office-1-mail1"}, "status": {"conditions": [paused]}}
    message = disk_error(vmi)
    assert bool(message) is found
    assert not found or ("reset the machine" in message and message.endswith("virtctl unpause vmi office-1-mail1"))
    assert disk_error({}) == ""
