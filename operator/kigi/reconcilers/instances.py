"""Reconciles SystemInstances: disks and machines of one copy of a system."""

from __future__ import annotations

from dataclasses import replace

from kigi.adapters.kubernetes.resources import INSTANCE, SYSTEM
from kigi.api.conditions import merge_conditions, summary, with_problem
from kigi.api.events import REPLACE_DISKS, reference
from kigi.api.instance import SystemInstanceStatus
from kigi.errors import Conflict, KigiError, LostLeadership
from kigi.gather.instance import gather_instance, gather_objects
from kigi.gather.reservations import release, reserve
from kigi.mirror.keys import Key
from kigi.mirror.records import InstanceRecord
from kigi.planning.candidates import NoNode
from kigi.planning.cleanup import plan_teardown
from kigi.planning.expiration import seconds_until_next
from kigi.planning.instance import InstancePlan, plan_instance
from kigi.planning.steps import Plan
from kigi.planning.view import InstanceView
from kigi.reconcilers.apply import apply_steps
from kigi.reconcilers.deployments import earliest
from kigi.reconcilers.hook_image import with_hook_image
from kigi.reconcilers.writing import emit, write_status
from kigi.runtime import metrics
from kigi.runtime.ports import Ports
from kigi.status.durations import ready_after
from kigi.status.history import entry_text, new_entries
from kigi.status.instance import instance_status

RECHECK_S = 30.0
"""Delay of the next reconcile while an instance is not ready: a daemon that falls silent causes no event."""


async def reconcile_instance(ports: Ports, key: Key) -> float | None:
    """Reconciles one key; returns the delay of the next reconcile in seconds, or None.

    An error of the steps is written to the status before it is raised. The error of one instance concerns no other.
    """
    record = ports.mirror.instances.get(key.namespace, key.name)
    if record is None:
        ports.mirror.unplaced.discard((key.namespace, key.name))
        return None
    if record.meta.deleting:
        return await _tear_down(ports, record)
    try:
        view = gather_instance(ports.mirror, record, ports.now())
    except KigiError as exc:
        await _report_problem(ports, record, exc)
        return None
    view = replace(view, kubevirt=with_hook_image(view.kubevirt, ports))
    plan = plan_instance(view, hook_image=ports.hook_image)
    _note_unplaced(ports, key, plan)
    error = await _carry_out(ports, view, plan)
    # After a conflict the mirror was out of date: the next reconcile corrects it, so the status does not report it.
    status = instance_status(view, plan, None if isinstance(error, Conflict) else error)
    if ports.mirror.instances.get(key.namespace, key.name) is not None:
        await write_status(ports, INSTANCE, record.meta, record.status, status)
        _measure(record, status)
        await _emit_history(ports, record, status)
    if error is not None:
        raise error
    ready = any(c.type == "Ready" and c.status == "True" for c in status.conditions)
    recheck_s = plan.retry_after_s if ready else min(plan.retry_after_s or RECHECK_S, RECHECK_S)
    return earliest(recheck_s, seconds_until_next(view.spec, ports.now()))


async def _carry_out(ports: Ports, view: InstanceView, plan: InstancePlan) -> KigiError | None:
    """Carries out the steps; the error, if there is one. Until then the plan's placements count as decided.

    There is no ``await`` between the view and the reservation, so that the next plan sees it.
    """
    key = reserve(ports.mirror, view, plan)
    try:
        await apply_steps(ports, plan.steps)
    except LostLeadership:
        raise
    except KigiError as exc:
        return exc
    finally:
        release(ports.mirror, key)
    return None


async def _tear_down(ports: Ports, record: InstanceRecord) -> float | None:
    objects = gather_objects(ports.mirror, *record.deployment, record.name, record)
    if not objects.has_finalizer:
        return None
    plan = plan_teardown(objects)
    await apply_steps(ports, plan.steps)
    if ports.mirror.instances.get(record.meta.namespace, record.meta.name) is not None:
        await write_status(ports, INSTANCE, record.meta, record.status, _deleting_status(ports, record, plan))
    return RECHECK_S


def _deleting_status(ports: Ports, record: InstanceRecord, plan: Plan) -> SystemInstanceStatus:
    old, generation = record.status or SystemInstanceStatus(), record.meta.generation
    message = f"waits for {plan.waiting_for or 'other finalizers'}"
    findings = summary(ready=False, stalled=False, reason="Deleting", message=message)
    conditions = merge_conditions(old.conditions, findings, generation=generation, now=ports.now())
    return old.model_copy(update={"observed_generation": generation, "conditions": conditions})


async def _report_problem(ports: Ports, record: InstanceRecord, error: KigiError) -> None:
    """Reports why the instance is not planned. Its finalizer and its objects stay."""
    old = record.status or SystemInstanceStatus()
    status = with_problem(old, error, generation=record.meta.generation, now=ports.now())
    deployment = ports.mirror.deployments.get(*record.deployment)
    generation = deployment.meta.generation if deployment is not None else None
    status = status.model_copy(update={"deployment_generation": generation})
    await write_status(ports, INSTANCE, record.meta, record.status, status)


def _measure(record: InstanceRecord, status: SystemInstanceStatus) -> None:
    if (change := ready_after(record.status, status)) is not None:
        action, seconds = change
        metrics.INSTANCE_READY_SECONDS.labels(*record.deployment, action).observe(seconds)


async def _emit_history(ports: Ports, record: InstanceRecord, status: SystemInstanceStatus) -> None:
    for entry in new_entries(record.status.history if record.status else [], status.history):
        state = reference(SYSTEM.api_version, SYSTEM.kind, record.meta.namespace, entry.to_system_name)
        text = entry_text(entry)
        await emit(ports, INSTANCE, record.meta, "Normal", entry.action, text, action=REPLACE_DISKS, related=state)


def _note_unplaced(ports: Ports, key: Key, plan: InstancePlan) -> None:
    """Remembers instances without a node: a change of any node concerns them."""
    if isinstance(plan.error, NoNode):
        ports.mirror.unplaced.add((key.namespace, key.name))
    else:
        ports.mirror.unplaced.discard((key.namespace, key.name))
