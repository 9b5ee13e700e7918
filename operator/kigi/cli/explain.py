"""Why an object is not Ready: its reason with cause and remedy, and the same for the objects that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kigi.adapters.kubernetes.resources import (
    CAPTURE,
    DEPLOYMENT,
    GRANT,
    IMAGE,
    INSTANCE,
    NODE_CACHE,
    PREFETCH,
    QUOTA,
    REPOSITORY,
    RESET,
    SYSTEM,
)
from kigi.cli.api_trees import states_named_by
from kigi.cli.causes import CAUSES, MACHINE_CAUSES, REPOSITORY_CAUSES, cause_of, machine_cause
from kigi.cli.quota_use import exceeded_by
from kigi.domain.names import instance_object
from kigi.domain.tree_names import referred

Key = tuple[str, str]
"""(kind, name)."""
Body = Mapping[str, Any]
Bodies = Mapping[Key, Body]
"""The objects of one namespace, and the cluster's NodeCaches, LayerRepositories and SystemQuotas."""
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
    if key[0] == REPOSITORY.kind and entry["reason"] in REPOSITORY_CAUSES:
        entry |= REPOSITORY_CAUSES[entry["reason"]]._asdict()
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
    if kind == REPOSITORY.kind and ready["status"] == "True":
        return _writable(body, ready)
    if kind == NODE_CACHE.kind and ready["status"] == "True":
        return _skewed(body, ready)
    if kind == QUOTA.kind and ready["status"] == "True" and exceeded_by(body):
        return {"status": "False", "reason": "QuotaExceeded", "message": ready.get("message")}
    return ready


def _writable(body: Body, ready: Body) -> Body:
    """``Writable`` of a repository that can be read and not written although it has a writer."""
    found = _conditions(body).get("Writable") or ready
    return found if found["status"] == "False" and found["reason"] in CAUSES else ready


def _skewed(body: Body, ready: Body) -> Body:
    """``VersionSkew`` of a node that has all layers, and a daemon of another version than the operator's."""
    found = _conditions(body).get("VersionSkew") or ready
    return {**found, "status": "False"} if found is not ready and found["status"] == "True" else ready


# What an object of each kind depends on: keys of other objects, and entries for its own parts.

Dependencies = Iterator[Key | Entry]


def _of_deployment(body: Body, reason: str) -> Dependencies:
    for name in sorted(states_named_by(body)):
        yield SYSTEM.kind, name
    if reason not in ("Deployed", "Deleting"):
        for instance in _status(body).get("unreadyInstances") or ():
            yield INSTANCE.kind, instance_object(body["metadata"]["name"], instance)


def _of_instance(body: Body, reason: str) -> Dependencies:
    for name in sorted(states_named_by(body)):
        yield SYSTEM.kind, name
    machines = _status(body).get("machines") or ()
    if reason not in ("Deployed", "Deleting"):
        for node in sorted({machine["nodeName"] for machine in machines if machine.get("nodeName")}):
            yield NODE_CACHE.kind, node
    for machine in machines:
        if machine.get("message") or machine["state"] in MACHINE_CAUSES:
            yield _machine_entry(body["spec"]["name"], machine)


def _of_capture(body: Body, reason: str) -> Dependencies:
    if reason in ("NotSettled", "DeploymentMissing"):
        yield INSTANCE.kind, body["spec"]["instanceRef"]["name"]
        yield DEPLOYMENT.kind, body["spec"]["instanceRef"]["name"].rpartition("-")[0]
    waiting = _status(body).get("blockedDisks") or ()
    for disk in waiting:
        yield _entry(
            f"disk {disk['machine']}/{disk['disk']} on node {disk['nodeName']}", disk["reason"], disk["message"]
        )
    for node in sorted({disk["nodeName"] for disk in waiting}):
        yield NODE_CACHE.kind, node
    if _status(body).get("repositoryName"):
        yield REPOSITORY.kind, _status(body)["repositoryName"]


def _of_reset(body: Body, reason: str) -> Dependencies:
    deployment = body["spec"]["deploymentRef"]["name"]
    yield DEPLOYMENT.kind, deployment
    for instance in sorted({machine["instance"] for machine in _status(body).get("failedMachines") or ()}):
        yield INSTANCE.kind, instance_object(deployment, instance)


def _of_prefetch(body: Body, reason: str) -> Dependencies:
    for ref in body["spec"]["targetRefs"]:
        yield ref["kind"], _referred(body, ref)
    for node in _status(body).get("unreadyNodes") or ():
        if node["state"] in ("Refused", "Away"):
            yield NODE_CACHE.kind, node["name"]


def _of_system(body: Body, reason: str) -> Dependencies:
    yield from _parent(SYSTEM.kind, body)
    for machine in (body.get("spec") or {}).get("machines") or ():
        for disk in (machine.get("rootDisk") or {}, *(machine.get("disks") or ())):
            if disk.get("imageRef"):
                yield IMAGE.kind, _referred(body, disk["imageRef"])


def _of_image(body: Body, reason: str) -> Dependencies:
    yield from _parent(IMAGE.kind, body)


def _of_grant(body: Body, reason: str) -> Dependencies:
    """What it names and does not exist has no reason of its own."""
    yield from ()


def _of_node_cache(body: Body, reason: str) -> Dependencies:
    refused = [layer for layer in _status(body).get("layers") or () if layer.get("state") == "Refused"]
    yield from map(_layer_entry, refused)
    digests = {layer["digest"] for layer in refused}
    wanted = (body.get("spec") or {}).get("layers") or ()
    for name in sorted({layer["repositoryName"] for layer in wanted if layer["digest"] in digests}):
        yield REPOSITORY.kind, name


def _of_administrator(body: Body, reason: str) -> Dependencies:
    """What administrators write depends on nothing that has a reason of its own."""
    yield from ()


def _parent(kind: str, body: Body) -> Iterator[Key]:
    ref = (body.get("spec") or {}).get("parentRef")
    if ref:
        yield kind, _referred(body, ref)


def _referred(body: Body, ref: Body) -> str:
    """Name of the object that an object of the namespace names; those of other namespaces are not explained here."""
    return referred(body["metadata"].get("namespace") or "", ref)


_DEPENDENCIES: dict[str, Callable[[Body, str], Dependencies]] = {
    DEPLOYMENT.kind: _of_deployment,
    INSTANCE.kind: _of_instance,
    CAPTURE.kind: _of_capture,
    PREFETCH.kind: _of_prefetch,
    SYSTEM.kind: _of_system,
    IMAGE.kind: _of_image,
    GRANT.kind: _of_grant,
    NODE_CACHE.kind: _of_node_cache,
    RESET.kind: _of_reset,
    REPOSITORY.kind: _of_administrator,
    QUOTA.kind: _of_administrator,
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


def _machine_entry(instance: str, machine: Body) -> Entry:
    cause = machine_cause(machine["state"])
    entry = _entry(f"machine {machine['name']} of instance {instance}", machine["state"], machine.get("message"))
    return {**entry, "cause": cause.cause, "remedy": cause.remedy}


def _layer_entry(layer: Body) -> Entry:
    cause = cause_of(layer.get("reason") or "Error")
    entry = _entry(f"layer {layer['digest'][:19]}", layer.get("reason") or "Refused", layer.get("message"))
    return {**entry, "stalled": bool(cause.remedy), "cause": cause.cause, "remedy": cause.remedy}
