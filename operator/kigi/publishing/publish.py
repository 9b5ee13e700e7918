"""Makes a layer of a disk image and stores it: inspect, compute the difference, prove it equal, upload."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.adapters import qemu_img
from kigi.adapters.s3 import LayerBucket, Progress
from kigi.domain.layers import Chain, Digest, Layer, layer_file_name
from kigi.domain.qcow2 import HEADER_BYTES, MAX_VIRTUAL_BYTES, check_layer, parse_header
from kigi.domain.quantities import format_bytes
from kigi.errors import ChainTooDeep, NoRoom, SpecInvalid, VirtualSizeShrinks
from kigi.publishing.layer_folder import LayerFolder, file_digest, read_head
from kigi.publishing.layer_writer import is_canonical, with_backing
from kigi.publishing.raw_disk import write_difference
from kigi.publishing.source import Source, inspect


@dataclass(frozen=True, slots=True)
class Published:
    """A layer that is in the repository."""

    layer: Layer
    sent: bool
    """False: the repository had it already."""


async def publish_image(
    path: Path,
    folder: LayerFolder,
    repository: LayerBucket,
    *,
    parent: Digest | None = None,
    image_format: str | None = None,
    backing_dirs: Sequence[Path] = (),
    progress: Progress = lambda count: None,
) -> Published:
    """Stores ``path`` (qcow2 with or without backing files, raw or vmdk) as a layer above ``parent``.

    The layer shows a guest exactly the bytes of the image; ``qemu-img compare`` proves every computed difference before
    it is sent. ``image_format`` None: detected. ``backing_dirs``: folders besides the image's own in which its backing
    files may be. Raises SpecInvalid, VirtualSizeShrinks, ChainTooDeep, LayerRefused, NoRoom, or an error of the
    repository.
    """
    layer = await make_layer(
        path, folder, repository, parent=parent, image_format=image_format, backing_dirs=backing_dirs
    )
    sent = await repository.publish(folder.file(layer.digest), layer.digest, progress)
    return Published(layer, sent)


async def make_layer(
    path: Path,
    folder: LayerFolder,
    repository: LayerBucket,
    *,
    parent: Digest | None = None,
    image_format: str | None = None,
    backing_dirs: Sequence[Path] = (),
    keep_free_bytes: int = 0,
) -> Layer:
    """The layer of ``path`` above ``parent``, in ``folder``; the repository is only read, for the parent's chain.

    Arguments and errors are those of ``publish_image``; NoRoom before anything is written if that would leave less than
    ``keep_free_bytes`` of the folder's file system free.
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
            layer = await _make_layer(source, chain, folder, Path(scratch), keep_free_bytes)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoom(
                f"{folder.path}: not enough free space to make a layer of {path}; free some, or name --layers-dir"
            ) from exc
        raise SpecInvalid(f"{path}: cannot be made a layer: {exc}") from exc
    folder.made_of[source.path.resolve()] = layer.digest
    return layer


async def _make_layer(source: Source, chain: Chain, folder: LayerFolder, scratch: Path, keep_free_bytes: int) -> Layer:
    parent = chain[-1] if chain else None
    made = scratch / "layer.qcow2"
    keeps_clusters = await asyncio.to_thread(_can_keep_clusters, source, folder, parent)
    if keeps_clusters:
        virtual_size_bytes = await asyncio.to_thread(_copy_with_backing, source.path, made, parent)
    else:
        virtual_size_bytes = await _compute_difference(source, chain, folder, scratch, made, keep_free_bytes)
    size_bytes = made.stat().st_size
    digest = await asyncio.to_thread(file_digest, made)
    parent_digest = parent.digest if parent is not None else None
    check_layer(
        read_head(made),
        digest=digest,
        parent=parent_digest,
        virtual_size_bytes=virtual_size_bytes,
        size_bytes=size_bytes,
    )
    if not keeps_clusters:
        await qemu_img.compare(
            source.path,
            source.format,
            made,
            "qcow2",
            first_backing=source.backing,
            second_backing=folder.files(chain),
        )
    folder.add(made, digest)
    return Layer(digest, size_bytes, virtual_size_bytes, parent_digest)


def _can_keep_clusters(source: Source, folder: LayerFolder, parent: Layer | None) -> bool:
    """Whether the file is a layer but for its backing file's name: then nothing is computed or compared.

    True for a file in Kigi's form whose backing file is the very file that the parent was made of.
    """
    if not source.is_layer_format or bool(source.backing) != (parent is not None):
        return False
    if parent is not None and folder.made_of.get(source.backing[0].resolve()) != parent.digest:
        return False
    return is_canonical(source.path, parse_header(read_head(source.path)).virtual_size_bytes)


def _copy_with_backing(source: Path, target: Path, parent: Layer | None) -> int:
    """Copies the file, with the parent's file name in its header; the virtual size in bytes."""
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        first = file.read(HEADER_BYTES)
        file.seek(0)
        file.write(with_backing(first, _backing_name(parent)))
    virtual_size_bytes = parse_header(read_head(target)).virtual_size_bytes
    _refuse_shrinking(source, virtual_size_bytes, parent)
    return virtual_size_bytes


async def estimate_bytes(source: Source, parents: Sequence[Path]) -> int:
    """Upper bound of what making a layer writes: the disk and its parent's as raw files, and the layer.

    ``parents``: files of the parent's chain, the top first. A small file can describe a large disk.
    """
    disk = await qemu_img.data_bytes(source.path, source.format, source.backing)
    written = disk if source.format == "raw" else 2 * disk
    if parents:
        written += await qemu_img.data_bytes(parents[0], "qcow2", parents[1:])
    return written


def _require_space(path: Path, scratch: Path, needed_bytes: int, keep_free_bytes: int) -> None:
    free_bytes = shutil.disk_usage(scratch).free - keep_free_bytes
    if needed_bytes > free_bytes:
        raise NoRoom(
            f"{scratch.parent}: making a layer of {path} writes up to {format_bytes(needed_bytes)}, and "
            f"{format_bytes(max(0, free_bytes))} are free; free some, or name --layers-dir"
        )


async def _compute_difference(
    source: Source, chain: Chain, folder: LayerFolder, scratch: Path, target: Path, keep_free_bytes: int
) -> int:
    """Writes the clusters that differ from the parent's disk; the virtual size in bytes."""
    parent = chain[-1] if chain else None
    disk = source.path
    _require_space(source.path, scratch, await estimate_bytes(source, folder.files(chain)), keep_free_bytes)
    if source.format != "raw":
        disk = scratch / "disk.raw"
        await qemu_img.convert_to_raw(source.path, source.format, disk, source.backing)
    size_bytes = disk.stat().st_size
    if not 0 < size_bytes <= MAX_VIRTUAL_BYTES or size_bytes % 512:
        raise SpecInvalid(
            f"{source.path}: a disk of {size_bytes} bytes; it must be a multiple of 512, not empty, and of at most "
            f"{MAX_VIRTUAL_BYTES} bytes"
        )
    _refuse_shrinking(source.path, size_bytes, parent)
    parent_disk = None
    if parent is not None:
        parent_disk = scratch / "parent.raw"
        top, *below = folder.files(chain)
        await qemu_img.convert_to_raw(top, "qcow2", parent_disk, below)
    await asyncio.to_thread(write_difference, disk, parent_disk, target, size_bytes, _backing_name(parent))
    return size_bytes


def _backing_name(parent: Layer | None) -> str | None:
    return layer_file_name(parent.digest) if parent is not None else None


def _refuse_shrinking(path: Path, size_bytes: int, parent: Layer | None) -> None:
    if parent is not None and size_bytes < parent.virtual_size_bytes:
        raise VirtualSizeShrinks(
            f"{path}: a disk of {size_bytes} bytes is smaller than its parent's {parent.virtual_size_bytes}; "
            "grow it with 'qemu-img resize' first"
        )
