"""100 machines: from ``kubectl apply`` of a SystemDeployment until every volume, claim and VM exists.

The peer is a bare client that creates the same objects with the same concurrency, in turns, in the same run on the same
servers. The nodes hold all layers already. No VM starts, as that is KubeVirt's work in either case.

    python benchmarks/create.py [--machines 100] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from operator_world import (
    MACHINES,
    Counting,
    Operator,
    client,
    control_plane,
    kubectl_apply,
    operator,
    trees,
)

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import CLAIM, MACHINE, NODE_CACHE, VOLUME, Resource
from localcluster.controlplane import ControlPlane
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.deployments import deployment, left_over

CONCURRENCY = 32
KINDS = (VOLUME, CLAIM, MACHINE)
FROM_SERVER = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kigi-create-") as directory, control_plane(Path(directory)) as plane:
        async with Actors(str(plane.kubeconfig), nodes=10, play=(NODE_CACHE,)) as actors, client(plane) as kube:
            with operator(plane, Path(directory) / "operator.log") as process:
                result = await measure(plane, actors, kube, process, options.machines, options.rounds)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


async def measure(
    plane: ControlPlane, actors: Actors, kube: KubeClient, process: Operator, machines: int, rounds: int
) -> dict[str, Any]:
    replicas = machines // MACHINES
    kigi, bare, patched = [], [], []
    idle = peak = 0
    async with Counting(plane, actors, KINDS) as counting:
        # Warm: the nodes hold every layer, and keep it because this deployment stays.
        plane.kubectl("create", "namespace", "warm")
        await kubectl_apply(plane, "warm", *trees(), deployment("warm", "s0", replicas=10))
        await counting.until(lambda: len(counting.of(MACHINE, "warm")) == 100)
        idle = process.memory_bytes()
        manifests: list[dict[str, Any]] = []
        for number in range(rounds):
            namespace = f"round-{number}"
            plane.kubectl("create", "namespace", namespace)
            await kubectl_apply(plane, namespace, *trees())
            await asyncio.sleep(2)
            started = time.perf_counter()
            await kubectl_apply(plane, namespace, deployment("class", "s0", replicas=replicas))
            accepted = time.perf_counter()
            done = await counting.until(
                lambda ns=namespace: all(len(counting.of(kind, ns)) == machines for kind in KINDS)
            )
            kigi.append(done - started)
            patched.append(done - accepted)
            peak = max(peak, process.memory_bytes())
            manifests = manifests or [bare_manifest(body) for kind in KINDS for body in counting.of(kind, namespace)]
            plane.kubectl("delete", "systemdeployment", "class", "-n", namespace, "--wait=false")
            await eventually_async(lambda ns=namespace: is_empty(kube, ns), 120)
            await asyncio.sleep(2)
            bare.append(await create_bare(plane, manifests, f"bare-{number}"))
            plane.kubectl("delete", "namespace", f"bare-{number}", "--wait=false")
            for body in manifests:
                if body["kind"] == "PersistentVolume":
                    await kube.delete(VOLUME, None, f"{body['metadata']['name']}-bare-{number}")
            await asyncio.sleep(3)
    ratio = statistics.median(kigi) / statistics.median(bare)
    return {
        "machines": machines,
        "objects": len(manifests),
        "kigi_s": kigi,
        "kigi_median_s": statistics.median(kigi),
        "kigi_after_kubectl_median_s": statistics.median(patched),
        "bare_s": bare,
        "bare_median_s": statistics.median(bare),
        "ratio": ratio,
        "target": 1.5,
        "operator_memory_before_bytes": idle,
        "operator_memory_peak_bytes": peak,
    }


async def is_empty(kube: KubeClient, namespace: str) -> bool:
    return not await left_over(kube, namespace)


def bare_manifest(body: dict[str, Any]) -> dict[str, Any]:
    """What one would send to create the same object."""
    meta = {key: value for key, value in body["metadata"].items() if key not in FROM_SERVER}
    spec = json.loads(json.dumps(body["spec"]))
    spec.pop("claimRef", None)
    kinds: dict[str, Resource] = {resource.kind: resource for resource in KINDS}
    kind = kinds[body["kind"]]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": meta, "spec": spec}


async def create_bare(plane: ControlPlane, manifests: list[dict[str, Any]], namespace: str) -> float:
    """Seconds to create all objects with ``CONCURRENCY`` parallel requests, in no order, by POST of prepared JSON."""
    plane.kubectl("create", "namespace", namespace)
    configuration = await load_configuration(str(plane.kubeconfig))
    kinds: dict[str, Resource] = {resource.kind: resource for resource in KINDS}
    requests: list[tuple[str, bytes]] = []
    for manifest in manifests:
        body = json.loads(json.dumps(manifest))
        if body["kind"] == "PersistentVolume":
            body["metadata"]["name"] += f"-{namespace}"
        else:
            body["metadata"]["namespace"] = namespace
        path = kinds[body["kind"]].path(body["metadata"].get("namespace"))
        requests.append((configuration.host + path, json.dumps(body).encode()))
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    slots = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=CONCURRENCY)) as session:

        async def one(url: str, data: bytes) -> None:
            async with slots, session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
                text = await answer.read()
                assert answer.status == 201, text

        started = time.perf_counter()
        await asyncio.gather(*(one(url, data) for url, data in requests))
        return time.perf_counter() - started


if __name__ == "__main__":
    asyncio.run(main())
