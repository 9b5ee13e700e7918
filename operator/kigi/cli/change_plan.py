"""The plan of SystemDeployments and SystemPrefetches that are not applied yet, by the operator's own decisions.

Pure: from a mirror of the cluster and the objects to data for ``kigi plan``. Sizes in bytes.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, PREFETCH, SYSTEM
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.systems import ResolvedSystem
from kigi.errors import KigiError, SpecInvalid
from kigi.gather.deployment import gather_deployment
from kigi.gather.prefetch import gather_prefetch
from kigi.mirror.store import Mirror
from kigi.planning.deployment import plan_deployment
from kigi.planning.placed import PlacedTarget
from kigi.planning.prefetches import plan_prefetch
from kigi.planning.view import DeploymentView
from kigi.status.deployments import deployment_status


def plan_documents(
    mirror: Mirror, documents: list[dict[str, Any]], namespace: str, now: datetime
) -> list[dict[str, Any]]:
    """The plan of each SystemDeployment and SystemPrefetch among the documents, as if all of them were applied.

    Puts the documents into ``mirror``; those without a namespace into ``namespace``. Raises KigiError.
    """
    planned: list[tuple[str, tuple[str, str]]] = []
    for document in documents:
        kind = document.get("kind")
        if kind not in (IMAGE.kind, SYSTEM.kind, DEPLOYMENT.kind, PREFETCH.kind):
            continue
        meta = document["metadata"]
        key = (meta.get("namespace") or namespace, meta["name"])
        mirror.put(kind, {**document, "metadata": _applied_metadata(mirror, kind, key, meta)})
        if kind in (DEPLOYMENT.kind, PREFETCH.kind):
            planned.append((kind, key))
    if not planned:
        raise SpecInvalid("no SystemDeployment or SystemPrefetch is among the objects")
    plans = {DEPLOYMENT.kind: _plan_deployment, PREFETCH.kind: _plan_prefetch}
    return [plans[kind](mirror, key, now) for kind, key in planned]


def _applied_metadata(mirror: Mirror, kind: str, key: tuple[str, str], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as the API server would return it for an apply: of a new object, or of the next version."""
    known = mirror.stores[kind].get(*key)
    if known is None:
        fresh = {"uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": "1", "finalizers": []}
        return {**meta, "namespace": key[0], **fresh}
    return {
        **meta,
        "namespace": key[0],
        "uid": known.meta.uid,
        "generation": known.meta.generation + 1,
        "resourceVersion": str(known.meta.version + 1),
        "finalizers": list(known.meta.finalizers),
    }


def _plan_prefetch(mirror: Mirror, key: tuple[str, str], now: datetime) -> dict[str, Any]:
    record = mirror.prefetches.get(*key)
    assert record is not None
    if isinstance(record.spec, KigiError):
        raise record.spec
    view = gather_prefetch(mirror, record, now)
    plan = plan_prefetch(view)
    if plan.error is not None and not plan.layers:
        raise plan.error
    size = total_bytes(plan.layers.values())
    missing = {node.name: missing_layers(plan.layers, view.nodes[node.name].held) for node in plan.nodes}
    moved = {name: total_bytes(layers.values()) for name, layers in missing.items()}
    return {
        "namespace": key[0],
        "name": key[1],
        "system": ", ".join(ref.name for ref in record.spec.systems),
        "problem": f"{plan.error.reason}: {plan.error}" if plan.error is not None else None,
        "totalBytes": size * len(plan.nodes),
        "missingBytes": sum(moved.values()),
        "savedRatio": 1 - sum(moved.values()) / (size * len(plan.nodes)) if size and plan.nodes else 0.0,
        "nodes": [
            {
                "name": node.name,
                "machines": 0,
                "missingLayers": len(missing[node.name]),
                "missingBytes": 0,
                "prefetchBytes": moved[node.name],
                "freeAfterBytes": view.nodes[node.name].cache_free_bytes - moved[node.name],
            }
            for node in plan.nodes
        ],
        "machines": [],
    }


def _plan_deployment(mirror: Mirror, key: tuple[str, str], now: datetime) -> dict[str, Any]:
    record = mirror.deployments.get(*key)
    assert record is not None
    if isinstance(record.spec, KigiError):
        raise record.spec
    view = replace(gather_deployment(mirror, record, now), old_status=None)
    plan = plan_deployment(view)
    if plan.error is not None and not plan.placed:
        raise plan.error
    status = deployment_status(view, plan)
    cost = status.plan.to_api() if status.plan else {}
    return {
        "namespace": key[0],
        "name": key[1],
        "system": record.spec.system.name,
        "problem": f"{plan.error.reason}: {plan.error}" if plan.error is not None else None,
        **cost,
        "nodes": [*_nodes(view, plan.placed, _prefetched(view, plan.placed))],
        "machines": [*_machines(view, plan.placed)],
    }


def _nodes(
    view: DeploymentView, targets: tuple[PlacedTarget, ...], prefetched: Mapping[str, Mapping[Digest, Layer]]
) -> Iterator[dict[str, Any]]:
    """Each node with machines: the layers and bytes that it lacks, and the free bytes of its cache afterwards.

    ``prefetched``: node -> layers of states that the deployment keeps warm there.
    """
    wanted: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for placed in targets:
        for chain in placed.target.chains:
            wanted[placed.node].update({layer.digest: layer for layer in chain})
    for node, layers in sorted(wanted.items()):
        state = view.nodes.get(node)
        held = state.held if state is not None else frozenset()
        missing = missing_layers(layers, held)
        later = missing_layers(prefetched.get(node, {}), held | layers.keys())
        moved = total_bytes(missing.values())
        yield {
            "name": node,
            "machines": sum(placed.node == node for placed in targets),
            "missingLayers": len(missing),
            "missingBytes": moved,
            "prefetchBytes": total_bytes(later.values()),
            "freeAfterBytes": (state.cache_free_bytes if state else 0) - moved - total_bytes(later.values()),
        }


def _prefetched(view: DeploymentView, targets: tuple[PlacedTarget, ...]) -> dict[str, dict[Digest, Layer]]:
    """Node -> layers of the states in ``spec.prefetch`` for the machines that run there."""
    nodes: dict[str, set[str]] = defaultdict(set)
    for placed in targets:
        nodes[placed.target.machine].add(placed.node)
    everywhere = {placed.node for placed in targets}
    found: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for ref in view.spec.prefetch:
        system = view.systems.get(ref.name)
        if isinstance(system, ResolvedSystem):
            for machine in system.machines:
                for node in nodes.get(machine.name) or everywhere:
                    found[node].update({layer.digest: layer for chain in machine.chains for layer in chain})
    return found


def _machines(view: DeploymentView, targets: tuple[PlacedTarget, ...]) -> Iterator[dict[str, Any]]:
    slots = {placed.slot for placed in targets}
    for placed in targets:
        state = view.nodes.get(placed.node)
        layers = {layer.digest: layer for chain in placed.target.chains for layer in chain}
        missing = missing_layers(layers, state.held if state is not None else frozenset())
        yield {
            "instance": placed.target.instance,
            "name": placed.target.machine,
            "node": placed.node,
            "system": placed.target.system,
            "action": _action(placed),
            "missingLayers": len(missing),
            "missingBytes": total_bytes(missing.values()),
        }
    for machine in sorted(view.machines, key=lambda machine: machine.slot):
        if machine.slot not in slots and view.owns(machine.vm):
            yield {
                "instance": machine.vm.instance,
                "name": machine.vm.machine,
                "node": machine.vmi.node if machine.vmi is not None else None,
                "action": "delete",
                "missingLayers": 0,
                "missingBytes": 0,
            }


def _action(placed: PlacedTarget) -> str:
    """One of create, restart (on a fresh disk, or with other hardware), start, stop, keep."""
    machine, running = placed.observed, placed.target.running
    if machine is None:
        return "create" if running else "create, off"
    if placed.is_new or machine.vm.claim != placed.claim:
        return "restart on a fresh disk" if machine.vmi is not None else "fresh disk"
    if machine.vm.running != running:
        return "start" if running else "stop"
    started_with = machine.vmi.hardware if machine.vmi is not None else ""
    if machine.vm.running and started_with not in ("", placed.target.blueprint.hardware_hash):
        return "restart, disk kept"
    return "keep"
