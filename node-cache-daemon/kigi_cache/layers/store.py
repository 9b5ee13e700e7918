"""The files of a node's cache. A held layer is complete and verified, whenever daemon or machine stop.

<root>/layers/<hex>.qcow2       0444: verified; its further hard links are volumes that use it
<root>/incoming/<hex>.part      the first bytes of a layer that is being fetched
<root>/quarantine/<hex>.<n>     files that are not what their names claim
<root>/state[.recent].json      which files were verified, and when (``records``, ``state_files``)

A layer is held, and VMs may start on it, before the disk has all of it; ``persist`` follows. After a power cut, layers
that were not persisted are read whole before they are held again
(docs/decisions/0005-layers-are-settled-behind-their-commit.md).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from kigi.domain.layers import Digest, Layer, digest_hex, digest_of_file_name, digest_of_hex, layer_file_name
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.errors import LayerCorrupt, LayerRefused
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.filesystem import free_bytes, fsync, remove
from kigi_cache.layers.eviction import HeldLayer
from kigi_cache.layers.links import LayerLinks, digest_or_none, stat_file
from kigi_cache.layers.quarantine import Quarantine
from kigi_cache.layers.records import Fingerprint, Records
from kigi_cache.layers.state_files import StateFiles
from kigi_cache.layers.verification import check_content, check_declared, read_whole
from kigi_cache.layers.verity import seal

logger = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PART_SUFFIX = ".part"
SAVE_INTERVAL_S = 60.0
LOST_WRITES = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
"""Errors of fsync after which a file may lack bytes that were written to it."""


class Store(LayerLinks):
    """Layers on the node's disk. Thread-safe; every method blocks on the file system."""

    def __init__(
        self,
        root: Path,
        *,
        step: Callable[[str], None] = lambda name: None,
        boot: str | None = None,
        clock: Clock = REAL_TIME,
        save_interval_s: float = SAVE_INTERVAL_S,
    ) -> None:
        """``step`` is called with the name of each change before it is made: a test stops the store there.

        ``boot`` identifies the machine's current boot: bytes that were written and not fsynced are lost between two.
        ``save_interval_s``: a daemon may forget, when it restarts, which layers were needed within that time; it then
        evicts idle layers in a slightly different order.
        """
        self.root = Path(os.path.realpath(root))
        self.root.mkdir(parents=True, exist_ok=True)
        self.layers = self.root / "layers"
        self.incoming = self.root / "incoming"
        self._quarantine = Quarantine(self.root / "quarantine", step)
        self._step = step
        self._state = StateFiles(self.root, boot if boot is not None else BOOT_ID.read_text().strip(), step)
        self._clock = clock
        self._save_interval_s = save_interval_s
        self._saved_at_s = clock.wall_s()
        self._lock = threading.RLock()
        self._writing = threading.RLock()
        """Of ``state.json``, which waits for the disk. Taken before ``_lock``, never while holding it."""
        self._is_dirty = False
        """Whether ``state.json`` is older than the records."""
        self._records = Records()

    # which layers are held

    def recover(self) -> list[Digest]:
        """Create the directories and read which layers are held; those whose files cannot be trusted are returned.

        A file can be trusted if it is the one that was verified and persisted, or verified in this boot. Others are not
        held until ``verify`` has read them. Files with foreign names are deleted.
        """
        with self._lock:
            for directory in (self.layers, self.incoming, self._quarantine.directory):
                directory.mkdir(parents=True, exist_ok=True)
            saved = self._state.load()
            self._records.fetched_bytes = saved.fetched_bytes
            self._records.read_at, self._records.needed_at = saved.read_at, saved.needed_at
            doubtful: list[Digest] = []
            for entry in sorted(os.scandir(self.layers), key=lambda entry: entry.name):
                digest = digest_or_none(entry.name, digest_of_file_name)
                found = stat_file(Path(entry.path))
                if digest is None or found is None:
                    logger.warning("foreign file removed from the cache", extra={"file": entry.name})
                    _try_remove(Path(entry.path))
                elif (known := saved.verified.get(digest)) is not None and known.matches(Fingerprint.of(found)):
                    self._records.restore(digest, Fingerprint.of(found), saved)
                else:
                    doubtful.append(digest)
            for entry in os.scandir(self.incoming):
                if digest_or_none(entry.name, _digest_of_part) is None or not entry.is_file(follow_symlinks=False):
                    _try_remove(Path(entry.path))
            return doubtful

    def held(self) -> dict[Digest, HeldLayer]:
        """Every held layer. O(layers), one stat each."""
        with self._lock:
            layers: dict[Digest, HeldLayer] = {}
            for digest, fingerprint in list(self._records.verified.items()):
                found = stat_file(self.path(digest))
                if found is not None and Fingerprint.of(found) == fingerprint:
                    needed_s = self._records.needed_at.get(digest, 0.0)
                    layers[digest] = HeldLayer(digest, fingerprint.size_bytes, found.st_nlink - 1, needed_s)
            return layers

    def is_held(self, digest: Digest) -> bool:
        """Whether the layer was verified and its file has not changed since. One stat."""
        fingerprint = self._records.verified.get(digest)
        found = stat_file(self.path(digest)) if fingerprint is not None else None
        return found is not None and Fingerprint.of(found) == fingerprint

    def damaged(self) -> list[Digest]:
        """Layers whose file vanished or changed since it was verified. O(layers), one stat each."""
        with self._lock:
            return [digest for digest in self._records.verified if not self.is_held(digest)]

    def read_before(self, time_s: float) -> list[Digest]:
        """Verified layers last read at or before ``time_s`` (since the epoch), or in the future; the oldest first."""
        with self._lock:
            return self._records.read_before(time_s, self._clock.wall_s())

    # space and places

    def used_bytes(self) -> int:
        """Bytes of all held layers and partial files."""
        total = sum(layer.size_bytes for layer in self.held().values())
        with contextlib.suppress(FileNotFoundError):  # not created yet
            for entry in os.scandir(self.incoming):
                with contextlib.suppress(FileNotFoundError):  # it has just become a layer
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def free_bytes(self) -> int:
        """Free bytes of the file system, without the blocks reserved for root."""
        return free_bytes(self.root)

    @property
    def fetched_bytes_total(self) -> int:
        """Bytes of all layers committed since the cache was created."""
        return self._records.fetched_bytes

    def path(self, digest: Digest) -> Path:
        """File of the layer, if it is held."""
        return self.layers / layer_file_name(digest)

    def part_path(self, digest: Digest) -> Path:
        """Partial file of the layer, while it is fetched."""
        return self.incoming / f"{digest_hex(digest)}{PART_SUFFIX}"

    def parts(self) -> list[Digest]:
        """Layers with a partial file."""
        with contextlib.suppress(FileNotFoundError):  # not created yet
            names = [entry.name for entry in os.scandir(self.incoming)]
            return sorted(digest for name in names if (digest := digest_or_none(name, _digest_of_part)) is not None)
        return []

    def part_bytes(self, digest: Digest) -> int:
        """Size of the layer's partial file; 0 if there is none."""
        try:
            return self.part_path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def drop_part(self, digest: Digest) -> None:
        """Delete the layer's partial file; a missing one is success."""
        self._step("drop part")
        self.part_path(digest).unlink(missing_ok=True)

    # from a partial file to a held and persisted layer

    def commit(self, layer: Layer, sha256: str) -> None:
        """Check a complete partial file and rename it: the layer is held.

        ``sha256`` (hex) is the digest of the file's bytes, computed while they were written. Raises LayerCorrupt (size
        or digest) or LayerRefused (header) after moving the file to quarantine.
        """
        part = self.part_path(layer.digest)
        with part.open("rb+") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            try:
                check_content(layer, size_bytes, sha256, file.read(HEADER_BYTES))
            except (LayerCorrupt, LayerRefused):
                self._quarantine.take(part, layer.digest)
                raise
            os.fchmod(file.fileno(), 0o444)
        with self._lock:
            self._step("rename part")
            os.rename(part, self.path(layer.digest))
            now_s = self._clock.wall_s()
            self._records.add(layer.digest, Fingerprint.of(os.lstat(self.path(layer.digest))), now_s)
            self._records.touch([layer.digest], now_s)
            self._records.fetched_bytes += size_bytes
            self._save()

    def unpersisted(self) -> list[Digest]:
        """Held layers of which the disk may not have all bytes yet."""
        with self._writing, self._lock:
            return sorted(self._records.unpersisted)

    def persist(self, digest: Digest) -> bool:
        """Return when the layer is on the disk and that is recorded. False, after quarantining it, if the disk fails.

        Where the file system has fs-verity, the kernel then refuses every write to the file. Raises OSError if
        ``state.json`` cannot be written, or the layer's file cannot be opened; the layer stays unpersisted.
        """
        with self._lock:
            fingerprint = self._records.verified.get(digest)
        try:
            self._step("fsync layer")
            fsync(self.path(digest))
            self._seal(digest)
            self._step("fsync layers")
            fsync(self.layers)
        except FileNotFoundError:
            pass  # evicted meanwhile
        except OSError as exc:
            if exc.errno not in LOST_WRITES:
                raise
            logger.warning("layer not written to the disk", extra={"digest": digest, "cause": exc.strerror})
            self.quarantine(digest)
            return False
        with self._writing:
            with self._lock:
                found = self._records.verified.get(digest)
                is_same = found is not None and fingerprint is not None and found.has_content_of(fingerprint)
                if is_same:  # else another file has its name, not persisted yet
                    self._records.unpersisted.discard(digest)
                    self._is_dirty = True
            try:
                self.flush()
            except OSError:
                with self._lock:
                    if is_same and digest in self._records.verified:
                        self._records.unpersisted.add(digest)
                raise
        return True

    def _seal(self, digest: Digest) -> None:
        was_held = self.is_held(digest)
        if not seal(self.path(digest)) or not was_held:
            return
        with self._lock:
            self._accept_ctime(digest)

    def _accept_ctime(self, digest: Digest) -> None:
        """The store itself has changed the ctime of the file, by a link or a seal: record it. Under the lock."""
        found, known = stat_file(self.path(digest)), self._records.verified.get(digest)
        if found is not None and known is not None and known.has_content_of(now := Fingerprint.of(found)):
            self._records.verified[digest] = now

    def flush(self) -> None:
        """Return when ``state.json`` has all records and is on the disk. Raises OSError."""
        with self._writing:
            with self._lock:
                if not self._is_dirty:
                    return
                text, self._is_dirty = self._state.encode(self._records), False
            try:
                self._state.write_durably(text)
            except OSError:
                self._is_dirty = True
                raise
        self._save_recent()

    def verify(self, layer: Layer | Digest, on_read: Callable[[int], None] = lambda count: None) -> bool:
        """Read the layer's file whole. It is held if it has its digest; else it is quarantined: the result is False.

        The content decides, not what an object declares: a file with the digest that contradicts the Layer stays, and
        LayerRefused is raised. ``on_read`` gets the size of each piece, and may block.
        """
        digest = layer.digest if isinstance(layer, Layer) else layer
        try:
            reading = read_whole(self.path(digest), on_read)
            check_content(digest, reading.found.st_size, reading.sha256, reading.header)
        except FileNotFoundError:
            self._forget(digest)
            return False
        except LayerCorrupt as exc:
            logger.warning("damaged layer quarantined", extra={"digest": digest, "cause": str(exc)})
            self.quarantine(digest)
            return False
        with self._lock:
            seen, found = Fingerprint.of(reading.found), stat_file(self.path(digest))
            known = self._records.verified.get(digest)
            if found is not None and known == Fingerprint.of(found) and known.has_content_of(seen):
                seen = known  # while it was read, only its links have changed, by this store
            self._records.add(digest, seen, self._clock.wall_s())
            self._save()
        if isinstance(layer, Layer):
            check_declared(layer, reading.found.st_size, reading.header)
        return True

    # use and removal

    def touch(self, digests: Collection[Digest]) -> None:
        """Record that these layers are needed now; idle layers are evicted in the order of that time."""
        with self._lock:
            now_s = self._clock.wall_s()
            self._records.touch(digests, now_s)
            if not 0 <= now_s - self._saved_at_s <= self._save_interval_s:  # negative: the clock was set back
                self._save()

    @contextlib.contextmanager
    def changing_links(self, digests: Iterable[Digest]) -> Iterator[None]:
        """The block changes links or attributes of these files, so that a new ctime is no sign of a foreign write.

        It holds the store's lock. A write to one of the files within the block's microseconds is found by the scrub.
        """
        with self._lock:
            intact = [digest for digest in digests if self.is_held(digest)]
            try:
                yield
            finally:
                for digest in intact:
                    self._accept_ctime(digest)
                if intact:
                    self._save()

    def evict(self, digest: Digest, wanted: Collection[Digest]) -> bool:
        """Delete a layer that no volume links and that is not in ``wanted``, checked under the lock. False if not."""
        with self._lock:
            found = stat_file(self.path(digest))
            if found is None or found.st_nlink != 1 or digest in wanted:
                return False
            self._step("evict layer")
            remove(self.path(digest))
            self._forget(digest)
            logger.info("layer evicted", extra={"digest": digest, "size_bytes": found.st_size})
            return True

    def quarantine(self, digest: Digest) -> None:
        """Move a layer's file to quarantine. Volumes that use it keep their links until they are published again."""
        with self._lock:
            self._quarantine.take(self.path(digest), digest)
            self._forget(digest)

    def empty_quarantine(self) -> None:
        """Delete the files that are kept for people to examine."""
        self._quarantine.empty()

    # state.json

    def _forget(self, digest: Digest) -> None:
        with self._lock:
            self._records.forget(digest)
            self._save()

    def _save(self) -> None:
        """The records have changed: write them for this boot at once; ``flush`` writes them durably."""
        self._is_dirty = True
        self._save_recent()

    def _save_recent(self) -> None:
        with self._lock:
            self._saved_at_s = self._clock.wall_s()
            self._state.write_recent(self._records)


def _try_remove(path: Path) -> None:
    """Delete what has no place in the store; on a file system that refuses, it stays until the next start."""
    try:
        remove(path)
    except OSError as exc:
        logger.warning("foreign file not removed", extra={"file": path.name, "cause": exc.strerror})


def _digest_of_part(name: str) -> Digest:
    if not name.endswith(PART_SUFFIX):
        raise ValueError(f"not a partial file: {name[:80]!r}")
    return digest_of_hex(name.removesuffix(PART_SUFFIX))
