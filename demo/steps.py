"""The steps of the demo: deploy, switch twice, reset, add an instance. Each is applied, measured and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from demo.console import read_guest
from demo.targets import DemoFailed, Target
from kigi.cli.demo.costs import Ledger, Step
from scenario import kubernetes
from scenario.manifest import Manifest
from scenario.tree import resolved_images

NAME = "exercise"
READY_S = 1800
_NODE = "kigi-1"
"""The only node."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PublishedExercise:
    """An exercise whose images are published, its namespace, and the machines to run. All ten are always deployed."""

    variant: str
    manifest: Manifest
    namespace: str
    layer_bytes: Mapping[str, int]
    digests: Mapping[str, str]
    """Image -> digest of its layer."""
    running: Sequence[str]
    """Machines of the first instance to start; the others are deployed switched off, with their layers cached."""
    second_running: Sequence[str]
    """Machines of the second instance to start."""

    @property
    def machines(self) -> tuple[Sequence[str], Sequence[str]]:
        """Machines to start in each instance."""
        return self.running, self.second_running


def run_steps(target: Target, published: PublishedExercise, progress: Progress, done: Callable[[Step], None]) -> None:
    """Run all steps in order and pass each measured step to ``done``. Raises DemoFailed if a check fails.

    A step fails if the bytes that it moved are not exactly the minimum.
    """
    first, second, third = (system.name for system in published.manifest.systems)
    target.kubectl("delete", "systemdeployment", "--all", "-n", published.namespace, "--timeout=600s")
    held = held_layers(target)
    ledger = _ledger(published, [image for image, digest in published.digests.items() if digest in held])
    target.apply(*kubernetes.system_nodes(published.manifest, published.namespace))
    steps: list[tuple[str, str, dict[str, Any], int]] = [
        (f"deploy {first}", first, {}, 1),
        (f"switch to {second}", second, {}, 1),
        (f"switch to {third}", third, {}, 1),
        ("reset", third, {"resetToken": "again"}, 1),
        ("second instance", third, {"resetToken": "again", "replicas": 2}, 2),
    ]
    for name, state, changes, replicas in steps:
        progress(f"{published.variant}: {name}")
        step = _step(target, published, ledger, name, state, changes, replicas)
        if step.moved_bytes != step.minimum_bytes:
            raise DemoFailed(f"{name}: {step.moved_bytes} bytes moved, but the minimum is {step.minimum_bytes}")
        done(step)


def _ledger(published: PublishedExercise, cached: Sequence[str]) -> Ledger:
    """``cached``: images whose layers the node has."""
    images = published.manifest.images
    return Ledger(
        {image.name: [layer.name for layer in published.manifest.chain(image.name)] for image in images},
        published.layer_bytes,
        {image.name: image.flat_size_bytes for image in images},
        [(_NODE, image) for image in cached],
    )


def _step(
    target: Target,
    published: PublishedExercise,
    ledger: Ledger,
    name: str,
    state: str,
    changes: dict[str, Any],
    replicas: int,
) -> Step:
    before = fetched_bytes(target)
    started = time.monotonic()
    deployment = kubernetes.system_deployment(NAME, state, published.namespace, powerState="Off", **changes)
    target.apply(*_instances(published, replicas), deployment)
    status = wait_ready(target, published.namespace, NAME)
    guests_s = _check_guests(target, published, state, replicas, started)
    minimum, full, image_cache = ledger.book([(_NODE, image) for image in resolved_images(state).values()])
    times = status.get("lastChange", {})
    return Step(
        variant=published.variant,
        name=name,
        moved_bytes=fetched_bytes(target) - before,
        minimum_bytes=minimum,
        full_bytes=full,
        image_cache_bytes=image_cache,
        seconds={
            "placed": _seconds(times.get("placedMilliseconds")),
            "cached": _seconds(times.get("cachedMilliseconds")),
            "machines": _seconds(times.get("machinesCreatedMilliseconds")),
            "ready": _seconds(times.get("readyMilliseconds")),
            "guests": guests_s,
        },
    )


def fetched_bytes(target: Target) -> int:
    """Bytes that all daemons have fetched since their caches were created, as their NodeCaches report."""
    caches = target.get("nodecaches")["items"]
    return sum(cache.get("status", {}).get("fetchedBytesTotal", 0) for cache in caches)


def held_layers(target: Target) -> set[str]:
    """Digests of the layers in the nodes' caches; empty on a fresh cluster."""
    caches = target.get("nodecaches")["items"]
    layers = (layer for cache in caches for layer in cache.get("status", {}).get("layers", []))
    return {layer["digest"] for layer in layers if layer["state"] == "Held"}


def wait_ready(target: Target, namespace: str, name: str, timeout_s: float = READY_S) -> dict[str, Any]:
    """Wait until the deployment is Ready in its current generation, and return its status.

    Raises DemoFailed with the condition's message, after ``timeout_s`` or when the deployment is Stalled.
    """
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


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _wanted(published: PublishedExercise, replicas: int) -> dict[str, Sequence[str]]:
    """Instance -> machines that run in it."""
    return {str(number): machines for number, machines in enumerate(published.machines[:replicas], start=1)}


def _instances(published: PublishedExercise, replicas: int) -> list[dict[str, Any]]:
    """SystemInstances that start only these machines of a deployment that is off."""
    return [
        kubernetes.system_instance(name, NAME, published.namespace, machines=kubernetes.machines_on(machines))
        for name, machines in _wanted(published, replicas).items()
        if machines
    ]


def _check_guests(target: Target, published: PublishedExercise, state: str, replicas: int, started: float) -> float:
    """Wait for the reports of all running guests; returns the seconds since ``started``.

    Raises DemoFailed if a guest reports another machine or state than expected.
    """
    expected = {
        f"{NAME}-{instance}-{machine}": published.manifest.guests[state][machine]
        for instance, machines in _wanted(published, replicas).items()
        for machine in machines
    }
    with ThreadPoolExecutor(4) as pool:
        reports = dict(
            zip(expected, pool.map(lambda vm: read_guest(target, published.namespace, vm), expected), strict=True)
        )
    for vm, guest in expected.items():
        machine = vm.split("-", 2)[2]
        if (reports[vm].get("machine"), reports[vm].get("state")) != (machine, guest.state):
            raise DemoFailed(f"{vm} reports {reports[vm]} instead of machine={machine} state={guest.state}")
    return time.monotonic() - started
