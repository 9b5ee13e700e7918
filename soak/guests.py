"""Deploys the ten VMs of the tiny exercise, checks the reports of their guests, and removes them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from demo.console import read_guest
from demo.prepare import prepare
from demo.serial import NoAnswer, ask, terminal
from demo.steps import NAME, PublishedExercise, wait_ready
from demo.targets import DemoFailed, Target, install_kigi
from localcluster.cluster import Cluster
from scenario import kubernetes
from soak.model import Finding

NAMESPACE = "soak"
_REPORT = re.compile(r"KIGI-GUEST (machine=[^\n]*)(\n?)")
_FIELDS = ("machine", "state", "boot", "mac", "uuid", "serial")
_REMOVAL_S = 300.0
"""Time in which all objects must disappear after the deletion."""
_CONSOLES = 3
"""Concurrency limit of open consoles: two cores emulate ten guests."""


def deploy(cluster: Cluster, target: Target) -> PublishedExercise:
    """Install the current Kigi, and deploy the first state with all machines until it is Ready. Raises DemoFailed."""
    cluster.load_kigi()
    install_kigi(target)
    published = prepare(target, "tiny", NAMESPACE)
    target.apply(*kubernetes.system_nodes(published.manifest, NAMESPACE))
    target.apply(kubernetes.system_deployment(NAME, published.manifest.systems[0].name, NAMESPACE))
    wait_ready(target, NAMESPACE, NAME)
    return published


def reports(target: Target, published: PublishedExercise) -> dict[str, dict[str, str]]:
    """Machine -> fields of its guest's report, from the consoles' logs.

    Raises DemoFailed if a guest reports nothing, or another machine or state than expected.
    """
    machines = list(published.manifest.roles)
    with ThreadPoolExecutor(_CONSOLES) as pool:
        found = dict(
            zip(machines, pool.map(lambda name: read_guest(target, NAMESPACE, _vm(name)), machines), strict=True)
        )
    expected = published.manifest.guests[published.manifest.systems[0].name]
    for machine, fields in found.items():
        if (fields.get("machine"), fields.get("state")) != (machine, expected[machine].state):
            raise DemoFailed(f"{machine} reports {fields}, not machine={machine} state={expected[machine].state}")
    return found


def ask_again(cluster: Cluster, target: Target, before: Mapping[str, Mapping[str, str]]) -> list[Finding]:
    """Request a report on each guest's serial console; no answer, another boot or another identity are findings."""
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
        output = ask(lambda: terminal(command, environment), "report", "KIGI-GUEST machine=")
    except (NoAnswer, OSError) as exc:
        return [Finding("guests", machine, str(exc))]
    return compare(machine, before, output)


def compare(machine: str, before: Mapping[str, str], output: str) -> list[Finding]:
    """Findings of one guest from the last report in ``output``; the last field of an incomplete line is ignored."""
    last, whole = _REPORT.findall(output.replace("\r", ""))[-1]
    fields = last.split() if whole else last.split()[:-1]
    now = dict(field.partition("=")[::2] for field in fields)
    return [
        Finding("guests", machine, f"{name} was {before.get(name)} and is {now[name]}")
        for name in _FIELDS
        if name in now and now[name] != before.get(name)
    ]


def remove(target: Target) -> list[Finding]:
    """Delete the deployment and its namespace; objects that are left after ``_REMOVAL_S`` are findings."""
    findings = []
    for command in (
        ("delete", "systemdeployment", NAME, "-n", NAMESPACE, "--timeout=600s"),
        ("delete", "namespace", NAMESPACE, "--timeout=300s"),
    ):
        try:
            target.kubectl(*command)
        except DemoFailed as exc:
            findings.append(Finding("removal", NAME, str(exc)))
    deadline = time.monotonic() + _REMOVAL_S
    while (left := leftovers(target)) and time.monotonic() < deadline:
        time.sleep(2)
    return [*findings, *(Finding("removal", one, f"exists {_REMOVAL_S:.0f} s after the deletion") for one in left)]


def leftovers(target: Target) -> list[str]:
    """Existing objects of the namespace, PersistentVolumes, and overlays that NodeCaches list."""
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims,pods"
    left = [f"{one['kind']} {one['metadata']['name']}" for one in target.get(kinds, "-n", NAMESPACE)["items"]]
    selector = f"kigi.dev/namespace={NAMESPACE}"
    left += [f"PersistentVolume {one['metadata']['name']}" for one in target.get("pv", "-l", selector)["items"]]
    for cache in target.get("nodecaches")["items"]:
        volumes = cache.get("status", {}).get("volumes", [])
        left += [f"overlay {one['name']}" for one in volumes if f".{NAMESPACE}." in one["name"]]
    return left


def node_leftovers(cluster: Cluster) -> list[Finding]:
    """Overlays and mounts of the namespace that exist on a node, as findings."""
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
    return f"{NAME}-1-{machine}"
