"""Builds the cluster's programs and images; downloads of one part go on while another part is compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue

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


class ProgramBuilds:
    """Builds missing programs in threads, two at a time: linking, and the end of each compilation, use one core."""

    def __init__(self, names: Iterable[str], build: Callable[[str], Path] = binary) -> None:
        self._build = build
        self._built: dict[str, Future[Path]] = {name: Future() for name in names}
        self._next: SimpleQueue[str] = SimpleQueue()
        for name in self._built:
            self._next.put(name)
        for _ in range(2):
            threading.Thread(target=self._work, daemon=True).start()

    def wait(self, names: Iterable[str]) -> None:
        """Returns when these programs are built; raises the error of the first that could not be, or TimedOut."""
        for name in names:
            try:
                self._built[name].result(BUILD_S)
            except TimeoutError as exc:
                raise TimedOut(f"{name} was not built within {BUILD_S:.0f} s") from exc

    def _work(self) -> None:
        while True:
            try:
                name = self._next.get_nowait()
            except Empty:
                return
            try:
                self._built[name].set_result(self._build(name))
            except Exception as error:  # raised again in wait()
                self._built[name].set_exception(error)


def first_programs() -> list[str]:
    """One program of each module that the cluster needs without KubeVirt; the largest module first."""
    return ["kube-apiserver", "etcd", "versitygw", "containerd", "bridge", "runc"]


def kubevirt_programs(release: Release | None) -> list[str]:
    """One program of each of KubeVirt's modules that the cluster needs, in the order of their start."""
    return (
        [] if release is None else [f"{name}{release.suffix}" for name in ("virt-api", "virt-handler", "virt-chroot")]
    )


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
    names = (*first_programs(), *kubevirt_programs(release))
    ProgramBuilds(names).wait(names)


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
