"""The whole daemon as a process: real API server, real S3, real mounts. Needs root."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
import pytest

from kigi.api.node_cache import NodeCache
from kigi.domain.names import NODE_API_VERSION
from kigi_cache.rpc import csi_pb2 as pb
from kigi_cache.rpc import registration_pb2 as reg
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import LayerFile, build_chain, layers_of
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
def start(tmp_path: Path, crds: ControlPlane, s3: S3Server, bucket: str) -> Iterator[Callable[[str], Node]]:
    nodes: list[Node] = []

    def start_one(name: str) -> Node:
        nodes.append(Node(tmp_path / name, name, daemon_env(crds.kubeconfig, s3, bucket)))
        return nodes[-1].start().wait_ready()

    yield start_one
    for node in nodes:
        node.close()


def put(server: RawApi, name: str, **spec: object) -> None:
    """The NodeCache of a node, made or changed, as the operator writes it."""
    body = node_cache(name, **spec)
    if server.get(f"{CACHES}/{name}").code == 404:
        server.create(CACHES, body).object()
    else:
        server.patch(f"{CACHES}/{name}", {"spec": body["spec"]}).object()


def cache_of(server: RawApi, name: str) -> NodeCache:
    return NodeCache.model_validate(server.get(f"{CACHES}/{name}").object())


def ready_cache(server: RawApi, name: str) -> NodeCache | None:
    """The NodeCache when it is Ready for its newest spec."""
    cache = cache_of(server, name)
    ready = any(c.type == "Ready" and c.status == "True" for c in cache.status.conditions)
    return cache if ready and cache.status.observed_generation == cache.metadata.generation else None


def test_wanted_layers_are_fetched_reported_and_mounted(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    chain = layers_of(files)
    put(server, "daemon-a", layers=[layer.to_api() for layer in wanted(chain)])
    node = start("daemon-a")
    cache = eventually(lambda: ready_cache(server, "daemon-a"))
    total = sum(layer.size_bytes for layer in chain)
    assert {layer.digest: layer.state for layer in cache.status.layers} == {layer.digest: "Held" for layer in chain}
    assert (cache.status.used_bytes, cache.status.fetched_bytes_total) == (total, total)
    assert cache.status.budget_bytes == 2**30
    assert cache.status.daemon is not None
    assert cache.status.daemon.version == version("kigi")
    assert cache.status.node is not None
    assert "HardLinks" in cache.status.node.features
    node.publish(HANDLE, chain)
    disk = node.seen(node.target()) / "disk.img"
    assert disk.stat().st_uid == 107
    cache = eventually(lambda: (c := cache_of(server, "daemon-a")).status.volumes and c)
    assert [(v.name, v.mounted) for v in cache.status.volumes] == [(HANDLE, True)]
    assert {layer.links for layer in cache.status.layers} == {1}
    assert 'kigi_cache_layers{state="Held"} 3.0' in node.get("/metrics")
    assert (node.get("/healthz"), node.get("/readyz")) == ("ok\n", "ok\n")


def test_a_volume_whose_layers_are_not_in_the_spec_is_filled_when_it_is_mounted(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    node = start("daemon-b")
    node.publish(HANDLE, layers_of(files))
    assert (node.seen(node.target()) / "disk.img").exists()


@pytest.mark.why("OverlaysDeleting")
def test_an_overlay_is_deleted_by_order_when_it_is_no_longer_mounted(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    put(server, "daemon-c")
    node = start("daemon-c")
    node.publish(HANDLE, layers_of(files))
    put(server, "daemon-c", discardVolumes=[HANDLE])

    def waits() -> bool:
        status = cache_of(server, "daemon-c").status
        reasons = {c.type: c.reason for c in status.conditions}
        return status.observed_generation == 2 and reasons["Ready"] == "OverlaysDeleting"

    eventually(waits)
    explained(next(c.reason for c in cache_of(server, "daemon-c").status.conditions if c.type == "Ready"))
    assert [v.mounted for v in cache_of(server, "daemon-c").status.volumes] == [True]
    node.unpublish(HANDLE)
    cache = eventually(lambda: ready_cache(server, "daemon-c"))
    assert cache.status.volumes == []
    assert not (node.root / "volumes" / HANDLE).exists()
    with pytest.raises(grpc.RpcError) as refused:
        node.publish(HANDLE, layers_of(files))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_hostile_overlay_is_refused_with_an_event(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    put(server, "daemon-d")
    node = start("daemon-d")
    node.publish(HANDLE, layers_of(files))
    node.unpublish(HANDLE)
    disk = node.root / "volumes" / HANDLE / "mount" / "disk.img"
    disk.write_bytes(b"\0" * 512 + disk.read_bytes()[512:])
    with pytest.raises(grpc.RpcError) as refused:
        node.publish(HANDLE, layers_of(files))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "OverlayRejected" in refused.value.details()
    assert node.mounts() == []

    def has_event() -> bool:
        events = server.get("/api/v1/namespaces/default/events").object()["items"]
        return any(e["reason"] == "OverlayRejected" and e["involvedObject"]["name"] == "daemon-d" for e in events)

    eventually(has_event)


def test_a_kubelet_learns_of_the_driver_from_its_registry(start: Callable[[str], Node]) -> None:
    node = start("daemon-e")
    socket = node.registration / "disk.kigi.dev-reg.sock"

    def info() -> reg.PluginInfo:
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            ask = channel.unary_unary(
                "/pluginregistration.Registration/GetInfo",
                request_serializer=reg.InfoRequest.SerializeToString,
                response_deserializer=reg.PluginInfo.FromString,
            )
            return ask(reg.InfoRequest(), timeout=20, wait_for_ready=True)

    found = info()
    assert (found.type, found.name, found.endpoint) == ("CSIPlugin", "disk.kigi.dev", str(node.socket))
    assert list(found.supported_versions) == ["1.0.0"]
    socket.unlink()
    eventually(socket.exists)
    assert info() == found


def test_three_nodes_hold_what_each_of_them_wants(
    server: RawApi, start: Callable[[str], Node], files: list[LayerFile]
) -> None:
    chain = layers_of(files)
    names = ["daemon-f", "daemon-g", "daemon-h"]
    for number, name in enumerate(names, 1):
        put(server, name, layers=[layer.to_api() for layer in wanted(chain[:number])])
        start(name)
    for number, name in enumerate(names, 1):
        cache = eventually(lambda name=name: ready_cache(server, name))  # type: ignore[misc]
        assert {layer.digest for layer in cache.status.layers} == {layer.digest for layer in chain[:number]}


def test_the_daemon_ends_cleanly(server: RawApi, start: Callable[[str], Node], files: list[LayerFile]) -> None:
    put(server, "daemon-i", layers=[layer.to_api() for layer in wanted(layers_of(files))])
    node = start("daemon-i")
    eventually(lambda: ready_cache(server, "daemon-i"))
    node.publish(HANDLE, layers_of(files))
    before = node.mounts()
    assert node.stop() == 0
    assert node.mounts() == before
    lines = [json.loads(line) for line in node.log.read_text().splitlines()]
    assert [line["message"] for line in lines][-1] == "stopped"
    assert not any("exception" in line for line in lines)
    node.start().wait_ready()
    assert node.call("Node/NodeGetInfo", pb.NodeGetInfoRequest(), pb.NodeGetInfoResponse).node_id == "daemon-i"
    assert node.mounts() == before


def test_a_mounted_repository_counts_without_a_restart(
    server: RawApi, tmp_path: Path, crds: ControlPlane, s3: S3Server, bucket: str, files: list[LayerFile]
) -> None:
    chain = layers_of(files)
    put(server, "daemon-repo", layers=[layer.to_api() for layer in wanted(chain)])
    folder = tmp_path / "repositories"
    folder.mkdir()

    def write(bucket_name: str) -> None:
        keys = {"accessKeyId": s3.credentials.access_key, "secretAccessKey": s3.credentials.secret_key}
        (tmp_path / "new").write_text(json.dumps({"endpoint": s3.endpoint, "bucket": bucket_name, **keys}))
        (tmp_path / "new").rename(folder / "default.json")  # as the kubelet does: readers see the old file or the new

    def reasons() -> set[str | None]:
        return {layer.reason for layer in cache_of(server, "daemon-repo").status.layers}

    def messages() -> set[str | None]:
        return {layer.message for layer in cache_of(server, "daemon-repo").status.layers}

    env = daemon_env(crds.kubeconfig, s3, bucket)
    env = {name: value for name, value in env.items() if "KIGI_S3" not in name and "AWS" not in name}
    with Node(tmp_path / "n", "daemon-repo", {**env, "KIGI_REPOSITORIES": str(folder)}) as node:
        eventually(lambda: "RepositoryUnknown" in reasons(), what="no repository is mounted yet")
        (folder / "default.json").write_text("nonsense")
        eventually(lambda: "repository ignored" in node.log.read_text())
        write("no-such-bucket")
        eventually(lambda: "does not exist; correct the LayerRepository" in str(messages()), 60)
        write(bucket)
        eventually(lambda: ready_cache(server, "daemon-repo"), 60)


def test_an_operator_of_a_version_too_far_away_is_reported(server: RawApi, start: Callable[[str], Node]) -> None:
    """The node goes on as ordered; a person reads of it in the condition and the metric."""
    put(server, "daemon-skew", operatorVersion="7.0.0")
    node = start("daemon-skew")
    cache = eventually(lambda: ready_cache(server, "daemon-skew"))
    found = next(c for c in cache.status.conditions if c.type == "VersionSkew")
    assert (found.status, "upgrade the daemon" in found.message) == ("True", True)
    assert "kigi_cache_version_skew 1.0" in node.get("/metrics")
    put(server, "daemon-skew", operatorVersion=version("kigi"))
    eventually(lambda: "kigi_cache_version_skew 0.0" in node.get("/metrics"))
