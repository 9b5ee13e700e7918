"""The pages of configuration and metrics name everything that the code reads and shows."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from kigi.adapters.environment import EnvironmentSettings
from tools.configdoc import render_configuration, render_table, sections, settings_rows
from tools.metricsdoc import render_metrics

ROOT = Path(__file__).parents[3]
PACKAGES = (ROOT / "operator" / "kigi", ROOT / "node-cache-daemon" / "kigi_cache")
VARIABLE = re.compile(r"(KIGI|AWS|POD|NODE|XDG|KUBERNETES_SERVICE)_[A-Z0-9_]+|KUBECONFIG")


def constants(path: Path) -> Iterator[str]:
    """Strings of a module that look like names of variables."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value):
            yield node.value


def documented() -> set[str]:
    return {row.name for section in sections() for row in section.rows}


def test_every_variable_that_the_code_names_is_documented() -> None:
    named = {name for package in PACKAGES for path in package.rglob("*.py") for name in constants(path)}
    assert len(named) > 40
    assert named - documented() == set()


@pytest.mark.parametrize("manifest", ["operator/deployment.yaml", "daemon/daemonset.yaml"])
def test_every_variable_that_the_manifests_set_is_documented(manifest: str) -> None:
    objects = yaml.safe_load_all((ROOT / "manifests" / manifest).read_text())
    pods = [found["spec"]["template"]["spec"] for found in objects if found["kind"] in ("Deployment", "DaemonSet")]
    containers = [container for pod in pods for container in pod["containers"]]
    names = {variable["name"] for container in containers for variable in container.get("env", ())}
    assert names
    assert names - documented() == set()


def test_a_row_has_the_variable_its_default_and_its_meaning() -> None:
    page = render_configuration()
    assert "| `KIGI_MIN_FREE` | `12%` | Disk space that layers leave free" in page
    assert "| `NODE_NAME` | required | " in page
    assert "| `KIGI_CONNECTIONS` | number of processors, at least 4 | " in page
    assert "| `KIGI_RESYNC_SECONDS` | `240` | " in page


def test_a_variable_without_a_description_is_refused() -> None:
    class Undescribed(EnvironmentSettings):
        workers: int = Field(default=8, validation_alias="KIGI_WORKERS")

    with pytest.raises(ValueError, match=r"Undescribed\.workers: needs"):
        settings_rows(Undescribed)


def test_cells_cannot_break_a_table() -> None:
    assert render_table(("A",), [("x | y",)]).splitlines()[-1] == "| x \\| y |"


METRIC = re.compile(r"\bkigi_[a-z_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def metrics_in(text: str) -> set[str]:
    return {SUFFIX.sub("", name) for name in METRIC.findall(text)}


def expressions(value: object) -> Iterator[str]:
    """Every ``expr`` anywhere in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"]
        for part in value.values():
            yield from expressions(part)
    elif isinstance(value, list):
        for part in value:
            yield from expressions(part)


def test_every_metric_of_alerts_and_dashboard_is_documented() -> None:
    alerts = yaml.safe_load((ROOT / "manifests/alerts/kigi.yaml").read_text())
    dashboard = json.loads((ROOT / "manifests/dashboards/kigi.json").read_text())
    used = {name for expression in expressions([alerts, dashboard]) for name in metrics_in(expression)}
    rows = re.findall(r"^\| `(kigi_[a-z_]+)` \|", render_metrics(), re.MULTILINE)
    assert len(used) > 10
    assert used - set(rows) == set()


def test_a_metric_has_its_type_labels_and_meaning() -> None:
    page = render_metrics()
    assert "| `kigi_cache_csi_calls_total` | counter | `method`, `code` | CSI calls" in page
    assert "| `kigi_cache_layers` | gauge | `state` | Layers, by state" in page
    assert "| `kigi_reconcile_seconds` | histogram | `kind` | " in page
