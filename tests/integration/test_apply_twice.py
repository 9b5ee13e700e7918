"""Examples applied twice make no difference: with kubectl, on the server's side, and in a GitOps controller's diff."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.cluster import ensure_namespace
from tests.support.crd_objects import GOOD, RESERVED, build
from tests.support.examples import examples
from tests.support.raw_api import Object, RawApi
from tests.support.three_way import LAST_APPLIED, drift, three_way_patch
from tools.crdgen import KINDS, build_crd

NAMESPACE = "apply-twice"
CRDS = {kind.__name__: build_crd(kind)["spec"] for kind in KINDS}
DOCUMENTS = dict(examples()) | {f"good-{kind}": build(kind, "applied") for kind in GOOD}
CASES = pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())


@pytest.fixture(scope="module")
def plane(crds: ControlPlane) -> ControlPlane:
    names = {NAMESPACE} | {document["metadata"].get("namespace", NAMESPACE) for document in DOCUMENTS.values()}
    for name in sorted(names):
        ensure_namespace(crds, name)
    return crds


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> RawApi:
    return RawApi(plane.kubeconfig)


def placed(document: Object) -> Object:
    """The example in a namespace, as ``kubectl -n`` does it."""
    metadata = document["metadata"]
    if CRDS[document["kind"]]["scope"] == "Namespaced":
        metadata = {"namespace": NAMESPACE, **metadata}
    return {**document, "metadata": metadata}


def path_of(document: Object) -> str:
    crd, metadata = CRDS[document["kind"]], document["metadata"]
    scope = f"/namespaces/{metadata['namespace']}" if crd["scope"] == "Namespaced" else ""
    return f"/apis/{document['apiVersion']}{scope}/{crd['names']['plural']}/{metadata['name']}"


def outcome(server: RawApi, document: Object) -> tuple[int, Any, str]:
    """Generation, spec and version of the stored object."""
    body = server.get(path_of(document)).object()
    return body["metadata"]["generation"], body["spec"], body["metadata"]["resourceVersion"]


@CASES
def test_kubectl_apply_twice_and_a_gitops_diff_make_no_difference(
    plane: ControlPlane, server: RawApi, document: Object
) -> None:
    document = placed(document)
    server.delete(path_of(document))
    text = yaml.safe_dump(document)
    plane.kubectl("apply", "-f", "-", input_text=text)
    first = outcome(server, document)
    second = plane.kubectl("apply", "-f", "-", input_text=text)
    assert outcome(server, document)[:2] == first[:2]
    assert first[0] == 1
    assert second.strip().endswith("unchanged")
    live = server.get(path_of(document)).object()
    desired = {**document, "status": live["status"]} if "status" in document else document
    assert drift(desired, live) == {}, "a GitOps controller would show the object as out of sync for ever"
    assert live["spec"] == document.get("spec", {}), "the API server fills in what another object may decide"
    server.delete(path_of(document))


@CASES
def test_server_side_apply_twice_makes_no_difference(server: RawApi, document: Object) -> None:
    document = placed(document)
    server.delete(path_of(document))
    assert server.apply(path_of(document), document, manager="gitops").code == 201
    first = outcome(server, document)
    assert server.apply(path_of(document), document, manager="gitops").code == 200
    second = outcome(server, document)
    # The API server stores the default of the status with the first change, so that the version changes once.
    assert second[:2] == first[:2]
    assert server.apply(path_of(document), document, manager="gitops").code == 200
    assert outcome(server, document) == second
    assert first[0] == 1
    server.delete(path_of(document))


@CASES
def test_the_object_as_it_is_read_can_be_applied_again(server: RawApi, document: Object) -> None:
    """As backups and ``kubectl get -o yaml`` give it."""
    document = placed(document)
    server.delete(path_of(document))
    read = server.create(path_of(document).rpartition("/")[0], document).object()
    again = {key: read[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {key: read["metadata"][key] for key in ("name", "namespace") if key in read["metadata"]}
    reply = server.apply(path_of(document), again, manager="backup").object()
    assert (reply["metadata"]["generation"], reply["spec"]) == (1, read["spec"])
    server.delete(path_of(document))


def test_every_kind_has_an_example() -> None:
    """Except those that the API server refuses until a later version gives them their function."""
    assert {document["kind"] for _, document in examples()} == CRDS.keys() - RESERVED.keys()


# The difference itself finds what it is for.


def test_a_default_in_a_list_item_would_be_drift() -> None:
    desired = {"metadata": {}, "spec": {"machines": [{"name": "a"}]}}
    live = {"metadata": {}, "spec": {"machines": [{"name": "a", "removed": False}]}}
    assert drift(desired, live) == {"spec": {"machines": [{"name": "a"}]}}


def test_a_field_that_left_the_manifest_is_drift_and_a_foreign_one_is_not() -> None:
    last = json.dumps({"spec": {"replicas": 3, "powerState": "On"}})
    live = {
        "metadata": {"annotations": {LAST_APPLIED: last}},
        "spec": {"replicas": 5, "powerState": "On", "written": "by somebody else"},
    }
    assert drift({"metadata": {}, "spec": {"powerState": "On"}}, live) == {"spec": {"replicas": None}}
    assert three_way_patch({}, {"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}) == {}
