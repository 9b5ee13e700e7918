"""Writes of status and events; a status that has not changed is not written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from kigi.adapters.kubernetes.resources import EVENT, Resource
from kigi.api.base import Condition, Status
from kigi.api.conditions import READY, RECONCILING, RESOLVED, STALLED, with_problem
from kigi.domain.names import FIELD_MANAGER
from kigi.domain.observed import Meta
from kigi.errors import KigiError
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

_SILENT = (RECONCILING, RESOLVED)
"""Conditions that make no event when they become True."""
S = TypeVar("S", bound=Status)
S_co = TypeVar("S_co", bound=Status, covariant=True)


class HasStatus(Protocol[S_co]):
    """A record of a kind with a status."""

    @property
    def meta(self) -> Meta:
        """Metadata of the object."""

    @property
    def status(self) -> S_co | None:
        """The stored status; None if it has none or a damaged one."""


async def write_status(ports: Ports, resource: Resource, meta: Meta, old: Status | None, new: Status) -> None:
    """Replaces the status if it differs, and emits an event for each transition in it."""
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


async def report_invalid(ports: Ports, resource: Resource, record: HasStatus[S], empty: S, error: KigiError) -> None:
    """Reports a stored spec that does not validate in the object's conditions. Its finalizers and children stay."""
    status = with_problem(record.status or empty, error, generation=record.meta.generation, now=ports.now())
    await write_status(ports, resource, record.meta, record.status, status)


def transitions(old: Sequence[Condition], new: Sequence[Condition]) -> list[tuple[str, Condition]]:
    """Conditions to report as events, each with the event's type: those that became True, a lost Ready, a new stall.

    Ready, Reconciling and Stalled have one cause and make one event.
    """
    before = {condition.type: condition for condition in old}
    return [
        (kind, condition)
        for condition in new
        if (kind := _event_type(before.get(condition.type), condition)) is not None
    ]


def _event_type(old: Condition | None, new: Condition) -> Literal["Normal", "Warning"] | None:
    was_true = old is not None and old.status == "True"
    is_true = new.status == "True"
    if new.type == STALLED:
        same_cause = was_true and old is not None and old.reason == new.reason
        return "Warning" if is_true and not same_cause else None
    if is_true and not was_true:
        return "Normal" if new.type not in _SILENT else None
    return "Normal" if new.type == READY and was_true and not is_true else None


async def emit(ports: Ports, resource: Resource, meta: Meta, kind: str, reason: str, message: str) -> None:
    """Writes one event about the object, unless it had too many lately. A failure is only logged."""
    if not ports.events.allows(meta.uid):
        return
    now = ports.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    namespace = meta.namespace or "default"
    event = {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{meta.name[:200]}.{ports.suffix()}", "namespace": namespace},
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
