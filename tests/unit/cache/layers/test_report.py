"""What the NodeCache's status and messages show of held and fetched layers."""

from __future__ import annotations

from kigi.api.node_cache import MAX_REPORT_MESSAGE
from kigi.domain.layers import Digest, Layer
from kigi.errors import LayerNotInRepository
from kigi_cache.layers.eviction import HeldLayer, Need
from kigi_cache.layers.jobs import Job, Urgency
from kigi_cache.layers.report import cached_layers, describe_progress


def layer(number: int, size_bytes: int = 1024) -> Layer:
    return Layer(Digest(f"sha256:{number:064x}"), size_bytes, 2**20)


def held(number: int, links: int = 0) -> HeldLayer:
    return HeldLayer(layer(number).digest, 1024, links)


def test_held_layers_show_why_they_stay() -> None:
    holdings = {each.digest: each for each in (held(1, links=2), held(2), held(3), held(4))}
    needs = {layer(2).digest: Need.WANTED, layer(3).digest: Need.PREFETCH}
    shown = cached_layers(holdings, [], needs)
    assert [(each.need, each.links) for each in shown] == [("Running", 2), ("Wanted", 0), ("Prefetch", 0), ("Idle", 0)]
    assert {(each.state, each.size_bytes, each.fetched_bytes) for each in shown} == {("Held", 1024, 1024)}


def test_layers_on_their_way_show_their_progress_and_their_error() -> None:
    fetching, refused = (
        Job(layer(1), Urgency.DISK, state="Fetching", fetched_bytes=7),
        Job(layer(2), Urgency.DISK, state="Refused"),
    )
    refused.error = LayerNotInRepository("x" * (MAX_REPORT_MESSAGE + 1))
    first, second = cached_layers({}, [refused, fetching], {})
    assert (first.digest, first.state, first.fetched_bytes, first.reason) == (layer(1).digest, "Fetching", 7, None)
    assert (second.state, second.reason) == ("Refused", "LayerNotInRepository")
    assert second.message == "x" * (MAX_REPORT_MESSAGE - 3) + "…"


def test_a_layer_with_a_job_that_is_held_already_is_held() -> None:
    (shown,) = cached_layers({layer(1).digest: held(1)}, [Job(layer(1), Urgency.DISK)], {})
    assert shown.state == "Held"


def test_progress_counts_layers_and_bytes() -> None:
    chain = (layer(1), layer(2), layer(3))
    jobs = {layer(2).digest: Job(layer(2), Urgency.DISK, fetched_bytes=512)}
    assert describe_progress(chain, {layer(1).digest}, jobs) == "1 of 3 layers (1.5 KiB of 3.0 KiB)"
    assert describe_progress(chain, {each.digest for each in chain}, {}) == "3 of 3 layers (3.0 KiB of 3.0 KiB)"


def test_progress_names_the_first_error_of_the_chain() -> None:
    chain = (layer(1), layer(2), layer(3))
    jobs = {each.digest: Job(each, Urgency.DISK) for each in chain[1:]}
    jobs[layer(3).digest].error = LayerNotInRepository("third")
    jobs[layer(2).digest].error = LayerNotInRepository("second")
    assert describe_progress(chain, {layer(1).digest}, jobs).endswith("; second")
