"""Tasks that run, fail and end together."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from kigi_cache.background import supervise


async def forever() -> None:
    await asyncio.Event().wait()


async def test_it_returns_when_all_tasks_have_returned() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    await supervise({"a": work, "b": work})
    assert done == ["work", "work"]


async def test_one_failure_ends_all_and_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await forever()
        finally:
            ended.append("endless")

    async def failing() -> None:
        raise RuntimeError("broken")

    with caplog.at_level(logging.CRITICAL), pytest.raises(ExceptionGroup) as failed:
        await supervise({"endless": endless, "failing": failing})
    assert failed.group_contains(RuntimeError, match="broken")
    assert ended == ["endless"]
    (record,) = caplog.records
    assert (record.message, record.__dict__["task"]) == ("background task failed", "failing")


async def test_cancelling_it_cancels_all_without_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    supervised = asyncio.ensure_future(supervise({"a": forever, "b": forever}))
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
        from kigi_cache.background import run_until_signalled, supervise

        async def work():
            print("working", flush=True)
            await asyncio.Event().wait()

        log_to_stderr("INFO")
        asyncio.run(run_until_signalled(lambda: supervise({"work": work})))
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
