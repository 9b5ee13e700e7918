"""Barriers of the captures on this node: which VMs can be stopped through their monitors, and for how long.

A capture's VMs are connected while its orders are checked, so that nothing has to be started while they are stopped.
VMs whose monitors do not work are paused through KubeVirt instead, as are those with much to copy: virt-launcher
continues a VM that it has not paused itself, soon after it has seen it stopped.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kigi.api.node_cache import CaptureOrder
from kigi.domain.quantities import format_bytes
from kigi.errors import KigiError
from kigi_cache.disks.volumes import Volumes
from kigi_cache.monitors.barrier import MAX_MACHINES, Barrier, BarrierBroken, Pause
from kigi_cache.monitors.sockets import MonitorUnavailable, connect, pod_directory

logger = logging.getLogger(__name__)

MAX_BARRIERS = 4
"""Captures whose VMs are connected at a time: each has a process of 20 MiB. Others are paused through KubeVirt."""
MAX_COPIED_BYTES = 128 * 2**20
"""Of all overlays of a capture on this node, where the file system shares no blocks: about a quarter of a second."""
OPEN_WAIT_S = 1.0
"""``follow`` waits so long for new connections; later ones are found by the next call."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the VMs of a capture can be stopped through their monitors; ``message``: why not."""

    available: bool
    message: str = ""


@dataclass(slots=True)
class _Group:
    """The VMs of one attempt of a capture."""

    handles: frozenset[str]
    """Disks of the orders with which it was begun."""
    opening: asyncio.Task[Barrier]
    machines: dict[str, str] = field(default_factory=dict)
    """Name of the VM in the barrier, by the handle of each of its disks."""


class Barriers:
    """The barriers of one node. Its methods must not be called concurrently."""

    def __init__(
        self, volumes: Volumes, empty: Path, shares_blocks: Callable[[], bool], *, max_barriers: int = MAX_BARRIERS
    ) -> None:
        """``empty``: an empty directory. ``shares_blocks``: whether a copy shares the overlay's blocks."""
        self._volumes = volumes
        self._empty = empty
        self._shares_blocks = shares_blocks
        self._max_barriers = max_barriers
        self._groups: dict[str, _Group] = {}
        self._refused: frozenset[str] = frozenset()
        """Groups that are too many."""
        self._closing: set[asyncio.Task[None]] = set()

    async def follow(self, orders: Iterable[CaptureOrder]) -> None:
        """Connect the VMs of orders that are to be checked or stopped, and disconnect all others."""
        wanted: dict[str, list[CaptureOrder]] = {}
        for order in orders:
            if order.action == "Check" or is_at_barrier(order):
                wanted.setdefault(group_of(order), []).append(order)
        for name, group in list(self._groups.items()):
            handles = {order.volume for order in wanted.get(name, ())}
            # What is checked includes disks of VMs that are off; what is copied while VMs are stopped does not.
            if handles not in (group.handles, group.machines.keys()):
                self._close_later(self._groups.pop(name))
        refused = set()
        for name, members in wanted.items():
            if name in self._groups:
                continue
            if sum(_may_have_process(group) for group in self._groups.values()) >= self._max_barriers:
                refused.add(name)
                continue
            self._groups[name] = self._opened(members)
        self._refused = frozenset(refused)
        opening = [group.opening for group in self._groups.values() if not group.opening.done()]
        if opening:
            await asyncio.wait(opening, timeout=OPEN_WAIT_S)

    def readiness(self, order: CaptureOrder) -> Readiness | None:
        """Of the VMs of the order's capture; None: they are being connected."""
        if group_of(order) in self._refused:
            return Readiness(False, f"{self._max_barriers} other captures are under way on this node")
        group = self._groups.get(group_of(order))
        if group is None or not group.opening.done():
            return None
        error = _error_of(group.opening)
        if error is None and order.volume not in group.machines:
            return Readiness(False, f"{machine_of(order.volume)}: its disk is not mounted for a pod")
        return Readiness(error is None, str(error or ""))

    @asynccontextmanager
    async def stopped(self, orders: Sequence[CaptureOrder]) -> AsyncIterator[dict[str, Pause]]:
        """Stop the VMs of these orders, which are all those of one group, during the context.

        The dictionary gets the pause of each order's VM, by the order's id, at the end. Raises BarrierBroken, also at
        the end: then what was done meanwhile is not of one moment.
        """
        group = self._groups.get(group_of(orders[0]))
        if group is None:
            raise BarrierBroken("too many captures are under way on this node")
        try:
            barrier = await asyncio.shield(group.opening)
        except (MonitorUnavailable, OSError) as exc:
            raise BarrierBroken(str(exc)) from exc
        if missing := [order for order in orders if order.volume not in group.machines]:
            raise BarrierBroken(f"{machine_of(missing[0].volume)}: its VM does not run any more")
        pauses: dict[str, Pause] = {}
        await barrier.hold()
        try:
            yield pauses
        finally:
            found = await barrier.release()
        pauses.update({order.id: found[group.machines[order.volume]] for order in orders})

    async def close(self) -> None:
        """Disconnect all VMs; those that are stopped continue."""
        for group in self._groups.values():
            self._close_later(group)
        self._groups.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _opened(self, orders: Sequence[CaptureOrder]) -> _Group:
        machines: dict[str, str] = {}
        return _Group(
            frozenset(order.volume for order in orders), asyncio.create_task(self._open(orders, machines)), machines
        )

    async def _open(self, orders: Sequence[CaptureOrder], machines: dict[str, str]) -> Barrier:
        connections = await asyncio.to_thread(self._connect, orders, machines)
        return await Barrier.open(connections, self._empty)

    def _connect(self, orders: Sequence[CaptureOrder], machines: dict[str, str]) -> list[tuple[str, socket.socket]]:
        """A socket for each VM. Raises MonitorUnavailable. Blocks."""
        pods: dict[Path, str] = {}
        for order in orders:
            target = self._volumes.mounted_at(order.volume)
            if target is None:
                continue  # its VM is off
            pod = pod_directory(target)
            if pod is None:
                raise MonitorUnavailable(
                    f"{machine_of(order.volume)}: its disk is mounted for something else than a pod"
                )
            machines[order.volume] = pods.setdefault(pod, machine_of(order.volume))
        if not pods:
            raise MonitorUnavailable("no VM of the capture runs on this node")
        if len(pods) > MAX_MACHINES:
            raise MonitorUnavailable(f"{len(pods)} VMs are more than the {MAX_MACHINES} that are stopped together")
        self._refuse_large_copies(orders)
        found: list[tuple[str, socket.socket]] = []
        try:
            for pod, name in pods.items():
                found.append((name, _connected(pod, name)))
        except MonitorUnavailable:
            for _, connection in found:
                connection.close()
            raise
        return found

    def _refuse_large_copies(self, orders: Iterable[CaptureOrder]) -> None:
        if self._shares_blocks():
            return
        size_bytes = 0
        for order in orders:
            with suppress(KigiError, OSError):  # reported when it is copied
                size_bytes += self._volumes.measure(
                    order.volume, parent=order.parent_digest, size=order.virtual_size_bytes
                ).allocated_bytes
        if size_bytes > MAX_COPIED_BYTES:
            raise MonitorUnavailable(
                f"{format_bytes(size_bytes)} are to be copied, and VMs are stopped together for at most "
                f"{format_bytes(MAX_COPIED_BYTES)}; a file system with reflinks (XFS) copies nothing"
            )

    def _close_later(self, group: _Group) -> None:
        task = asyncio.create_task(_close(group.opening))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(opening: asyncio.Task[Barrier]) -> None:
    opening.cancel()
    await asyncio.wait([opening])
    if _error_of(opening) is None:
        await opening.result().close()


def _may_have_process(group: _Group) -> bool:
    return not group.opening.done() or _error_of(group.opening) is None


def _error_of(opening: asyncio.Task[Barrier]) -> BaseException | None:
    return asyncio.CancelledError() if opening.cancelled() else opening.exception()


def _connected(pod: Path, name: str) -> socket.socket:
    try:
        return connect(pod)
    except MonitorUnavailable as exc:
        raise MonitorUnavailable(f"{name}: {exc}") from exc


def group_of(order: CaptureOrder) -> str:
    """Attempt of the capture that the order belongs to: its id without the disk's part."""
    return order.id.rpartition("-")[0] or order.id


def is_at_barrier(order: CaptureOrder) -> bool:
    """Whether the daemon stops the order's VM for the copy."""
    return order.action == "Copy" and order.paused_by == "Daemon" and order.mounted


def machine_of(handle: str) -> str:
    """Name of the machine in the handle of its volume, or the handle."""
    parts = handle.split(".")
    return parts[4] if len(parts) > 5 else handle


def by_group(orders: Iterable[CaptureOrder]) -> Mapping[str, list[CaptureOrder]]:
    """The orders of each group."""
    found: dict[str, list[CaptureOrder]] = {}
    for order in orders:
        found.setdefault(group_of(order), []).append(order)
    return found
