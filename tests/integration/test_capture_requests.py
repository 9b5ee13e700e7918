"""Who may capture which instance, and who may pin layers: the admission policies on a real API server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.identities import identity, rule
from tests.support.raw_api import Object, RawApi, Reply

ROOT = Path(__file__).parents[2]
NAMESPACE, OTHER = "requests", "requests-other"
VERBS = ["get", "create", "patch", "update"]


def path(plural: str, namespace: str = NAMESPACE) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}"


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    api = RawApi(crds.kubeconfig)
    for namespace in (NAMESPACE, OTHER):
        api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    nobody = identity(api, NAMESPACE, "nobody", [rule("kigi.dev", ["systemcaptures", "systemprefetches"], VERBS)])
    eventually(lambda: "verb capture" in capture(nobody).message, what="the policy of captures is in force")
    eventually(lambda: "verb pin" in prefetch(nobody).message, what="the policy of prefetches is in force")
    return api


def own_name(api: RawApi) -> str:
    """Name under which the API server knows the caller."""
    answer = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", {}).object()
    return str(answer["status"]["userInfo"]["username"])


def capture(api: RawApi, name: str = "c", *, namespace: str = NAMESPACE, dry: bool = True, **spec: Any) -> Reply:
    body: Object = {
        "apiVersion": API_VERSION,
        "kind": "SystemCapture",
        "metadata": {"name": name},
        "spec": {"instanceRef": {"name": "office-7"}, "requestedBy": own_name(api), **spec},
    }
    return api.create(path("systemcaptures", namespace), body, **({"dryRun": "All"} if dry else {}))


def prefetch(api: RawApi, *, dry: bool = True, **spec: Any) -> Reply:
    targets = [{"kind": "SystemNode", "name": "office"}]
    body: Object = {
        "apiVersion": API_VERSION,
        "kind": "SystemPrefetch",
        "metadata": {"name": "p"},
        "spec": {"targetRefs": targets, "retention": "Pinned", **spec},
    }
    return api.create(path("systemprefetches"), body, **({"dryRun": "All"} if dry else {}))


@pytest.fixture(scope="module")
def trainee(server: RawApi) -> RawApi:
    """May create captures, and capture the instance of one team."""
    rights = [
        rule("kigi.dev", ["systemcaptures"], VERBS),
        rule("kigi.dev", ["systeminstances"], ["capture"], ["office-7"]),
    ]
    return granted(identity(server, NAMESPACE, "trainee", rights))


@pytest.fixture(scope="module")
def editor(server: RawApi) -> RawApi:
    """What the role kigi-edit grants in the namespace."""
    documents = yaml.safe_load_all((ROOT / "manifests/rbac/users.yaml").read_text())
    role = next(document for document in documents if document["metadata"]["name"] == "kigi-edit")
    return granted(identity(server, NAMESPACE, "editor", role["rules"]))


def granted(api: RawApi) -> RawApi:
    eventually(lambda: capture(api).code == 201, what="the role is in force")
    return api


def test_a_trainee_captures_the_own_instance_and_no_other(trainee: RawApi) -> None:
    assert capture(trainee).code == 201
    for name in ("office-8", "office-70", "office"):
        reply = capture(trainee, instanceRef={"name": name})
        assert reply.code == 403
        assert f"spec.instanceRef: capturing SystemInstance {name} needs the verb capture on it" in reply.message


def test_a_right_in_one_namespace_does_not_count_in_another(server: RawApi, trainee: RawApi) -> None:
    account = f"system:serviceaccount:{NAMESPACE}:trainee"
    binding = {
        "metadata": {"name": "trainee"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "creator"},
        "subjects": [{"kind": "User", "name": account, "apiGroup": "rbac.authorization.k8s.io"}],
    }
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{OTHER}"
    rules = [rule("kigi.dev", ["systemcaptures"], VERBS)]
    server.create(f"{roles}/roles", {"metadata": {"name": "creator"}, "rules": rules}).object()
    server.create(f"{roles}/rolebindings", binding).object()
    eventually(lambda: "verb capture" in capture(trainee, namespace=OTHER).message, what="the role is in force")
    assert capture(trainee, namespace=OTHER).code == 403


def test_the_right_to_create_captures_alone_captures_nothing(server: RawApi) -> None:
    creator = identity(server, NAMESPACE, "creator", [rule("kigi.dev", ["systemcaptures"], VERBS)])
    eventually(lambda: "verb capture" in capture(creator).message, what="the role is in force")
    assert capture(creator).code == 403


def test_an_editor_captures_every_instance_of_the_namespace(editor: RawApi) -> None:
    for name in ("office-7", "office-8"):
        assert capture(editor, instanceRef={"name": name}).code == 201


def test_nobody_captures_in_the_name_of_another(trainee: RawApi) -> None:
    own = f"system:serviceaccount:{NAMESPACE}:trainee"
    assert capture(trainee, requestedBy=own).code == 201
    for name in ("alice", f"{own}2", "system:admin"):
        reply = capture(trainee, requestedBy=name)
        assert reply.code == 403
        assert f"spec.requestedBy: must be the name of the caller, {own}" in reply.message


@pytest.fixture
def made(server: RawApi) -> Iterator[str]:
    capture(server, "made", dry=False).object()
    yield f"{path('systemcaptures')}/made"
    server.delete(f"{path('systemcaptures')}/made")


def test_limits_change_and_nothing_else_does(server: RawApi, trainee: RawApi, made: str) -> None:
    limits = {"backoffLimit": 0, "activeDeadlineSeconds": 60, "ttlSecondsAfterFinished": 0}
    for value in (limits, dict.fromkeys(limits)):
        assert trainee.patch(made, {"spec": value}).code == 200
    changes: list[dict[str, Any]] = [
        {"instanceRef": {"name": "office-8"}},
        {"machines": ["web"]},
        {"quiescePolicy": "PauseOnly"},
        {"target": {"systemName": "other"}},
        {"requestedBy": "system:admin"},
        {"content": "Disks"},
    ]
    for change in changes:
        reply = server.patch(made, {"spec": change})
        assert reply.code == 422, change
        assert f"spec.{next(iter(change))}" in reply.message
        assert "it is immutable; create another SystemCapture instead" in reply.message


def test_more_attempts_need_the_right_as_well(server: RawApi, made: str) -> None:
    patcher = identity(server, NAMESPACE, "patcher", [rule("kigi.dev", ["systemcaptures"], VERBS)])
    eventually(lambda: patcher.patch(made, {"metadata": {"labels": {"a": "b"}}}).code == 200, what="the role")
    assert patcher.patch(made, {"spec": {"backoffLimit": 20}}).code == 403
    assert patcher.patch(made, {"metadata": {"finalizers": ["example.org/x"]}}).code == 200, "the spec is the same"
    assert server.patch(made, {"metadata": {"finalizers": None}}).code == 200


# Pinned layers.


def test_an_editor_prefetches_and_does_not_pin(server: RawApi, editor: RawApi) -> None:
    reply = prefetch(editor)
    assert reply.code == 403
    assert "spec.retention: Pinned takes space" in reply.message
    assert prefetch(editor, retention="Evictable").code == prefetch(editor, retention=None).code == 201


def test_the_verb_in_one_namespace_does_not_count(server: RawApi) -> None:
    rights = [rule("kigi.dev", ["systemprefetches"], ["*"])]
    local = identity(server, NAMESPACE, "local", rights)
    eventually(lambda: prefetch(local, retention="Evictable").code == 201, what="the role is in force")
    assert prefetch(local).code == 403
    pinner = identity(
        server, NAMESPACE, "pinner", [rule("kigi.dev", ["systemprefetches"], [*VERBS, "pin"])], in_namespace=""
    )
    eventually(lambda: prefetch(pinner).code == 201, what="the cluster role is in force")


def test_a_pinned_prefetch_grows_only_with_the_right_and_may_be_released(server: RawApi, editor: RawApi) -> None:
    prefetch(server, dry=False).object()
    one = f"{path('systemprefetches')}/p"
    try:
        assert editor.patch(one, {"metadata": {"labels": {"a": "b"}}}).code == 200
        more = {"targetRefs": [{"kind": "SystemNode", "name": name} for name in ("office", "another")]}
        assert editor.patch(one, {"spec": more}).code == 403
        assert editor.patch(one, {"spec": merge_patch(copy.deepcopy(more), {"retention": "Evictable"})}).code == 200
        assert editor.patch(one, {"spec": {"retention": "Pinned"}}).code == 403
    finally:
        server.delete(one)
