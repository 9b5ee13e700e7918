"""Hard links to the layers of a store: the volumes that use them. All functions block."""

from __future__ import annotations

import abc
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from kigi.domain.layers import Chain, Digest, digest_of_file_name, layer_file_name
from kigi.errors import LayerMissing
from kigi_cache.filesystem import fsync, remove


class LayerLinks(abc.ABC):
    """The part of a store that makes and removes links to its files."""

    _lock: threading.RLock
    _step: Callable[[str], None]

    @abc.abstractmethod
    def is_held(self, digest: Digest) -> bool:
        """Whether the layer was verified and its file has not changed since."""

    @abc.abstractmethod
    def path(self, digest: Digest) -> Path:
        """File of the layer, if it is held."""

    @abc.abstractmethod
    def touch(self, digests: Collection[Digest]) -> None:
        """Record that these layers are needed now."""

    @abc.abstractmethod
    def changing_links(self, digests: Iterable[Digest]) -> AbstractContextManager[None]:
        """The block changes links of these files."""

    def link_chain(self, chain: Chain, directory: Path) -> None:
        """Hard-link the chain's layers into ``directory``, under their file names.

        Checks each file again, under the lock that eviction takes. Raises LayerMissing if a layer is not held; then
        nothing was linked.
        """
        self.link_layers([layer.digest for layer in chain], directory)

    def link_layers(self, digests: Sequence[Digest], directory: Path) -> None:
        """``link_chain`` by digests."""
        with self._lock:
            self._require(digests)
            with self.changing_links(digests):
                for digest in digests:
                    self._step("link layer")
                    os.link(self.path(digest), directory / layer_file_name(digest), follow_symlinks=False)
            fsync(directory)
            self.touch(digests)

    def relink_chain(self, chain: Chain, directory: Path, scratch: Path) -> None:
        """Make the files in ``directory``, which are links to the chain's layers, links to the files that are held now.

        ``scratch`` is an empty directory of the caller. Raises LayerMissing like ``link_chain``.
        """
        with self._lock:
            self._require([layer.digest for layer in chain])
            stale = [each.digest for each in chain if not _same_file(self.path(each.digest), directory)]
            if stale:
                self.link_layers(stale, scratch)
            with self.changing_links(stale):  # a rename changes the ctime, too
                for digest in stale:
                    os.replace(scratch / layer_file_name(digest), directory / layer_file_name(digest))
            self.touch([layer.digest for layer in chain])

    def unlink_layers(self, directory: Path) -> None:
        """Delete a directory with links to layers, and all else in it; a missing one is success."""
        try:
            names = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        digests = [digest for name in names if (digest := digest_or_none(name, digest_of_file_name)) is not None]
        with self.changing_links(digests):
            remove(directory)

    def _require(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if not self.is_held(digest):
                raise LayerMissing(f"layer {digest} is not in the cache of this node; it is fetched first")


def stat_file(path: Path) -> os.stat_result | None:
    """Of a regular file; None for anything else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def digest_or_none(name: str, parse: Callable[[str], Digest]) -> Digest | None:
    """The digest that ``parse`` finds in a name; None if it refuses the name."""
    try:
        return parse(name)
    except ValueError:
        return None


def _same_file(path: Path, directory: Path) -> bool:
    """Whether ``directory`` has a link to this file under its name."""
    ours, linked = stat_file(path), stat_file(directory / path.name)
    return ours is not None and linked is not None and (ours.st_dev, ours.st_ino) == (linked.st_dev, linked.st_ino)
