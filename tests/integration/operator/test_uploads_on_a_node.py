"""A captured layer travels through the real parts: daemon, publisher, API server, operator and S3 server.

Only KubeVirt is missing: the capture begins in the stage Storing, when its VMs run again, with the copy on the node.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from typing import Any

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import CAPTURE, IMAGE, NODE_CACHE
from kigi.api.capture import SystemCaptureStatus
from kigi.domain import names
from kigi.domain.layers import Digest, object_key
from kigi.planning.capture_orders import CaptureOwner
from kigi.planning.capture_progress import progress_of
from localcluster.controlplane import ControlPlane
from localcluster.s3 import READER, S3Server
from tests.support.bodies import stored_capture
from tests.support.chains import build_chain, guest_view, layers_of, run
from tests.support.cluster import eventually_async
from tests.support.daemons import Node, daemon_env
from tests.support.deployments import condition
from tests.support.layers import VIRTUAL_BYTES, node_cache, upload
from tests.support.operator_run import OperatorRun
from tests.support.publishers import PROGRAM, ROOT, as_publisher
from tests.support.raw_api import RawApi

from .test_captures import capture
from .test_uploads import SETTINGS, in_parts, tenant

NAME = "real-node"
MIB = 2**20
assert tenant, "a fixture"


async def begin(plane: ControlPlane, kube: KubeClient, ns: str, repository: str) -> tuple[str, str]:
    """A capture in the stage Storing; id and volume of its only disk."""
    body = capture(target={"repositoryRef": {"name": repository}})
    body["metadata"]["finalizers"] = [names.CAPTURE_FINALIZER]
    created = await kube.create(CAPTURE, {**body, "metadata": {**body["metadata"], "namespace": ns}})
    status = stored_capture("Storing", 1, namespace=ns, node=NAME, machine="m0", base="base")["status"]
    status["repositoryName"] = repository
    status["disks"][0].update(state="Copied", virtualSizeBytes=VIRTUAL_BYTES)
    await kube.merge_patch(CAPTURE, ns, "after", {"status": status}, "status")
    progress = progress_of(SystemCaptureStatus.model_validate(status))
    owner = CaptureOwner(created["metadata"]["uid"], ns, "class", "1")
    (disk,) = progress.disks
    return owner.id_of(progress, disk), owner.volume_of(progress, disk)


def add_node(plane: ControlPlane) -> None:
    """The Node and its driver, as a kubelet registers them."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}
    driver = {"name": names.CSI_DRIVER, "nodeID": NAME, "topologyKeys": []}
    csi: dict[str, Any] = {"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": NAME}}
    csi["spec"] = {"drivers": [driver]}
    for body in (node, csi):
        plane.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(body))


@pytest.mark.parametrize("size", [MIB, 12 * MIB], ids=["whole", "in parts"])
@pytest.mark.timeout(240)
async def test_the_layer_of_a_capture_reaches_the_repository_without_a_writer_on_the_node(
    plane: ControlPlane,
    operator_kubeconfig: str,
    kube: KubeClient,
    s3: S3Server,
    bucket: str,
    ns: str,
    tenant: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    directory = tmp_path_factory.mktemp("real")
    chain = layers_of(build_chain(directory / "source"))
    upload(s3, bucket, directory / "source", chain)
    if size > 5 * MIB:
        await in_parts(plane, s3, bucket, tenant, _Nobody())  # type: ignore[arg-type]
    add_node(plane)
    id_, volume = await begin(plane, kube, ns, tenant)
    api, env = RawApi(plane.kubeconfig), daemon_env(plane.kubeconfig, s3, bucket)
    env |= {"AWS_ACCESS_KEY_ID": READER.access_key, "AWS_SECRET_ACCESS_KEY": READER.secret_key}
    order = {
        "id": id_,
        "volume": volume,
        "parentDigest": chain[-1].digest,
        "repositoryName": tenant,
        "virtualSizeBytes": VIRTUAL_BYTES,
        "action": "Copy",
        "mounted": True,
    }
    api.create(f"/apis/{names.NODE_API_VERSION}/nodecaches", node_cache(NAME)).object()

    async def cache() -> dict[str, Any]:
        return await kube.get(NODE_CACHE, None, NAME) or {}

    async def reported() -> dict[str, Any]:
        return {each["id"]: each["state"] for each in (await cache()).get("status", {}).get("captures", ())}

    with Node(directory / "node", NAME, env) as node:
        await asyncio.to_thread(node.publish, volume, chain)
        random = directory / "random"
        random.write_bytes(os.urandom(size))
        overlay = guest_view(node.root / "volumes" / volume)
        await asyncio.to_thread(run, "qemu-io", "-f", "qcow2", "-c", f"write -s {random} 0 {size}", str(overlay))
        path = f"/apis/{names.NODE_API_VERSION}/nodecaches/{NAME}"
        api.patch(path, {"spec": {"captures": [order]}}).object()

        async def is_copied() -> bool:
            return (node.root / "captures" / id_ / "order.json").exists() and id_ in await reported()

        await eventually_async(is_copied, 40, "the copy is made")
        api.patch(path, {"spec": {"captures": [{**order, "action": "Keep"}]}}).object()
        folder = node.root / "captures" / ".repositories"
        folder.mkdir(mode=0o755)
        settings = {"endpoint": s3.endpoint, "bucket": bucket, **({"maxPutBytes": 5 * MIB} if size > 5 * MIB else {})}
        (folder / f"{tenant}.json").write_text(json.dumps(settings))
        publisher = start_publisher(node, env)
        try:
            async with OperatorRun(operator_kubeconfig, settings=SETTINGS):

                async def is_complete() -> bool:
                    return condition(await kube.get(CAPTURE, ns, "after") or {}, "Complete").get("status") == "True"

                await eventually_async(is_complete, 90, "the capture is complete")
                image = await kube.get(IMAGE, ns, "after-m0")
                assert image is not None
                digest = Digest(image["spec"]["layer"]["digest"])
                content = (s3.data / bucket / object_key(digest)).read_bytes()
                assert f"sha256:{hashlib.sha256(content).hexdigest()}" == digest
                assert len(content) == image["spec"]["layer"]["sizeBytes"] > size

                async def is_forgotten() -> bool:
                    return not (await cache())["spec"].get("captures") and not (node.root / "captures" / id_).exists()

                await eventually_async(is_forgotten, 30, "order, upload and copy are gone")
        finally:
            publisher.kill()
            publisher.wait()
            plane.kubectl("delete", "systemcapture", "after", "-n", ns, "--wait=false")
            plane.kubectl("delete", "node", NAME)
            plane.kubectl("delete", "csinode", NAME)
            plane.kubectl("delete", "nodecache", NAME)


def start_publisher(node: Node, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """With the reader's credentials, and settings beside the copies: it sees nothing else of the node."""
    settings = {"KIGI_REPOSITORIES": f"{ROOT}/captures/.repositories", "KIGI_S3_ENDPOINT": "", "KIGI_CACHE_ROOT": ROOT}
    return subprocess.Popen(
        as_publisher(node.root / "captures", *PROGRAM), env={**os.environ, **env, **settings}, stderr=subprocess.DEVNULL
    )


class _Nobody:
    """In place of played publishers."""

    most_bytes = length = 0
