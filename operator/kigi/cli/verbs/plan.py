"""``kigi plan``: what a deployment, a switch or a prefetch would move and restart, by the operator's own decisions."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import (
    BY_KIND,
    CLAIM,
    CLUSTER_INSTANCETYPE,
    CSI_NODE,
    DEPLOYMENT,
    IMAGE,
    INSTANCETYPE,
    KUBEVIRT,
    MACHINE,
    NODE,
    NODE_CACHE,
    PLUGIN,
    POLICY,
    PREFETCH,
    SYSTEM,
    VMI,
    VOLUME,
)
from kigi.cli.cluster import Access, open_cluster, read_mirror
from kigi.cli.output import Format, show, table
from kigi.domain.layers import Digest, Layer, missing_layers, total_bytes
from kigi.domain.quantities import format_bytes
from kigi.domain.systems import ResolvedSystem
from kigi.errors import DeploymentMissing, KigiError, SpecInvalid
from kigi.gather.deployment import gather_deployment
from kigi.gather.prefetch import gather_prefetch
from kigi.mirror.store import Mirror
from kigi.planning.deployment import Target, claim_of, plan_deployment
from kigi.planning.manifests import Owner, hardware_hash
from kigi.planning.prefetches import plan_prefetch
from kigi.planning.view import DeploymentView, MachineState
from kigi.status.deployments import deployment_status

if TYPE_CHECKING:
    from rich.console import RenderableType

KINDS = (
    IMAGE,
    SYSTEM,
    DEPLOYMENT,
    NODE,
    CSI_NODE,
    NODE_CACHE,
    VOLUME,
    CLAIM,
    MACHINE,
    VMI,
    POLICY,
    PREFETCH,
    KUBEVIRT,
    PLUGIN,
    INSTANCETYPE,
    CLUSTER_INSTANCETYPE,
)


def run_plan(access: Access, name: str | None, file: Path | None, system: str | None, form: Format) -> None:
    """Prints; raises KigiError."""
    if (name is None) == (file is None):
        raise SpecInvalid("name a deployment, or a file with -f")
    data = _read(access, name, file, system)
    show(data, lambda: _render(data), form)


def _read(access: Access, name: str | None, file: Path | None, system: str | None) -> list[dict[str, Any]]:
    namespace = access.default_namespace()
    with open_cluster(access) as kube:
        mirror = read_mirror(kube, KINDS, optional=(PLUGIN, POLICY, PREFETCH, INSTANCETYPE, CLUSTER_INSTANCETYPE))
        if name is not None:
            body = kube.get(DEPLOYMENT, namespace, name)
            if body is None:
                raise DeploymentMissing(f"there is no SystemDeployment {namespace}/{name}")
            documents = [body]
        else:
            assert file is not None
            documents = load(file)
    if system is not None:
        for document in documents:
            if document.get("kind") == DEPLOYMENT.kind:
                document["spec"]["system"] = {"name": system}
    return plan_documents(mirror, documents, namespace, datetime.now(UTC))


def load(file: Path) -> list[dict[str, Any]]:
    """Every object of a YAML file; raises SpecInvalid."""
    import yaml

    try:
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
    except (OSError, yaml.YAMLError) as exc:
        raise SpecInvalid(f"{file}: {exc}") from exc
    for document in documents:
        if not isinstance(document, dict) or not (document.get("metadata") or {}).get("name"):
            raise SpecInvalid(f"{file}: an object without kind or metadata.name")
    return documents


def plan_documents(
    mirror: Mirror, documents: list[dict[str, Any]], namespace: str, now: datetime
) -> list[dict[str, Any]]:
    """The plan of each SystemDeployment and SystemPrefetch among the documents; the others are taken as applied."""
    planned: list[tuple[str, tuple[str, str]]] = []
    for document in documents:
        kind = document.get("kind")
        if kind not in (IMAGE.kind, SYSTEM.kind, DEPLOYMENT.kind, PREFETCH.kind):
            continue
        meta = document["metadata"]
        key = (meta.get("namespace") or namespace, meta["name"])
        known = mirror.stores[kind].get(*key)
        meta = {
            **meta,
            "namespace": key[0],
            "uid": known.meta.uid if known is not None else str(uuid.uuid4()),
            "generation": (known.meta.generation if known is not None else 0) + 1,
            "resourceVersion": str((known.meta.version if known is not None else 0) + 1),
            "finalizers": list(known.meta.finalizers) if known is not None else [],
        }
        mirror.put(BY_KIND[kind].kind, {**document, "metadata": meta})
        if kind in (DEPLOYMENT.kind, PREFETCH.kind):
            planned.append((kind, key))
    if not planned:
        raise SpecInvalid("no SystemDeployment or SystemPrefetch is among the objects")
    plans = {DEPLOYMENT.kind: _plan, PREFETCH.kind: _plan_prefetch}
    return [plans[kind](mirror, key, now) for kind, key in planned]


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


def _plan(mirror: Mirror, key: tuple[str, str], now: datetime) -> dict[str, Any]:
    record = mirror.deployments.get(*key)
    assert record is not None
    if isinstance(record.spec, KigiError):
        raise record.spec
    view = replace(gather_deployment(mirror, record, now), old_status=None)
    plan = plan_deployment(view)
    if plan.error is not None and not plan.targets:
        raise plan.error
    status = deployment_status(view, plan)
    cost = status.plan.to_api() if status.plan else {}
    return {
        "namespace": key[0],
        "name": key[1],
        "system": record.spec.system.name,
        "problem": f"{plan.error.reason}: {plan.error}" if plan.error is not None else None,
        **cost,
        "nodes": [*_nodes(view, plan.targets, _prefetched(view, plan.targets))],
        "machines": [*_machines(view, plan.targets, plan.machines)],
    }


def _nodes(
    view: DeploymentView, targets: tuple[Target, ...], prefetched: Mapping[str, Mapping[Digest, Layer]]
) -> Iterator[dict[str, Any]]:
    """Each node that is used: layers and bytes that it lacks, for disks and for prefetched states, and room after."""
    wanted: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for target in targets:
        for chain in target.wish.chains:
            wanted[target.node].update({layer.digest: layer for layer in chain})
    for node, layers in sorted(wanted.items()):
        state = view.nodes.get(node)
        held = state.held if state is not None else frozenset()
        missing = missing_layers(layers, held)
        later = missing_layers(prefetched.get(node, {}), held | layers.keys())
        moved = total_bytes(missing.values())
        yield {
            "name": node,
            "machines": sum(target.node == node for target in targets),
            "missingLayers": len(missing),
            "missingBytes": moved,
            "prefetchBytes": total_bytes(later.values()),
            "freeAfterBytes": (state.cache_free_bytes if state else 0) - moved - total_bytes(later.values()),
        }


def _prefetched(view: DeploymentView, targets: tuple[Target, ...]) -> dict[str, dict[Digest, Layer]]:
    """Layers of the states that are kept warm, on the nodes that their machines are on."""
    nodes: dict[str, set[str]] = defaultdict(set)
    for target in targets:
        nodes[target.wish.machine].add(target.node)
    everywhere = {target.node for target in targets}
    found: dict[str, dict[Digest, Layer]] = defaultdict(dict)
    for ref in view.spec.prefetch:
        system = view.systems.get(ref.name)
        if isinstance(system, ResolvedSystem):
            for machine in system.machines:
                for node in nodes.get(machine.name) or everywhere:
                    found[node].update({layer.digest: layer for chain in machine.chains for layer in chain})
    return found


def _machines(
    view: DeploymentView, targets: tuple[Target, ...], present: Mapping[tuple[int, str], MachineState]
) -> Iterator[dict[str, Any]]:
    owner = Owner(view.namespace, view.name, view.uid)
    wished = {target.wish.slot for target in targets}
    for target in targets:
        state = view.nodes.get(target.node)
        layers = {layer.digest: layer for chain in target.wish.chains for layer in chain}
        missing = missing_layers(layers, state.held if state is not None else frozenset())
        machine = present.get(target.wish.slot)
        yield {
            "instance": target.wish.instance,
            "name": target.wish.machine,
            "node": target.node,
            "system": target.wish.system,
            "action": _action(target, machine, claim_of(target, owner)),
            "missingLayers": len(missing),
            "missingBytes": total_bytes(missing.values()),
        }
    for slot, machine in sorted(present.items()):
        if slot not in wished and view.owns(machine.vm):
            yield {
                "instance": slot[0],
                "name": slot[1],
                "node": machine.vmi.node if machine.vmi is not None else None,
                "action": "delete",
                "missingLayers": 0,
                "missingBytes": 0,
            }


def _action(target: Target, machine: MachineState | None, claim: str) -> str:
    """create, restart (on a fresh disk, or with other hardware), start, stop, or keep."""
    if machine is None:
        return "create" if target.wish.running else "create, off"
    if target.volume is None or machine.vm.claim != claim:
        return "restart on a fresh disk" if machine.vmi is not None else "fresh disk"
    if machine.vm.running != target.wish.running:
        return "start" if target.wish.running else "stop"
    started_with = machine.vmi.hardware if machine.vmi is not None else ""
    if machine.vm.running and started_with not in ("", hardware_hash(target.wish)):
        return "restart, disk kept"
    return "keep"


def _render(data: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group

    return Group(*(part for one in data for part in _parts(one)))


def _parts(one: dict[str, Any]) -> Iterator[RenderableType]:
    from rich.markup import escape
    from rich.text import Text

    missing, total = one.get("missingBytes", 0), one.get("totalBytes", 0)
    saved = f", {100 * one.get('savedRatio', 0):.2f} % less" if total else ""
    yield (
        f"[bold]{escape(one['namespace'])}/{escape(one['name'])}[/bold]  {escape(str(one['system']))}: "
        f"moves {format_bytes(missing)} instead of "
        f"{format_bytes(total)}{saved}"
    )
    if one["problem"]:
        yield Text(one["problem"], "red")
    yield table(
        ("NODE", "MACHINES#", "LAYERS#", "MISSING#", "PREFETCH#", "FREE AFTER#"),
        (
            (
                node["name"],
                node["machines"],
                node["missingLayers"],
                format_bytes(node["missingBytes"]),
                format_bytes(node["prefetchBytes"]),
                format_bytes(node["freeAfterBytes"]) if node["freeAfterBytes"] >= 0 else Text("does not fit", "red"),
            )
            for node in one["nodes"]
        ),
    )
    if not one["machines"]:
        return
    yield ""
    yield table(
        ("VMI#", "MACHINE", "NODE", "SYSTEM", "LAYERS#", "MISSING#", "ACTION"),
        (
            (
                m["instance"],
                m["name"],
                m["node"],
                m.get("system"),
                m["missingLayers"],
                format_bytes(m["missingBytes"]),
                m["action"],
            )
            for m in one["machines"]
        ),
    )
