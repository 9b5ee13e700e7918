"""How the CSI driver responds to errors: a gRPC status code, which decides whether the kubelet retries, and a text."""

from __future__ import annotations

import errno

from grpc import StatusCode

from kigi.errors import (
    BudgetExceeded,
    KigiError,
    LayerCorrupt,
    NeedsAction,
    NoRoom,
    Unreachable,
    VolumeBusy,
    VolumeUnknown,
    Waiting,
)

CODES: tuple[tuple[type[KigiError], StatusCode], ...] = (
    (BudgetExceeded, StatusCode.RESOURCE_EXHAUSTED),
    (NoRoom, StatusCode.RESOURCE_EXHAUSTED),
    (VolumeUnknown, StatusCode.NOT_FOUND),
    (VolumeBusy, StatusCode.ABORTED),
    (Unreachable, StatusCode.UNAVAILABLE),
    (LayerCorrupt, StatusCode.UNAVAILABLE),
    (NeedsAction, StatusCode.FAILED_PRECONDITION),
    (Waiting, StatusCode.FAILED_PRECONDITION),
)
"""The first class that an error is an instance of gives its code."""


class Refused(Exception):
    """Ends a call with this code and text."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def code_of(error: KigiError) -> StatusCode:
    """Code of an error. To the kubelet, each code except INVALID_ARGUMENT and FAILED_PRECONDITION means: try again."""
    return next((code for kind, code in CODES if isinstance(error, kind)), StatusCode.INTERNAL)


def describe(error: Refused | KigiError | OSError) -> tuple[StatusCode, str]:
    """Code and text of the response to a call that ended in ``error``."""
    if isinstance(error, Refused):
        return error.code, str(error)
    if isinstance(error, KigiError):
        return code_of(error), f"{error.reason}: {error}"
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = StatusCode.RESOURCE_EXHAUSTED if is_full else StatusCode.INTERNAL
    return code, f"{error.strerror}: {error.filename}"
