"""Objects that the API server accepts and that mean harm: depth, size, number and contradictions. Made from a seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kigi.domain.names import API_VERSION

MAX_BYTES = 1_300_000
"""Of one object: the API server accepts 1.5 MiB, with what it adds."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request to create an object. ``text`` is JSON, as Python cannot encode the deepest ones."""

    case: str
    plural: str
    text: str
    group: str = API_VERSION
    """API version; ``v1`` for the core group."""


def digest_of(text: str) -> str:
    """A digest that no layer has."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def hostile_objects(seed: int, victims: Mapping[str, str], *, max_bytes: int = MAX_BYTES) -> Iterator[Hostile]:
    """Objects without end, each with a name of its own. ``victims``: digest of each of the victim's images, by name.

    The same arguments give the same objects.
    """
    chance = random.Random(seed)
    cases = list(_CASES.items())
    number = 0
    while True:
        chance.shuffle(cases)
        for case, make in cases:
            number += 1
            yield make(_Maker(case, f"h{seed}-{number}", chance, victims, max_bytes))


@dataclass(frozen=True, slots=True)
class _Maker:
    case: str
    name: str
    chance: random.Random
    victims: Mapping[str, str]
    max_bytes: int

    def object(self, kind: str, plural: str, spec: Any, group: str = API_VERSION, **meta: Any) -> Hostile:
        body = {"apiVersion": group, "kind": kind, "metadata": {"name": self.name, **meta}, "spec": spec}
        return Hostile(self.case, plural, json.dumps(body, separators=(",", ":")), group)

    def state(self, machines: list[dict[str, Any]], **meta: Any) -> Hostile:
        return self.object("SystemNode", "systemnodes", {"machines": machines}, **meta)

    def image(self, digest: str, *, parent: str = "", size: int = 1000, virtual: int = GIB) -> Hostile:
        spec: dict[str, Any] = {"layer": {"digest": digest, "sizeBytes": size, "virtualSizeBytes": virtual}}
        if parent:
            spec["parentRef"] = {"name": parent}
        return self.object("VMImageNode", "vmimagenodes", spec)

    def with_domain(self, text: str) -> Hostile:
        """A state whose patch has this JSON in its free part."""
        body = self.state([machine("m", patch={"merge": {"spec": {"domain": "HERE"}}})])
        return Hostile(self.case, body.plural, body.text.replace('"HERE"', text))


def machine(name: str, image: str = "x", **fields: Any) -> dict[str, Any]:
    """An item of a state's machines."""
    return {"name": name, "rootDisk": {"imageRef": {"name": image}}, **fields}


def _deep(made: _Maker) -> Hostile:
    depth = made.chance.choice([17, 90, 101, 900, 5000, 9900])
    return made.with_domain('{"a":' * depth + "1" + "}" * depth)


def _deep_lists(made: _Maker) -> Hostile:
    depth = made.chance.choice([20, 400, 9000])
    return made.with_domain('{"a":' + "[" * depth + "]" * depth + "}")


def _many_values(made: _Maker) -> Hostile:
    value = made.chance.choice(["{}", "[]", "0", '""', "null", "true"])
    count = made.chance.randrange(made.max_bytes // 20, made.max_bytes) // (len(value) + 1)
    return made.with_domain('{"a":[' + ",".join([value] * count) + "]}")


def _many_keys(made: _Maker) -> Hostile:
    count = made.chance.randrange(1000, made.max_bytes // 20)
    return made.with_domain("{" + ",".join(f'"k{n}":{{}}' for n in range(count)) + "}")


def _long_text(made: _Maker) -> Hostile:
    return made.with_domain('{"a":"' + "x" * made.chance.randrange(made.max_bytes // 10, made.max_bytes) + '"}')


def _large_valid_state(made: _Maker) -> Hostile:
    patch = {"merge": {"metadata": {"annotations": {f"a{n}": "y" * 200 for n in range(20)}}}}
    count = max(1, min(128, made.max_bytes // 6000))
    return made.state([machine(f"m{n}", patch=patch) for n in range(count)])


def _many_finalizers(made: _Maker) -> Hostile:
    count = min(made.max_bytes // 30, 20_000)
    return made.state([machine("m")], finalizers=[f"example.org/f{n}" for n in range(count)])


def _long_labels(made: _Maker) -> Hostile:
    return made.state([machine("m")], labels={f"l{n}": "v" * 60 for n in range(min(made.max_bytes // 90, 5000))})


def _contradiction(made: _Maker) -> Hostile:
    name, digest = made.chance.choice(sorted(made.victims.items()))
    size, virtual = made.chance.choice([(1, GIB), (1000, 2 * GIB), (1000, GIB)])
    return made.image(digest, parent=made.chance.choice(["", name, "x"]), size=size, virtual=virtual)


def _cycle(made: _Maker) -> Hostile:
    return made.image(digest_of(made.name), parent=made.name)


def _chain(made: _Maker) -> Hostile:
    """A parent that is likely to exist: long chains of them grow."""
    number = int(made.name.rpartition("-")[2])
    return made.image(digest_of(made.name), parent=f"{made.name.rpartition('-')[0]}-{max(1, number - len(_CASES))}")


def _missing_state(made: _Maker) -> Hostile:
    spec = {"systemRef": {"name": "does-not-exist"}, "replicas": made.chance.choice([1, 100, 1000])}
    return made.object("SystemDeployment", "systemdeployments", spec)


def _foreign_reference(made: _Maker) -> Hostile:
    image = {"namespace": "victim", "name": made.chance.choice(sorted(made.victims))}
    return made.state([{"name": "m", "rootDisk": {"imageRef": image}}])


def _prefetch(made: _Maker) -> Hostile:
    targets = [{"kind": "VMImageNode", "name": f"x{n}"} for n in range(made.chance.choice([1, 16]))]
    return made.object("SystemPrefetch", "systemprefetches", {"targetRefs": targets})


def _grant(made: _Maker) -> Hostile:
    to = [{"kind": "VMImageNode", "name": f"x{n}", "descendants": True} for n in range(made.chance.choice([1, 16]))]
    return made.object("TreeGrant", "treegrants", {"from": {"namespaceSelector": {}}, "to": to})


def _claim_with_our_labels(made: _Maker) -> Hostile:
    labels = {
        "kigi.dev/deployment": made.chance.choice(["office", "", "x"]),
        "kigi.dev/instance": made.chance.choice(["1", "-", "999"]),
        "kigi.dev/revision": made.chance.choice(["1", "x", "99999999999999"]),
    }
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1"}}, "volumeName": "none"}
    labels = {key: value.strip("-") for key, value in labels.items()}
    annotations = {"example.org/large": "x" * made.chance.choice([0, 0, min(200_000, made.max_bytes // 2)])}
    return made.object(
        "PersistentVolumeClaim", "persistentvolumeclaims", spec, "v1", labels=labels, annotations=annotations
    )


_CASES: dict[str, Callable[[_Maker], Hostile]] = {
    make.__name__.strip("_"): make
    for make in (
        _deep,
        _deep_lists,
        _many_values,
        _many_keys,
        _long_text,
        _large_valid_state,
        _many_finalizers,
        _long_labels,
        _contradiction,
        _cycle,
        _chain,
        _missing_state,
        _foreign_reference,
        _prefetch,
        _grant,
        _claim_with_our_labels,
    )
}
