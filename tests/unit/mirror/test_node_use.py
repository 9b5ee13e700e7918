"""What instances use of nodes: counted by their volumes, or by a plan that is being carried out."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest, Layer
from kigi.mirror.node_use import LAYERS_FORGOTTEN_AFTER_S, NodeUse

ONE, TWO = ("ns", "dep", "1"), ("ns", "dep", "2")
LAYER = Layer(Digest("sha256:" + "a" * 64), 10, 512)


class World:
    """Volumes of instances, and their use."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.use = NodeUse(lambda: self.now_s)
        self.stored: dict[Any, dict[str, int]] = {}
        self.computed: list[Any] = []

    def put(self, key: Any, **by_node: int) -> None:
        self.stored[key] = by_node
        self.use.changed(key)

    def refresh(self) -> None:
        def compute(key: Any) -> dict[str, int]:
            self.computed.append(key)
            return self.stored.get(key, {})

        self.use.refresh(compute)


def test_memory_and_places_of_all_instances_are_counted_by_node() -> None:
    w = World()
    w.put(ONE, n1=3, n2=1)
    w.put(TWO, n1=2)
    w.refresh()
    assert w.use.memory == {"n1": 5, "n2": 1}
    assert w.use.load["ns", "dep"] == {"n1": 2, "n2": 1}


def test_only_what_changed_is_computed_again() -> None:
    w = World()
    w.put(ONE, n1=3)
    w.put(TWO, n1=2)
    w.refresh()
    w.computed.clear()
    w.put(TWO, n2=4)
    w.refresh()
    w.refresh()
    assert w.computed == [TWO]
    assert +w.use.memory == {"n1": 3, "n2": 4}


def test_a_plan_counts_at_once_and_its_volumes_when_it_is_done() -> None:
    w = World()
    w.put(ONE, n1=3)
    w.refresh()
    w.use.reserve(ONE, {"n2": 5}, {})
    assert +w.use.memory == {"n2": 5}
    w.put(ONE, n1=3, n2=2)  # some of its volumes exist
    w.refresh()
    assert +w.use.memory == {"n2": 5}
    w.use.release(ONE)
    w.refresh()
    assert +w.use.memory == {"n1": 3, "n2": 2}


def test_layers_count_until_the_node_lists_them() -> None:
    w = World()
    w.use.reserve(ONE, {"n1": 5}, {"n1": {LAYER.digest: LAYER}})
    w.use.release(ONE)
    assert w.use.requested_layers("n1", frozenset) == {LAYER.digest: LAYER}
    assert w.use.requested_layers("n2", frozenset) == {}
    assert w.use.requested_layers("n1", lambda: frozenset({LAYER.digest})) == {}
    assert w.use.requested_layers("n1", frozenset) == {}


def test_layers_that_are_never_listed_are_forgotten() -> None:
    w = World()
    w.use.reserve(ONE, {"n1": 5}, {"n1": {LAYER.digest: LAYER}})
    w.now_s = LAYERS_FORGOTTEN_AFTER_S + 1
    assert w.use.requested_layers("n1", frozenset) == {}


def test_another_leader_begins_without_reservations() -> None:
    w = World()
    w.use.reserve(ONE, {"n1": 5}, {"n1": {LAYER.digest: LAYER}})
    w.use.clear_reservations()
    w.refresh()
    assert not +w.use.memory
    assert w.use.requested_layers("n1", frozenset) == {}


keys = st.sampled_from([ONE, TWO, ("ns", "other", "1")])
uses = st.dictionaries(st.sampled_from(["n1", "n2"]), st.integers(0, 9))


@given(st.lists(st.tuples(st.sampled_from(["put", "reserve", "release", "refresh"]), keys, uses), max_size=40))
def test_the_sums_are_those_of_the_parts(script: list[tuple[str, Any, dict[str, int]]]) -> None:
    w, reserved = World(), {}
    for kind, key, use in script:
        match kind:
            case "put":
                w.put(key, **use)
            case "reserve":
                w.use.reserve(key, use, {})
                reserved[key] = use
            case "release":
                w.use.release(key)
                reserved.pop(key, None)
            case _:
                w.refresh()
    w.refresh()
    parts = {**w.stored, **reserved}
    for node in ("n1", "n2"):
        assert w.use.memory[node] == sum(part.get(node, 0) for part in parts.values())
        for deployment in ("dep", "other"):
            count = sum(node in part for key, part in parts.items() if key[1] == deployment)
            assert w.use.load.get(("ns", deployment), {}).get(node, 0) == count
