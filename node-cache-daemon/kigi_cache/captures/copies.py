"""Frozen copies of overlays, of which layers are made.

    <root>/captures/<id>/copy.qcow2    the overlay as it was
    <root>/captures/<id>/chain/        hard links of its layers; the new layer is made here
    <root>/captures/<id>/order.json    what the publisher has to know; written when the copy is on the disk
    <root>/captures/<id>/result.json   what became of it, by the publisher (kigi_cache.publisher)
    <root>/captures/.publisher         touched by the publisher while it runs
    <root>/captures/.new/<id>/         being made: deleted at start
    <root>/captures/.old/<name>/       being deleted: deleted at start

The VM stands still until the copy is reported: it is made by a reference where the file system can, else by copying the
bytes that the overlay holds. Flushing them to the disk and everything else comes after that. A directory without an
order is one that a crash left before it was safe; it is deleted at start, and never made again for an order to Keep.
Before any VM stands still, an order to Check is answered with what speaks against a copy or its layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.domain.layers import MAX_DEPTH
from kigi.errors import ChainTooDeep, KigiError, NoRoom, PublisherSilent, VolumeUnknown, Waiting
from kigi_cache.captures.space import Need, need_of, no_room, shortages, together
from kigi_cache.disks.volumes import CHAIN, Volumes

logger = logging.getLogger(__name__)

COPY = "copy.qcow2"
ORDER = "order.json"
RESULT = "result.json"
BEAT = ".publisher"
BEAT_S = 5.0
SILENT_AFTER_S = 60.0
"""A publisher that has not touched its file for so long is taken for dead."""
SETTLE_RETRY_S = 5.0
"""After the disk refused to make a copy last."""
FINAL = ("Stored", "Unchanged")
_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Copied:
    """What copying took."""

    size_bytes: int
    milliseconds: int


class Captures:
    """The copies below one root. ``act`` is called by one task alone."""

    def __init__(
        self,
        root: Path,
        volumes: Volumes,
        *,
        min_free_bytes: int = 0,
        max_depth: Callable[[str], int] = lambda repository: MAX_DEPTH,
        make_room: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """``min_free_bytes`` of the file system are left to others. ``max_depth``: layers that a repository takes above
        each other, by its name; raises RepositoryUnknown. ``make_room``: what nobody needs leaves the disk, if that
        gives as many bytes."""
        self._root = Path(os.path.realpath(root)) / "captures"
        self._volumes = volumes
        self._min_free_bytes = min_free_bytes
        self._max_depth = max_depth
        self._make_room = make_room
        self._answers: dict[str, KigiError | None] = {}
        self._copied: dict[str, Copied] = {}
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, KigiError] = {}
        self._orders: Mapping[str, CaptureOrder] = {}

    def recover(self) -> None:
        """Make the directories, and delete what a crash left half made, unsafe or half deleted. Blocks."""
        for name in (".new", ".old"):
            shutil.rmtree(self._root / name, ignore_errors=True)
            (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o700)
        for name in self._present():
            if not (self._root / name / ORDER).exists():
                self._delete(name)

    async def act(self, orders: Sequence[CaptureOrder]) -> bool:
        """Make the copies that are ordered and not there, delete those that nobody orders; True: call again soon.

        All copies of one call are made at once: their VMs stand still together.
        """
        self._orders = {order.id: order for order in orders}
        present = set(await asyncio.to_thread(self._present))
        for name in sorted(present - self._orders.keys()):
            task = self._settling.pop(name, None)
            if task is not None:
                task.cancel()
            await asyncio.to_thread(self._delete, name)
        for known in (self._copied, self._refused):
            for name in set(known) - self._orders.keys():
                del known[name]
        missing = [order for order in orders if order.id not in present and order.action == "Copy"]
        full = await asyncio.to_thread(self._without_room, missing) if missing else {}
        self._refused.update(full)
        done = await asyncio.gather(*(self._try(order) for order in missing if order.id not in full))
        checks = [order for order in orders if order.action == "Check"]
        self._answers = await self._answer(checks) if checks else {}
        unsettled = [name for name in self._orders.keys() & present if not self._is_safe(name)]
        for name in unsettled:
            self._settle_later(self._orders[name])
        return bool(full) or not all(done)

    def reports(self) -> list[CaptureReport]:
        """One for each order, by id. O(orders), one small file each."""
        return [self._report(order) for _, order in sorted(self._orders.items())]

    def is_waiting(self) -> bool:
        """Some copy has no final result: what the publisher says of it may change."""
        return any(report.state not in (*FINAL, "Lost") for report in self.reports())

    async def close(self) -> None:
        """End what runs behind the copies."""
        for task in self._settling.values():
            task.cancel()
        await asyncio.gather(*self._settling.values(), return_exceptions=True)

    async def _answer(self, orders: Sequence[CaptureOrder]) -> dict[str, KigiError | None]:
        """What speaks against each, when what nobody needs has left the disk for it."""
        answers = await asyncio.to_thread(self._check, orders)
        if self._make_room is None or not any(isinstance(answer, NoRoom) for answer in answers.values()):
            return answers
        await self._make_room(together(need for _, need in await asyncio.to_thread(self._needs, orders)))
        return await asyncio.to_thread(self._check, orders)

    def _check(self, orders: Sequence[CaptureOrder]) -> dict[str, KigiError | None]:
        """What speaks against each, by id. Blocks; costs a few calls of the file system for each."""
        answers: dict[str, KigiError | None] = {order.id: self._obstacle(order) for order in orders}
        answers.update(self._without_room([order for order in orders if answers[order.id] is None]))
        return answers

    def _obstacle(self, order: CaptureOrder) -> KigiError | None:
        try:
            most = self._max_depth(order.repository)
            found = self._volumes.measure(order.volume, parent=order.parent, size=order.virtual_size_bytes)
        except VolumeUnknown:
            return None  # never started: nobody has written to it
        except KigiError as exc:
            return exc
        except OSError as exc:
            return KigiError(f"overlay {order.volume} cannot be read: {exc.strerror}")
        if found.layers >= most:
            return ChainTooDeep(
                f"its chain has {found.layers} layers, and repository {order.repository} takes {most} "
                f"(repositories.{order.repository}.maxDepth)"
            )
        return self._silence(0.0)

    def _without_room(self, orders: Sequence[CaptureOrder]) -> dict[str, KigiError]:
        """Those of the orders whose copies the disk has no room for, by id. Blocks."""
        needs = self._needs(orders)
        short = shortages(needs, free_bytes=free_bytes(self._root), min_free_bytes=self._min_free_bytes)
        return {name: no_room(size, self._min_free_bytes) for name, size in short.items()}

    def _needs(self, orders: Sequence[CaptureOrder]) -> list[tuple[str, Need]]:
        """By id, in the order of the orders. Blocks."""
        needs: list[tuple[str, Need]] = []
        for order in orders:
            # What cannot be measured is refused where it is copied, by name.
            with contextlib.suppress(KigiError, OSError):
                found = self._volumes.measure(order.volume, parent=order.parent, size=order.virtual_size_bytes)
                needs.append(
                    (
                        order.id,
                        need_of(
                            allocated_bytes=found.allocated_bytes,
                            chain_bytes=found.chain_bytes,
                            virtual_bytes=order.virtual_size_bytes,
                        ),
                    )
                )
        return needs

    def _silence(self, waiting_since: float) -> PublisherSilent | None:
        """Of the publisher, since that time of the file system's clock."""
        beat = _modified(self._root / BEAT)
        if not is_silent(beat, waiting_since, time.time()):
            return None
        return PublisherSilent(
            "the container capture-publisher beside the cache daemon does not run, so that no layer is made; it goes "
            "on by itself when it does"
        )

    def _report(self, order: CaptureOrder) -> CaptureReport:
        if order.action == "Check":
            refusal = self._answers.get(order.id, Waiting("it was not looked at yet"))
            if refusal is None:
                return CaptureReport.model_validate({"id": order.id, "state": "Possible"})
            return CaptureReport.model_validate({"id": order.id, "state": "Refused", **_words(refusal)})
        directory = self._root / order.id
        copied = self._copied.get(order.id)
        told = _load(directory / RESULT) if directory.is_dir() else {}
        figures = {"copiedBytes": copied.size_bytes, "copyMilliseconds": copied.milliseconds} if copied else {}
        if not directory.is_dir():
            error = self._refused.get(order.id)
            if error is not None:
                told = {"state": "Refused", **_words(error)}
            else:
                told = {
                    "state": "Lost" if order.action == "Keep" else "Refused",
                    "reason": "CaptureMissing",
                    "message": f"there is no copy {order.id} on this node",
                }
        elif told.get("state") not in FINAL and (since := _modified(directory / ORDER)) is not None:
            silence = self._silence(since)
            told = {**told, **_words(silence)} if silence is not None else told
        try:
            return CaptureReport.model_validate({"state": "Copied", **told, **figures, "id": order.id})
        except ValidationError:
            return CaptureReport.model_validate({"id": order.id, "state": "Copied", **figures})

    async def _try(self, order: CaptureOrder) -> bool:
        try:
            await self._make(order)
        except KigiError as exc:
            self._refused[order.id] = exc
            logger.warning("overlay not copied", extra={"volume": order.volume, "cause": str(exc)})
            return False
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            self._refused[order.id] = NoRoom(f"copy of {order.volume}: {exc.strerror}") if full else KigiError(str(exc))
            logger.warning("overlay not copied", extra={"volume": order.volume, "cause": str(exc)})
            return False
        self._refused.pop(order.id, None)
        return True

    async def _make(self, order: CaptureOrder) -> None:
        building = self._root / ".new" / order.id
        started = time.monotonic()
        await asyncio.to_thread(_fresh, building)
        try:
            await self._volumes.copy(
                order.volume, building, COPY, parent=order.parent, size=order.virtual_size_bytes, mounted=order.mounted
            )
        except VolumeUnknown:
            if order.mounted:
                raise
            # Its VM was not started since it was given that disk: nobody can have written to it.
            await asyncio.to_thread(_say_unchanged, building)
        await asyncio.to_thread(building.rename, self._root / order.id)
        if self._is_safe(order.id):
            return
        size_bytes = (self._root / order.id / COPY).stat().st_size
        self._copied[order.id] = Copied(size_bytes, round(1000 * (time.monotonic() - started)))
        logger.info("overlay copied", extra={"volume": order.volume, "capture": order.id, "size_bytes": size_bytes})
        self._settle_later(order)

    def _settle_later(self, order: CaptureOrder) -> None:
        """Behind the report that lets the VM go on."""
        if order.id not in self._settling or self._settling[order.id].done():
            self._settling[order.id] = asyncio.create_task(self._settle_soon(order))

    async def _settle_soon(self, order: CaptureOrder) -> None:
        try:
            await asyncio.to_thread(self._settle, order)
        except OSError as exc:  # tried again by the next ``act``, which is called twice a second
            logger.warning("copy not settled", extra={"capture": order.id, "cause": exc.strerror})
            await asyncio.sleep(SETTLE_RETRY_S)

    def _settle(self, order: CaptureOrder) -> None:
        directory = self._root / order.id
        copied = self._copied.get(order.id)
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            for path in (directory / COPY, directory / CHAIN, directory, self._root):
                _sync(path)
            write_json(
                directory / ORDER,
                {
                    "parent": order.parent,
                    "repository": order.repository,
                    "copiedBytes": copied.size_bytes if copied else 0,
                    "virtualSizeBytes": order.virtual_size_bytes,
                    "minFreeBytes": self._min_free_bytes,
                },
            )

    def _is_safe(self, name: str) -> bool:
        return (self._root / name / ORDER).exists()

    def _present(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self._root) if is_id(entry.name))
        return []

    def _delete(self, name: str) -> None:
        grave = self._root / ".old" / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            (self._root / name).rename(grave)
            shutil.rmtree(grave, ignore_errors=True)


def _say_unchanged(directory: Path) -> None:
    write_json(directory / RESULT, {"state": "Unchanged"})
    write_json(directory / ORDER, {})


def is_silent(beat: float | None, waiting_since: float, now: float) -> bool:
    """Whether the publisher is to be taken for dead; times in seconds of one clock, ``beat`` the last sign of life.

    What has only just begun to wait for it has not waited long enough to tell.
    """
    return now - max(beat or 0.0, waiting_since) > SILENT_AFTER_S


def free_bytes(path: Path) -> int:
    """Bytes free in the file system of ``path``, for whoever may not use the reserve."""
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_frsize


def is_id(text: str) -> bool:
    """A name that is one harmless path component: a DNS label."""
    return _ID.fullmatch(text) is not None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replaces the file; whoever reads it sees the old text or the new one."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with new.open("w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _words(error: KigiError) -> dict[str, str]:
    return {"reason": error.reason, "message": str(error)[:4096]}


def _fresh(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    (directory / CHAIN).mkdir(parents=True, mode=0o700)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
