"""Parses an API object of any mirrored kind into its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kigi.adapters.kubernetes import resources
from kigi.domain.observed import Meta
from kigi.mirror.parse_kigi import (
    parse_cache,
    parse_capture,
    parse_deployment,
    parse_image,
    parse_prefetch,
    parse_system,
)
from kigi.mirror.parse_kubernetes import parse_claim, parse_csi_node, parse_node, parse_policy, parse_volume
from kigi.mirror.parse_kubevirt import parse_instancetype, parse_kubevirt, parse_machine, parse_plugin, parse_vmi
from kigi.mirror.records import Record


def parse(kind: str, body: Mapping[str, Any]) -> Record:
    """The record of an object. A spec that does not validate becomes an error in it. KeyError for an unknown kind."""
    return _PARSERS[kind](body, _meta(body["metadata"]))


def _meta(meta: Mapping[str, Any]) -> Meta:
    return Meta(
        namespace=meta.get("namespace"),
        name=meta["name"],
        uid=meta.get("uid", ""),
        version=int(meta.get("resourceVersion") or 0),
        generation=int(meta.get("generation") or 0),
        deleting=bool(meta.get("deletionTimestamp")),
        finalizers=tuple(meta.get("finalizers") or ()),
    )


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], Meta], Record]] = {
    resources.IMAGE.kind: parse_image,
    resources.SYSTEM.kind: parse_system,
    resources.DEPLOYMENT.kind: parse_deployment,
    resources.CAPTURE.kind: parse_capture,
    resources.PREFETCH.kind: parse_prefetch,
    resources.NODE.kind: parse_node,
    resources.CSI_NODE.kind: parse_csi_node,
    resources.NODE_CACHE.kind: parse_cache,
    resources.VOLUME.kind: parse_volume,
    resources.CLAIM.kind: parse_claim,
    resources.MACHINE.kind: parse_machine,
    resources.VMI.kind: parse_vmi,
    resources.POLICY.kind: parse_policy,
    resources.KUBEVIRT.kind: parse_kubevirt,
    resources.PLUGIN.kind: parse_plugin,
    resources.INSTANCETYPE.kind: parse_instancetype,
    resources.CLUSTER_INSTANCETYPE.kind: parse_instancetype,
}
