"""Makes held layers durable: they are used before the disk has them, and fsynced when no transfer runs.

See docs/decisions/0005-layers-are-settled-behind-their-commit.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kigi.domain.layers import Digest
from kigi_cache.clock import Clock
from kigi_cache.layers.store import Store

logger = logging.getLogger(__name__)
RETRY_S = 30.0
"""Delay after the disk could not write which layers are persisted."""
MAX_DELAY_S = 5.0
"""Longest time that a layer waits for a pause in the transfers. Volumes wait for transfers, but not for an fsync."""


class Persister:
    """Persists held layers one after the other. Belongs to one event loop."""

    def __init__(self, store: Store, clock: Clock, on_damage: Callable[[Digest, str], None]) -> None:
        """``on_damage`` gets a layer that the disk could not write, which is quarantined, and the cause."""
        self._store = store
        self._clock = clock
        self._on_damage = on_damage
        self._pending = asyncio.Event()
        self.idle = asyncio.Event()
        """Set by the filler while no transfer runs."""

    def notify(self) -> None:
        """The store's records may have changed."""
        self._pending.set()

    async def run(self) -> None:
        """Persist until cancelled."""
        while True:
            self._pending.clear()
            try:
                await self._persist_all()
            except OSError as exc:
                logger.warning("layers not persisted", extra={"cause": exc.strerror, "retry_s": RETRY_S})
                await self._clock.sleep(RETRY_S)
                continue
            await self._pending.wait()

    async def _persist_all(self) -> None:
        for digest in await asyncio.to_thread(self._store.unpersisted):
            await self._clock.wait(self.idle, MAX_DELAY_S)
            if not await asyncio.to_thread(self._store.persist, digest):
                self._on_damage(digest, "the disk could not write it")
        await asyncio.to_thread(self._store.flush)
