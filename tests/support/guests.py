"""Guests of some hundred bytes for tests of the cluster itself."""

import subprocess
from pathlib import Path

_PORT_LOW, _PORT_HIGH = 0xF8, 0x03  # COM1

# 16-bit code of a boot sector: writes the text after the code to the serial port, then halts.
_CODE = bytes(
    [
        *(0x31, 0xC0),  # xor ax, ax
        *(0x8E, 0xD8),  # mov ds, ax
        *(0xBE, 0x15, 0x7C),  # mov si, 0x7c15: the text, directly after the code
        0xAC,  # next: lodsb
        *(0x84, 0xC0),  # test al, al
        *(0x74, 0x06),  # jz done
        *(0xBA, _PORT_LOW, _PORT_HIGH),  # mov dx, COM1
        0xEE,  # out dx, al
        *(0xEB, 0xF5),  # jmp next
        0xF4,  # done: hlt
        *(0xEB, 0xFD),  # jmp done
    ]
)


def boot_sector(text: str) -> bytes:
    """Boot sector of 512 bytes that prints ``text`` (ASCII, at most 480 characters) on the serial port."""
    message = f"{text}\r\n".encode("ascii") + b"\0"
    assert len(_CODE) + len(message) <= 510
    return (_CODE + message).ljust(510, b"\0") + b"\x55\xaa"


def layered_disk(folder: Path, texts: list[str], size_bytes: int = 16 << 20) -> Path:
    """Folder for a filesystem volume: ``disk.img`` over ``chain/``, one layer per text, each with its boot sector.

    The guest says the last of ``texts``: only then did it read its sector through the whole chain.
    """
    chain = folder / "chain"
    chain.mkdir(parents=True)
    below = ""
    for number, text in enumerate(texts):
        name = f"{number}.qcow2"
        backing = ["-b", below, "-F", "qcow2"] if below else []
        _qemu("qemu-img", "create", "-q", "-f", "qcow2", *backing, name, str(size_bytes), cwd=chain)
        sector = folder / "sector"
        sector.write_bytes(boot_sector(text))
        _qemu("qemu-io", "-f", "qcow2", "-c", f"write -q -s {sector} 0 512", name, cwd=chain)
        sector.unlink()
        (chain / name).chmod(0o444)
        below = name
    overlay = folder / "disk.img"
    backing = ["-b", f"chain/{below}", "-F", "qcow2"]
    _qemu("qemu-img", "create", "-q", "-f", "qcow2", *backing, overlay.name, str(size_bytes), cwd=folder)
    overlay.chmod(0o600)
    return folder


def _qemu(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
