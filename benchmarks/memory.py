"""Memory of the operator's mirror for 10,000 machines on 1,000 nodes, fed with the manifests of a real cluster.

The result is the growth of resident memory in one process without a server, and the time of one reconcile. Buffers of
watches are not included; ``create.py`` measures a whole operator process.

    python benchmarks/memory.py [--machines 10000] [--nodes 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from plan import trees

from kigi.api.deployment import Placement
from kigi.domain.images import Image, image_chain
from kigi.domain.names import CSI_DRIVER, DEPLOYMENT_FINALIZER, machine_name
from kigi.domain.systems import MachineChange, ResolvedMachine
from kigi.gather.deployment import gather_deployment
from kigi.gather.instance import gather_instance
from kigi.gather.node_cache import gather_node
from kigi.mirror.store import Mirror
from kigi.planning.deployment import build_instance, plan_deployment
from kigi.planning.instance import plan_instance
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.placed import Owner, PlacedTarget, disk_targets
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.vm_manifest import VmSettings, build_machine
from tests.support.bodies import repository_body

PROTOCOLS = {"operatorProtocol": 2, "protocol": 2}
NAMESPACE = "bench"
PER_DEPLOYMENT = 1000
"""Machines of one deployment: a hundred instances of ten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.collect()
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    mirror = fill(options.machines, options.nodes)
    fed_s = time.perf_counter() - started
    gc.collect()
    after = psutil.Process().memory_info().rss
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = next(iter(mirror.deployments))
    started = time.perf_counter()
    plan = plan_deployment(gather_deployment(mirror, record, now))
    deployment_s = time.perf_counter() - started
    assert not plan.steps, plan.steps[:3]
    instance = next(iter(mirror.instances))
    gather_instance(mirror, instance, now)  # counts the memory of all instances, once
    started = time.perf_counter()
    view = gather_instance(mirror, instance, now)
    gathered_s = time.perf_counter() - started
    steps = plan_instance(view, hook_image="hook").steps
    planned_s = time.perf_counter() - started - gathered_s
    started = time.perf_counter()
    plan_node_cache(gather_node(mirror, "n0"))
    result = {
        "machines": options.machines,
        "nodes": options.nodes,
        "objects": sum(len(store) for store in mirror.stores.values()),
        "mirror_bytes": after - before,
        "bytes_per_machine": (after - before) // options.machines,
        "fed_s": fed_s,
        "one_deployment_s": deployment_s,
        "one_instance_machines": len(view.volumes),
        "one_instance_gather_s": gathered_s,
        "one_instance_plan_s": planned_s,
        "one_instance_steps": len(steps),
        "one_node_s": time.perf_counter() - started,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def fill(machines: int, nodes: int) -> Mirror:
    """Mirror of a cluster in which all VMs run; each body is parsed from JSON, like a response."""
    mirror, versions = Mirror(), itertools.count(1)

    def put(body: dict[str, Any], **status: Any) -> None:
        meta = body["metadata"]
        version = next(versions)
        added = {"uid": f"uid-{version}", "resourceVersion": str(version), "generation": 1, **meta}
        body = {**body, "metadata": added, **({"status": status} if status else {})}
        mirror.put(body["kind"], json.loads(json.dumps(body)))

    put(repository_body())
    images, systems = trees()
    for image in images.values():
        layer = {"digest": image.digest, "sizeBytes": image.size_bytes, "virtualSizeBytes": image.virtual_size_bytes}
        spec = {"layer": layer, **({"parentRef": {"name": image.parent}} if image.parent else {})}
        put({"kind": "VMImageNode", "metadata": {"name": image.name, "namespace": NAMESPACE}, "spec": spec})
    for system in systems.values():
        changes = [{"name": m.name, "rootDisk": {"imageRef": {"name": m.image}}} for m in system.machines]
        spec = {"machines": changes, **({"parentRef": {"name": system.parent}} if system.parent else {})}
        put({"kind": "SystemNode", "metadata": {"name": system.name, "namespace": NAMESPACE}, "spec": spec})
    held = [{"digest": i.digest, "state": "Held", "sizeBytes": i.size_bytes} for i in images.values()]
    for number in range(nodes):
        ready = [{"type": "Ready", "status": "True"}]
        put({"kind": "Node", "metadata": {"name": f"n{number}"}}, allocatable={"memory": "64Gi"}, conditions=ready)
        put({"kind": "CSINode", "metadata": {"name": f"n{number}"}, "spec": {"drivers": [{"name": CSI_DRIVER}]}})
        mirror.heartbeats.assume(f"n{number}")
        put(
            {
                "kind": "NodeCache",
                "metadata": {"name": f"n{number}"},
                "spec": {"nodeName": f"n{number}", **PROTOCOLS},
            },
            layers=held,
            budgetBytes=2**40,
        )
    state = systems["s0"]
    blueprints = {machine.name: blueprint_of(machine, images) for machine in state.machines}
    spread = itertools.cycle(range(nodes))
    for start in range(0, machines, PER_DEPLOYMENT):
        name = f"d{start // PER_DEPLOYMENT}"
        replicas = min(PER_DEPLOYMENT, machines - start) // len(state.machines)
        spec = {"systemRef": {"name": "s0"}, "replicas": replicas}
        meta = {"name": name, "namespace": NAMESPACE, "uid": f"owner-{name}", "finalizers": [DEPLOYMENT_FINALIZER]}
        put({"kind": "SystemDeployment", "metadata": meta, "spec": spec})
        record = mirror.deployments.get(NAMESPACE, name)
        assert record is not None
        view = gather_deployment(mirror, record, datetime(2026, 1, 1, tzinfo=UTC))
        for instance in map(str, range(1, replicas + 1)):
            owner = Owner(NAMESPACE, name, instance, f"{instance:0>8}-{name}")
            body = build_instance(view, instance, None)
            body["metadata"] |= {"uid": owner.uid}
            put(body)
            node = f"n{next(spread)}"
            for machine in state.machines:
                placed = placed_on(node, owner, instance, blueprints[machine.name])
                put(build_volume(owner, placed, placed.disks[0]), phase="Bound")
                put(build_claim(owner, placed, placed.disks[0]), phase="Bound")
                vm = build_machine(owner, placed, VmSettings(Placement(), "Sidecar", "hook", running=True))
                put(vm, printableStatus="Running")
                template = vm["spec"]["template"]
                instance_meta = {**template["metadata"], "name": vm["metadata"]["name"], "namespace": NAMESPACE}
                body = {"kind": "VirtualMachineInstance", "metadata": instance_meta, "spec": template["spec"]}
                put(body, phase="Running", nodeName=node, conditions=[{"type": "Ready", "status": "True"}])
    installed = {"configuration": {"developerConfiguration": {"featureGates": ["Sidecar"]}}}
    meta = {"name": "kubevirt", "namespace": "kubevirt"}
    put({"kind": "KubeVirt", "metadata": meta, "spec": installed}, observedKubeVirtVersion="v1.7.0")
    mirror.synced = True
    return mirror


def blueprint_of(machine: MachineChange, images: dict[str, Image]) -> Blueprint:
    """Blueprint of a machine of state s0."""
    resolved = ResolvedMachine(machine.name, str(machine.image), image_chain(images, str(machine.image)))
    return Blueprint.of("s0", resolved, Placement(), "Sidecar", "hook")


def placed_on(node: str, owner: Owner, instance: str, blueprint: Blueprint) -> PlacedTarget:
    """A machine on the first revision of its disk."""
    name = machine_name(owner.deployment, instance, blueprint.machine.name)
    target = MachineTarget(instance, blueprint, name, running=True)
    disks = disk_targets(owner, target, 1)
    return PlacedTarget(target, 1, node, target.fingerprint(), disks, is_cached=True)


if __name__ == "__main__":
    main()
