"""Copies of overlays whose VMs the daemon stops: real overlays and real QEMUs on them. Needs root."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi_cache.captures.barriers import MAX_COPIED_BYTES, Barriers
from kigi_cache.captures.copies import Captures
from kigi_cache.captures.files import COPY, HEARTBEAT
from kigi_cache.clock import Clock
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.store import Store
from tests.support.chains import LayerFile, build_chain, layers_of
from tests.support.cluster import eventually_async
from tests.support.mountns import private_mounts
from tests.support.qemus import Qemu, open_directory, pod_of, target_in

CLUSTER = 65536
MACHINES = ("dns", "mail", "web")
ATTEMPT = "c0b5c0c3e-1"


def handle(machine: str, disk: str = "") -> str:
    return f"kigi.range.office.7.{machine}.r1{disk and f'.{disk}'}.0a1b2c3d"


@dataclass
class Lab:
    """One node: its volumes, VMs that run on them, and its captures."""

    directory: Path
    files: list[LayerFile]
    max_barriers: int = 4
    qemus: dict[str, Qemu] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chain = layers_of(self.files)
        self.root = self.directory / "cache"
        store = Store(self.root)
        store.recover()
        for file in self.files:
            shutil.copy(file.path, store.path(file.layer.digest))
            assert store.verify(file.layer)
        self.volumes = Volumes(self.root, store, create_overlay)
        self.volumes.recover()
        self.begin()

    def begin(self) -> None:
        """The daemon starts."""
        barriers = Barriers(self.volumes, self.volumes.empty, lambda: False, max_barriers=self.max_barriers)
        self.captures = Captures(self.root, self.volumes, clock=Clock(), barriers=barriers)
        self.captures.recover()
        (self.root / "captures" / HEARTBEAT).touch()

    async def start(self, machine: str, *disks: str) -> Qemu:
        """A VM on its disks."""
        pod = pod_of(self.directory, f"uid-{machine}")
        targets = {disk: target_in(pod, f"kigi-{disk or 'root'}") for disk in ("", *disks)}
        for disk, target in targets.items():
            await self.volumes.publish(handle(machine, disk), self.chain, target)
        self.qemus[machine] = Qemu(pod, [f"{target}/disk.img" for target in targets.values()])
        return self.qemus[machine]

    def order(self, volume: str, action: str = "Copy", attempt: str = ATTEMPT, **fields: object) -> CaptureOrder:
        paused_by = "Daemon" if action == "Copy" else None
        return CaptureOrder.model_validate(
            {
                "id": f"{attempt}-{volume.replace('.', '')[-30:]}",
                "volume": volume,
                "parentDigest": self.chain[-1].digest,
                "virtualSizeBytes": self.chain[-1].virtual_size_bytes,
                "repositoryName": "default",
                "action": action,
                "mounted": action == "Copy",
                "pausedBy": paused_by,
                **fields,
            }
        )

    async def reports(self, *orders: CaptureOrder) -> list[CaptureReport]:
        """Once the monitors are connected, or cannot be."""
        found: list[CaptureReport] = []

        async def are_known() -> bool:
            await self.captures.reconcile(orders)
            found[:] = self.captures.reports()
            return not any("being connected" in (report.message or "") for report in found)

        await eventually_async(are_known, 30)
        return found

    def content(self, order: CaptureOrder, offset: int) -> int:
        """The byte of the copied disk at this offset."""
        raw = self.directory / "raw"
        copy = self.root / "captures" / order.id / COPY
        view = self.directory / "view"
        shutil.rmtree(view, ignore_errors=True)
        (view / "chain").mkdir(parents=True)
        shutil.copy(copy, view / "disk.img")
        for layer in (copy.parent / "chain").iterdir():
            (view / "chain" / layer.name).symlink_to(layer)
        subprocess.run(["qemu-img", "convert", "-O", "raw", str(view / "disk.img"), str(raw)], check=True)
        with raw.open("rb") as file:
            file.seek(offset)
            return file.read(1)[0]

    async def close(self) -> None:
        await self.captures.close()
        for qemu in self.qemus.values():
            qemu.kill()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[LayerFile]:
    return build_chain(tmp_path_factory.mktemp("chain"), length=2)


def in_a_lab(body: Callable[..., Awaitable[None]], max_barriers: int = 4) -> Callable[..., None]:
    """The test in an event loop of its own, whose threads are in the mounts of the test."""

    async def run(files: list[LayerFile], directory: Path, **arguments: object) -> None:
        lab = Lab(directory, files, max_barriers)
        try:
            await body(lab, **arguments)
        finally:
            await lab.close()

    @functools.wraps(body)
    def test(files: list[LayerFile], **arguments: object) -> None:
        with open_directory() as directory, private_mounts():
            asyncio.run(run(files, directory, **arguments))

    wanted = [each for each in inspect.signature(body).parameters.values() if each.name != "lab"]
    own = inspect.Parameter("files", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([own, *wanted])  # type: ignore[attr-defined]
    return test


def monitors(reports: list[CaptureReport]) -> set[tuple[str, str | None]]:
    return {(report.state, report.monitor) for report in reports}


@in_a_lab
async def test_ten_disks_of_running_vms_are_copied_at_one_moment(lab: Lab) -> None:
    for number, machine in enumerate(MACHINES):
        (await lab.start(machine, "data")).write(number + 1, CLUSTER)
        lab.qemus[machine].write(number + 11, CLUSTER, disk=1)
    disks = [handle(machine, disk) for machine in MACHINES for disk in ("", "data")]
    checked = await lab.reports(*(lab.order(disk, "Check") for disk in disks))
    assert monitors(checked) == {("Possible", "Available")}
    assert all(qemu.changes() == [] for qemu in lab.qemus.values())
    orders = [lab.order(disk) for disk in disks]
    copied = {report.id: report for report in await lab.reports(*orders)}
    assert {report.state for report in copied.values()} == {"Copied"}
    assert [qemu.changes() for qemu in lab.qemus.values()] == [["STOP", "RESUME"]] * 3
    assert all(qemu.is_running() for qemu in lab.qemus.values())
    stops = [report.stop_time for report in copied.values() if report.stop_time]
    ends = [report.continue_time for report in copied.values() if report.continue_time]
    assert len(stops) == len(ends) == 6
    assert max(stops) <= min(ends)
    for number, machine in enumerate(MACHINES):
        lab.qemus[machine].write(77, CLUSTER)  # the guest goes on
        assert lab.content(lab.order(handle(machine)), CLUSTER) == number + 1
        assert lab.content(lab.order(handle(machine, "data")), CLUSTER) == number + 11


@in_a_lab
async def test_the_times_of_a_pause_outlive_the_daemon(lab: Lab) -> None:
    await lab.start("dns")
    order = lab.order(handle("dns"))
    (before,) = await lab.reports(order)
    assert before.stop_time is not None
    await eventually_async((lab.root / "captures" / order.id / "order.json").exists, 10)
    await lab.captures.close()
    lab.begin()
    (after,) = await lab.reports(order)
    assert (after.stop_time, after.continue_time) == (before.stop_time, before.continue_time)
    assert lab.qemus["dns"].changes() == ["STOP", "RESUME"], "a copy that exists stops no VM again"


@in_a_lab
async def test_a_vm_without_a_monitor_makes_all_unavailable_with_its_name(lab: Lab) -> None:
    await lab.start("dns")
    (await lab.start("mail")).monitor.unlink()
    orders = [lab.order(handle(machine), "Check") for machine in ("dns", "mail")]
    reports = await lab.reports(*orders)
    assert monitors(reports) == {("Possible", "Unavailable")}
    assert all("mail: its QEMU has no monitor" in (report.monitor_message or "") for report in reports)


@in_a_lab
async def test_disks_of_vms_that_are_off_need_no_monitor(lab: Lab) -> None:
    await lab.start("dns")
    reports = await lab.reports(lab.order(handle("dns"), "Check"), lab.order(handle("mail"), "Check"))
    assert [(report.state, report.monitor) for report in reports] == [
        ("Possible", "Available"),
        ("Possible", "Unavailable"),
    ]


@pytest.mark.parametrize("paused", ["before", "between"])
@in_a_lab
async def test_a_broken_barrier_leaves_no_copy_and_is_not_tried_again(lab: Lab, paused: str) -> None:
    for machine in ("dns", "mail"):
        await lab.start(machine)
    orders = [lab.order(handle(machine)) for machine in ("dns", "mail")]
    if paused == "between":
        await lab.reports(*(order.model_copy(update={"action": "Check"}) for order in orders))
    lab.qemus["mail"].execute("stop")
    for _ in range(3):
        reports = await lab.reports(*orders)
        assert monitors(reports) == {("Refused", "Broken")}
        assert all("mail: the VM does not run" in (report.monitor_message or "") for report in reports)
    assert lab.qemus["dns"].changes() == []
    assert not any((lab.root / "captures").glob("c*/*"))
    # KubeVirt pauses them: then the same orders are carried out without the daemon.
    lab.qemus["dns"].execute("stop")
    reports = await lab.reports(*(order.model_copy(update={"paused_by": None}) for order in orders))
    assert monitors(reports) == {("Copied", None)}
    assert not any(report.stop_time for report in reports)
    assert not any(qemu.is_running() for qemu in lab.qemus.values())


@in_a_lab
async def test_a_copy_that_fails_breaks_the_barrier_and_the_vms_continue(lab: Lab) -> None:
    for machine in ("dns", "mail"):
        await lab.start(machine)
    orders = [lab.order(handle("dns")), lab.order(handle("mail"), virtualSizeBytes=512)]
    reports = await lab.reports(*orders)
    assert monitors(reports) == {("Refused", "Broken")}
    assert [qemu.changes() for qemu in lab.qemus.values()] == [["STOP", "RESUME"]] * 2
    assert not any((lab.root / "captures").glob("c*/*"))
    assert not any((lab.root / "captures" / ".new").iterdir())


@in_a_lab
async def test_vms_with_much_to_copy_are_left_to_kubevirt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kigi_cache.captures.barriers.MAX_COPIED_BYTES", CLUSTER)
    await lab.start("dns")
    (report,) = await lab.reports(lab.order(handle("dns"), "Check"))
    assert (report.state, report.monitor) == ("Possible", "Unavailable")
    assert "are to be copied" in (report.monitor_message or "")
    assert MAX_COPIED_BYTES > CLUSTER


@functools.partial(in_a_lab, max_barriers=1)
async def test_captures_beyond_the_limit_are_left_to_kubevirt(lab: Lab) -> None:
    for machine in ("dns", "mail"):
        await lab.start(machine)
    first = lab.order(handle("dns"), "Check", "c0001-1")
    second = lab.order(handle("mail"), "Check", "c0002-1")
    reports = await lab.reports(first, second)
    assert [report.monitor for report in reports] == ["Available", "Unavailable"]
    assert "1 other captures" in (reports[1].monitor_message or "")
    (report,) = await lab.reports(second)
    assert report.monitor == "Available", "the first has ended"


@functools.partial(in_a_lab, max_barriers=1)
async def test_captures_without_monitors_do_not_count_for_the_limit(lab: Lab) -> None:
    (await lab.start("dns")).monitor.unlink()
    await lab.start("mail")
    first = lab.order(handle("dns"), "Check", "c0001-1")
    assert [report.monitor for report in await lab.reports(first)] == ["Unavailable"]
    reports = await lab.reports(first, lab.order(handle("mail"), "Check", "c0002-1"))
    assert [report.monitor for report in reports] == ["Unavailable", "Available"]


@in_a_lab
async def test_a_vm_that_restarts_is_connected_again(lab: Lab) -> None:
    qemu = await lab.start("dns")
    await lab.reports(lab.order(handle("dns"), "Check"))
    qemu.kill()
    pod = qemu.monitor.parents[3]
    lab.qemus["dns"] = Qemu(pod, [f"{target_in(pod)}/disk.img"])
    order = lab.order(handle("dns"))
    (report,) = await lab.reports(order)
    assert report.monitor == "Broken", "the connection was to the VM as it was"
    await lab.reports()
    (report,) = await lab.reports(order.model_copy(update={"id": order.id.replace("-1-", "-2-")}))
    assert report.state == "Copied"


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "monitors.process"], check=False)
    assert found.returncode == 1
