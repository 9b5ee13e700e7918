"""Pods that have a volume try to change the layers below it. Needs root; every pod is a process with real mounts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi.domain.layers import digest_hex, layer_file_name
from kigi.errors import VolumeInUse
from kigi_cache.disks import mounts
from kigi_cache.disks.volumes import Volume, Volumes
from tests.support.chains import LayerFile, build_chain, run
from tests.support.mountns import private_mounts
from tests.support.volume_attacks import ACTORS, ATTACKS, SHAPES, attempt, in_pod, pod_volume
from tests.support.volume_world import HANDLE, OTHER, World


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[LayerFile]:
    return build_chain(tmp_path_factory.mktemp("chain"), length=2, size_bytes=2**20)


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.fixture
def world(tmp_path: Path, files: list[LayerFile]) -> World:
    return World(tmp_path, files)


@pytest.mark.parametrize("keep_options", [True, False], ids=["options kept", "options dropped"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("actor", ACTORS)
def test_no_pod_changes_a_layer(world: World, actor: str, shape: str, keep_options: bool) -> None:
    """480 attempts in all, each on a volume as it is just after its publication."""
    for number, attack in enumerate(ATTACKS):
        target = world.publish()
        place = world.directory / f"pod{number}"
        with pod_volume(target, shape, world.layer, place, keep_options=keep_options) as seen:
            attempt(actor, attack, shape, target, seen, world.layer, world.scratch)
            assert world.changed() == [], attack.name
            assert all(world.store.is_held(layer.digest) for layer in world.chain), attack.name
        world.unpublish()
    assert {layer.links for layer in world.store.held().values()} == {1}


def test_the_volume_below_its_mounts_is_a_disk_and_an_empty_folder(world: World) -> None:
    target = world.publish()
    with pod_volume(target, ".", world.layer, world.directory / "pod", keep_options=True) as seen:
        assert sorted(os.listdir(seen)) == ["chain", "disk.img"]
        assert os.listdir(seen / "chain") == []
    assert len(os.listdir(target / "chain")) == 2


def test_layers_are_on_a_file_system_that_keeps_no_content(world: World) -> None:
    target = world.publish()
    (chain,) = [mount for mount in mounts.list_mounts() if mount.point == str(target / "chain")]
    assert chain.kind == "overlay"
    found = os.statvfs(target / "chain")
    assert found.f_blocks * found.f_frsize <= os.sysconf("SC_PAGE_SIZE"), "less than the smallest layer"
    assert world.files[0].path.stat().st_size > os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("part", ["disk.img", ".", "chain"])
def test_a_part_that_another_pod_still_has_keeps_the_volume_from_a_second_one(world: World, part: str) -> None:
    """The kubelet's bind mount of a subPath, left over while the volume itself is unmounted."""
    target = world.publish()
    with pod_volume(target, part, world.layer, world.directory / "left", keep_options=True):
        world.unpublish()
        if part == "chain":  # the layers, which every chain shares; nothing of the volume
            world.publish()
            return
        assert world.volumes.overlays() == [Volume(HANDLE, mounted=True)]
        with pytest.raises(VolumeInUse, match="left"):
            world.publish()
    world.publish()


LEFT_BEHIND = {
    "files": "dd if=/dev/zero of=$V/junk bs=64k count=4 status=none && mkdir -p $V/d/d && touch $V/d/d/f",
    "a link in the place of chain": "rmdir $V/chain && ln -s /etc $V/chain",
    "a link to another volume": "rmdir $V/chain && ln -s $O $V/chain",
    "files in chain": "cp $V/disk.img $V/chain/$L",
    "a file in the place of chain": "rmdir $V/chain && touch $V/chain",
    "no chain": "rmdir $V/chain",
    "a second name of the disk": "ln $V/disk.img $V/second",
    "a folder of the daemon's names": "mkdir -p $V/mount/chain $V/.mount/chain && cp $V/disk.img $V/mount/",
}


@pytest.mark.parametrize("command", LEFT_BEHIND.values(), ids=LEFT_BEHIND.keys())
def test_what_a_pod_left_in_a_volume_is_gone_before_the_next_start(world: World, command: str) -> None:
    other = world.publish(OTHER)
    target = world.publish()
    with pod_volume(target, ".", world.layer, world.directory / "pod", keep_options=True) as seen:
        assert in_pod("root", target, command, V=str(seen), L=world.layer, O=str(other))
    world.unpublish()
    before = [m for m in mounts.list_mounts() if str(other) in m.point]
    target = world.publish()
    assert sorted(os.listdir(target)) == ["chain", "disk.img"]
    assert sorted(os.listdir(target / "chain")) == sorted(layer_file_name(layer.digest) for layer in world.chain)
    assert [m for m in mounts.list_mounts() if str(other) in m.point] == before
    assert not [m for m in mounts.list_mounts() if m.point.startswith("/etc")]
    assert digest_hex(world.chain[-1].digest) in run("qemu-img", "info", "-U", str(target / "disk.img"))
    world.unpublish()
    asyncio.run(world.volumes.discard(HANDLE))
    assert {layer.links for layer in world.store.held().values()} == {1}


# Volumes of earlier versions: disk.img beside the hard links, both mounted.


def make_earlier(world: World) -> Path:
    """An overlay as an earlier version has made it."""
    world.publish()
    world.unpublish()
    directory = world.store.root / "volumes" / HANDLE
    (directory / "mount" / "disk.img").rename(directory / "disk.img")
    shutil.rmtree(directory / "mount")
    return directory


def mount_earlier(world: World, directory: Path) -> Path:
    target = world.directory / "kubelet" / HANDLE
    target.mkdir(parents=True)
    mounts.bind(str(directory), str(target), read_only=False)
    mounts.bind(str(directory / "chain"), str(target / "chain"), read_only=True)
    return target


def test_a_volume_that_an_earlier_version_mounted_stays_until_its_vm_stops(world: World) -> None:
    directory = make_earlier(world)
    target = mount_earlier(world, directory)
    before = mounts.list_mounts()
    with (target / "disk.img").open("rb"):  # a VM runs
        restarted = Volumes(world.store.root, world.store, create_overlay)
        restarted.recover()
        assert restarted.overlays() == [Volume(HANDLE, mounted=True)]
        assert world.publish() == target  # a kubelet that has restarted asks again
        assert mounts.list_mounts() == before
        assert restarted.usage(HANDLE, str(target)).used_bytes > 0
        with pytest.raises(VolumeInUse):
            asyncio.run(restarted.discard(HANDLE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 64k", str(target / "disk.img"))
    world.unpublish()
    assert not target.exists()
    target = world.publish()
    assert sorted(os.listdir(directory)) == ["chain", "mount"]
    with pod_volume(target, ".", world.layer, world.directory / "pod", keep_options=True) as seen:
        assert os.listdir(seen / "chain") == []
    assert "read 65536/65536" in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 9 2M 64k", str(target / "disk.img"))


def test_an_unmounted_volume_of_an_earlier_version_is_copied_and_discarded(world: World) -> None:
    make_earlier(world)
    copies = world.directory / "cache" / "copy"
    (copies / "chain").mkdir(parents=True)
    top = world.chain[-1]
    size = top.virtual_size_bytes
    asyncio.run(world.volumes.copy(HANDLE, copies, "c.qcow2", parent=top.digest, size=size, mounted=False))
    assert (copies / "c.qcow2").stat().st_size > 0
    asyncio.run(world.volumes.discard(HANDLE))
    assert world.volumes.overlays() == []


@pytest.mark.parametrize("state", ["partial made", "disk moved"])
def test_a_crash_in_the_change_of_the_form_loses_nothing(world: World, state: str) -> None:
    directory = make_earlier(world)
    content = (directory / "disk.img").read_bytes()
    (directory / ".mount").mkdir()
    if state == "disk moved":
        (directory / "disk.img").rename(directory / ".mount" / "disk.img")
    target = world.publish()
    assert (target / "disk.img").read_bytes() == content
