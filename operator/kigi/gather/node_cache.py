"""The view of one node's cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from kigi.api.node_cache import CaptureOrder
from kigi.domain import names
from kigi.domain.observed import VolumeRecord
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError
from kigi.mirror.records import CacheRecord, PrefetchRecord
from kigi.mirror.store import Mirror
from kigi.planning.capture_progress import orders, progress_of
from kigi.planning.node_cache import PRIORITY_DISK, PRIORITY_PREFETCH
from kigi.planning.prefetch_orders import Order, order_of
from kigi.planning.view import DesiredChain, NodeView


def gather_node(mirror: Mirror, name: str) -> NodeView:
    """The view of one node's cache. O(its volumes + machines of deployments that prefetch)."""
    cache = mirror.caches.get(None, name)
    csi = mirror.csi_nodes.get(None, name)
    volumes = list(mirror.volumes.by("node", name))
    terminating = [v for v in volumes if v.meta.deleting and names.OVERLAY_FINALIZER in v.meta.finalizers]
    return NodeView(
        name=name,
        node_exists=mirror.nodes.get(None, name) is not None,
        has_driver=csi is not None and csi.has_driver,
        cache_exists=cache is not None,
        desired=(
            *(DesiredChain(v.chain, PRIORITY_DISK) for v in volumes if not v.meta.deleting),
            *_chains_prefetched_by_deployments(mirror, volumes),
            *_chains_prefetched_on(mirror, name),
        ),
        keeps_prefetched=_keeps_prefetched(mirror, name),
        terminating=tuple((v.meta.name, v.handle) for v in terminating),
        terminating_in_use=frozenset(v.meta.name for v in terminating if _in_use(mirror, v)),
        spec_current=cache is not None and cache.observed_generation == cache.meta.generation,
        discard=frozenset(cache.spec.discard) if cache and cache.spec else frozenset(),
        volumes=cache.volumes if cache else frozenset(),
        without_volume=frozenset(_without_volume(mirror, cache)) if cache else frozenset(),
        captures=tuple(_capture_orders(mirror, name)),
        present=cache.spec if cache else None,
    )


def _without_volume(mirror: Mirror, cache: CacheRecord) -> Iterator[str]:
    """Unmounted overlays with a handle of Kigi's form that no PersistentVolume in the mirror has, on any node."""
    for handle in cache.volumes - cache.mounted:
        if names.volume_of_handle(handle) is not None and not any(mirror.volumes.by("handle", handle)):
            yield handle


def _capture_orders(mirror: Mirror, node: str) -> Iterator[CaptureOrder]:
    for record in sorted(mirror.captures, key=lambda record: record.meta.uid):
        if record.status is not None:
            yield from (order for where, order in orders(progress_of(record.status)) if where == node)


def _in_use(mirror: Mirror, volume: VolumeRecord) -> bool:
    namespace, deployment = volume.deployment
    vmi = mirror.vmis.get(namespace, names.machine_name(deployment, volume.instance, volume.machine))
    claim = names.claim_name(deployment, volume.instance, volume.machine, volume.revision)
    return vmi is not None and vmi.claim == claim


def _chains_prefetched_by_deployments(mirror: Mirror, volumes: list[VolumeRecord]) -> Iterator[DesiredChain]:
    """Chains of the states in ``spec.prefetch`` of deployments with disks on this node.

    Of machines that have their disks here, and of machines that the deployment does not have yet.
    """
    machines: dict[tuple[str, str], set[str]] = defaultdict(set)
    for volume in volumes:
        if not volume.meta.deleting:
            machines[volume.deployment].add(volume.machine)
    for deployment, here in sorted(machines.items()):
        record = mirror.deployments.get(*deployment)
        if record is None or isinstance(record.spec, KigiError) or record.meta.deleting or not record.spec.prefetch:
            continue
        everywhere = {v.machine for v in mirror.volumes.by("deployment", deployment)}
        for ref in record.spec.prefetch:
            for machine in _machines_of(mirror, deployment[0], ref.name):
                if machine.name in here or machine.name not in everywhere:
                    yield from (DesiredChain(chain, PRIORITY_PREFETCH) for chain in machine.chains)


def _chains_prefetched_on(mirror: Mirror, node: str) -> Iterator[DesiredChain]:
    """Chains of the states of each SystemPrefetch that orders the node to hold them."""
    for record in sorted(mirror.prefetches, key=lambda record: (record.meta.namespace or "", record.meta.name)):
        if isinstance(record.spec, KigiError) or _order(mirror, record, node) != "Hold":
            continue
        for ref in record.spec.systems:
            for machine in _machines_of(mirror, record.meta.namespace or "", ref.name):
                yield from (DesiredChain(chain, PRIORITY_PREFETCH, record.spec.pinned) for chain in machine.chains)


def _machines_of(mirror: Mirror, namespace: str, state: str) -> tuple[ResolvedMachine, ...]:
    """Machines of a state; none if it cannot be resolved."""
    system = mirror.resolved(namespace, state)
    return system.machines if isinstance(system, ResolvedSystem) else ()


def _keeps_prefetched(mirror: Mirror, node: str) -> bool:
    """Whether some SystemPrefetch lets the node wait, is not planned yet, or cannot be."""
    return any(_order(mirror, record, node) == "Keep" for record in mirror.prefetches)


def _order(mirror: Mirror, record: PrefetchRecord, node: str) -> Order:
    if record.meta.deleting:
        return "Drop"
    orders = mirror.prefetch_orders.get((record.meta.namespace or "", record.meta.name))
    if isinstance(record.spec, KigiError) and orders is None:
        return "Drop"  # it is never planned
    return order_of(orders, record.meta.uid, record.meta.generation, node)
