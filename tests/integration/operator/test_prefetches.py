"""States that are kept warm: the operator on a real API server, real daemons, a real S3 server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CSI_NODE, NODE, NODE_CACHE, PREFETCH, SYSTEM
from kigi.domain import names
from kigi.domain.layers import Chain, object_key
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.actors import Actors
from tests.support.cluster import eventually_async
from tests.support.daemons import Node, daemon_env
from tests.support.deployments import apply, condition, deployment, machine, quota, system, wait_reported
from tests.support.layers import make_chain, upload
from tests.support.operator_run import OperatorRun

from .test_cli import kigi, kigi_json

MIB = 2**20
POOL = {"pool": "warm"}
ANY = [{"operator": "Exists"}]
"""No kubelet renews the leases of these nodes."""


def prefetch(**spec: Any) -> dict[str, Any]:
    state = {"kind": "SystemNode", "name": "lesson"}
    body = {"targetRefs": [state], "nodes": {"matchLabels": POOL}, "tolerations": ANY, **spec}
    return {"apiVersion": names.API_VERSION, "kind": "SystemPrefetch", "metadata": {"name": "monday"}, "spec": body}


def images(chain: Chain) -> list[dict[str, Any]]:
    """One VMImageNode for each layer, and the state of one machine."""
    objects: list[dict[str, Any]] = []
    for number, layer in enumerate(chain):
        spec: dict[str, Any] = {
            "layer": {
                "digest": layer.digest,
                "sizeBytes": layer.size_bytes,
                "virtualSizeBytes": layer.virtual_size_bytes,
            }
        }
        if number:
            spec["parentRef"] = {"name": f"image-{number - 1}"}
        meta = {"name": f"image-{number}"}
        objects.append({"apiVersion": names.API_VERSION, "kind": "VMImageNode", "metadata": meta, "spec": spec})
    top = machine("m0", f"image-{len(chain) - 1}")
    return [*objects, system("lesson", None, [top])]


class Pool:
    """Three nodes with real daemons and empty caches."""

    def __init__(self, kube: KubeClient, nodes: list[Node]) -> None:
        self.kube, self.nodes = kube, nodes

    @classmethod
    async def make(cls, directory: Path, plane: ControlPlane, kube: KubeClient, s3: S3Server, bucket: str) -> Pool:
        nodes: list[Node] = []
        for number in range(3):
            name = f"warm-{number}-{bucket}"
            meta = {"name": name, "labels": POOL}
            await kube.create(NODE, {"apiVersion": "v1", "kind": "Node", "metadata": meta})
            driver = {"name": names.CSI_DRIVER, "nodeID": name, "topologyKeys": []}
            body = {"metadata": {"name": name}, "spec": {"drivers": [driver]}}
            await kube.create(CSI_NODE, {"apiVersion": CSI_NODE.api_version, "kind": "CSINode", **body})
            nodes.append(Node(directory / name, name, daemon_env(plane.kubeconfig, s3, bucket)).start())
        made = cls(kube, nodes)
        try:
            for node in nodes:
                await asyncio.to_thread(node.wait_ready)
        except BaseException:
            await made.close()
            raise
        return made

    async def close(self) -> None:
        for node in self.nodes:
            node.close()
            await self.kube.delete(CSI_NODE, None, node.name)
            await self.kube.delete(NODE, None, node.name)

    def files(self) -> list[int]:
        """Complete layers on each node's disk."""
        return [len(list((node.root / "layers").rglob("*.qcow2"))) for node in self.nodes]


@pytest.fixture
def chain(tmp_path: Path, s3: S3Server, bucket: str) -> Chain:
    made = make_chain(tmp_path / "source", 3, size_bytes=2 * MIB)
    upload(s3, bucket, tmp_path / "source", made)
    return made


@pytest.fixture
async def pool(
    tmp_path_factory: pytest.TempPathFactory, plane: ControlPlane, kube: KubeClient, s3: S3Server, bucket: str
) -> AsyncIterator[Pool]:
    made = await Pool.make(tmp_path_factory.mktemp("pool"), plane, kube, s3, bucket)
    yield made
    await made.close()


async def status_of(kube: KubeClient, ns: str) -> dict[str, Any]:
    body = await kube.get(PREFETCH, ns, "monday")
    assert body is not None
    found: dict[str, Any] = body["status"]
    return found if found["observedGeneration"] == body["metadata"]["generation"] else {}


async def wait_ready(kube: KubeClient, ns: str) -> dict[str, Any]:
    async def check() -> dict[str, Any] | None:
        status = await status_of(kube, ns)
        return status if status and condition({"status": status}, "Ready").get("status") == "True" else None

    ready: dict[str, Any] = await eventually_async(check, 60, "the prefetch is Ready")
    return ready


async def test_nodes_fetch_in_turn_and_a_deployment_moves_nothing_afterwards(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    pool: Pool,
    chain: Chain,
    tmp_path: Path,
) -> None:
    size = sum(layer.size_bytes for layer in chain)
    file = tmp_path / "plan.yaml"
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *images(chain))
        await wait_reported(kube, [node.name for node in pool.nodes])
        file.write_text(yaml.safe_dump(prefetch()))
        (planned,) = await kigi_json(plane, "plan", "-f", str(file), "-n", ns)
        assert (planned["missingBytes"], planned["totalBytes"]) == (3 * size, 3 * size)
        assert [node["prefetchBytes"] for node in planned["nodes"]] == [size] * 3
        assert all(node["freeAfterBytes"] > 0 for node in planned["nodes"])

        apply(plane, ns, prefetch(parallelism=1))
        seen: list[tuple[str, ...]] = []

        async def done() -> bool:
            status = await status_of(kube, ns)
            states = [node["state"] for node in status.get("unreadyNodes") or ()]
            now = tuple(sorted(states + ["Ready"] * status.get("readyNodes", 0)))
            if now and (not seen or seen[-1] != now):
                seen.append(now)
            return now == ("Ready",) * 3

        await eventually_async(done, 60, "all nodes are ready")
        assert all(states.count("Fetching") <= 1 for states in seen), seen
        assert any("Queued" in states for states in seen), "the others waited"
        status = await wait_ready(kube, ns)
        assert (status["readyNodes"], status["desiredNodes"], status["nodeBytes"]) == (3, 3, size)
        assert status["heldBytes"] == status["wantedBytes"] == status["missingBytes"] == 3 * size
        assert pool.files() == [3, 3, 3]

        # A deployment there moves nothing.
        rules = {"nodeSelector": POOL, "tolerations": ANY}
        file.write_text(yaml.safe_dump(deployment(state="lesson", replicas=3, placement=rules)))
        async with asyncio.timeout(40):
            for node in pool.nodes:  # a candidate is a node that is ready
                await actors._report_ready(node.name)
        (planned,) = await kigi_json(plane, "plan", "-f", str(file), "-n", ns)
        assert (planned["missingBytes"], planned["savedRatio"]) == (0, 1.0)

        # The state is used, and who uses it is said.
        await asyncio.to_thread(plane.kubectl, "delete", "ksys", "lesson", "-n", ns, "--wait=false")
        assert "SystemPrefetch monday" in await kigi(plane, "delete", "state", "lesson", "-n", ns, code=1)
        body = await kube.get(SYSTEM, ns, "lesson")
        assert body is not None
        await asyncio.to_thread(plane.kubectl, "delete", "kpre", "monday", "-n", ns)

        async def forgotten() -> bool:
            caches = [await kube.get(NODE_CACHE, None, node.name) for node in pool.nodes]
            return all(cache is not None and not cache["spec"].get("layers") for cache in caches)

        await eventually_async(forgotten, 20, "no NodeCache lists them")
        assert pool.files() == [3, 3, 3], "they stay while there is room"

        async def gone() -> bool:
            return await kube.get(SYSTEM, ns, "lesson") is None

        await eventually_async(gone, 20, "the state goes with its last user")


async def test_a_damaged_layer_is_never_ready_and_why_says_so(
    plane: ControlPlane,
    operator_kubeconfig: str,
    actors: Actors,
    kube: KubeClient,
    ns: str,
    pool: Pool,
    chain: Chain,
    s3: S3Server,
    bucket: str,
) -> None:
    path = s3.data / bucket / object_key(chain[-1].digest)
    right = path.read_bytes()
    path.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    async with OperatorRun(operator_kubeconfig):
        apply(plane, ns, *images(chain), prefetch(nodes={"names": [pool.nodes[0].name]}, retention="Pinned"))

        async def not_pinned() -> bool:
            return condition({"status": await status_of(kube, ns)}, "Ready").get("reason") == "QuotaExceeded"

        await eventually_async(not_pinned, 60, "no SystemQuota lets the namespace pin")
        apply(plane, ns, quota(ns, pinnedBytes="1Gi"))

        async def refused() -> bool:
            status = await status_of(kube, ns)
            return bool(status) and condition({"status": status}, "Ready")["reason"] == "LayerCorrupt"

        await eventually_async(refused, 60, "the node refuses the layer")
        (found,) = await kigi_json(plane, "why", "kpre/monday", "-n", ns, code=3)
        assert found["reason"] == "LayerCorrupt"
        assert pool.nodes[0].name in found["message"]
        path.write_bytes(right)
        status = await wait_ready(kube, ns)
        assert (status["desiredNodes"], status["readyNodes"], status.get("unreadyNodes", [])) == (1, 1, [])
        cache = await kube.get(NODE_CACHE, None, pool.nodes[0].name)
        assert cache is not None
        assert {layer["need"] for layer in cache["status"]["layers"]} == {"Running"}, "pinned"
        assert pool.files() == [3, 0, 0]
        await asyncio.to_thread(plane.kubectl, "delete", "kpre", "monday", "-n", ns)
