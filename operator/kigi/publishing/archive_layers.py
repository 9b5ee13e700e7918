"""The layers of an archive and a repository: checks those that the archive leaves out, and stores the others."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kigi.adapters.s3 import LayerBucket, Progress
from kigi.domain.archive import DeclaredLayer
from kigi.domain.layers import Digest
from kigi.errors import LayerCorrupt, LayerMissing
from kigi.publishing.archive import Archive, check_declared, extract_layer


async def check_left_out(store: LayerBucket, archive: Archive, layers: Mapping[Digest, DeclaredLayer]) -> None:
    """Raises LayerMissing or LayerCorrupt unless the repository holds every layer that the archive leaves out.

    Size and header must be those that the archive declares; raises LayerRefused for another header.
    """
    included = set(archive.manifest.included)
    for layer in layers.values():
        if layer.digest in included:
            continue
        size_bytes = await store.size_of(layer.digest)
        if size_bytes is None:
            raise LayerMissing(
                f"layer {layer.digest} is neither in the file nor in the repository; export again with a --have list "
                "of this site, or without one"
            )
        if size_bytes != layer.size_bytes:
            raise LayerCorrupt(f"layer {layer.digest} is stored with {size_bytes} bytes instead of {layer.size_bytes}")
        check_declared(await store.head(layer.digest), layer)


async def store_layers(
    store: LayerBucket,
    archive: Archive,
    layers: Mapping[Digest, DeclaredLayer],
    folder: Path,
    progress: Progress,
) -> int:
    """Stores the included layers that the repository lacks; the number of bytes sent.

    ``folder`` needs space for the largest layer. Raises LayerCorrupt or what the repository raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sent_bytes = 0
    for layer, offset in archive.places(layers):
        if await store.size_of(layer.digest) == layer.size_bytes:
            progress(layer.size_bytes)
            continue
        with tempfile.TemporaryDirectory(dir=folder, prefix=".import-") as scratch:
            target = Path(scratch) / "layer.qcow2"
            await asyncio.to_thread(extract_layer, archive, layer, offset, target)
            if await store.publish(target, layer.digest, progress):
                sent_bytes += layer.size_bytes
            elif await store.size_of(layer.digest) != layer.size_bytes:
                raise LayerCorrupt(f"layer {layer.digest}: the repository neither took it nor has it; call again")
    return sent_bytes
