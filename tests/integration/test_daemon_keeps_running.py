"""The daemon whose disk fails, or which is not alone: it reports, answers the kubelet, and goes on. Needs root."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from kigi.api.node_cache import NodeCache
from kigi.domain.names import NODE_API_VERSION
from kigi_cache.rpc import csi_pb2 as pb
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import LayerFile, build_chain, layers_of, run
from tests.support.cluster import eventually
from tests.support.daemons import Node, daemon_env
from tests.support.layers import node_cache, upload, wanted
from tests.support.raw_api import RawApi
from tests.support.why import explained

CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"


@pytest.fixture
def server(crds: ControlPlane) -> RawApi:
    return RawApi(crds.kubeconfig)


@pytest.fixture
def files(tmp_path: Path, s3: S3Server, bucket: str) -> list[LayerFile]:
    built = build_chain(tmp_path / "source")
    upload(s3, bucket, tmp_path / "source", layers_of(built))
    return built


@pytest.fixture
def start(
    tmp_path: Path, crds: ControlPlane, server: RawApi, s3: S3Server, bucket: str, files: list[LayerFile]
) -> Iterator[Callable[[str], Node]]:
    nodes: list[Node] = []

    def start_one(name: str) -> Node:
        layers = [layer.to_api() for layer in wanted(layers_of(files))]
        server.create(CACHES, node_cache(name, layers=layers)).object()
        nodes.append(Node(tmp_path / name, name, daemon_env(crds.kubeconfig, s3, bucket)))
        node = nodes[-1].start().wait_ready()
        eventually(lambda: reason(server, name) == "LayersHeld", 30)
        return node

    yield start_one
    for node in nodes:
        node.close()


def cache_of(server: RawApi, name: str) -> NodeCache:
    return NodeCache.model_validate(server.get(f"{CACHES}/{name}").object())


def reason(server: RawApi, name: str, kind: str = "Ready") -> str:
    return next((c.reason for c in cache_of(server, name).status.conditions if c.type == kind), "")


def is_alive(node: Node) -> bool:
    return node.process is not None and node.process.poll() is None


@pytest.mark.why("CacheUnreadable", "TaskFailed")
def test_a_broken_directory_is_reported_and_everything_goes_on_when_it_is_repaired(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    node = start("broken")
    node.publish(HANDLE, layers_of(files))
    eventually(lambda: [v.name for v in cache_of(server, "broken").status.volumes] == [HANDLE], 30)
    layers = node.root / "layers"
    layers.rename(node.root / "aside")
    layers.write_text("not a directory")
    eventually(lambda: reason(server, "broken") == "CacheUnreadable", 30)
    eventually(lambda: reason(server, "broken", "TasksFailing") == "TaskFailed", 60)
    for word in ("CacheUnreadable", "TaskFailed"):
        assert explained(word)["remedy"]
    assert [v.name for v in cache_of(server, "broken").status.volumes] == [HANDLE], "what was known stays"
    assert node.call("Identity/Probe", pb.ProbeRequest(), pb.ProbeResponse, timeout_s=5).ready.value
    node.unpublish(HANDLE)
    with pytest.raises(grpc.RpcError) as refused:
        node.publish(HANDLE, layers_of(files), timeout_s=5.5)
    assert refused.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED)
    layers.unlink()
    (node.root / "aside").rename(layers)
    eventually(lambda: reason(server, "broken") == "LayersHeld", 60)
    node.publish(HANDLE, layers_of(files))
    assert is_alive(node)


@pytest.mark.why("OverlaysGrow")
def test_a_machine_that_fills_the_disk_is_named(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    node = start("growing")
    node.publish(HANDLE, layers_of(files))
    node.stop()
    node.start(KIGI_MIN_FREE="99%").wait_ready()
    disk = node.seen(node.target()) / "disk.img"
    eventually(lambda: disk.stat().st_blocks * 512 > disk.stat().st_size + 2**20, 30, what="headroom is allocated")
    began = time.monotonic()
    for number in range(40):
        run("qemu-io", "-f", "qcow2", "-c", f"write -P 9 {number}M 1M", str(disk))
        if reason(server, "growing", "DiskFilling") == "OverlaysGrow":
            break
        time.sleep(0.3)
    assert time.monotonic() - began < 30
    (found,) = (c for c in cache_of(server, "growing").status.conditions if c.type == "DiskFilling")
    assert "machine dns of instance web-0 in namespace range" in found.message
    assert "reset" in explained("OverlaysGrow")["remedy"]


def test_a_second_daemon_of_a_cache_ends_and_the_first_one_works(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile], tmp_path: Path
) -> None:
    node = start("single")
    lock = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    second = subprocess.run(["python3", "-c", lock, str(node.root)], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in second.stderr
    node.publish(HANDLE, layers_of(files))
    node.kill()
    node.start().wait_ready()
    assert node.stop() == 0


def test_a_foreign_file_among_an_overlays_layers_refuses_its_capture_and_stops_nothing(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    node, chain = start("foreign"), layers_of(files)
    node.publish(HANDLE, chain)
    node.unpublish(HANDLE)
    (node.root / "volumes" / HANDLE / "chain" / "junk").write_text("x")
    order = {
        "id": "c1",
        "volume": HANDLE,
        "parentDigest": chain[-1].digest,
        "virtualSizeBytes": chain[-1].virtual_size_bytes,
        "repositoryName": "default",
        "action": "Copy",
        "mounted": False,
    }
    server.patch(f"{CACHES}/foreign", {"spec": {"captures": [order]}}).object()
    report = eventually(lambda: next(iter(cache_of(server, "foreign").status.captures), None), 30)
    assert (report.state, report.reason) == ("Refused", "OverlayRejected")
    assert is_alive(node)
    server.patch(f"{CACHES}/foreign", {"spec": {"captures": []}}).object()
    eventually(lambda: cache_of(server, "foreign").status.captures == [], 30)
