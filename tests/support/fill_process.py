"""A filler in a process that a test kills: ``python -m tests.support.fill_process ROOT ENDPOINT BUCKET CHAIN``.

CHAIN is the volume attribute ``chain``. Prints "started", and "held" when every layer is held.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from kigi.domain.layers import Layer, parse_digest
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.sources.s3 import S3Source
from tests.support.layers import repositories


async def fill(root: Path, endpoint: str, bucket: str, rows: list[dict[str, str]]) -> None:
    chain, parent = [], None
    for row in rows:
        digest = parse_digest(row["digest"])
        chain.append(Layer(digest, int(row["sizeBytes"]), int(row["virtualSizeBytes"]), parent))
        parent = digest
    filler = Filler(Store(root), S3Source(repositories(endpoint, bucket)), Budget(2**40))
    task = asyncio.create_task(filler.run())
    print("started", flush=True)
    await filler.ensure(tuple(chain))
    print("held", flush=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
