"""Helm takes over an installation by kustomize and upgrades it while guests run, none of which restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.steps import fetched_bytes
from demo.targets import SYSTEM_NAMESPACE, install_kigi
from localcluster.cluster import Cluster
from tests.e2e.exercise import RUNNING, Exercise, tiny_exercise
from tests.support.helm import Helm
from tools.chart.build import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]
NAMESPACE = "chart-upgrade"
# Two names of one image, as the cluster has no other: pods of Kigi are replaced, and VMs' templates change.
BEFORE, AFTER = "kigi:dev", "docker.io/library/kigi:dev"
WORKLOADS = ("deployment/kigi-operator", "daemonset/kigi-node-cache")


def release(version: str, image: str) -> Release:
    return Release(version, dict.fromkeys(("operator", "daemon"), image))


@pytest.fixture(scope="module")
def exercise(cluster: Cluster) -> Iterator[Exercise]:
    with tiny_exercise(cluster, NAMESPACE) as one:
        yield one


def parts(exercise: Exercise) -> dict[str, str]:
    """uids of everything that the VMs consist of, with the pods in which they run."""
    kinds = "virtualmachines,virtualmachineinstances,persistentvolumeclaims,pods"
    volumes = exercise.target.get("persistentvolumes", "-l", f"kigi.dev/namespace={NAMESPACE}")["items"]
    items: list[dict[str, Any]] = [*exercise.target.get(kinds, "-n", NAMESPACE)["items"], *volumes]
    return {f"{item['kind']} {item['metadata']['name']}": item["metadata"]["uid"] for item in items}


def test_an_upgrade_of_the_chart_restarts_no_guest(exercise: Exercise, tmp_path: Path) -> None:
    target, kubeconfig = exercise.target, Path(exercise.target.environment["KUBECONFIG"])
    exercise.apply("infected")
    exercise.wait_ready()
    for machine in RUNNING:
        exercise.report(machine, boot="1")
        exercise.send(machine, f"write {machine}", f"KIGI-WROTE {machine}")
    made, moved = parts(exercise), fetched_bytes(target)
    charts = [Helm(tmp_path, release(*each), kubeconfig) for each in (("0.0.9", BEFORE), ("0.1.0", AFTER))]
    options = ("--namespace", SYSTEM_NAMESPACE, "--set", "daemon.settings.KIGI_MIN_FREE=1Gi", "--force-conflicts")
    try:
        for verb, chart in (("install", charts[0]), ("upgrade", charts[1])):
            chart(verb, "kigi", str(chart.archive), *options, "--take-ownership")
            for workload in WORKLOADS:
                target.kubectl("-n", SYSTEM_NAMESPACE, "rollout", "status", workload, "--timeout=300s")
            exercise.wait_ready()
            assert parts(exercise) == made
            assert fetched_bytes(target) == moved
            for machine in RUNNING:
                exercise.send(machine, "show", f"KIGI-WRITTEN {machine}")
                exercise.report(machine, boot="1")
    finally:
        charts[1]("uninstall", "kigi", "--namespace", SYSTEM_NAMESPACE, "--ignore-not-found")
        install_kigi(target)  # as the other tests of the tier expect it
