"""A caller with rights on single instances does not change what they are: the admission policy on a real API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.names import API_VERSION, LABEL_DEPLOYMENT, LABEL_INSTANCE
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.identities import identity, rule
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
NAMESPACE = "identity"
PATH = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/systeminstances"
LABELS = {LABEL_DEPLOYMENT: "office", LABEL_INSTANCE: "7", "team": "red"}
OWNER = {"apiVersion": API_VERSION, "kind": "SystemDeployment", "name": "office", "uid": "u1", "controller": True}
OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u2"}
INSTANCE: Object = {
    "apiVersion": API_VERSION,
    "kind": "SystemInstance",
    "metadata": {"name": "office-7", "labels": LABELS, "ownerReferences": [OWNER]},
    "spec": {"deploymentRef": {"name": "office"}, "name": "7"},
}
WORDS_LABELS = "must equal spec.deploymentRef.name and spec.name; correct or delete them"


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    bad = instance(labels=LABELS | {LABEL_INSTANCE: "8"})
    eventually(lambda: WORDS_LABELS in api.create(PATH, bad, dryRun="All").message, what="the policy is in force")
    return api


def instance(**metadata: Any) -> Object:
    body = copy.deepcopy(INSTANCE)
    body["metadata"] |= metadata
    return body


@pytest.fixture
def path(server: RawApi) -> Iterator[str]:
    server.create(PATH, INSTANCE).object()
    yield f"{PATH}/office-7"
    server.delete(f"{PATH}/office-7")


@pytest.fixture(scope="module")
def instructor(server: RawApi) -> RawApi:
    """May read and patch one instance."""
    return granted(server, "instructor", rule("kigi.dev", ["systeminstances"], ["get", "patch"], ["office-7"]))


@pytest.fixture(scope="module")
def editor(server: RawApi) -> RawApi:
    """May do what kigi-edit grants."""
    verbs = ["get", "list", "watch", "create", "patch", "update", "delete"]
    return granted(server, "editor", rule("kigi.dev", ["systeminstances"], verbs))


def granted(server: RawApi, account: str, right: Object) -> RawApi:
    api = identity(server, NAMESPACE, account, [right])
    eventually(lambda: api.get(f"{PATH}/office-7").code in (200, 404), what="the role is in force")
    return api


def test_an_instructor_switches_and_powers_off_an_instance(instructor: RawApi, path: str) -> None:
    reply = instructor.patch(path, {"spec": {"powerState": "Off", "systemRef": {"name": "cleaned"}}})
    assert reply.object()["spec"]["powerState"] == "Off"
    assert instructor.patch(path, {"metadata": {"labels": {"team": "blue"}}}).code == 200


@pytest.mark.parametrize("key", [LABEL_DEPLOYMENT, LABEL_INSTANCE])
def test_labels_that_contradict_the_spec_are_refused_for_everybody(
    server: RawApi, instructor: RawApi, path: str, key: str
) -> None:
    for api in (server, instructor):
        reply = api.patch(path, {"metadata": {"labels": {key: "other"}}})
        assert reply.code == 422
        assert WORDS_LABELS in reply.message
    assert server.create(PATH, instance(labels={key: "other"}), dryRun="All").code == 422


@pytest.mark.parametrize("key", [LABEL_DEPLOYMENT, LABEL_INSTANCE])
def test_an_instructor_does_not_remove_identity_labels(instructor: RawApi, editor: RawApi, path: str, key: str) -> None:
    reply = instructor.patch(path, {"metadata": {"labels": {key: None}}})
    assert reply.code == 403
    assert "may be removed only with the right to create systeminstances" in reply.message
    assert editor.patch(path, {"metadata": {"labels": {key: None}}}).code == 200


@pytest.mark.parametrize("owners", [[], [OTHER], [OWNER, OTHER], None], ids=["none", "another", "one more", "null"])
def test_an_instructor_does_not_change_owners(
    server: RawApi, instructor: RawApi, editor: RawApi, path: str, owners: Any
) -> None:
    """Kubernetes deletes an object whose owners are gone: a false owner would be a way to delete without the right."""
    reply = instructor.patch(path, {"metadata": {"ownerReferences": owners}})
    assert reply.code == 403
    assert "a changed owner can make Kubernetes delete the instance" in reply.message
    assert server.get(path).object()["metadata"]["ownerReferences"] == [OWNER]
    assert editor.patch(path, {"metadata": {"ownerReferences": owners}}).code == 200


def test_an_instructor_creates_no_instance(instructor: RawApi, editor: RawApi) -> None:
    other = instance(name="office-8", labels={})
    other["spec"]["name"] = "8"
    assert instructor.create(PATH, other, dryRun="All").code == 403
    assert instructor.apply(f"{PATH}/office-8", other).code == 403
    assert editor.create(PATH, other, dryRun="All").code == 201


@pytest.mark.parametrize("spec", [{"name": "8"}, {"deploymentRef": {"name": "lab"}}], ids=["name", "deployment"])
def test_the_identity_in_the_spec_changes_for_nobody(server: RawApi, editor: RawApi, path: str, spec: Object) -> None:
    for api in (server, editor):
        assert "immutable; create another SystemInstance instead" in api.patch(path, {"spec": spec}).message


def test_the_operator_makes_instances(server: RawApi) -> None:
    operator = server.as_account("kigi-system", "kigi-operator")
    assert operator.create(PATH, INSTANCE, dryRun="All").code == 201
