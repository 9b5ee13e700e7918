"""The CRDs on a real API server: what is refused and in which words, what is taken, and what is filled in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.api.base import Model
from kigi.domain.comparison import includes
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.crd_objects import (
    AGENT,
    BAD_DEPLOYMENT_NAMES,
    BAD_OBJECTS,
    CLUSTER_SCOPED,
    GOOD,
    IMAGE,
    OTHER_DIGEST,
    PLURALS,
    build,
    deployment,
    disks,
    hardware,
    image,
    instance,
    layer,
    machine,
    merged,
    merged_spec,
    named,
    node_cache,
    removed,
    repository,
    toleration,
)
from tests.support.examples import examples
from tests.support.raw_api import Object, RawApi
from tools.crdgen import KINDS, build_crd
from tools.crdwalk import fields_of

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
        scope = "" if kind in CLUSTER_SCOPED else f"/namespaces/{namespace}"
        version = NODE_API_VERSION if kind == "NodeCache" else API_VERSION
        return f"/apis/{version}{scope}/{PLURALS[kind]}"

    return path


@pytest.fixture
def created(server: RawApi, collection: Callable[[str], str]) -> Iterator[Callable[..., Object]]:
    """Creates objects, and deletes them after the test."""
    paths: list[str] = []

    def create(kind: str, name: str, spec: Object | None = None) -> Object:
        body = server.create(collection(kind), build(kind, name, spec), fieldValidation="Strict").object()
        paths.append(f"{collection(kind)}/{body['metadata']['name']}")
        return body

    yield create
    for path in paths:
        server.delete(path)


def test_there_are_enough_bad_objects() -> None:
    assert len(BAD_OBJECTS) + len(BAD_DEPLOYMENT_NAMES) >= 150
    assert {case.values[0] for case in BAD_OBJECTS} == {kind.__name__ for kind in KINDS}
    assert len({case.id for case in BAD_OBJECTS}) == len(BAD_OBJECTS)


@pytest.mark.parametrize(("kind", "spec", "words"), BAD_OBJECTS)
def test_a_bad_object_is_refused_by_field_and_remedy(
    server: RawApi, collection: Callable[[str], str], kind: str, spec: Object, words: tuple[str, ...]
) -> None:
    reply = server.create(collection(kind), build(kind, "bad", spec), dryRun="All")
    assert reply.code == 422, reply
    for word in words:
        assert word in reply.message


def test_every_rule_refuses_a_bad_object(server: RawApi, collection: Callable[[str], str]) -> None:
    """Each CEL rule has a case that it alone, or it too, refuses; planned fields are refused by such rules."""
    said: dict[str, str] = {}
    for case in BAD_OBJECTS:
        kind, spec, _ = case.values
        reply = server.create(collection(kind), build(kind, "bad", spec), dryRun="All")
        said[kind] = said.get(kind, "") + reply.message
    untested = {
        f"{field.path}: {rule['message']}"
        for kind in KINDS
        for field in fields_of(build_crd(kind))
        for rule in field.schema.get("x-kubernetes-validations", ())
        if "oldSelf" not in rule["rule"] and rule["message"] not in said.get(kind.__name__, "")
    }
    assert untested == set()


def test_every_enum_and_every_field_is_explained(server: RawApi) -> None:
    """What ``kubectl explain`` prints is what the API server publishes."""
    for kind in KINDS:
        crd = build_crd(kind)["spec"]
        path = f"/openapi/v3/apis/{crd['group']}/{crd['versions'][0]['name']}"
        schemas = server.get(path).object()["components"]["schemas"]
        (name,) = [name for name in schemas if name.endswith(f".{kind.__name__}")]
        published = {"spec": {**crd, "versions": [{"schema": {"openAPIV3Schema": schemas[name]}}]}}
        fields = list(fields_of(published))
        assert len(fields) > 8, kind
        for field in fields:
            words = field.schema.get("description", "")
            assert words or field.path.endswith(("[]", "{}")), field.path
            if "enum" in field.schema and not field.in_status and len(field.schema["enum"]) > 1:
                words = words or field.parent.get("description", "")
                assert "further values may be added" in words.lower(), field.path


@pytest.mark.parametrize("name", BAD_DEPLOYMENT_NAMES)
def test_a_deployment_that_would_give_bad_vm_names_is_refused(
    server: RawApi, collection: Callable[[str], str], name: str
) -> None:
    reply = server.create(collection("SystemDeployment"), build("SystemDeployment", name), dryRun="All")
    assert reply.code == 422
    assert "metadata.name: it is part of the VMs' names; use at most 35 lower-case letters" in reply.message


def test_an_instance_has_the_name_that_its_identity_gives(server: RawApi, collection: Callable[[str], str]) -> None:
    reply = server.create(collection("SystemInstance"), build("SystemInstance", "other-name"), dryRun="All")
    assert reply.code == 422
    assert "metadata.name: must be <spec.deploymentRef.name>-<spec.name>" in reply.message


@pytest.mark.parametrize("field", ["deploymentRef", "name"])
def test_the_identity_of_an_instance_never_changes(
    created: Callable[..., Object], server: RawApi, collection: Callable[[str], str], field: str
) -> None:
    body = created("SystemInstance", "any")
    value = {"name": "other"} if field == "deploymentRef" else "8"
    reply = server.patch(f"{collection('SystemInstance')}/{body['metadata']['name']}", {"spec": {field: value}})
    assert reply.code == 422
    assert f"{field}: immutable; create another SystemInstance instead" in reply.message


@pytest.mark.parametrize("name", ["a" * 64, "a.b"])
def test_a_repository_whose_name_is_no_name_of_a_file_is_refused(
    server: RawApi, collection: Callable[[str], str], name: str
) -> None:
    reply = server.create(collection("LayerRepository"), build("LayerRepository", name), dryRun="All")
    assert reply.code == 422
    assert "metadata.name: use at most 63 lower-case letters, digits and '-'" in reply.message


def test_an_unknown_field_is_refused_by_its_path(server: RawApi, collection: Callable[[str], str]) -> None:
    spec = merged(domain={})
    reply = server.create(collection("SystemNode"), build("SystemNode", "bad", spec), fieldValidation="Strict")
    assert reply.code == 400
    assert 'unknown field "spec.machines[0].patch.merge.domain"' in reply.message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_api_server_stores_a_definition_as_it_is_generated(server: RawApi, kind: type[Model]) -> None:
    """Else a GitOps controller would show it as out of sync, and a migration would write it again and again."""
    wanted = build_crd(kind)
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{wanted['metadata']['name']}"
    assert includes(server.get(path).object()["spec"], wanted["spec"])


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
        pytest.param(
            "VMImageNode", image(virtualSizeBytes=512) | {"parentRef": {"name": "a.b-c.d"}}, id="dotted-parent"
        ),
        pytest.param("VMImageNode", image(sizeBytes=2**46, virtualSizeBytes=2**46), id="largest-sizes"),
        pytest.param("SystemNode", {}, id="a-root-without-machines"),
        pytest.param("SystemNode", {"parentRef": {"name": "p"}}, id="a-child-that-changes-nothing"),
        pytest.param("SystemNode", machine(name="m" * 20), id="longest-machine-name"),
        pytest.param("SystemNode", hardware(interfaces=[]), id="no-interfaces"),
        pytest.param(
            "SystemNode", hardware(instancetypeRef={"name": "small"}, preferenceRef={"name": "linux"}), id="types"
        ),
        pytest.param("SystemNode", disks({"name": "data", "bus": "scsi"} | IMAGE), id="disk"),
        pytest.param(
            "SystemNode", {"parentRef": {"name": "p"}} | disks({"name": "d", "removed": True}), id="disk-gone"
        ),
        pytest.param("SystemNode", machine(readinessProbe=AGENT), id="readiness-agent"),
        pytest.param("SystemNode", machine(readinessProbe={"exec": {"command": ["true"]}}), id="readiness-exec"),
        pytest.param("SystemNode", machine(startAfter=["other"]), id="after"),
        pytest.param("SystemNode", merged_spec(domain={"devices": {"tpm": {}}}), id="tpm"),
        pytest.param("SystemNode", hardware(cloudInit={"secretRef": {"name": "s"}}), id="cloud-init-secret"),
        pytest.param("SystemNode", hardware(cloudInit={"networkData": "x"}), id="cloud-init-network-data"),
        pytest.param("SystemNode", machine(patch={}), id="empty-patch"),
        pytest.param("SystemNode", merged_spec(domain={"devices": {}}), id="patch-without-disks"),
        pytest.param("SystemNode", removed("spec.domain.devices.tpm", "spec.dnsConfig"), id="patch-that-removes"),
        *(
            pytest.param("SystemNode", hardware(memory={"guest": text}), id=f"memory-{text}")
            for text in ("16Mi", "0.5Gi", "1073741824", "16Ti", "1e9", "512M")
        ),
        pytest.param(
            "SystemNode", {"parentRef": {"name": "p"}, "machines": [{"name": "m", "unset": ["cpu"]}]}, id="only-unset"
        ),
        pytest.param(
            "SystemNode",
            {"machines": [{"name": f"m{n}", "rootDisk": IMAGE, "hardware": {"cpu": {"cores": 1}}} for n in range(128)]},
            id="most-machines",
        ),
        pytest.param("SystemDeployment", {"systemRef": {"name": "s"}}, id="only-the-state"),
        pytest.param("SystemDeployment", named({"name": "red", "labels": {"team": "red"}}, {"name": "7"}), id="named"),
        pytest.param("SystemDeployment", toleration(key="a", operator="Lt", value="5"), id="later-operator"),
        pytest.param("SystemDeployment", deployment(replicas=0), id="no-instances"),
        pytest.param("SystemInstance", instance(machines=[], powerState=None, systemRef=None), id="plain-instance"),
        pytest.param("SystemDeployment", deployment(resetToken=""), id="empty-token"),
        pytest.param("NodeCache", node_cache(), id="empty-cache"),
        *(
            pytest.param(
                "LayerRepository", {**GOOD["LayerRepository"], "credentials": references}, id=f"keys-of-{name}"
            )
            for name, references in {"pods": {}, "pods-and-writer": {"writerSecretRef": {"name": "writer"}}}.items()
        ),
        *(
            pytest.param("LayerRepository", repository(s3={"endpoint": endpoint}), id=f"endpoint-{endpoint}")
            for endpoint in ("https://[fd00::1]:9000", "https://S3.example/")
        ),
    ],
)
def test_unusual_but_good_objects_are_taken(
    server: RawApi, collection: Callable[[str], str], kind: str, spec: Object
) -> None:
    reply = server.create(collection(kind), build(kind, "good", spec), dryRun="All", fieldValidation="Strict")
    assert reply.code == 201, reply.message


def test_a_deployment_of_the_longest_name_is_taken(server: RawApi, collection: Callable[[str], str]) -> None:
    body = build("SystemDeployment", "a-" + "b" * 33)
    assert server.create(collection("SystemDeployment"), body, dryRun="All").code == 201


def test_what_is_left_out_is_filled_in(created: Callable[..., Object]) -> None:
    spec = created("SystemDeployment", "defaults", {"systemRef": {"name": "s"}})["spec"]
    assert spec == {"systemRef": {"name": "s"}}
    assert created("VMImageNode", "defaults", image())["spec"] == image()
    (machine_spec,) = created("SystemNode", "defaults", machine())["spec"]["machines"]
    assert machine_spec == machine()["machines"][0]
    cache = created("NodeCache", "defaults", layer())
    assert cache["spec"] == layer()


def test_a_nodecache_keeps_its_node(created: Callable[..., Object], server: RawApi, collection: Any) -> None:
    created("NodeCache", "keeps", node_cache())
    reply = server.patch(f"{collection('NodeCache')}/keeps", {"spec": {"nodeName": "node-b"}})
    assert reply.code == 422
    assert "spec.nodeName: Invalid value" in reply.message
    assert "create another NodeCache for another node" in reply.message


def test_nodecaches_of_a_node_are_selected_by_a_field(
    created: Callable[..., Object], server: RawApi, collection: Callable[[str], str]
) -> None:
    created("NodeCache", "first", node_cache(nodeName="node-s"))
    created("NodeCache", "other", node_cache(nodeName="node-t"))
    found = server.get(collection("NodeCache"), fieldSelector="spec.nodeName=node-s").object()["items"]
    assert [item["metadata"]["name"] for item in found] == ["first"]


@pytest.mark.parametrize("kind", GOOD)
def test_the_first_watch_event_of_an_object_has_observed_generation_minus_one(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object], kind: str
) -> None:
    version = server.get(collection(kind)).object()["metadata"]["resourceVersion"]
    name = created(kind, "fresh")["metadata"]["name"]
    event = next(server.watch(collection(kind), resourceVersion=version, timeoutSeconds="10"))
    assert event["type"] == "ADDED"
    assert event["object"]["metadata"]["name"] == name
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
        pytest.param(
            {"parentRef": {"name": "other"}}, "spec.parentRef is immutable; publish a new", id="parent-changed"
        ),
        pytest.param({"parentRef": None}, "spec.parentRef is immutable; publish a new", id="parent-removed"),
        pytest.param({"layer": {"digest": OTHER_DIGEST}}, "spec.layer is immutable; publish a new", id="digest"),
        pytest.param({"layer": {"sizeBytes": 124}}, "spec.layer is immutable; publish a new", id="size"),
        pytest.param({"layer": {"virtualSizeBytes": 512}}, "spec.layer is immutable; publish a new", id="virtual-size"),
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
    root = {key: value for key, value in GOOD["VMImageNode"].items() if key != "parentRef"}
    created("VMImageNode", "root", root)
    reply = server.patch(f"{collection('VMImageNode')}/root", {"spec": {"parentRef": {"name": "late"}}})
    assert reply.code == 422
    assert "spec.parentRef is immutable" in reply.message


def test_an_images_texts_can_be_edited(
    server: RawApi, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    created("VMImageNode", "texts")
    reply = server.patch(f"{collection('VMImageNode')}/texts", {"spec": {"description": "new", "guest": {"os": None}}})
    spec = reply.object()["spec"]
    assert spec["description"] == "new"
    assert "os" not in spec["guest"]


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
        "summary": "1/2",
        "plan": {"totalBytes": 700, "missingBytes": 70, "movedBytes": 30},
    }
    server.patch(f"{collection('SystemDeployment')}/shown/status", {"status": status}).object()
    header, row = kubectl("get", "ksd", "shown", "-n", namespace).splitlines()
    columns = ["NAME", "READY", "STATE", "SYSTEM", "INSTANCES", "CACHED%", "AGE"]
    assert header.split() == columns
    assert row.split()[:6] == ["shown", "False", "LayersWarming", "cleaned", "1/2", "42"]
    wide = kubectl("get", "ksd", "shown", "-n", namespace, "-o", "wide").splitlines()
    assert "3 of 7 layers on node-b" in wide[1]
    assert wide[0].split()[-5:] == ["AGE", "RUNNING", "MISSING", "TOTAL", "STRATEGY"]
    assert wide[1].split()[-3:] == ["70", "700", "Spread"]


@pytest.mark.parametrize(
    ("kind", "short"),
    [
        ("VMImageNode", "kimg"),
        ("SystemNode", "ksys"),
        ("SystemDeployment", "ksd"),
        ("NodeCache", "knc"),
        ("LayerRepository", "krepo"),
    ],
)
def test_short_names_work(
    kubectl: Callable[..., str], namespace: str, created: Callable[..., Object], kind: str, short: str
) -> None:
    created(kind, "short")
    assert kubectl("get", short, "short", "-n", namespace, "-o", "jsonpath={.kind}") == kind


def test_the_category_lists_every_kind(
    kubectl: Callable[..., str], namespace: str, collection: Callable[[str], str], created: Callable[..., Object]
) -> None:
    groups = {kind: collection(kind).split("/")[2] for kind in GOOD}
    names = {f"{k.lower()}.{groups[k]}/{created(k, 'listed')['metadata']['name']}" for k in GOOD}

    def listed() -> set[str]:
        try:
            return set(kubectl("get", "kigi", "-n", namespace, "-o", "name").split())
        except subprocess.CalledProcessError:  # the server gathers what it serves a moment after a kind was made
            return set()

    eventually(lambda: names <= listed(), 20, "each kind is listed")


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


@pytest.mark.parametrize("document", [pytest.param(document, id=where) for where, document in examples()])
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
            "parentDigest": f"sha256:{max(number - 1, 0) or 10**9:064x}",
            "repositoryName": "default",
            "purpose": "Disk",
        }
        for number in range(most)
    ]
    head = {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": {"name": "full"}}
    try:
        reply = server.apply(path, head | {"spec": node_cache(layers=layers)}, manager="kigi-operator")
        assert reply.code == 201, reply.message
        held = [{"digest": item["digest"], "state": "Held", "need": "Running", "links": 10} for item in layers]
        reply = server.apply(
            f"{path}/status", head | {"status": {"observedGeneration": 1, "layers": held}}, manager="cache"
        )
        assert reply.code == 200, reply.message
        assert len(reply.body["status"]["layers"]) == most == 2000
        assert len(json.dumps(reply.body)) < 0.8 * 1.5 * 2**20
    finally:
        server.delete(path)


def _most_layers() -> int:
    crd = yaml.safe_load((ROOT / "crds" / "nodecaches.node.kigi.dev.yaml").read_text(encoding="utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return int(schema["properties"]["spec"]["properties"]["layers"]["maxItems"])
