"""Resolve and plan many machines over many nodes; the time must grow linearly.

Pure code in one process, without a server. The comparison is the lower bound for this data on the same machine:
building the plain manifests (dicts) of the same volumes and claims without any decision.

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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kigi.api.deployment import SystemDeploymentSpec
from kigi.domain.images import Image, image_chain
from kigi.domain.kubevirt import KubeVirtState
from kigi.domain.layers import Chain, Digest
from kigi.domain.systems import MachineChange, System, resolve_system
from kigi.planning.deployment import DeploymentPlan, plan_deployment
from kigi.planning.manifests import build_claim, build_volume
from kigi.planning.placed import Owner
from kigi.planning.view import DeploymentView, NodeState
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


def view(images: dict[str, Image], systems: dict[str, System], machines: int, nodes: int) -> DeploymentView:
    """View of a first deployment on nodes with cold caches; includes resolving the state."""
    chains: dict[str, Chain] = {}

    def chain_of(name: str) -> Chain:
        if name not in chains:
            chains[name] = image_chain(images, name)
        return chains[name]

    top = f"s{DEPTH - 1}"
    spec = {"system": {"name": top}, "replicas": machines // MACHINES_PER_SYSTEM}
    return DeploymentView(
        namespace="team",
        name="exercise",
        uid="0" * 36,
        generation=1,
        deleting=False,
        has_finalizer=False,
        spec=SystemDeploymentSpec.model_validate(spec),
        systems={top: resolve_system(systems, chain_of, top)},
        nodes={f"n{n}": NodeState(f"n{n}", memory_bytes=256 * GIB, cache_free_bytes=500 * GIB) for n in range(nodes)},
        volumes=(),
        claims=(),
        machines=(),
        kubevirt=KubeVirtState("1.7.0", "Sidecar"),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


def floor(plan: DeploymentPlan) -> list[Any]:
    """Manifests of the plan's disks, built without planning."""
    owner = Owner("team", "exercise", "0" * 36)
    volumes = [build_volume(owner, placed, disk) for placed in plan.placed for disk in placed.disks]
    return volumes + [build_claim(owner, placed, disk) for placed in plan.placed for disk in placed.disks]


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
        plan = plan_deployment(view(images, systems, machines, nodes), hook_image="kigi:dev")
        assert len(plan.placed) == machines, plan.error
        ours = seconds(
            lambda m=machines, n=nodes: plan_deployment(view(images, systems, m, n), hook_image="kigi:dev"),  # type: ignore[misc]
            options.rounds,
        )
        bare = seconds(lambda p=plan: floor(p), options.rounds)  # type: ignore[misc]
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
