from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from kigi.hook import messages
from kigi.hook.main import SOCKET_NAME
from kigi.hook.monitor import add_monitor
from tests.support.domains import CLOUD_INIT, domain, our_disk


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The sidecar as its own process, as in a pod, once its socket answers."""
    process = subprocess.Popen([sys.executable, "-m", "kigi.hook.main", str(tmp_path)])
    socket = tmp_path / SOCKET_NAME
    deadline = time.monotonic() + 30
    while not socket.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process, socket
    process.kill()
    process.wait()


def call(socket: Path, method: str, request: bytes, timeout: float = 5) -> bytes:
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        answer: bytes = channel.unary_unary(method)(request, timeout=timeout, wait_for_ready=True)
        return answer


def test_info_answers_in_the_second_that_virt_launcher_gives(sidecar: tuple[subprocess.Popen[bytes], Path]) -> None:
    _, socket = sidecar
    answer = call(socket, "/kubevirt.hooks.info.Info/Info", b"", timeout=1)
    assert stat.S_ISSOCK(os.stat(socket).st_mode)
    assert b"OnDefineDomain" in answer
    assert [messages.bytes_field(answer, number) for number in (1, 4)] == [b"kigi-disk-hook", b"v1alpha2"]


@pytest.mark.parametrize("version", ["v1alpha2", "v1alpha3"])
def test_the_answer_has_the_kigi_disk_as_qcow2(sidecar: tuple[subprocess.Popen[bytes], Path], version: str) -> None:
    _, socket = sidecar
    document = domain(our_disk(), CLOUD_INIT)
    vmi = b'{"kind":"VirtualMachineInstance"}' * 40
    request = messages.define_domain_result(document) + b"\x12" + bytes([len(vmi) & 127 | 128, len(vmi) >> 7]) + vmi
    answer = call(socket, f"/kubevirt.hooks.{version}.Callbacks/OnDefineDomain", request)
    ours = our_disk().encode()
    assert messages.domain_xml(answer) == add_monitor(document.replace(ours, ours.replace(b"raw", b"qcow2")))


def test_a_domain_without_a_kigi_disk_is_an_error_with_its_cause(
    sidecar: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, socket = sidecar
    for request in (messages.define_domain_result(domain(CLOUD_INIT)), b"", b"\x0a\xff", b"\x0b"):
        with pytest.raises(grpc.RpcError) as refused:
            call(socket, "/kubevirt.hooks.v1alpha3.Callbacks/OnDefineDomain", request)
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "kigi-disk-hook: " in refused.value.details()
    assert process.poll() is None


def test_shutdown_ends_the_sidecar(sidecar: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, socket = sidecar
    assert call(socket, "/kubevirt.hooks.v1alpha3.Callbacks/Shutdown", b"") == b""
    assert process.wait(5) == 0


def test_sigterm_ends_the_sidecar(sidecar: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, socket = sidecar
    call(socket, "/kubevirt.hooks.info.Info/Info", b"")
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 0


def test_the_sidecar_imports_neither_protobuf_nor_the_rest_of_kigi() -> None:
    code = (
        "import sys, kigi.hook.main\nprint(*(n for n in sys.modules if n.split('.')[0] in ('kigi', 'google', 'yaml')))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(loaded) == [
        "kigi",
        "kigi.hook",
        "kigi.hook.domain",
        "kigi.hook.launcher",
        "kigi.hook.main",
        "kigi.hook.messages",
        "kigi.hook.monitor",
    ]
