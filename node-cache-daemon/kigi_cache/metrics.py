"""Every metric of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kigi.api.node_cache import NodeCacheStatus

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
CSI_CALLS = Counter("kigi_cache_csi_calls", "CSI calls answered.", ["method", "code"], registry=REGISTRY)
CSI_SECONDS = Histogram(
    "kigi_cache_csi_seconds",
    "Duration of a CSI call, in seconds.",
    ["method"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 120),
    registry=REGISTRY,
)
STATUS_WRITES = Counter("kigi_cache_status_writes", "Writes of the NodeCache's status.", ["result"], registry=REGISTRY)
OVERLAYS_DISCARDED = Counter("kigi_cache_overlays_discarded", "Overlays deleted.", registry=REGISTRY)
PEER_BYTES = Counter(
    "kigi_cache_peer_bytes", "Bytes of layers from and to other nodes.", ["direction"], registry=REGISTRY
)
SCRUBBED_BYTES = Counter("kigi_cache_scrubbed_bytes", "Bytes of held layers read again.", registry=REGISTRY)
SCRUB_DAMAGED = Counter(
    "kigi_cache_scrub_damaged", "Layers that were found damaged when read again.", registry=REGISTRY
)
SCRUB_FINISHED = Gauge(
    "kigi_cache_scrub_finished_seconds",
    "When every layer was last found read in time; since the epoch.",
    registry=REGISTRY,
)
EVICTED = Counter("kigi_cache_evicted", "Layers that left for others, or for room on the disk.", registry=REGISTRY)
WARNINGS = Counter("kigi_cache_warnings", "Warning events, by reason.", ["reason"], registry=REGISTRY)


class CacheCollector(Collector):
    """Numbers that are known already, taken at each scrape."""

    def __init__(self, status: Callable[[], NodeCacheStatus | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """One sample of each; none before the first look at the disk."""
        status = self._status()
        if status is None:
            return
        yield GaugeMetricFamily("kigi_cache_budget_bytes", "Bytes that layers may take.", status.budget_bytes)
        yield GaugeMetricFamily("kigi_cache_used_bytes", "Bytes that layers take.", status.used_bytes)
        yield GaugeMetricFamily("kigi_cache_free_bytes", "Bytes free in the file system.", status.free_bytes)
        yield CounterMetricFamily(
            "kigi_cache_fetched_bytes", "Bytes of verified layers fetched.", status.fetched_bytes_total
        )
        layers = GaugeMetricFamily("kigi_cache_layers", "Layers by state.", labels=["state"])
        for state in ("Held", "Fetching", "Queued", "Refused"):
            layers.add_metric([state], sum(layer.state == state for layer in status.layers))
        yield layers
        volumes = GaugeMetricFamily("kigi_cache_overlays", "Overlays on the disk.", labels=["mounted"])
        mounted = sum(volume.mounted for volume in status.volumes)
        volumes.add_metric(["true"], mounted)
        volumes.add_metric(["false"], len(status.volumes) - mounted)
        yield volumes
