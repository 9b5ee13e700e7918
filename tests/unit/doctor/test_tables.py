"""The tables of ``kigi doctor`` agree with the manifests and the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kigi.doctor.definitions import MODELS, definition_name, missing_fields
from kigi.doctor.policies import POLICIES
from kigi.doctor.rights import ACCOUNT_RIGHTS, KIGI, Right
from tools.crdgen import KINDS, build_crd

RBAC = Path(__file__).parents[3] / "manifests/rbac"
DOCUMENTS: list[dict[str, Any]] = [
    document
    for path in sorted(RBAC.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if "metadata" in (document or {})
]
EVERY_STATUS = Right("report", "kigi.dev", "*/status")
"""A rule for all kinds; doctor asks for those that have a status."""


def granted(account: str) -> Iterator[Right]:
    """The rights that the manifests give to an account of Kigi's namespace."""
    roles = {
        (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace", "")): each for each in DOCUMENTS
    }
    for binding in DOCUMENTS:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        if account not in {each["name"] for each in binding["subjects"]}:
            continue
        namespace = binding["metadata"].get("namespace", "")
        role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"], namespace]
        place = KIGI if namespace == "kigi-system" else namespace
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        for name in rule.get("resourceNames", [""]):
                            yield Right(verb, group, resource, place, name)


@pytest.mark.parametrize("account", ACCOUNT_RIGHTS)
def test_the_accounts_rights_are_those_of_the_manifests(account: str) -> None:
    asked, given = set(ACCOUNT_RIGHTS[account]), set(granted(account))
    assert len(asked) == len(ACCOUNT_RIGHTS[account]), "none is asked for twice"
    reports = {right for right in asked if right.verb == "report" and right.group == "kigi.dev"}
    if EVERY_STATUS in given:
        assert len(reports) == 10
        asked, given = asked - reports, given - {EVERY_STATUS}
    assert asked == given


def test_the_policies_are_those_of_the_manifests() -> None:
    found = {each["metadata"]["name"] for each in DOCUMENTS if each["kind"] == "ValidatingAdmissionPolicy"}
    assert set(POLICIES) == found


def test_every_kind_has_its_definition() -> None:
    assert {definition_name(model) for model in MODELS} == {build_crd(kind)["metadata"]["name"] for kind in KINDS}


def schema(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = build_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", MODELS, ids=definition_name)
def test_the_definitions_of_this_version_lack_nothing(kind: Any) -> None:
    assert list(missing_fields(schema(kind), kind)) == []


def fields(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every field below spec and status: its path, the properties that have it, and its name."""
    for name, child in list((node.get("properties") or {}).items()):
        yield f"{path}.{name}".lstrip("."), node["properties"], name
        yield from fields(child, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")


@pytest.mark.parametrize("kind", MODELS, ids=definition_name)
def test_any_field_that_a_definition_lacks_is_found(kind: Any) -> None:
    whole = schema(kind)
    # The fields below a patch are KubeVirt's.
    paths = [path for path, _, _ in fields(whole) if path.startswith(("spec.", "status.")) and ".patch." not in path]
    for path in paths[:: max(1, len(paths) // 40)]:
        cut = json.loads(json.dumps(whole))
        properties, name = next((where, name) for found, where, name in fields(cut) if found == path)
        del properties[name]
        assert list(missing_fields(cut, kind)) == [path]
