"""NodeCache: the layers that a node should hold, and the overlays that it should delete. The daemon owns the status."""

from __future__ import annotations

from dataclasses import replace

from kigi.adapters.kubernetes.resources import VOLUME
from kigi.domain.names import volume_of_handle
from kigi.gather.node_cache import gather_node
from kigi.mirror.keys import Key
from kigi.planning.node_cache import orphans, plan_node_cache
from kigi.reconcilers.apply import apply_steps
from kigi.runtime.ports import Ports

MAX_CHECKED = 100
"""Overlays without a volume that one reconcile checks; later reconciles check the rest."""


async def reconcile_node(ports: Ports, key: Key) -> float | None:
    """Applies the node's NodeCache, and releases volumes whose overlays are deleted."""
    view = gather_node(ports.mirror, key.name)
    if found := orphans(view):
        view = replace(view, without_volume=await _without_volume(ports, found[:MAX_CHECKED]))
    plan = plan_node_cache(view)
    await apply_steps(ports, plan.steps)
    return plan.retry_after_s


async def _without_volume(ports: Ports, handles: list[str]) -> frozenset[str]:
    """Handles that no PersistentVolume has, as the API server has it now.

    The mirror is not enough to delete an overlay, which holds a guest's writes: it may lag behind, and it lacks a
    volume whose label was removed. A volume is created before its overlay, so a missing one cannot appear later.
    """
    without: set[str] = set()
    for handle in handles:
        volume = await ports.kube.get(VOLUME, None, volume_of_handle(handle) or handle)
        if volume is None or (volume.get("spec", {}).get("csi") or {}).get("volumeHandle") != handle:
            without.add(handle)
    return frozenset(without)
