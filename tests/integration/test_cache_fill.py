"""Filling a node's cache from a real S3 server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kigi.api.repositories import Repositories
from kigi.domain.layers import Digest, Layer, digest_hex, layer_file_name, object_key
from kigi.errors import BudgetExceeded, KigiError, LayerNotInRepository
from kigi_cache.layers.eviction import Budget
from kigi_cache.layers.filler import Filler
from kigi_cache.layers.store import Store
from kigi_cache.sources.s3 import S3Source
from localcluster.s3 import S3Server
from tests.support.cluster import eventually_async
from tests.support.layers import environment, make_chain, repositories, upload, wanted
from tests.support.stored import rot
from tests.support.why import explained

GIB = 2**30


@asynccontextmanager
async def filling(
    root: Path, settings: Repositories, env: dict[str, str], budget: int = GIB
) -> AsyncIterator[tuple[Filler, list[KigiError]]]:
    errors: list[KigiError] = []
    source = S3Source(settings, env)
    filler = Filler(Store(root), source, Budget(budget), on_error=lambda digest, error: errors.append(error))
    task = asyncio.create_task(filler.run())
    try:
        yield filler, errors
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        source.close()


def states(filler: Filler) -> dict[str, str]:
    return {layer.digest: layer.state for layer in filler.snapshot().layers}


async def test_wanted_layers_arrive_and_each_moves_once(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "src")
    upload(s3, bucket, tmp_path / "src", chain)
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        await asyncio.gather(*(filler.ensure(chain) for _ in range(5)))
        assert set(states(filler).values()) == {"Held"}
        assert filler.snapshot().fetched_bytes_total == sum(layer.size_bytes for layer in chain)
        await filler.ensure(chain)
        assert filler.snapshot().fetched_bytes_total == sum(layer.size_bytes for layer in chain)
        assert errors == []
        for layer in chain:
            path = filler.store.path(layer.digest)
            assert path.stat().st_mode & 0o777 == 0o444
            assert path.read_bytes() == (tmp_path / "src" / path.name).read_bytes()


async def test_a_fill_continues_from_the_bytes_that_a_crash_left(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "src", 1, 24 * 2**20)
    upload(s3, bucket, tmp_path / "src", chain)
    store = Store(tmp_path / "node")
    store.recover()
    content = (tmp_path / "src" / layer_file_name(chain[0].digest)).read_bytes()
    store.part_path(chain[0].digest).write_bytes(content[: 17 * 2**20 + 5])
    starts: list[int] = []

    class Spy(S3Source):
        def read(self, layer: Layer, start: int, is_urgent: object = None):  # type: ignore[no-untyped-def]
            starts.append(start)
            return super().read(layer, start)

    filler = Filler(store, Spy(repositories(s3.endpoint, bucket), environment(s3)), Budget(GIB))
    task = asyncio.create_task(filler.run())
    await filler.ensure(chain)
    assert starts == [17 * 2**20 + 5]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_part_with_wrong_bytes_is_quarantined_and_fetched_anew(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "src", 1)
    upload(s3, bucket, tmp_path / "src", chain)
    store = Store(tmp_path / "node")
    store.recover()
    store.part_path(chain[0].digest).write_bytes(b"x" * 1000)
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        await eventually_async(lambda: states(filler) == {chain[0].digest: "Held"})
        assert [error.reason for error in errors] == ["LayerCorrupt"]
        assert len(list((tmp_path / "node" / "quarantine").iterdir())) == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 1000)


def swap(path: Path) -> None:
    other = next(p for p in path.parent.iterdir() if p != path)
    data = other.read_bytes()
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, truncate, swap, Path.unlink])
async def test_a_damaged_layer_of_the_cache_is_never_linked_and_heals(
    s3: S3Server, bucket: str, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    chain = make_chain(tmp_path / "src")
    upload(s3, bucket, tmp_path / "src", chain)
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        await filler.ensure(chain)
        path = filler.store.path(chain[1].digest)
        damage(path)
        assert not filler.store.is_held(chain[1].digest)
        await filler.ensure(chain)
        assert path.read_bytes() == (tmp_path / "src" / path.name).read_bytes()
        await eventually_async(lambda: [e.reason for e in errors] == ["LayerCorrupt"])


async def test_damage_while_the_daemon_was_down_is_found_at_its_start(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "src")
    upload(s3, bucket, tmp_path / "src", chain)
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3)) as (filler, _):
        await filler.ensure(chain)
    flip(filler.store.path(chain[0].digest))
    async with filling(tmp_path / "node", settings, environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        await filler.ensure(chain)
        assert [error.reason for error in errors] == ["LayerCorrupt"]
        name = filler.store.path(chain[0].digest)
        assert name.read_bytes() == (tmp_path / "src" / name.name).read_bytes()


async def test_bytes_that_rot_without_a_trace_are_found_by_a_scrub(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "src", 1)
    upload(s3, bucket, tmp_path / "src", chain)
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, _):
        filler.want(wanted(chain))
        await filler.ensure(chain)
        rot(filler.store, chain[0].digest)
        assert await filler.scrub() == [chain[0].digest]
        await eventually_async(lambda: states(filler) == {chain[0].digest: "Held"})


async def test_an_object_with_other_bytes_never_becomes_a_layer(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "src", 1)
    upload(s3, bucket, tmp_path / "src", chain)
    flip(s3.data / bucket / object_key(chain[0].digest))
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        await eventually_async(lambda: [error.reason for error in errors] == ["LayerCorrupt"])
        assert not list((tmp_path / "node" / "layers").iterdir())
        upload(s3, bucket, tmp_path / "src", chain)
        await eventually_async(lambda: states(filler) == {chain[0].digest: "Held"})


@pytest.mark.why("LayerNotInRepository")
async def test_a_missing_object_is_reported_and_fetched_once_it_is_published(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "src", 2)
    upload(s3, bucket, tmp_path / "src", chain[:1])
    async with filling(tmp_path / "node", repositories(s3.endpoint, bucket), environment(s3)) as (filler, errors):
        filler.want(wanted(chain))
        with pytest.raises(LayerNotInRepository, match=digest_hex(chain[1].digest)):
            await filler.ensure(chain)
        upload(s3, bucket, tmp_path / "src", chain)
        await eventually_async(lambda: set(states(filler).values()) == {"Held"})
        assert {explained(error)["reason"] for error in errors} == {"LayerNotInRepository"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            {"bucket": "no-such-bucket"}, "RepositoryUnknown", id="bucket", marks=pytest.mark.why("RepositoryUnknown")
        ),
        pytest.param(
            {"endpoint": "http://127.0.0.1:9"},
            "RepositoryUnreachable",
            id="server-down",
            marks=pytest.mark.why("RepositoryUnreachable"),
        ),
        pytest.param({"secret": "wrong"}, "AccessDenied", id="credentials", marks=pytest.mark.why("AccessDenied")),
    ],
)
async def test_each_fault_of_the_repository_has_its_reason(
    s3: S3Server, bucket: str, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    chain = make_chain(tmp_path / "src", 1)
    settings = repositories(change.get("endpoint", s3.endpoint), change.get("bucket", bucket))
    env = environment(s3)
    if "secret" in change:
        env["AWS_SECRET_ACCESS_KEY"] = change["secret"]
    async with filling(tmp_path / "node", settings, env) as (filler, errors):
        filler.want(wanted(chain))
        await eventually_async(lambda: [error.reason for error in errors] == [reason])
        (layer,) = filler.snapshot().layers
        assert (layer.state, layer.reason) == ("Refused", reason)
        explained(layer.reason)


@pytest.mark.why("BudgetExceeded")
async def test_a_chain_that_cannot_fit_is_refused_before_a_byte_moves(
    s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    chain = make_chain(tmp_path / "src", 1, 8 * 2**20)
    upload(s3, bucket, tmp_path / "src", chain)
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3), budget=4 * 2**20) as (filler, _):
        with pytest.raises(BudgetExceeded, match="KIGI_BUDGET_BYTES") as refused:
            await filler.ensure(chain)
        assert "KIGI_BUDGET_BYTES" in explained(refused.value)["remedy"]
        assert not list((tmp_path / "node" / "incoming").iterdir())


async def test_idle_layers_are_evicted_and_linked_ones_stay(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    chains = [make_chain(tmp_path / f"src{n}", 1, 4 * 2**20, seed=n) for n in range(3)]
    for number, chain in enumerate(chains):
        upload(s3, bucket, tmp_path / f"src{number}", chain)
    settings = repositories(s3.endpoint, bucket)
    async with filling(tmp_path / "node", settings, environment(s3), budget=10 * 2**20) as (filler, _):
        volume = tmp_path / "volume"
        volume.mkdir()
        await filler.ensure(chains[0])
        filler.store.link_chain(chains[0], volume)
        await filler.ensure(chains[1])
        await filler.ensure(chains[2])
        held = {Digest(d) for d in states(filler)}
        assert held == {chains[0][0].digest, chains[2][0].digest}


async def test_a_layer_that_is_no_longer_wanted_stops_and_frees_its_space(tmp_path: Path) -> None:
    chain = make_chain(tmp_path / "src", 1)
    settings = repositories("http://127.0.0.1:9", "bucket")
    env = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    async with filling(tmp_path / "node", settings, env) as (filler, errors):
        filler.want(wanted(chain))
        await eventually_async(lambda: len(errors) == 1)
        filler.want([])
        await eventually_async(lambda: filler.snapshot().layers == [])
