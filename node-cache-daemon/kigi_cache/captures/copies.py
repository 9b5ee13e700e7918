"""Makes, keeps and deletes frozen copies of overlays, as the captures in the NodeCache's spec order.

A VM is paused from the order to Copy until its copy is reported, so the copy is made as fast as possible: by reference
where the file system can, otherwise by copying the bytes that the overlay holds. It is made durable after the report.
With an order to Keep the VM may run again: no copy is made any more. An order to Check is answered before any VM is
paused. Orders may also ask the daemon to stop the VMs itself, all those of a capture together, see ``barriers``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from pathlib import Path

from kigi.api.layer_upload import LayerUpload
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.domain.layers import MAX_DEPTH
from kigi.errors import KigiError, NoRoom, VolumeUnknown, Waiting
from kigi_cache import filesystem
from kigi_cache.captures import reports
from kigi_cache.captures.barriers import Barriers, by_group, group_of, is_at_barrier
from kigi_cache.captures.checks import CopyChecks, Refusals
from kigi_cache.captures.files import COPY, FINAL_STATES, CopyFiles
from kigi_cache.captures.reports import CopyFigures
from kigi_cache.clock import Clock
from kigi_cache.disks.volumes import Volumes
from kigi_cache.monitors.barrier import BarrierBroken, Pause

logger = logging.getLogger(__name__)

PERSIST_RETRY_S = 5.0
"""After an error of the disk while a copy was made durable. ``reconcile`` is called twice a second."""


class Captures:
    """The copies below one root. ``reconcile`` must not be called concurrently with itself."""

    def __init__(
        self,
        root: Path,
        volumes: Volumes,
        *,
        clock: Clock,
        min_free_bytes: int = 0,
        max_depth: Callable[[str], int] = lambda repository: MAX_DEPTH,
        free_space: Callable[[int], Awaitable[None]] | None = None,
        free_bytes: Callable[[], int] | None = None,
        barriers: Barriers | None = None,
    ) -> None:
        """See CopyChecks for the parameters. ``free_bytes`` None: those of the file system of ``root``. ``barriers``
        None: no VM is stopped by this node."""
        self._barriers = barriers
        self._files = CopyFiles(root, volumes.delete_links)
        self._volumes = volumes
        self._clock = clock
        self._min_free_bytes = min_free_bytes
        self._checks = CopyChecks(
            self._files,
            volumes,
            clock=clock,
            free_bytes=free_bytes or functools.partial(filesystem.free_bytes, self._files.root),
            min_free_bytes=min_free_bytes,
            max_depth=max_depth,
            free_space=free_space,
        )
        self._orders: Mapping[str, CaptureOrder] = {}
        self._refusals: Refusals = {}
        """Results of the orders to Check."""
        self._errors: dict[str, KigiError] = {}
        """Why copies could not be made; each is retried."""
        self._figures: dict[str, CopyFigures] = {}
        self._uids: dict[str, str] = {}
        """Of the copies that are not durable yet; order.json has those of the others."""
        self._persisting: dict[str, asyncio.Task[None]] = {}
        self._uploads: dict[str, LayerUpload] = {}
        """Those that the publisher has got since the daemon's start."""
        self._pauses: dict[str, Pause] = {}
        """Of the copies that are not durable yet, and were made while the daemon had stopped their VMs."""
        self._broken: dict[str, str] = {}
        """Why VMs could not be stopped together; it is not tried again for the same order."""

    def recover(self) -> None:
        """Clean up after a crash. Blocks; call it before anything else."""
        self._files.recover()

    async def reconcile(self, orders: Sequence[CaptureOrder]) -> bool:
        """Make the ordered copies that do not exist, delete copies without an order, and run the ordered checks.

        All copies of one call are made concurrently, because their VMs are paused together. True if a copy could not be
        made: call again soon.
        """
        self._orders = {order.id: order for order in orders}
        present = set(await asyncio.to_thread(self._files.ids))
        await self._delete(present - self._orders.keys())
        self._forget()
        if self._barriers is not None:
            await self._barriers.follow(orders)
        missing = [order for order in orders if order.id not in present and order.action == "Copy"]
        all_copied = await self._copy_all([order for order in missing if not is_at_barrier(order)])
        for group in by_group(order for order in missing if is_at_barrier(order)).values():
            await self._copy_together(group)
        checks = [order for order in orders if order.action == "Check"]
        self._refusals = await self._checks.check(checks) if checks else {}
        for id_ in self._orders.keys() & present:
            if not self._files.is_durable(id_):
                self._persist_later(self._orders[id_])
        await asyncio.to_thread(self._pass_on_uploads)
        return not all_copied

    def reports(self) -> list[CaptureReport]:
        """One report for each order, by id. Blocks. Cost: O(orders), one small file each."""
        return [self._report(order) for _, order in sorted(self._orders.items())]

    def is_waiting(self) -> bool:
        """Whether a copy has no final result, so that the publisher may change its report. Blocks like ``reports``."""
        return any(report.state not in (*FINAL_STATES, "Lost") for report in self.reports())

    async def close(self) -> None:
        """End the background tasks, and let VMs continue that are stopped."""
        if self._barriers is not None:
            await self._barriers.close()
        for task in self._persisting.values():
            task.cancel()
        await asyncio.gather(*self._persisting.values(), return_exceptions=True)

    def _report(self, order: CaptureOrder) -> CaptureReport:
        if order.action == "Check":
            return self._checked(order)
        if not self._files.directory(order.id).is_dir():
            return reports.missing(order, self._errors.get(order.id), self._broken.get(order.id, ""))
        result = self._files.result(order.id)
        since_s = self._files.ordered_at_s(order.id)
        is_final = result.get("state") in FINAL_STATES
        silence = None if is_final or since_s is None else self._checks.publisher_silence(since_s)
        uid = self._uids.get(order.id) or self._files.copy_uid(order.id)
        return reports.copied(order, uid, result, self._figures.get(order.id), silence, self._pause_of(order.id))

    def _checked(self, order: CaptureOrder) -> CaptureReport:
        refusal = self._refusals.get(order.id, Waiting("it has not been checked yet"))
        if refusal is not None or self._barriers is None:
            return reports.checked(order, refusal)
        readiness = self._barriers.readiness(order)
        if readiness is None:
            return reports.checked(order, Waiting("the monitors of its VMs are being connected"))
        state = "Available" if readiness.available else "Unavailable"
        return reports.checked(order, None, reports.monitor_fields(state, readiness.message))

    def _pause_of(self, id_: str) -> dict[str, str]:
        """Times of the copy's pause, if the daemon paused its VM."""
        if id_ in self._pauses:
            return reports.pause_fields(self._pauses[id_].stopped, self._pauses[id_].continued)
        return self._files.pause(id_)

    def _pass_on_uploads(self) -> None:
        """Give the publisher what has changed. Blocks; a full disk is no reason to fail: it is tried again."""
        for id_, order in self._orders.items():
            if order.upload is None or self._uploads.get(id_) == order.upload or not self._files.is_durable(id_):
                continue
            try:
                self._files.write_upload(id_, order.upload.to_api())
            except OSError as exc:
                logger.warning("upload not passed on", extra={"capture": id_, "cause": exc.strerror})
            else:
                self._uploads[id_] = order.upload

    async def _delete(self, ids: Set[str]) -> None:
        """Delete these copies, and forget all that is known of copies without an order."""
        for id_ in sorted(ids):
            task = self._persisting.pop(id_, None)
            if task is not None:
                task.cancel()
            try:
                await asyncio.to_thread(self._files.delete, id_)
            except OSError as exc:
                logger.warning("copy not deleted", extra={"capture": id_, "cause": exc.strerror})

    def _forget(self) -> None:
        """Forget what is known of copies without an order, and of VMs that need not be stopped any more."""
        for known in (self._figures, self._uids, self._errors, self._uploads, self._pauses):
            for id_ in known.keys() - self._orders.keys():
                del known[id_]
        for id_ in list(self._broken):
            if id_ not in self._orders or not is_at_barrier(self._orders[id_]):
                del self._broken[id_]

    async def _copy_all(self, orders: Sequence[CaptureOrder]) -> bool:
        """Make the copies that the disk has space for. True if all were made."""
        if not orders:
            return True
        without_space = await asyncio.to_thread(self._checks.check_space, orders)
        self._errors.update(without_space)
        done = await asyncio.gather(*(self._try(order) for order in orders if order.id not in without_space))
        return not without_space and all(done)

    async def _try(self, order: CaptureOrder) -> bool:
        try:
            await self._copy(order)
        except (KigiError, OSError, ValueError) as exc:
            self._errors[order.id] = _copy_error(order, exc)
            logger.warning("overlay not copied", extra={"volume": order.volume, "cause": str(exc)})
            return False
        self._errors.pop(order.id, None)
        return True

    async def _copy_together(self, orders: Sequence[CaptureOrder]) -> None:
        """Make these copies while their VMs are stopped, or none of them."""
        if self._barriers is None or any(order.id in self._broken for order in orders):
            return
        started_s = self._clock.monotonic_s()
        try:
            for error in (await asyncio.to_thread(self._checks.check_space, orders)).values():
                raise error
            for order in orders:
                await asyncio.to_thread(self._files.begin, order.id)
            async with self._barriers.stopped(orders) as pauses:
                cloned = await asyncio.gather(*map(self._clone, orders), return_exceptions=True)
            _raise_first(cloned)
            _raise_first(await asyncio.gather(*map(self._finish, orders), return_exceptions=True))
        except (BarrierBroken, KigiError, OSError, ValueError) as exc:
            await self._abandon(orders, exc)
            return
        self._pauses.update(pauses)
        for order in orders:
            await self._commit(order, started_s)

    async def _clone(self, order: CaptureOrder) -> None:
        await self._volumes.clone(order.volume, self._files.building(order.id), COPY)

    async def _finish(self, order: CaptureOrder) -> None:
        size, building = order.virtual_size_bytes, self._files.building(order.id)
        await self._volumes.finish_copy(order.volume, building, COPY, parent=order.parent_digest, size=size)

    async def _abandon(self, orders: Sequence[CaptureOrder], cause: Exception) -> None:
        """There is no copy of these disks: what was built of them is deleted."""
        logger.warning("VMs not stopped together", extra={"capture": group_of(orders[0]), "cause": str(cause)})
        for order in orders:
            self._broken[order.id] = str(cause)
            self._errors[order.id] = Waiting(f"the VMs were not stopped together: {cause}")
            with contextlib.suppress(OSError):  # deleted at the next attempt, or at the next start
                await asyncio.to_thread(self._files.abandon, order.id)

    async def _copy(self, order: CaptureOrder) -> None:
        started_s = self._clock.monotonic_s()
        await asyncio.to_thread(self._files.begin, order.id)
        await self._build(order)
        await self._commit(order, started_s)

    async def _build(self, order: CaptureOrder) -> None:
        building = self._files.building(order.id)
        try:
            await self._volumes.copy(
                order.volume,
                building,
                COPY,
                parent=order.parent_digest,
                size=order.virtual_size_bytes,
                mounted=order.mounted,
            )
        except VolumeUnknown:
            if order.mounted:
                raise
            # The VM was not started since it got this disk, so that nothing has been written to it.
            await asyncio.to_thread(self._files.mark_unchanged, order.id)

    async def _commit(self, order: CaptureOrder, started_s: float) -> None:
        self._uids[order.id] = uuid.uuid4().hex[:16]
        await asyncio.to_thread(self._files.commit, order.id)
        if self._files.is_durable(order.id):
            return
        size_bytes = (self._files.directory(order.id) / COPY).stat().st_size
        self._figures[order.id] = CopyFigures(size_bytes, round(1000 * (self._clock.monotonic_s() - started_s)))
        logger.info("overlay copied", extra={"volume": order.volume, "capture": order.id, "size_bytes": size_bytes})
        self._persist_later(order)

    def _persist_later(self, order: CaptureOrder) -> None:
        """Make the copy durable in the background: the report that resumes the VM does not wait for the disk."""
        if order.id not in self._persisting or self._persisting[order.id].done():
            self._persisting[order.id] = asyncio.create_task(self._persist(order))

    async def _persist(self, order: CaptureOrder) -> None:
        """After an error the task ends late: the next ``reconcile`` after its end starts another."""
        try:
            await asyncio.to_thread(self._files.make_durable, order.id, self._publisher_order(order))
        except OSError as exc:
            logger.warning("copy not durable yet", extra={"capture": order.id, "cause": exc.strerror})
            await self._clock.sleep(PERSIST_RETRY_S)

    def _publisher_order(self, order: CaptureOrder) -> dict[str, object]:
        figures = self._figures.get(order.id)
        return {
            "copyUid": self._uids.get(order.id),
            "parent": order.parent_digest,
            "repository": order.repository_name,
            "copiedBytes": figures.size_bytes if figures else 0,
            "virtualSizeBytes": order.virtual_size_bytes,
            "minFreeBytes": self._min_free_bytes,
            **self._pause_of(order.id),
        }


def _raise_first(results: Sequence[BaseException | None]) -> None:
    """After all have ended, as each may still use the disk."""
    for failure in results:
        if failure is not None:
            raise failure


def _copy_error(order: CaptureOrder, error: KigiError | OSError | ValueError) -> KigiError:
    if isinstance(error, KigiError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(f"copy of {order.volume}: {error.strerror}")
    return KigiError(str(error))
