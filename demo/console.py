"""What guests say on their serial consoles, which KubeVirt keeps in a log beside each VM."""

from __future__ import annotations

import re
import time
from typing import Any

from demo.targets import DemoFailed, Target

_LINE = re.compile(r"^KIGI-GUEST (machine=.*)$", re.MULTILINE)


def read_guest(target: Target, namespace: str, vm: str, timeout_s: float = 900) -> dict[str, str]:
    """The fields of the newest ``KIGI-GUEST key=value ...`` line of the VM that runs now.

    Raises DemoFailed when its guest says nothing in time.
    """
    deadline = time.monotonic() + timeout_s
    said = "no pod runs"
    while time.monotonic() < deadline:
        pod = _newest_pod(target, namespace, vm)
        if pod is not None:
            said = _log(target, namespace, pod)
            lines = _LINE.findall(said.replace("\r", ""))
            if lines:
                return dict(field.partition("=")[::2] for field in lines[-1].split())
        time.sleep(2)
    raise DemoFailed(f"the guest of {namespace}/{vm} did not say who it is in {timeout_s:.0f} s; last: {said[-200:]!r}")


def _newest_pod(target: Target, namespace: str, vm: str) -> str | None:
    """The pod of the VM's present run; earlier ones may still be ending."""
    _, instance, machine = vm.split("-", 2)
    selector = f"kubevirt.io=virt-launcher,kigi.dev/instance={instance},kigi.dev/machine={machine}"
    pods: list[dict[str, Any]] = target.get("pods", "-n", namespace, "-l", selector)["items"]
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"]
    newest = max(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)
    return str(newest["metadata"]["name"]) if newest is not None else None


def _log(target: Target, namespace: str, pod: str) -> str:
    try:
        return target.kubectl("logs", "-n", namespace, pod, "-c", "guest-console-log", "--tail=100")
    except DemoFailed as exc:
        return str(exc)
