"""Who may reset what: the admission policy on a real API server, and what of a request may change."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.identities import identity, rule
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
NAMESPACE = "resets"
PATH = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/systemresets"
CREATE = rule("kigi.dev", ["systemresets"], ["create", "get", "list", "patch"])
NUMBERS = itertools.count(1)


def user(account: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{account}"


def request(by: str, *instances: str, deployment: str = "office", **spec: Any) -> Object:
    more = {"instances": list(instances)} if instances else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "SystemReset",
        "metadata": {"name": f"request-{next(NUMBERS)}"},
        "spec": {"deploymentRef": {"name": deployment}, "requestedBy": by, **more, **spec},
    }


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    forged = request("nobody")
    eventually(lambda: api.create(PATH, forged, dryRun="All").code == 403, what="the policy is in force")
    return api


def granted(server: RawApi, account: str, *rights: Object) -> RawApi:
    api = identity(server, NAMESPACE, account, [CREATE, *rights])
    eventually(lambda: api.get(f"{PATH}/none").code == 404, what="the role is in force")
    return api


@pytest.fixture(scope="module")
def trainee(server: RawApi) -> RawApi:
    """May reset one instance."""
    return granted(server, "trainee", rule("kigi.dev", ["systeminstances"], ["get", "reset"], ["office-7"]))


@pytest.fixture(scope="module")
def instructor(server: RawApi) -> RawApi:
    """May reset one deployment."""
    return granted(server, "instructor", rule("kigi.dev", ["systemdeployments"], ["reset"], ["office"]))


def test_a_trainee_resets_exactly_their_own_instance(trainee: RawApi) -> None:
    me = user("trainee")
    assert trainee.create(PATH, request(me, "7")).code == 201
    assert trainee.create(PATH, request(me, "7", machines=["db"])).code == 201
    for body in (
        request(me),
        request(me, "8"),
        request(me, "7", "8"),
        request(me, "7", deployment="office2"),
        request(me, "7", deployment="offic"),
    ):
        reply = trainee.create(PATH, body)
        assert (reply.code, "may not reset this" in reply.message) == (403, True), reply.message


def test_the_refusal_names_the_missing_right(trainee: RawApi) -> None:
    one = trainee.create(PATH, request(user("trainee"), "8")).message
    assert "verb reset on systemdeployments office or on systeminstances office-8, in group kigi.dev" in one
    several = trainee.create(PATH, request(user("trainee"), "7", "8")).message
    assert "name exactly one instance that you may reset" in several


def test_an_instructor_resets_all_of_their_deployment_and_no_other(instructor: RawApi) -> None:
    me = user("instructor")
    for body in (request(me), request(me, "1", "2"), request(me, "red")):
        assert instructor.create(PATH, body).code == 201
    assert instructor.create(PATH, request(me, deployment="lab")).code == 403


@pytest.mark.parametrize("name", ["alice", "system:serviceaccount:resets:instructor2", "system:admin"])
def test_a_request_carries_the_name_of_its_caller(instructor: RawApi, name: str) -> None:
    reply = instructor.create(PATH, request(name))
    assert reply.code == 403
    assert f"spec.requestedBy: must be the name of the caller, {user('instructor')}" in reply.message


def test_the_right_to_create_alone_resets_nothing(server: RawApi) -> None:
    creator = granted(server, "creator")
    assert creator.create(PATH, request(user("creator"), "7")).code == 403


def test_a_right_in_another_namespace_does_not_count(server: RawApi) -> None:
    server.create("/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
    everything = rule("kigi.dev", ["systemdeployments", "systeminstances"], ["reset"])
    identity(server, "elsewhere", "guest", [everything])
    guest = identity(server, NAMESPACE, "guest", [CREATE])
    eventually(lambda: guest.get(f"{PATH}/none").code == 404, what="the role is in force")
    assert guest.create(PATH, request(user("guest"), "7")).code == 403


def test_the_edit_role_may_reset(server: RawApi) -> None:
    editor = identity(server, NAMESPACE, "editor", [])
    binding = {
        "metadata": {"name": "editor-edits"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kigi-edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "editor", "namespace": NAMESPACE}],
    }
    server.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings", binding).object()
    eventually(lambda: editor.get(f"{PATH}/none").code == 404, what="the role is in force")
    assert editor.create(PATH, request(user("editor"))).code == 201


@pytest.mark.parametrize(
    "change",
    [
        {"deploymentRef": {"name": "lab"}},
        {"instances": ["8"]},
        {"instances": None},
        {"machines": ["db"]},
        {"requestedBy": "alice"},
        {"reason": "another"},
    ],
)
def test_nothing_but_the_time_to_live_of_a_request_changes(instructor: RawApi, change: Object) -> None:
    body = instructor.create(PATH, request(user("instructor"), "7", reason="lunch")).object()
    path = f"{PATH}/{body['metadata']['name']}"
    reply = instructor.patch(path, {"spec": change})
    assert (reply.code, "spec is immutable apart from ttlSecondsAfterFinished" in reply.message) == (422, True)
    assert instructor.patch(path, {"spec": {"ttlSecondsAfterFinished": 60}}).code == 200
    assert instructor.patch(path, {"spec": {"ttlSecondsAfterFinished": None}}).code == 200
