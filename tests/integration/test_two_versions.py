"""The way to v1beta1 of docs/upgrade-policy.md: two versions with one schema, no webhook, and nothing changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually, install_crds
from tests.support.crd_objects import GOOD, RESERVED, build
from tests.support.raw_api import RawApi
from tools.crdgen import KINDS, build_crd

ROOT = Path(__file__).parents[2]
CRDS = {kind.__name__: build_crd(kind) for kind in KINDS}
KINDS_IN_USE = sorted(kind for kind in GOOD if kind not in RESERVED and CRDS[kind]["spec"]["group"] == "kigi.dev")
BETA, ALPHA = "v1beta1", "v1alpha2"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("two-versions")) as server:
        install_crds(server)
        yield server


def path_of(kind: str, version: str) -> str:
    """Of the one object of this kind."""
    spec, name = CRDS[kind]["spec"], build(kind, "kept")["metadata"]["name"]
    scope = "/namespaces/default" if spec["scope"] == "Namespaced" else ""
    return f"/apis/kigi.dev/{version}{scope}/{spec['names']['plural']}/{name}"


def with_versions(kind: str, *names: str) -> dict[str, Any]:
    """The definition with these versions, of which the first one is stored; the alpha one is deprecated beside it."""
    crd = copy.deepcopy(CRDS[kind])
    (version,) = crd["spec"]["versions"]
    crd["spec"]["versions"] = [
        copy.deepcopy(version)
        | {"name": name, "storage": name == names[0], "served": True}
        | ({"deprecated": True} if name == ALPHA and len(names) > 1 else {})
        for name in names
    ]
    return crd


def install(plane: ControlPlane, *versions: str) -> None:
    crds = [with_versions(kind, *versions) for kind in KINDS_IN_USE]
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input_text=yaml.safe_dump_all(crds))
    plane.kubectl(
        "wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{c['metadata']['name']}" for c in crds)
    )


def same(body: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the version: everything but it, and what field managers note."""
    found = json.loads(json.dumps(body))
    del found["apiVersion"]
    for key in ("managedFields", "resourceVersion"):
        found["metadata"].pop(key, None)
    return dict(found)


def get(server: RawApi, kind: str, version: str) -> dict[str, Any]:
    """A server that has just learned a version answers 404 or 429 for a moment."""
    reply = eventually(lambda: (found := server.get(path_of(kind, version))).code == 200 and found)
    return reply.object()


def test_objects_pass_to_the_beta_version_unchanged(plane: ControlPlane) -> None:
    server = RawApi(plane.kubeconfig)
    before: dict[str, dict[str, Any]] = {}
    for kind in KINDS_IN_USE:
        document = build(kind, "kept")
        reply = server.apply(path_of(kind, ALPHA), document, manager="gitops").object()
        status = {"observedGeneration": 1, "conditions": [condition()]}
        server.patch(path_of(kind, ALPHA) + "/status", {"status": status}).object()
        before[kind] = server.get(path_of(kind, ALPHA)).object()
        assert before[kind]["metadata"]["uid"] == reply["metadata"]["uid"]

    install(plane, BETA, ALPHA)
    for kind, old in before.items():
        assert same(get(server, kind, BETA)) == same(get(server, kind, ALPHA)) == same(old), kind
        # Git still has the alpha version, and then the beta one: the tool applies it, and nothing changes.
        for version in (ALPHA, BETA, ALPHA, BETA):
            document = build(kind, "kept") | {"apiVersion": f"kigi.dev/{version}"}
            server.apply(path_of(kind, version), document, manager="gitops").object()
            assert same(get(server, kind, BETA)) == same(old), (kind, version)

    # Every object is written once in the stored version, and the alpha version leaves.
    for kind in before:
        body = get(server, kind, BETA)
        body["metadata"].pop("managedFields")
        server.call("PUT", path_of(kind, BETA), body).object()
        name = CRDS[kind]["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        assert server.get(path).object()["status"]["storedVersions"] == [ALPHA, BETA]
        server.patch(path + "/status", {"status": {"storedVersions": [BETA]}}).object()
    install(plane, BETA)
    for kind, old in before.items():
        eventually(lambda kind=kind: server.get(path_of(kind, ALPHA)).code == 404)
        assert same(get(server, kind, BETA)) == same(old), kind


def condition() -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "Kept",
        "message": "as it was",
    }


def test_policies_and_roles_hold_for_every_version() -> None:
    """They name the group, and all of its versions."""
    for path in sorted((ROOT / "manifests/rbac").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] == "ValidatingAdmissionPolicy":
                for rule in document["spec"]["matchConstraints"]["resourceRules"]:
                    if rule["apiGroups"] == ["kigi.dev"]:
                        assert rule["apiVersions"] == ["*"], document["metadata"]["name"]
