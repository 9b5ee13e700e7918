"""Both trees and their deployments are deleted in any order, while an operator reconciles one node at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.images import Image
from kigi.domain.layers import Digest
from kigi.domain.systems import MachineChange, System
from kigi.domain.usage import User, users_of_images, users_of_systems
from kigi.planning.in_use import plan_in_use

IMAGES = [f"i{n}" for n in range(6)]
SYSTEMS = [f"s{n}" for n in range(4)]


@dataclass
class World:
    """The API server: objects, finalizers, and those that wait for theirs to go."""

    images: dict[str, Image]
    systems: dict[str, System]
    deployments: dict[str, list[str]]
    marked: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)

    def names(self) -> list[str]:
        return [*self.images, *self.systems, *self.deployments]

    def users(self, name: str) -> tuple[User, ...]:
        if name in self.images:
            return users_of_images(self.images, self.systems).get(name, ())
        named = {User("SystemDeployment", deployment): states for deployment, states in self.deployments.items()}
        return users_of_systems(self.systems, named).get(name, ())

    def delete(self, name: str) -> None:
        if name in self.marked:
            self.deleting.add(name)
        else:
            self._forget(name)

    def reconcile(self, name: str) -> bool:
        """Reconciles one node; True if it changed something."""
        if name not in self.images and name not in self.systems:
            return False
        users, deleting = self.users(name), name in self.deleting
        wanted = plan_in_use(users=users, deleting=deleting, has_finalizer=name in self.marked)
        if wanted:
            self.marked.add(name)
        elif wanted is False:
            self.marked.discard(name)
            if deleting:
                assert not users, "a used node is not deleted"
                self._forget(name)
        return wanted is not None

    def settle(self) -> None:
        """Reconciles every node until nothing changes; each change marks, unmarks or removes a node."""
        for _ in range(4 * (len(IMAGES) + len(SYSTEMS))):
            if not sum(self.reconcile(name) for name in self.names()):
                return
        raise AssertionError("the operator does not stop making changes")

    def _forget(self, name: str) -> None:
        for kind in (self.images, self.systems, self.deployments):
            kind.pop(name, None)  # type: ignore[attr-defined]
        self.deleting.discard(name)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Parents are any nodes, so that there are cycles, and parents that do not exist."""

    def parent(names: list[str]) -> str | None:
        return draw(st.sampled_from([None, "missing", *names]))

    def machines() -> tuple[MachineChange, ...]:
        named = draw(st.lists(st.sampled_from(IMAGES), max_size=3))
        return tuple(MachineChange(f"m{n}", image) for n, image in enumerate(named))

    images = {name: Image(name, Digest(f"sha256:{n:064x}"), 1, 512, parent(IMAGES)) for n, name in enumerate(IMAGES)}
    systems = {name: System(name, parent(SYSTEMS), machines()) for name in SYSTEMS}
    deployments = {f"d{n}": draw(st.lists(st.sampled_from(SYSTEMS), min_size=1, max_size=2)) for n in range(2)}
    return World(images, systems, deployments)


@given(worlds(), st.data())
def test_the_whole_tree_can_be_deleted_in_any_order(world: World, data: st.DataObject) -> None:
    world.settle()
    for name in data.draw(st.permutations(world.names())):
        world.delete(name)
        for checked in data.draw(st.lists(st.sampled_from([*IMAGES, *SYSTEMS]), max_size=3)):
            world.reconcile(checked)
    world.settle()
    assert world.names() == []


@given(worlds(), st.data())
def test_used_nodes_stay_and_all_others_are_deleted(world: World, data: st.DataObject) -> None:
    world.settle()
    doomed = data.draw(st.sets(st.sampled_from([*IMAGES, *SYSTEMS])))
    for name in doomed:
        world.delete(name)
    world.settle()
    assert {name for name in doomed if name in world.names()} == {
        name for name in doomed if name in world.names() and world.users(name)
    }
    assert set(world.names()) >= {*IMAGES, *SYSTEMS, *world.deployments} - doomed
    assert world.deleting == doomed & set(world.names())
