"""Finds held layers whose files are damaged: changed or missing ones by their stat, all others by reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kigi.domain.layers import Digest, Layer
from kigi_cache import metrics
from kigi_cache.clock import Clock
from kigi_cache.layers.store import Store
from kigi_cache.layers.token_bucket import TokenBucket


class Integrity:
    """Verifies files of one store, in threads. A damaged layer is quarantined by the store and reported here."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        declared: Callable[[Digest], Layer | None],
        on_damage: Callable[[Digest, str], None],
        on_verified: Callable[[], None] = lambda: None,
    ) -> None:
        """``declared`` gives a layer as the operator declares it; of others the digest alone is checked.

        ``on_verified`` is called after each file that ``check_changed`` has read, whatever it found.
        """
        self._store = store
        self._clock = clock
        self._declared = declared
        self._on_damage = on_damage
        self._on_verified = on_verified
        self._doubtful: list[Digest] = []

    async def recover(self) -> None:
        """Read which layers the store holds. Files that it cannot trust are verified by the next ``check_changed``."""
        self._doubtful = await asyncio.to_thread(self._store.recover)

    async def check_changed(self) -> None:
        """Verify layers whose file vanished or changed since it was verified. One stat per layer."""
        suspects = [*self._doubtful, *await asyncio.to_thread(self._store.damaged)]
        self._doubtful = []
        for digest in suspects:
            if not await asyncio.to_thread(self._store.verify, self._declared(digest) or digest):
                self._on_damage(digest, "its file was changed or removed")
            self._on_verified()

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
            known = self._declared(digest) or digest
            if not await asyncio.to_thread(self._store.verify, known, on_read=throttle):
                damaged.append(digest)
                metrics.SCRUB_DAMAGED.inc()
                self._on_damage(digest, "its bytes do not have its digest")
        return damaged
