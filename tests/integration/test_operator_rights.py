"""The real operator under its own service account: the rights of the manifests are enough for all that it does."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import EVENT, LEASE, MACHINE, NODE_CACHE
from kigi.domain.names import HOOK_SIDECARS
from kigi.runtime.leader import LEASE_NAME
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async, install_crds, install_repository
from tests.support.deployments import apply, deployment, get_deployment, is_ready, left_over, trees
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object
from tests.support.operator_run import FAST, OperatorRun
from tests.support.raw_api import RawApi

ROOT = Path(__file__).parents[2]
SYSTEM = "kigi-system"
TEAM = "rights"
IMAGE = "registry.example/kigi@sha256:" + "0" * 64


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("rights"), parts=["controller-manager"]) as server:
        install_crds(server)
        install_repository(server)
        install_kubevirt_crds(server)
        install_kubevirt_object(server)
        server.kubectl("apply", "-f", str(ROOT / "manifests/namespace.yaml"))
        server.kubectl("apply", "-k", str(ROOT / "manifests/rbac"))
        server.kubectl("create", "namespace", TEAM)
        yield server


@pytest.fixture(scope="module")
def operator_kubeconfig(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The admin's kubeconfig with the operator's token in place of the certificate."""
    token = plane.kubectl("create", "token", "kigi-operator", "-n", SYSTEM).strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
async def kube(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(await load_configuration(str(plane.kubeconfig))) as client:
        yield client


def refusals(plane: ControlPlane) -> float:
    """Requests of any identity that the API server has not allowed, so far, by its own metrics."""
    text = plane.kubectl("get", "--raw", "/metrics")
    counts = re.findall(
        r'^authorization_attempts_total{result="(?:denied|no-opinion|error)"} (\S+)$', text, re.MULTILINE
    )
    return sum(map(float, counts))


def test_the_identity_is_the_operators(plane: ControlPlane, operator_kubeconfig: Path) -> None:
    api = RawApi(operator_kubeconfig)
    before = refusals(plane)
    assert api.get("/api/v1/secrets").code == 403
    assert refusals(plane) == before + 1
    assert f"system:serviceaccount:{SYSTEM}:kigi-operator" in api.get("/api/v1/secrets").message


async def test_its_rights_are_enough_for_the_whole_life_of_a_deployment(
    plane: ControlPlane, kube: KubeClient, operator_kubeconfig: Path
) -> None:
    before = refusals(plane)
    installed = (ROOT / "manifests/operator/deployment.yaml").read_text().replace("kigi:dev", IMAGE)
    plane.kubectl("apply", "-f", "-", input_text=installed)
    settings = FAST.model_copy(update={"namespace": SYSTEM, "leader_election": True, "lease_s": 3.0, "hook_image": ""})
    async with (
        Actors(str(plane.kubeconfig), nodes=2) as actors,
        OperatorRun(str(operator_kubeconfig), settings=settings),
    ):
        apply(plane, TEAM, *trees(), deployment(replicas=2))
        await eventually_async(lambda: is_ready(kube, TEAM), 60, "deployed")
        hooks = [
            json.loads(vm["spec"]["template"]["metadata"]["annotations"][HOOK_SIDECARS])
            async for vm in kube.list_all(MACHINE, TEAM)
        ]
        assert {sidecar["image"] for (sidecar,) in hooks} == {IMAGE}, "it is the image of its own Deployment"
        apply(plane, TEAM, deployment(state="cleaned", replicas=1))
        await eventually_async(lambda: is_ready(kube, TEAM), 60, "switched, and one instance less")
        lease = await kube.get(LEASE, SYSTEM, LEASE_NAME)
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == settings.identity
        events = await kube.get(EVENT, TEAM, "")
        assert events is not None
        assert events["items"], "it writes events"
        plane.kubectl("delete", "systemdeployment", "class", "-n", TEAM, "--wait=false")

        async def gone() -> bool:
            return await get_deployment(kube, TEAM) is None and not await left_over(kube, TEAM)

        await eventually_async(gone, 60, "deleted, and nothing left behind")
        await actors.lose_node("node-1")

        async def cache_is_gone() -> bool:
            return await kube.get(NODE_CACHE, None, "node-1") is None

        await eventually_async(cache_is_gone, 30, "the NodeCache of a lost node is gone")
    assert refusals(plane) == before
