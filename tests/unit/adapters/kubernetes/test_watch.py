"""Watches over a real HTTP server that streams, stalls, cuts and refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import MACHINE, NODE_CACHE
from kigi.adapters.kubernetes.watch import WatchEvent, parse_event, read_lines
from kigi.errors import Expired, Forbidden, KigiError, Unreachable

Stream = Callable[[web.StreamResponse], Awaitable[None]]


class Streaming:
    """An API server that answers each watch with the next of ``streams``."""

    def __init__(self) -> None:
        self.streams: list[Stream | web.Response] = []
        self.queries: list[dict[str, str]] = []
        self.closed = asyncio.Event()
        """Set when a client has closed the connection of a watch."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        stream = self.streams.pop(0)
        if isinstance(stream, web.Response):
            return stream
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await stream(response)
        except (asyncio.CancelledError, ConnectionError):
            self.closed.set()
            raise
        return response


@pytest.fixture
def server() -> Streaming:
    return Streaming()


@pytest.fixture
async def kube(server: Streaming) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with KubeClient(configuration, concurrency=1) as client:
        yield client
    await runner.cleanup()


def body(version: int, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "n", "resourceVersion": str(version)}, **fields}


def line(kind: str, obj: Any) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def sends(*chunks: bytes) -> Stream:
    async def stream(response: web.StreamResponse) -> None:
        for chunk in chunks:
            await response.write(chunk)

    return stream


async def stalls(response: web.StreamResponse) -> None:
    await response.write(line("ADDED", body(1)))
    await asyncio.Event().wait()


async def cuts(response: web.StreamResponse) -> None:
    await response.write(line("ADDED", body(1)) + b'{"type": "MOD')
    assert response._req is not None
    assert response._req.transport is not None
    response._req.transport.abort()


async def collect(kube: KubeClient, *, silence_s: float = 5.0, **options: Any) -> list[WatchEvent]:
    events = kube.watch(NODE_CACHE, resource_version="7", duration_s=30, silence_s=silence_s, **options)
    return [event async for event in events]


async def collect_until_error(kube: KubeClient, silence_s: float = 5.0) -> tuple[list[WatchEvent], KigiError]:
    found: list[WatchEvent] = []
    try:
        async for event in kube.watch(NODE_CACHE, resource_version="7", duration_s=30, silence_s=silence_s):
            found.append(event)
    except KigiError as exc:
        return found, exc
    raise AssertionError(f"no error after {found}")


async def test_events_come_in_order_until_the_server_ends_the_watch(server: Streaming, kube: KubeClient) -> None:
    large = body(9, spec={"text": "x" * (3 * 2**20)})
    text = line("ADDED", body(8)) + line("MODIFIED", large) + b"\n" + line("DELETED", body(10))
    server.streams = [sends(*(text[at : at + 70_001] for at in range(0, len(text), 70_001)))]
    events = await collect(kube, field_selector="metadata.name=n")
    assert [(event.type, event.resource_version) for event in events] == [
        ("ADDED", "8"),
        ("MODIFIED", "9"),
        ("DELETED", "10"),
    ]
    assert events[1].object == large
    assert server.queries == [
        {"watch": "true", "resourceVersion": "7", "timeoutSeconds": "30", "fieldSelector": "metadata.name=n"}
    ]


async def test_a_bookmark_moves_the_version_and_is_asked_for(server: Streaming, kube: KubeClient) -> None:
    mark = {"kind": "NodeCache", "metadata": {"resourceVersion": "99"}}
    server.streams = [sends(line("ADDED", body(8)), line("BOOKMARK", mark))]
    events = await collect(kube, bookmarks=True)
    assert (events[-1].type, events[-1].resource_version) == ("BOOKMARK", "99")
    assert server.queries[0]["allowWatchBookmarks"] == "true"


async def test_only_objects_with_the_kinds_label_are_watched(server: Streaming, kube: KubeClient) -> None:
    server.streams = [sends()]
    assert [e async for e in kube.watch(MACHINE, "ns", resource_version="1", duration_s=1, silence_s=1)] == []
    assert server.queries[0]["labelSelector"] == MACHINE.selector


EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 7 (9)"}


@pytest.mark.parametrize(
    ("stream", "error", "words", "before"),
    [
        pytest.param(sends(line("ADDED", body(8)), line("ERROR", EXPIRED)), Expired, "too old", 1, id="410-event"),
        pytest.param(web.json_response(EXPIRED, status=410), Expired, "too old", 0, id="410-answer"),
        pytest.param(
            web.json_response({"message": "User u cannot watch"}, status=403), Forbidden, "cannot watch", 0, id="403"
        ),
        pytest.param(
            sends(line("ERROR", {"kind": "Status", "message": "etcd"})), Unreachable, "etcd", 0, id="error-without-code"
        ),
        pytest.param(cuts, Unreachable, "does not answer", 1, id="cut"),
        pytest.param(sends(b"<html>\n"), Unreachable, "damaged event", 0, id="not-json"),
        pytest.param(sends(b"[]\n"), Unreachable, "damaged event", 0, id="not-an-event"),
        pytest.param(sends(line("ADDED", {})), Unreachable, "damaged event", 0, id="no-version"),
        pytest.param(sends(line("ADDED", None)), Unreachable, "damaged event", 0, id="no-object"),
    ],
)
async def test_a_watch_that_breaks_raises_what_the_caller_must_do(
    server: Streaming,
    kube: KubeClient,
    stream: Stream | web.Response,
    error: type[KigiError],
    words: str,
    before: int,
) -> None:
    server.streams = [stream]
    found, caught = await collect_until_error(kube)
    assert type(caught) is error
    assert words in str(caught)
    assert "GET /apis/node.kigi.dev/v1alpha1/nodecaches" in str(caught)
    assert len(found) == before


async def test_a_silent_watch_is_unreachable(server: Streaming, kube: KubeClient) -> None:
    server.streams = [stalls]
    found, caught = await collect_until_error(kube, silence_s=0.1)
    assert (len(found), type(caught)) == (1, Unreachable)


async def test_a_watch_takes_no_slot_of_requests(server: Streaming, kube: KubeClient) -> None:
    """The client has one slot; a listing is answered while a watch is open."""
    server.streams = [stalls, web.json_response({"items": [], "metadata": {"resourceVersion": "5"}})]
    async with aclosing(kube.watch(NODE_CACHE, resource_version="1", duration_s=30, silence_s=30)) as events:
        await anext(events)
        assert await kube.list_version(NODE_CACHE) == ([], "5")


async def test_a_watch_that_its_caller_leaves_closes_its_connection(server: Streaming, kube: KubeClient) -> None:
    server.streams = [stalls]
    async with aclosing(kube.watch(NODE_CACHE, resource_version="1", duration_s=30, silence_s=30)) as events:
        await anext(events)
    async with asyncio.timeout(5):
        await server.closed.wait()


async def test_a_cancelled_watch_ends_and_closes_its_connection(server: Streaming, kube: KubeClient) -> None:
    server.streams = [stalls]
    begun = asyncio.Event()

    async def follow() -> None:
        async for _ in kube.watch(NODE_CACHE, resource_version="1", duration_s=30, silence_s=30):
            begun.set()

    task = asyncio.create_task(follow())
    async with asyncio.timeout(5):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.closed.wait()


class Chunks:
    """A stream of given chunks."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = list(chunks)

    async def readany(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([b"a\nb\n"], [b"a", b"b"], id="two-in-one"),
        pytest.param([b"a", b"b\n", b"c\n"], [b"ab", b"c"], id="one-in-two"),
        pytest.param([b"a\n", b"\n", b" \r\n", b"b\n"], [b"a", b"b"], id="empty-lines"),
        pytest.param([b"a\nb"], [b"a"], id="without-an-end"),
        pytest.param([b"aa\n" * 3], [b"aa"] * 3, id="each-at-the-limit"),
    ],
)
async def test_lines_do_not_depend_on_chunks(chunks: list[bytes], lines: list[bytes]) -> None:
    assert [found async for found in read_lines(Chunks(chunks), max_bytes=8)] == lines


async def test_a_line_beyond_the_limit_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="more than 8 bytes"):
        _ = [found async for found in read_lines(Chunks([b"12345", b"6789"]), max_bytes=8)]


def test_an_error_event_has_the_servers_words() -> None:
    with pytest.raises(Expired, match="GET /x: too old"):
        parse_event(line("ERROR", EXPIRED), "GET /x")
