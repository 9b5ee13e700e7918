"""Which layer is fetched next, and what becomes of a request; no store, no network, no time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kigi.api.node_cache import PURPOSES, Purpose
from kigi.domain.layers import Digest, Layer
from kigi.errors import KigiError, LayerCorrupt, RepositoryUnreachable, SpecInvalid
from kigi_cache.layers.eviction import Need
from kigi_cache.layers.jobs import URGENCIES, Concurrency, Job, Jobs, Urgency, layer_of, need_of
from kigi_cache.layers.retry import RetryPolicy
from tests.support.layers import wanted

DISK: Purpose = "Disk"
PREFETCH: Purpose = "Prefetch"
LIMITS = Concurrency(transfers=2, prefetches=1)


def layer(number: int) -> Layer:
    return Layer(Digest(f"sha256:{number:064x}"), 1000 + number, 2**20)


def nothing_held(digest: Digest) -> bool:
    return False


def jobs_of(*requests: tuple[int, int]) -> Jobs:
    """Jobs for layers by (number, purpose)."""
    jobs = Jobs()
    jobs.want([each for number, purpose in requests for each in wanted((layer(number),), purpose)], nothing_held)
    return jobs


def start(jobs: Jobs, now_s: float = 0.0, limits: Concurrency = LIMITS) -> list[Layer]:
    started = jobs.startable(now_s, limits)
    for job in started:
        job.is_running = True
    return [job.layer for job in started]


def job_of(jobs: Jobs, number: int) -> Job:
    job = jobs.get(layer(number).digest)
    assert job is not None
    return job


def test_only_missing_layers_become_jobs() -> None:
    jobs = Jobs()
    jobs.want(wanted((layer(1), layer(2))), lambda digest: digest == layer(1).digest)
    assert [job.layer for job in jobs] == [layer(2)]
    assert jobs.declared(layer(1).digest) == layer(1)
    assert jobs.declared(layer(3).digest) is None


def test_the_most_urgent_start_first_within_the_number_of_transfers() -> None:
    jobs = jobs_of((1, PREFETCH), (2, DISK))
    jobs.request(layer(3), Urgency.POD)
    assert start(jobs) == [layer(3), layer(2)]
    assert start(jobs) == []
    job_of(jobs, 2).is_running = False
    jobs.complete(job_of(jobs, 2))
    assert start(jobs) == [layer(1)]


def test_prefetches_leave_transfers_to_disks() -> None:
    jobs = jobs_of((1, PREFETCH), (2, PREFETCH))
    assert start(jobs) == [layer(1)]
    assert jobs.next_start_s(LIMITS) is None, "the second waits for the end of the first, whenever that is"
    jobs.want([*wanted((layer(1), layer(2)), PREFETCH), *wanted((layer(3),), DISK)], nothing_held)
    assert start(jobs) == [layer(3)]


def test_a_prefetch_that_a_volume_waits_for_counts_as_wanted() -> None:
    jobs = jobs_of((1, PREFETCH), (2, PREFETCH))
    loop = asyncio.new_event_loop()
    try:
        job_of(jobs, 2).waiters.append(loop.create_future())
        assert set(start(jobs)) == {layer(1), layer(2)}
    finally:
        loop.close()


def test_a_failed_layer_waits_for_its_time() -> None:
    jobs = jobs_of((1, DISK))
    start(jobs)
    job = job_of(jobs, 1)
    job.is_running = False
    assert jobs.fail(job, RepositoryUnreachable("silent"), 7.0)
    assert (job.state, job.failures, job.error) == ("Refused", 1, job.error)
    assert jobs.next_start_s(LIMITS) == 7.0
    assert start(jobs, 6.9) == []
    assert start(jobs, 7.0) == [layer(1)]


def test_an_error_is_news_only_when_its_reason_changes() -> None:
    jobs = jobs_of((1, DISK))
    errors: list[KigiError] = [
        RepositoryUnreachable("a"),
        RepositoryUnreachable("b"),
        LayerCorrupt("c"),
        LayerCorrupt("d"),
    ]
    assert [jobs.fail(job_of(jobs, 1), error, 0.0) for error in errors] == [True, False, True, False]


@pytest.mark.parametrize(
    ("error", "longest_s"),
    [
        (RepositoryUnreachable("x"), RetryPolicy().max_s),
        (SpecInvalid("x"), RetryPolicy().max_s),
        (LayerCorrupt("x"), RetryPolicy().max_damaged_s),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_layer_that_fails_a_hundred_thousand_times_is_still_retried_at_the_longest_delay(
    error: KigiError, longest_s: float
) -> None:
    jobs, policy, now_s = jobs_of((1, DISK)), RetryPolicy(), 1000.0
    job = job_of(jobs, 1)
    news, delays = 0, []
    for attempt in range(100_000):
        delays.append(policy.delay_s(error, job.failures + 1, spread=(-1.0, 1.0)[attempt % 2]))
        news += jobs.fail(job, error, now_s + delays[-1])
        assert start(jobs, now_s) == []
        now_s = job.not_before_s
        assert jobs.startable(now_s, LIMITS) == [job]
    assert all(0 < delay_s <= longest_s * 1.2 for delay_s in delays)
    assert min(delays[20:]) >= longest_s * 0.8
    assert news == 1, "the same reason is reported once"
    assert list(jobs) == [job]
    jobs.want([], nothing_held)
    assert list(jobs) == []


def test_a_declaration_that_changed_during_a_transfer_applies_to_the_next_attempt() -> None:
    """The failure concerns the old declaration; its backoff would delay the corrected one."""
    jobs = jobs_of((1, DISK))
    start(jobs)
    job = job_of(jobs, 1)
    corrected = replace(layer(1), virtual_size_bytes=2**21)
    jobs.want(wanted((corrected,), DISK), nothing_held)
    assert job.layer == layer(1), "not while its transfer runs"
    job.is_running = False
    jobs.fail(job, LayerCorrupt("another size"), 1800.0)
    assert (job.layer, job.not_before_s, job.failures) == (corrected, 0.0, 0)


def test_a_declaration_that_changes_between_attempts_is_tried_immediately() -> None:
    jobs = jobs_of((1, DISK))
    jobs.fail(job_of(jobs, 1), LayerCorrupt("another size"), 1800.0)
    corrected = replace(layer(1), size_bytes=5)
    jobs.want(wanted((corrected,), DISK), nothing_held)
    assert start(jobs) == [corrected]


def test_the_same_declaration_keeps_its_backoff() -> None:
    jobs = jobs_of((1, DISK))
    jobs.fail(job_of(jobs, 1), LayerCorrupt("another size"), 1800.0)
    jobs.want(wanted((layer(1),), DISK), nothing_held)
    jobs.request_missing(nothing_held)
    assert start(jobs) == []


def test_a_layer_that_is_no_longer_wanted_is_dropped_with_its_partial_file() -> None:
    jobs = jobs_of((1, DISK), (2, DISK))
    assert jobs.want(wanted((layer(2),)), nothing_held) == [layer(1).digest]
    assert jobs.get(layer(1).digest) is None


def test_a_transfer_that_is_no_longer_wanted_ends_before_its_file_goes() -> None:
    jobs = jobs_of((1, DISK))
    start(jobs)
    job = job_of(jobs, 1)
    assert jobs.want([], nothing_held) == []
    assert job.stop.is_set()
    job.is_running = False
    assert jobs.stopped(job)
    assert list(jobs) == []


def test_a_stopped_transfer_that_is_wanted_again_keeps_its_file_and_the_newest_declaration() -> None:
    jobs = jobs_of((1, DISK))
    start(jobs)
    job = job_of(jobs, 1)
    jobs.want([], nothing_held)
    moved = replace(layer(1), repository="other")
    jobs.want(wanted_from(moved), nothing_held)
    job.is_running = False
    assert not jobs.stopped(job)
    assert not job.stop.is_set()
    assert start(jobs) == [moved]


def wanted_from(layer: Layer) -> list:  # type: ignore[type-arg]
    return [each.model_copy(update={"repository_name": layer.repository}) for each in wanted((layer,))]


async def test_waiters_get_the_layer_or_the_error_and_keep_an_unwanted_job_alive() -> None:
    jobs = Jobs()
    job = jobs.request(layer(1), Urgency.DISK)
    waiters = [asyncio.get_running_loop().create_future() for _ in range(2)]
    job.waiters.extend(waiters)
    assert jobs.want([], nothing_held) == []
    assert not job.stop.is_set()
    waiters[1].cancel()
    jobs.fail(job, RepositoryUnreachable("silent"), 9.0)
    with pytest.raises(RepositoryUnreachable):
        await waiters[0]
    assert list(jobs) == [], "it is no longer wanted"

    job = jobs.request(layer(1), Urgency.DISK)
    job.waiters.append(asyncio.get_running_loop().create_future())
    (waiter,) = job.waiters
    jobs.complete(job)
    assert await waiter is None


def test_priorities_only_rise() -> None:
    jobs = jobs_of((1, DISK))
    assert jobs.request(layer(1), Urgency.PREFETCH).urgency == Urgency.DISK
    assert jobs.request(layer(1), Urgency.POD).urgency == Urgency.POD


def test_needs_are_the_highest_of_all_requests() -> None:
    jobs = Jobs()
    pinned = [each.model_copy(update={"retention": "Pinned"}) for each in wanted((layer(1),), PREFETCH)]
    jobs.want([*pinned, *wanted((layer(2),), PREFETCH), *wanted((layer(3),), DISK)], lambda digest: True)
    jobs.request(layer(2), Urgency.DISK)
    assert jobs.needs() == {
        layer(1).digest: Need.RUNNING,
        layer(2).digest: Need.WANTED,
        layer(3).digest: Need.WANTED,
    }


def test_partial_files_without_a_job_are_left_over() -> None:
    jobs = jobs_of((1, DISK))
    assert jobs.unrequested([layer(1).digest, layer(2).digest]) == [layer(2).digest]


def test_the_daemon_has_the_order_of_the_operator() -> None:
    assert tuple(sorted(URGENCIES, key=lambda purpose: URGENCIES[purpose])) == PURPOSES
    assert max(URGENCIES.values()) < Urgency.POD


@pytest.mark.parametrize(
    ("urgency", "need"),
    [(Urgency.PREFETCH, Need.PREFETCH), (Urgency.MEMORY, Need.WANTED), (Urgency.DISK, Need.WANTED)],
)
def test_nothing_that_vms_wait_for_is_evicted_for_a_prefetch(urgency: Urgency, need: Need) -> None:
    assert need_of(urgency) == need


def test_a_declared_layer_becomes_the_domains() -> None:
    child = replace(layer(2), parent=layer(1).digest)
    (declared,) = wanted((child,))
    assert layer_of(declared) == child


@given(
    st.lists(st.tuples(st.sampled_from(PURPOSES), st.booleans(), st.floats(0, 10)), max_size=12),
    st.integers(1, 4),
    st.integers(0, 4),
    st.floats(0, 10),
)
def test_limits_are_kept_and_a_wake_time_exists_whenever_something_can_start_later(
    rows: list[tuple[Purpose, bool, float]], transfers: int, prefetches: int, now_s: float
) -> None:
    limits = Concurrency(transfers, min(prefetches, transfers))
    jobs = jobs_of(*((number, purpose) for number, (purpose, _, _) in enumerate(rows)))
    for number, (_, _, not_before_s) in enumerate(rows):
        job_of(jobs, number).not_before_s = not_before_s
    start(jobs, now_s, limits)
    running = [job for job in jobs if job.is_running]
    assert len(running) <= limits.transfers
    assert sum(job.need == Need.PREFETCH for job in running) <= limits.prefetches
    assert all(job.not_before_s <= now_s for job in running)
    assert start(jobs, now_s, limits) == [], "nothing that may start now was left"
    next_s = jobs.next_start_s(limits)
    if next_s is not None:
        assert next_s > now_s
        assert start(jobs, next_s, limits), "something starts at that time"
