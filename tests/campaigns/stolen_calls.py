"""Calls to a Kubernetes API server that a thief tries: every verb on every resource, and hand-made ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kigi.domain.heartbeat import build_lease, lease_name
from kigi.domain.merge_patch import merge_patch
from kigi.domain.names import NODE_API_VERSION
from kigi.runtime.leader import LEASE_NAME

Object = dict[str, Any]
SYSTEM, OWN, ANOTHER, TEAM = "kigi-system", "stolen", "another", "team-a"
"""Kigi's namespace, the stolen node, another node, and a tenant's namespace."""
NAMESPACES = (SYSTEM, "default", "kube-system", "kubevirt", TEAM, "team-b")
JSON, MERGE, PATCHES, APPLY = (
    f"application/{name}" for name in ("json", "merge-patch+json", "json-patch+json", "apply-patch+yaml")
)
TIME = "2026-01-01T00:00:00.000000Z"
DIGEST = "sha256:" + "a" * 64
LAYER = {"digest": DIGEST, "sizeBytes": 1, "virtualSizeBytes": 512, "repositoryName": "default", "purpose": "Disk"}


@dataclass(frozen=True, slots=True)
class Call:
    """One call. ``what`` and ``target`` are its names in the written list."""

    what: str
    target: str
    method: str
    path: str
    body: Any = None
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Served:
    """A resource that the API server serves; ``name`` may have a subresource."""

    group: str
    version: str
    name: str
    kind: str
    namespaced: bool
    own_group: str = field(default="", compare=False)
    """Group and version of the kind, where it differs from the resource's."""

    @property
    def title(self) -> str:
        """As in RBAC, with the group: leases.coordination.k8s.io."""
        resource, _, sub = self.name.partition("/")
        return f"{resource}{'.' + self.group if self.group else ''}{'/' + sub if sub else ''}"

    @property
    def root(self) -> str:
        """Path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def api_version(self) -> str:
        """Of the objects that it takes."""
        return self.own_group or (f"{self.group}/{self.version}" if self.group else self.version)


NAMES = {
    "nodes": (OWN, ANOTHER),
    "nodecaches": (OWN, ANOTHER),
    "csinodes": (OWN, ANOTHER),
    "leases": (lease_name(OWN), lease_name(ANOTHER), LEASE_NAME),
    "secrets": ("kigi-daemon-repositories", "kigi-publisher-repositories"),
    "serviceaccounts": ("kigi-operator", "kigi-node-cache"),
    "pods": ("daemon-stolen", "daemon-another"),
    "daemonsets": ("kigi-node-cache",),
    "deployments": ("kigi-operator",),
    "clusterroles": ("kigi-node-cache", "cluster-admin"),
    "clusterrolebindings": ("kigi-node-cache",),
    "validatingadmissionpolicies": ("kigi-node-cache", "kigi-node-lease"),
    "validatingadmissionpolicybindings": ("kigi-node-cache",),
    "namespaces": (SYSTEM, TEAM),
    "csidrivers": ("disk.kigi.dev",),
}
"""Names that exist; of other resources, "present" is tried."""


def matrix(resources: list[Served]) -> Iterator[Call]:
    """Every verb on every resource and subresource, in every namespace."""
    for served in resources:
        for namespace in NAMESPACES if served.namespaced else ("",):
            yield from _of_collection(served, namespace)
            for name in NAMES.get(served.name.partition("/")[0], ("present",)):
                yield from _of_object(served, namespace, name)
        if served.namespaced and "/" not in served.name:
            path = f"{served.root}/{served.name}"
            yield Call(f"list {served.title}", "all namespaces", "GET", path)
            yield Call(f"watch {served.title}", "all namespaces", "GET", f"{path}?watch=true&timeoutSeconds=1")


def _of_collection(served: Served, namespace: str) -> Iterator[Call]:
    if "/" in served.name:
        return
    path, target = _place(served, namespace), f"{namespace}/*" if namespace else "*"
    yield Call(f"list {served.title}", target, "GET", path)
    yield Call(f"watch {served.title}", target, "GET", f"{path}?watch=true&timeoutSeconds=1")
    if (served.group, namespace) != ("events.k8s.io", "default"):  # event_calls has these
        yield Call(f"create {served.title}", target, "POST", path, _body(served, namespace, "made"))
    yield Call(f"deletecollection {served.title}", target, "DELETE", path)


def _of_object(served: Served, namespace: str, name: str) -> Iterator[Call]:
    resource, _, sub = served.name.partition("/")
    path = f"{_place(served, namespace, resource)}/{name}{'/' + sub if sub else ''}"
    target = f"{namespace}/{name}" if namespace else name
    body = _body(served, namespace, name)
    yield Call(f"get {served.title}", target, "GET", path)
    yield Call(f"update {served.title}", target, "PUT", path, body)
    for content_type in (MERGE, APPLY):
        patch = {"metadata": {"labels": {"stolen": "yes"}}} if content_type == MERGE else body
        query = "?fieldManager=thief&force=true" if content_type == APPLY else ""
        yield Call(f"patch {served.title}", target, "PATCH", path + query, patch, content_type)
    yield Call(f"delete {served.title}", target, "DELETE", path)
    if sub:
        yield Call(f"create {served.title}", target, "POST", path, body)


def _place(served: Served, namespace: str, resource: str = "") -> str:
    return f"{served.root}{f'/namespaces/{namespace}' if namespace else ''}/{resource or served.name}"


def _body(served: Served, namespace: str, name: str) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    body: Object = {"apiVersion": served.api_version, "kind": served.kind, "metadata": metadata}
    if served.name.startswith("self") or served.name == "tokenreviews":
        body["metadata"] = {}
    extra: dict[str, Object] = {
        "tokenreviews": {"spec": {"token": "guess"}},
        "events": event_of("NodeCache", OWN, metadata=metadata) if served.group else {},
        "selfsubjectaccessreviews": {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}},
        "selfsubjectrulesreviews": {"spec": {"namespace": SYSTEM}},
        "leases": {"spec": {"holderIdentity": OWN, "leaseDurationSeconds": 120}},
        "nodecaches": {"spec": {"nodeName": name, "operatorProtocol": 1, "protocol": 1}},
        "nodecaches/status": {"status": {"observedGeneration": 1}},
    }
    return body | extra.get(served.name, {})


def event_of(kind: str, name: str, **fields: Any) -> Object:
    """An event about an object without a namespace, as the stolen node's daemon writes it."""
    group = {"NodeCache": NODE_API_VERSION, "Node": "v1", "PersistentVolume": "v1"}.get(kind, "kigi.dev/v1alpha2")
    found: Object = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{name}.{len(kind)}", "namespace": "default"},
        "eventTime": TIME,
        "reportingController": "kigi-cache",
        "reportingInstance": OWN,
        "action": "ServeDisks",
        "reason": "Full",
        "type": "Warning",
        "regarding": {"apiVersion": group, "kind": kind, "name": name},
        "related": {"apiVersion": "v1", "kind": "Node", "name": OWN},
    }
    return found | fields


def lease_calls(uid: str, another_uid: str) -> Iterator[Call]:
    """Heartbeats of the own node, and what a thief may make of a Lease."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
    own, what = f"{leases}/{lease_name(OWN)}", "patch leases.coordination.k8s.io"
    good = build_lease(OWN, SYSTEM, cache=(OWN, uid), time=TIME)
    evil_owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "kigi-operator", "uid": another_uid}
    yield Call(what, "heartbeat of the own node", "PATCH", own, good, MERGE)
    yield Call(
        what, "heartbeat of the own node", "PATCH", own, {"spec": {"renewTime": "2036-01-01T00:00:00.0Z"}}, MERGE
    )
    for title, patch in {
        "holder is another node": {"spec": {"holderIdentity": ANOTHER}},
        "no holder": {"spec": {"holderIdentity": None}},
        "finalizer": {"metadata": {"finalizers": ["thief.example/stays"]}},
        "owner is a Deployment": {"metadata": {"ownerReferences": [evil_owner | {"blockOwnerDeletion": True}]}},
        "owner is another NodeCache": {
            "metadata": {"ownerReferences": [good["metadata"]["ownerReferences"][0] | {"name": ANOTHER}]}
        },
    }.items():
        yield Call(what, f"own node: {title}", "PATCH", own, patch, MERGE)
    for name in (lease_name(ANOTHER), LEASE_NAME):
        for patch in (
            {"spec": {"renewTime": TIME}},
            {"spec": {"holderIdentity": OWN}},
            {"metadata": {"labels": {"a": "b"}}},
        ):
            yield Call(what, f"{SYSTEM}/{name}", "PATCH", f"{leases}/{name}", patch, MERGE)
    create = "create leases.coordination.k8s.io"
    yield Call(create, "heartbeat of the own node", "POST", leases, good)
    for name, holder in ((lease_name("third"), "third"), ("kigi-node-x", OWN), (lease_name("third"), OWN)):
        lease = merge_patch(good, {"metadata": {"name": name}, "spec": {"holderIdentity": holder}})
        yield Call(create, f"{SYSTEM}/{name}", "POST", leases, lease)
    for namespace in set(NAMESPACES) - {SYSTEM}:
        lease = merge_patch(good, {"metadata": {"namespace": namespace}})
        yield Call(create, f"{namespace}/{lease_name(OWN)}", "POST", leases.replace(SYSTEM, namespace), lease)


def status_calls() -> Iterator[Call]:
    """Reports of the own node and of another one, in each form of a patch."""
    what = "patch nodecaches.node.kigi.dev/status"
    for node in (OWN, ANOTHER):
        path = f"/apis/{NODE_API_VERSION}/nodecaches/{node}/status"
        target = "of the own node" if node == OWN else node
        layers = [{"digest": DIGEST, "state": "Held", "sizeBytes": 1}]
        applied = {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": {"name": node}}
        for body, content_type in (
            ({"status": {"usedBytes": 7}}, MERGE),
            ({"status": {"layers": layers}}, MERGE),
            ({"spec": {"layers": [LAYER], "nodeName": OWN}, "status": {"usedBytes": 8}}, MERGE),
            ({"metadata": {"labels": {"a": "b"}, "finalizers": ["thief.example/x"]}}, MERGE),
            ([{"op": "add", "path": "/spec/discardVolumes", "value": ["kigi.a.b.0.m.r1.aaaaaaaa"]}], PATCHES),
            ([{"op": "add", "path": "/status", "value": {"usedBytes": 9}}], PATCHES),
        ):
            yield Call(what, target, "PATCH", path, body, content_type)
        query = "?fieldManager=thief&force=true"
        yield Call(what, target, "PATCH", path + query, applied | {"status": {"usedBytes": 3}}, APPLY)


def event_calls() -> Iterator[Call]:
    """Events about the own NodeCache, and about what is not the daemon's affair."""
    what = "create events.events.k8s.io"
    path = "/apis/events.k8s.io/v1/namespaces/{}/events"
    for number in range(3):
        metadata = {"name": f"good.{number}", "namespace": "default"}
        yield Call(
            what,
            "about the own NodeCache",
            "POST",
            path.format("default"),
            event_of("NodeCache", OWN, metadata=metadata),
        )
    for title, body in {
        "about another NodeCache": event_of("NodeCache", ANOTHER),
        "about a Node": event_of("Node", ANOTHER),
        "about a PersistentVolume": event_of("PersistentVolume", "present"),
        "about a LayerRepository": event_of("LayerRepository", "main"),
        "in the name of the operator": event_of("NodeCache", OWN, reportingController="kigi-operator"),
        "in the name of another node": event_of("NodeCache", OWN, reportingInstance=ANOTHER),
        "related to another node": event_of("NodeCache", OWN, related={"kind": "Node", "name": ANOTHER}),
    }.items():
        metadata = {"name": title.replace(" ", "-").lower(), "namespace": "default"}
        yield Call(what, title, "POST", path.format("default"), body | {"metadata": metadata})
    pod = {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "present"}
    about_pod = event_of("NodeCache", OWN, regarding=pod, metadata={"name": "pod.1", "namespace": "default"})
    yield Call(what, "about a pod", "POST", path.format("default"), about_pod)
    for namespace in set(NAMESPACES) - {"default"}:
        regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": "present"}
        body = event_of("NodeCache", OWN, regarding=regarding, metadata={"name": "n.1", "namespace": namespace})
        yield Call(what, f"{namespace}/*", "POST", path.format(namespace), body)


def other_calls() -> Iterator[Call]:
    """Other identities, KubeVirt's subresources, and paths that are no resources."""
    identities = (
        (("Impersonate-User", "system:admin"), ("Impersonate-Group", "system:masters")),
        (("Impersonate-User", f"system:serviceaccount:{SYSTEM}:kigi-operator"),),
        (
            ("Impersonate-User", f"system:serviceaccount:{SYSTEM}:kigi-node-cache"),
            ("Impersonate-Extra-authentication.kubernetes.io%2fnode-name", ANOTHER),
        ),
        (("Impersonate-User", f"system:node:{ANOTHER}"), ("Impersonate-Group", "system:nodes")),
    )
    for headers in identities:
        for path in (f"/api/v1/namespaces/{SYSTEM}/secrets", f"/apis/{NODE_API_VERSION}/nodecaches", "/version"):
            yield Call("impersonate", headers[0][1], "GET", path, headers=headers)
    root = "/apis/subresources.kubevirt.io/v1/namespaces"
    for verb in ("console", "vnc", "vnc/screenshot", "portforward/22", "guestosinfo", "filesystemlist", "userlist"):
        path = f"{root}/{TEAM}/virtualmachineinstances/vm/{verb}"
        yield Call(f"get virtualmachineinstances.subresources.kubevirt.io/{verb}", f"{TEAM}/vm", "GET", path)
    for kind, verbs in {
        "virtualmachineinstances": ("pause", "unpause", "freeze", "unfreeze", "softreboot", "reset", "addvolume"),
        "virtualmachines": ("start", "stop", "restart", "migrate", "addvolume", "removevolume", "memorydump"),
    }.items():
        for verb in verbs:
            path = f"{root}/{TEAM}/{kind}/vm/{verb}"
            yield Call(f"update {kind}.subresources.kubevirt.io/{verb}", f"{TEAM}/vm", "PUT", path, {})
    for path in PATHS:
        yield Call(f"get {path}", "", "GET", path)
    for path in ("/metrics", "/logs", "/healthz", "/version"):
        for method in ("POST", "PUT", "DELETE"):
            yield Call(f"{method.lower()} {path}", "", method, path, {} if method != "DELETE" else None)


PATHS = (
    *("/api", "/apis", "/apis/kigi.dev", "/openapi/v2", "/openapi/v3", "/version", "/healthz", "/livez", "/readyz"),
    *("/.well-known/openid-configuration", "/openid/v1/jwks"),
    *("/", "/metrics", "/metrics/slis", "/logs", "/logs/kube-apiserver.log", "/debug/pprof", "/debug/pprof/heap"),
    *("/debug/flags/v", "/debug/api_priority_and_fairness/dump_requests", "/configz", "/statusz", "/flagz"),
    *("/healthz/etcd", "/livez/ping", "/readyz/etcd"),
)
