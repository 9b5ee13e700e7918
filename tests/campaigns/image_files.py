"""Mutated images as real files, on the whole way of publishing, capturing, flattening and importing.

Part of ``tests.campaigns.images``, which runs this module under strace.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from kigi.adapters import qemu_img
from kigi.domain.archive import END, MANIFEST, DeclaredLayer, member_header, member_name, padding
from kigi.domain.images import Image
from kigi.domain.layers import Digest, Layer, layer_file_name
from kigi.errors import KigiError
from kigi.publishing import publish as publish_module
from kigi.publishing.archive import Manifest, open_archive, verify_archive
from kigi.publishing.archive_layers import store_layers
from kigi.publishing.flatten import flatten_image
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.layer_writer import with_backing
from kigi.publishing.publish import publish_image
from kigi_cache.captures import publisher as publisher_module
from kigi_cache.captures.files import COPY, RESULT, CopyFiles, read_json
from kigi_cache.captures.publisher import Publisher
from kigi_cache.captures.space import copy_space
from kigi_cache.disks.overlay_files import BLOCK_BYTES
from tests.campaigns.images import IMAGE, VIRTUAL_BYTES, bases, message_fault, surroundings
from tests.support.image_mutations import Base, Mutation, Mutator, hostile_names
from tests.support.manual_clock import ManualClock
from tests.support.memory_repository import MemoryRepository

LONGEST_BYTES = 16 * 2**20
"""Of a mutated layer in a repository or an archive, which has no holes."""
FILE_LIMIT_BYTES = 2 * 2**30
CASE_S = 120.0
MAX_TRIES = 3
SLACK = 1.1


@dataclass
class Written:
    """What making layers wrote, and the estimate; the worst of all cases."""

    bytes_: int = 0
    estimate: int = 0
    worst: float = 0.0

    def begin(self) -> None:
        self.bytes_ = self.estimate = 0

    def add(self, path: Path) -> None:
        if path.exists():
            self.bytes_ += path.stat().st_blocks * BLOCK_BYTES

    def fault(self) -> str:
        """Empty, or by how much the estimate was exceeded."""
        if self.bytes_:
            self.worst = max(self.worst, self.bytes_ / max(1, self.estimate))
        if self.bytes_ <= SLACK * self.estimate:
            return ""
        return f"{self.bytes_} bytes written, {self.estimate} estimated"

    @contextlib.contextmanager
    def watched(self) -> Any:
        """Measures all layers that are made within the block."""
        convert, difference, estimate = (
            qemu_img.convert_to_raw,
            publish_module.write_difference,
            publish_module.estimate_bytes,
        )

        async def converted(source: Path, kind: str, target: Path, backing: Any = ()) -> None:
            try:
                await convert(source, kind, target, backing)
            finally:
                self.add(target)

        def written(disk: Path, parent: Path | None, target: Path, size_bytes: int, backing: str | None) -> None:
            try:
                difference(disk, parent, target, size_bytes, backing)
            finally:
                self.add(target)

        async def estimated(*arguments: Any) -> int:
            needed = await estimate(*arguments)
            self.estimate += needed
            return needed

        with (
            mock.patch.object(qemu_img, "convert_to_raw", converted),
            mock.patch.object(publish_module, "write_difference", written),
            mock.patch.object(publish_module, "estimate_bytes", estimated),
        ):
            yield


@dataclass
class Files:
    """One kind of case after the other, each with another mutation."""

    directory: Path
    seed: int
    made: tuple[list[Base], Any]
    written: Written = field(default_factory=Written)
    ends: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    most_tries: int = 0

    def __post_init__(self) -> None:
        self.folder = self.directory / "case"
        self.names = hostile_names(str(self.directory), IMAGE)
        self.by_name = {base.name: base for base in self.made[0]}
        self.ways: list[tuple[str, Callable[[Base, Mutation], Any], tuple[str, ...]]] = [
            ("capture", self.capture, ("overlay",)),
            ("publish", self.publish, tuple(self.by_name)),
            ("flatten", self.flatten, ("layer", "canonical")),
            ("import", self.import_, ("layer", "canonical")),
        ]
        self.store = MemoryRepository()
        for layer in self.made[1]:
            self.store.layers[layer.digest] = (self.directory / "bases" / layer_file_name(layer.digest)).read_bytes()
        self.sound = dict(self.store.layers)

    async def run(self, number: int) -> None:
        """One case; what does not hold is added to ``failures``."""
        way, call, kinds = self.ways[number % 4]
        base = self.by_name[kinds[number // 4 % len(kinds)]]
        made = Mutator(base, self.names).make(self.seed, number)
        self.store.layers = dict(self.sound)
        surroundings(self.folder)
        self.written.begin()
        began = time.monotonic()
        end = "accepted"
        try:
            async with asyncio.timeout(CASE_S):
                end = await call(base, made) or end
        except KigiError as exc:
            end = exc.reason
            self._note(number, way, made, message_fault(exc))
        except BaseException as exc:
            end = type(exc).__name__
            self._note(number, way, made, f"{end}: {exc}")
        self.ends[f"{way}: {end}"] += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self._note(number, way, made, self.written.fault())
        shutil.rmtree(self.folder)

    def _note(self, number: int, way: str, made: Mutation, fault: str) -> None:
        if fault:
            self.failures.append(f"{number} {','.join(made.kinds)}: {way}: {fault[:400]}")

    def _write(self, path: Path, base: Base, made: Mutation) -> None:
        path.write_bytes(base.data)
        descriptor = os.open(path, os.O_RDWR)
        made.apply(descriptor)
        os.close(descriptor)

    async def publish(self, base: Base, made: Mutation) -> None:
        """``kigi publish`` of a file that somebody else made."""
        self._write(self.folder / IMAGE, base, made)
        parent = self.made[1][-1].digest if base.name == "layer" else None
        folder = LayerFolder(self.folder / "layers")
        await publish_image(self.folder / IMAGE, folder, self.store, parent=parent)  # type: ignore[arg-type]

    async def capture(self, base: Base, made: Mutation) -> str:
        """The publisher gets a copy of an overlay that its VM's pod wrote."""
        copies = CopyFiles(self.folder)
        copies.recover()
        building = copies.begin("c1")
        self._write(building / COPY, base, made)
        for layer in self.made[1]:
            source = self.directory / "bases" / layer_file_name(layer.digest)
            os.link(source, building / "chain" / layer_file_name(layer.digest))
        copies.commit("c1")
        parent = self.made[1][-1]
        copies.make_durable("c1", {"parent": parent.digest, "repository": "default", "virtualSizeBytes": VIRTUAL_BYTES})
        (self.folder / "repositories").mkdir()
        settings = '{"endpoint": "http://s3.example", "bucket": "kigi"}'
        (self.folder / "repositories" / "default.json").write_text(settings)
        time_ = ManualClock()
        publisher = Publisher(self.folder, self.folder / "repositories", time_.clock)
        tries = 0

        @contextlib.asynccontextmanager
        async def opened(repository: Any) -> AsyncIterator[Any]:
            yield self.store

        directory = copies.directory("c1")
        allocated = (directory / COPY).stat().st_blocks * BLOCK_BYTES
        with mock.patch.object(publisher_module, "open_repository", opened):
            while publisher.due() and tries <= MAX_TRIES:
                tries += 1
                await publisher.publish(directory)
                time_.advance(3600)
        self.most_tries = max(self.most_tries, tries)
        result = read_json(directory / RESULT)
        if tries > MAX_TRIES:
            raise AssertionError(f"tried {tries} times: {result}")
        if "digest" in result:  # it is made, and waits for the operator's permission to store it
            chain = sum(layer.size_bytes for layer in self.made[1])
            space = copy_space(allocated_bytes=allocated, chain_bytes=chain, virtual_bytes=VIRTUAL_BYTES, copied=True)
            if self.written.bytes_ > SLACK * (space.kept_bytes + space.scratch_bytes):
                raise AssertionError(f"{self.written.bytes_} bytes written, {space} estimated")
        return str(result.get("reason", result["state"]))

    def _stored(self, base: Base, made: Mutation) -> tuple[Layer, Layer, Layer]:
        """A chain in the repository: a sound root, the mutated layer, and a sound layer above it."""
        root, top = self.made[1][-1], self.by_name["canonical"]
        parent = root if base.name == "layer" else self.made[1][0]
        middle = made.applied(base.data, LONGEST_BYTES)
        middle_digest = self._put(middle)
        upper = with_backing(top.data[:65536], layer_file_name(middle_digest)) + top.data[65536:]
        return (
            parent,
            Layer(middle_digest, len(middle), VIRTUAL_BYTES, parent.digest),
            Layer(self._put(upper), len(upper), VIRTUAL_BYTES, middle_digest),
        )

    def _put(self, data: bytes) -> Digest:
        digest = Digest("sha256:" + hashlib.sha256(data).hexdigest())
        self.store.layers[digest] = data
        return digest

    async def flatten(self, base: Base, made: Mutation) -> None:
        """``kigi flatten`` of an image whose layer somebody else published."""
        parent, middle, top = self._stored(base, made)
        below = [parent] if parent.parent is None else list(self.made[1])
        layers = [*below, middle, top]
        names = [f"i{number}" for number in range(len(layers))]
        path = [
            Image(name, layer.digest, layer.size_bytes, layer.virtual_size_bytes, above)
            for name, layer, above in zip(names, layers, [None, *names], strict=False)
        ]
        folder = LayerFolder(self.folder / "layers")
        await flatten_image(path, None, folder, self.store)  # type: ignore[arg-type]

    async def import_(self, base: Base, made: Mutation) -> None:
        """``kigi import`` of a file from elsewhere."""
        _, middle, top = self._stored(base, made)
        contents = [(layer, self.store.layers[layer.digest]) for layer in (middle, top)]
        self.store.layers = dict(self.sound)
        manifest = Manifest.model_validate(
            {"format": "kigi.dev/export-1", "images": [], "systems": [], "included": [m.digest for m, _ in contents]}
        )
        text = json.dumps(manifest.to_api()).encode()
        file = self.folder / "lab.tar"
        with file.open("wb") as out:
            out.write(member_header(MANIFEST, len(text)) + text + bytes(padding(len(text))))
            for layer, data in contents:
                out.write(member_header(member_name(layer.digest), len(data)) + data + bytes(padding(len(data))))
            out.write(END)
        archive = open_archive(file)
        declared = {
            layer.digest: DeclaredLayer(layer.digest, layer.size_bytes, layer.virtual_size_bytes, layer.parent)
            for layer in (middle, top)
        }
        verify_archive(archive, declared)
        before = file.stat().st_size
        self.written.estimate = before
        sent = await store_layers(self.store, archive, declared, self.folder / "scratch", lambda count: None)  # type: ignore[arg-type]
        self.written.bytes_ = sent


def main(seed: int, count: int, directory: Path, result: Path) -> None:
    """Run the cases and write the result."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES))
    qemu_img.CPU_S = 60
    (directory / "bases").mkdir(exist_ok=True)
    files = Files(directory, seed, bases(directory / "bases"))

    async def all_cases() -> None:
        for number in range(count):
            await files.run(number)

    with files.written.watched():
        asyncio.run(all_cases())
    summary = {
        "cases": count,
        "ends": dict(sorted(files.ends.items())),
        "failed": len(files.failures),
        "failures": files.failures[:20],
        "slowest_s": round(files.slowest_s, 2),
        "worst_written_per_estimate": round(files.written.worst, 3),
        "most_tries": files.most_tries,
    }
    result.write_text(json.dumps(summary))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
