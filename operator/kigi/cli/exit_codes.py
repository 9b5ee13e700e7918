"""Exit codes of ``kigi``. ``docs/cli.md`` has the same table; scripts depend on them."""

from __future__ import annotations

from enum import IntEnum

from kigi.errors import KigiError, SpecInvalid, Unreachable


class ExitCode(IntEnum):
    """What a script may conclude from the end of a verb."""

    DONE = 0
    ERROR = 1
    """Refused or failed; the message names what to do. A repetition without a change fails again."""
    USAGE = 2
    """An unknown verb or option, a missing argument, or a value that an option does not take."""
    NOT_READY = 3
    """The verb worked, and the answer is no: something is not Ready, or a point of a check is not ok."""
    UNREACHABLE = 4
    """The API server or the repository did not answer. The same call may succeed later."""
    NOT_CONFIRMED = 5
    """A destructive verb was neither confirmed nor called with --yes. Nothing was changed."""
    INTERRUPTED = 130
    """Ctrl-C."""


class OptionInvalid(SpecInvalid):
    """An option, an argument or an environment variable has a wrong value, which the text names with the remedy."""


class NotReached(KigiError):
    """The object did not get Ready in time, or cannot without a person."""

    reason = "NotReached"


class NotConfirmed(KigiError):
    """A destructive verb lacks its confirmation."""

    reason = "NotConfirmed"


def code_of(error: KigiError) -> ExitCode:
    """The exit code for an error that ends a verb."""
    if isinstance(error, Unreachable):
        return ExitCode.UNREACHABLE
    if isinstance(error, NotReached):
        return ExitCode.NOT_READY
    if isinstance(error, NotConfirmed):
        return ExitCode.NOT_CONFIRMED
    return ExitCode.USAGE if isinstance(error, OptionInvalid) else ExitCode.ERROR
