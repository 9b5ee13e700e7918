"""A namespace has a bounded share of the operator's memory, and a bad object affects only itself."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.adapters.bounded_json import UNREAD
from kigi.domain.images import Image
from kigi.errors import SpecInvalid
from kigi.mirror import limits
from kigi.mirror.limits import NamespaceTooLarge
from kigi.mirror.parse import _PARSERS
from kigi.mirror.records import InstanceRecord
from tests.support.bodies import NS, chain_of, image_body
from tests.support.mirrors import new_mirror

IMAGE = image_body(Image("x", chain_of("x")[0].digest, 100, 2**30, None))


def of(body: dict[str, Any], name: str, version: int, namespace: str = NS) -> dict[str, Any]:
    meta = {**body["metadata"], "name": name, "namespace": namespace, "uid": f"{namespace}-{name}"}
    return {**body, "metadata": {**meta, "resourceVersion": str(version)}}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_NAMESPACE_BYTES", 3 * limits.MIN_OBJECT_BYTES)


def test_an_object_beyond_the_limit_is_an_error_of_its_own() -> None:
    mirror = new_mirror()
    for n in range(4):
        mirror.put("VMImageNode", of(IMAGE, f"i{n}", 10 + n))
    found = [mirror.images.get(NS, f"i{n}") for n in range(4)]
    assert all(record is not None for record in found)
    assert [isinstance(record.image, NamespaceTooLarge) for record in found if record] == [False, False, False, True]
    mirror.put("VMImageNode", of(IMAGE, "i0", 20, "other"))
    other = mirror.images.get("other", "i0")
    assert other is not None
    assert not isinstance(other.image, SpecInvalid), "another namespace has its own limit"


def test_what_was_refused_is_read_again_when_there_is_space() -> None:
    mirror = new_mirror()
    bodies = [of(IMAGE, f"i{n}", 10 + n) for n in range(4)]
    for body in bodies:
        mirror.put("VMImageNode", body)
    assert mirror.put("VMImageNode", bodies[3]) is None
    mirror.gone("VMImageNode", NS, "i0", f"{NS}-i0")
    assert mirror.put("VMImageNode", bodies[3]) is not None, "the same version, as a listing has it"
    found = mirror.images.get(NS, "i3")
    assert found is not None
    assert not isinstance(found.image, SpecInvalid)
    assert mirror.put("VMImageNode", bodies[3]) is None


def test_a_smaller_version_of_an_object_frees_its_space() -> None:
    mirror = new_mirror()
    for version, text in ((1, "x" * 2 * limits.MIN_OBJECT_BYTES), (2, "x")):
        spec = {"machines": [{"name": "m", "rootDisk": {"imageRef": {"name": "x"}}}], "description": text}
        mirror.put("SystemNode", of({"metadata": {}, "spec": spec}, "s", version))
    for n in range(2):
        mirror.put("VMImageNode", of(IMAGE, f"i{n}", 10 + n))
    assert not any(isinstance(record.image, SpecInvalid) for record in mirror.images)


@pytest.mark.parametrize("kind", sorted(_PARSERS))
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"spec": {UNREAD: True}, "status": {UNREAD: True}},
        {"spec": [1], "status": "x"},
        {"spec": {"template": 1, "taints": [1], "drivers": 5, "csi": [1], "volumes": 3, "from": 1, "to": {}}},
        {"spec": {"layer": [], "guest": 7, "machines": [None, 3, {"name": []}], "instances": [[]], "name": {}}},
        {"status": {"conditions": 5, "layers": [1], "volumes": 3, "disks": [7], "phase": {}}},
        {"spec": {"template": {"metadata": {"annotations": [1]}, "spec": {"volumes": [3], "domain": "x"}}}},
    ],
)
def test_no_object_stops_the_reading_of_others(kind: str, content: dict[str, Any]) -> None:
    mirror = new_mirror()
    meta = {"name": "bad", "namespace": NS, "uid": "u", "resourceVersion": "7", "deletionTimestamp": "2026-01-01"}
    change = mirror.put(kind, {"metadata": {**meta, "labels": {"kigi.dev/deployment": "d"}}, **content})
    assert change is not None
    assert change.new is not None
    assert change.new.meta.deleting


def test_an_instance_that_is_not_read_keeps_its_identity() -> None:
    mirror = new_mirror()
    spec = {"deploymentRef": {"name": "office"}, "name": "7", UNREAD: True}
    mirror.put("SystemInstance", of({"metadata": {}, "spec": spec}, "office-7", 5))
    record = mirror.instances.get(NS, "office-7")
    assert isinstance(record, InstanceRecord)
    assert (record.deployment, record.name) == ((NS, "office"), "7")
    assert "more than 50000 values" in str(record.spec)
