"""Console script ``kigi-capture-publisher``: makes layers of frozen copies and stores them in their repository.

It runs in a container beside the daemon. It has only the directory of copies and the credentials that may write to the
repository; the daemon's credentials may only read. Both communicate through files, see ``kigi_cache.captures.files``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kigi.adapters.environment import SettingsInvalid, load_settings
from kigi.adapters.json_logs import log_to_stderr
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.domain.layers import parse_digest
from kigi.errors import KigiError, NeedsAction
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.layer_writer import read_difference
from kigi.publishing.publish import make_layer
from kigi_cache.background import run_until_signalled, supervise
from kigi_cache.captures.files import (
    COPY,
    FINAL_STATES,
    HEARTBEAT,
    HEARTBEAT_S,
    ORDER,
    RESULT,
    CopyFiles,
    read_json,
    write_json,
)
from kigi_cache.captures.reports import error_fields
from kigi_cache.captures.space import copy_space, shortage_error, shortages
from kigi_cache.clock import Clock
from kigi_cache.disks.overlay_files import BLOCK_BYTES, CHAIN
from kigi_cache.filesystem import free_bytes
from kigi_cache.settings import PublisherSettings

logger = logging.getLogger(__name__)

CHECK_S = 0.5
RETRY_S = 5.0
"""After the first failure. It doubles with each further one, up to REFUSED_RETRY_S."""
REFUSED_RETRY_S = 60.0
"""For errors that a person must correct: credentials, the bucket."""
PROGRESS_S = 1.0


@dataclass(frozen=True, slots=True)
class Retry:
    """When a copy that could not be published is tried again."""

    failures: int
    not_before_s: float
    """Monotonic time."""


class Publisher:
    """Publishes one copy after another: making a layer needs a processor, and the VMs of the node still run."""

    def __init__(self, root: Path, repositories: Path | None, clock: Clock) -> None:
        """``root``: directory of the cache. ``repositories``: repositories.yaml, which is read for each copy."""
        self._files = CopyFiles(root)
        self._repositories = repositories
        self._clock = clock
        self._retries: dict[str, Retry] = {}
        """By id, of the copies that could not be published."""

    async def run(self) -> None:
        """Publish until cancelled. A layer that is half uploaded is continued at the next start."""
        await supervise({"publish": self._publish_all, "heartbeat": self._heartbeat})

    async def _publish_all(self) -> None:
        while True:
            for directory in self.due():
                await self.publish(directory)
            await self._clock.sleep(CHECK_S)

    async def _heartbeat(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # no directory yet, or the disk is full: no heartbeat
                (self._files.root / HEARTBEAT).touch()
            await self._clock.sleep(HEARTBEAT_S)

    def due(self) -> list[Path]:
        """Directories of the durable copies without a final result whose retry time has come. Blocks."""
        now_s = self._clock.monotonic_s()
        ids = self._files.ids()
        self._retries = {id_: retry for id_, retry in self._retries.items() if id_ in ids}
        return [
            self._files.directory(id_)
            for id_ in ids
            if (id_ not in self._retries or self._retries[id_].not_before_s <= now_s)
            and self._files.is_durable(id_)
            and self._files.result(id_).get("state") not in FINAL_STATES
        ]

    async def publish(self, directory: Path) -> None:
        """Attempt to publish one copy; result.json gets the outcome. A copy that is deleted meanwhile is ignored."""
        try:
            await self._publish(directory)
            self._retries.pop(directory.name, None)
        except KigiError as exc:
            self._retry(directory, exc, REFUSED_RETRY_S if isinstance(exc, NeedsAction) else RETRY_S)
            _write_result(directory, state="Refused", **error_fields(exc))
        except OSError as exc:
            if directory.is_dir():
                self._retry(directory, exc, RETRY_S)
                _write_result(directory, state="Refused", reason="NoRoom", message=str(exc))

    def _retry(self, directory: Path, error: Exception, first_s: float) -> None:
        before = self._retries.get(directory.name)
        failures = before.failures + 1 if before else 1
        wait_s = retry_wait_s(first_s, failures)
        self._retries[directory.name] = Retry(failures, self._clock.monotonic_s() + wait_s)
        logger.warning("layer not stored", extra={"capture": directory.name, "cause": str(error)})

    async def _publish(self, directory: Path) -> None:
        order = read_json(directory / ORDER)
        repository = load_repositories(self._repositories).get(str(order.get("repository", "")))
        parent = parse_digest(str(order.get("parent", "")))
        folder = LayerFolder(directory / CHAIN)
        for scratch in folder.path.glob(".publish-*"):  # of a publisher that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        _check_space(directory, order)
        async with open_repository(repository) as store:
            _write_result(directory, state="Storing")
            layer = await make_layer(directory / COPY, folder, store, parent=parent, image_format="qcow2")
            difference = await asyncio.to_thread(read_difference, folder.file(layer.digest))
            if not difference.data and not difference.zero:
                _write_result(directory, state="Unchanged")
                logger.info("overlay unchanged", extra={"capture": directory.name})
                return
            about = {"digest": layer.digest, "sizeBytes": layer.size_bytes}
            progress = UploadProgress(directory, about, self._clock)
            await store.publish(folder.file(layer.digest), layer.digest, progress.add)
        _write_result(directory, state="Stored", **about, uploadedBytes=layer.size_bytes)
        logger.info("layer stored", extra={"capture": directory.name, **about})


def retry_wait_s(first_s: float, failures: int) -> float:
    """Seconds until the next attempt after that many failures in a row."""
    return min(first_s * 2.0 ** min(failures - 1, 10), REFUSED_RETRY_S)


class UploadProgress:
    """Writes the progress of one upload to result.json, at most once in PROGRESS_S."""

    def __init__(self, directory: Path, about: Mapping[str, Any], clock: Clock) -> None:
        """``about``: digest and sizeBytes of the layer."""
        self._directory = directory
        self._about = about
        self._clock = clock
        self._sent_bytes = 0
        self._written_s = 0.0

    def add(self, count: int) -> None:
        """Count further bytes. A part that is sent again counts again, so the sum is capped at the layer's size."""
        self._sent_bytes += count
        if self._clock.monotonic_s() - self._written_s > PROGRESS_S:
            self._written_s = self._clock.monotonic_s()
            uploaded = min(self._sent_bytes, self._about["sizeBytes"])
            _write_result(self._directory, state="Storing", **self._about, uploadedBytes=uploaded)


def _write_result(directory: Path, **result: Any) -> None:
    if directory.is_dir():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            write_json(directory / RESULT, result)


def _check_space(directory: Path, order: Mapping[str, Any]) -> None:
    """Raise NoRoom if making the layer would need the space that the daemon leaves free."""
    space = copy_space(
        allocated_bytes=(directory / COPY).stat().st_blocks * BLOCK_BYTES,
        chain_bytes=sum(entry.stat().st_size for entry in os.scandir(directory / CHAIN)),
        virtual_bytes=int(order.get("virtualSizeBytes", 0)),
        copied=True,
    )
    min_free = int(order.get("minFreeBytes", 0))
    for short in shortages([("", space)], free_bytes=free_bytes(directory), min_free_bytes=min_free).values():
        raise shortage_error(short, min_free)


def main() -> None:
    """Read the environment and run until SIGTERM. Exit code 1 and a text on standard error for invalid settings."""
    try:
        settings = load_settings(PublisherSettings)
    except SettingsInvalid as exc:
        sys.exit(f"kigi-capture-publisher: {exc}")
    log_to_stderr(settings.log_level)
    asyncio.run(run_until_signalled(Publisher(settings.root, settings.repositories, Clock()).run))


if __name__ == "__main__":
    main()
