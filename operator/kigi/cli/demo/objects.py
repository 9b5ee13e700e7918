"""The Kubernetes objects of a run: its namespace, both trees, the deployment, and an instance beside the first."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from kigi.cli.demo.disks import DemoLayer
from kigi.cli.demo.exercise import State, system_states
from kigi.domain import kinds, names
from kigi.publishing.image_node import image_object
from kigi.publishing.publish import Published

LABEL = f"{names.GROUP}/demo"
"""On a namespace of ``kigi demo``, with the name of the run; ``--clean`` deletes only namespaces with it."""
ANNOTATION_REPOSITORY = f"{names.GROUP}/demo-repository"
"""On the same namespace: the LayerRepository of ``--repository``, from which ``--clean`` deletes the layers."""
DEPLOYMENT_NAME = "exercise"
ARCHITECTURE = "amd64"
"""Of the guests' program."""
MEMORY = "32Mi"
SECOND = ("mail1", "desktop1")
"""Machines of the second instance that are started; the others are deployed switched off."""
_LETTERS = "bcdfghjkmnpqrstvwxz23456789"


def new_run() -> str:
    """A random name of a run: 6 letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


def namespace_name(run: str) -> str:
    """Name of the run's namespace."""
    return f"kigi-demo-{run}"


def namespace_object(run: str, labels: Mapping[str, str], repository: str | None = None) -> dict[str, Any]:
    """The run's namespace.

    ``labels``: further labels, by which a LayerRepository may select it; ``repository``: that of ``--repository``.
    """
    metadata: dict[str, Any] = {"name": namespace_name(run), "labels": {**labels, LABEL: run}}
    if repository is not None:
        metadata["annotations"] = {ANNOTATION_REPOSITORY: repository}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def image_objects(layers: Mapping[str, DemoLayer], repository: str | None) -> list[dict[str, Any]]:
    """A VMImageNode for each layer, parents first."""
    return [
        image_object(
            name,
            Published(made.layer, sent=True),
            made.branch.parent,
            guest={"architecture": ARCHITECTURE, "firmware": "BIOS"} if made.branch.parent is None else None,
            repository=repository,
        )
        for name, made in layers.items()
    ]


def system_objects() -> list[dict[str, Any]]:
    """A SystemNode for each state, parents first. Only the root has hardware; its children inherit it."""
    return [_system_object(state) for state in system_states()]


def _system_object(state: State) -> dict[str, Any]:
    machines: list[dict[str, Any]] = []
    for machine, image in state.images.items():
        entry: dict[str, Any] = {"name": machine, "rootDisk": {"imageRef": {"name": image}}}
        if state.parent is None:
            entry["hardware"] = {"cpu": {"cores": 1}, "memory": {"guest": MEMORY}}
        machines.append(entry)
    spec: dict[str, Any] = {"description": state.description, "machines": machines}
    if state.parent is not None:
        spec["parentRef"] = {"name": state.parent}
    return _object(kinds.SYSTEM, state.name, spec)


def deployment_object(state: str, replicas: int) -> dict[str, Any]:
    """The deployment in this state."""
    return _object(kinds.DEPLOYMENT, DEPLOYMENT_NAME, {"systemRef": {"name": state}, "replicas": replicas})


def second_instance() -> dict[str, Any]:
    """The second instance, with two of its machines on."""
    machines = [{"name": machine, "powerState": "On"} for machine in SECOND]
    spec = {"deploymentRef": {"name": DEPLOYMENT_NAME}, "name": "2", "powerState": "Off", "machines": machines}
    return _object(kinds.INSTANCE, f"{DEPLOYMENT_NAME}-2", spec)


def reset_object(namespace: str, user: str) -> dict[str, Any]:
    """A request for fresh disks of all machines."""
    body = _object(kinds.RESET, "", {"deploymentRef": {"name": DEPLOYMENT_NAME}, "requestedBy": user})
    return {**body, "metadata": {"generateName": f"{DEPLOYMENT_NAME}-", "namespace": namespace}}


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
