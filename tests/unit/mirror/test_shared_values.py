"""Records share the texts that many of them have: each body that arrives has texts of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kigi.domain.observed import MachineRecord, VmiRecord, VolumeRecord
from kigi.mirror.parse import parse
from kigi.mirror.parse_values import shared
from tests.support.bodies import cache_body, chain_of, machine_body, node_body, target, vmi_body, volume_body


def received(body: dict[str, Any]) -> Any:
    """The record of a body that has just been read from a response."""
    return parse(body["kind"], json.loads(json.dumps(body)))


def parts_of_an_instance(machine: str) -> list[VolumeRecord | MachineRecord | VmiRecord]:
    return [received(make(target(machine, instance="team-7"))) for make in (volume_body, machine_body, vmi_body)]


@pytest.mark.parametrize("field", ["deployment", "instance"])
def test_objects_of_one_instance_share_what_they_belong_to(field: str) -> None:
    records = [*parts_of_an_instance("m"), *parts_of_an_instance("other")]
    assert len({id(getattr(record, field)) for record in records}) == 1


def test_machines_of_one_state_share_owner_hashes_and_sidecars() -> None:
    one, two = (received(machine_body(target(machine))) for machine in ("m", "other"))
    for field in ("owner_uid", "hardware", "sidecars", "printable_status"):
        assert getattr(one, field) is getattr(two, field), field


def test_disks_on_one_node_share_its_name_and_their_finalizers() -> None:
    one, two = (received(volume_body(target(machine), node="node-7")) for machine in ("m", "other"))
    assert one.node is two.node
    assert one.meta.finalizers is two.meta.finalizers


def test_nodes_with_the_same_layers_share_one_set_of_them() -> None:
    held = tuple(layer.digest for layer in chain_of("top"))
    one, two = (received(cache_body(name, held=held)) for name in ("n1", "n2"))
    assert one.held == set(held)
    assert one.held is two.held


def test_nodes_share_the_texts_of_their_labels() -> None:
    bodies = [node_body(name) for name in ("n1", "n2")]
    for body in bodies:
        body["metadata"]["labels"] = {"example.com/pool": "exercise machines"}
    (key, value), (same_key, same_value) = (next(iter(received(body).labels.items())) for body in bodies)
    assert key is same_key
    assert value is same_value


def test_a_shared_value_is_equal() -> None:
    assert shared("a" + "b") == "ab"
    assert shared(None) is None
    assert shared(("a", "b")) == ("a", "b")
