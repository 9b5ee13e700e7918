"""Reports of the guests, from the logs of their serial consoles, which KubeVirt keeps for each VM."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kigi.adapters.kubernetes.resources import POD, VMI
from kigi.domain.names import LABEL_INSTANCE, LABEL_MACHINE
from kigi.errors import NotFound, SpecInvalid, Waiting

if TYPE_CHECKING:
    from kigi.adapters.kubernetes.session import KubeSession

CONTAINER = "guest-console-log"
CREATED_BY = "kubevirt.io/created-by"
"""Label of a VM's pod: uid of its VirtualMachineInstance."""
LOG_BYTES = 4096
"""Bytes of a console's log that are read: some minutes of reports."""
_LINE = re.compile(r"^KIGI-GUEST (machine=.*)$", re.MULTILINE)

Machine = tuple[str, str]
"""Names of instance and machine."""


def running_vmis(bodies: Iterable[Mapping[str, Any]]) -> dict[str, Machine]:
    """uid -> machine of each VirtualMachineInstance that runs and is not being deleted."""
    found = {}
    for body in bodies:
        meta, labels = body["metadata"], body["metadata"].get("labels") or {}
        if (body.get("status") or {}).get("phase") == "Running" and not meta.get("deletionTimestamp"):
            found[meta["uid"]] = (labels.get(LABEL_INSTANCE, ""), labels.get(LABEL_MACHINE, ""))
    return found


def read_vmis(kube: KubeSession, namespace: str) -> dict[str, Machine]:
    """uid -> machine of the VirtualMachineInstances that run in the namespace."""
    return running_vmis(kube.list_all(VMI, namespace))


def pods_of(bodies: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """uid of the VirtualMachineInstance -> name of its pod, for pods that run."""
    return {
        body["metadata"]["labels"][CREATED_BY]: body["metadata"]["name"]
        for body in bodies
        if CREATED_BY in (body["metadata"].get("labels") or {})
        and (body.get("status") or {}).get("phase") == "Running"
        and not body["metadata"].get("deletionTimestamp")
    }


def report_in(log: str) -> dict[str, str] | None:
    """Fields of the newest report in a console's log; None if there is none yet.

    >>> report_in("KIGI-GUEST machine=mail1 state=infected boot=1\\n")
    {'machine': 'mail1', 'state': 'infected', 'boot': '1'}
    """
    lines = _LINE.findall(log.replace("\r", ""))
    return dict(field.partition("=")[::2] for field in lines[-1].split()) if lines else None


def read_reports(kube: KubeSession, namespace: str, wanted: Mapping[str, Machine]) -> dict[str, dict[str, str]]:
    """uid -> report of those of the ``wanted`` VirtualMachineInstances that have reported.

    Raises SpecInvalid if KubeVirt keeps no logs of consoles.
    """
    reports = {}
    pods = {body["metadata"]["name"]: body for body in kube.list_all(POD, namespace)}
    for uid, pod in pods_of(pods.values()).items():
        if uid not in wanted:
            continue
        if CONTAINER not in {each["name"] for each in _containers(pods[pod])}:
            raise SpecInvalid(
                f"Pod {namespace}/{pod} has no container {CONTAINER}: KubeVirt does not log serial consoles here; "
                "enable them (spec.configuration.virtualMachineOptions), or call kigi demo with --no-guests"
            )
        try:
            report = report_in(kube.read_log(namespace, pod, CONTAINER, limit_bytes=LOG_BYTES).decode(errors="replace"))
        except (NotFound, SpecInvalid, Waiting):  # the container is starting, or its VM has just ended
            continue
        if report is not None:
            reports[uid] = report
    return reports


def _containers(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spec = body.get("spec") or {}
    return [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
