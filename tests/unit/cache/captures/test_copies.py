"""What is copied, kept and deleted, and what is reported meanwhile."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from kigi.errors import OverlayRejected, VolumeBusy, VolumeUnknown
from kigi_cache.captures.copies import PERSIST_RETRY_S, Captures
from kigi_cache.captures.files import COPY, HEARTBEAT, ORDER, RESULT, UPLOAD, read_json, write_json
from kigi_cache.clock import Clock
from kigi_cache.disks.volumes import Volumes
from tests.support.cluster import eventually_async
from tests.support.copies import PARENT, Overlays, order
from tests.support.manual_clock import ManualClock


class Node:
    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self.root = root / "captures"
        self.overlays = Overlays()
        self.free = 10_000
        self.captures = Captures(
            root,
            cast(Volumes, self.overlays),
            clock=clock or Clock(),
            min_free_bytes=50,
            free_bytes=lambda: self.free,
        )
        self.captures.recover()
        (self.root / HEARTBEAT).touch()

    def reports(self) -> dict[str, tuple[str, str | None]]:
        return {report.id: (report.state, report.reason) for report in self.captures.reports()}

    async def durable(self, id_: str) -> Path:
        await eventually_async((self.root / id_ / ORDER).exists, 10)
        return self.root / id_


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    await made.captures.close()


async def test_an_ordered_copy_is_made_once_and_then_made_durable(node: Node) -> None:
    assert await node.captures.reconcile([order()]) is False
    assert node.reports() == {"c1": ("Copied", None)}
    directory = await node.durable("c1")
    assert (directory / COPY).read_bytes() == b"x" * 40
    (report,) = node.captures.reports()
    assert read_json(directory / ORDER) == {
        "copyUid": report.copy_uid,
        "parent": PARENT,
        "repository": "default",
        "copiedBytes": 40,
        "virtualSizeBytes": 512,
        "minFreeBytes": 50,
    }
    assert await node.captures.reconcile([order()]) is False
    assert node.overlays.copies == 1


async def test_a_copy_that_cannot_be_made_durable_is_retried_at_a_bounded_pace(tmp_path: Path) -> None:
    time = ManualClock()
    node = Node(tmp_path, time.clock)
    (node.root / "c1" / "chain").mkdir(parents=True)
    (node.root / "c1" / COPY).symlink_to("elsewhere")  # fsync refuses it: ELOOP
    for _ in range(20):
        await node.captures.reconcile([order(action="Keep")])
    assert await time.next_wake() == PERSIST_RETRY_S
    assert time.pending() == [PERSIST_RETRY_S]
    (node.root / "c1" / COPY).unlink()
    (node.root / "c1" / COPY).write_bytes(b"x")
    time.advance(PERSIST_RETRY_S)
    while not (node.root / "c1" / ORDER).exists():
        await node.captures.reconcile([order(action="Keep")])
    await node.captures.close()


async def test_a_copy_without_an_order_is_deleted_and_forgotten(node: Node) -> None:
    await node.captures.reconcile([order("c1"), order("c2")])
    await node.durable("c1")
    await node.captures.reconcile([order("c2")])
    assert node.reports().keys() == {"c2"}
    assert not (node.root / "c1").exists()


@pytest.mark.parametrize("error", [OverlayRejected("forged"), VolumeBusy("busy"), OSError(errno.EIO, "broken")])
async def test_a_failed_copy_is_reported_and_tried_again(node: Node, error: Exception) -> None:
    node.overlays.error = error
    assert await node.captures.reconcile([order()]) is True
    assert node.reports()["c1"] == ("Refused", getattr(error, "reason", "Error"))
    node.overlays.error = None
    assert await node.captures.reconcile([order()]) is False
    assert node.reports()["c1"] == ("Copied", None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_fills_while_copying_is_named(node: Node, number: int) -> None:
    node.overlays.error = OSError(number, "no space")
    await node.captures.reconcile([order()])
    assert node.reports()["c1"] == ("Refused", "NoRoom")


async def test_a_copy_without_space_is_not_begun(node: Node) -> None:
    node.free = 100
    assert await node.captures.reconcile([order()]) is True
    assert (node.reports()["c1"], node.overlays.copies) == (("Refused", "NoRoom"), 0)


async def test_one_failed_copy_does_not_hold_back_the_others(node: Node) -> None:
    failures = iter([OverlayRejected("forged"), None])

    def next_error() -> None:
        node.overlays.error = next(failures)

    node.overlays.before_copy = next_error
    assert await node.captures.reconcile([order("c1"), order("c2")]) is True
    assert sorted(node.reports().values(), key=str) == [("Copied", None), ("Refused", "OverlayRejected")]


async def test_a_vm_that_never_started_is_unchanged_without_a_copy(node: Node) -> None:
    node.overlays.error = VolumeUnknown("no overlay")
    assert await node.captures.reconcile([order(mounted=False)]) is False
    assert node.reports() == {"c1": ("Unchanged", None)}
    assert not node.captures.is_waiting()


async def test_a_running_vm_without_an_overlay_is_refused(node: Node) -> None:
    node.overlays.error = VolumeUnknown("no overlay")
    assert await node.captures.reconcile([order(mounted=True)]) is True
    assert node.reports() == {"c1": ("Refused", "VolumeUnknown")}


async def test_an_order_to_keep_makes_no_copy(node: Node) -> None:
    assert await node.captures.reconcile([order(action="Keep")]) is False
    assert (node.reports(), node.overlays.copies) == ({"c1": ("Lost", "CaptureMissing")}, 0)
    assert not node.captures.is_waiting()


async def test_a_copy_waits_until_its_result_is_final(node: Node) -> None:
    await node.captures.reconcile([order()])
    directory = await node.durable("c1")
    assert node.captures.is_waiting()
    write_json(directory / RESULT, {"state": "Stored", "digest": "sha256:" + "2" * 64})
    assert not node.captures.is_waiting()
    assert node.reports() == {"c1": ("Stored", None)}


async def test_a_check_is_answered_without_a_copy(node: Node) -> None:
    await node.captures.reconcile([order(action="Check")])
    assert node.reports() == {"c1": ("Possible", None)}
    assert not (node.root / "c1").exists()


async def test_a_copy_keeps_its_uid_and_one_that_is_made_anew_has_another(node: Node, tmp_path: Path) -> None:
    def uids(of: Node) -> dict[str, str | None]:
        return {report.id: report.copy_uid for report in of.captures.reports()}

    await node.captures.reconcile([order("c1"), order("c2")])
    first = uids(node)
    await node.durable("c1")
    (await node.durable("c2") / ORDER).unlink()
    assert uids(node) == first
    again = Node(tmp_path)
    await again.captures.reconcile([order("c1"), order("c2")])
    assert uids(again)["c1"] == first["c1"]
    assert uids(again)["c2"] not in (None, first["c2"]), "the daemon ended before the copy was durable"


async def test_a_durable_copy_outlives_the_process_and_a_doubtful_one_is_lost(node: Node, tmp_path: Path) -> None:
    await node.captures.reconcile([order("c1"), order("c2")])
    await node.durable("c1")
    (await node.durable("c2") / ORDER).unlink()
    again = Node(tmp_path)
    await again.captures.reconcile([order("c1", action="Keep"), order("c2", action="Keep")])
    assert again.reports() == {"c1": ("Copied", None), "c2": ("Lost", "CaptureMissing")}


UPLOAD_OF_C1 = {
    "digest": "sha256:" + "2" * 64,
    "sizeBytes": 7,
    "request": {"url": "http://s3.example/x", "time": "20260301T120000Z", "authorization": "signed"},
    "parts": [],
}


async def test_the_publisher_gets_each_upload_once_and_again_after_a_restart(node: Node, tmp_path: Path) -> None:
    await node.captures.reconcile([order(upload=UPLOAD_OF_C1)])
    directory = await node.durable("c1")
    keep = order(action="Keep", upload=UPLOAD_OF_C1)
    await node.captures.reconcile([keep])
    assert read_json(directory / UPLOAD) == UPLOAD_OF_C1
    written = (directory / UPLOAD).stat()
    await node.captures.reconcile([keep])
    assert (directory / UPLOAD).stat().st_ino == written.st_ino
    stored = {key: value for key, value in UPLOAD_OF_C1.items() if key != "request"}
    await node.captures.reconcile([order(action="Keep", upload=stored)])
    assert read_json(directory / UPLOAD) == stored
    (directory / UPLOAD).unlink()
    again = Node(tmp_path)
    await again.captures.reconcile([keep])
    assert read_json(directory / UPLOAD) == UPLOAD_OF_C1


async def test_an_upload_that_cannot_be_written_is_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.captures.reconcile([order()])
    directory = await node.durable("c1")

    def full(path: Path, data: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    keep = order(action="Keep", upload=UPLOAD_OF_C1)
    with monkeypatch.context() as patch:
        patch.setattr("kigi_cache.captures.files.write_json", full)
        await node.captures.reconcile([keep])
    assert not (directory / UPLOAD).exists()
    await node.captures.reconcile([keep])
    assert read_json(directory / UPLOAD) == UPLOAD_OF_C1
