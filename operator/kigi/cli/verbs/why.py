"""``kigi why``: what keeps an object from being Ready, followed to where it comes from, with the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import (
    BY_KIND,
    CAPTURE,
    DEPLOYMENT,
    IMAGE,
    NODE_CACHE,
    PREFETCH,
    SYSTEM,
    Resource,
)
from kigi.cli.api_trees import states_of
from kigi.cli.causes import CAUSES, Cause, cause_of
from kigi.cli.cluster import Access, listed, open_cluster
from kigi.cli.output import Format, show
from kigi.errors import Forbidden, SpecInvalid

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

KINDS = (DEPLOYMENT, CAPTURE, PREFETCH, SYSTEM, IMAGE, NODE_CACHE)
Key = tuple[str, str]
"""(kind, name)."""
Bodies = dict[Key, dict[str, Any]]
"""The objects, of one namespace; NodeCaches of the cluster."""


def run_why(access: Access, subject: str | None, form: Format) -> int:
    """Prints; the exit code is 1 if something is not Ready. Raises KigiError.

    A reason as subject (of an event, a log, an error) is explained without a cluster: no object is named so.
    """
    if subject in CAUSES:
        known = {"reason": subject, **CAUSES[subject]._asdict()}
        show(known, lambda: _known_reason(known), form)
        return 0
    data = _read(access, subject)
    show(data, lambda: _render(data, subject), form)
    return 1 if data else 0


def _read(access: Access, subject: str | None) -> list[dict[str, Any]]:
    namespace = access.default_namespace()
    bodies: Bodies = {}
    with open_cluster(access) as kube:
        for resource in KINDS:
            try:
                for body in listed(kube, resource, namespace):
                    bodies[resource.kind, body["metadata"]["name"]] = body
            except Forbidden:
                if resource is not NODE_CACHE:
                    raise
    return explain(bodies, chosen(bodies, subject))


def chosen(bodies: Bodies, subject: str | None) -> list[Key]:
    """The objects that are asked about: one by ``name`` (a deployment) or ``kind/name``, or all."""
    if subject is None:
        return sorted(bodies)
    kind, slash, name = subject.partition("/")
    if not slash:
        kind, name = DEPLOYMENT.kind, subject
    resource = _resource(kind)
    if (resource.kind, name) not in bodies:
        raise SpecInvalid(f"there is no {resource.kind} {name}")
    return [(resource.kind, name)]


def _resource(word: str) -> Resource:
    short = {"ksd": DEPLOYMENT, "kcap": CAPTURE, "kpre": PREFETCH, "ksys": SYSTEM, "kimg": IMAGE, "knc": NODE_CACHE}
    for resource in KINDS:
        if word.lower() in (resource.kind.lower(), resource.plural, resource.plural.removesuffix("s")):
            return resource
    if word in short:
        return short[word]
    raise SpecInvalid(f"{word!r} is none of Kigi's kinds: {', '.join(r.plural for r in KINDS)}")


def explain(bodies: Bodies, keys: Iterable[Key]) -> list[dict[str, Any]]:
    """For each object that is not Ready: its reason, cause, remedy, and what it comes from below it."""
    return [found for key in keys if (found := _explain(bodies, key)) is not None]


def _explain(bodies: Bodies, key: Key, above: tuple[Key, ...] = ()) -> dict[str, Any] | None:
    """``above``: the objects that wait for this one; a circle of parents ends where it began."""
    body = bodies[key]
    status = body.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    generation = body["metadata"].get("generation", 0)
    ready = conditions.get("Ready")
    if ready is None:
        ready = {"status": "Unknown", "reason": "NotSeenYet", "message": ""}
    elif status.get("observedGeneration", -1) < generation and key[0] != NODE_CACHE.kind:
        ready = {"status": "Unknown", "reason": "NotSeenYet", "message": "its last change has not been looked at"}
    if ready["status"] == "True":
        return None
    cause = cause_of(ready["reason"])
    return {
        "object": f"{key[0]}/{key[1]}",
        "reason": ready["reason"],
        "stalled": conditions.get("Stalled", {}).get("status") == "True",
        "message": ready.get("message", ""),
        "cause": cause.cause,
        "remedy": cause.remedy,
        "because": [*_below(bodies, key, ready["reason"], (*above, key))],
    }


def _below(bodies: Bodies, key: Key, reason: str, above: tuple[Key, ...]) -> Iterator[dict[str, Any]]:
    """What the object waits for: images, states and caches that are not Ready themselves, and machines in trouble."""
    body = bodies[key]
    spec, status = body.get("spec") or {}, body.get("status") or {}
    if key[0] == DEPLOYMENT.kind:
        for name in sorted(states_of(spec)):
            yield from _known(bodies, above, (SYSTEM.kind, name))
        nodes = {m["node"] for i in status.get("instances") or () for m in i.get("machines") or () if m.get("node")}
        if reason not in ("Deployed", "Deleting"):
            for node in sorted(nodes):
                yield from _known(bodies, above, (NODE_CACHE.kind, node))
        for instance in status.get("instances") or ():
            for machine in instance.get("machines") or ():
                if machine.get("message") or machine["state"] in _MACHINE_CAUSES:
                    yield _machine(instance["instance"], machine)
    elif key[0] == CAPTURE.kind:
        if reason in ("NotSettled", "DeploymentMissing"):
            yield from _known(bodies, above, (DEPLOYMENT.kind, spec["deployment"]["name"]))
        waiting = [disk for disk in status.get("disks") or () if disk.get("reason")]
        yield from (_disk(disk) for disk in waiting)
        for node in sorted({disk["node"] for disk in waiting}):
            yield from _known(bodies, above, (NODE_CACHE.kind, node))
    elif key[0] == PREFETCH.kind:
        for ref in spec["systems"]:
            yield from _known(bodies, above, (SYSTEM.kind, ref["name"]))
        for node in status.get("nodes") or ():
            if node["state"] in ("Refused", "Away"):
                yield from _known(bodies, above, (NODE_CACHE.kind, node["name"]))
    elif key[0] in (SYSTEM.kind, IMAGE.kind):
        if (spec.get("parent") or {}).get("name"):
            yield from _known(bodies, above, (key[0], spec["parent"]["name"]))
        for machine in spec.get("machines") or ():
            if (machine.get("image") or {}).get("name"):
                yield from _known(bodies, above, (IMAGE.kind, machine["image"]["name"]))
    elif key[0] == NODE_CACHE.kind:
        for layer in status.get("layers") or ():
            if layer.get("state") == "Refused":
                yield _layer(layer)


def _known(bodies: Bodies, above: tuple[Key, ...], key: Key) -> Iterator[dict[str, Any]]:
    if key in bodies and key not in above and (found := _explain(bodies, key, above)) is not None:
        yield found


_STARTING = Cause("the VM is on its way", "if this stays: kubectl describe vmi, and the guest's console")
_MACHINE_CAUSES = {
    "Failed": Cause("KubeVirt cannot start the VM", "mend what the message says; then it goes on by itself"),
    "CrashLooping": Cause("the VM ends again and again", "kigi console: see how its guest ends; kigi reset mends it"),
    "Unschedulable": Cause("no node takes the VM's pod", "uncordon its node or make room there"),
    "Paused": Cause("somebody paused the VM", "virtctl unpause vmi, when they are done"),
    "PoweredOff": Cause("its guest powered itself off", "start, reset or switch it; or runStrategy: Always"),
}
"""State of a machine that does not run by itself -> cause and remedy."""


def _machine(instance: int, machine: dict[str, Any]) -> dict[str, Any]:
    known = _MACHINE_CAUSES.get(machine["state"]) or (
        _STARTING if machine["state"] == "Starting" else Cause(f"the VM is {machine['state']}")
    )
    return {
        "object": f"machine {machine['name']} of instance {instance}",
        "reason": machine["state"],
        "stalled": False,
        "message": machine.get("message") or "",
        "cause": known.cause,
        "remedy": known.remedy,
        "because": [],
    }


def _disk(disk: dict[str, Any]) -> dict[str, Any]:
    """A disk of a capture, and what it waits for on its node."""
    cause = cause_of(disk["reason"])
    return {
        "object": f"disk {disk['name']} on node {disk['node']}",
        "reason": disk["reason"],
        "stalled": False,
        "message": disk.get("message") or "",
        "cause": cause.cause,
        "remedy": cause.remedy,
        "because": [],
    }


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    cause = cause_of(layer.get("reason") or "Error")
    return {
        "object": f"layer {layer['digest'][:19]}",
        "reason": layer.get("reason") or "Refused",
        "stalled": bool(cause.remedy),
        "message": layer.get("message") or "",
        "cause": cause.cause,
        "remedy": cause.remedy,
        "because": [],
    }


def _render(data: list[dict[str, Any]], subject: str | None) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    if not data:
        return Text(f"{subject} is ready" if subject else "everything is ready")
    return Group(*(line for entry in data for line in (*_lines(entry, 0), Text())))


def _known_reason(known: dict[str, str]) -> RenderableType:
    from rich.text import Text

    return Text.assemble((known["reason"], "bold"), f": {known['cause']}\n  ", (known["remedy"] or NOTHING, "green"))


NOTHING = "nothing to do: it goes on by itself"


def _lines(entry: dict[str, Any], depth: int) -> Iterator[Text]:
    """Made of pieces, not of markup: messages have brackets."""
    from rich.text import Text

    pad = "  " * depth
    colour = "red" if entry["stalled"] else "yellow"
    yield Text.assemble(pad, (entry["object"], "bold"), "  ", (entry["reason"], colour), f": {entry['cause']}")
    if entry["message"]:
        yield Text(f"{pad}  {entry['message']}")
    yield Text(f"{pad}  {entry['remedy'] or NOTHING}", "green")
    for below in entry["because"]:
        yield from _lines(below, depth + 1)


assert all(resource.kind in BY_KIND for resource in KINDS)
