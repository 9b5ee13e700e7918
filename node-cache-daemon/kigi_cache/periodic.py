"""Periodic work of the daemon: it re-reads the settings of repositories and re-verifies layers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kigi.adapters.repositories import load_repositories
from kigi.api.repositories import Repositories
from kigi.domain.layers import Digest
from kigi_cache import metrics
from kigi_cache.clock import Clock

logger = logging.getLogger(__name__)

REPOSITORIES_CHECK_S = 5.0
SCRUB_CHECKS_PER_INTERVAL = 48
"""A daemon that restarts every day still verifies all layers: the due times are stored with the layers, and each check
verifies only the layers that are due."""


class Scrubber(Protocol):
    """Verifies stored layers."""

    async def scrub(self, older_than_s: float, bytes_per_s: float) -> list[Digest]:
        """Read every layer that was last verified ``older_than_s`` ago or earlier; the damaged ones."""


async def follow_repositories(folder: Path | None, use: Callable[[Repositories], None], clock: Clock) -> None:
    """Call ``use`` each time that the content of the folder's files changes."""
    if folder is None:
        return
    content = await asyncio.to_thread(_read, folder)
    while True:
        await clock.sleep(REPOSITORIES_CHECK_S)
        found = await asyncio.to_thread(_read, folder)
        if found == content:
            continue
        content = found
        repositories = await asyncio.to_thread(load_repositories, folder)
        use(repositories)
        logger.info("repositories reloaded", extra={"names": sorted(repositories.repositories)})


async def scrub_layers(scrubber: Scrubber, interval_s: float, bytes_per_s: float, clock: Clock) -> None:
    """Verify every layer once in ``interval_s``, at most ``bytes_per_s`` (0: no limit); 0 seconds: never."""
    while interval_s > 0:
        await clock.sleep(interval_s / SCRUB_CHECKS_PER_INTERVAL)
        damaged = await scrubber.scrub(interval_s, bytes_per_s)
        metrics.SCRUB_FINISHED.set(clock.wall_s())
        if damaged:
            logger.warning("damaged layers found", extra={"damaged": damaged})


def _read(folder: Path) -> dict[str, bytes]:
    """Content of each file; a file that cannot be read, such as while the kubelet replaces it, is left out."""
    found: dict[str, bytes] = {}
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            found[path.name] = path.read_bytes()
    return found
