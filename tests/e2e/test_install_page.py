"""The pages on installation and uninstallation, word by word, on real nodes with KubeVirt: from nothing to ten VMs.

Two things of a site do not exist here. Instead of ``docker build`` and ``docker push``, the cluster gets the image
under the page's name; and where the machine's disk has less free space than the daemon keeps free, it keeps less.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kigi.cli.demo.exercise import MACHINES
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.kigi_image import build_kigi_image
from localcluster.node import node_address
from localcluster.paths import cache_dir
from localcluster.s3 import ROOT as OWNER
from localcluster.s3 import S3Server
from localcluster.services import add_services, load_s3_image, renew_volumes
from localcluster.system import ensure_apt_packages
from tests.campaigns.stolen_s3 import SETUPS, USERS, prepare
from tests.support.cluster import eventually
from tests.support.documented import ROOT
from tests.support.install_page import (
    IMAGE,
    PREPARATION,
    SYSTEM,
    adapt_repository,
    five_commands,
    overlay_namespace,
    steps,
    uninstallation,
    write_overlay,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

COMMAND_S = 1800
FREE_SHARE = 0.2
"""Of the disk: more than KIGI_MIN_FREE with what the cluster itself writes."""
SKIPPED = shutil.ignore_patterns(".git", ".venv", "dist", ".out", "__pycache__", ".mypy_cache", ".ruff_cache")
KINDS = (
    "crd,namespace,persistentvolume,clusterrole,clusterrolebinding,csidriver,validatingadmissionpolicy,"
    "validatingadmissionpolicybinding,validatingwebhookconfiguration,mutatingwebhookconfiguration,priorityclass"
)


class Person:
    """A shell on a machine outside of the cluster, with a checkout. It knows no names of Services."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder / "checkout", cluster
        shutil.copytree(ROOT, self.folder, ignore=SKIPPED, symlinks=True)
        (self.folder / ".venv").symlink_to(ROOT / ".venv")  # so that `make chart` makes none
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name in ("kubectl", "kustomize", "helm"):
            (self.programs / name).symlink_to(binary(name))
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "KIGI_", "PYTHON"))},
            "PATH": f"{self.programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "KUBECONFIG": str(cluster.kubeconfig),
            "KUBECACHEDIR": str(folder / "kubectl"),
            "PIPX_HOME": str(folder / "pipx"),
            "PIPX_BIN_DIR": str(self.programs),
            **{f"HELM_{kind}_HOME": str(folder / "helm" / kind) for kind in ("CACHE", "CONFIG", "DATA")},
            "COLUMNS": "200",
        }
        self.exported: dict[str, str] = {}
        """Variables that the page asks for."""

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as it is on the page; AssertionError with its output if it fails."""
        print(f"$ {command}", flush=True)
        done = subprocess.run(
            ["bash", "-ceu", command], cwd=self.folder, env={**self._environment, **self.exported}, capture_output=True,
            text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        print(done.stdout, done.stderr, flush=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def keep_less_free(self, namespace: str) -> None:
        """In place of a larger disk."""
        disk = shutil.disk_usage(self.cluster.directory)
        if disk.free > FREE_SHARE * disk.total:
            return
        daemon = "daemonset/kigi-node-cache"
        self.run(f"kubectl -n {namespace} set env {daemon} -c cache KIGI_MIN_FREE=1Gi")
        self.run(f"kubectl -n {namespace} rollout status {daemon} --timeout=5m")


@pytest.fixture(scope="module")
def person(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Person:
    ensure_apt_packages(("pipx", "make"))
    cluster.load_images([dataclasses.replace(build_kigi_image(cache_dir()), name=IMAGE)])
    return Person(tmp_path_factory.mktemp("site"), cluster)


@pytest.fixture
def names(cluster: Cluster) -> None:
    """What conforming clusters have: addresses and names of Services, and a default StorageClass with a volume."""
    add_services(cluster)
    renew_volumes(cluster)
    load_s3_image(cluster)


@pytest.fixture(scope="module")
def s3(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A bucket outside of the cluster, with what `kigi repository check` asks for."""
    with S3Server(tmp_path_factory.mktemp("bucket"), node_address(1), versions=True) as server:
        prepare(server)
        yield server


@pytest.fixture
def empty(person: Person) -> Iterator[None]:
    """A cluster with KubeVirt and without Kigi and its gate."""
    assert left(person) == [], "python -m localcluster down removes it"
    set_gates(person.cluster, ["ExpandDisks"])
    yield
    set_gates(person.cluster, [person.cluster.release.gate])


def set_gates(cluster: Cluster, gates: list[str]) -> None:
    """Feature gates of KubeVirt; its webhook has no endpoint while virt-operator starts again on a busy machine."""
    body = json.dumps({"spec": {"configuration": {"developerConfiguration": {"featureGates": gates}}}})
    patch = ("-n", "kubevirt", "patch", "kubevirt", "kubevirt", "--type", "merge", "-p", body)

    def is_patched() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            cluster.kubectl(*patch)
            return True
        return False

    eventually(is_patched, 180, "KubeVirt takes its feature gates")


def left(person: Person) -> list[str]:
    """What Kigi has in the cluster, and on its nodes."""
    listed = person.cluster.kubectl("get", KINDS, "-o", "name", "--ignore-not-found").splitlines()
    found = [name for name in listed if "kigi" in name or "vm-range" in name]
    found += person.cluster.kubectl("get", "vmi,vm,pvc", "-A", "-o", "name").splitlines()
    return found + [str(path) for node in person.cluster.nodes() for path in (node.directory / "kigi").glob("*")]


def assert_ten_vms_run(person: Person) -> str:
    """Ten VMs of one demo run, and each guest has reported on its console; their namespace."""
    (namespace,) = json.loads(person.cluster.kubectl("get", "ns", "-l", "kigi.dev/demo", "-o", "json"))["items"]
    name = str(namespace["metadata"]["name"])
    vmis = json.loads(person.cluster.kubectl("get", "vmi", "-n", name, "-o", "json"))["items"]
    assert [vmi["status"]["phase"] for vmi in vmis] == ["Running"] * len(MACHINES)
    assert len(MACHINES) == 10
    pods = person.cluster.kubectl("get", "pods", "-n", name, "-l", "kubevirt.io=virt-launcher", "-o", "name").split()
    reports = [person.cluster.kubectl("logs", "-n", name, pod, "-c", "guest-console-log") for pod in pods]
    assert sorted(each.partition("KIGI-GUEST machine=")[2].split()[0] for each in reports) == sorted(
        machine.name for machine in MACHINES
    )
    return name


def uninstall(person: Person, kept: tuple[str, ...], namespace: str, manifests: str = "manifests") -> None:
    """The order of the page; ``kept``: what its commands for the other way of installation begin with."""
    for command in uninstallation():
        if command.startswith(kept):
            continue
        if command.startswith("find /var/lib/kigi"):
            for node in person.cluster.nodes():
                node.enter("sh", "-c", command)
            continue
        person.run(command.replace(SYSTEM, namespace).replace("-k manifests", f"-k {manifests}"))
    with contextlib.suppress(AssertionError):
        eventually(lambda: not left(person), 120, "nothing is left")
    assert left(person) == []


OF_HELM = ("helm uninstall", "kubectl get crd", "kubectl delete namespace")
OF_KUSTOMIZE = ("kubectl delete -k manifests",)


def test_each_command_of_the_page_is_for_one_way() -> None:
    of_both = [each for each in uninstallation() if not each.startswith((*OF_HELM, *OF_KUSTOMIZE))]
    assert len(of_both) + len(OF_HELM) + len(OF_KUSTOMIZE) == len(uninstallation())


@pytest.mark.parametrize("namespace", [SYSTEM, overlay_namespace()])
def test_the_steps_end_with_ten_vms(person: Person, s3: S3Server, empty: None, namespace: str) -> None:
    """With kustomize, and a bucket outside of the cluster."""
    has_overlay = namespace != SYSTEM
    for name in ("manifests", "kigi"):
        shutil.rmtree(person.folder / name, ignore_errors=True)
    shutil.copytree(ROOT / "manifests", person.folder / "manifests")
    repositories = person.folder / "manifests/examples/repositories.yaml"
    adapt_repository(repositories, s3.endpoint, SETUPS[1], USERS["reader"], USERS["writer"], namespace)
    person.exported = {"AWS_ACCESS_KEY_ID": OWNER.access_key, "AWS_SECRET_ACCESS_KEY": OWNER.secret_key}
    for command in steps():
        if has_overlay and "kustomize edit set image" in command:
            continue  # the overlay names the image
        if has_overlay and command == "kubectl apply --server-side -k manifests":
            command = write_overlay(person.folder)
        done = person.run(command.replace(f"-n {SYSTEM}", f"-n {namespace}"))
        if "condition=Available" in command:
            person.keep_less_free(namespace)
    assert "guests" in done.stderr
    assert_ten_vms_run(person)
    uninstall(person, OF_HELM, namespace, "kigi" if has_overlay else "manifests")


@pytest.mark.parametrize("namespace", [SYSTEM, "vm-range"])
def test_the_five_commands_end_with_ten_vms(person: Person, empty: None, names: None, namespace: str) -> None:
    """With Helm, and an S3 server inside the cluster that this machine reaches through the API server alone."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(f"kigi-s3.{namespace}.svc", 9000)
        pytest.fail("this machine resolves names of Services: the test would not show the tunnel")
    person.exported = {}
    person.run(PREPARATION[-1])
    for command in five_commands():
        done = person.run(command.replace(SYSTEM, namespace))
        if command.startswith("helm install"):
            person.keep_less_free(namespace)
    assert f"using the keys of Secret {namespace}/kigi-s3-writer" in done.stderr
    assert_ten_vms_run(person)
    if namespace == SYSTEM:
        assert_a_whole_run_moves_the_least(person)
    uninstall(person, OF_KUSTOMIZE, namespace)


def assert_a_whole_run_moves_the_least(person: Person) -> None:
    """`kigi demo` through all its steps, beside the ten VMs, through the same tunnel."""
    report = json.loads(person.run("kigi demo -o json").stdout)
    assert (report["error"], report["left"]) == (None, [])
    moved = [(step["name"], step["moved_bytes"], step["minimum_bytes"]) for step in report["steps"]]
    assert len(moved) == 5
    assert [each for each in moved if each[1] != each[2]] == []
    assert_ten_vms_run(person)
