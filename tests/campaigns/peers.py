"""Byzantine peers: daemons among which some waste time, answer nonsense or lie, and floods of anonymous connections.

1. Reads: a layer that a disk waits for is read with each behaviour in front of the repository.
2. Fills: nodes fetch the same layers from each other, a third of them hostile, and again with honest nodes alone.
3. Floods: connections without a handshake, with half of one, without a token, with half requests and with made-up
   tokens, while daemons fetch layers; one from 32 addresses, and one from the very address that the daemons have.

What must hold: every layer arrives with its digest; each read takes at most ``READ_S``, fills at most twice the time
without hostile peers; fewer than 10 TokenReviews in a second; and daemons are served in the middle of the flood.

    python -m tests.campaigns.peers --seed 1 --nodes 30 --connections 10000 > peers.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import random
import resource
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kigi.domain.layers import Chain, Digest, Layer, layer_file_name
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.sources.peer_connections import PeerConnections, serve_peers
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource
from kigi_cache.sources.peer_tokens import PeerTokens
from localcluster.processes import free_port
from tests.support.cluster import eventually_async
from tests.support.hostile_peers import BEHAVIOURS, Behaviour, another_each_time, hostile_peer
from tests.support.layers import make_chain, wanted
from tests.support.peers import certificate, client_context, shared_pins
from tests.support.tokens import ACCOUNT, Issuer, forgeries

MIB = 2**20
ME = "127.0.0.1:1"
READ_S = 10.0
MAX_SLOWER = 2.0
MAX_REVIEWS_PER_S = 10
FILL_S = 300.0


class Repository:
    """A repository of files, which sends each reader ``bytes_per_s``."""

    def __init__(self, contents: dict[str, bytes], bytes_per_s: float = float("inf")) -> None:
        self.contents = contents
        self.bytes_per_s = bytes_per_s
        self.sent_bytes = 0

    def read(self, layer: Layer, start: int, is_urgent: object = None) -> Iterator[memoryview]:
        content = memoryview(self.contents[layer.digest])
        for at in range(start, len(content), MIB // 4):
            piece = content[at : at + MIB // 4]
            time.sleep(len(piece) / self.bytes_per_s)
            self.sent_bytes += len(piece)
            yield piece

    def distrust(self, digest: Digest) -> None: ...

    def done(self, digest: Digest) -> None: ...


def load(directory: Path, chain: Chain) -> dict[str, bytes]:
    """Content of each layer of the chain by its digest."""
    return {layer.digest: (directory / layer_file_name(layer.digest)).read_bytes() for layer in chain}


def read_against(behaviour: Behaviour, contents: dict[str, bytes], layer: Layer) -> dict[str, Any]:
    """Reads the layer until it is right, as a node does; seconds and attempts."""
    with hostile_peer(behaviour, contents) as address:
        source = PeerSource(Repository(contents), ME, lambda: {address}, lambda: "t", shared_pins())
        began_s = time.monotonic()
        attempts, received = 0, b""
        while received != contents[layer.digest] and attempts < 2:
            if attempts:
                source.distrust(layer.digest)
            attempts += 1
            received = b"".join(map(bytes, source.read(layer, 0, lambda: True)))
        seconds = time.monotonic() - began_s
    return {"seconds": round(seconds, 2), "attempts": attempts, "right": received == contents[layer.digest]}


def reads(seed: int, contents: dict[str, bytes], layer: Layer, limit_s: float = READ_S) -> dict[str, Any]:
    """Part 1: all behaviours at the same time, each in front of a repository of its own."""
    behaviours = {**BEHAVIOURS, **{f"mixed-{n}": another_each_time(seed + n) for n in range(4)}}
    with ThreadPoolExecutor(len(behaviours)) as threads:
        found = threads.map(lambda name: read_against(behaviours[name], contents, layer), behaviours)
    cases = dict(zip(behaviours, found, strict=True))
    failed = [name for name, case in cases.items() if not case["right"] or case["seconds"] > limit_s]
    slowest = max(cases, key=lambda name: cases[name]["seconds"])
    return {"behaviours": len(cases), "failed": failed, "slowest": {slowest: cases[slowest]}, "cases": cases}


async def peer_of(token: str) -> str:
    """In place of the tokens' check."""
    return token


def shared_context() -> ssl.SSLContext:
    """The certificate of all daemons."""
    return certificate().context


async def fill(
    directory: Path, repository: Repository, chain: Chain, honest: int, hostile: Sequence[str]
) -> tuple[float, int]:
    """Seconds until the honest nodes hold the chain, and the nodes that do not hold it in time."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(honest)]
    members = [*addresses, *hostile]
    fillers: list[Filler] = []
    tasks: list[asyncio.Task[None]] = []
    for number, me in enumerate(addresses):
        others = frozenset(members) - {me}
        peers = PeerSource(repository, me, lambda others=others: others, lambda me=me: me, shared_pins())  # type: ignore[misc]
        filler = Filler(Store(directory / str(number)), peers, Budget(2**40), max_transfers=2)
        connections = PeerConnections()
        app = build_peer_app(filler, peer_of, connections)
        host, _, port = me.rpartition(":")
        fillers.append(filler)
        tasks += [
            asyncio.create_task(filler.run()),
            asyncio.create_task(serve_peers(app, connections, shared_context, host, int(port))),
        ]
    began_s = time.monotonic()
    for filler in fillers:
        filler.want(wanted(chain))

    def missing() -> int:
        return sum(not all(filler.store.is_held(layer.digest) for layer in chain) for filler in fillers)

    try:
        with contextlib.suppress(AssertionError, TimeoutError):
            await eventually_async(lambda: not missing(), FILL_S)
        return time.monotonic() - began_s, missing()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fills(
    seed: int, directory: Path, contents: dict[str, bytes], chain: Chain, nodes: int, rounds: int
) -> dict[str, Any]:
    """Part 2: ``rounds`` of fills with other hostile peers each; the worst round counts."""
    choice = random.Random(seed)
    hostile_nodes = nodes // 3
    honest = nodes - hostile_nodes
    rate = 6 * MIB

    def run(name: str, hostile: Sequence[str]) -> tuple[float, int]:
        with tempfile.TemporaryDirectory(dir=directory, prefix=name) as folder:
            return asyncio.run(fill(Path(folder), Repository(contents, rate), chain, honest, hostile))

    before_s, lost = run("honest", [])
    worst = {"seconds": 0.0, "behaviours": list[str]()}
    names = sorted(BEHAVIOURS) * 2
    choice.shuffle(names)
    for number in range(rounds):
        chosen = [names[(number * hostile_nodes + n) % len(names)] for n in range(hostile_nodes)]
        with contextlib.ExitStack() as stack:
            hostile = [stack.enter_context(hostile_peer(BEHAVIOURS[name], contents)) for name in chosen]
            seconds, missing = run("hostile", hostile)
        lost += missing
        if seconds > worst["seconds"]:  # type: ignore[operator]
            worst = {"seconds": round(seconds, 2), "behaviours": chosen}
    slower = worst["seconds"] / before_s  # type: ignore[operator]
    return {
        "nodes": nodes,
        "hostile": hostile_nodes,
        "rounds": rounds,
        "honest_s": round(before_s, 2),
        "worst": worst,
        "slower": round(slower, 2),
        "nodes_without_a_layer": lost,
        "holds": not lost and (not rounds or slower <= MAX_SLOWER),
    }


class Reviews:
    """In place of the API server: takes 50 ms for a review, and counts those of each second."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.times_s: list[float] = []
        self.keys_read = 0

    async def review_token(self, token: str, audience: str) -> str:
        self.times_s.append(time.monotonic())
        await asyncio.sleep(0.05)
        return ACCOUNT

    async def token_keys(self) -> dict[str, Any]:
        self.keys_read += 1
        return self.issuer.keys

    def most_per_s(self) -> int:
        return max((sum(at <= t < at + 1 for t in self.times_s) for at in self.times_s), default=0)


async def flood(
    seed: int, directory: Path, contents: dict[str, bytes], layer: Layer, connections: int, addresses: int
) -> dict[str, Any]:
    """Part 3: ``connections`` by strangers, from 127.0.0.1 on; meanwhile daemons fetch a layer from 127.0.0.1."""
    issuer, choice = Issuer(), random.Random(seed)
    reviews = Reviews(issuer)
    (directory / "token").write_text(issuer.token("me"))
    tokens = PeerTokens(reviews, directory / "token")
    filler = Filler(Store(directory / f"flooded-from-{addresses}"), Repository(contents), Budget(2**40))
    bounds, port = PeerConnections(), free_port()
    app = build_peer_app(filler, tokens.peer, bounds)
    running = [
        asyncio.create_task(filler.run()),
        asyncio.create_task(serve_peers(app, bounds, shared_context, "127.0.0.1", port)),
    ]
    filler.want(wanted((layer,)))
    await eventually_async(lambda: filler.store.is_held(layer.digest), FILL_S)
    forged = list(forgeries(issuer).values())
    most_open, answers = 0, {"accepted": 0}

    context = client_context()

    async def stranger() -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            mine, encrypted = (f"127.0.0.{choice.randint(1, addresses)}", 0), choice.random() < 0.75
            tls = context if encrypted else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=mine, ssl=tls)
            try:
                if not encrypted:  # nothing, or something that is no handshake or not all of one
                    writer.write(choice.choice([b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1"]))
                token = choice.choice(forged)
                request = (
                    f"GET /layers/{layer.digest.replace(':', '/')} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"
                )
                writer.write(
                    request.encode()[: choice.choice([0, 1, 20, len(request) - 1, len(request), len(request)])]
                )
                async with asyncio.timeout(20):
                    answers["accepted"] += b" 200 " in await reader.readline()
            finally:
                writer.transport.abort()

    def daemon(number: int) -> bool:
        address = f"127.0.0.1:{port}"
        repository = Repository(contents)
        source = PeerSource(repository, ME, lambda: {address}, lambda: signed[number % 4], shared_pins())
        return b"".join(map(bytes, source.read(layer, 0))) == contents[layer.digest] and not repository.sent_bytes

    signed = [issuer.token(f"d{number}") for number in range(4)]
    slots = asyncio.Semaphore(400)

    async def bounded() -> None:
        nonlocal most_open
        async with slots:
            await stranger()
            most_open = max(most_open, len(bounds))

    began_s = time.monotonic()
    strangers = [asyncio.create_task(bounded()) for _ in range(connections)]
    served = [await asyncio.to_thread(daemon, number) for number in range(20)]
    await asyncio.gather(*strangers)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {
        "connections": connections,
        "addresses": addresses,
        "seconds": round(time.monotonic() - began_s, 1),
        "accepted": answers["accepted"],
        "most_open": most_open,
        "reviews": len(reviews.times_s),
        "most_reviews_per_s": reviews.most_per_s(),
        "keys_read": reviews.keys_read,
        "daemons_served": sum(served),
        "daemons": len(served),
        "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "holds": not answers["accepted"]
        and reviews.most_per_s() < MAX_REVIEWS_PER_S
        and sum(served) >= (0.8 if addresses == 1 else 1.0) * len(served),
    }


def campaign(
    seed: int,
    nodes: int,
    rounds: int,
    connections: int,
    size_bytes: int = 24 * MIB,
    fill_bytes: int = 24 * MIB,
    limit_s: float = READ_S,
) -> dict[str, Any]:
    """All parts; the result as JSON's types. ``limit_s`` of each read; ``fill_bytes`` of each layer in part 2."""
    with tempfile.TemporaryDirectory(prefix="kigi-peers-") as name:
        directory = Path(name)
        chain = make_chain(directory / "layers", 2, size_bytes, seed=seed % 200)
        contents = load(directory / "layers", chain)
        result: dict[str, Any] = {"campaign": "peers", "seed": seed}
        result["reads"] = reads(seed, contents, chain[0], limit_s)
        filled = make_chain(directory / "filled", 2, fill_bytes, seed=seed % 200)
        result["fills"] = fills(seed, directory, load(directory / "filled", filled), filled, nodes, rounds)
        result["floods"] = [
            asyncio.run(flood(seed, directory, contents, chain[-1], connections, addresses)) for addresses in (32, 1)
        ]
    assert all(hashlib.sha256(data).hexdigest() == digest[7:] for digest, data in contents.items())
    parts = (result["fills"], *result["floods"])
    result["holds"] = not result["reads"]["failed"] and all(part["holds"] for part in parts)
    return result


def main() -> int:
    """Print the result; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description="Byzantine peers and anonymous floods against the cache daemon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--connections", type=int, default=10_000)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    result = campaign(arguments.seed, arguments.nodes, arguments.rounds, arguments.connections)
    json.dump(result, sys.stdout, indent=1)
    print()
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
