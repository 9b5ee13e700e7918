"""No VM starts on a layered disk without the hook: KubeVirt's gate off and on again, a hook that fails or is killed.

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
    """For tests of the hook in a VM's own pod."""
    if exercise.cluster.release.gate != "Sidecar":
        pytest.skip("this KubeVirt has no hook in the VM's pod")


def hooks(exercise: Exercise) -> set[str]:
    """Process IDs on the node."""
    return set(exercise.node("pgrep -f '[k]igi-disk-hook' || true").split())


@contextmanager
def hooks_killed(exercise: Exercise) -> Iterator[None]:
    """Every hook that starts on the node meanwhile dies at once."""
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
    """Reason and message of the condition Stalled, empty if it is not True."""
    for condition in exercise.status().get("conditions", []):
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return f"{condition['reason']}: {condition['message']}"
    return ""


def goes_on(exercise: Exercise) -> None:
    """Without another word it is Ready in the end."""
    eventually(lambda: not stalled(exercise), "the end of Stalled", 60)
    exercise.wait_ready()


def test_without_the_gate_nothing_starts_and_with_it_it_goes_on_by_itself(exercise: Exercise) -> None:
    with gate_off(exercise):
        exercise.apply("infected")
        said = eventually(lambda: stalled(exercise), "the condition Stalled", 120)
        assert said.startswith("HookUnavailable")
        assert exercise.cluster.release.gate in said
        assert exercise.target.get("virtualmachineinstances", "-n", NAMESPACE)["items"] == []
    goes_on(exercise)
    for name in RUNNING:
        exercise.says(name, machine=name, boot="1")


def test_a_gate_that_goes_leaves_running_guests_alone_and_holds_a_reset_back(exercise: Exercise) -> None:
    before = {name: exercise.vmi_uid(name) for name in RUNNING}
    exercise.tell("mail1", "write kept", "KIGI-WROTE kept")
    with gate_off(exercise):
        exercise.apply("infected", {"mail1": {"reset": "held back"}})
        said = eventually(lambda: stalled(exercise), "the condition Stalled", 120)
        assert said.startswith("HookUnavailable")
        assert {name: exercise.vmi_uid(name) for name in RUNNING} == before
    goes_on(exercise)
    exercise.says("mail1", machine="mail1", boot="1")
    exercise.tell("mail1", "show", "KIGI-WRITTEN none")
    assert exercise.vmi_uid("desktop1") == before["desktop1"]


@pytest.mark.usefixtures("sidecar")
def test_a_vm_whose_hook_is_killed_does_not_run_and_a_reset_brings_it_back(exercise: Exercise) -> None:
    """KubeVirt does not say so: virt-launcher waits for its hook, and gives up after some minutes."""
    old = exercise.vmi_uid("mail1")
    with hooks_killed(exercise):
        exercise.apply("infected", {"mail1": {"reset": "killed"}})
        exercise.next_run("mail1", old)
        eventually(lambda: exercise.instance("mail1")["status"].get("phase") == "Scheduled", "its pod", 120)
        for _ in range(30):
            assert exercise.instance("mail1")["status"].get("phase") != "Running"
            assert exercise.machine("mail1")["state"] != "Running"
            time.sleep(1)
    exercise.apply("infected", {"mail1": {"reset": "healed"}})
    exercise.wait_ready()
    exercise.says("mail1", machine="mail1", boot="1")


@pytest.mark.usefixtures("sidecar")
def test_a_hook_that_dies_later_does_not_disturb_the_guest_and_is_told(exercise: Exercise) -> None:
    known = hooks(exercise)
    exercise.apply("infected", {"mail1": {"reset": "later"}})
    exercise.wait_ready()
    exercise.says("mail1", machine="mail1", boot="1")
    uid = exercise.vmi_uid("mail1")
    exercise.node(f"kill -9 {' '.join(hooks(exercise) - known)}")
    eventually(lambda: "hook-sidecar" in exercise.machine("mail1").get("message", ""), "the lost part", 120)
    exercise.says("mail1", machine="mail1", boot="1")
    assert exercise.vmi_uid("mail1") == uid
    exercise.virtctl("restart", exercise.vm("mail1"))
    exercise.next_run("mail1", uid)
    exercise.wait_ready()
    exercise.says("mail1", machine="mail1", boot="2")
