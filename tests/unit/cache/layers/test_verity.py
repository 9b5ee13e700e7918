"""The call that seals a file; the kernel's part needs a file system with fs-verity."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from kigi_cache.layers import verity
from kigi_cache.layers.store import Store
from kigi_cache.layers.verity import seal
from tests.support.manual_clock import ManualClock
from tests.support.stored import commit


def answering(monkeypatch: pytest.MonkeyPatch, error: int | None) -> list[tuple[int, bytes]]:
    calls: list[tuple[int, bytes]] = []

    def ioctl(descriptor: int, request: int, argument: bytes) -> int:
        calls.append((request, argument))
        if error is not None:
            raise OSError(error, os.strerror(error))
        os.utime(f"/proc/self/fd/{descriptor}", ns=(os.fstat(descriptor).st_atime_ns, os.fstat(descriptor).st_mtime_ns))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return calls


@pytest.mark.parametrize(
    ("error", "sealed", "logged"),
    [
        (None, True, False),
        (errno.EEXIST, True, False),
        (errno.EOPNOTSUPP, False, False),
        (errno.ENOTTY, False, False),
        (errno.EINVAL, False, False),
        (errno.ETXTBSY, False, True),
        (errno.EIO, False, True),
    ],
)
def test_what_the_kernel_answers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: int | None,
    sealed: bool,
    logged: bool,
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    ((request, argument),) = [*answering(monkeypatch, error), (verity._ENABLE, verity._ARGUMENT)][:1]
    assert (request >> 16 & 0x3FFF, len(argument)) == (128, 128), "the size of the structure is part of the number"
    with caplog.at_level(logging.WARNING):
        assert seal(tmp_path / "f") is sealed
    assert bool(caplog.messages) is logged


def test_a_sealed_layer_stays_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing changes the file's ctime."""
    store = Store(tmp_path / "cache", boot="boot", clock=ManualClock().clock)
    store.recover()
    layer = commit(store, 1)
    calls = answering(monkeypatch, None)
    before = store.path(layer.digest).stat().st_ctime_ns
    assert store.persist(layer.digest)
    assert len(calls) == 1
    assert store.path(layer.digest).stat().st_ctime_ns != before
    assert store.is_held(layer.digest)
    assert store.unpersisted() == []
    assert Store(tmp_path / "cache", boot="another boot").recover() == []


def test_the_file_system_of_this_test_is_asked_without_harm(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    seal(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"x" * 5000
