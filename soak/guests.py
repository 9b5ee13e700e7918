"""Deploys the ten VMs of the tiny exercise, asks their guests, and removes them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from demo.__main__ import prepare
from demo.console import read_guest
from demo.serial import NoAnswer, ask, terminal
from demo.steps import NAME, Chapter, wait_ready
from demo.targets import DemoFailed, Target, install_kigi
from localcluster.cluster import Cluster
from scenario import kubernetes
from soak.model import Finding

NAMESPACE = "soak"
_REPORT = re.compile(r"KIGI-GUEST (machine=[^\n]*)(\n?)")
_FIELDS = ("machine", "state", "boot", "mac", "uuid", "serial")
_LEAVE_S = 300.0
_CONSOLES = 3
"""Consoles at a time: two cores emulate ten guests."""


def deploy(cluster: Cluster, target: Target) -> Chapter:
    """Kigi as it is now, and the first state with all machines on, Ready. Raises DemoFailed."""
    cluster.load_kigi()
    install_kigi(target)
    chapter = prepare(target, "tiny", NAMESPACE)
    target.apply(*kubernetes.system_nodes(chapter.manifest, NAMESPACE))
    target.apply(kubernetes.system_deployment(NAME, chapter.manifest.systems[0].name, NAMESPACE))
    wait_ready(target, NAMESPACE, NAME)
    return chapter


def reports(target: Target, chapter: Chapter) -> dict[str, dict[str, str]]:
    """Machine -> fields of its guest's report, from the logs of the consoles. Raises DemoFailed if one is another's."""
    machines = list(chapter.manifest.roles)
    with ThreadPoolExecutor(_CONSOLES) as pool:
        heard = list(pool.map(lambda machine: read_guest(target, NAMESPACE, _vm(machine)), machines))
    found = dict(zip(machines, heard, strict=True))
    expected = chapter.manifest.guests[chapter.manifest.systems[0].name]
    for machine, fields in found.items():
        if (fields.get("machine"), fields.get("state")) != (machine, expected[machine].state):
            raise DemoFailed(f"{machine} reports {fields}, not machine={machine} state={expected[machine].state}")
    return found


def ask_again(cluster: Cluster, target: Target, before: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Findings of asking each guest on its serial console: no answer, or another boot or identity than before."""
    with ThreadPoolExecutor(_CONSOLES) as pool:
        return [
            finding
            for found in pool.map(lambda machine: _ask(cluster, target, machine, before[machine]), before)
            for finding in found
        ]


def _ask(cluster: Cluster, target: Target, machine: str, before: Mapping[str, str]) -> list[Finding]:
    command = [str(cluster.release.command("virtctl")), "console", "-n", NAMESPACE, _vm(machine)]
    environment = {**os.environ, **target.environment}
    try:
        heard = ask(lambda: terminal(command, environment), "report", "KIGI-GUEST machine=")
    except (NoAnswer, OSError) as exc:
        return [Finding("guests", machine, str(exc))]
    return compare(machine, before, heard)


def compare(machine: str, before: Mapping[str, str], heard: str) -> list[Finding]:
    """Findings of one guest by the last report in ``heard``; of a line that was cut, the last field does not count."""
    last, whole = _REPORT.findall(heard.replace("\r", ""))[-1]
    fields = last.split() if whole else last.split()[:-1]
    now = dict(field.partition("=")[::2] for field in fields)
    return [
        Finding("guests", machine, f"{name} was {before.get(name)} and is {now[name]}")
        for name in _FIELDS
        if name in now and now[name] != before.get(name)
    ]


def remove(target: Target) -> list[Finding]:
    """Delete the deployment and its namespace; findings of what is left of it in the cluster."""
    findings = []
    for command in (
        ("delete", "systemdeployment", NAME, "-n", NAMESPACE, "--timeout=600s"),
        ("delete", "namespace", NAMESPACE, "--timeout=300s"),
    ):
        try:
            target.kubectl(*command)
        except DemoFailed as exc:
            findings.append(Finding("removal", NAME, str(exc)))
    deadline = time.monotonic() + _LEAVE_S
    while (left := leftovers(target)) and time.monotonic() < deadline:
        time.sleep(2)
    return [*findings, *(Finding("removal", one, f"is left {_LEAVE_S:.0f} s after the deletion") for one in left)]


def leftovers(target: Target) -> list[str]:
    """Objects of the namespace, volumes, and overlays on the nodes that still exist."""
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims,pods"
    left = [f"{one['kind']} {one['metadata']['name']}" for one in target.get(kinds, "-n", NAMESPACE)["items"]]
    selector = f"kigi.dev/namespace={NAMESPACE}"
    left += [f"PersistentVolume {one['metadata']['name']}" for one in target.get("pv", "-l", selector)["items"]]
    for cache in target.get("nodecaches")["items"]:
        volumes = cache.get("status", {}).get("volumes", [])
        left += [f"overlay {one['name']}" for one in volumes if f".{NAMESPACE}." in one["name"]]
    return left


def node_leftovers(cluster: Cluster) -> list[Finding]:
    """Overlays and mounts of the namespace that are still on a node."""
    script = f"ls /var/lib/kigi/volumes | grep '[.]{NAMESPACE}[.]'; grep '[.]{NAMESPACE}[.]' /proc/1/mountinfo; true"
    found = []
    for node in cluster.nodes():
        try:
            lines = node.enter("sh", "-c", script, timeout_s=60).splitlines()
        except RuntimeError as exc:
            lines = [str(exc)]
        found += [Finding("removal", node.name, line) for line in lines]
    return found


def _vm(machine: str) -> str:
    return f"{NAME}-0-{machine}"
