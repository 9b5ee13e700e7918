"""Status and events: written only when they say something new."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence

from kigi.adapters.kubernetes.resources import EVENT, Resource
from kigi.api.base import Condition, Status
from kigi.api.conditions import READY, STALLED
from kigi.domain.names import FIELD_MANAGER
from kigi.domain.observed import Meta
from kigi.errors import KigiError
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)


async def write_status(ports: Ports, resource: Resource, meta: Meta, old: Status | None, new: Status) -> None:
    """Replaces the status if it differs, and tells people of the transitions in it."""
    text = new.to_api()
    if old is not None and old.to_api() == text:
        return
    answer = await ports.kube.write_status(resource, meta.namespace, meta.name, meta.uid, text)
    if answer is None:
        ports.see_gone(resource.kind, meta.namespace, meta.name, meta.uid)
        return
    ports.see(resource.kind, answer)
    for kind, condition in transitions(old.conditions if old else (), new.conditions):
        await emit(ports, resource, meta, kind, condition.reason, condition.message)


def transitions(old: Sequence[Condition], new: Sequence[Condition]) -> list[tuple[str, Condition]]:
    """What people are told of: each condition that became true, Ready that was lost, and every new cause of a stall.

    Each with the event's type. Ready, Reconciling and Stalled have one cause and make one event.
    """
    before = {condition.type: condition for condition in old}
    told: list[tuple[str, Condition]] = []
    for condition in new:
        was = before.get(condition.type)
        if condition.type == STALLED:
            if condition.status == "True" and (was is None or (was.status, was.reason) != ("True", condition.reason)):
                told.append(("Warning", condition))
        elif condition.status == "True" and (was is None or was.status != "True"):
            if condition.type not in ("Reconciling", "Resolved"):
                told.append(("Normal", condition))
        elif condition.type == READY and condition.status != "True" and was is not None and was.status == "True":
            told.append(("Normal", condition))
    return told


async def emit(ports: Ports, resource: Resource, meta: Meta, kind: str, reason: str, message: str) -> None:
    """One event on the object; a failure is logged and does not hold anything up; of too many, none."""
    if not ports.events.allows(meta.uid):
        return
    now = ports.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    namespace = meta.namespace or "default"
    event = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{meta.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
        "eventTime": now,
        "reportingController": FIELD_MANAGER,
        "reportingInstance": ports.settings.identity[:128] or FIELD_MANAGER,
        "action": "Reconcile",
        "reason": reason[:128],
        "note": message[:1024],
        "type": kind,
        "regarding": {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "namespace": meta.namespace,
            "name": meta.name,
            "uid": meta.uid,
        },
    }
    try:
        await ports.kube.create(EVENT, event)
    except KigiError as exc:
        logger.warning("event not written", extra={"reason": reason, "error": str(exc)})
