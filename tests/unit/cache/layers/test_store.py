"""The store on a real directory: single cases beside the model of tests/property/test_store.py."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kigi.domain.layers import layer_file_name
from kigi.errors import LayerCorrupt, LayerMissing, LayerRefused
from kigi_cache.layers import store as store_module
from kigi_cache.layers.store import Store
from tests.support.manual_clock import EPOCH_S, ManualClock
from tests.support.stored import commit, content, layer_of


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, time: ManualClock) -> Store:
    made = Store(tmp_path / "cache", boot="boot", clock=time.clock)
    assert made.recover() == []
    return made


def reopened(store: Store, boot: str = "boot") -> Store:
    return Store(store.root, boot=boot)


def test_a_committed_layer_is_held_read_only_and_counted(store: Store) -> None:
    layer = commit(store, 1)
    assert store.is_held(layer.digest)
    assert store.path(layer.digest) == store.layers / layer_file_name(layer.digest)
    assert store.path(layer.digest).stat().st_mode & 0o777 == 0o444
    assert store.parts() == []
    assert store.fetched_bytes_total == store.used_bytes() == layer.size_bytes


@pytest.mark.parametrize("damage", ["size", "digest", "header"])
def test_a_wrong_partial_file_goes_to_quarantine(store: Store, damage: str) -> None:
    data = content(1)
    layer = layer_of(data)
    sha256 = hashlib.sha256(data).hexdigest()
    if damage == "size":
        layer = replace(layer, size_bytes=layer.size_bytes + 1)
    elif damage == "digest":
        sha256 = "0" * 64
    else:
        layer = replace(layer, virtual_size_bytes=layer.virtual_size_bytes + 512)
    store.part_path(layer.digest).write_bytes(data)
    with pytest.raises(LayerRefused if damage == "header" else LayerCorrupt, match=layer.digest):
        store.commit(layer, sha256)
    assert store.held() == {}
    assert store.part_bytes(layer.digest) == 0
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_partial_files_are_listed_measured_and_dropped(store: Store) -> None:
    layer = layer_of(content(1))
    assert (store.parts(), store.part_bytes(layer.digest)) == ([], 0)
    store.part_path(layer.digest).write_bytes(b"half")
    assert (store.parts(), store.part_bytes(layer.digest), store.used_bytes()) == ([layer.digest], 4, 4)
    store.drop_part(layer.digest)
    store.drop_part(layer.digest)
    assert store.parts() == []


def test_a_store_without_directories_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert (store.parts(), store.used_bytes(), store.held(), store.damaged()) == ([], 0, {}, [])
    store.empty_quarantine()


def test_a_layer_is_persisted_once(store: Store) -> None:
    layer = commit(store, 1)
    assert store.unpersisted() == [layer.digest]
    assert store.persist(layer.digest)
    assert store.unpersisted() == []
    assert reopened(store, "another boot").recover() == []


def test_a_layer_that_was_not_persisted_is_doubtful_after_a_reboot(store: Store) -> None:
    layer = commit(store, 1)
    after = reopened(store, "another boot")
    assert after.recover() == [layer.digest]
    assert not after.is_held(layer.digest)
    assert after.verify(layer)
    assert after.is_held(layer.digest)


def test_a_layer_that_was_evicted_meanwhile_needs_no_fsync(store: Store) -> None:
    layer = commit(store, 1)
    store.path(layer.digest).unlink()
    assert store.persist(layer.digest)
    assert list((store.root / "quarantine").iterdir()) == []


def test_a_layer_that_the_disk_cannot_write_goes_to_quarantine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = commit(store, 1)

    def failing(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(store_module, "fsync", failing)
    assert not store.persist(layer.digest)
    assert not store.is_held(layer.digest)
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_a_state_that_cannot_be_written_keeps_layers_unpersisted(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk must neither end the daemon nor be forgotten."""
    for name in ("state.new", "state.recent.new"):
        (store.root / name).mkdir()
    with caplog.at_level(logging.WARNING):
        layer = commit(store, 1)
    assert caplog.messages == ["state of the cache not written"]
    assert store.is_held(layer.digest)
    with pytest.raises(IsADirectoryError):
        store.persist(layer.digest)
    assert store.unpersisted() == [layer.digest]
    assert reopened(store).recover() == [layer.digest], "it is read again, and that is all"
    for name in ("state.new", "state.recent.new"):
        (store.root / name).rmdir()
    assert store.persist(layer.digest)
    assert reopened(store, "another boot").recover() == []


@pytest.mark.parametrize("text", ["", "{", '{"boot": 1}', "\0"])
def test_an_unreadable_state_only_costs_reading(store: Store, text: str) -> None:
    layer = commit(store, 1)
    for name in ("state.json", "state.recent.json"):
        (store.root / name).write_text(text)
    assert reopened(store).recover() == [layer.digest]


def write_and_restore_the_time(path: Path) -> None:
    """What an attacker can do who may write: the same size, the same inode, the same mtime."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"E")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_write_behind_a_restored_time_is_noticed_at_the_next_use(store: Store, tmp_path: Path) -> None:
    layer, volume = commit(store, 1), tmp_path / "volume"
    volume.mkdir()
    store.link_chain((layer,), volume)
    write_and_restore_the_time(volume / layer_file_name(layer.digest))
    assert not store.is_held(layer.digest)
    assert store.damaged() == [layer.digest]
    with pytest.raises(LayerMissing):
        store.relink_chain((layer,), volume, tmp_path)
    assert not store.verify(layer)
    assert store.held() == {}


def test_a_write_while_the_daemon_was_away_is_noticed_at_its_start(store: Store) -> None:
    layer = commit(store, 1)
    assert store.persist(layer.digest)
    write_and_restore_the_time(store.path(layer.digest))
    for boot in ("boot", "another boot"):
        assert reopened(store, boot).recover() == [layer.digest]


def test_links_of_the_store_are_no_sign_of_a_write(store: Store, tmp_path: Path) -> None:
    layers = [commit(store, number) for number in range(3)]
    for number in range(5):
        directory = tmp_path / str(number)
        directory.mkdir()
        store.link_chain(tuple(layers), directory)
        assert reopened(store).recover() == []
        store.unlink_layers(directory)
        assert not directory.exists()
    assert store.damaged() == []
    assert reopened(store).recover() == []


def test_links_that_follow_the_last_durable_state_cost_reading_after_a_power_cut_until_it_is_flushed(
    store: Store, tmp_path: Path
) -> None:
    layer = commit(store, 1)
    assert store.persist(layer.digest)
    store.link_layers([layer.digest], tmp_path)
    assert reopened(store, "another boot").recover() == [layer.digest]
    store.flush()
    assert reopened(store, "another boot").recover() == []


def test_a_link_during_a_scrub_needs_no_second_reading(store: Store, tmp_path: Path) -> None:
    layer = commit(store, 1)
    linked: list[int] = []

    def link(count: int) -> None:
        if not linked:
            store.link_layers([layer.digest], tmp_path)
        linked.append(count)

    assert store.verify(layer, on_read=link)
    assert store.is_held(layer.digest)


def test_layers_of_an_earlier_version_are_not_read_again(store: Store) -> None:
    """Its state has no ctimes."""
    layer = commit(store, 1)
    assert store.persist(layer.digest)
    (store.root / "state.recent.json").unlink()
    state = json.loads((store.root / "state.json").read_text())
    del state["changedAt"]
    (store.root / "state.json").write_text(json.dumps(state))
    after = reopened(store, "another boot")
    assert after.recover() == []
    write_and_restore_the_time(after.path(layer.digest))
    assert after.damaged() == [layer.digest]


def test_a_recent_state_of_another_boot_does_not_count(store: Store) -> None:
    layer = commit(store, 1)
    assert store.persist(layer.digest)
    (store.root / "state.recent.json").write_text("")
    assert reopened(store, "another boot").recover() == []
    assert reopened(store, "boot").recover() == []


def test_links_are_made_of_held_layers_or_not_at_all(store: Store, tmp_path: Path) -> None:
    first, second = commit(store, 1), commit(store, 2)
    target = tmp_path / "volume"
    target.mkdir()
    with pytest.raises(LayerMissing, match=layer_of(content(3)).digest):
        store.link_chain((first, layer_of(content(3))), target)
    assert list(target.iterdir()) == []
    store.link_chain((first, second), target)
    assert {path.name for path in target.iterdir()} == {layer_file_name(each.digest) for each in (first, second)}
    assert {layer.links for layer in store.held().values()} == {1}


def test_linked_and_wanted_layers_are_not_evicted(store: Store, tmp_path: Path) -> None:
    linked, wanted, idle = (commit(store, number) for number in range(3))
    store.link_layers([linked.digest], tmp_path)
    assert not store.evict(linked.digest, ())
    assert not store.evict(wanted.digest, {wanted.digest})
    assert store.evict(idle.digest, {wanted.digest})
    assert not store.evict(idle.digest, ())
    assert store.held().keys() == {linked.digest, wanted.digest}


def test_times_of_need_are_saved_once_a_minute(store: Store, time: ManualClock) -> None:
    layer = commit(store, 1)
    time.advance(59.0)
    store.touch([layer.digest])
    assert _needed_s(reopened(store)) == EPOCH_S
    time.advance(2.0)
    store.touch([layer.digest])
    assert _needed_s(reopened(store)) == EPOCH_S + 61.0
    assert store.held()[layer.digest].last_needed_s == EPOCH_S + 61.0


def _needed_s(store: Store) -> float:
    store.recover()
    (layer,) = store.held().values()
    return layer.last_needed_s


def test_layers_are_due_for_reading_by_their_age(store: Store, time: ManualClock) -> None:
    first = commit(store, 1)
    time.advance(100.0)
    second = commit(store, 2)
    assert store.read_before(EPOCH_S - 1) == []
    assert store.read_before(EPOCH_S) == [first.digest]
    assert store.read_before(EPOCH_S + 100.0) == [first.digest, second.digest]
    assert store.verify(first)
    assert store.read_before(EPOCH_S + 99.0) == []


def test_reading_reports_its_progress(store: Store) -> None:
    layer = commit(store, 1)
    sizes: list[int] = []
    assert store.verify(layer.digest, on_read=sizes.append)
    assert sum(sizes) == layer.size_bytes


def test_a_changed_file_is_not_held_until_it_is_read(store: Store) -> None:
    layer = commit(store, 1)
    os.utime(store.path(layer.digest), ns=(1, 1))
    assert not store.is_held(layer.digest)
    assert store.damaged() == [layer.digest]
    assert store.verify(layer)
    assert store.damaged() == []
    assert store.unpersisted() == [layer.digest]


@pytest.mark.parametrize("change", [{"virtual_size_bytes": 512}, {"size_bytes": 7}, {"parent": "sha256:" + "0" * 64}])
def test_a_layer_that_contradicts_its_declaration_stays(store: Store, change: dict[str, Any]) -> None:
    """Anybody may declare a digest: the content decides what the node holds."""
    layer = commit(store, 1)
    assert store.verify(layer.digest)
    with pytest.raises(LayerRefused):
        store.verify(replace(layer, **change))
    assert store.is_held(layer.digest)
    assert not list((store.root / "quarantine").iterdir())
