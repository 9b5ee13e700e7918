"""All Prometheus metrics of the daemon; ``tools.metricsdoc`` makes docs/reference/metrics.md from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kigi.api.conditions import VERSION_SKEW
from kigi.api.node_cache import NodeCacheStatus

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
CSI_CALLS = Counter(
    "kigi_cache_csi_calls",
    "CSI calls, by method and gRPC status code of the response.",
    ["method", "code"],
    registry=REGISTRY,
)
CSI_SECONDS = Histogram(
    "kigi_cache_csi_seconds",
    "Duration of a CSI call in seconds.",
    ["method"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 120),
    registry=REGISTRY,
)
BUILD = Gauge(
    "kigi_cache_build_info",
    "1, with the version of Kigi and the newest protocol that the daemon understands.",
    ["version", "protocol"],
    registry=REGISTRY,
)
STATUS_WRITES = Counter(
    "kigi_cache_status_writes",
    "Writes of the status of the NodeCache, by result: ok or error.",
    ["result"],
    registry=REGISTRY,
)
HEARTBEATS = Counter(
    "kigi_cache_heartbeats",
    "Renewals of the node's Lease, by result: ok or error.",
    ["result"],
    registry=REGISTRY,
)
TASK_FAILURES = Counter(
    "kigi_cache_task_failures",
    "Failures of the daemon's background tasks, by task; each is started again.",
    ["task"],
    registry=REGISTRY,
)
OVERLAYS_DISCARDED = Counter(
    "kigi_cache_overlays_discarded", "Overlays that were deleted on order of the operator.", registry=REGISTRY
)
PEER_BYTES = Counter(
    "kigi_cache_peer_bytes",
    "Bytes of layers exchanged with other nodes, by direction: sent or received.",
    ["direction"],
    registry=REGISTRY,
)
SCRUBBED_BYTES = Counter(
    "kigi_cache_scrubbed_bytes", "Bytes of layers that were read again to verify them.", registry=REGISTRY
)
SCRUB_DAMAGED = Counter(
    "kigi_cache_scrub_damaged", "Layers that were damaged when they were read again.", registry=REGISTRY
)
SCRUB_FINISHED = Gauge(
    "kigi_cache_scrub_finished_seconds",
    "When the last check for layers to read again ended, in seconds since the epoch; 0 before the first.",
    registry=REGISTRY,
)
EVICTED = Counter(
    "kigi_cache_evicted", "Layers that were evicted for other layers or to free disk space.", registry=REGISTRY
)
WARNINGS = Counter(
    "kigi_cache_warnings",
    "Warning events about the NodeCache, by reason; repeated ones within 5 minutes count once.",
    ["reason"],
    registry=REGISTRY,
)


class CacheCollector(Collector):
    """Figures of the NodeCache's status, read at each scrape."""

    def __init__(self, status: Callable[[], NodeCacheStatus | None]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """All figures of the latest status; none before the daemon has read its disk."""
        status = self._status()
        if status is None:
            return
        yield GaugeMetricFamily(
            "kigi_cache_budget_bytes", "Disk space that layers may use, in bytes.", status.budget_bytes
        )
        yield GaugeMetricFamily("kigi_cache_used_bytes", "Disk space that layers use, in bytes.", status.used_bytes)
        yield GaugeMetricFamily(
            "kigi_cache_free_bytes", "Free space of the file system of the cache, in bytes.", status.free_bytes
        )
        yield GaugeMetricFamily(
            "kigi_cache_version_skew",
            "1 if the operator's version or protocol is too far from the daemon's, as in the condition VersionSkew.",
            any(each.type == VERSION_SKEW and each.status == "True" for each in status.conditions),
        )
        yield CounterMetricFamily(
            "kigi_cache_fetched_bytes",
            "Bytes of verified layers that were fetched, since the NodeCache exists.",
            status.fetched_bytes_total,
        )
        layers = GaugeMetricFamily(
            "kigi_cache_layers", "Layers, by state: Held, Fetching, Queued or Refused.", labels=["state"]
        )
        for state in ("Held", "Fetching", "Queued", "Refused"):
            layers.add_metric([state], sum(layer.state == state for layer in status.layers))
        yield layers
        volumes = GaugeMetricFamily(
            "kigi_cache_overlays",
            "Overlays on the disk, by whether they are mounted: true or false.",
            labels=["mounted"],
        )
        mounted = sum(volume.mounted for volume in status.volumes)
        volumes.add_metric(["true"], mounted)
        volumes.add_metric(["false"], len(status.volumes) - mounted)
        yield volumes
