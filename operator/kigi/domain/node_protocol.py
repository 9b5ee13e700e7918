"""Versions of the protocol between operator and daemons: what the fields of a NodeCache mean.

A number changes when an older side would misunderstand the object. Operator and daemons may differ by one minor version
of Kigi, so a daemon understands the protocol of that version and the one before.
"""

from __future__ import annotations

from collections.abc import Collection

from kigi.errors import NeedsAction, Waiting

PROTOCOL = 2
"""The protocol that the operator writes."""
PROTOCOLS: tuple[int, ...] = (2,)
"""The protocols that the daemon understands."""


class CacheSilent(Waiting):
    """A node's cache daemon has not reported lately."""

    reason = "CacheSilent"


class NodeCacheFull(NeedsAction):
    """The lists of a NodeCache have no place for a layer or a copy. Prefetches gave way to disks before."""

    reason = "NodeCacheFull"


class CacheUnreadable(NeedsAction):
    """The daemon cannot use its directory: the disk is read-only or broken. It retries, and its other parts go on."""

    reason = "CacheUnreadable"


class UploadRefused(NeedsAction):
    """The operator permits no upload of a captured layer: the repository has no writer, or the layer is refused."""

    reason = "UploadRefused"


class VersionSkew(Waiting):
    """The cache daemon of a node does not understand the operator's protocol; it gets no new orders."""

    reason = "VersionSkew"


def skew(node: str, protocols: Collection[int], protocol: int = PROTOCOL) -> str:
    """Why the node's daemon does not understand the operator; empty if it does, or has not reported a protocol yet."""
    if not protocols or protocol in protocols:
        return ""
    known = ", ".join(str(number) for number in sorted(protocols))
    side = "daemon" if max(protocols) < protocol else "operator"
    return (
        f"the cache daemon of node {node} understands protocol {known}, and the operator uses {protocol}; upgrade the "
        f"{side} to the other's version"
    )
