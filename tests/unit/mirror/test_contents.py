"""One digest, several objects: what is verified counts, then the first one; the others are errors of themselves."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.domain.layers import Chain
from kigi.errors import KigiError, LayerContradiction
from kigi.gather.trees import gather_image
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.mirror.triggers import enqueue_requests
from kigi.status.trees import image_status
from tests.support.bodies import namespace_body, repository_body, with_meta

A, B = "team-a", "team-b"
GIB = 2**30
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TOP, BASE, OTHER = ("sha256:" + letter * 64 for letter in "abc")


class World:
    """Team A has ``top`` on ``base``."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.versions = itertools.count(1)
        self.put(repository_body())
        for namespace in (A, B):
            self.put(namespace_body(namespace))

    def put(self, body: dict[str, Any]) -> set[Key]:
        body["metadata"]["resourceVersion"] = str(next(self.versions))
        change = self.mirror.put(body["kind"], body)
        return {key for key, _ in enqueue_requests(self.mirror, change)} if change is not None else set()

    def image(
        self,
        namespace: str,
        name: str,
        digest: str,
        parent: str = "",
        *,
        second: int = 1,
        size: int = 100,
        virtual: int = GIB,
    ) -> set[Key]:
        spec: dict[str, Any] = {"layer": {"digest": digest, "sizeBytes": size, "virtualSizeBytes": virtual}}
        if parent:
            namespace_of_parent, _, name_of_parent = parent.rpartition("/")
            spec["parentRef"] = {
                "name": name_of_parent,
                **({"namespace": namespace_of_parent} if namespace_of_parent else {}),
            }
        meta = {"name": name, "namespace": namespace, "creationTimestamp": f"2026-01-01T00:00:{second:02}Z"}
        body = {"kind": "VMImageNode", "metadata": meta, "spec": spec}
        return self.put(with_meta(body, 0, f"{namespace}-{name}"))

    def held(self, digest: str, parent: str | None, *, size: int = 100) -> set[Key]:
        layer = {"digest": digest, "sizeBytes": size, "virtualSizeBytes": GIB, "repositoryName": "r", "purpose": "Disk"}
        layers = [layer | ({"parentDigest": parent} if parent else {})]
        spec = {"nodeName": "n1", "operatorProtocol": 2, "protocol": 2, "layers": layers}
        status = {"observedGeneration": 1, "layers": [{"digest": digest, "state": "Held", "sizeBytes": size}]}
        return self.put(with_meta({"kind": "NodeCache", "metadata": {"name": "n1"}, "spec": spec, "status": status}, 0))

    def chain(self, namespace: str, name: str) -> Chain | KigiError:
        return self.mirror.chain(namespace, name)


@pytest.fixture
def world() -> World:
    found = World()
    found.image(A, "base", BASE)
    found.image(A, "top", TOP, "base")
    return found


def assert_loses(world: World, namespace: str, name: str, field: str) -> None:
    error = world.chain(namespace, name)
    assert isinstance(error, LayerContradiction)
    assert field in str(error)
    other = A if namespace == B else B
    assert other not in str(error), "nothing of the other namespace"
    view = gather_image(world.mirror, namespace, name, NOW)
    assert view is not None
    conditions = {c.type: (c.status, c.reason) for c in image_status(view).conditions}
    assert conditions["Stalled"] == ("True", "LayerContradiction")


def assert_counts(world: World, namespace: str, name: str) -> None:
    assert not isinstance(world.chain(namespace, name), KigiError)


@pytest.mark.parametrize(
    ("field", "image"),
    [
        ("spec.parentRef", {}),
        ("spec.parentRef", {"parent": "wrong"}),
        ("spec.layer.sizeBytes", {"parent": "base", "size": 101}),
        ("spec.layer.virtualSizeBytes", {"parent": "base", "virtual": 2 * GIB}),
    ],
)
@pytest.mark.parametrize("namespace", [A, B])
def test_the_later_object_loses(world: World, namespace: str, field: str, image: dict[str, Any]) -> None:
    if namespace == B:
        world.image(B, "base", BASE)
    world.image(namespace, "wrong", OTHER)
    keys = world.image(namespace, "copy", TOP, second=2, **image)
    assert Key("image", namespace, "copy") in keys
    assert_loses(world, namespace, "copy", field)
    assert_counts(world, A, "top")


def test_the_order_of_arrival_does_not_matter(world: World) -> None:
    world.image(B, "copy", TOP, second=0)
    assert_counts(world, B, "copy")
    assert_loses(world, A, "top", "spec.parentRef")


def test_objects_of_the_same_second_are_ordered_by_uid(world: World) -> None:
    world.image(B, "copy", TOP)
    assert_counts(world, A, "top")
    assert_loses(world, B, "copy", "spec.parentRef")


def test_objects_that_agree_both_count(world: World) -> None:
    world.image(B, "mine", BASE, second=2)
    world.image(B, "copy", TOP, "mine", second=2)
    assert_counts(world, A, "top")
    assert_counts(world, B, "copy")


def test_what_a_node_has_verified_counts_before_the_first_object(world: World) -> None:
    world.image(B, "squat", TOP, second=0)
    assert_loses(world, A, "top", "spec.parentRef")
    world.held(TOP, BASE)
    assert_counts(world, A, "top")
    assert_loses(world, B, "squat", "spec.parentRef")


def test_an_object_whose_parent_is_missing_contradicts_nobody(world: World) -> None:
    world.image(B, "copy", TOP, "not-there", second=0)
    assert_counts(world, A, "top")


def test_without_a_grant_no_error_tells_whether_a_foreign_image_has_the_expected_digest(world: World) -> None:
    world.image(B, "own", BASE)
    world.image(B, "mine", OTHER, "own")
    errors = []
    for name in ("base", "top"):  # one has the parent's digest, the other one has not
        world.image(B, "probe", OTHER, second=2, parent=f"{A}/{name}")
        found = world.chain(B, "probe")
        assert not isinstance(found, LayerContradiction)
        errors.append(str(found).replace(f"{A}/{name}", ""))
    assert errors[0] == errors[1]


def test_the_loser_counts_when_the_other_object_is_gone(world: World) -> None:
    world.image(B, "copy", TOP, second=2)
    assert_loses(world, B, "copy", "spec.parentRef")
    change = world.mirror.gone("VMImageNode", A, "top", f"{A}-top")
    assert change is not None
    assert Key("image", B, "copy") in {key for key, _ in enqueue_requests(world.mirror, change)}
    assert_counts(world, B, "copy")


def test_a_parent_with_another_digest_changes_what_its_children_claim(world: World) -> None:
    world.image(B, "mine", BASE, second=2)
    world.image(B, "copy", TOP, "mine", second=2)
    assert_counts(world, B, "copy")
    keys = world.image(B, "mine", OTHER, second=2)
    assert Key("image", B, "copy") in keys
    assert_loses(world, B, "copy", "spec.parentRef")
    assert_counts(world, A, "top")


def test_children_of_a_loser_have_its_error(world: World) -> None:
    world.image(B, "copy", TOP, second=2)
    world.image(B, "child", OTHER, "copy", second=3)
    assert isinstance(world.chain(B, "child"), KigiError)
