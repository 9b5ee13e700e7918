"""Deleting a SystemCapture whose stored spec this version cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from kigi.domain import names
from kigi.mirror.keys import Key
from kigi.reconcilers.captures import reconcile_capture
from kigi.runtime.ports import Ports
from tests.support.bodies import NAME, NS
from tests.support.memory_api import DELETED, MemoryApi, memory_ports

KEY = Key("capture", NS, "after")


class Api(MemoryApi):
    """With KubeVirt's verbs."""

    def __init__(self) -> None:
        super().__init__()
        self.verbs: list[tuple[str, str]] = []

    async def vmi_request(self, namespace: str, name: str, verb: str, options: Any = None) -> None:
        self.verbs.append((name, verb))


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def ports(api: Api) -> Ports:
    return memory_ports(api)


def put(api: Api, ports: Ports, status: dict[str, Any], **spec: Any) -> None:
    meta = {"name": "after", "namespace": NS, "uid": "c", "generation": 1, "finalizers": [names.CAPTURE_FINALIZER]}
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "SystemCapture",
        "metadata": {**meta, "deletionTimestamp": DELETED},
        "spec": {"instanceRef": {"name": f"{NAME}-0"}, "quiescePolicy": "AsANewerVersionHasIt", **spec},
        "status": status,
    }
    ports.mirror.put("SystemCapture", api.put(body))


@pytest.mark.parametrize("spec", [{}, {"instanceRef": "damaged"}, {"instanceRef": {"name": []}}])
async def test_it_is_deleted(api: Api, ports: Ports, spec: dict[str, Any]) -> None:
    put(api, ports, {}, **spec)
    await reconcile_capture(ports, KEY)
    assert not api.objects
    assert not api.verbs


async def test_its_paused_vms_are_resumed_first(api: Api, ports: Ports) -> None:
    machine = {"name": "m", "method": "Pause", "uid": "v", "pauseTime": "2026-01-01T00:00:00Z"}
    put(api, ports, {"observedGeneration": 1, "attempts": 1, "startTime": DELETED, "machines": [machine]})
    await reconcile_capture(ports, KEY)
    assert api.verbs == [(f"{NAME}-0-m", "unpause")]
    assert not api.objects
