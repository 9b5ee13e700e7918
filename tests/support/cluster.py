"""Clients and waiting, for tests against the real servers of ``localcluster``."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kigi.domain.names import API_VERSION
from localcluster.controlplane import ControlPlane
from localcluster.definitions import wait_until_served
from tests.support.bodies import repository_body

REPOSITORY = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def eventually(check: Callable[[], T], timeout_s: float = 30, what: str = "") -> T:
    """The first true result of ``check``; AssertionError with the last error or result when time runs out."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: Any
        try:
            last = check()
            if last:
                return last  # type: ignore[no-any-return]
        except AssertionError as exc:
            last = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'never true'} within {timeout_s} s; last: {last!r}")
        time.sleep(0.1)


async def eventually_async(check: Callable[[], T | Awaitable[T]], timeout_s: float = 30, what: str = "") -> T:
    """As ``eventually``, for coroutines, without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while True:
        last: Any
        try:
            last = check()
            if inspect.isawaitable(last):
                last = await last
            if last:
                return last  # type: ignore[no-any-return]
        except AssertionError as exc:
            last = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'never true'} within {timeout_s} s; last: {last!r}")
        await asyncio.sleep(0.1)


def ensure_namespace(api: ControlPlane, name: str) -> None:
    """Create the namespace if another test on this server has not done so."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    api.kubectl("apply", "--server-side", "-f", "-", input_text=json.dumps(body))


def install_crds(api: ControlPlane, directory: Path = REPOSITORY / "crds") -> None:
    """Apply every CRD of ``directory`` and wait until the server serves them."""
    api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(directory))
    wait_until_served(api.kubectl)


def install_repository(api: ControlPlane) -> None:
    """Apply the LayerRepository ``default``, which every namespace uses; nothing serves it."""
    credentials = {"readerSecretRef": {"name": "reader"}, "writerSecretRef": {"name": "writer"}}
    body = {"apiVersion": API_VERSION, **repository_body(credentials=credentials)}
    body["metadata"] = {"name": body["metadata"]["name"]}
    api.kubectl("apply", "--server-side", "-f", "-", input_text=yaml.safe_dump(body))
