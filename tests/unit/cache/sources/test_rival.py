"""When a second source takes over from a slow peer; what the reader gets stays one unbroken sequence."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kigi.errors import RepositoryUnreachable
from kigi_cache.sources.rival import RacePolicy, Rival

CONTENT = bytes(range(256)) * 64
QUICK = RacePolicy(check_s=0.02, enough_bytes_per_s=2.0**60, lead_bytes=4096, race_s=10.0, pause_s=60.0)


class Repository:
    """Gives pieces of 1000 bytes; after ``stop_at`` of them it waits for ``go_on``."""

    def __init__(self, stop_at: int = 1000, fault: bool = False) -> None:
        self.starts: list[int] = []
        self.stop_at = stop_at
        self.fault = fault
        self.go_on = threading.Event()
        self.asked = threading.Event()

    def read(self, start: int) -> Iterator[memoryview]:
        self.starts.append(start)
        self.asked.set()
        if self.fault:
            raise RepositoryUnreachable("down")
        for number, offset in enumerate(range(start, len(CONTENT), 1000)):
            if number == self.stop_at:
                assert self.go_on.wait(10)
            yield memoryview(CONTENT)[offset : offset + 1000]


def rival_of(repository: Repository, *, urgent: bool = True, policy: RacePolicy = QUICK) -> Rival:
    return Rival(repository.read, len(CONTENT), lambda: urgent, policy)


def finish(rival: Rival) -> None:
    rival._thread.join(10)
    assert not rival._thread.is_alive()


@pytest.mark.parametrize("start", [0, 1, 999, 5000])
def test_a_silent_peer_is_outrun_from_the_same_byte(start: int) -> None:
    repository = Repository()
    rival = rival_of(repository)
    rival.start(start)
    with rival.waiting():
        finish(rival)
    assert rival.has_won
    assert b"".join(map(bytes, rival.take_over())) == CONTENT[start:]


@pytest.mark.parametrize("more", [1, 500, 1000, 1500, 3000, 7000])
def test_bytes_that_came_from_the_peer_meanwhile_are_not_given_twice(more: int) -> None:
    rival = rival_of(Repository())
    rival.start(100)
    with rival.waiting():
        finish(rival)
    rival.position += more
    assert b"".join(map(bytes, rival.take_over())) == CONTENT[100 + more :]


def test_a_rival_without_a_lead_is_given_up() -> None:
    repository = Repository(stop_at=2)
    rival = rival_of(repository, policy=RacePolicy(check_s=0.02, lead_bytes=4096, race_s=0.0, pause_s=60.0))
    rival.start(0)
    with rival.waiting():
        rival.position = 1
        assert repository.asked.wait(10)
    rival.stop()
    repository.go_on.set()
    finish(rival)
    assert not rival.has_won


@pytest.mark.parametrize("urgent", [True, False])
def test_only_layers_that_a_disk_waits_for_have_a_rival(urgent: bool) -> None:
    repository = Repository()
    rival = rival_of(repository, urgent=urgent)
    rival.start(0)
    with rival.waiting():
        assert repository.asked.wait(0.3) is urgent
    rival.stop()
    finish(rival)


def test_a_reader_that_waits_for_its_own_disk_has_no_rival() -> None:
    repository = Repository()
    rival = rival_of(repository)
    rival.start(0)
    assert not repository.asked.wait(0.3)
    rival.stop()
    finish(rival)
    assert repository.starts == []


def test_a_repository_that_is_down_changes_nothing() -> None:
    repository = Repository(fault=True)
    rival = rival_of(repository)
    rival.start(0)
    with rival.waiting():
        assert repository.asked.wait(10)
    rival.stop()
    finish(rival)
    assert not rival.has_won


def test_a_reader_that_has_ended_gets_no_rival() -> None:
    repository = Repository(stop_at=0)
    rival = rival_of(repository)
    rival.start(0)
    with rival.waiting():
        assert repository.asked.wait(10)
        rival.stop()
        repository.go_on.set()
        finish(rival)
    assert not rival.has_won
