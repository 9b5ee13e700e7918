"""The chart follows the manifests, and says so where it cannot."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.chart.build import ROOT, Release, archive, chart_files, default_values
from tools.chart.source import load
from tools.chart.values import rows, values_schema

RELEASE = Release("1.2.3", {})


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    return chart_files(RELEASE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("manifests", "crds"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_file_of_the_installation_is_a_template(files: dict[str, str]) -> None:
    assert {f"templates/{source.name}.yaml" for source in load(ROOT / "manifests")} <= files.keys()
    assert sum(name.startswith("templates/crd-") for name in files) == len(list((ROOT / "crds").glob("*.yaml")))


def test_every_value_is_used(files: dict[str, str]) -> None:
    """By itself, or as part of the map above it."""
    templates = "".join(text for name, text in files.items() if name.startswith("templates/"))
    for path, _, _ in rows(default_values()):
        first, *others = path.split(".")
        prefixes = [".".join((first, *others[:count])) for count in range(1, len(others) + 1)]
        assert not prefixes or any(f".Values.{prefix}" in templates for prefix in prefixes), path


def test_the_models_and_the_defaults_have_the_same_values() -> None:
    shown = yaml.safe_load(chart_files(RELEASE)["values.yaml"])
    assert shown == default_values()


def test_release_images_replace_those_of_the_manifests() -> None:
    digest = "sha256:" + "0" * 64
    release = Release("1", {"operator": "r.example:5000/kigi-operator:1", "daemon": f"kigi-daemon:1@{digest}"})
    images = yaml.safe_load(chart_files(release)["values.yaml"])["images"]
    assert images["operator"] == {"repository": "r.example:5000/kigi-operator", "tag": "1", "digest": ""}
    assert images["daemon"] == {"repository": "kigi-daemon", "tag": "1", "digest": digest}
    assert images["hook"]["repository"] == ""


def test_a_changed_manifest_changes_the_default(copy: Path) -> None:
    replace(copy / "manifests/operator/deployment.yaml", "replicas: 2", "replicas: 3")
    replace(
        copy / "manifests/daemon/daemonset.yaml", 'KIGI_BUDGET_PERCENT, value: "70"', 'KIGI_BUDGET_PERCENT, value: "60"'
    )
    values = default_values(copy)
    assert values["operator"]["replicas"] == 3
    assert values["daemon"]["settings"]["KIGI_BUDGET_PERCENT"] == "60"


def test_a_container_without_values_is_refused(copy: Path) -> None:
    replace(copy / "manifests/operator/deployment.yaml", "- name: operator", "- name: another")
    with pytest.raises(ValueError, match="Deployment kigi-system/kigi-operator: add its container another"):
        chart_files(RELEASE, copy)


def test_a_namespace_that_cannot_be_replaced_is_refused(copy: Path) -> None:
    replace(copy / "manifests/daemon/csidriver.yaml", "fsGroupPolicy: None", "fsGroupPolicy: in-kigi-system")
    with pytest.raises(ValueError, match=r"CSIDriver disk.kigi.dev: .* namespace kigi-system"):
        chart_files(RELEASE, copy)


def test_a_kustomization_that_the_chart_cannot_follow_is_refused(copy: Path) -> None:
    with (copy / "manifests/kustomization.yaml").open("a") as file:
        file.write("namePrefix: x-\n")
    with pytest.raises(ValueError, match=r"kustomization.yaml: the chart cannot carry over namePrefix"):
        chart_files(RELEASE, copy)


def test_an_unknown_variable_of_a_pod_is_refused(copy: Path) -> None:
    replace(
        copy / "manifests/operator/deployment.yaml",
        "ports:\n            - {name: http, c",
        "  - {name: X, value: y}\n          ports:\n            - {name: http, c",
    )
    with pytest.raises(ValueError, match="X: no setting of operator"):
        chart_files(RELEASE, copy)


def test_the_archive_depends_on_nothing_but_its_input(files: dict[str, str]) -> None:
    backwards = dict(reversed(files.items()))
    assert archive(files, 1_700_000_000) == archive(backwards, 1_700_000_000)
    assert archive(files, 1_700_000_000) != archive(files, 1_700_000_001)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive(files, 1)))) as tar:
        names = tar.getnames()
        assert {member.mtime for member in tar} == {1}
    assert names[0] == "kigi/Chart.yaml"
    assert {name.removeprefix("kigi/") for name in names} == files.keys()


def test_the_schema_is_closed_at_every_level() -> None:
    def check(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node:
                assert node["additionalProperties"] is False, path
                assert "required" not in node, path
            for key, value in node.items():
                check(value, f"{path}.{key}")

    check(values_schema(), "")
    assert json.loads(chart_files(RELEASE)["values.schema.json"]) == values_schema()


def test_definitions_are_kept_by_an_uninstallation(files: dict[str, str]) -> None:
    definitions = [text for name, text in files.items() if name.startswith("templates/crd-")]
    assert definitions
    assert all("helm.sh/resource-policy: keep" in text for text in definitions)
