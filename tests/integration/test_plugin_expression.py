"""The Plugin for KubeVirt 1.9, by 1.9's own evaluator: our disks become qcow2, QEMU gets a monitor, and nothing else
changes."""

from __future__ import annotations

import itertools
import json
import subprocess
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from kigi.hook.monitor import VALUE
from kigi.planning.plugin import build_plugin
from localcluster.build import binary

OURS = "/var/run/kubevirt-private/vmi-disks/kigi-root/disk.img"
FOREIGN = "/var/run/kubevirt-private/vmi-disks/scratch/disk.img"
NOTHING: dict[str, Any] = {"spec": {"domainHooks": [{"cel": {"expression": "Domain{}"}}]}}
"""A Plugin that changes nothing: what is different beside it is ours."""


QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
LABELS = {"kigi.dev/deployment": "class"}


def check(
    plugin: dict[str, Any], domain: str, labels: dict[str, str] | None = LABELS, arguments: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    text = json.dumps({"plugin": plugin, "domain": domain, "labels": labels, "arguments": arguments})
    return subprocess.run([binary("plugin-check")], input=text, capture_output=True, text=True, check=False)


def apply(plugin: dict[str, Any], domain: str, arguments: tuple[str, ...] = ()) -> Element:
    done = check(plugin, domain, arguments=arguments)
    assert done.returncode == 0, done.stderr
    return ElementTree.fromstring(done.stdout)


def plain(element: Element) -> object:
    """What the element says, comparable; without QEMU's arguments, which have tests of their own."""
    inside = [plain(child) for child in element if child.tag != f"{QEMU}commandline"]
    return element.tag, element.attrib, (element.text or "").strip(), inside


def arguments_of(root: Element) -> list[str | None]:
    return [argument.get("value") for argument in root.findall(f"{QEMU}commandline/{QEMU}arg")]


def disk(file: str = OURS, driver: str = "", inside: str = "", attributes: str = "", bus: str = "virtio") -> str:
    return (
        f'<disk device="disk" type="file" {attributes}><source file="{file}"/><target bus="{bus}" dev="vda"/>'
        f'<driver name="qemu" type="raw" {driver}/><alias name="ua-disk"/>{inside}</disk>'
    )


CLOUD_INIT = disk("/var/run/kubevirt-ephemeral-disks/cloud-init-data/ns/vm/noCloud.iso")
BLOCK = '<disk device="disk" type="block"><source dev="/dev/data"/><target bus="virtio" dev="vdc"/></disk>'
EMPTY = '<disk device="cdrom" type="file"><target bus="sata" dev="sda"/><readonly/></disk>'


def domain(*disks: str) -> str:
    devices = '<interface type="ethernet"><mac address="02:00:00:00:00:01"/><model type="virtio"/></interface>'
    return f'<domain type="kvm"><name>vm</name><devices>{"".join(disks)}{devices}</devices></domain>'


def as_qcow2(root: Element) -> object:
    """The domain with nothing but the format of our disks changed."""
    for found in root.iter("disk"):
        source, driver = found.find("source"), found.find("driver")
        if source is not None and "/vmi-disks/kigi-" in source.get("file", ""):
            assert driver is not None
            driver.set("type", "qcow2")
    return plain(root)


def formats(root: Element) -> list[str | None]:
    return [driver.get("type") for driver in root.iter("driver")]


MORE = [
    "",
    "<serial>2b5c</serial>",
    '<boot order="1"/>',
    "<readonly/>",
    "<shareable/>",
    '<blockio logical_block_size="4096" physical_block_size="4096"/>',
    '<address type="pci" domain="0x0000" bus="0x07" slot="0x00" function="0x0"/>',
]


@pytest.mark.parametrize("inside", MORE)
def test_everything_of_our_disk_but_its_format_is_kept(inside: str) -> None:
    buses, caches = ("virtio", "sata", "scsi"), ("", 'cache="none" io="native"', 'cache="writethrough"')
    disks = [disk(driver=cache, inside=inside, bus=bus) for bus, cache in itertools.product(buses, caches)]
    text = domain(*disks)
    assert plain(apply(build_plugin(), text)) == as_qcow2(apply(NOTHING, text))


@pytest.mark.parametrize(
    "driver",
    ['error_policy="stop" discard="unmap"', 'iothread="1"', 'queues="4"', 'iommu="on"', 'io="threads"'],
)
def test_everything_of_its_driver_is_kept(driver: str) -> None:
    text = domain(disk(driver=driver, attributes='model="virtio-transitional"'))
    changed = apply(build_plugin(), text)
    assert plain(changed) == as_qcow2(apply(NOTHING, text))
    assert formats(changed) == ["qcow2"]


def test_disks_that_are_not_ours_are_left_alone() -> None:
    text = domain(disk(FOREIGN), CLOUD_INIT, BLOCK, EMPTY)
    changed = apply(build_plugin(), text)
    assert plain(changed) == plain(apply(NOTHING, text))
    assert "qcow2" not in formats(changed)


def test_every_disk_of_ours_is_found_among_others() -> None:
    second = disk(OURS.replace("root", "data"))
    text = domain(CLOUD_INIT, disk(), EMPTY, disk(FOREIGN), second, BLOCK)
    changed = apply(build_plugin(), text)
    assert plain(changed) == as_qcow2(apply(NOTHING, text))
    assert formats(changed).count("qcow2") == 2


@pytest.mark.parametrize("labels", [None, {}, {"app": "kigi.dev/deployment"}])
def test_a_vm_that_is_not_ours_is_left_alone_whatever_its_volumes_are_called(labels: dict[str, str] | None) -> None:
    done = check(build_plugin(), domain(disk()), labels)
    assert done.returncode == 0, done.stderr
    assert plain(ElementTree.fromstring(done.stdout)) == plain(apply(NOTHING, domain(disk())))


def test_qemu_gets_a_monitor() -> None:
    assert arguments_of(apply(NOTHING, domain(disk()))) == []
    assert arguments_of(apply(build_plugin(), domain(disk()))) == ["-qmp", VALUE]


def test_arguments_and_variables_that_the_domain_has_are_kept() -> None:
    own = ("-fw_cfg", "name=opt/com.coreos/config,file=/var/run/x.ign")
    changed = apply(build_plugin(), domain(disk()), own)
    assert arguments_of(changed) == [*own, "-qmp", VALUE]
    assert len(changed.findall(f"{QEMU}commandline")) == 1
    assert [found.attrib for found in changed.findall(f"{QEMU}commandline/{QEMU}env")] == [
        {"name": "OWN", "value": "1"}
    ]
    assert plain(changed) == as_qcow2(apply(NOTHING, domain(disk()), own))


def test_a_vm_that_is_not_ours_gets_no_monitor() -> None:
    done = check(build_plugin(), domain(disk()), {})
    assert arguments_of(ElementTree.fromstring(done.stdout)) == []


def test_an_expression_that_is_none_is_refused() -> None:
    bad = {"spec": {"domainHooks": [{"cel": {"expression": "Domain{Devices: 1}"}}]}}
    done = check(bad, domain(disk()))
    assert done.returncode == 1
    assert "refused at admission" in done.stderr
