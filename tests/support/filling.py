"""A running Filler for tests, and its reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kigi.api.repositories import Repositories
from kigi.domain.layers import Digest
from kigi.errors import KigiError
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.retry import DEFAULT_RETRY, RetryPolicy
from kigi_cache.layers.store import SAVE_INTERVAL_S, Store
from kigi_cache.sources.s3 import TIMEOUT_S, S3Source
from tests.support.why import explained

GIB = 2**30
QUICK_RETRIES = RetryPolicy(first_s=0.2, max_s=1.0, min_action_s=1.0)
"""Short times for tests with real servers: faults are detected and retried within a test."""


@asynccontextmanager
async def filling(
    root: Path,
    settings: Repositories,
    env: dict[str, str],
    budget: Budget | int = GIB,
    *,
    retry: RetryPolicy = DEFAULT_RETRY,
    save_interval_s: float = SAVE_INTERVAL_S,
    timeout_s: float = TIMEOUT_S,
) -> AsyncIterator[tuple[Filler, dict[Digest, list[KigiError]]]]:
    """A running Filler, and the errors that it reported for each layer. ``timeout_s`` is S3Source's."""
    errors: dict[Digest, list[KigiError]] = {}

    def note(digest: Digest, error: KigiError) -> None:
        errors.setdefault(digest, []).append(error)

    s3 = S3Source(settings, env, timeout_s=timeout_s)
    store = Store(root, save_interval_s=save_interval_s)
    limits = budget if isinstance(budget, Budget) else Budget(budget)
    filler = Filler(store, s3, limits, retry=retry, on_error=note)
    task = asyncio.create_task(filler.run())
    try:
        yield filler, errors
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        s3.close()


def states(filler: Filler) -> dict[str, str]:
    """State of each layer, as the NodeCache shows it."""
    return {layer.digest: layer.state for layer in filler.snapshot().layers}


def reasons(errors: dict[Digest, list[KigiError]]) -> list[str]:
    """Reasons of all errors so far; ``kigi why`` must explain each."""
    return [explained(error)["reason"] for found in errors.values() for error in found]
