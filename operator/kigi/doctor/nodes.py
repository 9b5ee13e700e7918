"""Every node: its daemon, driver, disk and certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kigi.adapters.kubernetes.installation import CSI_DRIVER
from kigi.adapters.kubernetes.resources import CSI_NODE, LEASE, NODE, NODE_CACHE
from kigi.doctor.facts import Body, Facts
from kigi.doctor.findings import Diagnosis
from kigi.doctor.leases import age_s
from kigi.doctor.workloads import KUBELET_ROOT, operator_version
from kigi.domain import names
from kigi.domain.heartbeat import SILENT_AFTER_S, certificates_of, lease_name
from kigi.domain.node_protocol import skew
from kigi.domain.quantities import format_bytes
from kigi.domain.versions import version_skew

CONDITIONS = ("DiskFilling", "TasksFailing", "SpecTruncated", "VersionSkew")
"""Conditions of a NodeCache that are True if something is wrong."""
LITTLE_FREE = 0.5
"""Part of the space that layers leave to others from which on a full disk is near."""
MAX_NODE = 63
"""Longest name of a node: it is the value of a label of volumes."""
NodeCheck = Callable[[Facts, str, Body], Iterator[Diagnosis]]


def check_driver(facts: Facts) -> Iterator[Diagnosis]:
    """Whether the driver's object is as the daemons need it."""
    if not facts.is_installed:
        return
    listing, name = facts.of(CSI_DRIVER), f"CSIDriver/{names.CSI_DRIVER}"
    remedy = "kubectl apply --server-side -k manifests/daemon"
    if listing.unread:
        yield Diagnosis("driver", "not checked", name, listing.unread)
        return
    body = listing.find(names.CSI_DRIVER)
    if body is None:
        yield Diagnosis("driver", "error", name, "it does not exist: the kubelet mounts no disk", remedy)
    elif body["spec"].get("attachRequired", True) or not body["spec"].get("podInfoOnMount"):
        text = "spec.attachRequired must be false and spec.podInfoOnMount true: no disk is mounted"
        remedy = f"kubectl delete csidriver {names.CSI_DRIVER}; {remedy}"
        yield Diagnosis("driver", "error", name, text, remedy)


def check_nodes(facts: Facts) -> Iterator[Diagnosis]:
    """One finding for each problem of each node, or one ok for the node."""
    if not facts.is_installed:
        return
    for resource in (NODE, NODE_CACHE):
        if why := facts.of(resource).unread:
            yield Diagnosis("nodes", "not checked", f"{resource.kind}s", why)
            return
    caches = {body["spec"]["nodeName"]: body for body in facts.of(NODE_CACHE).items}
    for node in facts.of(NODE).items:
        name, cache = node["metadata"]["name"], caches.get(node["metadata"]["name"])
        if cache is None:
            yield from _without_daemon(facts, node)
            continue
        found = [finding for check in _CHECKS for finding in check(facts, name, cache)]
        yield from found
        if all(finding.state == "ok" for finding in found):
            version = ((cache.get("status") or {}).get("daemon") or {}).get("version")
            yield Diagnosis("nodes", "ok", f"Node/{name}", f"its daemon (version {version}) reports and has its driver")
    if facts.of(NODE).items and not caches:
        text = "no node has a daemon: nothing can be deployed"
        remedy = f"kubectl -n {facts.namespace} describe daemonset kigi-node-cache"
        yield Diagnosis("nodes", "error", "Nodes", text, remedy)


def _without_daemon(facts: Facts, node: Body) -> Iterator[Diagnosis]:
    name = node["metadata"]["name"]
    if len(name) > MAX_NODE:
        text = f"its name has {len(name)} characters: volumes name their node in a label, which has at most {MAX_NODE}"
        yield Diagnosis("nodes", "warning", f"Node/{name}", text, "register the node under a shorter name")
    elif (node["metadata"].get("labels") or {}).get("kubernetes.io/os", "linux") == "linux":
        remedy = f"kubectl -n {facts.namespace} get pods -o wide -l app.kubernetes.io/name=kigi-node-cache"
        text = "it has no NodeCache: no daemon has registered its driver there, and no VM is placed on it"
        yield Diagnosis("nodes", "warning", f"Node/{name}", text, remedy)


def _heartbeat(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    listing = facts.of(LEASE)
    if listing.unread:
        yield Diagnosis("heartbeats", "not checked", f"Node/{name}", listing.unread)
        return
    lease = listing.find(lease_name(name))
    age = None if lease is None else age_s(facts, lease)
    remedy = f"kubectl -n {facts.namespace} get pods -o wide; the log of its daemon's container cache"
    if lease is None:
        text = "its daemon has never sent a heartbeat: no new disk is placed there"
        yield Diagnosis("heartbeats", "error", f"Node/{name}", text, remedy)
    elif age is not None and age > SILENT_AFTER_S:
        text = f"its daemon has sent no heartbeat for {age:.0f} s: no new disk is placed there"
        yield Diagnosis("heartbeats", "error", f"Node/{name}", text, remedy)


def _registered(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    listing = facts.of(CSI_NODE)
    if listing.unread:
        yield Diagnosis("driver", "not checked", f"CSINode/{name}", listing.unread)
        return
    drivers = ((listing.find(name) or {}).get("spec") or {}).get("drivers") or ()
    if not any(driver.get("name") == names.CSI_DRIVER for driver in drivers):
        text = f"the kubelet has not registered {names.CSI_DRIVER}: no disk is mounted on this node"
        remedy = f"the kubelet reads plugins_registry below its root directory: {KUBELET_ROOT}"
        yield Diagnosis("kubelet directories", "error", f"CSINode/{name}", text, remedy)


def _versions(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    daemon = (cache.get("status") or {}).get("daemon")
    if not daemon:
        text = "its daemon has not reported its version"
        remedy = f"kubectl -n {facts.namespace} get pods -o wide; the log of its daemon's container cache"
        yield Diagnosis("versions", "error", f"Node/{name}", text, remedy)
        return
    operator = operator_version(facts) or str(cache["spec"].get("operatorVersion") or "")
    why = skew(name, daemon.get("protocols") or ()) if operator == facts.version else ""
    if why := why or version_skew(name, str(daemon.get("version")), operator):
        text, _, remedy = why.rpartition("; ")
        remedy += f": kubectl -n {facts.namespace} rollout status daemonset/kigi-node-cache"
        yield Diagnosis("versions", "error", f"Node/{name}", text, remedy)


def _conditions(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    for condition in (cache.get("status") or {}).get("conditions") or ():
        kind, reason, message = condition["type"], condition["reason"], condition.get("message") or ""
        if condition["status"] != "True" or kind not in ("Stalled", *CONDITIONS) or kind == "VersionSkew":
            continue
        state, remedy = ("error", facts.remedies.get(reason, "")) if kind != "TasksFailing" else ("warning", "")
        remedy = remedy or f"kigi why NodeCache/{name}"
        yield Diagnosis("nodes", "warning" if state == "warning" else "error", f"NodeCache/{name}", message, remedy)


def _file_system(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    found = (cache.get("status") or {}).get("node")
    if found is None:
        text = "its daemon has not reported what its file system can do"
        yield Diagnosis("file systems", "not checked", f"Node/{name}", text)
        return
    features, kind = found.get("features") or (), found.get("fileSystem") or "its file system"
    if "HardLinks" not in features:
        text = f"{kind} below /var/lib/kigi cannot link and rename files between directories: no disk can be made"
        remedy = "put /var/lib/kigi on one local file system: XFS, ext4 or Btrfs"
        yield Diagnosis("file systems", "error", f"Node/{name}", text, remedy)
        return
    lacks = [text for feature, text in _FEATURES if feature not in features]
    if "Reflink" not in features:
        text = f"{kind} cannot share blocks: a capture copies whole overlays while its VMs are paused"
        yield Diagnosis("file systems", "warning", f"Node/{name}", text, "use XFS or Btrfs for /var/lib/kigi")
    elif lacks:
        yield Diagnosis("file systems", "ok", f"Node/{name}", f"{kind}; without {', '.join(lacks)}")


_FEATURES = (
    ("FsVerity", "fs-verity, so layers are checked by their fingerprints"),
    ("ProjectQuotas", "project quotas"),
)


def _space(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    status = cache.get("status") or {}
    kept, free = status.get("keptFreeBytes"), int(status.get("freeBytes") or 0)
    if not kept or free >= int(kept):
        return
    text = (
        f"{format_bytes(free)} are free below /var/lib/kigi, and layers leave {format_bytes(int(kept))} to others: no "
        "layer is fetched, and guests that fill the rest are paused"
    )
    remedy = "free space, give the node a larger disk, or lower KIGI_MIN_FREE"
    is_full = free < LITTLE_FREE * int(kept)
    yield Diagnosis("free space", "error" if is_full else "warning", f"Node/{name}", text, remedy)


def _certificates(facts: Facts, name: str, cache: Body) -> Iterator[Diagnosis]:
    lease = facts.of(LEASE).find(lease_name(name))
    if lease is None or not (cache.get("status") or {}).get("peerAddress") or certificates_of(lease, name):
        return
    text = "its Lease has no certificate: other nodes read the repository instead of this node"
    remedy = "restart its daemon; if it lasts, apply manifests/rbac of this version (Role kigi-node-cache)"
    yield Diagnosis("peers", "warning", f"Node/{name}", text, remedy)


_CHECKS: tuple[NodeCheck, ...] = (
    _heartbeat,
    _registered,
    _versions,
    _conditions,
    _file_system,
    _space,
    _certificates,
)
