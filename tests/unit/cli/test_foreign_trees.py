"""Trees that lead into other namespaces: verbs follow them as far as the caller may read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.resources import IMAGE, SYSTEM, Resource
from kigi.adapters.kubernetes.session import KubeSession
from kigi.cli.api_trees import ApiTrees, read_api_trees
from kigi.cli.verbs.export import names_in_file, without_namespaces
from kigi.cli.verbs.tree import trees_of
from kigi.domain.archive import Selection, select
from kigi.domain.systems import ResolvedSystem
from kigi.errors import Forbidden, KigiError, SpecInvalid
from tests.support.deployments import image, machine, system


class Cluster:
    """Answers listings; ``readable`` are the namespaces that the caller may read."""

    def __init__(self, readable: set[str]) -> None:
        self.readable = readable
        self.asked: list[tuple[str, str | None]] = []
        self.bodies = [
            stored("library", image("base")),
            stored("library", image("mail", "base")),
            stored("library", system("office", None, [machine("mail", "mail")])),
            stored("deeper", image("root")),
            stored("tenant", image("own", "library/mail")),
            stored("tenant", system("ours", "library/office", [machine("web", "own"), machine("old", "deeper/root")])),
            stored("unrelated", image("alone")),
        ]

    def list_all(self, resource: Resource, namespace: str | None) -> Iterator[dict[str, Any]]:
        self.asked.append((resource.kind, namespace))
        if namespace not in self.readable:
            raise Forbidden("no")
        return (b for b in self.bodies if b["kind"] == resource.kind and b["metadata"]["namespace"] == namespace)


def stored(namespace: str, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "metadata": {**body["metadata"], "namespace": namespace}}


def read(readable: set[str], **more: Any) -> tuple[ApiTrees, Cluster]:
    cluster = Cluster(readable)
    return read_api_trees(cast("KubeSession", cluster), (IMAGE, SYSTEM), "tenant", **more), cluster


def test_what_the_trees_lead_to_is_read_and_nothing_else() -> None:
    api_trees, cluster = read({"tenant", "library", "deeper"})
    assert {namespace for _, namespace in cluster.asked} == {"tenant", "library", "deeper"}
    state = api_trees.trees("tenant").system("ours")
    assert isinstance(state, ResolvedSystem)
    assert [(m.name, m.image, len(m.chain)) for m in state.machines] == [
        ("mail", "library/mail", 2),
        ("old", "deeper/root", 1),
        ("web", "own", 3),
    ]
    assert [space["namespace"] for space in trees_of(api_trees)] == ["tenant"]


def test_a_namespace_that_may_not_be_read_leaves_a_problem_at_what_needs_it() -> None:
    api_trees, _ = read({"tenant", "deeper"})
    (space,) = trees_of(api_trees)
    assert all("problem" in node for node in (*space["images"], *space["systems"]))
    with pytest.raises(Forbidden, match="in namespace library"):
        read({"tenant", "deeper"}, strict=True)


def test_all_nodes_have_names_of_the_callers_namespace() -> None:
    api_trees, _ = read({"tenant", "library", "deeper"})
    images, systems = api_trees.seen_from("tenant")
    assert set(images) == {"own", "library/base", "library/mail", "deeper/root"}
    assert (images["own"].parent, images["library/mail"].parent) == ("library/mail", "library/base")
    chosen = select(images, systems, state="ours", image=None, children=False)
    assert set(chosen.images) == {"own", "library/base", "library/mail", "deeper/root"}
    assert chosen.systems == ("library/office", "ours")
    assert names_in_file(chosen)("library/base") == "base"


def test_two_nodes_with_one_name_are_not_exported_into_one_file() -> None:
    with pytest.raises(SpecInvalid, match="a/x and b/x would have one name"):
        names_in_file(Selection(("a/x", "b/x"), ()))
    names_in_file(Selection(("a/x",), ("b/x",)))


def test_an_exported_spec_has_no_namespace_in_its_references_and_the_same_patch() -> None:
    foreign = {"namespace": "library", "name": "mail"}
    spec = {
        "parentRef": foreign,
        "networks": [{"name": "lan", "multusRef": {"name": "lan"}}],
        "machines": [
            {
                "name": "m",
                "rootDisk": {"imageRef": foreign},
                "disks": [{"name": "d", "imageRef": foreign}],
                "patch": {"merge": {"metadata": {"labels": {"namespace": "x"}}}},
            }
        ],
    }
    own = {"name": "mail"}
    assert without_namespaces(spec) == {
        **spec,
        "parentRef": own,
        "machines": [
            {**spec["machines"][0], "rootDisk": {"imageRef": own}, "disks": [{"name": "d", "imageRef": own}]}  # type: ignore[dict-item]
        ],
    }


def test_an_archive_that_refers_to_another_namespace_is_refused() -> None:
    from kigi.domain.archive import declared_layers
    from kigi.domain.declared import image_of

    spec = image("own", "library/mail")["spec"]
    with pytest.raises(KigiError, match=r"library/mail.* does not exist"):
        declared_layers({"own": image_of("own", spec, "")}, {}, 64)
