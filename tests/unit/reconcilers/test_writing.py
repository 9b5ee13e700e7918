from __future__ import annotations

from datetime import UTC, datetime

from kigi.adapters.kubernetes.resources import PREFETCH
from kigi.api.base import Condition
from kigi.api.conditions import EXPIRING, Finding, merge_conditions, summary
from kigi.api.prefetch import SystemPrefetchStatus, UnreadyNode
from kigi.domain.images import Image
from kigi.domain.layers import object_key
from kigi.domain.observed import Meta
from kigi.reconcilers.writing import transitions, write_status
from tests.support.bodies import GIB, NS, chain_of, image_body
from tests.support.memory_api import MemoryApi, memory_ports

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def conditions(*findings: Finding) -> list[Condition]:
    return merge_conditions([], findings, generation=1, now=NOW)


def events(old: list[Condition], new: list[Condition]) -> list[tuple[str, str]]:
    return [(kind, condition.reason) for kind, condition in transitions(old, new)]


BUSY = conditions(*summary(ready=False, stalled=False, reason="LayersWarming", message="1 of 2"))
READY = conditions(*summary(ready=True, stalled=False, reason="Deployed", message=""))
STALLED = conditions(*summary(ready=False, stalled=True, reason="ImageCycle", message=""))


def test_a_transition_is_one_event() -> None:
    assert events(BUSY, READY) == [("Normal", "Deployed")]
    assert events(READY, READY) == []


def test_losing_ready_and_becoming_stalled_are_events() -> None:
    assert events(READY, BUSY) == [("Normal", "LayersWarming")]
    assert ("Warning", "ImageCycle") in events(BUSY, STALLED)


def test_another_cause_of_a_stall_is_an_event_but_the_same_cause_is_not() -> None:
    other = conditions(*summary(ready=False, stalled=True, reason="NameTaken", message=""))
    assert events(STALLED, other) == [("Warning", "NameTaken")]
    assert events(STALLED, STALLED) == []


def test_progress_within_a_phase_is_not_an_event() -> None:
    more = conditions(*summary(ready=False, stalled=False, reason="LayersWarming", message="2 of 2"))
    assert events(BUSY, more) == []


def test_an_expiration_is_an_event_when_it_is_announced_and_when_it_comes() -> None:
    ahead, soon, over = (
        conditions(Finding(EXPIRING, status, reason, ""))
        for status, reason in ((False, "ExpirationAhead"), (True, "ExpiresSoon"), (True, "Expired"))
    )
    steps = ((), ahead), (ahead, soon), (soon, soon), (soon, over), (over, over), (over, ahead), (ahead, ())
    assert [events(list(old), list(new)) for old, new in steps] == [
        *([], [("Warning", "ExpiresSoon")], [], [("Warning", "Expired")], [], [], [])
    ]


async def test_messages_contain_no_digest_of_another_namespace() -> None:
    """Neither a status nor an event, wherever the message comes from."""
    api = MemoryApi()
    ports = memory_ports(api)
    own, other = chain_of("own")[0].digest, chain_of("other")[0].digest
    ports.mirror.put("VMImageNode", image_body(Image("mine", own, 100, GIB)))
    ports.mirror.put("VMImageNode", image_body(Image("theirs", other, 100, GIB), namespace="library"))
    body = api.put({"kind": "SystemPrefetch", "metadata": {"name": "p", "namespace": NS}})
    node = UnreadyNode(name="n1", state="Refused", message=f"no {other}, {own}")
    found = conditions(
        *summary(ready=False, stalled=True, reason="LayerRefused", message=f"{other}: {object_key(other)}")
    )
    status = SystemPrefetchStatus(unready_nodes=[node], conditions=found)
    meta = Meta(NS, "p", body["metadata"]["uid"], 1)
    await write_status(ports, PREFETCH, meta, None, status)
    written = api.objects["SystemPrefetch", NS, "p"]["status"]
    events = [stored for (kind, _, _), stored in api.objects.items() if kind == "Event"]
    assert events
    assert other.removeprefix("sha256:")[:12] not in str((written, events))
    assert own in written["unreadyNodes"][0]["message"]
