"""Reset of 10 machines: from the patch of ``spec.resetToken`` until the last VM names its fresh disk, and runs on it.

Then the work for fresh disks of one instance among many, as a part of the work for fresh disks of all of them: how
often the operator reconciles, how many steps it carries out, and how many writes the API server has from everyone.

The API server, the controller manager that binds the claims, and the operator are real processes. KubeVirt and the
kubelets are simulated: a deleted VMI starts again immediately, so that the second figure is the part of Kigi and of the
control plane in a reset, without the boot of a guest.

    python benchmarks/reset.py [--rounds 10] [--instances 1000] [--json FILE]
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
from kigi.adapters.kubernetes.resources import DEPLOYMENT, INSTANCE, MACHINE, VMI
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.deployments import deployment, machine, system, wait_ready

NAMESPACE, MANY = "reset", "many"
WRITES = ("POST", "PATCH", "PUT", "DELETE", "APPLY")
WRITTEN = (
    "systemdeployments",
    "systeminstances",
    "persistentvolumes",
    "persistentvolumeclaims",
    "virtualmachines",
    "virtualmachineinstances",
    "nodecaches",
)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-reset-") as directory, control_plane(Path(directory)) as plane:
        async with Actors(str(plane.kubeconfig), nodes=2) as actors, client(plane) as kube:
            with operator(plane, Path(directory) / "operator.log") as process:
                result = await measure(plane, actors, kube, process, options.rounds)
                result |= await measure_one_of_many(plane, actors, kube, process, options.instances)
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
        await wait_ready(kube, NAMESPACE, timeout_s=300)
        for number in range(1, rounds + 1):
            patch = [{"op": "add", "path": "/spec/resetToken", "value": f"round-{number}"}]
            started = time.perf_counter()
            await kube.json_patch(DEPLOYMENT, NAMESPACE, "class", patch)
            revision = f".r{number + 1}"
            at = await counting.until(lambda end=revision: all_name(counting.of(MACHINE, NAMESPACE), end, True))
            pointed.append(at - started)
            at = await counting.until(lambda end=revision: all_name(counting.of(VMI, NAMESPACE), end, False))
            running.append(at - started)
            await wait_ready(kube, NAMESPACE, timeout_s=300)
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


async def measure_one_of_many(
    plane: ControlPlane, actors: Actors, kube: KubeClient, process: Operator, instances: int
) -> dict[str, Any]:
    """Work for fresh disks of one instance, by a switch to a state with the same images, and of all, by a reset."""
    plane.kubectl("create", "namespace", MANY)
    same = [system("plain", None, [machine("m0", "m0-4")]), system("again", "plain", [])]
    await kubectl_apply(plane, MANY, *trees(), *same, deployment("class", "plain", replicas=instances))
    await wait_ready(kube, MANY, timeout_s=1800)
    patches = {
        "one": (INSTANCE, "class-7", {"path": "/spec/systemRef", "value": {"name": "again"}}),
        "all": (DEPLOYMENT, "class", {"path": "/spec/resetToken", "value": "again"}),
    }
    work: dict[str, dict[str, int]] = {}
    for what, (resource, name, patch) in patches.items():
        await quiet(plane, process)
        before = counts(plane, process)
        await kube.json_patch(resource, MANY, name, [{"op": "add", **patch}])
        await asyncio.sleep(2)
        await wait_ready(kube, MANY, timeout_s=1800)
        await quiet(plane, process)
        work[what] = {metric: value - before[metric] for metric, value in counts(plane, process).items()}
    assert not actors.violations
    shares = {f"{metric}_ratio": value / work["all"][metric] for metric, value in work["one"].items()}
    return {"instances": instances, "one_instance": work["one"], "all_instances": work["all"], **shares}


def counts(plane: ControlPlane, process: Operator) -> dict[str, int]:
    """Reconciles and steps of the operator, and writes to the API server by everyone, since they started."""
    written = 0
    for line in plane.kubectl("get", "--raw", "/metrics").splitlines():
        counted = any(f'resource="{name}"' in line for name in WRITTEN) and any(
            f'verb="{verb}"' in line for verb in WRITES
        )
        written += (
            round(float(line.rpartition(" ")[2])) if line.startswith("apiserver_request_total{") and counted else 0
        )
    return {
        "reconciles": process.total("kigi_reconcile_seconds_count"),
        "steps": process.total("kigi_steps_total"),
        "writes": written,
    }


async def quiet(plane: ControlPlane, process: Operator) -> None:
    """Waits until nothing was written for some seconds."""
    before, now = {}, counts(plane, process)
    while before != now:
        await asyncio.sleep(5)
        before, now = now, counts(plane, process)


def all_name(bodies: list[dict[str, Any]], end: str, template: bool) -> bool:
    """Whether there are all machines, and each names a claim of that revision."""

    def claim(body: dict[str, Any]) -> str:
        spec = body["spec"]["template"]["spec"] if template else body["spec"]
        return str(spec["volumes"][0]["persistentVolumeClaim"]["claimName"])

    return len(bodies) == MACHINES and all(claim(body).endswith(end) for body in bodies)


if __name__ == "__main__":
    asyncio.run(main())
