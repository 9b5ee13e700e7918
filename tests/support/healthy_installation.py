"""A healthy installation of Kigi on a real API server: manifests, two nodes, their daemons' reports, and a bucket."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from kigi.domain.heartbeat import build_lease, lease_name
from kigi.domain.names import ANNOTATION_VERSION, API_VERSION, CSI_DRIVER, NODE_API_VERSION
from kigi.domain.node_protocol import PROTOCOL
from kigi.runtime.leader import LEASE_NAME
from localcluster.controlplane import ControlPlane
from localcluster.definitions import wait_until_served
from localcluster.s3 import S3Server
from tests.campaigns.stolen_s3 import SETUPS, USERS
from tests.support.cluster import REPOSITORY
from tests.support.kubevirt_crds import VERSION as KUBEVIRT_VERSION
from tests.support.kubevirt_crds import install_kubevirt_crds
from tests.support.raw_api import Object, RawApi

SYSTEM, NODES = "kigi-system", ("node-a", "node-b")
PLAIN, PROTECTED = SETUPS
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
PODS = f"/api/v1/namespaces/{SYSTEM}/pods"
CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
REPOSITORIES = f"/apis/{API_VERSION}/layerrepositories"
KUBEVIRTS = "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments"
SECRETS = f"/api/v1/namespaces/{SYSTEM}/secrets"
GIB = 2**30
POD_ACCOUNT = {"serviceAccountName": "kigi-operator", "automountServiceAccountToken": False}
"""There is no controller that makes the account ``default`` of each namespace."""
IMAGE = "registry.example/kigi:0.1.0"
Break = Callable[["Installation"], Any]


def now(ahead_s: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def condition(kind: str, status: str, reason: str, message: str = "") -> Object:
    fields = {"reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {"type": kind, "status": status, "observedGeneration": 1, **fields}


class Installation:
    """``manifests/`` as applied, and what kubelets, daemons and the operator would have written."""

    def __init__(self, plane: ControlPlane, s3: S3Server) -> None:
        self.plane, self.s3, self.api = plane, s3, RawApi(plane.kubeconfig)

    def install(self) -> Installation:
        manifests = REPOSITORY / "manifests"
        self.plane.kubectl("apply", "--server-side", "-f", str(manifests / "namespace.yaml"))
        crds = ["--server-side", "--force-conflicts"]
        self.plane.kubectl("apply", *crds, "-f", str(REPOSITORY / "crds"))
        wait_until_served(self.plane.kubectl)
        self.plane.kubectl("apply", *crds, "-k", str(manifests))
        install_kubevirt_crds(self.plane)
        self.plane.kubectl("create", "namespace", "kubevirt")
        self._workloads()
        self._kubevirt()
        for node in NODES:
            self._node(node)
        self._repository()
        self.beat()
        return self

    def put_status(self, path: str, status: Object) -> None:
        """Merges into the status of the object at ``path``."""
        self.api.patch(f"{path}/status", {"status": status}).object()

    def beat(self) -> None:
        """Renews all Leases, as daemons and operator do."""
        for node in NODES:
            self.put_lease(lease_name(node), self.node_lease(node))
        self.put_lease(LEASE_NAME, self.operator_lease())

    def put_lease(self, name: str, body: Object) -> None:
        if self.api.get(f"{LEASES}/{name}").code == 404:
            self.api.create(LEASES, body, fieldManager="kigi").object()
        else:
            changed = {"metadata": {"annotations": body["metadata"]["annotations"]}, "spec": body["spec"]}
            self.api.patch(f"{LEASES}/{name}", changed, fieldManager="kigi").object()

    def node_lease(self, node: str, ahead_s: float = 0.0) -> Object:
        return build_lease(node, SYSTEM, cache=(node, "uid"), time=now(ahead_s), certificates=["ab" * 32])

    def operator_lease(self, ahead_s: float = 0.0, running: str | None = None) -> Object:
        spec = {"holderIdentity": "kigi-operator-0", "leaseDurationSeconds": 30, "renewTime": now(ahead_s)}
        meta = {"name": LEASE_NAME, "annotations": {ANNOTATION_VERSION: running or version("kigi")}}
        return {"metadata": meta, "spec": spec}

    @contextmanager
    def patched(self, path: str, patch: Object) -> Iterator[None]:
        """The object with a merge patch; ``path`` may end in /status. Restores the patched parts afterwards."""
        before = self.api.get(path.removesuffix("/status")).object()
        self.api.patch(path, patch).object()
        try:
            yield
        finally:
            self.api.patch(path, _reverse(patch, before)).object()

    @contextmanager
    def without(self, path: str) -> Iterator[None]:
        """The object is deleted, and created again afterwards, with its status."""
        before = self.api.get(path).object()
        self.api.delete(path).object()
        try:
            yield
        finally:
            meta = {key: before["metadata"].get(key) for key in ("name", "labels", "annotations")}
            body = {**before, "metadata": {key: value for key, value in meta.items() if value}}
            self.api.create(path.rpartition("/")[0], body).object()
            if before.get("status") and self.api.get(f"{path}/status").code == 200:
                self.put_status(path, before["status"])

    @contextmanager
    def created(self, path: str, body: Object) -> Iterator[None]:
        """The object exists meanwhile; its status is written, too."""
        self.api.create(path, body).object()
        name = f"{path}/{body['metadata']['name']}"
        try:
            if "status" in body:
                self.put_status(name, body["status"])
            yield
        finally:
            self.api.call("DELETE", name, {"gracePeriodSeconds": 0})

    def waiting_pod(self, name: str, reason: str, image: str = IMAGE, **labels: str) -> Object:
        """A pod whose only container waits."""
        waiting = {"waiting": {"reason": reason, "message": "x"}}
        status = {"name": "c", "image": image, "imageID": "", "ready": False, "restartCount": 9, "state": waiting}
        return self.pod(name, NODES[0], image=image, labels=labels, statuses=[status])

    def pod(
        self, name: str, node: str, *, image: str = IMAGE, labels: Mapping[str, str], statuses: list[Object]
    ) -> Object:
        spec = {"nodeName": node, "containers": [{"name": "c", "image": image}], **POD_ACCOUNT}
        return {
            "metadata": {"name": name, "labels": dict(labels)},
            "spec": spec,
            "status": {"phase": "Running", "containerStatuses": statuses},
        }

    def _workloads(self) -> None:
        self.plane.kubectl("-n", SYSTEM, "set", "image", "deployment/kigi-operator", f"operator={IMAGE}")
        self.put_status(f"{DEPLOYMENTS}/kigi-operator", {"replicas": 2, "readyReplicas": 2})
        counts = {"desiredNumberScheduled": 2, "numberReady": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0}
        self.put_status(f"/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/kigi-node-cache", counts)

    def _kubevirt(self) -> None:
        developer = {"featureGates": ["Sidecar", "NUMA"]}
        body = {
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": "kubevirt"},
            "spec": {"configuration": {"developerConfiguration": developer}},
        }
        self.api.create(KUBEVIRTS, body).object()
        self.put_status(f"{KUBEVIRTS}/kubevirt", {"phase": "Deployed", "observedKubeVirtVersion": KUBEVIRT_VERSION})

    def _node(self, name: str) -> None:
        self.api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}}).object()
        driver = {"name": CSI_DRIVER, "nodeID": name, "topologyKeys": []}
        csi = {"metadata": {"name": name}, "spec": {"drivers": [driver]}}
        self.api.create("/apis/storage.k8s.io/v1/csinodes", csi).object()
        spec = {
            "nodeName": name,
            "operatorProtocol": PROTOCOL,
            "protocol": PROTOCOL,
            "operatorVersion": version("kigi"),
        }
        body = {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "metadata": {"name": name}, "spec": spec}
        self.api.create(CACHES, body).object()
        self.put_status(f"{CACHES}/{name}", self.cache_status())

    def cache_status(self, **fields: Any) -> Object:
        """What a daemon reports of a node on which nothing is wrong."""
        return {
            "observedGeneration": 1,
            "conditions": [condition("Ready", "True", "LayersHeld"), condition("Stalled", "False", "LayersHeld")],
            "daemon": {"version": version("kigi"), "protocols": [PROTOCOL]},
            "node": {"fileSystem": "xfs", "features": ["HardLinks", "Reflink"]},
            "budgetBytes": 70 * GIB,
            "freeBytes": 60 * GIB,
            "keptFreeBytes": 12 * GIB,
            "peerAddress": "10.0.0.1:9781",
            **fields,
        }

    def _repository(self) -> None:
        for user, keys in USERS.items():
            data = {"accessKeyId": keys.access_key, "secretAccessKey": keys.secret_key}
            encoded = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
            self.api.create(SECRETS, {"metadata": {"name": user}, "data": encoded}).object()
        spec = {
            "s3": {"endpoint": self.s3.endpoint, "bucket": PROTECTED},
            "credentials": {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}},
            "namespaceSelector": {},
            "defaultFor": "AllNamespaces",
        }
        body = {"apiVersion": API_VERSION, "kind": "LayerRepository", "metadata": {"name": "main"}, "spec": spec}
        self.api.create(REPOSITORIES, body).object()
        fine = [condition("Ready", "True", "Reachable"), condition("Writable", "True", "Writable")]
        self.put_status(f"{REPOSITORIES}/main", {"observedGeneration": 1, "conditions": fine, "reachable": True})


def _reverse(patch: Any, before: Any) -> Any:
    """The merge patch that undoes ``patch`` on the object that was ``before``."""
    if not isinstance(patch, dict):
        return before
    present = before if isinstance(before, dict) else {}
    return {key: _reverse(value, present.get(key)) for key, value in patch.items()}
