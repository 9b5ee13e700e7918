"""``--wait``: polls an object until it is Ready, and reports what a verb did even if it does not get Ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import Resource
from kigi.cli.causes import cause_of
from kigi.cli.exit_codes import NotReached
from kigi.cli.output import Format, print_message, print_result, spinner

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

POLL_S = 0.5
NOT_SEEN = "the operator has not processed it yet"


def object_reference(resource: Resource, namespace: str, name: str) -> dict[str, Any]:
    """Kind, namespace and name, as the JSON of a verb's result begins."""
    return {"kind": resource.kind, "namespace": namespace, "name": name}


@contextmanager
def report(form: Format) -> Iterator[dict[str, Any]]:
    """Prints the yielded dict as the verb's result when the context ends, also by an error; nothing if it is empty."""
    done: dict[str, Any] = {}
    try:
        yield done
    finally:
        if done:
            print_result(done, form)


@contextmanager
def report_all(form: Format) -> Iterator[list[dict[str, Any]]]:
    """As ``report`` for any number of results: one is printed as it is, several as a list."""
    done: list[dict[str, Any]] = []
    try:
        yield done
    finally:
        if done:
            print_result(done[0] if len(done) == 1 else done, form)


def wait_until_ready(
    kube: KubeSession,
    resource: Resource,
    written: Mapping[str, Any],
    wait_s: float,
    done: dict[str, Any],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Polls until the object is Ready for the generation of ``written``; ``wait_s`` 0: returns immediately.

    Keeps ``done["ready"]`` up to date. Raises NotReached if the object is Stalled or deleted, or after ``wait_s``.
    """
    if wait_s <= 0:
        return
    meta = written["metadata"]
    name, deadline, message = f"{resource.kind} {meta['namespace']}/{meta['name']}", clock() + wait_s, NOT_SEEN
    done["ready"] = False
    with spinner(message) as update:
        while True:
            body = kube.get(resource, meta["namespace"], meta["name"])
            if body is None:
                raise NotReached(f"{name} was deleted")
            ready, message = is_ready(body, meta["generation"])
            if ready:
                print_message(f"{name} is ready: {message}")
                done["ready"] = True
                return
            update(message)
            if clock() > deadline:
                raise NotReached(f"{name} is not ready after {wait_s:.0f} s: {message}")
            sleep(POLL_S)


def is_ready(body: Mapping[str, Any], generation: int) -> tuple[bool, str]:
    """Whether the object is Ready for that generation, with the condition's message; raises NotReached if Stalled."""
    status = body.get("status") or {}
    if status.get("observedGeneration", -1) < generation:
        return False, NOT_SEEN
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    ready = conditions.get("Ready", {})
    if ready.get("status") == "True":
        return True, ready.get("message", "")
    message = f"{ready.get('reason')}: {ready.get('message', '')}"
    if conditions.get("Stalled", {}).get("status") == "True":
        raise NotReached(f"{message}; {cause_of(str(ready.get('reason'))).remedy}")
    return False, message
