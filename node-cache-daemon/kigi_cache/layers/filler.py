"""Fetches the requested layers onto the node, the most urgent first, and retries until each is held."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from kigi.api.node_cache import WantedLayer
from kigi.domain.layers import Chain, Digest
from kigi.errors import KigiError, LayerCorrupt, NoRoom
from kigi_cache.background import Supervisor
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.layers.durability import Persister
from kigi_cache.layers.eviction import Budget, Need
from kigi_cache.layers.integrity import Integrity
from kigi_cache.layers.jobs import Concurrency, Job, Jobs, Urgency
from kigi_cache.layers.report import FillState, cached_layers, describe_progress
from kigi_cache.layers.retry import DEFAULT_RETRY, RetryPolicy
from kigi_cache.layers.space import Space
from kigi_cache.layers.store import Store
from kigi_cache.layers.transfer import transfer
from kigi_cache.settings import CONNECTIONS
from kigi_cache.sources.source import Source

logger = logging.getLogger(__name__)
RECHECK_S = 30.0
"""Interval in which files and free space are checked although nothing was requested."""
SHORTEST_WAIT_S = 0.05


class Filler:
    """Fetches requested layers into ``store``. Methods belong to one event loop; disk and network are in threads."""

    def __init__(
        self,
        store: Store,
        source: Source,
        budget: Budget,
        *,
        max_transfers: int = CONNECTIONS,
        max_prefetches: int | None = None,
        retry: RetryPolicy = DEFAULT_RETRY,
        clock: Clock = REAL_TIME,
        on_change: Callable[[], None] = lambda: None,
        on_error: Callable[[Digest, KigiError], None] = lambda digest, error: None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Of ``max_transfers`` at the same time, ``max_prefetches`` (default: half) may be prefetches.

        ``on_change`` is called when ``snapshot`` may have changed, except when a transfer has only received more bytes.
        ``on_error`` is called when a layer is refused for a new reason, or found damaged.
        """
        self.store = store
        self._source = source
        self._budget = budget
        prefetches = max(1, max_transfers // 2) if max_prefetches is None else min(max_prefetches, max_transfers)
        self._limits = Concurrency(max_transfers, prefetches)
        self._retry = retry
        self._clock = clock
        self._on_change = on_change
        self._on_error = on_error
        self._jobs = Jobs()
        self._space = Space(store, budget, self._jobs.needs, on_change)
        self._persister = Persister(store, clock, self._report_damage)
        self._integrity = Integrity(
            store, clock, self._report_damage, self._verified, lambda digest: digest in self._jobs.wanted
        )
        self._threads = ThreadPoolExecutor(max_transfers, thread_name_prefix="fill")
        self._tasks: set[asyncio.Task[KigiError | None]] = set()
        self._wake = asyncio.Event()
        self._supervisor = supervisor if supervisor is not None else Supervisor(clock)
        self._is_recovered = False

    def is_recovered(self) -> bool:
        """Whether the store knows what it holds; no volume can be published before."""
        return self._is_recovered

    async def recover(self) -> None:
        """Read what the store holds. Raises OSError; then nothing is held."""
        if not self._is_recovered:
            await self._integrity.recover()
            self._is_recovered = True

    async def run(self) -> None:
        """Recover the store if that has not been done, then fill until cancelled, whatever fails meanwhile."""
        tasks = {"persist layers": self._persister.run, "verify layers": self._integrity.run, "fill": self._fill}
        try:
            await self._supervisor.run(tasks)
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop all transfers. Their partial files stay, and the next run continues them."""
        for job in self._jobs:
            job.stop.set()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    # requests

    def want(self, layers: Iterable[WantedLayer]) -> None:
        """Replace the list of layers that the node should hold. Held layers that it does not name may be evicted."""
        for digest in self._jobs.want(layers, self.store.is_held):
            self._drop_part(digest)
        for digest in self._jobs.unrequested(self.store.parts()):
            self._drop_part(digest)
        self.store.touch(self._jobs.wanted)
        self._wake.set()

    async def ensure(self, chain: Chain) -> None:
        """Return when every layer of the chain is held; raise the error of the first that cannot be fetched.

        Joins transfers in progress, and retries refused layers immediately.
        """
        waiters: list[asyncio.Future[None]] = []
        parent: Digest | None = None
        for layer in chain:
            if not self.store.is_held(layer.digest):
                job = self._jobs.request(replace(layer, parent=parent), Urgency.POD)
                job.not_before_s = 0.0
                waiter = asyncio.get_running_loop().create_future()
                job.waiters.append(waiter)
                waiters.append(waiter)
            parent = layer.digest
        self._wake.set()
        try:
            for waiter in waiters:
                await waiter
        finally:
            for waiter in waiters:
                waiter.cancel() if not waiter.done() else waiter.exception()

    async def free_space(self, bytes_: int) -> None:
        """Evict idle layers if that gives ``bytes_`` beside the space kept free; else evict none."""
        await self._space.free(bytes_, Need.PREFETCH)

    async def scrub(self, older_than_s: float = 0.0, bytes_per_s: float = 0.0) -> list[Digest]:
        """Read held layers again, as ``Integrity.scrub``; the damaged ones, which are fetched again if wanted."""
        damaged = await self._integrity.scrub(older_than_s, bytes_per_s)
        self._wake.set()
        return damaged

    # reports

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of a layer that is held or being fetched; None for any other."""
        if self.store.is_held(digest):
            return self.store.path(digest).stat().st_size
        job = self._jobs.get(digest)
        return job.layer.size_bytes if job is not None and job.state != "Refused" else None

    def available_bytes(self, digest: Digest) -> int | None:
        """Bytes that can be read of its file now, from the first on; None if it is neither held nor being fetched."""
        if self.store.is_held(digest):
            return self.store.path(digest).stat().st_size
        job = self._jobs.get(digest)
        return job.fetched_bytes if job is not None and job.state != "Refused" else None

    def describe(self, chain: Chain) -> str:
        """Progress of a chain in one line, for a message."""
        held = {layer.digest for layer in chain if self.store.is_held(layer.digest)}
        jobs = {layer.digest: job for layer in chain if (job := self._jobs.get(layer.digest)) is not None}
        return describe_progress(chain, held, jobs)

    def snapshot(self) -> FillState:
        """Every layer that is held, being fetched or refused. O(layers), one stat each."""
        return FillState(
            layers=cached_layers(self.store.held(), self._jobs, self._jobs.needs()),
            budget_bytes=self._budget.limit_bytes,
            used_bytes=self.store.used_bytes(),
            free_bytes=self.store.free_bytes(),
            kept_free_bytes=self._budget.kept_free_bytes,
            fetched_bytes_total=self.store.fetched_bytes_total,
        )

    # filling

    async def _fill(self) -> None:
        await self.recover()
        while True:
            self._wake.clear()
            await self._integrity.find_changed()
            self._jobs.request_missing(self.store.is_held)
            self._complete_held()
            self._start_jobs()
            await self._space.evict_idle()
            await self._space.relieve_pressure()
            self._persister.notify()
            await self._clock.wait(self._wake, self._wait_s())

    def _complete_held(self) -> None:
        """Complete jobs whose layer was found held without a transfer."""
        for job in self._jobs:
            if not job.is_running and self.store.is_held(job.layer.digest):
                self._jobs.complete(job)

    def _start_jobs(self) -> None:
        # A file that waits to be verified takes no transfer, unless a pod waits for it.
        for job in self._jobs.startable(self._clock.monotonic_s(), self._limits, self._integrity.is_doubtful):
            job.is_running = True
            task = asyncio.create_task(self._fetch(job), name=f"fetch {job.layer.digest[:19]}")
            self._tasks.add(task)
            task.add_done_callback(lambda task, job=job: self._ended(job, task))  # type: ignore[misc]
        if self._tasks:
            self._persister.idle.clear()
        else:
            self._persister.idle.set()

    def _wait_s(self) -> float:
        next_start_s = self._jobs.next_start_s(self._limits)
        if next_start_s is None:
            return RECHECK_S
        return min(RECHECK_S, max(SHORTEST_WAIT_S, next_start_s - self._clock.monotonic_s()))

    async def _fetch(self, job: Job) -> KigiError | None:
        """One attempt; its error. Exceptions of any other type are bugs, and left to ``_ended``."""
        digest = job.layer.digest
        try:
            if not self.store.is_held(digest):
                await self._space.reserve(job.layer, job.need)
            job.state, job.error = "Fetching", None
            await asyncio.get_running_loop().run_in_executor(self._threads, transfer, self.store, self._source, job)
        except LayerCorrupt as exc:
            self._source.distrust(digest)
            await asyncio.to_thread(self.store.drop_part, digest)  # which of its bytes are wrong is unknown
            return exc
        except KigiError as exc:
            return exc
        except OSError as exc:
            cause = f"writing it to the cache failed: {exc.strerror}"
            return NoRoom(f"layer {digest}: {cause}; free some space or repair the disk")
        self._source.done(digest)
        return None

    def _ended(self, job: Job, task: asyncio.Task[KigiError | None]) -> None:
        """Supervises transfers: whatever ended one, the others continue, and the layer is retried with backoff."""
        job.is_running = False
        self._tasks.discard(task)
        self._space.release(job.layer.digest)
        if not task.cancelled():
            self._conclude(job, _outcome(job, task))
        self._persister.notify()
        self._wake.set()
        self._on_change()

    def _conclude(self, job: Job, error: KigiError | None) -> None:
        digest = job.layer.digest
        if error is not None:
            if isinstance(error, LayerCorrupt):
                logger.warning("layer corrupt", extra={"digest": digest, "cause": str(error)})
            delay_s = self._retry.delay_s(error, job.failures + 1, random.uniform(-1.0, 1.0))
            if self._jobs.fail(job, error, self._clock.monotonic_s() + delay_s):
                self._on_error(digest, error)
        elif not job.stop.is_set() or self.store.is_held(digest):
            self._jobs.complete(job)
        elif self._jobs.stopped(job):
            self._drop_part(digest)

    def _drop_part(self, digest: Digest) -> None:
        """A partial file that cannot be deleted costs space only; the next start tries again."""
        try:
            self.store.drop_part(digest)
        except OSError as exc:
            logger.warning("partial file not deleted", extra={"digest": digest, "cause": exc.strerror})

    def _verified(self) -> None:
        """A changed file was read: the layer is held, to be persisted, or damaged."""
        self._persister.notify()
        self._wake.set()
        self._on_change()

    def _report_damage(self, digest: Digest, cause: str) -> None:
        self._on_error(
            digest, LayerCorrupt(f"layer {digest}: {cause}; it is quarantined and fetched again when needed")
        )
        self._wake.set()


def _outcome(job: Job, task: asyncio.Task[KigiError | None]) -> KigiError | None:
    """Result of a transfer that was not cancelled."""
    fault = task.exception()
    if fault is None:
        return task.result()
    digest = job.layer.digest
    logger.error("fetch failed", extra={"digest": digest}, exc_info=fault)
    return KigiError(f"layer {digest}: {type(fault).__name__}: {fault}")
