"""Reduces API objects to comparable states; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from soak.model import Change, Condition, Container, ObjectState, WarningEvent

_CUT = 200
"""Maximum length of a value in a change."""
_METADATA = ("name", "namespace", "uid", "labels", "annotations", "finalizers", "deletionTimestamp", "ownerReferences")
_HEARTBEAT_KEYS = frozenset({"lastHeartbeatTime", "lastProbeTime", "renewTime", "observedGeneration"})
_HEARTBEATS: Mapping[str, frozenset[str]] = {
    # Every write on the machine changes the free bytes of the node's file system.
    "NodeCache": frozenset({"freeBytes", "writtenBytes"}),
    # What guests write, four times per doubling.
    "SystemInstance": frozenset({"writtenBytes"}),
    # virt-handler's heartbeat, and the kubelet's list of images.
    "Node": frozenset({"kubevirt.io/heartbeat", "images", "volumesInUse", "volumesAttached"}),
}
_COUNT = re.compile(r"^(apiserver_resource_objects|apiserver_storage_objects)\{([^}]*)\} ([-+.\de]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
UNCOUNTED = frozenset({"events", "events.events.k8s.io"})
"""Resources whose number changes without a cause: Events expire."""


def key(item: Mapping[str, Any]) -> str:
    """``Kind namespace/name``, or ``Kind name`` for a cluster-scoped object."""
    metadata = item["metadata"]
    namespace = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{item['kind']} {namespace}{metadata['name']}"


def state(item: Mapping[str, Any]) -> ObjectState:
    """State of an object from ``kubectl get -o json --show-managed-fields``."""
    metadata, status = item["metadata"], item.get("status") or {}
    spec = item.get("spec") or {}
    phase = status.get("phase") or status.get("printableStatus") or ""
    if item["kind"] == "Lease":
        phase = spec.get("holderIdentity") or ""
    return ObjectState(
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        phase=phase,
        conditions={one["type"]: _condition(one) for one in status.get("conditions") or ()},
        containers={one["name"]: _container(one) for one in _container_statuses(status)},
        writers=_writers(metadata.get("managedFields") or ()),
    )


def essence(item: Mapping[str, Any]) -> dict[str, Any]:
    """The object without the fields that heartbeats and writes without effect change; input of `differences`."""
    kept: dict[str, Any] = {name: value for name, value in item.items() if name != "metadata"}
    kept["metadata"] = {name: item["metadata"][name] for name in _METADATA if name in item["metadata"]}
    dropped = _HEARTBEAT_KEYS | _HEARTBEATS.get(item["kind"], frozenset())
    without: dict[str, Any] = _without(kept, dropped)
    if item["kind"] == "Lease":
        without.get("spec", {}).pop("acquireTime", None)
    return without


def differences(name: str, old: Any, new: Any, path: str = "") -> Iterable[Change]:
    """Every field in which two essences of one object differ, with the path of the smallest differing part."""
    if isinstance(old, dict) and isinstance(new, dict):
        for field in sorted(old.keys() | new.keys()):
            yield from differences(name, old.get(field), new.get(field), f"{path}.{field}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(name, before, after, f"{path}[{index}]")
    elif old != new:
        yield Change(name, path.lstrip("."), _text(old), _text(new))


def event_counts(items: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """``type reason object`` -> number of occurrences."""
    counts: dict[str, int] = {}
    for item in items:
        name = f"{item.get('type', '')} {item.get('reason', '')} {_involved(item)}"
        counts[name] = counts.get(name, 0) + _occurrences(item)
    return counts


def warning_events(items: Iterable[Mapping[str, Any]]) -> dict[str, WarningEvent]:
    """uid -> Event of type Warning."""
    return {
        item["metadata"]["uid"]: WarningEvent(
            _involved(item), item.get("reason", ""), str(item.get("message", ""))[:_CUT], _occurrences(item)
        )
        for item in items
        if item.get("type") == "Warning"
    }


def stored_objects(metrics: str) -> dict[str, int]:
    """Resource -> number of stored objects, from the text of the API server's ``/metrics``."""
    counts: dict[str, int] = {}
    for _, labels, value in _COUNT.findall(metrics):
        found = dict(_LABEL.findall(labels))
        resource, group = found.get("resource", ""), found.get("group", "")
        name = f"{resource}.{group}" if group else resource
        if name not in UNCOUNTED and float(value) >= 0:
            counts[name] = int(float(value))
    return counts


def _involved(item: Mapping[str, Any]) -> str:
    about = item.get("involvedObject") or {}
    namespace = f"{about['namespace']}/" if about.get("namespace") else ""
    return f"{about.get('kind', '')} {namespace}{about.get('name', '')}"


def _occurrences(item: Mapping[str, Any]) -> int:
    return max(int(item.get("count") or 1), int((item.get("series") or {}).get("count") or 1))


def _condition(one: Mapping[str, Any]) -> Condition:
    return Condition(
        status=str(one.get("status", "")),
        reason=one.get("reason") or "",
        message=one.get("message") or "",
        transition=one.get("lastTransitionTime") or "",
    )


def _container_statuses(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def _container(one: Mapping[str, Any]) -> Container:
    return Container(
        id=one.get("containerID") or "",
        ready=bool(one.get("ready")),
        restarts=int(one.get("restartCount") or 0),
        state=next(iter(one.get("state") or {}), ""),
    )


def _writers(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {
        "/".join(part for part in (entry.get("manager", ""), entry.get("subresource", "")) if part): entry.get(
            "time", ""
        )
        for entry in entries
    }


def _without(value: Any, dropped: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, dropped) for name, inner in value.items() if name not in dropped}
    if isinstance(value, list):
        return [_without(inner, dropped) for inner in value]
    return value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _CUT else f"{text[:_CUT]}..."
