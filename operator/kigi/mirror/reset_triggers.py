"""Triggers of SystemResets: a request concerns its targets, and what becomes of them concerns the request."""

from __future__ import annotations

from collections.abc import Iterator

from kigi.domain.names import instance_object
from kigi.domain.observed import VolumeRecord
from kigi.domain.resets import ResetRequest
from kigi.mirror.comparisons import life_or_spec, typed
from kigi.mirror.instance_keys import instance_key
from kigi.mirror.keys import Key
from kigi.mirror.records import DeploymentRecord, InstanceRecord, Record, ResetRecord
from kigi.mirror.store import Change, Mirror
from kigi.mirror.tree_triggers import NOW_S, EnqueueRequest

REPORT_S = 0.5
"""Interval of the reports on a request while its machines change."""


def reset_changed(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """The request, if its spec changed or it is being deleted; its targets, if it is new."""
    old, new = typed(change, ResetRecord)
    if new is None:
        return  # what has become of the targets does not depend on it any more
    if life_or_spec(old) == life_or_spec(new):
        return
    yield Key("reset", new.meta.namespace or "", new.meta.name), NOW_S
    if (old is None or old.meta.uid != new.meta.uid) and isinstance(new.request, ResetRequest):
        yield from ((key, NOW_S) for key in _targets(mirror, new, new.request))


def _targets(mirror: Mirror, record: ResetRecord, request: ResetRequest) -> Iterator[Key]:
    """Instances that the request concerns. O(its instances)."""
    namespace, deployment = record.deployment
    if request.instances:
        names = (instance_object(deployment, name) for name in request.instances)
        yield from (Key("instance", namespace, name) for name in names if mirror.instances.get(namespace, name))
    else:
        yield from (instance_key(instance) for instance in mirror.instances.by("deployment", record.deployment))


def reports_after(mirror: Mirror, change: Change) -> Iterator[EnqueueRequest]:
    """Unfinished requests that report on the object: a deployment, an instance, or a volume of one."""
    old, new = change.old, change.new
    record = new or old
    if isinstance(record, DeploymentRecord):
        if new is None or old is None or new.meta.generation != old.meta.generation:
            yield from _reports(mirror, (record.meta.namespace or "", record.meta.name))
    elif isinstance(record, InstanceRecord):
        if _machines(old) != _machines(new):
            yield from _reports(mirror, record.deployment, record.name)
    elif isinstance(record, VolumeRecord):
        yield from _reports(mirror, record.deployment, record.instance)


def _reports(mirror: Mirror, deployment: tuple[str, str], instance: str | None = None) -> Iterator[EnqueueRequest]:
    for record in mirror.resets.by("deployment", deployment):
        request = record.request
        if record.is_finished or not isinstance(request, ResetRequest):
            continue
        if instance is None or request.concerns(instance):
            yield Key("reset", record.meta.namespace or "", record.meta.name), REPORT_S


def _machines(record: Record | None) -> object:
    """Reported states of the machines of an instance."""
    return record.status.machines if isinstance(record, InstanceRecord) and record.status is not None else []
