"""Builds the cluster's Go programs on demand from the pinned modules under ``go/`` into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from localcluster.bounded import BUILD_S, DOWNLOAD_S, QUICK_S, locked, run
from localcluster.paths import cache_dir
from localcluster.system import ensure_apt_packages

_CONTAINERD_STAMP = "-X github.com/containerd/containerd/v2/version.Version=v2.4.2"
_NO_DEBUG = "-gcflags=all=-dwarf=false"
"""The compiler makes no debug information, which the linker would drop (-w): a tenth less processor time, measured with
etcd. The programs are the same, so the flag is not part of their folder's name."""
_COLLECT = {"GOGC": "400"}
"""The compiler collects its garbage at five times the live memory instead of two: a fifth less processor time, measured
with etcd, and at most some 100 MB more for each package that is compiled."""
_GO = Path(__file__).parent / "go"
_KUBERNETES = "v1.36.3"
_STAMPS = {"gitVersion": _KUBERNETES, "gitMajor": "1", "gitMinor": "36", "gitTreeState": "clean"}
_STAMP = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in _STAMPS.items())


class BuildFailed(RuntimeError):
    """A program could not be built; the message names the log and ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Module:
    """One folder under ``go/`` with a go.mod, and the programs that one ``go build`` makes from it."""

    folder: str
    programs: tuple[tuple[str, str], ...]
    """Pairs of program name and Go package."""
    ldflags: str = "-s -w"
    tags: str = ""
    cgo: bool = False
    packages: tuple[str, ...] = ()
    """Debian packages with the headers that cgo needs."""


def _programs(prefix: str, *names: str, suffix: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((name.rpartition("/")[2] + suffix, f"{prefix}/{name}") for name in names)


def _kubevirt(folder: str, version: str, suffix: str, *extra: str) -> tuple[Module, ...]:
    """The modules of one release: services (including ``extra``), what is linked with libvirt, and what must be static.

    The first two are compiled with the same settings, so that the second build only adds what the first one lacks. With
    these tags, the services link no C library all the same.
    """
    services = ("sidecars", "virt-api", "virt-controller", "virt-freezer", "virt-operator", "virt-probe", "virt-tail")
    linked = ("virt-handler", "virt-launcher", "virt-launcher-monitor")
    compiler, tags = ("gcc", "libc6-dev"), "netgo,osusergo"
    commands, ldflags = "kubevirt.io/kubevirt/cmd", f"-s -w -X kubevirt.io/client-go/version.gitVersion={version}"
    return (
        Module(folder, _programs(commands, *services, "virtctl", *extra, suffix=suffix), ldflags, tags, True, compiler),
        Module(
            folder,
            _programs(commands, *linked, suffix=suffix),
            ldflags,
            tags,
            True,
            (*compiler, "libvirt-dev", "pkg-config"),
        ),
        Module(folder, _programs(commands, "virt-chroot", suffix=suffix), ldflags),
    )


MODULES = (
    Module(
        "kubernetes",
        _programs(
            "k8s.io/kubernetes/cmd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ),
        ldflags=f"-s -w {_STAMP}",
    ),
    Module("kube-proxy", _programs("k8s.io/kubernetes/cmd", "kube-proxy"), ldflags=f"-s -w {_STAMP}"),
    Module("coredns", (("coredns", "kigi.dev/localcluster/coredns"),)),
    Module("etcd", (("etcd", "go.etcd.io/etcd/server/v3"),)),
    Module("versitygw", _programs("github.com/versity/versitygw/cmd", "versitygw")),
    Module("crane", _programs("github.com/google/go-containerregistry/cmd", "crane")),
    Module("helm", _programs("helm.sh/helm/v4/cmd", "helm")),
    Module("csi-sanity", _programs("github.com/kubernetes-csi/csi-test/v5/cmd", "csi-sanity")),
    Module("kustomize", (("kustomize", "sigs.k8s.io/kustomize/kustomize/v5"),)),
    Module("multus", _programs("gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd", "multus")),
    Module("gitops", (("gitops-check", "kigi.dev/localcluster/gitops"),)),
    Module("kubevirt19", (("plugin-check", "kigi.dev/localcluster/kubevirt19"),)),
    Module(
        "containerd",
        _programs("github.com/containerd/containerd/v2/cmd", "containerd", "containerd-shim-runc-v2", "ctr"),
        ldflags=f"-s -w {_CONTAINERD_STAMP}",
    ),
    Module(
        "containerd",
        (
            ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            ("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
        ),
    ),
    Module(
        "containerd",
        (("runc", "github.com/opencontainers/runc"),),
        tags="seccomp",
        cgo=True,
        packages=("libseccomp-dev", "pkg-config", "gcc", "libc6-dev"),
    ),
    *_kubevirt("kubevirt", "v1.7.0", ""),
    *_kubevirt("kubevirt19", "v1.9.0", "-1.9", "virt-exportproxy", "virt-launcher/libvirt-hook-client"),
)
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
_MODULE_OF = {name: module for module in MODULES for name, _ in module.programs}
PROGRAMS = tuple(_MODULE_OF)
"""Names of all programs that ``binary`` can build."""


def binary(name: str) -> Path:
    """Path of a program; a program that is not in the cache is built first, which takes minutes.

    Raises KeyError for an unknown program, BuildFailed if the build fails. Safe to call from several processes.
    """
    module = _MODULE_OF[name]
    path = directory(module) / name
    if not path.exists():
        _build(module)
    return path


def download(name: str) -> None:
    """Download the modules that an unbuilt program needs into Go's module cache; a failure is left to the build."""
    module = _MODULE_OF[name]
    if (directory(module) / name).exists():
        return
    # Reads the packages' imports, and so downloads exactly the modules that the build uses.
    command = ["go", "list", "-deps", "-f", "{{.Name}}", *(package for _, package in module.programs)]
    environment = {**os.environ, "CGO_ENABLED": "1" if module.cgo else "0"}
    run(command, timeout_s=DOWNLOAD_S, cwd=_GO / module.folder, env=environment, check=False)


def directory(module: Module) -> Path:
    """Folder of the module's programs; its name is a hash of all inputs of the build."""
    key = hashlib.sha256()
    folder = _GO / module.folder
    for file in (*sorted(folder.rglob("go.*")), *sorted(folder.rglob("*.go"))):
        key.update(file.read_bytes())
    for part in (_go_version(), module.ldflags, module.tags, str(module.cgo), *(p for _, p in module.programs)):
        key.update(part.encode() + b"\0")
    return cache_dir() / "bin" / f"{module.folder}-{module.programs[0][0]}-{key.hexdigest()[:16]}"


@cache
def _go_version() -> str:
    go = shutil.which("go")
    if go is None:
        raise BuildFailed("the program 'go' is not on the PATH; install Go 1.26 or later")
    return run([go, "env", "GOVERSION"], timeout_s=QUICK_S, cwd=_GO).stdout.strip()


def _build(module: Module) -> None:
    target = directory(module)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(_beside(target, ".lock"), f"building {module.programs[0][0]}"):
        if target.exists():
            return
        if module.packages:
            ensure_apt_packages(module.packages)
        names = ", ".join(name for name, _ in module.programs)
        log = _beside(target, ".log")
        _report(f"building {names}; this takes minutes the first time; log: {log}")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
            _go_build(module, Path(scratch), log)
            os.chmod(scratch, 0o755)
            os.rename(scratch, target)
            Path(scratch).mkdir()
        _report(f"built {names} in {time.monotonic() - started:.0f} s")


def _beside(directory: Path, ending: str) -> Path:
    return directory.with_name(directory.name + ending)


def _report(text: str) -> None:
    """Print to stderr, so that the standard output of a command such as `kubectl ... -o json` stays unchanged."""
    print(text, file=sys.stderr, flush=True)


def _go_build(module: Module, scratch: Path, log: Path) -> None:
    """Run one ``go build`` for all programs of the module, then give them the names of ``Module.programs``."""
    command = ["go", "build", "-trimpath", _NO_DEBUG, "-ldflags", module.ldflags, "-o", f"{scratch}/"]
    if module.tags:
        command += ["-tags", module.tags]
    command += [package for _, package in module.programs]
    environment = {**_COLLECT, **os.environ, "CGO_ENABLED": "1" if module.cgo else "0"}
    with log.open("wb") as out:
        done = run(command, timeout_s=BUILD_S, cwd=_GO / module.folder, env=environment, output=out, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"{' '.join(command)} in {module.folder} failed; {log} ends:\n{log.read_text()[-3000:]}")
    for name, package in module.programs:
        built = scratch / _default_name(package)
        if built.name != name:
            built.rename(scratch / name)


def _default_name(package: str) -> str:
    """Name that ``go build`` gives to a package's program: the last part of its path that is not a version."""
    *rest, last = package.split("/")
    return rest[-1] if last.startswith("v") and last[1:].isdigit() else last
