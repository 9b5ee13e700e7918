"""qemu-img as a bounded subprocess; formats and backing files are always named by the caller, never found in a file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kigi.errors import KigiError, SpecInvalid

TIMEOUT_S = 3600.0
MEMORY_BYTES = 4 * 2**30
CPU_S = 1800
"""Bounds against image bombs: a small file can describe petabytes of tables."""
_WITH_BACKING = ("qcow2", "vmdk")


class QemuImgFailed(KigiError):
    """qemu-img ended with an error; the text has its words."""

    reason = "QemuImgFailed"


class DisksDiffer(KigiError):
    """Two images that must show a guest the same bytes do not."""

    reason = "DisksDiffer"


async def create_overlay(path: Path, backing_name: str, virtual_size_bytes: int) -> None:
    """A new writable qcow2 file above ``backing_name`` (relative to it), which is not opened. Milliseconds."""
    await _run(
        ["create", "-q", "-u", "-f", "qcow2", "-b", backing_name, "-F", "qcow2", _plain(path), str(virtual_size_bytes)],
        timeout_s=30,
    )


async def info(path: Path, image_format: str) -> dict[str, Any]:
    """What ``qemu-img info`` says of this file alone; its backing file is not opened."""
    text = await _run(["info", "-U", "--output=json", "-f", image_format, _plain(path)], timeout_s=60)
    answer: dict[str, Any] = json.loads(text)
    return answer


async def convert_to_raw(source: Path, image_format: str, target: Path, backing: Sequence[Path] = ()) -> None:
    """The disk as a guest sees it, as a sparse raw file; ``backing``: the qcow2 files below, nearest first."""
    await _run(["convert", "-O", "raw", "-S", "64k", image(source, image_format, backing), _plain(target)])


async def compare(
    first: Path,
    first_format: str,
    second: Path,
    second_format: str,
    *,
    first_backing: Sequence[Path] = (),
    second_backing: Sequence[Path] = (),
) -> None:
    """Raises DisksDiffer unless both show a guest the same bytes; a shorter one must be continued by zeros.

    ``*_backing``: the qcow2 files below, nearest first.
    """
    pair = [image(first, first_format, first_backing), image(second, second_format, second_backing)]
    code, text = await _run_raw(["compare", *pair], TIMEOUT_S)
    if code == 1:
        raise DisksDiffer(f"{first.name} and {second.name}: {text.strip()}")
    if code != 0:
        raise QemuImgFailed(f"qemu-img compare {first.name} {second.name}: {text.strip()}")


async def check(path: Path) -> None:
    """Raises QemuImgFailed if the tables of this qcow2 file alone are not consistent."""
    await _run(["check", "-q", image(path, "qcow2")])


def image(path: Path, image_format: str, backing: Sequence[Path] = ()) -> str:
    """The image as qemu-img takes it, with each file that it may open: no name in a header decides anything.

    ``backing``: the qcow2 files below, nearest first; without them nothing lies below.
    """
    node: dict[str, Any] | None = None
    for file, kind in reversed([(path, image_format), *((below, "qcow2") for below in backing)]):
        above: dict[str, Any] = {"driver": kind, "file": {"driver": "file", "filename": str(file.absolute())}}
        if kind in _WITH_BACKING:
            above["backing"] = node
        node = above
    return "json:" + json.dumps(node)


def _plain(path: Path) -> str:
    """Absolute: QEMU takes what is before a colon in a relative name for a protocol."""
    return str(path.absolute())


async def _run(arguments: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    code, text = await _run_raw(arguments, timeout_s)
    if code != 0:
        raise QemuImgFailed(f"qemu-img {' '.join(arguments)}: {text.strip()}")
    return text


async def _run_raw(arguments: Sequence[str], timeout_s: float) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        _limit(process.pid)
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


def _limit(pid: int) -> None:
    """From outside: code between fork and exec may hang in a process with threads, as the node's daemon is."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.prlimit(pid, resource.RLIMIT_CPU, (CPU_S, CPU_S))
