"""A NodeCache has no more entries than one object can hold; those of the highest priority come first."""

from __future__ import annotations

from kigi.api.node_cache import MAX_LAYERS
from kigi.domain.layers import Digest, Layer
from kigi.planning.node_cache import PRIORITY_DISK, PRIORITY_PREFETCH, plan_node_cache, wanted_layers
from kigi.planning.steps import ApplyObject
from kigi.planning.view import DesiredChain, NodeView


def wishes(count: int, priority: int, first: int = 0, pinned: bool = False) -> list[DesiredChain]:
    """Wishes for ``count`` single layers."""
    layers = (Layer(Digest(f"sha256:{number:064x}"), 1, 512) for number in range(first, first + count))
    return [DesiredChain((layer,), priority, pinned) for layer in layers]


def test_as_many_layers_as_fit_are_all_wanted() -> None:
    assert len(wanted_layers(wishes(MAX_LAYERS, PRIORITY_DISK))) == MAX_LAYERS


def test_layers_of_disks_go_before_prefetched_ones() -> None:
    prefetched = wishes(MAX_LAYERS, PRIORITY_PREFETCH)
    disks = wishes(10, PRIORITY_DISK, first=MAX_LAYERS)
    wanted = wanted_layers([*prefetched, *disks])
    assert len(wanted) == MAX_LAYERS
    assert sum(layer.priority == PRIORITY_DISK for layer in wanted) == 10
    assert wanted == sorted(wanted, key=lambda layer: layer.digest)


def test_pinned_layers_go_before_all() -> None:
    disks = wishes(MAX_LAYERS, PRIORITY_DISK)
    pinned = wishes(5, PRIORITY_PREFETCH, first=MAX_LAYERS, pinned=True)
    assert sum(layer.pinned for layer in wanted_layers([*disks, *pinned])) == 5


def test_overlays_that_do_not_fit_are_discarded_later_and_their_volumes_kept_until_then() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS + 7))
    view = NodeView("node", True, True, True, (), terminating)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert len(step.manifest["spec"]["discard"]) == MAX_LAYERS


def test_overlays_of_volumes_that_are_deleted_go_before_those_without_any() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS))
    view = NodeView("node", True, True, True, (), terminating, nameless=frozenset({"a"}), spec_current=True)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert "a" not in step.manifest["spec"]["discard"]
