"""The view of one SystemPrefetch."""

from __future__ import annotations

from datetime import datetime

from kigi.api.prefetch import PrefetchTarget, SystemPrefetchStatus
from kigi.domain import kinds
from kigi.domain.layers import Chain, Digest
from kigi.errors import KigiError
from kigi.gather.nodes import gather_nodes
from kigi.mirror.records import PrefetchRecord
from kigi.mirror.store import Mirror
from kigi.planning.prefetches import PrefetchView
from kigi.planning.quotas import Allowance


def gather_prefetch(
    mirror: Mirror, record: PrefetchRecord, now: datetime, allowance: Allowance | None = None
) -> PrefetchView:
    """The view of one prefetch; its spec must be valid. O(machines + layers of all NodeCaches)."""
    assert not isinstance(record.spec, KigiError)
    namespace = record.meta.namespace or ""
    return PrefetchView(
        namespace=namespace,
        name=record.meta.name,
        uid=record.meta.uid,
        generation=record.meta.generation,
        spec=record.spec,
        targets=tuple(chains_of(mirror, namespace, ref) for ref in record.spec.target_refs),
        nodes=gather_nodes(mirror),
        listed={
            cache.meta.name: frozenset(Digest(layer.digest) for layer in cache.spec.layers)
            for cache in mirror.caches
            if cache.spec is not None
        },
        orders=mirror.prefetch_orders.get((namespace, record.meta.name)),
        allowance=allowance,
        old_status=record.status or SystemPrefetchStatus(),
        now=now,
        created=record.meta.created,
    )


def chains_of(mirror: Mirror, namespace: str, target: PrefetchTarget) -> tuple[Chain, ...] | KigiError:
    """Chains of all disks of a state, or the chain of an image; or the error that prevents it."""
    if target.kind == kinds.IMAGE:
        chain = mirror.chain(namespace, target.tree_name)
        return chain if isinstance(chain, KigiError) else (chain,)
    system = mirror.resolved(namespace, target.tree_name)
    if isinstance(system, KigiError):
        return system
    return tuple(chain for machine in system.machines for chain in machine.chains)
