"""Resolve and plan many machines over many nodes, one instance after the other, as the operator does.

Pure code in one process, without a server. The time of one instance may grow with the nodes, of which each is a
candidate, and must not grow with the other instances. The comparison is the lower bound for this data on the same
machine: building the plain manifests (dicts) of the same volumes and claims without any decision.

    python benchmarks/plan.py [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kigi.api.deployment import SystemDeploymentSpec
from kigi.api.instance import SystemInstanceSpec
from kigi.domain.images import Image, image_chain
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Chain, Digest
from kigi.domain.systems import MachineChange, System, resolve_system
from kigi.planning.instance import plan_instance
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner, PlacedTarget
from kigi.planning.view import InstanceView, NodeState
from kigi.runtime.settings import GC_THRESHOLD

GIB = 2**30
DEPTH = 10
MACHINES_PER_SYSTEM = 10


def trees() -> tuple[dict[str, Image], dict[str, System]]:
    """Ten machines, each on a chain of ten layers that share the lower half; ten states, each changing one machine."""
    images: dict[str, Image] = {}

    def add(name: str, parent: str | None) -> str:
        digest = Digest("sha256:" + hashlib.sha256(name.encode()).hexdigest())
        images[name] = Image(name, digest, GIB // 10, 10 * GIB, parent)
        return name

    shared: str | None = None
    for level in range(DEPTH // 2):
        shared = add(f"shared-{level}", shared)
    tops: dict[str, str] = {}
    for number in range(MACHINES_PER_SYSTEM):
        top = shared
        for level in range(DEPTH - DEPTH // 2):
            top = add(f"m{number}-{level}", top)
        assert top is not None
        tops[f"m{number}"] = top
    systems = {"s0": System("s0", None, tuple(MachineChange(name, top) for name, top in tops.items()))}
    for state in range(1, DEPTH):
        machine = f"m{state}"
        systems[f"s{state}"] = System(f"s{state}", f"s{state - 1}", (MachineChange(machine, tops[machine]),))
    return images, systems


def plan_all(images: dict[str, Image], systems: dict[str, System], machines: int, nodes: int) -> list[PlacedTarget]:
    """Machines of a first deployment on nodes with cold caches; includes resolving the state."""
    chains: dict[str, Chain] = {}

    def chain_of(name: str) -> Chain:
        if name not in chains:
            chains[name] = image_chain(images, name)
        return chains[name]

    top = f"s{DEPTH - 1}"
    replicas = machines // MACHINES_PER_SYSTEM
    spec = SystemDeploymentSpec.model_validate({"systemRef": {"name": top}, "replicas": replicas})
    resolved = {top: resolve_system(systems, chain_of, top)}
    states = {f"n{n}": NodeState(f"n{n}", memory_bytes=256 * GIB, cache_free_bytes=500 * GIB) for n in range(nodes)}
    load: Counter[str] = Counter()
    placed: list[PlacedTarget] = []
    for name in spec.instance_names():
        view = InstanceView(
            namespace="team",
            deployment="exercise",
            deployment_uid="0" * 36,
            name=name,
            uid="1" * 36,
            has_finalizer=False,
            generation=1,
            deployment_generation=1,
            settings=SystemInstanceSpec.model_validate({"deploymentRef": {"name": "exercise"}, "name": name}),
            spec=spec,
            systems=resolved,
            nodes=states,
            volumes=(),
            claims=(),
            machines=(),
            policies=(),
            kubevirt=KubeVirtState("1.7.0", "Sidecar"),
            now=datetime(2026, 1, 1, tzinfo=UTC),
            load=load,
        )
        plan = plan_instance(view, hook_image="kigi:dev")
        assert len(plan.placed) == MACHINES_PER_SYSTEM, plan.error
        load.update({one.node for one in plan.placed})
        placed += plan.placed
    return placed


def floor(targets: list[PlacedTarget]) -> list[Any]:
    """Manifests of the disks, built without planning."""
    owner = Owner("team", "exercise", "1", "1" * 36)
    volumes = [build_volume(owner, placed, disk) for placed in targets for disk in placed.disks]
    return volumes + [build_claim(owner, placed, disk) for placed in targets for disk in placed.disks]


def seconds(work: Callable[[], Any], rounds: int) -> list[float]:
    """CPU seconds of each round: the work is pure, and other processes of the machine must not count."""
    taken: list[float] = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLD)  # the operator's setting
    images, systems = trees()
    rows: list[dict[str, Any]] = []
    for machines in (1250, 2500, 5000, 10000):
        nodes = machines // 10
        placed = plan_all(images, systems, machines, nodes)
        ours = seconds(lambda m=machines, n=nodes: plan_all(images, systems, m, n), options.rounds)  # type: ignore[misc]
        bare = seconds(lambda p=placed: floor(p), options.rounds)  # type: ignore[misc]
        row = {
            "machines": machines,
            "nodes": nodes,
            "depth": DEPTH,
            "plan_seconds": statistics.median(ours),
            "microseconds_per_machine": 1e6 * statistics.median(ours) / machines,
            "bare_manifests_seconds": statistics.median(bare),
            "ratio": statistics.median(ours) / statistics.median(bare),
        }
        rows.append(row)
        print(
            f"{machines:6} machines {nodes:5} nodes  resolve+plan {row['plan_seconds']:.3f} s "
            f"({row['microseconds_per_machine']:.0f} us per machine), "
            f"bare manifests {row['bare_manifests_seconds']:.3f} s, ratio {row['ratio']:.2f}"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory of the process {memory} MiB")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "peak_memory_mib": memory}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
