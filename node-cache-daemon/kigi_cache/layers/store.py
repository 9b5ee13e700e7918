"""The files of a node's cache. A held layer is complete and verified, whenever daemon or machine stop.

<root>/layers/<hex>.qcow2       0444: verified; its further hard links are volumes that use it
<root>/incoming/<hex>.part      the first bytes of a layer that is being fetched
<root>/quarantine/<hex>.<n>     files that are not what their names claim
<root>/state.json               which files were verified, and when (``records``)

A layer is held, and VMs may start on it, before the disk has all of it; ``persist`` follows. After a power cut, layers
that were not persisted are read whole before they are held again
(docs/decisions/0005-layers-are-settled-behind-their-commit.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from kigi.domain.layers import Chain, Digest, Layer, digest_hex, digest_of_file_name, digest_of_hex, layer_file_name
from kigi.domain.qcow2 import HEADER_BYTES
from kigi.errors import LayerCorrupt, LayerMissing, LayerRefused
from kigi_cache.clock import REAL_TIME, Clock
from kigi_cache.filesystem import free_bytes, fsync, remove
from kigi_cache.layers.eviction import HeldLayer
from kigi_cache.layers.quarantine import Quarantine
from kigi_cache.layers.records import Fingerprint, Records, decode_records, encode_records
from kigi_cache.layers.verification import check_content, read_whole

logger = logging.getLogger(__name__)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PART_SUFFIX = ".part"
SAVE_INTERVAL_S = 60.0


class Store:
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
        self._state = self.root / "state.json"
        self._step = step
        self._boot = boot if boot is not None else BOOT_ID.read_text().strip()
        self._clock = clock
        self._save_interval_s = save_interval_s
        self._saved_at_s = clock.wall_s()
        self._lock = threading.RLock()
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
            saved = self._load()
            self._records.fetched_bytes = saved.fetched_bytes
            self._records.read_at, self._records.needed_at = saved.read_at, saved.needed_at
            doubtful: list[Digest] = []
            for entry in sorted(os.scandir(self.layers), key=lambda entry: entry.name):
                digest = _digest_of(entry.name, digest_of_file_name)
                found = entry.stat(follow_symlinks=False)
                if digest is None or not stat.S_ISREG(found.st_mode):
                    logger.warning("foreign file removed from the cache", extra={"file": entry.name})
                    remove(Path(entry.path))
                elif saved.verified.get(digest) == Fingerprint.of(found):
                    self._records.restore(digest, saved)
                else:
                    doubtful.append(digest)
            for entry in os.scandir(self.incoming):
                if _digest_of(entry.name, _digest_of_part) is None or not entry.is_file(follow_symlinks=False):
                    remove(Path(entry.path))
            return doubtful

    def held(self) -> dict[Digest, HeldLayer]:
        """Every held layer. O(layers), one stat each."""
        with self._lock:
            layers: dict[Digest, HeldLayer] = {}
            for digest, fingerprint in list(self._records.verified.items()):
                found = _stat(self.path(digest))
                if found is not None and Fingerprint.of(found) == fingerprint:
                    needed_s = self._records.needed_at.get(digest, 0.0)
                    layers[digest] = HeldLayer(digest, fingerprint.size_bytes, found.st_nlink - 1, needed_s)
            return layers

    def is_held(self, digest: Digest) -> bool:
        """Whether the layer was verified and its file has not changed since. One stat."""
        fingerprint = self._records.verified.get(digest)
        found = _stat(self.path(digest)) if fingerprint is not None else None
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
            return sorted(digest for name in names if (digest := _digest_of(name, _digest_of_part)) is not None)
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
        with self._lock:
            return sorted(self._records.unpersisted)

    def persist(self, digest: Digest) -> bool:
        """Return when the layer is on the disk and that is recorded. False, after quarantining it, if the disk fails.

        Raises OSError if ``state.json`` cannot be written; the layer stays unpersisted.
        """
        with self._lock:
            fingerprint = self._records.verified.get(digest)
        try:
            self._step("fsync layer")
            fsync(self.path(digest))
            self._step("fsync layers")
            fsync(self.layers)
        except FileNotFoundError:
            pass  # evicted meanwhile
        except OSError as exc:
            logger.warning("layer not written to the disk", extra={"digest": digest, "cause": exc.strerror})
            self.quarantine(digest)
            return False
        with self._lock:
            if self._records.verified.get(digest) == fingerprint:  # else another file has its name, not persisted yet
                self._records.unpersisted.discard(digest)
                try:
                    self._write_state()
                except OSError:
                    self._records.unpersisted.add(digest)
                    raise
        return True

    def verify(self, layer: Layer | Digest, on_read: Callable[[int], None] = lambda count: None) -> bool:
        """Read the layer's file whole. It is held if it is right; else it is quarantined, and the result is False.

        Of a Layer, size and header are checked too. ``on_read`` gets the size of each piece, and may block.
        """
        digest = layer.digest if isinstance(layer, Layer) else layer
        try:
            reading = read_whole(self.path(digest), on_read)
            check_content(layer, reading.found.st_size, reading.sha256, reading.header)
        except FileNotFoundError:
            self._forget(digest)
            return False
        except (LayerCorrupt, LayerRefused) as exc:
            logger.warning("damaged layer quarantined", extra={"digest": digest, "cause": str(exc)})
            self.quarantine(digest)
            return False
        with self._lock:
            self._records.add(digest, Fingerprint.of(reading.found), self._clock.wall_s())
            self._save()
        return True

    # use and removal

    def touch(self, digests: Collection[Digest]) -> None:
        """Record that these layers are needed now; idle layers are evicted in the order of that time."""
        with self._lock:
            now_s = self._clock.wall_s()
            self._records.touch(digests, now_s)
            if not 0 <= now_s - self._saved_at_s <= self._save_interval_s:  # negative: the clock was set back
                self._save()

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard-link the chain's layers into ``directory``, under their file names.

        Checks each file again, under the lock that eviction takes. Raises LayerMissing if a layer is not held; then
        nothing was linked.
        """
        self.link_layers([layer.digest for layer in chain], directory)

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """``link_chain`` by digests."""
        with self._lock:
            for digest in digests:
                if not self.is_held(digest):
                    raise LayerMissing(f"layer {digest} is not in the cache of this node; it is fetched first")
            for digest in digests:
                self._step("link layer")
                os.link(self.path(digest), directory / layer_file_name(digest), follow_symlinks=False)
            fsync(directory)
            self.touch(digests)

    def evict(self, digest: Digest, wanted: Collection[Digest]) -> bool:
        """Delete a layer that no volume links and that is not in ``wanted``, checked under the lock. False if not."""
        with self._lock:
            found = _stat(self.path(digest))
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

    def _load(self) -> Records:
        try:
            return decode_records(self._state.read_text(), self._boot)
        except FileNotFoundError:
            return Records()
        except ValueError as exc:
            logger.warning("state of the cache unreadable, every layer is read again", extra={"cause": str(exc)})
            return Records()

    def _save(self) -> None:
        """Replace ``state.json``. A full disk is not an error: what an old state costs is in ``records``."""
        try:
            self._write_state()
        except OSError as exc:
            logger.warning("state of the cache not written", extra={"cause": exc.strerror})

    def _write_state(self) -> None:
        self._step("write state")
        self._saved_at_s = self._clock.wall_s()
        new = self._state.with_suffix(".new")
        new.write_text(encode_records(self._records, self._boot))
        os.rename(new, self._state)


def _stat(path: Path) -> os.stat_result | None:
    """Of a regular file; None for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _digest_of(name: str, parse: Callable[[str], Digest]) -> Digest | None:
    try:
        return parse(name)
    except ValueError:
        return None


def _digest_of_part(name: str) -> Digest:
    if not name.endswith(PART_SUFFIX):
        raise ValueError(f"not a partial file: {name[:80]!r}")
    return digest_of_hex(name.removesuffix(PART_SUFFIX))
