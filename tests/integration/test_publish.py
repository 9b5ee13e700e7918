"""Publishing real images into a real S3 server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from kigi.adapters.qemu_img import QemuImgFailed
from kigi.adapters.s3 import LayerBucket, open_repository
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, digest_hex, digest_of_hex, object_key
from kigi.domain.qcow2 import parse_header
from kigi.errors import (
    AccessDenied,
    KigiError,
    LayerCorrupt,
    RepositoryUnknown,
    RepositoryUnreachable,
    SpecInvalid,
    VirtualSizeShrinks,
)
from kigi.publishing.image_tree import publish_tree
from kigi.publishing.layer_folder import LayerFolder
from kigi.publishing.publish import publish_image
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.cluster import eventually
from tests.support.layers import environment
from tests.support.why import explained

MIB = 2**20


@asynccontextmanager
async def repository(s3: S3Server, bucket: str, **changes: str) -> AsyncIterator[LayerBucket]:
    env = {**environment(s3), **changes}
    async with open_repository(Repository(endpoint=s3.endpoint, bucket=bucket), env) as opened:
        yield opened


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def raw_image(path: Path, size_bytes: int = 8 * MIB, seed: int = 0) -> Path:
    """A disk with data, holes and zeros that were written."""
    noise = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.write(noise.randbytes(300_000))
        file.seek(size_bytes // 2)
        file.write(noise.randbytes(100_000) + bytes(100_000))
    return path


def as_qcow2(raw: Path) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, raw.with_suffix(".qcow2"))
    return raw.with_suffix(".qcow2")


def as_vmdk(raw: Path) -> Path:
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", raw, raw.with_suffix(".vmdk"))
    return raw.with_suffix(".vmdk")


def as_stream_vmdk(raw: Path) -> Path:
    target = raw.with_suffix(".vmdk")
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, target)
    return target


def as_compressed_qcow2(raw: Path) -> Path:
    target = raw.with_suffix(".qcow2")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", raw, target)
    return target


def as_chain(raw: Path) -> Path:
    base = as_qcow2(raw)
    top = raw.with_name("top.qcow2")
    run("qemu-img", "create", "-f", "qcow2", "-b", base.name, "-F", "qcow2", top)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", top)
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", raw)
    return top


@pytest.mark.parametrize("convert", [lambda raw: raw, as_qcow2, as_vmdk, as_stream_vmdk, as_compressed_qcow2, as_chain])
async def test_every_source_format_keeps_what_the_guest_sees(
    s3: S3Server, bucket: str, tmp_path: Path, convert: Callable[[Path], Path]
) -> None:
    raw = raw_image(tmp_path / "disk.raw")
    source = convert(raw)
    folder = LayerFolder(tmp_path / "layers")
    async with repository(s3, bucket) as store:
        done = await publish_image(source, folder, store)
    stored = s3.data / bucket / object_key(done.layer.digest)
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest_hex(done.layer.digest)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, stored)
    run("qemu-img", "check", "-f", "qcow2", stored)
    assert parse_header(stored.read_bytes()[:65536]).backing_file is None


async def test_a_difference_holds_only_the_clusters_that_differ(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    base = raw_image(tmp_path / "base.raw")
    child = tmp_path / "child.raw"
    child.write_bytes(base.read_bytes())
    with child.open("r+b") as file:
        file.seek(3 * 65536)
        file.write(b"changed")
        file.seek(4 * MIB)
        file.write(bytes(65536))
    folder = LayerFolder(tmp_path / "layers")
    async with repository(s3, bucket) as store:
        parent = await publish_image(base, folder, store)
        done = await publish_image(child, folder, store, parent=parent.layer.digest)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", child, folder.file(done.layer.digest))
    # Header, refcount table, refcount block, L1 and L2 table, and one cluster of data; zeros take none.
    assert done.layer.size_bytes == 6 * 65536
    assert done.layer.parent == parent.layer.digest


async def test_equal_disks_give_equal_digests(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    raw = raw_image(tmp_path / "disk.raw")
    sources = [raw, as_qcow2(raw), as_vmdk(raw)]
    async with repository(s3, bucket) as store:
        done = [await publish_image(path, LayerFolder(tmp_path / f"{path.suffix}"), store) for path in sources]
    assert len({published.layer.digest for published in done}) == 1
    assert [published.sent for published in done] == [True, False, False]


async def test_a_parents_chain_is_fetched_and_verified(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    base = raw_image(tmp_path / "base.raw")
    child = raw_image(tmp_path / "child.raw", seed=1)
    async with repository(s3, bucket) as store:
        parent = await publish_image(base, LayerFolder(tmp_path / "one"), store)
        done = await publish_image(child, LayerFolder(tmp_path / "two"), store, parent=parent.layer.digest)
        assert (tmp_path / "two" / f"{digest_hex(parent.layer.digest)}.qcow2").exists()
        grandchild = await publish_image(base, LayerFolder(tmp_path / "three"), store, parent=done.layer.digest)
    run(
        "qemu-img",
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        base,
        tmp_path / "three" / f"{digest_hex(grandchild.layer.digest)}.qcow2",
    )
    stored = s3.data / bucket / object_key(parent.layer.digest)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    async with repository(s3, bucket) as store:
        with pytest.raises(LayerCorrupt, match=digest_hex(parent.layer.digest)):
            await publish_image(child, LayerFolder(tmp_path / "four"), store, parent=parent.layer.digest)
    assert not list((tmp_path / "four").glob("*.qcow2"))


async def test_growing_is_allowed_and_shrinking_is_not(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    base = raw_image(tmp_path / "base.raw", 8 * MIB)
    async with repository(s3, bucket) as store:
        folder = LayerFolder(tmp_path / "layers")
        parent = (await publish_image(base, folder, store)).layer.digest
        larger = await publish_image(raw_image(tmp_path / "l.raw", 12 * MIB + 512), folder, store, parent=parent)
        assert larger.layer.virtual_size_bytes == 12 * MIB + 512
        with pytest.raises(VirtualSizeShrinks, match="qemu-img resize"):
            await publish_image(raw_image(tmp_path / "s.raw", 4 * MIB), folder, store, parent=parent)


def encrypted(path: Path) -> None:
    """qemu-img measures its processor for this, and fails at times ("Unable to get accurate CPU usage")."""
    luks = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    command = ("qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", luks, path, "1M")
    for _ in range(4):
        with contextlib.suppress(subprocess.CalledProcessError):
            run(*command)
            return
    run(*command)


def with_data_file(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={path}.data,data_file_raw=on", path, "1M")


def with_snapshot(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", path, "1M")
    run("qemu-img", "snapshot", "-c", "one", path)


def with_backing(name: str, backing_format: str = "qcow2") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        run("qemu-img", "create", "-f", "qcow2", "-u", "-b", name, "-F", backing_format, path, "1M")

    return make


def beside(path: Path) -> None:
    """A backing file that seems to lie beside the image, but is a link to one elsewhere."""
    secret = elsewhere(path.parent) / "secret.qcow2"
    run("qemu-img", "create", "-f", "qcow2", secret, "1M")
    (path.parent / "base.qcow2").symlink_to(secret)
    with_backing("base.qcow2")(path)


def elsewhere(tmp_path: Path) -> Path:
    """A folder that is not below ``tmp_path``."""
    folder = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    folder.mkdir()
    return folder


def raw_beside(path: Path) -> None:
    (path.parent / "base.raw").write_bytes(bytes(2**20))
    with_backing("base.raw", "raw")(path)


def flat_vmdk(path: Path) -> None:
    """The descriptor of a disk whose only extent is a file of the host."""
    kind = 'createType="monolithicFlat"'
    path.write_text(
        f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{kind}\nRW 1 FLAT "/etc/hostname" 0\n'
    )


def sparse_vmdk(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        run("qemu-img", "create", "-f", "vmdk", "-o", "subformat=monolithicSparse", path, "1M")
        path.write_bytes(change(path.read_bytes()))

    return make


def in_descriptor(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new.ljust(len(old), b"\n"), 1)

    return change


def without_capacity(content: bytes) -> bytes:
    """Then QEMU takes the extents from the descriptor, and that names the host's files."""
    return content[:12] + bytes(8) + content[20:]


def of_an_exbibyte(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        file.seek(24)
        file.write((2**60).to_bytes(8, "big"))


def empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(encrypted, "encrypted", id="encrypted"),
        pytest.param(with_data_file, "another file", id="data-file"),
        pytest.param(with_snapshot, "snapshots", id="snapshot"),
        pytest.param(with_backing("json:{}"), "plain file name", id="json"),
        pytest.param(with_backing("nbd://127.0.0.1:1"), "plain file name", id="nbd"),
        pytest.param(with_backing("NBD+unix:///?socket=x"), "plain file name", id="upper-case-protocol"),
        pytest.param(with_backing("1:x"), "plain file name", id="colon"),
        pytest.param(with_backing("/etc/hostname"), "outside the image's folder", id="host-file"),
        pytest.param(with_backing("../../../../../../etc/hostname"), "outside", id="dot-dot"),
        pytest.param(with_backing("source.img"), "lead back", id="itself"),
        pytest.param(raw_beside, "as b'raw', not qcow2", id="backing-format-raw"),
        pytest.param(beside, "outside the image's folder", id="link-to-elsewhere"),
        pytest.param(flat_vmdk, "not a sparse VMDK", id="vmdk-flat-extent"),
        pytest.param(sparse_vmdk(without_capacity), "names its extents", id="vmdk-without-capacity"),
        pytest.param(
            sparse_vmdk(in_descriptor(b"# Extent description", b'parentFileNameHint="x')),
            "above a parent",
            id="vmdk-parent-file",
        ),
        pytest.param(sparse_vmdk(in_descriptor(b"CID=ffffffff", b"CID=12345678")), "above a parent", id="vmdk-parent"),
        pytest.param(
            sparse_vmdk(in_descriptor(b'"monolithicSparse"', b'"monolithicFlat"')), "another type", id="vmdk-type"
        ),
        pytest.param(of_an_exbibyte, "at most", id="exbibyte"),
        pytest.param(Path.mkdir, "not a regular file", id="folder"),
        pytest.param(os.mkfifo, "not a regular file", id="pipe"),
        pytest.param(with_backing("absent.qcow2"), "cannot be read", id="absent"),
        pytest.param(empty, "not empty", id="empty"),
    ],
)
async def test_a_source_that_may_not_be_opened_is_refused_with_its_name(
    s3: S3Server, bucket: str, tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "source.img"
    make(path)
    async with repository(s3, bucket) as store:
        with pytest.raises(SpecInvalid, match=says):
            await publish_image(path, LayerFolder(tmp_path / "layers"), store)
    assert not list((s3.data / bucket).rglob("*.qcow2"))


@pytest.mark.why("QemuImgFailed")
async def test_what_qemu_cannot_read_is_refused_with_its_words(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    path = as_stream_vmdk(raw_image(tmp_path / "disk"))
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(64 * 1024) + content[middle + 64 * 1024 :])
    async with repository(s3, bucket) as store:
        with pytest.raises(QemuImgFailed, match="qemu-img") as caught:
            await publish_image(path, LayerFolder(tmp_path / "layers"), store)
    assert explained(caught.value)["reason"] == "QemuImgFailed"
    assert not list((s3.data / bucket).rglob("*.qcow2"))


async def test_publishers_of_one_layer_do_not_disturb_each_other(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    source = raw_image(tmp_path / "disk.raw")
    async with repository(s3, bucket) as store:
        done = await asyncio.gather(*(publish_image(source, LayerFolder(tmp_path / f"l{n}"), store) for n in range(4)))
    assert len({published.layer.digest for published in done}) == 1
    assert (s3.data / bucket / object_key(done[0].layer.digest)).stat().st_size == done[0].layer.size_bytes


async def test_a_stored_object_is_never_overwritten(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    source = raw_image(tmp_path / "disk.raw")
    async with repository(s3, bucket) as store:
        digest = (await publish_image(source, LayerFolder(tmp_path / "layers"), store)).layer.digest
        stored = s3.data / bucket / object_key(digest)
        stored.write_bytes(b"damaged")
        with pytest.raises(LayerCorrupt, match="7 bytes instead of"):
            await publish_image(source, LayerFolder(tmp_path / "layers"), store)
    assert stored.read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("bucket_name", "changes", "error"),
    [("no-such-bucket", {}, RepositoryUnknown), (None, {"AWS_SECRET_ACCESS_KEY": "wrong"}, AccessDenied)],
)
async def test_each_fault_of_the_repository_has_its_own_error(
    s3: S3Server, bucket: str, tmp_path: Path, bucket_name: str | None, changes: dict[str, str], error: type[KigiError]
) -> None:
    async with repository(s3, bucket_name or bucket, **changes) as store:
        with pytest.raises(error):
            await publish_image(raw_image(tmp_path / "disk.raw"), LayerFolder(tmp_path / "layers"), store)


def command_line(s3: S3Server, bucket: str, tmp_path: Path, *arguments: str) -> tuple[dict[str, str], list[str]]:
    env = {**os.environ, **environment(s3), "KIGI_S3_ENDPOINT": s3.endpoint, "KIGI_S3_BUCKET": bucket}
    command = [sys.executable, "-m", "kigi.cli.main", *arguments, "--layers-dir", str(tmp_path / "layers")]
    return env, command


def on_each_part(store: LayerBucket, call: Callable[[], None]) -> None:
    """``call`` before each part is sent."""
    store._client.meta.events.register("before-call.s3.UploadPart", lambda **_: call())


async def upload_calls(s3: S3Server, bucket: str, tmp_path: Path) -> int:
    """Publish the killed publisher's only layer again; the number of parts that were sent."""
    sent: list[None] = []
    (path,) = (tmp_path / "layers").glob("*.qcow2")
    async with repository(s3, bucket) as store:
        on_each_part(store, lambda: sent.append(None))
        assert await store.publish(path, digest_of_hex(path.stem))
    return len(sent)


def test_a_killed_upload_resumes_where_it_stopped(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(random.Random(5).randbytes(120 * MIB))
    env, command = command_line(s3, bucket, tmp_path, "publish", str(source), "--name", "big")
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def parts() -> list[Path]:
        return [path for path in (s3.data / bucket).rglob("*") if path.is_file() and path.stat().st_size == 16 * MIB]

    eventually(lambda: len(parts()) >= 2 or first.poll() is not None, timeout_s=120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = parts()
    assert 2 <= len(left) <= 7, "killed in the middle"
    sent = asyncio.run(upload_calls(s3, bucket, tmp_path))
    # One that was on its way when the sender died may arrive after it.
    assert 1 <= sent <= 8 - len(left), "parts that had arrived are not sent again"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    made = yaml.safe_load(done.stdout)
    digest = Digest(made["spec"]["layer"]["digest"])
    stored = s3.data / bucket / object_key(digest)
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest_hex(digest)
    assert stored.stat().st_size == made["spec"]["layer"]["sizeBytes"]


async def test_a_server_that_stops_during_an_upload_is_reported_and_the_upload_resumes(tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(random.Random(6).randbytes(100 * MIB))
    folder = LayerFolder(tmp_path / "layers")
    with S3Server(tmp_path / "s3") as own:
        bucket = own.create_bucket("layers")
        calls: list[None] = []

        def stop_at_the_sixth() -> None:
            calls.append(None)
            if len(calls) == 6:
                own.stop()

        async with repository(own, bucket) as store:
            on_each_part(store, stop_at_the_sixth)
            with pytest.raises(RepositoryUnreachable, match="goes on from here"):
                await publish_image(source, folder, store)
        own.start()
        calls.clear()
        async with repository(own, bucket) as store:
            on_each_part(store, lambda: calls.append(None))
            done = await publish_image(source, folder, store)
        stored = own.data / bucket / object_key(done.layer.digest)
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest_hex(done.layer.digest)
    assert done.sent and len(calls) < 7


async def test_publishers_that_send_parts_of_one_layer_end_with_one_object(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(random.Random(7).randbytes(50 * MIB))

    async def one(number: int) -> Digest:
        async with repository(s3, bucket) as store:
            return (await publish_image(source, LayerFolder(tmp_path / f"l{number}"), store)).layer.digest

    digests = set(await asyncio.gather(*map(one, range(3))))
    assert len(digests) == 1
    stored = s3.data / bucket / object_key(digests.pop())
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == stored.name


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink, Path.mkdir])
async def test_a_damaged_parent_in_the_folder_is_fetched_again(
    s3: S3Server, bucket: str, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    base, child = raw_image(tmp_path / "base.raw"), raw_image(tmp_path / "child.raw", seed=1)
    async with repository(s3, bucket) as store:
        parent = (await publish_image(base, LayerFolder(tmp_path / "layers"), store)).layer.digest
        right = (await publish_image(child, LayerFolder(tmp_path / "other"), store, parent=parent)).layer.digest
        held = LayerFolder(tmp_path / "layers").file(parent)
        if damage is Path.mkdir:
            held.unlink()
        damage(held)
        folder = LayerFolder(tmp_path / "layers")
        if damage is Path.mkdir:
            with pytest.raises(SpecInvalid, match="cannot be written"):
                await publish_image(child, folder, store, parent=parent)
            return
        done = await publish_image(child, folder, store, parent=parent)
    assert done.layer.digest == right
    assert hashlib.sha256(held.read_bytes()).hexdigest() == digest_hex(parent)


async def test_what_lies_in_the_file_but_not_on_the_disk_is_not_published(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    image = as_qcow2(raw_image(tmp_path / "disk.raw"))
    async with repository(s3, bucket) as store:
        clean = await publish_image(image, LayerFolder(tmp_path / "one"), store)
        image.write_bytes(image.read_bytes() + b"left by a guest ".ljust(65536))
        done = await publish_image(image, LayerFolder(tmp_path / "two"), store)
    assert done.layer == clean.layer and not done.sent


async def test_backing_files_of_another_folder_are_read_if_it_is_named(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    base = as_qcow2(raw_image(elsewhere(tmp_path) / "base.raw"))
    top = tmp_path / "top.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    folder = LayerFolder(tmp_path / "layers")
    async with repository(s3, bucket) as store:
        with pytest.raises(SpecInvalid, match="--backing-dir"):
            await publish_image(top, folder, store)
        done = await publish_image(top, folder, store, backing_dirs=[base.parent])
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", base, folder.file(done.layer.digest))


def test_the_command_publishes_each_level_as_an_image(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    top = as_chain(raw_image(tmp_path / "disk.raw"))
    flags = ["--name", "web", "--levels", "--endpoint", s3.endpoint, "--bucket", bucket]
    env, command = command_line(s3, "another-bucket", tmp_path, "publish", str(top), *flags)
    env["KIGI_S3_ENDPOINT"] = "http://127.0.0.1:9"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    root, child = yaml.safe_load_all(done.stdout)
    assert [root["metadata"]["name"], child["metadata"]["name"]] == ["web-level0", "web"]
    assert "parentRef" not in root["spec"] and child["spec"]["parentRef"] == {"name": "web-level0"}
    file = LayerFolder(tmp_path / "layers").file(Digest(child["spec"]["layer"]["digest"]))
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", top, file)
    assert file.stat().st_size == child["spec"]["layer"]["sizeBytes"] == 6 * 65536


def test_the_command_applies_an_image_and_finds_its_parent(
    crds: ControlPlane, namespace: str, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    base, child = raw_image(tmp_path / "base.raw"), raw_image(tmp_path / "child.raw", seed=1)

    def publish(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        arguments = ["publish", str(path), "--apply", "--namespace", namespace, *flags]
        env, command = command_line(s3, bucket, tmp_path, *arguments)
        env["KUBECONFIG"] = str(crds.kubeconfig)
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    facts = ("--os", "Debian 12", "--architecture", "amd64", "--firmware", "BIOS")
    early = publish(child, "--name", "web", "--parent", "debian")
    assert early.returncode == 1
    assert early.stderr == f"kigi: ImageMissing: --parent: VMImageNode {namespace}/debian does not exist\n"
    for _ in range(2):
        assert publish(base, "--name", "debian", *facts).returncode == 0
    done = publish(child, "--name", "web", "--parent", "debian")
    assert done.returncode == 0, done.stderr
    images = json.loads(crds.kubectl("get", "vmimagenodes", "-n", namespace, "-o", "json"))["items"]
    specs = {image["metadata"]["name"]: image["spec"] for image in images}
    assert specs["web"]["parentRef"] == {"name": "debian"} and specs["debian"]["guest"] == {
        "os": "Debian 12",
        "architecture": "amd64",
        "firmware": "BIOS",
    }
    layers = LayerFolder(tmp_path / "layers")
    stored = layers.file(Digest(specs["web"]["layer"]["digest"]))
    assert parse_header(stored.read_bytes()[:65536]).backing_file == (
        layers.file(Digest(specs["debian"]["layer"]["digest"])).name
    )
    again = publish(child, "--name", "debian")
    assert again.returncode == 1 and "immutable" in again.stderr.lower(), again.stderr


async def test_a_folder_names_only_its_own_files(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    raw_image(tmp_path / "secret.raw")
    (tmp_path / "folder").mkdir()
    images = [{"name": "base", "parent": None, "file": "../secret.raw"}]
    (tmp_path / "folder" / "manifest.json").write_text(json.dumps({"images": images}))
    async with repository(s3, bucket) as store:
        with pytest.raises(SpecInvalid, match="lies outside the folder"):
            await publish_tree(tmp_path / "folder", LayerFolder(tmp_path / "layers"), store)


async def test_a_folder_of_images_becomes_a_tree(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    base = as_qcow2(raw_image(tmp_path / "base.raw"))
    names = ["base"]
    for number in range(3):
        run(
            "qemu-img",
            "create",
            "-f",
            "qcow2",
            "-b",
            f"{names[-1]}.qcow2",
            "-F",
            "qcow2",
            tmp_path / f"level{number}.qcow2",
        )
        run("qemu-io", "-f", "qcow2", "-c", f"write -P {number + 1} {number}M 4k", tmp_path / f"level{number}.qcow2")
        names.append(f"level{number}")
    images = [
        {"name": name, "parent": names[i - 1] if i else None, "file": f"{name}.qcow2"} for i, name in enumerate(names)
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"images": images}))
    assert base.exists()
    folder = LayerFolder(tmp_path / "layers")
    async with repository(s3, bucket) as store:
        objects = await publish_tree(tmp_path, folder, store)
        again = await publish_tree(tmp_path, LayerFolder(tmp_path / "other"), store)
    assert [made["metadata"]["name"] for made in objects] == names
    assert objects == again
    top = Digest(objects[-1]["spec"]["layer"]["digest"])
    run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", tmp_path / "level2.qcow2", folder.file(top))


def test_the_command_reports_an_error_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kigi.cli.main", "publish", str(tmp_path / "absent"), "--name", "x"]
    env = {
        **os.environ,
        "KIGI_S3_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kigi: SpecInvalid: ")
    assert "absent" in done.stderr
