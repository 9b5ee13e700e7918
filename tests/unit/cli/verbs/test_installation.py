"""``kigi enable-hook`` and ``kigi release``: what they ask the API server, and what they refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kigi.cli.main import app
from kigi.domain import names
from tests.support.answering import AnsweringServer

GATES = "/spec/configuration/developerConfiguration/featureGates"
OTHERS = "example.org/backup"


class Cluster:
    """Objects by path of their collection; a PATCH is recorded, and applied to finalizers."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}
        self.conflicts = 0
        """Answers to the next patches that say that a test failed."""
        self.server = AnsweringServer(self.reply)
        self.kubeconfig = self.server.kubeconfig(folder / "kubeconfig")

    def add(self, path: str, kind: str, **body: Any) -> dict[str, Any]:
        meta = {"name": kind.lower(), "uid": f"uid-{kind}", "resourceVersion": "7"} | body.pop("metadata", {})
        made = {"kind": kind, "metadata": meta, **body}
        self.objects.setdefault(path, []).append(made)
        return made

    def reply(self, method: str, target: str) -> tuple[int, Any]:
        path = target.partition("?")[0]
        if path in self.objects:
            return 200, {"metadata": {}, "items": copy.deepcopy(self.objects[path])}
        collection, _, name = path.rpartition("/")
        plain = collection.split("/namespaces/")[0] + "/" + collection.rpartition("/")[2]
        found = next((o for o in self.objects.get(plain, self.objects.get(collection, [])) if _is(o, name)), None)
        if found is None:
            return 404, {"kind": "Status", "code": 404}
        if method == "PATCH":
            if self.conflicts:
                self.conflicts -= 1
                return 422, {"kind": "Status", "code": 422, "message": "the server rejected our request"}
            for operation in self.server.asked[-1][3]:
                if operation["path"] == "/metadata/finalizers":
                    found["metadata"]["finalizers"] = operation["value"]
        return 200, copy.deepcopy(found)

    def patches(self) -> list[tuple[str, Any]]:
        return [(path.partition("?")[0], body) for method, path, _, body in self.server.asked if method == "PATCH"]

    def run(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, [*arguments, "--kubeconfig", str(self.kubeconfig)], input=stdin)


def _is(body: dict[str, Any], name: str) -> bool:
    return bool(body["metadata"]["name"] == name)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    with made.server:
        yield made


def add_kubevirt(cluster: Cluster, version: str, gates: list[str], **meta: Any) -> None:
    cluster.add(
        "/apis/kubevirt.io/v1/kubevirts",
        "KubeVirt",
        metadata={"name": "kubevirt", "namespace": "kubevirt", **meta},
        spec={"configuration": {"developerConfiguration": {"featureGates": gates}}},
        status={"observedKubeVirtVersion": version},
    )


@pytest.mark.parametrize(("version", "gate"), [("v1.7.0", "Sidecar"), ("v1.8.2", "Sidecar"), ("v1.9.0", "Plugins")])
def test_the_gate_of_the_installed_kubevirt_is_appended(cluster: Cluster, version: str, gate: str) -> None:
    add_kubevirt(cluster, version, ["ExpandDisks"])
    done = cluster.run("enable-hook", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)["gate"]) == (0, gate), done.output
    ((path, operations),) = cluster.patches()
    assert path == "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt"
    assert operations == [
        {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": f"{GATES}/-", "value": gate},
    ]


def test_another_writer_in_between_is_tried_again(cluster: Cluster) -> None:
    add_kubevirt(cluster, "v1.7.0", [])
    cluster.conflicts = 2
    assert cluster.run("enable-hook").exit_code == 0
    assert len(cluster.patches()) == 3


@pytest.mark.parametrize(
    ("version", "gates", "arguments", "code", "words"),
    [
        ("v1.7.0", ["Sidecar"], [], 0, "its hook (Sidecar) is available already"),
        ("v1.9.0", ["Plugins"], [], 0, "its hook (Plugin) is available already"),
        ("v1.7.0", ["A"], ["--dry-run"], 0, "feature gate Sidecar would be added"),
        ("v1.6.0", ["A"], [], 1, "Kigi needs 1.7 or later"),
        ("", ["A"], [], 1, "has not been deployed yet"),
    ],
)
def test_a_cluster_that_needs_no_change_gets_none(
    cluster: Cluster, version: str, gates: list[str], arguments: list[str], code: int, words: str
) -> None:
    add_kubevirt(cluster, version, gates)
    done = cluster.run("enable-hook", *arguments)
    assert (done.exit_code, cluster.patches()) == (code, [])
    assert words in done.output + str(done.exception)


def test_gates_that_another_operator_keeps_are_not_written(cluster: Cluster) -> None:
    add_kubevirt(cluster, "v1.7.0", ["A"], labels={"app.kubernetes.io/managed-by": "hco-operator"})
    done = cluster.run("enable-hook")
    assert "kubectl annotate --overwrite -n kubevirt hyperconverged" in str(done.exception)
    assert cluster.patches() == []


def test_without_kubevirt_it_says_so(cluster: Cluster) -> None:
    assert "there is no KubeVirt object" in str(cluster.run("enable-hook").exception)


IMAGES, VOLUMES = "/apis/kigi.dev/v1alpha2/vmimagenodes", "/api/v1/persistentvolumes"
DEPLOYMENTS = "/apis/apps/v1/deployments"


def add_hanging(cluster: Cluster) -> None:
    deleted = {"deletionTimestamp": "t"}
    used = [names.IN_USE_FINALIZER, OTHERS]
    cluster.add(IMAGES, "VMImageNode", metadata={"name": "a", "namespace": "team", "finalizers": used, **deleted})
    cluster.add(IMAGES, "VMImageNode", metadata={"name": "kept", "namespace": "team", "finalizers": used})
    overlay = [names.OVERLAY_FINALIZER, "kubernetes.io/pv-protection"]
    cluster.add(VOLUMES, "PersistentVolume", metadata={"name": "v", "finalizers": overlay, **deleted}, spec={})


def test_deleted_objects_lose_kigis_finalizers_and_keep_all_others(cluster: Cluster) -> None:
    add_hanging(cluster)
    done = cluster.run("release", "--yes")
    assert (done.exit_code, "2 of 2 objects are freed" in done.output) == (0, True), done.output
    assert [(path, body[-1]) for path, body in cluster.patches()] == [
        (
            "/apis/kigi.dev/v1alpha2/namespaces/team/vmimagenodes/a",
            {"op": "add", "path": "/metadata/finalizers", "value": [OTHERS]},
        ),
        (
            "/api/v1/persistentvolumes/v",
            {"op": "add", "path": "/metadata/finalizers", "value": ["kubernetes.io/pv-protection"]},
        ),
    ]
    assert all([part["op"] for part in body[:2]] == ["test", "test"] for _, body in cluster.patches())
    again = cluster.run("release", "--yes")
    assert "no object waits for Kigi's operator" in again.output


def test_a_version_that_changed_meanwhile_is_read_again(cluster: Cluster) -> None:
    add_hanging(cluster)
    cluster.conflicts = 1
    assert cluster.run("release", "--yes").exit_code == 0
    assert len(cluster.patches()) == 3


def test_one_namespace_has_no_volumes(cluster: Cluster) -> None:
    add_hanging(cluster)
    cluster.objects["/apis/kigi.dev/v1alpha2/namespaces/team/vmimagenodes"] = cluster.objects[IMAGES]
    data = json.loads(cluster.run("release", "--dry-run", "-n", "team", "-o", "json").stdout)
    assert [(one["kind"], one["name"]) for one in data["hanging"]] == [("VMImageNode", "a")]


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--dry-run", "-o", "json"], []])
def test_nothing_is_freed_without_a_consent(cluster: Cluster, arguments: list[str]) -> None:
    """Without a terminal, nobody can answer: a script gives --yes."""
    add_hanging(cluster)
    done = cluster.run("release", *arguments, stdin="y\n")
    assert cluster.patches() == []
    assert "VMImageNode" in done.stdout
    if not arguments:
        assert "give --yes" in str(done.exception)


def test_beside_an_operator_it_refuses_unless_forced(cluster: Cluster) -> None:
    add_hanging(cluster)
    meta = {"name": "kigi-operator", "namespace": "elsewhere"}
    operator = cluster.add(DEPLOYMENTS, "Deployment", metadata=meta, spec={"replicas": 2})
    refused = cluster.run("release", "--yes")
    assert "Deployment elsewhere/kigi-operator has replicas" in str(refused.exception)
    assert cluster.patches() == []
    assert cluster.run("release", "--dry-run").exit_code == 0, "looking is always allowed"
    operator["spec"]["replicas"] = 0
    assert "2 of 2 objects" in cluster.run("release", "--yes").output


def test_it_may_be_forced_beside_an_operator(cluster: Cluster) -> None:
    add_hanging(cluster)
    cluster.add(DEPLOYMENTS, "Deployment", metadata={"namespace": "elsewhere"}, spec={})
    assert "2 of 2 objects" in cluster.run("release", "--yes", "--force").output
