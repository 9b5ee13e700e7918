"""The overlays of this node as volumes: published to a pod's target, unpublished, copied and discarded.

The files are in ``overlay_files``, the mounts in ``overlay_mounts``. Only ``discard`` deletes an overlay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.layers import Chain
from kigi.domain.names import volume_of_handle
from kigi.errors import KigiError, VolumeBusy, VolumeDiscarded, VolumeInUse, VolumeUnknown, Waiting
from kigi_cache.disks import overlay_mounts
from kigi_cache.disks.headroom import OverlaySize
from kigi_cache.disks.overlay_files import ChainLinker, Extent, OverlayFiles, backing_name, is_handle
from kigi_cache.filesystem import free_bytes

logger = logging.getLogger(__name__)
CreateOverlay = Callable[[Path, str, int], Awaitable[None]]
"""Path of the new overlay, name of its backing file as written in the header, virtual size in bytes."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One overlay on the disk."""

    handle: str
    mounted: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that one overlay uses, and free bytes of the file system, which all overlays share."""

    used_bytes: int
    available_bytes: int


class Volumes:
    """The overlays below one root. Operations on one overlay do not overlap: the second raises VolumeBusy."""

    def __init__(
        self, root: Path, linker: ChainLinker, create_overlay: CreateOverlay, *, goes_back: bool = False
    ) -> None:
        """``goes_back``: overlays get the form of v1alpha1 as soon as they are not mounted, and none is mounted."""
        self._goes_back = goes_back
        self._files = OverlayFiles(root, linker)
        self._linker = linker
        self._create_overlay = create_overlay
        self._busy: set[str] = set()
        self.to_discard: frozenset[str] = frozenset()
        """Handles of overlays that must be deleted: ``publish`` refuses them."""

    def recover(self) -> None:
        """Clean up after a crash. Blocks; call it before anything else."""
        overlay_mounts.clear(self._files.labels)
        self._files.recover()
        if self._goes_back:
            for volume in self.overlays():
                if not volume.mounted:
                    self._files.make_earlier(volume.handle)

    def overlays(self) -> list[Volume]:
        """Every complete overlay, by handle. Blocks. Cost: one directory and one mount table."""
        handles = self._files.handles()
        mounted = overlay_mounts.mounted_handles(self._files.root, handles)
        return [Volume(handle, handle in mounted) for handle in handles]

    async def publish(self, handle: str, chain: Chain, target: str) -> None:
        """Mount the overlay at ``target``, and create it first if there is none. Idempotent.

        Every layer of the chain must be in the store. Raises OverlayMismatch if the overlay is based on another chain,
        OverlayRejected if its header has changed, VolumeInUse if it is mounted elsewhere or the target is taken,
        VolumeDiscarded if it must be deleted, VolumeBusy, and Waiting if the node goes back.
        """
        async with self._exclusive(handle):
            if self._goes_back:
                raise Waiting("KIGI_OVERLAY_FORM is v1alpha1: this node waits for the previous version of the daemon")
            if handle in self.to_discard:
                raise VolumeDiscarded(f"overlay {handle} is being deleted, because its volume was")
            if not await asyncio.to_thread(self._files.exists, handle):
                await self._create(handle, chain)
            await asyncio.to_thread(self._attach, handle, chain, target)

    async def unpublish(self, handle: str, target: str) -> None:
        """Unmount ``target`` and remove it; the overlay stays. Nothing mounted there is success. Raises VolumeBusy."""
        async with self._exclusive(handle):
            await asyncio.to_thread(overlay_mounts.detach, target)
            if self._goes_back and await asyncio.to_thread(self._is_free, handle):
                await asyncio.to_thread(self._files.make_earlier, handle)

    async def discard(self, handle: str) -> None:
        """Delete the overlay; no such overlay is success. Raises VolumeInUse if it is mounted, and VolumeBusy."""
        async with self._exclusive(handle):
            await asyncio.to_thread(self._discard, handle)

    async def copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int, mounted: bool) -> None:
        """Copy the overlay to ``directory/name``, and link its layers into ``directory/chain``.

        ``mounted``: whether it may be mounted; its VM must then be paused. Raises VolumeUnknown, VolumeBusy,
        VolumeInUse if it is mounted although ``mounted`` is False, and OverlayRejected if its header is not that of an
        overlay of ``size`` bytes on the layer ``parent``.
        """
        async with self._exclusive(handle):
            await asyncio.to_thread(self._copy, handle, directory, name, parent, size, mounted)

    async def clone(self, handle: str, directory: Path, name: str) -> None:
        """The part of ``copy`` for which the VM must be paused. Raises VolumeUnknown and VolumeBusy."""
        async with self._exclusive(handle):
            await asyncio.to_thread(self._files.clone, handle, directory, name)

    async def finish_copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int) -> None:
        """The rest of ``copy``, while the VM may run."""
        async with self._exclusive(handle):
            await asyncio.to_thread(self._files.finish_copy, handle, directory, name, parent=parent, size=size)

    def delete_links(self, directory: Path) -> None:
        """Delete a directory with links to layers, and all else in it; a missing one is success. Blocks."""
        self._linker.unlink_layers(directory)

    def measure(self, handle: str, *, parent: str, size: int) -> Extent:
        """Sizes of the overlay, whose VM may run. Blocks. Raises VolumeUnknown and OverlayRejected like ``copy``."""
        return self._files.measure(handle, parent=parent, size=size)

    def mounted_at(self, handle: str) -> str | None:
        """Where the overlay is mounted; None: nowhere, or there is none. Blocks."""
        if not self._files.exists(handle):
            return None
        return next(iter(overlay_mounts.mount_points(self._files.directory(handle))), None)

    @property
    def empty(self) -> Path:
        """An empty directory that only root can change."""
        return self._files.empty

    def usage(self, handle: str, path: str) -> Usage:
        """Space of an overlay that is mounted at ``path``. Blocks. Raises VolumeUnknown if it is not."""
        directory = self._files.require(handle)
        if not overlay_mounts.is_mounted_at(directory, path):
            raise VolumeUnknown(f"overlay {handle} is not mounted at {path}")
        return Usage(self._files.allocated_bytes(handle), free_bytes(directory))

    def sizes(self) -> list[OverlaySize]:
        """Sizes of all mounted overlays. Blocks. An overlay that cannot be read is left out. Raises OSError."""
        found: list[OverlaySize] = []
        for volume in self.overlays():
            with contextlib.suppress(KigiError, FileNotFoundError):
                if volume.mounted:
                    found.append(self._files.size(volume.handle))
        return found

    def used_bytes(self) -> dict[str, int]:
        """Bytes that each overlay uses, by handle. Blocks. An overlay that cannot be read is left out."""
        found: dict[str, int] = {}
        for handle in self._files.handles():
            if volume_of_handle(handle) is not None:
                with contextlib.suppress(OSError):
                    found[handle] = self._files.allocated_bytes(handle)
        return found

    def reserve(self, handle: str, size_bytes: int) -> None:
        """Allocate blocks behind the end of an overlay, where the file system can. Blocks."""
        try:
            self._files.reserve(handle, size_bytes)
        except (KigiError, OSError) as exc:
            logger.info("no headroom allocated", extra={"volume": handle, "cause": str(exc)})

    @contextlib.asynccontextmanager
    async def _exclusive(self, handle: str) -> AsyncIterator[None]:
        if not is_handle(handle):
            raise VolumeUnknown(f"not a volume handle: {handle[:80]!r}")
        if handle in self._busy:
            raise VolumeBusy(f"another operation on {handle} is under way")
        self._busy.add(handle)
        try:
            yield
        finally:
            self._busy.discard(handle)

    async def _create(self, handle: str, chain: Chain) -> None:
        try:
            disk = await asyncio.to_thread(self._files.prepare, handle, chain)
            top = chain[-1]
            await self._create_overlay(disk, backing_name(top.digest), top.virtual_size_bytes)
            await asyncio.to_thread(self._files.commit, handle, chain)
        finally:
            self._files.abandon(handle)

    def _attach(self, handle: str, chain: Chain, target: str) -> None:
        def prepare() -> None:
            self._files.tidy(handle)
            self._files.check(handle, chain)
            self._files.relink(handle, chain)

        directory = self._files.directory(handle)
        if overlay_mounts.is_mounted_at(directory, target):
            self._files.check(handle, chain)
        overlay_mounts.attach(directory, target, prepare, self._files.empty, self._files.labels)

    def _is_free(self, handle: str) -> bool:
        """Whether there is an overlay that is not mounted."""
        return self._files.exists(handle) and not overlay_mounts.mount_points(self._files.directory(handle))

    def _discard(self, handle: str) -> None:
        self._files.abandon(handle)
        if not self._files.exists(handle):
            return
        points = overlay_mounts.mount_points(self._files.directory(handle))
        if points:
            raise VolumeInUse(f"overlay {handle} is mounted at {points[0]}")
        self._files.delete(handle)

    def _copy(self, handle: str, directory: Path, name: str, parent: str, size: int, mounted: bool) -> None:
        points = overlay_mounts.mount_points(self._files.require(handle))
        if points and not mounted:
            raise VolumeInUse(f"overlay {handle} is mounted at {points[0]}; its VM was off when the copy was requested")
        self._files.copy(handle, directory, name, parent=parent, size=size)
