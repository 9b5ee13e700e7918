from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from kigi.adapters.json_logs import LogLineFormatter


def line(message: str, *arguments: object, exc_info: Any = None, **extra: object) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {
            "name": "kigi.runtime.queue",
            "levelname": "WARNING",
            "levelno": logging.WARNING,
            "msg": message,
            "args": arguments,
            "created": 1_700_000_000.0625,
            "exc_info": exc_info,
            **extra,
        }
    )
    text = LogLineFormatter().format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_has_the_fixed_fields_first_and_then_those_of_the_call() -> None:
    found = line("layer verified", size_bytes=7, digest="sha256:1")
    assert list(found) == ["time", "level", "logger", "message", "size_bytes", "digest"]
    assert found == {
        "time": "2023-11-14T22:13:20.062+00:00",
        "level": "warning",
        "logger": "kigi.runtime.queue",
        "message": "layer verified",
        "size_bytes": 7,
        "digest": "sha256:1",
    }


def test_arguments_are_formatted_into_the_message() -> None:
    assert line("watching %s", "nodes")["message"] == "watching nodes"


def test_a_traceback_is_one_field() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        found = line("failed", exc_info=sys.exc_info())
    assert found["exception"].startswith("Traceback")
    assert found["exception"].endswith("ValueError: no")


def test_a_value_that_json_does_not_have_is_text() -> None:
    assert line("read", path=Path("/x"))["path"] == "/x"
    assert line("read", cause=ValueError("y"))["cause"] == "y"


def test_whole_objects_of_kopf_are_left_out() -> None:
    assert "settings" not in line("seen", settings=object())
