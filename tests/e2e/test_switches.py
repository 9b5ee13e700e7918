"""Twenty switches in a row leave nothing behind, and the processes of Kigi stay as large as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pytest

from localcluster.cluster import Cluster
from tests.e2e.exercise import RUNNING, Exercise, eventually, tiny_exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAMESPACE = "switches"
SWITCHES = 20
WARM = 5
"""Switches before the first look: by then imports, pools and caches are filled."""
MAY_GROW = 24 * 2**20
"""Bytes that a process may grow in the 15 switches after: noise of the allocator; a kept VM object is 10 kB."""
LOOKS = 5
"""Looks in a row of which the one with the fewest file descriptors counts: connections come and go between them."""
MAY_OPEN = 4
"""File descriptors that a process may have more of in the last looks than in the first ones, ten switches before."""
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
    looks = []
    for number in range(1, SWITCHES + 1):
        exercise.apply("cleaned" if number % 2 else "infected")
        exercise.wait_ready()
        looks.append(processes(exercise))
        print(f"switch {number}: {_told(looks[-1])}")
    eventually(lambda: Remains.of(exercise) == before, f"{before} again, now {Remains.of(exercise)}", 180)
    for name in RUNNING:
        exercise.says(name, state=exercise.published.manifest.guests["infected"][name].state, boot="1")
        assert exercise.machine(name)["revision"] == SWITCHES + 1
    print(f"after: {Remains.of(exercise)}")
    first, last = looks[WARM - 1], looks[-1]
    assert all(look.keys() == held.keys() for look in looks), "a process was started again"
    assert {name: more for name in held if (more := last[name].memory - first[name].memory) > MAY_GROW} == {}
    fewest = [_fewest(some) for some in (looks[WARM - 1 : WARM - 1 + LOOKS], looks[-LOOKS:])]
    assert {name: more for name in held if (more := fewest[1][name] - fewest[0][name]) > MAY_OPEN} == {}


def _fewest(looks: Sequence[Mapping[str, Process]]) -> dict[str, int]:
    """Process -> the least file descriptors that it had at any of these looks."""
    return {name: min(look[name].descriptors for look in looks) for name in looks[0]}


def _told(held: dict[str, Process]) -> str:
    return ", ".join(f"{name}: {one.memory / 1e6:.1f} MB, {one.descriptors} files" for name, one in held.items())
