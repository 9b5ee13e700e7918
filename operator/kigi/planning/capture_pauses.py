"""Who pauses the VMs of a capture, and whether their copies are of one moment; pure.

The daemon of the VMs' node stops them through QEMU's monitors, copies, and continues them, without a request to
KubeVirt in between. That takes milliseconds, but virt-launcher continues VMs that it has not paused itself. So the
daemon proves from QEMU's events that none ran. Where it cannot stop them, or has failed to, KubeVirt pauses them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from kigi.api.capture import MAX_PAUSE_MESSAGE, CapturedDisk, CapturedMachine
from kigi.api.conditions import bounded
from kigi.planning.capture_progress import CaptureProgress, is_pausing, is_stopped_by_daemon
from kigi.planning.capture_view import CaptureView

_BY_DAEMON = {"Pause": "Stop", "FreezeAndPause": "FreezeAndStop"}
_BY_KUBEVIRT = {daemon: kubevirt for kubevirt, daemon in _BY_DAEMON.items()}


def with_pauses(view: CaptureView, target: CaptureProgress) -> CaptureProgress:
    """The next attempt with the way in which its VMs are paused, by the nodes' reports on its checks."""
    if not any(is_pausing(machine) for machine in target.machines):
        return target
    message = _obstacle(view, target)
    if message:
        return replace(target, pause_message=bounded(message, MAX_PAUSE_MESSAGE))
    return replace(target, machines=_with_methods(target.machines, _BY_DAEMON), pause_message=None)


def _obstacle(view: CaptureView, target: CaptureProgress) -> str:
    """Why the VMs cannot be stopped by a daemon; empty if they can."""
    running = {machine.name for machine in target.machines if is_pausing(machine)}
    disks = [disk for disk in target.disks if disk.machine in running]
    nodes = sorted({disk.node_name for disk in disks})
    if len(nodes) > 1:
        return f"the VMs run on {len(nodes)} nodes ({', '.join(nodes[:3])}), and a daemon stops those of its own"
    for disk in disks:
        report = view.report(target, disk)
        if report is None or report.monitor is None:
            return f"the cache daemon of node {disk.node_name} is of an earlier version"
        if report.monitor != "Available":
            return report.monitor_message or f"node {disk.node_name} cannot stop {disk.machine}"
    return ""


def broken_barrier(view: CaptureView, progress: CaptureProgress) -> str:
    """Why a daemon could not keep the VMs stopped until all copies were made; empty if it has not tried, or could."""
    stopped = {machine.name for machine in progress.machines if is_stopped_by_daemon(machine)}
    for disk in progress.disks:
        report = view.report(progress, disk) if disk.machine in stopped and disk.state == "Waiting" else None
        if report is not None and report.monitor == "Broken":
            return report.monitor_message or "the VMs could not be stopped together"
    return ""


def paused_by_kubevirt(progress: CaptureProgress, message: str, now: datetime) -> CaptureProgress:
    """The same attempt, in which KubeVirt pauses the VMs that a daemon has tried to stop.

    Guests are asked to freeze once more, which KubeVirt answers at once for one that is frozen.
    """
    machines = [
        machine.model_copy(update={"request_time": now, "pause_time": None})
        if is_stopped_by_daemon(machine)
        else machine
        for machine in progress.machines
    ]
    changed = _with_methods(machines, _BY_KUBEVIRT)
    return replace(progress, machines=changed, pause_message=bounded(message, MAX_PAUSE_MESSAGE))


def with_stops(view: CaptureView, progress: CaptureProgress) -> tuple[CaptureProgress, str]:
    """The progress with the times at which daemons stopped and continued VMs, and an error, empty if there is none.

    The copies are of one moment if each VM was stopped before the first one continued. All times are of one node's
    clock. A guest that was frozen has still to thaw, so its VM counts as held.
    """
    machines: list[CapturedMachine] = []
    begins: list[datetime] = []
    ends: list[datetime] = []
    for machine in progress.machines:
        if not is_stopped_by_daemon(machine):
            machines.append(machine)
            continue
        found = {_times(view, progress, disk) for disk in progress.disks if disk.machine == machine.name}
        begin, end = found.pop() if len(found) == 1 else (None, None)
        if begin is None or end is None:
            return progress, f"node {_node_of(progress, machine)} does not show that {machine.name} was stopped"
        begins.append(begin)
        ends.append(end)
        milliseconds = round((end - begin).total_seconds() * 1000)
        resumed = {"resume_time": end} if machine.method == "Stop" else {}
        machines.append(machine.model_copy(update={"pause_time": begin, "pause_milliseconds": milliseconds, **resumed}))
    if begins and not max(begins) <= min(ends):
        return progress, "the VMs were not stopped at the same time"
    return replace(progress, machines=tuple(machines)), ""


def _times(view: CaptureView, progress: CaptureProgress, disk: CapturedDisk) -> tuple[datetime | None, datetime | None]:
    report = view.report(progress, disk)
    return (report.stop_time, report.continue_time) if report is not None else (None, None)


def _node_of(progress: CaptureProgress, machine: CapturedMachine) -> str:
    return next((disk.node_name for disk in progress.disks if disk.machine == machine.name), "")


def _with_methods(machines: Iterable[CapturedMachine], methods: dict[str, str]) -> tuple[CapturedMachine, ...]:
    return tuple(
        machine.model_copy(update={"method": methods.get(machine.method, machine.method)}) for machine in machines
    )
