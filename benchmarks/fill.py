"""Fill a node's cache with 1 GiB of layers from a real S3 server, against curl fetching the same objects to files.

Kigi hashes every byte, checks each header and commits; curl does none of that. Both take turns in one run, with the
same number of connections, on one file system whose dirty pages are written before each turn. A second figure is the
time until the disk has every byte: Kigi's layers persisted, curl's files fsynced. The server runs on the same machine
and uses its processors in both measurements.

    python -m benchmarks.fill [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from kigi.domain.layers import Chain, Layer, digest_hex, layer_file_name, object_key, parse_digest
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.settings import CONNECTIONS
from kigi_cache.sources.s3 import S3Source
from localcluster.s3 import S3Server
from tests.support.chains import chain_attribute
from tests.support.layers import environment, make_chain, repositories, upload

LAYERS = 17
LAYER_BYTES = 62 * 2**20
"""Data of each layer; slightly more than 1 GiB in all layers."""
TARGET = 0.9


@dataclass(frozen=True)
class Turn:
    """One fill: seconds until VMs could start, and until the data is persisted; processor seconds; peak memory."""

    seconds: float
    persisted_s: float
    cpu_s: float
    peak_bytes: int


async def _fill(root: Path, source: S3Source, chain: Chain) -> Turn:
    cpu, began = time.process_time(), time.perf_counter()
    filler = Filler(Store(root), source, Budget(2**40))
    task = asyncio.create_task(filler.run())
    await filler.ensure(chain)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    while filler.store.unpersisted():  # noqa: ASYNC110 (polled from outside)
        await asyncio.sleep(0.01)
    persisted_s = time.perf_counter() - began
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return Turn(seconds, persisted_s, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def fill_once(root: Path, endpoint: str, bucket: str, rows: list[dict[str, str]]) -> None:
    """Body of the child process: fill ``root`` and print the figures."""
    chain: list[Layer] = []
    for row in rows:
        parent = chain[-1].digest if chain else None
        chain.append(Layer(parse_digest(row["digest"]), int(row["sizeBytes"]), int(row["virtualSizeBytes"]), parent))
    source = S3Source(repositories(endpoint, bucket))
    source.prepare()
    turn = asyncio.run(_fill(root, source, tuple(chain)))
    source.close()
    print(json.dumps(asdict(turn)))


def ours(s3: S3Server, bucket: str, chain: Chain, target: Path) -> Turn:
    """A filler in its own process; start and imports are not counted, because a daemon is running already."""
    command = [sys.executable, "-m", "benchmarks.fill", "--once", str(target), s3.endpoint, bucket]
    done = subprocess.run(
        [*command, chain_attribute(chain)],
        env={**os.environ, **environment(s3)},
        check=True,
        capture_output=True,
        text=True,
    )
    held = {path.name for path in (target / "layers").iterdir()}
    assert held == {layer_file_name(layer.digest) for layer in chain}
    return Turn(**json.loads(done.stdout))


def curl(s3: S3Server, bucket: str, chain: Chain, target: Path) -> Turn:
    """The same objects by one curl, with as many transfers at the same time as we have connections."""
    target.mkdir()
    lines = ["parallel", f"parallel-max = {CONNECTIONS}", "fail", "silent", "show-error"]
    sign: Any = botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.credentials.access_key,
        aws_secret_access_key=s3.credentials.secret_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    for layer in chain:
        key = {"Bucket": bucket, "Key": object_key(layer.digest)}
        lines += ["url = " + json.dumps(sign.generate_presigned_url("get_object", Params=key))]
        lines += [f'output = "{target / digest_hex(layer.digest)}"']
    config = target.with_suffix(".curl")
    config.write_text("\n".join(lines))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(["curl", "--no-progress-meter", "--config", str(config)], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for layer in chain:
        with (target / digest_hex(layer.digest)).open() as file:
            assert os.fstat(file.fileno()).st_size == layer.size_bytes
            os.fsync(file.fileno())
    persisted_s = time.perf_counter() - began
    return Turn(seconds, persisted_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 0)


def measure(rounds: int, directory: Path) -> dict[str, Any]:
    """Both fills in each round, in alternating order; ratio = curl's seconds / our seconds of the same round."""
    chain = make_chain(directory / "src", LAYERS, LAYER_BYTES)
    turns: dict[str, list[Turn]] = {"ours": [], "curl": []}
    with S3Server(directory / "s3") as s3:
        bucket = s3.create_bucket("bench")
        upload(s3, bucket, directory / "src", chain)
        shutil.rmtree(directory / "src")
        for number in range(rounds + 1):
            for run in (ours, curl) if number % 2 else (curl, ours):
                os.sync()
                target = directory / "target"
                turn = run(s3, bucket, chain, target)
                shutil.rmtree(target)
                if number:  # the first round warms the server's page cache
                    turns[run.__name__].append(turn)
    total = sum(layer.size_bytes for layer in chain)
    pairs = list(zip(turns["ours"], turns["curl"], strict=True))
    return {
        "bytes": total,
        "layers": LAYERS,
        "connections": CONNECTIONS,
        "rounds": rounds,
        "load_average": os.getloadavg()[0],
        "processors": os.cpu_count(),
        "ratio": _spread([theirs.seconds / mine.seconds for mine, theirs in pairs]),
        "persisted_ratio": _spread([theirs.persisted_s / mine.persisted_s for mine, theirs in pairs]),
        "mb_per_s": {
            name: statistics.median(total / 1e6 / turn.seconds for turn in found) for name, found in turns.items()
        },
        "persisted_s": {name: statistics.median(turn.persisted_s for turn in found) for name, found in turns.items()},
        "cpu_s": {name: statistics.median(turn.cpu_s for turn in found) for name, found in turns.items()},
        "peak_bytes": max(turn.peak_bytes for turn in turns["ours"]),
        "turns": {name: [asdict(turn) for turn in found] for name, found in turns.items()},
        "target_ratio": TARGET,
    }


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def table(result: dict[str, Any]) -> str:
    """Text table of the result."""
    lines = [f"{'':6} {'MB/s (median)':>14} {'processor s':>12} {'on disk s':>10}"]
    for name in ("ours", "curl"):
        speed, cpu_s, persisted_s = (result[key][name] for key in ("mb_per_s", "cpu_s", "persisted_s"))
        lines.append(f"{name:6} {speed:14.0f} {cpu_s:12.2f} {persisted_s:10.2f}")
    for label, key in (("our speed / curl's", "ratio"), ("the same until on disk", "persisted_ratio")):
        lines.append("{}: min {min:.2f}, median {median:.2f}, max {max:.2f}".format(label, **result[key]))
    lines.append(f"target {TARGET}; our peak memory {result['peak_bytes'] / 2**20:.0f} MiB")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--once", nargs=4, metavar=("ROOT", "ENDPOINT", "BUCKET", "CHAIN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        root, endpoint, bucket, chain = arguments.once
        fill_once(Path(root), endpoint, bucket, json.loads(chain))
        return
    with tempfile.TemporaryDirectory(prefix="kigi-fill-") as directory:
        result = measure(arguments.rounds, Path(directory))
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
