"""Carries out the steps of a plan: in their order, and in parallel where they do not depend on each other.

Consecutive steps of one type form a group; the next group begins when all of it is done. Within a group, only steps of
the same machine depend on each other: its volume, its claim, its VM. The answers of the API server go into the mirror,
so that the next decision sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping

from kigi.adapters.kubernetes import resources
from kigi.api.repositories import Repository
from kigi.domain import names
from kigi.errors import Conflict, KigiError, NotFound
from kigi.mirror.keys import node_key
from kigi.planning.prefetch_orders import changed_nodes
from kigi.planning.steps import (
    AddFinalizer,
    ApplyObject,
    DeleteObject,
    EmitEvent,
    FinalizerKind,
    JoinParts,
    OrderPrefetch,
    PatchObject,
    PauseMachine,
    ReleaseVolume,
    RemoveFinalizer,
    RestartMachine,
    Step,
)
from kigi.reconcilers.object_writes import apply_object, delete_object, patch_object, set_finalizer
from kigi.reconcilers.restarts import restart_machine
from kigi.runtime import metrics
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

MAX_LANES = 32
"""Machines that one reconcile works on in parallel; the client limits all reconciles together."""
_SLOT = (names.LABEL_NAMESPACE, names.LABEL_DEPLOYMENT, names.LABEL_INSTANCE, names.LABEL_MACHINE)


_FINALIZERS: Mapping[FinalizerKind, str] = {
    "SystemDeployment": names.DEPLOYMENT_FINALIZER,
    "SystemInstance": names.INSTANCE_FINALIZER,
    "SystemCapture": names.CAPTURE_FINALIZER,
}


async def apply_steps(ports: Ports, steps: Iterable[Step]) -> None:
    """Carries out all steps. After an error, the rest of the group is still done; then the first error is raised."""
    for _, group in itertools.groupby(steps, _group_key):
        await _apply_group(ports, list(group))


async def apply_step(ports: Ports, step: Step) -> None:
    """Carries out one step. Safe to do twice."""
    match step:
        case AddFinalizer(namespace, name, kind):
            await set_finalizer(ports, resources.BY_KIND[kind], namespace, name, _FINALIZERS[kind], wanted=True)
        case RemoveFinalizer(namespace, name, kind):
            await set_finalizer(ports, resources.BY_KIND[kind], namespace, name, _FINALIZERS[kind], wanted=False)
        case ReleaseVolume(name):
            await set_finalizer(ports, resources.VOLUME, None, name, names.OVERLAY_FINALIZER, wanted=False)
        case ApplyObject(manifest):
            await apply_object(ports, manifest)
        case PatchObject():
            await patch_object(ports, step)
        case DeleteObject(kind, name, namespace):
            await delete_object(ports, kind, namespace, name)
        case RestartMachine():
            await restart_machine(ports, step)
        case PauseMachine(namespace, name):
            with contextlib.suppress(Conflict, NotFound):  # it is paused, or ended
                await ports.kube.vmi_request(namespace, name, "pause")
        case OrderPrefetch():
            _order_prefetch(ports, step)
        case JoinParts():
            _join_parts(ports, step)
        case EmitEvent():
            pass
    metrics.STEPS.labels(type(step).__name__).inc()
    logger.info("step done", extra={"step": type(step).__name__, "object": _object_of(step)})


def _order_prefetch(ports: Ports, step: OrderPrefetch) -> None:
    orders, key = ports.mirror.prefetch_orders, (step.namespace, step.name)
    nodes = changed_nodes(orders.get(key), step.orders, [node.meta.name for node in ports.mirror.nodes])
    orders[key] = step.orders
    for node in nodes:
        ports.queue.add(node_key(node))


def _join_parts(ports: Ports, step: JoinParts) -> None:
    writer = ports.writers.get(step.repository)
    if isinstance(writer, Repository):
        ports.joins.start(
            step.copy,
            writer,
            ports.authorities.get(step.repository),
            step.digest,
            step.size_bytes,
            step.parts,
            lambda: ports.queue.add(node_key(step.node)),
        )


async def _apply_group(ports: Ports, steps: list[Step]) -> None:
    slots = asyncio.Semaphore(MAX_LANES)
    errors: list[KigiError] = []
    lanes: dict[object, list[Step]] = defaultdict(list)
    for number, step in enumerate(steps):
        lanes[_lane_key(step, number)].append(step)

    async def run(lane: list[Step]) -> None:
        async with slots:
            try:
                for step in lane:
                    await apply_step(ports, step)
            except KigiError as exc:
                errors.append(exc)

    async with asyncio.TaskGroup() as group:
        for lane in lanes.values():
            group.create_task(run(lane))
    if errors:
        raise errors[0]


def _group_key(step: Step) -> tuple[str, str]:
    return (type(step).__name__, step.kind if isinstance(step, DeleteObject | PatchObject) else "")


def _lane_key(step: Step, number: int) -> object:
    """Steps with the same key are done one after another: those of one machine.

    ``number`` is the step's place in its group: the key of a step that depends on no other.
    """
    if isinstance(step, ApplyObject):
        labels = step.manifest["metadata"].get("labels") or {}
        return tuple(labels.get(name) for name in _SLOT) if names.LABEL_MACHINE in labels else number
    return number


def _object_of(step: Step) -> str:
    if isinstance(step, ApplyObject):
        meta = step.manifest["metadata"]
        return f"{step.manifest['kind']} {meta.get('namespace', '')}/{meta['name']}"
    return f"{getattr(step, 'kind', '')} {getattr(step, 'namespace', '') or ''}/{getattr(step, 'name', '')}"
