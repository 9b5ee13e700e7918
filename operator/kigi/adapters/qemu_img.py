"""qemu-img as a bounded subprocess; formats are always named, never guessed."""

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


class QemuImgFailed(KigiError):
    """qemu-img ended with an error; the text has its words."""

    reason = "QemuImgFailed"


class DisksDiffer(KigiError):
    """Two images that must show a guest the same bytes do not."""

    reason = "DisksDiffer"


async def create_overlay(path: Path, backing_name: str, virtual_size_bytes: int) -> None:
    """A new writable qcow2 file above ``backing_name`` (relative to it), which is not opened. Milliseconds."""
    await _run(
        ["create", "-q", "-u", "-f", "qcow2", "-b", backing_name, "-F", "qcow2", str(path), str(virtual_size_bytes)],
        timeout_s=30,
    )


async def info(path: Path, image_format: str) -> dict[str, Any]:
    """What ``qemu-img info`` says of this file alone; its backing file is not opened."""
    text = await _run(["info", "-U", "--output=json", "-f", image_format, str(path)], timeout_s=60)
    answer: dict[str, Any] = json.loads(text)
    return answer


async def convert_to_raw(source: Path, image_format: str, target: Path) -> None:
    """The disk as a guest sees it, as a sparse raw file."""
    await _run(["convert", "-f", image_format, "-O", "raw", "-S", "64k", str(source), str(target)])


async def compare(first: Path, first_format: str, second: Path, second_format: str) -> None:
    """Raises DisksDiffer unless both show a guest the same bytes; a shorter one must be continued by zeros."""
    command = ["compare", "-f", first_format, "-F", second_format, str(first), str(second)]
    code, text = await _run_raw(command, TIMEOUT_S)
    if code == 1:
        raise DisksDiffer(f"{first.name} and {second.name}: {text.strip()}")
    if code != 0:
        raise QemuImgFailed(f"qemu-img compare {first.name} {second.name}: {text.strip()}")


async def check(path: Path) -> None:
    """Raises QemuImgFailed if the file's tables are not consistent."""
    await _run(["check", "-q", "-f", "qcow2", str(path)])


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
