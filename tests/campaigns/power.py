"""Power cuts: a daemon starts on what a cut has left of its disk, on ext4 and on XFS.

A daemon fetches, publishes, captures, unpublishes, discards, evicts and restarts on a device that records each write
and flush (``tests.support.block_log``). Each state is a device as a cut may leave it: everything before the last flush,
any of the later writes, in any order, torn between sectors. The kernel mounts it, with its own journal, and a daemon
of another boot starts on it. What must hold: each overlay that a caller was told about is there, with what its guest
wrote and flushed, and can be published; all layers are fetched again or intact; everything can be deleted. Beside this,
the first layer is fetched within 10 s after a start with 1,000 layers and no records.

    python -m tests.campaigns.power --seed 1 --states 10000 > power.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from kigi.api.node_cache import CaptureOrder
from kigi.domain.layers import Chain, digest_hex
from kigi_cache import daemon as daemon_module
from kigi_cache.clock import REAL_TIME
from kigi_cache.disks.overlay_files import DISK, MOUNT
from kigi_cache.filesystem import fsync
from kigi_cache.layers import store as store_module
from tests.campaigns import faults
from tests.campaigns.faults import Source, World, make_overlays, said, several
from tests.support.block_log import MAKE, Cut, Log, States, cuts, missing_programs, mounted, recorded, run
from tests.support.fake_mounts import FakeMounts
from tests.support.fast_files import fast_directory
from tests.support.faulty_files import Faults
from tests.support.layers import wanted
from tests.support.stored import VIRTUAL_BYTES, content, layer_of

FIRST_FETCH_S = 10.0
CONVERGE_S = 30.0
GUEST_OFFSET = 2 * 2**20
"""Where a guest's bytes are in the overlay: behind its tables."""
KEPT = 20


@dataclass
class Story:
    """What was told to callers, in order: the number of an event is its mark in the log."""

    events: list[tuple[str, str, int]] = field(default_factory=list)

    def promised(self, log: Log, position: int) -> dict[str, tuple[int, bool]]:
        """Overlays that must exist when the power is cut after ``position`` entries.

        By handle: the number of its chain, and whether its guest has flushed what it wrote.
        """
        told: dict[str, tuple[int, bool]] = {}
        for entries, number in log.marks:
            if entries > position:
                break
            event, handle, chain = self.events[number]
            if event == "published":
                told.setdefault(handle, (chain, False))
            elif event == "written":
                told[handle] = (chain, True)
            elif event == "discarding":
                told.pop(handle, None)
        return told


def guest_bytes(handle: str) -> bytes:
    """What the guest of this overlay writes."""
    return hashlib.shake_256(handle.encode()).digest(8192)


@contextlib.contextmanager
def machine(directory: Path, boot: str) -> Iterator[None]:
    """One boot of the machine: without mounts, and with its own ID."""
    boot_id = directory / "boot_id"
    boot_id.write_text(boot)
    with FakeMounts().used(), mock.patch.object(store_module, "BOOT_ID", boot_id):
        yield


class Work:
    """What callers ask of the daemon while it is recorded."""

    def __init__(self, world: World, mark: Any, chance: random.Random) -> None:
        self.world = world
        self.story = Story()
        self.chance = chance
        self._mark = mark
        self.disks: dict[str, int] = {}
        self._mounted: set[str] = set()
        self._noise = 0

    def tell(self, event: str, handle: str, chain: int = 0) -> None:
        self.story.events.append((event, handle, chain))
        self._mark(len(self.story.events) - 1)

    async def run(self, rounds: int) -> None:
        """``rounds`` overlays, from their creation to their deletion, beside each other."""
        world, chance = self.world, self.chance
        await world.start()
        for number in range(rounds):
            self.want(chance.sample(world.source.chains, chance.randrange(1, 4)))
            await self.publish(f"kigi.a.b.{number}.m.r1.aaaaaaaa", chance.randrange(3))
            self.noise()
            handle = chance.choice(sorted(self.disks))
            if chance.random() < 0.4:
                await self.capture(handle, f"c{number}", keep=chance.random() < 0.3)
            if chance.random() < 0.5:
                await self.unpublish(handle)
            if number < rounds - 1 and chance.random() < 0.45:
                await self.discard(handle)
            if chance.random() < 0.3:
                self.evict()
            self.noise()
            if chance.random() < 0.25:
                await self.restart()
        await world.stop()

    def want(self, chains: list[Chain]) -> None:
        self.world.api.put(layers=[layer for chain in chains for layer in wanted(chain)])

    async def publish(self, handle: str, chain: int) -> None:
        """The overlay is promised once its call was answered, and its guest's bytes once they are flushed."""
        deadline = time.monotonic() + CONVERGE_S
        while not await self.world.publish(handle, chain):
            assert time.monotonic() < deadline, self.world.refusal
            await asyncio.sleep(0.01)
        self.disks[handle] = chain
        self._mounted.add(handle)
        self.tell("published", handle, chain)
        descriptor = os.open(disk_of(self.world.directory, handle), os.O_WRONLY)
        os.pwrite(descriptor, guest_bytes(handle), GUEST_OFFSET)
        if self.chance.random() < 0.7:
            os.fsync(descriptor)
            self.tell("written", handle, chain)
        os.close(descriptor)

    async def unpublish(self, handle: str) -> None:
        await several(lambda: self.world.unpublish(handle))
        self._mounted.discard(handle)

    async def restart(self) -> None:
        """Sometimes the one that ends was of an earlier version, and its files have their form."""
        await self.world.stop()
        earlier = sorted(self.disks.keys() - self._mounted) if self.chance.random() < 0.6 else []
        if earlier:
            make_earlier(self.world.directory / "cache", earlier)
        await self.world.start()
        for handle in earlier:
            await self.publish(handle, self.disks[handle])

    async def capture(self, handle: str, id_: str, *, keep: bool) -> None:
        world = self.world
        digest = world.source.chains[self.disks[handle]][0].digest
        order = CaptureOrder(
            id=id_,
            volume=handle,
            parent_digest=digest,
            virtual_size_bytes=VIRTUAL_BYTES,
            repository_name="default",
            action="Copy",
            mounted=True,
        )
        world.api.put(captures=[order])
        await several(lambda: said(any(report.state == "Copied" for report in world.api.status.captures)))
        self.noise()
        if not keep:
            world.api.put(captures=[])

    async def discard(self, handle: str) -> None:
        world = self.world
        self.tell("discarding", handle)
        await self.unpublish(handle)
        world.api.put(discard_volumes=[handle])
        await several(lambda: said(all(volume.name != handle for volume in world.api.status.volumes)))
        self.disks.pop(handle)
        world.api.put(discard_volumes=[])

    def evict(self) -> None:
        assert self.world.daemon is not None
        store = self.world.daemon._filler.store
        for digest in list(store.held())[:1]:
            store.evict(digest, set())

    def noise(self) -> None:
        """Other users of the disk make the kernel write what it has: all, or its journal alone."""
        way = self.chance.randrange(4)
        if way == 0:
            sync(self.world.directory)
        elif way == 1:
            self._noise += 1
            path = self.world.directory / f"noise{self._noise % 3}"
            path.write_bytes(self.chance.randbytes(3000))
            fsync(path)


def disk_of(directory: Path, handle: str) -> Path:
    """The disk of an overlay in the present form, or in the earlier one."""
    overlay = directory / "cache" / "volumes" / handle
    return overlay / MOUNT / DISK if (overlay / MOUNT / DISK).exists() else overlay / DISK


def sync(directory: Path) -> None:
    """Writes all that this file system has to its device."""
    run("sync", "--file-system", str(directory))


def make_earlier(root: Path, handles: list[str]) -> None:
    """Gives overlays and records the form of the version before disks were mounted apart from their layers.

    It had ``disk.img`` beside the links, and one file of records, without the times of changes.
    """
    for handle in handles:
        overlay = root / "volumes" / handle
        os.rename(overlay / MOUNT / DISK, overlay / DISK)
        shutil.rmtree(overlay / MOUNT)
    records = json.loads((root / "state.recent.json").read_text())
    del records["changedAt"]
    (root / "state.json").write_text(json.dumps(records))
    (root / "state.recent.json").unlink()
    sync(root)


def world_at(directory: Path, source: Source, overlays: dict[str, bytes]) -> World:
    return World(directory, Faults("/nowhere"), source, overlays)


@contextlib.contextmanager
def overlays_from(world: World) -> Iterator[None]:
    with mock.patch.object(daemon_module, "create_overlay", world.create_overlay):
        yield


def record(directory: Path, kind: str, seed: int, rounds: int) -> tuple[Log, Story]:
    """One story on a new file system, with all that reached the device."""
    source = Source()
    log = Log(kind, directory / f"{kind}.base")
    with recorded(directory, kind, log) as mark, machine(directory, "before"):
        (directory / "disk" / "cache").mkdir()
        world = world_at(directory / "disk", source, make_overlays(source))
        work = Work(world, mark, random.Random(seed))
        with overlays_from(world):
            asyncio.run(work.run(rounds))
    return log, work.story


class Judge:
    """Starts a daemon on each state, and says what does not hold."""

    def __init__(self, directory: Path, log: Log, story: Story) -> None:
        self.directory = directory
        self.log = log
        self.story = story
        self.source = Source()
        self.overlays = make_overlays(self.source)
        self.states = States(log, directory)
        self.slowest_fetch_s = 0.0
        self.counts: Counter[str] = Counter()

    def judge(self, cut: Cut) -> str:
        """Empty if everything holds."""
        image, at = self.directory / "state", self.directory / "after"
        self.states.build(cut, image)
        promised = self.story.promised(self.log, cut.position)
        self.counts["overlays promised"] += len(promised)
        try:
            with mounted(image, at, self.log.kind), machine(self.directory, f"after {cut}"):
                if not (at / "cache").exists():
                    self.counts["before the daemon's directory"] += 1
                    return f"{len(promised)} overlays without a directory" if promised else ""
                return asyncio.run(asyncio.wait_for(self._start(at, promised), 120))
        except Exception as exc:
            return f"{type(exc).__name__}: {exc}"

    async def _start(self, at: Path, promised: dict[str, tuple[int, bool]]) -> str:
        lost = [handle for handle in promised if not (at / "cache" / "volumes" / handle).is_dir()]
        if lost:
            return f"overlay {lost[0]} is lost"
        shutil.rmtree(at / "pods", ignore_errors=True)  # what simulated mounts have left there
        world = world_at(at, self.source, self.overlays)
        began = time.monotonic()
        with overlays_from(world):
            await world.start()
            try:
                world.api.put(layers=[layer for chain in self.source.chains for layer in wanted(chain)])
                fault = await self._until(lambda: self._held(world))
                self.slowest_fetch_s = max(self.slowest_fetch_s, time.monotonic() - began)
                fault = fault or await self._publish(world, promised) or self._lost(at, promised)
                fault = fault or self._damaged(at) or await self._delete_all(world)
            finally:
                await world.stop()
        return fault

    async def _until(self, missing: Any) -> str:
        """Empty once ``missing`` returns an empty text; else what was missing at the end."""
        deadline = time.monotonic() + CONVERGE_S
        while left := missing():
            if time.monotonic() > deadline:
                return str(left)
            await asyncio.sleep(0.005)
        return ""

    def _lost(self, at: Path, promised: dict[str, tuple[int, bool]]) -> str:
        """After all were published, which completes the form of those that an earlier version made."""
        for handle, (_, is_written) in promised.items():
            disk = disk_of(at, handle)
            if not disk.exists():
                return f"overlay {handle} is lost"
            if is_written:
                with disk.open("rb") as file:
                    file.seek(GUEST_OFFSET)
                    if file.read(8192) != guest_bytes(handle):
                        return f"overlay {handle} has lost what its guest flushed"
        return ""

    def _held(self, world: World) -> str:
        assert world.daemon is not None
        held = {layer.digest for layer in world.api.status.layers if layer.state == "Held"}
        return "" if held == set(self.source.data) else f"{len(held)} of {len(self.source.data)} layers held"

    async def _publish(self, world: World, promised: dict[str, tuple[int, bool]]) -> str:
        for handle, (chain, _) in promised.items():
            for name, call in (
                ("published", lambda handle=handle, chain=chain: world.publish(handle, chain)),
                ("unpublished", lambda handle=handle: world.unpublish(handle)),
            ):
                if not await self._tried(call):
                    return f"overlay {handle} cannot be {name}: {world.refusal}"
        return ""

    async def _tried(self, call: Callable[[], Awaitable[bool]]) -> bool:
        """Whether a call succeeds, when it is made again as the kubelet does."""
        deadline = time.monotonic() + CONVERGE_S
        while time.monotonic() < deadline:
            if await call():
                return True
            await asyncio.sleep(0.02)
        return False

    def _damaged(self, at: Path) -> str:
        for path in (at / "cache" / "layers").iterdir():
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.name.removesuffix(".qcow2"):
                return f"layer {path.name} is damaged and held"
        return ""

    async def _delete_all(self, world: World) -> str:
        """Every overlay, capture and layer goes when it is asked to."""
        root = world.directory / "cache"
        volumes = sorted(entry.name for entry in (root / "volumes").iterdir() if not entry.name.startswith("."))
        self.counts["overlays found"] += len(volumes)
        world.api.put(layers=[], captures=[], discard_volumes=volumes)
        left = await self._until(lambda: " ".join(_left(root)))
        if left:
            return f"not deleted: {left[:200]}"
        assert world.daemon is not None
        store = world.daemon._filler.store
        for digest in store.held():
            if not await asyncio.to_thread(store.evict, digest, set()):
                return f"layer {digest_hex(digest)} cannot be evicted"
        return ""


def _left(root: Path) -> list[str]:
    """Names of overlays and captures, whole or in part."""
    return [
        f"{folder}/{entry.relative_to(root / folder)}"
        for folder in ("volumes", "captures")
        for part in (".", ".new", ".old")
        for entry in (root / folder / part).iterdir()
        if not entry.name.startswith(".") or part != "."
    ]


@dataclass
class Part:
    """Results of one story, or of several."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_fetch_s: float = 0.0

    def add(self, other: Part) -> None:
        self.counts += other.counts
        self.failures += other.failures
        self.slowest_fetch_s = max(self.slowest_fetch_s, other.slowest_fetch_s)

    def summary(self) -> dict[str, Any]:
        return {
            **self.counts,
            "slowest_fetch_s": round(self.slowest_fetch_s, 2),
            "failed": len(self.failures),
            "failures": self.failures[:KEPT],
        }


def one_story(kind: str, seed: int, states: int, rounds: int) -> Part:
    """Records one story and judges its states; runs in a process of its own."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix=f"kigi-p-{kind}-", dir=fast_directory()) as name:
        directory = Path(name)
        log, story = record(directory, kind, seed, rounds)
        judge = Judge(directory, log, story)
        failures: list[str] = []
        for cut in cuts(log, random.Random(seed), states, log.marks[0][0]):
            fault = judge.judge(cut)
            judge.counts["states"] += 1
            if fault:
                failures.append(f"{kind} story {seed} {cut}: {fault}"[:600])
        judge.counts["writes and flushes"] += len(log.entries)
        return Part(judge.counts, failures, judge.slowest_fetch_s)


def power_cuts(seed: int, states: int, rounds: int, stories: int) -> dict[str, Any]:
    """Part 1: ``states`` of each kind of file system, from as many stories."""
    parts = {kind: Part() for kind in MAKE}
    with ProcessPoolExecutor(2 * len(MAKE), mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [
            (kind, pool.submit(one_story, kind, seed * 1000 + number, -(-states // stories), rounds))
            for number in range(stories)
            for kind in MAKE
        ]
        for kind, each in running:
            parts[kind].add(each.result())
    return {kind: part.summary() for kind, part in parts.items()}


def first_fetch(layers: int, size_bytes: int) -> dict[str, Any]:
    """Seconds from the start of a daemon, with ``layers`` and no records, until a wanted layer was fetched."""
    source = Source()
    with tempfile.TemporaryDirectory(prefix="kigi-p-start-") as name:
        directory = Path(name)
        folder = directory / "cache" / "layers"
        folder.mkdir(parents=True)
        zeros = bytes(size_bytes)
        for number in range(100, 100 + layers):
            data = content(number)
            digest = hashlib.sha256(data)
            digest.update(zeros[len(data) :])
            path = folder / f"{digest.hexdigest()}.qcow2"
            path.write_bytes(data)
            os.truncate(path, size_bytes)
        world = World(directory, Faults("/nowhere"), source, {}, budget="100Ti")

        async def fetch() -> float:
            world.api.put(layers=wanted((layer_of(content(0)),)))
            began = time.monotonic()
            await world.start()
            try:
                while not any(layer.state == "Held" and layer.digest in source.data for layer in held(world)):
                    if time.monotonic() - began > 10 * FIRST_FETCH_S:
                        break
                    await asyncio.sleep(0.01)
                return time.monotonic() - began
            finally:
                await world.stop()

        def held(world: World) -> list[Any]:
            return list(world.api.status.layers)

        with machine(directory, "after"), mock.patch.object(faults, "fast_clock", return_value=REAL_TIME):
            seconds = asyncio.run(fetch())
    return {
        "layers": layers,
        "layer_bytes": size_bytes,
        "seconds": round(seconds, 2),
        "holds": seconds <= FIRST_FETCH_S,
    }


def campaign(
    seed: int,
    states: int,
    *,
    rounds: int = 12,
    stories: int = 4,
    layers: int = 1000,
    layer_bytes: int = 16 * 2**20,
) -> dict[str, Any]:
    """Both parts; the result as JSON's types. ``states``: of both file systems together."""
    missing = missing_programs()
    if missing:
        raise SystemExit(f"the campaign needs {', '.join(missing)}")
    result: dict[str, Any] = {"campaign": "power", "seed": seed}
    began = time.monotonic()
    result["states"] = power_cuts(seed, -(-states // len(MAKE)), rounds, stories)
    result["seconds"] = round(time.monotonic() - began, 1)
    result["first_fetch"] = first_fetch(layers, layer_bytes)
    failed = sum(part["failed"] for part in result["states"].values())
    result["holds"] = not failed and result["first_fetch"]["holds"]
    return result


def main() -> int:
    """Print the result; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description="Power cuts of the node's cache on ext4 and XFS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--states", type=int, default=10_000)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    result = campaign(arguments.seed, arguments.states)
    json.dump(result, sys.stdout, indent=1)
    print()
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
