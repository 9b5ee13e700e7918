"""Files of a release, with small layers in its images: what is in the real ones, `make test-release` tests."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from tests.support.cluster import ensure_namespace
from tests.support.release import FILES, VERSION, archive, check_files, check_image, push_and_validate
from tools.release.__main__ import image_labels, write_others
from tools.release.debian import ARCHITECTURES, read_lock
from tools.release.images import LOCKS, TARGETS, write_images
from tools.release.sbom import pins
from tools.release.tree import Tree
from tools.release.wheels import build_wheel

ROOT = Path(__file__).parents[2]
EPOCH, CREATED = 1_700_000_000, "2023-11-14T22:13:20Z"
PREFIX = "registry.example/kigi"


def make(directory: Path) -> Path:
    """All files, from layers with a single file."""
    directory.mkdir(exist_ok=True)
    wheel = build_wheel(directory, EPOCH)
    layers: dict[str, dict[str, Any]] = {architecture: {} for architecture in ARCHITECTURES}
    for architecture in ARCHITECTURES:
        for name in {layer for target in TARGETS.values() for layer in target.layers}:
            tree = Tree()
            tree.add_file(f"usr/share/{name}", f"{name} for {architecture}".encode())
            layers[architecture][name] = tree.blob(EPOCH)
    digests = write_images(layers, directory, VERSION, CREATED, image_labels(VERSION, "0" * 40))
    write_others(directory, PREFIX, VERSION, wheel, digests, EPOCH)
    return directory


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("dist"))


def test_a_release_has_these_files_and_their_checksums(dist: Path) -> None:
    check_files(dist)


@pytest.mark.parametrize("name", TARGETS)
def test_each_image_is_whole_and_for_both_architectures(dist: Path, name: str) -> None:
    found = archive(dist, name)
    check_image(found, name, EPOCH, CREATED)
    assert found.image("amd64")[0]["layers"] != found.image("arm64")[0]["layers"]


def test_a_registry_takes_the_images_and_finds_them_whole(dist: Path, tmp_path: Path) -> None:
    for name, printed in push_and_validate(dist, tmp_path).items():
        assert archive(dist, name).descriptor()["digest"] in printed


def test_the_wheel_installs_and_runs(dist: Path, tmp_path: Path) -> None:
    """Beside the packages of this environment."""
    wheel = dist / f"kigi-{VERSION}-py3-none-any.whl"
    target = tmp_path / "site"
    uv = Path(sys.executable).with_name("uv")
    call = [str(uv), "pip", "install", "--quiet", "--no-deps", "--offline", "--target", str(target), str(wheel)]
    subprocess.run(call, check=True, timeout=300)
    code = "import kigi, kigi_cache, kigi.cli.main; print(kigi.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(target)}, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith(str(target)), done.stderr


def test_install_yaml_is_the_kustomization_with_the_images_of_the_release(dist: Path) -> None:
    call = [binary("kustomize"), "build", str(ROOT / "manifests")]
    text = subprocess.run(call, check=True, capture_output=True, text=True, timeout=120).stdout
    expected = {key(each): each for each in yaml.load_all(text, Loader=yaml.CSafeLoader)}
    found = {key(each): each for each in yaml.load_all((dist / "install.yaml").read_text(), Loader=yaml.CSafeLoader)}
    assert found.keys() == expected.keys()
    images: dict[str, str] = {}
    for name, item in found.items():
        plain = copy.deepcopy(item)
        if item["kind"] in ("Deployment", "DaemonSet"):
            for container in plain["spec"]["template"]["spec"]["containers"]:
                images[container["name"]] = container.pop("image")
                images |= {each["name"]: each["value"] for each in container["env"] if each["name"] == HOOK}
                container["env"] = [each for each in container["env"] if each["name"] != HOOK]
            for container in expected[name]["spec"]["template"]["spec"]["containers"]:
                del container["image"]
        assert plain == expected[name], name
    reference = {name: f"{PREFIX}-{name}:{VERSION}@{archive(dist, name).descriptor()['digest']}" for name in TARGETS}
    assert images == {
        "operator": reference["operator"],
        "cache": reference["daemon"],
        "capture-publisher": reference["daemon"],
        HOOK: reference["hook"],
    }


HOOK = "KIGI_HOOK_IMAGE"


def key(item: dict[str, Any]) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def test_the_server_accepts_install_yaml(dist: Path, crds: ControlPlane) -> None:
    ensure_namespace(crds, "kigi-system")
    accepted = crds.kubectl(
        "apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f",
        str(dist / "install.yaml"),
    )  # fmt: skip
    assert "daemonset.apps/kigi-node-cache" in accepted


def test_the_chart_has_the_images_of_the_release(dist: Path) -> None:
    with tarfile.open(dist / f"kigi-{VERSION}.tgz") as tar:
        file = tar.extractfile("kigi/values.yaml")
        assert file is not None
        images = yaml.safe_load(file.read())["images"]
    for name in TARGETS:
        digest = archive(dist, name).descriptor()["digest"]
        assert images[name] == {"repository": f"{PREFIX}-{name}", "tag": VERSION, "digest": digest}


def test_the_bill_of_materials_lists_every_package(dist: Path) -> None:
    bill = json.loads((dist / f"kigi-{VERSION}.cdx.json").read_text())
    listed = {each["purl"] for each in bill["components"]}
    for lock in LOCKS.values():
        assert {f"pkg:pypi/{name}@{version}" for name, version in pins(ROOT / lock).items()} <= listed
    debian = {(each["name"], each["version"], each["purl"].partition("arch=")[2]) for each in bill["components"]}
    assert {(package.name, package.version, package.architecture) for package in read_lock()} <= debian
    assert ("libstdc++6", "amd64") in {(name, architecture) for name, _, architecture in debian}
    assert bill["metadata"]["component"]["version"] == VERSION


def test_the_notes_have_the_changes_and_the_digests(dist: Path) -> None:
    notes = (dist / "RELEASE_NOTES.md").read_text()
    assert notes.startswith(f"# Kigi {VERSION}\n")
    for name in TARGETS:
        assert f"| kigi-{name} | `{archive(dist, name).descriptor()['digest']}` |" in notes


def test_equal_layers_make_equal_files(dist: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (dist / name).read_bytes(), name
