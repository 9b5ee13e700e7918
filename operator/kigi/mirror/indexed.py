"""A store of the records of one kind, with indexes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from kigi.mirror.records import Record

R = TypeVar("R", bound=Record)
ObjectKey = tuple[str | None, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class Each(Generic[R]):
    """An index under every value that the function returns."""

    values: Callable[[R], Iterable[object]]


class Store(Generic[R]):
    """Records of one kind by namespace and name, and by the values of further indexes.

    ``Store(node=lambda record: record.node)`` has the index ``node``. An index that is an ``Each`` has a record once
    for each of its values.
    """

    def __init__(self, **indexes: Callable[[R], object] | Each[R]) -> None:
        self.objects: dict[ObjectKey, R] = {}
        self._functions = {
            name: index.values if isinstance(index, Each) else _only(index) for name, index in indexes.items()
        }
        self._indexes: dict[str, dict[object, dict[ObjectKey, R]]] = {name: defaultdict(dict) for name in indexes}

    def get(self, namespace: str | None, name: str) -> R | None:
        """The record of that name, or None."""
        return self.objects.get((namespace, name))

    def by(self, index: str, value: object) -> Iterable[R]:
        """Records with that value of the index. O(records found)."""
        return self._indexes[index].get(value, {}).values()

    def count(self, index: str, value: object) -> int:
        """Number of records with that value of the index. O(1)."""
        return len(self._indexes[index].get(value, ()))

    def values_of(self, index: str) -> Iterable[object]:
        """Values of the index that at least one record has."""
        return self._indexes[index].keys()

    def put(self, key: ObjectKey, record: R) -> None:
        """Stores the record in place of the one with that key."""
        self.remove(key)
        self.objects[key] = record
        for name, function in self._functions.items():
            for value in function(record):
                self._indexes[name][value][key] = record

    def remove(self, key: ObjectKey) -> None:
        """Removes the record of that key, if there is one."""
        record = self.objects.pop(key, None)
        if record is None:
            return
        for name, function in self._functions.items():
            for value in function(record):
                group = self._indexes[name][value]
                group.pop(key, None)
                if not group:
                    del self._indexes[name][value]

    def __len__(self) -> int:
        return len(self.objects)

    def __iter__(self) -> Iterator[R]:
        return iter(self.objects.values())


def _only(function: Callable[[R], object]) -> Callable[[R], Iterable[object]]:
    return lambda record: (function(record),)
