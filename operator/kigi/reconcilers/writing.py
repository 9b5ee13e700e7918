"""Writes of status and events; a status that has not changed is not written."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from kigi.adapters.kubernetes.resources import EVENT, INSTANCE, Resource
from kigi.api.base import Condition, Status
from kigi.api.conditions import (
    COMPLETE,
    DEADLINE_MISSED,
    EXPIRING,
    FAILED,
    READY,
    RECONCILING,
    RESOLVED,
    STALLED,
    with_problem,
)
from kigi.api.events import RECONCILE, Type, event, reference
from kigi.domain.layers import hide_digests
from kigi.domain.names import FIELD_MANAGER
from kigi.domain.observed import Meta
from kigi.errors import KigiError
from kigi.runtime.ports import Ports

logger = logging.getLogger(__name__)

_SILENT = (RECONCILING, RESOLVED, COMPLETE, FAILED)
"""Conditions that make no event when they become True; Ready and Stalled report an end."""
_BAD = (DEADLINE_MISSED,)
"""Conditions whose event is a warning."""
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
    """Writes the fields of the status that differ, and emits an event for each transition in it.

    Messages in a namespace contain only the digests of its own images.
    """
    text = _with_messages(new.to_api(), _own_digests(ports, meta))
    before = old.to_api() if old is not None else {}
    if old is not None and before == text:
        return
    answer = await ports.kube.write_status(resource, meta.namespace, meta.name, meta.uid, text, old=before)
    await _written(ports, resource, meta, answer, old.conditions if old else (), new.conditions)


async def write_conditions(
    ports: Ports, resource: Resource, meta: Meta, old: Sequence[Condition], new: Sequence[Condition]
) -> None:
    """Replaces the conditions alone, and emits an event for each transition in them."""
    conditions = _with_messages([condition.to_api() for condition in new], _own_digests(ports, meta))
    answer = await ports.kube.write_conditions(resource, meta.namespace, meta.name, meta.uid, conditions)
    await _written(ports, resource, meta, answer, old, new)


async def _written(
    ports: Ports,
    resource: Resource,
    meta: Meta,
    answer: Mapping[str, Any] | None,
    old: Sequence[Condition],
    new: Sequence[Condition],
) -> None:
    if answer is None:
        ports.see_gone(resource.kind, meta.namespace, meta.name, meta.uid)
        return
    ports.see(resource.kind, answer)
    shown = _own_digests(ports, meta)
    for kind, condition in transitions(old, new):
        if resource is INSTANCE and condition.type not in (READY, STALLED):
            continue  # the deployment reports its phases; a thousand instances would report each phase once more
        await emit(ports, resource, meta, kind, condition.reason, hide_digests(condition.message, shown))


def _own_digests(ports: Ports, meta: Meta) -> Container[str]:
    """Digests that messages about the object may contain: those of its namespace's images."""
    return ports.mirror.trees(meta.namespace).digests() if meta.namespace is not None else _EVERYTHING


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


_EVERYTHING = _Everything()
"""Users without rights in the whole cluster do not see cluster-scoped objects."""


def _with_messages(value: Any, shown: Container[str]) -> Any:
    """The status with every message cut by ``hide_digests``."""
    if isinstance(value, list):
        return [_with_messages(item, shown) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: hide_digests(item, shown) if key == "message" and item else _with_messages(item, shown)
        for key, item in value.items()
    }


async def report_invalid(ports: Ports, resource: Resource, record: HasStatus[S], empty: S, error: KigiError) -> None:
    """Reports a stored spec that does not validate in the object's conditions. Its finalizers and children stay."""
    status = with_problem(record.status or empty, error, generation=record.meta.generation, now=ports.now())
    await write_status(ports, resource, record.meta, record.status, status)


def transitions(old: Sequence[Condition], new: Sequence[Condition]) -> list[tuple[Type, Condition]]:
    """Conditions to report as events, each with the event's type: those that became True, a lost Ready, a new stall.

    An expiration is one event when it is announced, and one when it comes. Ready, Reconciling and Stalled have one
    cause and make one event.
    """
    before = {condition.type: condition for condition in old}
    return [
        (kind, condition)
        for condition in new
        if (kind := _event_type(before.get(condition.type), condition)) is not None
    ]


def _event_type(old: Condition | None, new: Condition) -> Type | None:
    was_true = old is not None and old.status == "True"
    is_true = new.status == "True"
    if new.type == STALLED:
        same_cause = was_true and old is not None and old.reason == new.reason
        return "Warning" if is_true and not same_cause else None
    if new.type == EXPIRING and is_true:
        return "Warning" if not was_true or (old is not None and old.reason != new.reason) else None
    if is_true and not was_true:
        return None if new.type in _SILENT else "Warning" if new.type in _BAD else "Normal"
    return "Normal" if new.type == READY and was_true and not is_true else None


async def emit(
    ports: Ports,
    resource: Resource,
    meta: Meta,
    kind: Type,
    reason: str,
    message: str,
    *,
    action: str = RECONCILE,
    related: Mapping[str, Any] | None = None,
) -> None:
    """Writes one event about the object, unless it had too many lately. A failure is only logged.

    ``related``: reference to the other object that it is about, for example the state of new disks.
    """
    if not ports.events.allows(meta.uid):
        return
    body = event(
        reference(resource.api_version, resource.kind, meta.namespace, meta.name, meta.uid),
        kind=kind,
        reason=reason,
        note=message,
        action=action,
        time=ports.now(),
        suffix=ports.suffix(),
        controller=FIELD_MANAGER,
        instance=ports.settings.identity,
        related=related,
    )
    try:
        await ports.kube.create(EVENT, body)
    except KigiError as exc:
        logger.warning("event not written", extra={"reason": reason, "error": str(exc)})
