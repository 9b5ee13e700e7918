"""`make release`: each file is what it should be, and the programs of the images start."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.build import binary
from localcluster.controlplane import ControlPlane
from localcluster.processes import free_port, is_listening
from tests.support.cluster import ensure_namespace, eventually
from tools.chart.__main__ import project_version
from tools.release.__main__ import build
from tools.release.debian import ARCHITECTURES, read_lock
from tools.release.images import LOCKS, TARGETS
from tools.release.sbom import pins

ROOT = Path(__file__).parents[2]
VERSION = project_version()
EPOCH = 1_700_000_000
PREFIX = "registry.example/kigi"
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
"""e_machine of ELF files. Source: elf.h."""
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of a release of this checkout; ``$KIGI_DIST``: those that EPOCH made there."""
    if built := os.environ.get("KIGI_DIST"):
        return Path(built)
    directory = tmp_path_factory.mktemp("dist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
        build(directory, PREFIX, dirty=True)
    return directory


class Archive:
    """An OCI archive; every blob that is read has its digest."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        data = self.files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert descriptor["digest"] == "sha256:" + hashlib.sha256(data).hexdigest()
        assert descriptor["size"] == len(data)
        return data

    def index(self) -> dict[str, Any]:
        (descriptor,) = json.loads(self.files["index.json"])["manifests"]
        index: dict[str, Any] = json.loads(self.blob(descriptor))
        return index

    def image(self, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Manifest and configuration."""
        (found,) = (each for each in self.index()["manifests"] if each["platform"]["architecture"] == architecture)
        manifest = json.loads(self.blob(found))
        return manifest, json.loads(self.blob(manifest["config"]))


def archive(dist: Path, name: str) -> Archive:
    return Archive(dist / f"kigi-{name}-{VERSION}.oci.tar")


def unpack(dist: Path, name: str, architecture: str, root: Path) -> Path:
    found = archive(dist, name)
    for layer in found.image(architecture)[0]["layers"]:
        with tarfile.open(fileobj=io.BytesIO(found.blob(layer))) as tar:
            tar.extractall(root, numeric_owner=True, filter="fully_trusted")
    return root


def test_a_release_has_these_files_and_their_checksums(dist: Path) -> None:
    images = {f"kigi-{name}-{VERSION}.oci.tar" for name in ("operator", "daemon", "hook")}
    others = {"install.yaml", f"kigi-{VERSION}.tgz", f"kigi-{VERSION}.cdx.json", "RELEASE_NOTES.md", "SHA256SUMS"}
    files = {path.name for path in dist.iterdir() if path.is_file()}
    assert files == images | others | {f"kigi-{VERSION}-py3-none-any.whl"}
    check = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=dist, capture_output=True, text=True, timeout=300
    )
    assert check.returncode == 0, check.stdout
    assert check.stdout.count(": OK") == len(files) - 1


@pytest.mark.parametrize("name", TARGETS)
def test_each_image_is_whole_and_for_both_architectures(dist: Path, name: str) -> None:
    found = archive(dist, name)
    assert json.loads(found.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    used = {
        "oci-layout",
        "index.json",
        "blobs/sha256/" + json.loads(found.files["index.json"])["manifests"][0]["digest"][7:],
    }
    for descriptor in found.index()["manifests"]:
        architecture = descriptor["platform"]["architecture"]
        manifest, config = found.image(architecture)
        assert (config["architecture"], config["os"]) == (architecture, "linux")
        assert config["config"]["User"] == "65532:65532"
        assert config["config"]["Entrypoint"] == [TARGETS[name].entrypoint]
        labels = {key.rpartition(".")[2]: value for key, value in config["config"]["Labels"].items()}
        assert labels.keys() >= {"version", "revision", "licenses", "title", "description"}
        assert labels["version"] == VERSION
        assert config["created"] == "2023-11-14T22:13:20Z"
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            with tarfile.open(fileobj=io.BytesIO(found.blob(layer))) as tar:
                assert all(member.mtime <= EPOCH for member in tar)
            raw = gzip.decompress(found.blob(layer))
            assert diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
        used |= {"blobs/sha256/" + each["digest"][7:] for each in (descriptor, manifest["config"], *manifest["layers"])}
    assert {each["platform"]["architecture"] for each in found.index()["manifests"]} == set(ARCHITECTURES)
    assert used == found.files.keys()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_programs_and_libraries_are_those_of_the_architecture(dist: Path, architecture: str, tmp_path: Path) -> None:
    root = unpack(dist, "daemon", architecture, tmp_path)
    machines = {}
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF":
                machines[str(path.relative_to(root))] = struct.unpack_from("<H", head, 18)[0]
    assert {"usr/bin/python3.13", "usr/bin/qemu-img"} <= machines.keys()
    assert any("grpc" in name for name in machines)
    assert set(machines.values()) == {MACHINES[architecture]}


def test_images_have_what_they_need_and_no_more(dist: Path, tmp_path: Path) -> None:
    roots = {name: unpack(dist, name, "amd64", tmp_path / name) for name in TARGETS}
    has = {name: {what for what, path in EXPECTED.items() if list(root.glob(path))} for name, root in roots.items()}
    assert has == {
        "operator": {"operator", "s3", "certificates"},
        "daemon": {"qemu-img", "grpc", "s3", "certificates"},
        "hook": {"grpc", "certificates"},
    }
    size = {name: sum(f.lstat().st_size for f in root.rglob("*") if f.is_file()) for name, root in roots.items()}
    assert size["hook"] < min(size["operator"], size["daemon"]) / 1.5
    for root in roots.values():
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert not path.stat().st_mode & 0o6000, f"{path}: runs with its owner's rights"


SITE = "usr/local/lib/python3.13/dist-packages"
EXPECTED = {
    "shell": "usr/bin/*sh",
    "apt": "usr/bin/apt*",
    "qemu-img": "usr/bin/qemu-img",
    "operator": f"{SITE}/kopf",
    "grpc": f"{SITE}/grpc",
    "s3": f"{SITE}/aiobotocore",
    "pip": f"{SITE}/pip",
    "certificates": "etc/ssl/certs/ca-certificates.crt",
}


@pytest.fixture(scope="module")
def roots(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Root file systems of the images for this machine; only root may change the root directory of a process."""
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    folder = tmp_path_factory.mktemp("roots")
    return {name: unpack(dist, name, "amd64", folder / name) for name in TARGETS}


def run_in(root: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As the image's user, with its environment."""
    environment = {"PATH": "/usr/local/bin:/usr/bin", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", **env}
    call = ["chroot", "--userspec=65532:65532", str(root), *command]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_operators_image_starts(roots: dict[str, Path]) -> None:
    assert VERSION in run_in(roots["operator"], "kigi", "--version").stdout
    assert "publish" in run_in(roots["operator"], "kigi", "--help").stdout
    done = run_in(roots["operator"], "kigi-operator", KIGI_WORKERS="none")
    assert "KIGI_WORKERS='none'" in done.stderr, done
    trusted = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(run_in(roots["operator"], "python3", "-c", trusted).stdout) > 100


def test_the_daemons_image_starts(roots: dict[str, Path]) -> None:
    assert "NODE_NAME: required" in run_in(roots["daemon"], "kigi-cache").stderr
    assert "qemu-img version" in run_in(roots["daemon"], "qemu-img", "--version").stdout
    done = run_in(roots["daemon"], "kigi-capture-publisher", KIGI_LOG_LEVEL="loud")
    assert "KIGI_LOG_LEVEL='loud'" in done.stderr, done
    for module in ("kigi_cache.daemon", "kigi_cache.captures.publisher"):
        imported = run_in(roots["daemon"], "python3", "-c", f"import {module}")
        assert imported.returncode == 0, imported.stderr


def test_the_hooks_image_serves(roots: dict[str, Path]) -> None:
    folder = roots["hook"] / "var/run/kubevirt-hooks"
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, 65532, 65532)
    call = ["chroot", "--userspec=65532:65532", str(roots["hook"]), "kigi-disk-hook"]
    process = subprocess.Popen(call, env={"PATH": "/usr/local/bin:/usr/bin"}, stderr=subprocess.PIPE, text=True)
    try:
        eventually(lambda: list(folder.glob("*.sock")), 120, "the hook serves its socket")
    finally:
        process.terminate()
        process.wait(30)


def test_bytecode_is_in_the_images(dist: Path, tmp_path: Path) -> None:
    """Root file systems are read-only: a program would compile all its modules at each start."""
    for architecture in ARCHITECTURES:
        root = unpack(dist, "hook", architecture, tmp_path / architecture)
        sources = list((root / SITE / "kigi").rglob("*.py"))
        assert sources
        for source in sources:
            assert (source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc").exists(), source


def test_a_registry_takes_the_images_and_finds_them_whole(dist: Path, tmp_path: Path) -> None:
    """By another implementation of the specification, on loopback."""
    port = free_port()
    folder = tmp_path / "registry"
    folder.mkdir()
    process = subprocess.Popen(
        [binary("crane"), "registry", "serve", "--address", f"127.0.0.1:{port}", "--disk", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: is_listening("127.0.0.1", port), what="the registry listens")
        for name in TARGETS:
            layout = tmp_path / name
            with tarfile.open(dist / f"kigi-{name}-{VERSION}.oci.tar") as tar:
                tar.extractall(layout, filter="data")
            image = f"127.0.0.1:{port}/kigi-{name}:{VERSION}"
            pushed = crane("push", str(layout), image)
            (descriptor,) = json.loads((layout / "index.json").read_text())["manifests"]
            assert descriptor["digest"] in pushed
            assert descriptor["digest"] in (dist / "install.yaml").read_text()
            assert "PASS" in crane("validate", "--remote", image)
    finally:
        process.terminate()
        process.wait(30)


def crane(*arguments: str) -> str:
    done = subprocess.run(
        [binary("crane"), "--insecure", *arguments], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_wheel_installs_and_runs(dist: Path, tmp_path: Path) -> None:
    """Beside the packages of this environment; without them, it names the missing extra."""
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
    images = {name: set() for name in ("Deployment", "DaemonSet")}
    for name, item in found.items():
        plain = copy.deepcopy(item)
        if item["kind"] in images:
            for container in plain["spec"]["template"]["spec"]["containers"]:
                images[item["kind"]].add(container["image"].partition("@")[0])
                container["image"] = "kigi:dev"
                container["env"] = [each for each in container["env"] if each["name"] != "KIGI_HOOK_IMAGE"]
        assert plain == expected[name], name
    assert images == {"Deployment": {f"{PREFIX}-operator:{VERSION}"}, "DaemonSet": {f"{PREFIX}-daemon:{VERSION}"}}
    assert f"value: {PREFIX}-hook:{VERSION}@sha256:" in (dist / "install.yaml").read_text()


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
        assert images[name]["repository"] == f"{PREFIX}-{name}"
        assert f"@{images[name]['digest']}" in (dist / "install.yaml").read_text()


def test_the_bill_of_materials_lists_every_package(dist: Path) -> None:
    bill = json.loads((dist / f"kigi-{VERSION}.cdx.json").read_text())
    listed = {each["purl"] for each in bill["components"]}
    for lock in LOCKS.values():
        assert {f"pkg:pypi/{name}@{version}" for name, version in pins(ROOT / lock).items()} <= listed
    for package in read_lock():
        assert any(f"/{package.name}@" in purl and f"arch={package.architecture}" in purl for purl in listed), package
    assert bill["metadata"]["component"]["version"] == VERSION


def test_the_notes_have_the_changes_and_the_digests(dist: Path) -> None:
    notes = (dist / "RELEASE_NOTES.md").read_text()
    assert notes.startswith(f"# Kigi {VERSION}\n")
    for name in TARGETS:
        (descriptor,) = json.loads(archive(dist, name).files["index.json"])["manifests"]
        assert f"| kigi-{name} | `{descriptor['digest']}` |" in notes


def test_a_second_build_makes_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
        build(tmp_path, PREFIX, dirty=True)
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
