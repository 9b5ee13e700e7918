"""The file with every object as it was: written before anything is changed, and read by a call that resumes."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kigi.errors import SpecInvalid
from kigi.migration.problems import Body

FORMAT = "kigi-migration-1"


@dataclass(frozen=True, slots=True)
class Backup:
    """Objects of v1alpha1, their definitions, and the ConfigMap of repositories."""

    objects: tuple[Body, ...]
    definitions: tuple[Body, ...]
    repositories: Body | None = None
    is_final: bool = False
    """Whether nothing can be written in v1alpha1 any more, and every object is here as it was last written."""


def write_backup(path: Path, backup: Backup) -> None:
    """Writes the file, which appears under its name when it is complete and durable."""
    data = {
        "format": FORMAT,
        "objects": backup.objects,
        "definitions": backup.definitions,
        "repositories": backup.repositories,
        "final": backup.is_final,
    }
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("x", encoding="utf-8") as out:
            part.chmod(0o600)
            json.dump(data, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        part.rename(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def read_backup(path: Path) -> Backup:
    """The backup of a file. Raises SpecInvalid if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}")
        objects: Sequence[Body] = data["objects"]
        return Backup(tuple(objects), tuple(data["definitions"]), data["repositories"], bool(data.get("final")))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SpecInvalid(f"{path} is no backup of a migration: {exc}; give the file of the first call") from exc


def _sync(folder: Path) -> None:
    if sys.platform == "win32":  # it opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
