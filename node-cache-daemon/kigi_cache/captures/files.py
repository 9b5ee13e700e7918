"""Files of frozen copies, through which the daemon and the publisher communicate. All functions block.

    <root>/captures/<id>/copy.qcow2        the overlay as it was
    <root>/captures/<id>/chain/            hard links to its layers
    <root>/captures/<id>/order.json        the publisher's task; written when the copy is durable
    <root>/captures/<id>/upload.json       the operator's answer to the publisher's layer: how to store it
    <root>/captures/<id>/out/              of the publisher: the new layer is built here
    <root>/captures/<id>/out/result.json   the publisher's progress and result
    <root>/captures/<id>/out/attempts.json how often the publisher has begun to make the layer
    <root>/captures/.publisher             touched by the publisher every HEARTBEAT_S
    <root>/captures/.new/<id>/             under construction: deleted at start
    <root>/captures/.old/<name>/           being deleted: deleted at start

A directory without order.json was not durable when the daemon ended; it is deleted at start. All belongs to root, as
which the daemon runs, and the publisher's group may read it; only ``out`` and ``.publisher`` are its user's. So
the publisher changes no layer, copy or order, whatever it does, and the daemon reads with care what is in ``out``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kigi_cache.disks.overlay_files import CHAIN
from kigi_cache.filesystem import fsync, remove

logger = logging.getLogger(__name__)

PUBLISHER_UID = PUBLISHER_GID = 65532
"""User of the container capture-publisher: the user kigi of the image."""
COPY = "copy.qcow2"
ORDER = "order.json"
UPLOAD = "upload.json"
PAUSE = ("stopTime", "continueTime")
"""Fields of order.json."""
OUT = "out"
RESULT = f"{OUT}/result.json"
"""Relative to the copy's directory, as ORDER is."""
ATTEMPTS = f"{OUT}/attempts.json"
MAX_JSON_BYTES = 2**16
HEARTBEAT = ".publisher"
HEARTBEAT_S = 5.0
FINAL_STATES = ("Stored", "Unchanged")
"""States after which the publisher has nothing more to do."""
_ID = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def is_id(text: str) -> bool:
    """True for a DNS label, which is a safe path component."""
    return _ID.fullmatch(text) is not None


class CopyFiles:
    """The copies below one root."""

    def __init__(self, root: Path, delete: Callable[[Path], None] = remove) -> None:
        """``root``: directory of the cache. ``delete`` deletes a directory of links to layers."""
        self.root = Path(os.path.realpath(root)) / "captures"
        self._delete_links = delete

    def recover(self) -> None:
        """Create the directories, and delete what a crash left incomplete, not durable or half deleted."""
        for name in (".new", ".old"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in list(os.scandir(self.root / name)):
                try:
                    self._remove(Path(entry.path))
                except OSError as exc:  # the publisher's directory may have any depth
                    logger.warning("copy not deleted", extra={"path": entry.path, "cause": exc.strerror})
        _share(self.root, 0o750)
        self._make_heartbeat()
        for id_ in self.ids():
            if self.is_durable(id_):
                _give_to_publisher(self.directory(id_))
            else:
                self.delete(id_)

    def ids(self) -> list[str]:
        """Ids of all copies, sorted."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.root) if is_id(entry.name))
        return []

    def directory(self, id_: str) -> Path:
        """Directory of a copy, whether it exists or not."""
        return self.root / id_

    def is_durable(self, id_: str) -> bool:
        """Whether the copy survives a power cut."""
        return (self.directory(id_) / ORDER).exists()

    def building(self, id_: str) -> Path:
        """Directory in which a copy is made."""
        return self.root / ".new" / id_

    def begin(self, id_: str) -> Path:
        """A new directory in which to make the copy."""
        building = self.building(id_)
        self._remove(building)
        for name in (CHAIN, OUT):
            (building / name).mkdir(parents=True, mode=0o700)
        return building

    def abandon(self, id_: str) -> None:
        """Delete a copy under construction; none is success. Raises OSError."""
        self._remove(self.building(id_))

    def mark_unchanged(self, id_: str) -> None:
        """Complete a copy under construction as one of a disk that was never written to."""
        building = self.building(id_)
        write_json(building / RESULT, {"state": "Unchanged"})
        write_json(building / ORDER, {})

    def commit(self, id_: str) -> None:
        """Give the copy its owners and its final name. It is not durable yet."""
        building = self.building(id_)
        _give_to_publisher(building)
        building.rename(self.directory(id_))

    def make_durable(self, id_: str, order: Mapping[str, Any]) -> None:
        """Flush the copy to the disk and write its order; a copy that is deleted meanwhile is ignored."""
        directory = self.directory(id_)
        with contextlib.suppress(FileNotFoundError):
            for path in (directory / COPY, directory / CHAIN, directory, self.root):
                fsync(path)
            write_json(directory / ORDER, order)

    def write_upload(self, id_: str, upload: Mapping[str, Any]) -> None:
        """Replace the copy's upload; one that is deleted meanwhile is ignored."""
        with contextlib.suppress(FileNotFoundError):
            write_json(self.directory(id_) / UPLOAD, upload)

    def delete(self, id_: str) -> None:
        """Delete a copy; none is success. One rename hides it; ``recover`` completes a deletion."""
        grave = self.root / ".old" / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            self.directory(id_).rename(grave)
            self._remove(grave)

    def _make_heartbeat(self) -> None:
        """A file that the publisher can touch; a new one is no heartbeat."""
        path = self.root / HEARTBEAT
        if not os.path.lexists(path):
            path.touch(mode=0o640)
            os.utime(path, (0.0, 0.0))
        os.chown(path, PUBLISHER_UID, PUBLISHER_GID, follow_symlinks=False)

    def _remove(self, directory: Path) -> None:
        self._delete_links(directory / CHAIN)
        self._delete_links(directory)

    def result(self, id_: str) -> dict[str, Any]:
        """What the publisher has written about the copy; empty before."""
        return read_json(self.directory(id_) / RESULT)

    def copy_uid(self, id_: str) -> str | None:
        """Random id of a durable copy; None before it is durable."""
        found = read_json(self.directory(id_) / ORDER).get("copyUid")
        return found if isinstance(found, str) else None

    def pause(self, id_: str) -> dict[str, str]:
        """Times of the pause in which a durable copy was made, if the daemon paused its VM; otherwise empty."""
        order = read_json(self.directory(id_) / ORDER)
        found = {name: order.get(name) for name in PAUSE}
        return {name: text for name, text in found.items() if isinstance(text, str)}

    def ordered_at_s(self, id_: str) -> float | None:
        """When the copy became durable, in seconds since the epoch; None before."""
        return _modified_s(self.directory(id_) / ORDER)

    def publisher_seen_s(self) -> float | None:
        """Time of the publisher's last heartbeat, in seconds since the epoch; None if there was none."""
        return _modified_s(self.root / HEARTBEAT) or None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace the file, durably; a reader gets the old content or the new, whatever its user is."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with new.open("x") as file:
        os.fchmod(file.fileno(), 0o644)
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of at most MAX_JSON_BYTES; empty for anything else, such as a link or a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return {}
            found = json.loads(file.read(MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _share(path: Path, mode: int) -> None:
    """The publisher's group gets the rights of ``mode``; the owner stays root. Raises OSError; ELOOP for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, -1, PUBLISHER_GID)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _give_to_publisher(directory: Path) -> None:
    """Owners and modes of a copy that is complete. Also of one that an earlier version made, whose result moves.

    Nothing in ``out`` is touched once it is the publisher's: a name there may be a link to a layer.
    """
    out = directory / OUT
    if not os.path.lexists(out):
        out.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            (directory / Path(RESULT).name).rename(directory / RESULT)
    if os.lstat(out).st_uid != PUBLISHER_UID:
        for path in (directory / RESULT, out):
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, PUBLISHER_UID, PUBLISHER_GID, follow_symlinks=False)
    for name, mode in ((CHAIN, 0o750), (COPY, 0o440), ("", 0o750)):
        with contextlib.suppress(FileNotFoundError):
            _share(directory / name, mode)


def _modified_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
