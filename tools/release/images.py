"""The three images: which layers each has, and what is in them.

Debian packages are unpacked, and no script of theirs runs; Python packages are wheels. So both architectures are built
on either one, and need no emulation. Only the compiler of Python's bytecode runs: it is the same for all.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from localcluster.bounded import BUILD_S
from localcluster.rootfs import Mirrors
from tools.release.debian import ARCHITECTURES, fetch, read_lock
from tools.release.extra import ROOT
from tools.release.oci import Run, Variant, write_archive
from tools.release.tree import Blob, Tree
from tools.release.wheels import PYTHON, SITE, install

USER = "65532:65532"
_HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}
_STDLIB = f"usr/lib/python{PYTHON}"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
_PASSWD = b"root:x:0:0:root:/root:/usr/sbin/nologin\nkigi:x:65532:65532:Kigi:/nonexistent:/usr/sbin/nologin\n"
_GROUP = b"root:x:0:\nkigi:x:65532:\n"
_ENV = {
    "PATH": "/usr/local/bin:/usr/bin",
    "PYTHONUNBUFFERED": "1",
    "SSL_CERT_FILE": f"/{_CERTIFICATES}",
}


@dataclass(frozen=True, slots=True)
class Target:
    """One image: its program, its layers, bottom first, and its title."""

    entrypoint: str
    layers: tuple[str, ...]
    title: str


TARGETS: Mapping[str, Target] = {
    "operator": Target("kigi-operator", ("base", "operator", "kigi"), "Kigi's operator and command line"),
    "daemon": Target(
        "kigi-cache", ("base", "qemu", "daemon", "kigi"), "Kigi's node cache daemon and capture publisher"
    ),
    "hook": Target("kigi-disk-hook", ("base", "hook", "kigi"), "Kigi's disk hook"),
}
"""Name of the image without ``kigi-`` -> what it has. Layers of one name are shared."""
LOCKS = {name: f"image/{name}.lock" for name in ("operator", "daemon", "hook")}
"""Layer -> lock file of its Python packages."""


def build_layers(wheel: Path, cache: Path, epoch: int) -> dict[str, dict[str, Blob]]:
    """Architecture -> layer -> content. Raises PackageUnavailable, or CalledProcessError with the output of uv."""
    mirrors = Mirrors.of_this_machine()
    trees = {architecture: _trees(architecture, wheel, cache, mirrors) for architecture in ARCHITECTURES}
    _compile(trees)
    return {
        architecture: {name: tree.blob(epoch) for name, tree in layers.items()}
        for architecture, layers in trees.items()
    }


def write_images(
    layers: Mapping[str, Mapping[str, Blob]], directory: Path, version: str, created: str, labels: Mapping[str, str]
) -> dict[str, str]:
    """Write ``kigi-NAME-VERSION.oci.tar`` for each target; name of the target -> digest of its index."""
    digests = {}
    for name, target in TARGETS.items():
        variants = [Variant(arch, [layers[arch][layer] for layer in target.layers]) for arch in layers]
        described = {**labels, "org.opencontainers.image.title": target.title}
        run = Run([target.entrypoint], USER, _ENV, dict(sorted(described.items())))
        path = directory / f"kigi-{name}-{version}.oci.tar"
        digests[name] = write_archive(path, version, variants, run, created)
    return digests


def _trees(architecture: str, wheel: Path, cache: Path, mirrors: Mirrors) -> dict[str, Tree]:
    trees = {name: Tree() for name in ("base", "qemu", "kigi", *LOCKS)}
    for package in read_lock():
        if package.architecture == architecture:
            trees[package.part].add_package(fetch(package, cache, mirrors), package.name)
    _complete(trees["base"])
    for name, lock in LOCKS.items():
        with tempfile.TemporaryDirectory() as folder:
            install(ROOT / lock, architecture, Path(folder))
            trees[name].add_directory(Path(folder), SITE)
    _add_wheel(trees["kigi"], wheel)
    return trees


def _complete(base: Tree) -> None:
    """What maintainer scripts would have made."""
    base.add_file("etc/passwd", _PASSWD)
    base.add_file("etc/group", _GROUP)
    base.add_file("etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    folder = "usr/share/ca-certificates/mozilla/"
    base.add_file(_CERTIFICATES, b"".join(data for path, data in base.files() if path.startswith(folder)))


def _add_wheel(tree: Tree, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            tree.add_file(f"{SITE}/{name}", archive.read(name))
            if name.endswith(".dist-info/entry_points.txt"):
                _add_programs(tree, archive.read(name).decode())


def _add_programs(tree: Tree, text: str) -> None:
    parser = ConfigParser()
    parser.read_string(text)
    for program, place in parser["console_scripts"].items():
        module, _, function = place.partition(":")
        code = f"#!/usr/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        tree.add_file(f"usr/local/bin/{program}", code.encode(), 0o755)


def _compile(trees: Mapping[str, Mapping[str, Tree]]) -> None:
    """Adds bytecode to the trees: programs start on a read-only file system, a hook with every VM.

    The bytecode of one source is the same on all architectures. It names the source's hash instead of its time.
    """
    host = _HOSTS[platform.machine()]
    for name in ("base", "kigi", *LOCKS):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            trees[host]["base"].extract(root)
            if name != "base":
                trees[host][name].extract(root)
            compiled = _bytecode(root, _STDLIB if name == "base" else SITE)
        sources = dict(trees[host][name].files())
        for tree in (layers[name] for layers in trees.values()):
            for path, data in list(tree.files()):
                if (code := compiled.get(path)) is not None and sources[path] == data:
                    tree.add_file(code[0], code[1])


def _bytecode(root: Path, folder: str) -> dict[str, tuple[str, bytes]]:
    """Path of a source -> path and content of its bytecode."""
    call = [
        "/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "-x", "lib2to3/tests|bad_coding|badsyntax", f"/{folder}",
    ]  # fmt: skip
    chroot = ["/usr/sbin/chroot", str(root), *call]
    if os.geteuid() != 0:
        chroot = ["unshare", "--map-root-user", *chroot]
    environment = {"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]}
    subprocess.run(chroot, env=environment, timeout=BUILD_S, check=True)
    found = {}
    for path in (root / folder).rglob("__pycache__/*.pyc"):
        source = path.parent.parent / f"{path.name.split('.')[0]}.py"
        name, code = str(source.relative_to(root)), str(path.relative_to(root))
        found[name] = code, path.read_bytes()
    return found
