"""The files of a node's cache. A layer that is held is complete and right, whenever the machine stops.

<root>/layers/<hex>.qcow2       0444: verified; its other links are volumes that stand on it
<root>/incoming/<hex>.part      the first bytes of a layer on its way
<root>/quarantine/<hex>.<n>     files that were found not to be what their name says
<root>/state.json               what was verified (size, inode, mtime of each; whether it is on the disk for certain;
                                when it was read and needed last), in which boot of the machine, and the bytes
                                fetched so far

A layer is held, and VMs may start on it, before the disk has all of it; ``settle`` sees to that behind it. After a
power cut the layers that were not settled are read whole before they are held again
(docs/decisions/0005-layers-are-settled-behind-their-commit.md).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.domain.layers import Chain, Digest, Layer, digest_hex, digest_of_hex
from kigi.domain.qcow2 import HEADER_BYTES, check_layer
from kigi.errors import LayerCorrupt, LayerMissing, LayerRefused
from kigi_cache.layers.eviction import HeldLayer

logger = logging.getLogger(__name__)
CHUNK_BYTES = 4 * 2**20
KEPT_IN_QUARANTINE = 4
SAVE_NEEDED_S = 60.0
"""A restarted daemon may have forgotten what was needed in that time, and evicts in a slightly other order."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX = ".qcow2"
_DAMAGE = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ELOOP, errno.EISDIR, errno.ENXIO}
"""Answers of the file system that no other try makes better: a bad disk, a link, a directory, a socket."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A verified file as it was when it was verified; anything else is not that file any more."""

    size_bytes: int
    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Seen:
        return cls(found.st_size, found.st_ino, found.st_mtime_ns)


class Store:
    """Layers on the node's disk. Thread-safe; every method blocks on the file system and does nothing else.

    ``step`` is called with the name of each change before it is made: a test may stop there. ``boot`` tells one run of
    the machine from the next: what was only written is lost between two. ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        *,
        step: Callable[[str], None] = lambda name: None,
        boot: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.root = Path(os.path.realpath(root))
        self.root.mkdir(parents=True, exist_ok=True)
        self.layers = self.root / "layers"
        self.incoming = self.root / "incoming"
        self.quarantine_dir = self.root / "quarantine"
        self._state = self.root / "state.json"
        self._step = step
        self._boot = boot if boot is not None else BOOT_ID.read_text().strip()
        self._lock = threading.RLock()
        self._seen: dict[Digest, _Seen] = {}
        self._unsettled: set[Digest] = set()
        self._needed: dict[Digest, float] = {}
        self._saved_at = clock()
        self._read_at: dict[Digest, float] = {}
        """When all bytes of a layer were last looked at; seconds since the epoch."""
        self._fetched_bytes = 0

    def recover(self) -> list[Digest]:
        """Make the directories and take stock; the layers whose files are not as they were verified last.

        Those are not held until ``verify`` has read them. Junk under foreign names is removed.
        """
        with self._lock:
            for directory in (self.layers, self.incoming, self.quarantine_dir):
                directory.mkdir(parents=True, exist_ok=True)
            known = self._load_state()
            doubtful: list[Digest] = []
            for entry in sorted(os.scandir(self.layers), key=lambda e: e.name):
                digest = _digest_of_name(entry.name, _SUFFIX)
                found = entry.stat(follow_symlinks=False)
                if digest is None or not stat.S_ISREG(found.st_mode):
                    logger.warning("foreign file removed from the cache", extra={"file": entry.name})
                    self._remove(Path(entry.path))
                elif digest in known and known[digest][0] == _Seen.of(found):
                    self._seen[digest], settled = known[digest]
                    if not settled:
                        self._unsettled.add(digest)
                else:
                    doubtful.append(digest)
            for entry in os.scandir(self.incoming):
                if _digest_of_name(entry.name, ".part") is None or not entry.is_file(follow_symlinks=False):
                    self._remove(Path(entry.path))
            return doubtful

    def held(self) -> dict[Digest, HeldLayer]:
        """Every verified layer that is still the file that was verified. O(layers), one stat each."""
        with self._lock:
            layers: dict[Digest, HeldLayer] = {}
            for digest, seen in list(self._seen.items()):
                found = self._stat(self.path(digest))
                if found is not None and _Seen.of(found) == seen:
                    needed = self._needed.get(digest, 0.0)
                    layers[digest] = HeldLayer(digest, seen.size_bytes, found.st_nlink - 1, needed)
            return layers

    def is_held(self, digest: Digest) -> bool:
        """The layer is there and is still the file that was verified. One stat."""
        seen = self._seen.get(digest)
        found = self._stat(self.path(digest)) if seen is not None else None
        return found is not None and _Seen.of(found) == seen

    def damaged(self) -> list[Digest]:
        """Layers whose file vanished or changed since it was verified."""
        with self._lock:
            return [digest for digest in self._seen if not self.is_held(digest)]

    def used_bytes(self) -> int:
        """Bytes that layers and parts take."""
        total = sum(layer.size_bytes for layer in self.held().values())
        with contextlib.suppress(FileNotFoundError):  # not made yet
            for entry in os.scandir(self.incoming):
                with contextlib.suppress(FileNotFoundError):  # became a layer at this moment
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def free_bytes(self) -> int:
        """Bytes free in the file system, for whoever may not use the reserve."""
        figures = os.statvfs(self.root)
        return figures.f_bavail * figures.f_frsize

    @property
    def fetched_bytes_total(self) -> int:
        """Bytes of the layers committed since the cache was made."""
        return self._fetched_bytes

    def path(self, digest: Digest) -> Path:
        """Where the layer is when it is held."""
        return self.layers / f"{digest_hex(digest)}{_SUFFIX}"

    def part_path(self, digest: Digest) -> Path:
        """Where its bytes are collected."""
        return self.incoming / f"{digest_hex(digest)}.part"

    def touch(self, digests: Collection[Digest]) -> None:
        """Note that these are needed now; decides who is evicted last."""
        now = self.clock()
        with self._lock:
            self._needed.update(dict.fromkeys((digest for digest in digests if digest in self._seen), now))
            if not 0 <= now - self._saved_at <= SAVE_NEEDED_S:
                self._save_state()

    def commit(self, layer: Layer, digest_found: str) -> None:
        """Make a complete part a layer: check it, rename it. It is held then; ``settle`` makes that last.

        ``digest_found`` is the SHA-256 (hex) of the bytes in the part, computed while they were written. Raises
        LayerCorrupt (size or digest) or LayerRefused (header), and then the part is in quarantine.
        """
        part = self.part_path(layer.digest)
        with part.open("rb+") as file:
            header = file.read(HEADER_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
            try:
                _check(layer, size_bytes, digest_found, header)
            except (LayerCorrupt, LayerRefused):
                self._quarantine_file(part, layer.digest)
                raise
            os.fchmod(file.fileno(), 0o444)
        with self._lock:
            self._step("rename part")
            os.rename(part, self.path(layer.digest))
            self._seen[layer.digest] = _Seen.of(os.lstat(self.path(layer.digest)))
            self._unsettled.add(layer.digest)
            self._needed[layer.digest] = self._read_at[layer.digest] = self.clock()
            self._fetched_bytes += size_bytes
            self._save_state()

    def unsettled(self) -> list[Digest]:
        """Layers that are held and may not be on the disk yet."""
        with self._lock:
            return sorted(self._unsettled)

    def settle(self, digest: Digest) -> bool:
        """Return when the layer is on the disk, and note that; False, and it is in quarantine, if the disk fails."""
        path = self.path(digest)
        with self._lock:
            seen = self._seen.get(digest)
        self._step("fsync layer")
        try:
            _fsync(path)
            self._step("fsync layers")
            _fsync(self.layers)
        except OSError as exc:
            if exc.errno != errno.ENOENT:
                logger.warning("layer not written to the disk", extra={"digest": digest, "cause": exc.strerror})
                self.quarantine(digest)
                return False
        with self._lock:
            if self._seen.get(digest) == seen:  # or it is another file by now, to be settled itself
                self._unsettled.discard(digest)
                try:
                    self._save_state()
                except OSError:
                    self._unsettled.add(digest)
                    raise
        return True

    def read_before(self, time_s: float) -> list[Digest]:
        """Held layers that were last read before that time (seconds since the epoch), the longest ago first.

        Also those that were read in the future: a clock was wrong then, and they would not be read again for as long.
        """
        now = self.clock()
        with self._lock:
            read = [(self._read_at.get(digest, 0.0), digest) for digest in self._seen]
        old = [(at, digest) for at, digest in read if at <= time_s or at > now]
        return [digest for _, digest in sorted(old)]

    def parts(self) -> list[Digest]:
        """Layers of which some bytes are in ``incoming``."""
        with contextlib.suppress(FileNotFoundError):  # not made yet
            names = [entry.name for entry in os.scandir(self.incoming)]
            return sorted(d for name in names if (d := _digest_of_name(name, ".part")) is not None)
        return []

    def empty_quarantine(self) -> None:
        """Delete what was kept for people to look at."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            for path in list(self.quarantine_dir.iterdir()):
                self._remove(path)

    def verify(
        self,
        layer: Layer | Digest,
        stop: Callable[[], bool] = lambda: False,
        on_read: Callable[[int], None] = lambda count: None,
    ) -> bool:
        """Read a layer's file whole and hold it if it is right, or move it to quarantine; False then.

        With a Layer, size and header are checked too. Gives up with False and changes nothing when ``stop`` says so.
        ``on_read`` is told the bytes of each piece, and may take its time.
        """
        digest = layer.digest if isinstance(layer, Layer) else layer
        path = self.path(digest)
        if not os.path.lexists(path):
            self._forget(digest)
            return False
        try:
            read = _read_whole(path, stop, on_read)
            if read is None:
                return False
            if isinstance(layer, Layer):
                _check(layer, read.found.st_size, read.sha256, read.header)
            elif read.sha256 != digest_hex(digest):
                raise LayerCorrupt(f"layer {digest}: its file has the digest sha256:{read.sha256}")
        except FileNotFoundError:
            self._forget(digest)
            return False
        except (LayerCorrupt, LayerRefused) as exc:
            logger.warning("damaged layer quarantined", extra={"digest": digest, "cause": str(exc)})
            self.quarantine(digest)
            return False
        with self._lock:
            seen = _Seen.of(read.found)
            self._read_at[digest] = self.clock()
            if self._seen.get(digest) != seen:
                self._needed.setdefault(digest, self.clock())
                self._seen[digest] = seen
                self._unsettled.add(digest)
            self._save_state()
        return True

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard links of the chain's layers in ``directory``, each named ``<hex>.qcow2``.

        Looks at each file once more, under the lock that eviction takes. Raises LayerMissing if one is not held.
        """
        self.link_layers([layer.digest for layer in chain], directory)

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """As ``link_chain``, of layers by their digests."""
        with self._lock:
            for digest in digests:
                if not self.is_held(digest):
                    raise LayerMissing(f"layer {digest} is not in the cache of this node; it is fetched first")
            for digest in digests:
                self._step("link layer")
                os.link(self.path(digest), directory / self.path(digest).name, follow_symlinks=False)
            _fsync(directory)
            self.touch(digests)

    def evict(self, digest: Digest, wanted: Collection[Digest]) -> bool:
        """Delete a layer that no volume links and nobody wants, looked at once more under the lock; False if not."""
        with self._lock:
            found = self._stat(self.path(digest))
            if found is None or found.st_nlink != 1 or digest in wanted:
                return False
            self._step("evict layer")
            self._remove(self.path(digest))
            self._forget(digest)
            logger.info("layer evicted", extra={"digest": digest, "size_bytes": found.st_size})
            return True

    def drop_part(self, digest: Digest) -> None:
        """Forget the bytes of a layer on its way."""
        self._step("drop part")
        self.part_path(digest).unlink(missing_ok=True)

    def quarantine(self, digest: Digest) -> None:
        """Take a layer's file out of use; volumes that stand on it keep their links until they are published anew."""
        with self._lock:
            self._quarantine_file(self.path(digest), digest)
            self._forget(digest)

    def _quarantine_file(self, path: Path, digest: Digest) -> None:
        with self._lock:  # two at once would delete the same oldest file
            number = 0
            while os.path.lexists(target := self.quarantine_dir / f"{digest_hex(digest)}.{number}"):
                number += 1
            self._step("quarantine")
            try:
                os.rename(path, target)
            except FileNotFoundError:
                return
            kept = sorted(self.quarantine_dir.iterdir(), key=lambda p: p.lstat().st_ctime_ns)
            for old in kept[:-KEPT_IN_QUARANTINE]:
                self._remove(old)

    def _forget(self, digest: Digest) -> None:
        with self._lock:
            self._seen.pop(digest, None)
            self._unsettled.discard(digest)
            self._needed.pop(digest, None)
            self._read_at.pop(digest, None)
            self._save_state()

    def _load_state(self) -> Mapping[Digest, tuple[_Seen, bool]]:
        """The layers that need not be read again, and whether each is settled."""
        try:
            state = json.loads(self._state.read_text())
            self._fetched_bytes = int(state["fetchedBytesTotal"])
            same_boot = state["boot"] == self._boot
            self._read_at = {digest_of_hex(name): float(at) for name, at in state.get("readAt", {}).items()}
            self._needed = {digest_of_hex(name): float(at) for name, at in state.get("neededAt", {}).items()}
            return {
                digest_of_hex(name): (_Seen(int(size_bytes), int(inode), int(mtime_ns)), settled is True)
                for name, (size_bytes, inode, mtime_ns, settled) in state["verified"].items()
                if same_boot or settled is True
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError):
            logger.warning("state of the cache unreadable; every layer is read again")
            return {}

    def _save_state(self) -> None:
        """Not fsynced: after a power cut an old state only means that some layers are read again."""
        verified = {
            digest_hex(d): [s.size_bytes, s.inode, s.mtime_ns, d not in self._unsettled] for d, s in self._seen.items()
        }
        new = self._state.with_suffix(".new")
        self._step("write state")
        state = {
            "boot": self._boot,
            "fetchedBytesTotal": self._fetched_bytes,
            "verified": verified,
            "readAt": {digest_hex(d): int(at) for d, at in self._read_at.items() if d in self._seen},
            "neededAt": {digest_hex(d): round(at, 1) for d, at in self._needed.items() if d in self._seen},
        }
        self._saved_at = self.clock()
        new.write_text(json.dumps(state))
        os.rename(new, self._state)

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            for below in path.iterdir():
                self._remove(below)
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    @staticmethod
    def _stat(path: Path) -> os.stat_result | None:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        return found if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that was read from its first byte to its last; ``found`` is how it was before."""

    found: os.stat_result
    sha256: str
    header: bytes


def _read_whole(path: Path, stop: Callable[[], bool], on_read: Callable[[int], None]) -> _Read | None:
    """The file's digest and header, or None when ``stop`` says so.

    Raises LayerCorrupt if it is no regular file (a pipe would never end) or the disk cannot read it any more.
    """
    sha, header = hashlib.sha256(), b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise LayerCorrupt(f"{path} is not a regular file")
            while chunk := file.read(CHUNK_BYTES):
                header = header or chunk[:HEADER_BYTES]
                sha.update(chunk)
                on_read(len(chunk))
                if stop():
                    return None
    except OSError as exc:
        if exc.errno not in _DAMAGE:
            raise
        raise LayerCorrupt(f"{path} cannot be read: {exc.strerror}") from exc
    return _Read(found, sha.hexdigest(), header)


def _check(layer: Layer, size_bytes: int, digest_found: str, header: bytes) -> None:
    if size_bytes != layer.size_bytes:
        raise LayerCorrupt(f"layer {layer.digest}: {size_bytes} bytes instead of {layer.size_bytes}")
    if digest_found != digest_hex(layer.digest):
        raise LayerCorrupt(f"layer {layer.digest}: the repository's object has the digest sha256:{digest_found}")
    check_layer(
        header,
        digest=layer.digest,
        parent=layer.parent,
        virtual_size_bytes=layer.virtual_size_bytes,
        size_bytes=size_bytes,
    )


def _digest_of_name(name: str, suffix: str) -> Digest | None:
    try:
        return digest_of_hex(name.removesuffix(suffix)) if name.endswith(suffix) else None
    except ValueError:
        return None


def _fsync(path: Path) -> None:
    # Not blocking: a pipe that took the layer's name would hold its opener for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
