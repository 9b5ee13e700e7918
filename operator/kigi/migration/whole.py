"""A whole migration, which may be interrupted at any time and is then called again with the same file.

Nobody else writes from the export to the end: the file has every order that users have given, and none is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kigi.errors import SpecInvalid, Waiting
from kigi.migration import freeze
from kigi.migration.backup import Backup, read_backup, write_backup
from kigi.migration.conversion import Conversion
from kigi.migration.run import (
    BY_KIND,
    Cluster,
    Place,
    apply,
    changes,
    export,
    finish,
    has_begun,
    is_complete,
    lock,
    restore,
    serve_new,
    some_object,
    unlock,
)

Convert = Callable[[Backup], Conversion]
"""Converts the objects of a backup; raises SpecInvalid if one cannot be converted."""


def look(cluster: Cluster, path: Path, place: Place, convert: Convert) -> tuple[Backup, Conversion]:
    """Saves every object in the file, and converts it in memory. Of a migration that has begun: reads the file."""
    saved = read_backup(path) if path.exists() else None
    if saved is None or not has_begun(cluster):
        saved = _save(cluster, path, place)
    return saved, convert(saved)


def migrate(cluster: Cluster, path: Path, place: Place, convert: Convert) -> int:
    """Converts every object; their number. Raises SpecInvalid and Waiting, after which it may be called again.

    The operators' Lease and the policy of ``freeze`` stay after an interruption, until a call ends.
    """
    saved = read_backup(path) if path.exists() else None
    lock(cluster, place.namespace, place.lease)
    if saved is not None and is_complete(cluster):
        finish(cluster)  # users may have changed converted objects since
        count = len(saved.objects)
    else:
        try:
            saved = _final(cluster, saved, path, place, convert)
            objects = convert(saved).objects
            apply(cluster, saved, objects)
            count = len(objects)
        except SpecInvalid:
            if not has_begun(cluster):
                _let_go(cluster, place)
            raise
    _let_go(cluster, place)
    return count


def _final(cluster: Cluster, saved: Backup | None, path: Path, place: Place, convert: Convert) -> Backup:
    """A backup of all objects as they are when nobody can write them any more; v1alpha2 is served."""
    begun = has_begun(cluster)
    if begun and saved is not None and saved.is_final:
        cluster.report(f"resuming from {path}")
        return saved
    if begun and saved is not None:
        restore(cluster, saved)  # no object was converted yet
    resources = tuple(BY_KIND.values())
    if not has_begun(cluster):
        freeze.freeze(cluster.kube, resources, some_object(cluster), sleep=cluster.sleep, clock=cluster.clock)
    saved = _save(cluster, path, place)
    convert(saved)
    serve_new(cluster, saved)
    changed = changes(cluster, saved)
    if changed:
        raise Waiting(f"{', '.join(changed[:5])}: changed while all objects were saved; call kigi migrate again")
    saved = replace(saved, is_final=True)
    write_backup(path, saved)
    return saved


def _save(cluster: Cluster, path: Path, place: Place) -> Backup:
    saved = export(cluster, place.namespace, place.config_map)
    write_backup(path, saved)
    cluster.report(f"{len(saved.objects)} objects are saved in {path}")
    return saved


def _let_go(cluster: Cluster, place: Place) -> None:
    freeze.thaw(cluster.kube, some_object(cluster), sleep=cluster.sleep, clock=cluster.clock)
    unlock(cluster, place.namespace, place.lease)
