"""qemu-img, as a program of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kigi.errors import KigiError

TIMEOUT_S = 60.0


async def create_overlay(path: Path, backing_name: str, virtual_size_bytes: int) -> None:
    """A new, empty qcow2 at ``path`` over ``backing_name``, which is written into its header as it stands.

    The backing file is not opened (``-u``): its name is relative to where the overlay will be, and it was checked
    before. Raises KigiError with what qemu-img said.
    """
    arguments = ("create", "-q", "-u", "-f", "qcow2", "-b", backing_name, "-F", "qcow2")
    process = await asyncio.create_subprocess_exec(
        "qemu-img",
        *arguments,
        str(path),
        str(virtual_size_bytes),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            _, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise KigiError(f"qemu-img create of {path}: {errors.decode(errors='replace').strip()}")
