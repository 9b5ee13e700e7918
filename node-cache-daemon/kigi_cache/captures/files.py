"""Files of frozen copies, through which the daemon and the publisher communicate. All functions block.

    <root>/captures/<id>/copy.qcow2    the overlay as it was
    <root>/captures/<id>/chain/        hard links to its layers; the new layer is built here
    <root>/captures/<id>/order.json    the publisher's task; written when the copy is durable
    <root>/captures/<id>/result.json   the publisher's progress and result
    <root>/captures/.publisher         touched by the publisher every HEARTBEAT_S
    <root>/captures/.new/<id>/         under construction: deleted at start
    <root>/captures/.old/<name>/       being deleted: deleted at start

A directory without order.json was not durable when the daemon ended; it is deleted at start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kigi_cache.disks.overlay_files import CHAIN
from kigi_cache.filesystem import fsync

COPY = "copy.qcow2"
ORDER = "order.json"
RESULT = "result.json"
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

    def __init__(self, root: Path) -> None:
        """``root``: directory of the cache."""
        self.root = Path(os.path.realpath(root)) / "captures"

    def recover(self) -> None:
        """Create the directories, and delete what a crash left incomplete, not durable or half deleted."""
        for name in (".new", ".old"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for id_ in self.ids():
            if not self.is_durable(id_):
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

    def begin(self, id_: str) -> Path:
        """A new directory in which to make the copy."""
        building = self.root / ".new" / id_
        shutil.rmtree(building, ignore_errors=True)
        (building / CHAIN).mkdir(parents=True, mode=0o700)
        return building

    def mark_unchanged(self, id_: str) -> None:
        """Complete a copy under construction as one of a disk that was never written to."""
        building = self.root / ".new" / id_
        write_json(building / RESULT, {"state": "Unchanged"})
        write_json(building / ORDER, {})

    def commit(self, id_: str) -> None:
        """Give the copy its final name. It is not durable yet."""
        (self.root / ".new" / id_).rename(self.directory(id_))

    def make_durable(self, id_: str, order: Mapping[str, Any]) -> None:
        """Flush the copy to the disk and write its order; a copy that is deleted meanwhile is ignored."""
        directory = self.directory(id_)
        with contextlib.suppress(FileNotFoundError):
            for path in (directory / COPY, directory / CHAIN, directory, self.root):
                fsync(path)
            write_json(directory / ORDER, order)

    def delete(self, id_: str) -> None:
        """Delete a copy; none is success. One rename hides it; ``recover`` completes a deletion."""
        grave = self.root / ".old" / uuid.uuid4().hex
        with contextlib.suppress(FileNotFoundError):
            self.directory(id_).rename(grave)
            shutil.rmtree(grave, ignore_errors=True)

    def result(self, id_: str) -> dict[str, Any]:
        """What the publisher has written about the copy; empty before."""
        return read_json(self.directory(id_) / RESULT)

    def ordered_at_s(self, id_: str) -> float | None:
        """When the copy became durable, in seconds since the epoch; None before."""
        return _modified_s(self.directory(id_) / ORDER)

    def publisher_seen_s(self) -> float | None:
        """Time of the publisher's last heartbeat, in seconds since the epoch; None if there was none."""
        return _modified_s(self.root / HEARTBEAT)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace the file, durably; a reader gets the old content or the new."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with new.open("w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none, or not a JSON object."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _modified_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
