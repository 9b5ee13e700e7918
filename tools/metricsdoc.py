"""The page ``docs/reference/metrics.md``: every Prometheus metric of operator and daemon, from their modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType

from prometheus_client.metrics import MetricWrapperBase

from kigi.api.node_cache import NodeCacheStatus
from kigi.runtime import metrics as operator_metrics
from kigi_cache import metrics as daemon_metrics
from tools.configdoc import render_table

HEADER = """\
<!-- Made by 'make docs' from the metrics of operator and daemon; do not edit. -->
# Metrics

Prometheus metrics, at `/metrics` of each process. A histogram has the suffixes `_bucket`, `_sum` and `_count`. There
are [alerts](../../manifests/alerts/kigi.yaml) and a [dashboard](../../manifests/dashboards/kigi.json) for them.
"""
OPERATOR = """\
## Operator

Port 8080 (`KIGI_HTTP_PORT`). The Prometheus client library adds `process_*` and `python_*`.
"""
DAEMON = """\
## Node cache daemon

Port 9780 (`KIGI_HTTP_ADDR`). The Prometheus client library adds `process_*`.
"""


@dataclass(frozen=True, slots=True)
class Documented:
    """One metric under the name that Prometheus shows."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


def metrics_of(module: ModuleType) -> Iterator[Documented]:
    """The metrics that are variables of a module."""
    for value in vars(module).values():
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            yield _documented(family.name, family.type, value._labelnames, family.documentation)


def metrics_of_status() -> Iterator[Documented]:
    """The metrics that the daemon reads from the NodeCache's status at each scrape."""
    for family in daemon_metrics.CacheCollector(NodeCacheStatus).collect():
        labels = {name: None for sample in family.samples for name in sample.labels}
        yield _documented(family.name, family.type, labels, family.documentation)


def render_metrics() -> str:
    """The whole page."""
    operator = _table(metrics_of(operator_metrics))
    daemon = _table([*metrics_of(daemon_metrics), *metrics_of_status()])
    return "\n".join([HEADER, OPERATOR, operator, "", DAEMON, daemon, ""])


def _documented(name: str, type_: str, labels: Iterable[str], meaning: str) -> Documented:
    return Documented(f"{name}_total" if type_ == "counter" else name, type_, tuple(labels), meaning)


def _table(metrics: Iterable[Documented]) -> str:
    rows = [
        (f"`{metric.name}`", metric.type, ", ".join(f"`{label}`" for label in metric.labels), metric.meaning)
        for metric in sorted(metrics, key=lambda metric: metric.name)
    ]
    return render_table(("Metric", "Type", "Labels", "Meaning"), rows)
