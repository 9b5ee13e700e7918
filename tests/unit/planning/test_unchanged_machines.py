"""Renamed fields restart no VM: hashes and manifests of v1alpha1's machines, recorded before the fields were renamed.

``data/machines.jsonl`` has one machine a line: the states from the root in today's API, and what the last version with
the old names made of the same machine.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from kigi.api.deployment import Placement
from kigi.domain.declared import system_of
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.systems import System, resolve_system
from kigi.planning.placed import PlacedTarget, disk_targets
from kigi.planning.targets import Blueprint, MachineTarget
from kigi.planning.vm_manifest import VmSettings, build_machine, machine_memory_bytes
from tests.support.bodies import OWNER

LINES = (Path(__file__).parent / "data" / "machines.jsonl").read_text(encoding="utf-8").splitlines()
RECORDED = [json.loads(line) for line in LINES]


def chain_of(image: str) -> Chain:
    return (Layer(Digest("sha256:" + "a" * 64), 1000, 2**30),)


def blueprint(recorded: dict[str, Any]) -> Blueprint:
    systems: dict[str, System] = {}
    for level, spec in enumerate(recorded["states"]):
        parent = {"parentRef": {"name": f"s{level - 1}"}} if level else {}
        systems[f"s{level}"] = system_of(f"s{level}", {**spec, **parent}, "ns")
    state = resolve_system(systems, chain_of, f"s{len(systems) - 1}")
    machine = next(machine for machine in state.machines if machine.name == recorded["machine"])
    return Blueprint.of("s", machine, Placement(), "Sidecar", "hook:1")


def without_labels(manifest: dict[str, Any]) -> dict[str, Any]:
    """The VM's spec without its labels, which are for selectors, and without what joined later and restarts no VM."""
    spec: dict[str, Any] = copy.deepcopy(manifest["spec"])
    del spec["template"]["metadata"]["labels"]
    for volume in spec["template"]["spec"]["volumes"]:
        volume.get("cloudInitNoCloud", {}).pop("networkDataSecretRef", None)
    return spec


@pytest.mark.parametrize("recorded", RECORDED, ids=[each["case"] for each in RECORDED])
def test_hashes_and_manifest_are_the_recorded_ones(recorded: dict[str, Any]) -> None:
    made = blueprint(recorded)
    target = MachineTarget("0", made, f"dep-0-{recorded['machine']}", True)
    placed = PlacedTarget(target, 1, "n1", target.fingerprint(), disk_targets(OWNER, target, 1), True)
    manifest = build_machine(OWNER, placed, VmSettings(Placement(), "Sidecar", "hook:1", True))
    assert without_labels(manifest) == without_labels(recorded["manifest"])
    assert made.hardware_hash == recorded["hardwareHash"]
    assert made.template_hash == recorded["templateHash"]
    assert machine_memory_bytes(made.machine.hardware) == recorded["memoryBytes"]


def test_enough_machines_are_recorded() -> None:
    assert len(RECORDED) >= 40
    assert len({each["hardwareHash"] for each in RECORDED}) >= 30
