"""An overlay is given up only when the API server itself has no volume for it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.resources import Resource
from kigi.reconcilers.node_caches import _without_volume
from kigi.runtime.ports import Ports

VOLUME_NAME = "kigi.ns.dep.0.m.r1"
HANDLE = f"{VOLUME_NAME}.01234567"


class Server:
    """Answers with one volume, or with none."""

    def __init__(self, handle: str | None) -> None:
        self.kube = self
        self._handle = handle

    async def get(self, resource: Resource, namespace: str | None, name: str) -> dict[str, Any] | None:
        assert (resource.kind, namespace, name) == ("PersistentVolume", None, VOLUME_NAME)
        return {"spec": {"csi": {"volumeHandle": self._handle}}} if self._handle else None


@pytest.mark.parametrize(
    ("handle", "given_up"),
    [
        pytest.param(None, {HANDLE}, id="no-volume"),
        pytest.param(HANDLE, set(), id="a-volume-that-the-mirror-lacks"),
        pytest.param(f"{VOLUME_NAME}.89abcdef", {HANDLE}, id="a-recreated-volume"),
    ],
)
async def test_the_api_server_is_asked(handle: str | None, given_up: set[str]) -> None:
    assert await _without_volume(cast(Ports, Server(handle)), [HANDLE]) == given_up
