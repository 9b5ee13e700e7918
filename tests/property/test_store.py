"""The store against a model: any order of operations, killed at any of its steps."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kigi.domain.layers import Digest, digest_hex
from kigi.errors import LayerCorrupt, LayerMissing
from kigi_cache.layers.quarantine import MAX_KEPT
from kigi_cache.layers.store import Store
from tests.support.stored import content, layer_of


class Killed(BaseException):
    """The process ends here."""


CONTENTS = [content(number) for number in range(3)]
LAYERS = [layer_of(data) for data in CONTENTS]
numbers = st.integers(0, len(LAYERS) - 1)
crash_after = st.sampled_from([None] * 8 + [0, 1, 2, 3])
"""How many changes are still made before the process is killed; None: it lives."""


class StoreMachine(RuleBasedStateMachine):
    """A store beside the model of what it must hold."""

    steps = 0
    """Steps of all runs."""

    def __init__(self) -> None:
        super().__init__()
        StoreMachine.steps -= 1  # the invariants are checked once before the first step
        self.root = Path(tempfile.mkdtemp(prefix="store-"))
        self.links: dict[int, int] = dict.fromkeys(range(len(LAYERS)), 0)
        self.volumes: list[tuple[int, Path]] = []
        self.boot = 0
        self.persisted: set[int] = set()
        """Layers that the disk certainly has."""
        self.right: set[int] = set()
        """Layers whose file must exist: committed or linked, and neither evicted nor damaged since."""
        self.open()

    def open(self) -> None:
        self.budget: int | None = None
        self.store = Store(self.root / "cache", step=self.step, boot=str(self.boot))
        for digest in self.store.recover():
            self.store.verify(digest)

    def step(self, name: str) -> None:
        if self.budget is not None:
            self.budget -= 1
            if self.budget < 0:
                raise Killed(name)

    def pick(self, number: int, held: bool) -> int:
        """The number of a held layer if ``held``, and if there are any."""
        return sorted(self.right)[number % len(self.right)] if held and self.right else number

    def number(self, digest: Digest) -> int:
        return next(n for n, layer in enumerate(LAYERS) if layer.digest == digest)

    @precondition(lambda self: len(self.right) < len(LAYERS))
    @rule(
        number=numbers,
        crash=crash_after,
        damage=st.sampled_from(["", "", "", "", "cut", "flip", "longer"]),
        use=st.booleans(),
    )
    def fill(self, number: int, crash: int | None, damage: str, use: bool) -> None:
        data = bytearray(CONTENTS[number])
        if damage == "flip":
            data[-1] ^= 1
        elif damage == "cut":
            del data[-1:]
        elif damage == "longer":
            data += b"x"
        self.store.part_path(LAYERS[number].digest).write_bytes(data)
        self.budget = crash
        try:
            if damage:
                with pytest.raises(LayerCorrupt):
                    self.store.commit(LAYERS[number], hashlib.sha256(data).hexdigest())
                assert not self.store.part_path(LAYERS[number].digest).exists()
            else:
                self.store.commit(LAYERS[number], hashlib.sha256(data).hexdigest())
                self.right.add(number)
                self.persisted.discard(number)
                self.links[number] = 0  # an earlier file lives on in its volumes alone
                self.volumes = [(n, volume) for n, volume in self.volumes if n != number]
        except Killed:
            before = self.store.path(LAYERS[number].digest)
            self.open()
            if not self.store.part_path(LAYERS[number].digest).exists() and not damage and before.exists():
                self.right.add(number)
                self.persisted.discard(number)
                self.links[number] = os.lstat(before).st_nlink - 1
                self.volumes = [(n, v) for n, v in self.volumes if n != number or os.path.samefile(v, before)]
        self.budget = None
        if use:
            self.link_one(number, None)

    @rule(pick=numbers, held=st.sampled_from([True, True, True, False]), crash=crash_after)
    def link(self, pick: int, held: bool, crash: int | None) -> None:
        self.link_one(self.pick(pick, held), crash)

    def link_one(self, number: int, crash: int | None) -> None:
        directory = Path(tempfile.mkdtemp(dir=self.root))
        self.budget = crash
        try:
            self.store.link_chain((LAYERS[number],), directory)
        except LayerMissing:
            assert number not in self.right
            return
        except Killed:
            self.budget = None
            self.open()
            self.store.unlink_layers(directory)  # the volume was never complete
            return
        finally:
            self.budget = None
        assert number in self.right
        linked = next(directory.iterdir())
        assert linked.read_bytes() == CONTENTS[number]
        self.links[number] += 1
        self.volumes.append((number, linked))

    @precondition(lambda self: self.volumes)
    @rule(data=st.data())
    def unlink(self, data: st.DataObject) -> None:
        number, path = self.volumes.pop(data.draw(st.integers(0, len(self.volumes) - 1)))
        self.store.unlink_layers(path.parent)
        self.links[number] -= 1

    @rule(pick=numbers, wanted=st.sets(numbers, max_size=1), crash=crash_after)
    def evict(self, pick: int, wanted: set[int], crash: int | None) -> None:
        number = self.pick(pick, True)
        allowed = number in self.right and not self.links[number] and number not in wanted
        self.budget = crash
        try:
            evicted = self.store.evict(LAYERS[number].digest, {LAYERS[n].digest for n in wanted})
            assert evicted == allowed
        except Killed:
            assert allowed
            self.open()
            evicted = not self.store.path(LAYERS[number].digest).exists()
        self.budget = None
        if evicted:
            self.right.discard(number)
            self.persisted.discard(number)

    @precondition(lambda self: len(self.right) > 1)
    @rule(pick=numbers, crash=crash_after)
    def quarantine(self, pick: int, crash: int | None) -> None:
        number = self.pick(pick, True)
        self.budget = crash
        try:
            self.store.quarantine(LAYERS[number].digest)
        except Killed:
            self.open()
        self.budget = None
        if not self.store.path(LAYERS[number].digest).exists():
            self.forget(number)

    @rule(pick=numbers, crash=crash_after, rot=st.sampled_from([False, False, False, True]))
    def verify(self, pick: int, crash: int | None, rot: bool) -> None:
        number = self.pick(pick, True)
        path = self.store.path(LAYERS[number].digest)
        if rot and number in self.right:
            path.chmod(0o644)
            data = bytearray(path.read_bytes())
            data[-2] ^= 1
            path.write_bytes(data)
            os.utime(path, ns=(1, 1))
            self.forget(number)
        self.budget = crash
        try:
            assert self.store.verify(LAYERS[number]) == (number in self.right)
        except Killed:
            self.open()
        self.budget = None

    def forget(self, number: int) -> None:
        """Its file is no longer a layer; volumes that link it keep their file."""
        self.right.discard(number)
        self.persisted.discard(number)
        self.links[number] = 0
        self.volumes = [(n, volume) for n, volume in self.volumes if n != number]

    @rule()
    def reopen(self) -> None:
        self.open()

    @rule(crash=crash_after)
    def persist(self, crash: int | None) -> None:
        """The filler does so after each commit."""
        self.budget = crash
        try:
            for digest in self.store.unpersisted():
                assert self.store.persist(digest)
                self.persisted.add(self.number(digest))
        except Killed:
            self.open()
        self.budget = None
        if crash is None:
            assert self.store.unpersisted() == []
            assert self.persisted >= self.right

    @rule(lost=st.sets(numbers), how=st.sampled_from(["empty", "zeroes"]))
    def power_cut(self, lost: set[int], how: str) -> None:
        """The machine restarts; files that were not fsynced have lost their bytes, not their names."""
        for number in lost & self.right - self.persisted:
            path = self.store.path(LAYERS[number].digest)
            found = path.stat()
            path.chmod(0o644)
            path.write_bytes(b"" if how == "empty" else bytes(found.st_size))
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
            self.forget(number)
        self.boot += 1
        self.open()

    @rule(name=st.sampled_from(["x", "a" * 64, "b" * 64 + ".qcow2.new", ".hidden"]), where=st.booleans())
    def litter(self, name: str, where: bool) -> None:
        (self.store.layers if where else self.store.incoming).joinpath(name).write_bytes(b"junk")
        self.open()

    @invariant()
    def exactly_the_right_layers_are_held(self) -> None:
        held = self.store.held()
        assert {self.number(digest) for digest in held} == self.right
        for digest, layer in held.items():
            number = self.number(digest)
            assert layer.links == self.links[number]
            assert self.store.path(digest).read_bytes() == CONTENTS[number]

    @invariant()
    def no_verified_layer_is_damaged(self) -> None:
        assert self.store.damaged() == []

    @invariant()
    def volumes_keep_their_bytes(self) -> None:
        for number, path in self.volumes:
            assert path.read_bytes() == CONTENTS[number]

    @invariant()
    def no_stray_file(self) -> None:
        names = {f"{digest_hex(layer.digest)}" for layer in LAYERS}
        assert {path.name.removesuffix(".qcow2") for path in self.store.layers.iterdir()} <= names
        assert {path.name.removesuffix(".part") for path in self.store.incoming.iterdir()} <= names
        assert len(list((self.store.root / "quarantine").iterdir())) <= MAX_KEPT + 1
        known = {"layers", "incoming", "quarantine", "state.json", "state.new", "state.recent.json", "state.recent.new"}
        assert {path.name for path in self.store.root.iterdir()} <= known

    @invariant()
    def counted(self) -> None:
        StoreMachine.steps += 1

    def teardown(self) -> None:
        shutil.rmtree(self.root)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=int(os.environ.get("KIGI_MODEL_EXAMPLES", "50")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_as_many_steps_were_taken_as_were_asked_for() -> None:
    """After the model, in this file's order. ``make model`` asks for 100,000."""
    print(f"{StoreMachine.steps} steps")
    assert StoreMachine.steps >= int(os.environ.get("KIGI_MODEL_STEPS", "1"))
