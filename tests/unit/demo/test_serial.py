"""A command on a serial console ends with an answer or at its deadline, whatever the console does.

Small Python programs replace ``virtctl console``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from demo.serial import NoAnswer, Terminal, ask, terminal

GUEST = """
import sys
for line in sys.stdin:
    print("KIGI-DID " + line.strip(), flush=True)
"""
NEVER_READS = "import time; print('connected', flush=True); time.sleep(600)"


def program(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def console(source: str) -> AbstractContextManager[Terminal]:
    return terminal(program(source))


def test_the_output_ends_with_the_line_of_the_answer() -> None:
    output = ask(lambda: console(GUEST), "write a", "KIGI-DID", timeout_s=30)
    assert output.splitlines() == ["KIGI-DID write a"]


def test_input_is_not_echoed_so_a_command_is_not_its_own_answer() -> None:
    with pytest.raises(NoAnswer, match="no 'listen' after"):
        ask(lambda: console(NEVER_READS), "listen", "listen", timeout_s=1, answer_s=0.3)


def test_writing_to_a_program_that_does_not_read_its_terminal_ends_at_the_deadline() -> None:
    """A terminal holds 4095 bytes; a blocking write of more never returns."""
    with console(NEVER_READS) as one:
        assert "connected" in one.receive("connected", time.monotonic() + 30)
        started = time.monotonic()
        assert not one.send(b"x" * 65536, started + 1)
        assert time.monotonic() - started < 5


def test_a_console_that_reads_no_input_does_not_delay_the_deadline_of_the_command() -> None:
    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"no 'ANSWER' after .* in 3 s: [1-9]"):
        ask(lambda: console(NEVER_READS), "x" * 3000, "ANSWER", timeout_s=3, answer_s=0.5, silent_s=60)
    assert time.monotonic() - started < 10


def test_a_console_that_accepts_no_input_is_reopened(tmp_path: Path) -> None:
    """The first console does not read, and the command is longer than its terminal's buffer. The second one answers."""
    source = f"""
import os, time
try:
    os.mkdir({str(tmp_path / "seen")!r})
except FileExistsError:
    pass
else:
    time.sleep(600)
{GUEST}
"""
    assert "KIGI-DID" in ask(lambda: console(source), "x" * 9000, "KIGI-DID", timeout_s=60, answer_s=1)


def test_a_console_without_output_is_reopened(tmp_path: Path) -> None:
    source = f"""
import os, sys, time
try:
    os.mkdir({str(tmp_path / "seen")!r})
except FileExistsError:
    pass
else:
    for line in sys.stdin:
        pass
{GUEST}
"""
    assert "KIGI-DID now" in ask(lambda: console(source), "now", "KIGI-DID", timeout_s=60, answer_s=0.3, silent_s=1)


def test_a_console_that_ends_is_reopened(tmp_path: Path) -> None:
    source = f"""
import os, sys
try:
    os.mkdir({str(tmp_path / "seen")!r})
except FileExistsError:
    pass
else:
    sys.exit("another client is connected")
{GUEST}
"""
    assert "KIGI-DID now" in ask(lambda: console(source), "now", "KIGI-DID", timeout_s=60)


def test_the_output_of_a_console_that_ended_is_part_of_the_error() -> None:
    with pytest.raises(NoAnswer, match="no such VM"):
        ask(lambda: console("import sys; sys.exit('no such VM')"), "now", "KIGI-DID", timeout_s=3)


def test_a_command_that_is_answered_late_is_sent_only_once(tmp_path: Path) -> None:
    given = tmp_path / "given"
    source = f"""
import sys, time
for line in sys.stdin:
    open({str(given)!r}, "a").write(line)
    print("KIGI-GUEST", flush=True)
    time.sleep(1)
    print("KIGI-DID", flush=True)
"""
    ask(lambda: console(source), "poweroff", "KIGI-DID", timeout_s=60, answer_s=20)
    assert given.read_text() == "poweroff\n"


def test_a_lost_command_is_sent_again() -> None:
    source = "import sys; sys.stdin.readline(); sys.stdin.readline(); print('KIGI-DID', flush=True); sys.stdin.read()"
    ask(lambda: console(source), "now", "KIGI-DID", timeout_s=60, answer_s=0.5)


def test_a_stopped_program_is_killed_at_the_end() -> None:
    with console(NEVER_READS) as one:
        pid = one._process.pid
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_program_that_does_not_exist_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError), terminal(["/no/such/virtctl"]):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)
