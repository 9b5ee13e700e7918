"""The three methods of `race.py` to run ten VMs in a state: Kigi's, and two of KubeVirt.

Each method brings all data to the node in the form that the VMs start from (``prepare``), then starts the VMs
(``boot``) and stops them (``stop``). All read from the same S3 server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from demo.console import read_guest
from demo.steps import PublishedExercise, held_layers, wait_ready
from demo.targets import DemoFailed, Target
from localcluster.cluster import Cluster
from localcluster.images import Image, pack_files, write_archive
from localcluster.paths import cache_dir
from scenario import kubernetes
from scenario.tree import resolved_images

NAME = "race"
QEMU = 107
"""Number of the user and group of KubeVirt's VMs."""


@dataclass(frozen=True)
class Track:
    """Cluster, exercise and settings that all methods use."""

    cluster: Cluster
    target: Target
    published: PublishedExercise
    scratch: Path
    parallel: int
    """Concurrency limit of the peers' image transfers."""


class Way(ABC):
    """One method. ``bytes_moved`` has one entry per call of ``prepare``."""

    name: str

    def __init__(self, track: Track) -> None:
        self.track = track
        self.bytes_moved: list[int] = []

    @abstractmethod
    def publish(self, states: Sequence[str]) -> None:
        """Upload all objects that ``prepare`` fetches to S3; not timed."""

    @abstractmethod
    def prepare(self, state: str) -> None:
        """Bring the data of all ten VMs of the state to the node, in the form that they start from."""

    @abstractmethod
    def start(self, state: str) -> None:
        """Request the start of the exercise's running machines, without waiting."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all VMs of this method and wait for their end; not timed."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all objects of this method from the node and from S3."""

    @property
    @abstractmethod
    def namespace(self) -> str:
        """Namespace of the method's VMs."""

    def boot(self, state: str) -> None:
        """Start the machines and wait until each has reported its machine and state on its serial console.

        Raises DemoFailed if a guest reports another machine or state.
        """
        self.start(state)
        published = self.track.published
        for machine in published.running:
            report = read_guest(self.track.target, self.namespace, f"{NAME}-1-{machine}")
            expected = (machine, published.manifest.guests[state][machine].state)
            if (report.get("machine"), report.get("state")) != expected:
                raise DemoFailed(f"{self.name}: {machine} reports {report} in {state}")


class Kigi(Way):
    """A SystemDeployment: layers are fetched, verified and committed, volumes bound."""

    name = "kigi"

    @property
    def namespace(self) -> str:
        """The namespace of the exercise."""
        return self.track.published.namespace

    def publish(self, states: Sequence[str]) -> None:
        """The layers are published already. Raises DemoFailed if the node holds one of them."""
        target, published = self.track.target, self.track.published
        target.kubectl("delete", "systemdeployment", "--all", "-n", self.namespace, "--timeout=600s")
        if held_layers(target) & set(published.digests.values()):
            raise DemoFailed("the node holds layers of this exercise; run 'python -m localcluster down' first")
        target.apply(*kubernetes.system_nodes(published.manifest, self.namespace))

    def prepare(self, state: str) -> None:
        """Deploy the state with all VMs off: it is Ready when disks and layers are on the node."""
        self.bytes_moved.append(self._deploy(state)["plan"]["movedBytes"])

    def start(self, state: str) -> None:
        """Start the machines by the settings of their instance."""
        self._set_machines(self.track.published.running)
        self._apply(state)

    def stop(self) -> None:
        """Remove these settings."""
        self._set_machines(())
        deployment = self.track.target.get("systemdeployment", NAME, "-n", self.namespace)
        self._deploy(deployment["spec"]["systemRef"]["name"])
        _wait_for_no_instances(self.track.target, self.namespace)

    def _set_machines(self, running: Sequence[str]) -> None:
        machines = kubernetes.machines_on(running)
        self.track.target.apply(kubernetes.system_instance("1", NAME, self.namespace, machines=machines))

    def remove(self) -> None:
        """Delete the deployment."""
        self.track.target.kubectl("delete", "systemdeployment", NAME, "-n", self.namespace, "--timeout=600s")

    def _deploy(self, state: str) -> dict[str, Any]:
        self._apply(state)
        return wait_ready(self.track.target, self.namespace, NAME)

    def _apply(self, state: str) -> None:
        self.track.target.apply(kubernetes.system_deployment(NAME, state, self.namespace, powerState="Off"))


class WholeImages(Way):
    """A peer: the whole image of each machine, kept on the node after the first fetch."""

    def __init__(self, track: Track) -> None:
        super().__init__(track)
        environment = track.target.environment
        self._folder = cache_dir() / "demo" / track.published.variant
        self._files = {image.name: image.file for image in track.published.manifest.images}
        self._bucket = environment["KIGI_S3_BUCKET"]
        self._s3: Any = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=environment["KIGI_S3_ENDPOINT"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )
        self._sizes: dict[str, int] = {}
        self._held: set[str] = set()

    @property
    def namespace(self) -> str:
        """The method's own namespace."""
        return f"{NAME}-{self.name.lower()}"

    @abstractmethod
    def pack(self, image: str, flat: Path) -> Path:
        """File to upload for an image; ``flat`` is the image as a qcow2 file without backing files."""

    @abstractmethod
    def fetch(self, image: str) -> None:
        """Bring one image to the node."""

    @abstractmethod
    def volume(self, image: str) -> dict[str, Any]:
        """Volume of a VM that starts from an image on the node."""

    def publish(self, states: Sequence[str]) -> None:
        """Upload one object per image, and sync, so that no write is pending when a clock starts."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        self.track.target.apply(namespace)
        for image in sorted({image for state in states for image in resolved_images(state).values()}):
            flat = self.track.scratch / f"{image}.qcow2"
            command = ["qemu-img", "convert", "-O", "qcow2", str(self._folder / self._files[image]), str(flat)]
            subprocess.run(command, check=True, cwd=self._folder)
            path = self.pack(image, flat)
            self._sizes[image] = path.stat().st_size
            with path.open("rb") as body:
                self._s3.put_object(Bucket=self._bucket, Key=f"{NAME}/{image}", Body=body)
            for made in {flat, path}:
                made.unlink(missing_ok=True)
        os.sync()

    def prepare(self, state: str) -> None:
        """Fetch the images that are missing on the node, at most ``parallel`` concurrently."""
        missing = sorted(set(resolved_images(state).values()) - self._held)
        with ThreadPoolExecutor(self.track.parallel) as pool:
            list(pool.map(self.fetch, missing))
        self._held.update(missing)
        self.bytes_moved.append(sum(self._sizes[image] for image in missing))

    def start(self, state: str) -> None:
        """Create VMIs like Kigi's on this method's volumes."""
        root = self.track.published.manifest.systems[0]
        (node, *_) = kubernetes.system_nodes(self.track.published.manifest)
        assert node["metadata"]["name"] == root.name
        hardware = {machine["name"]: machine["hardware"] for machine in node["spec"]["machines"]}
        images = resolved_images(state)
        self.track.target.apply(
            *(
                self._instance(machine, hardware[machine], self.volume(images[machine]))
                for machine in self.track.published.running
            )
        )

    def stop(self) -> None:
        """Delete the VMIs."""
        self.track.target.kubectl("delete", "vmi", "--all", "-n", self.namespace, "--timeout=600s")
        _wait_for_no_instances(self.track.target, self.namespace)

    def remove(self) -> None:
        """Delete the namespace and the uploaded objects."""
        self.track.target.kubectl("delete", "namespace", self.namespace, "--timeout=600s")
        for image in self._sizes:
            self._s3.delete_object(Bucket=self._bucket, Key=f"{NAME}/{image}")

    def url(self, image: str) -> str:
        """Presigned URL from which curl reads an image; valid for an hour."""
        key = {"Bucket": self._bucket, "Key": f"{NAME}/{image}"}
        url: str = self._s3.generate_presigned_url("get_object", Params=key, ExpiresIn=3600)
        return url

    def _instance(self, machine: str, hardware: Mapping[str, Any], volume: dict[str, Any]) -> dict[str, Any]:
        devices = {
            "disks": [{"name": "root", "disk": {"bus": "virtio"}}],
            "interfaces": [{"name": "pod", "masquerade": {}}],
        }
        domain = {**hardware, "devices": devices}
        return {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": f"{NAME}-1-{machine}",
                "namespace": self.namespace,
                # read_guest finds the log of the serial console by these labels.
                "labels": {"kigi.dev/instance": "1", "kigi.dev/machine": machine},
            },
            "spec": {
                "domain": domain,
                "terminationGracePeriodSeconds": 0,
                "networks": [{"name": "pod", "pod": {}}],
                "volumes": [{"name": "root", **volume}],
            },
        }


class ContainerDisks(WholeImages):
    """OCI images of the whole images, fetched and imported into the node's containerd.

    The local cluster has no registry: the archives are objects, and ``ctr images import`` reads them from curl.
    """

    name = "containerDisk"

    def pack(self, image: str, flat: Path) -> Path:
        """An OCI archive with the disk at the path that KubeVirt expects."""
        layer = pack_files({"disk/disk.qcow2": flat}, flat.with_suffix(".layer"))
        path = flat.with_suffix(".tar")
        with path.open("wb") as file:
            write_archive([Image(_image_name(image), (layer,))], file)
        layer.path.unlink()
        return path

    def fetch(self, image: str) -> None:
        """Import the image from S3 into containerd's content store and snapshots."""
        (node, *_) = self.track.cluster.nodes()
        ctr = f"{node.containerd / 'ctr'} --address {node.socket} --namespace k8s.io"
        node.enter("sh", "-c", f"curl -sSf '{self.url(image)}' | {ctr} images import -")

    def volume(self, image: str) -> dict[str, Any]:
        """A containerDisk volume of the imported image."""
        return {"containerDisk": {"image": _image_name(image), "imagePullPolicy": "Never"}}

    def remove(self) -> None:
        """Also remove the images from containerd."""
        super().remove()
        (node, *_) = self.track.cluster.nodes()
        imported = [name for name in node.ctr("images", "ls", "-q").split() if name.startswith(f"{NAME}.test/")]
        node.ctr("images", "rm", "--sync", *imported)


class Copies(WholeImages):
    """A raw disk for each VM, fetched as a whole image and converted, as CDI does for a PVC."""

    name = "copies"

    def pack(self, image: str, flat: Path) -> Path:
        """The flat image itself."""
        return flat

    def fetch(self, image: str) -> None:
        """Download the image from S3 to a file, and convert that to the volume's disk.img."""
        folder = self._disks / image
        folder.mkdir(parents=True)
        fetched = folder / "fetched"
        subprocess.run(["curl", "-sSf", "-o", fetched, self.url(image)], check=True)
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(fetched), str(folder / "disk.img")]
        subprocess.run(convert, check=True)
        fetched.unlink()
        os.chown(folder / "disk.img", QEMU, QEMU)

    def start(self, state: str) -> None:
        """Create volumes and claims before the VMIs."""
        images = resolved_images(state)
        self.track.target.apply(*(o for m in self.track.published.running for o in self._claim(images[m])))
        super().start(state)

    def volume(self, image: str) -> dict[str, Any]:
        """The claim of the image's copy."""
        return {"persistentVolumeClaim": {"claimName": image}}

    def remove(self) -> None:
        """Also delete the volumes and the files."""
        super().remove()
        self.track.target.kubectl("delete", "pv", "-l", f"race={NAME}", "--timeout=120s")
        shutil.rmtree(self._disks)

    @property
    def _disks(self) -> Path:
        """Folder of the disks, which is /var/lib/kigi/race inside the node."""
        (node, *_) = self.track.cluster.nodes()
        return node.directory / "kigi" / NAME

    def _claim(self, image: str) -> Iterable[dict[str, Any]]:
        size = {"storage": str((self._disks / image / "disk.img").stat().st_size)}
        common = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none"}
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{NAME}-{image}", "labels": {"race": NAME}},
            "spec": {
                **common,
                "capacity": size,
                "claimRef": {"namespace": self.namespace, "name": image},
                "hostPath": {"path": f"/var/lib/kigi/{NAME}/{image}"},
            },
        }
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": image, "namespace": self.namespace},
            "spec": {**common, "volumeName": f"{NAME}-{image}", "resources": {"requests": size}},
        }


WAYS = (Kigi, ContainerDisks, Copies)


def _image_name(image: str) -> str:
    return f"{NAME}.test/{image}:1"


def _wait_for_no_instances(target: Target, namespace: str) -> None:
    """Wait until no VM and no pod is left, so that they do not slow down the next measurement."""
    for kind in ("vmi", "pods"):
        if target.get(kind, "-n", namespace)["items"]:
            target.kubectl("wait", "--for=delete", kind, "--all", "-n", namespace, "--timeout=600s")
