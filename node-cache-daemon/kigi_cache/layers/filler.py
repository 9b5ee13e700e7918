"""Brings the wanted layers to the node: what is missing, the most urgent first, and again until it is there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal

from kigi.api.node_cache import DISK_PRIORITY, MAX_LAYERS, CachedLayer, WantedLayer
from kigi.domain.layers import Chain, Digest, Layer, parse_digest
from kigi.domain.quantities import format_bytes
from kigi.errors import (
    BudgetExceeded,
    DiskPressure,
    KigiError,
    LayerCorrupt,
    LayerRefused,
    NeedsAction,
    NoRoom,
    PrefetchWaits,
)
from kigi_cache import metrics
from kigi_cache.layers.eviction import Budget, Need, free_up, keep_few, keep_low, make_room, need_of
from kigi_cache.layers.store import CHUNK_BYTES, Store
from kigi_cache.layers.token_bucket import Pace
from kigi_cache.sources.s3 import CONNECTIONS, Source

logger = logging.getLogger(__name__)
RETRY_FIRST_S = 1.0
RETRY_MOST_S = 60.0
RETRY_WRONG_MOST_S = 1800.0
"""The same when what the repository has is wrong: each try moves bytes for nothing."""
RETRY_SPEC_S = 10.0
"""At least, when a person must act first."""
SETTLE_AFTER_S = 5.0
"""A layer waits for a pause in the transfers at most that long before it is fsynced."""
SETTLE_RETRY_S = 30.0
"""After the disk refused to note what is settled."""
RESERVE_BYTES = 256 * 2**20
"""Bytes of the file system that fills leave to others (overlays grow there)."""


_NEED: dict[Need, Literal["Running", "Wanted", "Prefetch", "Idle"]] = {
    Need.RUNNING: "Running",
    Need.WANTED: "Wanted",
    Need.PREFETCH: "Prefetch",
    Need.IDLE: "Idle",
}


@dataclass(frozen=True, slots=True)
class FillState:
    """What the filler and its store say at one moment; sizes in bytes."""

    layers: Sequence[CachedLayer]
    budget_bytes: int
    used_bytes: int
    free_bytes: int
    fetched_bytes_total: int


@dataclass(slots=True)
class _Job:
    """One layer that somebody asks for."""

    layer: Layer
    priority: int
    state: Literal["Queued", "Fetching", "Refused"] = "Queued"
    fetched_bytes: int = 0
    error: KigiError | None = None
    reported: str | None = None
    """Reason of the last error that was reported; the same one again is no news."""
    failures: int = 0
    not_before: float = 0.0
    """Monotonic time of the next try."""
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


class Filler:
    """Fetches into ``store`` what is asked for. Methods belong to one event loop; disk and network are in threads."""

    def __init__(
        self,
        store: Store,
        source: Source,
        budget: Budget,
        *,
        parallel: int = CONNECTIONS,
        prefetches: int | None = None,
        min_free_bytes: int = 0,
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[Digest, KigiError], None] = lambda digest, error: None,
    ) -> None:
        self.store = store
        self._source = source
        self.budget = budget
        self._parallel = parallel
        self._prefetches = max(1, parallel // 2) if prefetches is None else min(prefetches, parallel)
        self._min_free_bytes = max(min_free_bytes or RESERVE_BYTES, RESERVE_BYTES)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="fill")
        self._on_change = on_change
        self._on_error = on_error
        self._jobs: dict[Digest, _Job] = {}
        self._wanted: dict[Digest, WantedLayer] = {}
        self._running: dict[Digest, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._committed = asyncio.Event()
        self._reserved: dict[Digest, int] = {}
        self._doubtful: list[Digest] = []
        self._has_taken_stock = False

    def has_taken_stock(self) -> bool:
        """Whether it is known what the node holds; nothing can be published before."""
        return self._has_taken_stock

    async def run(self) -> None:
        """Take stock, then fill until cancelled."""
        self._doubtful = await asyncio.to_thread(self.store.recover)
        self._has_taken_stock = True
        settling = asyncio.create_task(self._settle(), name="settle")
        try:
            while True:
                self._wake.clear()
                await self._heal()
                self._start_jobs()
                await self._evict_idle()
                await self._relieve()
                await self._sleep()
        finally:
            settling.cancel()
            await self.aclose()

    async def aclose(self) -> None:
        """Stop all transfers; what has arrived stays and is continued next time."""
        for job in self._jobs.values():
            job.stop.set()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    def want(self, layers: Iterable[WantedLayer]) -> None:
        """The layers that the node shall hold from now on; those that are held and not named may be evicted."""
        self._wanted = {parse_digest(wanted.digest): wanted for wanted in layers}
        for digest, wanted in self._wanted.items():
            if not self.store.is_held(digest):
                self._ask(_layer(wanted), wanted.priority)
        for digest, job in list(self._jobs.items()):
            if digest not in self._wanted and not job.waiters:
                self._drop(digest, job)
        for digest in self.store.parts():  # of a run before this one
            if digest not in self._jobs and digest not in self._running:
                self.store.drop_part(digest)
        self.store.touch(self._wanted)
        self._wake.set()

    async def ensure(self, chain: Chain, *, priority: int) -> None:
        """Return when every layer of the chain is held; raise what prevents that. Shares fetches that are under way."""
        waits: list[asyncio.Future[None]] = []
        parent: Digest | None = None
        for layer in chain:
            if not self.store.is_held(layer.digest):
                job = self._ask(replace(layer, parent=parent), priority)
                job.not_before = 0.0
                future = asyncio.get_running_loop().create_future()
                job.waiters.append(future)
                waits.append(future)
            parent = layer.digest
        self._wake.set()
        try:
            for future in waits:
                await future
        finally:
            for future in waits:
                future.cancel() if not future.done() else future.exception()

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of a layer that is held or on its way; None for any other."""
        if self.store.is_held(digest):
            return self.store.path(digest).stat().st_size
        job = self._jobs.get(digest)
        return job.layer.size_bytes if job is not None and job.state != "Refused" else None

    def available(self, digest: Digest) -> int | None:
        """Bytes of it that are in its file now, from the first on; None if it is neither held nor on its way."""
        if self.store.is_held(digest):
            return self.store.path(digest).stat().st_size
        job = self._jobs.get(digest)
        return job.fetched_bytes if job is not None and job.state != "Refused" else None

    def describe(self, chain: Chain) -> str:
        """How far a chain is, for a person."""
        held = [layer for layer in chain if self.store.is_held(layer.digest)]
        total = sum(layer.size_bytes for layer in chain)
        there = sum(layer.size_bytes for layer in held)
        there += sum(job.fetched_bytes for layer in chain if (job := self._jobs.get(layer.digest)) is not None)
        causes = [str(job.error) for layer in chain if (job := self._jobs.get(layer.digest)) and job.error]
        text = f"{len(held)} of {len(chain)} layers ({format_bytes(there)} of {format_bytes(total)})"
        return f"{text}; {causes[0]}" if causes else text

    def snapshot(self) -> FillState:
        """Everything held, on its way or refused, by digest."""
        held = self.store.held()
        needs = self._needs()
        layers = [
            CachedLayer(
                digest=layer.digest,
                state="Held",
                size_bytes=layer.size_bytes,
                fetched_bytes=layer.size_bytes,
                links=layer.links,
                need=_NEED[need_of(layer, needs)],
            )
            for layer in held.values()
        ]
        for digest, job in self._jobs.items():
            if digest not in held:
                layers.append(
                    CachedLayer(
                        digest=digest,
                        state=job.state,
                        size_bytes=job.layer.size_bytes,
                        fetched_bytes=job.fetched_bytes,
                        reason=job.error.reason if job.error else None,
                        message=str(job.error)[:4096] if job.error else None,
                    )
                )
        return FillState(
            layers=sorted(layers, key=lambda layer: layer.digest),
            budget_bytes=self.budget.limit_bytes,
            used_bytes=self.store.used_bytes(),
            free_bytes=self.store.free_bytes(),
            fetched_bytes_total=self.store.fetched_bytes_total,
        )

    async def make_room(self, bytes_: int) -> None:
        """Idle layers leave the disk, if that gives ``bytes_`` beside what stays free; else none does."""
        await self._free_for(bytes_, Need.PREFETCH)

    async def scrub(self, older_than_s: float = 0.0, bytes_per_s: float = 0.0) -> list[Digest]:
        """Read every held layer again that was not read for so long, the oldest first, and not faster than that.

        The damaged ones, which are fetched anew. A scrub that is broken off goes on with those that it has not read.
        """
        damaged: list[Digest] = []
        pace = Pace(bytes_per_s)

        def slow_down(count: int) -> None:
            metrics.SCRUBBED_BYTES.inc(count)
            time.sleep(pace.wait_s(count, time.monotonic()))

        for digest in self.store.read_before(self.store.clock() - older_than_s):
            if not self.store.is_held(digest):
                continue
            known = self._declared(digest) or digest
            if not await asyncio.to_thread(self.store.verify, known, on_read=slow_down):
                damaged.append(digest)
                metrics.SCRUB_DAMAGED.inc()
                self._report_damage(digest, "its bytes are not those of its digest")
        self._wake.set()
        return damaged

    # What follows runs inside ``run``.

    def _ask(self, layer: Layer, priority: int) -> _Job:
        job = self._jobs.get(layer.digest)
        if job is None:
            job = self._jobs[layer.digest] = _Job(layer, priority)
        job.priority = max(job.priority, priority)
        if job.layer != layer and layer.digest not in self._running:
            job.layer, job.not_before, job.error, job.state, job.failures = layer, 0.0, None, "Queued", 0
        return job

    def _drop(self, digest: Digest, job: _Job) -> None:
        """Nobody asks for it any more: stop, and give its room back."""
        job.stop.set()
        if digest not in self._running:
            del self._jobs[digest]
            self.store.drop_part(digest)

    def _stopped(self, job: _Job) -> None:
        """Its transfer ended because nobody asked for it; somebody may have asked again since."""
        digest = job.layer.digest
        if job.waiters or digest in self._wanted:
            job.layer = self._declared(digest) or job.layer
            job.stop, job.state = threading.Event(), "Queued"
        else:
            self._jobs.pop(digest, None)
            self.store.drop_part(digest)

    def _declared(self, digest: Digest) -> Layer | None:
        wanted = self._wanted.get(digest)
        return _layer(wanted) if wanted is not None else None

    async def _heal(self) -> None:
        """Layers whose file changed or vanished are read again; what is not right is fetched anew if it is wanted."""
        for digest in [*self._doubtful, *await asyncio.to_thread(self.store.damaged)]:
            if not await asyncio.to_thread(self.store.verify, self._declared(digest) or digest):
                self._report_damage(digest, "its file was changed or removed")
            self._on_change()
        self._doubtful = []
        for digest, wanted in self._wanted.items():
            if digest not in self._jobs and not self.store.is_held(digest):
                self._ask(_layer(wanted), wanted.priority)
            elif digest in self._jobs and digest not in self._running and self.store.is_held(digest):
                self._finish(digest, None)

    async def _settle(self) -> None:
        """See that what is held is on the disk, one layer after the other, behind the transfers."""
        while True:
            try:
                for digest in await asyncio.to_thread(self.store.unsettled):
                    await self._quiet()
                    if not await asyncio.to_thread(self.store.settle, digest):
                        self._report_damage(digest, "the disk could not write it")
                        self._wake.set()
            except OSError as exc:  # of state.json on a full disk; nothing else would start this task again
                logger.warning("layers not settled", extra={"cause": exc.strerror, "retry_s": SETTLE_RETRY_S})
                await asyncio.sleep(SETTLE_RETRY_S)
                continue
            await self._committed.wait()
            self._committed.clear()

    async def _quiet(self) -> None:
        """Until nothing is being fetched, or long enough: volumes wait for transfers, nobody waits for the disk."""
        for _ in range(int(SETTLE_AFTER_S / 0.1)):
            if not self._running:
                return
            await asyncio.sleep(0.1)

    def _report_damage(self, digest: Digest, cause: str) -> None:
        message = f"layer {digest}: {cause}; it is quarantined and fetched again when needed"
        self._on_error(digest, LayerCorrupt(message))

    def _start_jobs(self) -> None:
        now = time.monotonic()
        ready = [
            (digest, job) for digest, job in self._jobs.items() if digest not in self._running and job.not_before <= now
        ]
        prefetching = self._prefetching()
        for digest, job in sorted(ready, key=lambda item: -item[1].priority):
            if len(self._running) >= self._parallel:
                return
            if _need_of_job(job) == Need.PREFETCH:
                if prefetching >= self._prefetches:  # the others are for disks that come meanwhile
                    continue
                prefetching += 1
            task = asyncio.get_running_loop().create_task(self._fetch(job), name=f"fetch {digest[:19]}")
            self._running[digest] = task

    def _prefetching(self) -> int:
        """Layers on their way that no disk waits for."""
        running = (self._jobs.get(digest) for digest in self._running)
        return sum(job is None or _need_of_job(job) == Need.PREFETCH for job in running)

    async def _fetch(self, job: _Job) -> None:
        digest = job.layer.digest
        try:
            await self._reserve(job)
            job.state, job.error = "Fetching", None
            await asyncio.get_running_loop().run_in_executor(self._threads, _transfer, self.store, self._source, job)
        except LayerCorrupt as exc:
            self._source.distrust(digest)
            await asyncio.to_thread(self.store.drop_part, digest)  # nothing tells which of its bytes are right
            self._finish(digest, exc)
        except KigiError as exc:
            self._finish(digest, exc)
        except OSError as exc:
            self._finish(digest, _disk_error(digest, exc))
        except Exception as exc:  # one layer's fault must not end the others', nor be tried again at once
            logger.exception("fetch failed", extra={"digest": digest})
            self._finish(digest, KigiError(f"layer {digest}: {type(exc).__name__}: {exc}"))
        else:
            self._source.done(digest)
            if job.stop.is_set() and not self.store.is_held(digest):
                self._stopped(job)
            else:
                self._finish(digest, None)
        finally:
            self._reserved.pop(digest, None)
            self._running.pop(digest, None)
            self._committed.set()
            self._wake.set()
            self._on_change()

    async def _reserve(self, job: _Job) -> None:
        """Make room before the first byte moves. Raises BudgetExceeded or NoRoom; then nothing was fetched."""
        digest, size_bytes = job.layer.digest, job.layer.size_bytes
        if self.store.is_held(digest):
            return
        held = await asyncio.to_thread(self.store.held)
        used = sum(layer.size_bytes for layer in held.values()) + sum(self._reserved.values())
        asker = _need_of_job(job)
        try:
            evict = make_room(
                held.values(),
                used_bytes=used,
                needed_bytes=size_bytes,
                needs=self._needs(),
                budget=self.budget,
                asker=asker,
            )
        except BudgetExceeded as exc:
            if asker == Need.PREFETCH and size_bytes <= self.budget.limit_bytes:
                raise PrefetchWaits(f"layer {digest} is kept warm when there is room: {exc}") from exc
            raise
        self._reserved[digest] = size_bytes
        await self._evict(evict, asker)
        part = self.store.part_path(digest)
        there = part.stat().st_size if part.exists() else 0
        free = await self._free_for(size_bytes - there, asker)
        if size_bytes - there + RESERVE_BYTES > free:
            raise NoRoom(
                f"layer {digest}: {format_bytes(size_bytes - there)} to fetch, {format_bytes(free)} free on the "
                f"cache's disk, of which {format_bytes(RESERVE_BYTES)} stay free; free some room"
            )
        if size_bytes - there + self._min_free_bytes > free:
            raise DiskPressure(
                f"layer {digest}: {format_bytes(size_bytes - there)} to fetch, {format_bytes(free)} free on the "
                f"cache's disk, of which {format_bytes(self._min_free_bytes)} stay free (KIGI_MIN_FREE), or the "
                "kubelet would evict pods; free some room"
            )

    async def _free_for(self, bytes_: int, asker: Need) -> int:
        """Bytes free in the file system, after what is needed less has left if ``bytes_`` more would be too many."""
        free = await asyncio.to_thread(self.store.free_bytes)
        short = bytes_ + self._min_free_bytes - free
        if short <= 0:
            return free
        await asyncio.to_thread(self.store.empty_quarantine)
        held = await asyncio.to_thread(self.store.held)
        needs = self._needs()
        first = free_up(held.values(), short, needs, below=asker)
        if first is not None:
            await self._evict(first, asker)
        return await asyncio.to_thread(self.store.free_bytes)

    async def _relieve(self) -> None:
        """Under pressure from others on the disk, idle layers leave, and prefetched ones."""
        free = await asyncio.to_thread(self.store.free_bytes)
        if free >= self._min_free_bytes:
            return
        await asyncio.to_thread(self.store.empty_quarantine)
        short = self._min_free_bytes - await asyncio.to_thread(self.store.free_bytes)
        held = await asyncio.to_thread(self.store.held)
        needs = self._needs()
        all_of_them = [layer for layer in held.values() if need_of(layer, needs) < Need.WANTED]
        some = free_up(held.values(), short, needs, below=Need.WANTED)
        await self._evict(some if some is not None else [layer.digest for layer in all_of_them], Need.WANTED)

    async def _evict(self, victims: Iterable[Digest], asker: Need) -> None:
        for victim in victims:
            kept = {digest for digest, need in self._needs().items() if need >= asker}
            if await asyncio.to_thread(self.store.evict, victim, kept):
                metrics.EVICTED.inc()
                self._on_change()

    def _needs(self) -> dict[Digest, Need]:
        """How much each layer is needed that the operator wants or a volume waits for."""
        needs = {
            digest: Need.RUNNING if wanted.pinned else _need_of_priority(wanted.priority)
            for digest, wanted in self._wanted.items()
        }
        for digest, job in self._jobs.items():
            needs[digest] = max(needs.get(digest, Need.IDLE), _need_of_job(job))
        return needs

    def _finish(self, digest: Digest, error: KigiError | None) -> None:
        job = self._jobs.get(digest)
        if job is None:
            return
        waiters, job.waiters = job.waiters, []
        for future in waiters:
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(None)
        if error is None:
            del self._jobs[digest]
            return
        if isinstance(error, LayerCorrupt):
            logger.warning("layer corrupt", extra={"digest": digest, "cause": str(error)})
        if job.reported != error.reason:
            self._on_error(digest, error)
        job.reported = error.reason
        job.state, job.error, job.fetched_bytes = "Refused", error, 0
        job.failures += 1
        most = RETRY_WRONG_MOST_S if isinstance(error, LayerCorrupt | LayerRefused) else RETRY_MOST_S
        delay = min(most, RETRY_FIRST_S * 2 ** min(job.failures - 1, 11))
        if isinstance(error, NeedsAction):
            delay = max(delay, RETRY_SPEC_S)
        job.not_before = time.monotonic() + delay * random.uniform(0.8, 1.2)
        if digest not in self._wanted:
            del self._jobs[digest]

    async def _evict_idle(self) -> None:
        held = await asyncio.to_thread(self.store.held)
        used = sum(layer.size_bytes for layer in held.values())
        needs = self._needs()
        idle = keep_low(held.values(), used_bytes=used, needs=needs, budget=self.budget)
        await self._evict(dict.fromkeys([*idle, *keep_few(held.values(), needs, MAX_LAYERS)]), Need.PREFETCH)

    async def _sleep(self) -> None:
        """Until something happens, a retry is due, or it is time to look at the files again."""
        full = self._prefetching() >= self._prefetches  # then a prefetch starts when another ends
        due = [
            job.not_before
            for digest, job in self._jobs.items()
            if digest not in self._running and not (full and _need_of_job(job) == Need.PREFETCH)
        ]
        timeout = min([30.0, *(max(0.05, at - time.monotonic()) for at in due)])
        if len(self._running) >= self._parallel:
            timeout = 30.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # wait_for may swallow a cancellation (Python < 3.12)
                await self._wake.wait()


def _transfer(store: Store, source: Source, job: _Job) -> None:
    """Continue the layer's part and commit it; blocks. Every byte that is kept was hashed, the earlier ones again."""
    layer = job.layer
    if store.is_held(layer.digest):
        return
    if os.path.lexists(store.path(layer.digest)) and store.verify(layer):
        return
    sha = hashlib.sha256()
    with store.part_path(layer.digest).open("ab+", buffering=0) as part:
        part.seek(0)
        if os.fstat(part.fileno()).st_size > layer.size_bytes:
            part.truncate(0)
        while chunk := part.read(CHUNK_BYTES):
            sha.update(chunk)
        job.fetched_bytes = position = part.tell()
        body = source.read(layer, position) if position < layer.size_bytes else iter(())
        for data in body:
            written = 0
            while written < len(data):
                written += part.write(data[written:])
            sha.update(data)
            job.fetched_bytes = position = position + len(data)
            if position > layer.size_bytes or job.stop.is_set():
                break
    if job.stop.is_set():
        return
    store.commit(layer, sha.hexdigest())


def _need_of_priority(priority: int) -> Need:
    return Need.WANTED if priority >= DISK_PRIORITY else Need.PREFETCH


def _need_of_job(job: _Job) -> Need:
    return Need.WANTED if job.waiters else _need_of_priority(job.priority)


def _layer(wanted: WantedLayer) -> Layer:
    return Layer(
        parse_digest(wanted.digest),
        wanted.size_bytes,
        wanted.virtual_size_bytes,
        parse_digest(wanted.parent) if wanted.parent is not None else None,
        wanted.repository,
    )


def _disk_error(digest: Digest, exc: OSError) -> KigiError:
    return NoRoom(f"layer {digest}: writing it to the cache failed: {exc.strerror}; free some room or repair the disk")
