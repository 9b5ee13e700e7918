"""The status of a NodeCache, built from its spec and the content of the node's disk. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from kigi.api.conditions import Finding, merge_conditions, summary
from kigi.api.node_cache import CachedLayer, CachedVolume, CaptureReport, NodeCache, NodeCacheStatus, WantedLayer
from kigi.domain.quantities import format_bytes
from kigi.errors import needs_action
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState


def build_status(
    cache: NodeCache,
    acted_generation: int,
    holdings: FillState,
    volumes: Sequence[Volume],
    previous: NodeCacheStatus,
    *,
    captures: Sequence[CaptureReport] = (),
    peer_address: str | None,
    now: datetime,
) -> NodeCacheStatus:
    """The whole status. O(layers + volumes).

    ``acted_generation``: generation of the spec that the node acts on. ``previous``: the status before, which gives
    conditions their transition times. The counter of fetched bytes never falls below it, nor does the progress of a
    layer that is still being fetched.
    """
    before = {layer.digest: layer for layer in previous.layers}
    layers = sorted((_monotonic(layer, before.get(layer.digest)) for layer in holdings.layers), key=lambda x: x.digest)
    undeleted = sorted(set(cache.spec.discard) & {volume.handle for volume in volumes})
    findings = judge(cache.spec.layers, {layer.digest: layer for layer in layers}, undeleted)
    return NodeCacheStatus(
        observed_generation=acted_generation,
        conditions=merge_conditions(previous.conditions, findings, generation=acted_generation, now=now),
        layers=layers,
        volumes=[CachedVolume(name=volume.handle, mounted=volume.mounted) for volume in volumes],
        captures=list(captures),
        budget_bytes=holdings.budget_bytes,
        used_bytes=holdings.used_bytes,
        free_bytes=holdings.free_bytes,
        fetched_bytes_total=max(holdings.fetched_bytes_total, previous.fetched_bytes_total),
        peer_address=peer_address,
        last_heartbeat_time=now.replace(microsecond=0),
    )


def judge(
    wanted: Iterable[WantedLayer], layers: Mapping[str, CachedLayer], undeleted: Collection[str]
) -> tuple[Finding, ...]:
    """Ready if every wanted layer is held and no overlay is left to delete; Stalled if a person must act.

    ``layers``: layers on the node and on their way, by digest. ``undeleted``: overlays to discard that still exist.
    """
    wanted = list(wanted)
    missing = [layer for layer in wanted if layer.digest not in layers or layers[layer.digest].state != "Held"]
    refused = [layers[m.digest] for m in missing if m.digest in layers and layers[m.digest].state == "Refused"]
    if refused:
        return _refused(refused, len(wanted))
    if missing:
        return _fetching(wanted, missing, layers)
    if undeleted:
        message = f"{len(undeleted)} overlays to be deleted, the first {sorted(undeleted)[0]}"
        return summary(ready=False, stalled=False, reason="OverlaysDeleting", message=message)
    size = format_bytes(sum(layer.size_bytes for layer in wanted))
    message = f"{len(wanted)} layers ({size}) are on the node" if wanted else "no layer is wanted"
    return summary(ready=True, stalled=False, reason="LayersHeld", message=message)


def _refused(refused: Sequence[CachedLayer], wanted: int) -> tuple[Finding, ...]:
    """The refusal that a person must act on comes first."""
    first = min(refused, key=lambda layer: (not needs_action(layer.reason or ""), layer.digest))
    message = f"{len(refused)} of {wanted} layers refused, the first {first.digest[:19]}: {first.message}"
    stalled = needs_action(first.reason or "")
    return summary(ready=False, stalled=stalled, reason=first.reason or "LayersRefused", message=message)


def _fetching(
    wanted: Sequence[WantedLayer], missing: Sequence[WantedLayer], layers: Mapping[str, CachedLayer]
) -> tuple[Finding, ...]:
    total = sum(layer.size_bytes for layer in wanted)
    left = sum(m.size_bytes - min(m.size_bytes, _fetched_bytes(layers.get(m.digest))) for m in missing)
    progress = f"{format_bytes(total - left)} of {format_bytes(total)}"
    message = f"{len(wanted) - len(missing)} of {len(wanted)} layers ({progress}) are on the node"
    return summary(ready=False, stalled=False, reason="LayersFetching", message=message)


def is_news(new: NodeCacheStatus, old: NodeCacheStatus | None) -> bool:
    """True if more than bytes has changed: a layer's state, an overlay, a condition, a copy, or the generation."""
    return old is None or _outline(new) != _outline(old)


def _outline(status: NodeCacheStatus) -> tuple[object, ...]:
    return (
        status.observed_generation,
        [(condition.type, condition.status, condition.reason) for condition in status.conditions],
        [(layer.digest, layer.state, layer.reason) for layer in status.layers],
        status.volumes,
        [(capture.id, capture.state, capture.reason) for capture in status.captures],
    )


def without_heartbeat(status: NodeCacheStatus) -> NodeCacheStatus:
    """The status without the time of its heartbeat, for comparison."""
    return status.model_copy(update={"last_heartbeat_time": None})


def _monotonic(layer: CachedLayer, before: CachedLayer | None) -> CachedLayer:
    in_transit = ("Queued", "Fetching")
    if before is None or layer.state not in in_transit or before.state not in in_transit:
        return layer
    return layer.model_copy(update={"fetched_bytes": max(layer.fetched_bytes, before.fetched_bytes)})


def _fetched_bytes(layer: CachedLayer | None) -> int:
    return layer.fetched_bytes if layer is not None else 0
