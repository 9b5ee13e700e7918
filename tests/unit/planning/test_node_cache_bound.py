"""A NodeCache has no more entries than one object can hold; those of the highest priority come first."""

from __future__ import annotations

from dataclasses import replace

from kigi.api.node_cache import MAX_LAYERS, NodeCacheSpec
from kigi.domain.layers import Digest, Layer
from kigi.planning.node_cache import (
    PRIORITY_DISK,
    PRIORITY_PREFETCH,
    plan_node_cache,
    prefetched_layers,
    wanted_layers,
)
from kigi.planning.steps import ApplyObject
from kigi.planning.view import DesiredChain, NodeView


def chains(count: int, priority: int, first: int = 0, pinned: bool = False) -> list[DesiredChain]:
    """``count`` chains of one layer each."""
    layers = (Layer(Digest(f"sha256:{number:064x}"), 1, 512) for number in range(first, first + count))
    return [DesiredChain((layer,), priority, pinned) for layer in layers]


def test_as_many_layers_as_fit_are_all_wanted() -> None:
    assert len(wanted_layers(chains(MAX_LAYERS, PRIORITY_DISK))) == MAX_LAYERS


def test_layers_of_disks_go_before_prefetched_ones() -> None:
    prefetched = chains(MAX_LAYERS, PRIORITY_PREFETCH)
    disks = chains(10, PRIORITY_DISK, first=MAX_LAYERS)
    wanted = wanted_layers([*prefetched, *disks])
    assert len(wanted) == MAX_LAYERS
    assert sum(layer.priority == PRIORITY_DISK for layer in wanted) == 10
    assert wanted == sorted(wanted, key=lambda layer: layer.digest)


def test_pinned_layers_go_before_all() -> None:
    disks = chains(MAX_LAYERS, PRIORITY_DISK)
    pinned = chains(5, PRIORITY_PREFETCH, first=MAX_LAYERS, pinned=True)
    assert sum(layer.pinned for layer in wanted_layers([*disks, *pinned])) == 5


def test_overlays_that_do_not_fit_are_discarded_later_and_their_volumes_kept_until_then() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS + 7))
    view = NodeView("node", True, True, True, (), terminating)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert len(step.manifest["spec"]["discard"]) == MAX_LAYERS


def test_overlays_of_volumes_that_are_deleted_go_before_those_without_any() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS))
    view = NodeView("node", True, True, True, (), terminating, without_volume=frozenset({"a"}), spec_current=True)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert "a" not in step.manifest["spec"]["discard"]


def chain(*names: str) -> tuple[Layer, ...]:
    """Layers above each other; equal names are the same layer."""
    digests = [Digest(f"sha256:{name.encode().hex().rjust(64, '0')}") for name in names]
    return tuple(Layer(d, 1, 512, parent) for d, parent in zip(digests, [None, *digests], strict=False))


def test_a_node_that_waits_for_its_turn_keeps_prefetched_layers_with_the_layers_below_them() -> None:
    disk, prefetched = DesiredChain(chain("base", "disk"), PRIORITY_DISK), chain("base", "next")
    present = NodeCacheSpec(layers=wanted_layers([disk, DesiredChain(prefetched, PRIORITY_PREFETCH, pinned=True)]))
    assert [layer.priority for layer in present.layers] == [PRIORITY_DISK, PRIORITY_DISK, PRIORITY_PREFETCH]
    kept = prefetched_layers(present)
    assert {layer.digest for layer in kept} == {layer.digest for layer in prefetched}
    assert {layer.priority for layer in kept} == {PRIORITY_PREFETCH}
    assert wanted_layers([disk, *[DesiredChain(prefetched, PRIORITY_PREFETCH, pinned=True)]]) == wanted_layers(
        [disk], kept
    )
    view = NodeView("node", True, True, True, (), (), present=present)
    (step,) = plan_node_cache(replace(view, keeps_prefetched=True)).steps
    assert isinstance(step, ApplyObject)
    assert len(step.manifest["spec"]["layers"]) == 2, "the disk is gone"
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert not step.manifest["spec"]["layers"]
