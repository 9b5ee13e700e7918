"""The tiny exercise on the local cluster: two of its ten guests run; tests read their reports and send commands."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo.console import read_report
from demo.prepare import prepare
from demo.serial import ask, terminal
from demo.steps import NAME, PublishedExercise, wait_ready
from demo.targets import SYSTEM_NAMESPACE, Target, install_kigi
from kigi.domain.names import API_VERSION
from localcluster.bounded import run
from localcluster.build import binary
from localcluster.cluster import Cluster
from scenario import kubernetes

RUNNING = ("mail1", "desktop1")
VIRTCTL_S = 180.0
READY_S = 1200.0
"""Timeout of a deployment with few guests; shorter than every test's timeout, so that its error is reported."""


def eventually(check: Callable[[], Any], what: str, timeout_s: float = 600) -> Any:
    """Poll ``check`` until its result is true, and return the result; ``what`` is for the error message."""
    deadline = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(1)
    return found


@dataclass(frozen=True)
class Exercise:
    """One deployment, and the guests of one of its instances."""

    cluster: Cluster
    target: Target
    published: PublishedExercise
    deployment: str = NAME
    instance_name: str = "1"

    @property
    def namespace(self) -> str:
        """Namespace of all objects of the exercise."""
        return self.published.namespace

    def vm(self, machine: str) -> str:
        """Name of a machine's VM."""
        return f"{self.deployment}-{self.instance_name}-{machine}"

    def apply(self, state: str, machines: dict[str, dict[str, Any]] | None = None, **spec: Any) -> None:
        """Apply the deployment. ``machines``: name -> settings of the instance; those in RUNNING run by default."""
        settings = {name: {"powerState": "On"} | (machines or {}).get(name, {}) for name in RUNNING}
        listed = [{"name": name, **fields} for name, fields in settings.items()]
        self.target.apply(
            kubernetes.system_instance(self.instance_name, self.deployment, self.namespace, machines=listed),
            kubernetes.system_deployment(self.deployment, state, self.namespace, **{"powerState": "Off", **spec}),
        )

    def reset(self, *machines: str, wait: bool = True) -> None:
        """Reset these machines of the instance, or all of them, with ``kigi reset``.

        ``wait``: until their new guests run. Until the operator has read the request, the deployment is Ready with the
        old guests, whose reports look like those of the new ones.
        """
        command = ["reset", self.deployment, self.instance_name, *machines, "--yes", "-n", self.namespace]
        command += ["--wait", f"{READY_S:.0f}"] if wait else []
        environment = {**os.environ, **self.target.environment}
        timeout_s = READY_S + VIRTCTL_S if wait else VIRTCTL_S
        run([sys.executable, "-m", "kigi.cli.main", *command], timeout_s=timeout_s, env=environment)

    def wait_ready(self) -> dict[str, Any]:
        """Wait until the deployment is Ready in its current generation, and return its status."""
        return wait_ready(self.target, self.namespace, self.deployment, READY_S)

    def status(self) -> dict[str, Any]:
        """The current status of the deployment."""
        status: dict[str, Any] = self.target.get("systemdeployment", self.deployment, "-n", self.namespace)["status"]
        return status

    def machine(self, name: str) -> dict[str, Any]:
        """Status of a machine of the instance."""
        found = self.target.get("systeminstance", f"{self.deployment}-{self.instance_name}", "-n", self.namespace)
        return next(dict(machine) for machine in found["status"]["machines"] if machine["name"] == name)

    def capture(self, name: str, **spec: Any) -> dict[str, Any]:
        """Capture the instance, wait until the SystemCapture is Ready, and return its status."""
        caller = self.target.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}").strip()
        instance = f"{self.deployment}-{self.instance_name}"
        spec = {"instanceRef": {"name": instance}, "requestedBy": caller, **spec}
        metadata = {"name": name, "namespace": self.namespace}
        self.target.apply({"apiVersion": API_VERSION, "kind": "SystemCapture", "metadata": metadata, "spec": spec})
        wait = ("wait", "--for=condition=Ready", f"systemcapture/{name}", "-n", self.namespace, "--timeout=900s")
        try:
            self.target.kubectl(*wait)
        finally:
            status: dict[str, Any] = self.target.get("systemcapture", name, "-n", self.namespace).get("status", {})
            print(json.dumps(status, indent=1))
        return status

    def instance(self, machine: str) -> dict[str, Any]:
        """The machine's VirtualMachineInstance."""
        return self.target.get("virtualmachineinstance", self.vm(machine), "-n", self.namespace)

    def vmi_uid(self, machine: str) -> str | None:
        """uid of the VirtualMachineInstance, if there is one."""
        found = self.target.get("virtualmachineinstances", "-n", self.namespace)["items"]
        return next((str(one["metadata"]["uid"]) for one in found if one["metadata"]["name"] == self.vm(machine)), None)

    def next_run(self, machine: str, before: str | None, timeout_s: float = 300) -> str:
        """Wait until the VM has another VirtualMachineInstance than ``before``, and return its uid.

        After a reset the status already has the new revision while the old guest still runs. Its reports and answers
        look like those of the new guest: commands that are sent before this returns may reach the old guest.
        """
        found = eventually(
            lambda: uid if (uid := self.vmi_uid(machine)) not in (before, None) else None,
            f"the run of {machine} after {before}",
            timeout_s,
        )
        return str(found)

    def report(self, machine: str, /, **fields: str) -> dict[str, str]:
        """Wait until the guest of the VM's current run reports these fields, and return its report."""
        last: list[Any] = ["no report yet"]

        def reported() -> dict[str, str] | None:
            uid = self.vmi_uid(machine)
            last[0] = read_report(self.target, self.namespace, self.vm(machine), uid) if uid else "no instance"
            return last[0] if isinstance(last[0], dict) and fields.items() <= last[0].items() else None

        try:
            return dict(eventually(reported, f"a report of {machine} with {fields}"))
        except AssertionError as exc:
            raise AssertionError(f"{exc}; last: {last[0]!r}") from exc

    def send(self, machine: str, line: str, answer: str, timeout_s: float = 180) -> None:
        """Send the guest a command on its serial console, and wait for the answer."""
        command = [str(self.cluster.release.command("virtctl")), "console", "-n", self.namespace, self.vm(machine)]
        environment = {**os.environ, **self.target.environment}
        ask(lambda: terminal(command, environment), line, answer, timeout_s=timeout_s)

    def virtctl(self, *arguments: str) -> None:
        """Run virtctl in the exercise's namespace."""
        command = [str(self.cluster.release.command("virtctl")), *arguments, "-n", self.namespace]
        run(command, timeout_s=VIRTCTL_S, env={**os.environ, **self.target.environment})

    def node(self, script: str) -> str:
        """Output of a shell script that runs on the first node as root."""
        return self.cluster.nodes()[0].enter("sh", "-c", script)

    def launcher(self, machine: str) -> str:
        """Name of the VM's running pod."""
        selector = f"kubevirt.io=virt-launcher,kigi.dev/machine={machine},kigi.dev/instance={self.instance_name}"
        selector += f",kigi.dev/deployment={self.deployment}"
        pods = self.target.get("pods", "-n", self.namespace, "-l", selector)["items"]
        (name,) = (pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running")
        return str(name)

    def domain(self, machine: str) -> str:
        """libvirt's XML of the running VM."""
        command = ("exec", "-n", self.namespace, self.launcher(machine), "-c", "compute", "--")
        return self.target.kubectl(*command, "virsh", "dumpxml", f"{self.namespace}_{self.vm(machine)}")

    def containers(self, selector: str) -> dict[str, bool]:
        """Containers of Kigi's own pods with that label: ID -> whether it is ready."""
        pods = self.target.get("pods", "-n", SYSTEM_NAMESPACE, "-l", selector)["items"]
        found = [container for pod in pods for container in pod["status"].get("containerStatuses", [])]
        return {str(each.get("containerID", "")): bool(each["ready"]) for each in found}

    def kill_containers(self, selector: str) -> None:
        """Kill all these containers (SIGKILL), and wait until ready ones have replaced them."""
        old = self.containers(selector)
        for identity in old:
            self.cluster.nodes()[0].ctr("task", "kill", "--signal", "SIGKILL", identity.partition("//")[2])

        def replaced() -> bool:
            new = self.containers(selector)
            return len(new) == len(old) and all(new.values()) and not new.keys() & old.keys()

        eventually(replaced, "the next containers", 300)


@contextmanager
def tiny_exercise(cluster: Cluster, namespace: str) -> Iterator[Exercise]:
    """The current Kigi, and the tiny exercise's images and states in ``namespace``, without a deployment."""
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    published = prepare(target, "tiny", namespace)
    target.apply(*kubernetes.system_nodes(published.manifest, namespace))
    yield Exercise(cluster, target, published)
    target.kubectl("delete", "systemdeployment", "--all", "-n", namespace, "--timeout=600s")
    target.kubectl("delete", "namespace", namespace, "--timeout=300s")
