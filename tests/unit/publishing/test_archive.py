"""An archive is written whole or not at all, and read back only if nothing in it was changed."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import cast

import pytest

from kigi.adapters.s3 import LayerBucket
from kigi.domain.archive import FORMAT, DeclaredLayer
from kigi.domain.layers import Digest, digest_of_hex, layer_file_name
from kigi.domain.qcow2 import CLUSTER_BYTES
from kigi.errors import ArchiveRefused, LayerCorrupt, LayerMissing, LayerRefused, SpecInvalid
from kigi.publishing.archive import Archive, Manifest, extract_layer, open_archive, verify_archive, write_archive
from kigi.publishing.archive_layers import check_left_out, store_layers
from kigi.publishing.layer_writer import Difference, write_layer
from tests.support.memory_repository import MemoryRepository


class Site:
    """A repository with a chain of two layers, and an archive of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = MemoryRepository()
        self.layers: dict[Digest, DeclaredLayer] = {}
        parent: Digest | None = None
        for number in range(2):
            path, fill = folder / "made", bytes([number + 1]) * CLUSTER_BYTES
            backing = layer_file_name(parent) if parent else None
            write_layer(path, CLUSTER_BYTES, backing, Difference((0,), ()), lambda index, fill=fill: fill)
            content = path.read_bytes()
            path.unlink()
            digest = digest_of_hex(hashlib.sha256(content).hexdigest())
            self.repository.store(digest, content)
            self.layers[digest] = DeclaredLayer(digest, len(content), CLUSTER_BYTES, parent)
            parent = digest

    @property
    def store(self) -> LayerBucket:
        return cast(LayerBucket, self.repository)

    async def export(self, *included: Digest) -> Archive:
        manifest = Manifest(format=FORMAT, images=[], systems=[], included=list(included))
        target = self.folder / "export.tar"
        size_bytes = await write_archive(target, manifest, [(self.layers[digest], self.store) for digest in included])
        assert target.stat().st_size == size_bytes
        return open_archive(target)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_an_archive_is_a_tar_with_its_layers_unchanged(site: Site) -> None:
    archive = await site.export(*site.layers)
    progress: list[int] = []
    verify_archive(archive, site.layers, progress.append)
    assert sum(progress) == sum(layer.size_bytes for layer in site.layers.values())
    with tarfile.open(archive.path) as tar:
        names = ["manifest.json", *(f"layers/{layer_file_name(digest)}" for digest in site.layers)]
        assert tar.getnames() == names
    for layer, offset in archive.places(site.layers):
        target = site.folder / layer_file_name(layer.digest)
        extract_layer(archive, layer, offset, target)
        assert target.read_bytes() == site.repository.layers[layer.digest]


async def test_a_damaged_layer_of_the_repository_leaves_no_file(site: Site) -> None:
    digest = next(iter(site.layers))
    site.repository.layers[digest] = b"x" * len(site.repository.layers[digest])
    with pytest.raises(LayerCorrupt):
        await site.export(digest)
    assert list(site.folder.iterdir()) == []


async def test_a_folder_that_cannot_be_written_is_an_error_of_the_user(site: Site) -> None:
    site.folder = site.folder / "absent"
    with pytest.raises(SpecInvalid, match="cannot be written: No such file"):
        await site.export()


@pytest.mark.parametrize("place", ["manifest", "header", "content", "padding", "end", "cut", "longer"])
async def test_any_change_is_refused(site: Site, place: str) -> None:
    archive = await site.export(*site.layers)
    content = bytearray(archive.path.read_bytes())
    layer, offset = next(archive.places(site.layers))
    content[512 + 3 : 512 + 4] = b"\0" if place == "manifest" else content[515:516]
    changed = {"header": offset + 2, "content": offset + 512 + layer.size_bytes // 2, "end": len(content) - 1}
    if place in changed:
        content[changed[place]] ^= 1
    if place == "padding":
        content = content[:-1024] + b"\1" + content[-1023:]
    archive.path.write_bytes(content[:-512] if place == "cut" else content + bytes(512 * (place == "longer")))
    with pytest.raises(ArchiveRefused):
        verify_archive(open_archive(archive.path), site.layers)


async def test_layers_that_no_image_declares_or_twice_are_refused(site: Site) -> None:
    first, second = site.layers
    archive = await site.export(first, first)
    with pytest.raises(ArchiveRefused, match="twice, or one of no image"):
        verify_archive(archive, site.layers)
    archive = await site.export(second)
    with pytest.raises(ArchiveRefused, match="of no image"):
        verify_archive(archive, {first: site.layers[first]})


@pytest.mark.parametrize("content", [b"", b"text", bytes(1024), bytes(512) + b"x" * 512])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArchiveRefused):
        open_archive(tmp_path / "file")


def test_a_file_that_is_none_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="no regular file"):
        open_archive(tmp_path)


async def test_layers_that_are_left_out_must_be_stored_as_declared(site: Site) -> None:
    first, second = site.layers
    archive = await site.export(second)
    await check_left_out(site.store, archive, site.layers)
    content = site.repository.layers[first]
    site.repository.layers[first] = content + b"x"
    with pytest.raises(LayerCorrupt, match="bytes instead of"):
        await check_left_out(site.store, archive, site.layers)
    site.repository.layers[first] = b"x" * len(content)
    with pytest.raises(LayerRefused):
        await check_left_out(site.store, archive, site.layers)
    del site.repository.layers[first]
    with pytest.raises(LayerMissing, match="--have"):
        await check_left_out(site.store, archive, site.layers)


async def test_only_missing_layers_are_stored(site: Site) -> None:
    first, second = site.layers
    archive = await site.export(first, second)
    other, progress = MemoryRepository(), list[int]()
    other.store(first, site.repository.layers[first])
    sent = await store_layers(cast(LayerBucket, other), archive, site.layers, site.folder / "scratch", progress.append)
    assert sent == site.layers[second].size_bytes
    assert other.layers == site.repository.layers
    assert progress == [site.layers[first].size_bytes]
    assert list((site.folder / "scratch").iterdir()) == []
