"""Only Kigi writes statuses: the admission policy on a real API server, against roles that give too much."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.crd_objects import GOOD, RESERVED, build
from tests.support.identities import ROLES, identity, rule
from tests.support.raw_api import Object, RawApi
from tools.crdgen import KINDS as ALL
from tools.crdgen import build_crd

ROOT = Path(__file__).parents[2]
KINDS = [kind for kind in ALL if kind.__name__ not in RESERVED]
TENANT = "status-tenant"
OTHER = "status-other"
"""A namespace in which Kigi is installed instead of kigi-system."""
STATUS: Object = {"status": {"observedGeneration": 7}}
WORDS = "is a report that only Kigi writes; change its spec instead"


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> Iterator[RawApi]:
    """The API server as its admin, with one object of every kind and the policies of the manifests."""
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    for namespace in (TENANT, OTHER):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for kind in KINDS:
        api.create(collection(kind), body_of(kind)).object()
    yield api
    for kind in KINDS:
        api.delete(path_of(kind))


def body_of(kind: type) -> Object:
    """A good object; the name of some kinds follows from the spec."""
    return build(kind.__name__, "reported")


def path_of(kind: type) -> str:
    return f"{collection(kind)}/{body_of(kind)['metadata']['name']}"


def collection(kind: type) -> str:
    spec = build_crd(kind)["spec"]
    scope = f"/namespaces/{TENANT}" if spec["scope"] == "Namespaced" else ""
    return f"/apis/{spec['group']}/{spec['versions'][0]['name']}{scope}/{spec['names']['plural']}"


@pytest.fixture(scope="module")
def tenant(server: RawApi) -> RawApi:
    """An administrator of one namespace, with every verb there, also 'report'."""
    api = identity(server, TENANT, "admin", [rule("*", ["*"], ["*"])])
    path = f"{path_of(KINDS[0])}/status"
    eventually(lambda: WORDS in api.patch(path, STATUS).message, what="the policy is in force")
    return api


@pytest.fixture(scope="module")
def writer(server: RawApi) -> RawApi:
    """An account that may patch each status in the whole cluster, but has no verb 'report'."""
    rules = [rule(group, ["*/status"], ["patch", "update"]) for group in ("kigi.dev", "node.kigi.dev")]
    return identity(server, OTHER, "writer", rules, in_namespace="")


NAMESPACED = [kind for kind in KINDS if build_crd(kind)["spec"]["scope"] == "Namespaced"]
IDS = {"ids": lambda kind: kind.__name__}


@pytest.mark.parametrize("kind", NAMESPACED, **IDS)
def test_no_role_in_a_namespace_suffices_for_a_status(tenant: RawApi, kind: type) -> None:
    path = path_of(kind)
    assert tenant.get(path).code == 200
    for reply in (
        tenant.patch(f"{path}/status", STATUS),
        tenant.apply(f"{path}/status", body_of(kind) | STATUS),
        tenant.call("PUT", f"{path}/status", tenant.get(path).object() | STATUS),
    ):
        assert reply.code == 403, reply
        assert f"the status of a {kind.__name__} {WORDS}" in reply.message


@pytest.mark.parametrize("kind", KINDS, **IDS)
def test_the_right_to_patch_a_status_does_not_suffice(server: RawApi, writer: RawApi, kind: type) -> None:
    path = path_of(kind)
    before = server.get(path).object()["status"]
    reply = eventually(lambda: (reply := writer.patch(f"{path}/status", STATUS)).code == 403 and reply)
    assert WORDS in reply.message
    assert server.get(path).object()["status"] == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.__name__ != "NodeCache"], **IDS)
def test_the_operator_writes_statuses(server: RawApi, tenant: RawApi, kind: type) -> None:
    operator = server.as_account("kigi-system", "kigi-operator")
    reply = operator.patch(f"{path_of(kind)}/status", STATUS)
    assert reply.object()["status"]["observedGeneration"] == 7


def test_an_operator_in_another_namespace_writes_statuses(server: RawApi, tenant: RawApi) -> None:
    """The binding names the account; nothing in the policy does."""
    binding = server.get(f"{ROLES}/clusterrolebindings/kigi-operator").object()
    server.create(f"/api/v1/namespaces/{OTHER}/serviceaccounts", {"metadata": {"name": "moved"}}).object()
    moved = {
        "metadata": {"name": "status-moved"},
        "roleRef": binding["roleRef"],
        "subjects": [{"kind": "ServiceAccount", "name": "moved", "namespace": OTHER}],
    }
    server.create(f"{ROLES}/clusterrolebindings", moved).object()
    operator = server.as_account(OTHER, "moved")
    path = f"{path_of(KINDS[0])}/status"
    eventually(lambda: operator.patch(path, STATUS).code == 200, what="the role is in force")


def test_a_node_caches_account_without_a_node_writes_no_nodecache(server: RawApi, tenant: RawApi) -> None:
    """As a stolen secret, under the name of the daemons' role, from outside of a daemon's pod."""
    (cache,) = [kind for kind in KINDS if kind.__name__ == "NodeCache"]
    group = build_crd(cache)["spec"]["group"]
    rules = [rule(group, ["nodecaches/status"], ["patch", "report"])]
    stolen = identity(server, OTHER, "stolen", rules, in_namespace="")
    path = f"{path_of(cache)}/status"
    words = "the status of NodeCache reported is a report of the daemon on its node, and the token is of no node"
    eventually(lambda: words in stolen.patch(path, STATUS).message, what="the token is refused")


def test_a_tenant_still_edits_specs_and_scales(tenant: RawApi) -> None:
    (deployment,) = [kind for kind in KINDS if kind.__name__ == "SystemDeployment"]
    path = path_of(deployment)
    assert tenant.patch(f"{path}/scale", {"spec": {"replicas": 3}}).code == 200
    assert tenant.patch(path, {"metadata": {"labels": {"a": "b"}}}).code == 200
    assert GOOD["SystemDeployment"].keys() <= tenant.get(path).object()["spec"].keys()


def test_an_overlay_for_another_namespace_keeps_the_policies_in_force(crds: ControlPlane, tmp_path: Path) -> None:
    """kustomize changes the namespace of the bindings' subjects; it would not change texts inside of policies."""
    base = os.path.relpath(ROOT / "manifests/rbac", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(f"namespace: elsewhere\nresources: ['{base}']\n")
    documents = list(yaml.safe_load_all(crds.kubectl("kustomize", str(tmp_path))))
    policies = [document for document in documents if document["kind"] == "ValidatingAdmissionPolicy"]
    assert len(policies) >= 2
    assert "kigi-system" not in str(policies)
    subjects = {
        document["metadata"]["name"]: [subject["namespace"] for subject in document["subjects"]]
        for document in documents
        if document["kind"] == "ClusterRoleBinding"
    }
    assert subjects["kigi-operator"] == subjects["kigi-node-cache"] == ["elsewhere"]


def test_no_role_for_users_grants_a_status_or_everything() -> None:
    documents = [
        document
        for path in sorted((ROOT / "manifests/rbac").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document["kind"] == "ClusterRole"
        and document["metadata"]["name"] not in ("kigi-operator", "kigi-node-cache")
    ]
    assert len(documents) >= 4
    for document in documents:
        for right in document["rules"]:
            assert not [name for name in right["resources"] if name.endswith("/status") or "*" in name], document
            assert not {"*", "report", "escalate", "bind", "impersonate"} & set(right["verbs"]), document
