"""The state that an overlay was created for, as an annotation of its PersistentVolume."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The state that an overlay was created for. If it differs from the desired one, the machine needs a new disk."""

    image: str
    """Digest of the overlay's backing layer."""
    system: str
    resets: tuple[str | None, str | None, str | None]
    """Reset tokens of the deployment, the instance and the machine."""
    disks: tuple[tuple[str, str], ...] = ()
    """Name and backing layer's digest of each extra disk, sorted by name."""

    def to_text(self) -> str:
        """Canonical JSON: equal fingerprints give equal texts."""
        data = {"image": self.image, "resets": list(self.resets), "system": self.system}
        return json.dumps({**data, **({"disks": dict(self.disks)} if self.disks else {})}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Fingerprint | None:
        """The fingerprint of a text; None if it is damaged: the machine then needs a new disk."""
        return _parse_fingerprint(text)


@functools.lru_cache(maxsize=65536)
def _parse_fingerprint(text: str) -> Fingerprint | None:
    """Cached: machines of the same image and state share one, and every reconcile asks again."""
    try:
        data = json.loads(text)
        first, second, third = data["resets"]
        disks = tuple(sorted((str(name), str(digest)) for name, digest in data.get("disks", {}).items()))
        return Fingerprint(str(data["image"]), str(data["system"]), (first, second, third), disks)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
