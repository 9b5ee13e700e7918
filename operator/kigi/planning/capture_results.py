"""Results of a capture: states of its disks by the nodes' reports, and the objects that it creates; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kigi.api.capture import CapturedDisk, DiskState
from kigi.api.node_cache import CaptureReport
from kigi.domain import kinds, names
from kigi.errors import NameTaken
from kigi.planning.capture_progress import CaptureProgress
from kigi.planning.capture_view import CaptureView, ObjectKey, image_name, system_name
from kigi.planning.copies import KEPT

_STATES: Mapping[str, DiskState] = {
    "Copied": "Copied",
    "Storing": "Storing",
    "Stored": "Stored",
    "Unchanged": "Unchanged",
    "Refused": "Refused",
}
"""State of a disk by its report; Possible and Lost leave it as it is."""


def with_reports(view: CaptureView) -> CaptureProgress:
    """The progress with the nodes' reports; no disk returns to an earlier state."""
    system = system_name(view.name, view.spec)
    disks = tuple(_with_report(disk, view.reports.get(disk.id), system) for disk in view.progress.disks)
    return replace(view.progress, disks=disks)


def _with_report(disk: CapturedDisk, report: CaptureReport | None, system: str) -> CapturedDisk:
    if report is None or disk.state in KEPT:
        return disk
    state = _STATES.get(report.state, disk.state)
    if state == "Refused" and disk.state == "Waiting" and report.copied_bytes == 0:
        state = disk.state  # no copy was made yet: the node retries until the attempt ends
    result = {"Stored": image_name(system, disk.machine, disk.disk), "Unchanged": disk.image}.get(state)
    return disk.model_copy(
        update={
            "state": state,
            "copied_bytes": report.copied_bytes or disk.copied_bytes,
            "copy_milliseconds": report.copy_milliseconds or disk.copy_milliseconds,
            "digest": report.digest,
            "size_bytes": report.size_bytes,
            "uploaded_bytes": report.uploaded_bytes,
            "result": result,
            "reason": report.reason,
            "message": report.message,
        }
    )


def result_objects(view: CaptureView) -> Sequence[Mapping[str, Any]]:
    """One VMImageNode for each disk that was written, then the SystemNode that names them."""
    progress = view.progress
    origin = {names.ANNOTATION_CAPTURED_FROM: f"{view.spec.deployment.name}/{view.spec.instance}"}
    images = [_image(view.namespace, disk, origin) for disk in progress.disks if disk.state == "Stored"]
    machines: dict[str, dict[str, Any]] = {}
    for disk in progress.disks:
        entry = machines.setdefault(disk.machine, {"name": disk.machine})
        image = {"name": disk.result or disk.image}
        if disk.disk:
            entry.setdefault("disks", []).append({"name": disk.disk, "image": image})
        else:
            entry["image"] = image
    spec: dict[str, Any] = {"parent": {"name": progress.parent}, "machines": list(machines.values())}
    if view.spec.description is not None:
        spec["description"] = view.spec.description
    meta = {"name": system_name(view.name, view.spec), "namespace": view.namespace, "annotations": origin}
    return [*images, {"apiVersion": names.API_VERSION, "kind": kinds.SYSTEM, "metadata": meta, "spec": spec}]


def _image(namespace: str, disk: CapturedDisk, origin: Mapping[str, str]) -> dict[str, Any]:
    layer = {
        "digest": disk.digest,
        "sizeBytes": disk.size_bytes,
        "virtualSizeBytes": disk.virtual_size_bytes,
        "repository": disk.repository,
    }
    return {
        "apiVersion": names.API_VERSION,
        "kind": kinds.IMAGE,
        "metadata": {"name": disk.result, "namespace": namespace, "annotations": origin},
        "spec": {"parent": {"name": disk.image}, "layer": layer},
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
        elif not _contains(found, manifest["spec"]):
            raise NameTaken(
                f"{kind} {view.namespace}/{name} exists and is another one; delete it, or capture under another "
                "spec.system"
            )
    return missing


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
    images = ((kinds.IMAGE, image_name(system, disk.machine, disk.disk)) for disk in disks)
    return [(kinds.SYSTEM, system), *images]
