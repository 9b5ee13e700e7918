"""Nodes that fetch layers from each other: real fillers and servers, a real S3 server whose bytes are counted."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kigi.domain.layers import Chain, digest_hex, layer_file_name
from kigi.errors import KigiError
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.node.kube import KubeApi
from kigi_cache.sources.pace import LeastPace
from kigi_cache.sources.peer_connections import PeerConnections, serve_peers
from kigi_cache.sources.peer_ranking import ranked
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource, PeerTimeouts
from kigi_cache.sources.peer_tokens import AUDIENCE, PeerTokens
from kigi_cache.sources.rival import RacePolicy
from kigi_cache.sources.s3 import S3Source
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port
from localcluster.s3 import S3Server
from tests.support.cluster import eventually_async
from tests.support.faulty_proxy import FaultyProxy
from tests.support.filling import states
from tests.support.layers import environment, make_chain, repositories, upload, wanted
from tests.support.peers import certificate, client_context, shared_pins, until_listening
from tests.support.stored import rot

MIB = 2**20
TOKEN = "a daemon's"
PATIENT = PeerTimeouts(connect_s=20.0, silence_s=30.0, unknown_s=10.0)
"""Bytes are counted here, whatever the load of the machine: a node that does not get the processor is not gone."""
ANY_PACE = LeastPace(bytes_per_s=0.0, window_s=1.0)
NO_RACE = RacePolicy(enough_bytes_per_s=0.0)


@dataclass
class Node:
    """The parts of one daemon: a store, a filler, and the server for the others."""

    address: str
    filler: Filler
    source: S3Source
    errors: list[KigiError]
    filling: asyncio.Task[None]
    serving: asyncio.Task[None]

    async def die(self) -> None:
        """Stop its server in the middle of what it sends."""
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)

    async def close(self) -> None:
        self.filling.cancel()
        await asyncio.gather(self.filling, return_exceptions=True)
        await self.die()
        self.source.close()


async def peer_of(token: str) -> str:
    return token if token.startswith(TOKEN) else ""


@asynccontextmanager
async def cluster(
    directory: Path, endpoint: str, bucket: str, s3: S3Server, count: int, tokens: dict[int, str] | None = None
) -> AsyncIterator[list[Node]]:
    """``count`` nodes that know each other."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
    nodes: list[Node] = []
    try:
        for number, address in enumerate(addresses):
            source = S3Source(repositories(endpoint, bucket), environment(s3), connections=2)
            others = [other for other in addresses if other != address]
            token = (tokens or {}).get(number, f"{TOKEN} {number}")
            peers = PeerSource(
                source,
                address,
                lambda others=others: others,  # type: ignore[misc]
                lambda token=token: token,  # type: ignore[misc]
                shared_pins(),
                timeouts=PATIENT,
                least_pace=ANY_PACE,
                race=NO_RACE,
            )
            errors: list[KigiError] = []
            filler = Filler(
                Store(directory / f"node-{number}"),
                peers,
                Budget(2**40),
                max_transfers=2,
                on_error=lambda digest, error, errors=errors: errors.append(error),  # type: ignore[misc]
            )
            connections = PeerConnections()
            app, port = build_peer_app(filler, peer_of, connections), int(address.rpartition(":")[2])
            serving = serve_peers(app, connections, lambda: certificate().context, "127.0.0.1", port)
            nodes.append(
                Node(address, filler, source, errors, asyncio.create_task(filler.run()), asyncio.create_task(serving))
            )
            await until_listening(connections, nodes[-1].serving)
        yield nodes
    finally:
        await asyncio.gather(*(node.close() for node in nodes))


def in_order(nodes: list[Node], chain: Chain) -> list[Node]:
    """The nodes in the ranking of the chain's first layer."""
    order = ranked(chain[0].digest, [node.address for node in nodes])
    return sorted(nodes, key=lambda node: order.index(node.address))


async def all_held(nodes: list[Node], chain: Chain, timeout_s: float = 60) -> None:
    wanted_states = {layer.digest: "Held" for layer in chain}
    await eventually_async(lambda: all(states(node.filler) == wanted_states for node in nodes), timeout_s)


@pytest.fixture
def chain(tmp_path: Path, s3: S3Server, bucket: str) -> Chain:
    """One layer of 24 MiB and two smaller ones."""
    made = make_chain(tmp_path / "src", 3, size_bytes=4 * MIB)
    upload(s3, bucket, tmp_path / "src", made)
    return made


@pytest.fixture
def big(tmp_path: Path, s3: S3Server, bucket: str) -> Chain:
    """One layer."""
    made = make_chain(tmp_path / "big", 1, size_bytes=48 * MIB, seed=9)
    upload(s3, bucket, tmp_path / "big", made)
    return made


@pytest.mark.parametrize("which", ["chain", "big"])
async def test_eight_nodes_read_the_repository_about_once(
    s3: S3Server, bucket: str, tmp_path: Path, which: str, request: pytest.FixtureRequest
) -> None:
    layers: Chain = request.getfixturevalue(which)
    size = sum(layer.size_bytes for layer in layers)
    async with FaultyProxy(s3.endpoint) as proxy, cluster(tmp_path, proxy.endpoint, bucket, s3, 8) as nodes:
        for node in nodes:
            node.filler.want(wanted(layers))
        await all_held(nodes, layers)
        assert proxy.answered_bytes <= 1.2 * size
        assert not any(node.errors for node in nodes)


async def test_a_node_that_comes_later_reads_all_layers_from_its_peers(
    s3: S3Server, bucket: str, tmp_path: Path, chain: Chain
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy, cluster(tmp_path, proxy.endpoint, bucket, s3, 3) as nodes:
        for node in nodes[:2]:
            node.filler.want(wanted(chain))
        await all_held(nodes[:2], chain)
        before = proxy.answered_bytes
        proxy.faults.refuse = True  # the repository is down, and not needed
        nodes[2].filler.want(wanted(chain))
        await all_held(nodes, chain)
        assert proxy.answered_bytes == before


async def test_when_the_first_node_dies_the_others_continue_from_the_same_byte(
    s3: S3Server, bucket: str, tmp_path: Path, big: Chain
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy, cluster(tmp_path, proxy.endpoint, bucket, s3, 3) as nodes:
        proxy.faults.bytes_per_s = 40 * MIB
        for node in nodes:
            node.filler.want(wanted(big))
        first, *others = in_order(nodes, big)
        await eventually_async(lambda: (others[0].filler.available_bytes(big[0].digest) or 0) > 8 * MIB)
        await first.die()
        await all_held(others, big)
        assert not any(node.errors for node in others)
        assert proxy.answered_bytes < 2.5 * big[0].size_bytes


async def test_a_peer_that_gives_wrong_bytes_is_not_used_and_the_layer_is_fetched_again(
    s3: S3Server, bucket: str, tmp_path: Path, big: Chain
) -> None:
    async with cluster(tmp_path, s3.endpoint, bucket, s3, 2) as nodes:
        first, second = in_order(nodes, big)
        first.filler.want(wanted(big))
        await all_held([first], big)
        rot(first.filler.store, big[0].digest, 30 * MIB)
        second.filler.want(wanted(big))
        await eventually_async(lambda: states(second.filler) == {big[0].digest: "Held"}, 30)
        assert [error.reason for error in second.errors] == ["LayerCorrupt"]
        held = second.filler.store.path(big[0].digest)
        assert held.read_bytes() == (tmp_path / "big" / layer_file_name(big[0].digest)).read_bytes()


async def test_a_node_that_its_peers_refuse_uses_the_repository(
    s3: S3Server, bucket: str, tmp_path: Path, chain: Chain
) -> None:
    async with cluster(tmp_path, s3.endpoint, bucket, s3, 2, {0: "forged", 1: "forged"}) as nodes:
        for node in nodes:
            node.filler.want(wanted(chain))
        await all_held(nodes, chain)
        assert not any(node.errors for node in nodes)


async def test_a_silent_peer_is_left(s3: S3Server, bucket: str, tmp_path: Path, big: Chain) -> None:
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    source = S3Source(repositories(s3.endpoint, bucket), environment(s3))
    quick = PeerTimeouts(silence_s=0.5)
    peers = PeerSource(
        source, "127.0.0.1:1", lambda: [f"127.0.0.1:{port}"], lambda: TOKEN, shared_pins(), timeouts=quick
    )
    data = await asyncio.to_thread(lambda: b"".join(map(bytes, peers.read(big[0], 0))))
    assert len(data) == big[0].size_bytes
    silent.close()
    source.close()


async def test_the_server_refuses_what_it_should(s3: S3Server, bucket: str, tmp_path: Path, chain: Chain) -> None:
    async with cluster(tmp_path, s3.endpoint, bucket, s3, 1) as (node,):
        node.filler.want(wanted(chain))
        await all_held([node], chain)
        name = digest_hex(chain[0].digest)

        def ask(path: str, token: str = TOKEN) -> int:
            request = urllib.request.Request(
                f"https://{node.address}{path}", headers={"Authorization": f"Bearer {token}"}
            )
            try:
                with urllib.request.urlopen(request, timeout=5, context=client_context()) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as exc:
                return int(exc.code)

        codes = {
            f"/layers/sha256/{name}": 200,
            f"/layers/sha256/{'0' * 64}": 404,
            f"/layers/sha256/{'0' * 63}": 400,
            "/layers/sha256/..%2f..%2fstate.json": 400,
            f"/layers/sha256/{name}?start=-1": 416,
            f"/layers/sha256/{name}?start=x": 400,
            f"/layers/sha256/{name}?start={2**40}": 416,
            "/state.json": 404,
        }
        for path, code in codes.items():
            assert await asyncio.to_thread(ask, path) == code, path
        assert await asyncio.to_thread(ask, f"/layers/sha256/{name}", "forged") == 401


async def test_tokens_are_reviewed_by_the_api_server(
    crds: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token of the daemons' account for this audience is accepted; of another account or audience it is not."""
    for account in ("daemons", "others"):
        crds.kubectl("create", "serviceaccount", account, "-n", "default")
    own, peer = (crds.kubectl("create", "token", "daemons", "-n", "default", f"--audience={AUDIENCE}") for _ in "ab")
    stranger = crds.kubectl("create", "token", "others", "-n", "default", f"--audience={AUDIENCE}")
    elsewhere = crds.kubectl("create", "token", "daemons", "-n", "default")
    (tmp_path / "token").write_text(own)
    monkeypatch.setenv("KUBECONFIG", str(crds.kubeconfig))
    api = KubeApi("a")
    await api.open()
    try:
        tokens = PeerTokens(api, tmp_path / "token")
        assert await tokens.peer(peer.strip())
        for wrong in (stranger, elsewhere, peer.strip() + "x", "forged"):
            assert not await tokens.peer(wrong.strip())
        assert await api.peer_addresses("default", "kigi-peers") == {}
    finally:
        await api.close()
