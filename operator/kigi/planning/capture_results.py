"""What becomes of the reports of nodes: disk states, and the objects of the new state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kigi.api.capture import CapturedDisk, SystemCaptureStatus
from kigi.domain import names
from kigi.planning.capture_view import CaptureView, image_name, system_name
from kigi.planning.copies import KEPT


def with_reports(view: CaptureView) -> SystemCaptureStatus:
    """The status with what the nodes say; no disk goes back to an earlier state."""
    system = system_name(view.name, view.spec)
    disks: list[CapturedDisk] = []
    for disk in view.status.disks:
        report = view.reports.get(disk.id)
        if report is None or disk.state in KEPT:
            disks.append(disk)
            continue
        copied = disk.state != "Waiting"
        state: Any = report.state
        if state in ("Lost", "Possible") or (state == "Refused" and not copied and report.copied_bytes == 0):
            state = disk.state  # before the copy: tried again while there is time
        result = {"Stored": image_name(system, disk.name), "Unchanged": disk.image}.get(state)
        disks.append(
            disk.model_copy(
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
        )
    return view.status.model_copy(
        update={
            "disks": disks,
            "uploaded_bytes": sum(disk.uploaded_bytes for disk in disks),
            "added_bytes": sum(disk.size_bytes or 0 for disk in disks),
        }
    )


def result_objects(view: CaptureView, status: SystemCaptureStatus | None = None) -> Iterable[Mapping[str, Any]]:
    """One VMImageNode for each disk that was written, and the SystemNode that names them."""
    status = status or view.status
    system = system_name(view.name, view.spec)
    origin = {names.ANNOTATION_CAPTURED_FROM: f"{view.spec.deployment.name}/{view.spec.instance}"}
    machines: dict[str, dict[str, Any]] = {}
    for disk in status.disks:
        machine, _, more = disk.name.partition("/")
        entry = machines.setdefault(machine, {"name": machine})
        image = {"name": disk.result or disk.image}
        if more:
            entry.setdefault("disks", []).append({"name": more, "image": image})
        else:
            entry["image"] = image
        if disk.state != "Stored":
            continue
        layer = {
            "digest": disk.digest,
            "sizeBytes": disk.size_bytes,
            "virtualSizeBytes": disk.virtual_size_bytes,
            "repository": disk.repository,
        }
        yield {
            "apiVersion": names.API_VERSION,
            "kind": "VMImageNode",
            "metadata": {"name": disk.result, "namespace": view.namespace, "annotations": origin},
            "spec": {"parent": {"name": disk.image}, "layer": layer},
        }
    spec: dict[str, Any] = {"parent": {"name": status.parent}, "machines": list(machines.values())}
    if view.spec.description is not None:
        spec["description"] = view.spec.description
    yield {
        "apiVersion": names.API_VERSION,
        "kind": "SystemNode",
        "metadata": {"name": system, "namespace": view.namespace, "annotations": origin},
        "spec": spec,
    }
