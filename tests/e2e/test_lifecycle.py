"""The life cycle of a VM as its guest reports it: the tiny exercise's mail1 and desktop1 under a real KubeVirt.

The tests build on each other, in this order, on one deployment: guests take a minute to boot under emulation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from demo.prepare import prepare
from demo.steps import NAME
from demo.targets import DemoFailed, Target, install_kigi
from kigi.planning.plugin import build_plugin
from localcluster.bounded import QUICK_S, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from scenario import kubernetes
from tests.e2e.exercise import RUNNING, Exercise, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
IDENTITY = ("mac", "uuid", "serial")


@pytest.fixture(scope="module")
def target(cluster: Cluster) -> Target:
    cluster.load_kigi()
    found = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(found)
    return found


@pytest.fixture(scope="module")
def exercise(cluster: Cluster, target: Target) -> Iterator[Exercise]:
    published = prepare(target, "tiny")
    target.apply(*kubernetes.system_nodes(published.manifest, published.namespace))
    one = Exercise(cluster, target, published)
    one.apply("infected")
    one.wait_ready()
    yield one
    target.kubectl("delete", "systemdeployment", "--all", "-n", one.namespace, "--timeout=600s")


@pytest.fixture(scope="module")
def identity(exercise: Exercise) -> dict[str, dict[str, str]]:
    """Machine -> MAC, UUID and serial number of the guest's first report."""
    return {name: {key: exercise.report(name)[key] for key in IDENTITY} for name in RUNNING}


def test_guests_report_their_machine_and_state(exercise: Exercise, identity: dict[str, dict[str, str]]) -> None:
    for name in RUNNING:
        state = exercise.published.manifest.guests["infected"][name].state
        exercise.report(name, machine=name, state=state, boot="1")
        assert exercise.machine(name)["state"] == "Running"
    assert len({each["mac"] for each in identity.values()}) == len(RUNNING)
    others = set(exercise.published.manifest.roles) - set(RUNNING)
    assert {exercise.machine(name)["state"] for name in others} == {"Stopped"}


def test_writes_survive_a_reboot_and_a_restart_of_the_vm(exercise: Exercise) -> None:
    exercise.send("mail1", "write kept", "KIGI-WROTE kept")
    uid = exercise.vmi_uid("mail1")
    exercise.send("mail1", "reboot", "KIGI-BYE reboot")
    exercise.report("mail1", boot="2")
    assert exercise.vmi_uid("mail1") == uid
    exercise.virtctl("restart", exercise.vm("mail1"))
    exercise.next_run("mail1", uid)
    exercise.report("mail1", boot="3")
    exercise.send("mail1", "show", "KIGI-WRITTEN kept")


def test_a_guest_that_powers_itself_off_restarts_with_its_writes(exercise: Exercise) -> None:
    exercise.send("mail1", "poweroff", "KIGI-BYE poweroff")
    exercise.report("mail1", boot="4")
    exercise.send("mail1", "show", "KIGI-WRITTEN kept")


def test_a_paused_vm_is_not_ready_and_its_state_is_paused(exercise: Exercise) -> None:
    exercise.virtctl("pause", "vm", exercise.vm("mail1"))
    eventually(lambda: exercise.machine("mail1")["state"] == "Paused", "state Paused", 120)
    eventually(lambda: exercise.status()["readyReplicas"] == 0, "a deployment that is not ready", 60)
    exercise.virtctl("unpause", "vm", exercise.vm("mail1"))
    exercise.wait_ready()
    assert exercise.machine("mail1")["state"] == "Running"


def test_a_migration_is_refused(exercise: Exercise) -> None:
    migration = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "away", "namespace": exercise.namespace},
        "spec": {"vmiName": exercise.vm("mail1")},
    }
    with pytest.raises(DemoFailed, match=r"(?i)not.*migrat"):
        exercise.target.apply(migration)


def test_kubevirt_1_9_would_change_this_domain_in_the_same_way(exercise: Exercise) -> None:
    """Applied to the domain before the hook of 1.7, the Plugin of 1.9 gives the same disks as that hook."""
    after = ElementTree.fromstring(exercise.domain("mail1"))
    (driver,) = (
        disk.find("driver")
        for disk in after.iter("disk")
        if "kigi-root" in disk.find("source").get("file", "")  # type: ignore[union-attr]
    )
    assert driver is not None
    assert driver.get("type") == "qcow2"
    driver.set("type", "raw")
    labels = exercise.instance("mail1")["metadata"]["labels"]
    domain = ElementTree.tostring(after, encoding="unicode")
    text = json.dumps({"plugin": build_plugin(), "domain": domain, "labels": labels})
    done = run([binary("plugin-check")], timeout_s=QUICK_S, input_text=text)
    changed = [disk.find("driver") for disk in ElementTree.fromstring(done.stdout).iter("disk")]
    assert [each.get("type") for each in changed if each is not None] == ["qcow2"]


def test_a_reset_of_one_machine_discards_its_writes_and_does_not_disturb_the_others(
    exercise: Exercise, identity: dict[str, dict[str, str]]
) -> None:
    undisturbed = exercise.vmi_uid("desktop1")
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", boot="1", **identity["mail1"])
    exercise.send("mail1", "show", "KIGI-WRITTEN none")
    assert exercise.machine("mail1")["revision"] == 2
    assert exercise.machine("desktop1")["revision"] == 1
    assert exercise.vmi_uid("desktop1") == undisturbed


def test_a_switch_and_its_reversal_change_the_state_but_not_the_identity(
    exercise: Exercise, identity: dict[str, dict[str, str]]
) -> None:
    for state in ("cleaned", "infected"):
        exercise.apply(state)
        exercise.wait_ready()
        for name in RUNNING:
            expected = exercise.published.manifest.guests[state][name].state
            exercise.report(name, machine=name, state=expected, boot="1", **identity[name])


def test_a_vm_that_was_off_has_its_writes(exercise: Exercise) -> None:
    exercise.send("mail1", "write still here", "KIGI-WROTE still here")
    exercise.apply("infected", {"mail1": {"powerState": "Off"}})
    exercise.wait_ready()
    assert exercise.vmi_uid("mail1") is None
    assert exercise.machine("mail1")["state"] == "Stopped"
    exercise.apply("infected")
    exercise.wait_ready()
    exercise.report("mail1", boot="2")
    exercise.send("mail1", "show", "KIGI-WRITTEN still here")


def test_a_guest_that_forges_a_qcow2_header_on_its_disk_gets_no_access_to_files(exercise: Exercise) -> None:
    """It only overwrites its boot sector: the overlay's header does not change, and a reset repairs the guest."""
    exercise.send("mail1", "forge", "KIGI-FORGED")
    old = exercise.vmi_uid("mail1")
    exercise.virtctl("restart", exercise.vm("mail1"), "--grace-period=0", "--force")
    exercise.next_run("mail1", old)
    exercise.wait_ready()
    (driver,) = (disk for disk in ElementTree.fromstring(exercise.domain("mail1")).iter("disk"))
    files = [source.get("file", "") for source in driver.iter("source")]
    assert len(files) > 2
    assert all("/vmi-disks/kigi-root/" in file for file in files)
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", boot="1", machine="mail1")


@pytest.mark.parametrize("selector", ["app.kubernetes.io/name=kigi-operator", "app.kubernetes.io/name=kigi-node-cache"])
def test_guests_are_not_disturbed_when_one_of_kigis_own_processes_is_killed(exercise: Exercise, selector: str) -> None:
    before = {name: exercise.vmi_uid(name) for name in RUNNING}
    boots = {name: exercise.report(name)["boot"] for name in RUNNING}
    exercise.kill_containers(selector)
    exercise.wait_ready()
    assert {name: exercise.vmi_uid(name) for name in RUNNING} == before
    assert {name: exercise.report(name)["boot"] for name in RUNNING} == boots
    # The replaced process works: a reset succeeds.
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", boot="1")


def test_guests_are_not_disturbed_when_the_kubelet_is_killed(exercise: Exercise) -> None:
    before = {name: exercise.vmi_uid(name) for name in RUNNING}
    boots = {name: exercise.report(name)["boot"] for name in RUNNING}
    old = exercise.node("pidof kubelet").strip()
    exercise.node(f"kill -9 {old}")
    eventually(lambda: exercise.node("pidof kubelet || true").strip() not in ("", old), "the next kubelet", 120)
    exercise.wait_ready()
    assert {name: exercise.vmi_uid(name) for name in RUNNING} == before
    assert {name: exercise.report(name)["boot"] for name in RUNNING} == boots
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", boot="1")


def test_a_vm_whose_shim_is_killed_restarts_on_its_disk(exercise: Exercise) -> None:
    exercise.send("mail1", "write survived", "KIGI-WROTE survived")
    old = exercise.vmi_uid("mail1")
    pod = exercise.target.get("pod", exercise.launcher("mail1"), "-n", exercise.namespace)
    (container,) = (c for c in pod["status"]["containerStatuses"] if c["name"] == "compute")
    identity = container["containerID"].partition("//")[2]
    tasks = exercise.cluster.nodes()[0].ctr("task", "ls")
    pid = next(line.split()[1] for line in tasks.splitlines() if line.startswith(identity))
    exercise.node(f"kill -9 $(awk '/^PPid/ {{print $2}}' /proc/{pid}/status)")
    exercise.next_run("mail1", old)
    exercise.wait_ready()
    exercise.report("mail1", boot="2")
    exercise.send("mail1", "show", "KIGI-WRITTEN survived")


def test_deletion_leaves_no_objects_overlays_or_mounts(exercise: Exercise) -> None:
    exercise.target.kubectl("delete", "systemdeployment", NAME, "-n", exercise.namespace, "--timeout=600s")
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims"
    assert exercise.target.get(kinds, "-n", exercise.namespace)["items"] == []
    selector = f"kigi.dev/namespace={exercise.namespace}"
    assert exercise.target.get("persistentvolumes", "-l", selector)["items"] == []
    eventually(lambda: exercise.target.get("pods", "-n", exercise.namespace)["items"] == [], "the pods' end", 300)
    assert exercise.node(f"ls /var/lib/kigi/volumes | grep {exercise.namespace} || true") == ""
    assert exercise.node(f"grep {exercise.namespace} /proc/1/mountinfo || true") == ""
