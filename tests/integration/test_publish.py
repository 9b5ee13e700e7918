"""Publishing real images into a real S3 server."""

from __future__ import annotations

import asyncio
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

from kigi.adapters.s3 import LayerRepository, open_repository
from kigi.api.repositories import Repository
from kigi.domain.layers import Digest, digest_hex, object_key
from kigi.domain.qcow2 import parse_header
from kigi.errors import AccessDenied, KigiError, LayerCorrupt, RepositoryUnknown, SpecInvalid, VirtualSizeShrinks
from kigi.publishing.publish import LayerFolder, publish_image
from kigi.publishing.tree import publish_tree
from localcluster.s3 import S3Server
from tests.support.cluster import eventually
from tests.support.layers import environment

MIB = 2**20


@asynccontextmanager
async def repository(s3: S3Server, bucket: str, **changes: str) -> AsyncIterator[LayerRepository]:
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
    run(
        "qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=x",
        "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "1M",
    )  # fmt: skip


def with_data_file(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={path}.data,data_file_raw=on", path, "1M")


def with_snapshot(path: Path) -> None:
    run("qemu-img", "create", "-f", "qcow2", path, "1M")
    run("qemu-img", "snapshot", "-c", "one", path)


def with_backing(name: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        run("qemu-img", "create", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, "1M")

    return make


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
        pytest.param(with_backing("/etc/hostname"), "not a qcow2", id="host-file"),
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
async def test_faults_of_the_repository_are_told_apart(
    s3: S3Server, bucket: str, tmp_path: Path, bucket_name: str | None, changes: dict[str, str], error: type[KigiError]
) -> None:
    async with repository(s3, bucket_name or bucket, **changes) as store:
        with pytest.raises(error):
            await publish_image(raw_image(tmp_path / "disk.raw"), LayerFolder(tmp_path / "layers"), store)


def test_a_killed_upload_goes_on_where_it_was(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "disk.raw"
    source.write_bytes(random.Random(5).randbytes(120 * MIB))
    env = {**os.environ, **environment(s3), "KIGI_S3_ENDPOINT": s3.endpoint, "KIGI_S3_BUCKET": bucket}
    command = [sys.executable, "-m", "kigi.cli.main", "publish", str(source), "--name", "big"]
    command += ["--layers-dir", str(tmp_path / "layers")]
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def parts() -> list[Path]:
        return [path for path in (s3.data / bucket).rglob("*") if path.is_file() and path.stat().st_size == 16 * MIB]

    eventually(lambda: len(parts()) >= 2 or first.poll() is not None, timeout_s=120)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = {path: path.stat().st_mtime_ns for path in parts()}
    assert 2 <= len(left) <= 7, "killed in the middle"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    made = yaml.safe_load(done.stdout)
    digest = Digest(made["spec"]["layer"]["digest"])
    stored = s3.data / bucket / object_key(digest)
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest_hex(digest)
    assert stored.stat().st_size == made["spec"]["layer"]["sizeBytes"]


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


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
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
