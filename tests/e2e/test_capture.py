"""A running instance is captured and deployed: the copies have the guests' earlier writes and none of the later ones.

The tests build on each other, in this order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from localcluster.cluster import Cluster
from scenario import kubernetes
from tests.e2e.exercise import RUNNING, Exercise, eventually, tiny_exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAMESPACE = "captures"
STATE = "after-lesson-3"


@pytest.fixture(scope="module")
def exercise(cluster: Cluster) -> Iterator[Exercise]:
    with tiny_exercise(cluster, NAMESPACE) as one:
        one.apply("infected")
        one.wait_ready()
        yield one


def test_writes_of_guests_become_a_state_while_the_guests_keep_running(exercise: Exercise) -> None:
    exercise.send("mail1", "write kept", "KIGI-WROTE kept")
    before = {name: exercise.vmi_uid(name) for name in RUNNING}
    status = exercise.capture(STATE, target={"description": "the state after the third lesson"})
    assert {name: exercise.vmi_uid(name) for name in RUNNING} == before
    methods = {machine["name"]: machine["method"] for machine in status["machines"]}
    paused = "Pause" if status.get("pauseMessage") else "Stop"
    assert {name for name, method in methods.items() if method == paused} == set(RUNNING)
    assert "monitor" not in status.get("pauseMessage", ""), "the hook gives each VM a monitor that the daemon reaches"
    states = {disk["machine"]: disk["state"] for disk in status["disks"]}
    assert {name for name, state in states.items() if state == "Stored"} == set(RUNNING)
    assert {state for name, state in states.items() if name not in RUNNING} == {"Unchanged"}
    conditions = exercise.instance("mail1")["status"]["conditions"]
    assert not any(condition["type"] == "Paused" for condition in conditions)
    exercise.send("mail1", "show", "KIGI-WRITTEN kept")
    exercise.send("mail1", "write later", "KIGI-WROTE later")


def test_copies_of_the_captured_state_continue_from_the_moment_of_the_capture(exercise: Exercise) -> None:
    """Two instances of the new state run in parallel to the captured instance."""
    fork = replace(exercise, deployment="fork")
    machines = kubernetes.machines_on(["mail1"])
    fork.target.apply(
        *(kubernetes.system_instance(name, "fork", NAMESPACE, machines=machines) for name in ("1", "2")),
        kubernetes.system_deployment("fork", STATE, NAMESPACE, powerState="Off", replicas=2),
    )
    status = fork.wait_ready()
    assert status["plan"]["missingBytes"] < status["plan"]["totalBytes"] / 10
    for name in ("1", "2"):
        copy = replace(fork, instance_name=name)
        copy.report("mail1", machine="mail1", boot="2")
        copy.send("mail1", "show", "KIGI-WRITTEN kept")
    exercise.send("mail1", "show", "KIGI-WRITTEN later")
    fork.target.kubectl("delete", "systemdeployment", "fork", "-n", NAMESPACE, "--timeout=600s")


def test_vms_that_are_off_are_captured_too(exercise: Exercise) -> None:
    exercise.apply("infected", {name: {"powerState": "Off"} for name in RUNNING})
    eventually(lambda: exercise.vmi_uid("mail1") is None, "the VM's end", 300)
    status = exercise.capture("later", machines=["mail1"])
    assert [(machine["name"], machine["method"]) for machine in status["machines"]] == [("mail1", "Off")]
    (disk,) = status["disks"]
    assert disk["state"] == "Stored"
    assert "pauseMilliseconds" not in status["machines"][0]


def test_deleted_captures_leave_no_files_on_the_node(exercise: Exercise) -> None:
    exercise.target.kubectl("delete", "systemcapture", "--all", "-n", NAMESPACE, "--timeout=60s")
    assert exercise.node("ls /var/lib/kigi/captures") == ""
    assert exercise.target.get("systemnode", STATE, "-n", NAMESPACE)["spec"]["parentRef"] == {"name": "infected"}
