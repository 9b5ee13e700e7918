"""The tiny variant: the same trees with the same names in a few megabytes, built in seconds and without root.

Each disk has two partitions: FAT with the boot loader, Debian's cloud kernel and an initramfs (only the root layer has
data there), and ext4 with the files of the levels, which ``guest/tiny-init`` mounts. The disks are built in memory and
by tools that write into files, with a fixed clock, so that equal inputs give equal layers.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kigi.publishing.layer_writer import CLUSTER, compare, write_layer
from scenario import cpio
from scenario.manifest import Manifest, describe
from scenario.packages import BuildFailed, cache_dir, kernel_package, run, unpack
from scenario.tree import Entry, Level, image_levels

logger = logging.getLogger(__name__)

MIB = 1 << 20
SECTOR = 512
BOOT_START, BOOT_BYTES = 1 * MIB, 19 * MIB
DATA_START, DATA_BYTES = 20 * MIB, 12 * MIB
DISK_BYTES = DATA_START + DATA_BYTES
CLOCK = 1_767_225_600
"""Every time stamp on the disks: 2026-01-01 00:00 UTC."""
FILLER_BYTES = {"base": MIB, "role": MIB // 2, "machine": 0, "state": 0}
"""Size of a filler file by kind of level. It represents the level's software, so that sizes reflect the tree."""

MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
"""Kernel modules that the guest loads, with their dependencies; ext4 and the serial port are built into the kernel."""
KERNEL_OPTIONS = "console=ttyS0,115200 quiet loglevel=3 panic=5 mitigations=off no_timer_check random.trust_cpu=on"
BOOT_CONFIG = f"""DEFAULT kigi
PROMPT 0
TIMEOUT 0
LABEL kigi
  LINUX vmlinuz
  INITRD initrd
  APPEND {KERNEL_OPTIONS}
"""
_FIXED_CLOCK = {"SOURCE_DATE_EPOCH": str(CLOCK), "E2FSPROGS_FAKE_TIME": str(CLOCK)}


def build(out: Path) -> Manifest:
    """Build all layers into the folder ``out``, created if missing, and write ``out/manifest.json``.

    Raises BuildFailed if a tool is missing or fails. Takes seconds, and downloads packages if the cache is empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    levels = image_levels()
    disks: dict[str, bytes] = {}
    waiting = {level.name: sum(child.parent == level.name for child in levels) for level in levels}
    with tempfile.TemporaryDirectory(prefix="kigi-tiny-") as scratch:
        work = Path(scratch)
        for level in levels:
            parent = bytes(DISK_BYTES) if level.parent is None else disks[level.parent]
            disk = _apply(level, _empty_disk(work) if level.parent is None else parent, work)
            _write(out / f"{level.name}.qcow2", level.parent, disk, parent)
            disks[level.name] = disk
            if level.parent is not None:
                waiting[level.parent] -= 1
                if not waiting[level.parent]:
                    del disks[level.parent]
            logger.info("level built", extra={"level": level.name})
    manifest = describe("tiny", levels, out, {level.name: f"{level.name}.qcow2" for level in levels}, DISK_BYTES)
    manifest.save(out)
    return manifest


def _write(path: Path, parent_name: str | None, disk: bytes, parent: bytes) -> None:
    def cluster(source: bytes, index: int) -> bytes:
        return source[index * CLUSTER : (index + 1) * CLUSTER]

    path.unlink(missing_ok=True)
    changed = compare(
        DISK_BYTES,
        range(DISK_BYTES // CLUSTER),
        lambda index: cluster(disk, index),
        lambda index: cluster(parent, index),
    )
    backing = f"{parent_name}.qcow2" if parent_name else None
    write_layer(path, DISK_BYTES, backing, changed, lambda index: cluster(disk, index))


def _empty_disk(work: Path) -> bytes:
    """Partition table, boot part and an empty data part."""
    kernel = kernel_package()
    packages = unpack((kernel, "syslinux", "mtools", "busybox-static"), cache_dir())
    loader = packages["syslinux"]
    boot = work / "boot.img"
    initrd = _initrd(packages[kernel], packages["busybox-static"])
    _make_boot_part(boot, packages[kernel], initrd, loader, packages["mtools"], work)
    data = work / "data.img"
    with data.open("wb") as file:
        file.truncate(DATA_BYTES)
    # No journal: a level then changes only the blocks of its files. The guest's init syncs after each of its writes.
    run(
        "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-N", "512", "-m", "0", "-L", "kigi-data",
        "-U", "6b696769-0000-4000-8000-000000000001", "-O", "^has_journal,^resize_inode,^metadata_csum,^64bit",
        "-E", "hash_seed=6b696769-0000-4000-8000-000000000002,lazy_itable_init=0,nodiscard", data,
        env=_FIXED_CLOCK,
    )  # fmt: skip
    master = (loader / "usr/lib/SYSLINUX/mbr.bin").read_bytes().ljust(440, b"\0")
    table = _partition(BOOT_START, BOOT_BYTES, 0x0E, active=True) + _partition(DATA_START, DATA_BYTES, 0x83)
    first = master + b"KIGI\0\0" + table + bytes(32) + b"\x55\xaa"
    return first.ljust(BOOT_START, b"\0") + boot.read_bytes() + data.read_bytes()


def _partition(start: int, size: int, kind: int, active: bool = False) -> bytes:
    # Heads and cylinders are all ones: the boot loader uses sector numbers.
    no_chs = b"\xfe\xff\xff"
    return (
        struct.pack("<B3sB3s", 0x80 if active else 0, no_chs, kind, no_chs)
        + struct.pack("<II", start // SECTOR, size // SECTOR)
    )  # fmt: skip


def _make_boot_part(boot: Path, kernel: Path, initrd: bytes, loader: Path, mtools: Path, work: Path) -> None:
    (vmlinuz,) = (kernel / "boot").glob("vmlinuz-*")
    (work / "initrd").write_bytes(initrd)
    (work / "syslinux.cfg").write_text(BOOT_CONFIG)
    shutil.copyfile(vmlinuz, work / "vmlinuz")
    env = _FIXED_CLOCK | {"PATH": f"{mtools}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    with boot.open("wb") as file:
        file.truncate(BOOT_BYTES)
    run(
        "mformat", "-i", boot, "-T", str(BOOT_BYTES // SECTOR), "-h", "16", "-s", "63", "-H", str(BOOT_START // SECTOR),
        "-N", "4b494749", "-v", "KIGIBOOT", "::", env=env,
    )  # fmt: skip
    run("mcopy", "-i", boot, work / "vmlinuz", work / "initrd", work / "syslinux.cfg", "::", env=env)
    run(loader / "usr/bin/syslinux", "--install", boot, env=env)


def _initrd(kernel: Path, busybox: Path) -> bytes:
    shell = next(path for path in (busybox / "bin/busybox", busybox / "usr/bin/busybox") if path.is_file())
    modules = modules_in_order(kernel, MODULES)
    folders = ("bin", "dev", "proc", "sys", "data", "modules")
    return cpio.archive(
        (
            *(cpio.Node.directory(name) for name in folders),
            cpio.Node.character("dev/console", 5, 1),
            cpio.Node.file("init", Path(__file__).with_name("guest").joinpath("tiny-init").read_bytes(), 0o755),
            cpio.Node.file("bin/busybox", shell.read_bytes(), 0o755),
            cpio.Node.file("modules/order", "".join(f"{name}\n" for name in modules).encode()),
            *(cpio.Node.file(f"modules/{name}", data) for name, data in modules.items()),
        )
    )


def modules_in_order(kernel: Path, names: Iterable[str]) -> dict[str, bytes]:
    """File name -> contents of these kernel modules and all their dependencies, each after its dependencies.

    The package has no modules.dep, which installation would make; the field ``depends`` of each module is used instead.
    Raises BuildFailed for a module that is not in the package.
    """
    files = {path.stem.replace("-", "_"): path for path in kernel.rglob("*.ko")}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name not in files:
            raise BuildFailed(f"the kernel package has no module {name}; MODULES in scenario/tiny.py lists the modules")
        if files[name].name in order:
            return
        data = files[name].read_bytes()
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for needed in depends[1].decode().split(",") if depends and depends[1] else ():
            add(needed.replace("-", "_"))
        order[files[name].name] = data

    for name in names:
        add(name)
    return order


def _apply(level: Level, disk: bytes, work: Path) -> bytes:
    """The disk with the files of ``level`` in its data part."""
    data = work / "data.img"
    data.write_bytes(disk[DATA_START:])
    files = dict(level.files)
    if size := FILLER_BYTES[level.kind]:
        files[f"/usr/share/kigi/{level.name}"] = Entry(_filler(level.name, size))
    script = "\n".join(_debugfs_script(files, level.removed, work / "content"))
    output = run("debugfs", "-w", "-f", "-", data, stdin=script + "\n", env=_FIXED_CLOCK)
    for line in output.splitlines():
        # debugfs always exits with 0. It prints "already exists" for folders of earlier levels.
        if ":" in line and not line.startswith(("debugfs", "Allocated inode")) and "already exists" not in line:
            if "File not found" in line:
                continue
            raise BuildFailed(f"debugfs on level {level.name}: {line}")
    return disk[:DATA_START] + data.read_bytes()


def _debugfs_script(files: dict[str, Entry], removed: Iterable[str], content: Path) -> list[str]:
    shutil.rmtree(content, ignore_errors=True)
    content.mkdir()
    lines = [f"rm {path}" for path in removed]
    folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"/"})
    lines += [f"mkdir {folder}" for folder in folders]
    for number, (path, entry) in enumerate(sorted(files.items())):
        lines.append(f"rm {path}")
        if entry.link is not None:
            lines.append(f"symlink {path} {entry.link}")
            continue
        source = content / str(number)
        source.write_bytes(entry.text)
        lines += [f"write {source} {path}", f"sif {path} mode 0{0o100000 | entry.mode:o}", f"sif {path} uid 0"]
        lines += [f"sif {path} gid 0"]
    return lines


def _filler(name: str, size: int) -> bytes:
    return b"".join(hashlib.sha256(f"{name} {n}".encode()).digest() for n in range(size // 32))
