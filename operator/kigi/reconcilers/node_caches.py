"""NodeCache: what a node shall hold and forget; its status is the daemon's alone."""

from __future__ import annotations

from dataclasses import replace

from kigi.adapters.kubernetes.resources import VOLUME
from kigi.domain.names import volume_of_handle
from kigi.gather.node_cache import gather_node
from kigi.mirror.keys import Key
from kigi.planning.node_cache import orphans, plan_node_cache
from kigi.reconcilers.apply import apply_steps
from kigi.runtime.ports import Ports

CHECKED = 100
"""Overlays without a volume that one pass looks at; the next ones follow when these are gone."""


async def reconcile_node(ports: Ports, key: Key) -> float | None:
    """Writes the wishes of every deployment, and releases volumes whose overlays are gone."""
    view = gather_node(ports.mirror, key.name)
    if found := orphans(view):
        view = replace(view, nameless=await _without_volume(ports, found[:CHECKED]))
    plan = plan_node_cache(view)
    await apply_steps(ports, plan.steps)
    return plan.retry_after_s


async def _without_volume(ports: Ports, handles: list[str]) -> frozenset[str]:
    """Handles that no PersistentVolume names, as the API server has it now.

    The mirror may lag behind, or lack a volume whose label was taken away; an overlay is a guest's writes, and is not
    given up for that. A volume is made before its overlay, so one that is not there now will not come for it.
    """
    nameless: set[str] = set()
    for handle in handles:
        volume = await ports.kube.get(VOLUME, None, volume_of_handle(handle) or handle)
        if volume is None or (volume.get("spec", {}).get("csi") or {}).get("volumeHandle") != handle:
            nameless.add(handle)
    return frozenset(nameless)
