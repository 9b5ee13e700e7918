"""A daemon's own certificate, and its renewal in manual time."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kigi_cache.sources.peer_certificates import RENEW_S, PeerCertificates, make_certificate
from tests.support.manual_clock import ManualClock
from tests.support.peers import client_context
from tests.support.scripted_fills import soon


@asynccontextmanager
async def renewing(time: ManualClock) -> AsyncIterator[PeerCertificates]:
    certificates = PeerCertificates(time.clock)
    task = asyncio.create_task(certificates.run())
    try:
        await asyncio.wait_for(certificates.is_made.wait(), 10)
        yield certificates
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_next_certificate_is_used_when_it_is_published() -> None:
    time = ManualClock()
    async with renewing(time) as certificates:
        (first,), context = certificates.fingerprints(), certificates.context()
        assert await time.next_wake() == RENEW_S
        time.advance(RENEW_S - 1)
        assert certificates.fingerprints() == (first,)
        time.advance(1)
        await soon(lambda: len(certificates.fingerprints()) == 2)
        _, second = certificates.fingerprints()
        certificates.published((first,))  # a heartbeat that began before
        await asyncio.sleep(0)
        assert certificates.context() is context, "peers do not know the next one yet"
        certificates.published((first, second))
        await soon(lambda: certificates.fingerprints() == (second,))
        assert certificates.context() is not context
        assert await time.next_wake() == 2 * RENEW_S


async def test_a_certificate_is_known_when_the_lease_has_it() -> None:
    time = ManualClock()
    async with renewing(time) as certificates:
        certificates.published(("0" * 64,))  # the Lease of the process before
        assert not certificates.is_known.is_set()
        certificates.published(certificates.fingerprints())
        assert certificates.is_known.is_set()


async def test_while_nothing_is_published_the_first_one_stays() -> None:
    time = ManualClock()
    async with renewing(time) as certificates:
        context = certificates.context()
        await time.next_wake()
        time.advance(30 * RENEW_S)
        await soon(lambda: len(certificates.fingerprints()) == 2)
        assert certificates.context() is context
        _, second = certificates.fingerprints()
        certificates.published(certificates.fingerprints())
        await soon(lambda: certificates.fingerprints() == (second,))
        assert await time.next_wake() == 31 * RENEW_S


async def test_a_clock_that_is_set_renews_nothing() -> None:
    time = ManualClock()
    async with renewing(time) as certificates:
        shown = certificates.fingerprints()
        await time.next_wake()
        time.epoch_s += 3650 * 86400.0
        time.advance(1)
        assert certificates.fingerprints() == shown


async def test_a_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    time = ManualClock()
    certificates = PeerCertificates(time.clock)
    with monkeypatch.context() as broken:
        broken.setattr("os.memfd_create", lambda name: (_ for _ in ()).throw(OSError(24, "too many files")))
        with pytest.raises(OSError, match="too many files"):
            await certificates.run()
    assert certificates.fingerprints() == ()
    task = asyncio.create_task(certificates.run())
    await asyncio.wait_for(certificates.is_made.wait(), 10)
    task.cancel()


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side of a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    pending = list(sides)
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    return sides[0]


def test_the_fingerprint_is_that_of_the_certificate_that_is_shown() -> None:
    first, second = make_certificate(0.0), make_certificate(0.0)
    assert first.fingerprint != second.fingerprint
    client = shake_hands(first.context, client_context())
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    assert hashlib.sha256(shown).hexdigest() == first.fingerprint
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_versions_of_tls_are_refused(version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError):
        shake_hands(make_certificate(0.0).context, client_context(version))


def test_the_key_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    make_certificate(0.0)
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
