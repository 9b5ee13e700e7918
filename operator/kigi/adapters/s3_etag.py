"""The ETag that S3 gives to an object: a checksum of its content, unless it is encrypted."""

from __future__ import annotations

import hashlib
from pathlib import Path

_READ_BYTES = 2**20


def etag_of(path: Path, size_bytes: int, part_bytes: int | None) -> str:
    """The ETag of the file, sent in parts of that size, or at once (None). Blocks while it reads the file."""
    sums: list[bytes] = []
    step = part_bytes or max(1, size_bytes)
    with path.open("rb") as file:
        for begin in range(0, max(1, size_bytes), step):
            end = min(size_bytes, begin + step)
            part = hashlib.md5(usedforsecurity=False)
            for offset in range(begin, end, _READ_BYTES):
                part.update(file.read(min(_READ_BYTES, end - offset)))
            sums.append(part.digest())
    if part_bytes is None:
        return sums[0].hex()
    return f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"
