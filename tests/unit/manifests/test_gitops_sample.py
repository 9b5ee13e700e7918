"""The sample repository for GitOps: its folders, Flux's Kustomizations and Argo CD's waves have one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SAMPLE = Path(__file__).parents[3] / "manifests/gitops/sample"
FOLDERS = sorted(path.parent.name for path in SAMPLE.glob("[0-9]-*/kustomization.yaml"))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((SAMPLE / name).read_text()))


def test_flux_has_a_kustomization_for_each_folder_after_the_one_before() -> None:
    found = documents("flux/kustomizations.yaml")
    assert [each["spec"]["path"] for each in found] == [f"./{folder}" for folder in FOLDERS]
    names = [each["metadata"]["name"] for each in found]
    needs = [[one["name"] for one in each["spec"].get("dependsOn", ())] for each in found]
    assert needs == [[], *([name] for name in names[:-1])]
    assert all(each["spec"].get("wait") or each["spec"].get("healthChecks") for each in found)
    assert {each["spec"]["sourceRef"]["name"] for each in found} == {
        documents("flux/source.yaml")[0]["metadata"]["name"]
    }


def test_flux_checks_objects_that_the_sample_has() -> None:
    (checked,) = documents("flux/kustomizations.yaml")[-1]["spec"]["healthChecks"]
    folder = SAMPLE / FOLDERS[-1]
    (deployment,) = yaml.safe_load_all((folder / "deployment.yaml").read_text())
    namespace = yaml.safe_load((folder / "kustomization.yaml").read_text())["namespace"]
    assert (checked["kind"], checked["apiVersion"]) == (deployment["kind"], deployment["apiVersion"])
    assert (checked["name"], checked["namespace"]) == (deployment["metadata"]["name"], namespace)


def test_argo_cds_waves_have_the_order_of_the_folders() -> None:
    (whole,) = documents("kustomization.yaml")
    assert whole["resources"] == FOLDERS
    found = [documents(f"{folder}/kustomization.yaml")[0].get("commonAnnotations", {}) for folder in FOLDERS]
    waves = [int(each.get("argocd.argoproj.io/sync-wave", "0")) for each in found]
    assert waves == list(range(len(FOLDERS)))


def test_the_sample_has_no_secrets() -> None:
    for path in SAMPLE.rglob("*.yaml"):
        assert not any(each["kind"] == "Secret" for each in yaml.safe_load_all(path.read_text())), path
