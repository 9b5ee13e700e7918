"""`make release` as a whole: what is in the images, that their programs start, and that a second build is equal.

`$KIGI_DIST` names the folder of a release of this commit; without it, the tests build one.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.cluster import eventually
from tests.support.release import VERSION, archive, check_files, check_image, push_and_validate
from tools.release.__main__ import build, commit
from tools.release.debian import ARCHITECTURES
from tools.release.images import TARGETS

REVISION, EPOCH = commit(dirty=True)
MACHINES = {"amd64": 0x3E, "arm64": 0xB7}
"""e_machine of ELF files. Source: elf.h."""
HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}
EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
"""Programs of Debian's qemu-user-static."""
SITE = "usr/local/lib/python3.13/dist-packages"
DEVICES = {"null": 3, "urandom": 9}
"""Devices that a container runtime makes, and that programs here need -> minor number; the major one is 1."""
START_S = 300
pytestmark = [pytest.mark.release, pytest.mark.timeout(3600)]
Roots = dict[tuple[str, str], Path]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of a release of this checkout."""
    if built := os.environ.get("KIGI_DIST"):
        return Path(built)
    directory = tmp_path_factory.mktemp("dist")
    build(directory, "registry.example/kigi", dirty=True)
    return directory


@pytest.fixture(scope="module")
def roots(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Roots:
    """Target and architecture -> root file system of the image."""
    folder = tmp_path_factory.mktemp("roots")
    return {
        (name, architecture): archive(dist, name).unpack(architecture, folder / name / architecture)
        for name in TARGETS
        for architecture in ARCHITECTURES
    }


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_release_has_these_files_and_their_checksums(dist: Path) -> None:
    check_files(dist)


@pytest.mark.parametrize("name", TARGETS)
def test_each_image_is_whole_and_of_this_commit(dist: Path, name: str) -> None:
    found = archive(dist, name)
    check_image(found, name, EPOCH, datetime.fromtimestamp(EPOCH, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    labels = found.image("amd64")[1]["config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == REVISION
    digest = found.descriptor()["digest"]
    for file in ("install.yaml", "RELEASE_NOTES.md"):
        assert digest in (dist / file).read_text()


def test_programs_and_libraries_are_those_of_the_architecture(roots: Roots, architecture: str) -> None:
    root = roots["daemon", architecture]
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


EXPECTED = {
    "shell": "usr/bin/sh",
    "apt": "usr/bin/apt*",
    "qemu-img": "usr/bin/qemu-img",
    "operator": f"{SITE}/kopf",
    "grpc": f"{SITE}/grpc",
    "s3": f"{SITE}/aiobotocore",
    "pip": f"{SITE}/pip",
    "certificates": "etc/ssl/certs/ca-certificates.crt",
}


def test_images_have_what_they_need_and_no_more(roots: Roots, architecture: str) -> None:
    images = {name: roots[name, architecture] for name in TARGETS}
    has = {name: {what for what, path in EXPECTED.items() if list(root.glob(path))} for name, root in images.items()}
    assert has == {
        "operator": {"operator", "s3", "certificates"},
        "daemon": {"qemu-img", "grpc", "s3", "certificates"},
        "hook": {"grpc", "certificates"},
    }
    size = {name: sum(f.lstat().st_size for f in root.rglob("*") if f.is_file()) for name, root in images.items()}
    assert size["hook"] < min(size["operator"], size["daemon"]) / 1.5
    for root in images.values():
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert not path.stat().st_mode & 0o6000, f"{path}: runs with its owner's rights"


def test_bytecode_is_in_the_images(roots: Roots, architecture: str) -> None:
    """Root file systems are read-only: a program would compile all its modules at each start."""
    root = roots["hook", architecture]
    sources = list((root / SITE / "kigi").rglob("*.py"))
    assert sources
    for source in sources:
        assert (source.parent / "__pycache__" / f"{source.stem}.cpython-313.pyc").exists(), source


class Container:
    """Starts programs of an image as its user: in the image's root, and under QEMU if they are not for this machine."""

    def __init__(self, root: Path, architecture: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("chroot needs root")
        self.root = root
        for name, minor in DEVICES.items():
            if not (root / "dev" / name).exists():
                os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
                (root / "dev" / name).chmod(0o666)
        self._emulator: list[str] = []
        if HOSTS[platform.machine()] != architecture:
            found = shutil.which(EMULATORS[architecture])
            if found is None:
                pytest.skip("the other architecture needs Debian's qemu-user-static")
            shutil.copy(found, root / "emulator")
            self._emulator = ["/emulator"]

    def call(self, program: str, *arguments: str) -> list[str]:
        """The command, with the interpreter where the kernel would look it up."""
        path = next(p for p in (f"/usr/local/bin/{program}", f"/usr/bin/{program}") if (self.root / p[1:]).exists())
        interpreter = [] if path.startswith("/usr/bin") else ["/usr/bin/python3"]
        user = ["/usr/sbin/chroot", "--userspec=65532:65532", str(self.root)]
        return [*user, *self._emulator, *interpreter, path, *arguments]

    def run(self, program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Both outputs and the exit code."""
        return subprocess.run(
            self.call(program, *arguments), env=self.environment(env), capture_output=True, text=True, timeout=START_S
        )

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """The image's variables and ``more``."""
        return {"PATH": "/usr/local/bin:/usr/bin", "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", **more}


def test_the_operators_image_starts(roots: Roots, architecture: str) -> None:
    image = Container(roots["operator", architecture], architecture)
    assert re.search(rf"\b{re.escape(VERSION)}$", image.run("kigi", "version", "--client").stdout.strip())
    assert "publish" in image.run("kigi", "--help").stdout
    done = image.run("kigi-operator", KIGI_WORKERS="none")
    assert "KIGI_WORKERS='none'" in done.stderr, done
    trusted = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    assert int(image.run("python3", "-c", trusted).stdout) > 100


def test_the_daemons_image_starts(roots: Roots, architecture: str) -> None:
    image = Container(roots["daemon", architecture], architecture)
    assert "NODE_NAME: required" in image.run("kigi-cache").stderr
    assert "qemu-img version" in image.run("qemu-img", "--version").stdout
    done = image.run("kigi-capture-publisher", KIGI_LOG_LEVEL="loud")
    assert "KIGI_LOG_LEVEL='loud'" in done.stderr, done
    for module in ("kigi_cache.daemon", "kigi_cache.captures.publisher"):
        imported = image.run("python3", "-c", f"import {module}")
        assert imported.returncode == 0, imported.stderr


def test_the_hooks_image_serves(roots: Roots, architecture: str) -> None:
    image = Container(roots["hook", architecture], architecture)
    folder = image.root / "var/run/kubevirt-hooks"
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, 65532, 65532)
    process = subprocess.Popen(
        image.call("kigi-disk-hook"), env=image.environment({}), stderr=subprocess.PIPE, text=True
    )
    try:
        eventually(lambda: list(folder.glob("*.sock")), 120, "the hook serves its socket")
    finally:
        process.terminate()
        process.wait(30)


def test_a_registry_takes_the_images_and_finds_them_whole(dist: Path, tmp_path: Path) -> None:
    for name, printed in push_and_validate(dist, tmp_path).items():
        assert archive(dist, name).descriptor()["digest"] in printed


def test_a_second_build_makes_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    (named,) = set(re.findall(rf"image: (\S+)-operator:{re.escape(VERSION)}@", (dist / "install.yaml").read_text()))
    build(tmp_path, named, dirty=True)
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
