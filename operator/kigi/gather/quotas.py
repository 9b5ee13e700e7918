"""What namespaces use, and what their SystemQuotas leave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kigi.api.quota import QuotaUsed, SystemQuotaSpec
from kigi.domain.layers import Digest, Layer, total_bytes, unique_layers
from kigi.errors import KigiError
from kigi.gather.prefetch import chains_of
from kigi.mirror.records import PrefetchRecord, QuotaRecord
from kigi.mirror.store import Mirror
from kigi.planning.prefetch_orders import order_of
from kigi.planning.quotas import Allowance, Limit, total


def gather_allowance(mirror: Mirror, namespace: str, *, without: str | None = None) -> Allowance:
    """The allowance of a namespace; ``without`` the prefetch of that name. O(quotas + prefetches of the namespace).

    Where no quota selects the namespace, its limits are shares of what the nodes report. Where a shared quota selects
    it, also O(the namespaces and prefetches that share it).
    """
    specs = [(record.meta.name, record.spec) for record in _selecting(mirror, namespace)]
    limits = tuple(
        Limit(name, spec.hard.limits(), _of_others(mirror, spec, namespace), shared=spec.scope == "Shared")
        for name, spec in specs
        if isinstance(spec, SystemQuotaSpec)
    )
    if not limits and mirror.knows_settings:
        default = mirror.default_quota.limit()
        limits = (default,) if default is not None else ()
    if not limits:
        return Allowance(namespace)
    use = mirror.volume_use
    return Allowance(
        namespace=namespace,
        used=used_by(mirror, namespace, without=without),
        wanted=use.layers(namespace),
        slots=use.slots(namespace),
        instances=use.instances(namespace),
        limits=limits,
    )


def used_by(mirror: Mirror, namespace: str, *, without: str | None = None) -> QuotaUsed:
    """What a namespace uses; ``without`` the prefetch of that name. O(its prefetches + nodes with its disks)."""
    prefetches = (r for r in mirror.prefetches.by("namespace", namespace) if r.meta.name != without)
    overlays = QuotaUsed(overlay_bytes=_overlay_bytes(mirror, namespace))
    return total([mirror.volume_use.used(namespace), overlays, *(_prefetched(mirror, record) for record in prefetches)])


def _overlay_bytes(mirror: Mirror, namespace: str) -> int:
    """As the nodes report it. A node cannot report more than twice what the disks there can hold: it may be stolen."""
    found = 0
    for node, virtual_bytes in mirror.volume_use.virtual_bytes(namespace).items():
        cache = mirror.caches.get(None, node)
        if cache is not None:
            found += min(cache.overlay_bytes.get(namespace, 0), 2 * virtual_bytes)
    return found


def selected_namespaces(mirror: Mirror, spec: SystemQuotaSpec) -> list[str]:
    """Names of the namespaces that a quota selects, sorted."""
    return sorted(r.meta.name for r in mirror.namespaces if spec.namespace_selector.matches(r.labels))


def _selecting(mirror: Mirror, namespace: str) -> Iterator[QuotaRecord]:
    labels = mirror.namespace_labels(namespace)
    for record in sorted(mirror.quotas, key=lambda record: record.meta.name):
        valid = isinstance(record.spec, SystemQuotaSpec) and not record.meta.deleting
        if valid and record.spec.namespace_selector.matches(labels):  # type: ignore[union-attr]
            yield record


def _of_others(mirror: Mirror, spec: SystemQuotaSpec, namespace: str) -> QuotaUsed:
    if spec.scope != "Shared":
        return QuotaUsed()
    return total(used_by(mirror, other) for other in selected_namespaces(mirror, spec) if other != namespace)


def _prefetched(mirror: Mirror, record: PrefetchRecord) -> QuotaUsed:
    """What a prefetch orders: the layers of its targets on each node that has its turn."""
    if isinstance(record.spec, KigiError) or record.meta.deleting:
        return QuotaUsed()
    namespace = record.meta.namespace or ""
    chains = [chains_of(mirror, namespace, ref) for ref in record.spec.target_refs]
    layers = unique_layers(chain for found in chains if not isinstance(found, KigiError) for chain in found)
    size_bytes = total_bytes(layers.values()) * len(set(_ordered_nodes(mirror, record, layers.values())))
    return QuotaUsed(prefetched_bytes=size_bytes, pinned_bytes=size_bytes if record.spec.pinned else 0)


def _ordered_nodes(mirror: Mirror, record: PrefetchRecord, layers: Iterable[Layer]) -> Iterator[str]:
    """Nodes with an order; before this operator has planned the prefetch, those whose NodeCache lists every layer."""
    orders = mirror.prefetch_orders.get((record.meta.namespace or "", record.meta.name))
    if orders is not None and orders.uid == record.meta.uid:
        yield from (
            node for node in orders.hold if order_of(orders, record.meta.uid, record.meta.generation, node) != "Drop"
        )
        return
    digests = {layer.digest for layer in layers}
    for cache in mirror.caches if digests else ():
        if cache.spec is not None and digests <= {Digest(layer.digest) for layer in cache.spec.layers}:
            yield cache.meta.name
