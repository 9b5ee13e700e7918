"""Results of a capture: states of its disks by the nodes' reports, and the objects that it creates; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kigi.api.capture import CapturedDisk
from kigi.api.node_cache import CaptureReport
from kigi.domain import kinds, names
from kigi.domain.tree_names import ref_to
from kigi.errors import NameTaken
from kigi.planning.capture_progress import KEPT, CaptureProgress
from kigi.planning.capture_view import CaptureView, ObjectKey, image_name, system_name

_STATES: Mapping[str, str] = {
    "Copied": "Copied",
    "Storing": "Storing",
    "Stored": "Stored",
    "Unchanged": "Unchanged",
    "Refused": "Refused",
}
"""State of a disk by its report; Possible and Lost leave it as it is."""


def with_reports(view: CaptureView) -> CaptureProgress:
    """The progress with the nodes' reports; no disk returns to an earlier state."""
    disks = tuple(_with_report(disk, view.report(view.progress, disk)) for disk in view.progress.disks)
    return replace(view.progress, disks=disks)


def _with_report(disk: CapturedDisk, report: CaptureReport | None) -> CapturedDisk:
    if report is None or disk.state in KEPT:
        return disk
    state = _STATES.get(report.state, disk.state)
    if state == "Refused" and disk.state == "Waiting" and report.copied_bytes == 0:
        state = disk.state  # no copy was made yet: the node retries until the attempt ends
    return disk.model_copy(
        update={
            "state": state,
            "copy_uid": report.copy_uid or disk.copy_uid,
            "digest": report.digest,
            "size_bytes": report.size_bytes,
        }
    )


def result_objects(view: CaptureView) -> Sequence[Mapping[str, Any]]:
    """One VMImageNode for each disk that was written, then the SystemNode that names them."""
    progress = view.progress
    origin = {"captured": {"instanceName": view.spec.instance_ref.name, "requestName": view.name}}
    images = [_image(view, disk, origin) for disk in progress.disks if disk.state == "Stored"]
    machines: dict[str, dict[str, Any]] = {}
    for disk in progress.disks:
        entry = machines.setdefault(disk.machine, {"name": disk.machine})
        image = {"imageRef": ref_to(result_image(view, disk))}
        if disk.is_boot_disk:
            entry["rootDisk"] = image
        else:
            entry.setdefault("disks", []).append({"name": disk.disk, **image})
    spec: dict[str, Any] = {
        "parentRef": ref_to(progress.parent or ""),
        "machines": list(machines.values()),
        "provenance": origin,
    }
    if view.spec.target is not None and view.spec.target.description is not None:
        spec["description"] = view.spec.target.description
    meta = {"name": system_name(view.name, view.spec), "namespace": view.namespace}
    return [*images, {"apiVersion": names.API_VERSION, "kind": kinds.SYSTEM, "metadata": meta, "spec": spec}]


def result_image(view: CaptureView, disk: CapturedDisk) -> str:
    """VMImageNode that the new state names for the disk."""
    return image_name(system_name(view.name, view.spec), disk) if disk.state == "Stored" else disk.base_image_name


def _image(view: CaptureView, disk: CapturedDisk, origin: Mapping[str, Any]) -> dict[str, Any]:
    layer = {
        "digest": disk.digest,
        "sizeBytes": disk.size_bytes,
        "virtualSizeBytes": disk.virtual_size_bytes,
    }
    spec = {
        "parentRef": ref_to(disk.base_image_name),
        "repositoryRef": {"name": view.progress.repository},
        "layer": layer,
        "provenance": origin,
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.IMAGE,
        "metadata": {"name": result_image(view, disk), "namespace": view.namespace},
        "spec": spec,
    }


def missing_objects(view: CaptureView) -> Sequence[Mapping[str, Any]]:
    """Objects of the result that do not exist yet, images first.

    Raises NameTaken if one of the names belongs to an object with another spec: then nothing may be created, because
    the operator has no right to delete what it has created.
    """
    missing = []
    for manifest in result_objects(view):
        kind, name = key_of(manifest)
        found = view.existing.get((kind, name))
        if found is None:
            missing.append(manifest)
        elif not _is_result(found, manifest):
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists and is another one; delete it, or capture under another "
                "spec.target.systemName"
            )
    return missing


def has_begun(view: CaptureView) -> bool:
    """Whether an object of the result exists."""
    return any(
        (found := view.existing.get(key_of(manifest))) is not None and _is_result(found, manifest)
        for manifest in result_objects(view)
    )


def _is_result(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a stored spec is that of the result; whatever it tells about its origin."""
    return _contains(found, {**manifest["spec"], "provenance": found.get("provenance")})


def key_of(manifest: Mapping[str, Any]) -> ObjectKey:
    """Kind and name of an object."""
    return manifest["kind"], manifest["metadata"]["name"]


def _contains(found: object, wanted: object) -> bool:
    """Whether ``found`` has every field of ``wanted``; the API server adds defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_contains(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_contains, found, wanted))
    return found == wanted


def names_of(system: str, disks: Iterable[CapturedDisk]) -> list[ObjectKey]:
    """Every object that a capture of the disks may create."""
    images = ((kinds.IMAGE, image_name(system, disk)) for disk in disks)
    return [(kinds.SYSTEM, system), *images]
