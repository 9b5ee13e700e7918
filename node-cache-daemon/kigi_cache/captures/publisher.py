"""Console script ``kigi-capture-publisher``: makes layers of frozen copies and stores them in their repository.

It runs in a container beside the daemon, as a user without rights. It reads copies and layers, and writes in a
directory of its own. Its credentials may only read the repository. It reports each layer that it has made, and the
operator answers with a signed request that stores this layer and nothing else. Publisher and daemon communicate through
files, see ``kigi_cache.captures.files``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kigi.adapters.environment import SettingsInvalid, load_settings
from kigi.adapters.json_logs import log_to_stderr
from kigi.adapters.qemu_img import DisksDiffer, QemuImgFailed
from kigi.adapters.repositories import load_repositories
from kigi.adapters.s3 import LayerBucket, open_repository
from kigi.api.conditions import bounded
from kigi.api.layer_upload import SignedRequest
from kigi.api.node_cache import MAX_REPORT_MESSAGE
from kigi.api.repositories import Repository
from kigi.domain.layers import TABLES_BYTES, layer_file_name, parse_digest
from kigi.errors import KigiError, LayerRefused, NeedsAction, OverlayRejected, RepositoryUnreachable, VirtualSizeShrinks
from kigi.publishing.layer_folder import LayerFolder, file_digest
from kigi.publishing.layer_writer import read_difference
from kigi.publishing.overlay_tables import check_tables
from kigi.publishing.publish import make_layer
from kigi_cache.background import Supervisor, run_until_signalled
from kigi_cache.captures.attempts import count_attempt, forget_attempts
from kigi_cache.captures.files import (
    COPY,
    FINAL_STATES,
    HEARTBEAT,
    HEARTBEAT_S,
    ORDER,
    OUT,
    RESULT,
    UPLOAD,
    CopyFiles,
    read_json,
    write_json,
)
from kigi_cache.captures.reports import error_fields
from kigi_cache.captures.space import copy_space, shortage_error, shortages
from kigi_cache.captures.uploads import MadeLayer, Piece, cut, requests_for, send_layer
from kigi_cache.clock import Clock
from kigi_cache.disks.overlay_files import BLOCK_BYTES, CHAIN, check_copy
from kigi_cache.filesystem import free_bytes
from kigi_cache.settings import PublisherSettings

logger = logging.getLogger(__name__)

CHECK_S = 0.5
RETRY_S = 5.0
"""After the first failure. It doubles with each further one, up to REFUSED_RETRY_S."""
REFUSED_RETRY_S = 60.0
"""For errors that a person must correct: credentials, the bucket."""
PROGRESS_S = 1.0
JOIN_CHECK_S = 5.0
"""Between two checks for a layer that the operator joins from its parts."""
MAX_REFUSALS = 3
"""Attempts for a copy whose content is refused: it stays the same, and each attempt costs what the first one did."""
CONTENT_ERRORS = (LayerRefused, OverlayRejected, QemuImgFailed, DisksDiffer, VirtualSizeShrinks)


@dataclass(frozen=True, slots=True)
class Retry:
    """When a copy that could not be published is tried again."""

    failures: int
    not_before_s: float
    """Monotonic time."""
    refusals: int = 0
    """Of the failures, those that the copy's content caused."""

    def is_due(self, now_s: float) -> bool:
        """Whether to try again now."""
        return self.refusals < MAX_REFUSALS and self.not_before_s <= now_s


class Publisher:
    """Publishes one copy after another: making a layer needs a processor, and the VMs of the node still run."""

    def __init__(
        self,
        root: Path,
        repositories: Path | None,
        clock: Clock,
        limit_files: Callable[[int], None] = lambda longest_bytes: None,
    ) -> None:
        """``root``: directory of the cache. ``repositories``: folder of their settings, which is read for each copy.

        ``limit_files`` gets the longest file that a copy may need, before anything is written.
        """
        self._limit_files = limit_files
        self._files = CopyFiles(root)
        self._repositories = repositories
        self._clock = clock
        self._retries: dict[str, Retry] = {}
        """By id, of the copies that could not be published."""
        self._made: dict[str, MadeLayer] = {}
        """By id, the layers that are made and not known to be stored."""
        self._sent: dict[str, tuple[SignedRequest, ...]] = {}
        """By id, the last requests that were tried."""
        self._joining: dict[str, float] = {}
        """By id, the monotonic time of the next check for a layer that the operator joins from its parts."""

    async def run(self) -> None:
        """Publish until cancelled. A layer that is half uploaded is continued at the next start."""
        await Supervisor(self._clock).run({"publish": self._publish_all, "heartbeat": self._heartbeat})

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
        """Directories of the durable copies without a final result whose retry time has come. Blocks.

        A copy whose layer waits for a request of the operator is due when the request arrives, or another one.
        """
        now_s = self._clock.monotonic_s()
        ids = self._files.ids()
        self._retries = {id_: retry for id_, retry in self._retries.items() if id_ in ids}
        self._sent = {id_: requests for id_, requests in self._sent.items() if id_ in ids}
        self._joining = {id_: at_s for id_, at_s in self._joining.items() if id_ in ids and id_ in self._made}
        self._made = {id_: made for id_, made in self._made.items() if made.path.exists()}
        return [
            self._files.directory(id_)
            for id_ in ids
            if self._is_due(id_, now_s)
            and self._files.is_durable(id_)
            and self._files.result(id_).get("state") not in FINAL_STATES
        ]

    def _is_due(self, id_: str, now_s: float) -> bool:
        retry = self._retries.get(id_)
        may_retry = retry is None or retry.is_due(now_s)
        if id_ not in self._made or self._made[id_].parts is None:
            return may_retry
        requests = self._requests(id_)
        if id_ in self._joining or not requests:
            is_waiting = now_s < self._joining.get(id_, 0.0)
            return may_retry and not is_waiting and (id_ in self._joining or self._is_cut_otherwise(id_))
        return may_retry or requests != self._sent.get(id_)

    def _is_cut_otherwise(self, id_: str) -> bool:
        """Whether the repository's limit has changed since the layer was cut; False if the settings are missing."""
        with contextlib.suppress(KigiError):
            order = read_json(self._files.directory(id_) / ORDER)
            repository = load_repositories(self._repositories).get(str(order.get("repository", "")))
            return repository.max_put_bytes != self._made[id_].most_bytes
        return False

    def _requests(self, id_: str) -> tuple[SignedRequest, ...]:
        return requests_for(self._made[id_], read_json(self._files.directory(id_) / UPLOAD))

    async def publish(self, directory: Path) -> None:
        """Attempt to publish one copy; result.json gets the outcome. A copy that is deleted meanwhile is ignored."""
        try:
            await self._publish(directory)
            self._retries.pop(directory.name, None)
        except asyncio.CancelledError:
            forget_attempts(directory)  # an orderly end is not an error of the disk
            raise
        except KigiError as exc:
            if not isinstance(exc, CONTENT_ERRORS):
                forget_attempts(directory)
            self._retry(directory, exc, REFUSED_RETRY_S if isinstance(exc, NeedsAction) else RETRY_S)
            self._write_refusal(directory, **error_fields(exc))
        except OSError as exc:
            if directory.is_dir():
                forget_attempts(directory)
                self._retry(directory, exc, RETRY_S)
                self._write_refusal(directory, reason="NoRoom", message=bounded(str(exc), MAX_REPORT_MESSAGE))

    def _retry(self, directory: Path, error: Exception, first_s: float) -> None:
        before = self._retries.get(directory.name)
        failures = before.failures + 1 if before else 1
        wait_s = retry_wait_s(first_s, failures)
        refusals = (before.refusals if before else 0) + isinstance(error, CONTENT_ERRORS)
        self._retries[directory.name] = Retry(failures, self._clock.monotonic_s() + wait_s, refusals)
        logger.warning("layer not stored", extra={"capture": directory.name, "cause": str(error)})

    def _write_refusal(self, directory: Path, **error: str) -> None:
        """The operator renews the request of a layer that is named here."""
        made = self._made.get(directory.name)
        about = made.report if made else {}
        if made and directory.name in self._joining:
            about["uploadedBytes"] = made.size_bytes
        _write_result(directory, state="Refused", **about, **error)

    async def _publish(self, directory: Path) -> None:
        id_ = directory.name
        if id_ not in self._made and (before := await asyncio.to_thread(made_before, directory)):
            self._made[id_] = before
        order = read_json(directory / ORDER)
        repository = load_repositories(self._repositories).get(str(order.get("repository", "")))
        if id_ not in self._made:
            made = await self._make(directory, order, repository)
            if made is None:
                _write_result(directory, state="Unchanged")
                logger.info("overlay unchanged", extra={"capture": id_})
                return
            self._made[id_] = made
        layer = self._made[id_]
        if layer.parts is None or (layer.most_bytes != repository.max_put_bytes and not self._requests(id_)):
            self._joining.pop(id_, None)
            layer = self._made[id_] = await asyncio.to_thread(cut, layer, repository.max_put_bytes)
            _write_result(directory, state="Storing", **layer.report)
        if id_ in self._joining:
            await self._await_join(directory, layer, repository)
        elif requests := self._requests(id_):
            self._sent[id_] = requests
            await self._store(directory, layer, repository)

    async def _make(self, directory: Path, order: Mapping[str, Any], repository: Repository) -> MadeLayer | None:
        """The layer of a copy; None: its guest has changed nothing."""
        parent = parse_digest(str(order.get("parent", "")))
        folder = LayerFolder(directory / OUT, held=directory / CHAIN)
        for scratch in folder.path.glob(".publish-*"):  # of a publisher that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        _check_space(directory, order)
        count_attempt(directory, MAX_REFUSALS)
        self._limit_files(int(order.get("virtualSizeBytes", 0)) + TABLES_BYTES)
        await asyncio.to_thread(check_copy, directory / COPY, parent, int(order.get("virtualSizeBytes", 0)))
        await asyncio.to_thread(check_tables, directory / COPY)
        async with open_repository(repository) as store:
            _write_result(directory, state="Storing")
            keep_free_bytes = int(order.get("minFreeBytes", 0))
            layer = await make_layer(
                directory / COPY, folder, store, parent=parent, image_format="qcow2", keep_free_bytes=keep_free_bytes
            )
        path = folder.file(layer.digest)
        difference = await asyncio.to_thread(read_difference, path)
        return MadeLayer(path, layer.digest, layer.size_bytes) if difference.data or difference.zero else None

    async def _store(self, directory: Path, layer: MadeLayer, repository: Repository) -> None:
        progress = UploadProgress(directory, layer.report, self._clock)
        async with open_repository(repository) as store:
            if not layer.parts:
                await _store_whole(layer, self._latest(directory.name)[0], store, repository.ca_file, progress.add)
            elif not await store.is_stored(layer.path, layer.digest):
                for number, part in enumerate(layer.parts):
                    # The requests are renewed while the parts before are sent.
                    request = self._latest(directory.name)[number]
                    await _store_part(part, request, store, repository.ca_file, progress.add)
                self._joining[directory.name] = self._clock.monotonic_s()
                _write_result(directory, state="Storing", **layer.report, uploadedBytes=layer.size_bytes)
                return
        _report_stored(directory, layer)

    def _latest(self, id_: str) -> tuple[SignedRequest, ...]:
        """The requests as they are now, or else those that were used last."""
        self._sent[id_] = self._requests(id_) or self._sent[id_]
        return self._sent[id_]

    async def _await_join(self, directory: Path, layer: MadeLayer, repository: Repository) -> None:
        async with open_repository(repository) as store:
            if await store.is_stored(layer.path, layer.digest):
                _report_stored(directory, layer)
            elif [part for part in layer.pieces if await store.size_of(part.digest) is None]:
                # The repository's cleanup deletes parts of an upload that seems abandoned: they are sent again.
                del self._joining[directory.name]
                _write_result(directory, state="Storing", **layer.report)
                return
        self._joining[directory.name] = self._clock.monotonic_s() + JOIN_CHECK_S


async def _store_whole(
    layer: MadeLayer, request: SignedRequest, store: LayerBucket, ca_file: str | None, progress: Callable[[int], None]
) -> None:
    for _ in range(2):  # the second time, another publisher was faster
        if await store.is_stored(layer.path, layer.digest) or await send_layer(layer, request, ca_file, progress):
            return
    raise RepositoryUnreachable(f"layer {layer.digest} came and went in the repository; it is tried again")


async def _store_part(
    part: Piece, request: SignedRequest, store: LayerBucket, ca_file: str | None, progress: Callable[[int], None]
) -> None:
    """Its content is compared when the operator joins the parts."""
    if await store.size_of(part.digest) is None:
        await send_layer(part, request, ca_file, progress)
    else:
        progress(part.size_bytes)


def _report_stored(directory: Path, layer: MadeLayer) -> None:
    _write_result(directory, state="Stored", **layer.report, uploadedBytes=layer.size_bytes)
    logger.info(
        "layer stored", extra={"capture": directory.name, "digest": layer.digest, "size_bytes": layer.size_bytes}
    )


def made_before(directory: Path) -> MadeLayer | None:
    """The layer that a publisher has made and reported before it ended; None: there is none. Blocks while it reads."""
    result = read_json(directory / RESULT)
    try:
        digest = parse_digest(str(result.get("digest", "")))
        path = directory / OUT / layer_file_name(digest)
        if file_digest(path) == digest:
            return MadeLayer(path, digest, path.stat().st_size)
    except (ValueError, OSError):
        return None
    return None


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
        """Count further bytes. A part that is sent again counts again, and all bytes are stored when the last answer
        has come: so the sum stays below the layer's size."""
        self._sent_bytes += count
        if self._clock.monotonic_s() - self._written_s > PROGRESS_S:
            self._written_s = self._clock.monotonic_s()
            uploaded = min(self._sent_bytes, self._about["sizeBytes"] - 1)
            _write_result(self._directory, state="Storing", **self._about, uploadedBytes=uploaded)


def _write_result(directory: Path, **result: Any) -> None:
    if directory.is_dir():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            write_json(directory / RESULT, result)


def limit_files(longest_bytes: int) -> None:
    """No file of this process, and of the programs that it starts, becomes longer."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    bounded_bytes = longest_bytes if most == resource.RLIM_INFINITY else min(longest_bytes, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bounded_bytes, most))


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
    asyncio.run(run_until_signalled(Publisher(settings.root, settings.repositories, Clock(), limit_files).run))


if __name__ == "__main__":
    main()
