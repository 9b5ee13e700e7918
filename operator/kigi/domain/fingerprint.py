"""The state that an overlay was created for, as an annotation of its PersistentVolume."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_SEEN = 16
"""Tokens and requests that a disk remembers beside those that are wanted now."""
_TOKEN = "token:"
_REQUEST = "request:"
_encode = json.JSONEncoder(sort_keys=True).encode  # json.dumps makes an encoder at each call


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The state that an overlay was created for. If it differs from the desired one, the machine needs a new disk."""

    image: str
    """Digest of the overlay's backing layer."""
    system: str
    seen: tuple[str, ...] = ()
    """Marks of the reset tokens and requests that this disk and its predecessors had, the last used one last."""
    disks: tuple[tuple[str, str], ...] = ()
    """Name and backing layer's digest of each extra disk, sorted by name."""
    content: str = ""
    """Hash of the machine's content in the state when it last took that; empty: v1alpha1, which recorded none."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Texts of the reset tokens in ``seen``."""
        return tuple(mark.removeprefix(_TOKEN) for mark in self.seen if mark.startswith(_TOKEN))

    def to_text(self) -> str:
        """Canonical JSON: equal fingerprints give equal texts."""
        data: dict[str, object] = {"image": self.image, "seen": list(self.seen), "system": self.system}
        if self.disks:
            data["disks"] = dict(self.disks)
        if self.content:
            data["content"] = self.content
        return _encode(data)

    @classmethod
    def from_text(cls, text: str) -> Fingerprint | None:
        """The fingerprint of a text; None if it is damaged: the machine then needs a new disk."""
        return _parse_fingerprint(text)


def token_mark(text: str) -> str:
    """Mark of a reset token: no token has the mark of a request."""
    return _TOKEN + text


def request_mark(uid: str) -> str:
    """Mark of a SystemReset, by its uid."""
    return _REQUEST + uid


def remember(seen: Sequence[str], wanted: Iterable[str]) -> tuple[str, ...]:
    """Marks of a new disk after one with ``seen``: all that are wanted, and the last ``MAX_SEEN`` others.

    A mark that is wanted is never forgotten: otherwise the next disk would be reset for it once more.
    """
    marks = tuple(dict.fromkeys(wanted))
    if set(marks) <= set(seen):
        return tuple(seen)
    others = [mark for mark in seen if mark not in marks]
    return (*others[-MAX_SEEN:], *marks)


@functools.lru_cache(maxsize=65536)
def _parse_fingerprint(text: str) -> Fingerprint | None:
    """Cached: machines of the same image and state share one, and every reconcile asks again."""
    try:
        data = json.loads(text)
        disks = tuple(sorted((str(name), str(digest)) for name, digest in data.get("disks", {}).items()))
        content = str(data.get("content", ""))
        return Fingerprint(str(data["image"]), str(data["system"]), _parse_seen(data), disks, content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse_seen(data: dict[str, Any]) -> tuple[str, ...]:
    if "seen" in data:
        return tuple(str(mark) for mark in data["seen"])
    first, second, third = data["resets"]  # v1alpha1: tokens of the deployment, the instance and the machine
    return tuple(dict.fromkeys(token_mark(str(token)) for token in (first, second, third) if token is not None))
