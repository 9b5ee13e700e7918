"""What a pod with a mounted volume may try on the layers below it: its user, its part of the volume, its commands.

Each attack is a shell command with ``$V``, the volume as the pod has it, and ``$L``, the name of a layer's file.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONTAINER = (
    "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill"
)
"""Capabilities that containerd gives to a container of root."""
ACTORS: dict[str, list[str]] = {
    "virt-launcher": ["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set", "-all"],
    "root": [
        "setpriv",
        "--bounding-set",
        ",".join(["-all", *(f"+{capability}" for capability in CONTAINER.split(","))]),
        "--no-new-privs",
    ],
    # Its way to the node's disk as a device is not tried here.
    "privileged": [],
}
SHAPES = {"whole": "", "subPath .": ".", "subPath chain": "chain", "subPath of a layer": "chain/$L"}
"""subPathExpr gives the kubelet the same paths after expansion."""


@dataclass(frozen=True)
class Attack:
    """One command; ``$F`` is the layer's file and ``$C`` its directory, as this pod has them."""

    name: str
    command: str


ATTACKS = [
    Attack("overwrite", "printf EVIL | dd of=$F bs=1 seek=70000 conv=notrunc status=none"),
    Attack("append", "printf x >> $F"),
    Attack("truncate", ": > $F"),
    Attack("shorten", "truncate -s 100 $F"),
    Attack("punch a hole", "fallocate -p -o 0 -l 4096 $F"),
    Attack("change the mode and write", "chmod 666 $F && printf x >> $F"),
    Attack("take it and write", "chown 0:0 $F && chmod 600 $F && printf x >> $F"),
    Attack("change the time", "touch -d 2001-01-01 $F"),
    Attack("rename", "mv $F $C/other"),
    Attack("remove", "rm -f $F && test ! -e $F"),
    Attack("new file among the layers", "touch $C/new"),
    Attack("second name", "ln $F $V/second && printf x >> $V/second"),
    Attack("second name, by the folder's other way", "ln $C/../chain/$L $V/second && printf x >> $V/second"),
    Attack("extended attribute", "setfattr -n user.x -v y $F"),
    Attack("remount the layers", "mount -o remount,rw $C && printf x >> $F"),
    Attack("remount the bind", "mount -o remount,rw,bind $C && printf x >> $F"),
    Attack("uncover and write", "umount -l $C; printf EVIL | dd of=$C/$L bs=1 seek=70000 conv=notrunc,nocreat"),
    Attack("bind elsewhere", "mkdir -p $S/m && mount --bind $V $S/m && printf x >> $S/m/chain/$L"),
    Attack("exchange the folder", "mv $V/chain $V/aside && printf x >> $V/aside/$L"),
    Attack("remove the folder and write", "rmdir $V/chain; printf EVIL | dd of=$F bs=1 conv=notrunc,nocreat"),
]


@contextmanager
def pod_volume(target: Path, shape: str, layer: str, place: Path, *, keep_options: bool) -> Iterator[Path]:
    """The volume as a container gets it: whole, or the part at a subPath, bound as the kubelet does.

    Source: kubernetes pkg/volume/util/subpath/subpath_linux.go, doBindSubPath: the part is opened step by step, and
    bound without the mounts inside it ("bind", not "rbind"). Then the options are set: those of the source
    (``keep_options``), or in older releases none, which makes a read-only bind mount writable.
    """
    part = target / shape.replace("$L", layer)
    place.touch() if part.is_file() else place.mkdir()
    if not shape:
        _run("mount", "--rbind", str(target), str(place))
    else:
        descriptor = os.open(part, os.O_PATH | os.O_NOFOLLOW)
        try:
            source = f"/proc/{os.getpid()}/fd/{descriptor}"
            _run("mount", "--no-canonicalize", "-o", "bind", source, str(place))
            flags = "nosuid,nodev,noexec" + (",ro" if os.statvfs(part).f_flag & os.ST_RDONLY else "")
            _run(
                "mount",
                "--no-canonicalize",
                "-o",
                f"bind,remount{',' + flags if keep_options else ''}",
                source,
                str(place),
            )
        finally:
            os.close(descriptor)
    try:
        yield place
    finally:
        _run("umount", "-R", "-l", str(place))
        place.unlink() if place.is_file() else place.rmdir()


def in_pod(actor: str, target: Path, script: str, **env: str) -> bool:
    """Whether a shell script of this actor succeeds, in a mount namespace without the kubelet's ``target``."""
    enter = ["unshare", "-m", "--propagation", "private", "sh", "-c", 'umount -R -l "$0" && exec "$@"', str(target)]
    command = [*enter, *ACTORS[actor], "sh", "-c", script]
    return (
        subprocess.run(command, env={**os.environ, **env}, capture_output=True, check=False, timeout=20).returncode == 0
    )


def attempt(actor: str, attack: Attack, shape: str, target: Path, place: Path, layer: str, scratch: Path) -> bool:
    """Whether the attack's command succeeds."""
    files = {"": place / "chain", ".": place / "chain", "chain": place}
    chain = files.get(shape, place.parent)
    file = place if shape.endswith("$L") else chain / layer
    return in_pod(actor, target, attack.command, V=str(place), C=str(chain), F=str(file), L=layer, S=str(scratch))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
