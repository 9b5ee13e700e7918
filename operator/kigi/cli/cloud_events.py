"""CloudEvents of a namespace: switches, resets, captures and readiness, from the objects as they change. Pure.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, in the structured mode of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kigi.adapters.kubernetes.resources import CAPTURE, DEPLOYMENT, INSTANCE, RESET
from kigi.cli.choice import Choice
from kigi.cli.live import Changed, Event, Interrupted, Listed
from kigi.cli.verbs.history import entries_of
from kigi.domain.names import API_VERSION

CloudEvent = dict[str, Any]
WATCHED = (DEPLOYMENT, INSTANCE, CAPTURE, RESET)
PREFIX = "dev.kigi"
_WORD = {INSTANCE.kind: "instance", CAPTURE.kind: "capture", DEPLOYMENT.kind: "deployment", RESET.kind: "reset"}


@dataclass(slots=True)
class Observer:
    """What was seen of each object, so that a change is one event, also if a list repeats it."""

    deployment: str | None = None
    """Events of this deployment alone; None: of all."""
    _seen: dict[str, set[str]] = field(default_factory=dict)
    """Uid -> ids of the events that its present state stands for."""
    _started: set[str] = field(default_factory=set)
    """Kinds that were listed: what is new after that is an event."""

    def take(self, event: Event) -> list[CloudEvent]:
        """The CloudEvents that the event stands for, in order; none for what existed before the first list."""
        match event:
            case Interrupted():
                return []
            case Listed(kind=kind, bodies=bodies):
                is_first = kind not in self._started
                found = [made for body in bodies for made in self._new(kind, body)]
                self._started.add(kind)
                return [] if is_first else found
            case Changed(kind=kind, body=body, is_gone=True):
                self._seen.pop(body["metadata"]["uid"], None)
                return []
            case Changed(kind=kind, body=body):
                return list(self._new(kind, body))

    def _new(self, kind: str, body: Mapping[str, Any]) -> Iterator[CloudEvent]:
        if self.deployment not in (None, _deployment_of(kind, body)):
            return
        before = self._seen.get(body["metadata"]["uid"], set())
        made = {str(each["id"]): each for each in _standing(kind, body)}
        self._seen[body["metadata"]["uid"]] = set(made)
        yield from (each for key, each in made.items() if key not in before)


def _deployment_of(kind: str, body: Mapping[str, Any]) -> str:
    if kind == DEPLOYMENT.kind:
        return str(body["metadata"]["name"])
    if kind == CAPTURE.kind:
        return str(body["spec"]["instanceRef"]["name"]).rpartition("-")[0]
    return str(body["spec"]["deploymentRef"]["name"])


def _standing(kind: str, body: Mapping[str, Any]) -> Iterator[CloudEvent]:
    """Every event that the object's status stands for: its decisions, and its last change of readiness."""
    if kind == INSTANCE.kind:
        for entry in entries_of([body], Choice(), {}):
            key = f"{entry['time']}/{entry['action']}/{entry['request'] or ''}/{entry['toSystem']}"
            yield _event(kind, body, str(entry["action"]).lower(), str(entry["time"]), key, entry)
    conditions = {each["type"]: each for each in (body.get("status") or {}).get("conditions") or ()}
    ready, stalled = conditions.get("Ready"), conditions.get("Stalled", {})
    if ready is None:
        return
    word = "ready" if ready["status"] == "True" else "stalled" if stalled.get("status") == "True" else "notready"
    data = {"reason": ready["reason"], "message": ready.get("message", "")}
    moment = str((stalled if word == "stalled" else ready)["lastTransitionTime"])
    yield _event(kind, body, word, moment, f"{moment}/{word}", data)


def _event(kind: str, body: Mapping[str, Any], word: str, moment: str, key: str, data: Mapping[str, Any]) -> CloudEvent:
    meta = body["metadata"]
    return {
        "specversion": "1.0",
        "id": f"{meta['uid']}/{key}",
        "source": f"/apis/{API_VERSION}/namespaces/{meta['namespace']}",
        "type": f"{PREFIX}.{_WORD[kind]}.{word}",
        "subject": f"{kind}/{meta['name']}",
        "time": moment,
        "datacontenttype": "application/json",
        "data": {
            "namespace": meta["namespace"],
            "name": meta["name"],
            "deployment": _deployment_of(kind, body),
            **data,
        },
    }
