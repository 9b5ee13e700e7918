"""Installations in another namespace: rendered by kustomize, applied to a real API server, and attacked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.api.events import SERVE_DISKS, event, reference
from kigi.domain.heartbeat import build_lease, lease_name
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import API_VERSION, NODE_API_VERSION
from kigi.reconcilers.hook_image import image_of
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually, install_crds
from tests.support.layers import node_cache
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
OTHER = "other"
NODES = ("overlay-a", "overlay-b")
CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events?dryRun=All"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
STATUS: Object = {"status": {"observedGeneration": 1, "usedBytes": 7}}


def overlay(folder: Path, **fields: Any) -> Path:
    """A folder with a kustomization of the manifests; relative paths in ``components`` begin at ``manifests``."""
    folder.mkdir(parents=True, exist_ok=True)
    base = os.path.relpath(ROOT / "manifests", folder)
    fields["components"] = [f"{base}/components/{name}" for name in fields.get("components", ())]
    fields["resources"] = [base, *fields.get("resources", ())]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(fields))
    return folder


def build(folder: Path) -> list[Object]:
    """The objects that kustomize makes of a folder."""
    text = subprocess.run(
        [binary("kustomize"), "build", str(folder)], check=True, capture_output=True, text=True, timeout=120
    ).stdout
    return [document for document in yaml.safe_load_all(text) if document]


def find(objects: Sequence[Object], kind: str, name: str = "") -> Object:
    (found,) = (o for o in objects if o["kind"] == kind and name in ("", o["metadata"]["name"]))
    return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """All objects of the overlay of docs/install.md."""
    return build(overlay(tmp_path_factory.mktemp("overlay"), namespace=OTHER))


def test_nothing_names_the_former_namespace(elsewhere: list[Object]) -> None:
    """Neither a subject nor a text inside of a policy, an address, an argument or an environment variable."""
    described = [o for o in elsewhere if o["kind"] != "CustomResourceDefinition"]
    assert "kigi-system" not in yaml.safe_dump_all(described)
    kept = {o["metadata"].get("namespace", OTHER) for o in elsewhere}
    assert kept == {OTHER}
    assert find(elsewhere, "Namespace")["metadata"]["name"] == OTHER


def test_bindings_follow_the_namespace_and_kubevirts_stays(elsewhere: list[Object]) -> None:
    bindings = [o for o in elsewhere if o["kind"] in ("ClusterRoleBinding", "RoleBinding")]
    found = {(s["name"], s["namespace"]) for binding in bindings for s in binding["subjects"]}
    assert found == {("kigi-operator", OTHER), ("kigi-node-cache", OTHER), ("kubevirt-controller", "kubevirt")}


def test_kubectl_and_kustomize_make_the_same(elsewhere: list[Object], tmp_path: Path) -> None:
    text = subprocess.run(
        [binary("kubectl"), "kustomize", str(overlay(tmp_path / "o", namespace=OTHER))],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    assert [document for document in yaml.safe_load_all(text) if document] == elsewhere


def test_an_image_is_set_in_one_place(tmp_path: Path) -> None:
    """`kustomize edit set image` reaches each container, and the operator's own image is that of the hook."""
    folder = overlay(tmp_path / "o", namespace=OTHER)
    image = "registry.example/kigi@sha256:" + "0" * 64
    edit = ["edit", "set", "image", f"kigi={image}"]
    subprocess.run([binary("kustomize"), *edit], check=True, cwd=folder, timeout=60)
    objects = build(folder)
    pods = [find(objects, kind)["spec"]["template"]["spec"] for kind in ("Deployment", "DaemonSet")]
    assert {c["image"] for pod in pods for c in pod["containers"]} == {image}
    assert image_of(find(objects, "Deployment")) == image
    assert "kigi:dev" not in yaml.safe_dump_all(objects)


def test_three_images_are_set_in_one_place(tmp_path: Path) -> None:
    """Also that of the hook, which is a variable of the operator."""
    folder = overlay(tmp_path / "o", namespace=OTHER, components=["three-images"])
    names = {name: f"registry.example/kigi-{name}:0.1.0" for name in ("operator", "daemon", "hook")}
    for name, image in names.items():
        edit = ["edit", "set", "image", f"kigi-{name}={image}"]
        subprocess.run([binary("kustomize"), *edit], check=True, cwd=folder, timeout=60)
    objects = build(folder)
    found = {}
    for kind in ("Deployment", "DaemonSet"):
        for container in find(objects, kind)["spec"]["template"]["spec"]["containers"]:
            found[container["name"]] = container["image"]
            found |= {each["name"]: each["value"] for each in container["env"] if each["name"] == "KIGI_HOOK_IMAGE"}
    assert found == {
        "operator": names["operator"],
        "cache": names["daemon"],
        "capture-publisher": names["daemon"],
        "KIGI_HOOK_IMAGE": names["hook"],
    }


@pytest.mark.parametrize(
    ("component", "root"),
    [
        ("kubelet-root-k0s", "/var/lib/k0s/kubelet"),
        ("kubelet-root-microk8s", "/var/snap/microk8s/common/var/lib/kubelet"),
        ("kubelet-root", "/srv/kubelet"),
    ],
)
def test_the_kubelets_root_is_one_setting(tmp_path: Path, component: str, root: str) -> None:
    folder, resources = tmp_path / "o", []
    folder.mkdir()
    if component == "kubelet-root":
        example = (ROOT / "manifests/components/kubelet-root-k0s/root.yaml").read_text()
        (folder / "root.yaml").write_text(example.replace("/var/lib/k0s/kubelet", root))
        resources = ["root.yaml"]
    objects = build(overlay(folder, namespace=OTHER, components=[component], resources=resources))
    assert not [o for o in objects if o["kind"] == "ConfigMap"], "the setting itself is no object of the installation"
    daemon = find(objects, "DaemonSet")
    assert "/var/lib/kubelet" not in str(daemon).replace(root, "")
    pod = daemon["spec"]["template"]["spec"]
    cache = next(c for c in pod["containers"] if c["name"] == "cache")
    assert {"name": "KIGI_KUBELET_ROOT", "value": root} in cache["env"]
    assert {"name": "kubelet", "mountPath": root, "mountPropagation": "Bidirectional"} in cache["volumeMounts"]
    assert {"name": "kubelet", "hostPath": {"path": root, "type": "Directory"}} in pod["volumes"]


def test_openshift_gives_the_operator_its_uid_and_the_daemon_its_rights(tmp_path: Path) -> None:
    objects = build(overlay(tmp_path / "o", namespace=OTHER, components=["openshift"]))
    operator = find(objects, "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert operator == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    binding = find(objects, "RoleBinding", "kigi-node-cache-privileged")
    assert binding["metadata"]["namespace"] == OTHER
    assert binding["roleRef"]["name"] == "system:openshift:scc:privileged"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "kigi-node-cache", "namespace": OTHER}]
    (subject,) = find(objects, "ClusterRoleBinding", "kigi-disk-mount")["subjects"]
    assert (subject["namespace"], subject["name"]) == ("openshift-cnv", "kubevirt-controller")


def test_pods_pull_with_the_secret_of_the_component(tmp_path: Path) -> None:
    objects = build(overlay(tmp_path / "o", components=["pull-secret"]))
    for kind in ("Deployment", "DaemonSet"):
        assert find(objects, kind)["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "kigi-registry"}]


@pytest.fixture(scope="module", params=["namespace", "namespace and prefix"])
def prefix(request: pytest.FixtureRequest) -> str:
    return "team-" if "prefix" in request.param else ""


@pytest.fixture(scope="module")
def plane(prefix: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of its own with the installation in the other namespace, and with no other one."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as server:
        install_crds(server)
        fields = {"namespace": OTHER} | ({"namePrefix": prefix} if prefix else {})
        objects = build(overlay(tmp_path_factory.mktemp("overlay"), **fields))
        # A prefix renames the namespace too. Its CRDs would be no CRDs.
        kept = [o for o in objects if o["kind"] != "CustomResourceDefinition"]
        server.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump_all(kept))
        yield server


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> RawApi:
    return RawApi(plane.kubeconfig)


@pytest.fixture(scope="module")
def account(server: RawApi, prefix: str) -> Callable[..., RawApi]:
    """A client as one of the installation's accounts; of a daemon's pod on ``node``, as the kubelet mounts it."""
    path = f"/api/v1/namespaces/{OTHER}"
    for node in NODES:
        server.create("/api/v1/nodes", {"metadata": {"name": node}}).object()
        server.create(CACHES, node_cache(node)).object()

    def identity(name: str, node: str = "") -> RawApi:
        spec: Object = {"expirationSeconds": 600}
        if node:
            pod = {
                "metadata": {"generateName": "daemon-"},
                "spec": {
                    "nodeName": node,
                    "serviceAccountName": f"{prefix}{name}",
                    "containers": [{"name": "cache", "image": "kigi:none"}],
                },
            }
            made = server.create(f"{path}/pods", pod).object()["metadata"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": made["name"], "uid": made["uid"]}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        reply = server.create(f"{path}/serviceaccounts/{prefix}{name}/token", request).object()
        return server.as_token(str(reply["status"]["token"]))

    unbound = identity("kigi-node-cache")
    eventually(lambda: unbound.patch(f"{CACHES}/{NODES[0]}/status", STATUS).code == 403, what="policies are in force")
    return identity


def own_event(node: str) -> Object:
    return event(
        reference(NODE_API_VERSION, "NodeCache", None, node),
        kind="Warning",
        reason="LayerCorrupt",
        note="test",
        action=SERVE_DISKS,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        suffix="0a1b",
        controller="kigi-cache",
        instance=node,
        related=reference("v1", "Node", None, node),
    )


def test_a_daemon_there_writes_what_is_of_its_node_and_nothing_else(account: Callable[..., RawApi]) -> None:
    own, other = NODES
    daemon = account("kigi-node-cache", own)
    assert daemon.patch(f"{CACHES}/{own}/status", STATUS).code == 200
    refused = daemon.patch(f"{CACHES}/{other}/status", STATUS)
    assert (refused.code, f"of node {own}" in refused.message) == (403, True), refused
    leases = LEASES.format(OTHER)
    lease = build_lease(own, OTHER, cache=(own, "u"), time="2026-01-01T00:00:00.000000Z")
    foreign = build_lease(other, OTHER, cache=(other, "u"), time="2026-01-01T00:00:00.000000Z")
    reply = eventually(lambda: (made := daemon.create(leases, foreign)).code == 403 and made, what="the policy")
    assert f"may write only the Lease {lease_name(own)}" in reply.message
    assert daemon.create(leases, lease).code == 201


def test_a_daemon_there_writes_events_about_its_node_alone(account: Callable[..., RawApi]) -> None:
    own, other = NODES
    daemon = account("kigi-node-cache", own)
    wrong = merge_patch(own_event(own), {"regarding": {"name": other}})
    eventually(lambda: "may report only" in daemon.create(EVENTS.format("default"), wrong).message, what="the policy")
    assert daemon.create(EVENTS.format("default"), own_event(own)).code == 201
    # The API server itself refuses events about cluster-scoped objects in any other namespace than these two.
    moved = merge_patch(own_event(own), {"metadata": {"namespace": "kube-system"}})
    reply = daemon.create(EVENTS.format("kube-system"), moved)
    assert (reply.code, "only in the namespace default" in reply.message) == (403, True), reply


def test_the_operator_there_writes_only_its_own_objects(server: RawApi, account: Callable[..., RawApi]) -> None:
    operator = account("kigi-operator")
    volume = {
        "metadata": {"name": "of-another-driver"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "other.example.org", "volumeHandle": "x"},
        },
    }
    server.create("/api/v1/persistentvolumes", volume).object()
    path = "/api/v1/persistentvolumes/of-another-driver"
    words = "only PersistentVolumes of the driver disk.kigi.dev"
    label = {"metadata": {"labels": {"kigi.dev/deployment": "x"}}}
    eventually(lambda: words in operator.patch(path, label).message, what="the policy is in force")
    images = f"/apis/{API_VERSION}/namespaces/default/vmimagenodes"
    eventually(lambda: operator.get(images).code == 200, what="its role lets it list images")


def test_the_operator_there_reads_its_own_deployment_and_no_other(account: Callable[..., RawApi], prefix: str) -> None:
    if prefix:
        pytest.skip("its role names the Deployment without the prefix: docs/install.md")
    operator = account("kigi-operator")
    deployments = f"/apis/apps/v1/namespaces/{OTHER}/deployments"
    assert image_of(operator.get(f"{deployments}/kigi-operator").object()) == "kigi:dev"
    assert operator.get(deployments).code == 403
    assert operator.get(f"{deployments}/another").code == 403


def test_applying_it_twice_changes_nothing(plane: ControlPlane, prefix: str, tmp_path: Path) -> None:
    if prefix:
        pytest.skip("once is enough")
    folder = overlay(tmp_path / "o", namespace=OTHER)
    plane.kubectl("apply", "--server-side", "-k", str(folder))
    versions = ("-o", "jsonpath={.items[*].metadata.resourceVersion}")
    first, second = (plane.kubectl("apply", "--server-side", "-k", str(folder), *versions) for _ in range(2))
    assert first
    assert first == second
