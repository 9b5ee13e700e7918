"""A control plane with Kigi's manifests and objects of tenants, and what a stolen node's credentials do there."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kigi.domain.heartbeat import build_lease
from kigi.domain.names import NODE_API_VERSION
from kigi.runtime.leader import LEASE_NAME
from localcluster.controlplane import ControlPlane
from tests.campaigns.stolen_calls import (
    ANOTHER,
    MERGE,
    NAMESPACES,
    OWN,
    SYSTEM,
    TEAM,
    TIME,
    Call,
    Object,
    Served,
    event_calls,
    lease_calls,
    matrix,
    other_calls,
    status_calls,
)
from tests.support.cluster import eventually
from tests.support.layers import node_cache
from tests.support.raw_api import RawApi

ROOT = Path(__file__).parents[2]
REFUSED = (401, 403)
KUBEVIRT_KINDS = {
    "kubevirt.io": ("VirtualMachine", "VirtualMachineInstance", "VirtualMachineInstanceMigration", "KubeVirt"),
    "snapshot.kubevirt.io": ("VirtualMachineSnapshot",),
    "export.kubevirt.io": ("VirtualMachineExport",),
    "cdi.kubevirt.io": ("DataVolume",),
}


@dataclass
class Outcome:
    """What calls with one credential did: those that were not refused, as (what, target), and their numbers."""

    calls: int = 0
    tried: set[tuple[str, str]] = field(default_factory=set)
    allowed: dict[tuple[str, str], str] = field(default_factory=dict)
    """With the answer of the first."""

    def note(self, what: str, target: str, answer: str | None) -> None:
        """Adds a call; ``answer`` None: it was refused."""
        self.calls += 1
        self.tried.add((what, target))
        if answer is not None:
            self.allowed.setdefault((what, target), answer)


class Thief:
    """A client with a stolen token, which keeps its connection."""

    def __init__(self, plane: ControlPlane, token: str) -> None:
        where = urlsplit(plane.server)
        self._where = (where.hostname or "", where.port)
        self._tls = ssl.create_default_context(cafile=str(plane.authority.pair.certificate))
        self._token = token
        self._connection: http.client.HTTPSConnection | None = None

    def call(self, call: Call) -> tuple[int, str]:
        """Status code, and the begin of the answer. An idle connection may have been closed: then once more."""
        for attempt in (0, 1):
            try:
                return self._call(call)
            except (OSError, http.client.HTTPException):
                self.close()
                if attempt:
                    raise
        raise AssertionError

    def _call(self, call: Call) -> tuple[int, str]:
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(*self._where, timeout=30, context=self._tls)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": call.content_type, **dict(call.headers)}
        self._connection.request(call.method, call.path, None if call.body is None else json.dumps(call.body), headers)
        answer = self._connection.getresponse()
        if answer.status == 101 or ("watch=true" in call.path and answer.status == 200):
            self.close()
            return answer.status, ""
        return answer.status, answer.read().decode(errors="replace")[:300]

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass
class Cluster:
    """The control plane, its objects, and the stolen tokens."""

    plane: ControlPlane
    admin: RawApi
    resources: list[Served]
    uids: dict[str, str]
    tokens: dict[str, str]

    def calls(self) -> tuple[list[Call], list[Call]]:
        """Every verb on every resource; and the hand-made calls."""
        made = (lease_calls(self.uids["cache"], self.uids["operator"]), status_calls(), event_calls(), other_calls())
        return list(matrix(self.resources)), list(itertools.chain(*made))

    def versions(self) -> dict[str, str]:
        """resourceVersion of every object, by resource, namespace and name."""
        found: dict[str, str] = {}
        for served in self.resources:
            if "/" in served.name or (answer := self.admin.get(f"{served.root}/{served.name}")).code != 200:
                continue
            for item in answer.body.get("items") or ():
                meta = item["metadata"]
                found["/".join((served.title, meta.get("namespace", ""), meta["name"]))] = meta.get(
                    "resourceVersion", ""
                )
        return found


def steal(cluster: Cluster, token: str, calls: list[Call]) -> Outcome:
    """Tries the calls. Whatever is not refused by authentication, authorization or admission counts as allowed."""
    thief, outcome = Thief(cluster.plane, token), Outcome()
    for call in calls:
        code, text = thief.call(call)
        outcome.note(call.what, call.target, None if code in REFUSED else f"{code} {text}")
    thief.close()
    return outcome


def delete_pod(cluster: Cluster) -> bool:
    """Deletes the stolen node's pod; whether its token is refused soon. The API server knows valid tokens for 10 s."""
    cluster.admin.delete(f"/api/v1/namespaces/{SYSTEM}/pods/daemon-{OWN}")
    thief, call = Thief(cluster.plane, cluster.tokens["daemon"]), Call("", "", "GET", "/api")
    eventually(lambda: thief.call(call)[0] == 401, 30, "the token of a deleted pod is refused")
    thief.close()
    return True


def choose(cluster: Cluster, seed: int, count: int) -> list[Call]:
    """All hand-made calls, and as many of the others as ``count`` leaves, in the order of the seed."""
    every, made = cluster.calls()
    chance = random.Random(seed)
    if len(every) + len(made) > count:
        every = chance.sample(every, max(0, count - len(made)))
    chosen = every + made
    chance.shuffle(chosen)
    return chosen


def prepare(plane: ControlPlane) -> Cluster:
    """Installs Kigi as an administrator does, on two nodes, and waits until its policies are in force."""
    _install(plane)
    admin = RawApi(plane.kubeconfig)
    for namespace in NAMESPACES:
        admin.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    uids, pods = {}, {}
    for node in (OWN, ANOTHER):
        admin.create("/api/v1/nodes", {"metadata": {"name": node}}).object()
        cache = admin.create(f"/apis/{NODE_API_VERSION}/nodecaches", node_cache(node)).object()
        uids.setdefault("cache", cache["metadata"]["uid"])
        lease = build_lease(node, SYSTEM, cache=(node, cache["metadata"]["uid"]), time=TIME)
        admin.create(_LEASES, lease).object()
        pods[node] = admin.create(f"/api/v1/namespaces/{SYSTEM}/pods", _pod(node)).object()["metadata"]["uid"]
    admin.create(_LEASES, {"metadata": {"name": LEASE_NAME}, "spec": {"holderIdentity": "operator-1"}}).object()
    operator = admin.get(f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/kigi-operator").object()
    uids["operator"] = operator["metadata"]["uid"]
    _create_victims(admin)
    tokens = {"daemon": _token(admin, pods[OWN]), "peer": _token(admin, pods[OWN], ["kigi-peer"])}
    cluster = Cluster(plane, admin, list(_discover(admin)), uids, tokens)
    _wait_for_policies(cluster)
    return cluster


_LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"


def _install(plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(_kubevirt_crds()))
    plane.kubectl("apply", "--server-side", "-k", str(ROOT / "manifests"))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


def _kubevirt_crds() -> Object:
    """KubeVirt's kinds by name alone: rights do not depend on their schemas."""
    crds = []
    for group, kinds in KUBEVIRT_KINDS.items():
        for kind in kinds:
            plural = kind.lower() + "s"
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
            names = {"kind": kind, "plural": plural, "singular": kind.lower()}
            spec = {
                "group": group,
                "names": names,
                "scope": "Namespaced",
                "versions": [version | {"subresources": {"status": {}}}],
            }
            metadata = {"name": f"{plural}.{group}"}
            metadata |= {"annotations": {"api-approved.kubernetes.io": "unapproved"}}
            crds.append(
                {
                    "apiVersion": "apiextensions.k8s.io/v1",
                    "kind": "CustomResourceDefinition",
                    "metadata": metadata,
                    "spec": spec,
                }
            )
    return {"apiVersion": "v1", "kind": "List", "items": crds}


def _create_victims(admin: RawApi) -> None:
    """Objects of a tenant and of the cluster, which must not change."""
    image = {"layer": {"digest": "sha256:" + "b" * 64, "sizeBytes": 1, "virtualSizeBytes": 2**30}}
    csi = {"driver": "disk.kigi.dev", "volumeHandle": "present"}
    volume = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "csi": csi}
    for path, body in (
        (f"/apis/kigi.dev/v1alpha2/namespaces/{TEAM}/vmimagenodes", {"kind": "VMImageNode", "spec": image}),
        (f"/apis/kubevirt.io/v1/namespaces/{TEAM}/virtualmachines", {"kind": "VirtualMachine", "spec": {}}),
        (f"/api/v1/namespaces/{TEAM}/secrets", {"stringData": {"password": "secret"}}),
        ("/api/v1/persistentvolumes", {"spec": volume}),
    ):
        group = path.split("/namespaces/")[0].removeprefix("/apis/") if path.startswith("/apis/") else "v1"
        admin.create(path, {"apiVersion": group, "metadata": {"name": "present"}} | body).object()


def _pod(node: str) -> Object:
    containers = [{"name": "cache", "image": "kigi:none"}]
    spec = {"nodeName": node, "serviceAccountName": "kigi-node-cache", "containers": containers}
    return {"metadata": {"name": f"daemon-{node}"}, "spec": spec}


def _token(admin: RawApi, pod_uid: str, audiences: list[str] | None = None) -> str:
    bound = {"apiVersion": "v1", "kind": "Pod", "name": f"daemon-{OWN}", "uid": pod_uid}
    spec: Object = {
        "expirationSeconds": 7200,
        "boundObjectRef": bound,
        **({"audiences": audiences} if audiences else {}),
    }
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/kigi-node-cache/token"
    return str(admin.create(path, request).object()["status"]["token"])


def _discover(admin: RawApi) -> Iterator[Served]:
    """Every resource and subresource of every group, in its preferred version."""
    groups = [("", "v1", "/api/v1")]
    for group in admin.get("/apis").object()["groups"]:
        preferred = group["preferredVersion"]
        groups.append((group["name"], preferred["version"], f"/apis/{preferred['groupVersion']}"))
    for name, version, path in groups:
        for found in admin.get(path).object()["resources"]:
            own = "/".join(part for part in (found.get("group"), found.get("version")) if part)
            yield Served(name, version, found["name"], found["kind"], found["namespaced"], own)


def _wait_for_policies(cluster: Cluster) -> None:
    """Each policy of a daemon's writes takes seconds until it is in force."""
    thief = Thief(cluster.plane, cluster.tokens["daemon"])
    other = f"{_LEASES}/{LEASE_NAME}"
    status = f"/apis/{NODE_API_VERSION}/nodecaches/{ANOTHER}/status"
    waits: tuple[tuple[str, str, Any], ...] = (
        ("PATCH", other, {"metadata": {"labels": {"w": "1"}}}),
        ("PATCH", status, {"status": {"usedBytes": 1}}),
        ("POST", "/apis/events.k8s.io/v1/namespaces/default/events", next(iter(_foreign_events()))),
    )
    for method, path, body in waits:
        call = Call("", "", method, path, body, MERGE if method == "PATCH" else "application/json")
        eventually(lambda call=call: thief.call(call)[0] == 403, 60, f"a policy refuses {method} {path}")  # type: ignore[misc]
    thief.close()


def _foreign_events() -> Iterator[Object]:
    for number, call in enumerate(event_calls()):
        if call.target == "about a Node":
            yield call.body | {"metadata": {"generateName": f"wait-{number}-", "namespace": "default"}}
