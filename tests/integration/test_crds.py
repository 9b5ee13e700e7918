"""The CRDs on a real API server: what is refused and in which words, what is taken, and what is filled in."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.crd_objects import (
    BAD_DEPLOYMENT_NAMES,
    BAD_OBJECTS,
    GOOD,
    OTHER_DIGEST,
    PLURALS,
    build,
    deployment,
    disks,
    image,
    layer,
    machine,
    template,
)
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    return RawApi(crds.kubeconfig)


@pytest.fixture(scope="module")
def kubectl(crds: ControlPlane) -> Callable[..., str]:
    return crds.kubectl


@pytest.fixture(scope="module")
def namespace(server: RawApi) -> Iterator[str]:
    name = "crd-test"
    server.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    server.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="module")
def collection(namespace: str) -> Callable[[str], str]:
    """Path of the collection of a kind."""

    def path(kind: str) -> str:
        scope = "" if kind == "NodeCache" else f"/namespaces/{namespace}"
        return f"/apis/{API_VERSION}{scope}/{PLURALS[kind]}"

    return path


@pytest.fixture
def created(server: RawApi, collection: Callable[[str], str]) -> Iterator[Callable[..., Object]]:
    """Creates objects, and deletes them after the test."""
    paths: list[str] = []

    def create(kind: str, name: str, spec: Object | None = None) -> Object:
        body = server.create(collection(kind), build(kind, name, spec), fieldValidation="Strict").object()
        paths.append(f"{collection(kind)}/{name}")
        return body

    yield create
    for path in paths:
        server.delete(path)


def test_there_are_enough_bad_objects() -> None:
    assert len(BAD_OBJECTS) + len(BAD_DEPLOYMENT_NAMES) >= 60
    assert len({case.id for case in BAD_OBJECTS}) == len(BAD_OBJECTS)


@pytest.mark.parametrize(("kind", "spec", "words"), BAD_OBJECTS)
def test_a_bad_object_is_refused_by_field_and_remedy(
    server: RawApi, collection: Callable[[str], str], kind: str, spec: Object, words: tuple[str, ...]
) -> None:
    reply = server.create(collection(kind), build(kind, "bad", spec), dryRun="All")
    assert reply.code == 422, reply
    for word in words:
        assert word in reply.message


@pytest.mark.parametrize("name", BAD_DEPLOYMENT_NAMES)
def test_a_deployment_that_would_give_bad_vm_names_is_refused(
    server: RawApi, collection: Callable[[str], str], name: str
) -> None:
    reply = server.create(collection("SystemDeployment"), build("SystemDeployment", name), dryRun="All")
    assert reply.code == 422
    assert "metadata.name: it is part of the VMs' names; use at most 32 lower-case letters" in reply.message


def test_an_unknown_field_is_refused_by_its_path(server: RawApi, collection: Callable[[str], str]) -> None:
    spec = template(patch={"domain": {}})
    reply = server.create(collection("SystemNode"), build("SystemNode", "bad", spec), fieldValidation="Strict")
    assert reply.code == 400
    assert 'unknown field "spec.machines[0].template.patch.domain"' in reply.message


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_object_is_taken_as_it_is(created: Callable[..., Object], kind: str) -> None:
    spec = created(kind, "good")["spec"]
    assert _contains(spec, GOOD[kind])


def _contains(value: Any, wanted: Any) -> bool:
    """``value`` says all that ``wanted`` says; defaults may have been added."""
    if isinstance(wanted, dict):
        return all(key in value and _contains(value[key], item) for key, item in wanted.items())
    if isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_contains, value, wanted))
    return bool(value == wanted)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        pytest.param("VMImageNode", image(virtualSizeBytes=512) | {"parent": {"name": "a.b-c.d"}}, id="dotted-parent"),
        pytest.param("VMImageNode", image(sizeBytes=2**46, virtualSizeBytes=2**46), id="largest-sizes"),
        pytest.param("SystemNode", {}, id="a-root-without-machines"),
        pytest.param("SystemNode", {"parent": {"name": "p"}}, id="a-child-that-changes-nothing"),
        pytest.param("SystemNode", machine(name="m" * 20), id="longest-machine-name"),
        pytest.param("SystemNode", template(networks=[]), id="no-networks"),
        pytest.param("SystemNode", template(instancetype={"name": "small"}, preference={"name": "linux"}), id="types"),
        pytest.param("SystemNode", disks({"name": "data", "image": {"name": "x"}, "bus": "scsi"}), id="disk"),
        pytest.param("SystemNode", {"parent": {"name": "p"}} | disks({"name": "d", "removed": True}), id="disk-gone"),
        pytest.param("SystemNode", template(readiness={"guestAgent": True}), id="readiness-agent"),
        pytest.param("SystemNode", template(readiness={"http": {"port": 80}}), id="readiness-http"),
        pytest.param("SystemNode", template(after=["other"]), id="after"),
        pytest.param("SystemNode", template(patch={"spec": {"domain": {"devices": {"tpm": {}}}}}), id="tpm"),
        pytest.param("SystemNode", template(cloudInit={"secretName": "s"}), id="cloud-init-secret"),
        pytest.param("SystemNode", template(cloudInit={"networkData": "x"}), id="cloud-init-network-data"),
        pytest.param("SystemNode", template(patch={}), id="empty-patch"),
        pytest.param("SystemNode", template(patch={"spec": {"domain": {"devices": {}}}}), id="patch-without-disks"),
        pytest.param("SystemNode", template(patch={"metadata": {"labels": {"a": None}}}), id="patch-that-deletes"),
        pytest.param(
            "SystemNode",
            {"machines": [{"name": f"m{n}", "image": {"name": "x"}, "template": {"cpu": 1}} for n in range(256)]},
            id="most-machines",
        ),
        pytest.param("SystemDeployment", {"system": {"name": "s"}}, id="only-the-state"),
        pytest.param("SystemDeployment", deployment(replicas=0), id="no-instances"),
        pytest.param("SystemDeployment", deployment(replicas=1, overrides=[{"instance": 5}]), id="override-beyond"),
        pytest.param("SystemDeployment", deployment(reset=""), id="empty-token"),
        pytest.param("NodeCache", {}, id="empty-cache"),
    ],
)
def test_unusual_but_good_objects_are_taken(
    server: RawApi, collection: Callable[[str], str], kind: str, spec: Object
) -> None:
    reply = server.create(collection(kind), build(kind, "good", spec), dryRun="All", fieldValidation="Strict")
    assert reply.code == 201, reply.message


def test_a_deployment_of_the_longest_name_is_taken(server: RawApi, collection: Callable[[str], str]) -> None:
    body = build("SystemDeployment", "a-" + "b" * 30)
    assert server.create(collection("SystemDeployment"), body, dryRun="All").code == 201


def test_what_is_left_out_is_filled_in(created: Callable[..., Object]) -> None:
    spec = created("SystemDeployment", "defaults", {"system": {"name": "s"}})["spec"]
    assert spec == {
        "system": {"name": "s"},
        "replicas": 1,
        "running": True,
        "switchPolicy": "ResetAll",
        "placement": {"strategy": "CacheAware"},
        "isolation": "None",
    }
    layer_spec = created("VMImageNode", "defaults", image(repository=None))["spec"]["layer"]
    assert layer_spec["repository"] == "default"
    (machine_spec,) = created("SystemNode", "defaults", machine())["spec"]["machines"]
    assert machine_spec == {"name": "mail1", "image": {"name": "mail"}, "removed": False}
    cache = created("NodeCache", "defaults", layer())
    assert cache["spec"]["layers"][0] == layer()["layers"][0] | {
        "repository": "default",
        "priority": 0,
        "pinned": False,
    }


def test_a_nodecache_needs_no_spec(server: RawApi, collection: Callable[[str], str]) -> None:
    body = {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": "bare"}}
    assert server.create(collection("NodeCache"), body, dryRun="All").object()["spec"] == {}


@pytest.mark.parametrize("kind", GOOD)
def test_the_first_watch_event_of_an_object_has_observed_generation_minus_one(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object], kind: str
) -> None:
    version = server.get(collection(kind)).object()["metadata"]["resourceVersion"]
    created(kind, "fresh")
    event = next(server.watch(collection(kind), resourceVersion=version, timeoutSeconds="10"))
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"]["name"] == "fresh"
    assert event["object"]["status"] == {"observedGeneration": -1}


def test_a_status_sent_with_a_new_object_is_not_believed(server: RawApi, collection: Callable[[str], str]) -> None:
    body = build("VMImageNode", "liar") | {"status": {"observedGeneration": 1, "depth": 3}}
    path = f"{collection('VMImageNode')}/liar"
    server.create(collection("VMImageNode"), body).object()
    try:
        assert server.get(path).object()["status"] == {"observedGeneration": -1}
    finally:
        server.delete(path)


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        pytest.param({"parent": {"name": "other"}}, "spec.parent is immutable; publish a new", id="parent-changed"),
        pytest.param({"parent": None}, "spec.parent is immutable; publish a new", id="parent-removed"),
        pytest.param({"layer": {"digest": OTHER_DIGEST}}, "spec.layer is immutable; publish a new", id="digest"),
        pytest.param({"layer": {"sizeBytes": 124}}, "spec.layer is immutable; publish a new", id="size"),
        pytest.param({"layer": {"virtualSizeBytes": 512}}, "spec.layer is immutable; publish a new", id="virtual-size"),
        pytest.param({"layer": {"repository": "other"}}, "spec.layer is immutable; publish a new", id="repository"),
    ],
)
def test_an_image_never_changes(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object], patch: Object, words: str
) -> None:
    created("VMImageNode", "fixed")
    reply = server.patch(f"{collection('VMImageNode')}/fixed", {"spec": patch})
    assert reply.code == 422
    assert words in reply.message


def test_a_root_image_never_gets_a_parent(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    root = {key: value for key, value in GOOD["VMImageNode"].items() if key != "parent"}
    created("VMImageNode", "root", root)
    reply = server.patch(f"{collection('VMImageNode')}/root", {"spec": {"parent": {"name": "late"}}})
    assert reply.code == 422
    assert "spec.parent is immutable" in reply.message


def test_an_images_texts_can_be_edited(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    created("VMImageNode", "texts")
    reply = server.patch(f"{collection('VMImageNode')}/texts", {"spec": {"description": "new", "os": None}})
    spec = reply.object()["spec"]
    assert spec["description"] == "new"
    assert "os" not in spec


def test_a_deployment_scales(server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]) -> None:
    created("SystemDeployment", "wide")
    path = f"{collection('SystemDeployment')}/wide"
    status = {
        "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "selector": "kigi.dev/deployment=wide"}
    }
    server.patch(f"{path}/status", status).object()
    scale = server.get(f"{path}/scale").object()
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 1, "selector": "kigi.dev/deployment=wide"}
    server.patch(f"{path}/scale", {"spec": {"replicas": 5}}).object()
    after = server.get(path).object()
    assert after["spec"]["replicas"] == 5
    assert after["metadata"]["generation"] == 2
    refused = server.patch(f"{path}/scale", {"spec": {"replicas": 1001}})
    assert refused.code == 422
    assert "spec.replicas" in refused.message


def test_a_status_write_leaves_spec_and_generation_alone(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    before = created("SystemDeployment", "calm")
    patch = {"status": {"observedGeneration": 1}, "spec": {"replicas": 9}}
    after = server.patch(f"{collection('SystemDeployment')}/calm/status", patch).object()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    assert after["status"] == {"observedGeneration": 1}


def test_conditions_are_merged_by_type_and_checked(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    created("SystemNode", "cond")
    path = f"{collection('SystemNode')}/cond/status"
    reply = server.patch(path, {"status": {"conditions": [condition("Ready"), condition("Ready")]}})
    assert reply.code == 422
    assert "Duplicate" in reply.message
    reply = server.patch(path, {"status": {"conditions": [condition("Ready") | {"status": "yes"}]}})
    assert reply.code == 422
    assert "Unsupported value" in reply.message


def condition(kind: str, status: str = "True", reason: str = "Fine", message: str = "all is well") -> Object:
    return {
        "type": kind,
        "status": status,
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "reason": reason,
        "message": message,
    }


def test_columns_show_the_status(
    server: RawApi,
    kubectl: Callable[..., str],
    namespace: str,
    collection: Callable[[str], str],
    created: Callable[..., Object],
) -> None:
    created("SystemDeployment", "shown")
    status = {
        "observedGeneration": 1,
        "conditions": [condition("Ready", "False", "LayersWarming", "3 of 7 layers on node-b")],
        "replicas": 2,
        "readyReplicas": 1,
        "progress": {"heldBytes": 3, "wantedBytes": 7, "percent": 42},
        "plan": {"totalBytes": 700, "missingBytes": 70, "movedBytes": 30, "savedRatio": 0.9},
    }
    server.patch(f"{collection('SystemDeployment')}/shown/status", {"status": status}).object()
    header, row = kubectl("get", "ksd", "shown", "-n", namespace).splitlines()
    columns = ["NAME", "READY", "STATE", "SYSTEM", "READY-INSTANCES", "WANTED", "CACHED%", "MESSAGE", "AGE"]
    assert header.split() == columns
    assert row.split()[:7] == ["shown", "False", "LayersWarming", "cleaned", "1", "2", "42"]
    assert "3 of 7 layers on node-b" in row
    wide = kubectl("get", "ksd", "shown", "-n", namespace, "-o", "wide").splitlines()
    assert wide[0].split()[len(columns) :] == ["RUNNING", "MISSING", "TOTAL", "STRATEGY"]
    assert wide[1].split()[-3:] == ["70", "700", "Spread"]


@pytest.mark.parametrize(
    ("kind", "short"),
    [("VMImageNode", "kimg"), ("SystemNode", "ksys"), ("SystemDeployment", "ksd"), ("NodeCache", "knc")],
)
def test_short_names_work(
    kubectl: Callable[..., str], namespace: str, created: Callable[..., Object], kind: str, short: str
) -> None:
    created(kind, "short")
    assert kubectl("get", short, "short", "-n", namespace, "-o", "jsonpath={.kind}") == kind


def test_the_category_lists_every_kind(
    kubectl: Callable[..., str], namespace: str, created: Callable[..., Object]
) -> None:
    for kind in GOOD:
        created(kind, "listed")

    def listed() -> set[str]:
        try:
            return set(kubectl("get", "kigi", "-n", namespace, "-o", "name").split())
        except subprocess.CalledProcessError:  # the server gathers what it serves a moment after a kind was made
            return set()

    eventually(lambda: {f"{kind.lower()}.kigi.dev/listed" for kind in GOOD} <= listed(), 20, "each kind is listed")


def test_fields_are_explained(kubectl: Callable[..., str]) -> None:
    said = " ".join(kubectl("explain", "vmimagenode.spec.layer.virtualSizeBytes").split())
    assert "Size of the virtual disk in bytes" in said


def test_wait_for_ready_returns_when_the_condition_is_true(
    server: RawApi,
    kubectl: Callable[..., str],
    namespace: str,
    collection: Callable[[str], str],
    created: Callable[..., Object],
) -> None:
    created("VMImageNode", "awaited")
    arguments = ("wait", "--for=condition=Ready", "kimg/awaited", "-n", namespace)
    with pytest.raises(subprocess.CalledProcessError) as waiting:
        kubectl(*arguments, "--timeout=1s")
    assert "timed out" in waiting.value.stderr
    status = {"observedGeneration": 1, "conditions": [condition("Ready")]}
    server.patch(f"{collection('VMImageNode')}/awaited/status", {"status": status}).object()
    assert "condition met" in kubectl(*arguments, "--timeout=20s")


def _examples() -> list[Any]:
    """Every document of manifests/examples and every YAML block of the reference pages."""
    texts = {
        path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "manifests/examples").glob("*.yaml"))
    }
    for page in sorted((ROOT / "docs/reference").glob("*.md")):
        blocks = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        texts |= {f"{page.name}-{number}": block for number, block in enumerate(blocks)}
    return [
        pytest.param(document, id=f"{name}-{document['metadata']['name']}")
        for name, text in texts.items()
        for document in yaml.safe_load_all(text)
        if document["apiVersion"] == API_VERSION
    ]


@pytest.mark.parametrize("document", _examples())
def test_every_example_is_taken(server: RawApi, collection: Callable[[str], str], document: Object) -> None:
    path = f"{collection(document['kind'])}/{document['metadata']['name']}"
    reply = server.call(
        "PATCH",
        path,
        document,
        content_type="application/apply-patch+yaml",
        fieldManager="test",
        fieldValidation="Strict",
        dryRun="All",
    )
    assert reply.code in (200, 201), reply.message


def test_a_nodecache_of_the_most_layers_fits_into_the_store(server: RawApi, collection: Callable[[str], str]) -> None:
    """The bound on the list is one that etcd's limit of 1.5 MiB on a request allows, spec and status together."""
    path = f"{collection('NodeCache')}/full"
    most = _most_layers()
    layers = [
        {
            "digest": f"sha256:{number:064x}",
            "sizeBytes": 2**40,
            "virtualSizeBytes": 2**40,
            "parent": f"sha256:{max(number - 1, 0) or 10**9:064x}",
            "repository": "default",
            "priority": 100,
            "pinned": False,
        }
        for number in range(most)
    ]
    head = {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": "full"}}
    try:
        reply = server.apply(path, head | {"spec": {"layers": layers}}, manager="kigi-operator")
        assert reply.code == 201, reply.message
        held = [
            {"digest": item["digest"], "state": "Held", "sizeBytes": 2**40, "fetchedBytes": 2**40, "links": 10}
            for item in layers
        ]
        reply = server.apply(
            f"{path}/status", head | {"status": {"observedGeneration": 1, "layers": held}}, manager="cache"
        )
        assert reply.code == 200, reply.message
        assert len(reply.body["status"]["layers"]) == most == 2000
        assert len(json.dumps(reply.body)) < 0.8 * 1.5 * 2**20
    finally:
        server.delete(path)


def _most_layers() -> int:
    crd = yaml.safe_load((ROOT / "crds" / "nodecaches.kigi.dev.yaml").read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return int(schema["properties"]["spec"]["properties"]["layers"]["maxItems"])
