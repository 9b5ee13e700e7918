"""Tasks that run, fail and end together."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from kigi_cache.background import STABLE_S, Supervisor
from tests.support.manual_clock import ManualClock
from tests.support.scripted_fills import soon


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


async def test_it_returns_when_all_tasks_have_returned(time: ManualClock) -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    await Supervisor(time.clock).run({"a": work, "b": work})
    assert done == ["work", "work"]


async def test_a_task_that_fails_starts_again_and_the_others_go_on(
    time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    starts: list[float] = []
    changes: list[int] = []

    async def failing() -> None:
        starts.append(time.clock.monotonic_s())
        raise RuntimeError("broken")

    supervisor = Supervisor(time.clock, lambda: changes.append(1))
    with caplog.at_level(logging.ERROR):
        running = asyncio.ensure_future(supervisor.run({"endless": forever, "failing": failing}))
        for attempt in range(8):
            time.advance(await time.next_wake() - time.now_s)
            await soon(lambda attempt=attempt: len(starts) == attempt + 2)  # type: ignore[misc]
    waits = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert all(
        0.7 * longest <= wait <= 1.3 * longest
        for wait, longest in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30], strict=True)
    )
    assert supervisor.failing() == {"failing": "RuntimeError: broken"}
    assert len(changes) == len(starts)
    assert "endless" in {task.get_name() for task in asyncio.all_tasks()}
    record = caplog.records[0]
    assert (record.message, record.__dict__["task"]) == ("background task failed", "failing")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_task_that_has_run_for_a_minute_since_counts_as_repaired(time: ManualClock) -> None:
    broken = True

    async def once() -> None:
        if broken:
            raise OSError(28, "No space left on device")
        await forever()

    supervisor = Supervisor(time.clock)
    running = asyncio.ensure_future(supervisor.run({"once": once}))
    wait_s = await time.next_wake() - time.now_s
    broken = False
    time.advance(wait_s)
    assert supervisor.failing() == {"once": "OSError: [Errno 28] No space left on device"}
    time.advance(STABLE_S)
    assert supervisor.failing() == {}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_cancelling_it_cancels_all_without_a_log_line(
    time: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    supervised = asyncio.ensure_future(Supervisor(time.clock).run({"a": forever, "b": forever}))
    await asyncio.sleep(0)
    supervised.cancel()
    with pytest.raises(asyncio.CancelledError):
        await supervised
    assert caplog.records == []
    assert not [task for task in asyncio.all_tasks() if task.get_name() in ("a", "b")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_without_an_error(number: signal.Signals) -> None:
    program = """
        import asyncio
        from kigi.adapters.json_logs import log_to_stderr
        from kigi_cache.background import Supervisor, run_until_signalled
        from kigi_cache.clock import Clock

        async def work():
            print("working", flush=True)
            await asyncio.Event().wait()

        log_to_stderr("INFO")
        asyncio.run(run_until_signalled(lambda: Supervisor(Clock()).run({"work": work})))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    os.kill(process.pid, number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in log.splitlines()] == ["stopped"]
