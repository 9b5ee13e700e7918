"""Processor time of the verbs that read, compared with the bare interpreter and kubectl, in turns on one API server.

A real API server over TLS holds both trees of ten machines and a deployment; no operator runs. The target is 200 ms,
because a user waits for it at each call, and the shell at each completion.

    python benchmarks/startup.py [--rounds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kigi.domain import names
from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from tests.support.cluster import install_crds, install_repository
from tests.support.deployments import apply, deployment, trees
from tests.support.kubevirt_crds import install_kubevirt_crds, install_kubevirt_object

KIGI = (sys.executable, "-m", "kigi.cli.main")
VERBS: dict[str, Sequence[str]] = {
    "kigi --help": ("--help",),
    "kigi tree": ("tree",),
    "kigi tree -o json": ("tree", "-o", "json"),
    "kigi status": ("status",),
    "kigi why": ("why",),
    "kigi diff": ("diff", "infected..cleaned"),
    "kigi plan": ("plan", "class"),
}


def measure(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Processor and wall seconds of one run; its output is discarded."""
    started = time.perf_counter()
    out = os.open(os.devnull, os.O_WRONLY)
    actions = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, out, 2)]
    child = os.posix_spawn(command[0], list(command), environment, file_actions=actions)
    _, _, usage = os.wait4(child, 0)
    os.close(out)
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def world(plane: ControlPlane) -> None:
    """Create ten machines in three states, a deployment, and a node that can run them."""
    install_crds(plane)
    install_repository(plane)
    install_kubevirt_crds(plane)
    install_kubevirt_object(plane)
    driver = {"name": names.CSI_DRIVER, "nodeID": "node", "topologyKeys": []}
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"memory": "64Gi"}}
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}},
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "node"},
            "spec": {"drivers": [driver]},
        },
        *trees(10),
        deployment(),
    ]
    apply(plane, "default", *objects)
    plane.kubectl("patch", "node", "node", "--subresource=status", "--type=merge", "-p", json.dumps({"status": ready}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane:
        world(plane)
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
        kubectl = str(binary("kubectl"))
        commands: dict[str, Sequence[str]] = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "kubectl version --client": (kubectl, "version", "--client"),
            "kubectl get": (kubectl, "get", "systemdeployments.kigi.dev"),
            **{name: (*KIGI, *verb) for name, verb in VERBS.items()},
        }
        for command in commands.values():  # warms compiled modules and the API server's caches
            measure(command, environment)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                times[name].append(measure(command, environment))
    report(times, arguments.json)


def report(times: dict[str, list[tuple[float, float]]], target: Path | None) -> None:
    rows = {}
    floor = statistics.median(cpu for cpu, _ in times["python -c pass"])
    peer = statistics.median(cpu for cpu, _ in times["kubectl get"])
    print("| command | processor ms (least to most) | wall ms | of python -c pass | of kubectl get |")
    print("|---|---|---|---|---|")
    for name, found in times.items():
        processor = sorted(1000 * cpu for cpu, _ in found)
        wall = statistics.median(1000 * seconds for _, seconds in found)
        middle = statistics.median(processor)
        rows[name] = {"processor_ms": processor, "wall_ms": wall}
        print(
            f"| {name} | {middle:.0f} ({processor[0]:.0f} to {processor[-1]:.0f}) | {wall:.0f} | "
            f"{middle / 1000 / floor:.1f} | {middle / 1000 / peer:.2f} |"
        )
    if target is not None:
        target.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
