"""Helm installs, upgrades and uninstalls Kigi on a real API server, with an operator and with simulated VMs."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import CLAIM, MACHINE, VMI, VOLUME
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async, install_repository
from tests.support.deployments import apply, deployment, listing, trees, wait_ready
from tests.support.helm import Helm
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object
from tests.support.operator_run import FAST, OperatorRun
from tools.chart.build import Release

SYSTEM, TEAM = "kigi-elsewhere", "team"
IMAGES = ("operator", "daemon")
READY_S = 240.0
"""Until six simulated VMs run, on a busy machine."""
pytestmark = pytest.mark.timeout(900)


def release(version: str, tag: str) -> Release:
    return Release(version, dict.fromkeys(IMAGES, f"kigi:{tag}"))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane"), parts=["controller-manager"]) as server:
        install_kubevirt_crds(server)
        install_kubevirt_object(server)
        for name in (SYSTEM, TEAM):
            server.kubectl("create", "namespace", name)
        yield server


def versions(plane: ControlPlane) -> dict[str, int]:
    """Generation of each object that the release has, which counts the changes of its spec."""
    kinds = (
        "deployments,daemonsets,services,serviceaccounts,networkpolicies,poddisruptionbudgets,roles,rolebindings,"
        "clusterroles,clusterrolebindings,csidrivers,customresourcedefinitions,validatingadmissionpolicies"
    )
    listed = json.loads(
        plane.kubectl("get", kinds, "-n", SYSTEM, "-l", "app.kubernetes.io/managed-by=Helm", "-o", "json")
    )
    return {
        f"{each['kind']} {each['metadata']['name']}": each["metadata"].get("generation", 0) for each in listed["items"]
    }


async def running(kube: KubeClient) -> dict[str, Any]:
    """Identity of everything that a VM consists of."""
    found = {}
    for resource in (MACHINE, VMI, VOLUME, CLAIM):
        for name, item in (await listing(kube, resource, TEAM)).items():
            found[f"{resource.plural} {name}"] = item["metadata"]["uid"]
    return found


async def test_an_upgrade_restarts_nothing_without_need(plane: ControlPlane, tmp_path: Path) -> None:
    previous = Helm(tmp_path / "a", release("0.0.9", "0.0.9"), plane.kubeconfig)
    present = Helm(tmp_path / "b", release("0.1.0", "0.1.0"), plane.kubeconfig)

    async def helm(chart: Helm, verb: str, *more: str) -> str:
        name = [] if verb == "uninstall" else [str(chart.archive)]
        return await asyncio.to_thread(chart, verb, "kigi", *name, "--namespace", SYSTEM, *more)

    await helm(previous, "install")
    install_repository(plane)
    account = str(
        plane.user_kubeconfig(
            f"system:serviceaccount:{SYSTEM}:kigi-operator", ["system:serviceaccounts", "system:authenticated"]
        )
    )
    settings = FAST.model_copy(update={"namespace": SYSTEM, "resync_s": 2.0, "hook_image": ""})
    async with (
        KubeClient(await load_configuration(str(plane.kubeconfig))) as kube,
        Actors(str(plane.kubeconfig), nodes=2, namespace=SYSTEM) as actors,
    ):
        async with OperatorRun(account, settings=settings):
            apply(plane, TEAM, *trees(), deployment(replicas=2))
            await wait_ready(kube, TEAM, timeout_s=READY_S)
        before, starts, installed = await running(kube), len(actors.starts), versions(plane)
        assert len(before) == 4 * 6
        assert installed["Deployment kigi-operator"] == 1

        # The same chart again: no object changes, so that Kubernetes restarts no pod of Kigi either.
        await helm(previous, "upgrade")
        assert versions(plane) == installed

        # Another version: the pods of Kigi are replaced, because their image is another, and nothing else is.
        await helm(present, "upgrade")
        changed = {name for name, generation in versions(plane).items() if generation != installed.get(name)}
        assert changed == {"Deployment kigi-operator", "DaemonSet kigi-node-cache"}
        async with OperatorRun(account, settings=settings):
            what = "the next start of each VM has the hook of the new version"
            await eventually_async(lambda: have_hook(kube, "kigi:0.1.0"), READY_S, what)
            await wait_ready(kube, TEAM, timeout_s=READY_S)
        assert await running(kube) == before
        assert len(actors.starts) == starts
        assert not actors.violations

        # Uninstalling keeps the definitions, the objects, and everything that runs.
        await helm(present, "uninstall")
        kept = versions(plane)
        assert {name.split()[0] for name in kept} == {"CustomResourceDefinition"}
        assert await running(kube) == before
        assert plane.kubectl("get", "systemdeployments", "-n", TEAM, "-o", "name").split()


async def have_hook(kube: KubeClient, image: str) -> bool:
    """Whether the hook sidecar in each VM's template has that image."""
    machines = (await listing(kube, MACHINE, TEAM)).values()
    annotations = [each["spec"]["template"]["metadata"]["annotations"] for each in machines]
    sidecars = [json.loads(each["hooks.kubevirt.io/hookSidecars"]) for each in annotations]
    return all(each["image"] == image for (each,) in sidecars)


async def test_an_uninstalled_release_is_installed_again_over_what_it_kept(plane: ControlPlane, tmp_path: Path) -> None:
    chart = Helm(tmp_path, release("0.1.0", "0.1.0"), plane.kubeconfig)
    await asyncio.to_thread(chart, "install", "kigi", str(chart.archive), "--namespace", SYSTEM)
    assert "Deployment kigi-operator" in versions(plane)


def test_keys_of_the_first_s3_server_survive_upgrades(plane: ControlPlane, tmp_path: Path) -> None:
    chart = Helm(tmp_path, release("0.1.1", "0.1.0"), plane.kubeconfig)

    def keys() -> dict[str, str]:
        names = ("secret", "kigi-s3-reader", "kigi-s3-writer")
        listed = json.loads(plane.kubectl("get", *names, "-n", SYSTEM, "-o", "json"))["items"]
        return {
            f"{each['metadata']['name']} {name}": base64.b64decode(value).decode()
            for each in listed
            for name, value in each["data"].items()
        }

    def repository() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(plane.kubectl("get", "layerrepository", "first", "-o", "json"))
        return found

    upgrade = ("upgrade", "kigi", str(chart.archive), "--namespace", SYSTEM, "--reset-values")
    enabled = ("--set", "s3.enabled=true", "--set", "s3.repository=first", "--set", "s3.bucket=firsts")
    chart(*upgrade, *enabled)
    first, made = keys(), repository()
    assert len(first) == len(set(first.values())) == 4
    assert len(first["kigi-s3-writer secretAccessKey"]) == 40
    assert made["spec"]["s3"]["bucket"] == "firsts"
    assert made["spec"]["s3"]["endpoint"] == f"http://kigi-s3.{SYSTEM}.svc:9000"

    chart(*upgrade, *enabled, "--set", "operator.replicas=1")
    assert keys() == first
    assert repository()["metadata"]["uid"] == made["metadata"]["uid"], "an upgrade does not replace the repository"

    chart(*upgrade)
    assert keys() == first, "and without the server, they are kept for the volume"
    chart(*upgrade, *enabled)
    assert keys() == first
