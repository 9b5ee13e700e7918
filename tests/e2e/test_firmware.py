"""A guest on a layered disk with EFI and a TPM, both of which lose their state at each start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from demo.prepare import prepare
from demo.steps import NAME, wait_ready
from demo.targets import Target, install_kigi
from kigi.domain.names import API_VERSION
from localcluster.bounded import DOWNLOAD_S, run
from localcluster.build import binary
from localcluster.cluster import Cluster
from localcluster.paths import cache_dir
from scenario import packages, tiny
from tests.e2e.exercise import Exercise

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
NAMESPACE = "firmware"
MACHINE = "mail1"
ENTRY = f"title kigi\nlinux /vmlinuz\ninitrd /initrd\noptions {tiny.KERNEL_OPTIONS}\n"


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercise]:
    """One machine: an image of the exercise with a loader for EFI, published as an additional layer."""
    cluster.load_kigi()
    target = Target(cluster.environment(), str(binary("kubectl")))
    install_kigi(target)
    published = prepare(target, "tiny", NAMESPACE)
    image = published.manifest.systems[0].machines[MACHINE]
    disk = tmp_path_factory.mktemp("efi") / "disk.raw"
    source = cache_dir() / "demo" / "tiny" / f"{image}.qcow2"
    run(["qemu-img", "convert", "-O", "raw", source, disk], timeout_s=DOWNLOAD_S)
    add_efi_loader(disk)
    publish = ("publish", str(disk), "--name", "efi", "--parent", image, "--apply", "-n", NAMESPACE)
    command = [sys.executable, "-m", "kigi.cli.main", *publish]
    run(command, timeout_s=DOWNLOAD_S, env={**os.environ, **target.environment})
    domain = {"firmware": {"bootloader": {"efi": {"secureBoot": False}}}, "devices": {"tpm": {}}}
    settings = {"hardware": {"memory": {"guest": "192Mi"}}, "patch": {"merge": {"spec": {"domain": domain}}}}
    machines = [{"name": MACHINE, "rootDisk": {"imageRef": {"name": "efi"}}, **settings}]
    meta = {"name": "efi", "namespace": NAMESPACE}
    target.apply({"apiVersion": API_VERSION, "kind": "SystemNode", "metadata": meta, "spec": {"machines": machines}})
    yield Exercise(cluster, target, published)
    target.kubectl("delete", "systemdeployment", "--all", "-n", NAMESPACE, "--timeout=600s")
    target.kubectl("delete", "namespace", NAMESPACE, "--timeout=300s")


def add_efi_loader(disk: Path) -> None:
    """Add a loader for EFI to the boot partition of a tiny disk (raw), which has one for BIOS."""
    found = packages.unpack(("systemd-boot-efi", "mtools"), packages.cache_dir())
    tools, part = found["mtools"] / "usr/bin", f"{disk}@@{tiny.BOOT_START}"
    entry = disk.with_name("kigi.conf")
    entry.write_text(ENTRY)
    loader = found["systemd-boot-efi"] / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    packages.run(tools / "mmd", "-i", part, "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries")
    packages.run(tools / "mcopy", "-i", part, loader, "::/EFI/BOOT/BOOTX64.EFI")
    packages.run(tools / "mcopy", "-i", part, entry, "::/loader/entries")


def deploy(lab: Exercise, **spec: str) -> None:
    meta = {"name": NAME, "namespace": NAMESPACE}
    full = {"systemRef": {"name": "efi"}, **spec}
    lab.target.apply({"apiVersion": API_VERSION, "kind": "SystemDeployment", "metadata": meta, "spec": full})


def test_a_guest_boots_with_efi_and_has_a_tpm_before_and_after_a_reset(lab: Exercise) -> None:
    deploy(lab)
    first = lab.report(MACHINE, machine=MACHINE, boot="1")
    lab.send(MACHINE, "firmware", "KIGI-FIRMWARE efi tpm=yes")
    lab.send(MACHINE, "write before", "KIGI-WROTE before")
    domain = ElementTree.fromstring(lab.domain(MACHINE))
    assert [each.get("type") for each in domain.iterfind("devices/disk/driver")] == ["qcow2"]
    assert domain.find("os/loader") is not None
    assert domain.find("devices/tpm") is not None
    wait_ready(lab.target, NAMESPACE, NAME)

    before = lab.vmi_uid(MACHINE)
    deploy(lab, resetToken="before the exercise")
    lab.next_run(MACHINE, before)
    second = lab.report(MACHINE, machine=MACHINE, boot="1")
    lab.send(MACHINE, "firmware", "KIGI-FIRMWARE efi tpm=yes")
    lab.send(MACHINE, "show", "KIGI-WRITTEN none")
    assert (second["mac"], second["uuid"], second["serial"]) == (first["mac"], first["uuid"], first["serial"])
