import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from scenario import tiny
from scenario.manifest import Manifest, load
from scenario.tree import resolved_images
from tests.support.cluster import eventually
from tests.support.emulated import QEMU, booted, overlay

BOOT_TIMEOUT_S = 120

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not on this machine: no guest can start")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder)
    return folder


@pytest.fixture(scope="module")
def manifest(build: Path) -> Manifest:
    return load(build)


def test_every_layer_is_valid_and_has_its_parent_of_the_tree(build: Path, manifest: Manifest):
    assert len(manifest.images) == 34
    for image in manifest.images:
        path = build / image.file
        subprocess.run(["qemu-img", "check", "-q", path], check=True)
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
        assert info["virtual-size"] == image.virtual_size_bytes == tiny.DISK_BYTES
        assert info["actual-size"] > 0
        assert info.get("backing-filename") == (f"{image.parent}.qcow2" if image.parent else None)
        assert info.get("backing-filename-format") == ("qcow2" if image.parent else None)


def test_the_flat_size_is_the_size_of_the_disk_without_zeros(build: Path, manifest: Manifest, tmp_path: Path):
    image = next(image for image in manifest.images if image.name == "mail1-restored")
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", build / image.file, raw], check=True)
    disk = raw.read_bytes()
    assert len(disk) == image.virtual_size_bytes
    clusters = sum(any(disk[start : start + 65536]) for start in range(0, len(disk), 65536))
    assert 0 < image.flat_size_bytes - clusters * 65536 <= 8 * 65536


def test_a_second_build_gives_the_same_bytes(build: Path, manifest: Manifest, tmp_path: Path):
    tiny.build(tmp_path)
    for image in manifest.images:
        first, second = (hashlib.sha256((folder / image.file).read_bytes()).hexdigest() for folder in (build, tmp_path))
        assert first == second, image.name


@needs_qemu
def test_a_guest_keeps_its_writes_over_a_restart_and_a_fresh_overlay_has_none(build: Path, tmp_path: Path):
    disk = overlay(tmp_path / "disk.qcow2", build / "mail1-infected.qcow2")
    with booted(disk) as guest:
        line = guest.expect(r"KIGI-GUEST [^\r\n]*[\r\n]", BOOT_TIMEOUT_S)[0].strip()
        assert line == (
            "KIGI-GUEST machine=mail1 state=infected boot=1 marker=running mac=52:54:00:00:00:07 "
            "uuid=00000000-0000-4000-8000-000000000007 serial=KIGI-SERIAL"
        )
        guest.type("write kept over a restart")
        guest.expect("KIGI-WROTE kept over a restart", 30)
        guest.type("reboot")
        assert "boot=2 " in guest.expect(r"KIGI-GUEST [^\r\n]*[\r\n]", BOOT_TIMEOUT_S)[0]
        guest.type("show")
        guest.expect("KIGI-WRITTEN kept over a restart", 30)
        guest.type("poweroff")
        assert guest.ended(30)
    fresh = overlay(disk, build / "mail1-infected.qcow2")
    subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", fresh, "+64M"], check=True)
    with booted(fresh) as guest:
        assert "boot=1 " in guest.expect(r"KIGI-GUEST [^\r\n]*[\r\n]", BOOT_TIMEOUT_S)[0]
        guest.type("show")
        guest.expect("KIGI-WRITTEN none", 30)
        guest.type("noise")
        guest.expect("KIGI-NOISE begun", 30)
        eventually(lambda: fresh.stat().st_size > 60 * 2**20, 120, "the noisy guest writes all of its disk")
        guest.type("show")
        guest.expect("KIGI-WRITTEN none", 30)


@needs_qemu
@pytest.mark.parametrize("machine", ["mail1", "desktop1", "desktop4"])
def test_a_restored_guest_reports_as_in_the_manifest(build: Path, manifest: Manifest, tmp_path: Path, machine: str):
    wanted = manifest.guests["restored"][machine]
    assert wanted.image == resolved_images("restored")[machine]
    with booted(overlay(tmp_path / "disk.qcow2", build / f"{wanted.image}.qcow2")) as guest:
        line = guest.expect(r"KIGI-GUEST [^\r\n]*[\r\n]", BOOT_TIMEOUT_S)[0]
    assert f"machine={machine} state={wanted.state} boot=1 marker={wanted.marker} " in line
