"""The two files in which the store's records outlive the daemon. All methods block.

state.json          fsynced before its rename: survives a power cut
state.recent.json   not fsynced, and written at each change: counts only in the boot that wrote it
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from kigi_cache.filesystem import write_durably
from kigi_cache.layers.records import Records, decode_records, encode_records

logger = logging.getLogger(__name__)


class StateFiles:
    """The files of one store."""

    def __init__(self, root: Path, boot: str, step: Callable[[str], None]) -> None:
        """``boot`` identifies the machine's boot. ``step`` is called with the name of each change before it is made."""
        self._durable = root / "state.json"
        self._recent = root / "state.recent.json"
        self._boot = boot
        self._step = step

    def load(self) -> Records:
        """The newest records that can be trusted; none if both files are missing or unreadable."""
        try:
            return decode_records(self._recent.read_text(), self._boot, any_boot=False)
        except (OSError, ValueError):
            pass  # after a power cut it may have any content
        try:
            return decode_records(self._durable.read_text(), self._boot)
        except FileNotFoundError:
            return Records()
        except (OSError, ValueError) as exc:
            logger.warning("state of the cache unreadable, every layer is read again", extra={"cause": str(exc)})
            return Records()

    def encode(self, records: Records) -> str:
        """The text for ``write_durably``."""
        return encode_records(records, self._boot)

    def write_durably(self, text: str) -> None:
        """Return when the records are on the disk. Raises OSError."""
        self._step("write state")
        write_durably(self._durable, text)

    def write_recent(self, records: Records) -> None:
        """Write the records for this boot. A full disk is not an error: what an old state costs is in ``records``."""
        self._step("write recent state")
        new = self._recent.with_suffix(".new")
        try:
            new.write_text(encode_records(records, self._boot))
            os.rename(new, self._recent)
        except OSError as exc:
            logger.warning("state of the cache not written", extra={"cause": exc.strerror})
            # An older one would outrank state.json.
            with contextlib.suppress(OSError):
                self._recent.unlink(missing_ok=True)
