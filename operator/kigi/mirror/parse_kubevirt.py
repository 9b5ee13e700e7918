"""Records of KubeVirt's kinds from their API objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kigi.adapters import kubevirt
from kigi.domain import names
from kigi.domain.kubevirt import DEFAULT_MEMORY, LAUNCHER_OVERHEAD_BYTES, RUN_STRATEGIES
from kigi.domain.names import ANNOTATION_HARDWARE_HASH, ANNOTATION_TEMPLATE_HASH, HOOK_SIDECARS
from kigi.domain.observed import MachineRecord, Meta, VmiRecord
from kigi.mirror.parse_values import bytes_of, int_of, time_of
from kigi.mirror.records import InstancetypeRecord, KubeVirtRecord, PluginRecord
from kigi.planning import plugin


def parse_machine(body: Mapping[str, Any], meta: Meta) -> MachineRecord:
    """VirtualMachine; its memory is None if an instancetype defines it."""
    metadata, spec = body["metadata"], body.get("spec") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    of_template = ((spec.get("template") or {}).get("metadata") or {}).get("annotations") or {}
    template = (spec.get("template") or {}).get("spec") or {}
    memory = ((template.get("domain") or {}).get("memory") or {}).get("guest")
    typed = bool(spec.get("instancetype"))
    return MachineRecord(
        meta=meta,
        owner_uid=annotations.get(names.ANNOTATION_OWNER, ""),
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        instance=int_of(labels.get(names.LABEL_INSTANCE)),
        machine=labels.get(names.LABEL_MACHINE, ""),
        claim=kubevirt.root_claim(template.get("volumes"), names.DISK_VOLUME),
        running=spec.get("runStrategy") in RUN_STRATEGIES,
        template_hash=annotations.get(ANNOTATION_TEMPLATE_HASH, ""),
        hardware=of_template.get(ANNOTATION_HARDWARE_HASH, ""),
        sidecars=of_template.get(HOOK_SIDECARS, ""),
        halted_until=time_of(annotations.get(names.ANNOTATION_HALTED_UNTIL)),
        memory_bytes=None if typed else bytes_of(memory, DEFAULT_MEMORY) + LAUNCHER_OVERHEAD_BYTES,
        printable_status=(body.get("status") or {}).get("printableStatus", ""),
        message=kubevirt.trouble(body),
    )


def parse_vmi(body: Mapping[str, Any], meta: Meta) -> VmiRecord:
    """VirtualMachineInstance."""
    labels, status = body["metadata"].get("labels") or {}, body.get("status") or {}
    return VmiRecord(
        meta=meta,
        deployment=(meta.namespace or "", labels.get(names.LABEL_DEPLOYMENT, "")),
        claim=kubevirt.root_claim((body.get("spec") or {}).get("volumes"), names.DISK_VOLUME),
        hardware=(body["metadata"].get("annotations") or {}).get(ANNOTATION_HARDWARE_HASH, ""),
        phase=status.get("phase", ""),
        ready=kubevirt.condition(body, "Ready").get("status") == "True",
        paused=kubevirt.condition(body, "Paused").get("status") == "True",
        persistent_state=kubevirt.persistent_state(body),
        agent=kubevirt.condition(body, "AgentConnected").get("status") == "True",
        blocked_by_ghost_record=kubevirt.is_blocked_by_ghost_record(body),
        node=status.get("nodeName"),
        message=kubevirt.unscheduled(body),
    )


def parse_kubevirt(body: Mapping[str, Any], meta: Meta) -> KubeVirtRecord:
    """The KubeVirt object, reduced to its version and feature gates."""
    developer = (body.get("spec") or {}).get("configuration", {}).get("developerConfiguration") or {}
    status = body.get("status") or {}
    kept = {
        "metadata": {"name": meta.name, "namespace": meta.namespace},
        "spec": {"configuration": {"developerConfiguration": developer}},
        "status": {"observedKubeVirtVersion": status.get("observedKubeVirtVersion")},
    }
    return KubeVirtRecord(meta, kept, kubevirt.kubevirt_state([kept]))


def parse_plugin(body: Mapping[str, Any], meta: Meta) -> PluginRecord:
    """A Plugin of KubeVirt 1.9; it is intact if its spec equals Kigi's."""
    return PluginRecord(meta, meta.name == plugin.NAME and body.get("spec") == plugin.build_plugin()["spec"])


def parse_instancetype(body: Mapping[str, Any], meta: Meta) -> InstancetypeRecord:
    """Instancetype of a namespace or of the cluster: bytes of the guest's memory."""
    memory = ((body.get("spec") or {}).get("memory") or {}).get("guest")
    return InstancetypeRecord(meta, bytes_of(memory, DEFAULT_MEMORY))
