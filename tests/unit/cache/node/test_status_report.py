from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kigi.api.base import Metadata
from kigi.api.node_cache import MAX_VOLUMES, CachedLayer, NodeCache, NodeCacheSpec, NodeCacheStatus, WantedLayer
from kigi.domain.node_protocol import PROTOCOLS
from kigi_cache.disks.headroom import SpaceReport
from kigi_cache.disks.volumes import Volume
from kigi_cache.layers.report import FillState
from kigi_cache.node.status_report import NO_REPORT, build_status, is_changed, is_news, judge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 2**20


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def want(number: int) -> WantedLayer:
    return WantedLayer(
        digest=digest(number), size_bytes=MIB, virtual_size_bytes=MIB, repository_name="default", purpose="Disk"
    )


def layer(number: int, state: str, fetched: int = 0, reason: str | None = None) -> CachedLayer:
    message = f"cause of {number}" if reason else None
    return CachedLayer(digest=digest(number), state=state, fetched_bytes=fetched, reason=reason, message=message)


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
    volumes: Sequence[Volume] = (Volume("a.r1", True), Volume("b.r1", False)),
    space: SpaceReport = NO_REPORT,
    **changes: Any,
) -> NodeCacheStatus:
    lists = {"layers": list(wanted), "discard_volumes": list(discard)}
    fields = {"node_name": "a", "operator_protocol": 2, "protocol": 2, **lists, **changes}
    spec = NodeCacheSpec.model_validate(fields)
    cache = NodeCache(metadata=Metadata(name="a", generation=3), spec=spec)
    state = FillState(layers, 100, sum(x.fetched_bytes for x in layers), 50, 5, 7)
    return build_status(cache, 3, state, volumes, previous or NodeCacheStatus(), peer_address=None, space=space, now=at)


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
    assert [c.last_transition_time for c in second.conditions] == [NOW] * 7
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
    assert is_changed(more, first)
    held = report([layer(1, "Held", MIB)], more, NOW + timedelta(seconds=2), wanted=[want(1)])
    assert is_news(held, more)
    same = report([layer(1, "Held", MIB)], held, NOW + timedelta(seconds=40), wanted=[want(1)])
    assert not is_news(same, held)
    assert same == held, "a status has no time of its own"
    assert not is_changed(same, held)


def condition(status: NodeCacheStatus, kind: str) -> tuple[str, str, str]:
    (found,) = [each for each in status.conditions if each.type == kind]
    return found.status, found.reason, found.message


def test_a_spec_that_has_everything_says_so() -> None:
    assert condition(report([]), "SpecTruncated")[:2] == ("False", "Complete")
    assert condition(report([]), "VersionSkew")[:2] == ("False", "ProtocolUnderstood")


def test_what_does_not_fit_into_the_spec_is_counted() -> None:
    status = report([], omitted={"disk_layers": 3, "prefetch_layers": 0, "captures": 2})
    status_, reason, message = condition(status, "SpecTruncated")
    assert (status_, reason) == ("True", "NodeCacheFull")
    assert message == "3 layers of disks, 2 captures of disks do not fit into the spec; their owners report it"


def test_a_newer_operator_is_reported_while_its_orders_are_understood() -> None:
    status = report([layer(1, "Held", MIB)], wanted=[want(1)], operator_protocol=3)
    assert condition(status, "VersionSkew")[0] == "True"
    assert "understands protocol 2, and the operator uses 3; upgrade the daemon" in condition(status, "VersionSkew")[2]
    assert condition(status, "Ready")[0] == "True"


def test_a_spec_of_another_protocol_is_not_judged() -> None:
    status = report([], operator_protocol=3, protocol=3)
    assert condition(status, "Ready")[:2] == ("False", "VersionSkew")
    assert condition(status, "Reconciling")[0] == "True"


def test_the_daemon_names_itself() -> None:
    daemon = report([]).daemon
    assert daemon is not None
    assert daemon.protocols == list(PROTOCOLS)


def test_overlays_to_be_deleted_are_always_listed() -> None:
    """The operator releases a volume whose overlay is not listed."""
    volumes = [Volume(f"a-{number:05}", False) for number in range(MAX_VOLUMES)]
    listed = report([], discard=["z"], volumes=[*volumes, Volume("y", True), Volume("z", False)]).volumes
    assert [each.name for each in listed[:3]] == ["z", "y", "a-00000"]
    assert len(listed) == MAX_VOLUMES


def test_written_bytes_are_reported_and_can_wait() -> None:
    """They change while guests write; an overlay that is not counted yet has none."""
    volumes = [Volume("a", True), Volume("b", True)]
    before, after = (
        report([], volumes=volumes, space=SpaceReport(written_bytes={"a": size})) for size in (MIB, 2 * MIB)
    )
    assert [(each.name, each.written_bytes) for each in after.volumes] == [("a", 2 * MIB), ("b", None)]
    assert is_changed(after, before)
    assert not is_news(after, before)
