"""When the publisher tries a copy, and what it writes about it; storing itself is an integration test."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import resource
import threading
from pathlib import Path

import pytest

from kigi.domain.layers import TABLES_BYTES, Digest, layer_file_name
from kigi.errors import KigiError, LayerRefused, NoRoom, RepositoryUnreachable
from kigi_cache.captures import publisher
from kigi_cache.captures.files import COPY, HEARTBEAT, HEARTBEAT_S, ORDER, OUT, RESULT, CopyFiles, read_json, write_json
from kigi_cache.captures.publisher import (
    CHECK_S,
    MAX_REFUSALS,
    PROGRESS_S,
    REFUSED_RETRY_S,
    RETRY_S,
    Publisher,
    UploadProgress,
    limit_files,
    retry_wait_s,
)
from tests.support.chains import run
from tests.support.copies import PARENT
from tests.support.layers import VIRTUAL_BYTES
from tests.support.manual_clock import ManualClock

SETTINGS = '{"endpoint": "http://s3.example", "bucket": "kigi"}'


class Node:
    def __init__(self, root: Path) -> None:
        self.files = CopyFiles(root)
        self.files.recover()
        self.time = ManualClock()
        self.repositories = root / "repositories"
        self.repositories.mkdir()
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
    (node.repositories / "default.json").write_text(SETTINGS)
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
    (node.repositories / "default.json").write_text(SETTINGS)
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


@pytest.mark.parametrize("how", [LayerRefused("tables", "bad"), SystemExit("out of memory")], ids=["refused", "killed"])
async def test_attempts_are_limited_across_restarts_of_the_publisher(
    node: Node, how: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = node.copy("c1")
    (node.repositories / "default.json").write_text(SETTINGS)
    begun: list[Path] = []

    def check_copy(path: Path, *_: object) -> None:
        begun.append(path)
        raise how

    monkeypatch.setattr(publisher, "check_copy", check_copy)
    for _ in range(MAX_REFUSALS + 5):
        with contextlib.suppress(SystemExit):
            await Publisher(node.files.root.parent, node.repositories, node.time.clock).publish(directory)
    assert len(begun) == MAX_REFUSALS
    result = read_json(directory / RESULT)
    assert (result["state"], result["reason"]) == ("Refused", "LayerRefused")
    assert f"in {MAX_REFUSALS} attempts" in result["message"]


async def test_an_orderly_end_of_the_publisher_is_no_attempt(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = node.copy("c1")
    (node.repositories / "default.json").write_text(SETTINGS)
    loop = asyncio.get_running_loop()
    for _ in range(MAX_REFUSALS + 2):
        begun, go = asyncio.Event(), threading.Event()

        def check_copy(*_: object, begun: asyncio.Event = begun, go: threading.Event = go) -> None:
            loop.call_soon_threadsafe(begun.set)
            go.wait()

        monkeypatch.setattr(publisher, "check_copy", check_copy)
        own = Publisher(node.files.root.parent, node.repositories, node.time.clock)
        task = asyncio.create_task(own.publish(directory))
        waits = asyncio.create_task(begun.wait())
        await asyncio.wait({task, waits}, return_when=asyncio.FIRST_COMPLETED)
        assert begun.is_set(), read_json(directory / RESULT)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go.set()
        assert task.cancelled(), "the publisher ends"


async def test_a_waiting_layer_is_cut_again_when_the_repositorys_limit_changes(node: Node) -> None:
    mib, settings = 2**20, json.loads(SETTINGS)

    def limit(most_bytes: int) -> None:
        (node.repositories / "default.json").write_text(json.dumps({**settings, "max_put_bytes": most_bytes}))

    directory = node.copy("c1")
    content = bytes(12 * mib)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    (directory / OUT / layer_file_name(Digest(digest))).write_bytes(content)
    write_json(directory / RESULT, {"state": "Storing", "digest": digest})
    numbers = []
    for most_bytes in (20 * mib, 5 * mib, 7 * mib, 11 * mib, 20 * mib):
        limit(most_bytes)
        assert node.due() == ["c1"]
        await node.publisher.publish(directory)
        assert node.due() == [], "it waits for requests"
        numbers.append(len(read_json(directory / RESULT).get("parts", ())))
        if len(numbers) in (2, 4):  # it has sent its parts
            node.publisher._joining["c1"] = node.time.now_s
    assert numbers == [0, 3, 2, 2, 0]
    node.publisher._joining.clear()
    (node.repositories / "default.json").unlink()
    assert node.due() == [], "settings that are missing for now"


async def test_errors_that_pass_do_not_count_as_attempts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = node.copy("c1")
    (node.repositories / "default.json").write_text(SETTINGS)
    errors: list[Exception] = [NoRoom("full"), OSError("full"), RepositoryUnreachable("down")] * MAX_REFUSALS

    def check_copy(*_: object) -> None:
        raise errors.pop()

    monkeypatch.setattr(publisher, "check_copy", check_copy)
    while errors:
        await node.publisher.publish(directory)
        assert "attempts" not in read_json(directory / RESULT)["message"]


async def test_scratch_files_of_a_killed_publisher_are_deleted(node: Node) -> None:
    directory = node.copy("c1", minFreeBytes=2**62)
    (node.repositories / "default.json").write_text(SETTINGS)
    (directory / OUT / ".publish-1").mkdir()
    await node.publisher.publish(directory)
    assert [path.name for path in (directory / OUT).iterdir()] == ["result.json"]


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
    (node.repositories / "default.json").write_text(SETTINGS)
    for id_ in ("gone", "here"):
        await node.publisher.publish(node.copy(id_, repository="elsewhere"))
    node.files.delete("gone")
    assert node.due() == []
    node.copy("gone", repository="elsewhere")
    assert node.due() == ["gone"], "a new copy of the same name does not wait for the old one's retry"


def test_progress_is_written_once_a_second_and_stays_below_the_layer(tmp_path: Path) -> None:
    time = ManualClock(now_s=100.0)
    (tmp_path / OUT).mkdir()
    progress = UploadProgress(tmp_path, {"digest": PARENT, "sizeBytes": 10}, time.clock)

    def uploaded() -> int | None:
        return read_json(tmp_path / RESULT).get("uploadedBytes")

    progress.add(3)
    assert uploaded() == 3
    progress.add(3)
    assert uploaded() == 3
    time.advance(PROGRESS_S + 0.1)
    progress.add(6)
    assert uploaded() == 9, "the server has not answered the last request"
    assert read_json(tmp_path / RESULT) == {"state": "Storing", "digest": PARENT, "sizeBytes": 10, "uploadedBytes": 9}


@pytest.mark.parametrize(("error", "is_final"), [(LayerRefused("tables", "x"), True), (NoRoom("full"), False)])
async def test_a_copy_whose_content_is_refused_is_tried_a_few_times(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: KigiError, is_final: bool
) -> None:
    async def refuse(self: Publisher, directory: Path) -> None:
        raise error

    monkeypatch.setattr(Publisher, "_publish", refuse)
    directory = node.copy("bad")
    for _ in range(MAX_REFUSALS):
        assert node.due() == ["bad"]
        await node.publisher.publish(directory)
        node.time.advance(REFUSED_RETRY_S + 1)
    assert node.due() == ([] if is_final else ["bad"])
    assert read_json(directory / RESULT)["reason"] == error.reason


def test_no_file_becomes_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[object] = []
    monkeypatch.setattr("resource.setrlimit", lambda kind, limit: limits.append((kind, limit)))
    limit_files(2**31)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert limits == [(resource.RLIMIT_FSIZE, (2**31, most))]


async def test_the_limit_of_files_is_set_for_the_disk_of_each_copy(node: Node) -> None:
    limits: list[int] = []
    (node.repositories / "default.json").write_text(SETTINGS)
    publisher = Publisher(node.files.root.parent, node.repositories, node.time.clock, limits.append)
    await publisher.publish(node.copy("c1", virtualSizeBytes=2**31))
    assert limits == [2**31 + TABLES_BYTES]
    assert read_json(node.files.directory("c1") / RESULT)["reason"] == "OverlayRejected", "the copy is no qcow2 file"


async def test_a_copy_with_another_header_is_not_given_to_qemu(node: Node, tmp_path: Path) -> None:
    """Its backing file is beside it, where publishing would accept any: only the overlay's own is right."""
    (node.repositories / "default.json").write_text(SETTINGS)
    directory = node.copy("c1", virtualSizeBytes=VIRTUAL_BYTES)
    run(
        "qemu-img",
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-b",
        ORDER,
        "-F",
        "qcow2",
        "o",
        str(VIRTUAL_BYTES),
        cwd=tmp_path,
    )
    (tmp_path / "o").rename(directory / COPY)
    for _ in range(MAX_REFUSALS):
        assert node.due() == ["c1"]
        await node.publisher.publish(directory)
        node.time.advance(REFUSED_RETRY_S + 1)
    assert read_json(directory / RESULT)["reason"] == "OverlayRejected"
    assert node.due() == []
