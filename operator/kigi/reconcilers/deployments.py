"""Reconciles SystemDeployments: their SystemInstances, and a summary of them."""

from __future__ import annotations

from kigi.adapters.kubernetes.resources import DEPLOYMENT
from kigi.api.deployment import SystemDeploymentStatus
from kigi.errors import Conflict, KigiError, LostLeadership
from kigi.gather.deployment import gather_deployment, remember_held_layers
from kigi.mirror.keys import Key
from kigi.planning.deployment import plan_deployment
from kigi.planning.deployment_view import DeploymentView
from kigi.planning.expiration import seconds_until_next
from kigi.reconcilers.apply import apply_steps
from kigi.reconcilers.writing import write_status
from kigi.runtime import metrics
from kigi.runtime.ports import Ports
from kigi.status.deployments import deployment_status

RECHECK_S = 30.0
"""Delay of the next reconcile while a deployment is not ready."""


async def reconcile_deployment(ports: Ports, key: Key) -> float | None:
    """Reconciles one key; returns the delay of the next reconcile in seconds, or None.

    An error of the steps is written to the status before it is raised.
    """
    record = ports.mirror.deployments.get(key.namespace, key.name)
    if record is None:
        _forget(key)
        return None
    remember_held_layers(ports.mirror, record)
    view = gather_deployment(ports.mirror, record, ports.now())
    if view.deleting and not view.has_finalizer:
        ports.mirror.first_held.pop(view.uid, None)
        return None
    plan = plan_deployment(view)
    error: KigiError | None = None
    try:
        await apply_steps(ports, plan.steps)
    except LostLeadership:
        raise
    except KigiError as exc:
        error = exc
    # After a conflict the mirror was out of date: the next reconcile corrects it, so the status does not report it.
    status = deployment_status(view, plan, None if isinstance(error, Conflict) else error)
    if ports.mirror.deployments.get(key.namespace, key.name) is not None:
        await write_status(ports, DEPLOYMENT, record.meta, record.status, status)
        _measure(key, status)
    if error is not None:
        raise error
    ready = any(c.type == "Ready" and c.status == "True" for c in status.conditions)
    return earliest(None if ready else RECHECK_S, _next_expiration_s(ports, view))


def _next_expiration_s(ports: Ports, view: DeploymentView) -> float | None:
    return seconds_until_next(view.spec, ports.now()) if not isinstance(view.spec, KigiError) else None


def earliest(*delays_s: float | None) -> float | None:
    """The least of these delays; None if none is given."""
    return min((delay_s for delay_s in delays_s if delay_s is not None), default=None)


def _measure(key: Key, status: SystemDeploymentStatus) -> None:
    progress = status.progress
    if progress is not None:
        missing = progress.wanted_bytes - progress.held_bytes
        metrics.MISSING_BYTES.labels(key.namespace, key.name).set(missing)
    metrics.READY_INSTANCES.labels(key.namespace, key.name).set(status.ready_replicas)


def _forget(key: Key) -> None:
    for gauge in (metrics.MISSING_BYTES, metrics.READY_INSTANCES):
        try:
            gauge.remove(key.namespace, key.name)
        except KeyError:
            continue
    for histogram in (metrics.INSTANCE_READY_SECONDS, metrics.CAPTURE_SECONDS):
        histogram.remove_by_labels({"namespace": key.namespace, "deployment": key.name})
