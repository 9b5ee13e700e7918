"""Parts of a layer that is larger than what a server takes in one request; pure.

A part is stored as if it was a layer: under its own digest. Whoever joins the parts checks the digest of the whole.
Then nothing names the parts, and ``kigi gc`` deletes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from kigi.domain.layers import Digest, digest_of_hex

MAX_PARTS = 64


def part_sizes(size_bytes: int, most_bytes: int) -> list[int]:
    """Sizes of the parts in their order: all but the last have ``most_bytes``."""
    full, rest = divmod(size_bytes, most_bytes)
    return [most_bytes] * full + ([rest] if rest else [])


def digest_of_list(parts: Iterable[str]) -> Digest:
    """Digest of a list of parts' digests, to recognize it."""
    return digest_of_hex(hashlib.sha256("\n".join(parts).encode()).hexdigest())
