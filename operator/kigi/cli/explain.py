"""Why an object is not Ready: its reason with cause and remedy, and the same for the objects that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT, IMAGE, NODE_CACHE, PREFETCH, SYSTEM
from kigi.cli.api_trees import states_named_by
from kigi.cli.causes import MACHINE_CAUSES, cause_of, machine_cause

Key = tuple[str, str]
"""(kind, name)."""
Body = Mapping[str, Any]
Bodies = Mapping[Key, Body]
"""The objects of one namespace, and the NodeCaches of the cluster."""
Entry = dict[str, Any]
"""One explained object, as ``kigi why -o json`` prints it; ``because``: entries of what it depends on."""
NOT_SEEN = {"status": "Unknown", "reason": "NotSeenYet", "message": ""}


def explain(bodies: Bodies, keys: Iterable[Key]) -> list[Entry]:
    """One entry for each object of ``keys`` that is not Ready."""
    return [found for key in keys if (found := _explain(bodies, key, ())) is not None]


def _explain(bodies: Bodies, key: Key, path: tuple[Key, ...]) -> Entry | None:
    """None if the object is Ready. ``path``: the objects that depend on this one; a cycle ends at its first object."""
    body = bodies[key]
    ready = _ready_condition(key[0], body)
    if ready["status"] == "True":
        return None
    stalled = _conditions(body).get("Stalled", {}).get("status") == "True"
    entry = _entry(f"{key[0]}/{key[1]}", ready["reason"], ready.get("message"), stalled=stalled)
    entry["because"] = list(_because(bodies, key, ready["reason"], (*path, key)))
    return entry


def _because(bodies: Bodies, key: Key, reason: str, path: tuple[Key, ...]) -> Iterator[Entry]:
    for found in _DEPENDENCIES[key[0]](bodies[key], reason):
        if isinstance(found, dict):
            yield found
        elif found in bodies and found not in path and (entry := _explain(bodies, found, path)) is not None:
            yield entry


def _conditions(body: Body) -> dict[str, Body]:
    return {condition["type"]: condition for condition in _status(body).get("conditions") or ()}


def _status(body: Body) -> Body:
    return body.get("status") or {}


def _ready_condition(kind: str, body: Body) -> Body:
    """``Ready``, or a condition NotSeenYet if the operator has not reported on the newest spec."""
    ready = _conditions(body).get("Ready")
    if ready is None:
        return NOT_SEEN
    generation = body["metadata"].get("generation", 0)
    if _status(body).get("observedGeneration", -1) < generation and kind != NODE_CACHE.kind:
        return {**NOT_SEEN, "message": "the operator has not processed its last change yet"}
    return ready


# What an object of each kind depends on: keys of other objects, and entries for its own parts.

Dependencies = Iterator[Key | Entry]


def _of_deployment(body: Body, reason: str) -> Dependencies:
    for name in sorted(states_named_by(body.get("spec") or {})):
        yield SYSTEM.kind, name
    machines = [
        (instance["instance"], machine)
        for instance in _status(body).get("instances") or ()
        for machine in instance.get("machines") or ()
    ]
    if reason not in ("Deployed", "Deleting"):
        for node in sorted({machine["node"] for _, machine in machines if machine.get("node")}):
            yield NODE_CACHE.kind, node
    for instance, machine in machines:
        if machine.get("message") or machine["state"] in MACHINE_CAUSES:
            yield _machine_entry(instance, machine)


def _of_capture(body: Body, reason: str) -> Dependencies:
    if reason in ("NotSettled", "DeploymentMissing"):
        yield DEPLOYMENT.kind, body["spec"]["deployment"]["name"]
    waiting = [disk for disk in _status(body).get("disks") or () if disk.get("reason")]
    for disk in waiting:
        yield _entry(f"disk {disk['name']} on node {disk['node']}", disk["reason"], disk.get("message"))
    for node in sorted({disk["node"] for disk in waiting}):
        yield NODE_CACHE.kind, node


def _of_prefetch(body: Body, reason: str) -> Dependencies:
    for ref in body["spec"]["systems"]:
        yield SYSTEM.kind, ref["name"]
    for node in _status(body).get("nodes") or ():
        if node["state"] in ("Refused", "Away"):
            yield NODE_CACHE.kind, node["name"]


def _of_system(body: Body, reason: str) -> Dependencies:
    spec = body.get("spec") or {}
    yield from _parent(SYSTEM.kind, spec)
    for machine in spec.get("machines") or ():
        if (machine.get("image") or {}).get("name"):
            yield IMAGE.kind, machine["image"]["name"]


def _of_image(body: Body, reason: str) -> Dependencies:
    yield from _parent(IMAGE.kind, body.get("spec") or {})


def _of_node_cache(body: Body, reason: str) -> Dependencies:
    for layer in _status(body).get("layers") or ():
        if layer.get("state") == "Refused":
            yield _layer_entry(layer)


def _parent(kind: str, spec: Body) -> Iterator[Key]:
    name = (spec.get("parent") or {}).get("name")
    if name:
        yield kind, name


_DEPENDENCIES: dict[str, Callable[[Body, str], Dependencies]] = {
    DEPLOYMENT.kind: _of_deployment,
    CAPTURE.kind: _of_capture,
    PREFETCH.kind: _of_prefetch,
    SYSTEM.kind: _of_system,
    IMAGE.kind: _of_image,
    NODE_CACHE.kind: _of_node_cache,
}
"""Kind -> function of (object, reason of its Ready condition)."""


# Entries.


def _entry(what: str, reason: str, message: str | None, *, stalled: bool = False) -> Entry:
    cause = cause_of(reason)
    return {
        "object": what,
        "reason": reason,
        "stalled": stalled,
        "message": message or "",
        "cause": cause.cause,
        "remedy": cause.remedy,
        "because": [],
    }


def _machine_entry(instance: int, machine: Body) -> Entry:
    cause = machine_cause(machine["state"])
    entry = _entry(f"machine {machine['name']} of instance {instance}", machine["state"], machine.get("message"))
    return {**entry, "cause": cause.cause, "remedy": cause.remedy}


def _layer_entry(layer: Body) -> Entry:
    cause = cause_of(layer.get("reason") or "Error")
    entry = _entry(f"layer {layer['digest'][:19]}", layer.get("reason") or "Refused", layer.get("message"))
    return {**entry, "stalled": bool(cause.remedy), "cause": cause.cause, "remedy": cause.remedy}
