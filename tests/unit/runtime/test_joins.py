"""Layers are joined in the background, one at a time in a repository; what cannot be helped is not tried again."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Sequence

import pytest
from botocore.parsers import ResponseParserError

from kigi.api.repositories import Repository
from kigi.domain.layers import Digest
from kigi.errors import AccessDenied, KigiError, LayerCorrupt, RepositoryUnreachable
from kigi.runtime import joins as module
from kigi.runtime.joins import Joins

REPOSITORY = Repository(endpoint="http://s3.example", bucket="kigi")
DIGEST = Digest("sha256:" + "d" * 64)


class Server:
    """Joins that a test ends."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.now_s = 0.0
        self.running = self.most = self.begun = 0
        self.go = asyncio.Event()
        self.joins = Joins(self._join, lambda: self.now_s)
        self.done: list[str] = []

    async def _join(
        self, repository: Repository, ca: str | None, digest: Digest, size: int, parts: Sequence[Digest]
    ) -> None:
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    def start(self, copy: str = "c1", repository: Repository = REPOSITORY) -> None:
        self.joins.start(copy, repository, None, DIGEST, 1, (DIGEST,), lambda: self.done.append(copy))

    async def end(self) -> None:
        """Lets everything end that has begun."""
        self.go.set()
        await asyncio.gather(*self.joins._tasks.values(), return_exceptions=True)


async def test_a_join_runs_once_and_one_at_a_time() -> None:
    server = Server()
    for _ in range(3):
        for copy in ("c1", "c2", "c3"):
            server.start(copy)
    await server.end()
    assert (server.begun, server.most, sorted(server.done)) == (3, 1, ["c1", "c2", "c3"])
    server.start()
    await server.end()
    assert server.begun == 4, "the daemon has not reported it yet; the layer is there"


async def test_parts_that_are_another_layer_are_not_tried_again() -> None:
    server = Server()
    server.error = LayerCorrupt("not that layer")
    server.start()
    await server.end()
    assert (server.joins.failed, server.done) == ({"c1": "not that layer"}, ["c1"])
    server.start()
    await server.end()
    assert server.begun == 1


async def test_a_repository_that_does_not_answer_keeps_no_other_waiting() -> None:
    server = Server()
    for number in range(3):
        server.start(f"c{number}")
        server.start(f"d{number}", REPOSITORY.model_copy(update={"bucket": "other"}))
    await asyncio.sleep(0)
    assert (server.running, server.most) == (2, 2)
    await server.end()
    assert server.begun == 6


async def test_a_copy_that_fails_is_tried_ever_more_rarely() -> None:
    """A stolen node that reports parts which it never stores, for a week."""
    server, begun_s = Server(), []
    server.error = RepositoryUnreachable("part 2 of 2 is not stored")
    for second in range(0, 7 * 86400, 10):
        server.now_s, before = float(second), server.begun
        server.start()
        await server.end()
        begun_s += [second] * (server.begun - before)
    first_s, longest_s = module.RETRY_S
    waits_s = [after - before for before, after in itertools.pairwise(begun_s)]
    assert waits_s[:4] == [first_s, 2 * first_s, 4 * first_s, 8 * first_s]
    assert set(waits_s[7:]) == {longest_s}
    server.start("other")
    await server.end()
    assert server.begun == len(begun_s) + 1, "other copies do not wait for it"


@pytest.mark.parametrize(
    "error", [ResponseParserError("no XML"), KeyError("UploadId"), ssl.SSLError("bad"), RuntimeError("?")]
)
async def test_an_unexpected_error_is_shown_and_tried_again(error: Exception) -> None:
    server = Server()
    server.error = error
    server.start()
    await server.end()
    assert server.joins.troubles["c1"].startswith(type(error).__name__)
    server.error, server.now_s = None, module.RETRY_S[0]
    server.start()
    await server.end()
    assert (server.joins.troubles, server.done) == ({}, ["c1"])


async def test_joins_in_progress_and_waiting_ones_end_when_the_operator_leads_no_more() -> None:
    server = Server()
    server.start()
    server.start("c2")
    await asyncio.sleep(0)
    await server.joins.cancel()
    assert (server.begun, server.running, server.joins.troubles, server.done) == (1, 0, {}, [])
    server.start()
    await server.end()
    assert server.done == ["c1"], "it leads again"


@pytest.mark.parametrize("error", [AccessDenied("GetObject"), RepositoryUnreachable("no answer")])
async def test_another_trouble_is_remembered_until_an_attempt_succeeds(error: KigiError) -> None:
    server = Server()
    server.error = error
    server.start()
    await server.end()
    assert (server.joins.troubles, server.joins.failed, server.done) == ({"c1": str(error)}, {}, [])
    server.error, server.now_s = None, module.RETRY_S[0]
    server.start()
    await server.end()
    assert (server.joins.troubles, server.done, server.begun) == ({}, ["c1"], 2)


async def test_failures_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FAILED", 5)
    server = Server()
    server.error = LayerCorrupt("x")
    for number in range(20):
        server.start(f"c{number}")
    await server.end()
    assert list(server.joins.failed) == [f"c{number}" for number in range(15, 20)]
