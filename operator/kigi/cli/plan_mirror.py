"""The mirror from which plans are made: everything that the operator's planner reads."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from kigi.adapters.kubernetes.resources import (
    CLAIM,
    CLUSTER_INSTANCETYPE,
    CSI_NODE,
    DEPLOYMENT,
    GRANT,
    IMAGE,
    INSTANCE,
    INSTANCETYPE,
    KUBEVIRT,
    MACHINE,
    NODE,
    NODE_CACHE,
    PLUGIN,
    POLICY,
    PREFETCH,
    RESET,
    SYSTEM,
    VMI,
    VOLUME,
)
from kigi.cli.cluster import SETTINGS, read_heartbeats, read_mirror

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession
    from kigi.mirror.store import Mirror

TREES = (GRANT, IMAGE, SYSTEM, DEPLOYMENT, INSTANCE)
REQUIRED = (*TREES, NODE, CSI_NODE, NODE_CACHE, VOLUME, CLAIM, MACHINE, VMI, KUBEVIRT)
OPTIONAL = (*SETTINGS, POLICY, PREFETCH, RESET, PLUGIN, INSTANCETYPE, CLUSTER_INSTANCETYPE)
"""Kinds without which a plan is still right for most deployments: left out if the caller may not read them."""


def read_plan_mirror(kube: KubeSession, now: datetime) -> Mirror:
    """The objects of the whole cluster and the daemons that report at ``now``; raises Forbidden with the rights."""
    mirror = read_mirror(kube, (*REQUIRED, *OPTIONAL), optional=OPTIONAL)
    read_heartbeats(kube, mirror, now)
    return mirror
