"""An upgrade from the last version with v1alpha1 while VMs run: no restart, no byte moved, every object keeps its uid.

It needs a cluster of its own and the repository's history, and so runs after the tests that share a cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.console import read_report
from demo.serial import ask, terminal
from demo.steps import fetched_bytes, wait_ready
from demo.targets import SYSTEM_NAMESPACE, Target, install_kigi
from localcluster.bounded import BUILD_S, QUICK_S, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from tests.e2e.exercise import READY_S, VIRTCTL_S, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]
REPOSITORY = Path(__file__).parents[2]
OLD = "8ecbc8327a85714be5341acdd03347f712c6fc8e"
"""Last commit whose API is v1alpha1."""
NAMESPACE, NAME = "tiny-exercise", "exercise"
RUNNING = ("mail1", "desktop1")
CONVERTED = "vmimagenodes,systemnodes,systemdeployments"
MIGRATE_S = 900.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A cluster of its own with the old version: ten VMs, of which two run."""
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    old = tmp_path_factory.mktemp("old")
    run(["git", "-C", REPOSITORY, "archive", "-o", old / "source.tar", OLD], timeout_s=QUICK_S)
    with tarfile.open(old / "source.tar") as archive:
        archive.extractall(old, filter="data")
    cluster = Cluster()
    assert cluster.down() == []
    try:
        # Without a cache of its own, kubectl would know the API of the cluster that had this address before.
        environment = {**os.environ, "KUBECACHEDIR": str(old / "kubectl-cache")}
        command = ["make", "-C", old, "try", f"PYTHON={sys.executable}"]
        done = run(command, timeout_s=BUILD_S, env=environment, check=False, merged=True)
        assert done.returncode == 0, done.stdout[-5000:]
        yield Target(cluster.environment(), str(binary("kubectl")))
    finally:
        assert cluster.down() == []


def old_deployment() -> dict[str, Any]:
    machines = [{"name": name, "running": True} for name in RUNNING]
    spec = {
        "system": {"name": "infected"},
        "running": False,
        "overrides": [{"instance": 0, "machines": machines}],
    }
    metadata = {"name": NAME, "namespace": NAMESPACE}
    return {"apiVersion": "kigi.dev/v1alpha1", "kind": "SystemDeployment", "metadata": metadata, "spec": spec}


def vm(machine: str) -> str:
    return f"{NAME}-0-{machine}"


def uids(target: Target, kinds: str, *scope: str) -> dict[str, str]:
    items = target.get(kinds, *scope)["items"]
    return {f"{item['kind']} {item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def parts(target: Target) -> dict[str, str]:
    """uids of all that a deployment has made: a restart or a new disk would change one of them."""
    made = "virtualmachines,virtualmachineinstances,persistentvolumeclaims"
    volumes = uids(target, "persistentvolumes", "-l", f"kigi.dev/namespace={NAMESPACE}")
    launchers = uids(target, "pods", "-n", NAMESPACE, "-l", "kubevirt.io=virt-launcher")
    return {**uids(target, made, "-n", NAMESPACE), **volumes, **launchers}


def send(target: Target, machine: str, line: str, answer: str) -> None:
    command = [str(Cluster().release.command("virtctl")), "console", "-n", NAMESPACE, vm(machine)]
    ask(lambda: terminal(command, {**os.environ, **target.environment}), line, answer, timeout_s=VIRTCTL_S)


def kigi(target: Target, *arguments: str) -> str:
    command = [sys.executable, "-m", "kigi.cli.main", *arguments]
    environment = {**os.environ, **target.environment}
    done = run(command, timeout_s=MIGRATE_S, env=environment, check=False, merged=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def report(target: Target, machine: str) -> dict[str, Any]:
    """The last report of a machine's guest."""

    def found() -> dict[str, Any] | None:
        vmi = target.get("virtualmachineinstance", vm(machine), "-n", NAMESPACE)
        answer = read_report(target, NAMESPACE, vm(machine), vmi["metadata"]["uid"])
        return answer if isinstance(answer, dict) else None

    return dict(eventually(found, f"a report of {machine}"))


def test_running_vms_survive_the_migration_and_the_new_version(target: Target, tmp_path: Path) -> None:
    target.apply(old_deployment())
    wait_ready(target, NAMESPACE, NAME, READY_S)
    for machine in RUNNING:
        assert report(target, machine)["boot"] == "1"
        send(target, machine, f"write {machine}", f"KIGI-WROTE {machine}")
    objects, made, moved = uids(target, CONVERTED, "-n", NAMESPACE), parts(target), fetched_bytes(target)
    assert moved > 0

    label = "app.kubernetes.io/name=kigi-operator"
    stop = ("scale", "deployment", "kigi-operator", "--replicas=0")
    target.kubectl("-n", SYSTEM_NAMESPACE, *stop)
    target.kubectl("-n", SYSTEM_NAMESPACE, "wait", "--for=delete", "pod", "-l", label, "--timeout=120s")
    options = ["--crds", str(REPOSITORY / "crds"), "--backup", str(tmp_path / "before.json")]
    kigi(target, "migrate", *options, "--dry-run")
    kigi(target, "migrate", *options, "--yes")
    shutil.rmtree(target.environment["KUBECACHEDIR"])  # kubectl would ask for v1alpha1 for hours
    assert uids(target, CONVERTED, "-n", NAMESPACE) == objects
    Cluster().load_kigi()
    install_kigi(target, repository=False)

    wait_ready(target, NAMESPACE, NAME, READY_S)
    assert uids(target, CONVERTED, "-n", NAMESPACE) == objects
    assert parts(target) == made
    assert fetched_bytes(target) == moved
    for machine in RUNNING:
        send(target, machine, "show", f"KIGI-WRITTEN {machine}")
        assert report(target, machine)["boot"] == "1"


def test_the_new_version_goes_on_with_the_migrated_deployment(target: Target) -> None:
    """A switch, a reset of one machine, and the deletion of the deployment with all of its disks."""
    target.kubectl("delete", "crd", "nodecaches.kigi.dev")
    before = parts(target)
    kigi(target, "reset", NAME, "0", "mail1", "--yes", "-n", NAMESPACE)
    reset, kept = (f"VirtualMachineInstance {vm(name)}" for name in RUNNING)
    eventually(lambda: parts(target).get(reset) not in (before[reset], None), "another run of mail1", READY_S)
    wait_ready(target, NAMESPACE, NAME, READY_S)
    assert parts(target)[kept] == before[kept]
    patch = json.dumps({"spec": {"systemRef": {"name": "cleaned"}}})
    target.kubectl("patch", "systemdeployment", NAME, "-n", NAMESPACE, "--type=merge", "-p", patch)
    wait_ready(target, NAMESPACE, NAME, READY_S)
    assert {report(target, machine)["machine"] for machine in RUNNING} == set(RUNNING)
    target.kubectl("delete", "systemdeployment", NAME, "-n", NAMESPACE, "--timeout=600s")
    assert parts(target) == {}
