"""A NodeCache has no more entries than one object can hold; those of the highest priority come first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kigi.api.node_cache import MAX_CAPTURES, MAX_LAYERS, MAX_SPEC_BYTES, NodeCacheSpec, Purpose, WantedLayer
from kigi.domain.layers import Digest, Layer
from kigi.planning.layer_selection import LONGEST_LAYER_BYTES, Selection, prefetched_layers, select_layers, size_bytes
from kigi.planning.node_cache import plan_node_cache
from kigi.planning.steps import ApplyObject
from kigi.planning.view import DesiredChain, NodeView
from tests.support.copies import order


def chains(count: int, purpose: Purpose, first: int = 0, pinned: bool = False) -> list[DesiredChain]:
    """``count`` chains of one layer each."""
    layers = (Layer(Digest(f"sha256:{number:064x}"), 1, 512) for number in range(first, first + count))
    return [DesiredChain((layer,), purpose, pinned) for layer in layers]


def test_as_many_layers_as_fit_are_all_wanted() -> None:
    assert len(select_layers(chains(MAX_LAYERS, "Disk")).layers) == MAX_LAYERS


def test_layers_of_disks_go_before_prefetched_ones() -> None:
    prefetched = chains(MAX_LAYERS, "Prefetch")
    disks = chains(10, "Disk", first=MAX_LAYERS)
    wanted = select_layers([*prefetched, *disks]).layers
    assert len(wanted) == MAX_LAYERS
    assert sum(layer.purpose == "Disk" for layer in wanted) == 10
    assert wanted == sorted(wanted, key=lambda layer: layer.digest)


def test_pinned_prefetches_go_before_others_and_after_disks() -> None:
    disks = chains(MAX_LAYERS - 3, "Disk")
    pinned = chains(5, "Prefetch", first=MAX_LAYERS, pinned=True)
    others = chains(5, "Prefetch", first=2 * MAX_LAYERS)
    selection = select_layers([*others, *pinned, *disks])
    assert [layer.retention for layer in selection.layers if layer.purpose == "Prefetch"] == ["Pinned"] * 3
    assert selection.omitted == {"Prefetch": 7}


def test_what_does_not_fit_is_counted_and_what_fits_is_not() -> None:
    assert select_layers(chains(MAX_LAYERS, "Disk")).omitted == {}
    many = [*chains(MAX_LAYERS + 3, "Disk"), *chains(4, "Prefetch", first=2 * MAX_LAYERS)]
    assert select_layers(many).omitted == {"Disk": 3, "Prefetch": 4}


def test_a_chain_is_listed_whole_or_not_at_all() -> None:
    long = DesiredChain(chain(*(f"long-{number}" for number in range(9))), "Disk")
    short = DesiredChain(chain("short"), "Disk")
    selection = select_layers([*chains(MAX_LAYERS - 4, "Disk"), long, short])
    digests = {layer.digest for layer in selection.layers}
    assert not digests & {layer.digest for layer in long.chain}
    assert short.chain[0].digest in digests, "a smaller one takes the place"
    assert selection.omitted == {"Disk": 9}


def test_a_listed_disk_keeps_its_place() -> None:
    """Otherwise a new deployment would take the layers of one that waits for its last one."""
    first = chains(MAX_LAYERS, "Disk", first=10)
    listed = {layer.digest: layer for layer in select_layers(first).layers}
    selection = select_layers([*chains(10, "Disk"), *first], listed=listed)
    assert {layer.digest for layer in selection.layers} == listed.keys()


def test_the_numbers_are_in_the_spec() -> None:
    desired = (*chains(MAX_LAYERS + 3, "Disk"), *chains(4, "Prefetch", first=2 * MAX_LAYERS))
    captures = tuple(order(f"c{number}") for number in range(MAX_CAPTURES + 2))
    (step,) = plan_node_cache(NodeView("node", True, True, True, desired, (), captures=captures)).steps
    assert isinstance(step, ApplyObject)
    assert step.manifest["spec"]["omitted"] == {"diskLayers": 3, "prefetchLayers": 4, "captures": 2}
    (step,) = plan_node_cache(NodeView("node", True, True, True, desired[:9], ())).steps
    assert isinstance(step, ApplyObject)
    assert "omitted" not in step.manifest["spec"]


def test_a_copy_that_exists_keeps_its_order() -> None:
    old = [order(f"z{number}") for number in range(3)]
    present = NodeCacheSpec(node_name="node", operator_protocol=2, protocol=2, captures=old)
    captures = (*(order(f"c{number}") for number in range(MAX_CAPTURES)), *old)
    (step,) = plan_node_cache(NodeView("node", True, True, True, (), (), captures=captures, present=present)).steps
    assert isinstance(step, ApplyObject)
    ids = [each["id"] for each in step.manifest["spec"]["captures"]]
    assert {"z0", "z1", "z2"} <= set(ids)
    assert len(ids) == MAX_CAPTURES


def test_overlays_that_do_not_fit_are_discarded_later_and_their_volumes_kept_until_then() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS + 7))
    view = NodeView("node", True, True, True, (), terminating)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert len(step.manifest["spec"]["discardVolumes"]) == MAX_LAYERS


def test_overlays_of_volumes_that_are_deleted_go_before_those_without_any() -> None:
    terminating = tuple((f"pv-{number:05}", f"handle-{number:05}") for number in range(MAX_LAYERS))
    view = NodeView("node", True, True, True, (), terminating, without_volume=frozenset({"a"}), spec_current=True)
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert "a" not in step.manifest["spec"]["discardVolumes"]


def chain(*names: str) -> tuple[Layer, ...]:
    """Layers above each other; equal names are the same layer."""
    digests = [Digest(f"sha256:{name.encode().hex().rjust(64, '0')}") for name in names]
    return tuple(Layer(d, 1, 512, parent) for d, parent in zip(digests, [None, *digests], strict=False))


def test_a_node_that_waits_for_its_turn_keeps_prefetched_layers_with_the_layers_below_them() -> None:
    disk, prefetched = DesiredChain(chain("base", "disk"), "Disk"), chain("base", "next")
    listed = select_layers([disk, DesiredChain(prefetched, "Prefetch", pinned=True)]).layers
    present = NodeCacheSpec(node_name="n", operator_protocol=2, protocol=2, layers=listed)
    assert [layer.purpose for layer in present.layers] == ["Disk", "Disk", "Prefetch"]
    kept = prefetched_layers(present)
    assert {layer.digest for layer in kept} == {layer.digest for layer in prefetched}
    assert {layer.purpose for layer in kept} == {"Prefetch"}
    assert select_layers([disk, DesiredChain(prefetched, "Prefetch", pinned=True)]) == select_layers([disk], kept)
    view = NodeView("node", True, True, True, (), (), present=present)
    (step,) = plan_node_cache(replace(view, keeps_prefetched=True)).steps
    assert isinstance(step, ApplyObject)
    assert len(step.manifest["spec"]["layers"]) == 2, "the disk is gone"
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    assert not step.manifest["spec"]["layers"]


LONG = "r" * 63


def long_chains(count: int, purpose: Purpose, first: int = 0) -> list[DesiredChain]:
    """Chains of two layers each, with the longest names and numbers."""
    size = 2**46
    found = []
    for number in range(first, first + 2 * count, 2):
        root, top = (Digest(f"sha256:{each:064x}") for each in (number, number + 1))
        layers = (Layer(root, size, size, Digest("sha256:" + "f" * 64), LONG), Layer(top, size, size, root, LONG))
        found.append(DesiredChain(layers, purpose, pinned=True))
    return found


@pytest.mark.parametrize(
    ("layers", "discards", "captures"),
    [
        (MAX_LAYERS, 5 * MAX_LAYERS, 2 * MAX_CAPTURES),
        (MAX_LAYERS, MAX_LAYERS, 0),
        (0, MAX_LAYERS, MAX_CAPTURES),
        (2 * MAX_LAYERS, 0, 0),
    ],
)
def test_the_largest_spec_fits(layers: int, discards: int, captures: int) -> None:
    desired = (*long_chains(layers // 4, "Disk"), *long_chains(layers // 4, "Prefetch", first=layers))
    terminating = tuple((f"pv-{number:05}", f"v{number:0252}") for number in range(discards))
    orders = tuple(order(f"c{n:062}", volume="v" * 253, repositoryName=LONG) for n in range(captures))
    (step,) = plan_node_cache(NodeView("n", True, True, True, desired, terminating, captures=orders)).steps
    assert isinstance(step, ApplyObject)
    spec = step.manifest["spec"]
    assert size_bytes(spec) <= MAX_SPEC_BYTES
    assert len(spec["captures"]) == min(captures, MAX_CAPTURES), "they run together"
    assert len(spec["discardVolumes"]) >= min(discards, 100), "discarding goes on"
    lost = spec.get("omitted", {"diskLayers": 0, "prefetchLayers": 0})
    assert len(spec["layers"]) + lost["diskLayers"] + lost["prefetchLayers"] == layers
    if lost["diskLayers"]:
        assert all(layer["purpose"] == "Disk" for layer in spec["layers"]), "prefetches go first"
    NodeCacheSpec.model_validate(spec)


def test_the_longest_layer_is_no_longer_than_assumed() -> None:
    longest = max(size_bytes(layer.to_api()) for layer in select_layers(long_chains(1, "Prefetch")).layers)
    assert longest < LONGEST_LAYER_BYTES


def of(namespace: str, desired: list[DesiredChain]) -> list[DesiredChain]:
    return [replace(each, namespace=namespace) for each in desired]


def listed_of(selection: Selection, desired: list[DesiredChain]) -> int:
    digests = {layer.digest for layer in selection.layers}
    return sum(each.chain[-1].digest in digests for each in desired)


@pytest.mark.parametrize("purpose", ["Disk", "Prefetch"])
@pytest.mark.parametrize("first_comes", ["a", "b"])
def test_no_namespace_pushes_out_the_layers_of_another(purpose: Purpose, first_comes: str) -> None:
    """Whoever asked first, and however small the digests of the others are."""
    few, many = of("a", chains(200, purpose, first=5000)), of("b", chains(2 * MAX_LAYERS, purpose))
    already = select_layers(many if first_comes == "b" else few).layers
    selection = select_layers([*many, *few], listed={layer.digest: layer for layer in already})
    assert listed_of(selection, few) == 200
    assert listed_of(selection, many) == MAX_LAYERS - 200
    assert selection.omitted == {purpose: MAX_LAYERS + 200}


def test_the_disks_of_one_namespace_go_before_the_prefetches_of_another() -> None:
    disks, prefetched = of("a", chains(1500, "Disk", first=9000)), of("b", chains(MAX_LAYERS, "Prefetch", pinned=True))
    selection = select_layers([*prefetched, *disks])
    assert listed_of(selection, disks) == 1500
    assert listed_of(selection, prefetched) == MAX_LAYERS - 1500


def test_namespaces_get_equal_shares_and_what_one_leaves_goes_to_the_others() -> None:
    desired = {
        name: of(name, chains(count, "Disk", first=10_000 * n)) for n, (name, count) in enumerate(SHARES.items())
    }
    selection = select_layers([chain for each in desired.values() for chain in each])
    assert {name: listed_of(selection, each) for name, each in desired.items()} == {"a": 100, "b": 950, "c": 950}


SHARES = {"a": 100, "b": 1500, "c": 3000}


def test_a_shared_layer_counts_for_one_namespace() -> None:
    base = chain("base")
    tops = [chain("base", f"top-{n}") for n in range(MAX_LAYERS)]
    desired = [DesiredChain(top, "Disk", namespace="ab"[n % 2]) for n, top in enumerate(tops)]
    selection = select_layers(desired)
    assert base[0].digest in {layer.digest for layer in selection.layers}
    counts = [listed_of(selection, desired[n::2]) for n in (0, 1)]
    assert abs(counts[0] - counts[1]) <= 2


TRUE, FALSE = chain("base", "top"), (replace(chain("base", "top")[1], parent=None),)


def declared(view: NodeView) -> WantedLayer:
    """How the next NodeCache declares the disputed layer."""
    (step,) = plan_node_cache(view).steps
    assert isinstance(step, ApplyObject)
    spec = NodeCacheSpec.model_validate(step.manifest["spec"])
    return next(layer for layer in spec.layers if layer.digest == TRUE[1].digest)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "other",
    [
        FALSE,
        (TRUE[0], replace(TRUE[1], size_bytes=2)),
        (TRUE[0], replace(TRUE[1], virtual_size_bytes=1024)),
        (TRUE[0], replace(TRUE[1], repository="empty")),
    ],
)
def test_the_file_decides_between_declarations(order: int, other: tuple[Layer, ...]) -> None:
    """A node that refuses a layer as one object declares it gets it as the other one does, and then keeps it."""
    desired = (DesiredChain(TRUE, "Disk", namespace="a"), DesiredChain(other, "Disk", namespace="b"))[::order]
    view = NodeView("node", True, True, True, desired, (), spec_current=True)
    first = declared(view)
    present = NodeCacheSpec(node_name="node", operator_protocol=2, protocol=2, layers=select_layers(desired).layers)
    assert not plan_node_cache(replace(view, present=present)).steps, "it stays while it is not refused"
    second = declared(replace(view, present=present, refused=frozenset({TRUE[1].digest})))
    right = {(TRUE[1].size_bytes, TRUE[1].virtual_size_bytes, TRUE[1].parent, TRUE[1].repository)}
    found = [(w.size_bytes, w.virtual_size_bytes, w.parent_digest, w.repository_name) for w in (first, second)]
    assert first != second
    assert right <= set(found)
