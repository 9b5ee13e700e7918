"""Overlays on a real file system, with real mounts, real qemu-img and the real store. Needs root."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi.domain.layers import Chain, digest_hex
from kigi.errors import (
    KigiError,
    MountFailed,
    OverlayMismatch,
    OverlayRejected,
    VolumeBusy,
    VolumeDiscarded,
    VolumeInUse,
    VolumeUnknown,
    Waiting,
)
from kigi_cache.disks import mounts
from kigi_cache.disks.overlay_files import QEMU_UID
from kigi_cache.disks.volumes import Volume, Volumes
from kigi_cache.layers.store import Store
from tests.support.chains import LayerFile, build_chain, layers_of, run
from tests.support.mountns import private_mounts
from tests.support.why import explained

HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"
OTHER = "kigi.range.web.0.mail.r1.0a1b2c3d"


@pytest.fixture(scope="module")
def chain_files(tmp_path_factory: pytest.TempPathFactory) -> list[LayerFile]:
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    with private_mounts():
        yield


@dataclass
class Node:
    """One node's root, its overlays and a kubelet's directory."""

    root: Path
    pods: Path
    store: Store
    volumes: Volumes
    chain: Chain

    def target(self, pod: str = "pod-a") -> str:
        return str(self.pods / pod / "mount")

    def publish(self, handle: str = HANDLE, pod: str = "pod-a", chain: Chain | None = None) -> Path:
        asyncio.run(self.volumes.publish(handle, chain or self.chain, self.target(pod)))
        return Path(self.target(pod))

    def unpublish(self, handle: str = HANDLE, pod: str = "pod-a") -> None:
        asyncio.run(self.volumes.unpublish(handle, self.target(pod)))

    def discard(self, handle: str = HANDLE) -> None:
        asyncio.run(self.volumes.discard(handle))

    @property
    def disk(self) -> Path:
        return self.root / "volumes" / HANDLE / "mount" / "disk.img"


@pytest.fixture
def node(tmp_path: Path, chain_files: list[LayerFile]) -> Node:
    return start(tmp_path, chain_files)


def start(directory: Path, files: list[LayerFile]) -> Node:
    """A node over what is in ``directory``: what a restart finds."""
    store = Store(directory / "cache")
    store.recover()
    for file in files:
        if not store.path(file.layer.digest).exists():
            shutil.copy(file.path, store.path(file.layer.digest))
            store.path(file.layer.digest).chmod(0o444)
        assert store.verify(file.layer)
    volumes = Volumes(store.root, store, create_overlay)
    volumes.recover()
    return Node(store.root, directory / "pods", store, volumes, layers_of(files))


def test_a_published_volume_is_a_disk_over_its_whole_chain(node: Node) -> None:
    place = node.publish()
    info = run("qemu-img", "info", "--backing-chain", "--output=json", "-U", str(place / "disk.img"))
    for layer in node.chain:
        assert digest_hex(layer.digest) in info
    assert run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", str(place / "disk.img"))
    found = (place / "disk.img").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (QEMU_UID, QEMU_UID, 0o600)
    assert sorted(os.listdir(place)) == ["chain", "disk.img"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in (place / "chain").iterdir()} == {0o444}
    assert {p.stat().st_uid for p in (place / "chain").iterdir()} == {0}


def test_no_layer_can_be_written_by_root_either_and_nothing_on_the_disk_is_run(node: Node) -> None:
    place = node.publish()
    (first, *_) = layers = sorted((place / "chain").iterdir())
    for layer in layers:
        with pytest.raises(OSError, match="No space left"):
            layer.open("ab")
    with pytest.raises(OSError, match="No space left"):
        first.write_bytes(bytes(5000))  # as a new file, in the place of the layer
    first.unlink()
    node.unpublish()
    assert sorted(path.name for path in (node.publish() / "chain").iterdir()) == [layer.name for layer in layers]
    assert all(node.store.verify(layer) for layer in node.chain)
    options = {m.point: m.options for m in mounts.list_mounts()}
    assert {"nosuid", "nodev", "noexec", "rw"} <= options[str(place)]
    assert {"nosuid", "nodev", "noexec"} <= options[str(place / "chain")]


@pytest.mark.parametrize("name", ["security.selinux", "user.label"])
def test_every_file_of_a_volume_can_be_labelled_for_its_pod_alone(node: Node, name: str) -> None:
    """As a container runtime does under SELinux, with categories that each pod has for itself."""
    first, second = node.publish(), node.publish(OTHER, "pod-b")
    paths = [first, *first.rglob("*")]
    assert len(paths) == 3 + len(node.chain)
    before = [node.store.path(layer.digest).stat() for layer in node.chain]
    for path in paths:
        os.setxattr(path, name, b"system_u:object_r:container_file_t:s0:c1,c2")
        assert os.getxattr(path, name).endswith(b"c1,c2")
    for path in (first / "chain").iterdir():
        assert name not in os.listxattr(second / "chain" / path.name)
    assert [node.store.path(layer.digest).stat() for layer in node.chain] == before, "not even the time of change"
    info = run("qemu-img", "check", "-U", str(first / "disk.img"))
    assert "No errors" in info
    assert [m.point for m in mounts.list_mounts() if ".labels" in m.point] == []


def test_what_a_crash_left_of_a_mount_is_removed(node: Node) -> None:
    left = node.root / "volumes" / ".labels" / "x"
    left.mkdir()
    mounts._mount("x", str(left), 0, kind="tmpfs")
    (left / "upper").mkdir()
    node.volumes.recover()
    assert os.listdir(left.parent) == []
    assert node.publish().exists()


def test_a_kernel_without_metacopy_gets_layers_that_are_read_only(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = mounts._mount

    def older(*parts: Any, data: str | None = None, **more: Any) -> None:
        if data is not None and "metacopy=on" in data:
            raise MountFailed("cannot mount: Invalid argument")
        mount(*parts, data=data, **more)

    monkeypatch.setattr(mounts, "_mount", older)
    place = node.publish()
    with pytest.raises(OSError, match="Read-only"):
        (place / "chain" / "x").touch()
    assert node.publish() == place, "both forms are complete"


def test_an_overlay_that_could_not_be_created_holds_no_layer(node: Node) -> None:
    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    broken = Volumes(node.root, node.store, full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(broken.publish(HANDLE, node.chain, node.target()))
    assert {layer.links for layer in node.store.held().values()} == {0}


def test_discarding_removes_an_overlay_that_was_never_completed(node: Node) -> None:
    half = node.root / "volumes" / ".new" / HANDLE / "chain"
    half.mkdir(parents=True)
    node.store.link_chain(node.chain, half)
    node.discard()
    assert {layer.links for layer in node.store.held().values()} == {0}


def test_publishing_again_changes_nothing(node: Node) -> None:
    place = node.publish()
    before = (len(mounts.list_mounts()), (place / "disk.img").stat().st_ino)
    for _ in range(3):
        node.publish()
    assert (len(mounts.list_mounts()), (place / "disk.img").stat().st_ino) == before


def test_the_next_pod_finds_what_the_guest_wrote(node: Node) -> None:
    place = node.publish()
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 64k", str(place / "disk.img"))
    node.unpublish()
    assert not place.exists()
    assert node.volumes.overlays() == [Volume(HANDLE, mounted=False)]
    place = node.publish(pod="pod-b")
    assert "read 65536/65536" in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 9 2M 64k", str(place / "disk.img"))


def test_unpublishing_is_idempotent(node: Node) -> None:
    node.unpublish()
    node.publish()
    node.unpublish()
    node.unpublish()
    assert [m for m in mounts.list_mounts() if HANDLE in m.root] == []


@pytest.mark.why("VolumeInUse")
def test_a_second_writer_is_refused(node: Node) -> None:
    node.publish()
    with pytest.raises(VolumeInUse, match="pod-a") as refused:
        node.publish(pod="pod-b")
    explained(refused.value)
    node.unpublish()
    node.publish(pod="pod-b")


@pytest.mark.why("OverlayMismatch")
def test_an_overlay_keeps_its_chain(node: Node) -> None:
    node.publish()
    node.unpublish()
    with pytest.raises(OverlayMismatch) as refused:
        node.publish(chain=node.chain[:2])
    assert "reset" in explained(refused.value)["remedy"]


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "not mounted"])
def test_only_an_unmounted_overlay_is_discarded(node: Node, mounted: bool) -> None:
    node.publish()
    if mounted:
        with pytest.raises(VolumeInUse):
            node.discard()
        assert node.volumes.overlays() == [Volume(HANDLE, mounted=True)]
        node.unpublish()
    else:
        node.unpublish()
    node.discard()
    node.discard()
    assert node.volumes.overlays() == []
    assert {layer.links for layer in node.store.held().values()} == {0}


@pytest.mark.why("VolumeDiscarded")
def test_an_overlay_to_discard_is_not_mounted_again(node: Node) -> None:
    node.volumes.to_discard = frozenset({HANDLE})
    with pytest.raises(VolumeDiscarded) as refused:
        node.publish()
    explained(refused.value)
    assert node.volumes.overlays() == []


def test_layers_count_the_overlays_that_are_based_on_them(node: Node) -> None:
    node.publish()
    node.publish("other.volume.r1", pod="pod-b")
    assert {layer.links for layer in node.store.held().values()} == {2}


def _patched(offset: int, data: bytes) -> Callable[[Path], None]:
    def change(disk: Path) -> None:
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    return change


def _rewrite_backing(name: str) -> Callable[[Path], None]:
    def change(disk: Path) -> None:
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", str(disk))

    return change


def _become_raw(disk: Path) -> None:
    disk.write_bytes(b"\0" * 1024)


def _symlink(disk: Path) -> None:
    disk.rename(disk.with_name("x"))
    disk.symlink_to("/etc/shadow")


def _hard_link(disk: Path) -> None:
    os.link(disk, disk.parents[3] / "second-name")


def _fifo(disk: Path) -> None:
    disk.unlink()
    os.mkfifo(disk)


def _gone(disk: Path) -> None:
    disk.unlink()


HOSTILE: dict[str, Callable[[Path], None]] = {
    "backing file elsewhere on the host": _rewrite_backing("/etc/shadow"),
    "backing file above": _rewrite_backing("../../layers/x.qcow2"),
    "json backing file": _rewrite_backing('json:{"driver":"raw","file":{"filename":"/etc/shadow"}}'),
    "protocol backing file": _rewrite_backing("nbd://127.0.0.1/x"),
    "no backing file": _rewrite_backing(""),
    "external data file bit": _patched(72, struct.pack(">Q", 4)),
    "unknown incompatible bit": _patched(72, struct.pack(">Q", 1 << 40)),
    "corrupt bit": _patched(72, struct.pack(">Q", 2)),
    "encryption": _patched(32, struct.pack(">I", 1)),
    "other virtual size": _patched(24, struct.pack(">Q", 2**40)),
    "internal snapshot": _patched(60, struct.pack(">I", 1)),
    "version 2": _patched(4, struct.pack(">I", 2)),
    "no magic": _patched(0, b"RAW!"),
    "raw": _become_raw,
    "symbolic link": _symlink,
    "hard link": _hard_link,
    "fifo": _fifo,
    "gone": _gone,
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.why("OverlayRejected")
def test_an_overlay_with_a_changed_header_is_never_mounted(node: Node, change: Callable[[Path], None]) -> None:
    node.publish()
    node.unpublish()
    change(node.disk)
    with pytest.raises(OverlayRejected) as refused:
        node.publish()
    assert "reset" in explained(refused.value)["remedy"]
    assert [m for m in mounts.list_mounts() if HANDLE in m.root] == []


@pytest.mark.parametrize("handle", ["", ".", "..", "a/b", "../x", ".new", "A", "x" * 254, "a\0b", "a..b", "ä"])
@pytest.mark.why("VolumeUnknown")
def test_a_handle_that_is_not_a_plain_name_is_refused(node: Node, handle: str) -> None:
    with pytest.raises(VolumeUnknown) as refused:
        node.publish(handle)
    explained(refused.value)
    with pytest.raises(VolumeUnknown):
        node.discard(handle)


def test_the_longest_handle_works(node: Node) -> None:
    handle = "k" * 253
    node.publish(handle)
    node.unpublish(handle)
    node.discard(handle)
    assert node.volumes.overlays() == []


def test_a_foreign_mount_at_the_target_is_left_alone(node: Node) -> None:
    target = Path(node.target())
    target.mkdir(parents=True)
    other = node.pods / "other"
    other.mkdir()
    mounts.bind(str(other), str(target), read_only=False)
    with pytest.raises(VolumeInUse, match="something else"):
        node.publish()
    assert [m.point for m in mounts.list_mounts()].count(str(target)) == 1


@pytest.mark.why("MountFailed")
def test_a_mount_that_is_still_used_stays(node: Node) -> None:
    """A launcher that has not ended yet has the disk open: the kubelet asks again, and then it works."""
    node.publish()
    with Path(node.target(), "disk.img").open("rb"), pytest.raises(MountFailed, match="busy") as refused:
        node.unpublish()
    explained(refused.value)
    node.unpublish()
    assert not Path(node.target()).exists()


def test_a_link_as_target_is_refused_and_links_above_it_are_followed(node: Node, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pods" / "pod-a").mkdir(parents=True)
    Path(node.target()).symlink_to(tmp_path / "elsewhere")
    with pytest.raises((VolumeInUse, OSError)):
        node.publish()
    assert not any(str(tmp_path / "elsewhere") in m.point for m in mounts.list_mounts())
    (tmp_path / "kubelet").symlink_to(tmp_path / "pods")
    asyncio.run(node.volumes.publish(HANDLE, node.chain, str(tmp_path / "kubelet" / "pod-b" / "mount")))
    assert (tmp_path / "pods" / "pod-b" / "mount" / "disk.img").exists()
    asyncio.run(node.volumes.publish(HANDLE, node.chain, str(tmp_path / "pods" / "pod-b" / "mount")))


@pytest.mark.why("VolumeBusy")
def test_two_operations_on_one_volume_do_not_mix(node: Node) -> None:
    async def both() -> list[BaseException | None]:
        calls = [node.volumes.publish(HANDLE, node.chain, node.target()) for _ in range(2)]
        return await asyncio.gather(*calls, return_exceptions=True)

    results = asyncio.run(both())
    (refused,) = (result for result in results if result is not None)
    assert isinstance(refused, VolumeBusy)
    explained(refused)


def test_a_healed_layer_replaces_the_damaged_one_under_an_unmounted_overlay(
    node: Node, chain_files: list[LayerFile]
) -> None:
    node.publish()
    node.unpublish()
    layer = chain_files[1].layer
    node.store.quarantine(layer.digest)
    with pytest.raises(KigiError):
        node.publish()
    shutil.copy(chain_files[1].path, node.store.path(layer.digest))
    assert node.store.verify(layer)
    place = node.publish()
    linked = place / "chain" / f"{digest_hex(layer.digest)}.qcow2"
    assert linked.stat().st_ino == node.store.path(layer.digest).stat().st_ino


def test_a_mount_that_lacks_its_chain_is_completed(node: Node) -> None:
    place = node.publish()
    mounts.unmount(str(place / "chain"))
    node.publish()
    assert [m.point for m in mounts.list_mounts() if m.point.startswith(str(place))] == [
        str(place),
        str(place / "chain"),
    ]


def test_leftovers_of_a_crash_are_removed_at_start(node: Node, tmp_path: Path, chain_files: list[LayerFile]) -> None:
    node.publish()
    for name in (".new/half", ".old/half"):
        (node.root / "volumes" / name / "chain").mkdir(parents=True)
        node.store.link_chain(node.chain, node.root / "volumes" / name / "chain")
    node = start(tmp_path, chain_files)
    assert node.volumes.overlays() == [Volume(HANDLE, mounted=True)]
    assert {layer.links for layer in node.store.held().values()} == {1}


# The way back to the previous release.


def going_back(node: Node) -> Volumes:
    """The daemon, started with KIGI_OVERLAY_FORM=v1alpha1."""
    volumes = Volumes(node.root, node.store, create_overlay, goes_back=True)
    volumes.recover()
    return volumes


def test_an_overlay_goes_back_when_it_is_not_mounted_and_forth_when_it_is_mounted_again(node: Node) -> None:
    place = node.publish()
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 64k", str(place / "disk.img"))
    directory = node.root / "volumes" / HANDLE
    volumes = going_back(node)
    assert (directory / "mount").exists(), "its VM runs"
    with pytest.raises(Waiting, match="KIGI_OVERLAY_FORM"):
        asyncio.run(volumes.publish(HANDLE, node.chain, node.target()))
    asyncio.run(volumes.unpublish(HANDLE, node.target()))
    assert sorted(os.listdir(directory)) == ["chain", "disk.img"]
    assert len(os.listdir(directory / "chain")) == len(node.chain)
    place = node.publish(pod="pod-b")
    assert "read 65536/65536" in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 9 2M 64k", str(place / "disk.img"))
    assert sorted(os.listdir(directory)) == ["chain", "mount"]


STEPS_BACK = 4
"""Changes of ``make_earlier``: two renames, and two removals in the former mount."""


@pytest.mark.parametrize("died_before", range(STEPS_BACK))
def test_an_overlay_on_its_way_back_survives_a_crash_at_each_step(
    node: Node, died_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = node.publish()
    run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 64k", str(place / "disk.img"))
    node.unpublish()
    directory = node.root / "volumes" / HANDLE
    left = died_before

    class Death(BaseException):
        pass

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def step(path: str | Path, *others: object, **options: object) -> None:
            nonlocal left
            if HANDLE in str(path) or options.get("dir_fd") is not None:
                if left == 0:
                    raise Death
                left -= 1
            call(path, *others, **options)

        return step

    with monkeypatch.context() as patched:
        for name in ("rename", "rmdir"):
            patched.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(Death):
            going_back(node)
    if died_before % 2:
        going_back(node)
        assert sorted(os.listdir(directory)) == ["chain", "disk.img"]
    place = node.publish(pod="pod-b")
    assert "read 65536/65536" in run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 9 2M 64k", str(place / "disk.img"))
