"""What tree and diff compute and draw."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console, RenderableType

from kigi.cli.api_trees import ApiTrees
from kigi.cli.choice import Chosen
from kigi.cli.verbs import diff, status, tree
from kigi.domain.systems import ResolvedSystem
from kigi.errors import KigiError
from tests.support.deployments import MIB, image, system, trees


def drawn(what: RenderableType) -> str:
    console = Console(width=200)
    with console.capture() as text:
        console.print(what)
    return text.get()


def stored(*objects: dict[str, Any]) -> ApiTrees:
    api_trees = ApiTrees()
    for body in objects:
        api_trees.put({**body, "metadata": {**body["metadata"], "namespace": "ns"}})
    return api_trees


@pytest.mark.parametrize(
    ("parents", "order"),
    [
        ({}, []),
        ({"b": None, "a": None}, ["a", "b"]),
        ({"a": "z", "z": None, "m": "z", "k": "a"}, ["z", "a", "k", "m"]),
        ({"a": "absent", "b": "a"}, ["a", "b"]),
        ({"hen": "egg", "egg": "hen", "a": None}, ["a", "egg", "hen"]),
    ],
)
def test_nodes_come_after_their_parents_and_cycles_last(parents: dict[str, str | None], order: list[str]) -> None:
    assert tree._parents_first(parents) == order


def test_a_tree_shows_sizes_users_and_problems() -> None:
    data = tree.trees_of(stored(*trees(1), image("orphan", "nobody"), system("lost", "nowhere", [])))
    text = drawn(tree._render(data))
    for words in ("images in ns", "states in ns", "1.0 MiB, chain", "1 machines, ", "nobody", "nowhere"):
        assert words in text
    assert drawn(tree._render([])) == "no images and no states\n"


def resolved(api_trees: ApiTrees, name: str) -> ResolvedSystem:
    found = api_trees.trees("ns").system(name)
    assert not isinstance(found, KigiError)
    return found


def machine(name: str, of: str, cores: int = 1) -> dict[str, Any]:
    hardware = {"cpu": {"cores": cores}, "memory": {"guest": "1Gi"}}
    return {"name": name, "rootDisk": {"imageRef": {"name": of}}, "hardware": hardware}


@pytest.fixture
def states() -> ApiTrees:
    before = [machine(name, "base") for name in ("same", "image", "hardware", "removed")]
    after = [
        machine("same", "base"),
        machine("image", "child"),
        machine("hardware", "base", cores=2),
        machine("added", "child"),
    ]
    return stored(image("base"), image("child", "base"), system("a", None, before), system("b", None, after))


def test_a_difference_names_each_change_and_counts_shared_layers_once(states: ApiTrees) -> None:
    data = diff.difference(resolved(states, "a"), resolved(states, "b"))
    assert {found["name"]: (found["change"], found["bytes"]) for found in data["machines"]} == {
        "added": ("added", 2 * MIB),
        "image": ("image", MIB),
        "removed": ("removed", 0),
        "hardware": ("hardware", 0),
    }
    assert (data["movedBytes"], data["backBytes"]) == (MIB, 0)
    text = drawn(diff._render(data))
    assert "4 machines; a node that holds a lacks 1.0 MiB" in text


def test_equal_states_have_no_difference(states: ApiTrees) -> None:
    data = diff.difference(resolved(states, "a"), resolved(states, "a"))
    assert data["machines"] == []
    assert drawn(diff._render(data)) == "a and a are the same\n"


BODY: dict[str, Any] = {
    "metadata": {"name": "office", "namespace": "ns"},
    "spec": {"systemRef": {"name": "a"}, "replicas": 2},
    "status": {
        "readyReplicas": 1,
        "progress": {"percent": 40},
        "plan": {"movedBytes": MIB, "missingBytes": 2 * MIB, "totalBytes": 4 * MIB},
        "conditions": [{"type": "Ready", "status": "False", "reason": "NoNode", "message": "0 of 2"}],
    },
}
INSTANCE: dict[str, Any] = {
    "metadata": {"name": "office-1", "namespace": "ns"},
    "spec": {"deploymentRef": {"name": "office"}, "name": "1"},
    "status": {
        "systemName": "a",
        "machines": [{"name": "web", "state": "Running", "nodeName": "n1", "revision": 3}],
        "history": [
            {"decisionTime": f"2026-01-0{day}", "action": "Reset", "toSystemName": "a", "requestedBy": "kigi-cli"}
            for day in range(1, 9)
        ],
    },
}


CHOSEN = Chosen("ns", "office", None, (INSTANCE,), ("1",), (), is_everything=True)


def test_the_status_of_one_deployment_shows_conditions_machines_and_the_last_changes() -> None:
    text = drawn(status._render_one({**status._summary(BODY), **status._details(CHOSEN)}))
    for words in ("1/2 instances ready", "1.0 MiB of 2.0 MiB moved, instead of 4.0 MiB", "NoNode", "by kigi-cli"):
        assert words in text
    assert "INSTANCE  MACHINE  STATE" in text
    assert [line.split() for line in text.splitlines() if " web " in line] == [["1", "web", "Running", "a", "3", "n1"]]
    assert ("2026-01-03" in text, "2026-01-04" in text) == (False, True)


def test_the_status_of_all_deployments_has_a_line_for_each() -> None:
    fresh = {"metadata": {"name": "new", "namespace": "ns"}, "spec": {"systemRef": {"name": "a"}}}
    text = drawn(status._render_all([status._summary(BODY), status._summary(fresh)]))
    assert [line.split()[:6] for line in text.splitlines()[1:]] == [
        ["ns", "office", "a", "no", "1/2", "40%"],
        ["ns", "new", "a", "no", "0/1", "NotSeenYet"],
    ]
    assert drawn(status._render_all([])) == "no deployments\n"
