"""Parses an API object of any mirrored kind into its record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from kigi.adapters.bounded_json import UNREAD
from kigi.adapters.kubernetes import resources
from kigi.domain.observed import Meta
from kigi.mirror.parse_kigi import (
    parse_cache,
    parse_capture,
    parse_deployment,
    parse_grant,
    parse_image,
    parse_instance,
    parse_prefetch,
    parse_quota,
    parse_repository,
    parse_reset,
    parse_system,
)
from kigi.mirror.parse_kubernetes import (
    parse_claim,
    parse_csi_node,
    parse_namespace,
    parse_node,
    parse_policy,
    parse_volume,
)
from kigi.mirror.parse_kubevirt import parse_instancetype, parse_kubevirt, parse_machine, parse_plugin, parse_vmi
from kigi.mirror.parse_values import shared, time_of
from kigi.mirror.records import Record

logger = logging.getLogger(__name__)


def parse(kind: str, body: Mapping[str, Any]) -> Record:
    """The record of an object. A spec that does not validate becomes an error in it. KeyError for an unknown kind.

    An object that a parser cannot read is read without its content: it is an error of this object, and of no listing or
    watch that contains it.
    """
    parser, meta = _PARSERS[kind], _meta(body["metadata"])
    try:
        return parser(body, meta)
    except Exception:
        logger.warning("object not read", extra={"kind": kind, "object": str(meta.name)}, exc_info=True)
        labels = body["metadata"].get("labels")
        known = {"labels": labels} if isinstance(labels, Mapping) else {}
        return parser({"metadata": known, "spec": {UNREAD: True}}, meta)


def _meta(meta: Mapping[str, Any]) -> Meta:
    return Meta(
        namespace=shared(meta.get("namespace")),
        name=meta["name"],
        uid=meta.get("uid", ""),
        version=int(meta.get("resourceVersion") or 0),
        generation=int(meta.get("generation") or 0),
        deleting=bool(meta.get("deletionTimestamp")),
        finalizers=shared(tuple(meta.get("finalizers") or ())),
        created=time_of(meta.get("creationTimestamp")),
    )


_PARSERS: Mapping[str, Callable[[Mapping[str, Any], Meta], Record]] = {
    resources.IMAGE.kind: parse_image,
    resources.SYSTEM.kind: parse_system,
    resources.GRANT.kind: parse_grant,
    resources.DEPLOYMENT.kind: parse_deployment,
    resources.INSTANCE.kind: parse_instance,
    resources.RESET.kind: parse_reset,
    resources.CAPTURE.kind: parse_capture,
    resources.PREFETCH.kind: parse_prefetch,
    resources.REPOSITORY.kind: parse_repository,
    resources.QUOTA.kind: parse_quota,
    resources.NAMESPACE.kind: parse_namespace,
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
