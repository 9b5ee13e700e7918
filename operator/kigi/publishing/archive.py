"""Files of exported subtrees, written and read in pieces; nothing in a file is used before it is checked."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import Field, ValidationError

from kigi.adapters.s3 import LayerBucket, Progress
from kigi.api.base import DigestText, Model, ObjectName
from kigi.api.problems import problems
from kigi.domain.archive import (
    BLOCK,
    END,
    FORMAT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    DeclaredLayer,
    expect_member,
    member_header,
    member_name,
    padding,
)
from kigi.domain.layers import Digest, digest_hex, digest_of_hex
from kigi.domain.qcow2 import HEADER_BYTES, check_layer
from kigi.errors import ArchiveRefused, LayerCorrupt, SpecInvalid

PIECE = 2**20


class ArchivedNode(Model):
    """One object: its name, and its spec as the user wrote it."""

    name: ObjectName
    spec: dict[str, Any]


class Manifest(Model):
    """The first member of a file: the nodes, and the layers that follow."""

    format: str = Field(pattern=f"^{FORMAT}$")
    images: list[ArchivedNode] = Field(max_length=100_000)
    systems: list[ArchivedNode] = Field(max_length=100_000)
    included: list[DigestText] = Field(max_length=100_000)
    """Layers that follow, in this order; the target site holds the others."""


async def write_archive(
    target: Path,
    manifest: Manifest,
    layers: Sequence[tuple[DeclaredLayer, LayerBucket]],
    progress: Progress = lambda count: None,
) -> int:
    """Writes the file, streaming the layers from their repositories; the file's size in bytes.

    The file appears under its name only when it is complete. Raises LayerCorrupt, SpecInvalid, or an error of the
    repository.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    text = json.dumps(manifest.to_api(), sort_keys=True).encode()
    try:
        with part.open("xb") as out:
            out.write(member_header(MANIFEST, len(text)) + text + bytes(padding(len(text))))
            for layer, repository in layers:
                out.write(member_header(member_name(layer.digest), layer.size_bytes))
                sha, begin = hashlib.sha256(), out.tell()
                await repository.copy(layer.digest, _both(sha.update, out.write, lambda data: progress(len(data))))
                if out.tell() - begin != layer.size_bytes or digest_of_hex(sha.hexdigest()) != layer.digest:
                    raise LayerCorrupt(f"the repository's object of layer {layer.digest} is not that layer")
                out.write(bytes(padding(layer.size_bytes)))
            out.write(END)
            out.flush()
            os.fsync(out.fileno())
            size_bytes = out.tell()
        os.replace(part, target)
    except OSError as exc:
        raise SpecInvalid(f"{target}: cannot be written: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)
    return size_bytes


def _both(*sinks: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def write(data: bytes) -> None:
        for sink in sinks:
            sink(data)

    return write


@dataclass(frozen=True, slots=True)
class Archive:
    """A file whose manifest has been read; its layers are not checked yet."""

    path: Path
    manifest: Manifest
    begin: int
    """Offset of the first byte after the manifest."""

    def places(self, layers: Mapping[Digest, DeclaredLayer]) -> Iterator[tuple[DeclaredLayer, int]]:
        """Each included layer, and the offset of its member's header."""
        at = self.begin
        for digest in self.manifest.included:
            layer = layers[Digest(digest)]
            yield layer, at
            at += BLOCK + layer.size_bytes + padding(layer.size_bytes)


def open_archive(path: Path) -> Archive:
    """Reads the manifest; raises ArchiveRefused, or SpecInvalid if there is no such file. Blocks."""
    try:
        if not path.is_file():
            raise SpecInvalid(f"{path}: is no regular file")
        with path.open("rb") as file:
            size_bytes = expect_member(file.read(BLOCK), MANIFEST, None)
            if not 0 < size_bytes <= MAX_MANIFEST_BYTES:
                raise ArchiveRefused(f"{path}: a manifest of {size_bytes} bytes; {MAX_MANIFEST_BYTES} at most")
            manifest = Manifest.model_validate(json.loads(file.read(size_bytes)))
            return Archive(path, manifest, BLOCK + size_bytes + padding(size_bytes))
    except ValidationError as exc:
        raise ArchiveRefused(f"{path}: {MANIFEST} is not as 'kigi export' writes it: {problems(exc)[0]}") from exc
    except (ValueError, RecursionError) as exc:
        raise ArchiveRefused(f"{path}: {MANIFEST} is not as 'kigi export' writes it: {str(exc)[:500]}") from exc
    except OSError as exc:
        raise SpecInvalid(f"{path}: cannot be read: {exc.strerror}") from exc


def verify_archive(
    archive: Archive, layers: Mapping[Digest, DeclaredLayer], progress: Progress = lambda count: None
) -> None:
    """Reads the whole file once and checks every layer's name, size, digest and header, and that nothing else follows.

    Blocks. Raises ArchiveRefused, LayerRefused or SpecInvalid.
    """
    unknown = [digest for digest in archive.manifest.included if digest not in layers]
    if unknown or len(set(archive.manifest.included)) != len(archive.manifest.included):
        raise ArchiveRefused(f"{archive.path}: {MANIFEST} includes a layer twice, or one of no image: {unknown[:3]}")
    places = list(archive.places(layers))
    end = archive.begin
    if places:
        last, at = places[-1]
        end = at + BLOCK + last.size_bytes + padding(last.size_bytes)
    try:
        there = archive.path.stat().st_size
        if there != end + len(END):
            raise ArchiveRefused(
                f"{archive.path}: has {there} bytes instead of {end + len(END)}; it is cut, or damaged"
            )
        with archive.path.open("rb") as file:
            for layer, at in places:
                head = _check_member(file, layer, at, lambda data: progress(len(data)))
                check_declared(head, layer)
            file.seek(end)
            if file.read() != END:
                raise ArchiveRefused(f"{archive.path}: does not end as a tar does")
    except OSError as exc:
        raise SpecInvalid(f"{archive.path}: cannot be read: {exc.strerror}") from exc


def extract_layer(archive: Archive, layer: DeclaredLayer, at: int, target: Path) -> None:
    """Copies one layer to ``target`` and checks its digest again. Blocks; raises ArchiveRefused or SpecInvalid."""
    try:
        with archive.path.open("rb") as file, target.open("xb") as out:
            _check_member(file, layer, at, out.write)
    except OSError as exc:
        raise SpecInvalid(f"{target}: cannot be written: {exc.strerror}") from exc


def check_declared(head: bytes, layer: DeclaredLayer) -> None:
    """Raises LayerRefused unless ``head`` is a layer's header with the sizes and the parent that the image declares."""
    check_layer(
        head,
        digest=layer.digest,
        parent=layer.parent,
        virtual_size_bytes=layer.virtual_size_bytes,
        size_bytes=layer.size_bytes,
    )


def _check_member(file: BinaryIO, layer: DeclaredLayer, at: int, sink: Callable[[bytes], object]) -> bytes:
    """Passes the member's content to ``sink``; its first HEADER_BYTES. Raises ArchiveRefused if it is another one."""
    name = member_name(layer.digest)
    file.seek(at)
    expect_member(file.read(BLOCK), name, layer.size_bytes)
    sha, head, left = hashlib.sha256(), b"", layer.size_bytes
    while left:
        piece = file.read(min(PIECE, left))
        if not piece:
            raise ArchiveRefused(f"it ends within {name}")
        head = head or piece[:HEADER_BYTES]
        sha.update(piece)
        sink(piece)
        left -= len(piece)
    if sha.hexdigest() != digest_hex(layer.digest):
        raise ArchiveRefused(f"{name} has the digest sha256:{sha.hexdigest()}")
    if any(file.read(padding(layer.size_bytes))):
        raise ArchiveRefused(f"something other than zeros is behind {name}")
    return head
