"""Files of this node's overlays: creating, checking, copying and deleting them. All methods block.

    <root>/volumes/<handle>/disk.img   the overlay, mode 0600, owned by QEMU's user
    <root>/volumes/<handle>/chain/     hard links to its layers
    <root>/volumes/.new/<handle>/      under construction: renamed when complete, deleted at start
    <root>/volumes/.old/<name>/        being deleted: deleted at start

A directory with the name of a handle is complete: a crash at any step leaves either no overlay or a usable one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
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
from kigi_cache.filesystem import fsync

QEMU_UID = QEMU_GID = 107
"""User of virt-launcher and its QEMU. The kubelet does not change the owner of the file: fsGroupPolicy is None."""
DISK = "disk.img"
CHAIN = "chain"
BLOCK_BYTES = 512
"""Unit of ``st_blocks``; see inode(7)."""
_HANDLE = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}")


class ChainLinker(Protocol):
    """The part of the layer store that overlays depend on."""

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard-link the verified layers of the chain into ``directory``, each as ``<hex>.qcow2``."""

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """Hard-link these layers, like ``link_chain``."""


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
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o755)

    def handles(self) -> list[str]:
        """Handles of all complete overlays, sorted."""
        return sorted(entry.name for entry in os.scandir(self.root) if is_handle(entry.name))

    def directory(self, handle: str) -> Path:
        """Directory of an overlay, whether it exists or not."""
        return self.root / handle

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
        shutil.rmtree(building, ignore_errors=True)
        (building / CHAIN).mkdir(parents=True)
        self._linker.link_chain(chain, building / CHAIN)
        return building / DISK

    def commit(self, handle: str, chain: Chain) -> None:
        """Check the new overlay, make it durable, and publish it under its handle. The rename is the commit."""
        building = self.building(handle)
        disk = building / DISK
        os.chown(disk, QEMU_UID, QEMU_GID)
        disk.chmod(0o600)
        check_header(disk, chain)
        building.chmod(0o755)
        (building / CHAIN).chmod(0o755)
        for path in (disk, building / CHAIN, building):
            fsync(path)
        building.rename(self.directory(handle))
        fsync(self.root)

    def abandon(self, handle: str) -> None:
        """Delete what construction has left, if anything: its links would keep the layers on the disk."""
        shutil.rmtree(self.building(handle), ignore_errors=True)

    # Using.

    def check(self, handle: str, chain: Chain) -> None:
        """Check an overlay before it is mounted.

        Raises OverlayMismatch if its layers are not exactly ``chain``, OverlayRejected if its header is not the one
        that it was created with: a guest that reached its disk as raw bytes could have written any other.
        """
        directory = self.directory(handle)
        expected = {layer_file_name(layer.digest) for layer in chain}
        present = set(os.listdir(directory / CHAIN))
        if present != expected:
            raise OverlayMismatch(
                f"overlay {handle} is based on {len(present)} layers that are not the {len(expected)} requested ones; "
                "a new state needs a new volume"
            )
        check_header(directory / DISK, chain)

    def relink(self, handle: str, chain: Chain) -> None:
        """Replace the links of an unmounted overlay by links to the layers that the store holds now."""
        directory = self.directory(handle) / CHAIN
        fresh = self.root / ".new" / uuid.uuid4().hex
        fresh.mkdir()
        try:
            self._linker.link_chain(chain, fresh)
            for name in os.listdir(fresh):
                # rename(2) does nothing, and keeps both names, if they are links to one file
                if not os.path.samefile(fresh / name, directory / name):
                    os.replace(fresh / name, directory / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def measure(self, handle: str, *, parent: str, size: int) -> Extent:
        """Sizes of the overlay now, while its VM may run.

        Raises VolumeUnknown, and OverlayRejected if the overlay does not have ``size`` bytes above layer ``parent``.
        """
        directory = self.require(handle)
        with _plain_file(directory / DISK) as descriptor:
            _check_copied(descriptor, parent, size)
            found = os.fstat(descriptor)
        layers = [entry.stat().st_size for entry in os.scandir(directory / CHAIN)]
        return Extent(found.st_blocks * BLOCK_BYTES, sum(layers), len(layers))

    def allocated_bytes(self, handle: str) -> int:
        """Bytes that the overlay uses on the disk."""
        return os.stat(self.directory(handle) / DISK, follow_symlinks=False).st_blocks * BLOCK_BYTES

    def copy(self, handle: str, directory: Path, name: str, *, parent: str, size: int) -> None:
        """Copy the overlay to ``directory/name`` and link its layers into ``directory/chain``.

        The check is made on the copy, because no VM can write to it. Raises OverlayRejected like ``measure``.
        """
        source = self.require(handle)
        target = directory / name
        with _plain_file(source / DISK) as descriptor, target.open("xb") as file:
            target.chmod(0o600)
            clone_file(descriptor, file.fileno())
        with target.open("rb") as file:
            _check_copied(file.fileno(), parent, size)
        # Links to the store's files: where mounts propagate, the volume's chain is a mount of its own, and link(2)
        # does not cross mounts.
        layers = [digest_of_file_name(name) for name in os.listdir(source / CHAIN)]
        self._linker.link_layers(layers, directory / CHAIN)

    def delete(self, handle: str) -> None:
        """Delete the overlay, which must not be mounted. One rename hides it; ``recover`` completes a deletion."""
        grave = self.root / ".old" / uuid.uuid4().hex
        self.directory(handle).rename(grave)
        fsync(self.root)
        shutil.rmtree(grave)


def check_header(disk: Path, chain: Chain) -> None:
    """Raise OverlayRejected unless the header is that of a new overlay on ``chain``."""
    with _plain_file(disk) as descriptor:
        _check(descriptor, backing_name(chain[-1].digest), chain[-1].virtual_size_bytes)


def backing_name(digest: Digest) -> str:
    """Backing file of an overlay on this layer, relative to the overlay, as its header names it."""
    return f"{CHAIN}/{layer_file_name(digest)}"


def _check_copied(descriptor: int, parent: str, size: int) -> None:
    _check(descriptor, backing_name(parse_digest(parent)), size)


def _check(descriptor: int, backing: str, virtual_size_bytes: int) -> None:
    check_overlay(
        os.pread(descriptor, HEADER_BYTES, 0),
        backing_name=backing,
        virtual_size_bytes=virtual_size_bytes,
        size_bytes=os.fstat(descriptor).st_size,
    )


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[int]:
    """Descriptor of a regular file with one name. Links are refused, because they could lead to any file."""
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
