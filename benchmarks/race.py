"""Ten VMs' disks on a node, from nothing and after a switch: Kigi against KubeVirt's own two ways, in one run.

What is measured is the time from the order until the last of the ten VMs could start: all data on the node, in the form
that the VM starts from. The guests' boot is the same in each way and left out (``make demo`` shows it).

    kigi           kubectl apply of a SystemDeployment; layers are fetched, verified and committed, volumes bound
    containerDisk  each VM's whole image as an OCI image: fetched and imported into the node's containerd
    copies         each VM's whole image fetched, and converted to a raw disk of its own, as CDI does for a PVC

All three read from the same S3 server. There is no registry in the local cluster: the archives of the OCI images are
objects, and ``ctr images import`` reads them from curl; a registry would add its own requests. Needs root, the local
cluster (it is started if it does not run) and 40 GB of disk. The real exercise is 1.3 GB in layers and 6 GB flat.

    python benchmarks/race.py [--scenario tiny|real] [--at-once 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from demo.__main__ import prepare
from demo.story import Chapter, held_layers, wait_ready
from demo.targets import Target, install_kigi
from localcluster.build import binary
from localcluster.full import Cluster
from localcluster.images import Image, pack_files, write_archive
from localcluster.paths import cache_dir
from scenario import kubernetes
from scenario.tree import resolved_images

STATES = ("infected", "cleaned")
NAME = "race"
Fetch = Callable[[str], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", choices=["tiny", "real"], default="real")
    parser.add_argument("--at-once", type=int, default=4, help="images that a peer fetches at once")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.up()
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    chapter = prepare(target, options.scenario)
    with tempfile.TemporaryDirectory(prefix="kigi-race-", dir=cache_dir()) as scratch:
        race = Race(cluster, target, chapter, Path(scratch), options.at_once)
        result = {
            "scenario": options.scenario,
            "at_once": options.at_once,
            "load_average_before": os.getloadavg()[0],
            "seconds": {"kigi": race.kigi(), "containerDisk": race.container_disks(), "copies": race.copies()},
            "bytes": race.bytes,
        }
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def table(result: dict[str, Any]) -> str:
    """The figures for a person: seconds, bytes moved, and how often longer than Kigi."""
    lines = [f"{'':14} {'first s':>8} {'MB':>8} {'x':>6}   {'switch s':>8} {'MB':>8} {'x':>6}"]
    ours = result["seconds"]["kigi"]
    for name, seconds in result["seconds"].items():
        moved = result["bytes"][name]
        cells = [f"{s:8.1f} {b / 1e6:8.1f} {s / o:6.1f}" for s, b, o in zip(seconds, moved, ours, strict=True)]
        lines.append(f"{name:14} {'   '.join(cells)}")
    return "\n".join(lines)


class Race:
    """The three ways; each gives the seconds of the first deployment and of the switch."""

    def __init__(self, cluster: Cluster, target: Target, chapter: Chapter, scratch: Path, at_once: int) -> None:
        self._cluster, self._target, self._chapter, self._scratch = cluster, target, chapter, scratch
        self._at_once = at_once
        self._folder = cache_dir() / "demo" / chapter.variant
        self._files = {image.name: image.file for image in chapter.manifest.images}
        self._bucket = target.environment["KIGI_S3_BUCKET"]
        self._s3: Any = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=target.environment["KIGI_S3_ENDPOINT"],
            aws_access_key_id=target.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=target.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self.bytes: dict[str, list[int]] = {}
        first, second = (set(resolved_images(state).values()) for state in STATES)
        self._needed: tuple[Sequence[str], ...] = (sorted(first), sorted(second - first))
        """Images that a peer that keeps whole images moves: for the first state, and then for the second."""

    def kigi(self) -> list[float]:
        """Deploy and switch with the VMs off: Ready means that disks and layers are there."""
        namespace = self._chapter.namespace
        self._target.kubectl("delete", "systemdeployment", "--all", "-n", namespace, "--timeout=600s")
        if held_layers(self._target) & set(self._chapter.digests.values()):
            raise SystemExit("the node holds layers of this exercise already; 'python -m localcluster down' first")
        self._target.apply(*kubernetes.system_nodes(self._chapter.manifest, namespace))
        seconds, self.bytes["kigi"] = [], []
        try:
            for state in STATES:
                began = time.monotonic()
                self._target.apply(kubernetes.system_deployment(NAME, state, namespace, running=False))
                status = wait_ready(self._target, namespace, NAME)
                seconds.append(time.monotonic() - began)
                self.bytes["kigi"].append(status["plan"]["movedBytes"])
        finally:
            self._target.kubectl("delete", "systemdeployment", NAME, "-n", namespace, "--timeout=600s")
        return seconds

    def container_disks(self) -> list[float]:
        """OCI images of the whole images, imported by the node's containerd."""
        node = self._cluster.nodes()[0]

        def archive(image: str, flat: Path) -> Path:
            layer = pack_files({"disk/disk.qcow2": flat}, flat.with_suffix(".layer"))
            path = flat.with_suffix(".tar")
            with path.open("wb") as file:
                write_archive([Image(f"{NAME}.test/{image}:1", (layer,))], file)
            layer.path.unlink()
            return path

        def fetch(image: str) -> None:
            node.enter("sh", "-c", f"curl -sSf '{self._url(image)}' | {self._ctr(node)} images import -")

        with self._published("containerDisk", archive):
            seconds = self._rounds(fetch)
            names = [name for name in node.ctr("images", "ls", "-q").split() if name.startswith(f"{NAME}.test/")]
            node.ctr("images", "rm", "--sync", *names)
        return seconds

    def copies(self) -> list[float]:
        """A raw disk for each VM from its whole image: fetched, then converted."""
        disks = self._scratch / "disks"
        disks.mkdir()

        def fetch(image: str) -> None:
            flat = disks / f"{image}.fetched"
            subprocess.run(["curl", "-sSf", "-o", flat, self._url(image)], check=True)
            convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(flat), str(disks / f"{image}.raw")]
            subprocess.run(convert, check=True)
            flat.unlink()

        with self._published("copies", lambda image, flat: flat):
            seconds = self._rounds(fetch)
        shutil.rmtree(disks)
        return seconds

    def _rounds(self, fetch: Fetch) -> list[float]:
        seconds = []
        for images in self._needed:
            began = time.monotonic()
            with ThreadPoolExecutor(self._at_once) as pool:
                list(pool.map(fetch, images))
            seconds.append(time.monotonic() - began)
        return seconds

    @contextmanager
    def _published(self, way: str, pack: Callable[[str, Path], Path]) -> Iterator[None]:
        """The images of both rounds in S3, in the form of one way; gone afterwards."""
        self.bytes[way] = []
        everything = [image for images in self._needed for image in images]
        try:
            for images in self._needed:
                self.bytes[way].append(sum(self._upload(images, pack)))
            os.sync()
            yield
        finally:
            for image in everything:
                self._s3.delete_object(Bucket=self._bucket, Key=f"{NAME}/{image}")

    def _upload(self, images: Iterable[str], pack: Callable[[str, Path], Path]) -> Iterator[int]:
        for image in images:
            flat = self._scratch / f"{image}.qcow2"
            source = self._folder / self._files[image]
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(source), str(flat)], check=True, cwd=self._folder)
            path = pack(image, flat)
            yield path.stat().st_size
            with path.open("rb") as body:
                self._s3.put_object(Bucket=self._bucket, Key=f"{NAME}/{image}", Body=body)
            for made in {flat, path}:
                made.unlink(missing_ok=True)

    def _url(self, image: str) -> str:
        key = {"Bucket": self._bucket, "Key": f"{NAME}/{image}"}
        url: str = self._s3.generate_presigned_url("get_object", Params=key, ExpiresIn=3600)
        return url

    @staticmethod
    def _ctr(node: Any) -> str:
        return f"{node.containerd / 'ctr'} --address {node.socket} --namespace k8s.io"


if __name__ == "__main__":
    main()
