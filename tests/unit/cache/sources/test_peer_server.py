"""Serving layers to peers from a fake supply; requests are real, time is manual."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from kigi.domain.layers import Digest, digest_hex
from kigi_cache.sources.peer_server import MAX_OF_A_PEER, MAX_TRANSFERS, STALLED_S, build_peer_app
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon

CONTENT = bytes(range(256)) * 8
LAYER = Digest("sha256:" + "a" * 64)
PATH = f"/layers/sha256/{digest_hex(LAYER)}"
AUTH = {"Authorization": "Bearer right"}


@dataclass
class Supply:
    """One layer, of which the first ``available`` bytes are there; None: it is gone."""

    directory: Path
    held: bool = True
    available: int | None = len(CONTENT)
    requests: list[Digest] = field(default_factory=list)

    @property
    def store(self) -> Supply:
        return self

    def path(self, digest: Digest) -> Path:
        return self.directory / "layer"

    def part_path(self, digest: Digest) -> Path:
        return self.directory / "part"

    def is_held(self, digest: Digest) -> bool:
        return digest == LAYER and self.held

    def size_of(self, digest: Digest) -> int | None:
        return len(CONTENT) if digest == LAYER and self.available is not None else None

    def available_bytes(self, digest: Digest) -> int | None:
        self.requests.append(digest)
        return self.available


@dataclass
class World:
    supply: Supply
    time: ManualClock
    client: TestClient  # type: ignore[type-arg]

    async def get(self, path: str = PATH, headers: dict[str, str] = AUTH) -> tuple[int, bytes]:
        async with self.client.get(path, headers=headers) as response:
            return response.status, await response.read()

    def unfinished(self) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.client.get(f"{PATH}?unfinished=1", headers=AUTH)


@asynccontextmanager
async def serving(directory: Path, *, held: bool = True, available: int | None = len(CONTENT)) -> AsyncIterator[World]:
    (directory / ("layer" if held else "part")).write_bytes(CONTENT)
    supply, time = Supply(directory, held, available), ManualClock()

    async def peer_of(token: str) -> str:
        return token if token.startswith("right") else ""

    async with TestClient(TestServer(build_peer_app(supply, peer_of, clock=time.clock))) as client:
        yield World(supply, time, client)


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}, {"Authorization": "right"}],
    ids=["none", "wrong", "another-scheme", "no-scheme"],
)
async def test_only_daemons_are_served(tmp_path: Path, headers: dict[str, str]) -> None:
    async with serving(tmp_path) as world:
        assert (await world.get(headers=headers))[0] == 401
        assert world.supply.requests == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/layers/sha256/{'b' * 64}", 404),
        (f"/layers/sha256/{'a' * 63}", 400),
        (f"/layers/sha256/{'A' * 64}", 400),
        (f"{PATH}?start=x", 400),
        (f"{PATH}?start=-1", 416),
        (f"{PATH}?start={len(CONTENT)}", 416),
        ("/", 404),
    ],
)
async def test_requests_that_name_no_byte_of_a_layer_are_refused(tmp_path: Path, path: str, status: int) -> None:
    async with serving(tmp_path) as world:
        assert (await world.get(path))[0] == status


@pytest.mark.parametrize("start", [0, 1, len(CONTENT) - 1])
async def test_a_held_layer_is_served_from_any_byte(tmp_path: Path, start: int) -> None:
    async with serving(tmp_path) as world:
        assert await world.get(f"{PATH}?start={start}") == (200, CONTENT[start:])


async def test_an_unfinished_layer_is_served_only_on_request(tmp_path: Path) -> None:
    async with serving(tmp_path, held=False) as world:
        assert (await world.get())[0] == 404
        assert await world.get(f"{PATH}?unfinished=1") == (200, CONTENT)


async def test_the_bytes_of_an_unfinished_layer_follow_its_transfer(tmp_path: Path) -> None:
    async with serving(tmp_path, held=False, available=100) as world, world.unfinished() as response:
        assert await response.content.readexactly(100) == CONTENT[:100]
        await world.time.next_wake()
        world.supply.available = len(CONTENT)
        (tmp_path / "part").rename(tmp_path / "layer")
        world.time.advance(1.0)
        assert await response.content.read() == CONTENT[100:]


@pytest.mark.parametrize("end", ["gone", "stalled"])
async def test_a_transfer_that_ends_badly_is_never_taken_for_complete(tmp_path: Path, end: str) -> None:
    async with serving(tmp_path, held=False, available=100) as world, world.unfinished() as response:
        assert await response.content.readexactly(100) == CONTENT[:100]
        await world.time.next_wake()
        if end == "gone":
            world.supply.available = None
        world.time.advance(0.1 if end == "gone" else STALLED_S + 0.1)
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_a_slow_transfer_is_not_stalled(tmp_path: Path) -> None:
    async with serving(tmp_path, held=False, available=1) as world, world.unfinished() as response:
        for count in (1, 2, 3):
            assert await response.content.readexactly(1) == CONTENT[count - 1 : count]
            await world.time.next_wake()
            world.time.advance(STALLED_S - 0.1)
            await world.time.next_wake()
            world.supply.available = count + 1
            world.time.advance(0.05)
        assert await response.content.readexactly(1) == CONTENT[3:4]


async def test_a_few_transfers_run_at_the_same_time_and_further_ones_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, held=False, available=100) as world:
        path = f"{PATH}?unfinished=1"
        others = [{"Authorization": f"Bearer right {number}"} for number in range(MAX_TRANSFERS)]
        running = [await world.client.get(path, headers=headers) for headers in others]
        assert (await world.get(path))[0] == 503
        running[0].close()
        world.supply.available = len(CONTENT)
        world.time.advance(1.0)
        bodies = await asyncio.gather(*(response.read() for response in running[1:]))
        assert set(bodies) == {CONTENT}
        await soon(lambda: world.time.pending() == [])
        assert await world.get(path) == (200, CONTENT)


async def test_one_peer_does_not_take_all_transfers(tmp_path: Path) -> None:
    async with serving(tmp_path, held=False, available=100) as world:
        path = f"{PATH}?unfinished=1"
        running = [await world.client.get(path, headers=AUTH) for _ in range(MAX_OF_A_PEER)]
        assert (await world.get(path))[0] == 503
        other = await world.client.get(path, headers={"Authorization": "Bearer right too"})
        assert other.status == 200
        for response in [*running, other]:
            response.close()
        world.supply.available = len(CONTENT)
        world.time.advance(1.0)
        await soon(lambda: world.time.pending() == [])
        assert await world.get(path) == (200, CONTENT)


async def test_a_reader_that_takes_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kigi_cache.sources.peer_server.MAX_PIECE_S", 0.05)
    monkeypatch.setattr(Supply, "size_of", lambda self, digest: 2**26)
    async with serving(tmp_path, available=2**26) as world:
        os.truncate(tmp_path / "layer", 2**26)
        response = await world.client.get(PATH, headers=AUTH)
        await asyncio.sleep(0.3)  # meanwhile it takes nothing
        with pytest.raises(aiohttp.ClientError):
            await response.content.read()


async def test_a_reader_that_leaves_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one whose rival has won."""
    ended: list[int] = []
    monkeypatch.setattr("os.close", lambda number, close=os.close: (ended.append(number), close(number))[1])
    monkeypatch.setattr(Supply, "size_of", lambda self, digest: 2**26)
    async with serving(tmp_path, available=2**26) as world:
        os.truncate(tmp_path / "layer", 2**26)
        for _ in range(3):
            response = await world.client.get(PATH, headers=AUTH)
            await response.content.readexactly(2**20)
            response.close()
        await soon(lambda: len(ended) == 3)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
