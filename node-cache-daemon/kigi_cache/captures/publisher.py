"""``kigi-capture-publisher``: makes layers of frozen overlays and stores them.

Runs beside the daemon, as a process of its own with nothing but the folder of copies and the credentials that may write
to the repository: the daemon's own may only read. Both speak through files; see ``captures.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from kigi.adapters.json_logs import log_to_stderr
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import open_repository
from kigi.domain.layers import parse_digest
from kigi.errors import KigiError, NeedsAction
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.layer_writer import read_difference
from kigi.publishing.publish import make_layer
from kigi_cache.captures.copies import BEAT, BEAT_S, COPY, FINAL, ORDER, RESULT, free_bytes, is_id, write_json
from kigi_cache.captures.space import need_of, no_room, shortages
from kigi_cache.disks.volumes import CHAIN

logger = logging.getLogger(__name__)

LOOK_S = 0.5
RETRY_S = 5.0
"""After the first failure; doubled with each one, up to REFUSED_AGAIN_S."""
REFUSED_AGAIN_S = 60.0
"""What a person must mend: credentials, the bucket, room on the disk."""
PROGRESS_S = 1.0


class Publisher:
    """One copy after another: making a layer takes a processor, and a node's VMs run on beside it."""

    def __init__(self, root: Path, repositories: Path | None) -> None:
        self._root = root
        self._repositories = repositories
        self._not_before: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        beating = asyncio.create_task(self._beat())
        try:
            while True:
                for directory in self._due():
                    await self.publish(directory)
                await asyncio.sleep(LOOK_S)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        """The daemon sees that somebody makes layers."""
        while True:
            with contextlib.suppress(OSError):  # no folder yet, or a disk that is full: no sign of life
                (self._root / BEAT).touch()
            await asyncio.sleep(BEAT_S)

    async def publish(self, directory: Path) -> None:
        """One try: ``result.json`` says what came of it. A copy that is deleted meanwhile is nobody's loss."""
        try:
            await self._publish(directory)
            self._not_before.pop(directory.name, None)
            self._failures.pop(directory.name, None)
        except KigiError as exc:
            self._retry_later(directory, REFUSED_AGAIN_S if isinstance(exc, NeedsAction) else RETRY_S)
            logger.warning("layer not stored", extra={"capture": directory.name, "cause": str(exc)})
            self._tell(directory, state="Refused", reason=exc.reason, message=str(exc)[:4096])
        except OSError as exc:
            if directory.is_dir():
                self._retry_later(directory, RETRY_S)
                logger.warning("layer not stored", extra={"capture": directory.name, "cause": str(exc)})
                self._tell(directory, state="Refused", reason="NoRoom", message=str(exc))

    def _retry_later(self, directory: Path, first_s: float) -> None:
        failures = self._failures.get(directory.name, 0)
        self._failures[directory.name] = failures + 1
        wait_s = min(first_s * 2 ** min(failures, 10), REFUSED_AGAIN_S)
        self._not_before[directory.name] = time.monotonic() + wait_s

    def _due(self) -> list[Path]:
        try:
            names = sorted(entry.name for entry in os.scandir(self._root) if is_id(entry.name))
        except FileNotFoundError:
            return []
        now = time.monotonic()
        self._not_before = {name: at for name, at in self._not_before.items() if name in names}
        self._failures = {name: count for name, count in self._failures.items() if name in names}
        return [
            self._root / name
            for name in names
            if self._not_before.get(name, 0.0) <= now
            and (self._root / name / ORDER).exists()
            and _read(self._root / name / RESULT).get("state") not in FINAL
        ]

    async def _publish(self, directory: Path) -> None:
        order = _read(directory / ORDER)
        name = str(order.get("repository", ""))
        repository = load_repositories(self._repositories).get(name)
        parent = parse_digest(str(order.get("parent", "")))
        folder = LayerFolder(directory / CHAIN)
        for scratch in folder.path.glob(".publish-*"):  # of a process that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        _refuse_without_room(directory, order)
        async with open_repository(repository) as store:
            self._tell(directory, state="Storing")
            layer = await make_layer(directory / COPY, folder, store, parent=parent, image_format="qcow2")
            difference = await asyncio.to_thread(read_difference, folder.file(layer.digest))
            if not difference.data and not difference.zero:
                self._tell(directory, state="Unchanged")
                logger.info("nothing was written", extra={"capture": directory.name})
                return
            about: dict[str, Any] = {"digest": layer.digest, "sizeBytes": layer.size_bytes}
            sent, told = 0, 0.0

            def progress(count: int) -> None:
                nonlocal sent, told
                sent += count
                if time.monotonic() - told > PROGRESS_S:
                    told = time.monotonic()
                    self._tell(directory, state="Storing", **about, uploadedBytes=min(sent, layer.size_bytes))

            await store.publish(folder.file(layer.digest), layer.digest, progress)
        self._tell(directory, state="Stored", **about, uploadedBytes=layer.size_bytes)
        logger.info("layer stored", extra={"capture": directory.name, **about})

    def _tell(self, directory: Path, **result: Any) -> None:
        if directory.is_dir():
            try:
                write_json(directory / RESULT, result)
            except FileNotFoundError:  # deleted at this moment
                return


def _refuse_without_room(directory: Path, order: dict[str, Any]) -> None:
    """Raises NoRoom when making the layer would take what the daemon leaves free to others."""
    need = need_of(
        allocated_bytes=(directory / COPY).stat().st_blocks * 512,
        chain_bytes=sum(entry.stat().st_size for entry in os.scandir(directory / CHAIN)),
        virtual_bytes=int(order.get("virtualSizeBytes", 0)),
        copied=True,
    )
    least = int(order.get("minFreeBytes", 0))
    for short in shortages([("", need)], free_bytes=free_bytes(directory), min_free_bytes=least).values():
        raise no_room(short, least)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


async def run(publisher: Publisher) -> None:
    """Until SIGTERM; what is half sent stays in the repository and is continued."""
    task = asyncio.ensure_future(publisher.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        logger.info("stopped")


def main() -> None:
    """Read the environment and run."""
    log_to_stderr(os.environ.get("KIGI_LOG_LEVEL", "INFO").upper())
    repositories = os.environ.get("KIGI_REPOSITORIES", "")
    root = Path(os.environ.get("KIGI_CACHE_ROOT", "/var/lib/kigi")) / "captures"
    asyncio.run(run(Publisher(root, Path(repositories) if repositories else None)))


if __name__ == "__main__":
    main()
