"""JSON log lines on standard error, in one format for operator, daemon and capture publisher."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.json import JsonFormatter

KOPF_ATTRIBUTES = ("settings",)
"""Attributes that kopf's loggers add to every record: whole objects, without information for a log line."""


class LogLineFormatter(JsonFormatter):
    """Formats a record as one JSON object in one line.

    Fields: ``time`` (UTC, milliseconds), ``level`` (lower case), ``logger``, ``message``, every field of ``extra``, and
    ``exception`` with the traceback if there is one. Values that JSON does not have are written as ``str(value)``.
    """

    def __init__(self) -> None:
        super().__init__(
            "%(message)s",
            json_default=str,
            rename_fields={"exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, *KOPF_ATTRIBUTES],
        )

    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: LogData) -> None:
        """Put the fixed fields first, so that lines of a log align for a reader."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        super().add_fields(log_data, record, message_dict)


def log_to_stderr(level: str) -> None:
    """Send the log lines of the whole process from ``level`` (``INFO``) upwards to standard error.

    Replaces handlers that a library has set on the root logger. Raises ValueError for an unknown level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
