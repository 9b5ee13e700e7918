"""The least pace of a transfer, and reading one recv at a time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kigi_cache.sources.pace import LeastPace, Pace, PacedResponse, TooSlow, cut, within

LEAST = LeastPace(bytes_per_s=1000.0, window_s=3.0)


def test_a_byte_now_and_then_is_too_slow() -> None:
    pace = Pace(LEAST)
    pace.count(1, 2.9)
    with pytest.raises(TooSlow, match="1 bytes/s"):
        pace.count(1, 0.1)


def test_the_least_pace_suffices_for_ever() -> None:
    pace = Pace(LEAST)
    for _ in range(100):
        pace.count(1000, 1.0)


def test_each_window_is_judged_by_itself() -> None:
    pace = Pace(LEAST)
    pace.count(10**9, 3.0)
    with pytest.raises(TooSlow):
        pace.count(0, 3.0)


def test_time_that_the_reader_spends_elsewhere_does_not_count() -> None:
    pace = Pace(LEAST)
    for _ in range(1000):
        pace.count(1, 0.0001)


@contextmanager
def answering(*parts: bytes) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server that sends the first part at once, and each further one after a byte of the client."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                for number, part in enumerate(parts):
                    if number and not client.recv(1):
                        return
                    client.sendall(part)
                client.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.getsockname()[1], timeout=10)
        connection.response_class = PacedResponse
        yield connection
        connection.close()


def response_of(connection: http.client.HTTPConnection) -> PacedResponse:
    connection.request("GET", "/")
    response = connection.getresponse()
    assert isinstance(response, PacedResponse)
    return response


def test_what_has_arrived_is_returned_although_the_buffer_is_not_full() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", b"cde") as connection:
        response = response_of(connection)
        buffer = memoryview(bytearray(100))
        assert Pace(LEAST).receive(response, buffer) == 2
        connection.sock.sendall(b"x")
        assert Pace(LEAST).receive(response, buffer[2:]) == 3
        assert bytes(buffer[:5]) == b"abcde"
        assert response.readinto1(buffer) == 0


def test_no_byte_of_the_next_response_is_read() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 404 No\r\n\r\n") as connection:
        response = response_of(connection)
        buffer = memoryview(bytearray(100))
        assert (response.readinto1(buffer), response.readinto1(buffer)) == (2, 0)


def test_a_body_in_chunks_is_read_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head + b"3\r\nabc\r\n0\r\n\r\n") as connection:
        buffer = memoryview(bytearray(100))
        assert response_of(connection).readinto1(buffer) == 3


def test_a_head_that_never_ends_is_cut() -> None:
    endless = b"HTTP/1.1 100 Continue\r\n\r\n" * 10
    with answering(endless) as connection, pytest.raises(TooSlow, match="no complete"), within(0.05, connection):
        response_of(connection)


def test_an_error_in_time_keeps_its_type() -> None:
    with answering(b"no HTTP\r\n") as connection, pytest.raises(http.client.BadStatusLine), within(60, connection):
        response_of(connection)


def test_a_connection_without_a_socket_is_cut() -> None:
    cut(http.client.HTTPConnection("127.0.0.1", 1).sock)
    cut(socket.socket())
