"""The sidecar ends when virt-launcher has ended without calling Shutdown, and at no other time."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from kigi.hook.launcher import APPEARS_WITHIN_S, MISSES, PERIOD_S, TABLE, LauncherWatch, Sockets, read_sockets

HEADER = "Num       RefCount Protocol Flags    Type St Inode Path\n"
LAUNCHER = Sockets(launcher=True, others=True)
LIBVIRT_ONLY = Sockets(launcher=False, others=True)
NOTHING = Sockets(launcher=False, others=False)
LONG = int(APPEARS_WITHIN_S / PERIOD_S)


def line(path: str, flags: str = "00010000") -> str:
    return f"ffff888000000000: 00000002 00000000 {flags} 0001 01 31337 {path}\n"


def test_a_renamed_socket_is_found_by_the_name_that_it_was_bound_to(tmp_path: Path) -> None:
    """As virt-launcher does: bind, listen, rename the file when it is ready."""

    def launcher() -> bool:
        return read_sockets(Path(TABLE).read_text(errors="replace")).launcher

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "launcher-init-sock"))
        assert not launcher(), "it does not listen yet"
        server.listen()
        assert launcher()
        (tmp_path / "launcher-init-sock").rename(tmp_path / "launcher-sock")
        assert launcher()
    assert not launcher()


@pytest.mark.parametrize("release", ["1.7"])
def test_virt_launcher_is_found_in_the_table_of_a_real_pod(release: str) -> None:
    """Each file is ``/proc/net/unix`` of the pod of a running VM under that release of KubeVirt."""
    table = (Path(__file__).parent / f"proc-net-unix-kubevirt-{release}.txt").read_text()
    assert read_sockets(table) == LAUNCHER
    without = "".join(each for each in table.splitlines(keepends=True) if "/sockets/launcher" not in each)
    assert without != table
    assert read_sockets(without) == LIBVIRT_ONLY


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param("", NOTHING, id="empty"),
        pytest.param(HEADER, NOTHING, id="only the header"),
        pytest.param("a b c\n\0\n" + "x " * 40, NOTHING, id="not a table"),
        pytest.param(line("/run/launcher-init-sock", "00000000"), NOTHING, id="connected, not listening"),
        pytest.param(line(""), NOTHING, id="listening without a path"),
        pytest.param(line("/var/run/kubevirt-hooks/kigi-disk-hook.sock"), NOTHING, id="our own"),
        pytest.param(line("/var/run/kubevirt-hooks/other.sock"), NOTHING, id="another hook's"),
        pytest.param(line("/run/libvirt/virtqemud-sock"), LIBVIRT_ONLY, id="libvirt's"),
        pytest.param(line("/run/other-launcher-init-sock"), LIBVIRT_ONLY, id="a name that ends so"),
        pytest.param(line("/run/launcher-init-sock.old"), LIBVIRT_ONLY, id="a name that begins so"),
        pytest.param(line("@launcher-init-socket"), LIBVIRT_ONLY, id="an abstract name"),
        pytest.param(line("/run/kubevirt/sockets/launcher-init-sock"), Sockets(True, False), id="as KubeVirt binds it"),
        pytest.param(line("/run/kubevirt/sockets/launcher-sock"), Sockets(True, False), id="without the rename"),
    ],
)
def test_only_the_listening_socket_of_virt_launcher_counts(table: str, expected: Sockets) -> None:
    assert read_sockets(HEADER + table) == expected


@pytest.mark.parametrize(
    ("readings", "gone"),
    [
        pytest.param([LAUNCHER] * 10_000, False, id="it lives for a day"),
        pytest.param([LAUNCHER] + [NOTHING] * (MISSES - 1), False, id="it may be gone"),
        pytest.param([LAUNCHER] + [NOTHING] * MISSES, True, id="the whole container is gone"),
        pytest.param([LAUNCHER] + [LIBVIRT_ONLY] * MISSES, True, id="it died and libvirt lives on"),
        pytest.param(
            [LAUNCHER, *([NOTHING] * (MISSES - 1)), LAUNCHER, *([NOTHING] * (MISSES - 1))], False, id="it was missed"
        ),
        pytest.param([NOTHING] * LONG, False, id="it may still come"),
        pytest.param([NOTHING] * (LONG + 1), True, id="it never came"),
        pytest.param([LIBVIRT_ONLY] * LONG + [NOTHING] * MISSES, True, id="it died before it bound its socket"),
        pytest.param([LIBVIRT_ONLY] * 10_000, False, id="a release that binds another name"),
    ],
)
def test_it_has_ended_when_it_was_there_and_is_no_more_or_never_came(readings: list[Sockets], gone: bool) -> None:
    watch = LauncherWatch(0.0)
    answers = [watch.is_gone(reading, number * PERIOD_S) for number, reading in enumerate(readings, 1)]
    assert answers[-1] is gone
    assert True not in answers[:-1]


@pytest.mark.parametrize("visible", [True, False], ids=["socket-found", "socket-under-another-name"])
def test_a_hook_lives_as_long_as_its_vm(visible: bool) -> None:
    """30 days of readings, with single readings that miss the socket; 420 s once ended every hook."""
    watch = LauncherWatch(0.0)
    for number in range(int(30 * 86_400 / PERIOD_S)):
        missed = number % 1000 == 999
        assert not watch.is_gone(Sockets(visible and not missed, True), number * PERIOD_S)
