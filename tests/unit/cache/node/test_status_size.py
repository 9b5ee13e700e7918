"""A NodeCache's status always fits: first messages go, then idle layers; what is desired is reported longest."""

from __future__ import annotations

import pytest

from kigi.api.node_cache import (
    MAX_CAPTURES,
    MAX_REPORT_MESSAGE,
    MAX_REPORTED,
    MAX_STATUS_BYTES,
    CachedLayer,
    CachedVolume,
    CaptureReport,
    NodeCacheStatus,
)
from kigi_cache.node.status_size import MESSAGES, fitted, most_layers
from tools.crdsize import size_bytes


def layer(number: int, need: str | None = "Idle", message: str | None = None) -> CachedLayer:
    return CachedLayer(
        digest=f"sha256:{number:064x}",
        state="Refused" if message else "Held",
        size_bytes=2**40,
        fetched_bytes=2**40,
        links=9,
        need=need,
        reason="LayerRefused" if message else None,
        message=message,
    )


def status(layers: list[CachedLayer], volumes: int = 0, captures: int = 0) -> NodeCacheStatus:
    return NodeCacheStatus(
        observed_generation=1,
        layers=layers,
        volumes=[CachedVolume(name=f"{number:0150}", mounted=True) for number in range(volumes)],
        captures=[
            CaptureReport(id=f"c{number}", state="Refused", reason="NoRoom", message="m" * MAX_REPORT_MESSAGE)
            for number in range(captures)
        ],
    )


def test_what_fits_stays_as_it_is() -> None:
    small = status([layer(1, message="m")], 2, 1)
    assert fitted(small) is small
    usual = status([layer(number, "Wanted") for number in range(2000)], 300)
    assert fitted(usual) is usual


@pytest.mark.parametrize(
    ("layers", "volumes", "captures"), [(MAX_REPORTED, 1000, 0), (2000, 1000, MAX_CAPTURES), (MAX_REPORTED, 0, 20)]
)
def test_the_largest_status_fits(layers: int, volumes: int, captures: int) -> None:
    needs = ["Wanted", "Idle", "Idle", "Idle"]
    whole = status([layer(number, needs[number % 4]) for number in range(layers)], volumes, captures)
    found = fitted(whole)
    assert size_bytes(found.to_api()) <= MAX_STATUS_BYTES
    assert found.omitted_layers == len(whole.layers) - len(found.layers)
    assert found.volumes == whole.volumes
    assert [report.id for report in found.captures] == [report.id for report in whole.captures]
    kept = {item.digest for item in found.layers}
    assert {item.digest for item in whole.layers if item.need == "Wanted"} <= kept, "the operator waits for these"
    assert [item.digest for item in found.layers] == sorted(kept)


def test_messages_go_first_and_the_first_of_them_stay() -> None:
    refused = [layer(number, "Wanted", "ü" * 500) for number in range(1500)]
    found = fitted(status(refused))
    assert found.omitted_layers == 0
    assert [item.message is not None for item in found.layers] == [True] * MESSAGES + [False] * (1500 - MESSAGES)
    assert {item.reason for item in found.layers} == {"LayerRefused"}, "reasons stay"


def test_more_layers_than_a_list_may_have_lose_idle_ones() -> None:
    layers = [layer(number, "Idle" if number < 5000 else "Running") for number in range(5100)]
    found = most_layers(layers)
    assert len(found) == MAX_REPORTED
    assert sum(item.need == "Running" for item in found) == 100
    assert [item.digest for item in found] == sorted(item.digest for item in found)


def test_a_text_that_is_no_unicode_does_not_stop_the_report() -> None:
    """A file's name on the disk may be any bytes."""
    odd = status([layer(number) for number in range(401)])
    odd = odd.model_copy(update={"volumes": [CachedVolume.model_construct(name="\udcff", mounted=False)]})
    assert fitted(odd).volumes == odd.volumes
