"""What the cache holds and fetches, as the NodeCache's status and messages show it; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kigi.api.conditions import bounded
from kigi.api.node_cache import MAX_REPORT_MESSAGE, CachedLayer
from kigi.domain.layers import Chain, Digest, total_bytes
from kigi.domain.quantities import format_bytes
from kigi_cache.layers.eviction import HeldLayer, Need, need_of
from kigi_cache.layers.jobs import Job

_NEED: dict[Need, Literal["Running", "Wanted", "Prefetch", "Idle"]] = {
    Need.RUNNING: "Running",
    Need.WANTED: "Wanted",
    Need.PREFETCH: "Prefetch",
    Need.IDLE: "Idle",
}


@dataclass(frozen=True, slots=True)
class FillState:
    """All layers of a node at one moment, by digest, and its space; sizes in bytes."""

    layers: Sequence[CachedLayer]
    budget_bytes: int
    used_bytes: int
    free_bytes: int
    kept_free_bytes: int
    """Free space that layers leave to others."""
    fetched_bytes_total: int


def cached_layers(
    held: Mapping[Digest, HeldLayer], jobs: Iterable[Job], needs: Mapping[Digest, Need]
) -> list[CachedLayer]:
    """Every held layer and every job, by digest. A layer with both, which a job is about to notice, is Held."""
    layers = [
        CachedLayer(
            digest=layer.digest,
            state="Held",
            size_bytes=layer.size_bytes,
            fetched_bytes=layer.size_bytes,
            links=layer.links,
            need=_NEED[need_of(layer, needs)],
        )
        for layer in held.values()
    ]
    layers += [
        CachedLayer(
            digest=job.layer.digest,
            state=job.state,
            size_bytes=job.layer.size_bytes,
            fetched_bytes=job.fetched_bytes,
            reason=job.error.reason if job.error else None,
            message=bounded(str(job.error), MAX_REPORT_MESSAGE) if job.error else None,
        )
        for job in jobs
        if job.layer.digest not in held
    ]
    return sorted(layers, key=lambda layer: layer.digest)


def describe_progress(chain: Chain, held: Collection[Digest], jobs: Mapping[Digest, Job]) -> str:
    """Progress of a chain in one line, with the first error: ``1 of 3 layers (0.5 GiB of 2.0 GiB); no such bucket``."""
    complete = [layer for layer in chain if layer.digest in held]
    arrived = total_bytes(complete) + sum(job.fetched_bytes for job in jobs.values())
    text = f"{len(complete)} of {len(chain)} layers ({format_bytes(arrived)} of {format_bytes(total_bytes(chain))})"
    errors = [str(job.error) for layer in chain if (job := jobs.get(layer.digest)) and job.error]
    return f"{text}; {errors[0]}" if errors else text
