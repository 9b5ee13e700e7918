"""Every alert uses existing metrics and has a runbook page with the steps of its mitigation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from kigi.api.node_cache import NodeCacheStatus
from kigi.runtime import metrics as operator_metrics
from kigi_cache import metrics as cache_metrics

ROOT = Path(__file__).parents[3]
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((ROOT / "manifests/alerts").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RUNBOOK = ROOT / "docs/runbook"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def metric_samples() -> set[str]:
    """Names under which Prometheus sees the metrics of operator and daemon."""
    assert operator_metrics.LEADER
    cache = CollectorRegistry()
    cache.register(cache_metrics.CacheCollector(NodeCacheStatus))
    names = set()
    for registry in (REGISTRY, cache_metrics.REGISTRY, cache):
        for metric in registry.collect():
            ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            names |= {f"{metric.name}{end}" for end in ends}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_uses_metrics_that_exist(rule: dict[str, Any]) -> None:
    used = set(re.findall(r"\bkigi_\w+", rule["expr"]))
    assert used
    assert used <= metric_samples()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_severity_summary_and_a_page(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"https://kigi.dev/docs/runbook/{rule['alert']}"
    page = RUNBOOK / f"{rule['alert']}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS


def test_every_page_has_an_alert() -> None:
    assert {path.stem for path in RUNBOOK.glob("Kigi*.md")} == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_expression_is_promql(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])


def test_the_parser_rejects_invalid_promql() -> None:
    with pytest.raises(ValueError, match="matrix"):
        promql_parser.parse("min_over_time(kigi_queue_depth) > 100")
