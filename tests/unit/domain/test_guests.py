"""Architecture and firmware: what an image inherits, and what contradicts it."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.domain.guests import Guest, hardware_firmware
from kigi.domain.images import Image, image_chain
from kigi.domain.layers import Chain, Digest, Layer
from kigi.domain.systems import DiskChange, MachineChange, System, resolve_system
from kigi.errors import SpecInvalid


def image(name: str, parent: str | None = None, architecture: str | None = None, firmware: str | None = None) -> Image:
    digest = Digest(f"sha256:{name.encode().hex():0>64}")
    return Image(name, digest, 10, 512, parent, guest=Guest(architecture, firmware))


def guest(*path: Image) -> Guest:
    return image_chain({each.name: each for each in path}, path[-1].name)[-1].guest


def test_a_child_inherits_what_it_does_not_declare() -> None:
    base = image("base", None, "arm64", "EFI")
    assert guest(base, image("web", "base")) == Guest("arm64", "EFI")
    assert guest(base, image("web", "base", firmware="BIOS")) == Guest("arm64", "BIOS")
    assert guest(image("base"), image("web", "base", "amd64")) == Guest("amd64")
    assert guest(image("base"), image("web", "base")) == Guest()


@pytest.mark.parametrize("middle", [image("server", "base"), image("server", "base", "amd64")])
def test_an_image_of_another_architecture_than_an_ancestor_is_refused(middle: Image) -> None:
    words = r"VMImageNode \w+: spec.guest.architecture arm64 of it or of a child differs from amd64 of its ancestor \w+"
    with pytest.raises(SpecInvalid, match=words):
        guest(image("base", None, "amd64"), middle, image("web", "server", "arm64"))


def test_the_guest_is_no_part_of_a_layers_identity() -> None:
    digest = Digest("sha256:" + "1" * 64)
    assert Layer(digest, 1, 512, guest=Guest("arm64")) == Layer(digest, 1, 512)


def bootloader(**loader: Any) -> dict[str, Any]:
    return {"patch": {"merge": {"spec": {"domain": {"firmware": {"bootloader": loader}}}}}}


PREFERENCE = {"hardware": {"preferenceRef": {"name": "windows"}}}


@pytest.mark.parametrize(
    ("settings", "architecture", "firmware"),
    [
        ({}, None, "BIOS"),
        ({}, "amd64", "BIOS"),
        ({}, "arm64", "EFI"),
        ({}, "s390x", None),
        (PREFERENCE, "amd64", None),
        (bootloader(efi={}), "amd64", "EFI"),
        (PREFERENCE | bootloader(efi={}), None, "EFI"),
        (bootloader(bios={}), None, "BIOS"),
        (bootloader(), "amd64", "BIOS"),
        ({"patch": {"merge": {"spec": {"domain": {"firmware": "x"}}}}}, None, "BIOS"),
        ({"patch": {"remove": ["spec.domain.firmware"]}}, None, "BIOS"),
    ],
)
def test_the_firmware_of_the_hardware(settings: dict[str, Any], architecture: str | None, firmware: str | None) -> None:
    assert hardware_firmware(settings, architecture) == firmware


def resolve(settings: dict[str, Any], facts: Guest, *disks: DiskChange, **rest: Any) -> None:
    def chain_of(name: str) -> Chain:
        return (Layer(Digest("sha256:" + "1" * 64), 1, 512, guest=facts),)

    change = MachineChange("web", "top", settings, disks=disks, **rest)
    resolve_system({"s": System("s", None, (change,))}, chain_of, "s")


@pytest.mark.parametrize(
    ("settings", "facts", "words"),
    [
        ({}, Guest("amd64", "EFI"), r"boots with EFI, and the hardware has BIOS; set .*bootloader to efi: {secureBoot"),
        (bootloader(efi={}), Guest(None, "BIOS"), r"boots with BIOS, and the hardware has EFI; .* to bios: {}"),
        ({}, Guest("arm64", "BIOS"), "boots with BIOS, and the hardware has EFI"),
    ],
)
def test_firmware_that_does_not_fit_the_hardware_is_refused(settings: dict[str, Any], facts: Guest, words: str) -> None:
    with pytest.raises(SpecInvalid, match=r"SystemNode s: spec.machines\[web\].rootDisk.imageRef: its guest " + words):
        resolve(settings, facts)


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({}, Guest()),
        ({}, Guest("amd64", "BIOS")),
        ({}, Guest("arm64", "EFI")),
        (bootloader(efi={}), Guest("amd64", "EFI")),
        (bootloader(efi={}), Guest("amd64")),
        (PREFERENCE, Guest("amd64", "EFI")),
        ({}, Guest("riscv64", "EFI")),
    ],
)
def test_firmware_that_fits_or_is_unknown_is_accepted(settings: dict[str, Any], facts: Guest) -> None:
    resolve(settings, facts)


def test_an_instancetype_and_inherited_processors_are_refused_with_the_remedy() -> None:
    own = {"hardware": {"instancetypeRef": {"name": "small"}, "cpu": {"cores": 1}}}
    with pytest.raises(SpecInvalid, match=r"machines\[web\].hardware.instancetypeRef: .*unset: \[cpu\]"):
        resolve(own, Guest())


def test_two_disks_of_one_place_in_the_boot_order_are_refused() -> None:
    with pytest.raises(SpecInvalid, match="2 disks have bootOrder 1"):
        resolve({}, Guest(), DiskChange("data", "top", boot_order=1))
    with pytest.raises(SpecInvalid, match="2 disks have bootOrder 3"):
        resolve({}, Guest(), DiskChange("a", "top", boot_order=3), DiskChange("b", "top", boot_order=3))
    resolve({"rootDisk": {"bootOrder": 2}}, Guest(), DiskChange("data", "top", boot_order=1), DiskChange("b", "top"))
