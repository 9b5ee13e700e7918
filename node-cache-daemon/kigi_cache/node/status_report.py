"""The status of a NodeCache, built from its spec and the content of the node's disk. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from kigi.api.conditions import (
    DISK_FILLING,
    SPEC_TRUNCATED,
    TASKS_FAILING,
    VERSION_SKEW,
    Finding,
    merge_conditions,
    summary,
)
from kigi.api.node_cache import (
    MAX_FILLING,
    MAX_REPORTED,
    MAX_VOLUMES,
    CachedLayer,
    CachedVolume,
    CaptureReport,
    NamespaceUse,
    NodeCache,
    NodeCacheSpec,
    NodeCacheStatus,
    WantedLayer,
)
from kigi.api.node_facts import DaemonInfo, NodeFacts
from kigi.domain.node_protocol import PROTOCOLS, CacheUnreadable, NodeCacheFull, skew
from kigi.domain.quantities import format_bytes
from kigi.domain.versions import version_skew
from kigi.errors import needs_action
from kigi_cache.disks.headroom import SpaceReport
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.status_size import fitted, most_layers

OVERLAYS_GROW = "OverlaysGrow"
MAX_MESSAGE = 1024
NO_REPORT = SpaceReport()
FREE_SHARE = 50
"""Free space is reported again when it has changed by this part of the budget."""


def build_status(
    cache: NodeCache,
    acted_generation: int,
    holdings: FillState,
    volumes: Sequence[Volume],
    previous: NodeCacheStatus,
    *,
    captures: Sequence[CaptureReport] = (),
    peer_address: str | None,
    version: str = "",
    failing: Mapping[str, str] | None = None,
    space: SpaceReport = NO_REPORT,
    facts: NodeFacts | None = None,
    now: datetime,
) -> NodeCacheStatus:
    """The whole status. O(layers + volumes).

    ``acted_generation``: generation of the spec that the node acts on. ``previous``: the status before, which gives
    conditions their transition times. The counter of fetched bytes never falls below it, nor does the progress of a
    layer that is still being fetched.
    """
    before = {layer.digest: layer for layer in previous.layers}
    layers = sorted((_monotonic(layer, before.get(layer.digest)) for layer in holdings.layers), key=lambda x: x.digest)
    undeleted = sorted(set(cache.spec.discard_volumes) & {volume.handle for volume in volumes})
    findings = (
        *_verdict(cache, {layer.digest: layer for layer in layers}, undeleted),
        truncation(cache.spec),
        skew_of(cache.spec, version),
        task_failures(failing or {}),
        disk_filling(space.pressure),
    )
    status = NodeCacheStatus(
        observed_generation=acted_generation,
        daemon=DaemonInfo(version=version, protocols=list(PROTOCOLS)),
        node=facts,
        conditions=merge_conditions(previous.conditions, findings, generation=acted_generation, now=now),
        layers=most_layers(layers),
        omitted_layers=max(0, len(layers) - MAX_REPORTED),
        volumes=_volume_list(volumes, cache.spec.discard_volumes, space.written_bytes),
        namespaces=_namespaces(space),
        filling_volumes=list(space.filling[:MAX_FILLING]),
        captures=list(captures),
        budget_bytes=holdings.budget_bytes,
        used_bytes=holdings.used_bytes,
        free_bytes=holdings.free_bytes,
        kept_free_bytes=holdings.kept_free_bytes,
        fetched_bytes_total=max(holdings.fetched_bytes_total, previous.fetched_bytes_total),
        peer_address=peer_address,
    )
    return fitted(status)


def _namespaces(space: SpaceReport) -> list[NamespaceUse]:
    return [NamespaceUse(name=name, overlay_bytes=size) for name, size in list(space.used_bytes.items())[:MAX_VOLUMES]]


def unreadable_status(known: NodeCacheStatus, cause: str, failing: Mapping[str, str], now: datetime) -> NodeCacheStatus:
    """The status that was ``known`` before the disk could not be used any more."""
    message = f"the cache's directory cannot be used: {cause}; repair the node's disk"
    verdict = summary(ready=False, stalled=True, reason=CacheUnreadable.reason, message=message[:MAX_MESSAGE])
    findings = (*verdict, task_failures(failing))
    generation = known.observed_generation
    return known.model_copy(
        update={"conditions": merge_conditions(known.conditions, findings, generation=generation, now=now)}
    )


def task_failures(failing: Mapping[str, str]) -> Finding:
    """Whether a background task of the daemon failed a short time ago. ``failing``: its last error, by name."""
    if not failing:
        return Finding(TASKS_FAILING, False, "TasksRunning", "all parts of the daemon work")
    texts = "; ".join(f"{name}: {text}" for name, text in sorted(failing.items()))
    return Finding(TASKS_FAILING, True, "TaskFailed", f"{texts}; each is started again"[:MAX_MESSAGE])


def disk_filling(growth: str) -> Finding:
    """Whether machines fill the node's disk. ``growth`` names them."""
    if not growth:
        return Finding(DISK_FILLING, False, "SpaceAvailable", "no machine fills the node's disk")
    return Finding(DISK_FILLING, True, "OverlaysGrow", growth[:MAX_MESSAGE])


def _volume_list(
    volumes: Sequence[Volume], to_discard: Collection[str], written_bytes: Mapping[str, int]
) -> list[CachedVolume]:
    """Overlays, first those to be deleted: the operator takes one that is not listed for deleted."""
    first = sorted(volumes, key=lambda each: (each.handle not in to_discard, not each.mounted, each.handle))
    return [
        CachedVolume(name=each.handle, mounted=each.mounted, written_bytes=written_bytes.get(each.handle))
        for each in first[:MAX_VOLUMES]
    ]


def _verdict(cache: NodeCache, layers: Mapping[str, CachedLayer], undeleted: Collection[str]) -> tuple[Finding, ...]:
    if cache.spec.protocol not in PROTOCOLS:
        message = skew(cache.spec.node_name, PROTOCOLS, cache.spec.protocol)
        return summary(ready=False, stalled=False, reason=VERSION_SKEW, message=f"the spec cannot be read: {message}")
    return judge(cache.spec.layers, layers, undeleted)


def truncation(spec: NodeCacheSpec) -> Finding:
    """Whether everything that the node should hold and copy fits into the spec."""
    omitted = spec.omitted
    if omitted is None:
        return Finding(SPEC_TRUNCATED, False, "Complete", "the spec has every wanted layer and copy")
    counts = (
        (omitted.disk_layers, "layers of disks"),
        (omitted.prefetch_layers, "layers of prefetches"),
        (omitted.captures, "captures of disks"),
    )
    names = [f"{count} {what}" for count, what in counts if count]
    message = f"{', '.join(names)} do not fit into the spec; their owners report it"
    return Finding(SPEC_TRUNCATED, True, NodeCacheFull.reason, message)


def skew_of(spec: NodeCacheSpec, version: str) -> Finding:
    """Whether this daemon does not understand the operator's protocol, or their versions are too far apart.

    ``version``: of this daemon.
    """
    why = skew(spec.node_name, PROTOCOLS, spec.operator_protocol)
    if why:
        return Finding(VERSION_SKEW, True, VERSION_SKEW, f"{why}; the node gets no new orders until then")
    if why := version_skew(spec.node_name, version, spec.operator_version or ""):
        return Finding(VERSION_SKEW, True, VERSION_SKEW, why)
    return Finding(VERSION_SKEW, False, "ProtocolUnderstood", f"operator and daemon use protocol {spec.protocol}")


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


def is_changed(new: NodeCacheStatus, old: NodeCacheStatus | None) -> bool:
    """True unless the statuses differ in nothing but a little free space, which running VMs change all the time."""
    if old is None:
        return True
    if abs(new.free_bytes - old.free_bytes) * FREE_SHARE < new.budget_bytes:
        new = new.model_copy(update={"free_bytes": old.free_bytes})
    return new != old


def _outline(status: NodeCacheStatus) -> tuple[object, ...]:
    return (
        status.observed_generation,
        [(condition.type, condition.status, condition.reason) for condition in status.conditions],
        [(layer.digest, layer.state, layer.reason) for layer in status.layers],
        status.daemon,
        status.node,
        [(volume.name, volume.mounted) for volume in status.volumes],
        status.filling_volumes,
        [(capture.id, capture.state, capture.reason) for capture in status.captures],
    )


def _monotonic(layer: CachedLayer, before: CachedLayer | None) -> CachedLayer:
    in_transit = ("Queued", "Fetching")
    if before is None or layer.state not in in_transit or before.state not in in_transit:
        return layer
    return layer.model_copy(update={"fetched_bytes": max(layer.fetched_bytes, before.fetched_bytes)})


def _fetched_bytes(layer: CachedLayer | None) -> int:
    return layer.fetched_bytes if layer is not None else 0
