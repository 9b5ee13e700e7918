"""Runs qemu-img with limits. The caller names every format and backing file; none is taken from a file's header."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kigi.errors import KigiError, SpecInvalid

if sys.platform == "linux":
    import resource

TIMEOUT_S = 3600.0
MEMORY_BYTES = 4 * 2**30
CPU_S = 1800
"""Limits against image bombs: a small file can describe petabytes of tables."""
MEASURE_CPU_S = 120
"""For an estimate: the tables of some 16 TiB of data, which would not fit anywhere."""
_WITH_BACKING = ("qcow2", "vmdk")


class QemuImgFailed(KigiError):
    """qemu-img failed; the text has its output."""

    reason = "QemuImgFailed"


class DisksDiffer(KigiError):
    """A guest would see different bytes in two images that must be equal."""

    reason = "DisksDiffer"


async def create_overlay(path: Path, backing_name: str, virtual_size_bytes: int) -> None:
    """Creates a writable qcow2 file on ``backing_name``, a path relative to it, which is not opened. Milliseconds."""
    await _run(
        ["create", "-q", "-u", "-f", "qcow2", "-b", backing_name, "-F", "qcow2", _plain(path), str(virtual_size_bytes)],
        timeout_s=30,
    )


async def info(path: Path, image_format: str) -> dict[str, Any]:
    """Output of ``qemu-img info`` for this file; its backing file is not opened."""
    text = await _run(["info", "-U", "--output=json", "-f", image_format, _plain(path)], timeout_s=60)
    answer: dict[str, Any] = json.loads(text)
    return answer


async def convert_to_raw(source: Path, image_format: str, target: Path, backing: Sequence[Path] = ()) -> None:
    """Writes the disk as a guest sees it to a sparse raw file. ``backing``: its backing files, nearest first."""
    await _run(["convert", "-O", "raw", "-S", "64k", image(source, image_format, backing), _plain(target)])


async def data_bytes(source: Path, image_format: str, backing: Sequence[Path] = ()) -> int:
    """Bytes of the disk's clusters that are not known to be zeros, as a guest sees it, and of the tables for them.

    No less than ``convert_to_raw`` writes. ``backing``: as there. Reads tables only.
    """
    disk = image(source, image_format, backing)
    text = await _run(["measure", "--output=json", "-O", "qcow2", disk], cpu_s=MEASURE_CPU_S)
    return int(json.loads(text)["required"])


async def compare(
    first: Path,
    first_format: str,
    second: Path,
    second_format: str,
    *,
    first_backing: Sequence[Path] = (),
    second_backing: Sequence[Path] = (),
) -> None:
    """Raises DisksDiffer unless a guest sees the same bytes in both. If one is longer, its rest must be zeros.

    ``*_backing``: backing files, nearest first.
    """
    pair = [image(first, first_format, first_backing), image(second, second_format, second_backing)]
    code, text = await _run_raw(["compare", *pair], TIMEOUT_S)
    if code == 1:
        raise DisksDiffer(f"{first.name} and {second.name}: {text.strip()}")
    if code != 0:
        raise QemuImgFailed(f"qemu-img compare {first.name} {second.name}: {text.strip()}")


async def check(path: Path) -> None:
    """Raises QemuImgFailed if the tables of this qcow2 file are inconsistent; its backing file is not opened."""
    await _run(["check", "-q", image(path, "qcow2")])


def image(path: Path, image_format: str, backing: Sequence[Path] = ()) -> str:
    """The image as a ``json:`` name that lists every file to open, so that qemu-img uses no name of a header.

    ``backing``: the backing files, nearest first. Without them the image has none, whatever its header names.
    """
    node: dict[str, Any] | None = None
    for file, kind in reversed([(path, image_format), *((below, "qcow2") for below in backing)]):
        above: dict[str, Any] = {"driver": kind, "file": {"driver": "file", "filename": str(file.absolute())}}
        if kind in _WITH_BACKING:
            above["backing"] = node
        node = above
    return "json:" + json.dumps(node)


def _plain(path: Path) -> str:
    """An absolute path: in a relative one, QEMU reads the part before a colon as a protocol."""
    return str(path.absolute())


async def _run(arguments: Sequence[str], timeout_s: float = TIMEOUT_S, cpu_s: int | None = None) -> str:
    code, text = await _run_raw(arguments, timeout_s, cpu_s)
    if code != 0:
        raise QemuImgFailed(f"qemu-img {' '.join(arguments)}: {text.strip()}")
    return text


async def _run_raw(arguments: Sequence[str], timeout_s: float, cpu_s: int | None = None) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        _limit(process.pid, CPU_S if cpu_s is None else cpu_s)
    except FileNotFoundError as exc:
        raise SpecInvalid("the program qemu-img is not on the PATH; install qemu-utils") from exc
    try:
        async with asyncio.timeout(timeout_s):
            output, _ = await process.communicate()
    except TimeoutError as exc:
        raise QemuImgFailed(f"qemu-img {arguments[0]} did not end within {timeout_s:.0f} s") from exc
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def _limit(pid: int, cpu_s: int) -> None:
    """Limits the process after its start: code between fork and exec may hang in a process with threads.

    Only Linux limits a running process; elsewhere its time alone is limited.
    """
    if sys.platform == "linux":
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.prlimit(pid, resource.RLIMIT_CPU, (cpu_s, cpu_s))
