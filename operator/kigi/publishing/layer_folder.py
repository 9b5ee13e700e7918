"""A local folder of layer files: the chain of a parent is read from it, and finished layers are stored in it."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from kigi.adapters.s3 import LayerBucket, Progress
from kigi.domain.layers import MAX_DEPTH, Chain, Digest, Layer, digest_of_file_name, digest_of_hex, layer_file_name
from kigi.domain.qcow2 import HEADER_BYTES, parse_header
from kigi.errors import ChainTooDeep, LayerRefused


class LayerFolder:
    """Layers under their file names. One object hashes each file before its first use: no name is trusted."""

    def __init__(self, path: Path, progress: Progress = lambda count: None, *, held: Path | None = None) -> None:
        """Creates the folder. ``progress`` gets the size of each verified layer of a chain.

        ``held``: another folder of layers, which is only read; a layer that it lacks is fetched into ``path``.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._held = held
        self._progress = progress
        self.made_of: dict[Path, Digest] = {}
        """Source file -> layer, for each layer that this object made."""
        self._verified: dict[Digest, Path] = {}

    def file(self, digest: Digest) -> Path:
        """Path of the layer, whether it exists or not."""
        return self._verified.get(digest, self.path / layer_file_name(digest))

    def files(self, chain: Chain) -> list[Path]:
        """Paths of the chain, the top first."""
        return [self.file(layer.digest) for layer in reversed(chain)]

    async def chain(self, top: Digest, repository: LayerBucket) -> Chain:
        """The chain of ``top``, root first; each file is verified, and fetched if it is missing or damaged.

        A layer's header names its parent, so no API server is needed. Raises ChainTooDeep, LayerRefused, or an error of
        the fetch.
        """
        layers: list[Layer] = []
        digest: Digest | None = top
        while digest is not None:
            if len(layers) >= MAX_DEPTH:
                raise ChainTooDeep(
                    f"layer {top}: more than {MAX_DEPTH} layers to the root; shorten it with 'kigi flatten'"
                )
            layers.append(await self._layer(digest, repository))
            digest = layers[-1].parent
        return tuple(reversed(layers))

    async def _layer(self, digest: Digest, repository: LayerBucket) -> Layer:
        if digest not in self._verified:
            path = await asyncio.to_thread(self._find, digest)
            if path is None:
                path = self.file(digest)
                await repository.fetch(digest, path)
            self._progress(path.stat().st_size)
            self._verified[digest] = path
        path = self._verified[digest]
        header = parse_header(read_head(path))
        return Layer(digest, path.stat().st_size, header.virtual_size_bytes, _parent_of(digest, header.backing_file))

    def add(self, made: Path, digest: Digest) -> None:
        """Moves a finished layer into the folder, in place of a file of that name."""
        made.chmod(0o444)
        path = self.path / layer_file_name(digest)
        os.replace(made, path)
        self._verified[digest] = path

    def _find(self, digest: Digest) -> Path | None:
        """The layer's file in one of the folders, if it has its digest. Blocks."""
        folders = (self.path,) if self._held is None else (self._held, self.path)
        files = (folder / layer_file_name(digest) for folder in folders)
        return next((path for path in files if _is_layer(path, digest)), None)


def parent_in_header(digest: Digest, head: bytes) -> Digest | None:
    """The parent that a layer's first HEADER_BYTES name; None: the layer is a root. Raises LayerRefused."""
    return _parent_of(digest, parse_header(head).backing_file)


def read_head(path: Path) -> bytes:
    """The first HEADER_BYTES of a file, or all of a shorter one."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def file_digest(path: Path) -> Digest:
    """Digest of a file's content. Blocks while it reads the whole file."""
    with path.open("rb") as file:
        return digest_of_hex(hashlib.file_digest(file, "sha256").hexdigest())


def _is_layer(path: Path, digest: Digest) -> bool:
    return path.is_file() and file_digest(path) == digest


def _parent_of(digest: Digest, backing_file: str | None) -> Digest | None:
    if backing_file is None:
        return None
    try:
        return digest_of_file_name(backing_file)
    except ValueError as exc:
        message = f"layer {digest} has the backing file {backing_file!r}, which is no layer's name"
        raise LayerRefused("parent", message) from exc
