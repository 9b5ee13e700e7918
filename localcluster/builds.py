"""Builds the cluster's programs and images; downloads of one part go on while another part is compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from localcluster import kubevirt, node
from localcluster.bounded import BUILD_S, TimedOut
from localcluster.build import binary, download
from localcluster.images import Image
from localcluster.kigi_image import build_kigi_image
from localcluster.kubevirt import Release
from localcluster.paths import cache_dir
from localcluster.system import ensure_apt_packages
from localcluster.timeline import Timeline

PACKAGES = ("debootstrap", "gcc", "iproute2", "libc6-dev", "mount", "util-linux")
"""Debian packages that building and running the cluster needs."""


class InBackground:
    """A function that runs in a thread; ``result`` waits for it and raises its error."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except Exception as error:  # raised again in result()
            self._error = error

    def result(self) -> None:
        """Wait for the end of the function; raises its error, or TimedOut."""
        self._thread.join(BUILD_S)
        if self._thread.is_alive():
            raise TimedOut(f"the images were not built within {BUILD_S:.0f} s")
        if self._error is not None:
            raise self._error


def first_programs() -> list[str]:
    """One program of each module that the cluster needs without KubeVirt."""
    return ["etcd", "kube-apiserver", "versitygw", "containerd", "bridge", "runc"]


def kubevirt_programs(release: Release | None) -> list[str]:
    """One program of each of KubeVirt's modules that the cluster needs, in the order of their start."""
    return [] if release is None else [f"virt-api{release.suffix}", f"virt-handler{release.suffix}"]


def download_modules(release: Release | None) -> None:
    """Downloads what missing programs are built from, so that the compiler does not wait for the network later."""
    for name in (*first_programs(), *kubevirt_programs(release)):
        download(name)


def build_roots(release: Release | None, progress: Timeline, *, kigi: bool = True) -> None:
    """Builds the parts of the images that need no program: Debian's packages, and Kigi."""
    cache = cache_dir()
    with progress.phase("root file systems"):
        if release is not None:
            kubevirt.build_root(cache)
        if kigi:
            build_kigi_image(cache)


def build_programs(release: Release | None) -> None:
    """Build every program of the cluster that is not in the cache: about 15 minutes on two cores the first time."""
    for name in (*first_programs(), *kubevirt_programs(release)):
        binary(name)


def build_images(release: Release | None) -> Iterator[Image]:
    """All images of the cluster; missing ones are built. ``release`` None leaves out KubeVirt."""
    yield from build_first_images(release)
    if release is not None:
        yield from kubevirt.build_node_images(cache_dir(), release)
    yield build_kigi_image(cache_dir())


def build_first_images(release: Release | None) -> Iterator[Image]:
    """The images that a cluster starts with: all but Kigi's, and those that KubeVirt runs when its API is ready."""
    ensure_apt_packages(PACKAGES)
    yield node.build_pause_image(cache_dir())
    if release is not None:
        yield from kubevirt.build_service_images(cache_dir(), release)
