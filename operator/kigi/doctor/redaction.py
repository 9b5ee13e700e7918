"""Removes secrets from texts of a support archive: known values in any encoding, and what looks like a secret. Pure.

Objects are reduced to known fields before (``projection``). This is for what remains: messages, events and logs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

REMOVED = "<removed>"
LEAST_KNOWN = 6
"""Characters of the shortest value that is searched for: shorter ones are parts of ordinary words."""
SECRET_KEY = re.compile(
    r"password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization|"
    r"signature|user[-_]?data|network[-_]?data|cookie",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(Ref|Refs|Name|Names|name|Policy|Seconds|Digest)$")
"""Ends of keys that name a Secret, and have none."""
_ASSIGNED = (
    r"(?i)(?P<name>[\w.\-]*(?:password|passwd|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|"
    r"credentials?)[\w.\-]*)(?P<between>\\?[\"']?\s*[:=]\s*\\?[\"']?)(?P<value>(?![\[{<])[^\s\"',;&}\\]+)"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    (re.compile(r"#cloud-config.*\Z", re.DOTALL), REMOVED),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REMOVED),
    (re.compile(r"(?<=://)[^/\s@\"'<>]+:[^/\s@\"'<>]*(?=@)"), REMOVED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {REMOVED}"),
    (
        re.compile(r"(?i)(x-amz-(?:signature|credential|security-token)(?:=|%3d|[\"']?\s*:\s*[\"']?))[^&\s\"']+"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?i)([?&](?:signature|awsaccesskeyid|sig|sign|key)=)[^&\s\"']+"), rf"\1{REMOVED}"),
    (re.compile(r"\b(Credential|Signature)=[^,&\s\"']+"), rf"\1={REMOVED}"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), REMOVED),
    (re.compile(_ASSIGNED), rf"\g<name>\g<between>{REMOVED}"),
)  # fmt: skip


class Redactor:
    """Removes the values that it knows, in every encoding, and what looks like a secret."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        forms = {form for value in known if len(value) >= LEAST_KNOWN for form in encodings(value)}
        self._forms = sorted((form for form in forms if len(form) >= LEAST_KNOWN), key=len, reverse=True)

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = self.known(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def known(self, text: str) -> str:
        """The text without the known values alone. O(length of the text x values), at the speed of a search."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, REMOVED)
        return text

    def tree(self, value: Any) -> Any:
        """JSON without secrets: texts of fields with a secret's name are removed, all others redacted."""
        if isinstance(value, dict):
            return {self.text(str(key)): self._field(str(key), each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.tree(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def _field(self, key: str, value: Any) -> Any:
        is_secret = SECRET_KEY.search(key) and not _REFERENCE.search(key)
        return REMOVED if is_secret and isinstance(value, str) and value else self.tree(value)


def encodings(value: str) -> Iterator[str]:
    """The value as it may be in another text: plain, in JSON, URL-encoded, hexadecimal, and within any base64.

    Three bytes are four digits of base64, so a value has three forms there, without the digits at both ends that depend
    on what surrounds it.
    """
    data = value.encode(errors="surrogateescape")
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    for quoted in (quote(value, safe=""), quote(value), quote_plus(value)):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)
    yield data.hex()
    yield data.hex().upper()
    for offset in range(3):
        padded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        digits = padded[(0, 2, 3)[offset] : len(padded) - ((offset + len(data)) % 3 != 0)]
        yield digits
        yield digits.translate(str.maketrans("+/", "-_"))


def values_within(text: str) -> Iterator[str]:
    """The parts of a Secret's value that may be in other texts: the whole, its lines, and the texts of its JSON."""
    yield text.strip()
    yield from (line.strip() for line in text.splitlines())
    try:
        parsed = json.loads(text)
    except ValueError:
        return
    yield from _texts(parsed)


_PUBLIC = frozenset({"endpoint", "bucket", "region", "addressing", "ca_file", "caFile", "name", "namespace"})
"""Fields of a repository's file that are no secret, and are needed to understand the rest."""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in _PUBLIC:
                yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
