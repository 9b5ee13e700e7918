"""No VM starts on a layered disk without the hook: tests with KubeVirt's gate off, and with failing and killed hooks.

The tests build on each other, in this order, on one deployment.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from demo.targets import Target
from localcluster import kubevirt
from localcluster.bounded import QUICK_S
from localcluster.cluster import Cluster
from tests.e2e.exercise import RUNNING, Exercise, eventually, tiny_exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAMESPACE = "hooks"


@pytest.fixture(scope="module")
def exercise(cluster: Cluster) -> Iterator[Exercise]:
    with tiny_exercise(cluster, NAMESPACE) as one:
        yield one


def set_gates(target: Target, *gates: str) -> None:
    patch = {"spec": {"configuration": {"developerConfiguration": {"featureGates": list(gates)}}}}
    object_ = ("kubevirt", "kubevirt", "-n", kubevirt.NAMESPACE)
    target.kubectl("patch", *object_, "--type=merge", "-p", json.dumps(patch))


@contextmanager
def gate_off(exercise: Exercise) -> Iterator[None]:
    set_gates(exercise.target)
    try:
        yield
    finally:
        set_gates(exercise.target, exercise.cluster.release.gate)


@pytest.fixture
def sidecar(exercise: Exercise) -> None:
    """Skip tests of the sidecar in a VM's pod if this KubeVirt has none."""
    if exercise.cluster.release.gate != "Sidecar":
        pytest.skip("this KubeVirt has no hook in the VM's pod")


def hooks(exercise: Exercise) -> set[str]:
    """Process IDs of the hooks on the node."""
    return set(exercise.node("pgrep -f '[k]igi-disk-hook' || true").split())


@contextmanager
def hooks_killed(exercise: Exercise) -> Iterator[None]:
    """Within the context, kill every new hook on the node immediately."""
    done, others = threading.Event(), hooks(exercise)

    def kill() -> None:
        while not done.wait(0.05):
            if new := hooks(exercise) - others:
                exercise.node(f"kill -9 {' '.join(new)} || true")

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join(QUICK_S)
        assert not killer.is_alive(), "the search for hooks on the node did not end"


def stalled(exercise: Exercise) -> str:
    """Reason and message of the condition Stalled, or "" if it is not True."""
    for condition in exercise.status().get("conditions", []):
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return f"{condition['reason']}: {condition['message']}"
    return ""


def wait_until_recovered(exercise: Exercise) -> None:
    """Wait until the deployment is no longer Stalled and becomes Ready, without another change of its spec."""
    eventually(lambda: not stalled(exercise), "the end of Stalled", 60)
    exercise.wait_ready()


def test_without_the_gate_no_vm_starts_and_with_it_the_deployment_continues(exercise: Exercise) -> None:
    with gate_off(exercise):
        exercise.apply("infected")
        stalled_text = eventually(lambda: stalled(exercise), "the condition Stalled", 120)
        assert stalled_text.startswith("HookUnavailable")
        assert exercise.cluster.release.gate in stalled_text
        assert exercise.target.get("virtualmachineinstances", "-n", NAMESPACE)["items"] == []
    wait_until_recovered(exercise)
    for name in RUNNING:
        exercise.report(name, machine=name, boot="1")


def test_a_gate_that_is_turned_off_does_not_disturb_running_guests_but_delays_a_reset(exercise: Exercise) -> None:
    before = {name: exercise.vmi_uid(name) for name in RUNNING}
    exercise.send("mail1", "write kept", "KIGI-WROTE kept")
    with gate_off(exercise):
        exercise.reset("mail1", wait=False)
        stalled_text = eventually(lambda: stalled(exercise), "the condition Stalled", 120)
        assert stalled_text.startswith("HookUnavailable")
        assert {name: exercise.vmi_uid(name) for name in RUNNING} == before
    wait_until_recovered(exercise)
    exercise.report("mail1", machine="mail1", boot="1")
    exercise.send("mail1", "show", "KIGI-WRITTEN none")
    assert exercise.vmi_uid("desktop1") == before["desktop1"]


@pytest.mark.usefixtures("sidecar")
def test_a_vm_whose_hook_is_killed_does_not_run_and_a_reset_repairs_it(exercise: Exercise) -> None:
    """KubeVirt does not report it: virt-launcher waits for its hook, and gives up after some minutes."""
    old = exercise.vmi_uid("mail1")
    with hooks_killed(exercise):
        exercise.reset("mail1", wait=False)
        exercise.next_run("mail1", old)
        eventually(lambda: exercise.instance("mail1")["status"].get("phase") == "Scheduled", "its pod", 120)
        for _ in range(30):
            assert exercise.instance("mail1")["status"].get("phase") != "Running"
            assert exercise.machine("mail1")["state"] != "Running"
            time.sleep(1)
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", machine="mail1", boot="1")


@pytest.mark.usefixtures("sidecar")
def test_a_hook_that_ends_later_does_not_disturb_the_guest_and_is_reported(exercise: Exercise) -> None:
    known = hooks(exercise)
    exercise.reset("mail1")
    exercise.wait_ready()
    exercise.report("mail1", machine="mail1", boot="1")
    uid = exercise.vmi_uid("mail1")
    exercise.node(f"kill -9 {' '.join(hooks(exercise) - known)}")
    eventually(lambda: "hook-sidecar" in exercise.machine("mail1").get("message", ""), "the lost part", 120)
    exercise.report("mail1", machine="mail1", boot="1")
    assert exercise.vmi_uid("mail1") == uid
    exercise.virtctl("restart", exercise.vm("mail1"))
    exercise.next_run("mail1", uid)
    exercise.wait_ready()
    exercise.report("mail1", machine="mail1", boot="2")
