"""A node's heartbeat: a Lease in Kigi's namespace that the node's daemon renews.

A heartbeat in the NodeCache would rewrite hundreds of kilobytes each time, and send them to every watcher. The Lease
also publishes the node's certificates: no other node can write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kigi.domain.names import ANNOTATION_PEER_CERTIFICATES, LABEL_HEARTBEAT, NODE_API_VERSION

HEARTBEAT_S = 30.0
"""Interval at which a daemon renews its Lease."""
SILENT_AFTER_S = 120.0
"""A daemon whose Lease has not changed for this time counts as silent: four missed heartbeats."""
MAX_CERTIFICATES = 4
"""Certificates of a Lease; further ones are not read."""
_PREFIX = "kigi-node-"
_MAX_NAME = 253


def lease_name(node: str) -> str:
    """Name of the node's Lease; manifests/rbac/node-lease-policy.yaml has the same rule.

    A Lease's name has at most 253 characters, as a node's. The name of a long one is cut, and the added letter makes it
    valid after any cut. If two nodes have the same 242 first characters, the second one gets no heartbeat.
    """
    return _PREFIX + (node if len(_PREFIX + node) <= _MAX_NAME else node[: _MAX_NAME - len(_PREFIX) - 1] + "x")


def build_lease(
    node: str, namespace: str, *, cache: tuple[str, str], time: str, certificates: Iterable[str] = ()
) -> dict[str, Any]:
    """The Lease at one heartbeat. ``cache``: name and uid of the NodeCache, with which Kubernetes deletes the Lease.

    ``certificates``: fingerprints of what the daemon shows to its peers; none if it serves none.
    """
    name, uid = cache
    owner = {"apiVersion": NODE_API_VERSION, "kind": "NodeCache", "name": name, "uid": uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": lease_name(node),
            "namespace": namespace,
            "labels": {LABEL_HEARTBEAT: "", "app.kubernetes.io/managed-by": "kigi"},
            "annotations": {ANNOTATION_PEER_CERTIFICATES: ",".join(certificates)},
            "ownerReferences": [owner],
        },
        "spec": {"holderIdentity": node, "leaseDurationSeconds": int(SILENT_AFTER_S), "renewTime": time},
    }


def certificates_of(lease: Mapping[str, Any], node: str) -> frozenset[str]:
    """Fingerprints that the node has published; none if the Lease is another node's, or of a daemon without them."""
    if node_of_lease(lease) != node:
        return frozenset()
    text = str((lease["metadata"].get("annotations") or {}).get(ANNOTATION_PEER_CERTIFICATES) or "")
    found = text.split(",", MAX_CERTIFICATES)[:MAX_CERTIFICATES]
    return frozenset(each for each in found if re.fullmatch("[0-9a-f]{64}", each))


def node_of_lease(lease: Mapping[str, Any]) -> str | None:
    """The node whose heartbeat the Lease is; None for any other Lease."""
    node = str((lease.get("spec") or {}).get("holderIdentity") or "")
    return node if node and lease["metadata"]["name"] == lease_name(node) else None
