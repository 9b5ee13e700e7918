"""Parses objects of KubeVirt's kinds into records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters import kubevirt
from kigi.domain import names
from kigi.domain.kubevirt import DEFAULT_MEMORY, LAUNCHER_OVERHEAD_BYTES, RUN_STRATEGIES
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, ANNOTATION_TEMPLATE_HASH, HOOK_SIDECARS
from kigi.domain.observed import MachineRecord, Meta, VmiRecord
from kigi.mirror.parse_values import (
    annotations_of,
    bytes_of,
    deployment_of,
    labels_of,
    nested,
    owner_of,
    shared,
    time_of,
)
from kigi.mirror.records import InstancetypeRecord, KubeVirtRecord, PluginRecord
from kigi.planning import plugin


def parse_machine(body: Mapping[str, Any], meta: Meta) -> MachineRecord:
    """Record of a VirtualMachine."""
    labels, annotations = labels_of(body), annotations_of(body)
    template = nested(body, "spec", "template")
    passed_on = annotations_of(template)
    return MachineRecord(
        meta=meta,
        owner_uid=owner_of(annotations),
        deployment=deployment_of(meta.namespace, labels),
        instance=shared(labels.get(names.LABEL_INSTANCE, "")),
        machine=shared(labels.get(names.LABEL_MACHINE, "")),
        claim=kubevirt.root_claim(nested(template, "spec").get("volumes"), names.DISK_VOLUME),
        running=nested(body, "spec").get("runStrategy") in RUN_STRATEGIES,
        template_hash=shared(annotations.get(ANNOTATION_TEMPLATE_HASH, "")),
        hardware=shared(passed_on.get(ANNOTATION_HARDWARE_HASH, "")),
        sidecars=shared(passed_on.get(HOOK_SIDECARS, "")),
        halted_until=time_of(annotations.get(names.ANNOTATION_HALTED_UNTIL)),
        memory_bytes=_memory_of(body),
        printable_status=shared(nested(body, "status").get("printableStatus", "")),
        message=kubevirt.trouble(body),
    )


def _memory_of(body: Mapping[str, Any]) -> int | None:
    """Bytes that the VM takes on its node; None if an instancetype defines its memory."""
    if nested(body, "spec").get("instancetype"):
        return None
    guest = nested(body, "spec", "template", "spec", "domain", "memory").get("guest")
    return bytes_of(guest, DEFAULT_MEMORY) + LAUNCHER_OVERHEAD_BYTES


def parse_vmi(body: Mapping[str, Any], meta: Meta) -> VmiRecord:
    """Record of a VirtualMachineInstance."""
    status = nested(body, "status")
    return VmiRecord(
        meta=meta,
        deployment=deployment_of(meta.namespace, labels_of(body)),
        instance=shared(labels_of(body).get(names.LABEL_INSTANCE, "")),
        claim=kubevirt.root_claim(nested(body, "spec").get("volumes"), names.DISK_VOLUME),
        hardware=shared(annotations_of(body).get(ANNOTATION_HARDWARE_HASH, "")),
        phase=shared(status.get("phase", "")),
        ready=kubevirt.is_true(body, "Ready"),
        paused=kubevirt.is_true(body, "Paused"),
        persistent_state=kubevirt.persistent_state(body),
        agent=kubevirt.is_true(body, "AgentConnected"),
        blocked_by_ghost_record=kubevirt.is_blocked_by_ghost_record(body),
        node=shared(status.get("nodeName")),
        message=kubevirt.unscheduled(body) or kubevirt.disk_error(body),
    )


def parse_kubevirt(body: Mapping[str, Any], meta: Meta) -> KubeVirtRecord:
    """Record of a KubeVirt object, which keeps only the fields that decide on the hook."""
    kept = {
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        "spec": {
            "configuration": {"developerConfiguration": nested(body, "spec", "configuration", "developerConfiguration")}
        },
        "status": {"observedKubeVirtVersion": nested(body, "status").get("observedKubeVirtVersion")},
    }
    return KubeVirtRecord(meta, kept, kubevirt.kubevirt_state([kept]))


def parse_plugin(body: Mapping[str, Any], meta: Meta) -> PluginRecord:
    """Record of a Plugin."""
    return PluginRecord(meta, meta.name == plugin.NAME and body.get("spec") == plugin.build_plugin()["spec"])


def parse_instancetype(body: Mapping[str, Any], meta: Meta) -> InstancetypeRecord:
    """Record of an instancetype of a namespace or of the cluster."""
    return InstancetypeRecord(meta, bytes_of(nested(body, "spec", "memory").get("guest"), DEFAULT_MEMORY))
