"""Short form of the campaign `upgrade`; `make campaign-upgrade` runs the long one. Needs root and the git history."""

from __future__ import annotations

import json

import pytest

from tests.campaigns import upgrade
from tests.support.releases import PREVIOUS, has_previous


@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not has_previous(), reason=f"the history of this checkout does not have {PREVIOUS}")
def test_an_upgrade_and_the_way_back_lose_no_overlay() -> None:
    result = upgrade.campaign(seed=7, rounds=1, nodes=2, load_s=2.0)
    summary = json.dumps(result.summary(), indent=1)
    assert result.faults == [], summary
    assert result.counts["upgrades"] >= 1, summary
    assert result.counts["ways back"] == 1, summary
    assert result.counts["overlays"] > 0, summary
    assert result.counts["starts on an overlay that exists"] > 0, summary
