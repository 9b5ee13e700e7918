"""The parts of Kigi that need further Python packages, and the sentence for a part that is not installed.

``pip install kigi`` brings what the reading verbs need. Every other part is an extra of the distribution: its programs
import packages that the core does not have.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import NoReturn

from kigi.errors import SpecInvalid

DISTRIBUTION = "kigi"
PUBLISH, OPERATOR, DAEMON, HOOK = "publish", "operator", "daemon", "hook"
EXTRA_OF: dict[str, str] = {
    "aiobotocore": PUBLISH,
    "aiohttp": PUBLISH,
    "botocore": PUBLISH,
    "kopf": OPERATOR,
    "kubernetes": OPERATOR,
    "prometheus_client": OPERATOR,
    "pydantic_settings": OPERATOR,
    "pythonjsonlogger": OPERATOR,
    "uvloop": OPERATOR,
    "cryptography": DAEMON,
    "google": DAEMON,
    "grpc": DAEMON,
    "jwt": DAEMON,
}
"""Top-level module -> the smallest extra that brings it."""
POSIX_ONLY = frozenset({"fcntl", "grp", "pwd", "resource", "termios", "tty", "_posixsubprocess"})
"""Modules of the standard library that Windows does not have."""


class ExtraMissing(SpecInvalid):
    """A part of Kigi is used whose Python packages are not installed; the text has the command that installs them."""

    reason = "ExtraMissing"


def missing_extra(exc: ImportError, program: str, extra: str | None = None) -> ExtraMissing | None:
    """The error for a failed import of ``program``; None if the module is of no extra, so that it is a defect.

    ``extra``: the one that the program needs; None: the smallest that brings the module.
    """
    module = (exc.name or "").partition(".")[0]
    if module in POSIX_ONLY:
        return ExtraMissing(f"{program} does not run on {sys.platform}: use it on Linux, or in WSL")
    if module not in EXTRA_OF:
        return None
    needed = extra or EXTRA_OF[module]
    return ExtraMissing(
        f"{program} needs the Python package {module}, which is not installed: pip install '{DISTRIBUTION}[{needed}]'"
    )


def run_program(program: str, extra: str, module: str) -> None:
    """Runs ``main`` of ``module``; exit code 1 and one sentence if the packages of ``extra`` are not installed."""
    try:
        main: Callable[[], None] = importlib.import_module(module).main
    except ImportError as exc:
        _exit(exc, program, extra)
    main()


def _exit(exc: ImportError, program: str, extra: str) -> NoReturn:
    missing = missing_extra(exc, program, extra)
    if missing is None:
        raise exc
    sys.exit(str(missing))


def operator() -> None:
    """Console script ``kigi-operator``."""
    run_program("kigi-operator", OPERATOR, "kigi.main")


def daemon() -> None:
    """Console script ``kigi-cache``."""
    run_program("kigi-cache", DAEMON, "kigi_cache.main")


def capture_publisher() -> None:
    """Console script ``kigi-capture-publisher``."""
    run_program("kigi-capture-publisher", DAEMON, "kigi_cache.captures.publisher")


def disk_hook() -> None:
    """Console script ``kigi-disk-hook``."""
    run_program("kigi-disk-hook", HOOK, "kigi.hook.main")
