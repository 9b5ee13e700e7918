"""Shared by the operator's benchmarks: a real control plane, simulated nodes, and the operator as its own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.configuration import load_configuration
from kigi.adapters.kubernetes.resources import Resource
from kigi.domain import names
from kigi.errors import KigiError
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from tests.support.actors import Actors
from tests.support.cluster import install_crds, install_repository
from tests.support.deployments import image, machine, system
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object

MACHINES = 10
DEPTH = 10


@contextmanager
def control_plane(directory: Path) -> Iterator[ControlPlane]:
    """etcd, kube-apiserver and kube-controller-manager, with the CRDs of Kigi and KubeVirt."""
    with ControlPlane(directory, parts=["controller-manager"]) as plane:
        install_crds(plane)
        install_repository(plane)
        install_kubevirt_crds(plane)
        install_kubevirt_object(plane)
        yield plane


@dataclass
class Operator:
    """The operator's process."""

    process: subprocess.Popen[bytes]
    metrics_url: str

    def total(self, metric: str) -> int:
        """Sum of a counter over all its labels."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return round(
            sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{metric}{{", f"{metric} ")))
        )

    def memory_bytes(self) -> int:
        """Resident memory now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def operator(plane: ControlPlane, log: Path) -> Iterator[Operator]:
    """``kigi-operator`` as its own process, with its defaults."""
    port = free_port()
    env = {
        **os.environ,
        "KUBECONFIG": str(plane.kubeconfig),
        "KIGI_HTTP_HOST": "127.0.0.1",
        "KIGI_HTTP_PORT": str(port),
        "POD_NAMESPACE": "kigi-system",
        "KIGI_HOOK_IMAGE": "kigi:dev",  # no Deployment names one here
        "KIGI_LOG_LEVEL": "WARNING",
    }
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "kigi.main"], env=env, stdout=output, stderr=output)
    try:
        yield Operator(process, f"http://127.0.0.1:{port}/metrics")
    except BaseException:
        sys.stderr.write(log.read_text()[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(20)


@asynccontextmanager
async def client(plane: ControlPlane) -> AsyncIterator[KubeClient]:
    """An administrator's client."""
    async with KubeClient(await load_configuration(str(plane.kubeconfig))) as kube:
        yield kube


def trees() -> list[dict[str, Any]]:
    """Ten machines, each on ten layers of which five are shared by all; states s0 and s1 (every top replaced)."""
    objects, shared = [], None
    for level in range(DEPTH // 2):
        objects.append(image(f"shared-{level}", shared))
        shared = f"shared-{level}"
    tops = []
    for number in range(MACHINES):
        below = shared
        for level in range(DEPTH - DEPTH // 2):
            objects.append(image(f"m{number}-{level}", below))
            below = f"m{number}-{level}"
        objects.append(image(f"m{number}-next", below))
        tops.append(below)
    first = [machine(f"m{n}", top) for n, top in enumerate(tops)]
    objects.append(system("s0", None, first))
    objects.append(system("s1", "s0", [machine(f"m{n}", f"m{n}-next", hardware=None) for n in range(MACHINES)]))
    return objects


class Counting:
    """Watches kinds, and waits until a condition on their objects holds."""

    def __init__(self, plane: ControlPlane, actors: Actors, resources: tuple[Resource, ...]) -> None:
        self._actors, self._resources = actors, resources
        self.seen: dict[str, dict[tuple[Any, Any], dict[str, Any]]] = {resource.kind: {} for resource in resources}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Counting:
        self._tasks = [asyncio.create_task(self._watch(resource)) for resource in self._resources]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, resource: Resource) -> None:
        while True:
            # A CRD that was just created is not served immediately.
            with contextlib.suppress(KigiError):
                await self._follow(resource)
            await asyncio.sleep(0.2)

    async def _follow(self, resource: Resource) -> None:
        # A watch without a version begins with all existing objects.
        watch = self._actors.kube.watch(resource, resource_version="", duration_s=3600, silence_s=3600)
        async with contextlib.aclosing(watch):
            async for event in watch:
                body = dict(event.object)
                key = (body["metadata"].get("namespace"), body["metadata"].get("name"))
                if event.type == "DELETED":
                    self.seen[resource.kind].pop(key, None)
                elif event.type in ("ADDED", "MODIFIED"):
                    self.seen[resource.kind][key] = body
                self._changed.set()

    def of(self, resource: Resource, namespace: str) -> list[dict[str, Any]]:
        """Objects made for that namespace."""
        return [
            body
            for body in self.seen[resource.kind].values()
            if body["metadata"].get("labels", {}).get(names.LABEL_NAMESPACE) == namespace
        ]

    async def until(self, condition: Any, timeout_s: float = 300) -> float:
        """The moment (perf_counter) at which ``condition()`` was first true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
        return time.perf_counter()


async def kubectl_apply(plane: ControlPlane, namespace: str, *objects: dict[str, Any]) -> None:
    """``kubectl apply``, without holding up the event loop."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    await asyncio.to_thread(plane.kubectl, "apply", "-n", namespace, "-f", "-", input_text=text)
