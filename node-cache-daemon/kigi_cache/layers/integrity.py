"""Finds held layers whose files are damaged: changed or missing ones by their stat, all others by reading them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kigi.domain.layers import Digest
from kigi_cache import metrics
from kigi_cache.clock import Clock
from kigi_cache.layers.store import Store
from kigi_cache.layers.token_bucket import TokenBucket

logger = logging.getLogger(__name__)
RETRY_S = 30.0
"""Delay after an error of the file system that says nothing about a layer."""


class Integrity:
    """Verifies files of one store, in threads. A damaged layer is quarantined by the store and reported here."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        on_damage: Callable[[Digest, str], None],
        on_verified: Callable[[], None] = lambda: None,
        is_wanted: Callable[[Digest], bool] = lambda digest: False,
    ) -> None:
        """``on_verified`` is called after each doubtful file was read, whatever was found.

        Doubtful layers that are wanted are read first.
        """
        self._store = store
        self._clock = clock
        self._on_damage = on_damage
        self._on_verified = on_verified
        self._is_wanted = is_wanted
        self._doubtful: dict[Digest, None] = {}
        """Layers to verify, the first one first."""
        self._wake = asyncio.Event()

    async def recover(self) -> None:
        """Read which layers the store holds. ``run`` verifies the files that it cannot trust."""
        self._doubtful = dict.fromkeys(await asyncio.to_thread(self._store.recover))
        self._wake.set()

    def is_doubtful(self, digest: Digest) -> bool:
        """Whether the layer waits to be verified."""
        return digest in self._doubtful

    async def find_changed(self) -> None:
        """Find layers whose file vanished or changed since it was verified; ``run`` verifies them. One stat each."""
        self._doubtful |= dict.fromkeys(await asyncio.to_thread(self._store.damaged))
        if self._doubtful:
            self._wake.set()

    async def run(self) -> None:
        """Verify doubtful layers until cancelled, one at a time: disks that are started do not wait for all of them."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.verify_doubtful():
                await self._clock.sleep(RETRY_S)
                self._wake.set()

    async def verify_doubtful(self) -> bool:
        """Verify every doubtful layer, those first that the operator wants. False if the file system refused some."""
        refused: dict[Digest, None] = {}
        while self._doubtful.keys() - refused.keys():
            digest = min(self._doubtful.keys() - refused.keys(), key=lambda d: (not self._is_wanted(d), d))
            try:
                await self._verify(digest)
            except OSError as exc:
                logger.warning("layer not verified", extra={"digest": digest, "cause": exc.strerror})
                refused[digest] = None
                continue
            del self._doubtful[digest]
            self._on_verified()
        return not refused

    async def _verify(self, digest: Digest) -> None:
        if await asyncio.to_thread(self._store.is_held, digest):
            return  # verified meanwhile, because a disk waited for it
        if not await asyncio.to_thread(self._store.verify, digest):
            self._on_damage(digest, "its file was changed or removed")

    async def scrub(self, older_than_s: float, bytes_per_s: float) -> list[Digest]:
        """Read held layers that were not read for ``older_than_s``, the oldest first; the damaged ones.

        Not faster than ``bytes_per_s`` (0: no limit). An interrupted scrub continues with the layers not read yet,
        because the store records when it read each.
        """
        damaged: list[Digest] = []
        bucket = TokenBucket(bytes_per_s)

        def throttle(count: int) -> None:
            metrics.SCRUBBED_BYTES.inc(count)
            self._clock.block(bucket.take(count, self._clock.monotonic_s()))

        for digest in self._store.read_before(self._clock.wall_s() - older_than_s):
            if not self._store.is_held(digest):
                continue
            try:
                is_right = await asyncio.to_thread(self._store.verify, digest, on_read=throttle)
            except OSError as exc:
                logger.warning("layer not verified", extra={"digest": digest, "cause": exc.strerror})
                continue
            if not is_right:
                damaged.append(digest)
                metrics.SCRUB_DAMAGED.inc()
                self._on_damage(digest, "its bytes do not have its digest")
        return damaged
