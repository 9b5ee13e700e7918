"""Twenty switches in a row leave nothing behind, and the processes of Kigi stay as large as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from localcluster.full import Cluster
from tests.e2e.exercise import RUNNING, Exercise, eventually, tiny_exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAMESPACE = "switches"
SWITCHES = 20
WARM = 5
"""Switches before the first look: by then imports, pools and caches are filled."""
MAY_GROW = 24 * 2**20
"""Bytes that a process may grow in the 15 switches after: noise of the allocator; a kept VM object is 10 kB."""
MAY_OPEN = 8
"""File descriptors that a process may have more of: connections that happen to be open at the second look."""
PROCESSES = ("kigi-operator", "kigi-cache")


@dataclass(frozen=True)
class Remains:
    """How many there are of what a switch makes anew and takes away; the last two belong to no pod of the cluster."""

    mounts: int
    files: int
    pods: int
    volumes: int
    claims: int
    cgroups_without_pod: int
    folders_without_pod: int

    @classmethod
    def of(cls, exercise: Exercise) -> Remains:
        """Counted now."""
        namespace, target = exercise.namespace, exercise.target
        pods = {str(pod["metadata"]["uid"]) for pod in target.get("pods", "-A")["items"]}
        cgroups = exercise.node("find /sys/fs/cgroup -type d -name 'pod*-*-*' -printf '%f\\n'").split()
        folders = exercise.node("ls /var/lib/kubelet/pods").split()
        return cls(
            mounts=int(exercise.node(f"grep -c {namespace} /proc/1/mountinfo || true")),
            files=int(exercise.node(f"find /var/lib/kigi/volumes -path '*{namespace}*' | wc -l")),
            pods=len(target.get("pods", "-n", namespace)["items"]),
            volumes=len(target.get("persistentvolumes", "-l", f"kigi.dev/namespace={namespace}")["items"]),
            claims=len(target.get("persistentvolumeclaims", "-n", namespace)["items"]),
            cgroups_without_pod=len({name.removeprefix("pod") for name in cgroups} - pods),
            folders_without_pod=len(set(folders) - pods),
        )


@pytest.fixture
def exercise(cluster: Cluster) -> Iterator[Exercise]:
    with tiny_exercise(cluster, NAMESPACE) as one:
        yield one


@dataclass(frozen=True)
class Process:
    """What a process holds: bytes of resident memory, and open file descriptors."""

    memory: int
    descriptors: int


def processes(exercise: Exercise) -> dict[str, Process]:
    """Kigi's processes on the node: program and process ID."""
    found = {}
    for name in PROCESSES:
        for pid in exercise.node(f"pgrep -f '/bin/[{name[0]}]{name[1:]}'").split():
            script = f"awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status; ls /proc/{pid}/fd | wc -l"
            kilobytes, descriptors = exercise.node(script).split()
            found[f"{name} {pid}"] = Process(int(kilobytes) * 1024, int(descriptors))
    return found


def settled(exercise: Exercise) -> Remains | None:
    """What there is, when no pod's end has left folders for the kubelet to tidy up."""
    found = Remains.of(exercise)
    return None if found.cgroups_without_pod or found.folders_without_pod else found


def test_twenty_switches_leak_nothing(exercise: Exercise) -> None:
    exercise.apply("infected")
    exercise.wait_ready()
    before = eventually(lambda: settled(exercise), "the end of earlier tests' pods", 180)
    held = processes(exercise)
    assert len(held) >= len(PROCESSES)
    assert before.pods == len(RUNNING)
    print(f"before: {before}, {_told(held)}")
    for number in range(1, SWITCHES + 1):
        exercise.apply("cleaned" if number % 2 else "infected")
        exercise.wait_ready()
        if number == WARM:
            held = processes(exercise)
        print(f"switch {number}: {_told(processes(exercise))}")
    eventually(lambda: Remains.of(exercise) == before, f"{before} again, now {Remains.of(exercise)}", 180)
    for name in RUNNING:
        exercise.says(name, state=exercise.chapter.manifest.guests["infected"][name].state, boot="1")
        assert exercise.machine(name)["revision"] == SWITCHES + 1
    after = processes(exercise)
    print(f"after: {Remains.of(exercise)}, {_told(after)}")
    assert after.keys() == held.keys(), "a process was started again"
    assert {name: more for name in after if (more := after[name].memory - held[name].memory) > MAY_GROW} == {}
    assert {name: more for name in after if (more := after[name].descriptors - held[name].descriptors) > MAY_OPEN} == {}


def _told(held: dict[str, Process]) -> str:
    return ", ".join(f"{name}: {one.memory / 1e6:.1f} MB, {one.descriptors} files" for name, one in held.items())
