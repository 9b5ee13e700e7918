"""Makes a layer of a disk image and stores it: inspect, take the difference, prove it equal, upload."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.adapters import qemu_img
from kigi.adapters.s3 import LayerRepository, Progress
from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer, digest_hex, digest_of_hex
from kigi.domain.qcow2 import HEADER_BYTES, check_layer, parse_header
from kigi.errors import ChainTooDeep, LayerRefused, NoRoom, SpecInvalid, VirtualSizeShrinks
from kigi.publishing.layer_writer import (
    CLUSTER,
    ZEROS,
    Difference,
    compare,
    is_canonical,
    with_backing,
    write_layer,
)
from kigi.publishing.source import Source, inspect


@dataclass(frozen=True, slots=True)
class Published:
    """A layer that is in the repository."""

    layer: Layer
    sent: bool
    """False: the repository had it."""


class LayerFolder:
    """A folder of layers, each under ``<hex>.qcow2``: what a parent's chain is read from.

    Nothing in it is trusted for its name: in the life of this object each file is hashed before its first use.
    """

    def __init__(self, path: Path, progress: Progress = lambda count: None) -> None:
        """``progress`` is told the bytes of each layer that is there and right."""
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._progress = progress
        self.made_of: dict[Path, Digest] = {}
        """What was published in the life of this object: source file -> layer."""
        self._verified: set[Digest] = set()

    def file(self, digest: Digest) -> Path:
        """Where that layer is, if it is there."""
        return self.path / f"{digest_hex(digest)}.qcow2"

    def files(self, chain: Chain) -> list[Path]:
        """The chain's files, the top first."""
        return [self.file(layer.digest) for layer in reversed(chain)]

    async def chain(self, top: Digest, repository: LayerRepository) -> Chain:
        """The chain below and with ``top``, root first, each file present and right; what is not is fetched.

        A layer's header names its parent, so no API server is needed. Raises ChainTooDeep, LayerRefused, or what a
        fetch raises.
        """
        layers: list[Layer] = []
        digest: Digest | None = top
        while digest is not None:
            if len(layers) >= MAX_DEPTH:
                raise ChainTooDeep(
                    f"layer {top}: more than {MAX_DEPTH} layers to the root; shorten it with 'kigi flatten'"
                )
            if digest not in self._verified:
                if not await asyncio.to_thread(self._is_right, digest):
                    await repository.fetch(digest, self.file(digest))
                self._progress(self.file(digest).stat().st_size)
            self._verified.add(digest)
            header = parse_header(_head(self.file(digest)))
            parent = _parent_of(digest, header.backing_file)
            size_bytes = self.file(digest).stat().st_size
            layers.append(Layer(digest, size_bytes, header.virtual_size_bytes, parent))
            digest = parent
        return tuple(reversed(layers))

    def add(self, made: Path, digest: Digest) -> None:
        """Take a finished file in under its digest, in place of whatever has that name."""
        made.chmod(0o444)
        os.replace(made, self.file(digest))
        self._verified.add(digest)

    def _is_right(self, digest: Digest) -> bool:
        path = self.file(digest)
        return path.is_file() and digest_of_hex(_sha256(path)) == digest


async def publish_image(
    path: Path,
    folder: LayerFolder,
    repository: LayerRepository,
    *,
    parent: Digest | None = None,
    image_format: str | None = None,
    backing_dirs: Sequence[Path] = (),
    progress: Progress = lambda count: None,
) -> Published:
    """Store ``path`` (qcow2 with or without its backing files, raw or vmdk) as a layer above ``parent``.

    What the guest sees is kept exactly; ``qemu-img compare`` proves it of every computed difference before it is sent.
    ``backing_dirs``: folders beside its own in which the file's backing files may lie.
    Raises SpecInvalid, VirtualSizeShrinks, ChainTooDeep, LayerRefused, NoRoom or what the repository raises.
    """
    layer = await make_layer(
        path, folder, repository, parent=parent, image_format=image_format, backing_dirs=backing_dirs
    )
    sent = await repository.publish(folder.file(layer.digest), layer.digest, progress)
    return Published(layer, sent)


async def make_layer(
    path: Path,
    folder: LayerFolder,
    repository: LayerRepository,
    *,
    parent: Digest | None = None,
    image_format: str | None = None,
    backing_dirs: Sequence[Path] = (),
) -> Layer:
    """The layer of ``path`` above ``parent``, in ``folder``; the repository is asked for the parent's chain alone.

    Arguments and errors are those of ``publish_image``.
    """
    source = await asyncio.to_thread(inspect, path, image_format, backing_dirs)
    chain = await folder.chain(parent, repository) if parent is not None else ()
    if len(chain) >= repository.max_depth:
        raise ChainTooDeep(
            f"{path}: its parent's chain has {len(chain)} layers already, and this repository takes "
            f"{repository.max_depth} (maxDepth); publish it above what 'kigi flatten PARENT --name NEW' makes"
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder.path, prefix=".publish-") as scratch:
            layer = await _make_layer(source, chain, folder, Path(scratch))
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(f"{folder.path}: no room to make a layer of {path}; free some, or name --layers-dir") from exc
        raise SpecInvalid(f"{path}: cannot be made a layer: {exc}") from exc
    folder.made_of[source.path.resolve()] = layer.digest
    return layer


async def _make_layer(source: Source, chain: Chain, folder: LayerFolder, scratch: Path) -> Layer:
    parent = chain[-1] if chain else None
    backing = f"{digest_hex(parent.digest)}.qcow2" if parent is not None else None
    made = scratch / "layer.qcow2"
    renamed = await asyncio.to_thread(_needs_only_a_name, source, folder, parent)
    if renamed:
        await asyncio.to_thread(_rename_backing, source.path, made, backing)
        virtual = parse_header(_head(made)).virtual_size_bytes
        _may_not_shrink(source.path, virtual, parent)
    else:
        raw = source.path
        if source.format != "raw":
            raw = scratch / "disk.raw"
            await qemu_img.convert_to_raw(source.path, source.format, raw, source.backing)
        virtual = raw.stat().st_size
        if virtual == 0 or virtual % 512:
            raise SpecInvalid(f"{source.path}: a disk of {virtual} bytes; it must be a multiple of 512, and not empty")
        _may_not_shrink(source.path, virtual, parent)
        below = scratch / "parent.raw"
        if parent is not None:
            top, *under = folder.files(chain)
            await qemu_img.convert_to_raw(top, "qcow2", below, under)
        await asyncio.to_thread(_write_difference, raw, below if parent is not None else None, made, virtual, backing)
    size_bytes = made.stat().st_size
    digest = digest_of_hex(await asyncio.to_thread(_sha256, made))
    check_layer(
        _head(made),
        digest=digest,
        parent=parent.digest if parent is not None else None,
        virtual_size_bytes=virtual,
        size_bytes=size_bytes,
    )
    if not renamed:
        await qemu_img.compare(
            source.path,
            source.format,
            made,
            "qcow2",
            first_backing=source.backing,
            second_backing=folder.files(chain),
        )
    folder.add(made, digest)
    return Layer(digest, size_bytes, virtual, parent.digest if parent is not None else None)


def parent_in_header(digest: Digest, head: bytes) -> Digest | None:
    """The layer that a layer's first bytes name as its parent; None: a root. Raises LayerRefused."""
    return _parent_of(digest, parse_header(head).backing_file)


def _parent_of(digest: Digest, backing_file: str | None) -> Digest | None:
    if backing_file is None:
        return None
    try:
        parent = digest_of_hex(backing_file.removesuffix(".qcow2"))
    except ValueError:
        parent = None
    if parent is None or backing_file != f"{digest_hex(parent)}.qcow2":
        raise LayerRefused("parent", f"layer {digest} has the backing file {backing_file!r}, which is no layer's name")
    return parent


def _needs_only_a_name(source: Source, folder: LayerFolder, parent: Layer | None) -> bool:
    """The file is in Kigi's form and stands on the very file that the parent was made of, so its clusters stay."""
    if not source.ours or bool(source.backing) != (parent is not None):
        return False
    if parent is not None and folder.made_of.get(source.backing[0].resolve()) != parent.digest:
        return False
    return is_canonical(source.path, parse_header(_head(source.path)).virtual_size_bytes)


def _rename_backing(source: Path, target: Path, backing: str | None) -> None:
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        first = file.read(HEADER_BYTES)
        file.seek(0)
        file.write(with_backing(first, backing))


def _may_not_shrink(path: Path, virtual_size_bytes: int, parent: Layer | None) -> None:
    if parent is not None and virtual_size_bytes < parent.virtual_size_bytes:
        raise VirtualSizeShrinks(
            f"{path}: a disk of {virtual_size_bytes} bytes is smaller than its parent's {parent.virtual_size_bytes}; "
            "grow it with 'qemu-img resize' first"
        )


def _write_difference(raw: Path, below: Path | None, target: Path, virtual: int, backing: str | None) -> None:
    """Blocks; reads only what either file has data for."""
    with _disk(raw) as now, _disk(below) as before:
        candidates = sorted({*now.clusters(), *before.clusters()})
        inside = (index for index in candidates if index * CLUSTER < virtual)
        difference: Difference = compare(virtual, inside, now.read, before.read)
        write_layer(target, virtual, backing, difference, now.read)


class _disk:
    """A raw disk by clusters; None is all zeros."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("rb") if path is not None else None
        size = os.fstat(self._file.fileno()).st_size if self._file is not None else 0
        self._size = size
        self._map = mmap.mmap(self._file.fileno(), 0, prot=mmap.PROT_READ) if self._file is not None and size else None

    def __enter__(self) -> _disk:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._map is not None:
            self._map.close()
        if self._file is not None:
            self._file.close()

    def clusters(self) -> Iterator[int]:
        """Indices of the clusters that the file system has data for."""
        if self._file is None:
            return
        end = 0
        while end < self._size:
            try:
                start = os.lseek(self._file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(self._file.fileno(), start, os.SEEK_HOLE)
            yield from range(start // CLUSTER, -(-end // CLUSTER))

    def read(self, index: int) -> bytes:
        """A whole cluster; what is behind the end reads as zeros."""
        if self._map is None:
            return ZEROS
        return self._map[index * CLUSTER : (index + 1) * CLUSTER].ljust(CLUSTER, b"\0")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
