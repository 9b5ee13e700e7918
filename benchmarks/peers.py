"""Eight nodes fetch the same gibibyte at the same time: from each other, against each from the repository.

Each node is a process with its own root, connections and peer server. The S3 server is real, and a proxy counts the
bytes that it sends. These bytes are the result: the seconds depend on the disk and the processors of the one machine.
One measurement has 17 layers, another a single layer.

    python benchmarks/peers.py [--nodes 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from kigi.domain.layers import Chain
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.sources.peer_certificates import make_certificate
from kigi_cache.sources.peer_connections import PeerConnections, serve_peers
from kigi_cache.sources.peer_server import build_peer_app
from kigi_cache.sources.peer_source import PeerSource
from kigi_cache.sources.rival import RacePolicy
from kigi_cache.sources.s3 import S3Source
from kigi_cache.sources.source import Source
from localcluster.processes import free_port
from localcluster.s3 import S3Server
from tests.support import layers as disks
from tests.support.faulty_proxy import FaultyProxy
from tests.support.layers import environment, make_chain, repositories, upload

MIB = 2**20
SHAPES = {"17-layers": (17, 62 * MIB), "one-layer": (1, 1020 * MIB)}
TARGET = 1.2
NO_RACE = RacePolicy(enough_bytes_per_s=0.0)
"""All nodes have the disk of this machine: one that waits for it would seem slow, and the repository be read too."""


async def peer_of(token: str) -> str:
    """In place of the API server's review."""
    return token


class Pins:
    """In place of the nodes' Leases: a file for each node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def publish(self, peer: str, fingerprint: str) -> None:
        """What the daemon of this address shows from now on."""
        self._directory.mkdir(exist_ok=True)
        (self._directory / peer).write_text(fingerprint)

    def of(self, peer: str) -> frozenset[str]:
        """See Pins."""
        return frozenset({(self._directory / peer).read_text()})

    again = of


async def _node(
    root: Path, endpoint: str, env: dict[str, str], chain: Chain, me: str, others: list[str], go: Any, done: Any
) -> None:
    source, connections = S3Source(repositories(endpoint, "bench"), env), PeerConnections()
    certificate, pins = make_certificate(time.time()), Pins(root.parent / "pins")
    pins.publish(me, certificate.fingerprint)
    peers: Source = PeerSource(source, me, lambda: others, lambda: me, pins, race=NO_RACE) if others else source
    filler = Filler(Store(root), peers, Budget(2**40))
    host, _, port = me.rpartition(":")
    app = build_peer_app(filler, peer_of, connections)
    tasks = [
        asyncio.create_task(filler.run()),
        asyncio.create_task(serve_peers(app, connections, lambda: certificate.context, host, int(port))),
    ]
    await asyncio.to_thread(go.wait)
    await filler.ensure(chain)
    await asyncio.to_thread(done.wait)  # it continues to serve the others
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    source.close()


def _process(*arguments: Any) -> None:
    asyncio.run(_node(*arguments))


async def _turn(scratch: Path, s3: S3Server, chain: Chain, nodes: int, *, peers: bool) -> dict[str, float]:
    """Seconds until all nodes hold all layers, and bytes sent by the S3 server."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(nodes)]
    fork = multiprocessing.get_context("spawn")
    go, done = fork.Barrier(nodes + 1), fork.Barrier(nodes + 1)
    async with FaultyProxy(s3.endpoint) as proxy:
        processes = []
        for number, me in enumerate(addresses):
            others = [other for other in addresses if other != me] if peers else []
            arguments = (scratch / f"node-{number}", proxy.endpoint, environment(s3), chain, me, others, go, done)
            processes.append(fork.Process(target=_process, args=arguments))
            processes[-1].start()
        os.sync()
        await asyncio.to_thread(go.wait)
        began = time.perf_counter()
        await asyncio.to_thread(done.wait)
        seconds = time.perf_counter() - began
        for process in processes:
            await asyncio.to_thread(process.join)
        sent = proxy.answered_bytes
    for number in range(nodes):
        shutil.rmtree(scratch / f"node-{number}")
    return {"seconds": seconds, "s3_bytes": sent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    disks.VIRTUAL_BYTES = 2 * 2**30  # so that the one layer fits
    result: dict[str, Any] = {"nodes": options.nodes, "load_average_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="kigi-peers-") as name, S3Server(Path(name) / "s3") as s3:
        s3.create_bucket("bench")
        for shape, (layers, size_bytes) in SHAPES.items():
            chain = make_chain(Path(name) / shape, layers, size_bytes)
            upload(s3, "bench", Path(name) / shape, chain)
            shutil.rmtree(Path(name) / shape)
            total = sum(layer.size_bytes for layer in chain)
            for way, peers in (("peers", True), ("repository", False)):
                turn = asyncio.run(_turn(Path(name), s3, chain, options.nodes, peers=peers))
                turn["share"] = turn["s3_bytes"] / total
                result[f"{shape}, {way}"] = turn
                print(f"{shape:10} {way:11} {turn['seconds']:6.1f} s   S3 sent {turn['share']:.3f} of one copy")
            assert result[f"{shape}, peers"]["share"] <= TARGET, f"the repository sent more than {TARGET} copies"
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
