"""Reset of 10 machines: from the patch of ``spec.reset`` until the last VM names its fresh disk, and runs on it.

The API server, the controller manager that binds the claims, and the operator are real processes. KubeVirt and the
kubelets are simulated: a deleted VMI starts again immediately, so that the second figure is the part of Kigi and of the
control plane in a reset, without the boot of a guest.

    python benchmarks/reset.py [--rounds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from operator_world import MACHINES, Counting, Operator, client, control_plane, kubectl_apply, operator, trees

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import DEPLOYMENT, MACHINE, VMI
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.deployments import deployment, wait_ready

NAMESPACE = "reset"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-reset-") as directory, control_plane(Path(directory)) as plane:
        async with Actors(str(plane.kubeconfig), nodes=2) as actors, client(plane) as kube:
            with operator(plane, Path(directory) / "operator.log") as process:
                result = await measure(plane, actors, kube, process, options.rounds)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


async def measure(
    plane: ControlPlane, actors: Actors, kube: KubeClient, process: Operator, rounds: int
) -> dict[str, Any]:
    pointed, running = [], []
    async with Counting(plane, actors, (MACHINE, VMI)) as counting:
        plane.kubectl("create", "namespace", NAMESPACE)
        await kubectl_apply(plane, NAMESPACE, *trees(), deployment("class", "s0"))
        await wait_ready(kube, NAMESPACE, timeout_s=90)
        for number in range(1, rounds + 1):
            patch = [{"op": "add", "path": "/spec/reset", "value": f"round-{number}"}]
            started = time.perf_counter()
            await kube.json_patch(DEPLOYMENT, NAMESPACE, "class", patch)
            revision = f".r{number + 1}"
            at = await counting.until(lambda end=revision: all_name(counting.of(MACHINE, NAMESPACE), end, True))
            pointed.append(at - started)
            at = await counting.until(lambda end=revision: all_name(counting.of(VMI, NAMESPACE), end, False))
            running.append(at - started)
            await wait_ready(kube, NAMESPACE, timeout_s=60)
            await asyncio.sleep(2)
    assert not actors.violations
    return {
        "machines": MACHINES,
        "rounds": rounds,
        "pointed_s": pointed,
        "pointed_median_s": statistics.median(pointed),
        "running_s": running,
        "running_median_s": statistics.median(running),
        "operator_memory_bytes": process.memory_bytes(),
    }


def all_name(bodies: list[dict[str, Any]], end: str, template: bool) -> bool:
    """Whether there are all machines, and each names a claim of that revision."""

    def claim(body: dict[str, Any]) -> str:
        spec = body["spec"]["template"]["spec"] if template else body["spec"]
        return str(spec["volumes"][0]["persistentVolumeClaim"]["claimName"])

    return len(bodies) == MACHINES and all(claim(body).endswith(end) for body in bodies)


if __name__ == "__main__":
    asyncio.run(main())
