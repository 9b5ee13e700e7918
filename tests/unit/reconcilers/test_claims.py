from __future__ import annotations

from typing import Any, cast

import pytest

from kigi.adapters.kubernetes.client import KubeClient
from kigi.adapters.kubernetes.resources import Resource
from kigi.mirror.keys import Key
from kigi.mirror.records import ANNOTATION_AVAILABLE
from kigi.mirror.store import Mirror
from kigi.reconcilers.claims import reconcile_claim
from kigi.runtime.ports import Ports
from kigi.runtime.queue import WorkQueue
from kigi.runtime.settings import Settings
from tests.support.bodies import NS, claim_body, target, volume_body

KEY = Key("claim", NS, "dep.0.m.r1")


class Api:
    """Remembers what was annotated."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror, self.written = mirror, list[dict[str, str]]()

    async def annotate(
        self, resource: Resource, namespace: str | None, name: str, annotations: dict[str, str]
    ) -> dict[str, Any]:
        self.written.append(annotations)
        body = claim_body(target(), version=50, phase="Pending")
        body["metadata"]["annotations"] = annotations
        return body


def world(volume_phase: str, claim_phase: str) -> tuple[Ports, Api]:
    mirror = Mirror()
    mirror.put("PersistentVolume", {**volume_body(target()), "status": {"phase": volume_phase}})
    mirror.put("PersistentVolumeClaim", claim_body(target(), phase=claim_phase))
    api = Api(mirror)
    return Ports(cast(KubeClient, api), mirror, WorkQueue(), Settings()), api


async def test_a_claim_that_was_seen_before_its_volume_is_touched_once() -> None:
    ports, api = world("Available", "Pending")
    for _ in range(3):
        await reconcile_claim(ports, KEY)
    assert [list(written) for written in api.written] == [[ANNOTATION_AVAILABLE]]


@pytest.mark.parametrize(("volume", "claim"), [("Available", "Bound"), ("Bound", "Pending"), ("Pending", "Pending")])
async def test_all_others_are_left_alone(volume: str, claim: str) -> None:
    ports, api = world(volume, claim)
    await reconcile_claim(ports, KEY)
    assert api.written == []
