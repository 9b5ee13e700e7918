import json
from pathlib import Path

import pytest

from kigi.api.deployment import SystemDeployment
from kigi.api.system import SystemNode
from kigi.publishing.layer_writer import CLUSTER, Difference, write_layer
from scenario import kubernetes
from scenario.manifest import Manifest, Variant, describe, load
from scenario.sizes import moves, table
from scenario.tree import INFECTED, MACHINES, REPAIRED, image_levels

SIZE = 64 * CLUSTER
ROOT_CLUSTERS, OTHER_CLUSTERS = 40, 2


def made(folder: Path, variant: Variant) -> Manifest:
    """A build: the root layer has 40 clusters, every other layer has 2, one of which replaces a cluster of the root."""
    levels = image_levels()
    for level in levels:
        held = tuple(range(ROOT_CLUSTERS)) if level.parent is None else (0, 50)
        backing = f"{level.parent}.qcow2" if level.parent else None
        write_layer(
            folder / f"{level.name}.qcow2", SIZE, backing, Difference(held, ()), lambda index: bytes([index]) * CLUSTER
        )
    return describe(variant, levels, folder, {level.name: f"{level.name}.qcow2" for level in levels}, SIZE)


@pytest.mark.parametrize("variant", ["tiny", "real"])
def test_the_api_accepts_every_object_and_children_have_only_differences(tmp_path: Path, variant: Variant):
    manifest = made(tmp_path, variant)
    nodes = [SystemNode.model_validate(node) for node in kubernetes.system_nodes(manifest, "lab")]
    assert [node.metadata.name for node in nodes] == ["infected", "cleaned", "restored"]
    infected, cleaned, restored = nodes
    assert infected.spec.parent_ref is None
    assert cleaned.spec.parent_ref is not None
    assert cleaned.spec.parent_ref.name == "infected"
    assert {machine.name for machine in infected.spec.machines} == {machine.name for machine in MACHINES}
    assert {machine.name for machine in cleaned.spec.machines} == set(INFECTED)
    assert {machine.name for machine in restored.spec.machines} == set(REPAIRED)
    assert all(machine.hardware is not None and machine.hardware.memory for machine in infected.spec.machines)
    assert all(machine.hardware is None for machine in (*cleaned.spec.machines, *restored.spec.machines))


def test_a_deployment_has_its_state_and_additional_fields():
    found = SystemDeployment.model_validate(
        kubernetes.system_deployment("team", "cleaned", replicas=3, powerState="Off")
    )
    assert (found.spec.system_ref.name, found.spec.replicas, found.spec.power_state) == ("cleaned", 3, "Off")


def test_a_manifest_is_read_back_as_it_was_written(tmp_path: Path):
    manifest = made(tmp_path, "tiny")
    manifest.save(tmp_path)
    assert load(tmp_path) == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["images"][0]["virtualSizeBytes"] == SIZE


def test_guests_have_the_expected_reports_of_each_state(tmp_path: Path):
    guests = made(tmp_path, "tiny").guests
    assert {machine for machine, guest in guests["infected"].items() if guest.marker == "running"} == set(INFECTED)
    assert {guest.marker for guest in guests["cleaned"].values()} == {"none"}
    assert {machine for machine, guest in guests["cleaned"].items() if guest.services == "bad"} == set(REPAIRED)
    assert {guest.services for guest in guests["restored"].values()} == {"ok"}
    assert guests["restored"]["desktop1"].state == "cleaned"
    assert guests["restored"]["desktop4"].state == "original"


def test_sizes_count_each_layer_once_and_each_full_image_as_a_flat_file(tmp_path: Path):
    manifest = made(tmp_path, "tiny")
    first, cleaned, restored = moves(manifest)
    by_name = {image.name: image for image in manifest.images}
    small = by_name["mail"].file_size_bytes
    assert first.layers == 24
    assert first.moved_bytes == by_name["base"].file_size_bytes + 23 * small
    # The root's clusters and one more; the other cluster of each level replaces one of the root.
    flat = by_name["base"].file_size_bytes + CLUSTER
    assert first.full_bytes == cleaned.full_bytes == 10 * flat
    assert cleaned.moved_bytes == len(INFECTED) * small
    assert restored.moved_bytes == len(REPAIRED) * small
    assert f"{cleaned.saved:.2%}" in table(manifest)
