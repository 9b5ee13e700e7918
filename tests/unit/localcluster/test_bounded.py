"""Commands, inputs and locks end at their deadlines, with an error that names them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from localcluster import bounded
from localcluster.bounded import TimedOut, feed, locked, run


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def much(sink: IO[bytes]) -> None:
    sink.write(b"x" * 2**20)


def test_output_input_and_status_of_a_command(tmp_path: Path) -> None:
    script = "cat; echo error >&2; pwd; echo $WORD; exit 3"
    done = run(["sh", "-c", script], timeout_s=30, check=False, input_text="in\n", env={"WORD": "w"}, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"in\n{tmp_path}\nw\n", "error\n")
    assert run(["sh", "-c", "echo a; echo b >&2"], timeout_s=30, merged=True).stdout == "a\nb\n"


def test_output_goes_into_a_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        run(["sh", "-c", "echo a; echo b >&2"], timeout_s=30, output=log)
    assert (tmp_path / "log").read_text() == "a\nb\n"


def test_a_command_that_fails_raises_with_its_error_text() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(["sh", "-c", "echo because >&2; exit 1"], timeout_s=30)
    assert caught.value.stderr == "because\n"


def test_without_input_a_commands_standard_input_is_empty() -> None:
    assert run(["cat"], timeout_s=30).stdout == ""


def test_a_command_is_killed_with_all_its_children_at_its_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"(?s)sleep 600.*did not end within 1 s; its output: 'so far'"):
        run(["sh", "-c", f"sleep 600 & echo $! >{tmp_path}/pid; echo so far; wait"], timeout_s=1)
    assert time.monotonic() - started < 8
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_child_that_keeps_the_output_open_does_not_delay_the_deadline() -> None:
    """The command has ended, but its output is still open."""
    started = time.monotonic()
    with pytest.raises(TimedOut):
        run(["sh", "-c", "sleep 600 &"], timeout_s=1)
    assert time.monotonic() - started < 8


def test_a_child_that_left_the_group_does_not_delay_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_END_S", 1.0)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        run(["sh", "-c", f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 60' & wait"], timeout_s=1)
    assert time.monotonic() - started < 20
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_input_is_produced_while_the_command_runs(tmp_path: Path) -> None:
    def produce(sink: IO[bytes]) -> None:
        for _ in range(100):
            sink.write(b"x" * 65536)

    feed(["sh", "-c", f"wc -c >{tmp_path}/count"], produce, timeout_s=60)
    assert int((tmp_path / "count").read_text()) == 100 * 65536


def test_a_command_that_does_not_read_its_input_is_killed() -> None:
    with pytest.raises(TimedOut, match=r"did not end within 1 s of input; its output: 'hello"):
        feed(["sh", "-c", "echo hello; sleep 600"], much, timeout_s=1)


def test_a_command_that_fails_on_its_input_raises_with_its_output() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        feed(["sh", "-c", "echo broken; exit 4"], much, timeout_s=30)
    assert (caught.value.returncode, caught.value.stderr) == (4, "broken\n")


def test_an_error_of_the_producer_ends_the_command(tmp_path: Path) -> None:
    def produce(sink: IO[bytes]) -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise ValueError("no layer")

    with pytest.raises(ValueError, match="no layer"):
        feed(
            ["sh", "-c", f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"],
            produce,
            timeout_s=60,
        )
    assert ends(int((tmp_path / "pid").read_text()))


def test_waiting_for_a_lock_of_another_process_has_a_deadline(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = f"import fcntl; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(TimedOut, match="building a thing"), locked(path, "building a thing", timeout_s=0.3):
            pass
        holder.communicate(b"\n", timeout=30)
    with locked(path, "building a thing", timeout_s=5):
        pass
