"""A chain is read from verified files only, and what is missing or damaged is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import pytest

from kigi.adapters.s3 import LayerBucket
from kigi.domain.layers import MAX_DEPTH, Digest, digest_of_hex, layer_file_name
from kigi.domain.qcow2 import CLUSTER_BYTES
from kigi.errors import ChainTooDeep, LayerNotInRepository, LayerRefused
from kigi.publishing.layer_folder import LayerFolder, file_digest, parent_in_header, read_head
from kigi.publishing.layer_writer import Difference, write_layer
from tests.support.memory_repository import MemoryRepository


def layer(folder: Path, number: int, backing: str | None) -> tuple[Digest, bytes]:
    """A layer with one cluster of data of its own."""
    path = folder / f"made-{number}"
    write_layer(path, CLUSTER_BYTES, backing, Difference((0,), ()), lambda index: bytes([number + 1]) * CLUSTER_BYTES)
    content = path.read_bytes()
    path.unlink()
    return digest_of_hex(hashlib.sha256(content).hexdigest()), content


def chain(folder: Path, length: int) -> tuple[MemoryRepository, list[Digest]]:
    """A repository with a chain, and its digests, root first."""
    repository, digests = MemoryRepository(), list[Digest]()
    for number in range(length):
        digest, content = layer(folder, number, layer_file_name(digests[-1]) if digests else None)
        repository.store(digest, content)
        digests.append(digest)
    return repository, digests


async def read(folder: LayerFolder, top: Digest, repository: MemoryRepository) -> list[Digest]:
    return [each.digest for each in await folder.chain(top, cast(LayerBucket, repository))]


async def test_a_chain_is_fetched_once_and_root_first(tmp_path: Path) -> None:
    repository, digests = chain(tmp_path, 3)
    progress: list[int] = []
    folder = LayerFolder(tmp_path / "layers", progress.append)
    assert await read(folder, digests[-1], repository) == digests
    assert await read(folder, digests[-1], repository) == digests
    assert repository.fetched == digests[::-1]
    assert progress == [len(repository.layers[digest]) for digest in digests[::-1]]
    found = await folder.chain(digests[-1], cast(LayerBucket, repository))
    assert [each.parent for each in found] == [None, *digests[:-1]]
    assert folder.files(found) == [tmp_path / "layers" / layer_file_name(digest) for digest in digests[::-1]]


async def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    repository, digests = chain(tmp_path, 2)
    await read(LayerFolder(tmp_path / "layers"), digests[-1], repository)
    (tmp_path / "layers" / layer_file_name(digests[0])).write_bytes(b"damaged")
    repository.fetched.clear()
    assert await read(LayerFolder(tmp_path / "layers"), digests[-1], repository) == digests
    assert repository.fetched == [digests[0]]


async def test_a_layer_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    repository, digests = chain(tmp_path, 2)
    del repository.layers[digests[0]]
    with pytest.raises(LayerNotInRepository):
        await read(LayerFolder(tmp_path / "layers"), digests[-1], repository)


async def test_a_chain_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    repository, digests = chain(tmp_path, MAX_DEPTH + 1)
    assert len(await read(LayerFolder(tmp_path / "layers"), digests[-2], repository)) == MAX_DEPTH
    with pytest.raises(ChainTooDeep, match="kigi flatten"):
        await read(LayerFolder(tmp_path / "layers"), digests[-1], repository)


@pytest.mark.parametrize(
    "name", ["base.qcow2", "a" * 64, f"{'a' * 63}.qcow2", f"../{'a' * 64}.qcow2", f"{'A' * 64}.qcow2"]
)
def test_a_backing_file_that_is_no_layer_is_refused(tmp_path: Path, name: str) -> None:
    digest, content = layer(tmp_path, 0, name)
    with pytest.raises(LayerRefused, match="no layer's name"):
        parent_in_header(digest, content[:CLUSTER_BYTES])


def test_the_parent_is_in_the_header(tmp_path: Path) -> None:
    parent = digest_of_hex("a" * 64)
    for backing, expected in ((None, None), (layer_file_name(parent), parent)):
        digest, content = layer(tmp_path, 0, backing)
        assert parent_in_header(digest, content[:CLUSTER_BYTES]) == expected


async def test_an_added_layer_is_read_only_and_trusted(tmp_path: Path) -> None:
    folder, (digest, content) = LayerFolder(tmp_path / "layers"), layer(tmp_path, 0, None)
    made = tmp_path / "made"
    made.write_bytes(content)
    folder.add(made, digest)
    assert not made.exists()
    assert folder.file(digest).stat().st_mode & 0o777 == 0o444
    assert await read(folder, digest, MemoryRepository()) == [digest]
    assert (file_digest(folder.file(digest)), read_head(folder.file(digest))) == (digest, content[:CLUSTER_BYTES])
