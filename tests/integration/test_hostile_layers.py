"""Corrupt, truncated, swapped and hostile layers: never held, never mounted, always reported."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi.api.node_cache import CachedLayer
from kigi.domain.layers import Chain, Digest, Layer, layer_file_name, object_key
from kigi.errors import KigiError, LayerCorrupt, LayerMissing, LayerRefused, OverlayRejected
from kigi_cache.disks import mounts
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.store import Store
from localcluster.s3 import S3Server
from tests.support.cluster import eventually_async
from tests.support.filling import filling, states
from tests.support.hostile import BODY_CASES, HEADER_CASES, NODE_CASES, HeaderCase, NodeCase, apply
from tests.support.layers import environment, make_chain, repositories, upload, wanted
from tests.support.mountns import private_mounts
from tests.support.why import explained

HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"
LAYER_BYTES = 192 * 1024


def content_of(directory: Path, layer: Layer) -> bytes:
    return (directory / layer_file_name(layer.digest)).read_bytes()


def layer_of(content: bytes, like: Layer, size_bytes: int | None = None) -> Layer:
    """The layer that an attacker declares: the digest is that of the bytes, all else is as in a right one."""
    digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
    size = len(content) if size_bytes is None else size_bytes
    return Layer(digest, size, like.virtual_size_bytes, like.parent)


@dataclass(frozen=True)
class Attack:
    """The state of a node after it tried to fetch all hostile layers."""

    errors: dict[str, list[KigiError]]
    states: dict[str, str]
    messages: dict[str, str]
    root: Path


async def _attack(s3: S3Server, directory: Path, objects: dict[str, tuple[Layer, bytes]]) -> Attack:
    """Serve each object under its layer's key, request all layers, and wait until each was refused."""
    bucket = s3.create_bucket(f"hostile-{directory.name}")
    for layer, served in objects.values():
        path = s3.data / bucket / object_key(layer.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(served)
    digests = {layer.digest: name for name, (layer, _) in objects.items()}
    assert len(digests) == len(objects)
    root = directory / "node"
    async with filling(root, repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(tuple(layer for layer, _ in objects.values())))
        found: dict[str, CachedLayer] = {}

        def all_refused() -> bool:
            """Each was Refused at some moment; a layer that is retried is not."""
            found.update({layer.digest: layer for layer in filler.snapshot().layers if layer.state == "Refused"})
            return len(errors) == len(found) == len(objects)

        await eventually_async(all_refused, 120)
        for layer, _ in objects.values():
            with pytest.raises(LayerMissing):
                filler.store.link_chain((layer,), directory)
    return Attack(
        {digests[digest]: found for digest, found in errors.items()},
        {digests[Digest(digest)]: layer.state for digest, layer in found.items()},
        {digests[Digest(digest)]: layer.message or "" for digest, layer in found.items()},
        root,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chain]:
    directory = tmp_path_factory.mktemp("right")
    return directory, make_chain(directory, 3, LAYER_BYTES)


@pytest.fixture(scope="module")
async def header_attack(s3: S3Server, files: tuple[Path, Chain], tmp_path_factory: pytest.TempPathFactory) -> Attack:
    directory, chain = files
    right = content_of(directory, chain[1])
    objects = {}
    for case in HEADER_CASES:
        hostile = apply(case, right)
        if hostile:  # a NodeCache cannot ask for a layer of no bytes
            objects[case.name] = (layer_of(hostile, chain[1]), hostile)
    return await _attack(s3, tmp_path_factory.mktemp("headers"), objects)


@pytest.mark.parametrize("case", [case for case in HEADER_CASES if case.name != "nothing"], ids=lambda case: case.name)
@pytest.mark.why("LayerRefused")
async def test_a_hostile_layer_with_a_right_digest_is_refused_with_its_rule(
    header_attack: Attack, case: HeaderCase
) -> None:
    (error,) = header_attack.errors[case.name]
    assert isinstance(error, LayerRefused)
    assert "kigi publish" in explained(error)["remedy"]
    assert error.rule in case.rules
    assert header_attack.states[case.name] == "Refused"
    assert f"({error.rule})" in header_attack.messages[case.name]


@pytest.fixture(scope="module")
async def body_attack(s3: S3Server, files: tuple[Path, Chain], tmp_path_factory: pytest.TempPathFactory) -> Attack:
    directory, chain = files
    right, other = content_of(directory, chain[1]), content_of(directory, chain[2])
    objects = {}
    for number, case in enumerate(BODY_CASES):
        own = right[:-1000] + number.to_bytes(2, "big") + right[-998:]
        served = case.change(own, other)
        assert served != own
        objects[case.name] = (layer_of(own, chain[1]), served)
    for name, by in (("declared-one-byte-less", -1), ("declared-one-byte-more", 1), ("declared-a-gigabyte", 2**29)):
        own = right[:-1000] + name.encode() + right[-1000 + len(name) :]
        objects[name] = (layer_of(own, chain[1], len(own) + by), own)
    return await _attack(s3, tmp_path_factory.mktemp("bodies"), objects)


DECLARED = ["declared-one-byte-less", "declared-one-byte-more", "declared-a-gigabyte"]


@pytest.mark.parametrize("name", [*(case.name for case in BODY_CASES), *DECLARED])
async def test_bytes_without_the_right_digest_are_corrupt(body_attack: Attack, name: str) -> None:
    (error,) = body_attack.errors[name]
    assert isinstance(error, LayerCorrupt)
    assert body_attack.states[name] == "Refused"
    assert body_attack.messages[name]


async def test_no_hostile_layer_is_left_in_the_cache(header_attack: Attack, body_attack: Attack) -> None:
    for attack in (header_attack, body_attack):
        assert list((attack.root / "layers").iterdir()) == []
        assert len(list((attack.root / "quarantine").iterdir())) <= 4


def test_there_are_enough_kinds() -> None:
    names = [case.name for case in HEADER_CASES] + [case.name for case in BODY_CASES] + DECLARED
    names += [case.name for case in NODE_CASES]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("when", ["running", "stopped"])
@pytest.mark.parametrize("case", NODE_CASES, ids=lambda case: case.name)
@pytest.mark.why("LayerMissing")
async def test_whatever_lies_in_place_of_a_held_layer_is_never_linked_and_heals(
    s3: S3Server, bucket: str, files: tuple[Path, Chain], tmp_path: Path, case: NodeCase, when: str
) -> None:
    directory, chain = files
    upload(s3, bucket, directory, chain)
    settings, env = repositories(s3.endpoint, bucket), environment(s3)
    right = content_of(directory, chain[1])
    volume = tmp_path / "volume"
    volume.mkdir()
    async with filling(tmp_path / "node", settings, env) as (filler, _):
        filler.want(wanted(chain))
        await filler.ensure(chain)
        path = filler.store.path(chain[1].digest)
        if when == "running":
            path.chmod(0o644)
            case.change(path)
            with pytest.raises(LayerMissing) as missing:
                filler.store.link_chain(chain, volume)
            explained(missing.value)
            await filler.ensure(chain)
            assert path.read_bytes() == right
    if when == "stopped":
        path.chmod(0o644)
        case.change(path)
        store = Store(tmp_path / "node")
        store.recover()
        with pytest.raises(LayerMissing) as missing:
            store.link_chain(chain, volume)
        explained(missing.value)
        async with filling(tmp_path / "node", settings, env) as (filler, _):
            filler.want(wanted(chain))
            await filler.ensure(chain)
            assert set(states(filler).values()) == {"Held"}
    assert list(volume.iterdir()) == []
    assert path.read_bytes() == right and not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o444
    assert Path("/dev/zero").is_char_device()


@pytest.mark.parametrize("case", [case for case in NODE_CASES if case.name != "gone"], ids=lambda case: case.name)
async def test_whatever_lies_in_place_of_a_part_never_becomes_a_layer(
    s3: S3Server, bucket: str, files: tuple[Path, Chain], tmp_path: Path, case: NodeCase
) -> None:
    directory, chain = files
    upload(s3, bucket, directory, chain)
    store = Store(tmp_path / "node")
    store.recover()
    right = content_of(directory, chain[0])
    part = store.part_path(chain[0].digest)
    part.write_bytes(right)
    case.change(part)
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, _):
        filler.want(wanted(chain[:1]))
        await eventually_async(lambda: states(filler) == {chain[0].digest: "Held"})
    path = store.path(chain[0].digest)
    assert path.read_bytes() == right and not path.is_symlink()


@pytest.mark.parametrize(
    "name",
    [
        "x.qcow2",
        "A" * 64 + ".qcow2",
        "a" * 63 + ".qcow2",
        "a" * 64,
        "a" * 64 + ".raw",
        "a" * 64 + ".qcow2.qcow2",
        "\N{CYRILLIC SMALL LETTER A}" * 64 + ".qcow2",
        " " + "a" * 63 + ".qcow2",
        "١" * 64 + ".qcow2",
    ],
)
def test_a_file_without_a_digest_as_its_name_is_removed(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "node")
    store.recover()
    if len(name.encode()) > 255:
        name = name[-70:]
    (store.layers / name).write_bytes(b"x")
    assert store.recover() == []
    assert list(store.layers.iterdir()) == []


@dataclass
class Overlay:
    """An unmounted overlay with its right content."""

    volumes: Volumes
    chain: Chain
    disk: Path
    right: bytes


@pytest.fixture(scope="module")
def overlay(files: tuple[Path, Chain], tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    directory, chain = files
    node = tmp_path_factory.mktemp("overlay")
    store = Store(node / "cache")
    store.recover()
    for layer in chain:
        shutil.copy(directory / layer_file_name(layer.digest), store.path(layer.digest))
        assert store.verify(layer)
    volumes = Volumes(store.root, store, create_overlay)
    volumes.recover()
    with private_mounts():
        asyncio.run(volumes.publish(HANDLE, chain, str(node / "mount")))
        asyncio.run(volumes.unpublish(HANDLE, str(node / "mount")))
    disk = store.root / "volumes" / HANDLE / "mount" / "disk.img"
    return Overlay(volumes, chain, disk, disk.read_bytes())


@pytest.fixture
def _private() -> Iterator[None]:
    with private_mounts():
        yield


@pytest.mark.usefixtures("_private")
@pytest.mark.parametrize("case", HEADER_CASES, ids=lambda case: case.name)
def test_a_header_that_a_guest_wrote_is_never_mounted(overlay: Overlay, tmp_path: Path, case: HeaderCase) -> None:
    overlay.disk.write_bytes(apply(case, overlay.right))
    with pytest.raises(OverlayRejected, match="reset the machine") as refusal:
        asyncio.run(overlay.volumes.publish(HANDLE, overlay.chain, str(tmp_path / "mount")))
    assert any(f"({rule})" in str(refusal.value) for rule in case.rules)
    assert [mount for mount in mounts.list_mounts() if HANDLE in mount.root] == []
    assert not (tmp_path / "mount").exists()


@pytest.mark.usefixtures("_private")
def test_an_overlay_with_its_right_header_is_mounted(overlay: Overlay, tmp_path: Path) -> None:
    """Otherwise the refusals above could have another cause."""
    overlay.disk.write_bytes(overlay.right)
    asyncio.run(overlay.volumes.publish(HANDLE, overlay.chain, str(tmp_path / "mount")))
    assert (tmp_path / "mount" / "disk.img").exists()
    asyncio.run(overlay.volumes.unpublish(HANDLE, str(tmp_path / "mount")))
