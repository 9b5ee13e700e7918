"""The view of one node's cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial

from kigi.api.capture import SystemCaptureSpec
from kigi.api.node_cache import CaptureOrder
from kigi.api.repositories import Repository
from kigi.domain import names
from kigi.domain.observed import VolumeRecord
from kigi.domain.systems import ResolvedMachine, ResolvedSystem
from kigi.errors import KigiError
from kigi.gather.prefetch import chains_of
from kigi.mirror.records import CacheRecord, PrefetchRecord
from kigi.mirror.store import Mirror
from kigi.planning.capture_orders import id_prefix, orders_of
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.capture_view import owner_of
from kigi.planning.prefetch_orders import Order, order_of
from kigi.planning.uploads import NEVER, Uploads
from kigi.planning.view import DesiredChain, NodeView, RunningMachine


def gather_node(
    mirror: Mirror,
    name: str,
    *,
    grace_s: float = 0.0,
    writers: Mapping[str, Repository | KigiError] | None = None,
    joins: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    now: datetime = NEVER,
    operator_version: str | None = None,
) -> NodeView:
    """The view of one node's cache; ``grace_s``: time for which a deleted Node may come back.

    ``writers``: repositories by name with the credentials that store layers, for requests that are signed ``now``.
    ``joins``: why layers cannot be made of their parts, or could not be at the last attempt, by id of the copy.
    ``operator_version``: what the daemon compares its own version with.
    O(its volumes + machines of deployments that prefetch).
    """
    cache = mirror.caches.get(None, name)
    csi = mirror.csi_nodes.get(None, name)
    volumes = list(mirror.volumes.by("node", name))
    terminating = [v for v in volumes if v.meta.deleting and names.OVERLAY_FINALIZER in v.meta.finalizers]
    return NodeView(
        name=name,
        node_exists=mirror.nodes.get(None, name) is not None,
        has_driver=csi is not None and csi.has_driver,
        cache_exists=cache is not None,
        grace_left_s=max(0.0, grace_s - mirror.missing_s(name)),
        desired=(
            *(DesiredChain(v.chain, "Disk", namespace=v.deployment[0]) for v in volumes if not v.meta.deleting),
            *_chains_prefetched_by_deployments(mirror, volumes),
            *_chains_prefetched_on(mirror, name),
        ),
        keeps_prefetched=_keeps_prefetched(mirror, name),
        terminating=tuple((v.meta.name, v.handle) for v in terminating),
        terminating_in_use=frozenset(v.meta.name for v in terminating if _in_use(mirror, v)),
        spec_current=cache is not None and cache.observed_generation == cache.meta.generation,
        discard=frozenset(cache.spec.discard_volumes) if cache and cache.spec else frozenset(),
        volumes=cache.volumes if cache else frozenset(),
        without_volume=frozenset(_without_volume(mirror, cache)) if cache else frozenset(),
        captures=tuple(_capture_orders(mirror, name)),
        uploads=Uploads(cache.captures if cache else {}, writers or {}, now, *joins),
        refused=cache.misdeclared if cache else frozenset(),
        protocols=cache.protocols if cache else (),
        operator_version=operator_version,
        filling=tuple(_filling(mirror, volumes, cache)) if cache else (),
        present=cache.spec if cache else None,
    )


def _filling(mirror: Mirror, volumes: Iterable[VolumeRecord], cache: CacheRecord) -> Iterator[RunningMachine]:
    """Running VMs of the node's own volumes that the daemon reports. O(volumes of the node)."""
    for volume in volumes:
        if volume.handle in cache.filling and volume.handle in cache.mounted:
            namespace, deployment = volume.deployment
            name = names.machine_name(deployment, volume.instance, volume.machine)
            vmi = mirror.vmis.get(namespace, name)
            if vmi is not None and vmi.node == cache.meta.name and vmi.phase == "Running" and not vmi.paused:
                yield RunningMachine(namespace, name, volume.machine)


def _without_volume(mirror: Mirror, cache: CacheRecord) -> Iterator[str]:
    """Unmounted overlays with a handle of Kigi's form that no PersistentVolume in the mirror has, on any node."""
    for handle in cache.volumes - cache.mounted:
        if names.volume_of_handle(handle) is not None and not any(mirror.volumes.by("handle", handle)):
            yield handle


def _capture_orders(mirror: Mirror, node: str) -> Iterator[CaptureOrder]:
    """Orders of all captures to the node. A capture that cannot be read keeps the orders that it has."""
    cache = mirror.caches.get(None, node)
    present = {order.id: order for order in cache.spec.captures} if cache is not None and cache.spec is not None else {}
    for record in sorted(mirror.captures, key=lambda record: record.meta.uid):
        if isinstance(record.progress, KigiError) or isinstance(record.spec, KigiError):
            yield from (order for id_, order in present.items() if id_.startswith(id_prefix(record.meta.uid)))
        else:
            owner = owner_of(record.meta.uid, record.meta.namespace or "", record.spec)
            repository = _repository(mirror, record.meta.namespace or "", record.spec, record.progress)
            yield from orders_of(owner, record.progress, node, partial(_volume, mirror), present, repository)


def _repository(mirror: Mirror, namespace: str, spec: SystemCaptureSpec, progress: CaptureProgress) -> str | None:
    """The repository of the capture's layers, if its namespace may use it; None: it may not, or there is none."""
    ref = spec.target.repository_ref if spec.target is not None else None
    try:
        return mirror.repository_name(namespace, ref.name if ref else progress.repository, "spec.target.repositoryRef")
    except KigiError:
        return None


def _volume(mirror: Mirror, handle: str) -> VolumeRecord | None:
    return next(iter(mirror.volumes.by("handle", handle)), None)


def _in_use(mirror: Mirror, volume: VolumeRecord) -> bool:
    namespace, deployment = volume.deployment
    vmi = mirror.vmis.get(namespace, names.machine_name(deployment, volume.instance, volume.machine))
    claim = names.claim_name(deployment, volume.instance, volume.machine, volume.revision)
    return vmi is not None and vmi.claim == claim


def _chains_prefetched_by_deployments(mirror: Mirror, volumes: list[VolumeRecord]) -> Iterator[DesiredChain]:
    """Chains of the states in ``spec.prefetchRefs`` of deployments with disks on this node.

    Of machines that have their disks here, and of machines that the deployment does not have yet.
    """
    machines: dict[tuple[str, str], set[str]] = defaultdict(set)
    for volume in volumes:
        if not volume.meta.deleting:
            machines[volume.deployment].add(volume.machine)
    for deployment, here in sorted(machines.items()):
        record = mirror.deployments.get(*deployment)
        if (
            record is None
            or isinstance(record.spec, KigiError)
            or record.meta.deleting
            or not record.spec.prefetch_refs
        ):
            continue
        everywhere = {v.machine for v in mirror.volumes.by("deployment", deployment)}
        for ref in record.spec.prefetch_refs:
            for machine in _machines_of(mirror, deployment[0], ref.tree_name):
                if machine.name in here or machine.name not in everywhere:
                    for chain in machine.chains:
                        yield DesiredChain(chain, "Prefetch", namespace=deployment[0])


def _chains_prefetched_on(mirror: Mirror, node: str) -> Iterator[DesiredChain]:
    """Chains of the targets of each SystemPrefetch that orders the node to hold them."""
    for record in sorted(mirror.prefetches, key=lambda record: (record.meta.namespace or "", record.meta.name)):
        if isinstance(record.spec, KigiError) or _order(mirror, record, node) != "Hold":
            continue
        orders = mirror.prefetch_orders.get((record.meta.namespace or "", record.meta.name))
        pinned = orders is not None and node in orders.pinned
        for ref in record.spec.target_refs:
            chains = chains_of(mirror, record.meta.namespace or "", ref)
            if not isinstance(chains, KigiError):
                yield from (DesiredChain(chain, "Prefetch", pinned, record.meta.namespace or "") for chain in chains)


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
