"""The daemon among failures: killed at any moment, without API server, with damaged files. Needs root."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from kigi.api.node_cache import NodeCache
from kigi.domain.layers import Chain, digest_hex
from kigi.domain.names import NODE_API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import LayerFile, build_chain, layers_of
from tests.support.cluster import eventually, eventually_async, install_crds
from tests.support.daemons import Node, daemon_env
from tests.support.faulty_proxy import FaultyProxy
from tests.support.layers import node_cache, upload, wanted
from tests.support.raw_api import RawApi
from tests.support.why import explained

CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"


@pytest.fixture
def files(tmp_path: Path, s3: S3Server, bucket: str) -> list[LayerFile]:
    built = build_chain(tmp_path / "source", length=4, size_bytes=4 * 2**20)
    upload(s3, bucket, tmp_path / "source", layers_of(built))
    return built


@pytest.fixture
def nodes(tmp_path: Path, s3: S3Server, bucket: str) -> Iterator[Callable[[str, ControlPlane], Node]]:
    made: list[Node] = []

    def node(name: str, api: ControlPlane) -> Node:
        made.append(Node(tmp_path / name, name, daemon_env(api.kubeconfig, s3, bucket)))
        return made[-1]

    yield node
    for one in made:
        one.close()


def create(server: RawApi, name: str, chain: Chain) -> None:
    layers = [layer.to_api() for layer in wanted(chain)]
    server.create(CACHES, node_cache(name, layers=layers)).object()


def cache_of(server: RawApi, name: str) -> NodeCache:
    return NodeCache.model_validate(server.get(f"{CACHES}/{name}").object())


def is_ready(cache: NodeCache) -> bool:
    current = cache.status.observed_generation == cache.metadata.generation
    return current and any(c.type == "Ready" and c.status == "True" for c in cache.status.conditions)


def publish_until_it_works(node: Node, chain: Chain) -> None:
    """Publish as a kubelet does: again and again until it works."""

    def published() -> bool:
        try:
            node.publish(HANDLE, chain)
        except grpc.RpcError:
            return False
        return True

    eventually(published, 60)


@contextmanager
def kubelet(*calls: Callable[[], None]) -> Iterator[None]:
    """Make these calls again and again, whatever comes back, until the block ends."""
    done = threading.Event()

    def repeat() -> None:
        while not done.is_set():
            for call in calls:
                try:
                    call()
                except grpc.RpcError:
                    time.sleep(0.02)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def die_and_start_again(node: Node, chance: random.Random) -> None:
    """SIGKILL at some moment between its start and the time when it has nothing more to do."""
    ready_after_s = 1.5
    time.sleep(chance.uniform(0, ready_after_s))
    node.kill()
    node.start()


def test_killed_at_any_moment_it_ends_in_the_same_state(
    crds: ControlPlane, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    """Forty kills, from the first import to the steady state, while a kubelet mounts and unmounts."""
    server, chain = RawApi(crds.kubeconfig), layers_of(files)
    create(server, "faults-a", chain)
    node = nodes("faults-a", crds)
    chance = random.Random(1)
    with kubelet(lambda: node.publish(HANDLE, chain, timeout_s=10), lambda: node.unpublish(HANDLE)):
        node.start().wait_ready()
        for _ in range(40):
            die_and_start_again(node, chance)
        node.wait_ready()
    publish_until_it_works(node, chain)
    cache = eventually(
        lambda: is_ready(c := cache_of(server, "faults-a")) and any(v.mounted for v in c.status.volumes) and c
    )
    assert {layer.state for layer in cache.status.layers} == {"Held"}
    assert {layer.links for layer in cache.status.layers} == {1}
    assert cache.status.used_bytes == sum(layer.size_bytes for layer in chain)
    assert [(v.name, v.mounted) for v in cache.status.volumes] == [(HANDLE, True)]
    assert [m.point for m in node.mounts()] == [node.target(), node.target() + "/chain"]
    assert sorted(os.listdir(node.root / "volumes")) == [".empty", ".labels", ".new", ".old", HANDLE]
    assert os.listdir(node.root / "volumes" / ".new") == os.listdir(node.root / "volumes" / ".old") == []
    assert os.listdir(node.root / "incoming") == []
    assert os.listdir(node.root / "quarantine") == []


def test_killed_in_each_of_forty_switches_it_leaves_just_the_newest_disk(
    crds: ControlPlane, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    """To and fro between two states; each switch is a new disk to publish, other layers, and old disks to discard."""
    server, longer = RawApi(crds.kubeconfig), layers_of(files)
    chains = (longer[:-1], longer)
    create(server, "faults-s", chains[0])
    node = nodes("faults-s", crds)
    chance = random.Random(2)
    revisions = [HANDLE]

    def desired() -> tuple[str, Chain]:
        return revisions[-1], chains[(len(revisions) - 1) % 2]

    published: set[str] = set()

    def publish_newest() -> None:
        handle, chain = desired()
        for older in sorted(published - {handle}):
            node.unpublish(older, pod=older)
            published.remove(older)
        published.add(handle)
        node.publish(handle, chain, pod=handle, timeout_s=10)

    with kubelet(publish_newest):
        node.start().wait_ready()
        for number in range(2, 42):
            revisions.append(HANDLE.replace(".r1.", f".r{number}."))
            layers = [layer.to_api() for layer in wanted(desired()[1])]
            spec = {"layers": layers, "discardVolumes": revisions[:-1]}
            server.patch(f"{CACHES}/faults-s", {"spec": spec}).object()
            die_and_start_again(node, chance)
        node.wait_ready()
        cache = eventually(
            lambda: (
                is_ready(c := cache_of(server, "faults-s"))
                and [(v.name, v.mounted) for v in c.status.volumes] == [(revisions[-1], True)]
                and c
            ),
            60,
        )
    needed = {layer.digest for layer in desired()[1]}
    assert {layer.digest: layer.links for layer in cache.status.layers if layer.links} == dict.fromkeys(needed, 1)
    assert {layer.digest for layer in cache.status.layers if layer.state == "Held"} >= needed
    assert sorted(os.listdir(node.root / "volumes")) == [".empty", ".labels", ".new", ".old", revisions[-1]]
    assert os.listdir(node.root / "volumes" / ".new") == os.listdir(node.root / "volumes" / ".old") == []
    assert {m.point for m in node.mounts()} == {node.target(revisions[-1]), node.target(revisions[-1]) + "/chain"}


def test_disks_are_served_without_the_api_server_and_the_status_follows_when_it_returns(
    tmp_path: Path, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    chain = layers_of(files)
    with ControlPlane(tmp_path / "own") as api:
        install_crds(api)
        server = RawApi(api.kubeconfig)
        create(server, "faults-b", chain[:1])
        node = nodes("faults-b", api).start().wait_ready()
        eventually(lambda: is_ready(cache_of(server, "faults-b")))
        api.stop()
        node.publish(HANDLE, chain)
        assert (node.seen(node.target()) / "disk.img").exists()
        time.sleep(5)
        node.unpublish(HANDLE)
        node.publish(HANDLE, chain)
        assert node.get("/healthz") == "ok\n"
        api.start()
        reported = eventually(lambda: (c := cache_of(server, "faults-b")).status.volumes and c, 60)
        assert [(v.name, v.mounted) for v in reported.status.volumes] == [(HANDLE, True)]
        assert {layer.digest for layer in reported.status.layers} == {layer.digest for layer in chain}
        server.patch(f"{CACHES}/faults-b", {"spec": {"layers": [x.to_api() for x in wanted(chain)]}}).object()
        eventually(lambda: is_ready(cache_of(server, "faults-b")), 60, "the watch came back")


def test_a_daemon_starts_and_serves_disks_without_the_api_server(
    tmp_path: Path, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    with ControlPlane(tmp_path / "own") as api:
        api.stop()
        node = nodes("faults-c", api).start().wait_ready()
        node.publish(HANDLE, layers_of(files))
        assert (node.seen(node.target()) / "disk.img").exists()


def test_a_damaged_layer_heals_under_its_disk(
    crds: ControlPlane, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    server, chain = RawApi(crds.kubeconfig), layers_of(files)
    create(server, "faults-d", chain)
    node = nodes("faults-d", crds).start().wait_ready()
    node.publish(HANDLE, chain)
    node.unpublish(HANDLE)
    held = node.root / "layers" / f"{digest_hex(chain[1].digest)}.qcow2"
    damaged = bytearray(held.read_bytes())
    damaged[-1] ^= 1
    os.chmod(held, 0o644)
    held.write_bytes(damaged)
    publish_until_it_works(node, chain)
    assert held.read_bytes() == files[1].path.read_bytes()
    linked = node.seen(node.target()) / "chain" / held.name
    assert linked.read_bytes() == files[1].path.read_bytes()

    def has_event() -> bool:
        events = server.get("/api/v1/namespaces/default/events").object()["items"]
        return any(e["reason"] == "LayerCorrupt" and e["involvedObject"]["name"] == "faults-d" for e in events)

    eventually(has_event)


def test_a_deleted_and_made_again_nodecache_is_followed(
    crds: ControlPlane, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    server, chain = RawApi(crds.kubeconfig), layers_of(files)
    node = nodes("faults-e", crds).start().wait_ready()
    create(server, "faults-e", chain[:1])
    eventually(lambda: is_ready(cache_of(server, "faults-e")))
    server.delete(f"{CACHES}/faults-e")
    create(server, "faults-e", chain[:2])
    cache = eventually(lambda: is_ready(c := cache_of(server, "faults-e")) and c)
    assert {layer.digest for layer in cache.status.layers} == {layer.digest for layer in chain[:2]}
    assert node.get("/readyz") == "ok\n"


def test_layers_beyond_the_budget_are_refused_before_a_byte_moves(
    crds: ControlPlane, nodes: Callable[[str, ControlPlane], Node], files: list[LayerFile]
) -> None:
    server, chain = RawApi(crds.kubeconfig), layers_of(files)
    create(server, "faults-f", chain)
    node = nodes("faults-f", crds).start(KIGI_BUDGET_BYTES=str(chain[0].size_bytes)).wait_ready()

    def stalled() -> NodeCache | None:
        cache = cache_of(server, "faults-f")
        true = [(c.type, c.reason) for c in cache.status.conditions if c.status == "True"]
        return cache if true == [("Stalled", "BudgetExceeded")] else None

    cache = eventually(stalled)
    assert cache.status.used_bytes <= chain[0].size_bytes
    with pytest.raises(grpc.RpcError) as refused:
        node.publish(HANDLE, chain)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.why("LayersFetching")
async def test_the_condition_reports_progress(
    tmp_path: Path, crds: ControlPlane, s3: S3Server, bucket: str, files: list[LayerFile]
) -> None:
    server, chain = RawApi(crds.kubeconfig), layers_of(files)
    create(server, "slow", chain)

    def progress() -> str | None:
        conditions = cache_of(server, "slow").status.conditions
        return next((c.message for c in conditions if c.reason == "LayersFetching" and explained(c.reason)), None)

    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.bytes_per_s = 100_000
        env = {**daemon_env(crds.kubeconfig, s3, bucket), "KIGI_S3_ENDPOINT": proxy.endpoint}
        node = Node(tmp_path / "slow", "slow", env)
        try:
            await asyncio.to_thread(lambda: node.start().wait_ready())
            message = await eventually_async(lambda: asyncio.to_thread(progress))
            assert "of 4 layers" in message
            proxy.faults.bytes_per_s = None
            await eventually_async(lambda: asyncio.to_thread(lambda: is_ready(cache_of(server, "slow"))))
        finally:
            await asyncio.to_thread(node.close)
