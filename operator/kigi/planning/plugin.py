"""KubeVirt 1.9's way to our disks: one cluster-scoped Plugin, and no sidecar in any VM's pod.

It is for VMs with our label; other VMs may name their volumes as they like. Its CEL expression makes disks qcow2 whose
file is that of one of our volumes, and leaves everything else of the domain as it is. A disk that the expression makes
anew has what it names and nothing else, so it names all that KubeVirt can set on a disk of ours; what is not set must
be given as null, or KubeVirt makes an empty element of it (<readonly/>!).
Source: KubeVirt 1.9 pkg/virt-launcher/virtwrap/plugins/cel (evaluation) and virtwrap/api (what a disk has).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kigi.domain import names

NAME = "kigi-disks"
_TEXTS = ("Device", "Model", "Snapshot", "Serial")
_PARTS = ("Source", "BackingStore", "BlockIO", "Target", "ReadOnly", "Shareable", "Boot", "Alias", "Address")
_DRIVER_TEXTS = ("Name", "Cache", "ErrorPolicy", "IO", "Discard", "IOMMU")
_DRIVER_PARTS = ("IOThread", "IOThreads", "Queues")


def build_plugin() -> dict[str, Any]:
    """The Plugin object. It fails closed: a VM whose domain it cannot change does not start."""
    return {
        "apiVersion": "plugin.kubevirt.io/v1alpha1",
        "kind": "Plugin",
        "metadata": {"name": NAME},
        "spec": {
            "condition": f"'{names.LABEL_DEPLOYMENT}' in vmi.Labels",
            "failureStrategy": "Fail",
            "domainHooks": [{"cel": {"expression": expression()}, "failureStrategy": "Fail"}],
        },
    }


def expression() -> str:
    """Domain with every disk of ours as qcow2."""
    driver = _same("d.Driver", _DRIVER_TEXTS, _DRIVER_PARTS)
    kept = _same("d", _TEXTS, _PARTS)
    ours = f"has(d.Source.File) && d.Source.File.File.contains('/vmi-disks/{names.DISK_PREFIX}')"
    return (
        "Domain{Devices: DomainDeviceList{Disks: domainSpec.Devices.Disks.map(d, "
        f"{ours} ? DomainDisk{{Driver: DomainDiskDriver{{Type: 'qcow2', {driver}}}, {kept}}} : d)}}}}"
    )


def _same(source: str, texts: Sequence[str], parts: Sequence[str]) -> str:
    """Fields as they are in ``source``."""
    fields = [f"{name}: {source}.{name}" for name in texts]
    fields += [f"{name}: has({source}.{name}) ? dyn({source}.{name}) : dyn(null)" for name in parts]
    return ", ".join(fields)
