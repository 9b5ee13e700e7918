"""Every panel of a dashboard uses existing metrics in valid PromQL."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.unit.manifests.test_alerts import ROOT, metric_samples

PANELS: list[dict[str, Any]] = [
    panel
    for path in sorted((ROOT / "manifests/dashboards").glob("*.json"))
    for panel in json.loads(Path(path).read_text(encoding="utf-8"))["panels"]
]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_uses_existing_metrics(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    for target in panel["targets"]:
        promql_parser.parse(
            target["expr"].replace("$namespace", ".*").replace("$deployment", ".*").replace("$__range", "1h")
        )
        used = set(re.findall(r"\bkigi_\w+", target["expr"]))
        assert used
        assert used <= metric_samples()


def test_panels_do_not_overlap() -> None:
    places = [tuple(panel["gridPos"][key] for key in "xy") for panel in PANELS]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in PANELS})
