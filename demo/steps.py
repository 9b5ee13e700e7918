"""The story: deploy, switch twice, reset, add an instance; each step applied as a user would, measured and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from demo.console import read_guest
from demo.costs import Ledger, Step
from demo.targets import DemoFailed, Target
from scenario import kubernetes
from scenario.manifest import Manifest

NAME = "exercise"
READY_S = 1800
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One exercise: its build, its namespace, and the machines that run. All ten are deployed in any case."""

    variant: str
    manifest: Manifest
    namespace: str
    layer_bytes: Mapping[str, int]
    digests: Mapping[str, str]
    """Image -> digest of its layer."""
    running: Sequence[str]
    """Machines of the first instance that are on; the others are deployed all the same, their caches warm."""
    second_running: Sequence[str]
    """The same for the second instance."""


def play(target: Target, chapter: Chapter, say: Say, done: Callable[[Step], None]) -> None:
    """All steps of a chapter in order; ``done`` gets each when it is measured. Raises DemoFailed."""
    first, second, third = (system.name for system in chapter.manifest.systems)
    target.kubectl("delete", "systemdeployment", "--all", "-n", chapter.namespace, "--timeout=600s")
    held = held_layers(target)
    here = [image for image, digest in chapter.digests.items() if digest in held]
    ledger = Ledger(chapter.manifest, chapter.layer_bytes, here)
    target.apply(*kubernetes.system_nodes(chapter.manifest, chapter.namespace))
    story: list[tuple[str, str, dict[str, Any], int]] = [
        (f"deploy {first}", first, {}, 1),
        (f"switch to {second}", second, {}, 1),
        (f"switch to {third}", third, {}, 1),
        ("reset", third, {"reset": "again"}, 1),
        ("second instance", third, {"reset": "again", "replicas": 2}, 2),
    ]
    for name, state, changes, replicas in story:
        say(f"{chapter.variant}: {name}")
        step = _step(target, chapter, ledger, name, state, changes, replicas)
        if step.moved_bytes != step.minimum_bytes:
            raise DemoFailed(f"{name}: {step.moved_bytes} bytes moved, {step.minimum_bytes} were needed")
        done(step)


def _step(
    target: Target, chapter: Chapter, ledger: Ledger, name: str, state: str, changes: dict[str, Any], replicas: int
) -> Step:
    before = fetched_bytes(target)
    started = time.monotonic()
    wish = kubernetes.system_deployment(NAME, state, chapter.namespace, **changes, **_running(chapter, replicas))
    target.apply(wish)
    status = wait_ready(target, chapter.namespace, NAME)
    guests_s = _check_guests(target, chapter, state, replicas, started)
    minimum, full, image_cache = ledger.book(state)
    timings = status.get("timings", {})
    return Step(
        variant=chapter.variant,
        name=name,
        moved_bytes=fetched_bytes(target) - before,
        minimum_bytes=minimum,
        full_bytes=full,
        image_cache_bytes=image_cache,
        seconds={
            "placed": timings.get("placedSeconds"),
            "cached": timings.get("cachedSeconds"),
            "machines": timings.get("machinesCreatedSeconds"),
            "ready": timings.get("readySeconds"),
            "guests": guests_s,
        },
    )


def fetched_bytes(target: Target) -> int:
    """Bytes that all daemons have fetched since they were made, as their NodeCaches report."""
    caches = target.get("nodecaches")["items"]
    return sum(cache.get("status", {}).get("fetchedBytesTotal", 0) for cache in caches)


def held_layers(target: Target) -> set[str]:
    """Digests of the layers that the nodes hold: none on a fresh cluster."""
    caches = target.get("nodecaches")["items"]
    layers = (layer for cache in caches for layer in cache.get("status", {}).get("layers", []))
    return {layer["digest"] for layer in layers if layer["state"] == "Held"}


def wait_ready(target: Target, namespace: str, name: str, timeout_s: float = READY_S) -> dict[str, Any]:
    """The status of a deployment that is Ready in its present generation. Raises DemoFailed with what it waits for."""
    deadline = time.monotonic() + timeout_s
    message = "no status"
    while time.monotonic() < deadline:
        found = target.get("systemdeployment", name, "-n", namespace)
        status: dict[str, Any] = found.get("status", {})
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        current = status.get("observedGeneration", -1) >= found["metadata"]["generation"]
        if current and conditions.get("Ready", {}).get("status") == "True":
            return status
        if current and conditions.get("Stalled", {}).get("status") == "True":
            raise DemoFailed(f"{name} is Stalled: {conditions['Stalled']['message']}")
        message = conditions.get("Ready", {}).get("message", message)
        time.sleep(0.5)
    raise DemoFailed(f"{name} is not Ready after {timeout_s:.0f} s: {message}")


def _running(chapter: Chapter, replicas: int) -> dict[str, Any]:
    """Fields of the spec that turn on just the machines of the chapter."""
    wanted = (chapter.running, chapter.second_running)[:replicas]
    overrides = [
        {"instance": instance, "machines": [{"name": machine, "running": True} for machine in machines]}
        for instance, machines in enumerate(wanted)
        if machines
    ]
    return {"running": False, "overrides": overrides}


def _check_guests(target: Target, chapter: Chapter, state: str, replicas: int, started: float) -> float:
    """Seconds until every running guest has said on its serial console that it is that machine in that state."""
    expected = {
        f"{NAME}-{instance}-{machine}": chapter.manifest.guests[state][machine]
        for instance, machines in enumerate((chapter.running, chapter.second_running)[:replicas])
        for machine in machines
    }
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda vm: read_guest(target, chapter.namespace, vm), expected)
        heard = dict(zip(expected, answers, strict=True))
    for vm, guest in expected.items():
        machine = vm.split("-", 2)[2]
        if (heard[vm].get("machine"), heard[vm].get("state")) != (machine, guest.state):
            raise DemoFailed(f"{vm} says {heard[vm]} instead of machine={machine} state={guest.state}")
    return time.monotonic() - started
