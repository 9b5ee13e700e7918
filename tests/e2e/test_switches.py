"""Twenty consecutive switches leak no mounts, files or objects, and Kigi's processes do not grow."""

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
"""Switches before the first sample of memory: then imports, pools and caches are filled."""
MAY_GROW = 24 * 2**20
"""Bytes that a process may grow in the 15 later switches: noise of the allocator; a leaked VM object is 10 kB."""
WINDOW = 5
"""Consecutive samples; the minimum of their file descriptors counts, because open connections vary."""
MAY_OPEN = 4
"""File descriptors that a process may gain between the first and the last window, which are ten switches apart."""
PROCESSES = ("kigi-operator", "kigi-cache")


@dataclass(frozen=True)
class Remains:
    """Numbers of objects that a switch replaces; the last two are remains of pods that no longer exist."""

    mounts: int
    files: int
    pods: int
    volumes: int
    claims: int
    cgroups_without_pod: int
    folders_without_pod: int

    @classmethod
    def of(cls, exercise: Exercise) -> Remains:
        """The current numbers."""
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
    """Resident memory in bytes, and number of open file descriptors, of a process."""

    memory: int
    descriptors: int


def processes(exercise: Exercise) -> dict[str, Process]:
    """``program pid`` -> figures of Kigi's processes on the node."""
    found = {}
    for name in PROCESSES:
        for pid in exercise.node(f"pgrep -f '/bin/[{name[0]}]{name[1:]}'").split():
            script = f"awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status; ls /proc/{pid}/fd | wc -l"
            kilobytes, descriptors = exercise.node(script).split()
            found[f"{name} {pid}"] = Process(int(kilobytes) * 1024, int(descriptors))
    return found


def quiet(exercise: Exercise) -> Remains | None:
    """The current numbers, or None while the kubelet still removes remains of earlier pods."""
    found = Remains.of(exercise)
    return None if found.cgroups_without_pod or found.folders_without_pod else found


def test_twenty_switches_leak_nothing(exercise: Exercise) -> None:
    exercise.apply("infected")
    exercise.wait_ready()
    before = eventually(lambda: quiet(exercise), "removal of earlier tests' pods", 180)
    start = processes(exercise)
    assert len(start) >= len(PROCESSES)
    assert before.pods == len(RUNNING)
    print(f"before: {before}, {_shown(start)}")
    samples = []
    for number in range(1, SWITCHES + 1):
        exercise.apply("cleaned" if number % 2 else "infected")
        exercise.wait_ready()
        samples.append(processes(exercise))
        print(f"switch {number}: {_shown(samples[-1])}")
    eventually(lambda: Remains.of(exercise) == before, f"return to {before}, now {Remains.of(exercise)}", 180)
    for name in RUNNING:
        exercise.report(name, state=exercise.published.manifest.guests["infected"][name].state, boot="1")
        assert exercise.machine(name)["revision"] == SWITCHES + 1
    print(f"after: {Remains.of(exercise)}")
    first, last = samples[WARM - 1], samples[-1]
    assert all(sample.keys() == start.keys() for sample in samples), "a process restarted"
    assert {name: more for name in start if (more := last[name].memory - first[name].memory) > MAY_GROW} == {}
    fewest = [_fewest(some) for some in (samples[WARM - 1 : WARM - 1 + WINDOW], samples[-WINDOW:])]
    assert {name: more for name in start if (more := fewest[1][name] - fewest[0][name]) > MAY_OPEN} == {}


def _fewest(samples: Sequence[Mapping[str, Process]]) -> dict[str, int]:
    """Process -> minimum of its file descriptors in these samples."""
    return {name: min(sample[name].descriptors for sample in samples) for name in samples[0]}


def _shown(start: dict[str, Process]) -> str:
    return ", ".join(f"{name}: {one.memory / 1e6:.1f} MB, {one.descriptors} files" for name, one in start.items())
