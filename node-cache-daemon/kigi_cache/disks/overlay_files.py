"""Files of this node's overlays: creating, checking, copying and deleting them. All methods block.

    <root>/volumes/<handle>/mount/             what pods see: only this directory is mounted for them
    <root>/volumes/<handle>/mount/disk.img     the overlay, mode 0600, owned by QEMU's user
    <root>/volumes/<handle>/mount/chain/       empty: the layers are mounted over it
    <root>/volumes/<handle>/chain/             hard links to its layers; no pod reaches them
    <root>/volumes/.empty/, .labels/           empty, see ``mounts.mount_layers``
    <root>/volumes/.new/<handle>/              under construction: renamed when complete, deleted at start
    <root>/volumes/.old/<name>/                being deleted: deleted at start

A directory with the name of a handle is complete: a crash at any step leaves either no overlay or a usable one.
Earlier versions had ``disk.img`` beside the links, and mounted both. Such an overlay stays as it is while it is
mounted, and gets the form above before it is mounted again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kigi.domain.layers import Chain, Digest, digest_of_file_name, layer_file_name, parse_digest
from kigi.domain.qcow2 import HEADER_BYTES, check_overlay
from kigi.errors import OverlayMismatch, OverlayRejected, VolumeUnknown
from kigi_cache.disks.cloning import clone_file
from kigi_cache.disks.headroom import OverlaySize
from kigi_cache.filesystem import allocate_behind, fsync, remove

logger = logging.getLogger(__name__)
QEMU_UID = QEMU_GID = 107
"""User of virt-launcher and its QEMU. The kubelet does not change the owner of the file: fsGroupPolicy is None."""
DISK = "disk.img"
CHAIN = "chain"
MOUNT = "mount"
BLOCK_BYTES = 512
"""Unit of ``st_blocks``; see inode(7)."""
VIRTUAL_SIZE_AT = 24
"""Offset of the disk's size in a qcow2 header."""
_HANDLE = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}")


class ChainLinker(Protocol):
    """The part of the layer store that overlays depend on."""

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard-link the verified layers of the chain into ``directory``, each as ``<hex>.qcow2``."""

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """Hard-link these layers, like ``link_chain``."""

    def relink_chain(self, chain: Chain, directory: Path, scratch: Path) -> None:
        """Replace links in ``directory`` that lead to other files than the store's, by way of the empty ``scratch``."""

    def unlink_layers(self, directory: Path) -> None:
        """Delete a directory of links; a missing one is success."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Size of one overlay and of the layers below it, on the disk."""

    allocated_bytes: int
    chain_bytes: int
    layers: int
    """Number of layers below the overlay."""


def is_handle(text: str) -> bool:
    """True for a safe path component: lower-case letters, digits, dashes and dots, at most 253, without ``..``."""
    return _HANDLE.fullmatch(text) is not None and ".." not in text


class OverlayFiles:
    """The overlays in one directory."""

    def __init__(self, root: Path, linker: ChainLinker) -> None:
        """``root``: directory of the cache; its layers are on the same file system."""
        self.root = Path(os.path.realpath(root)) / "volumes"
        self._linker = linker

    def recover(self) -> None:
        """Create the directories, and delete overlays that a crash left incomplete or half deleted."""
        for name in (".new", ".old"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in list(os.scandir(self.root / name)):
                self._delete(Path(entry.path))
        self.root.chmod(0o755)
        self.empty.mkdir(mode=0o755, exist_ok=True)

    @property
    def empty(self) -> Path:
        """An empty directory."""
        return self.root / ".empty"

    @property
    def labels(self) -> Path:
        """Directory for the short-lived mounts of ``overlay_mounts.attach``."""
        return self.root / ".labels"

    def handles(self) -> list[str]:
        """Handles of all complete overlays, sorted."""
        return sorted(entry.name for entry in os.scandir(self.root) if is_handle(entry.name))

    def directory(self, handle: str) -> Path:
        """Directory of an overlay, whether it exists or not."""
        return self.root / handle

    def shown(self, handle: str) -> Path:
        """The directory that is mounted for pods: of an overlay in the earlier form, all of it."""
        inner = self.directory(handle) / MOUNT
        return inner if inner.is_dir() else self.directory(handle)

    def disk(self, handle: str) -> Path:
        """The qcow2 file."""
        return self.shown(handle) / DISK

    def exists(self, handle: str) -> bool:
        """Whether there is a complete overlay."""
        return is_handle(handle) and self.directory(handle).is_dir()

    def require(self, handle: str) -> Path:
        """Directory of an overlay. Raises VolumeUnknown if there is none."""
        if not self.exists(handle):
            raise VolumeUnknown(f"no overlay {handle[:253]} on this node")
        return self.directory(handle)

    # Creating: prepare, then the caller creates the disk, then commit.

    def building(self, handle: str) -> Path:
        """Directory in which the overlay is constructed."""
        return self.root / ".new" / handle

    def prepare(self, handle: str, chain: Chain) -> Path:
        """Start construction: link the layers. Returns the path where the caller must create the qcow2 file."""
        building = self.building(handle)
        self.abandon(handle)
        (building / CHAIN).mkdir(parents=True)
        (building / MOUNT / CHAIN).mkdir(parents=True)
        self._linker.link_chain(chain, building / CHAIN)
        return building / MOUNT / DISK

    def commit(self, handle: str, chain: Chain) -> None:
        """Check the new overlay, make it durable, and publish it under its handle. The rename is the commit."""
        building = self.building(handle)
        disk = building / MOUNT / DISK
        os.chown(disk, QEMU_UID, QEMU_GID)
        disk.chmod(0o600)
        check_header(disk, chain)
        for path in (building, building / CHAIN, building / MOUNT, building / MOUNT / CHAIN):
            path.chmod(0o755)
        for path in (disk, building / CHAIN, building / MOUNT, building):
            fsync(path)
        building.rename(self.directory(handle))
        fsync(self.root)

    def abandon(self, handle: str) -> None:
        """Delete what construction has left, if anything: its links would keep the layers on the disk."""
        self._delete(self.building(handle))

    # Using.

    def check(self, handle: str, chain: Chain) -> None:
        """Check an overlay before it is mounted.

        Raises OverlayMismatch if its layers are not exactly ``chain``, OverlayRejected if its header is not the one
        that it was created with: a guest that reached its disk as raw bytes could have written any other.
        """
        directory = self.directory(handle)
        expected = {layer_file_name(layer.digest) for layer in chain}
        present = set(_names(directory / CHAIN))
        if present != expected:
            raise OverlayMismatch(
                f"overlay {handle} is based on {len(present)} layers that are not the {len(expected)} requested ones; "
                "a new state needs a new volume"
            )
        check_header(self.disk(handle), chain)

    def tidy(self, handle: str) -> None:
        """Make ready for mounting: the present form, with nothing but the disk and an empty ``chain/``.

        Only for an overlay that is not mounted: a pod that had it as root may have left any file, directory or link.
        A crash in between leaves an overlay in the earlier form that the next call completes.
        """
        directory = self.directory(handle)
        shown = directory / MOUNT
        if not _is_directory(shown):
            remove(shown)
            partial = directory / f".{MOUNT}"
            if not _is_directory(partial):
                remove(partial)
                partial.mkdir(mode=0o755)
            if os.path.lexists(directory / DISK):
                os.rename(directory / DISK, partial / DISK)
            fsync(partial)
            os.rename(partial, shown)
            fsync(directory)
        for entry in list(os.scandir(shown)):
            if entry.name not in (DISK, CHAIN):
                logger.warning("foreign file removed", extra={"volume": handle, "file": entry.name[:80]})
                remove(Path(entry.path))
        if not _is_directory(shown / CHAIN) or os.listdir(shown / CHAIN):
            remove(shown / CHAIN)
        (shown / CHAIN).mkdir(mode=0o755, exist_ok=True)

    def make_earlier(self, handle: str) -> None:
        """Give an unmounted overlay the form of v1alpha1, whose daemon knows no other. Repeatable after a crash."""
        directory = self.directory(handle)
        if (directory / DISK).exists() and not (directory / MOUNT).exists() and not (directory / f".{MOUNT}").exists():
            return
        self.tidy(handle)
        partial = directory / f".{MOUNT}"
        os.rename(directory / MOUNT, partial)
        os.rename(partial / DISK, directory / DISK)
        fsync(directory)
        remove(partial)
        fsync(directory)
        logger.info("overlay has the form of v1alpha1", extra={"volume": handle})

    def relink(self, handle: str, chain: Chain) -> None:
        """Replace the links of an unmounted overlay by links to the layers that the store holds now."""
        scratch = self.root / ".new" / uuid.uuid4().hex
        scratch.mkdir()
        try:
            self._linker.relink_chain(chain, self.directory(handle) / CHAIN, scratch)
        finally:
            self._linker.unlink_layers(scratch)

    def measure(self, handle: str, *, parent: str, size: int) -> Extent:
        """Sizes of the overlay now, while its VM may run.

        Raises VolumeUnknown, and OverlayRejected if the overlay does not have ``size`` bytes above layer ``parent``.
        """
        directory = self.require(handle)
        with _plain_file(self.disk(handle)) as descriptor:
            _check_copied(descriptor, parent, size)
            found = os.fstat(descriptor)
        layers = [entry.stat().st_size for entry in os.scandir(directory / CHAIN)]
        return Extent(_used_bytes(found), sum(layers), len(layers))

    def allocated_bytes(self, handle: str) -> int:
        """Bytes that the overlay uses on the disk, without what is allocated behind its end."""
        return _used_bytes(os.stat(self.disk(handle), follow_symlinks=False))

    def size(self, handle: str) -> OverlaySize:
        """Sizes of the overlay's file and disk. Raises OverlayRejected and OSError."""
        with _plain_file(self.disk(handle)) as descriptor:
            virtual = int.from_bytes(os.pread(descriptor, 8, VIRTUAL_SIZE_AT), "big")
            return OverlaySize(handle, os.fstat(descriptor).st_size, virtual)

    def reserve(self, handle: str, size_bytes: int) -> None:
        """Allocate blocks behind the overlay's end. Raises OverlayRejected and OSError."""
        with _plain_file(self.disk(handle), os.O_WRONLY) as descriptor:
            allocate_behind(descriptor, size_bytes)

    def copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int) -> None:
        """Copy the overlay to ``directory/name`` and link its layers into ``directory/chain``.

        The check is made on the copy, because no VM can write to it. Raises OverlayRejected like ``measure``.
        """
        self.clone(handle, directory, name)
        self.finish_copy(handle, directory, name, parent=parent, size=size)

    def clone(self, handle: str, directory: Path, name: str) -> None:
        """The part of ``copy`` for which the overlay must not change."""
        self.require(handle)
        target = directory / name
        with _plain_file(self.disk(handle)) as descriptor, target.open("xb") as file:
            target.chmod(0o600)
            clone_file(descriptor, file.fileno())

    def finish_copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int) -> None:
        """The rest of ``copy``."""
        check_copy(directory / name, parent, size)
        layers = [_layer_of(handle, name) for name in _names(self.require(handle) / CHAIN)]
        self._linker.link_layers(layers, directory / CHAIN)

    def delete(self, handle: str) -> None:
        """Delete the overlay, which must not be mounted. One rename hides it; ``recover`` completes a deletion."""
        grave = self.root / ".old" / uuid.uuid4().hex
        self.directory(handle).rename(grave)
        fsync(self.root)
        self._delete(grave)

    def _delete(self, directory: Path) -> None:
        """Delete an overlay's directory, or one of links only; a missing one is success."""
        self._linker.unlink_layers(directory / CHAIN)
        self._linker.unlink_layers(directory)


def check_header(disk: Path, chain: Chain) -> None:
    """Raise OverlayRejected unless the header is that of a new overlay on ``chain``."""
    with _plain_file(disk) as descriptor:
        _check(descriptor, backing_name(chain[-1].digest), chain[-1].virtual_size_bytes)


def check_copy(copy: Path, parent: str, size: int) -> None:
    """Raise OverlayRejected unless a copy of an overlay has the header of one of ``size`` bytes on layer ``parent``."""
    with _plain_file(copy) as descriptor:
        _check_copied(descriptor, parent, size)


def backing_name(digest: Digest) -> str:
    """Backing file of an overlay on this layer, relative to the overlay, as its header names it."""
    return f"{CHAIN}/{layer_file_name(digest)}"


def _is_directory(path: Path) -> bool:
    """Whether there is a directory, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _names(chain: Path) -> list[str]:
    """Names in a directory of links. Raises OverlayRejected if something else has its place."""
    if not _is_directory(chain):
        raise OverlayRejected(f"{chain.parent.name}/{chain.name} is not a directory")
    return os.listdir(chain)


def _layer_of(handle: str, name: str) -> Digest:
    try:
        return digest_of_file_name(name)
    except ValueError as exc:
        raise OverlayRejected(f"overlay {handle} has a foreign file among its layers: {name[:80]!r}") from exc


def _check_copied(descriptor: int, parent: str, size: int) -> None:
    _check(descriptor, backing_name(parse_digest(parent)), size)


def _check(descriptor: int, backing: str, virtual_size_bytes: int) -> None:
    check_overlay(
        os.pread(descriptor, HEADER_BYTES, 0),
        backing_name=backing,
        virtual_size_bytes=virtual_size_bytes,
        size_bytes=os.fstat(descriptor).st_size,
    )


def _used_bytes(found: os.stat_result) -> int:
    return min(found.st_blocks * BLOCK_BYTES, found.st_size)


@contextlib.contextmanager
def _plain_file(path: Path, access: int = os.O_RDONLY) -> Iterator[int]:
    """Descriptor of a regular file with one name. Links are refused, because they could lead to any file."""
    try:
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise OverlayRejected(f"{path.parent.name}/{path.name} cannot be opened as a file: {exc.strerror}") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OverlayRejected(f"{path.parent.name}/{path.name} is not a regular file with one name")
        yield descriptor
    finally:
        os.close(descriptor)
