"""A control plane for the operator: real, with the controller manager that binds claims and collects garbage."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from localcluster.controlplane import ControlPlane
from tests.support import kstatus
from tests.support.actors import Actors
from tests.support.cluster import REPOSITORY, eventually, install_crds, install_repository
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object
from tests.support.raw_api import RawApi
from tools.crdgen import KINDS, build_crd

_numbers = itertools.count()


@pytest.fixture(scope="package")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("operator"), parts=["controller-manager"]) as server:
        install_crds(server)
        install_repository(server)
        install_kubevirt_crds(server)
        install_kubevirt_object(server)
        server.kubectl("create", "namespace", "kigi-system")
        for name in ("operator", "operator-writes"):
            server.kubectl("apply", "-f", str(REPOSITORY / f"manifests/rbac/{name}.yaml"))
        yield server


@pytest.fixture(scope="package")
def operator_kubeconfig(plane: ControlPlane) -> str:
    """Access with the rights of ``manifests/rbac`` and no more."""
    account = "system:serviceaccount:kigi-system:kigi-operator"
    return str(plane.user_kubeconfig(account, ["system:serviceaccounts", "system:authenticated"]))


@pytest.fixture(scope="package")
async def actors(plane: ControlPlane) -> AsyncIterator[Actors]:
    async with Actors(str(plane.kubeconfig), nodes=2) as played:
        yield played


@pytest.fixture(scope="package")
async def kube(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    async with KubeClient(await load_configuration(str(plane.kubeconfig))) as client:
        yield client


@pytest.fixture
def ns(plane: ControlPlane) -> Iterator[str]:
    """A new namespace. After the test, every status in it must be one that kstatus understands."""
    name = f"op-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    yield name
    api = RawApi(plane.kubeconfig)
    for crd in (build_crd(kind)["spec"] for kind in KINDS):
        if crd["scope"] == "Namespaced":
            path = f"/apis/{crd['group']}/{crd['versions'][0]['name']}/namespaces/{name}/{crd['names']['plural']}"
            # 429: the API server starts the storage of a kind again after its definition has changed.
            reply = eventually(lambda path=path: (found := api.get(path)).code != 429 and found)
            for body in reply.object()["items"]:
                kstatus.check(body)
