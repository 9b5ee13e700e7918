"""The plan of SystemDeployments and SystemPrefetches that are not applied yet, by the operator's own decisions.

Pure: from a mirror of the cluster and the objects to data for ``kigi plan``. Sizes in bytes.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from kigi.adapters.kubernetes.resources import DEPLOYMENT, IMAGE, INSTANCE, PREFETCH, RESET, SYSTEM
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.names import DEPLOYMENT_FINALIZER, instance_object, instance_order
from kigi.domain.systems import ResolvedSystem
from kigi.errors import KigiError, SpecInvalid
from kigi.gather.deployment import gather_deployment
from kigi.gather.instance import gather_instance
from kigi.gather.nodes import gather_nodes
from kigi.gather.prefetch import gather_prefetch
from kigi.gather.quotas import gather_allowance
from kigi.gather.reservations import reserve
from kigi.mirror.records import DeploymentRecord
from kigi.mirror.store import Mirror
from kigi.planning.deployment import build_instance
from kigi.planning.instance import InstancePlan, plan_instance
from kigi.planning.placed import PlacedTarget
from kigi.planning.prefetches import plan_prefetch
from kigi.planning.view import InstanceView, NodeState
from kigi.status.layer_bytes import LayerBytes

KEEP = "keep"
"""Action of a machine that stays as it is."""
LOSSES = frozenset({"restart on a fresh disk", "fresh disk", "delete"})
"""Actions that lose what the guest has written."""


def plan_documents(
    mirror: Mirror, documents: list[dict[str, Any]], namespace: str, now: datetime
) -> list[dict[str, Any]]:
    """The plan of each SystemDeployment and SystemPrefetch among the documents, as if all of them were applied.

    Puts the documents into ``mirror``; those without a namespace into ``namespace``. Raises KigiError.
    """
    put = put_documents(mirror, documents, namespace)
    planned = [(kind, key) for kind, key in put if kind in (DEPLOYMENT.kind, PREFETCH.kind)]
    if not planned:
        raise SpecInvalid("no SystemDeployment or SystemPrefetch is among the objects")
    plans = {DEPLOYMENT.kind: _plan_deployment, PREFETCH.kind: _plan_prefetch}
    return [plans[kind](mirror, key, now) for kind, key in planned]


def put_documents(
    mirror: Mirror, documents: Iterable[Mapping[str, Any]], namespace: str
) -> list[tuple[str, tuple[str, str]]]:
    """Puts the documents of kinds that decide a plan into the mirror, as if they were applied; kind and key of each."""
    put: list[tuple[str, tuple[str, str]]] = []
    for document in documents:
        kind = str(document.get("kind"))
        if kind in (IMAGE.kind, SYSTEM.kind, DEPLOYMENT.kind, INSTANCE.kind, PREFETCH.kind, RESET.kind):
            meta = document["metadata"]
            key = (meta.get("namespace") or namespace, meta["name"])
            mirror.put(kind, {**document, "metadata": _applied_metadata(mirror, kind, key, meta)})
            put.append((kind, key))
    return put


def plan_change(
    mirror: Mirror, key: tuple[str, str], now: datetime, concerns: Callable[[str, str], bool]
) -> dict[str, Any]:
    """The plan of a deployment for the machines that change, of those for which ``concerns(instance, machine)``."""
    return _plan_deployment(
        mirror, key, now, lambda one: concerns(*one.slot) and _action(one) != KEEP, only_changes=True
    )


def _applied_metadata(mirror: Mirror, kind: str, key: tuple[str, str], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as the API server would return it for an apply: of a new object, or of the next version."""
    known = mirror.stores[kind].get(*key)
    finalizers = [DEPLOYMENT_FINALIZER] if kind == DEPLOYMENT.kind else []  # the operator adds it before all else
    if known is None:
        fresh = {"uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": "1", "finalizers": finalizers}
        return {**meta, "namespace": key[0], **fresh}
    return {
        **meta,
        "namespace": key[0],
        "uid": known.meta.uid,
        "generation": known.meta.generation + 1,
        "resourceVersion": str(known.meta.version + 1),
        "finalizers": sorted({*known.meta.finalizers, *finalizers}),
    }


def _plan_prefetch(mirror: Mirror, key: tuple[str, str], now: datetime) -> dict[str, Any]:
    record = mirror.prefetches.get(*key)
    assert record is not None
    if isinstance(record.spec, KigiError):
        raise record.spec
    allowance = gather_allowance(mirror, key[0], without=key[1]) if mirror.knows_settings else None
    view = gather_prefetch(mirror, record, now, allowance)
    plan = plan_prefetch(view)
    if plan.error is not None and not plan.layers:
        raise plan.error
    size = total_bytes(plan.layers.values())
    missing = {node.name: missing_layers(plan.layers, view.nodes[node.name].held) for node in plan.nodes}
    moved = {name: total_bytes(layers.values()) for name, layers in missing.items()}
    return {
        "namespace": key[0],
        "name": key[1],
        "system": ", ".join(ref.tree_name for ref in record.spec.target_refs),
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


def _plan_deployment(
    mirror: Mirror,
    key: tuple[str, str],
    now: datetime,
    concerns: Callable[[PlacedTarget], bool] = lambda one: True,
    *,
    only_changes: bool = False,
) -> dict[str, Any]:
    record = mirror.deployments.get(*key)
    assert record is not None
    if isinstance(record.spec, KigiError):
        raise record.spec
    nodes = gather_nodes(mirror)
    plans = list(plan_instances(mirror, record, now))
    every = [one for _, plan in plans for one in plan.placed]
    placed = list(filter(concerns, every))
    problem = next((plan.error for _, plan in plans if plan.error is not None), None)
    if problem is not None and not every:
        raise problem
    prefetched = {} if only_changes else _prefetched(mirror, record, placed)
    cost = LayerBytes.of(nodes, placed)
    return {
        "namespace": key[0],
        "name": key[1],
        "system": record.spec.system_ref.tree_name,
        "problem": f"{problem.reason}: {problem}" if problem is not None else None,
        "totalBytes": cost.whole,
        "missingBytes": cost.missing,
        "savedRatio": round(1 - cost.missing / cost.whole, 6) if cost.whole else 0.0,
        "nodes": [*_nodes(nodes, placed, prefetched)],
        "machines": [*_machines(nodes, placed), *_deleted_machines(mirror, key, every)],
    }


def plan_instances(
    mirror: Mirror, record: DeploymentRecord, now: datetime
) -> Iterator[tuple[InstanceView, InstancePlan]]:
    """The plan of each instance that the deployment selects, one after the other, as the operator would make them.

    Puts instances that do not exist yet into ``mirror``, and reserves there what each plan uses of nodes.
    """
    view = gather_deployment(mirror, record, now)
    assert not isinstance(view.spec, KigiError)
    for name in view.spec.instance_names():
        known = mirror.instances.get(view.namespace, instance_object(view.name, name))
        if known is None or (known.owner_uids and view.uid not in known.owner_uids):
            body = build_instance(view, name, None)
            version = str(known.meta.version + 1 if known is not None else 1)
            body["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": version, "generation": 1}
            mirror.put(INSTANCE.kind, body)
            known = mirror.instances.get(view.namespace, instance_object(view.name, name))
            assert known is not None
        one = replace(gather_instance(mirror, known, now), old_status=None)
        plan = plan_instance(one)
        reserve(mirror, one, plan)
        yield one, plan


def _nodes(
    nodes: Mapping[str, NodeState], targets: Sequence[PlacedTarget], prefetched: Mapping[str, Mapping[Digest, Layer]]
) -> Iterator[dict[str, Any]]:
    """Each node with machines: the layers and bytes that it lacks, and the free bytes of its cache afterwards.

    ``prefetched``: node -> layers of states that the deployment keeps warm there.
    """
    wanted: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for placed in targets:
        for chain in placed.target.chains:
            wanted[placed.node].update({layer.digest: layer for layer in chain})
    for node, layers in sorted(wanted.items()):
        state = nodes.get(node)
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


def _prefetched(
    mirror: Mirror, record: DeploymentRecord, targets: Sequence[PlacedTarget]
) -> dict[str, dict[Digest, Layer]]:
    """Node -> layers of the states in ``spec.prefetchRefs`` for the machines that run there."""
    assert not isinstance(record.spec, KigiError)
    nodes: dict[str, set[str]] = defaultdict(set)
    for placed in targets:
        nodes[placed.target.machine].add(placed.node)
    everywhere = {placed.node for placed in targets}
    found: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for ref in record.spec.prefetch_refs:
        system = mirror.resolved(record.meta.namespace or "", ref.tree_name)
        if isinstance(system, ResolvedSystem):
            for machine in system.machines:
                for node in nodes.get(machine.name) or everywhere:
                    found[node].update({layer.digest: layer for chain in machine.chains for layer in chain})
    return found


def _machines(nodes: Mapping[str, NodeState], targets: Sequence[PlacedTarget]) -> Iterator[dict[str, Any]]:
    for placed in targets:
        state = nodes.get(placed.node)
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


def _deleted_machines(
    mirror: Mirror, key: tuple[str, str], targets: Sequence[PlacedTarget]
) -> Iterator[dict[str, Any]]:
    """Machines of the deployment that it would not have any more."""
    kept = {placed.slot for placed in targets}
    machines = [machine for machine in mirror.machines.by("deployment", key) if machine.owner_uid]
    for machine in sorted(machines, key=lambda machine: (instance_order(machine.instance), machine.machine)):
        if machine.slot not in kept:
            vmi = mirror.vmis.get(key[0], machine.meta.name)
            yield {
                "instance": machine.instance,
                "name": machine.machine,
                "node": vmi.node if vmi is not None else None,
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
    return KEEP
