"""Trees that are used in another namespace: what a change enqueues, who is counted, and what is written where."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from kigi.domain.images import Image
from kigi.domain.resets import ResetRequest, refusal
from kigi.errors import KigiError
from kigi.gather.resets import reset_scope
from kigi.gather.trees import gather_image, gather_system, image_users, system_users
from kigi.mirror.keys import Key
from kigi.mirror.store import Mirror
from kigi.mirror.triggers import enqueue_requests
from kigi.status.trees import image_status, system_status
from tests.support.bodies import GIB, chain_of, image_body, namespace_body, repository_body, system_body, with_meta

LIBRARY, TENANT, OTHER = "library", "tenant", "other"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARKER = "zzsecret"
"""Part of every name of the library that the tenant does not write."""


def grant_body(version: int, *to: tuple[str, str], team: str = "red", descendants: bool = False) -> dict[str, Any]:
    spec = {
        "from": {"namespaceSelector": {"matchLabels": {"team": team}}},
        "to": [{"kind": kind, "name": name, "descendants": descendants} for kind, name in to],
    }
    return with_meta({"kind": "TreeGrant", "metadata": {"name": "g", "namespace": LIBRARY}, "spec": spec}, version)


def prefetch_body(namespace: str, version: int, *states: str) -> dict[str, Any]:
    targets = [{"kind": "SystemNode", "namespace": LIBRARY, "name": name} for name in states]
    body = {
        "kind": "SystemPrefetch",
        "metadata": {"name": "warm", "namespace": namespace},
        "spec": {"targetRefs": targets},
    }
    return with_meta(body, version, f"uid-warm-{namespace}")


class World:
    """The library has ``office`` on two images; two namespaces have a child of it, an own image and a prefetch."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.versions = itertools.count(1)
        self.put(repository_body())
        for name, team in ((LIBRARY, "none"), (TENANT, "red"), (OTHER, "blue")):
            self.put(namespace_body(name, team=team))
        self.image(LIBRARY, f"{MARKER}-base")
        self.image(LIBRARY, f"{MARKER}-mail", f"{MARKER}-base")
        self.image(LIBRARY, f"{MARKER}-unused")
        self.state(LIBRARY, "office", mail=f"{MARKER}-mail")
        self.state(LIBRARY, f"{MARKER}-private", mail=f"{MARKER}-unused")
        for namespace in (TENANT, OTHER):
            self.image(namespace, "branch", f"{LIBRARY}/{MARKER}-mail")
            self.state(namespace, "ours", f"{LIBRARY}/office")
            self.state(namespace, "below", "ours", web="branch")
            self.put(prefetch_body(namespace, 0, "office"))

    def put(self, body: dict[str, Any]) -> set[Key]:
        """Keys that the change enqueues."""
        body["metadata"]["resourceVersion"] = str(next(self.versions))
        body["metadata"]["generation"] = next(self.versions)
        change = self.mirror.put(body["kind"], body)
        assert change is not None
        return {key for key, _ in enqueue_requests(self.mirror, change)}

    def image(self, namespace: str, name: str, parent: str | None = None, layer: str = "") -> set[Key]:
        digest = chain_of(f"{namespace[:3]}{name[-5:]}{layer}")[0].digest
        return self.put(image_body(Image(name, digest, 100, GIB, parent), namespace=namespace))

    def state(self, namespace: str, name: str, parent: str | None = None, **images: str) -> set[Key]:
        machines = [{"name": key, "rootDisk": {"imageRef": {"name": image}}} for key, image in images.items()]
        return self.put(system_body(name, machines, parent, namespace=namespace))

    def share(self, *to: tuple[str, str], **more: Any) -> set[Key]:
        return self.put(grant_body(0, *(to or (("SystemNode", "office"),)), **more))

    def gone(self, kind: str, namespace: str | None, name: str) -> set[Key]:
        change = self.mirror.gone(kind, namespace, name, "")
        assert change is not None
        return {key for key, _ in enqueue_requests(self.mirror, change)}

    def settle(self) -> None:
        """Every object is resolved, as its reconcile does."""
        for namespace in (LIBRARY, TENANT, OTHER):
            for image in self.mirror.images.by("namespace", namespace):
                gather_image(self.mirror, namespace, image.meta.name, NOW)
            for state in self.mirror.systems.by("namespace", namespace):
                gather_system(self.mirror, namespace, state.meta.name, NOW)
            if self.mirror.prefetches.get(namespace, "warm"):
                self.mirror.resolved(namespace, f"{LIBRARY}/office")


@pytest.fixture
def world() -> World:
    world = World()
    world.settle()
    return world


def in_namespace(keys: set[Key], namespace: str) -> set[tuple[str, str]]:
    return {(key.kind, key.name) for key in keys if key.namespace == namespace}


OURS = {("image", "branch"), ("system", "ours"), ("system", "below"), ("prefetch", "warm")}


def test_a_grant_enqueues_what_it_permits_and_the_nodes_that_gain_users(world: World) -> None:
    keys = world.share()
    assert in_namespace(keys, TENANT) == OURS
    assert in_namespace(keys, OTHER) == set()
    assert in_namespace(keys, LIBRARY) == {("grant", "g"), ("system", "office"), ("image", f"{MARKER}-mail")}


def test_a_grant_that_covers_the_same_enqueues_itself_alone(world: World) -> None:
    world.share()
    world.settle()
    assert world.share(("SystemNode", "office"), ("VMImageNode", f"{MARKER}-mail")) == {Key("grant", LIBRARY, "g")}


def test_a_withdrawn_grant_enqueues_what_it_permitted(world: World) -> None:
    world.share()
    world.settle()
    keys = world.gone("TreeGrant", LIBRARY, "g")
    assert in_namespace(keys, TENANT) == OURS
    assert in_namespace(keys, OTHER) == set()
    assert isinstance(world.mirror.resolved(TENANT, "ours"), KigiError)


def test_a_label_gives_and_takes_the_use(world: World) -> None:
    world.share()
    world.settle()
    keys = world.put(namespace_body(OTHER, team="red"))
    assert in_namespace(keys, OTHER) >= OURS
    assert in_namespace(keys, TENANT) == set()
    assert ("grant", "g") in in_namespace(keys, LIBRARY), "the number of its namespaces"
    assert not isinstance(world.mirror.resolved(OTHER, "below"), KigiError)
    world.settle()
    world.put(namespace_body(OTHER, team="blue"))
    assert isinstance(world.mirror.resolved(OTHER, "below"), KigiError)


def test_a_changed_state_enqueues_what_is_based_on_it_where_that_is_permitted(world: World) -> None:
    world.share()
    world.settle()
    keys = world.state(LIBRARY, "office", mail=f"{MARKER}-mail", web=f"{MARKER}-base")
    assert in_namespace(keys, TENANT) == OURS - {("image", "branch")}
    assert in_namespace(keys, OTHER) == set()


def test_a_changed_image_enqueues_images_and_states_above_it_in_every_namespace(world: World) -> None:
    world.share()
    world.settle()
    keys = world.image(LIBRARY, f"{MARKER}-base", layer="new")
    assert in_namespace(keys, TENANT) == OURS
    assert in_namespace(keys, OTHER) == set()


def test_an_image_that_a_state_names_no_more_is_no_longer_permitted(world: World) -> None:
    world.share()
    world.settle()
    keys = world.state(LIBRARY, "office", mail=f"{MARKER}-base")
    assert in_namespace(keys, TENANT) == OURS
    assert isinstance(world.mirror.chain(TENANT, "branch"), KigiError)
    assert not isinstance(world.mirror.resolved(TENANT, "ours"), KigiError)


def test_an_object_that_comes_later_is_used(world: World) -> None:
    world.share()
    world.settle()
    world.gone("SystemNode", LIBRARY, "office")
    world.settle()
    assert isinstance(world.mirror.resolved(TENANT, "below"), KigiError)
    assert in_namespace(world.state(LIBRARY, "office", mail=f"{MARKER}-mail"), TENANT) == OURS
    assert not isinstance(world.mirror.resolved(TENANT, "below"), KigiError)


def test_changes_of_what_nobody_uses_stay_in_the_library(world: World) -> None:
    world.share()
    world.settle()
    keys = world.state(LIBRARY, f"{MARKER}-private", mail=f"{MARKER}-base")
    assert in_namespace(keys, TENANT) | in_namespace(keys, OTHER) == set()


def test_users_of_other_namespaces_count_only_while_they_are_permitted(world: World) -> None:
    assert system_users(world.mirror, LIBRARY, "office") == ()
    world.share()
    assert {(user.kind, user.namespace) for user in system_users(world.mirror, LIBRARY, "office")} == {
        ("SystemNode", TENANT),
        ("SystemPrefetch", TENANT),
    }
    assert [str(user) for user in image_users(world.mirror, LIBRARY, f"{MARKER}-mail")] == [
        "SystemNode office",
        "VMImageNode branch",
    ]
    world.gone("TreeGrant", LIBRARY, "g")
    assert system_users(world.mirror, LIBRARY, "office") == ()


def test_users_in_a_cycle_through_two_namespaces_do_not_hold_each_other(world: World) -> None:
    world.share(("SystemNode", "loop"))
    back = grant_body(0, ("SystemNode", "loop"), team="none")
    back["metadata"] |= {"namespace": TENANT, "uid": "back"}
    world.put(back)
    world.state(LIBRARY, "loop", f"{TENANT}/loop")
    world.state(TENANT, "loop", f"{LIBRARY}/loop")
    assert system_users(world.mirror, LIBRARY, "loop") == system_users(world.mirror, TENANT, "loop") == ()


def statuses(world: World, namespace: str) -> str:
    """Everything that the objects of a namespace say."""
    found: list[Any] = []
    for image in world.mirror.images.by("namespace", namespace):
        view = gather_image(world.mirror, namespace, image.meta.name, NOW)
        assert view is not None
        found.append(image_status(view).to_api())
    for state in world.mirror.systems.by("namespace", namespace):
        seen = gather_system(world.mirror, namespace, state.meta.name, NOW)
        assert seen is not None
        found.append(system_status(seen).to_api())
    return str(found)


@pytest.mark.parametrize("damage", ["none", "no grant", "no parent", "no image", "deleted parent", "invalid"])
def test_the_tenants_objects_say_nothing_of_the_library(world: World, damage: str) -> None:
    world.share()
    match damage:
        case "no grant":
            world.gone("TreeGrant", LIBRARY, "g")
        case "no parent":
            world.gone("SystemNode", LIBRARY, "office")
        case "no image":
            world.gone("VMImageNode", LIBRARY, f"{MARKER}-base")
        case "deleted parent":
            body = system_body("office", [], namespace=LIBRARY)
            body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            world.put(body)
        case "invalid":
            world.put(system_body("office", [{"name": f"{MARKER.upper()}"}], namespace=LIBRARY))
    said = statuses(world, TENANT).replace(f"{LIBRARY}/{MARKER}-mail", "what the tenant wrote")
    assert MARKER not in said
    for record in world.mirror.images.by("namespace", LIBRARY):
        assert record.image.digest not in said  # type: ignore[union-attr]


def test_the_librarys_objects_do_not_name_their_users(world: World) -> None:
    world.share()
    deleting = system_body("office", [{"name": "mail", "rootDisk": {"imageRef": {"name": f"{MARKER}-mail"}}}])
    deleting["metadata"] |= {"namespace": LIBRARY, "deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.put(deleting)
    said = statuses(world, LIBRARY)
    assert "1 SystemNode, 1 SystemPrefetch in 1 other namespace" in said
    assert TENANT not in said
    assert "ours" not in said


def test_without_a_grant_and_without_the_object_the_messages_differ_only_in_what_was_written(world: World) -> None:
    world.state(TENANT, "to-forbidden", f"{LIBRARY}/office")
    world.state(TENANT, "to-missing", f"{LIBRARY}/nothing")
    world.state(TENANT, "to-nowhere", "nowhere/office")
    said = {}
    for name, written in (
        ("forbidden", f"{LIBRARY}/office"),
        ("missing", f"{LIBRARY}/nothing"),
        ("nowhere", "nowhere/office"),
    ):
        error = world.mirror.resolved(TENANT, f"to-{name}")
        assert isinstance(error, KigiError)
        said[error.reason, str(error).replace(written, "REF").replace(f"to-{name}", "NAME")] = name
    assert len(said) == 1
    assert next(iter(said))[0] == "RefNotPermitted"


def test_a_reference_that_is_not_permitted_causes_no_work_in_the_library(world: World) -> None:
    """Otherwise anyone could keep the operator busy with another namespace's objects."""
    keys = world.state(TENANT, "nosy", f"{LIBRARY}/office", web=f"{LIBRARY}/{MARKER}-base")
    keys |= world.gone("SystemNode", TENANT, "nosy")
    keys |= world.gone("SystemPrefetch", TENANT, "warm")
    assert in_namespace(keys, LIBRARY) == set()


def test_references_that_come_and_go_leave_nothing(world: World) -> None:
    """A tenant names thousands of objects of namespaces that may not even exist."""
    for namespace in (TENANT, OTHER):
        for kind, name in (("SystemPrefetch", "warm"), ("SystemNode", "below"), ("SystemNode", "ours")):
            world.gone(kind, namespace, name)
        world.gone("VMImageNode", namespace, "branch")
    for number in range(300):
        body = prefetch_body(TENANT, 0)
        body["spec"]["targetRefs"] = [{"kind": "SystemNode", "namespace": f"ns{number}", "name": f"x{number}"}]
        world.put(body)
        assert isinstance(world.mirror.resolved(TENANT, f"ns{number}/x{number}"), KigiError)
    world.gone("SystemPrefetch", TENANT, "warm")
    forest = world.mirror.forest
    assert set(forest._trees) <= {LIBRARY, TENANT, OTHER}
    assert not forest._answers
    assert not forest._users


def test_a_reset_finds_the_machines_of_a_state_of_the_library(world: World) -> None:
    """A request with a machine that the state lacks would wait for ever if the state were looked for at home."""
    world.share()
    spec = {"systemRef": {"namespace": LIBRARY, "name": "office"}}
    meta = {"name": "class", "namespace": TENANT}
    world.put(with_meta({"kind": "SystemDeployment", "metadata": meta, "spec": spec}, 0))
    deployment = world.mirror.deployments.get(TENANT, "class")
    for machine, known in (("mail", True), ("printer", False)):
        request = ResetRequest("r", "r", NOW, "class", machines=frozenset({machine}))
        scope = reset_scope(world.mirror, deployment, request)
        assert scope is not None
        assert scope.machines == {"1": frozenset({"mail"})}
        assert (refusal(request, scope) is None) == known
