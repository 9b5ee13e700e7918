"""A mount table in memory, for tests of the daemon that mount often or without root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from kigi.errors import MountFailed
from kigi_cache.disks import mounts
from kigi_cache.disks.mounts import MS_BIND, MS_RDONLY, MS_REMOUNT, Mount
from kigi_cache.disks.overlay_files import CHAIN
from tests.support.faulty_files import REAL

ROOT = Mount("0:1", "/", "/", frozenset({"rw"}), "ext4", "/dev/x")


class FakeMounts:
    """Mounts show nothing; the directory ``chain`` of a mounted overlay is made at its target."""

    def __init__(self) -> None:
        self.table: list[Mount] = [ROOT]

    def list(self) -> list[Mount]:
        return list(self.table)

    def mount(
        self, source: str | None, target: str, flags: int, *, kind: str | None = None, data: str | None = None
    ) -> None:
        point = REAL["readlink"](target) if target.startswith("/proc/self/fd/") else target
        options = frozenset({"ro" if flags & MS_RDONLY else "rw"})
        if flags & MS_REMOUNT:
            last = self.table.pop()
            self.table.append(Mount(last.device, last.root, last.point, options, last.kind, last.source))
        elif flags & MS_BIND:
            with contextlib.suppress(FileExistsError):
                REAL["mkdir"](os.path.join(point, CHAIN))
            self.table.append(Mount("0:1", str(source), point, options, "ext4", "/dev/x"))
        else:
            self.table.append(Mount(f"0:{len(self.table) + 50}", "/", point, options, kind or "", str(source)))

    def unmount(self, target: str) -> None:
        found = next((mount for mount in reversed(self.table) if mount.point == target), None)
        if found is None:
            raise MountFailed(f"{target} is not mounted")
        self.table.remove(found)
        if Path(target).name != CHAIN:
            with contextlib.suppress(FileNotFoundError):
                REAL["rmdir"](os.path.join(target, CHAIN))

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The daemon's module uses this table within the block."""
        with (
            mock.patch.object(mounts, "list_mounts", self.list),
            mock.patch.object(mounts, "_mount", self.mount),
            mock.patch.object(mounts, "unmount", self.unmount),
        ):
            yield
