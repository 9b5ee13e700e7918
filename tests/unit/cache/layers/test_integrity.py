"""Damage that is found by a stat, and damage that only reading finds."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.layers import Digest, Layer
from kigi_cache.layers.integrity import Integrity
from kigi_cache.layers.store import Store
from tests.support.manual_clock import ManualClock
from tests.support.stored import commit, forget_state, rot

DAY_S = 86_400.0


class Node:
    def __init__(self, root: Path) -> None:
        self.time = ManualClock()
        self.store = Store(root, boot="boot", clock=self.time.clock)
        self.store.recover()
        self.wanted: set[Digest] = set()
        self.damage: list[tuple[Digest, str]] = []
        self.verified = 0
        self.integrity = Integrity(self.store, self.time.clock, self.report, self.note, self.wanted.__contains__)

    def report(self, digest: Digest, cause: str) -> None:
        self.damage.append((digest, cause))

    def note(self) -> None:
        self.verified += 1


async def check_changed(node: Node) -> None:
    await node.integrity.find_changed()
    assert await node.integrity.verify_doubtful()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_unchanged_files_are_not_read(node: Node) -> None:
    layer = commit(node.store, 1)
    rot(node.store, layer.digest)
    await check_changed(node)
    assert (node.verified, node.damage) == (0, [])


async def test_a_file_that_was_touched_is_read_and_kept(node: Node) -> None:
    layer = commit(node.store, 1)
    os.utime(node.store.path(layer.digest), ns=(1, 1))
    await check_changed(node)
    assert (node.verified, node.damage) == (1, [])
    assert node.store.is_held(layer.digest)


async def test_a_changed_and_a_missing_file_are_reported_once(node: Node) -> None:
    changed, missing = commit(node.store, 1), commit(node.store, 2)
    node.store.path(changed.digest).chmod(0o644)
    node.store.path(changed.digest).write_bytes(b"other")
    node.store.path(missing.digest).unlink()
    for _ in range(2):
        await check_changed(node)
    assert sorted(digest for digest, _ in node.damage) == sorted([changed.digest, missing.digest])
    assert {cause for _, cause in node.damage} == {"its file was changed or removed"}


async def test_doubtful_files_are_read_after_a_start(node: Node, tmp_path: Path) -> None:
    right, wrong = commit(node.store, 1), commit(node.store, 2)
    rot(node.store, wrong.digest)
    forget_state(tmp_path)
    after = Node(tmp_path)
    await after.integrity.recover()
    assert after.store.held() == {}
    await check_changed(after)
    assert after.store.held().keys() == {right.digest}
    assert [digest for digest, _ in after.damage] == [wrong.digest]
    await check_changed(after)
    assert after.verified == 2, "each is read once"


async def test_a_scrub_finds_bytes_that_rotted_without_a_trace(node: Node) -> None:
    right, wrong = commit(node.store, 1), commit(node.store, 2)
    rot(node.store, wrong.digest)
    assert await node.integrity.scrub(0.0, 0.0) == [wrong.digest]
    assert node.damage == [(wrong.digest, "its bytes do not have its digest")]
    assert node.store.held().keys() == {right.digest}


async def test_a_scrub_reads_only_what_is_due(node: Node) -> None:
    old = commit(node.store, 1)
    node.time.advance(DAY_S / 2)
    young = commit(node.store, 2)
    rot(node.store, young.digest)
    node.time.advance(DAY_S / 2)
    assert await node.integrity.scrub(DAY_S, 0.0) == []
    assert node.store.read_before(node.time.clock.wall_s() - 1) == [young.digest]
    assert node.store.is_held(old.digest)


async def test_a_scrub_keeps_its_rate(node: Node) -> None:
    sizes = [commit(node.store, number).size_bytes for number in range(4)]
    started_s = node.time.now_s
    await node.integrity.scrub(0.0, sizes[0])
    assert node.time.now_s - started_s == pytest.approx(3.0, abs=0.01), "the first second's worth is free"
    node.time.blocked_s.clear()
    await node.integrity.scrub(0.0, 0.0)
    assert sum(node.time.blocked_s) == 0.0


async def test_a_layer_that_the_disk_refuses_stays_doubtful_and_the_others_are_verified(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = commit(node.store, 1), commit(node.store, 2)
    for layer in (broken, fine):
        os.utime(node.store.path(layer.digest), ns=(1, 1))
    verify = Store.verify

    def verify_or_fail(store: Store, layer: Digest, *args: Any, **kwargs: Any) -> bool:
        if layer == broken.digest:
            raise OSError(errno.EMFILE, "Too many open files")
        return verify(store, layer, *args, **kwargs)

    monkeypatch.setattr(Store, "verify", verify_or_fail)
    await node.integrity.find_changed()
    assert not await node.integrity.verify_doubtful()
    assert node.store.is_held(fine.digest)
    assert node.integrity.is_doubtful(broken.digest)
    assert node.damage == []
    assert await node.integrity.scrub(0.0, 0.0) == [], "and a scrub does not end"
    monkeypatch.setattr(Store, "verify", verify)
    assert await node.integrity.verify_doubtful()
    assert node.store.is_held(broken.digest)


async def test_wanted_layers_are_verified_first(node: Node) -> None:
    layers = sorted((commit(node.store, number) for number in range(4)), key=lambda layer: layer.digest)
    for layer in layers:
        os.utime(node.store.path(layer.digest), ns=(1, 1))
    node.wanted.add(layers[-1].digest)
    order: list[Digest] = []
    verify = node.store.verify

    def noted(layer: Layer | Digest, *args: Any, **kwargs: Any) -> bool:
        order.append(layer.digest if isinstance(layer, Layer) else layer)
        return verify(layer, *args, **kwargs)

    node.store.verify = noted  # type: ignore[method-assign]
    await check_changed(node)
    assert order == [layer.digest for layer in (layers[-1], *layers[:-1])]
