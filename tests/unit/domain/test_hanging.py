"""Which objects wait for Kigi's operator, and what is left behind when they are freed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kigi.domain import names
from kigi.domain.hanging import FINALIZERS, hanging_object

OTHERS = "example.org/backup"


def body(kind: str, finalizers: list[str] | None, *, deleting: bool = True, **spec: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "a", "namespace": "team", "uid": "u", "finalizers": finalizers}
    return {"kind": kind, "metadata": meta | ({"deletionTimestamp": "t"} if deleting else {}), "spec": spec}


def test_every_finalizer_of_kigi_is_known() -> None:
    source = Path(names.__file__).read_text(encoding="utf-8")
    assert {getattr(names, name) for name in re.findall(r"^([A-Z_]+_FINALIZER) =", source, re.MULTILINE)} == FINALIZERS


def test_an_object_keeps_the_finalizers_of_others_in_their_order() -> None:
    found = hanging_object(body("SystemNode", ["foregroundDeletion", names.IN_USE_FINALIZER, OTHERS]))
    assert found is not None
    assert (found.kind, found.namespace, found.name, found.uid) == ("SystemNode", "team", "a", "u")
    assert (found.ours, found.others) == ((names.IN_USE_FINALIZER,), ("foregroundDeletion", OTHERS))


@pytest.mark.parametrize(
    "free",
    [
        body("SystemDeployment", [names.DEPLOYMENT_FINALIZER], deleting=False),
        body("SystemDeployment", [OTHERS]),
        body("SystemDeployment", []),
        body("SystemDeployment", None),
        body("SystemDeployment", ["kigi.dev/unknown"]),
    ],
    ids=["not deleted", "another's", "none", "null", "not Kigi's, though it looks so"],
)
def test_other_objects_do_not_hang_on_kigi(free: dict[str, Any]) -> None:
    assert hanging_object(free) is None


def test_what_is_left_behind_is_named() -> None:
    csi = {"volumeHandle": "kigi.team.d.1.m.r1.0a1b2c3d", "volumeAttributes": {"node": "node-a"}}
    volume = hanging_object(body("PersistentVolume", [names.OVERLAY_FINALIZER], csi=csi))
    assert volume is not None
    assert volume.left_behind == "the overlay kigi.team.d.1.m.r1.0a1b2c3d in /var/lib/kigi/volumes on node-a"
    capture = hanging_object(body("SystemCapture", [names.CAPTURE_FINALIZER]))
    assert capture is not None
    assert "virtctl unpause" in capture.left_behind
