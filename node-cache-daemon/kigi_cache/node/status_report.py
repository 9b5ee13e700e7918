"""What the daemon says of its node: pure, from what is wanted, held and refused."""

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
    """The whole status. Bytes of a layer on its way never go back while it is on its way. O(layers + volumes)."""
    before = {layer.digest: layer for layer in previous.layers}
    layers = sorted((_monotonic(layer, before.get(layer.digest)) for layer in holdings.layers), key=lambda x: x.digest)
    waiting = sorted(set(cache.spec.discard) & {volume.handle for volume in volumes})
    findings = judge(cache.spec.layers, {layer.digest: layer for layer in layers}, waiting)
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
    wanted: Iterable[WantedLayer], layers: Mapping[str, CachedLayer], waiting: Collection[str]
) -> tuple[Finding, ...]:
    """Ready when everything wanted is held and nothing is left to delete; Stalled when a person must act.

    ``waiting``: overlays that shall be deleted and are still there.
    """
    wanted = list(wanted)
    missing = [layer for layer in wanted if layer.digest not in layers or layers[layer.digest].state != "Held"]
    refused = [layers[m.digest] for m in missing if m.digest in layers and layers[m.digest].state == "Refused"]
    total = sum(layer.size_bytes for layer in wanted)
    if refused:
        first = min(refused, key=lambda layer: (not needs_action(layer.reason or ""), layer.digest))
        stalled = needs_action(first.reason or "")
        message = f"{len(refused)} of {len(wanted)} layers refused, the first {first.digest[:19]}: {first.message}"
        return summary(ready=False, stalled=stalled, reason=first.reason or "LayersRefused", message=message)
    if missing:
        left = sum(m.size_bytes - min(m.size_bytes, _bytes_here(layers.get(m.digest))) for m in missing)
        held = len(wanted) - len(missing)
        message = f"{held} of {len(wanted)} layers ({format_bytes(total - left)} of {format_bytes(total)}) are here"
        return summary(ready=False, stalled=False, reason="LayersFetching", message=message)
    if waiting:
        message = f"{len(waiting)} overlays to be deleted, the first {sorted(waiting)[0]}"
        return summary(ready=False, stalled=False, reason="OverlaysDeleting", message=message)
    message = f"{len(wanted)} layers ({format_bytes(total)}) are here" if wanted else "no layer is wanted"
    return summary(ready=True, stalled=False, reason="LayersHeld", message=message)


def is_worth_telling_now(new: NodeCacheStatus, old: NodeCacheStatus | None) -> bool:
    """True when more than bytes changed: a layer's state, an overlay, a condition, or the generation acted on."""
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
    """For comparison: what was said, without when."""
    return status.model_copy(update={"last_heartbeat_time": None})


def _monotonic(layer: CachedLayer, before: CachedLayer | None) -> CachedLayer:
    on_its_way = ("Queued", "Fetching")
    if before is None or layer.state not in on_its_way or before.state not in on_its_way:
        return layer
    return layer.model_copy(update={"fetched_bytes": max(layer.fetched_bytes, before.fetched_bytes)})


def _bytes_here(layer: CachedLayer | None) -> int:
    return layer.fetched_bytes if layer is not None else 0
