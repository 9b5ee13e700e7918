"""Which pods may mount a Kigi disk: the admission policy on a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from kigi.domain.names import claim_name
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.identities import identity, rule
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
TENANT = "disk-tenant"
WORDS = "which only virtual machines mount"
PODS = f"/api/v1/namespaces/{TENANT}/pods"


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    for namespace in (TENANT, "kubevirt"):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
    return api


@pytest.fixture(scope="module")
def tenant(server: RawApi) -> RawApi:
    """All rights in one namespace, and an account with the name of KubeVirt's."""
    account = identity(server, TENANT, "kubevirt-controller", [rule("*", ["*"], ["*"])])
    eventually(lambda: WORDS in account.create(PODS, pod("first", "a.1.m.r1")).message, what="the policy is in force")
    return account


@pytest.fixture(scope="module")
def kubevirt(server: RawApi) -> RawApi:
    """The account that creates the pods of virtual machines, with its usual right."""
    return identity(server, "kubevirt", "kubevirt-controller", [rule("", ["pods"], ["create"])], in_namespace="")


def pod(name: str, *claims: str) -> Object:
    volumes: list[Object] = [{"name": f"v{n}", "persistentVolumeClaim": {"claimName": c}} for n, c in enumerate(claims)]
    containers = [{"name": "c", "image": "none"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, "volumes": volumes}}


@pytest.mark.parametrize(
    "claims",
    [
        (claim_name("office", "1", "mail1", 3),),
        (claim_name("office", "red", "mail1", 12, "data"),),
        ("own-data", claim_name("office", "1", "mail1", 1)),
    ],
    ids=["boot disk", "extra disk", "among others"],
)
@pytest.mark.parametrize("name", ["reader", "virt-launcher-office-1-mail1-abcde"])
def test_a_tenant_creates_no_pod_with_a_disk(tenant: RawApi, claims: tuple[str, ...], name: str) -> None:
    answer = tenant.create(PODS, pod(name, *claims))
    assert answer.code == 403
    assert f"claim {claims[-1]} has the name of a Kigi disk, {WORDS}" in answer.message
    assert "capture the machine" in answer.message


@pytest.mark.parametrize("meta", [{"name": "x.1.mail1.r1.logs"}, {"generateName": "virt-launcher-x.1.mail1.r1.a"}])
def test_an_ephemeral_volume_is_no_way_to_an_extra_disk(tenant: RawApi, meta: Object) -> None:
    """The kubelet mounts the claim <pod>-<volume> if the tenant has set its owner to the pod."""
    template = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}
    body = pod("any")
    body["metadata"] = meta
    body["spec"]["volumes"] = [{"name": "data", "ephemeral": {"volumeClaimTemplate": template}}]
    answer = tenant.create(PODS, body)
    assert answer.code == 403
    assert WORDS in answer.message
    body["metadata"] = {"generateName": "scratch-"}
    assert tenant.create(PODS, body).code == 201


@pytest.mark.parametrize("claim", ["data", "web-data-0", "data.v1.example", "a.b.r1", "prime-1.2.3.4"])
def test_other_claims_are_not_affected(tenant: RawApi, claim: str) -> None:
    name = claim.replace(".", "-")
    assert tenant.create(PODS, pod(name, claim)).code == 201
    tenant.delete(f"{PODS}/{name}")


def test_a_pod_without_volumes_is_not_affected(tenant: RawApi) -> None:
    plain = pod("plain")
    del plain["spec"]["volumes"]
    assert tenant.create(PODS, plain).code == 201
    tenant.delete(f"{PODS}/plain")


def test_kubevirt_starts_virtual_machines(kubevirt: RawApi) -> None:
    name = "virt-launcher-office-1-mail1-fghij"
    eventually(lambda: kubevirt.create(PODS, pod(name, claim_name("office", "1", "mail1", 3))).code in (201, 409))
