"""What the store records of its layers, and its form in ``state.json``; pure.

    {"boot": "<boot ID of the machine>",
     "fetchedBytesTotal": 123,
     "verified": {"<hex>": [size, inode, mtime in ns, whether it is persisted]},
     "readAt": {"<hex>": seconds since the epoch},
     "changedAt": {"<hex>": ctime in ns},
     "neededAt": {"<hex>": seconds since the epoch}}

An old file costs only that some layers are read again: a layer that it does not list, or lists with another size,
inode, mtime or ctime, is not trusted. Neither is one that was not persisted in an earlier boot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kigi.domain.layers import Digest, digest_hex, digest_of_hex


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A file as it was when it was verified. With any other value it is not trusted to be that file.

    A writer can set the mtime, but not the ctime. Links change the ctime too: the store records those that it makes and
    removes.
    """

    size_bytes: int
    inode: int
    mtime_ns: int
    ctime_ns: int | None = None
    """None: written by a version that did not record it."""

    @classmethod
    def of(cls, found: os.stat_result) -> Fingerprint:
        """Of a file's stat."""
        return cls(found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)

    def has_content_of(self, other: Fingerprint) -> bool:
        """Whether all but the ctime is equal."""
        return (self.size_bytes, self.inode, self.mtime_ns) == (other.size_bytes, other.inode, other.mtime_ns)

    def matches(self, found: Fingerprint) -> bool:
        """Whether a file with the fingerprint ``found`` is trusted to be this one."""
        return self == found or (self.ctime_ns is None and self.has_content_of(found))


@dataclass(slots=True)
class Records:
    """Records of all verified layers; times in seconds since the epoch."""

    verified: dict[Digest, Fingerprint] = field(default_factory=dict)
    unpersisted: set[Digest] = field(default_factory=set)
    """Verified layers of which the disk may not have all bytes yet."""
    read_at: dict[Digest, float] = field(default_factory=dict)
    """When all bytes of a layer were last read or written."""
    needed_at: dict[Digest, float] = field(default_factory=dict)
    """When a volume or the NodeCache last named a layer."""
    fetched_bytes: int = 0
    """Of all layers committed since the cache was created."""

    def add(self, digest: Digest, fingerprint: Fingerprint, now_s: float) -> None:
        """A layer was verified now; it is not persisted if its file differs from the recorded one."""
        known = self.verified.get(digest)
        if known is None or not known.has_content_of(fingerprint):
            self.unpersisted.add(digest)
            self.needed_at.setdefault(digest, now_s)
        self.verified[digest] = fingerprint
        self.read_at[digest] = now_s

    def restore(self, digest: Digest, fingerprint: Fingerprint, saved: Records) -> None:
        """Trust a layer as it was saved; ``fingerprint`` is of its file now."""
        self.verified[digest] = fingerprint
        if digest in saved.unpersisted:
            self.unpersisted.add(digest)

    def touch(self, digests: Collection[Digest], now_s: float) -> None:
        """These layers are needed now; those without a record are ignored."""
        self.needed_at.update((digest, now_s) for digest in digests if digest in self.verified)

    def forget(self, digest: Digest) -> None:
        """The layer is not held any more."""
        self.verified.pop(digest, None)
        self.unpersisted.discard(digest)
        self.read_at.pop(digest, None)
        self.needed_at.pop(digest, None)

    def read_before(self, time_s: float, now_s: float) -> list[Digest]:
        """Layers last read at or before ``time_s``, the oldest first; one without a time was never read.

        A layer that was read in the future is included: the machine's clock was wrong then, and would exempt the layer
        for as long as it was ahead.
        """
        read = [(self.read_at.get(digest, 0.0), digest) for digest in self.verified]
        return [digest for at, digest in sorted(read) if at <= time_s or at > now_s]


def encode_records(records: Records, boot: str) -> str:
    """Text of ``state.json``; ``boot`` identifies the machine's current boot."""
    verified = records.verified
    state = {
        "boot": boot,
        "fetchedBytesTotal": records.fetched_bytes,
        "verified": {
            digest_hex(digest): [seen.size_bytes, seen.inode, seen.mtime_ns, digest not in records.unpersisted]
            for digest, seen in verified.items()
        },
        "changedAt": {digest_hex(digest): seen.ctime_ns for digest, seen in verified.items() if seen.ctime_ns},
        "readAt": {digest_hex(d): int(at) for d, at in records.read_at.items() if d in verified},
        "neededAt": {digest_hex(d): round(at, 1) for d, at in records.needed_at.items() if d in verified},
    }
    return json.dumps(state)


def decode_records(text: str, boot: str, *, any_boot: bool = True) -> Records:
    """Records that can be trusted in this boot.

    Raises ValueError for any text that ``encode_records`` cannot write. Unless ``any_boot``, also for another boot's.
    """
    try:
        state = json.loads(text)
        same_boot = state["boot"] == boot
        if not (same_boot or any_boot):
            raise ValueError("of an earlier boot")
        changed_at = {digest_of_hex(name): int(at) for name, at in state.get("changedAt", {}).items()}
        verified: dict[Digest, Fingerprint] = {}
        unpersisted: set[Digest] = set()
        for name, (size_bytes, inode, mtime_ns, is_persisted) in state["verified"].items():
            if not (same_boot or is_persisted is True):
                continue
            digest = digest_of_hex(name)
            verified[digest] = Fingerprint(int(size_bytes), int(inode), int(mtime_ns), changed_at.get(digest))
            if is_persisted is not True:
                unpersisted.add(digest)
        return Records(
            verified,
            unpersisted,
            _times(state.get("readAt", {})),
            _times(state.get("neededAt", {})),
            int(state["fetchedBytesTotal"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise ValueError(f"not the state of a cache: {type(exc).__name__}: {exc}") from exc


def _times(saved: Mapping[str, float]) -> dict[Digest, float]:
    return {digest_of_hex(name): float(at) for name, at in saved.items()}
