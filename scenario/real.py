"""The real variant: Debian with its services, built level by level; each level is the difference to its parent.

The cache stores each level under a hash of its inputs and of its parent's hash, so that after a change only that level
and its children are rebuilt. Needs root, loop devices and a mirror of Debian in apt's sources.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scenario import mounted
from scenario.manifest import Manifest, describe
from scenario.packages import BuildFailed, cache_dir, run, unpack
from scenario.tree import Entry, Level, image_levels

logger = logging.getLogger(__name__)

SUITE = "bookworm"
DISK_BYTES = 4 << 30
CLOCK = 1_767_225_600
"""Time stamp of the files below ``levels/``: 2026-01-01 00:00 UTC."""
FORMAT = "1"
"""Part of every level's key; increase it when a change of this module changes the result of a build."""

# Few groups, inode tables and bitmaps, all close together, and no journal: a level then changes few 64 KiB clusters.
MKE2FS = (
    "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-N", "131072", "-m", "0", "-L", "root",
    "-U", "6b696769-0000-4000-8000-000000000011", "-G", "64",
    "-O", "^has_journal,^resize_inode,^metadata_csum,^64bit,^orphan_file,sparse_super2",
    "-E", f"hash_seed=6b696769-0000-4000-8000-000000000012,lazy_itable_init=0,nodiscard,packed_meta_blocks=1,"
    f"num_backup_sb=0,offset={mounted.PARTITION_START}",
)  # fmt: skip


def build(out: Path) -> Manifest:
    """Build all layers that are not in the cache, link all into ``out``, and write ``out/manifest.json``.

    Raises BuildFailed if a tool is missing or fails; finished levels stay in the cache for the next attempt.
    """
    if os.geteuid() != 0:
        raise BuildFailed("the real variant mounts file systems; run it as root")
    cache = cache_dir() / "layers"
    cache.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    levels = image_levels()
    files: dict[str, str] = {}
    keys: dict[str, str] = {}
    for level in levels:
        key = _key(level, keys[level.parent] if level.parent else "")
        file = f"{level.name}-{key[:16]}.qcow2"
        parent = cache / files[level.parent] if level.parent else None
        if not (cache / file).exists():
            _build_level(level, parent, cache / file)
        keys[level.name], files[level.name] = key, file
        _link(cache / file, out / file)
    manifest = describe("real", levels, out, files, DISK_BYTES)
    manifest.save(out)
    return manifest


def _build_level(level: Level, parent: Path | None, final: Path) -> None:
    logger.info("%s: building", level.name)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=final.parent) as scratch:
        # The parent's name is relative, so the unfinished layer must be in the same folder.
        dirty = final.with_name(f".{final.name}.dirty")
        dirty.unlink(missing_ok=True)
        try:
            mounted.create(dirty, DISK_BYTES, parent.name if parent else None)
            content = Path(scratch) / "content.tar"
            content.write_bytes(_archive(level.files))
            with mounted.exported(mounted.Export(dirty, writable=True)) as (disk,):
                if parent is None:
                    _format(disk)
                mounted.run_mounted(disk, _script(level), _shares(), content)
            made = Path(scratch) / final.name
            mounted.reduce(dirty, parent, made, DISK_BYTES)
            made.chmod(0o444)
            made.replace(final)
        finally:
            dirty.unlink(missing_ok=True)
    logger.info("%s: %.1f MB", level.name, final.stat().st_size / 1e6)


def _key(level: Level, parent_key: str) -> str:
    """Hash of all inputs of the level except the packages' versions."""
    recipe = {
        "format": FORMAT,
        "parent": parent_key,
        "name": level.name,
        "files": {path: [entry.text.hex(), entry.mode, entry.link] for path, entry in sorted(level.files.items())},
        "removed": level.removed,
        "packages": level.packages,
        "script": level.script,
        "disk": [DISK_BYTES, SUITE, MKE2FS, _CLEAN, _POLICY, _LEFT] if level.parent is None else [],
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _archive(files: Mapping[str, Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in sorted(files.items()):
            member = tarfile.TarInfo(path.lstrip("/"))
            member.mtime, member.mode, member.size = CLOCK, entry.mode, len(entry.text)
            if entry.link is not None:
                member.type, member.linkname, member.size = tarfile.SYMTYPE, entry.link, 0
            archive.addfile(member, io.BytesIO(entry.text))
    return buffer.getvalue()


def _format(disk: Path) -> None:
    """Partition table with one active partition, boot code, and an empty file system."""
    loader = unpack(("extlinux",), cache_dir())["extlinux"]
    first = bytearray((loader / "usr/lib/EXTLINUX/mbr.bin").read_bytes().ljust(440, b"\0") + b"KIGI\0\0" + bytes(66))
    sectors = (DISK_BYTES - mounted.PARTITION_START) // 512
    start = mounted.PARTITION_START // 512
    first[446:462] = (
        bytes((0x80, 254, 255, 255, 0x83, 254, 255, 255)) + start.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    )
    first[510:512] = b"\x55\xaa"
    with disk.open("r+b") as file:
        file.write(first)
    run("mke2fs", *MKE2FS, disk, str((DISK_BYTES - mounted.PARTITION_START) // 4096))


def _shares() -> dict[str, Path]:
    """Folders for package lists and archives, mounted into the guest: they stay in the cache and out of the layers."""
    base = cache_dir() / "apt"
    shares = {"/var/cache/apt/archives": base / "archives", "/var/lib/apt/lists": base / "lists"}
    for folder in shares.values():
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    return shares


def debian_sources() -> list[str]:
    """Lines for sources.list: the guest's suites from the mirrors of this machine's apt. Raises BuildFailed."""
    targets = run("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages")
    sites: dict[str, str] = {}
    for line in targets.splitlines():
        site, _, release = line.partition(" ")
        if release == SUITE or release.startswith(f"{SUITE}-"):
            sites[release] = site
    if SUITE not in sites:
        raise BuildFailed(f"apt's sources on this machine do not include {SUITE}; add a mirror that has it")
    return [f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {site} {suite} main"
            for suite, site in sorted(sites.items())]  # fmt: skip


def _script(level: Level) -> str:
    parts = []
    if level.parent is None:
        parts.append(_debootstrap())
    else:
        parts.append("attach")
    parts += [f'rm -rf "$root{path}"' for path in level.removed]
    extract = 'tar --extract --file "$content" --directory "$root" --no-overwrite-dir --numeric-owner'
    if not level.packages and not level.script:
        # No command runs in the guest's file system, so it needs no package caches and no cleaning.
        return "\n".join([*parts, "umask 022", extract, ""])
    parts += ["umask 022", extract, "share", _POLICY]
    if level.packages:
        sources = "\n".join(debian_sources())
        parts += [
            f"cat >\"$root/etc/apt/sources.list\" <<'END'\n{sources}\nEND",
            "inside apt-get -q update",
            "inside apt-get -q -y -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold "
            f"-o APT::Keep-Downloaded-Packages=true install --no-install-recommends {' '.join(level.packages)}",
        ]
    if level.script:
        parts.append(f"inside sh -eu <<'END'\n{level.script}END")
    if level.parent is None:
        loader = unpack(("extlinux",), cache_dir())["extlinux"]
        parts.append(f'"{loader}/usr/bin/extlinux" --install "$root/boot/extlinux"')
    # The mount discards freed blocks one by one; fstrim discards them in larger extents, which fill whole clusters.
    parts += [_CLEAN, 'fstrim "$root"']
    return "\n".join([*parts, ""])


def _debootstrap() -> str:
    (mirror,) = {line.split()[2] for line in debian_sources() if line.split()[3] == SUITE}
    archives = _shares()["/var/cache/apt/archives"]
    return f'attach\ndebootstrap --variant=minbase --cache-dir="{archives}" {SUITE} "$root" "{mirror}"\n{_LEFT}'


_LEFT = 'rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/archives/*'
"""Removes debootstrap's files from the directories where later levels mount the shared folders."""

_POLICY = """
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
"""
"""Keeps packages from starting services while they are installed."""

_CLEAN = """
rm -f "$root/usr/sbin/policy-rc.d"
echo '# Name a Debian mirror here.' >"$root/etc/apt/sources.list"
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/log/*.log "$root"/var/log/apt/* "$root"/var/cache/debconf/*-old \
    "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache "$root"/usr/share/info "$root"/usr/share/man/*
rm -f "$root"/etc/ssh/ssh_host_*
: >"$root/etc/machine-id"
"""
