"""Every file of ``manifests/`` applied again and again, in each way and by several tools, changes nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.bounded import DOWNLOAD_S, run
from localcluster.controlplane import ControlPlane
from localcluster.definitions import wait_until_served
from tests.support.cluster import ensure_namespace, install_crds
from tests.support.gitops import GitOps

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
USER = ("--as=alice", "--as-group=system:masters", "--as-group=system:authenticated")
"""The examples name alice as the user who makes requests."""
FOREIGN_CRDS = {
    "github.com/fluxcd/kustomize-controller@v1.7.3": "config/crd/bases/*.yaml",
    "github.com/fluxcd/source-controller@v1.8.0": "config/crd/bases/*gitrepositories.yaml",
    "github.com/argoproj/argo-cd/v3@v3.2.6": "manifests/crds/application-crd.yaml",
}
"""Go modules that have the definitions of the kinds that the GitOps samples use."""

UNSERVED = {"monitoring"}
"""Folders with kinds of others that no server of the tests has."""

Object = dict[str, Any]


@cache
def objects_of(path: Path) -> tuple[Object, ...]:
    """Kubernetes objects of the file; none for rules of Prometheus, and for input of kustomize."""
    found = [each for each in yaml.safe_load_all(path.read_text()) if isinstance(each, dict)]
    kept = [each for each in found if {"apiVersion", "kind", "metadata"} <= each.keys()]
    return tuple(kept)


def folders() -> dict[str, list[Path]]:
    """Folder below the root -> its files with objects."""
    found: dict[str, list[Path]] = {}
    for path in sorted([*MANIFESTS.rglob("*.yaml"), *(ROOT / "crds").glob("*.yaml")]):
        if path.name != "kustomization.yaml" and path.parent.name not in UNSERVED and objects_of(path):
            found.setdefault(str(path.parent.relative_to(ROOT)), []).append(path)
    return found


def kustomizations() -> list[str]:
    """Folders that ``kubectl apply -k`` takes."""
    found = ["crds"]
    for path in sorted(MANIFESTS.rglob("kustomization.yaml")):
        if yaml.safe_load(path.read_text())["kind"] == "Kustomization":
            found.append(str(path.parent.relative_to(ROOT)))
    return found


FOLDERS = folders()
KUSTOMIZATIONS = kustomizations()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Its own server, because the whole installation with its policies is applied to it."""
    with ControlPlane(tmp_path_factory.mktemp("no-drift")) as server:
        install_crds(server)
        files = [path for module, pattern in FOREIGN_CRDS.items() for path in files_of(module, pattern)]
        server.kubectl("apply", "--server-side", *(f"--filename={path}" for path in files))
        wait_until_served(server.kubectl)
        for path in [each for paths in FOLDERS.values() for each in paths]:
            for document in objects_of(path):
                ensure_namespace(server, document["metadata"].get("namespace", "default"))
        yield server


def files_of(module: str, pattern: str) -> list[Path]:
    command = ["go", "mod", "download", "-json", module]
    found = json.loads(run(command, timeout_s=DOWNLOAD_S).stdout)
    paths = sorted(Path(found["Dir"]).glob(pattern))
    assert paths, f"{module} has no {pattern}"
    return paths


@pytest.fixture(scope="module")
def argo() -> Iterator[GitOps]:
    with GitOps.running() as checker:
        yield checker


def what(plane: ControlPlane, folder: str) -> list[str]:
    """Arguments of kubectl for the files of a folder. A sample that names no namespace gets one of its own."""
    files = [f"--filename={path}" for path in FOLDERS[folder]]
    named = [each["metadata"].get("namespace") for path in FOLDERS[folder] for each in objects_of(path)]
    if any(named) or "sample" not in folder:
        return files
    ensure_namespace(plane, "sample")
    return [*files, "--namespace=sample"]


def stored(plane: ControlPlane, where: Sequence[str]) -> list[Object]:
    found = json.loads(plane.kubectl("get", "--output=json", "--show-managed-fields", *where))
    return list(found["items"]) if found["kind"] == "List" else [found]


def versions(bodies: list[Object]) -> list[tuple[str, str, int, str]]:
    return [
        (b["kind"], b["metadata"]["name"], b["metadata"].get("generation", 0), b["metadata"]["resourceVersion"])
        for b in bodies
    ]


def contents(bodies: list[Object]) -> list[Object]:
    """The objects without what each tool notes about itself."""
    found = json.loads(json.dumps(bodies))
    for body in found:
        for key in ("managedFields", "resourceVersion"):
            body["metadata"].pop(key, None)
        annotations = body["metadata"].get("annotations", {})
        annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
        if not annotations:
            body["metadata"].pop("annotations", None)
    return list(found)


WAYS = {
    "client-side": (),
    "server-side": ("--server-side",),
    "server-side by another manager": ("--server-side", "--force-conflicts", "--field-manager=flux"),
}


def apply_again_and_again(plane: ControlPlane, where: Sequence[str]) -> None:
    """Each way twice: the second time changes no version, and no way changes what another one has stored."""
    plane.kubectl("apply", *USER, *where)
    first = contents(stored(plane, where))
    for way, flags in {**WAYS, "client-side again": ()}.items():
        plane.kubectl("apply", *USER, *flags, *where)
        once = stored(plane, where)
        assert contents(once) == first, way
        printed = plane.kubectl("apply", *USER, *flags, *where)
        assert versions(stored(plane, where)) == versions(once), way
        if way == "client-side again":  # kubectl sends stringData of a Secret again, as the server never returns it
            sent = [line for line in printed.splitlines() if not line.endswith("unchanged")]
            assert [line for line in sent if not line.startswith("secret/")] == [], way


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_applied_again_change_nothing(plane: ControlPlane, argo: GitOps, folder: str) -> None:
    where = what(plane, folder)
    apply_again_and_again(plane, where)
    live = {key(body): body for body in stored(plane, where)}
    for path in FOLDERS[folder]:
        for document in objects_of(path):
            assert not argo.is_out_of_sync(document, live[key(document)]), (path, document["metadata"]["name"])


@pytest.mark.parametrize("folder", KUSTOMIZATIONS)
def test_kustomizations_applied_again_change_nothing(plane: ControlPlane, argo: GitOps, folder: str) -> None:
    where = [f"--kustomize={ROOT / folder}"]
    apply_again_and_again(plane, where)
    live = {key(body): body for body in stored(plane, where)}
    for document in yaml.safe_load_all(plane.kubectl("kustomize", str(ROOT / folder))):
        assert not argo.is_out_of_sync(document, live[key(document)]), document["metadata"]["name"]


def key(body: Object) -> tuple[str, str, str]:
    """Kind, namespace if it is not one for files that name none, and name."""
    namespace = body["metadata"].get("namespace", "default")
    return body["kind"], "" if namespace in ("default", "sample") else namespace, body["metadata"]["name"]


def test_a_difference_is_found(plane: ControlPlane, argo: GitOps) -> None:
    """The law itself: a file that says less than before, and a changed value."""
    text = yaml.safe_load((MANIFESTS / "examples/deployment.yaml").read_text())
    text["metadata"]["name"] = "drifting"
    plane.kubectl("apply", "-f", "-", input_text=yaml.safe_dump(text))
    where = ["systemdeployment/drifting"]
    (live,) = stored(plane, where)
    assert not argo.is_out_of_sync(text, live)
    assert argo.is_out_of_sync({**text, "spec": {**text["spec"], "replicas": 7}}, live)
    less = {key: value for key, value in text["spec"].items() if key != "replicas"}
    assert argo.is_out_of_sync({**text, "spec": less}, live)
    plane.kubectl("patch", *where, "--type=merge", "-p", '{"spec":{"replicas":7}}')
    assert versions(stored(plane, where)) != versions([live])
    plane.kubectl("delete", *where)


def test_the_sample_applies_in_its_order_to_an_empty_server(tmp_path: Path) -> None:
    """As Flux does it: each folder after the objects of the one before exist. The other order is refused."""
    sample = MANIFESTS / "gitops/sample"
    folders = sorted(path.parent for path in sample.glob("[0-9]-*/kustomization.yaml"))
    with ControlPlane(tmp_path / "empty") as server:
        with pytest.raises(subprocess.CalledProcessError):
            server.kubectl("apply", "--server-side", f"--kustomize={folders[-1]}")
        for folder in folders:
            server.kubectl("apply", "--server-side", f"--kustomize={folder}")
            wait_until_served(server.kubectl)
        found = server.kubectl("get", "systemdeployments,systemnodes,vmimagenodes", "--all-namespaces", "--output=name")
        assert len(found.split()) == 6


def test_the_sample_installs_what_the_manifests_install(plane: ControlPlane) -> None:
    whole, sample = (plane.kubectl("kustomize", str(MANIFESTS / name)) for name in ("", "gitops/sample/1-kigi"))
    assert sorted(map(str, yaml.safe_load_all(sample))) == sorted(map(str, yaml.safe_load_all(whole)))


def test_every_file_is_applied() -> None:
    applied = {path for paths in FOLDERS.values() for path in paths}
    left = {path.relative_to(MANIFESTS) for path in MANIFESTS.rglob("*.yaml") if path not in applied}
    known = {"alerts", *UNSERVED}
    assert {path for path in left if path.name != "kustomization.yaml" and path.parts[0] not in known} == set()
    assert len(FOLDERS) >= 9
    assert "manifests" in KUSTOMIZATIONS
