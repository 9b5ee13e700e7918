"""Events (events.k8s.io/v1) of operator and daemons, one form for both."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from kigi.api.conditions import bounded

EVENT_NAMESPACE = "default"
"""Namespace of events about objects without a namespace; the API server requires it."""
NOTE_BYTES = 1024
"""The API server's limit for the note of an event."""
RECONCILE = "Reconcile"
REPLACE_DISKS = "ReplaceDisks"
SERVE_DISKS = "ServeDisks"
ACTIONS: Mapping[str, str] = {
    RECONCILE: "The operator compares an object with the cluster. The reason is that of the condition that changed.",
    REPLACE_DISKS: "The operator gives machines of a deployment new disks: deployed, switched, reset or renewed.",
    SERVE_DISKS: "A node's daemon fetches layers and mounts disks. The reason is that of the error.",
}
"""Every action of an event, and its meaning; further actions may be added."""

Type = Literal["Normal", "Warning"]


def reference(api_version: str, kind: str, namespace: str | None, name: str, uid: str = "") -> dict[str, Any]:
    """Reference to an object, for ``regarding`` and ``related``."""
    fields = {"apiVersion": api_version, "kind": kind, "namespace": namespace, "name": name, "uid": uid}
    return {key: value for key, value in fields.items() if value}


def event(
    regarding: Mapping[str, Any],
    *,
    kind: Type,
    reason: str,
    note: str,
    action: str,
    time: datetime,
    suffix: str,
    controller: str,
    instance: str,
    related: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The event as an API object, with texts cut to the API server's limits; ``suffix`` makes its name unique.

    ``related`` must be in the namespace of ``regarding`` or without one: an event never names objects of other
    namespaces.
    """
    namespace = regarding.get("namespace")
    body: dict[str, Any] = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{regarding['name'][:200]}.{suffix}", "namespace": namespace or EVENT_NAMESPACE},
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": controller,
        "reportingInstance": instance[:128] or controller,
        "action": action,
        "reason": reason[:128],
        "note": bounded(note, NOTE_BYTES),
        "type": kind,
        "regarding": dict(regarding),
    }
    if related is not None and related.get("namespace") in (None, namespace):
        body["related"] = dict(related)
    return body
