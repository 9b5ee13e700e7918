"""The trees that verbs draw from plain JSON are those that the operator makes of the same objects."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.cli.api_trees import ApiTrees
from kigi.cli.verbs.tree import trees_of
from kigi.errors import KigiError, SpecInvalid
from tests.support.deployments import deployment, digest, image, machine, system, trees
from tests.support.mirrors import new_mirror


def stored(body: dict[str, Any]) -> dict[str, Any]:
    name = body["metadata"]["name"]
    meta = {"name": name, "namespace": "ns", "uid": f"{body['kind']}-{name}", "resourceVersion": "1", "generation": 1}
    return {**body, "metadata": meta}


ODD = [
    image("orphan", "nobody"),
    image("egg", "hen"),
    image("hen", "egg"),
    system(
        "disks",
        "infected",
        [
            {"name": "m0", "disks": [{"name": "data", "imageRef": {"name": "base"}, "bus": "sata", "bootOrder": 2}]},
            {"name": "m1", "removed": True},
            {"name": "m2", "unset": ["memory"], "hardware": {"cpu": {"cores": 4}}},
        ],
    ),
    system("lost", "nowhere", []),
    system("bad", None, [machine("m0", "orphan")]),
]


def test_both_trees_are_the_operators() -> None:
    objects = [stored(body) for body in (*trees(), *ODD)]
    api_trees, mirror = ApiTrees(), new_mirror()
    for body in objects:
        api_trees.put(body)
        mirror.put(body["kind"], body)
    ours, theirs = api_trees.trees("ns"), mirror.trees("ns")
    for body in objects:
        name = body["metadata"]["name"]
        pair = (ours.chain(name), theirs.chain(name)) if body["kind"] == "VMImageNode" else (None, None)
        if body["kind"] == "SystemNode":
            pair = (ours.system(name), theirs.system(name))
        if isinstance(pair[0], KigiError):
            assert (type(pair[0]), str(pair[0])) == (type(pair[1]), str(pair[1]))
        else:
            assert pair[0] == pair[1], name


def test_who_runs_and_who_holds() -> None:
    api_trees = ApiTrees()
    machines = [{"name": "m1", "systemRef": {"name": "cleaned"}}]
    instance = {
        "kind": "SystemInstance",
        "metadata": {"name": "class-1"},
        "spec": {"deploymentRef": {"name": "class"}, "systemRef": {"name": "restored"}, "machines": machines},
    }
    layers = [{"digest": digest(name), "state": "Held"} for name in ("base", "role-0")]
    cache = {"kind": "NodeCache", "metadata": {"name": "n1"}, "status": {"layers": layers}}
    prefetch = {
        "kind": "SystemPrefetch",
        "metadata": {"name": "monday"},
        "spec": {"targetRefs": [{"kind": "SystemNode", "name": "cleaned"}]},
    }
    for body in (*trees(1), deployment(), instance, prefetch):
        api_trees.put(stored(body))
    api_trees.put(cache)
    (space,) = trees_of(api_trees)
    states = {state["name"]: (state["deployments"], state["prefetches"]) for state in space["systems"]}
    assert states == {
        "infected": (["class"], []),
        "cleaned": (["class-1"], ["monday"]),
        "restored": (["class-1"], []),
    }
    assert {i["name"]: i["cachedOn"] for i in space["images"] if i["cachedOn"]} == {"base": ["n1"], "role-0": ["n1"]}


@pytest.mark.parametrize("spec", [{}, {"layer": {}}, {"layer": {"digest": "x", "sizeBytes": "many"}}])
def test_a_damaged_image_is_a_problem_of_itself(spec: dict[str, Any]) -> None:
    api_trees = ApiTrees()
    api_trees.put(stored({"kind": "VMImageNode", "metadata": {"name": "odd"}, "spec": spec}))
    assert isinstance(api_trees.images["ns"]["odd"], SpecInvalid)
    assert "problem" in trees_of(api_trees)[0]["images"][0]
