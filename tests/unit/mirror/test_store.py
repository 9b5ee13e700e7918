from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.images import Image
from kigi.errors import ImageMissing, KigiError, SpecInvalid
from tests.support.bodies import (
    NAME,
    NS,
    cache_body,
    chain_of,
    image_body,
    node_body,
    system_body,
    target,
    volume_body,
)
from tests.support.mirrors import new_mirror

GIB = 2**30


def image(name: str, parent: str | None = None) -> Image:
    return Image(name, chain_of(name)[0].digest, 100, GIB, parent)


def test_the_newest_version_wins_whatever_comes_last() -> None:
    mirror = new_mirror()
    assert mirror.put("Node", node_body(version=5, memory="2Gi")) is not None
    assert mirror.put("Node", node_body(version=4, memory="1Gi")) is None
    assert mirror.put("Node", node_body(version=5, memory="1Gi")) is None
    record = mirror.nodes.get(None, "n1")
    assert record is not None
    assert record.memory_bytes == 2 * GIB


def test_an_event_from_before_the_deletion_does_not_bring_the_object_back() -> None:
    mirror = new_mirror()
    mirror.put("Node", node_body(version=5))
    assert mirror.gone("Node", None, "n1", "uid-Node-n1") is not None
    assert mirror.put("Node", node_body(version=6)) is None
    assert mirror.nodes.get(None, "n1") is None


def test_a_late_deletion_does_not_remove_the_recreated_object() -> None:
    mirror = new_mirror()
    body = node_body(version=9)
    body["metadata"]["uid"] = "new"
    mirror.put("Node", body)
    assert mirror.gone("Node", None, "n1", "old") is None
    assert mirror.nodes.get(None, "n1") is not None


def test_indexes_follow_every_change() -> None:
    mirror = new_mirror()
    mirror.put("PersistentVolume", volume_body(target(), node="n1", version=1))
    assert len(list(mirror.volumes.by("node", "n1"))) == 1
    mirror.put("PersistentVolume", volume_body(target(), node="n2", version=2))
    assert not list(mirror.volumes.by("node", "n1"))
    (record,) = mirror.volumes.by("deployment", (NS, NAME))
    assert record.node == "n2"
    mirror.gone("PersistentVolume", None, record.meta.name, record.meta.uid)
    assert not list(mirror.volumes.values_of("node"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.booleans()), max_size=40))
def test_indexes_agree_with_a_scan_of_all_objects(events: list[tuple[int, int, bool]]) -> None:
    mirror, versions = new_mirror(), itertools.count(1)
    for number, node, deleted in events:
        body = volume_body(target(f"m{number}"), node=f"n{node}", version=next(versions))
        body["metadata"]["uid"] = f"{number}-{len(mirror._tombstones)}"
        name = body["metadata"]["name"]
        known = mirror.volumes.get(None, name)
        if deleted and known is not None:
            mirror.gone("PersistentVolume", None, name, known.meta.uid)
        else:
            mirror.put("PersistentVolume", body)
    for node in {f"n{number}" for number in range(1, 10)}:
        indexed = {record.meta.name for record in mirror.volumes.by("node", node)}
        assert indexed == {record.meta.name for record in mirror.volumes if record.node == node}


def test_holders_follow_the_caches() -> None:
    mirror = new_mirror()
    digest = chain_of("top")[0].digest
    mirror.put("NodeCache", cache_body("n1", 1, held=(digest,)))
    mirror.put("NodeCache", cache_body("n2", 2, held=(digest,)))
    assert mirror.holders[digest] == {"n1", "n2"}
    mirror.put("NodeCache", cache_body("n1", 3))
    mirror.gone("NodeCache", None, "n2", "uid-NodeCache-n2")
    assert digest not in mirror.holders


def test_a_late_image_heals_what_waits_for_it() -> None:
    mirror = new_mirror()
    mirror.put("VMImageNode", image_body(image("top", "base")))
    mirror.put("SystemNode", system_body("a", [{"name": "m", "rootDisk": {"imageRef": {"name": "top"}}}]))
    assert isinstance(mirror.resolved(NS, "a"), ImageMissing)
    mirror.put("VMImageNode", image_body(image("base"), 2))
    assert not isinstance(mirror.resolved(NS, "a"), KigiError)


def test_the_order_of_a_listing_is_irrelevant() -> None:
    bodies = [image_body(image(f"i{n}", f"i{n - 1}" if n else None)) for n in range(10)]
    random.Random(1).shuffle(bodies)
    mirror = new_mirror()
    for body in bodies:
        mirror.put("VMImageNode", body)
    chain = mirror.chain(NS, "i9")
    assert not isinstance(chain, KigiError)
    assert len(chain) == 10


def test_a_stored_object_that_no_longer_validates_is_an_error_of_its_own_and_of_its_descendants() -> None:
    mirror = new_mirror()
    bad = image_body(image("base"))
    bad["spec"]["layer"]["digest"] = "md5:1"
    mirror.put("VMImageNode", bad)
    mirror.put("VMImageNode", image_body(image("top", "base")))
    found = mirror.chain(NS, "top")
    assert isinstance(found, SpecInvalid)
    assert "VMImageNode base" in str(found)
    assert "digest" in str(found)


def test_a_damaged_chain_on_a_volume_is_empty_and_not_an_error() -> None:
    mirror = new_mirror()
    body = volume_body(target())
    body["spec"]["csi"]["volumeAttributes"]["chain"] = "[{]"
    mirror.put("PersistentVolume", body)
    (record,) = mirror.volumes
    assert record.chain == ()


def test_an_object_whose_label_was_removed_for_a_moment_comes_back() -> None:
    mirror = new_mirror()
    mirror.put("Node", node_body(version=10))
    uid = "uid-Node-n1"
    assert mirror.gone("Node", None, "n1", uid, version=11) is not None
    assert mirror.put("Node", node_body(version=11)) is None, "an event from before"
    assert mirror.put("Node", node_body(version=12)) is not None, "the label is back"
    assert mirror.gone("Node", None, "n1", uid, version=11) is None, "a late event"
    assert mirror.nodes.get(None, "n1") is not None
    assert mirror.gone("Node", None, "n1", uid) is not None
    assert mirror.put("Node", node_body(version=99)) is None, "a uid is used once"


def test_a_tombstone_never_becomes_older() -> None:
    mirror = new_mirror()
    mirror.gone("Node", None, "n1", "uid-Node-n1", version=20)
    mirror.gone("Node", None, "n1", "uid-Node-n1", version=10)
    assert mirror.put("Node", node_body(version=15)) is None
