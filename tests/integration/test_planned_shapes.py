"""Fields and kinds of later versions: their shape is complete now, and one rule each keeps them out.

The CRDs are applied a second time in a group of their own, without those rules: there the API server takes the objects.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import REPOSITORY
from tests.support.crd_objects import DIGEST, OTHER_DIGEST, PLANNED, PLURALS
from tests.support.raw_api import Object, RawApi, Reply

GROUP = "later.example.org"
RESERVED = "reserved for a later version of Kigi"


def without_reservations(schema: Any) -> Any:
    """The schema without the rules that reserve a field or the kind."""
    if isinstance(schema, list):
        return [without_reservations(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: without_reservations(value) for key, value in schema.items()}
    if isinstance(rules := result.get("x-kubernetes-validations"), list):
        kept = [rule for rule in rules if RESERVED not in rule["message"]]
        result["x-kubernetes-validations"] = kept
        if not kept:
            del result["x-kubernetes-validations"]
    return result


@pytest.fixture(scope="module")
def server(api: ControlPlane) -> RawApi:
    for kind, plural in PLURALS.items():
        if kind not in PLANNED:
            continue
        crd = without_reservations(yaml.safe_load((REPOSITORY / "crds" / f"{plural}.kigi.dev.yaml").read_text()))
        crd["metadata"]["name"] = f"{plural}.{GROUP}"
        crd["spec"]["group"] = GROUP
        del crd["spec"]["names"]["shortNames"], crd["spec"]["names"]["categories"]
        api.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump(crd))
    names = [f"crd/{PLURALS[kind]}.{GROUP}" for kind in PLANNED]
    api.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
    return RawApi(api.kubeconfig)


def path(kind: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURALS[kind]}"


def create(server: RawApi, kind: str, name: str, spec: Object, **query: str) -> Reply:
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return server.create(path(kind), body, fieldValidation="Strict", **query)


@pytest.mark.parametrize("kind", PLANNED)
def test_without_its_rule_a_planned_object_is_taken_as_it_is(server: RawApi, kind: str) -> None:
    reply = create(server, kind, "planned", PLANNED[kind])
    assert reply.code == 201, reply.message
    assert reply.body["spec"] == PLANNED[kind]


@pytest.mark.parametrize(
    "source",
    [
        {"registry": {"image": "quay.io/x/disk@" + DIGEST, "secretRef": {"name": "pull"}}},
        {"s3": {"repositoryRef": {"name": "incoming"}, "key": "disks/a.vmdk", "checksum": DIGEST}},
        {"persistentVolumeClaimRef": {"name": "golden"}},
        {"volumeSnapshotRef": {"name": "golden-1"}},
    ],
)
def test_an_image_needs_only_a_source(server: RawApi, source: Object) -> None:
    reply = create(server, "VMImageNode", "sourced", {"source": source}, dryRun="All")
    assert reply.code == 201, reply.message


SOURCE: Object = {"source": {"http": {"url": "https://example.org/a.qcow2"}}}
LAYER: Object = {"digest": DIGEST, "sizeBytes": 123, "virtualSizeBytes": 512}
CHUNKS: Object = {"digest": OTHER_DIGEST, "chunkSizeBytes": 262144}


@pytest.mark.parametrize(
    ("before", "patch", "words"),
    [
        pytest.param(
            SOURCE, {"source": {"http": {"url": "https://example.org/b"}}}, "source is immutable", id="source"
        ),
        pytest.param(SOURCE, {"layer": LAYER}, None, id="an-import-adds-the-layer"),
        pytest.param(SOURCE | {"layer": LAYER}, {"layer": None}, "spec.layer is immutable", id="layer-removed"),
        pytest.param({"layer": LAYER}, {"layer": {"chunks": CHUNKS}}, None, id="chunks-added"),
        pytest.param(
            {"layer": LAYER | {"chunks": CHUNKS}},
            {"layer": {"chunks": {"chunkSizeBytes": 65536}}},
            "layer.chunks is immutable once it is set",
            id="chunks-changed",
        ),
        pytest.param(
            {"layer": LAYER | {"chunks": CHUNKS}},
            {"layer": {"chunks": None}},
            "chunks is immutable",
            id="chunks-removed",
        ),
        pytest.param(
            {"layer": LAYER | {"chunks": CHUNKS}}, {"layer": {"sizeBytes": 1}}, "spec.layer is immutable", id="size"
        ),
    ],
)
def test_what_may_be_added_later_and_what_never_changes(
    server: RawApi, before: Object, patch: Object, words: str | None
) -> None:
    assert create(server, "VMImageNode", "changing", before).code == 201
    try:
        reply = server.patch(f"{path('VMImageNode')}/changing", {"spec": patch})
        if words is None:
            assert reply.code == 200, reply.message
        else:
            assert reply.code == 422
            assert words in reply.message
    finally:
        server.delete(f"{path('VMImageNode')}/changing")


def test_a_memory_image_never_changes(server: RawApi) -> None:
    assert create(server, "VMMemoryImage", "fixed", PLANNED["VMMemoryImage"]).code == 201
    reply = server.patch(f"{path('VMMemoryImage')}/fixed", {"spec": {"machine": "other"}})
    assert reply.code == 422
    assert "spec is immutable; create a new VMMemoryImage" in reply.message


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        pytest.param({"disks": []}, "spec.disks", id="no-disk"),
        pytest.param({"disks": [{"name": "root", "digest": DIGEST}] * 2}, "Duplicate", id="disk-twice"),
        pytest.param({"layer": {"digest": "sha256:x"}}, "spec.layer.digest", id="digest"),
        pytest.param({"layer": {"memoryBytes": 0}}, "spec.layer.memoryBytes", id="no-memory"),
        pytest.param({"compatibility": {"cpuFeatures": ["avx2", "avx2"]}}, "Duplicate", id="feature-twice"),
        pytest.param({"compatibility": {"cpuModel": "a b"}}, "compatibility.cpuModel", id="cpu-model"),
        pytest.param({"compatibility": {"deviceHash": "77aa"}}, "compatibility.deviceHash", id="device-hash"),
        pytest.param({"encryption": {"keyName": "../key"}}, "encryption.keyName", id="key"),
        pytest.param({"machine": "Mail"}, "spec.machine", id="machine"),
    ],
)
def test_a_bad_memory_image_is_refused_by_its_field(server: RawApi, patch: Object, words: str) -> None:
    spec = merge_patch(copy.deepcopy(PLANNED["VMMemoryImage"]), patch)
    reply = create(server, "VMMemoryImage", "bad", spec, dryRun="All")
    assert reply.code == 422
    assert words in reply.message
