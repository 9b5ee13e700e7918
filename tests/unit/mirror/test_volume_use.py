"""What volumes use, as they come, change and go: always what a count of all would give."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.layers import Digest, Layer
from kigi.domain.observed import VolumeRecord
from kigi.mirror.parse import parse
from kigi.mirror.volume_use import VolumeUse
from kigi.planning.quotas import NewDisks
from tests.support.bodies import target, volume_body

LAYERS = [Layer(Digest("sha256:" + text * 64), size, 512) for text, size in (("a", 100), ("b", 10), ("c", 1))]
CHAINS = [(LAYERS[0],), (LAYERS[0], LAYERS[1]), (LAYERS[0], LAYERS[2])]
PROTOTYPE = parse("PersistentVolume", volume_body(target()))
assert isinstance(PROTOTYPE, VolumeRecord)

volumes = st.builds(
    lambda namespace, deployment, instance, machine, node, chain, deleting: replace(
        PROTOTYPE,  # type: ignore[arg-type]
        deployment=(namespace, deployment),
        instance=instance,
        machine=machine,
        node=node,
        chain=chain,
        meta=replace(PROTOTYPE.meta, deleting=deleting),
    ),
    st.sampled_from(["red", "blue"]),
    st.sampled_from(["office", "lab"]),
    st.sampled_from(["1", "2"]),
    st.sampled_from(["mail", "web"]),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(CHAINS),
    st.booleans(),
)


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | volumes), max_size=30))
def test_the_amounts_are_those_of_a_full_count(history: list[tuple[int, VolumeRecord | None]]) -> None:
    use, present = VolumeUse(), dict[int, VolumeRecord]()
    for number, new in history:
        use.replace(present.pop(number, None), new)
        if new is not None:
            present[number] = new
    for namespace in ("red", "blue"):
        own = [v for v in present.values() if v.deployment[0] == namespace and not v.meta.deleting]
        layers = {(v.node, layer.digest): layer.size_bytes for v in own for layer in v.chain}
        slots = {(v.deployment[1], *v.slot) for v in own}
        used = use.used(namespace)
        assert used.wanted_bytes == sum(layers.values())
        assert (used.machines, used.instances) == (len(slots), len({slot[:2] for slot in slots}))
        assert {(node, digest) for node, found in use.layers(namespace).items() for digest in found} == layers.keys()
        sizes: Counter[str] = Counter()
        for volume in own:
            sizes[volume.node] += volume.chain[-1].virtual_size_bytes
        assert use.virtual_bytes(namespace) == sizes
        assert set(use.slots(namespace)) == slots
        assert set(use.instances(namespace)) == {slot[:2] for slot in slots}
    assert set(use.namespaces()) == {v.deployment[0] for v in present.values() if not v.meta.deleting}


@given(st.lists(volumes, max_size=4), st.lists(volumes, max_size=4))
def test_a_reservation_counts_until_it_is_released_and_twice_counts_once(
    present: list[VolumeRecord], coming: list[VolumeRecord]
) -> None:
    use, expected = VolumeUse(), VolumeUse()
    for volume in present:
        use.replace(None, volume)
        expected.replace(None, volume)
    before = use.used("red")
    own = [replace(v, meta=replace(v.meta, deleting=False)) for v in coming if v.deployment[0] == "red"]
    disks = NewDisks(
        {node: [layer for v in own if v.node == node for layer in v.chain] for node in ("n1", "n2")},
        {(v.deployment[1], *v.slot) for v in own},
    )
    use.reserve(("red", "office", "1"), disks)
    for volume in own:
        expected.replace(None, volume)
    assert use.used("red") == expected.used("red")
    for volume in own:
        use.replace(None, volume)
    assert use.used("red") == expected.used("red"), "the volumes exist and are still reserved"
    use.release(("red", "office", "1"))
    use.release(("red", "office", "1"))
    assert use.used("red") == expected.used("red")
    for volume in own:
        use.replace(volume, None)
    assert use.used("red") == before
