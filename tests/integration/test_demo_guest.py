"""The guest of ``kigi demo`` in qemu: it reports its machine, counts its starts, and ends at the power button."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from kigi.cli.demo.disks import make_layers
from kigi.cli.demo.guests import report_in
from kigi.cli.demo.steps import chain_of
from kigi.domain.layers import layer_file_name
from tests.support.emulated import QEMU, Guest

MACHINE_TYPES = ("q35", "pc")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a chain, and in it ``top``, the name of its last file."""
    folder = tmp_path_factory.mktemp("chain")
    layers = make_layers(tmp_path_factory.mktemp("layers"), "run1")
    for name in (names := chain_of("desktop1-cleaned", layers)):
        shutil.copy(layers[name].path, folder / layer_file_name(layers[name].layer.digest))
    (folder / "top").write_text(layer_file_name(layers[names[-1]].layer.digest))
    return folder


def boot(disk: Path, machine_type: str, qmp: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            QEMU, "-machine", machine_type, "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults",
            "-serial", "stdio", "-drive", f"if=virtio,format=qcow2,file={disk}", "-qmp", f"unix:{qmp},server,nowait",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip


def press_power_button(qmp: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(qmp))
        answers = client.makefile()
        answers.readline()
        for command in ("qmp_capabilities", "system_powerdown"):
            client.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answers.readline()


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_a_guest_reports_counts_its_starts_and_shuts_down(chain: Path, tmp_path: Path, machine_type: str) -> None:
    overlay = chain / f"overlay-{machine_type}.qcow2"
    top = (chain / "top").read_text()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", top, "-F", "qcow2", overlay], check=True)
    for start in (1, 2):
        qmp = tmp_path / f"qmp-{start}"
        process = boot(overlay, machine_type, qmp)
        try:
            guest = Guest(process)
            guest.expect(r"KIGI-GUEST .*\r\n", 60)
            guest.expect(r"KIGI-GUEST .*\r\n", 60)  # again after a pause
            assert report_in(guest.output) == {"machine": "desktop1", "state": "cleaned", "boot": str(start)}
            press_power_button(qmp)
            assert guest.ended(30)
        finally:
            process.kill()
            process.wait(10)
