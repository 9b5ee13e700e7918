"""Overlays of this node: making, checking, mounting and deleting them.

    <root>/volumes/<handle>/disk.img   the overlay, 0600, of QEMU's user
    <root>/volumes/<handle>/chain/     hard links of its layers
    <root>/volumes/.new/<handle>/      being made: renamed when complete, deleted at start
    <root>/volumes/.old/<name>/        being deleted: deleted at start

A directory under its handle is complete, so that a crash at any step leaves either nothing or a usable overlay. Only
``discard`` deletes one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kigi.domain.layers import Chain, Digest, digest_hex, parse_digest
from kigi.domain.qcow2 import HEADER_BYTES, check_overlay
from kigi.errors import (
    OverlayMismatch,
    OverlayRejected,
    VolumeBusy,
    VolumeDiscarded,
    VolumeInUse,
    VolumeUnknown,
)
from kigi_cache.disks import mounts
from kigi_cache.disks.cloning import clone_file
from kigi_cache.disks.mounts import Mount

QEMU_UID = QEMU_GID = 107
"""User of virt-launcher and its QEMU; nothing else ever changes the owner of a claim's disk."""
DISK = "disk.img"
CHAIN = "chain"
_HANDLE = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}")


class ChainLinker(Protocol):
    """What overlays need of the store."""

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard links of the chain's verified layers in ``directory``, each named ``<hex>.qcow2``."""

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """The same of layers by their digests."""


CreateOverlay = Callable[[Path, str, int], Awaitable[None]]
"""Path of the new overlay, name of its backing file as written in the header, virtual size in bytes."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One overlay on the disk."""

    handle: str
    mounted: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that one overlay takes, and bytes that its file system has left for all."""

    used_bytes: int
    available_bytes: int


def is_handle(text: str) -> bool:
    """A name that is one harmless path component: lower-case letters, digits, dash and dot, at most 253."""
    return _HANDLE.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, slots=True)
class Extent:
    """How large one overlay and what it stands on are, on the disk."""

    allocated_bytes: int
    chain_bytes: int
    """Of all layers below it."""
    layers: int


class Volumes:
    """The overlays below one root. One operation at a time on each; a second one is refused at once, not queued."""

    def __init__(self, root: Path, linker: ChainLinker, create_overlay: CreateOverlay) -> None:
        self._root = Path(os.path.realpath(root)) / "volumes"
        self._linker = linker
        self._create_overlay = create_overlay
        self._busy: set[str] = set()
        self.condemned: frozenset[str] = frozenset()
        """Handles that shall be deleted: none of them is mounted any more."""

    def recover(self) -> None:
        """Make the directories, and delete what a crash left half made or half deleted. Blocks; call it at start."""
        for name in (".new", ".old"):
            shutil.rmtree(self._root / name, ignore_errors=True)
            (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root.chmod(0o755)

    def overlays(self) -> list[Volume]:
        """Every complete overlay, by handle. Cost: one directory and one mount table."""
        names = sorted(entry.name for entry in os.scandir(self._root) if is_handle(entry.name))
        table = mounts.list_mounts()
        device, root = mounts.source_of(table, str(self._root))
        shown = {mount.root for mount in table if mount.device == device}
        return [Volume(name, os.path.join(root, name) in shown) for name in names]

    async def publish(self, handle: str, chain: Chain, target: str) -> None:
        """Mount the overlay of ``handle`` on ``target``, made anew if there is none; again and again gives the same.

        Every layer of the chain must be in the store. Raises OverlayMismatch when the overlay stands on another chain,
        OverlayRejected when its header is not as it was made, VolumeInUse when it is mounted elsewhere or the target
        is taken, VolumeBusy during another operation.
        """
        async with self._only_one(handle):
            if handle in self.condemned:
                raise VolumeDiscarded(f"overlay {handle} is being deleted, because its volume was")
            if not await asyncio.to_thread(self._exists, handle):
                await self._create(handle, chain)
            await asyncio.to_thread(self._attach, handle, chain, target)

    async def unpublish(self, handle: str, target: str) -> None:
        """Unmount ``target`` and remove it; the overlay stays. Nothing mounted there is success."""
        async with self._only_one(handle):
            await asyncio.to_thread(self._detach, target)

    async def discard(self, handle: str) -> None:
        """Delete the overlay. Raises VolumeInUse when it is mounted; no such overlay is success."""
        async with self._only_one(handle):
            await asyncio.to_thread(self._discard, handle)

    async def copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int, mounted: bool) -> None:
        """The overlay as it is now, as ``directory/name``, and links of its layers in ``directory/chain``.

        ``mounted`` says that a VM has it, which must stand still. Raises VolumeUnknown, VolumeBusy, VolumeInUse when it
        is mounted against that word, OverlayRejected when its header is not that of an overlay of ``size`` bytes above
        the layer ``parent``.
        """
        async with self._only_one(handle):
            await asyncio.to_thread(self._copy, handle, directory, name, parent, size, mounted)

    def measure(self, handle: str, *, parent: str, size: int) -> Extent:
        """The overlay as it is now; its VM may run. Blocks. Raises VolumeUnknown, or OverlayRejected as ``copy``."""
        if not is_handle(handle) or not self._exists(handle):
            raise VolumeUnknown(f"no overlay {handle} on this node")
        with _plain_file(self._root / handle / DISK) as descriptor:
            _check_copied(descriptor, parent, size)
            found = os.fstat(descriptor)
        layers = [entry.stat().st_size for entry in os.scandir(self._root / handle / CHAIN)]
        return Extent(found.st_blocks * 512, sum(layers), len(layers))

    def usage(self, handle: str, path: str) -> Usage:
        """Space of an overlay that is mounted at ``path``; VolumeUnknown unless it is."""
        if not self._exists(handle):
            raise VolumeUnknown(f"no overlay {handle} on this node")
        if not any(mount.point == _real(path) for mount in self._mounts_of(handle)):
            raise VolumeUnknown(f"overlay {handle} is not mounted at {path}")
        found = os.stat(self._root / handle / DISK, follow_symlinks=False)
        space = os.statvfs(self._root / handle)
        return Usage(found.st_blocks * 512, space.f_bavail * space.f_frsize)

    @contextlib.asynccontextmanager
    async def _only_one(self, handle: str) -> AsyncIterator[None]:
        if not is_handle(handle):
            raise VolumeUnknown(f"not a volume handle: {handle[:80]!r}")
        if handle in self._busy:
            raise VolumeBusy(f"another operation on {handle} is under way")
        self._busy.add(handle)
        try:
            yield
        finally:
            self._busy.discard(handle)

    def _exists(self, handle: str) -> bool:
        return (self._root / handle).is_dir()

    async def _create(self, handle: str, chain: Chain) -> None:
        """Build under ``.new``, then rename: the rename is the commit."""
        building = self._root / ".new" / handle
        try:
            await asyncio.to_thread(self._prepare, building, chain)
            top = chain[-1]
            await self._create_overlay(building / DISK, _backing_name(chain), top.virtual_size_bytes)
            await asyncio.to_thread(self._commit, building, chain, self._root / handle)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)  # its links would keep the layers from ever leaving
            raise

    def _prepare(self, building: Path, chain: Chain) -> None:
        shutil.rmtree(building, ignore_errors=True)
        (building / CHAIN).mkdir(parents=True)
        self._linker.link_chain(chain, building / CHAIN)

    def _commit(self, building: Path, chain: Chain, final: Path) -> None:
        disk = building / DISK
        os.chown(disk, QEMU_UID, QEMU_GID)
        disk.chmod(0o600)
        self._check_header(disk, chain)
        building.chmod(0o755)
        (building / CHAIN).chmod(0o755)
        for path in (disk, building / CHAIN, building):
            _sync(path)
        building.rename(final)
        _sync(self._root)

    def _attach(self, handle: str, chain: Chain, target: str) -> None:
        """Check the overlay, then mount it and its chain. A crash in between is found as a mount without its chain."""
        directory = self._root / handle
        self._check_chain(directory, chain)
        self._check_header(directory / DISK, chain)
        place = _real(target)
        elsewhere = sorted({m.point for m in self._mounts_of(handle)} - {place})
        if elsewhere:
            raise VolumeInUse(f"overlay {handle} is still mounted at {elsewhere[0]}; one VM at a time may write to it")
        shown, chain_shown = self._shown(directory), self._shown(directory / CHAIN)
        here = [mount for mount in mounts.list_mounts() if mount.point in (place, os.path.join(place, CHAIN))]
        if any((mount.device, mount.root) not in (shown, chain_shown) for mount in here):
            raise VolumeInUse(f"something else is mounted at {target}")
        if sorted((m.device, m.root, "ro" in m.options) for m in here) == [(*shown, False), (*chain_shown, True)]:
            return
        self._detach(target)
        os.makedirs(place, mode=0o750, exist_ok=True)
        if os.path.islink(place):
            raise VolumeInUse(f"{target} is a symbolic link")
        self._link_healed(directory / CHAIN, chain)
        mounts.bind(str(directory), place, read_only=False)
        mounts.bind(str(directory / CHAIN), os.path.join(place, CHAIN), read_only=True)

    def _detach(self, target: str) -> None:
        place = _real(target)
        inside = [m for m in mounts.list_mounts() if m.point == place or m.point.startswith(place + "/")]
        for mount in sorted(inside, key=lambda mount: len(mount.point), reverse=True):
            mounts.unmount(mount.point)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(place)

    def _discard(self, handle: str) -> None:
        """Out of sight by one rename, then deleted; a crash leaves the rest to ``recover``."""
        shutil.rmtree(self._root / ".new" / handle, ignore_errors=True)
        directory = self._root / handle
        if not directory.is_dir():
            return
        used = self._mounts_of(handle)
        if used:
            raise VolumeInUse(f"overlay {handle} is mounted at {used[0].point}")
        grave = self._root / ".old" / uuid.uuid4().hex
        directory.rename(grave)
        _sync(self._root)
        shutil.rmtree(grave)

    def _copy(self, handle: str, directory: Path, name: str, parent: str, size: int, mounted: bool) -> None:
        """What is checked is the copy: nobody else writes to that."""
        source = self._root / handle
        if not source.is_dir():
            raise VolumeUnknown(f"no overlay {handle} on this node")
        used = self._mounts_of(handle)
        if used and not mounted:
            raise VolumeInUse(f"overlay {handle} is mounted at {used[0].point}; its VM was off when it was asked for")
        target = directory / name
        with _plain_file(source / DISK) as descriptor, target.open("xb") as file:
            target.chmod(0o600)
            clone_file(descriptor, file.fileno())
        with target.open("rb") as file:
            _check_copied(file.fileno(), parent, size)
        # Of the store's files: where mounts propagate, the volume's chain is a mount of its own, and no link leaves it.
        layers = [parse_digest(f"sha256:{name.removesuffix('.qcow2')}") for name in os.listdir(source / CHAIN)]
        self._linker.link_layers(layers, directory / CHAIN)

    def _mounts_of(self, handle: str) -> list[Mount]:
        """Where the overlay (not its chain) is mounted."""
        shown = self._shown(self._root / handle)
        return [mount for mount in mounts.list_mounts() if (mount.device, mount.root) == shown]

    def _shown(self, directory: Path) -> tuple[str, str]:
        return mounts.source_of(mounts.list_mounts(), str(directory))

    def _check_chain(self, directory: Path, chain: Chain) -> None:
        """The overlay stands on exactly this chain; its directory holds no other layers."""
        wanted = {f"{digest_hex(layer.digest)}.qcow2" for layer in chain}
        present = set(os.listdir(directory / CHAIN))
        if present != wanted:
            raise OverlayMismatch(
                f"overlay {directory.name} stands on {len(present)} other layers than the {len(wanted)} asked for; "
                "a new state needs a new volume"
            )

    def _check_header(self, disk: Path, chain: Chain) -> None:
        """The header is ours: a guest that reached its disk as raw could have written any other."""
        with _plain_file(disk) as descriptor:
            header = os.pread(descriptor, HEADER_BYTES, 0)
            size_bytes = os.fstat(descriptor).st_size
        check_overlay(
            header,
            backing_name=_backing_name(chain),
            virtual_size_bytes=chain[-1].virtual_size_bytes,
            size_bytes=size_bytes,
        )

    def _link_healed(self, directory: Path, chain: Chain) -> None:
        """Link the layers of an unmounted overlay anew, so that it uses those that the store holds now."""
        fresh = self._root / ".new" / uuid.uuid4().hex
        fresh.mkdir()
        try:
            self._linker.link_chain(chain, fresh)
            for name in os.listdir(fresh):
                # rename(2) does nothing, and keeps both names, when they are links of one file
                if not os.path.samefile(fresh / name, directory / name):
                    os.replace(fresh / name, directory / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _check_copied(descriptor: int, parent: str, size: int) -> None:
    """The header is that of an overlay of ``size`` bytes above the layer ``parent``; OverlayRejected."""
    check_overlay(
        os.pread(descriptor, HEADER_BYTES, 0),
        backing_name=f"{CHAIN}/{parent.removeprefix('sha256:')}.qcow2",
        virtual_size_bytes=size,
        size_bytes=os.fstat(descriptor).st_size,
    )


def _backing_name(chain: Chain) -> str:
    return f"{CHAIN}/{digest_hex(chain[-1].digest)}.qcow2"


def _real(target: str) -> str:
    """The target as the mount table names it: its parents may be links (a kubelet directory), it is none itself."""
    parent, name = os.path.split(os.path.normpath(target))
    return os.path.join(os.path.realpath(parent), name)


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[int]:
    """Descriptor of a regular file with one name; a link of either kind could lead anywhere."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise OverlayRejected(f"{path.parent.name}/{path.name} cannot be opened as a file: {exc.strerror}") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OverlayRejected(f"{path.parent.name}/{path.name} is not a regular file with one name")
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
