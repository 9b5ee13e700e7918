"""Reads guests' reports from the log of their serial console, which KubeVirt keeps for each VM."""

from __future__ import annotations

import re
import time
from typing import Any

from demo.targets import GET_S, DemoFailed, Target

_CONTAINER = "guest-console-log"
_LINE = re.compile(r"^KIGI-GUEST (machine=.*)$", re.MULTILINE)


def read_guest(target: Target, namespace: str, vm: str, timeout_s: float = 900) -> dict[str, str]:
    """Wait for a ``KIGI-GUEST key=value ...`` line of the running VM, and return the newest one's fields.

    Raises DemoFailed if the guest reports nothing within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        report = read_report(target, namespace, vm)
        if isinstance(report, dict):
            return report
        if time.monotonic() > deadline:
            raise DemoFailed(f"the guest of {namespace}/{vm} reported nothing in {timeout_s:.0f} s; last: {report!r}")
        time.sleep(2)


def read_report(target: Target, namespace: str, vm: str, uid: str | None = None) -> dict[str, str] | str:
    """Fields of the guest's newest report; a string with the reason if there is no report yet.

    With ``uid``, only the pod of the VirtualMachineInstance with that uid is read. Without it the newest pod of the VM
    is read, which shortly after a reset or a restart may be the pod of the previous run.
    """
    try:
        pod = _newest_pod(target, namespace, vm, uid)
        if pod is None:
            return "no pod runs"
        text = target.kubectl("logs", "-n", namespace, pod, "-c", _CONTAINER, "--tail=100", timeout_s=GET_S)
    except DemoFailed as exc:
        return str(exc)
    lines = _LINE.findall(text.replace("\r", ""))
    return dict(field.partition("=")[::2] for field in lines[-1].split()) if lines else text[-200:]


def _newest_pod(target: Target, namespace: str, vm: str, uid: str | None) -> str | None:
    """Name of the running pod of the VMI with ``uid``, or else of the VM's newest run; None if none runs."""
    _, instance, machine = vm.split("-", 2)
    selector = f"kubevirt.io=virt-launcher,kigi.dev/instance={instance},kigi.dev/machine={machine}"
    if uid is not None:
        selector += f",kubevirt.io/created-by={uid}"
    pods: list[dict[str, Any]] = target.get("pods", "-n", namespace, "-l", selector)["items"]
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"]
    newest = max(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
    return str(newest["metadata"]["name"]) if newest is not None else None
