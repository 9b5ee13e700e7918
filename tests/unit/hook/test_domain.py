from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from kigi.hook.domain import DomainRefused, open_as_qcow2
from tests.support.domains import CLOUD_INIT, DISKS, FOREIGN_FILE, FOREIGN_RAW_BLOCK, domain, our_disk

BUSES = ["virtio", "sata", "scsi", "usb"]


@pytest.mark.parametrize("bus", BUSES)
def test_only_the_driver_type_of_a_kigi_disk_changes(bus: str) -> None:
    document = domain(our_disk(bus=bus), CLOUD_INIT, FOREIGN_FILE, FOREIGN_RAW_BLOCK)
    before = our_disk(bus=bus).encode()
    expected = document.replace(before, before.replace(b'type="raw"', b'type="qcow2"'))
    assert expected != document
    assert open_as_qcow2(document) == (expected, 1)


def test_foreign_disks_stay_raw() -> None:
    changed, _ = open_as_qcow2(domain(FOREIGN_FILE, our_disk(), CLOUD_INIT, FOREIGN_RAW_BLOCK))
    types = [d.find("driver").get("type") for d in ET.fromstring(changed).iter("disk")]  # type: ignore[union-attr]
    assert types == ["raw", "qcow2", "raw", "raw"]


def test_all_kigi_disks_change() -> None:
    changed, count = open_as_qcow2(domain(our_disk("kigi-root"), CLOUD_INIT, our_disk("kigi-data")))
    assert count == 2
    assert changed.count(b'type="qcow2"') == 2


def test_a_second_definition_of_the_same_domain_changes_nothing() -> None:
    once, _ = open_as_qcow2(domain(our_disk()))
    assert open_as_qcow2(once) == (once, 1)


@pytest.mark.parametrize(
    "driver",
    [
        "<driver name='qemu' type='raw' cache='none'/>",
        '<driver\n\ttype = "raw"\n\tname="qemu"/>',
        '<driver name="qemu" type="raw" iothread="1"></driver>',
        '<driver x:type="raw" xmlns:x="urn:x" type="raw" name="qemu" note="a>type=b"/>',
    ],
)
def test_any_spelling_of_the_attribute_is_found(driver: str) -> None:
    changed, _ = open_as_qcow2(domain(our_disk(driver=driver)))
    found = [e.attrib for e in ET.fromstring(changed).findall("devices/disk/driver")]
    assert [a["type"] for a in found] == ["qcow2"]
    assert [{k: v for k, v in a.items() if k != "type"} for a in found] == [
        {k: v for k, v in ET.fromstring(driver).attrib.items() if k != "type"}
    ]


def test_text_that_resembles_a_disk_is_unchanged() -> None:
    decoy = (
        "<!-- "
        + our_disk("kigi-old").replace("--", "")
        + " --><description><![CDATA["
        + our_disk()
        + "]]></description>"
    )
    document = domain(our_disk(), extra=decoy)
    changed, count = open_as_qcow2(document)
    assert count == 1
    assert changed.count(b'type="qcow2"') == 1
    assert decoy.encode() in changed


def test_a_backing_store_inside_a_foreign_disk_does_not_make_it_ours() -> None:
    nested = FOREIGN_FILE.replace(
        "</disk>",
        f'<backingStore type="file"><source file="{DISKS}/kigi-root/disk.img"/></backingStore></disk>',
    )
    with pytest.raises(DomainRefused, match="no disk whose file path"):
        open_as_qcow2(domain(nested))


REFUSED = {
    "no disk at all": domain(),
    "only foreign disks": domain(FOREIGN_FILE, CLOUD_INIT),
    "our volume as a block device": domain(
        '<disk device="disk" type="block"><source dev="/dev/kigi-root"/><driver name="qemu" type="raw"/></disk>'
    ),
    "our path as a cdrom": domain(our_disk().replace('device="disk"', 'device="cdrom"')),
    "our path as a lun": domain(our_disk().replace('device="disk"', 'device="lun"')),
    "our path of disk type network": domain(our_disk().replace('type="file"', 'type="network"')),
    "no driver": domain(our_disk(driver="")),
    "two drivers": domain(our_disk(driver='<driver name="qemu" type="raw"/><driver name="qemu" type="raw"/>')),
    "driver without type": domain(our_disk(driver='<driver name="qemu"/>')),
    "driver type vmdk": domain(our_disk(driver='<driver name="qemu" type="vmdk"/>')),
    "driver other than qemu": domain(our_disk(driver='<driver name="tap2" type="raw"/>')),
    "two sources": domain(our_disk().replace("<driver", '<source file="/x"></source><driver', 1)),
    "empty": b"",
    "not XML": b"disk",
    "cut": domain(our_disk())[:-9],
    "doctype": b"<!DOCTYPE domain>" + domain(our_disk()),
    "entity": b'<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + domain(our_disk(), extra="<t>&e;</t>"),
    "other encoding": b'<?xml version="1.0" encoding="latin-1"?>' + domain(our_disk()),
    "utf-16": domain(our_disk()).decode().encode("utf-16"),
    "too long": domain(our_disk(), extra="<!--" + "x" * 4 * 2**20 + "-->"),
    "type through a character reference": domain(our_disk(driver='<driver name="qemu" type="r&#x61;v"/>')),
    "disks outside of devices": f"<domain>{our_disk()}</domain>".encode(),
}


@pytest.mark.parametrize("document", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_understood_is_refused(document: bytes) -> None:
    with pytest.raises(DomainRefused):
        open_as_qcow2(document)
