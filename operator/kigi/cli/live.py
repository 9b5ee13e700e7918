"""Objects as they change: one list and then a watch per kind, each in a thread, into one queue."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import Resource
from kigi.errors import Expired, KigiError, Throttled, Unauthorized, Unreachable

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

RETRY_S = 2.0
"""Pause before an API server that does not answer is asked again."""
TICK_S = 1.0
"""Longest time without an event for the reader of a feed: it redraws ages and reacts to Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects of a kind, at the begin and after an interruption."""

    kind: str
    bodies: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Changed:
    """One object after a change; ``is_gone``: it was deleted."""

    kind: str
    body: Mapping[str, Any]
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The API server does not answer; what was seen may be old."""

    kind: str
    cause: KigiError


Event = Listed | Changed | Interrupted


def follow(
    kube: KubeSession, resource: Resource, namespace: str | None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Event]:
    """Every object of the kind, then each change, without end; ``namespace`` None: of all namespaces.

    Lists again after an interruption, and when the API server has forgotten where the watch was. Raises an error of
    the first list, and Forbidden at any time.
    """
    was_listed = False
    while True:
        try:
            bodies, version = kube.list_version(resource, namespace)
            yield Listed(resource.kind, bodies)
            was_listed = True
            while True:
                for event in kube.watch(resource, namespace, version=version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Changed(resource.kind, event["object"], event["type"] == "DELETED")
        except Expired:
            continue
        except (Unreachable, Throttled, Unauthorized) as exc:
            if not was_listed:
                raise
            yield Interrupted(resource.kind, exc)
            sleep(RETRY_S)


def follow_all(
    connect: Callable[[], KubeSession], resources: Sequence[Resource], namespace: str | None
) -> Iterator[Event | None]:
    """Events of several kinds in the order of their arrival; None after each second without one.

    ``connect`` opens a session for each kind. Raises what ``follow`` raises.
    """
    events: queue.Queue[Event | KigiError] = queue.Queue()

    def read(resource: Resource) -> None:
        try:
            with connect() as kube:
                for event in follow(kube, resource, namespace):
                    events.put(event)
        except KigiError as exc:
            events.put(exc)

    for resource in resources:
        # Daemons: they wait for the API server when the reader ends.
        threading.Thread(target=read, args=(resource,), daemon=True).start()
    while True:
        try:
            event = events.get(timeout=TICK_S)
        except queue.Empty:
            yield None
            continue
        if isinstance(event, KigiError):
            raise event
        yield event
