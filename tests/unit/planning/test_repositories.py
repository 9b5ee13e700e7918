"""The repository of an object: the one that it names, or the default of its namespace, and no other tenant's."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.api.layer_repository import LayerRepositorySpec
from kigi.errors import KigiError, NeedsAction, NoDefaultRepository, RepositoryNotPermitted
from kigi.planning.repositories import resolve_repository

LAB, ALL = {"matchLabels": {"tenant": "lab"}}, dict[str, Any]()
LABELS = {"tenant": "lab"}


def spec(selector: dict[str, Any], default_for: str | None = None) -> LayerRepositorySpec:
    fields = {
        "s3": {"endpoint": "https://s3.example", "bucket": "kigi"},
        "credentials": {"readerSecretRef": {"name": "reader"}},
        "namespaceSelector": selector,
        **({"defaultFor": default_for} if default_for else {}),
    }
    return LayerRepositorySpec.model_validate(fields)


REPOSITORIES = {
    "lab": spec(LAB, "SelectedNamespaces"),
    "cold": spec(LAB),
    "shared": spec(ALL, "AllNamespaces"),
    "secret": spec({"matchLabels": {"tenant": "bank"}}, "SelectedNamespaces"),
}


def resolve(requested: str | None, labels: dict[str, str] | None = None, **changes: LayerRepositorySpec) -> str:
    labels = LABELS if labels is None else labels
    return resolve_repository({**REPOSITORIES, **changes}, "class-a", labels, requested, "VMImageNode x: repositoryRef")


def error(requested: str | None, labels: dict[str, str] | None = None, **changes: LayerRepositorySpec) -> KigiError:
    with pytest.raises(NeedsAction) as caught:
        resolve(requested, labels, **changes)
    return caught.value


@pytest.mark.parametrize("name", ["lab", "cold", "shared"])
def test_a_named_repository_that_selects_the_namespace_is_used(name: str) -> None:
    assert resolve(name) == name


def test_the_default_of_selected_namespaces_precedes_that_of_all() -> None:
    assert resolve(None) == "lab"
    assert resolve(None, {}) == "shared"
    assert resolve(None, {"tenant": "bank"}) == "secret"


@pytest.mark.parametrize("labels", [{}, LABELS])
def test_a_repository_of_others_and_one_that_does_not_exist_have_the_same_error(labels: dict[str, str]) -> None:
    """A tenant can neither read through it nor learn that it exists."""
    foreign, missing = error("secret", labels), error("absent", labels)
    assert isinstance(foreign, RepositoryNotPermitted)
    assert type(foreign) is type(missing)
    assert str(foreign).replace("secret", "absent") == str(missing)
    for other in ("lab", "cold", "shared", "bank"):
        assert other not in str(foreign)


def test_without_a_default_the_object_must_name_one() -> None:
    found = error(None, {}, shared=spec(ALL))
    assert isinstance(found, NoDefaultRepository)
    assert "VMImageNode x: repositoryRef is not set, and namespace class-a has no default LayerRepository" in str(found)


@pytest.mark.parametrize("kind", ["SelectedNamespaces", "AllNamespaces"])
def test_with_two_defaults_the_object_must_name_one_and_learns_no_name(kind: str) -> None:
    changes = {"red": spec(ALL, kind), "blue": spec(ALL, kind), "lab": spec(LAB)}
    found = error(None, **changes)
    assert isinstance(found, NoDefaultRepository)
    for name in changes:
        assert name not in str(found).replace("one of them", "")


def test_a_namespace_without_labels_is_selected_by_no_label() -> None:
    assert isinstance(error("lab", {}), RepositoryNotPermitted)
    assert isinstance(error("cold", {"tenant": "other"}), RepositoryNotPermitted)
