"""The probe reads mounts, processes and logs, here of this machine and of test files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from soak import probe
from soak.sampling import node_state

FOLDER = "kigi-system_kigi-operator-0_1234/operator"
NAME = "kigi-system/kigi-operator-0/operator"


def log(root: Path, folder: str, *texts: str, name: str = "0.log") -> Path:
    """Append CRI lines with these texts."""
    file = root / folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.writelines(f"2026-11-23T10:00:00.000000001Z stderr F {text}\n" for text in texts)
    return file


def test_mounts_are_sorted_and_keep_repetitions() -> None:
    mountinfo = (
        "36 35 98:0 /mnt1 /b rw,noatime shared:1 - ext3 /dev/root rw\n"
        "37 35 98:0 / /a rw - tmpfs tmpfs rw\n"
        "38 35 98:0 /mnt1 /b rw,noatime shared:1 master:2 - ext3 /dev/root rw\n"
    )
    assert probe.mounts(mountinfo) == ["/a (tmpfs)", "/b (ext3)", "/b (ext3)"]


@pytest.mark.parametrize(
    ("line", "program"),
    [
        (b"/opt/kigi/bin/python3\0/usr/local/bin/kigi-operator\0", "kigi-operator"),
        (b"/opt/kigi/bin/python3\0-I\0/opt/kigi/bin/kigi-disk-hook\0/run\0", "kigi-disk-hook"),
        (b"kigi-cache\0", "kigi-cache"),
        (b"sh\0-c\0pgrep kigi-cache\0", None),
        (b"", None),
    ],
)
def test_a_program_is_identified_by_its_command_or_script(line: bytes, program: str | None) -> None:
    assert probe.program_of(line) == program


def test_a_running_process_is_found_with_its_figures(tmp_path: Path) -> None:
    script = tmp_path / "kigi-disk-hook"
    script.write_text("print(flush=True); input()")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = {name: one for name, one in probe.processes().items() if f" {process.pid}@" in name}
        process.communicate(b"\n", timeout=30)
    ((name, figures),) = found.items()
    assert name.startswith("kigi-disk-hook ")
    assert figures["descriptors"] >= 3
    assert figures["memory_bytes"] > 2**20
    assert probe.processes(tmp_path) == {}


def test_only_lines_since_the_last_run_count(tmp_path: Path) -> None:
    log(tmp_path, FOLDER, '{"level": "error", "message": "before"}')
    _, offsets = probe.read_logs(tmp_path, None)
    new = ['{"level": "info", "message": "error in a word"}', '{"level": "warning"}', '{"level": "error"}', "Traceback"]
    log(tmp_path, FOLDER, *new)
    log(tmp_path, "vms_virt-launcher-a_5/hook-sidecar-0", "domain refused: no")
    log(tmp_path, "vms_virt-launcher-a_5/compute", "of no concern")
    growth, offsets = probe.read_logs(tmp_path, offsets)
    assert growth.keys() == {NAME, "vms/virt-launcher-a/hook-sidecar-0"}
    assert (growth[NAME]["lines"], growth[NAME]["warnings"], growth[NAME]["errors"]) == (4, 1, 2)
    assert len(growth[NAME]["examples"]) == 3
    assert growth["vms/virt-launcher-a/hook-sidecar-0"]["errors"] == 1
    growth, _ = probe.read_logs(tmp_path, offsets)
    assert growth[NAME] == {"lines": 0, "size_bytes": 0, "warnings": 0, "errors": 0, "examples": []}


def test_a_rotated_log_and_the_log_of_a_new_container_count_from_their_start(tmp_path: Path) -> None:
    file = log(tmp_path, FOLDER, "one", "two", "three")
    _, offsets = probe.read_logs(tmp_path, {})
    file.write_text("")
    log(tmp_path, FOLDER, "four")
    log(tmp_path, FOLDER, "five", name="1.log")
    growth, _ = probe.read_logs(tmp_path, offsets)
    assert growth[NAME]["lines"] == 2


def test_the_probe_runs_as_a_program_and_its_output_becomes_a_state() -> None:
    command = [sys.executable, "-I", probe.__file__, json.dumps({"offsets": None})]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    state = node_state(json.loads(done.stdout))
    assert any(mount.startswith("/proc ") for mount in state.mounts)
