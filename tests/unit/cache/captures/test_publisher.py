"""When the publisher tries a copy, and what it writes about it; storing itself is an integration test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kigi_cache.captures.files import COPY, HEARTBEAT, HEARTBEAT_S, RESULT, CopyFiles, read_json, write_json
from kigi_cache.captures.publisher import (
    CHECK_S,
    PROGRESS_S,
    REFUSED_RETRY_S,
    RETRY_S,
    Publisher,
    UploadProgress,
    retry_wait_s,
)
from kigi_cache.disks.overlay_files import CHAIN
from tests.support.copies import PARENT
from tests.support.manual_clock import ManualClock


class Node:
    def __init__(self, root: Path) -> None:
        self.files = CopyFiles(root)
        self.files.recover()
        self.time = ManualClock()
        self.repositories = root / "repositories.yaml"
        self.publisher = Publisher(root, self.repositories, self.time.clock)

    def copy(self, id_: str, **order: object) -> Path:
        building = self.files.begin(id_)
        (building / COPY).write_bytes(b"x")
        self.files.commit(id_)
        self.files.make_durable(id_, {"parent": PARENT, "repository": "default", **order})
        return self.files.directory(id_)

    def due(self) -> list[str]:
        return [path.name for path in self.publisher.due()]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_durable_copies_without_a_final_result_are_due(node: Node) -> None:
    assert node.due() == []
    for id_ in ("new", "storing", "stored", "unchanged"):
        node.copy(id_)
    for id_, state in (("storing", "Storing"), ("stored", "Stored"), ("unchanged", "Unchanged")):
        write_json(node.files.directory(id_) / RESULT, {"state": state})
    node.files.begin("half")
    node.files.commit("half")
    assert node.due() == ["new", "storing"]


async def test_a_refusal_that_a_person_must_mend_is_retried_after_a_minute(node: Node) -> None:
    directory = node.copy("c1", repository="elsewhere")
    node.repositories.write_text("repositories: {default: {endpoint: 'http://s3.example', bucket: kigi}}")
    await node.publisher.publish(directory)
    result = read_json(directory / RESULT)
    assert (result["state"], result["reason"]) == ("Refused", "RepositoryUnknown")
    assert node.due() == []
    node.time.advance(REFUSED_RETRY_S)
    assert node.due() == ["c1"]


def test_a_copy_that_cannot_be_stored_for_a_week_is_tried_each_minute() -> None:
    waits = [retry_wait_s(RETRY_S, failures) for failures in range(1, 7 * 24 * 60)]
    assert waits[:5] == [5, 10, 20, 40, 60]
    assert set(waits[5:]) == {REFUSED_RETRY_S}
    assert {retry_wait_s(REFUSED_RETRY_S, failures) for failures in (1, 2, 10_000)} == {REFUSED_RETRY_S}


async def test_a_layer_that_would_use_the_reserve_waits_for_space(node: Node) -> None:
    directory = node.copy("c1", minFreeBytes=2**62)
    node.repositories.write_text("repositories: {default: {endpoint: 'http://s3.example', bucket: kigi}}")
    await node.publisher.publish(directory)
    result = read_json(directory / RESULT)
    assert (result["state"], result["reason"]) == ("Refused", "NoRoom")
    assert "KIGI_MIN_FREE" in result["message"]
    for wait_s in (RETRY_S, 2 * RETRY_S):
        node.time.advance(wait_s - 0.5)
        assert node.due() == []
        node.time.advance(0.5)
        assert node.due() == ["c1"]
        await node.publisher.publish(directory)


async def test_scratch_files_of_a_killed_publisher_are_deleted(node: Node) -> None:
    directory = node.copy("c1", minFreeBytes=2**62)
    node.repositories.write_text("repositories: {default: {endpoint: 'http://s3.example', bucket: kigi}}")
    (directory / CHAIN / ".publish-1").mkdir()
    await node.publisher.publish(directory)
    assert list((directory / CHAIN).iterdir()) == []


async def test_a_copy_that_is_deleted_meanwhile_leaves_nothing(node: Node) -> None:
    directory = node.copy("c1")
    node.files.delete("c1")
    await node.publisher.publish(directory)
    assert not directory.exists()


async def test_the_publisher_shows_that_it_lives(node: Node) -> None:
    task = asyncio.create_task(node.publisher.run())
    assert await node.time.next_wake() == CHECK_S
    assert (node.files.root / HEARTBEAT).exists()
    (node.files.root / HEARTBEAT).unlink()
    while not (node.files.root / HEARTBEAT).exists():
        assert node.time.now_s <= HEARTBEAT_S
        node.time.advance(CHECK_S)
        await node.time.next_wake()
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_publisher_shows_that_it_lives_after_a_disk_that_was_full(tmp_path: Path) -> None:
    time = ManualClock()
    task = asyncio.create_task(Publisher(tmp_path / "absent", None, time.clock).run())
    await time.next_wake()
    (tmp_path / "absent" / "captures").mkdir(parents=True)
    while not (tmp_path / "absent" / "captures" / HEARTBEAT).exists():
        assert time.now_s <= HEARTBEAT_S
        time.advance(CHECK_S)
        await time.next_wake()
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_publisher_forgets_copies_that_are_gone(node: Node) -> None:
    node.repositories.write_text("repositories: {default: {endpoint: 'http://s3.example', bucket: kigi}}")
    for id_ in ("gone", "here"):
        await node.publisher.publish(node.copy(id_, repository="elsewhere"))
    node.files.delete("gone")
    assert node.due() == []
    node.copy("gone", repository="elsewhere")
    assert node.due() == ["gone"], "a new copy of the same name does not wait for the old one's retry"


def test_progress_is_written_once_a_second_and_never_beyond_the_layer(tmp_path: Path) -> None:
    time = ManualClock(now_s=100.0)
    progress = UploadProgress(tmp_path, {"digest": PARENT, "sizeBytes": 10}, time.clock)

    def uploaded() -> int | None:
        return read_json(tmp_path / RESULT).get("uploadedBytes")

    progress.add(3)
    assert uploaded() == 3
    progress.add(3)
    assert uploaded() == 3
    time.advance(PROGRESS_S + 0.1)
    progress.add(6)
    assert read_json(tmp_path / RESULT) == {"state": "Storing", "digest": PARENT, "sizeBytes": 10, "uploadedBytes": 10}
