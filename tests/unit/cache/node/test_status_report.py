from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.api.base import Metadata
from kigi.api.node_cache import CachedLayer, NodeCache, NodeCacheSpec, NodeCacheStatus, WantedLayer
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.status_report import build_status, is_news, judge, without_heartbeat

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 2**20


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def want(number: int) -> WantedLayer:
    return WantedLayer(digest=digest(number), size_bytes=MIB, virtual_size_bytes=MIB)


def layer(number: int, state: str, fetched: int = 0, reason: str | None = None) -> CachedLayer:
    return CachedLayer.model_validate(
        {
            "digest": digest(number),
            "state": state,
            "sizeBytes": MIB,
            "fetchedBytes": fetched,
            "reason": reason,
            "message": f"cause of {number}" if reason else None,
        }
    )


def verdict(wanted: list[WantedLayer], layers: list[CachedLayer], waiting: tuple[str, ...] = ()) -> dict[str, Any]:
    findings = judge(wanted, {x.digest: x for x in layers}, waiting)
    assert [f.type for f in findings] == ["Ready", "Reconciling", "Stalled"]
    assert sum(f.status is True for f in findings) == 1
    true = next(f for f in findings if f.status)
    return {"true": true.type, "reason": true.reason, "message": true.message}


CASES: dict[str, tuple[list[WantedLayer], list[CachedLayer], tuple[str, ...], str, str, str]] = {
    "nothing wanted": ([], [layer(9, "Held")], (), "Ready", "LayersHeld", "no layer is wanted"),
    "all held": ([want(1)], [layer(1, "Held", MIB)], (), "Ready", "LayersHeld", "1 layers (1.0 MiB) are on the node"),
    "not begun": ([want(1), want(2)], [], (), "Reconciling", "LayersFetching", "0 of 2 layers (0 B of 2.0 MiB)"),
    "half way": (
        [want(1), want(2)],
        [layer(1, "Held", MIB), layer(2, "Fetching", MIB // 2)],
        (),
        "Reconciling",
        "LayersFetching",
        "1 of 2 layers (1.5 MiB of 2.0 MiB)",
    ),
    "a person must act": (
        [want(1), want(2), want(3)],
        [layer(2, "Refused", reason="RepositoryUnreachable"), layer(3, "Refused", reason="AccessDenied")],
        (),
        "Stalled",
        "AccessDenied",
        "2 of 3 layers refused",
    ),
    "the repository is silent": (
        [want(1)],
        [layer(1, "Refused", reason="RepositoryUnreachable")],
        (),
        "Reconciling",
        "RepositoryUnreachable",
        "cause of 1",
    ),
    "a layer without a user may be refused": (
        [want(1)],
        [layer(1, "Held", MIB), layer(2, "Refused", reason="LayerRefused")],
        (),
        "Ready",
        "LayersHeld",
        "1 layers",
    ),
    "overlays to delete": (
        [],
        [],
        ("b", "a"),
        "Reconciling",
        "OverlaysDeleting",
        "2 overlays to be deleted, the first a",
    ),
}


@pytest.mark.parametrize(("wanted", "layers", "waiting", "true", "reason", "message"), CASES.values(), ids=CASES.keys())
def test_one_condition_is_true_and_has_the_cause(
    wanted: list[WantedLayer],
    layers: list[CachedLayer],
    waiting: tuple[str, ...],
    true: str,
    reason: str,
    message: str,
) -> None:
    found = verdict(wanted, layers, waiting)
    assert (found["true"], found["reason"]) == (true, reason)
    assert message in found["message"]


@pytest.mark.parametrize(
    "reason", ["LayerRefused", "BudgetExceeded", "AccessDenied", "RepositoryUnknown", "SpecInvalid"]
)
def test_what_no_retry_heals_stalls(reason: str) -> None:
    assert verdict([want(1)], [layer(1, "Refused", reason=reason)])["true"] == "Stalled"


@pytest.mark.parametrize("reason", ["NoRoom", "LayerCorrupt", "LayerNotInRepository", "RepositoryUnreachable"])
def test_what_may_heal_by_itself_does_not_stall(reason: str) -> None:
    assert verdict([want(1)], [layer(1, "Refused", reason=reason)])["true"] == "Reconciling"


def report(
    layers: list[CachedLayer],
    previous: NodeCacheStatus | None = None,
    at: datetime = NOW,
    *,
    wanted: Sequence[WantedLayer] = (),
    discard: Sequence[str] = (),
) -> NodeCacheStatus:
    spec = NodeCacheSpec(layers=list(wanted), discard=list(discard))
    cache = NodeCache(metadata=Metadata(name="a", generation=3), spec=spec)
    state = FillState(layers, 100, sum(x.fetched_bytes for x in layers), 50, 7)
    volumes = [Volume("a.r1", True), Volume("b.r1", False)]
    return build_status(cache, 3, state, volumes, previous or NodeCacheStatus(), peer_address=None, now=at)


def test_progress_never_goes_back_while_a_layer_is_on_its_way() -> None:
    first = report([layer(1, "Fetching", 500)])
    second = report([layer(1, "Queued", 100)], first)
    assert second.layers[0].fetched_bytes == 500
    refused = report([layer(1, "Refused", 0, "LayerCorrupt")], second)
    assert refused.layers[0].fetched_bytes == 0
    assert report([layer(1, "Fetching", 10)], refused).layers[0].fetched_bytes == 10


def test_the_total_never_goes_back() -> None:
    assert report([], NodeCacheStatus(fetched_bytes_total=99)).fetched_bytes_total == 99


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = report([], wanted=[want(1)])
    second = report([layer(1, "Fetching", 5)], first, NOW + timedelta(minutes=1), wanted=[want(1)])
    assert [c.last_transition_time for c in second.conditions] == [NOW] * 3
    third = report([layer(1, "Held", MIB)], second, NOW + timedelta(minutes=2), wanted=[want(1)])
    assert [c.last_transition_time for c in third.conditions][:2] == [NOW + timedelta(minutes=2)] * 2
    assert {c.observed_generation for c in third.conditions} == {3}


def test_overlays_to_delete_are_those_that_are_still_there() -> None:
    status = report([], discard=["b.r1", "gone.r1"])
    assert "1 overlays to be deleted, the first b.r1" in status.conditions[0].message
    assert report([], discard=["gone.r1"]).conditions[0].status == "True"


def test_bytes_alone_can_wait_and_everything_else_cannot() -> None:
    first = report([layer(1, "Fetching", 5)], wanted=[want(1)])
    assert is_news(first, None)
    more = report([layer(1, "Fetching", 6)], first, NOW + timedelta(seconds=1), wanted=[want(1)])
    assert not is_news(more, first)
    assert without_heartbeat(more) != without_heartbeat(first)
    held = report([layer(1, "Held", MIB)], more, NOW + timedelta(seconds=2), wanted=[want(1)])
    assert is_news(held, more)
    same = report([layer(1, "Held", MIB)], held, NOW + timedelta(seconds=40), wanted=[want(1)])
    assert not is_news(same, held)
    assert without_heartbeat(same) == without_heartbeat(held)
    assert same.last_heartbeat_time != held.last_heartbeat_time
