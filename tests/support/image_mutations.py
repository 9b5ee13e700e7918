"""Mutations of qcow2 files: any number of them, each of which its seed and number make again.

A mutation is a list of patches and a length, so that it can be applied to a file in place and taken back. Places of
fields and tables: QEMU docs/interop/qcow2.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support import hostile
from tests.support.hostile import BACKING_FORMAT, BITMAPS, DATA_FILE, FEATURE_NAMES, LUKS, get

CANARY = "canary"
"""Part of the names of all files that nothing may open."""
FIELDS = [
    *(hostile.MAGIC, hostile.VERSION, hostile.BACKING_OFFSET, hostile.BACKING_SIZE, hostile.CLUSTER_BITS),
    *(hostile.VIRTUAL_SIZE, hostile.ENCRYPTION, hostile.L1_SIZE, hostile.L1_OFFSET, hostile.REFCOUNT_OFFSET),
    *(hostile.REFCOUNT_CLUSTERS, hostile.SNAPSHOTS, hostile.SNAPSHOTS_OFFSET, hostile.INCOMPATIBLE),
    *(hostile.COMPATIBLE, hostile.AUTOCLEAR, hostile.REFCOUNT_ORDER, hostile.HEADER_LENGTH, hostile.COMPRESSION),
]
_BITS = {"B": 8, "I": 32, "Q": 64}
_OFFSET = 0x00FFFFFFFFFFFE00
LONGEST = 2**63 - 1


@dataclass(frozen=True)
class Base:
    """A sound file, and the places in it that mutations change."""

    name: str
    data: bytes
    cluster: int
    l1: tuple[int, int]
    """Offset and number of entries."""
    l2: tuple[int, ...]
    """Offsets of the tables."""
    refcounts: tuple[int, ...]
    """Offsets of the refcount table and of its first block."""

    @classmethod
    def of(cls, name: str, data: bytes) -> Base:
        """Reads the places of a sound file."""
        l1 = (get(data, hostile.L1_OFFSET), get(data, hostile.L1_SIZE))
        tables = struct.unpack_from(f">{l1[1]}Q", data, l1[0])
        refcounts = get(data, hostile.REFCOUNT_OFFSET)
        (block,) = struct.unpack_from(">Q", data, refcounts)
        l2 = tuple(table & _OFFSET for table in tables if table)
        return cls(name, data, 1 << get(data, hostile.CLUSTER_BITS), l1, l2, (refcounts, block))


@dataclass
class Mutation:
    """What becomes of a file: bytes at offsets, in order, and then its length (None: as it is)."""

    kinds: list[str] = field(default_factory=list)
    patches: list[tuple[int, bytes]] = field(default_factory=list)
    length: int | None = None

    def apply(self, descriptor: int) -> None:
        """Change an open file. A length that the file system or the process does not have becomes a shorter one."""
        for offset, data in self.patches:
            os.pwrite(descriptor, data, offset)
        for length in () if self.length is None else (self.length, 2**40, 2**30):
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, length)
                break

    def undo(self, descriptor: int, base: Base) -> None:
        """Make the file ``base`` again."""
        if self.length is not None:
            os.ftruncate(descriptor, min(self.length, len(base.data)))
            os.pwrite(descriptor, base.data, 0)
        longest = len(base.data) if self.length is None else 0
        for offset, data in self.patches:
            os.pwrite(descriptor, base.data[offset : offset + len(data)], offset)
            longest = max(longest, offset + len(data))
        if longest != len(base.data):
            os.ftruncate(descriptor, len(base.data))

    def applied(self, data: bytes, longest: int) -> bytes:
        """The changed content, of at most ``longest`` bytes."""
        result = bytearray(data)
        for offset, patch in self.patches:
            result[offset : offset + len(patch)] = patch
        if self.length is not None:
            length = min(self.length, longest)
            del result[length:]
            result.extend(bytes(length - len(result)))
        return bytes(result)


class Mutator:
    """Mutations of one file."""

    def __init__(self, base: Base, names: list[bytes]) -> None:
        """``names``: backing file names to write."""
        self.base = base
        self.names = names
        self.kinds: list[Callable[[random.Random, Mutation], None]] = [
            *(self.field, self.field, self.features, self.extensions, self.backing, self.snapshots, self.huge),
            *(self.l1_entry, self.l1_entry, self.l2_entry, self.l2_entry, self.l2_entry, self.refcount),
            *(self.fan, self.length, self.flips),
        ]

    def make(self, seed: int, number: int) -> Mutation:
        """The mutation with this number: one to three changes."""
        chance = random.Random(seed << 40 | number)
        made = Mutation()
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            kind = self.kinds[chance.randrange(len(self.kinds))]
            made.kinds.append(kind.__name__)
            kind(chance, made)
        return made

    def _number(self, chance: random.Random, bits: int, now: int) -> int:
        """A number of a header field: at an edge, near what it is, or anything."""
        way = chance.randrange(6)
        if way == 0:
            value = chance.choice((0, 1, 2, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 104, 112, 512, 65536))
        elif way == 1:
            value = now + chance.choice((-512, -8, -1, 1, 8, 512, 65536))
        elif way == 2:
            value = now ^ 1 << chance.randrange(bits)
        elif way == 3:
            value = chance.choice((len(self.base.data), self.base.l1[0], *self.base.l2, *self.base.refcounts))
        else:
            value = chance.getrandbits(chance.randrange(1, bits + 1))
        return value % 2**bits

    def field(self, chance: random.Random, made: Mutation) -> None:
        """A header field."""
        offset, form = chance.choice(FIELDS)
        value = self._number(chance, _BITS[form[-1]], get(self.base.data, (offset, form)))
        made.patches.append((offset, struct.pack(form, value)))

    def features(self, chance: random.Random, made: Mutation) -> None:
        """Feature bits, encryption, and compression types."""
        offset, form = chance.choice((hostile.INCOMPATIBLE, hostile.COMPATIBLE, hostile.AUTOCLEAR))
        made.patches.append((offset, struct.pack(form, 1 << chance.randrange(8) | 1 << chance.randrange(64))))
        if chance.random() < 0.3:
            made.patches.append((104, bytes((chance.randrange(256),))))
        if chance.random() < 0.2:
            made.patches.append((hostile.ENCRYPTION[0], struct.pack(">I", chance.randrange(4))))

    def extensions(self, chance: random.Random, made: Mutation) -> None:
        """Another list of header extensions, and the backing name behind it."""
        area = b""
        for _ in range(chance.randrange(4)):
            kind = chance.choice((BACKING_FORMAT, FEATURE_NAMES, DATA_FILE, LUKS, BITMAPS, chance.getrandbits(32)))
            content = chance.choice((b"qcow2", b"raw", b"", b"luks", *self.names, bytes(48), b"\xff" * 24))
            length = len(content) if chance.random() < 0.8 else chance.getrandbits(chance.randrange(1, 33))
            area += struct.pack(">II", kind, length) + content + bytes(-len(content) % 8)
        if chance.random() < 0.7:
            area = struct.pack(">II", BACKING_FORMAT, 5) + b"qcow2\0\0\0" + area
        if chance.random() < 0.8:
            area += struct.pack(">II", 0, 0)
        self._place(chance, made, area)

    def backing(self, chance: random.Random, made: Mutation) -> None:
        """Another backing file."""
        known = struct.pack(">II", BACKING_FORMAT, 5) + b"qcow2\0\0\0"
        self._place(chance, made, chance.choice((known, known, b"")) + struct.pack(">II", 0, 0))

    def _place(self, chance: random.Random, made: Mutation, area: bytes) -> None:
        version = get(self.base.data, hostile.VERSION)
        start = get(self.base.data, hostile.HEADER_LENGTH) if version >= 3 else 72
        name = chance.choice(self.names)
        at = start + len(area) if chance.random() < 0.8 else chance.getrandbits(chance.randrange(1, 65))
        size = len(name) if chance.random() < 0.9 else chance.getrandbits(chance.randrange(1, 33))
        made.patches.append((start, area))
        made.patches.append((8, struct.pack(">QI", at, size)))
        if at < 2**17:
            made.patches.append((at, name))

    def snapshots(self, chance: random.Random, made: Mutation) -> None:
        """Internal snapshots, with a table that names a part of the file as their L1 table."""
        count = chance.choice((0, 1, 1, 2, 65536, 2**32 - 1))
        place = chance.choice((0, *self.base.l2, self.base.l1[0], len(self.base.data), chance.getrandbits(64)))
        made.patches.append((hostile.SNAPSHOTS[0], struct.pack(">IQ", count, place)))
        if self.base.cluster <= place < len(self.base.data):
            made.patches.append((place, struct.pack(">QIHHIIQII", chance.choice(self.base.l2), 1, 1, 1, 0, 0, 0, 0, 0)))

    def huge(self, chance: random.Random, made: Mutation) -> None:
        """A large disk, with the number of L1 entries that it needs, or with another one."""
        size = min(1 << chance.randrange(20, 64), 2**64 - 512) + chance.choice((0, 0, 512, 511))
        per_entry = self.base.cluster * self.base.cluster // 8
        entries = -(-size // per_entry) if chance.random() < 0.8 else chance.getrandbits(32)
        made.patches.append((24, struct.pack(">Q", size % 2**64)))
        made.patches.append((36, struct.pack(">I", min(entries, 2**32 - 1))))

    def _entry(self, chance: random.Random, sound: int) -> int:
        """An entry of a table: one that names a part of the file that has a user, or anything."""
        base = self.base
        cluster = base.cluster
        places = (0, 1, base.l1[0], *base.l2, *base.refcounts, cluster, len(base.data), len(base.data) - cluster)
        value = chance.choice(
            (
                *places,
                chance.randrange(len(base.data) // cluster + 2) * cluster,
                chance.getrandbits(64),
                sound ^ 1 << chance.randrange(64),
                1 << chance.randrange(64),
            )
        )
        flags = chance.choice((0, 0, 1 << 63, 1 << 63, 1 << 62, 1, 1 << 63 | 1))
        return (value | flags) % 2**64

    def l1_entry(self, chance: random.Random, made: Mutation) -> None:
        """Entries of the L1 table."""
        for _ in range(chance.randrange(1, 4)):
            at = self.base.l1[0] + 8 * chance.randrange(self.base.l1[1])
            (sound,) = struct.unpack_from(">Q", self.base.data, at)
            made.patches.append((at, struct.pack(">Q", self._entry(chance, sound))))

    def l2_entry(self, chance: random.Random, made: Mutation) -> None:
        """Entries of L2 tables, near the first ones, which are used, and anywhere."""
        for _ in range(chance.randrange(1, 4)):
            at = chance.choice(self.base.l2) + 8 * chance.randrange(chance.choice((64, self.base.cluster // 8)))
            (sound,) = struct.unpack_from(">Q", self.base.data, at)
            made.patches.append((at, struct.pack(">Q", self._entry(chance, sound))))

    def refcount(self, chance: random.Random, made: Mutation) -> None:
        """Entries of the refcount table or of a block."""
        table, block = self.base.refcounts
        if chance.random() < 0.5:
            made.patches.append((table + 8 * chance.randrange(4), struct.pack(">Q", self._entry(chance, block))))
        else:
            made.patches.append((block + 2 * chance.randrange(16), struct.pack(">H", chance.getrandbits(16))))

    def fan(self, chance: random.Random, made: Mutation) -> None:
        """Many entries that name the same: a small file that describes a large disk."""
        target = chance.choice((len(self.base.data) - self.base.cluster, *self.base.l2, self.base.l1[0]))
        entry = struct.pack(">Q", target | chance.choice((1 << 63, 0, 1 << 62)))
        if chance.random() < 0.5:
            entries = chance.choice((self.base.l1[1], 128))
            made.patches.append((self.base.l1[0], entry * entries))
            if chance.random() < 0.7:
                made.patches.append((24, struct.pack(">Q", entries * self.base.cluster * self.base.cluster // 8)))
                made.patches.append((36, struct.pack(">I", entries)))
        else:
            made.patches.append((chance.choice(self.base.l2), entry * (self.base.cluster // 8)))

    def length(self, chance: random.Random, made: Mutation) -> None:
        """A file that was cut, or that is longer and mostly a hole."""
        now = len(self.base.data)
        made.length = chance.choice(
            (
                chance.randrange(0, 200),
                chance.randrange(now),
                now // self.base.cluster // 2 * self.base.cluster,
                now + chance.getrandbits(20),
                min(1 << chance.randrange(24, 64), LONGEST),
            )
        )

    def flips(self, chance: random.Random, made: Mutation) -> None:
        """Single bits in header and tables."""
        cluster = self.base.cluster
        for _ in range(chance.choice((1, 2, 4, 8))):
            start = chance.choice((0, 0, self.base.l1[0], *self.base.l2, *self.base.refcounts))
            at = start + chance.randrange(chance.choice((128, cluster)))
            if at < len(self.base.data):
                made.patches.append((at, bytes((self.base.data[at] ^ 1 << chance.randrange(8),))))


def hostile_names(outside: str, own: str) -> list[bytes]:
    """Backing file names that lead to a canary, to the machine's files, to a server, or nowhere.

    ``outside``: folder with a canary. ``own``: name of the image itself, which is beside the canary, the link, the pipe
    and the loop that ``tests.campaigns.images`` makes.
    """
    canary = f"{outside}/{CANARY}.qcow2"
    described = {"driver": "qcow2", "file": {"driver": "file", "filename": canary}}
    texts = [
        *(canary, f"../{CANARY}.qcow2", f"{CANARY}-link", f"x/../../{CANARY}.qcow2", f"file:{canary}", f"//{canary}"),
        *("json:" + str(described).replace("'", '"'), f"nbd+unix:///?socket={canary}", "nbd://127.0.0.1:9/x"),
        *("http://127.0.0.1:9/x", "ssh://root@127.0.0.1/x", "fat:rw:/etc", "/etc/shadow", "/proc/self/environ"),
        *("/dev/vda", "/dev/fdset/1", "blkdebug::x", "pipe", "loop", ".", "..", "/", own, f"./{own}", "absent.qcow2"),
        *("a" * 300, "a" * 1023, "x/" * 500, "\x1b[2Jx", "x\ny", "\N{RIGHT-TO-LEFT OVERRIDE}x", "x\0y", "", " "),
    ]
    return [*(text.encode() for text in texts), b"\xff\xfe"]
