"""Service accounts, roles and the admission policy on a real API server: what each may do, and what not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.api.node_cache import NodeCacheStatus
from kigi.domain.names import API_VERSION
from kigi.errors import SpecInvalid
from kigi_cache.node.kube import KubeApi
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
SYSTEM = "kigi-system"
CACHES = f"/apis/{API_VERSION}/nodecaches"
NODES = ("rbac-a", "rbac-b")
STATUS = {"status": {"observedGeneration": 1, "usedBytes": 7}}


@pytest.fixture(scope="module")
def kubectl(crds: ControlPlane) -> Callable[..., str]:
    return crds.kubectl


@pytest.fixture(scope="module")
def server(crds: ControlPlane) -> RawApi:
    """The API server as its admin, with namespace and RBAC of the manifests, applied as a user does."""
    crds.kubectl("apply", "--server-side", "-f", str(ROOT / "manifests/namespace.yaml"))
    crds.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/rbac"))
    return RawApi(crds.kubeconfig)


@pytest.fixture(scope="module")
def nodes(server: RawApi) -> Iterator[dict[str, str]]:
    """Two nodes with a NodeCache and a daemon's pod each: node -> uid of the pod. No kubelet is needed for a token."""
    pods: dict[str, str] = {}
    for node in NODES:
        server.create("/api/v1/nodes", {"metadata": {"name": node}}).object()
        server.create(CACHES, {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": node}}).object()
        pod = {
            "metadata": {"name": f"daemon-{node}"},
            "spec": {
                "nodeName": node,
                "serviceAccountName": "kigi-node-cache",
                "containers": [{"name": "cache", "image": "kigi:none"}],
            },
        }
        pods[node] = server.create(f"/api/v1/namespaces/{SYSTEM}/pods", pod).object()["metadata"]["uid"]
    # The API server takes a new policy into force within some seconds.
    unbound = server.as_token(token(server, "kigi-node-cache"))
    eventually(lambda: unbound.patch(f"{CACHES}/rbac-a/status", STATUS).code == 403, what="the policy is in force")
    yield pods
    for node in NODES:
        server.delete(f"/api/v1/namespaces/{SYSTEM}/pods/daemon-{node}")
        server.delete(f"{CACHES}/{node}")
        server.delete(f"/api/v1/nodes/{node}")


def token(server: RawApi, account: str, bound: Object | None = None) -> str:
    spec: Object = {"expirationSeconds": 600} | ({"boundObjectRef": bound} if bound else {})
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token"
    return str(server.create(path, request).object()["status"]["token"])


@pytest.fixture(scope="module")
def daemon(server: RawApi, nodes: dict[str, str]) -> Callable[[str], RawApi]:
    """The daemon of a node: its identity is the token that the kubelet would mount into its pod."""

    def identity(node: str) -> RawApi:
        pod = {"apiVersion": "v1", "kind": "Pod", "name": f"daemon-{node}", "uid": nodes[node]}
        return server.as_token(token(server, "kigi-node-cache", pod))

    return identity


@pytest.fixture(scope="module")
def operator(server: RawApi) -> RawApi:
    return server.as_token(token(server, "kigi-operator"))


def test_a_token_of_a_pod_carries_its_node(daemon: Callable[[str], RawApi]) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    user = daemon("rbac-a").create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review).object()
    info = user["status"]["userInfo"]
    assert info["username"] == f"system:serviceaccount:{SYSTEM}:kigi-node-cache"
    assert info["extra"]["authentication.kubernetes.io/node-name"] == ["rbac-a"]


@pytest.mark.parametrize("node", NODES)
def test_a_daemon_writes_the_status_of_its_own_node(daemon: Callable[[str], RawApi], node: str) -> None:
    body = daemon(node).patch(f"{CACHES}/{node}/status", STATUS).object()
    assert body["status"]["usedBytes"] == 7


def test_a_daemon_applies_the_status_of_its_own_node(daemon: Callable[[str], RawApi]) -> None:
    body = {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": "rbac-a"}} | STATUS
    assert daemon("rbac-a").apply(f"{CACHES}/rbac-a/status", body, manager="kigi-cache").code == 200


@pytest.mark.parametrize(("own", "other"), [NODES, NODES[::-1]])
def test_a_daemon_cannot_write_the_status_of_another_node(
    daemon: Callable[[str], RawApi], own: str, other: str
) -> None:
    reply = daemon(own).patch(f"{CACHES}/{other}/status", STATUS)
    assert reply.code == 403
    assert f"the node cache daemon of node {own} may not write NodeCache {other}" in reply.message


def test_a_token_without_a_node_writes_nothing(server: RawApi, nodes: dict[str, str]) -> None:
    unbound = server.as_token(token(server, "kigi-node-cache"))
    reply = unbound.patch(f"{CACHES}/rbac-a/status", STATUS)
    assert reply.code == 403
    assert "the token names no node" in reply.message


def test_a_daemon_reads_the_layers_of_its_node(daemon: Callable[[str], RawApi]) -> None:
    cache = daemon("rbac-a")
    assert cache.get(f"{CACHES}/rbac-a").code == 200
    listed = cache.get(CACHES, fieldSelector="metadata.name=rbac-a").object()["items"]
    assert [item["metadata"]["name"] for item in listed] == ["rbac-a"]


def test_a_status_write_changes_neither_spec_nor_labels(daemon: Callable[[str], RawApi]) -> None:
    patch = {"metadata": {"labels": {"evil": "x"}, "finalizers": ["evil/x"]}, "spec": {"discard": ["x"]}} | STATUS
    body = daemon("rbac-a").patch(f"{CACHES}/rbac-a/status", patch).object()
    assert "discard" not in body["spec"]
    assert "labels" not in body["metadata"]
    assert "finalizers" not in body["metadata"]


LAYER = {"digest": "sha256:" + "a" * 64, "sizeBytes": 1, "virtualSizeBytes": 512}
CACHE = {"apiVersion": API_VERSION, "kind": "NodeCache", "metadata": {"name": "rbac-a"}, "spec": {"layers": [LAYER]}}
DAEMON_DENIED = [
    pytest.param("PATCH", f"{CACHES}/rbac-a", {"spec": {"layers": [LAYER]}}, id="own-spec"),
    pytest.param("PATCH", f"{CACHES}/rbac-b", {"spec": {"layers": [LAYER]}}, id="others-spec"),
    pytest.param("PUT", f"{CACHES}/rbac-a", CACHE, id="replace-own"),
    pytest.param("POST", CACHES, CACHE | {"metadata": {"name": "rbac-c"}}, id="create"),
    pytest.param("DELETE", f"{CACHES}/rbac-a", None, id="delete-own"),
    pytest.param("DELETE", CACHES, None, id="delete-all"),
    pytest.param("GET", "/api/v1/secrets", None, id="read-secrets"),
    pytest.param("GET", f"/api/v1/namespaces/{SYSTEM}/secrets", None, id="read-secrets-of-its-namespace"),
    pytest.param("GET", "/api/v1/pods", None, id="list-pods"),
    pytest.param("GET", "/api/v1/nodes/rbac-a", None, id="read-its-node"),
    pytest.param("PATCH", "/api/v1/nodes/rbac-a", {"metadata": {"labels": {"a": "b"}}}, id="label-its-node"),
    pytest.param("GET", "/api/v1/persistentvolumes", None, id="list-volumes"),
    pytest.param("GET", f"/apis/{API_VERSION}/vmimagenodes", None, id="list-images"),
    pytest.param("GET", f"/apis/{API_VERSION}/systemdeployments", None, id="list-deployments"),
    pytest.param("GET", "/apis/kubevirt.io/v1/virtualmachines", None, id="list-vms"),
    pytest.param(
        "POST",
        f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/kigi-operator/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        id="take-the-operators-token",
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), DAEMON_DENIED)
def test_a_daemon_may_not(daemon: Callable[[str], RawApi], method: str, path: str, body: Any) -> None:
    content = "application/merge-patch+json" if method == "PATCH" else "application/json"
    reply = daemon("rbac-a").call(method, path, body, content_type=content)
    assert reply.code == 403, reply


def test_the_policy_holds_even_where_a_role_gives_too_much(
    server: RawApi, daemon: Callable[[str], RawApi], nodes: dict[str, str]
) -> None:
    """With daemons bound to cluster-admin, the policy alone still restricts them to their own status."""
    binding = {
        "metadata": {"name": "rbac-test-too-much"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "kigi-node-cache", "namespace": SYSTEM}],
    }
    bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    server.create(bindings, binding).object()
    try:
        strong = daemon("rbac-a")
        eventually(lambda: strong.get("/api/v1/secrets").code == 200, what="the daemons are admins")
        for reply in (
            strong.patch(f"{CACHES}/rbac-a", {"spec": {"layers": [LAYER]}}),
            strong.create(CACHES, CACHE | {"metadata": {"name": "rbac-a2"}}),
            strong.delete(f"{CACHES}/rbac-a"),
        ):
            assert reply.code == 403, reply
            assert "kigi-node-cache-writes-its-own-status" in reply.message
        reply = strong.patch(f"{CACHES}/rbac-b", {"spec": {"layers": [LAYER]}})
        assert "may not write NodeCache rbac-b" in reply.message
        assert strong.patch(f"{CACHES}/rbac-a/status", STATUS).code == 200
    finally:
        server.delete(f"{bindings}/rbac-test-too-much")


def test_the_policy_concerns_daemons_alone(operator: RawApi, nodes: dict[str, str]) -> None:
    reply = operator.patch(f"{CACHES}/rbac-a", {"spec": {"layers": [LAYER]}})
    assert reply.object()["spec"]["layers"][0]["digest"] == LAYER["digest"]


def test_a_daemon_writes_events_about_its_cache(daemon: Callable[[str], RawApi]) -> None:
    event = {
        "metadata": {"generateName": "rbac-a."},
        "involvedObject": {"apiVersion": API_VERSION, "kind": "NodeCache", "name": "rbac-a"},
        "reason": "LayerCorrupt",
        "message": "test",
        "type": "Warning",
    }
    daemon_api = daemon("rbac-a")
    assert daemon_api.create("/api/v1/namespaces/default/events?dryRun=All", event).code == 201
    assert daemon_api.create("/api/v1/namespaces/kube-system/events?dryRun=All", event).code == 403


async def test_the_daemons_own_client_does_all_that_it_does_on_these_rights(
    server: RawApi,
    nodes: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "name": "daemon-rbac-b", "uid": nodes["rbac-b"]}
    config = yaml.safe_load(server.kubeconfig.read_text())
    bound = token(server, "kigi-node-cache", pod)
    config["users"] = [{"name": user["name"], "user": {"token": bound}} for user in config["users"]]
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    client = KubeApi("rbac-b")
    await client.open()
    try:
        seen = await client.get()
        assert seen.cache is not None
        await client.write_status(NodeCacheStatus(observed_generation=1, used_bytes=42))
        async for later in client.watch(seen.resource_version):
            assert later is not None
            assert later.status.used_bytes == 42
            break
        await client.warn(seen.cache.metadata.uid, "LayerCorrupt", "a test")
    finally:
        await client.close()
    stranger = KubeApi("rbac-a")
    await stranger.open()
    try:
        with pytest.raises(SpecInvalid, match="node rbac-b may not write NodeCache rbac-a"):
            await stranger.write_status(NodeCacheStatus(observed_generation=1))
    finally:
        await stranger.close()


TREES = ("vmimagenodes", "systemnodes")
READ = ("get", "list", "watch")
OWN = (*READ, "create", "patch", "delete")
OPERATOR_MAY = [
    *(
        (verb, "kigi.dev", kind, "")
        for kind in (*TREES, "systemdeployments", "systemcaptures", "systemprefetches")
        for verb in READ
    ),
    *(("create", "kigi.dev", kind, "") for kind in TREES),
    *(("patch", "kigi.dev", kind, "") for kind in (*TREES, "systemdeployments", "systemcaptures")),
    ("update", "kigi.dev", "systemdeployments", "finalizers"),
    *(
        ("patch", "kigi.dev", kind, "status")
        for kind in (*TREES, "systemdeployments", "systemcaptures", "systemprefetches")
    ),
    *((verb, "kigi.dev", "nodecaches", "") for verb in OWN),
    *((verb, "", kind, "") for kind in ("persistentvolumes", "persistentvolumeclaims") for verb in OWN),
    *((verb, "kubevirt.io", "virtualmachines", "") for verb in OWN),
    *((verb, "networking.k8s.io", "networkpolicies", "") for verb in OWN),
    *((verb, "kubevirt.io", "virtualmachineinstances", "") for verb in (*READ, "delete")),
    ("update", "subresources.kubevirt.io", "virtualmachines", "restart"),
    *(
        ("update", "subresources.kubevirt.io", "virtualmachineinstances", request)
        for request in ("pause", "unpause", "freeze", "unfreeze")
    ),
    *((verb, "kubevirt.io", "kubevirts", "") for verb in READ),
    *((verb, "plugin.kubevirt.io", "plugins", "") for verb in (*READ, "create")),
    *(
        (verb, "instancetype.kubevirt.io", kind, "")
        for kind in ("virtualmachineinstancetypes", "virtualmachineclusterinstancetypes")
        for verb in READ
    ),
    *((verb, "storage.k8s.io", "csinodes", "") for verb in READ),
    *((verb, "", "nodes", "") for verb in READ),
    *((verb, "", "namespaces", "") for verb in READ),
    *((verb, "apiextensions.k8s.io", "customresourcedefinitions", "") for verb in READ),
    ("create", "events.k8s.io", "events", ""),
]
OPERATOR_MAY_NOT = [
    *((verb, "kigi.dev", kind, "") for kind in TREES for verb in ("update", "delete", "deletecollection")),
    *((verb, "kigi.dev", "systemcaptures", "") for verb in ("create", "update", "delete", "deletecollection")),
    *((verb, "kigi.dev", "systemdeployments", "") for verb in ("create", "update", "delete", "deletecollection")),
    *((verb, "kigi.dev", "systemprefetches", "") for verb in ("create", "update", "patch", "delete")),
    *((verb, "kigi.dev", "nodecaches", "status") for verb in ("patch", "update")),
    *((verb, "", "secrets", "") for verb in ("get", "list", "create")),
    *((verb, "", "pods", "") for verb in ("create", "delete", "list")),
    ("create", "", "pods", "exec"),
    *((verb, "", "nodes", "") for verb in ("patch", "update", "delete")),
    ("create", "", "serviceaccounts", "token"),
    ("create", "kubevirt.io", "virtualmachineinstances", ""),
    ("patch", "kubevirt.io", "virtualmachineinstances", ""),
    ("patch", "kubevirt.io", "kubevirts", ""),
    *((verb, "plugin.kubevirt.io", "plugins", "") for verb in ("patch", "update", "delete")),
    ("get", "subresources.kubevirt.io", "virtualmachineinstances", "console"),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings", ""),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles", ""),
    ("patch", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
    ("deletecollection", "", "persistentvolumes", ""),
    ("impersonate", "", "users", ""),
    ("update", "coordination.k8s.io", "leases", ""),
]


def may(server: RawApi, verb: str, group: str, resource: str, subresource: str, namespace: str = "team") -> bool:
    attributes = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "version": "*",
        "resource": resource,
        "subresource": subresource,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = server.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body).object()
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(("verb", "group", "resource", "subresource"), OPERATOR_MAY)
def test_the_operator_may(operator: RawApi, verb: str, group: str, resource: str, subresource: str) -> None:
    assert may(operator, verb, group, resource, subresource)


@pytest.mark.parametrize(("verb", "group", "resource", "subresource"), OPERATOR_MAY_NOT)
def test_the_operator_may_not(operator: RawApi, verb: str, group: str, resource: str, subresource: str) -> None:
    assert not may(operator, verb, group, resource, subresource)


def test_the_operator_leads_in_its_own_namespace(operator: RawApi) -> None:
    for verb in ("get", "create", "update"):
        assert may(operator, verb, "coordination.k8s.io", "leases", "", SYSTEM)
    assert not may(operator, "delete", "coordination.k8s.io", "leases", "", SYSTEM)


def test_users_roles_cover_the_users_kinds(server: RawApi) -> None:
    """What is labelled for aggregation gives view and edit of the users' kinds, and nothing of nodes' caches."""
    roles = {}
    for name in ("kigi-view", "kigi-edit"):
        role = server.get(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}").object()
        roles[name] = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    kinds = {"vmimagenodes", "systemnodes", "systemdeployments", "systemcaptures", "systemprefetches"}
    assert roles["kigi-view"] == {(kind, verb) for kind in kinds for verb in ("get", "list", "watch")}
    assert {("systemdeployments", "create"), ("systemdeployments/scale", "update")} <= roles["kigi-edit"]
    assert not any(resource.endswith("/status") or "nodecache" in resource for resource, _ in roles["kigi-edit"])
