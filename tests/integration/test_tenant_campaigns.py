"""Short forms of the campaigns `tenants` and `layers`; `make campaign-NAME` runs the long ones. Needs root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.campaigns import layers, tenants
from tests.campaigns.tenant_state import differences


@pytest.mark.timeout(600)
def test_a_tenant_with_edit_affects_no_other(tmp_path: Path) -> None:
    result = tenants.run(seed=7, count=60, folder=tmp_path, probes=2)
    summary = json.dumps(result.summary(), indent=1)
    assert result.attacks >= 60, summary
    assert len(result.accepted | result.refused) >= 14, summary  # all groups
    assert result.accepted["pods"] and result.accepted["images"], summary
    assert result.holds(), summary


def test_what_an_attack_changes_is_found() -> None:
    before = {"virtualmachines/a": {"uid": "1"}, "runs/a": ("2", "Running", False), "orders/node": []}
    assert differences(before, {**before, "vmimagenodes/new": {"uid": "9"}}) == []
    after = {"virtualmachines/a": {"uid": "1"}, "runs/a": ("3", "Running", False), "orders/node": ["kigi.victim.x"]}
    assert [each.partition(":")[0] for each in differences(before, after)] == ["orders/node", "runs/a"]
    assert differences(before, {}) != []


@pytest.mark.timeout(300)
def test_no_pod_and_no_publisher_writes_a_layer_and_roots_writes_are_detected(tmp_path: Path) -> None:
    result = layers.run(seed=7, count=40, folder=tmp_path)
    summary = json.dumps(result.summary(), indent=1)
    assert {"publisher", "node", "pod, root", "pod, virt-launcher"} <= result.attempts.keys(), summary
    assert result.changed["node"] > 0, summary  # root can write, so that the comparison can fail
    assert not result.faults, summary


def test_a_write_that_is_not_detected_is_a_fault() -> None:
    result = layers.Result(1)
    result.add("node", "found", layers.Outcome(("bytes",), detected=True))
    assert not result.faults
    result.add("node", "missed", layers.Outcome(("bytes",)))
    result.add("publisher", "wrote", layers.Outcome(("bytes",), detected=True))
    assert result.faults == ["node: missed: bytes", "publisher: wrote: bytes"]
