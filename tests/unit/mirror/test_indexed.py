"""The store of one kind against plain lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kigi.domain.observed import Meta
from kigi.mirror.indexed import Store
from kigi.mirror.records import CsiNodeRecord

NAMES = st.sampled_from("abcd")
ORDERS = st.lists(st.tuples(st.booleans(), NAMES, st.booleans()), max_size=30)


def record(name: str, has_driver: bool) -> CsiNodeRecord:
    return CsiNodeRecord(Meta(None, name, name, 1), has_driver)


@given(ORDERS)
def test_indexes_agree_with_the_objects(orders: list[tuple[bool, str, bool]]) -> None:
    store: Store[CsiNodeRecord] = Store(driver=lambda r: r.has_driver)
    model: dict[str, CsiNodeRecord] = {}
    for put, name, has_driver in orders:
        if put:
            model[name] = record(name, has_driver)
            store.put((None, name), model[name])
        else:
            model.pop(name, None)
            store.remove((None, name))
    assert {r.meta.name: r for r in store} == model
    assert len(store) == len(model)
    for value in (True, False):
        assert {r.meta.name for r in store.by("driver", value)} == {
            n for n, r in model.items() if r.has_driver is value
        }
    assert set(store.values_of("driver")) == {r.has_driver for r in model.values()}
    assert store.get(None, "a") == model.get("a")
