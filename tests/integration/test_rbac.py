"""Service accounts, roles and the admission policy on a real API server: what each may do, and what not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.api.events import SERVE_DISKS, event, reference
from kigi.api.node_cache import NodeCacheStatus
from kigi.domain.heartbeat import build_lease, certificates_of, lease_name
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import ANNOTATION_PEER_CERTIFICATES, API_VERSION, NODE_API_VERSION
from kigi.errors import SpecInvalid
from kigi.runtime.leader import LEASE_NAME
from kigi_cache.node.kube import KubeApi
from localcluster.controlplane import ControlPlane
from tests.support.cluster import eventually
from tests.support.layers import node_cache
from tests.support.raw_api import Object, RawApi

ROOT = Path(__file__).parents[2]
SYSTEM = "kigi-system"
CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
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
        server.create(CACHES, node_cache(node)).object()
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
    body = {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": {"name": "rbac-a"}} | STATUS
    assert daemon("rbac-a").apply(f"{CACHES}/rbac-a/status", body, manager="kigi-cache").code == 200


@pytest.mark.parametrize(("own", "other"), [NODES, NODES[::-1]])
def test_a_daemon_cannot_write_the_status_of_another_node(
    daemon: Callable[[str], RawApi], own: str, other: str
) -> None:
    reply = daemon(own).patch(f"{CACHES}/{other}/status", STATUS)
    assert reply.code == 403
    words = (
        f"the node cache daemon of node {own} may not write the NodeCache of node {other}",
        f"is a report of the daemon on its node, and the token is of node {own}",
    )
    assert any(each in reply.message for each in words), "two policies refuse it, and one of them is named"


def test_the_field_decides_and_not_the_name(server: RawApi, daemon: Callable[[str], RawApi]) -> None:
    """A second NodeCache of a node has another name, which may even be that of another node."""
    second = node_cache("rbac-second", nodeName="rbac-a")
    server.create(CACHES, second).object()
    try:
        assert daemon("rbac-a").patch(f"{CACHES}/rbac-second/status", STATUS).code == 200
        assert daemon("rbac-b").patch(f"{CACHES}/rbac-second/status", STATUS).code == 403
    finally:
        server.delete(f"{CACHES}/rbac-second")


def test_a_token_without_a_node_writes_nothing(server: RawApi, nodes: dict[str, str]) -> None:
    unbound = server.as_token(token(server, "kigi-node-cache"))
    reply = unbound.patch(f"{CACHES}/rbac-a/status", STATUS)
    assert reply.code == 403
    assert "the token names no node" in reply.message or "the token is of no node" in reply.message


def test_a_daemon_reads_the_layers_of_its_node(daemon: Callable[[str], RawApi]) -> None:
    cache = daemon("rbac-a")
    assert cache.get(f"{CACHES}/rbac-a").code == 200
    listed = cache.get(CACHES, fieldSelector="metadata.name=rbac-a").object()["items"]
    assert [item["metadata"]["name"] for item in listed] == ["rbac-a"]


def test_a_status_write_changes_neither_spec_nor_labels(daemon: Callable[[str], RawApi]) -> None:
    metadata = {"labels": {"evil": "x"}, "finalizers": ["evil/x"]}
    patch = {"metadata": metadata, "spec": {"nodeName": "rbac-b", "discardVolumes": ["x"]}} | STATUS
    body = daemon("rbac-a").patch(f"{CACHES}/rbac-a/status", patch).object()
    assert "discardVolumes" not in body["spec"]
    assert body["spec"]["nodeName"] == "rbac-a"
    assert "labels" not in body["metadata"]
    assert "finalizers" not in body["metadata"]


LAYER = {
    "digest": "sha256:" + "a" * 64,
    "sizeBytes": 1,
    "virtualSizeBytes": 512,
    "repositoryName": "default",
    "purpose": "Disk",
}
CACHE = node_cache("rbac-a", layers=[LAYER])
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
            assert "kigi-node-cache" in reply.message
        reply = strong.patch(f"{CACHES}/rbac-b", {"spec": {"layers": [LAYER]}})
        assert "may not write the NodeCache of node rbac-b" in reply.message
        assert strong.patch(f"{CACHES}/rbac-a/status", STATUS).code == 200
    finally:
        server.delete(f"{bindings}/rbac-test-too-much")


def test_the_policy_concerns_daemons_alone(operator: RawApi, nodes: dict[str, str]) -> None:
    reply = operator.patch(f"{CACHES}/rbac-a", {"spec": {"layers": [LAYER]}})
    assert reply.object()["spec"]["layers"][0]["digest"] == LAYER["digest"]


LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"


def lease(node: str, **changes: Any) -> Object:
    body = build_lease(node, SYSTEM, cache=(node, "00000000-0000-0000-0000-000000000000"), time=TIME)
    return merge_patch(body, changes)


TIME = "2026-01-01T00:00:00.000000Z"


@pytest.fixture(scope="module")
def leases(server: RawApi, daemon: Callable[[str], RawApi]) -> Iterator[None]:
    """Both daemons' Leases, created by them, and the leader's. The policy of Leases is in force."""
    unbound = server.as_token(token(server, "kigi-node-cache"))
    wanted = "the token names no node"
    eventually(lambda: wanted in unbound.create(LEASES, lease("rbac-a")).message, what="the policy is in force")
    for node in NODES:
        daemon(node).create(LEASES, lease(node)).object()
    leader = {"metadata": {"name": LEASE_NAME}, "spec": {"holderIdentity": "operator-1", "renewTime": TIME}}
    server.create(LEASES, leader).object()
    yield
    for name in (*(lease_name(node) for node in NODES), LEASE_NAME):
        server.delete(f"{LEASES}/{name}")


@pytest.mark.parametrize("node", NODES)
def test_a_daemon_renews_the_lease_of_its_own_node(daemon: Callable[[str], RawApi], leases: None, node: str) -> None:
    body = lease(node, spec={"renewTime": "2026-01-01T00:00:30.000000Z"})
    assert daemon(node).patch(f"{LEASES}/{lease_name(node)}", body).object()["spec"]["holderIdentity"] == node


def test_all_daemons_read_what_a_node_publishes(daemon: Callable[[str], RawApi], leases: None) -> None:
    path = f"{LEASES}/{lease_name('rbac-a')}"
    daemon("rbac-a").patch(path, {"metadata": {"annotations": {ANNOTATION_PEER_CERTIFICATES: "a" * 64}}}).object()
    assert certificates_of(daemon("rbac-b").get(path).object(), "rbac-a") == {"a" * 64}
    assert certificates_of(daemon("rbac-b").get(path).object(), "rbac-b") == set()


FOREIGN = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "name": "kigi-operator",
    "uid": "0",
    "blockOwnerDeletion": True,
}
MINE = {"metadata": {"annotations": {ANNOTATION_PEER_CERTIFICATES: "f" * 64}}}
STOLEN = [
    pytest.param("PATCH", f"{LEASES}/kigi-node-rbac-b", {"spec": {"renewTime": TIME}}, id="renew-another-nodes"),
    pytest.param("PATCH", f"{LEASES}/{LEASE_NAME}", {"spec": {"holderIdentity": "rbac-a"}}, id="take-the-lead"),
    pytest.param("PATCH", f"{LEASES}/{LEASE_NAME}", {"spec": {"renewTime": TIME}}, id="prolong-the-lead"),
    pytest.param("PATCH", f"{LEASES}/kigi-node-rbac-a", {"spec": {"holderIdentity": "rbac-b"}}, id="hold-for-another"),
    pytest.param("PATCH", f"{LEASES}/kigi-node-rbac-a", {"spec": {"holderIdentity": None}}, id="hold-for-no-node"),
    pytest.param(
        "PATCH",
        f"{LEASES}/kigi-node-rbac-a",
        {"metadata": {"finalizers": ["thief.example/stays"]}},
        id="keep-it-for-ever",
    ),
    pytest.param(
        "PATCH", f"{LEASES}/kigi-node-rbac-a", {"metadata": {"ownerReferences": [FOREIGN]}}, id="give-it-an-owner"
    ),
    pytest.param("POST", LEASES, lease("rbac-c"), id="create-for-another"),
    pytest.param("POST", LEASES, lease("rbac-a", metadata={"name": "kigi-node-x"}), id="create-another-name"),
    pytest.param("POST", LEASES.replace(SYSTEM, "default"), lease("rbac-a"), id="create-elsewhere"),
    pytest.param("DELETE", f"{LEASES}/kigi-node-rbac-b", None, id="delete-another-nodes"),
    pytest.param("DELETE", f"{LEASES}/{LEASE_NAME}", None, id="delete-the-leaders"),
    pytest.param("DELETE", LEASES, None, id="delete-all"),
    pytest.param("PATCH", f"{LEASES}/kigi-node-rbac-b", MINE, id="publish-its-certificate-for-another"),
    pytest.param("PUT", f"{LEASES}/kigi-node-rbac-b", lease("rbac-b") | MINE, id="replace-another-nodes"),
    pytest.param("POST", LEASES, lease("rbac-c", **MINE), id="publish-for-a-node-without-a-lease"),
    pytest.param("GET", LEASES, None, id="list-all"),
    pytest.param("GET", f"{LEASES}?watch=true&timeoutSeconds=1", None, id="watch-all"),
    pytest.param("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/x", None, id="read-elsewhere"),
]


@pytest.mark.parametrize(("method", "path", "body"), STOLEN)
def test_a_stolen_token_touches_no_other_lease(
    server: RawApi, daemon: Callable[[str], RawApi], leases: None, method: str, path: str, body: Any
) -> None:
    if body is not None and method == "POST":
        body = merge_patch(body, {"metadata": {"namespace": path.split("/")[-2]}})
    content = "application/merge-patch+json" if method == "PATCH" else "application/json"
    reply = daemon("rbac-a").call(method, path, body, content_type=content)
    assert reply.code == 403, reply
    holders = {name: server.get(f"{LEASES}/{name}").object()["spec"] for name in ("kigi-node-rbac-b", LEASE_NAME)}
    assert {spec["holderIdentity"] for spec in holders.values()} == {"rbac-b", "operator-1"}


def test_the_policy_of_leases_holds_even_where_a_role_gives_too_much(
    server: RawApi, daemon: Callable[[str], RawApi], leases: None
) -> None:
    """With the right to every Lease of the cluster, a daemon may still write that of its node alone."""
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
    server.create(f"{rbac}/clusterroles", {"metadata": {"name": "rbac-leases"}, "rules": [rule]}).object()
    binding = {
        "metadata": {"name": "rbac-leases"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "rbac-leases"},
        "subjects": [{"kind": "ServiceAccount", "name": "kigi-node-cache", "namespace": SYSTEM}],
    }
    server.create(f"{rbac}/clusterrolebindings", binding).object()
    strong = daemon("rbac-a")
    try:
        eventually(lambda: strong.get("/apis/coordination.k8s.io/v1/leases").code == 200, what="the role is in force")
        for reply, words in (
            (
                strong.patch(f"{LEASES}/kigi-node-rbac-b", {"spec": {"renewTime": TIME}}),
                "only the Lease kigi-node-rbac-a",
            ),
            (strong.patch(f"{LEASES}/{LEASE_NAME}", {"spec": {"holderIdentity": "x"}}), "only the Lease"),
            (strong.delete(f"{LEASES}/{LEASE_NAME}"), "may not delete a Lease"),
            (
                strong.create(LEASES.replace(SYSTEM, "default"), lease("rbac-a", metadata={"namespace": "default"})),
                "only in its own namespace",
            ),
            (strong.patch(f"{LEASES}/kigi-node-rbac-a", {"spec": {"holderIdentity": "rbac-b"}}), "must be node rbac-a"),
        ):
            assert reply.code == 403, reply
            assert words in reply.message
    finally:
        server.delete(f"{rbac}/clusterrolebindings/rbac-leases")
        server.delete(f"{rbac}/clusterroles/rbac-leases")


def test_other_accounts_write_their_leases(operator: RawApi, server: RawApi, leases: None) -> None:
    found = operator.get(f"{LEASES}/{LEASE_NAME}").object()
    assert operator.call("PUT", f"{LEASES}/{LEASE_NAME}", found).code == 200


@pytest.mark.parametrize("length", [243, 244, 253])
def test_a_node_with_a_long_name_has_a_lease(server: RawApi, length: int) -> None:
    """The policy cuts the name as the daemon does."""
    node = ("long-" + "n" * 57 + ".") * 4 + "x" * 100
    node = node[:length].rstrip(".-") + "z" * (length - len(node[:length].rstrip(".-")))
    server.create("/api/v1/nodes", {"metadata": {"name": node}}).object()
    pod = {
        "metadata": {"name": f"daemon-{length}"},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "kigi-node-cache",
            "containers": [{"name": "cache", "image": "kigi:none"}],
        },
    }
    uid = server.create(f"/api/v1/namespaces/{SYSTEM}/pods", pod).object()["metadata"]["uid"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": f"daemon-{length}", "uid": uid}
    try:
        created = server.as_token(token(server, "kigi-node-cache", bound)).create(LEASES, lease(node)).object()
        assert created["metadata"]["name"] == lease_name(node)
    finally:
        server.delete(f"{LEASES}/{lease_name(node)}")
        server.delete(f"/api/v1/namespaces/{SYSTEM}/pods/daemon-{length}")
        server.delete(f"/api/v1/nodes/{node}")


def own_event() -> Object:
    """An event as the daemon of rbac-a writes it."""
    return event(
        reference(NODE_API_VERSION, "NodeCache", None, "rbac-a"),
        kind="Warning",
        reason="LayerCorrupt",
        note="test",
        action=SERVE_DISKS,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        suffix="0a1b",
        controller="kigi-cache",
        instance="rbac-a",
        related=reference("v1", "Node", None, "rbac-a"),
    )


def test_a_daemon_writes_events_about_its_cache(daemon: Callable[[str], RawApi]) -> None:
    body = own_event()
    daemon_api = daemon("rbac-a")
    assert daemon_api.create("/apis/events.k8s.io/v1/namespaces/default/events?dryRun=All", body).code == 201
    moved = merge_patch(body, {"metadata": {"namespace": "kube-system"}})
    refused = daemon_api.create("/apis/events.k8s.io/v1/namespaces/kube-system/events?dryRun=All", moved)
    assert (refused.code, "only in the namespace default" in refused.message) == (403, True), refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"regarding": {"name": "rbac-b"}}, "may report only about the NodeCache"),
        ({"regarding": {"kind": "Node", "apiVersion": "v1"}}, "may report only about the NodeCache"),
        ({"regarding": {"kind": "Pod", "apiVersion": "v1", "namespace": "default"}}, "may report only about"),
        ({"related": {"name": "rbac-b"}}, "may report only about the NodeCache"),
        ({"reportingController": "kigi-operator"}, "must be kigi-cache and rbac-a"),
        ({"reportingInstance": "rbac-b"}, "must be kigi-cache and rbac-a"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_daemon_writes_no_events_about_others(
    daemon: Callable[[str], RawApi], nodes: dict[str, str], change: Object, words: str
) -> None:
    thief = daemon("rbac-a")
    path = "/apis/events.k8s.io/v1/namespaces/default/events?dryRun=All"
    other = merge_patch(own_event(), {"regarding": {"name": "rbac-b"}})
    eventually(lambda: thief.create(path, other).code == 403, what="the policy is in force")
    reply = thief.create(path, merge_patch(own_event(), change))
    assert reply.code == 403, reply
    assert words in reply.message
    assert thief.create(path, own_event()).code == 201


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
        await client.renew_lease(seen.cache.metadata)
        first = server.get(f"{LEASES}/kigi-node-rbac-b").object()
        await client.renew_lease(seen.cache.metadata, ("b" * 64, "c" * 64))
        second = server.get(f"{LEASES}/kigi-node-rbac-b").object()
        assert second["metadata"]["uid"] == first["metadata"]["uid"]
        assert second["spec"]["renewTime"] > first["spec"]["renewTime"]
        assert second["metadata"]["ownerReferences"][0]["uid"] == seen.cache.metadata.uid
        assert await client.peer_certificates("rbac-b") == {"b" * 64, "c" * 64}
        assert await client.peer_certificates("rbac-none") == set()
    finally:
        await client.close()
    stranger = KubeApi("rbac-a")
    await stranger.open()
    try:
        with pytest.raises(
            SpecInvalid, match=r"may not write the NodeCache of node rbac-a|the token is of node rbac-b"
        ):
            await stranger.write_status(NodeCacheStatus(observed_generation=1))
        with pytest.raises(SpecInvalid, match="may write only the Lease kigi-node-rbac-b"):
            await stranger.renew_lease(seen.cache.metadata)
    finally:
        await stranger.close()


TREES = ("vmimagenodes", "systemnodes")
READ = ("get", "list", "watch")
OWN = (*READ, "create", "patch", "delete")
OPERATOR_MAY = [
    *(
        (verb, "kigi.dev", kind, "")
        for kind in (*TREES, "systemdeployments", "systemcaptures", "systemprefetches", "treegrants")
        for verb in READ
    ),
    *(("create", "kigi.dev", kind, "") for kind in TREES),
    *(("patch", "kigi.dev", kind, "") for kind in (*TREES, "systemdeployments", "systemcaptures")),
    ("delete", "kigi.dev", "systemcaptures", ""),
    *((verb, "kigi.dev", "systeminstances", "") for verb in OWN),
    ("patch", "kigi.dev", "systeminstances", "status"),
    *((verb, "kigi.dev", "systemresets", "") for verb in (*READ, "delete")),
    ("patch", "kigi.dev", "systemresets", "status"),
    ("update", "kigi.dev", "systemdeployments", "finalizers"),
    ("update", "kigi.dev", "systeminstances", "finalizers"),
    *(
        ("patch", "kigi.dev", kind, "status")
        for kind in (*TREES, "systemdeployments", "systemcaptures", "systemprefetches")
    ),
    *((verb, "node.kigi.dev", "nodecaches", "") for verb in OWN),
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
    *((verb, "kigi.dev", "systemcaptures", "") for verb in ("create", "update", "deletecollection")),
    *((verb, "kigi.dev", "systemdeployments", "") for verb in ("create", "update", "delete", "deletecollection")),
    *(
        (verb, "kigi.dev", kind, "")
        for kind in ("systemprefetches", "treegrants")
        for verb in ("create", "update", "patch", "delete")
    ),
    *((verb, "kigi.dev", "systemresets", "") for verb in ("create", "update", "patch", "deletecollection")),
    *((verb, "kigi.dev", kind, "") for kind in ("systemdeployments", "systeminstances") for verb in ("reset",)),
    *((verb, "node.kigi.dev", "nodecaches", "status") for verb in ("patch", "update")),
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
    for verb in ("get", "list", "watch", "create", "update"):
        assert may(operator, verb, "coordination.k8s.io", "leases", "", SYSTEM)
    assert not may(operator, "delete", "coordination.k8s.io", "leases", "", SYSTEM)


def test_users_roles_cover_the_users_kinds(server: RawApi) -> None:
    """What is labelled for aggregation gives view and edit of the users' kinds, and nothing of nodes' caches."""
    roles = {}
    for name in ("kigi-view", "kigi-edit"):
        role = server.get(f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}").object()
        roles[name] = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    kinds = {
        "vmimagenodes",
        "systemnodes",
        "systemdeployments",
        "systeminstances",
        "systemresets",
        "systemcaptures",
        "systemprefetches",
        "treegrants",
    }
    assert roles["kigi-view"] == {(kind, verb) for kind in kinds for verb in ("get", "list", "watch")}
    assert {("systemdeployments", "create"), ("systemdeployments/scale", "update")} <= roles["kigi-edit"]
    assert {("systemresets", "create"), ("systeminstances", "reset"), ("systemdeployments", "reset")} <= roles[
        "kigi-edit"
    ]
    assert not any(resource.endswith("/status") or "nodecache" in resource for resource, _ in roles["kigi-edit"])
