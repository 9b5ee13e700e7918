"""Frozen copies of overlays and the layers made of them: real daemon and publisher, API server, S3 and qemu-img."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from kigi.api.node_cache import CaptureReport
from kigi.api.repositories import Repository
from kigi.domain.layers import Chain, digest_hex, object_key
from kigi.domain.names import NODE_API_VERSION
from kigi_cache.captures.files import PUBLISHER_UID, RESULT
from localcluster.controlplane import ControlPlane
from localcluster.s3 import S3Server
from tests.support.chains import build_chain, guest_view, layers_of, run
from tests.support.cluster import eventually
from tests.support.daemons import Node, daemon_env
from tests.support.layers import VIRTUAL_BYTES, node_cache, upload
from tests.support.publishers import PROGRAM, ROOT, as_publisher
from tests.support.raw_api import RawApi
from tests.support.uploads import answer_uploads, utc_now, writer_of
from tests.support.why import explained

CACHES = f"/apis/{NODE_API_VERSION}/nodecaches"
HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"
CLUSTER = 65536
_numbers = itertools.count()


class Lab:
    """One node with an overlay on a chain, its daemon and, when started, its publisher."""

    def __init__(self, directory: Path, name: str, plane: ControlPlane, s3: S3Server, bucket: str) -> None:
        files = build_chain(directory / "source")
        self.chain: Chain = layers_of(files)
        upload(s3, bucket, directory / "source", self.chain)
        self.name, self.s3, self.bucket, self.directory = name, s3, bucket, directory
        self.api = RawApi(plane.kubeconfig)
        self.env = daemon_env(plane.kubeconfig, s3, bucket)
        reader = s3.grant_reading(bucket)
        self.reader = {"AWS_ACCESS_KEY_ID": reader.access_key, "AWS_SECRET_ACCESS_KEY": reader.secret_key}
        self.writer: Repository | None = writer_of(s3, bucket)
        """What the operator signs uploads with; None: it does not run."""
        self.api.create(CACHES, node_cache(name)).object()
        self.node = Node(directory / name, name, self.env)
        self.publisher: subprocess.Popen[bytes] | None = None
        self.node.start().wait_ready()
        self.node.publish(HANDLE, self.chain)

    def close(self) -> None:
        self.stop_publisher()
        self.node.close()

    def start_publisher(self, **env: str) -> None:
        command = as_publisher(self.node.root / "captures", *PROGRAM)
        settings = {**os.environ, **self.env, **self.reader, "KIGI_CACHE_ROOT": ROOT, **env}
        with (self.directory / "publisher.log").open("ab") as log:
            self.publisher = subprocess.Popen(command, env=settings, stderr=log, stdout=log)

    def stop_publisher(self) -> None:
        if self.publisher is not None:
            self.publisher.kill()
            self.publisher.wait()

    @property
    def overlay(self) -> Path:
        return guest_view(self.node.root / "volumes" / HANDLE)

    def write(self, text: bytes, offset: int) -> None:
        """What the guest writes, by the same program that a VM's QEMU is."""
        pattern = f"write -P {text[0]} {offset} {CLUSTER}"
        run("qemu-io", "-f", "qcow2", "-c", pattern, str(self.overlay))

    def order(self, *ids: str, action: str = "Copy", mounted: bool = True, volume: str = HANDLE) -> None:
        orders = [
            {
                "id": name,
                "volume": volume,
                "parentDigest": self.chain[-1].digest,
                "repositoryName": "default",
                "virtualSizeBytes": VIRTUAL_BYTES,
                "action": action,
                "mounted": mounted,
            }
            for name in ids
        ]
        self.api.patch(f"{CACHES}/{self.name}", {"spec": {"captures": orders}}).object()

    def report(self, name: str) -> CaptureReport | None:
        status = self.api.get(f"{CACHES}/{self.name}").object().get("status", {})
        found = [item for item in status.get("captures", []) if item["id"] == name]
        return CaptureReport.model_validate(found[0]) if found else None

    def wait(self, name: str, *states: str) -> CaptureReport:
        def check() -> CaptureReport | None:
            if self.writer is not None:
                answer_uploads(self.api, self.name, self.writer)
            report = self.report(name)
            return report if report is not None and report.state in states else None

        return eventually(check, 40, f"{name} is {states}; it is {self.report(name)}")

    def folder(self, name: str) -> Path:
        return self.node.root / "captures" / name


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory, crds: ControlPlane, s3: S3Server, bucket: str) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), f"cap-{next(_numbers)}", crds, s3, bucket)
    yield made
    made.close()


def test_a_running_disk_is_kept_as_it_was_and_stored_as_what_differs(lab: Lab, tmp_path: Path) -> None:
    lab.write(b"a", 10 * CLUSTER)
    lab.write(b"b", 700 * CLUSTER)
    lab.order("c1")
    copied = lab.wait("c1", "Copied")
    assert copied.copied_bytes > 2 * CLUSTER
    lab.order("c1", action="Keep")
    frozen = tmp_path / "frozen.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(lab.folder("c1") / "copy.qcow2"), str(frozen))
    lab.write(b"c", 10 * CLUSTER)  # the guest goes on
    lab.write(b"d", 20 * CLUSTER)
    lab.start_publisher()
    stored = lab.wait("c1", "Stored")
    assert stored.digest is not None
    path = lab.s3.data / lab.bucket / object_key(stored.digest)  # type: ignore[arg-type]
    assert path.stat().st_size == stored.size_bytes == stored.uploaded_bytes
    # Two clusters were written; header, tables and one L2 table for each 512 MiB come to that.
    assert stored.size_bytes <= (2 + 6) * CLUSTER
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for layer in lab.chain:
        (elsewhere / f"{digest_hex(layer.digest)}.qcow2").write_bytes(
            (lab.s3.data / lab.bucket / object_key(layer.digest)).read_bytes()
        )
    top = elsewhere / f"{stored.digest.removeprefix('sha256:')}.qcow2"
    top.write_bytes(path.read_bytes())
    assert "identical" in run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(top), str(frozen))
    lab.order()
    eventually(lambda: not lab.folder("c1").exists(), what="a copy without an order is deleted")
    eventually(lambda: lab.report("c1") is None, what="and is no longer reported")


def test_a_disk_without_writes_stays_the_image_that_it_is(lab: Lab) -> None:
    lab.start_publisher()
    lab.order("c1")
    report = lab.wait("c1", "Unchanged")
    assert report.digest is None
    assert len(list((lab.s3.data / lab.bucket / "layers" / "sha256").iterdir())) == len(lab.chain)


def test_equal_bytes_are_not_stored(lab: Lab) -> None:
    """A guest that writes what is there already changes nothing."""
    seen = lab.directory / "seen.raw"
    run("qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=65536", "count=1", f"if={lab.overlay}", f"of={seen}")
    run("qemu-io", "-f", "qcow2", "-c", f"write -s {seen} 0 {CLUSTER}", str(lab.overlay))
    lab.start_publisher()
    lab.order("c1")
    lab.wait("c1", "Unchanged")


def test_a_disk_that_a_vm_has_mounted_meanwhile_is_not_copied_as_unmounted(lab: Lab) -> None:
    lab.order("c1", mounted=False)
    report = lab.wait("c1", "Refused")
    assert report.reason == "VolumeInUse"
    assert not lab.folder("c1").exists()
    lab.node.unpublish(HANDLE)
    lab.wait("c1", "Copied")


def test_a_disk_with_a_forged_header_is_refused(lab: Lab) -> None:
    data = bytearray(lab.overlay.read_bytes())
    at = data.index(b"chain/")
    data[at : at + 6] = b"/etc//"
    lab.overlay.write_bytes(bytes(data))
    lab.order("c1")
    report = lab.wait("c1", "Refused")
    assert report.reason == "OverlayRejected"
    assert not lab.folder("c1").exists()


def test_an_unknown_disk_is_refused_by_name(lab: Lab) -> None:
    lab.order("c1", volume="kigi.range.web.0.mail.r1.0a1b2c3d")
    report = lab.wait("c1", "Refused")
    assert report.reason == "VolumeUnknown"
    assert "kigi.range.web.0.mail.r1.0a1b2c3d" in str(report.message)


def test_a_vm_that_was_never_started_has_written_nothing(lab: Lab) -> None:
    """It is off, and has no overlay yet."""
    lab.order("c1", volume=HANDLE.replace(".dns.", ".mail."), mounted=False)
    assert lab.wait("c1", "Unchanged").copied_bytes == 0
    lab.node.kill()
    lab.node.start()
    assert lab.wait("c1", "Unchanged").copied_bytes == 0
    lab.order()
    eventually(lambda: not lab.folder("c1").exists(), what="it is deleted without an order")


@pytest.mark.why("CaptureMissing")
def test_no_copy_is_made_when_the_vms_may_run_again(lab: Lab) -> None:
    lab.order("c1", action="Keep")
    assert explained(lab.wait("c1", "Lost").reason or "")["reason"] == "CaptureMissing"
    assert not lab.folder("c1").exists()


def test_a_copy_outlives_the_daemon_and_one_that_was_not_safe_is_lost(lab: Lab) -> None:
    lab.write(b"a", 10 * CLUSTER)
    lab.order("c1", "c2")
    for name in ("c1", "c2"):
        lab.wait(name, "Copied")
        eventually(lambda name=name: (lab.folder(name) / "order.json").exists())
    lab.order("c1", "c2", action="Keep")
    eventually(lambda: lab.api.get(f"{CACHES}/{lab.name}").object()["status"]["observedGeneration"] >= 3)
    lab.node.kill()
    (lab.folder("c2") / "order.json").unlink()
    (lab.node.root / "captures" / ".new" / "c3" / "chain").mkdir(parents=True)
    lab.node.start().wait_ready()
    lab.start_publisher()
    lab.wait("c1", "Stored")
    lab.wait("c2", "Lost")
    assert not lab.folder("c2").exists()
    assert not (lab.node.root / "captures" / ".new" / "c3").exists()


def test_a_publisher_whose_credentials_may_not_read_stores_all_the_same(lab: Lab) -> None:
    """It cannot see whether the layer exists; the operator's signed request stores it only if it does not."""
    lab.write(b"a", 10 * CLUSTER)
    lab.start_publisher(AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="wrong")
    lab.order("c1")
    stored = lab.wait("c1", "Stored", "Refused")
    assert stored.state == "Stored", stored


def test_a_killed_publisher_continues(lab: Lab) -> None:
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {60 * 2**20}", str(lab.overlay))
    lab.order("c1")
    lab.wait("c1", "Copied")
    lab.start_publisher()
    eventually((lab.folder("c1") / RESULT).exists, 20, "it has begun")
    lab.stop_publisher()
    lab.start_publisher()
    stored = lab.wait("c1", "Stored")
    assert stored.uploaded_bytes == stored.size_bytes
    assert not list((lab.folder("c1") / "out").glob(".publish-*"))


def test_a_publisher_that_is_killed_while_it_sends_continues_without_making_the_layer_again(lab: Lab) -> None:
    """The first request leads to a server that takes everything and answers nothing."""
    lab.write(b"a", 10 * CLUSTER)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(60)
        writer = lab.writer
        assert writer is not None
        lab.writer = writer.model_copy(update={"endpoint": f"http://127.0.0.1:{mute.getsockname()[1]}"})
        lab.start_publisher()
        lab.order("c1")
        # The copy is Storing while its layer is made, and has a digest afterwards.
        digest = eventually(lambda: lab.wait("c1", "Storing").digest, 20, "it is made")
        made = lab.folder("c1") / "out" / f"{str(digest).removeprefix('sha256:')}.qcow2"
        eventually(lambda: lab.wait("c1", "Storing") and made.exists(), 20, "its request is signed")
        inode = made.stat().st_ino
        connection, _ = mute.accept()
        with connection:
            assert connection.recv(4) == b"PUT "
            lab.stop_publisher()
    lab.writer = writer
    lab.start_publisher()
    stored = lab.wait("c1", "Stored")
    assert (stored.digest, made.stat().st_ino) == (digest, inode)


def test_a_layer_that_is_too_large_for_one_request_is_stored_in_parts(lab: Lab) -> None:
    """Beside the copies, as the publisher sees nothing else of the node."""
    folder = lab.node.root / "captures" / ".repositories"
    folder.mkdir(mode=0o755)
    settings = {"endpoint": lab.s3.endpoint, "bucket": lab.bucket, "maxPutBytes": 5 * 2**20}
    (folder / "default.json").write_text(json.dumps(settings))
    writer = lab.writer
    assert writer is not None
    lab.writer = writer.model_copy(update={"max_put_bytes": settings["maxPutBytes"]})
    random = lab.directory / "random"
    random.write_bytes(os.urandom(12 * 2**20))
    run("qemu-io", "-f", "qcow2", "-c", f"write -s {random} 0 {12 * 2**20}", str(lab.overlay))
    lab.order("c1")
    lab.wait("c1", "Copied")
    lab.start_publisher(KIGI_REPOSITORIES=f"{ROOT}/captures/.repositories", KIGI_S3_ENDPOINT="")
    stored = lab.wait("c1", "Stored")
    assert stored.digest is not None
    assert len(stored.parts) == 3
    path = lab.s3.data / lab.bucket / object_key(stored.digest)  # type: ignore[arg-type]
    assert path.stat().st_size == stored.size_bytes == stored.uploaded_bytes
    assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == stored.digest


def test_a_copy_waits_for_an_operator_that_does_not_run_and_takes_a_fresh_request(lab: Lab) -> None:
    """A request that was not renewed is refused by the server; the layer stays, and is stored by the next request."""
    lab.write(b"a", 10 * CLUSTER)
    writer, lab.writer = lab.writer, None
    lab.start_publisher()
    lab.order("c1")
    eventually(lambda: (report := lab.report("c1")) is not None and report.digest is not None, 40, "it is made")
    answer_uploads(lab.api, lab.name, writer, lambda: utc_now() - timedelta(minutes=16))
    refused = lab.wait("c1", "Refused")
    assert refused.reason == "AccessDenied"
    assert "RequestTimeTooSkewed" in str(refused.message)
    assert len(list((lab.s3.data / lab.bucket / "layers" / "sha256").iterdir())) == len(lab.chain)
    lab.writer = writer
    lab.wait("c1", "Stored")


def set_heartbeat(lab: Lab, age_s: float = 0.0) -> None:
    """The publisher's heartbeat, of that age."""
    path = lab.node.root / "captures" / ".publisher"
    path.touch()
    os.utime(path, (time.time() - age_s,) * 2)


def test_a_node_checks_a_copy_before_the_vm_is_paused(lab: Lab) -> None:
    lab.order("c1", action="Check")
    assert lab.wait("c1", "Refused").reason == "PublisherSilent"
    lab.start_publisher()
    lab.wait("c1", "Possible")
    assert not lab.folder("c1").exists()
    lab.order("c1", action="Check", volume=HANDLE.replace(".dns.", ".mail."))
    lab.wait("c1", "Possible")  # never started: there is nothing to copy
    data = bytearray(lab.overlay.read_bytes())
    at = data.index(b"chain/")
    data[at : at + 6] = b"/etc//"
    lab.overlay.write_bytes(bytes(data))
    lab.order("c1", action="Check")
    assert lab.wait("c1", "Refused").reason == "OverlayRejected"


def test_a_copy_without_space_is_refused_before_and_while_the_vms_are_paused(lab: Lab) -> None:
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {16 * 2**20}", str(lab.overlay))
    set_heartbeat(lab)
    lab.order("c1", action="Check")
    lab.wait("c1", "Possible")
    space = os.statvfs(lab.node.root)
    lab.node.kill()
    # As much as there is, but for less than the copy takes.
    lab.node.start(KIGI_MIN_FREE=str(space.f_bavail * space.f_frsize - 2**20)).wait_ready()
    set_heartbeat(lab)
    refused = lab.wait("c1", "Refused")
    assert refused.reason == "NoRoom"
    assert "KIGI_MIN_FREE" in str(refused.message)
    lab.order("c2")
    assert lab.wait("c2", "Refused").reason == "NoRoom"
    assert not lab.folder("c2").exists()
    lab.node.kill()
    lab.node.start().wait_ready()
    lab.wait("c2", "Copied")


def test_a_layer_waits_for_the_space_to_make_it(lab: Lab) -> None:
    lab.write(b"a", 10 * CLUSTER)
    lab.order("c1")
    lab.wait("c1", "Copied")
    path = lab.folder("c1") / "order.json"
    eventually(path.exists)
    written = json.loads(path.read_text())
    assert written["minFreeBytes"] == 256 * 2**20
    path.write_text(json.dumps({**written, "minFreeBytes": 2**60}))
    lab.start_publisher()
    assert lab.wait("c1", "Refused").reason == "NoRoom"
    path.write_text(json.dumps(written))
    lab.wait("c1", "Stored")


def test_a_chain_that_the_repository_takes_no_layer_above_is_refused_beforehand(lab: Lab) -> None:
    repositories = lab.directory / "repositories"
    repositories.mkdir()
    settings = {"endpoint": "http://unused", "bucket": "unused", "maxDepth": len(lab.chain)}
    (repositories / "default.json").write_text(json.dumps(settings))
    lab.node.kill()
    lab.node.start(KIGI_REPOSITORIES=str(repositories), KIGI_S3_ENDPOINT="").wait_ready()
    set_heartbeat(lab)
    lab.order("c1", action="Check")
    refused = lab.wait("c1", "Refused")
    assert refused.reason == "ChainTooDeep"
    assert "LayerRepository default: spec.limits.maxDepth" in str(refused.message)


ATTACKS = {
    "write a layer": "printf x >> $D/chain/$L",
    "write a layer in place": "dd if=/dev/zero of=$D/chain/$L bs=1 count=1 conv=notrunc",
    "change a layer's mode": "chmod 666 $D/chain/$L",
    "change a layer's times": "touch $D/chain/$L",
    "delete a link": "rm -f $D/chain/$L",
    "rename a link": "mv $D/chain/$L $D/chain/x",
    "move a link away": "mv $D/chain/$L $D/out/x",
    "put a file in place of a link": "cp $D/chain/$L $D/out/y && mv -f $D/out/y $D/chain/$L",
    "add a layer": "touch $D/chain/x",
    "write the copy": "printf x >> $D/copy.qcow2",
    "delete the copy": "rm -f $D/copy.qcow2",
    "change the order": "printf '{}' > $D/order.json",
    "replace the order": "echo '{}' > $D/out/o && mv -f $D/out/o $D/order.json",
    "replace its directory": "mv $D/out $D/away",
    "delete the copy's directory": "rm -rf $D/chain $D/copy.qcow2 $D/order.json; rmdir $D",
    "invent a copy": "mkdir /mnt/captures/c9",
    "look at copies in progress": "ls /mnt/captures/.new",
    "look at deleted copies": "ls /mnt/captures/.old",
    "mount": "mount -t tmpfs none $D/chain",
    "make a device": "mknod $D/out/device b 8 0",
}
"""What fails as the publisher's user, on the copy $D with the layer $L."""


def test_the_publishers_user_reads_a_copy_and_changes_nothing_of_it(lab: Lab) -> None:
    lab.write(b"a", 10 * CLUSTER)
    lab.order("c1")
    lab.wait("c1", "Copied")
    eventually((lab.folder("c1") / "order.json").exists)
    layer = f"{digest_hex(lab.chain[0].digest)}.qcow2"

    def state() -> dict[str, tuple[object, ...]]:
        """Content and times of all files but the publisher's own."""
        files = [path for path in lab.folder("c1").rglob("*") if path.is_file() and path.parent.name != "out"]
        found = {path: path.stat() for path in files}
        return {
            str(path.relative_to(lab.node.root)): (path.read_bytes(), each.st_ino, each.st_mode, each.st_ctime_ns)
            for path, each in found.items()
        }

    def attempt(script: str) -> subprocess.CompletedProcess[str]:
        names = f"D=/mnt/captures/c1 L={layer}\n"
        command = as_publisher(lab.node.root / "captures", "sh", "-c", names + script)
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    before = state()
    assert len(before) == len(lab.chain) + 2
    reads = attempt(
        "cat $D/copy.qcow2 $D/chain/* $D/order.json | wc -c; touch $D/out/mine && id -u; grep Cap /proc/self/status"
    )
    size, user, *capabilities = reads.stdout.split("\n")
    assert (int(size), user) == (sum(len(each[0]) for each in before.values()), str(PUBLISHER_UID)), reads  # type: ignore[arg-type]
    assert {line.split()[1] for line in capabilities if line} == {"0" * 16}
    succeeded = [name for name, script in ATTACKS.items() if attempt(script).returncode == 0]
    assert succeeded == []
    assert state() == before
    attempt("ln -sf /mnt/captures/c1/order.json $D/out/result.json")
    assert lab.report("c1").state == "Copied"  # type: ignore[union-attr]
    lab.start_publisher()
    lab.wait("c1", "Stored")


def test_a_dead_publisher_is_reported_while_a_copy_waits_for_it(lab: Lab) -> None:
    lab.write(b"a", 10 * CLUSTER)
    lab.order("c1")
    lab.wait("c1", "Copied")
    path = lab.folder("c1") / "order.json"
    eventually(path.exists)
    set_heartbeat(lab, 3600)
    assert lab.report("c1").reason is None, "it has just begun to wait"  # type: ignore[union-attr]
    os.utime(path, (time.time() - 3600,) * 2)
    eventually(lambda: lab.report("c1").reason == "PublisherSilent", 20)  # type: ignore[union-attr]
    lab.start_publisher()
    assert lab.wait("c1", "Stored").reason is None
