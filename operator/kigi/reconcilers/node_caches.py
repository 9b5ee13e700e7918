"""NodeCache: the layers that a node should hold, and the overlays that it should delete. The daemon owns the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kigi.adapters.kubernetes.resources import VOLUME
from kigi.api.repositories import Repository
from kigi.domain.names import volume_of_handle
from kigi.errors import KigiError, RepositoryUnknown
from kigi.gather.node_cache import gather_node
from kigi.mirror.keys import Key
from kigi.planning.node_cache import orphans, plan_node_cache
from kigi.reconcilers.apply import apply_steps
from kigi.runtime.ports import Ports

MAX_CHECKED = 100
"""Overlays without a volume that one reconcile checks; later reconciles check the rest."""


async def reconcile_node(ports: Ports, key: Key) -> float | None:
    """Applies the node's NodeCache, and releases volumes whose overlays are deleted."""
    grace_s = ports.settings.node_grace_s
    view = gather_node(
        ports.mirror,
        key.name,
        grace_s=grace_s,
        writers=_writers(ports, key.name),
        joins=(ports.joins.failed, ports.joins.troubles),
        now=ports.now(),
        operator_version=ports.version,
    )
    if found := orphans(view):
        view = replace(view, without_volume=await _without_volume(ports, found[:MAX_CHECKED]))
    plan = plan_node_cache(view)
    await apply_steps(ports, plan.steps)
    return plan.retry_after_s


def _writers(ports: Ports, node: str) -> Mapping[str, Repository | KigiError]:
    """Those that are known; a repository that the node's captures name and that is gone has none, and is not awaited.

    O(orders of the node).
    """
    cache = ports.mirror.caches.get(None, node)
    orders = cache.spec.captures if cache is not None and cache.spec is not None else ()
    gone: dict[str, Repository | KigiError] = {}
    for name in {order.repository_name for order in orders}:
        record = ports.mirror.repositories.get(None, name)
        if record is None or record.meta.deleting:
            gone[name] = RepositoryUnknown(f"LayerRepository {name} does not exist; create it, or delete the capture")
    return {**ports.writers, **gone}


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
