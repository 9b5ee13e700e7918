"""A SystemCapture in a world that is interrupted: the operator stops after any request, and others act in between.

Only what API objects contain survives the operator: the capture's status and finalizer, VMIs, NodeCaches, images and
states. The world also knows what no API object contains, in order to judge: who paused a VM, when it was paused, and
when each disk was copied.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Literal, Self, cast

from kigi.api.capture import SystemCaptureSpec, SystemCaptureStatus
from kigi.api.node_cache import CaptureOrder, CaptureReport
from kigi.domain import names
from kigi.domain.observed import Meta
from kigi.errors import Conflict, KigiError, LostLeadership, NotFound, Unreachable
from kigi.planning.capture_orders import orders_of
from kigi.planning.capture_outcomes import error_after, progress_after
from kigi.planning.capture_progress import CaptureProgress, held_machines, progress_of
from kigi.planning.capture_results import key_of, result_objects
from kigi.planning.capture_view import CaptureView, ObjectKey, ObservedVmi, owner_of
from kigi.planning.captures import CapturePlan, machines_to_verify, plan_capture
from kigi.planning.copies import life_of
from kigi.reconcilers.apply_capture import apply_capture_steps
from kigi.runtime.ports import Ports
from kigi.status.captures import capture_status
from tests.support import kstatus
from tests.support.worlds import Vmi, World, deployment_spec

Planner = Callable[[CaptureView], CapturePlan]
Fault = Literal["", "refused", "lost"]
"""A request is refused without effect, or has its effect and the answer is lost."""
OPEN = 10**9


class Stopped(Exception):
    """The operator's process ends here."""


@dataclass
class Pause:
    """One uninterrupted pause of a VMI; ``end`` is OPEN while it lasts."""

    by: Literal["capture", "user"]
    begin: int
    end: int = OPEN


@dataclass
class Guest:
    """Pauses of one VMI, the last one last."""

    pauses: list[Pause] = field(default_factory=list)

    @property
    def pause(self) -> Pause | None:
        """The current pause; None: the VM runs."""
        return self.pauses[-1] if self.pauses and self.pauses[-1].end == OPEN else None


@dataclass(frozen=True)
class Copy:
    """A copy of a disk: of which VMI, in which of its pauses; None: the VM ran, or was off."""

    vmi: str | None
    pause: Pause | None
    uid: str


@functools.cache
def _settled_world() -> World:
    world = World(deployment_spec("b"))
    world.settle()
    return world


class CaptureWorld:
    """See the module. ``planner`` may be a broken one, to show that the world finds it."""

    def __init__(self, planner: Planner = plan_capture) -> None:
        self.w = copy.deepcopy(_settled_world())
        self.planner = planner
        self.runner = asyncio.Runner()
        self.status: SystemCaptureStatus | None = None
        self.meta = Meta("ns", "after", "u1", 1)
        self.gone = False
        self.spec = SystemCaptureSpec.model_validate({"instanceRef": {"name": "dep-0"}, "requestedBy": "alice"})
        self.objects: dict[ObjectKey, Mapping[str, Any]] = {("VMImageNode", name): {} for name in self.w.images}
        self.created: list[ObjectKey] = []
        self.guests: dict[str, Guest] = {}
        self.orders: dict[str, list[CaptureOrder]] = {}
        self.copies: dict[tuple[str, str], Copy] = {}
        self.reports: dict[str, dict[str, CaptureReport]] = {}
        self.silent: set[str] = set()
        self.seconds = 0.0
        self.ticks = itertools.count(1)
        self.running_plan: CapturePlan | None = None
        self.deletion_refused = False
        self.requests = 0
        self.stop_at: int | None = None
        """Number of requests after which the operator stops, once; None: it does not."""
        self.stopped = False
        self.faults: list[Fault] = []
        self.between: list[int] = []
        """Moves of others, one before each request."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.close()

    # The operator. Everything that it knows is read from the world at each plan.

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def progress(self) -> CaptureProgress:
        return progress_of(self.status)

    def view(self) -> CaptureView:
        view = CaptureView(
            namespace="ns",
            name="after",
            uid="u1",
            generation=1,
            deleting=self.meta.deleting,
            has_finalizer=names.CAPTURE_FINALIZER in self.meta.finalizers,
            spec=self.spec,
            progress=self.progress(),
            instance=self.w.view(),
            agents=frozenset(vmi.uid for name, vmi in self.w.vmis.items() if name.endswith("web")),
            taken=frozenset(self.objects),
            reports={id_: report for reports in self.reports.values() for id_, report in reports.items()},
            lives={name: life_of(node_exists=True, cache_alive=name not in self.silent) for name in self.w.nodes},
            now=self.now(),
        )
        vmis = {m.name: self.w.vmis.get(view.vm_name(m.name)) for m in machines_to_verify(view)}
        view = replace(view, vmis={n: ObservedVmi(v.uid, v.paused) for n, v in vmis.items() if v is not None})
        if view.progress.stage == "Publishing":
            keys = [key_of(manifest) for manifest in result_objects(view)]
            view = replace(view, existing={key: self.objects[key] for key in keys if key in self.objects})
        return view

    def reconcile(self, stop_after: int | None = None, faults: Sequence[Fault] = (), moves: Sequence[int] = ()) -> bool:
        """One plan, carried out; False if the operator stopped, or if there was nothing to do."""
        if self.gone:
            return False
        self.faults, self.between = list(faults), list(moves)
        if stop_after is not None:
            self.stop_at = self.requests + stop_after
        view = self.view()
        plan = self.running_plan = self.planner(view)
        try:
            self.runner.run(self._carry_out(view, plan))
        except* Stopped:
            pass
        finally:
            stopped, self.stopped, self.running_plan = self.stopped, False, None
            self.faults, self.between = [], []
            if stop_after is not None:
                self.stop_at = None
        return bool(plan.steps) and not stopped

    async def _carry_out(self, view: CaptureView, plan: CapturePlan) -> None:
        async def record(progress: CaptureProgress) -> None:
            self._write(view, progress, plan)

        results = await apply_capture_steps(cast(Ports, self._ports()), plan.steps, record)
        progress = progress_after(plan.progress, results, deleting=view.deleting)
        # A user may take a name after the first image: then the images stay without a state, which harms nothing.
        self.deletion_refused |= view.deleting and (progress.end == "Failed" or self._name_taken())
        error = error_after(progress, results)
        if not isinstance(error, Conflict | LostLeadership) and not self.gone:
            try:
                self._write(view, progress, plan, error)
            except KigiError:
                return

    def _write(
        self, view: CaptureView, progress: CaptureProgress, plan: CapturePlan, error: KigiError | None = None
    ) -> None:
        old = self.status.conditions if self.status is not None else []
        status = capture_status(view, old, progress, error or plan.error, plan.obstacles)
        kstatus.check({"metadata": {"generation": view.generation}, "status": status.to_api()})
        if status != self.status:
            with self._request():
                self.status = SystemCaptureStatus.model_validate(status.to_api())

    def _request(self) -> _Request:
        return _Request(self)

    def _ports(self) -> object:
        record = SimpleNamespace(meta=self.meta)
        store = SimpleNamespace(get=lambda namespace, name: record)
        mirror = SimpleNamespace(stores={"SystemCapture": store})
        ignore = lambda *_: None  # noqa: E731
        return SimpleNamespace(kube=self, mirror=mirror, now=self.now, see=ignore, see_gone=ignore)

    async def set_finalizers(self, _: object, __: object, body: object, finalizers: Sequence[str]) -> dict[str, Any]:
        with self._request():
            self.meta = replace(self.meta, finalizers=tuple(finalizers))
            self._end_if_released()
        return {}

    async def vmi_request(self, namespace: str, name: str, verb: str, body: object = None) -> None:
        with self._request():
            vmi = self.w.vmis.get(name)
            if vmi is None:
                raise NotFound(f"there is no VMI {name}")
            if verb in ("freeze", "unfreeze"):
                return
            guest = self._guest(vmi)
            if (guest.pause is not None) == (verb == "pause"):
                raise Conflict(f"{name} is not in a state for {verb}")
            if verb == "pause":
                guest.pauses.append(Pause("capture", next(self.ticks)))
            elif guest.pause is not None:
                assert guest.pause.by == "capture", f"{name} was paused by a user and is resumed"
                guest.pause.end = next(self.ticks)

    async def create(self, resource: object, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._request():
            key = key_of(manifest)
            if key in self.objects:
                raise Conflict(f"{key} exists")
            if key[0] == "SystemNode":
                self._check_published()
            self.objects[key] = manifest["spec"]
            self.created.append(key)
        return manifest

    # The rest of the cluster.

    def _guest(self, vmi: Vmi) -> Guest:
        return self.guests.setdefault(vmi.uid, Guest())

    def _end_if_released(self) -> None:
        self.gone = self.gone or (self.meta.deleting and names.CAPTURE_FINALIZER not in self.meta.finalizers)

    def write_orders(self) -> None:
        """The reconcile of each NodeCache."""
        owner = owner_of("u1", "ns", self.spec)
        volumes = {volume.handle: volume for volume in self.w._volume_records()}
        for node in self.w.nodes:
            present = {order.id: order for order in self.orders.get(node, ())}
            wanted = () if self.gone else orders_of(owner, self.progress(), node, volumes.get, present, "default")
            self.orders[node] = list(wanted)

    def run_daemons(self) -> None:
        for node in self.w.nodes:
            if node not in self.silent:
                self.reports[node] = {order.id: self._act(node, order) for order in self.orders.get(node, ())}

    def _act(self, node: str, order: CaptureOrder) -> CaptureReport:
        if order.action == "Check":
            return CaptureReport(id=order.id, state="Possible")
        key = (node, order.id)
        if order.action == "Copy" and key not in self.copies:
            self.copies[key] = self._copy(order)
        if key not in self.copies:
            return CaptureReport(id=order.id, state="Lost")
        if order.action == "Copy":
            return CaptureReport(id=order.id, state="Copied", copied_bytes=1, copy_uid=self.copies[key].uid)
        return CaptureReport(
            id=order.id,
            state="Stored",
            copied_bytes=1,
            copy_uid=self.copies[key].uid,
            digest="sha256:" + order.volume.encode().hex().rjust(64, "0")[-64:],
            size_bytes=4096,
            uploaded_bytes=4096,
        )

    def _copy(self, order: CaptureOrder) -> Copy:
        uid = f"copy-{next(self.ticks)}"
        for vmi in self.w.vmis.values():
            for claim in vmi.claims:
                if self.w._volume_of(claim).handle == order.volume:
                    return Copy(vmi.uid, self._guest(vmi).pause, uid)
        return Copy(None, None, uid)

    def show_pauses(self) -> None:
        """KubeVirt reports what it has done."""
        for vmi in self.w.vmis.values():
            vmi.paused = self._guest(vmi).pause is not None

    def _may_be_held(self, name: str) -> bool:
        """Whether the capture may believe that its own pause of the VM continues: a user's pause looks the same."""
        plans = [self.progress(), *([self.running_plan.progress] if self.running_plan is not None else [])]
        return any(
            names.machine_name("dep", "0", machine.name) == name for plan in plans for machine in held_machines(plan)
        )

    # Moves of nodes, users and accidents, by number.

    def move(self, number: int) -> None:
        """Move ``number // 7``, of the machine or node ``number % 7``."""
        vms = sorted(self.w.vmis)
        vm = vms[number % len(vms)] if vms else None
        node = sorted(self.w.nodes)[number % len(self.w.nodes)]
        moves: list[Callable[[], None]] = [
            self.write_orders,
            self.run_daemons,
            self.show_pauses,
            lambda: self.user_pauses(vm),
            lambda: self.user_resumes(vm),
            lambda: self.restart(vm),
            lambda: self.silent.symmetric_difference_update({node}),
            lambda: self.lose_copies(node),
            lambda: self.wait(number % 40),
            self.take_name,
            self.free_names,
            self.reset,
            lambda: self.lose_node(node),
            self.delete,
        ]
        moves[number // 7 % len(moves)]()

    def user_pauses(self, name: str | None) -> None:
        if name is not None and not self._may_be_held(name) and (guest := self._guest(self.w.vmis[name])).pause is None:
            guest.pauses.append(Pause("user", next(self.ticks)))
            self.w.vmis[name].paused = True

    def user_resumes(self, name: str | None) -> None:
        if name is not None and (pause := self._guest(self.w.vmis[name]).pause) is not None:
            pause.end = next(self.ticks)
            self.w.vmis[name].paused = False

    def restart(self, name: str | None) -> None:
        if name is not None:
            self._end_pauses([name])
            old = self.w.vmis[name]
            self.w.vmis[name] = replace(old, uid=f"vmi{next(self.w.uids)}", paused=False)

    def _end_pauses(self, vms: Sequence[str]) -> None:
        for name in vms:
            if (pause := self._guest(self.w.vmis[name]).pause) is not None:
                pause.end = next(self.ticks)

    def lose_copies(self, node: str) -> None:
        for key in [key for key in self.copies if key[0] == node]:
            del self.copies[key]

    def lose_node(self, node: str) -> None:
        if len(self.w.nodes) > 1:
            self._end_pauses([n for n, vmi in self.w.vmis.items() if self.w._volume_of(vmi.claim).node == node])
            self.lose_copies(node)
            self.reports.pop(node, None)
            self.w.lose_node(node)
            self.w.settle()

    def reset(self) -> None:
        self._end_pauses(list(self.w.vmis))
        self.w.change(resetToken=f"{next(self.ticks)}")
        self.w.settle()

    def wait(self, seconds: float) -> None:
        self.seconds += seconds

    def take_name(self) -> None:
        self.objects.setdefault(("VMImageNode", "after-web"), {"parentRef": {"name": "another"}})

    def free_names(self) -> None:
        key = ("VMImageNode", "after-web")
        if key not in self.created:
            self.objects.pop(key, None)

    def delete(self) -> None:
        self.meta = replace(self.meta, deleting=True)
        self._end_if_released()

    def cooperate(self, number: int) -> None:
        """One of the moves by which a capture gets on."""
        moves: Sequence[Callable[[], object]] = (
            self.reconcile,
            self.write_orders,
            self.run_daemons,
            self.show_pauses,
            lambda: self.wait(0.5),
        )
        moves[number % len(moves)]()

    def settle(self) -> None:
        """Everything heals, and all get on until nothing changes."""
        self.silent.clear()
        self.free_names()
        quiet = 0
        for _ in range(400):
            before = (self.status, self.meta, len(self.objects), str(self.reports), str(self.orders))
            while self.reconcile():
                self.check()
            self.write_orders()
            self.run_daemons()
            self.show_pauses()
            self.wait(1 if quiet == 0 else 11)
            after = (self.status, self.meta, len(self.objects), str(self.reports), str(self.orders))
            quiet = quiet + 1 if before == after else 0
            if quiet > 5:
                return
        raise AssertionError(f"not settled: {self.status}")

    # Judging.

    def check(self) -> None:
        """At any moment: no state names an image that does not exist."""
        for key, spec in self.objects.items():
            if key[0] == "SystemNode":
                named = {image for machine in spec["machines"] for image in _images(machine)}
                missing = {name for name in named if ("VMImageNode", name) not in self.objects}
                assert not missing, f"{key} names {missing}"

    def _check_published(self) -> None:
        """The copies of a state that is created are of one moment: a moment at which all its VMs were paused."""
        progress = self.progress()
        off = {machine.name for machine in progress.machines if machine.method == "Off"}
        owner = owner_of("u1", "ns", self.spec)
        ids = [(disk.node_name, owner.id_of(progress, disk)) for disk in progress.disks if disk.machine not in off]
        copies = [self.copies.get(key) for key in ids]
        pauses = [copy.pause for copy in copies if copy is not None]
        assert all(pause is not None for pause in pauses), "a disk was copied while its VM ran"
        begins, ends = [p.begin for p in pauses if p], [p.end for p in pauses if p]
        assert not pauses or max(begins) < min(ends), "the copies are not of one moment"

    def check_settled(self) -> None:
        for name, vmi in self.w.vmis.items():
            pause = self._guest(vmi).pause
            assert pause is None or pause.by == "user", f"{name} stays paused"
        end = self.progress().end
        assert self.gone if self.meta.deleting else end in ("Complete", "Failed")
        if end == "Complete" and not self.meta.deleting:
            assert ("SystemNode", "after") in self.created
        if end == "Failed" and not self.deletion_refused:
            assert not self.created, "a capture that failed leaves a part of its result"
        if self.created and not self.deletion_refused and not self._name_taken():
            assert self.created[-1] == ("SystemNode", "after"), "a result that was begun is completed"
        assert not any(self.orders[node] for node in self.w.nodes), "the nodes keep no copies"

    def _name_taken(self) -> bool:
        key = ("VMImageNode", "after-web")
        return key in self.objects and key not in self.created


class _Request:
    """A request to the API server: others act before it, it may fail, and the operator may stop after it."""

    def __init__(self, world: CaptureWorld) -> None:
        self._world = world
        self._fault: Fault = ""

    def __enter__(self) -> None:
        world = self._world
        if world.requests == world.stop_at:
            world.stopped, world.stop_at = True, None
        if world.stopped:
            raise Stopped
        if world.between:
            world.move(world.between.pop(0))
        self._fault = world.faults.pop(0) if world.faults else ""
        if self._fault == "refused":
            world.requests += 1
            raise Unreachable("no answer")

    def __exit__(self, *_: object) -> None:
        self._world.check()
        self._world.requests += 1
        if self._fault == "lost":
            raise Unreachable("the answer was lost")


def _images(machine: Mapping[str, Any]) -> Iterator[str]:
    if "rootDisk" in machine:
        yield machine["rootDisk"]["imageRef"]["name"]
    for disk in machine.get("disks", ()):
        yield disk["imageRef"]["name"]
