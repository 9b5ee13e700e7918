"""A Filler that runs while a test looks on."""

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
from kigi_cache.layers.store import Store
from kigi_cache.sources.s3 import S3Source
from tests.support.why import explained

GIB = 2**30


@asynccontextmanager
async def filling(
    root: Path,
    settings: Repositories,
    env: dict[str, str],
    budget: int = GIB,
    min_free_bytes: int = 0,
    **source: float,
) -> AsyncIterator[tuple[Filler, dict[Digest, list[KigiError]]]]:
    """A running Filler, and the errors that it reported for each layer; ``source`` are settings of S3Source."""
    errors: dict[Digest, list[KigiError]] = {}

    def note(digest: Digest, error: KigiError) -> None:
        errors.setdefault(digest, []).append(error)

    s3 = S3Source(settings, env, **source)  # type: ignore[arg-type]
    filler = Filler(Store(root), s3, Budget(budget), min_free_bytes=min_free_bytes, on_error=note)
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
    """Reasons of all errors so far, each of which ``kigi why`` explains."""
    return [explained(error)["reason"] for found in errors.values() for error in found]
