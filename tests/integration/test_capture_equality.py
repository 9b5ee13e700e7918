"""What another node makes of a captured state is the frozen disks, bit for bit; no cluster more was sent than written.

Three disks of two machines, real daemons with roots of their own, publisher, API server, S3 and qemu-img. The second
daemon has nothing of the first but what the repository holds.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kigi.api.node_cache import CaptureReport
from kigi.api.repositories import Repository
from kigi.domain.layers import Chain, Digest, Layer, object_key
from kigi.domain.names import NODE_API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import build_chain, guest_view, layers_of, run
from tests.support.cluster import eventually
from tests.support.daemons import Node, daemon_env
from tests.support.layers import VIRTUAL_BYTES, node_cache, upload
from tests.support.publishers import PROGRAM, ROOT, as_publisher
from tests.support.raw_api import RawApi
from tests.support.uploads import answer_uploads, writer_of

CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
CLUSTER = 65536
TABLES = 5
"""Clusters of a layer beside its data: header, refcount table, refcount block, L1 table, one L2 table per 512 MiB."""
CHAIN_CLUSTERS = 40
_numbers = itertools.count()


@dataclass(frozen=True)
class Disk:
    """One disk of the instance, and what its guest does to it: commands of qemu-io, in order."""

    name: str
    seed: int
    writes: tuple[str, ...]

    @property
    def handle(self) -> str:
        return f"kigi.range.web.0.{self.name}.r1.0a1b2c3d"


DISKS = (
    # New bytes, a part of a cluster, one made zero, one given back, one written twice, and some beyond the chain.
    Disk(
        "mail",
        1,
        ("write -P 1 3M 300k", "write -P 2 100k 4k", "write -z 64k 64k", "write -z -u 128k 64k", "write -P 3 3M 1k"),
    ),
    Disk("mail.data", 2, ("write -P 7 60M 1M", "write -P 7 192k 64k")),
    Disk("dns", 3, ("write -P 9 33k 512",)),
)


@contextmanager
def node(directory: Path, plane: ControlPlane, s3: S3Server, bucket: str) -> Iterator[tuple[Node, RawApi]]:
    """A daemon with a NodeCache of its own."""
    name = f"equal-{next(_numbers)}"
    api = RawApi(plane.kubeconfig)
    api.create(CACHES, node_cache(name)).object()
    with Node(directory / name, name, daemon_env(plane.kubeconfig, s3, bucket)) as made:
        yield made, api


@contextmanager
def publisher(made: Node, plane: ControlPlane, s3: S3Server, bucket: str) -> Iterator[None]:
    user = s3.grant_reading(bucket)
    reader = {"AWS_ACCESS_KEY_ID": user.access_key, "AWS_SECRET_ACCESS_KEY": user.secret_key}
    settings = {**os.environ, **daemon_env(plane.kubeconfig, s3, bucket), **reader, "KIGI_CACHE_ROOT": ROOT}
    process = subprocess.Popen(as_publisher(made.root / "captures", *PROGRAM), env=settings)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def overlay(made: Node, disk: Disk) -> Path:
    return guest_view(made.root / "volumes" / disk.handle)


def raw(source: Path, target: Path) -> Path:
    run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(source), str(target))
    return target


def written(path: Path) -> set[int]:
    """Clusters that the overlay itself holds, as data or as zeros."""
    found: set[int] = set()
    for extent in json.loads(run("qemu-img", "map", "-U", "--output=json", "-f", "qcow2", str(path))):
        if extent["depth"] == 0 and extent["present"]:
            found.update(range(extent["start"] // CLUSTER, -(-(extent["start"] + extent["length"]) // CLUSTER)))
    return found


def least_bytes(clusters: set[int], now: Path, below: Path) -> int:
    """Length of the smallest layer of these clusters: those that differ, but zeros need an entry in the table alone."""
    with now.open("rb") as new, below.open("rb") as old:

        def at(file: object, index: int) -> bytes:
            file.seek(index * CLUSTER)  # type: ignore[attr-defined]
            return bytes(file.read(CLUSTER))  # type: ignore[attr-defined]

        differing = [index for index in clusters if at(new, index) != at(old, index)]
        data = [index for index in differing if at(new, index).strip(b"\0")]
    return (TABLES + len(data)) * CLUSTER


@pytest.mark.timeout(180)
def test_a_captured_state_is_the_frozen_disks_on_any_node(
    tmp_path_factory: pytest.TempPathFactory, crds: ControlPlane, s3: S3Server, bucket: str
) -> None:
    directory = tmp_path_factory.mktemp("equality")
    chains: dict[str, Chain] = {}
    for disk in DISKS:
        files = directory / f"source-{disk.seed}"
        chains[disk.name] = layers_of(build_chain(files, 3, disk.seed, CHAIN_CLUSTERS * CLUSTER))
        upload(s3, bucket, files, chains[disk.name])
    stored_before = objects(s3, bucket)
    frozen: dict[str, Path] = {}
    least: dict[str, int] = {}
    reports: dict[str, CaptureReport] = {}
    with node(directory, crds, s3, bucket) as (first, api):
        for disk in DISKS:
            first.publish(disk.handle, chains[disk.name], disk.name)
            for command in disk.writes:
                run("qemu-io", "-f", "qcow2", "-c", command, str(overlay(first, disk)))
        # One that writes what it reads already: nothing of it is new.
        same = directory / "same.raw"
        run("qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=65536", "skip=10", "count=11",
            f"if={overlay(first, DISKS[0])}", f"of={same}")  # fmt: skip
        run("qemu-io", "-f", "qcow2", "-c", f"write -s {same} 640k 64k", str(overlay(first, DISKS[0])))
        for disk in DISKS:
            frozen[disk.name] = raw(overlay(first, disk), directory / f"{disk.seed}.frozen")
            below = raw(
                first.root / "volumes" / disk.handle / "chain" / f"{chains[disk.name][-1].digest[7:]}.qcow2",
                directory / f"{disk.seed}.below",
            )
            least[disk.name] = least_bytes(written(overlay(first, disk)), frozen[disk.name], below)
        with publisher(first, crds, s3, bucket):
            order(api, first, chains, "Copy")
            for disk in DISKS:
                wait(api, first, disk, "Copied", "Storing", "Stored")
            order(api, first, chains, "Keep")
            for disk in DISKS:  # the guests go on
                run("qemu-io", "-f", "qcow2", "-c", "write -P 99 0 8M", str(overlay(first, disk)))
            for disk in DISKS:
                reports[disk.name] = wait(api, first, disk, "Stored", writer=writer_of(s3, bucket))
    sent = {key: size for key, size in objects(s3, bucket).items() if key not in stored_before}
    for disk in DISKS:
        report = reports[disk.name]
        assert report.size_bytes == report.uploaded_bytes == least[disk.name], disk.name
    assert sorted(sent.values()) == sorted(least.values()), "nothing else was stored"
    with node(directory, crds, s3, bucket) as (second, _):
        for disk in DISKS:
            report = reports[disk.name]
            assert report.digest is not None
            assert report.size_bytes is not None
            parent = chains[disk.name][-1].digest
            top = Layer(Digest(report.digest), report.size_bytes, VIRTUAL_BYTES, parent)
            second.publish(disk.handle, (*chains[disk.name], top), disk.name)
            result = run("qemu-img", "compare", "-U", "-f", "qcow2", "-F", "raw",
                       str(overlay(second, disk)), str(frozen[disk.name]))  # fmt: skip
            assert "identical" in result, disk.name


def order(api: RawApi, made: Node, chains: dict[str, Chain], action: str) -> None:
    orders = [
        {
            "id": f"c-{disk.seed}",
            "volume": disk.handle,
            "parentDigest": chains[disk.name][-1].digest,
            "repositoryName": "default",
            "virtualSizeBytes": VIRTUAL_BYTES,
            "action": action,
            "mounted": True,
        }
        for disk in DISKS
    ]
    api.patch(f"{CACHES}/{made.name}", {"spec": {"captures": orders}}).object()


def wait(api: RawApi, made: Node, disk: Disk, *states: str, writer: Repository | None = None) -> CaptureReport:
    """``writer``: with which the operator answers reported layers meanwhile."""

    def check() -> CaptureReport | None:
        if writer is not None:
            answer_uploads(api, made.name, writer)
        status = api.get(f"{CACHES}/{made.name}").object().get("status", {})
        found = [item for item in status.get("captures", []) if item["id"] == f"c-{disk.seed}"]
        return CaptureReport.model_validate(found[0]) if found and found[0]["state"] in states else None

    return eventually(check, 60, f"the copy of {disk.name} is {states}")


def objects(s3: S3Server, bucket: str) -> dict[str, int]:
    """Sizes in bytes of what the repository holds, by name."""
    folder = (s3.data / bucket / object_key(Digest("sha256:" + "0" * 64))).parent
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
