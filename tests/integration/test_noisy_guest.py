"""A guest fills the node's disk, and the others go on. Needs root."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi_cache import filesystem
from kigi_cache.clock import Clock
from kigi_cache.disks import mounts
from kigi_cache.disks.overlay_space import OverlaySpace
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.store import Store
from tests.support.chains import LayerFile, build_chain, layers_of
from tests.support.mountns import private_mounts

MIB = 2**20
NOISY, QUIET = (f"kigi.range.office.{n}.mail1.r1.aaaaaaaa" for n in (1, 2))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[LayerFile]:
    return build_chain(tmp_path_factory.mktemp("chain"), length=1)


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.mark.parametrize("headroom_bytes", [16 * MIB, 0], ids=["with headroom", "without"])
def test_a_guest_that_fills_the_disk_stops_alone(tmp_path: Path, files: list[LayerFile], headroom_bytes: int) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    mounts._mount("tmpfs", str(root), 0, kind="tmpfs", data="size=120m")
    store = Store(root)
    store.recover()
    shutil.copy(files[0].path, store.path(files[0].layer.digest))
    assert store.verify(files[0].layer)
    volumes = Volumes(root, store, create_overlay)
    volumes.recover()
    disks: dict[str, str] = {}
    for handle in (NOISY, QUIET):
        target = tmp_path / "pods" / handle
        asyncio.run(volumes.publish(handle, layers_of(files), str(target)))
        disks[handle] = str(target / "disk.img")
    reports: list[str] = []
    space = OverlaySpace(
        volumes,
        Clock(),
        lambda: filesystem.free_bytes(root),
        headroom_bytes=headroom_bytes,
        warn_below_bytes=20 * MIB,
        on_change=lambda report: reports.append(report.pressure),
    )
    asyncio.run(space.check())
    (root / "ballast").write_bytes(bytes(64 * MIB))  # what the floor left
    full = False
    for number in range(60):
        full = full or not writes(disks[NOISY], f"write -P 2 {number}M 1M")
        asyncio.run(space.check())
    assert full, "the noisy guest found no space"
    assert "machine mail1 of instance office-1 in namespace range" in max(reports, key=len)
    quiet = all(writes(disks[QUIET], f"write -P 3 {number}M 1M") for number in range(12))
    assert quiet == (headroom_bytes > 0)


def test_each_overlay_counts_what_was_written_to_it(tmp_path: Path, files: list[LayerFile]) -> None:
    store = Store(tmp_path / "cache")
    store.recover()
    shutil.copy(files[0].path, store.path(files[0].layer.digest))
    assert store.verify(files[0].layer)
    volumes = Volumes(store.root, store, create_overlay)
    volumes.recover()
    for handle in (NOISY, QUIET):
        target = tmp_path / "pods" / handle
        asyncio.run(volumes.publish(handle, layers_of(files), str(target)))
        before = sum(volumes.used_bytes().values())
        volumes.reserve(handle, 8 * MIB)
        assert sum(volumes.used_bytes().values()) == before, "headroom is not written"
        assert writes(str(target / "disk.img"), "write -P 2 0 4M")
        assert sum(volumes.used_bytes().values()) >= before + 4 * MIB
    asyncio.run(volumes.unpublish(QUIET, str(target)))
    used = volumes.used_bytes()
    assert used.keys() == {NOISY, QUIET}
    assert min(used.values()) >= 4 * MIB, "an overlay counts while its VM is off"


def writes(disk: str, command: str) -> bool:
    done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], capture_output=True, text=True, check=False)
    return done.returncode == 0 and "wrote" in done.stdout
