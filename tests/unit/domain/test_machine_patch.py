"""Patches of a VM: bounds of the merge, paths that are removed, and patches of hostile users."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kigi.domain.machine_patch import (
    MAX_BYTES,
    MAX_DEPTH,
    PATCHABLE,
    REMOVABLE,
    apply_patch,
    join_patches,
    patch_problem,
    path_of,
)
from kigi.domain.machine_settings import settings_of
from kigi.errors import SpecInvalid


def nested(depth: int, innermost: Any = 1) -> dict[str, Any]:
    """A merge with that many levels of maps and lists."""
    value = innermost
    for level in range(depth - 2):
        value = {"a": value} if level % 3 else [value]
    return {"spec": {"domain": value}}


def test_a_merge_of_every_allowed_field_is_valid() -> None:
    merge = {"metadata": {"labels": {"a": "b"}}, "spec": {key: {"x": [1, "y", True, 0.5]} for key in PATCHABLE}}
    assert patch_problem(merge) is None
    assert patch_problem({}) is None


def test_the_deepest_merge_is_valid_and_the_next_is_not() -> None:
    assert patch_problem(nested(MAX_DEPTH)) is None
    assert "more than 16 levels deep" in str(patch_problem(nested(MAX_DEPTH + 1)))


@pytest.mark.parametrize("depth", [900, 5000, 10_000, 200_000])
def test_a_merge_of_any_depth_is_refused_without_recursion(depth: int) -> None:
    assert "more than 16 levels deep" in str(patch_problem(nested(depth)))


def test_the_largest_merge_is_valid_and_the_next_is_not() -> None:
    def of(size_bytes: int) -> dict[str, Any]:
        return {"spec": {"hostname": "x" * (size_bytes - len('{"spec":{"hostname":""}}'))}}

    assert patch_problem(of(MAX_BYTES)) is None
    assert f"{MAX_BYTES + 1} bytes of JSON, and at most {MAX_BYTES}" in str(patch_problem(of(MAX_BYTES + 1)))


@pytest.mark.parametrize(
    "merge",
    [
        {"spec": None},
        {"spec": {"domain": None}},
        {"spec": {"volumes": [None]}},
        {"metadata": {"labels": {"a": None}}},
        nested(MAX_DEPTH, None),
    ],
)
def test_null_is_refused_with_the_remedy(merge: dict[str, Any]) -> None:
    assert "contains null; name the path in patch.remove" in str(patch_problem(merge))


@pytest.mark.parametrize(
    ("merge", "field"),
    [
        ({"spec": {"nodeSelector": {"a": "b"}}}, "spec.nodeSelector"),
        ({"spec": {"affinity": {}}}, "spec.affinity"),
        ({"spec": {"tolerations": []}}, "spec.tolerations"),
        ({"spec": {"schedulerName": "x"}}, "spec.schedulerName"),
        ({"spec": {"networks": []}}, "spec.networks"),
        ({"spec": {"domain": {}, "architecture": "arm64"}}, "spec.architecture"),
        ({"status": {}}, "status"),
    ],
)
def test_fields_of_placement_and_networks_are_refused_even_if_the_server_stored_them(
    merge: dict[str, Any], field: str
) -> None:
    assert f"it has the field {field}; only metadata, and domain" in str(patch_problem(merge))


def test_an_error_names_the_state_and_the_machine() -> None:
    with pytest.raises(SpecInvalid, match=r"SystemNode s: spec.machines\[m\].patch.merge: it is more than 16 levels"):
        settings_of({"name": "m", "patch": {"merge": nested(17)}}, "SystemNode s: spec.machines[m]")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("spec.domain.cpu", ("spec", "domain", "cpu")),
        ("metadata.labels.example.org/a.b", ("metadata", "labels", "example.org/a.b")),
        ("metadata.annotations.note", ("metadata", "annotations", "note")),
        ("spec.hostname", ("spec", "hostname")),
    ],
)
def test_paths(text: str, path: tuple[str, ...]) -> None:
    assert re.match(REMOVABLE, text)
    assert path_of(text) == path


@pytest.mark.parametrize(
    "text", ["spec", "spec.", "spec.networks", "spec.domainx", "status", "metadata.name", "spec..x"]
)
def test_other_paths_are_refused(text: str) -> None:
    assert re.match(REMOVABLE, text) is None


def test_a_removal_takes_effect_before_the_merge() -> None:
    made = {"spec": {"domain": {"cpu": {"cores": 1, "model": "x"}}, "hostname": "m"}}
    patch = {"remove": ["spec.domain.cpu"], "merge": {"spec": {"domain": {"cpu": {"cores": 4}}}}}
    assert apply_patch(made, patch) == {"spec": {"domain": {"cpu": {"cores": 4}}, "hostname": "m"}}
    assert made["spec"]["domain"]["cpu"] == {"cores": 1, "model": "x"}  # type: ignore[index]


@pytest.mark.parametrize("path", ["spec.domain.cpu.cores.x", "spec.volumes.name", "spec.dnsConfig.x"])
def test_a_path_through_a_text_a_list_or_nothing_changes_nothing(path: str) -> None:
    made = {"spec": {"domain": {"cpu": {"cores": 1}}, "volumes": [{"name": "a"}]}}
    assert apply_patch(made, {"remove": [path]}) == made


def test_a_child_removes_what_its_parent_merges() -> None:
    parent = {"merge": {"spec": {"hostname": "x", "domain": {"devices": {"rng": {}, "tpm": {}}}}}}
    joined = join_patches(parent, {"remove": ["spec.domain.devices.rng", "spec.hostname"]})
    assert joined["merge"] == {"spec": {"domain": {"devices": {"tpm": {}}}}}
    assert joined["remove"] == ["spec.domain.devices.rng", "spec.hostname"]
