"""The daemon's process ends at every single change of the file system or the mounts; the next one goes on.

Each case runs in a child that kills itself just before its n-th change. A new process then finds what is there, is
asked for the same again, and the end must be the one that an undisturbed run has.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kigi.adapters.qemu_img import create_overlay
from kigi_cache.disks import mounts
from kigi_cache.disks.volumes import Volumes
from kigi_cache.layers.store import Store
from tests.support.chains import LayerFile, build_chain, layers_of, run
from tests.support.mountns import private_mounts

HANDLE = "kigi.range.web.0.dns.r1.0a1b2c3d"
CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.chmod", "os.chown", "subprocess.Popen"}
Action = Callable[[Path, list[LayerFile]], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[LayerFile]:
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(autouse=True)
def _private() -> Iterator[None]:
    with private_mounts():
        yield


def restarted(directory: Path, files: list[LayerFile]) -> Volumes:
    store = Store(directory / "cache")
    doubtful = set(store.recover())
    for file in files:
        if not store.path(file.layer.digest).exists():
            shutil.copy(file.path, store.path(file.layer.digest))
            doubtful.add(file.layer.digest)
        if file.layer.digest in doubtful:
            assert store.verify(file.layer)
    volumes = Volumes(store.root, store, create_overlay)
    volumes.recover()
    return volumes


def target(directory: Path) -> str:
    return str(directory / "pods" / "pod-a" / "mount")


def publish(directory: Path, files: list[LayerFile]) -> None:
    asyncio.run(restarted(directory, files).publish(HANDLE, layers_of(files), target(directory)))


def unpublish(directory: Path, files: list[LayerFile]) -> None:
    asyncio.run(restarted(directory, files).unpublish(HANDLE, target(directory)))


def discard(directory: Path, files: list[LayerFile]) -> None:
    asyncio.run(restarted(directory, files).discard(HANDLE))


def heal(directory: Path, files: list[LayerFile]) -> None:
    """Publish after a layer was replaced by a healthy copy of itself."""
    path = Store(directory / "cache").path(files[0].layer.digest)
    linked = directory / "cache" / "volumes" / HANDLE / "chain" / path.name
    if path.stat().st_ino == linked.stat().st_ino and not Path(target(directory)).exists():
        copy = path.with_name("copy")
        shutil.copy(path, copy)
        copy.rename(path)
    publish(directory, files)


def killed_at(change: int, action: Callable[[], None]) -> bool:
    """Run ``action`` in a child that dies before its change number ``change``; False when it had fewer."""
    child = os.fork()
    if child == 0:
        left = itertools.count(change, -1)

        def count(event: str) -> None:
            if event in CHANGES and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            mount, umount = mounts._mount, mounts.unmount
            mounts._mount = lambda *a, **k: (count("os.link"), mount(*a, **k))[1]  # type: ignore[assignment,func-returns-value]
            mounts.unmount = lambda *a: (count("os.link"), umount(*a))[1]  # type: ignore[func-returns-value]
            sys.addaudithook(lambda event, _: count(event))
            action()
        except BaseException as exc:
            os.write(2, f"{exc!r}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def alone(disk: Path) -> str:
    """A qcow2 file without its backing file, which is beside it only where it is mounted."""
    return f'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{disk}"}}, "backing": null}}'


def state(directory: Path, files: list[LayerFile]) -> dict[str, object]:
    """Everything that a user or the operator could see."""
    root = directory / "cache" / "volumes"
    table = [m for m in mounts.list_mounts() if m.point.startswith(f"{directory}/")]
    store = Store(directory / "cache")
    store.recover()
    disk = root / HANDLE / "mount" / "disk.img"
    return {
        "files": sorted(str(p.relative_to(root)) for p in root.rglob("*")),
        "mounts": sorted((m.point, tuple(sorted(m.options))) for m in table),
        "links": sorted((layer.digest, layer.links) for layer in store.held().values()),
        "disk": (disk.stat().st_uid, disk.stat().st_mode) if disk.exists() else None,
        "target": Path(target(directory)).exists(),
    }


ACTIONS: dict[str, tuple[list[Action], Action, int]] = {
    "publish": ([], publish, 15),
    "publish again": ([publish, unpublish], publish, 8),
    "publish over a healed layer": ([publish, unpublish], heal, 8),
    "unpublish": ([publish], unpublish, 4),
    "discard": ([publish, unpublish], discard, 6),
}


@pytest.mark.parametrize(("before", "action", "least"), ACTIONS.values(), ids=ACTIONS.keys())
def test_the_same_end_wherever_the_daemon_is_killed(
    before: list[Action], action: Action, least: int, tmp_path: Path, files: list[LayerFile]
) -> None:
    def prepared(name: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for earlier in before:
            earlier(directory, files)
        return directory

    undisturbed = prepared("undisturbed")
    action(undisturbed, files)
    expected = state(undisturbed, files)
    for change in itertools.count():
        directory = prepared(str(change))
        killed = killed_at(change, lambda directory=directory: action(directory, files))  # type: ignore[misc]
        disk = directory / "cache" / "volumes" / HANDLE / "mount" / "disk.img"
        if disk.exists():
            run("qemu-img", "check", "-q", alone(disk))
        action(directory, files)
        found = state(directory, files)
        assert str(found).replace(str(directory), "@") == str(expected).replace(str(undisturbed), "@"), change
        if not killed:
            break
    assert change >= least
    print(f"killed at {change} points")
