"""The Plugin by which KubeVirt 1.9 attaches layered disks: one cluster-scoped object instead of a sidecar per pod.

It applies to VMs with Kigi's label. Its CEL expression sets the driver type qcow2 on each disk whose file belongs to
one of Kigi's volumes, adds QEMU's arguments for a monitor (see ``hook.monitor``), and leaves the rest of the domain
unchanged. CEL cannot change a field: the expression builds the disk again, and a field that it does not name is lost.
So it names every field that KubeVirt can set on such a disk. A field that is not set must be null; otherwise KubeVirt
writes an empty element for it, such as ``<readonly/>``.
Source: KubeVirt 1.9 pkg/virt-launcher/virtwrap/plugins/cel (evaluation) and virtwrap/api (fields of a disk).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kigi.domain import kinds, names

NAME = "kigi-disks"
_TEXTS = ("Device", "Model", "Snapshot", "Serial")
_PARTS = ("Source", "BackingStore", "BlockIO", "Target", "ReadOnly", "Shareable", "Boot", "Alias", "Address")
_DRIVER_TEXTS = ("Name", "Cache", "ErrorPolicy", "IO", "Discard", "IOMMU")
_DRIVER_PARTS = ("IOThread", "IOThreads", "Queues")


def build_plugin() -> dict[str, Any]:
    """The Plugin object. It fails closed: a VM whose domain it cannot change does not start."""
    return {
        "apiVersion": "plugin.kubevirt.io/v1alpha1",
        "kind": kinds.PLUGIN,
        "metadata": {"name": NAME},
        "spec": {
            "condition": f"'{names.LABEL_DEPLOYMENT}' in vmi.Labels",
            "failureStrategy": "Fail",
            "domainHooks": [{"cel": {"expression": expression()}, "failureStrategy": "Fail"}],
        },
    }


def expression() -> str:
    """The domain, with driver type qcow2 on each of Kigi's disks, and with a monitor."""
    driver = _same("d.Driver", _DRIVER_TEXTS, _DRIVER_PARTS)
    kept = _same("d", _TEXTS, _PARTS)
    ours = f"has(d.Source.File) && d.Source.File.File.contains('/vmi-disks/{names.DISK_PREFIX}')"
    return (
        "Domain{Devices: DomainDeviceList{Disks: domainSpec.Devices.Disks.map(d, "
        f"{ours} ? DomainDisk{{Driver: DomainDiskDriver{{Type: 'qcow2', {driver}}}, {kept}}} : d)}}, {_monitor()}}}"
    )


def _monitor() -> str:
    """QEMU's arguments: those that the domain has, and the monitor's."""
    own = ", ".join(f"DomainQEMUCommandlineArg{{Value: '{value}'}}" for value in ("-qmp", names.MONITOR_VALUE))
    present = "domainSpec.QEMUCommandline.Args"
    return (
        "QEMUCommandline: DomainQEMUCommandline{Args: "
        f"has(domainSpec.QEMUCommandline) ? {present} + [{own}] : [{own}]}}"
    )


def _same(source: str, texts: Sequence[str], parts: Sequence[str]) -> str:
    """Fields with their values in ``source``."""
    fields = [f"{name}: {source}.{name}" for name in texts]
    fields += [f"{name}: has({source}.{name}) ? dyn({source}.{name}) : dyn(null)" for name in parts]
    return ", ".join(fields)
