"""Faults of repository and disk: no wrong byte is held, no byte that arrived is lost, and filling continues."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kigi.domain.layers import Chain, Layer, layer_file_name
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.store import Store
from localcluster.s3 import S3Server
from tests.support import filling as fillers
from tests.support.chains import chain_attribute
from tests.support.cluster import REPOSITORY, eventually_async
from tests.support.faulty_proxy import FaultyProxy
from tests.support.filling import GIB, QUICK_RETRIES, reasons, states
from tests.support.layers import environment, make_chain, repositories, upload, wanted
from tests.support.mountns import private_mounts

MIB = 2**20
filling = partial(fillers.filling, retry=QUICK_RETRIES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Chain]:
    directory = tmp_path_factory.mktemp("faults")
    return directory, make_chain(directory, 2, 20 * MIB)


@pytest.fixture
def served(s3: S3Server, bucket: str, files: tuple[Path, Chain]) -> str:
    upload(s3, bucket, *files)
    return bucket


def assert_right(root: Path, files: tuple[Path, Chain]) -> None:
    directory, chain = files
    for layer in chain:
        name = layer_file_name(layer.digest)
        assert (root / "layers" / name).read_bytes() == (directory / name).read_bytes()
    assert list((root / "incoming").iterdir()) == []


def total(chain: Chain) -> int:
    return sum(layer.size_bytes for layer in chain)


@pytest.mark.parametrize("cut", [3 * MIB + 17, 700_000, 8 * MIB - 1])
async def test_a_body_that_is_cut_continues_from_there(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path, cut: int
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.cut_after = cut
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            await filler.ensure(files[1])
            assert errors == {}
        heads = 2000 * proxy.connections
        assert proxy.connections >= total(files[1]) // cut
        assert proxy.answered_bytes < total(files[1]) + heads  # no byte of a body was requested twice
    assert_right(tmp_path / "node", files)


async def test_bytes_that_arrived_before_the_repository_went_down_are_kept(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    chain = files[1][:1]
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.bytes_per_s = 4 * MIB
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            filler.want(wanted(chain))
            await eventually_async(lambda: proxy.answered_bytes > 12 * MIB)
            await proxy.down()
            await eventually_async(lambda: reasons(errors) == ["RepositoryUnreachable"])
            kept = filler.store.part_path(chain[0].digest).stat().st_size
            assert kept > 0
            proxy.faults.bytes_per_s = None
            proxy.answered_bytes = 0
            await proxy.up()
            await eventually_async(lambda: set(states(filler).values()) == {"Held"})
            assert proxy.answered_bytes <= chain[0].size_bytes - kept + 10_000
            assert reasons(errors) == ["RepositoryUnreachable"]


async def test_a_stalled_connection_is_closed_and_the_rest_comes_on_another(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.stall_after, proxy.faults.stalls = 2 * MIB, 3
        settings = repositories(proxy.endpoint, served)
        began = time.monotonic()
        async with filling(tmp_path / "node", settings, environment(s3), timeout_s=1.0) as (filler, errors):
            await filler.ensure(files[1])
            assert errors == {}
        assert proxy.faults.stalls == 0
        assert time.monotonic() - began < 30
    assert_right(tmp_path / "node", files)


async def test_a_server_that_never_answers_is_unreachable_until_it_does(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.stall_after = 0
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3), timeout_s=0.5) as (filler, errors):
            filler.want(wanted(files[1]))
            await eventually_async(lambda: set(reasons(errors)) == {"RepositoryUnreachable"})
            proxy.faults.stall_after = None
            await eventually_async(lambda: set(states(filler).values()) == {"Held"})
    assert_right(tmp_path / "node", files)


async def test_a_slow_repository_is_no_error(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.bytes_per_s = 2 * MIB
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3), timeout_s=2.0) as (filler, errors):
            await filler.ensure(files[1])
            assert errors == {}
    assert_right(tmp_path / "node", files)


@pytest.mark.parametrize("fault", ["refused", "down"])
async def test_a_server_that_was_down_is_used_again_without_help(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path, fault: str
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        if fault == "down":
            await proxy.down()
        proxy.faults.refuse = fault == "refused"
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            filler.want(wanted(files[1]))
            await eventually_async(lambda: reasons(errors) == ["RepositoryUnreachable"] * 2)
            await asyncio.sleep(1)
            assert reasons(errors) == ["RepositoryUnreachable"] * 2  # retried, but reported once
            proxy.faults.refuse = False
            if fault == "down":
                await proxy.up()
            await eventually_async(lambda: set(states(filler).values()) == {"Held"})
    assert_right(tmp_path / "node", files)


@pytest.mark.why("LayerCorrupt")
async def test_a_bit_flipped_on_the_way_is_found_and_the_layer_fetched_anew(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    async with FaultyProxy(s3.endpoint) as proxy:
        proxy.faults.flip_at, proxy.faults.flips = 5 * MIB, 1
        settings = repositories(proxy.endpoint, served)
        async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
            filler.want(wanted(files[1]))
            await eventually_async(lambda: set(states(filler).values()) == {"Held"} and len(states(filler)) == 2)
            assert reasons(errors) == ["LayerCorrupt"]
    assert_right(tmp_path / "node", files)


async def test_wrong_credentials_are_named_and_right_ones_are_used_as_soon_as_they_exist(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    env = {**environment(s3), "AWS_SECRET_ACCESS_KEY": "wrong"}
    async with filling(tmp_path / "node", repositories(s3.endpoint, served), env) as (filler, errors):
        filler.want(wanted(files[1]))
        await eventually_async(lambda: reasons(errors) == ["AccessDenied"] * 2)
        env.update(environment(s3))
        await eventually_async(lambda: set(states(filler).values()) == {"Held"})
    assert_right(tmp_path / "node", files)


@pytest.mark.why("NoRoom")
def test_a_full_disk_is_reported_and_filling_continues_when_it_is_freed(
    s3: S3Server, served: str, files: tuple[Path, Chain], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    async def fill(budget: Budget) -> None:
        settings = repositories(s3.endpoint, served)
        async with filling(disk / "node", settings, environment(s3), budget) as (filler, errors):
            filler.want(wanted(files[1]))
            await eventually_async(lambda: set(reasons(errors)) == {"NoRoom"})
            assert not any((disk / "node" / "layers").iterdir()) or len(states(filler)) == 2
            for layer in filler.snapshot().layers:
                assert layer.state != "Refused" or layer.reason == "NoRoom"
            ballast.unlink()
            await eventually_async(lambda: list(states(filler).values()) == ["Held", "Held"])

    with private_mounts():
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "kigi-test", str(disk)], check=True)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(50 * MIB))
        # First the file system's own error (ENOSPC in the middle of a write), then the check before the first byte.
        for reserve in (-(2**40), 256 * 1024):
            ballast.write_bytes(bytes(50 * MIB))
            asyncio.run(fill(Budget(GIB, min_free_bytes=reserve, reserve_bytes=reserve)))
            assert_right(disk / "node", files)
            for path in (disk / "node" / "layers").iterdir():
                path.unlink()


def test_a_filler_that_is_killed_many_times_fetches_every_layer_and_no_wrong_one(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "src", 6, 12 * MIB, seed=9)
    upload(s3, bucket, tmp_path / "src", chain)
    command = [sys.executable, "-m", "tests.support.fill_process", str(tmp_path / "node"), s3.endpoint, bucket]
    env = {**os.environ, **environment(s3)}
    undisturbed = [*command[:3], str(tmp_path / "undisturbed"), *command[4:], chain_attribute(chain)]
    with subprocess.Popen(undisturbed, env=env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        begun = time.monotonic()
        assert process.stdout.readline() == "held\n"
        fill_s = time.monotonic() - begun  # the kills are spread over what a fill takes here and now
    kills, stages = 0, set()
    for number in range(24):
        process = subprocess.Popen(
            [*command, chain_attribute(chain)], env=env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(fill_s * (number % 12) / 10)
        process.kill()
        kills += process.wait() == -9
        assert_only_right(tmp_path / "node", tmp_path / "src", chain)
        stages.add(tuple(len(list((tmp_path / "node" / name).glob("*"))) for name in ("layers", "incoming")))
        held = sorted((tmp_path / "node" / "layers").glob("*"))
        for path in held[1:] if len(held) > 3 else []:  # so that there is always something to do
            path.unlink()
    assert kills >= 12
    assert len(stages) >= 4, stages  # the kills came at different moments
    done = subprocess.run(
        [*command, chain_attribute(chain)], env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["started", "held"]
    assert_right(tmp_path / "node", (tmp_path / "src", chain))
    store = Store(tmp_path / "node")
    assert store.recover() == []
    assert set(store.held()) == {layer.digest for layer in chain}


def assert_only_right(root: Path, source: Path, chain: tuple[Layer, ...]) -> None:
    """Under its final name a file is complete and right, no matter when the process was killed."""
    names = {layer_file_name(layer.digest) for layer in chain}
    for path in (root / "layers").glob("*"):
        assert path.name in names
        assert path.read_bytes() == (source / path.name).read_bytes()
