"""Each part of the installation applied again and again, in each way and by several tools, changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localcluster.controlplane import ControlPlane
from tests.support.cluster import ensure_namespace, install_crds

MANIFESTS = Path(__file__).parents[2] / "manifests"
PARTS = ("operator", "daemon", "rbac", "s3")
WAYS = {
    "client-side": (),
    "server-side": ("--server-side",),
    "server-side by another manager": ("--server-side", "--force-conflicts", "--field-manager=flux"),
    "client-side again": (),
}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Its own server, because the whole installation with its policies is applied to it."""
    with ControlPlane(tmp_path_factory.mktemp("no-drift")) as server:
        install_crds(server)
        ensure_namespace(server, "kigi-system")
        yield server


def stored(plane: ControlPlane, where: Sequence[str]) -> list[Object]:
    found: list[Object] = json.loads(plane.kubectl("get", "--output=json", *where))["items"]
    return found


def versions(bodies: list[Object]) -> dict[tuple[str, str], str]:
    return {(body["kind"], body["metadata"]["name"]): body["metadata"]["resourceVersion"] for body in bodies}


def contents(bodies: list[Object]) -> list[Object]:
    """What the objects are for."""
    return [{key: value for key, value in body.items() if key not in ("metadata", "status")} for body in bodies]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_applied_again_changes_nothing(plane: ControlPlane, part: str) -> None:
    """Each way twice: the second time changes no version, and no way changes or refuses what another one has stored."""
    where = [f"--kustomize={MANIFESTS / part}"]
    plane.kubectl("apply", *where)
    first = contents(stored(plane, where))
    for way, flags in WAYS.items():
        plane.kubectl("apply", *flags, *where)
        once = stored(plane, where)
        assert contents(once) == first, way
        plane.kubectl("apply", *flags, *where)
        assert versions(stored(plane, where)) == versions(once), way
