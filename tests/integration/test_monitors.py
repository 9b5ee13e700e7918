"""Barriers of VMs through QEMU's monitors: real QEMUs, and servers that send what a hostile QEMU could. Needs root."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from kigi_cache.disks.overlay_files import QEMU_UID
from kigi_cache.monitors import barrier as barrier_module
from kigi_cache.monitors.barrier import Barrier, BarrierBroken
from kigi_cache.monitors.confinement import MONITOR_UID
from kigi_cache.monitors.protocol import CONTINUE_S, KEEP_S, STOP_S
from kigi_cache.monitors.sockets import MonitorUnavailable, connect, pod_directory
from tests.support.cluster import eventually, eventually_async
from tests.support.hostile_monitors import (
    GREETING,
    Monitor,
    connected,
    descriptors,
    drip,
    event,
    forever,
    gone,
    once,
    returned,
    silent,
    socket_at,
)
from tests.support.qemus import PRIVATE, Qemu, open_directory, pod_of, target_in

LONGEST_S = 2 * STOP_S + KEEP_S + 2 * CONTINUE_S
"""Within this time and that of a process's start every barrier has ended, whatever a VM does."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with open_directory() as path:
        (path / "empty").mkdir()
        yield path


@pytest.fixture
def pods(directory: Path) -> list[Path]:
    return [pod_of(directory, f"uid-{number}") for number in range(3)]


@asynccontextmanager
async def barrier_of(directory: Path, *qemus: Qemu | socket.socket) -> AsyncIterator[Barrier]:
    connections = [
        (f"vm{number}", connect(each.monitor.parents[3]) if isinstance(each, Qemu) else each)
        for number, each in enumerate(qemus)
    ]
    barrier = await Barrier.open(connections, directory / "empty")
    try:
        yield barrier
    finally:
        await barrier.close()


async def hold_and_release(directory: Path, *qemus: Qemu | socket.socket) -> None:
    async with barrier_of(directory, *qemus) as barrier:
        await barrier.hold()
        await barrier.release()


# Real QEMUs.


async def test_vms_stop_together_and_continue(directory: Path, pods: list[Path]) -> None:
    with ExitStack() as stack:
        qemus = [stack.enter_context(Qemu(pod)) for pod in pods]
        async with barrier_of(directory, *qemus) as barrier:
            assert all(qemu.is_running() for qemu in qemus)
            await barrier.hold()
            assert not any(qemu.is_running() for qemu in qemus)
            pauses = await barrier.release()
        assert all(qemu.is_running() for qemu in qemus)
        assert [qemu.changes() for qemu in qemus] == [["STOP", "RESUME"]] * 3
    assert max(pause.stopped for pause in pauses.values()) < min(pause.continued for pause in pauses.values())
    for qemu, pause in zip(qemus, pauses.values(), strict=True):
        stop = qemu.events[0]["timestamp"]
        assert pause.stopped.timestamp() == pytest.approx(stop["seconds"] + stop["microseconds"] / 1e6, abs=0.01)


async def test_a_barrier_can_be_used_again(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as qemu:
        async with barrier_of(directory, qemu) as barrier:
            for _ in range(5):
                await barrier.hold()
                await barrier.release()
        assert qemu.changes() == ["STOP", "RESUME"] * 5


async def test_a_vm_that_libvirt_continues_breaks_the_barrier(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as first, Qemu(pods[1]) as second:
        async with barrier_of(directory, first, second) as barrier:
            await barrier.hold()
            first.execute("cont")
            with pytest.raises(BarrierBroken, match="vm0: the VM ran again"):
                await barrier.release()
            assert first.is_running()
            assert second.is_running()


async def test_a_vm_that_ran_for_a_moment_breaks_the_barrier(directory: Path, pods: list[Path]) -> None:
    """virt-launcher continues it, and a user pauses it: at the end it is stopped."""
    with Qemu(pods[0]) as qemu:
        async with barrier_of(directory, qemu) as barrier:
            await barrier.hold()
            qemu.execute("cont")
            qemu.execute("stop")
            with pytest.raises(BarrierBroken, match="vm0: STOP, RESUME, STOP while the VM was stopped"):
                await barrier.release()


async def test_a_vm_that_a_user_has_paused_stays_paused(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as paused, Qemu(pods[1]) as other:
        paused.execute("stop")
        async with barrier_of(directory, other, paused) as barrier:
            with pytest.raises(BarrierBroken, match="vm1: the VM does not run"):
                await barrier.hold()
        assert not paused.is_running()
        assert other.is_running()
        assert other.changes() == []


async def test_vms_continue_when_the_daemon_ends(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as first, Qemu(pods[1]) as second:
        async with barrier_of(directory, first, second) as barrier:
            await barrier.hold()
            barrier._writer.transport.abort()
            eventually(lambda: first.is_running() and second.is_running(), 10, "the VMs run again")


async def test_vms_continue_when_nothing_releases_them(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as qemu:
        async with barrier_of(directory, qemu) as barrier:
            await barrier.hold()
            await eventually_async(qemu.is_running, KEEP_S + 10, "the VM runs again")
            with pytest.raises(BarrierBroken, match="the copies took longer than 2 s"):
                await barrier.release()


async def test_a_vm_that_ends_breaks_the_barrier_and_the_others_continue(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as first, Qemu(pods[1]) as second:
        async with barrier_of(directory, first, second) as barrier:
            await barrier.hold()
            first.kill()
            with pytest.raises(BarrierBroken, match="vm0: "):
                await barrier.release()
            assert second.is_running()


async def test_a_monitor_that_another_client_has_is_not_waited_for(directory: Path, pods: list[Path]) -> None:
    with Qemu(pods[0]) as qemu, connect(pods[0]) as other:
        other.setblocking(True)
        assert other.recv(1000).startswith(b'{"QMP"')
        with pytest.raises(BarrierBroken, match="no answer"):
            async with barrier_of(directory, qemu):
                pass


# Hostile QEMUs.

SELDOM = b'{"event": "RTC_CHANGE", "data": {}, "timestamp": {"seconds": 1, "microseconds": 1}}\n'
DEEP = b'{"return": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n"
GREETINGS: dict[str, Callable[..., None]] = {
    "nothing": silent,
    "the end": gone,
    "a line without an end": forever(b"x" * 4096),
    "spaces without an end": forever(b" " * 4096),
    "lines without an end": forever(SELDOM * 40),
    "one byte after the other": drip,
    "no JSON": once(b"\x00\xff\xfe{\n"),
    "a list": once(b"[]\n"),
    "another object": once(b'{"QMP": 1}\n'),
    "a deep list": once(DEEP),
    "a long number": once(b'{"QMP": ' + b"9" * 60_000 + b"}\n"),
    "another greeting": once(GREETING.replace(b"[]", b'{"a": 1}') * 3),
    "an early event": once(event("STOP") + GREETING),
}


@pytest.mark.parametrize("greet", GREETINGS.values(), ids=GREETINGS.keys())
async def test_a_server_that_is_no_qemu_is_refused(directory: Path, greet: Callable[..., None]) -> None:
    before = psutil.Process().memory_info().rss
    started_s = time.monotonic()
    with connected(Monitor(greet=greet)) as hostile, pytest.raises(BarrierBroken):
        async with barrier_of(directory, hostile):
            pass
    assert time.monotonic() - started_s < LONGEST_S + 20
    assert psutil.Process().memory_info().rss - before < 64 * 2**20
    assert not children()


def late(*pieces: bytes) -> Callable[[socket.socket, dict[str, object]], None]:
    """Pieces, and then an ordinary answer."""

    def answer(connection: socket.socket, command: dict[str, object]) -> None:
        for piece in pieces:
            connection.sendall(piece)
        returned(connection, command)

    return answer


STATUS = "query-status"
ODD_ERROR = b'{"error": {"class": "X", "desc": "\\u001b[2J\\u0000' + b"x" * 5000 + b'"}, "id": "__qmp#00000"}\n'
FAULTS: dict[str, tuple[str, Callable[..., None]]] = {
    "a state without a value": (STATUS, once(b'{"return": {}, "id": "__qmp#00001"}\n')),
    "a state that is a text": (STATUS, once(b'{"return": {"running": "yes"}, "id": "__qmp#00000"}\n')),
    "a state that is a list": (STATUS, once(b'{"return": [1, 2], "id": "__qmp#00000"}\n')),
    "a state for another command": (STATUS, once(b'{"return": {"running": true}, "id": "x"}\n')),
    "an id that is a list": (STATUS, once(b'{"return": {}, "id": []}\n')),
    "an error that is none": (STATUS, once(b'{"error": 7, "id": "__qmp#00000"}\n')),
    "an error with letters of all kinds": (STATUS, once(ODD_ERROR)),
    "an error without an id": (STATUS, once(b'{"error": {"class": "X", "desc": "y"}}\n')),
    "an event without a name": (STATUS, late(b'{"event": []}\n')),
    "events without an end": (STATUS, forever(SELDOM * 40)),
    "a stop without an answer": ("stop", silent),
    "a stop that ends": ("stop", gone),
    "a stop without an event": ("stop", late()),
    "a stop with two events": ("stop", late(event("STOP"), event("STOP"))),
    "a stop and a start": ("stop", late(event("STOP"), event("RESUME"))),
    "a start": ("stop", late(event("RESUME"))),
    "an event without a time": ("stop", late(b'{"event": "STOP"}\n')),
    "an event at a text": ("stop", late(event("STOP", "now"))),
    "an event at no second": ("stop", late(event("STOP", -5))),
    "an event at no microsecond": ("stop", late(event("STOP", None, 10**9))),
    "an event of another year": ("stop", late(event("STOP", 10**9))),
    "an event of another age": ("stop", late(event("STOP", 10**11))),
    "an event after the last age": ("stop", late(event("STOP", 5 * 10**11))),
    "a deep answer": ("stop", once(DEEP)),
    "an answer that is too long": ("stop", once(b'{"return": "' + b"x" * 2**17 + b'"}\n')),
    "an end of the pause without an answer": ("cont", silent),
    "an end of the pause without an event": ("cont", late()),
    "an end before the pause": ("cont", late(event("RESUME", 5))),
    "an end long after the pause": ("cont", late(event("RESUME", int(time.time()) + 10_000))),
}  # fmt: skip


@pytest.mark.parametrize(("command", "answer"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_hostile_vm_breaks_its_barrier_and_holds_no_other_vm(
    directory: Path, pods: list[Path], command: str, answer: Callable[..., None]
) -> None:
    monitor = Monitor({command: answer})
    with Qemu(pods[0]) as honest, connected(monitor) as hostile:
        with pytest.raises(BarrierBroken) as broken:
            await hold_and_release(directory, honest, hostile)
        assert str(broken.value).isprintable()
        assert len(str(broken.value)) < 300
        assert command in monitor.seen
        await eventually_async(honest.is_running, 10, "the other VM runs")
    assert not children()


async def test_a_state_that_contradicts_its_events_breaks_the_barrier(directory: Path) -> None:
    """It runs on, and reports that it has stopped: the state before the end counts, too."""

    def running(connection: socket.socket, command: dict[str, object]) -> None:
        returned(connection, command, {"running": True})

    with connected(Monitor({STATUS: running})) as hostile, pytest.raises(BarrierBroken, match="ran again"):
        await hold_and_release(directory, hostile)


async def test_descriptors_that_a_vm_passes_are_not_taken(directory: Path) -> None:
    with connected(Monitor({STATUS: descriptors})) as hostile:
        async with barrier_of(directory, hostile) as barrier:
            (process,) = children()
            assert process.num_fds() < 20
            await barrier.hold()


# The process that reads what QEMU sends.


async def test_the_process_has_no_rights(directory: Path) -> None:
    with connected(Monitor()) as machine:
        async with barrier_of(directory, machine):
            (process,) = children()
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            assert status["Uid"].split() == status["Gid"].split() == [str(MONITOR_UID)] * 4
            assert [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
            assert (status["NoNewPrivs"].strip(), status["Groups"].strip()) == ("1", "")
            assert os.readlink(f"/proc/{process.pid}/root") == str(directory / "empty")
            assert os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net")
            assert process.environ() == {} or "AWS_ACCESS_KEY_ID" not in process.environ()
            kinds = {os.readlink(entry.path).split(":")[0] for entry in os.scandir(f"/proc/{process.pid}/fd")}
            assert kinds <= {"/dev/null", "socket", "anon_inode"}


ATTEMPTS = {
    "files": "open('/etc/passwd')",
    "directories": "__import__('os').listdir('/proc')",
    "a new file": "open('/x', 'w')",
    "processes": "__import__('os').fork()",
    "its former user": "__import__('os').setuid(0)",
    "another root": "__import__('os').chroot('..')",
    "the network": "socket.socket().connect(('127.0.0.1', {port}))",
    "processes of others": "__import__('os').kill({pid}, 0)",
    "memory": "bytearray(2**30)",
}


@pytest.mark.parametrize("code", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_what_the_process_cannot_do(directory: Path, code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = code.format(pid=os.getpid(), port=server.getsockname()[1])
        script = f"""
import os, socket, sys
from kigi_cache.monitors.confinement import confine
if sys.argv[1] != "free":
    confine({str(directory / "empty")!r})
try:
    {text}
except (OSError, MemoryError) as exc:
    os._exit(7)
os._exit(0)
"""
        done = subprocess.run([sys.executable, "-c", script, "confined"], timeout=30, check=False)
        assert done.returncode == 7
        # Without the confinement each succeeds, or the test would show nothing.
        if code not in (ATTEMPTS["another root"],):
            assert subprocess.run([sys.executable, "-c", script, "free"], timeout=30, check=False).returncode == 0


ANSWERS = [
    b"", b"\n", b"x" * 2**18, b"{}\n", b"[]\n", b"[[]]\n", b'[["", 1, 2]]\n', b'[["", -1]]\n', b'[["", 1e400]]\n',
    b'[["", "1"], ["", 2]]\n', b'[["' + b"x" * 300 + b'", 1]]\n', b"[" * 60_000 + b"\n",
    b'[["", 99999999999999999999]]\n', b'[["", 999999999999999999]]\n',
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
async def test_answers_of_a_process_that_was_taken_over_are_checked(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(barrier_module, "ANSWER_S", 5.0)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours, limit=barrier_module.MAX_ANSWER_BYTES)
    process: Any = None
    barrier = Barrier(["vm0"], process, reader, writer)
    holding = asyncio.create_task(barrier.hold())
    other_reader, other = await asyncio.open_connection(sock=theirs)
    assert await other_reader.readline() == b"hold\n"
    other.write(answer)
    other.close()
    with pytest.raises(BarrierBroken):
        await holding
    writer.close()


# The way to the socket.


def test_a_target_of_the_kubelet_names_the_pod(directory: Path) -> None:
    pod = pod_of(directory, "0b5c0c3e-6d5e-4d3c-9d0d-1f1e9c9e2f11")
    assert pod_directory(target_in(pod)) == pod
    for other in ("", "/", "/var/lib/kubelet/pods/x/mount", f"{target_in(pod)}/..", target_in(pod)[1:]):
        assert pod_directory(other) is None


def place(kind: str, path: Path, directory: Path) -> list[socket.socket]:
    """Something at the place of the monitor's socket; what must stay open."""
    elsewhere = directory / "elsewhere"
    opened: list[socket.socket] = []
    match kind:
        case "link to a socket":
            opened.append(socket_at(elsewhere))
            path.symlink_to(elsewhere)
        case "link in the way":
            opened.append(socket_at(elsewhere))
            path.parent.rename(path.parent.with_name("moved"))
            (directory / path.name).symlink_to(elsewhere)
            path.parent.symlink_to(directory)
        case "pipe":
            os.mkfifo(path)
        case "file":
            path.write_text("")
        case "directory":
            path.mkdir()
        case "socket of another user":
            opened.append(socket_at(path))
        case "socket without a server":
            socket_at(path).close()
    return opened


PLACED = {
    "nothing": "no monitor",
    "link to a socket": "not a socket",
    "link in the way": "symbolic links",
    "pipe": "not a socket",
    "file": "not a socket",
    "directory": "not a socket",
    "socket of another user": "belongs to user 0",
    "socket without a server": "refused",
}


@pytest.mark.parametrize(("kind", "cause"), PLACED.items(), ids=PLACED.keys())
def test_what_is_no_monitor_of_qemu_is_not_used(directory: Path, kind: str, cause: str) -> None:
    pod = pod_of(directory, "uid")
    opened = place(kind, pod / PRIVATE / "kigi-qmp.sock", directory)
    with pytest.raises(MonitorUnavailable, match=cause):
        connect(pod)
    for each in opened:
        each.setblocking(False)
        if "another user" not in kind:
            with pytest.raises(BlockingIOError):
                each.accept()
        each.close()


def test_a_server_that_accepts_nothing_is_not_waited_for(directory: Path) -> None:
    pod = pod_of(directory, "uid")
    code = (
        f"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind({str(pod / PRIVATE / 'kigi-qmp.sock')!r}); "
        "s.listen(0); print('up', flush=True); time.sleep(60)"
    )
    command = ["setpriv", f"--reuid={QEMU_UID}", "--clear-groups", "/usr/bin/python3", "-c", code]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    taken: list[socket.socket] = []
    with pytest.raises(MonitorUnavailable, match="temporarily unavailable"):  # noqa: PT012
        while len(taken) < 10:
            taken.append(connect(pod))
    server.kill()
    server.wait()
    for each in taken:
        each.close()


def children() -> list[psutil.Process]:
    """Processes of barriers."""
    return [each for each in psutil.Process().children() if any("monitors.process" in part for part in each.cmdline())]
