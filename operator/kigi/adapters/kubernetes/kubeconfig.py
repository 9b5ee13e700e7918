"""Parses kubeconfig files and selects a context.

For the command line, with the standard library and yaml only: importing the client library takes longer than a request
to the API server. Source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kigi.errors import SpecInvalid

_REMEDY = "name another file with --kubeconfig or KUBECONFIG"


@dataclass(frozen=True, slots=True)
class Entry:
    """A named entry of a kubeconfig. ``folder``: base of its relative paths."""

    name: str
    folder: Path
    fields: Mapping[str, Any]

    def data(self, key: str) -> bytes | None:
        """Content of ``KEY-data``, or of the file ``KEY``; None if neither is set. Raises SpecInvalid."""
        text = self.fields.get(f"{key}-data")
        if text:
            try:
                return base64.b64decode(text, validate=True)
            except (binascii.Error, TypeError, ValueError) as exc:
                raise SpecInvalid(f"kubeconfig: {key}-data of {self.name!r} is not base64; write it anew") from exc
        path = self.fields.get(key)
        if not path:
            return None
        try:
            return (self.folder / str(path)).read_bytes()
        except OSError as exc:
            raise SpecInvalid(f"kubeconfig: {key} of {self.name!r}: {exc.strerror}: {exc.filename}") from exc


@dataclass(frozen=True, slots=True)
class Config:
    """Merged kubeconfig files. Of two entries with the same name, the first counts."""

    files: tuple[Path, ...]
    current: str | None
    parts: Mapping[str, Mapping[str, Entry]]
    """``contexts``, ``clusters`` and ``users`` by name."""


@dataclass(frozen=True, slots=True)
class Context:
    """A context of a kubeconfig, with its cluster and user."""

    namespace: str
    cluster: Entry
    user: Entry | None


def files_of(kubeconfig: str | None, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files to read, by the same rules as kubectl."""
    if kubeconfig is not None:
        return (Path(kubeconfig).expanduser(),)
    named = [part for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    return tuple(Path(part).expanduser() for part in named or ["~/.kube/config"])


def read_config(files: Sequence[Path]) -> Config:
    """The existing files, merged. Raises SpecInvalid if none exists, or if one is not a kubeconfig."""
    documents = [(path, found) for path in files if (found := _read(path)) is not None]
    if not documents:
        raise SpecInvalid(f"no cluster is configured: {', '.join(map(str, files))} does not exist; {_REMEDY}")
    return merge(documents)


def _read(path: Path) -> Mapping[str, Any] | None:
    import yaml

    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise SpecInvalid(f"kubeconfig {path} cannot be read: {why}; {_REMEDY}") from exc
    try:
        found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise SpecInvalid(f"kubeconfig {path} is not YAML{where}; correct it, or {_REMEDY}") from exc
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SpecInvalid(f"kubeconfig {path} is not a kubeconfig: it has no fields; correct it, or {_REMEDY}")
    return found


_FIELDS = {"contexts": "context", "clusters": "cluster", "users": "user"}


def merge(documents: Sequence[tuple[Path, Mapping[str, Any]]]) -> Config:
    """Merges parsed files. Raises SpecInvalid for an entry without a name or fields."""
    current: str | None = None
    parts: dict[str, dict[str, Entry]] = {kind: {} for kind in _FIELDS}
    for path, document in documents:
        current = current or document.get("current-context") or None
        for kind, inner in _FIELDS.items():
            for item in document.get(kind) or ():
                fields = (item.get(inner) or {}) if isinstance(item, dict) else None
                if not isinstance(fields, dict) or not isinstance(item.get("name"), str):
                    raise SpecInvalid(f"kubeconfig {path}: {kind}: an entry has no name or no fields; correct it")
                parts[kind].setdefault(item["name"], Entry(item["name"], path.parent, fields))
    return Config(tuple(path for path, _ in documents), current, parts)


def select(config: Config, name: str | None) -> Context:
    """The context of that name, or the current one. Raises SpecInvalid with the known names."""
    files = ", ".join(map(str, config.files))
    known = ", ".join(sorted(config.parts["contexts"])) or "none"
    if name is None and config.current is None:
        raise SpecInvalid(
            f"kubeconfig {files} names no current context; give --context, or call kubectl config use-context NAME; "
            f"it has: {known}"
        )
    wanted = name or config.current or ""
    chosen = config.parts["contexts"].get(wanted)
    if chosen is None:
        raise SpecInvalid(f"kubeconfig {files} has no context {wanted!r}; give --context; it has: {known}")
    cluster = config.parts["clusters"].get(str(chosen.fields.get("cluster")))
    if cluster is None or not isinstance(cluster.fields.get("server"), str):
        raise SpecInvalid(
            f"kubeconfig {files}: context {wanted!r} names cluster {chosen.fields.get('cluster')!r}, which has no "
            "server; call kubectl config set-cluster, or give another --context"
        )
    user = None
    if chosen.fields.get("user"):
        user = config.parts["users"].get(str(chosen.fields["user"]))
        if user is None:
            raise SpecInvalid(
                f"kubeconfig {files}: context {wanted!r} names user {chosen.fields['user']!r}, which it does not have; "
                "call kubectl config set-credentials, or give another --context"
            )
    return Context(str(chosen.fields.get("namespace") or "default"), cluster, user)
