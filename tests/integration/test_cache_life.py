"""What is evicted from a cache: by need, for the budget, and under the pressure of a nearly full disk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from kigi.api.node_cache import Purpose
from kigi.api.repositories import Repositories, Repository
from kigi.domain.layers import Chain, Digest, digest_hex
from kigi_cache.layers.eviction import Budget, Need, evictable
from kigi_cache.layers.retry import RetryPolicy
from kigi_cache.layers.store import Store
from kigi_cache.settings import CONNECTIONS
from localcluster.s3 import S3Server
from tests.support.cluster import eventually_async
from tests.support.faulty_proxy import FaultyProxy
from tests.support.filling import GIB, filling, reasons, states
from tests.support.layers import environment, make_chain, repositories, upload, wanted
from tests.support.mountns import private_mounts

MIB = 2**20
DISK: Purpose = "Disk"
PREFETCH: Purpose = "Prefetch"
RETRY = RetryPolicy(max_s=0.5)
LOW_SPACE = Budget(GIB, min_free_bytes=300 * MIB)


@pytest.fixture
def roots(tmp_path: Path, s3: S3Server, bucket: str) -> list[Chain]:
    """Four images of one layer each, of about 2 MiB."""
    made = [make_chain(tmp_path / "src", 1, size_bytes=2 * MIB, seed=seed) for seed in range(4)]
    for chain in made:
        upload(s3, bucket, tmp_path / "src", chain)
    return made


def needs(filler: object) -> dict[Digest, str | None]:
    return {layer.digest: layer.need for layer in filler.snapshot().layers if layer.state == "Held"}  # type: ignore[attr-defined]


@pytest.mark.why("PrefetchWaits")
async def test_a_disk_evicts_a_prefetched_layer_and_not_the_other_way_round(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    size = roots[0][0].size_bytes
    prefetched = [*wanted(roots[0], PREFETCH), *wanted(roots[1], PREFETCH)]
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3), 3 * size, retry=RETRY) as (filler, errors):
        filler.want([*prefetched, *wanted(roots[2], DISK)])
        await eventually_async(lambda: set(states(filler).values()) == {"Held"})
        first, second, disk, other = (chain[0].digest for chain in roots)
        assert needs(filler) == {first: "Prefetch", second: "Prefetch", disk: "Wanted"}
        # One more disk: a prefetched layer is evicted, and waits for space without evicting another.
        filler.want([*prefetched, *wanted(roots[2], DISK), *wanted(roots[3], DISK)])
        await eventually_async(lambda: needs(filler).get(other) == "Wanted")
        await eventually_async(lambda: "PrefetchWaits" in reasons(errors))
        await asyncio.sleep(1.5)  # nothing may happen
        held = needs(filler)
        assert {disk, other} <= held.keys()
        assert len(held) == 3
        assert set(reasons(errors)) == {"PrefetchWaits"}
        # The disk is deleted, and the prefetched layer is fetched again.
        filler.want([*prefetched, *wanted(roots[2], DISK)])
        await eventually_async(lambda: {first, second, disk} <= needs(filler).keys())


async def test_linked_and_pinned_layers_are_never_evicted(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    size = roots[0][0].size_bytes
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3), 2 * size) as (filler, errors):
        pinned = [layer.model_copy(update={"retention": "Pinned"}) for layer in wanted(roots[1], PREFETCH)]
        filler.want([*wanted(roots[0], PREFETCH), *pinned])
        await eventually_async(lambda: len(needs(filler)) == 2)
        (tmp_path / "node" / "volume").mkdir()
        filler.store.link_chain(roots[0], tmp_path / "node" / "volume")
        assert set(needs(filler).values()) == {"Running"}
        filler.want([*wanted(roots[0], PREFETCH), *pinned, *wanted(roots[2], DISK)])
        await eventually_async(lambda: reasons(errors) == ["BudgetExceeded"])
        assert len(needs(filler)) == 2


@pytest.mark.why("DiskPressure")
def test_under_disk_pressure_idle_and_prefetched_layers_are_evicted_and_nothing_is_fetched(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    """Another program fills the disk; layers that a disk waits for stay, and fetching continues with free space."""
    settings = repositories(s3.endpoint, bucket)
    small_disk = tmp_path / "disk"
    small_disk.mkdir()

    async def fill() -> None:
        async with filling(small_disk / "node", settings, environment(s3), LOW_SPACE, retry=RETRY) as (filler, errors):
            idle, prefetched, disk, late = roots
            filler.want([*wanted(idle), *wanted(prefetched, PREFETCH), *wanted(disk)])
            await eventually_async(lambda: len(needs(filler)) == 3)
            filler.want([*wanted(prefetched, PREFETCH), *wanted(disk)])
            assert needs(filler)[idle[0].digest] == "Idle"
            foreign = small_disk / "foreign"
            foreign.write_bytes(b"x" * (filler.store.free_bytes() - 300 * MIB + 512 * 1024))
            filler.want([*wanted(prefetched, PREFETCH), *wanted(disk)])
            await eventually_async(lambda: idle[0].digest not in needs(filler), 40)
            with foreign.open("ab") as file:
                file.write(b"x" * (4 * MIB))
            filler.want([*wanted(prefetched, PREFETCH), *wanted(disk), *wanted(late)])
            await eventually_async(lambda: prefetched[0].digest not in needs(filler), 40)
            await eventually_async(lambda: "DiskPressure" in reasons(errors))
            assert disk[0].digest in needs(filler)
            foreign.unlink()
            await eventually_async(lambda: {late[0].digest, prefetched[0].digest} <= needs(filler).keys(), 40)

    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m", "kigi-test", str(small_disk)], check=True)
        asyncio.run(fill())


def test_a_capture_evicts_idle_layers_alone_and_none_in_vain(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    settings = repositories(s3.endpoint, bucket)
    small_disk = tmp_path / "disk"
    small_disk.mkdir()

    async def fill() -> None:
        async with filling(small_disk / "node", settings, environment(s3), LOW_SPACE) as (filler, _):
            idle, prefetched, disk, _ = roots
            filler.want([*wanted(idle), *wanted(prefetched, PREFETCH), *wanted(disk)])
            await eventually_async(lambda: len(needs(filler)) == 3)
            filler.want([*wanted(prefetched, PREFETCH), *wanted(disk)])
            free = filler.store.free_bytes() - 300 * MIB
            await filler.free_space(free + 64 * MIB)
            assert len(needs(filler)) == 3, "evicting all of them would not free as many"
            await filler.free_space(free + MIB)
            assert needs(filler).keys() == {prefetched[0].digest, disk[0].digest}

    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m", "kigi-test", str(small_disk)], check=True)
        asyncio.run(fill())


async def test_partial_files_that_are_no_longer_wanted_are_deleted_after_a_start(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    incoming = tmp_path / "node" / "incoming"
    incoming.mkdir(parents=True)
    for chain in roots[:2]:
        (incoming / f"{digest_hex(chain[0].digest)}.part").write_bytes(b"half")
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, _):
        await eventually_async(lambda: (tmp_path / "node" / "layers").is_dir())
        assert len(list(incoming.iterdir())) == 2, "before the NodeCache is known nothing is deleted"
        filler.want(wanted(roots[0]))
        await eventually_async(lambda: states(filler) == {roots[0][0].digest: "Held"})
        assert list(incoming.iterdir()) == []


async def test_each_layer_is_read_again_in_time_also_over_restarts(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3)) as (filler, _):
        filler.want([*wanted(roots[0]), *wanted(roots[1])])
        await eventually_async(lambda: len(needs(filler)) == 2)
        assert filler.store.read_before(time.time() - 3600) == []
        await eventually_async(lambda: not filler.store.unpersisted())  # then the state is written a last time
    state = tmp_path / "node" / "state.recent.json"
    content = json.loads(state.read_text())
    content["readAt"][digest_hex(roots[1][0].digest)] -= 7200
    state.write_text(json.dumps(content))
    reopened = Store(tmp_path / "node")
    assert reopened.recover() == []
    assert reopened.read_before(time.time() - 3600) == [roots[1][0].digest]
    async with filling(tmp_path / "node", settings, environment(s3)) as (filler, _):
        filler.want([*wanted(roots[0]), *wanted(roots[1])])
        await eventually_async(lambda: len(needs(filler)) == 2)
        began = time.monotonic()
        assert await filler.scrub(3600.0, roots[1][0].size_bytes / 2) == []
        assert time.monotonic() - began >= 0.9, "one second's worth immediately, the other half after that"
        assert filler.store.read_before(time.time() - 3600) == []


async def test_the_eviction_order_outlives_a_restart(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    older, newer = roots[1][0].digest, roots[0][0].digest
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3), save_interval_s=0.0) as (
        filler,
        _,
    ):
        filler.want([*wanted(roots[0]), *wanted(roots[1])])
        await eventually_async(lambda: len(needs(filler)) == 2)
        await asyncio.sleep(0.2)  # times are saved in tenths of a second
        filler.store.touch([newer])
    reopened = Store(tmp_path / "node")
    assert reopened.recover() == []
    assert [layer.digest for layer in evictable(reopened.held().values(), {}, below=Need.WANTED)] == [older, newer]


def test_quarantined_files_can_be_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path / "node")
    store.recover()
    quarantine = tmp_path / "node" / "quarantine"
    (quarantine / "x.0").write_bytes(b"x")
    store.empty_quarantine()
    assert os.listdir(quarantine) == []


async def test_prefetches_leave_connections_to_disks_that_are_requested_meanwhile(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.bytes_per_s = 200_000
        settings = repositories(proxy.endpoint, bucket)
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            prefetched = [layer for chain in roots[:3] for layer in wanted(chain, PREFETCH)]
            filler.want(prefetched)
            await eventually_async(lambda: list(states(filler).values()).count("Fetching") == CONNECTIONS // 2)
            assert list(states(filler).values()).count("Queued") == 3 - CONNECTIONS // 2
            disk = roots[3][0].digest
            filler.want([*prefetched, *wanted(roots[3], DISK)])
            await eventually_async(lambda: states(filler)[disk] == "Fetching", 2)
            proxy.faults.bytes_per_s = None
            await eventually_async(lambda: set(states(filler).values()) == {"Held"})
            assert not errors


async def test_a_repository_gets_no_more_connections_than_it_allows(
    s3: S3Server, bucket: str, tmp_path: Path, roots: list[Chain]
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        repository = Repository(endpoint=proxy.endpoint, bucket=bucket, connections_per_node=2)
        settings = Repositories(repositories={"default": repository})
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            proxy.faults.bytes_per_s = 200_000
            filler.want([layer for chain in roots for layer in wanted(chain, DISK)])
            await eventually_async(lambda: list(states(filler).values()).count("Fetching") == 4)
            for _ in range(10):
                await asyncio.sleep(0.05)
                assert proxy.open <= 2
            assert proxy.open == 2
            proxy.faults.bytes_per_s = None
            await eventually_async(lambda: set(states(filler).values()) == {"Held"})
            assert not errors
