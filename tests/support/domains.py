"""Domain XML like virt-launcher 1.7 writes it: its element order, tabs, and elements of its own schema."""

from __future__ import annotations

DISKS = "/var/run/kubevirt-private/vmi-disks"
DRIVER = '<driver cache="none" error_policy="stop" io="native" name="qemu" type="raw" discard="unmap"></driver>'


def our_disk(volume: str = "kigi-root", bus: str = "virtio", driver: str = DRIVER) -> str:
    """A disk of a filesystem claim."""
    model = ' model="virtio-non-transitional"' if bus == "virtio" else ""
    return (
        f'<disk device="disk" type="file"{model}>\n\t\t\t<source file="{DISKS}/{volume}/disk.img"></source>\n'
        f'\t\t\t<target bus="{bus}" dev="vda"></target>\n\t\t\t{driver}\n'
        f'\t\t\t<alias name="ua-{volume}"></alias>\n\t\t\t<filesystemOverhead>0.055</filesystemOverhead>'
        "\n\t\t\t<capacity>1073741824</capacity>\n\t\t</disk>"
    )


FOREIGN_FILE = our_disk("data-kigi")
FOREIGN_RAW_BLOCK = (
    '<disk device="disk" type="block"><source dev="/dev/kigi-block"></source>'
    '<target bus="virtio" dev="vdc"></target><driver name="qemu" type="raw"></driver></disk>'
)
CLOUD_INIT = (
    '<disk device="cdrom" type="file"><source file="/var/run/kubevirt-ephemeral-disks/cloud-init-data/n/vm/no.iso">'
    '</source><target bus="sata" dev="sda"></target><driver cache="none" error_policy="stop" name="qemu" type="raw">'
    '</driver><alias name="ua-cloudinit"></alias><readonly></readonly></disk>'
)


def domain(*disks: str, extra: str = "") -> bytes:
    """A domain with these disks in this order; ``extra`` follows them in ``devices``."""
    inner = "\n\t\t".join(disks)
    return (
        '<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">\n\t<name>range_vm-ü</name>\n'
        '\t<memory unit="b">268435456</memory>\n\t<devices>\n\t\t<interface type="ethernet">'
        f"<driver name='vhost'></driver></interface>\n\t\t{inner}\n\t\t{extra}\n\t</devices>\n"
        '\t<qemu:commandline>\n\t\t<qemu:arg value="type=&quot;raw&quot;"></qemu:arg>\n\t</qemu:commandline>\n</domain>'
    ).encode()
