"""A VM survives every timeout that could end it, and after a kill of virt-launcher its pod ends and the VM restarts.

The VM starts before all other tests of this tier and runs during them; the checks of this file run afterwards. The last
test removes the VM, because the cluster may be gone at the end of the session.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.prepare import prepare
from demo.targets import Target, install_kigi
from kigi.domain.heartbeat import SILENT_AFTER_S
from kigi.hook.launcher import APPEARS_WITHIN_S, MISSES, PERIOD_S, read_sockets
from kigi_cache.node.kube import REQUEST_TIMEOUT_S, WATCH_S
from kigi_cache.node.node_cache import API_SILENCE_S
from localcluster.build import binary
from localcluster.cluster import Cluster
from scenario import kubernetes
from tests.e2e.exercise import Exercise, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAMESPACE = "endurance"
MACHINE, OTHER = "mail1", "desktop1"
MANIFESTS = Path(__file__).parents[2] / "manifests"
MARGIN_S = 30.0
SIDECAR_ENDS_S = (MISSES + 1) * PERIOD_S + MARGIN_S
"""Maximum time from the end of virt-launcher to the end of the sidecar."""


def timeouts_s() -> dict[str, float]:
    """Timeouts of hook, daemon, operator and manifests after which a component might treat a running VM as lost."""
    found = {
        "the hook waits for virt-launcher": APPEARS_WITHIN_S + MISSES * PERIOD_S,
        "the daemon's watch ends": WATCH_S + REQUEST_TIMEOUT_S,
        "the daemon misses the API server": API_SILENCE_S,
        "the operator misses a daemon": SILENT_AFTER_S,
    }
    for path in sorted(MANIFESTS.glob("*/d*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            template = document.get("spec", {}).get("template", {}).get("spec", {})
            for container in template.get("containers", []):
                for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
                    if probe := container.get(kind):
                        failures = probe.get("failureThreshold", 3)
                        found[f"{kind} of {container['name']}"] = float(probe.get("periodSeconds", 10) * failures)
    return found


@dataclass(frozen=True)
class FirstRun:
    """The VM's first run: uid of its VMI, name of its pod, and its guest's report."""

    uid: str
    pod: str
    report: Mapping[str, str]


@pytest.fixture(scope="session")
def exercise(cluster: Cluster) -> Exercise:
    """The tiny exercise, of which one machine runs."""
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    published = prepare(target, "tiny", NAMESPACE)
    target.kubectl("delete", "systemdeployment", "--all", "-n", NAMESPACE, "--timeout=600s")
    target.apply(*kubernetes.system_nodes(published.manifest, NAMESPACE))
    return Exercise(cluster, target, published)


@pytest.fixture(scope="session")
def first_run(exercise: Exercise) -> FirstRun:
    exercise.apply("infected", {OTHER: {"powerState": "Off"}})
    exercise.wait_ready()
    report = exercise.report(MACHINE, machine=MACHINE, boot="1")
    return FirstRun(exercise.vmi_uid(MACHINE) or "", exercise.launcher(MACHINE), report)


def pod_of(exercise: Exercise, name: str) -> dict[str, Any]:
    return exercise.target.get("pod", name, "-n", NAMESPACE)


def statuses(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Statuses of the pod's containers, and of its init containers that keep running."""
    init = [one for one in pod["status"].get("initContainerStatuses", []) if "running" in one.get("state", {})]
    return [*init, *pod["status"].get("containerStatuses", [])]


def age_s(pod: dict[str, Any]) -> float:
    """Age of the container that started last; 0 if a container is not running."""
    started = [one["state"].get("running", {}).get("startedAt") for one in statuses(pod)]
    if not all(started):
        return 0.0
    return (datetime.now(UTC) - max(datetime.fromisoformat(each) for each in started)).total_seconds()


def disturbances(pod: dict[str, Any], vmi: dict[str, Any], deployment: dict[str, Any], uid: str) -> list[str]:
    """Signs of a disturbance: unready or restarted containers, conditions that are not Ready, another VMI."""
    found = [
        f"container {one['name']}: ready {one['ready']}, restarts {one['restartCount']}"
        for one in statuses(pod)
        if not one["ready"] or one["restartCount"]
    ]
    for what, status in (("pod", pod["status"]), ("VMI", vmi["status"]), ("deployment", deployment)):
        conditions: list[dict[str, str]] = status.get("conditions", [])
        ready = next((one for one in conditions if one["type"] == "Ready"), None)
        if ready is None or ready["status"] != "True":
            found.append(f"{what}: Ready is {ready}")
    return found if vmi["metadata"]["uid"] == uid else [*found, f"VMI: uid {vmi['metadata']['uid']}, not {uid}"]


def has_sidecar(exercise: Exercise) -> bool:
    return exercise.cluster.release.gate == "Sidecar"


def processes(exercise: Exercise, pod: dict[str, Any], container: str, pattern: str) -> list[str]:
    """Process IDs on the node that match the ``pgrep`` arguments, in the pod's container with this name prefix."""
    (identity,) = (one["containerID"].partition("//")[2] for one in statuses(pod) if one["name"].startswith(container))
    script = f"for p in $(pgrep {pattern}); do grep -q {identity} /proc/$p/cgroup && echo $p; done; true"
    return exercise.node(script).split()


def hooks(exercise: Exercise, pod: dict[str, Any]) -> list[str]:
    return processes(exercise, pod, "hook-sidecar", "-f '[k]igi-disk-hook'")


def is_gone(exercise: Exercise, pid: str) -> bool:
    return not exercise.node(f"[ -e /proc/{pid} ] && echo there || true")


@pytest.mark.first
def test_the_vm_starts_before_all_other_tests(first_run: FirstRun) -> None:
    assert first_run.uid
    assert first_run.report["boot"] == "1"


def test_the_vm_is_undisturbed_after_every_timeout(exercise: Exercise, first_run: FirstRun) -> None:
    limit = max(timeouts_s().values()) + MARGIN_S
    print(f"every timeout has passed after {limit:.0f} s: {timeouts_s()}")
    exercise.wait_ready()
    deadline = time.monotonic() + limit + 60
    while True:
        pod = pod_of(exercise, first_run.pod)
        assert disturbances(pod, exercise.instance(MACHINE), exercise.status(), first_run.uid) == []
        age = age_s(pod)
        if age > limit:
            break
        assert time.monotonic() < deadline, f"the youngest container is {age:.0f} s old, not {limit:.0f} s"
        time.sleep(10)
    print(f"the youngest container of the pod is {age:.0f} s old")
    if has_sidecar(exercise):
        assert len(hooks(exercise, pod)) == 1
    exercise.send(MACHINE, "write kept", "KIGI-WROTE kept")
    exercise.report(MACHINE, **first_run.report)


def test_the_hook_finds_virt_launchers_socket_in_the_pods_socket_table(exercise: Exercise, first_run: FirstRun) -> None:
    if not has_sidecar(exercise):
        pytest.skip("this KubeVirt has no hook in the VM's pod")
    (pid,) = hooks(exercise, pod_of(exercise, first_run.pod))
    sockets = read_sockets(exercise.node(f"cat /proc/{pid}/net/unix"))
    assert sockets.launcher, "virt-launcher's command socket"
    assert sockets.others, "libvirt's sockets"


def test_the_pod_of_a_killed_virt_launcher_ends_and_the_vm_restarts(exercise: Exercise, first_run: FirstRun) -> None:
    """A killed virt-launcher calls no Shutdown, so the sidecar ends by its own check of the socket."""
    pod = pod_of(exercise, first_run.pod)
    (launcher,) = processes(exercise, pod, "compute", "-x virt-launcher")
    sidecar = hooks(exercise, pod) if has_sidecar(exercise) else []
    started = time.monotonic()
    exercise.node(f"kill -9 {launcher}")
    for pid in sidecar:
        eventually(partial(is_gone, exercise, pid), "the sidecar's end", SIDECAR_ENDS_S)
        print(f"the sidecar ended after {time.monotonic() - started:.0f} s")
    selector = f"kubevirt.io/created-by={first_run.uid}"

    def ended() -> bool:
        pods = exercise.target.get("pods", "-n", NAMESPACE, "-l", selector)["items"]
        return all(one["status"]["phase"] in ("Succeeded", "Failed") for one in pods)

    eventually(ended, "the pod's end", SIDECAR_ENDS_S + MARGIN_S)
    print(f"the pod ended after {time.monotonic() - started:.0f} s")
    exercise.next_run(MACHINE, first_run.uid)
    exercise.wait_ready()
    exercise.report(MACHINE, machine=MACHINE, boot="2")
    exercise.send(MACHINE, "show", "KIGI-WRITTEN kept")


def test_deletion_removes_pods_overlays_and_namespace(exercise: Exercise) -> None:
    exercise.target.kubectl("delete", "systemdeployment", "--all", "-n", NAMESPACE, "--timeout=600s")
    eventually(lambda: exercise.target.get("pods", "-n", NAMESPACE)["items"] == [], "the pods' end", 300)
    assert exercise.node(f"ls /var/lib/kigi/volumes | grep '[.]{NAMESPACE}[.]' || true") == ""
    exercise.target.kubectl("delete", "namespace", NAMESPACE, "--timeout=300s")
