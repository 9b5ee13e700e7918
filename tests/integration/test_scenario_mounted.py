import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kigi.publishing.layer_writer import CLUSTER, read_difference
from scenario import mounted
from scenario.mounted import Export, create, exported, reduce, run_mounted
from scenario.packages import BuildFailed

SIZE = 64 << 20

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists() or not Path("/dev/fuse").exists(),
    reason="mounting a layer needs root, loop devices and FUSE",
)


def change(folder: Path, name: str, parent: str | None, script: str) -> Path:
    """Build a layer of this name in ``folder``: mount the parent's disk and run ``script``."""
    dirty = folder / f"{name}.dirty"
    create(dirty, SIZE, parent)
    with exported(Export(dirty, writable=True)) as (disk,):
        if parent is None:
            blocks = str((SIZE - mounted.PARTITION_START) // 4096)
            options = f"offset={mounted.PARTITION_START},lazy_itable_init=0,nodiscard"
            command = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal", "-E", options, disk, blocks]
            subprocess.run(command, check=True)
        run_mounted(disk, f"attach\n{script}\n", {}, Path("/dev/null"))
    final = folder / name
    reduce(dirty, folder / parent if parent else None, final, SIZE)
    return final


@pytest.fixture(autouse=True)
def _scratch_in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A separate scratch folder: another build may run on this machine, and remains are identified by the folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def leftovers(folder: Path) -> list[str]:
    """Remains of a build in ``folder`` on this machine: mounts, loop devices and daemons."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    loops = subprocess.check_output(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"], text=True)
    return [line for line in mounts + loops.splitlines() if str(folder) in line] + daemons_of(folder)


def daemons_of(folder: Path) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"qemu-storage-daemon.*{folder}"], capture_output=True, text=True)
    return found.stdout.split()


def test_a_layer_has_only_the_changes_of_its_script(tmp_path: Path):
    root = change(tmp_path, "root.qcow2", None, 'head -c 8M /dev/urandom >"$root/large"; echo old >"$root/small"')
    child = change(
        tmp_path,
        "child.qcow2",
        "root.qcow2",
        'head -c 16M /dev/urandom >"$root/passing"; sync; rm "$root/passing"; echo new >"$root/small"',
    )
    assert len(read_difference(root).data) >= (8 << 20) // CLUSTER
    # The file that came and went is not in the layer: its 256 clusters are discarded and equal the parent's again.
    assert len(read_difference(child).data) <= 16
    subprocess.run(["qemu-img", "check", "-q", child], check=True)
    with exported(Export(child, writable=False)) as (disk,):
        shown = subprocess.check_output(["debugfs", "-R", "cat /small", f"{disk}?offset={mounted.PARTITION_START}"])
    assert shown == b"new\n"


def test_a_level_that_changes_nothing_is_nearly_empty(tmp_path: Path):
    change(tmp_path, "root.qcow2", None, 'head -c 4M /dev/urandom >"$root/large"')
    idle = change(tmp_path, "idle.qcow2", "root.qcow2", ":")
    # The super block remembers the mount.
    assert len(read_difference(idle).data) <= 2


def test_a_failing_script_raises_and_leaves_no_mounts(tmp_path: Path):
    with pytest.raises(BuildFailed, match="this is why"):
        change(tmp_path, "root.qcow2", None, "echo this is why >&2; false")
    assert leftovers(tmp_path) == []


def test_a_killed_build_leaves_no_mounts_or_daemons(tmp_path: Path):
    marker = tmp_path / "inside"
    code = (
        "import pathlib, sys\n"
        "from tests.integration.test_scenario_mounted import change\n"
        f"change(pathlib.Path({str(tmp_path)!r}), 'root.qcow2', None, 'touch {marker}; sleep 600')\n"
    )
    build = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": "."})
    try:
        deadline = time.monotonic() + 60
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert marker.exists()
        assert daemons_of(tmp_path) != []
        assert [line for line in leftovers(tmp_path) if "fuse" in line]
    finally:
        build.kill()
        build.wait()
    deadline = time.monotonic() + 30
    while leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(tmp_path) == []


def test_a_file_that_is_not_qcow2_raises(tmp_path: Path):
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(b"no image")
    with pytest.raises(BuildFailed, match="qemu-storage-daemon does not start"), exported(Export(bad, writable=False)):
        pass
