"""The JSON of ``kigi plan``, and of what destructive verbs show before they ask; see ``shapes``."""

from __future__ import annotations

from typing import Annotated, NotRequired

from typing_extensions import TypedDict


class PlannedNode(TypedDict):
    """One node of ``kigi plan``."""

    name: Annotated[str, "Node."]
    machines: Annotated[int, "Machines that run there."]
    missingLayers: Annotated[int, "Layers that it lacks."]
    missingBytes: Annotated[int, "Their size."]
    prefetchBytes: Annotated[int, "Size of the layers that it fetches in advance."]
    freeAfterBytes: Annotated[int, "Free space of its cache afterwards; negative: they do not fit."]


class PlannedMachine(TypedDict):
    """One machine of ``kigi plan``."""

    instance: Annotated[str, "Name of the instance."]
    name: Annotated[str, "Machine of the state."]
    node: Annotated[str | None, "Node of its disks."]
    system: NotRequired[Annotated[str, "State that it runs."]]
    action: Annotated[str, "What happens to it, such as keep, create, restart on a fresh disk."]
    missingLayers: Annotated[int, "Layers that its node lacks."]
    missingBytes: Annotated[int, "Their size."]


class PreviewMachine(TypedDict):
    """One machine that a destructive verb would change."""

    instance: Annotated[str, "Name of the instance."]
    name: Annotated[str, "Machine of the state."]
    node: Annotated[str | None, "Node of its disks."]
    system: NotRequired[Annotated[str, "State that it runs afterwards."]]
    action: Annotated[str, "What happens to it, such as restart on a fresh disk, stop."]
    missingLayers: Annotated[int | None, "Layers that its node lacks; null: the caller may not see that."]
    missingBytes: Annotated[int | None, "Their size; null: the caller may not see that."]
    lostBytes: Annotated[int | None, "Bytes that its guest wrote and loses, as last reported; null: not reported."]


class Preview(TypedDict):
    """``kigi reset``, ``switch`` and ``stop`` with ``--dry-run``: what they would do."""

    namespace: Annotated[str, "Namespace."]
    deployment: Annotated[str, "SystemDeployment."]
    instances: Annotated[list[str], "Instances with machines that change."]
    machines: Annotated[list[PreviewMachine], "Machines that change."]
    nodes: Annotated[list[PlannedNode], "Nodes of these machines; empty if the caller may not see the plan."]
    missingBytes: Annotated[int | None, "Bytes that move, over all nodes; null: the caller may not see the plan."]
    lostBytes: Annotated[int | None, "Bytes that are lost; null: of some machine they are not reported."]
    notes: Annotated[list[str], "What a person should know."]


class ChangePlan(TypedDict):
    """``kigi plan``: one entry per SystemDeployment or SystemPrefetch."""

    namespace: Annotated[str, "Namespace."]
    name: Annotated[str, "Object."]
    system: Annotated[str, "State, or for a prefetch the names of what it fetches."]
    problem: Annotated[str | None, "Why a part of it cannot be placed; null: nothing."]
    totalBytes: Annotated[int, "Size of all layers of all machines."]
    missingBytes: Annotated[int, "Size of those that nodes lack."]
    savedRatio: Annotated[float, "Part of the bytes that does not move, 0 to 1."]
    nodes: Annotated[list[PlannedNode], "Nodes that are used."]
    machines: Annotated[list[PlannedMachine], "Machines; empty for a prefetch."]
