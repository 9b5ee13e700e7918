"""SystemCapture: the barrier over the VMs of an instance, and the state that is made of their disks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from kigi.adapters import kubevirt
from kigi.adapters.kubernetes.resources import CAPTURE, VMI, resource_of
from kigi.api.capture import CapturedMachine, SystemCaptureStatus
from kigi.api.conditions import merge_conditions, problem_findings
from kigi.domain import names
from kigi.errors import Conflict, KigiError, LostLeadership, NameTaken, NeedsAction, Waiting
from kigi.gather.capture import gather_capture
from kigi.mirror.keys import Key
from kigi.mirror.records import CaptureRecord
from kigi.planning.capture_view import CaptureView
from kigi.planning.captures import (
    STANDSTILL,
    CapturePlan,
    after_pause,
    after_publish,
    after_resume,
    after_verify,
    plan_capture,
    standing,
)
from kigi.reconcilers.object_writes import set_finalizer
from kigi.reconcilers.writing import write_status
from kigi.runtime.ports import Ports
from kigi.status.captures import capture_status

STEPS = 12
"""More than any capture has between two waits."""
PAUSED_WITHIN_S = 5.0
"""KubeVirt shows that a VM is paused a moment after it has paused it."""
LOOK_S = 0.1


async def reconcile_capture(ports: Ports, key: Key) -> float | None:
    """Steps until something must be waited for; each status is written before what follows from it is done."""
    for _ in range(STEPS):
        record = ports.mirror.captures.get(key.namespace, key.name)
        if record is None:
            return None
        if isinstance(record.spec, KigiError):
            await _report_invalid(ports, record, record.spec)
            return None
        view = gather_capture(ports.mirror, record, ports.now())
        plan = plan_capture(view)
        await _write(ports, record, view, plan.status, plan.error)
        try:
            status = await _act(ports, view, plan)
        except (Conflict, LostLeadership):
            raise
        except KigiError as exc:
            await _write(ports, record, view, plan.status, exc)
            raise
        if status is not None:
            await _write(ports, record, view, status, None)
        elif not plan.action and plan.status.phase == view.status.phase:
            return plan.retry_after_s
    return 0.0


async def _act(ports: Ports, view: CaptureView, plan: CapturePlan) -> SystemCaptureStatus | None:
    """Carries out the action; the status that it leads to, if it says something new."""
    match plan.action:
        case "AddFinalizer":
            await set_finalizer(ports, CAPTURE, view.namespace, view.name, names.FINALIZER, wanted=True)
        case "RemoveFinalizer":
            with contextlib.suppress(Waiting, NeedsAction):  # of a namespace that ends, or for a name that is taken
                await _publish(ports, plan.objects)
            await set_finalizer(ports, CAPTURE, view.namespace, view.name, names.FINALIZER, wanted=False)
        case "Pause":
            outcomes, failure = await _pause(ports, view, plan.machines)
            return after_pause(plan.status, outcomes, failure)
        case "Verify":
            return after_verify(plan.status, await _moved_on(ports, view, plan.machines))
        case "Resume":
            outcomes, failure = await _resume(ports, view, plan.machines)
            status = after_resume(plan.status, outcomes)
            if standing(status):
                vms = ", ".join(machine.name for machine in standing(status))
                raise Waiting(f"{vms}: not resumed yet; tried again: {failure}")
            return status
        case "Publish":
            await _publish(ports, plan.objects)
            return after_publish(plan.status, plan.objects[-1]["metadata"]["name"])
    return None


def _vm(view: CaptureView, machine: CapturedMachine) -> str:
    return names.machine_name(view.spec.deployment.name, view.spec.instance, machine.name)


async def _pause(
    ports: Ports, view: CaptureView, machines: Sequence[CapturedMachine]
) -> tuple[list[CapturedMachine], str]:
    """All at once; those whose guests write out their file systems first have done so before any is paused."""
    failures: list[str] = []

    async def freeze(machine: CapturedMachine) -> CapturedMachine:
        if machine.method != "FreezeAndPause":
            return machine
        try:
            timeout = {"unfreezeTimeout": f"{STANDSTILL.seconds}s"}
            await ports.kube.vmi_request(view.namespace, _vm(view, machine), "freeze", timeout)
        except KigiError:
            with contextlib.suppress(KigiError):  # it may have frozen all the same, and the answer was lost
                await ports.kube.vmi_request(view.namespace, _vm(view, machine), "unfreeze")
            return machine.model_copy(update={"method": "Pause"})
        return machine

    async def pause(machine: CapturedMachine) -> CapturedMachine:
        requested = machine.requested_at or ports.now()
        try:
            await ports.kube.vmi_request(view.namespace, _vm(view, machine), "pause")
        except Conflict:  # it is paused already, by the operator before this one
            pass
        except KigiError as exc:
            failures.append(f"{machine.name}: {exc}")
            return machine.model_copy(update={"requested_at": requested})
        return machine.model_copy(update={"requested_at": requested, "paused_at": ports.now()})

    frozen = await asyncio.gather(*(freeze(machine) for machine in machines))
    paused = await asyncio.gather(*(pause(machine) for machine in frozen))
    return list(paused), "; ".join(failures[:3])


async def _moved_on(ports: Ports, view: CaptureView, machines: Sequence[CapturedMachine]) -> list[str]:
    """VMs that do not stand still any more, asked of the API server itself."""

    async def check(machine: CapturedMachine) -> str:
        end = asyncio.get_running_loop().time() + PAUSED_WITHIN_S
        while True:
            body = await ports.kube.get(VMI, view.namespace, _vm(view, machine))
            if body is None or body["metadata"]["uid"] != machine.vmi_uid:
                return machine.name
            if kubevirt.condition(body, "Paused").get("status") == "True":
                return ""
            if asyncio.get_running_loop().time() > end:
                return machine.name
            await asyncio.sleep(LOOK_S)

    return [name for name in await asyncio.gather(*(check(machine) for machine in machines)) if name]


async def _resume(
    ports: Ports, view: CaptureView, machines: Sequence[CapturedMachine]
) -> tuple[list[CapturedMachine], str]:
    """All at once; a VM that runs already, or is gone, is done."""
    failures: list[str] = []

    async def resume(machine: CapturedMachine) -> CapturedMachine:
        try:
            await ports.kube.vmi_request(view.namespace, _vm(view, machine), "unpause")
        except LostLeadership:
            raise
        except Waiting:  # gone, or not paused (Conflict)
            pass
        except KigiError as exc:
            failures.append(f"{machine.name}: {exc}")
            return machine
        if machine.method == "FreezeAndPause":
            with contextlib.suppress(KigiError):  # the agent does it itself when its time is over
                await ports.kube.vmi_request(view.namespace, _vm(view, machine), "unfreeze")
        resumed = ports.now()
        pause_ms = round((resumed - machine.requested_at).total_seconds() * 1000) if machine.requested_at else None
        return machine.model_copy(update={"resumed_at": resumed, "pause_milliseconds": pause_ms})

    resumed = await asyncio.gather(*(resume(machine) for machine in machines))
    return list(resumed), "; ".join(failures[:3])


async def _publish(ports: Ports, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Creates all, or, when one's name is taken, none. The operator may not delete what it has made."""
    for manifest in manifests:
        await _found(ports, manifest)
    for manifest in manifests:
        await _create(ports, manifest)


async def _create(ports: Ports, manifest: Mapping[str, Any]) -> None:
    """Creates it; one of that name that says the same is done."""
    resource = resource_of(manifest)
    try:
        body = await ports.kube.create(resource, manifest)
    except Conflict:
        found = await _found(ports, manifest)
        if found is None:
            raise
        body = found
    ports.see(resource.kind, body)


async def _found(ports: Ports, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The object of that name if it says the same; None: there is none. Any other is somebody else's: NameTaken."""
    resource, meta = resource_of(manifest), manifest["metadata"]
    found = await ports.kube.get(resource, meta["namespace"], meta["name"])
    if found is not None and not _says(found.get("spec"), manifest["spec"]):
        raise NameTaken(
            f"{resource.kind} {meta['namespace']}/{meta['name']} exists and is another one; delete it, or capture "
            "under another spec.system"
        )
    return found


def _says(found: Any, wanted: Any) -> bool:
    """Whether what was found has all that is wanted; the API server adds defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_says(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_says, found, wanted))
    return bool(found == wanted)


async def _write(
    ports: Ports, record: CaptureRecord, view: CaptureView, status: SystemCaptureStatus, error: KigiError | None
) -> None:
    current = ports.mirror.captures.get(view.namespace, view.name)
    if current is not None and current.meta.uid == view.uid:
        await write_status(ports, CAPTURE, record.meta, current.status, capture_status(view, status, error))


async def _report_invalid(ports: Ports, record: CaptureRecord, error: KigiError) -> None:
    old = record.status or SystemCaptureStatus()
    conditions = merge_conditions(
        old.conditions, problem_findings(error), generation=record.meta.generation, now=ports.now()
    )
    status = old.model_copy(update={"observed_generation": record.meta.generation, "conditions": conditions})
    await write_status(ports, CAPTURE, record.meta, record.status, status)
