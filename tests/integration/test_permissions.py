"""Every cell of docs/reference/permissions.md on a real API server, and what a trainee can do with these rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.identities import ROLES
from tests.support.raw_api import RawApi
from tools.rolesdoc import TEAM, Action, Role, actions, allows, roles

ROOT = Path(__file__).parents[2]
NAMESPACE = "permissions"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
RESETS = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/systemresets"


def bind(server: RawApi, role: Role) -> None:
    """Bind the shipped ClusterRole to a user with its name, as an administrator does."""
    kind = "ClusterRoleBinding" if role.is_cluster else "RoleBinding"
    path = f"{ROLES}/{kind.lower()}s" if role.is_cluster else f"{ROLES}/namespaces/{NAMESPACE}/{kind.lower()}s"
    binding = {
        "metadata": {"name": f"test-{role.title}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role.title},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": role.title}],
    }
    server.create(path, binding).object()


def apply_team(server: RawApi, subject: dict[str, Any]) -> None:
    """The example of a team's role, for another namespace and subject."""
    for item in yaml.safe_load_all(TEAM.read_text()):
        item["metadata"]["namespace"] = NAMESPACE
        if item["kind"] == "RoleBinding":
            item["metadata"]["name"] += f"-{subject['name']}"
            item["subjects"] = [subject]
        server.create(f"{ROLES}/namespaces/{NAMESPACE}/{item['kind'].lower()}s", item)


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> Iterator[RawApi]:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    for role in roles():
        bind(api, role)
    apply_team(api, {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "kigi-trainee"})
    last = roles()[-1]
    first_right = next(action for action in actions() if allows(last, action))
    eventually(lambda: asked(api, last, first_right), what="the bindings are in force")
    yield api
    for role in roles():
        if role.is_cluster:
            api.delete(f"{ROLES}/clusterrolebindings/test-{role.title}")


def asked(server: RawApi, role: Role, action: Action) -> bool:
    """What the API server decides."""
    attributes = {
        "verb": action.verb,
        "group": action.group,
        "resource": action.resource,
        "subresource": action.subresource,
        "name": action.name,
        "namespace": "" if action.is_cluster else NAMESPACE,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": role.title, "resourceAttributes": attributes},
    }
    return bool(server.create(REVIEWS, review).object()["status"]["allowed"])


@pytest.mark.parametrize("role", roles(), ids=lambda role: role.title)
def test_every_cell_is_what_the_api_server_decides(server: RawApi, role: Role) -> None:
    different = [action for action in actions() if asked(server, role, action) != allows(role, action)]
    assert different == []


def test_a_trainee_resets_exactly_one_instance(server: RawApi) -> None:
    server.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "team-7"}})
    apply_team(server, {"kind": "ServiceAccount", "name": "team-7", "namespace": NAMESPACE})
    trainee = server.as_account(NAMESPACE, "team-7")

    def request(*instances: str, by: str = f"system:serviceaccount:{NAMESPACE}:team-7") -> int:
        more = {"instances": list(instances)} if instances else {}
        body = {
            "apiVersion": API_VERSION,
            "kind": "SystemReset",
            "metadata": {"generateName": "mine-"},
            "spec": {"deploymentRef": {"name": "office"}, "requestedBy": by, **more},
        }
        return trainee.create(RESETS, body).code

    eventually(lambda: request("7") == 201, what="the role is in force")
    assert [request("8"), request("7", "8"), request(), request("7", by="someone-else")] == [403] * 4
    assert trainee.get(RESETS).code == 403
    instances = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/systeminstances"
    assert [trainee.get(f"{instances}/office-{team}").code for team in (7, 8)] == [404, 403]
