"""MachinePatch: fields of a VM that have no typed field, merged over or removed from what Kigi makes."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, JsonValue

from kigi.api.base import Model, Rule
from kigi.domain.machine_patch import PATCHABLE, REMOVABLE
from kigi.domain.names import HOOK_SIDECARS

_NAMED_ITEMS: dict[str, JsonValue] = {
    "type": "array",
    "maxItems": 64,
    "x-kubernetes-list-type": "atomic",
    "items": {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "properties": {"name": {"type": "string", "maxLength": 63, "description": "Name of the entry."}},
    },
}
_OPEN: dict[str, JsonValue] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXTS: dict[str, JsonValue] = {
    "type": "object",
    "maxProperties": 64,
    "additionalProperties": {"type": "string", "maxLength": 4096},
}
_FORBIDDEN_STATE: dict[str, JsonValue] = {
    "type": "boolean",
    "description": "Must not be true: that state is stored outside of the disk, where no reset reaches it.",
}
_DOMAIN: dict[str, JsonValue] = _OPEN | {
    "description": "Merged over spec.domain.",
    "properties": {
        "devices": _OPEN
        | {
            "description": "Merged over spec.domain.devices.",
            "properties": {
                "disks": _NAMED_ITEMS | {"description": "Additional disks; kigi- is reserved."},
                "tpm": _OPEN | {"description": "A TPM.", "properties": {"persistent": _FORBIDDEN_STATE}},
            },
        },
        "firmware": _OPEN
        | {
            "description": "Merged over spec.domain.firmware.",
            "properties": {
                "bootloader": _OPEN
                | {
                    "description": "BIOS or EFI.",
                    "properties": {
                        "efi": _OPEN | {"description": "EFI.", "properties": {"persistent": _FORBIDDEN_STATE}}
                    },
                }
            },
        },
    },
}
_TEXT: dict[str, JsonValue] = {"type": "string", "maxLength": 253}
_ITEMS: dict[str, JsonValue] = {
    "type": "array",
    "maxItems": 16,
    "x-kubernetes-list-type": "atomic",
    "items": _OPEN,
}
_SPEC: dict[str, JsonValue] = {
    "domain": _DOMAIN,
    "volumes": _NAMED_ITEMS | {"description": "Additional volumes; kigi- is reserved."},
    "hostname": _TEXT | {"description": "Host name; default: the machine's name."},
    "subdomain": _TEXT | {"description": "Subdomain of the VM's host name."},
    "dnsPolicy": _TEXT | {"description": "DNS policy of the VM's pod."},
    "dnsConfig": _OPEN | {"description": "DNS configuration of the VM's pod."},
    "terminationGracePeriodSeconds": {
        "type": "integer",
        "format": "int64",
        "minimum": 0,
        "maximum": 86400,
        "description": "Seconds that the guest has to shut down; default 30.",
    },
    "livenessProbe": _OPEN | {"description": "Check of the guest after whose failure KubeVirt restarts the VM."},
    "accessCredentials": _ITEMS | {"description": "Keys and passwords that KubeVirt passes to the guest."},
    "evictionStrategy": _TEXT | {"description": "What an eviction does; default None: it ends the VM."},
    "priorityClassName": _TEXT | {"description": "PriorityClass of the VM's pod."},
    "topologySpreadConstraints": _ITEMS | {"description": "Spread of the VMs' pods."},
}
assert tuple(_SPEC) == PATCHABLE
_MERGE: dict[str, JsonValue] = {
    "metadata": {
        "type": "object",
        "description": "Merged over the VM's metadata.",
        "properties": {
            "labels": _TEXTS | {"description": "Additional labels; kigi.dev/ is reserved."},
            "annotations": _TEXTS
            | {"description": "Additional annotations; kigi.dev/ and the hook sidecars are reserved."},
        },
    },
    "spec": {
        "type": "object",
        "description": "Merged over the VirtualMachineInstance's spec; the fields below are free.",
        "properties": _SPEC,
    },
}


def _unless(path: str, condition: str) -> str:
    """CEL: ``condition`` holds, or a part of the path below ``self`` is missing."""
    parts = path.split(".")
    missing = [f"!has(self.{'.'.join(parts[: n + 1])})" for n in range(len(parts))]
    return " || ".join([*missing, condition])


class MachinePatch(Model):
    """What Kigi makes of the typed fields, without the paths of ``remove``, and then with ``merge`` over it."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            _unless("merge.metadata.labels", "self.merge.metadata.labels.all(k, !k.startsWith('kigi.dev/'))"),
            "patch.merge.metadata.labels: keys that begin with 'kigi.dev/' are reserved; use another key",
            ".merge",
        ),
        Rule(
            _unless(
                "merge.metadata.annotations",
                "self.merge.metadata.annotations.all(k, !k.startsWith('kigi.dev/') && k != '" + HOOK_SIDECARS + "')",
            ),
            f"patch.merge.metadata.annotations: 'kigi.dev/' and '{HOOK_SIDECARS}' are reserved; use another key",
            ".merge",
        ),
        Rule(
            _unless(
                "merge.spec.volumes", "self.merge.spec.volumes.all(v, !has(v.name) || !v.name.startsWith('kigi-'))"
            ),
            "patch.merge.spec.volumes: names that begin with 'kigi-' are reserved; use another name",
            ".merge",
        ),
        Rule(
            _unless(
                "merge.spec.domain.devices.disks",
                "self.merge.spec.domain.devices.disks.all(d, !has(d.name) || !d.name.startsWith('kigi-'))",
            ),
            "patch.merge.spec.domain.devices.disks: names that begin with 'kigi-' are reserved; use another name",
            ".merge",
        ),
        Rule(
            _unless("merge.spec.domain.devices.tpm.persistent", "!self.merge.spec.domain.devices.tpm.persistent"),
            "patch.merge.spec.domain.devices.tpm.persistent: KubeVirt stores that state outside of the disk, where "
            "no reset reaches it; omit persistent",
            ".merge",
        ),
        Rule(
            _unless(
                "merge.spec.domain.firmware.bootloader.efi.persistent",
                "!self.merge.spec.domain.firmware.bootloader.efi.persistent",
            ),
            "patch.merge.spec.domain.firmware.bootloader.efi.persistent: KubeVirt stores that state outside of the "
            "disk, where no reset reaches it; omit persistent",
            ".merge",
        ),
        Rule(
            "!has(self.remove) || self.remove.all(p, !(p in ['spec.domain', 'spec.domain.devices'])"
            " && !p.startsWith('metadata.labels.kigi.dev/') && !p.startsWith('metadata.annotations.kigi.dev/')"
            f" && p != 'metadata.annotations.{HOOK_SIDECARS}')",
            "patch.remove: spec.domain, spec.domain.devices and Kigi's own labels and annotations stay; name another "
            "path",
            ".remove",
        ),
    )

    merge: dict[str, Any] | None = Field(
        default=None,
        description="JSON merge patch for the VirtualMachineInstance template, at most 16 KiB and 16 levels deep, "
        "without null: 'metadata' and 'spec'.",
        json_schema_extra={"properties": _MERGE},
    )
    remove: list[Annotated[str, Field(min_length=1, max_length=253, pattern=REMOVABLE)]] | None = Field(
        default=None,
        max_length=32,
        description="Paths that are removed before the merge, from what Kigi makes and from what parent states merge: "
        "names of fields, joined by dots: metadata.labels.KEY, metadata.annotations.KEY, or spec. and a field that "
        "merge may have, such as spec.domain.devices.rng.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
