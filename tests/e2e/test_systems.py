"""The whole tiny exercise: ten machines in each of three states, a second instance, off, on, and deletion.

The tests build on each other, in this order, on one deployment. Its switch policy keeps unchanged disks, so that two
cores boot only the guests that a switch changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from demo.console import read_guest
from demo.steps import NAME
from localcluster.cluster import Cluster
from scenario import kubernetes
from tests.e2e.exercise import Exercise, eventually, tiny_exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAMESPACE = "systems"
MACHINES = 10
SECOND = ("mail1", "desktop1")
"""Machines of the second instance that run; all ten are deployed."""


@pytest.fixture(scope="module")
def exercise(cluster: Cluster) -> Iterator[Exercise]:
    with tiny_exercise(cluster, NAMESPACE) as one:
        yield one


def deploy(exercise: Exercise, state: str, **spec: Any) -> None:
    """Apply the deployment, and wait until it is Ready."""
    deployment = kubernetes.system_deployment(
        NAME, state, NAMESPACE, updateStrategy={"onSwitch": "ReplaceChanged"}, **spec
    )
    exercise.target.apply(deployment)
    exercise.wait_ready()


def second_instance() -> dict[str, Any]:
    """The second instance, in which only the machines of SECOND run."""
    machines = kubernetes.machines_on(SECOND)
    return kubernetes.system_instance("2", NAME, NAMESPACE, powerState="Off", machines=machines)


def check_guests(exercise: Exercise, state: str, boot: str = "1") -> dict[str, dict[str, str]]:
    """Wait until every guest of the first instance reports its machine and state; returns the reported hardware."""
    identity = {}
    for name, guest in exercise.published.manifest.guests[state].items():
        report = exercise.report(name, machine=name, state=guest.state, marker=guest.marker, boot=boot)
        identity[name] = {key: report[key] for key in ("mac", "uuid", "serial")}
    return identity


@pytest.fixture(scope="module")
def identity(exercise: Exercise) -> dict[str, dict[str, str]]:
    """Machine -> MAC, UUID and serial number of the guest's first report."""
    deploy(exercise, "infected")
    return check_guests(exercise, "infected")


def uids(exercise: Exercise, instance: int) -> dict[str, str]:
    """Machine -> uid of its VirtualMachineInstance."""
    found = exercise.target.get("virtualmachineinstances", "-n", NAMESPACE)["items"]
    prefix = f"{NAME}-{instance}-"
    named = {str(one["metadata"]["name"]): str(one["metadata"]["uid"]) for one in found}
    return {name.removeprefix(prefix): uid for name, uid in named.items() if name.startswith(prefix)}


def test_ten_guests_report_their_machine_and_state(exercise: Exercise, identity: dict[str, dict[str, str]]) -> None:
    assert len(uids(exercise, 1)) == len(exercise.published.manifest.roles) == len(identity) == MACHINES
    for key in ("mac", "uuid", "serial"):
        assert len({each[key] for each in identity.values()}) == MACHINES


def test_ten_running_guests_are_captured_at_one_moment(exercise: Exercise) -> None:
    """All VMs are paused together and keep running afterwards; the layers of the new state have their writes."""
    before = uids(exercise, 1)
    status = exercise.capture("ten", quiescePolicy="PauseOnly")
    assert uids(exercise, 1) == before
    print({key: status.get(key) for key in ("pauseMilliseconds", "skewMilliseconds", "pauseMessage", "storedBytes")})
    # On a node under load virt-launcher may continue a VM that the daemon has stopped; then KubeVirt has paused all.
    methods = {machine["method"] for machine in status["machines"]}
    assert methods == ({"Pause"} if status.get("pauseMessage") else {"Stop"}), status.get("pauseMessage")
    last_stop = max(machine["pauseTime"] for machine in status["machines"])
    assert all(machine["resumeTime"] > last_stop for machine in status["machines"])
    assert {disk["state"] for disk in status["disks"]} == {"Stored"}
    full = sum(disk["virtualSizeBytes"] for disk in status["disks"])
    assert status["storedBytes"] == status["addedBytes"] < full / 4
    eventually(lambda: exercise.node("ls /var/lib/kigi/captures") == "", "deletion of the frozen copies", 60)
    exercise.wait_ready()


@pytest.mark.parametrize(("old", "new"), [("infected", "cleaned"), ("cleaned", "restored"), ("restored", "infected")])
def test_a_switch_changes_only_the_machines_that_differ(
    exercise: Exercise, identity: dict[str, dict[str, str]], old: str, new: str
) -> None:
    before = uids(exercise, 1)
    deploy(exercise, new)
    after = uids(exercise, 1)
    guests = exercise.published.manifest.guests
    changed = {name for name in guests[new] if guests[new][name].image != guests[old][name].image}
    assert changed
    assert {name for name in after if after[name] != before[name]} == changed
    assert check_guests(exercise, new) == identity


def test_a_second_instance_can_be_added_and_reset_without_disturbing_the_first(exercise: Exercise) -> None:
    first = uids(exercise, 1)
    exercise.target.apply(second_instance())
    deploy(exercise, "infected", replicas=2)
    assert uids(exercise, 1) == first
    second = uids(exercise, 2)
    assert set(second) == set(SECOND)
    macs = {read_guest(exercise.target, NAMESPACE, f"{NAME}-{number}-{SECOND[0]}")["mac"] for number in (1, 2)}
    assert len(macs) == 2
    replace(exercise, instance_name="2").reset()
    exercise.wait_ready()
    assert uids(exercise, 1) == first
    after = uids(exercise, 2)
    assert set(after) == set(SECOND)
    assert not set(after.values()) & set(second.values())
    for name in SECOND:
        report = read_guest(exercise.target, NAMESPACE, f"{NAME}-2-{name}")
        assert (report["machine"], report["boot"]) == (name, "1")


def test_a_removed_instance_leaves_no_vms_and_volumes(exercise: Exercise) -> None:
    first = uids(exercise, 1)
    deploy(exercise, "infected", replicas=1)
    eventually(lambda: uids(exercise, 2) == {}, "the second instance's end", 300)
    assert uids(exercise, 1) == first
    selector = f"kigi.dev/namespace={NAMESPACE},kigi.dev/instance=2"
    eventually(lambda: exercise.target.get("pv", "-l", selector)["items"] == [], "its volumes' end", 300)


def test_a_system_that_is_off_has_disks_but_no_running_vms(exercise: Exercise) -> None:
    deploy(exercise, "infected", powerState="Off")
    eventually(lambda: uids(exercise, 1) == {}, "the VMs' end", 300)
    count = int(exercise.node(f"ls /var/lib/kigi/volumes | grep -c '[.]{NAMESPACE}[.]' || true"))
    assert count == len(exercise.published.manifest.roles)


def test_a_system_that_was_off_starts_with_its_writes_and_its_identity(
    exercise: Exercise, identity: dict[str, dict[str, str]]
) -> None:
    deploy(exercise, "infected")
    assert check_guests(exercise, "infected", boot="2") == identity


def test_deletion_leaves_no_objects_overlays_or_mounts(exercise: Exercise) -> None:
    exercise.target.kubectl("delete", "systemdeployment", NAME, "-n", NAMESPACE, "--timeout=600s")
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims"
    assert exercise.target.get(kinds, "-n", NAMESPACE)["items"] == []
    assert exercise.target.get("pv", "-l", f"kigi.dev/namespace={NAMESPACE}")["items"] == []
    eventually(lambda: exercise.target.get("pods", "-n", NAMESPACE)["items"] == [], "the pods' end", 300)
    assert exercise.node(f"ls /var/lib/kigi/volumes | grep '[.]{NAMESPACE}[.]' || true") == ""
    assert exercise.node(f"grep '[.]{NAMESPACE}[.]' /proc/1/mountinfo || true") == ""
