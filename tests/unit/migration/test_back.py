"""The way back to v1alpha1: every object as it was, and what stops it before anything is changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kigi.domain import kinds, names
from kigi.domain.fingerprint import Fingerprint, request_mark, token_mark
from kigi.migration.back import convert_back
from kigi.migration.back_children import children_back, children_of_deleted, fingerprint_back, owners_of
from kigi.migration.backup import Backup
from kigi.migration.conversion import Conversion, convert
from tests.support.v1alpha1 import REPOSITORIES, definitions, stored

Object = dict[str, Any]
BACKUP = Backup(tuple(stored()), tuple(definitions()), REPOSITORIES)
STRANGER = Backup((), BACKUP.definitions)
"""The objects of this export were not in the cluster: each object is new."""


def live() -> list[Object]:
    """The cluster after the migration."""
    found = copy.deepcopy(list(convert(stored(), REPOSITORIES).objects))
    for number, body in enumerate(found):
        body["metadata"].setdefault("uid", f"made-{number}")
    return found


def one(objects: Any, kind: str, name: str) -> Object:
    (found,) = [body for body in objects if (body["kind"], body["metadata"]["name"]) == (kind, name)]
    return dict(found)


def without_tokens(body: Object) -> Object:
    """A deployment without what ``kigi migrate`` drops: tokens of instances, and instances that do not exist."""
    spec = copy.deepcopy(body["spec"])
    kept = []
    for override in spec.get("overrides") or ():
        override.pop("reset", None)
        if override["instance"] < spec.get("replicas", 1):
            kept.append(override)
    return {**spec, **({"overrides": kept} if kept else {})}


def test_unchanged_objects_are_as_in_the_export() -> None:
    back = convert_back(live(), BACKUP)
    assert back.findings.problems == []
    for old in stored():
        if old["kind"] in (kinds.IMAGE, kinds.SYSTEM, kinds.CAPTURE, kinds.PREFETCH):
            found = one(back.objects, old["kind"], old["metadata"]["name"])
            assert found["spec"] == old["spec"]
            assert (found["metadata"].get("annotations") or {}) == (old["metadata"].get("annotations") or {})
            assert found["apiVersion"] == "kigi.dev/v1alpha1"


def test_deployments_have_their_overrides_and_their_finalizer_again() -> None:
    back = convert_back(live(), BACKUP)
    for name in ("office", "closed"):
        old = one(stored(), kinds.DEPLOYMENT, name)
        found = one(back.objects, kinds.DEPLOYMENT, name)
        assert {"replicas": 1, **without_tokens(old)} == found["spec"]
        assert found["metadata"]["finalizers"] == (old["metadata"].get("finalizers") or [])


def test_objects_that_the_export_does_not_have_are_converted() -> None:
    objects = [body for body in live() if body["kind"] != kinds.CAPTURE]
    back = convert_back(objects, STRANGER)
    assert back.findings.problems == []
    base = one(back.objects, kinds.IMAGE, "base-flat")
    assert base["metadata"]["annotations"]["kigi.dev/equals"].startswith("base@sha256:")
    template = one(back.objects, kinds.SYSTEM, "office")["spec"]["machines"][0]["template"]
    old = one(stored(), kinds.SYSTEM, "office")["spec"]["machines"][0]["template"]
    assert {key: template[key] for key in old if key != "networks"} == {
        key: value for key, value in old.items() if key != "networks"
    }


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ordinals": {"start": 1}}, "spec.ordinals"),
        ({"instances": [{"name": "blue"}], "replicas": None, "ordinals": None}, "spec.instances"),
        ({"updateStrategy": {"onEdit": "Immediate"}}, "spec.updateStrategy"),
        ({"systemRef": {"name": "office", "namespace": "class-b"}}, "spec.system.namespace"),
    ],
)
def test_what_v1alpha1_cannot_express_is_a_problem(spec: Object, field: str) -> None:
    objects = live()
    body = one(objects, kinds.DEPLOYMENT, "closed")
    body["spec"].update({key: value for key, value in spec.items() if value is not None})
    for key, value in spec.items():
        if value is None:
            body["spec"].pop(key, None)
    (problem,) = convert_back(objects, BACKUP).findings.problems[:1]
    assert problem.startswith("SystemDeployment class-b/closed: ")
    assert field in problem
    assert "before you go back" in problem


def test_an_instance_with_a_name_is_a_problem() -> None:
    objects = live()
    instance = one(objects, kinds.INSTANCE, "office-1")
    instance["spec"]["name"] = "blue"
    (problem,) = convert_back(objects, BACKUP).findings.problems
    assert "settings of its SystemInstances" in problem


def test_a_deployment_that_was_switched_keeps_its_new_state() -> None:
    objects = live()
    one(objects, kinds.DEPLOYMENT, "office")["spec"]["systemRef"] = {"name": "after-lunch"}
    back: Conversion = convert_back(objects, BACKUP)
    assert back.findings.problems == []
    assert one(back.objects, kinds.DEPLOYMENT, "office")["spec"]["system"] == {"name": "after-lunch"}


def test_a_fingerprint_has_the_token_that_its_disk_has_had() -> None:
    found = Fingerprint("sha256:a", "office", (token_mark("monday"), request_mark("u")), (("data", "sha256:b"),), "c")
    assert (
        fingerprint_back(found.to_text(), "monday")
        == '{"disks": {"data": "sha256:b"}, "image": "sha256:a", "resets": ["monday", null, null], "system": "office"}'
    )
    assert '"resets": [null, null, null]' in fingerprint_back(found.to_text(), "tuesday")
    assert '"resets": [null, null, null]' in fingerprint_back(found.to_text(), None)


def test_children_belong_to_their_deployment_and_keep_other_owners() -> None:
    owner = one(live(), kinds.DEPLOYMENT, "office")
    labels = {names.LABEL_NAMESPACE: "class-a", names.LABEL_DEPLOYMENT: "office"}
    mine = {
        "apiVersion": "kigi.dev/v1alpha2",
        "kind": "SystemInstance",
        "name": "office-0",
        "uid": "i",
        "controller": True,
    }
    other = {"apiVersion": "example.org/v1", "kind": "Lab", "name": "x", "uid": "x"}
    vm = {
        "kind": "VirtualMachine",
        "metadata": {
            "name": "office-0-mail1",
            "labels": labels,
            "annotations": {names.ANNOTATION_OWNER: "i", "kept": "yes"},
            "ownerReferences": [mine, other],
        },
    }
    (new,) = children_back([vm, {"kind": "VirtualMachine", "metadata": {"name": "foreign"}}], owners_of([owner]))
    uid = owner["metadata"]["uid"]
    assert new["metadata"]["annotations"] == {"kept": "yes", names.ANNOTATION_DEPLOYMENT_OWNER: uid}
    assert [(ref["kind"], ref["uid"], ref.get("controller")) for ref in new["metadata"]["ownerReferences"]] == [
        ("Lab", "x", None),
        ("SystemDeployment", uid, None),
    ]
    assert list(children_back([new], owners_of([owner]))) == []


def test_what_belongs_to_a_deployment_that_is_being_deleted_is_deleted_with_it() -> None:
    objects = live()
    office = one(objects, kinds.DEPLOYMENT, "office")
    office["metadata"] |= {"deletionTimestamp": "2026-12-01T00:00:00Z"}
    office["spec"]["instances"] = [{"name": "blue"}]  # v1alpha1 cannot express it
    back = convert_back(objects, BACKUP)
    assert back.findings.problems == []
    assert one(back.objects, kinds.DEPLOYMENT, "office")["metadata"]["finalizers"] == []
    labels = {names.LABEL_NAMESPACE: "class-a", names.LABEL_DEPLOYMENT: "office"}
    mine = {"metadata": {"name": "mine", "labels": labels}}
    others = {"metadata": {"name": "others", "labels": {**labels, names.LABEL_NAMESPACE: "class-b"}}}
    assert list(children_of_deleted([mine, others], owners_of([office]))) == [mine]
