"""A node's store and volumes on real files, with two tenants above the same layers."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path

from kigi.adapters.qemu_img import create_overlay
from kigi.domain.layers import layer_file_name
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.store import Store
from tests.support.chains import LayerFile, layers_of

HANDLE = "kigi.tenant-b.lab.0.x.r1.bbbbbbbb"
OTHER = "kigi.tenant-a.office.0.mail1.r1.aaaaaaaa"


class World:
    """A node on which two tenants have a volume over the same layers."""

    def __init__(self, directory: Path, files: list[LayerFile]) -> None:
        self.directory = directory
        self.files = files
        self.chain = layers_of(files)
        self.store = Store(directory / "cache")
        self.store.recover()
        self.repair()
        self.volumes = Volumes(self.store.root, self.store, create_overlay)
        self.volumes.recover()
        self.scratch = directory / "scratch"
        self.scratch.mkdir(mode=0o777)
        for path in (directory, *directory.parents[:3]):
            path.chmod(path.stat().st_mode | 0o055)

    def repair(self) -> None:
        """Fetches the layers that are not held or not right."""
        for file in self.files:
            path = self.store.path(file.layer.digest)
            if not self.store.is_held(file.layer.digest) or path.stat().st_mode & 0o7777 != 0o444:
                path.unlink(missing_ok=True)
                shutil.copy(file.path, path)
                path.chmod(0o444)
                assert self.store.verify(file.layer)

    def reopen(self) -> None:
        """The daemon starts again: which layers it holds follows from its files."""
        self.store = Store(self.store.root)
        self.store.recover()
        self.volumes = Volumes(self.store.root, self.store, create_overlay)
        self.volumes.recover()

    def publish(self, handle: str = HANDLE) -> Path:
        target = self.directory / "kubelet" / handle
        asyncio.run(self.volumes.publish(handle, self.chain, str(target)))
        return target

    def unpublish(self, handle: str = HANDLE) -> None:
        asyncio.run(self.volumes.unpublish(handle, str(self.directory / "kubelet" / handle)))

    def changed(self) -> list[str]:
        """Layers whose bytes are not their digest's any more."""
        paths = [self.store.path(layer.digest) for layer in self.chain]
        return [p.name for p in paths if hashlib.sha256(p.read_bytes()).hexdigest() != p.stem]

    @property
    def layer(self) -> str:
        return layer_file_name(self.chain[0].digest)
