"""Every format of every reading verb on one small cluster: nothing is cut, and programs get the documented fields."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kigi.cli.main import VERBS, app
from kigi.cli.shapes import SHAPES
from tests.support.answering import AnsweringServer
from tests.support.shapes import check_shape

LONG = "an-office-of-a-company-with-a-very-long-name-that-no-line-of-80"
"""63 characters, as names may have."""
MESSAGE = "no node can take machine mail1: 7 of 12 nodes lack memory,\n5 are cordoned " * 3
META = {"namespace": "range", "uid": "u", "resourceVersion": "1", "generation": 1}
DIGEST = "sha256:" + "a" * 64
IMAGE = {
    "metadata": {**META, "name": f"{LONG}-image"},
    "spec": {"layer": {"digest": DIGEST, "sizeBytes": 4096, "virtualSizeBytes": 2**20}},
}
STATES = [
    {
        "metadata": {**META, "name": name, "uid": name},
        "spec": {
            "machines": [{"name": "mail1", "rootDisk": {"imageRef": {"name": f"{LONG}-image"}}}][:count],
        },
    }
    for name, count in ((LONG, 1), ("empty", 0))
]
READY = {"type": "Ready", "status": "False", "reason": "NoNode", "message": MESSAGE}
DEPLOYMENT = {
    "metadata": {**META, "name": LONG},
    "spec": {"systemRef": {"name": LONG}, "replicas": 2},
    "status": {
        "observedGeneration": 1,
        "conditions": [READY],
        "readyReplicas": 1,
        "progress": {"percent": 50},
        "plan": {"movedBytes": 1, "missingBytes": 2, "totalBytes": 4096},
        "unreadyInstances": ["1"],
    },
}
MACHINE = {"name": "mail1", "state": "Pending", "revision": 1, "nodeName": LONG, "message": MESSAGE}
HISTORY = [
    {"decisionTime": f"2026-01-0{day}T00:00:00Z", "action": "Switched", "toSystemName": LONG} for day in range(1, 8)
]
INSTANCE = {
    "metadata": {**META, "name": f"{LONG[:50]}-1"},
    "spec": {"name": "1", "deploymentRef": {"name": LONG}, "systemRef": {"name": LONG}},
    "status": {"observedGeneration": 1, "systemName": LONG, "machines": [MACHINE], "history": HISTORY},
}
CACHE = {
    "metadata": {**META, "name": LONG},
    "spec": {"operatorProtocol": 2},
    "status": {"daemon": {"version": "0.1.0"}, "layers": [{"digest": DIGEST, "state": "Held"}]},
}
ITEMS = {
    "systemdeployments": [DEPLOYMENT],
    "systeminstances": [INSTANCE],
    "systemnodes": STATES,
    "vmimagenodes": [IMAGE],
    "nodecaches": [CACHE],
}


def reply(method: str, path: str) -> tuple[int, Any]:
    parts = path.partition("?")[0].split("/")
    if parts[-1] in ITEMS:
        return 200, {"metadata": {}, "items": ITEMS[parts[-1]]}
    found = [body for body in ITEMS.get(parts[-2], ()) if body["metadata"]["name"] == parts[-1]]  # type: ignore[index]
    return (200, found[0]) if found else (404, {})


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with AnsweringServer(reply) as server:
        yield server.kubeconfig(tmp_path_factory.mktemp("formats") / "kubeconfig")


CALLS = {
    "status": ("status",),
    "status of one": ("status", LONG),
    "tree": ("tree",),
    "why": ("why",),
    "why of a reason": ("why", "NoRoom"),
    "diff": ("diff", "empty", LONG),
    "version": ("version",),
}
FORMATS = {
    "status": ("table", "wide", "name", "json", "yaml", "csv"),
    "tree": ("table", "wide", "name", "json", "yaml", "csv"),
    "why": ("table", "name", "json", "yaml", "csv"),
    "diff": ("table", "json", "yaml", "csv"),
    "version": ("table", "json", "yaml"),
}
CASES = [(name, form) for name, words in CALLS.items() for form in FORMATS[words[0]]]


def call(kubeconfig: Path, *words: str) -> Result:
    done = CliRunner().invoke(app, [*words, "--kubeconfig", str(kubeconfig)], env={"COLUMNS": "80"})
    assert done.exit_code == (3 if words[0] == "why" and words[1:2] != ("NoRoom",) else 0), done.output
    return done


UNDOCUMENTED = {"completion", "console", "demo", "events"}
"""Verbs that print no data, or whose page has the fields."""


def test_what_a_verb_prints_is_documented() -> None:
    assert VERBS.keys() - {call.split()[0] for call in SHAPES} <= UNDOCUMENTED


@pytest.mark.parametrize(("name", "form"), CASES)
def test_no_format_cuts_or_folds_a_name(kubeconfig: Path, name: str, form: str) -> None:
    text = call(kubeconfig, *CALLS[name], "-o", form).stdout
    assert "\u2026" not in text
    if name != "why of a reason":
        assert LONG in text
    if form == "table" and name in ("status", "status of one"):
        assert any(
            LONG in line and " ".join(MESSAGE.split()) in " ".join(line.split()) for line in text.splitlines()
        ), "a row is one line"


@pytest.mark.parametrize("name", CALLS)
def test_programs_get_the_documented_fields(kubeconfig: Path, name: str) -> None:
    printed = json.loads(call(kubeconfig, *CALLS[name], "-o", "json").stdout)
    check_shape(CALLS[name], printed)
    assert yaml.safe_load(call(kubeconfig, *CALLS[name], "-o", "yaml").stdout) == printed


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("status", {"namespace": "range", "name": LONG, "ready": "false", "cachedPercent": "50", "instances": "2"}),
        ("status of one", {"instance": "1", "name": "mail1", "revision": "1", "nodeName": LONG, "message": MESSAGE}),
        (
            "tree",
            {"kind": "VMImageNode", "name": f"{LONG}-image", "parent": "", "layerBytes": "4096", "cachedOn": LONG},
        ),
        ("why", {"object": f"SystemDeployment/{LONG}", "reason": "NoNode", "explains": ""}),
        ("diff", {"name": "mail1", "change": "added", "from": "", "to": f"{LONG}-image", "bytes": "4096"}),
    ],
)
def test_rows_have_the_same_names_and_values(kubeconfig: Path, name: str, first: dict[str, str]) -> None:
    rows = list(csv.DictReader(io.StringIO(call(kubeconfig, *CALLS[name], "-o", "csv").stdout)))
    assert any(first.items() <= row.items() for row in rows)


def test_names_are_those_of_kubectl(kubeconfig: Path) -> None:
    assert call(kubeconfig, "status", "-o", "name").stdout == f"systemdeployment.kigi.dev/{LONG}\n"
    assert call(kubeconfig, "tree", "-o", "name").stdout.splitlines() == [
        f"vmimagenode.kigi.dev/{LONG}-image",
        f"systemnode.kigi.dev/{LONG}",
        "systemnode.kigi.dev/empty",
    ]
    assert f"systemdeployment.kigi.dev/{LONG}" in call(kubeconfig, "why", "-o", "name").stdout.splitlines()


def test_wide_shows_more(kubeconfig: Path) -> None:
    narrow, wide = (call(kubeconfig, "status", "-o", form).stdout for form in ("table", "wide"))
    assert "TOTAL" not in narrow
    assert ("TOTAL" in wide, "4.0 KiB" in wide) == (True, True)
    narrow, wide = (call(kubeconfig, "tree", "-o", form).stdout for form in ("table", "wide"))
    assert DIGEST not in narrow
    assert DIGEST in wide
    narrow, wide = (call(kubeconfig, "status", LONG, "-o", form).stdout for form in ("table", "wide"))
    assert (narrow.count("Switched"), wide.count("Switched")) == (5, 7)


def test_versions_are_those_of_the_program_and_of_what_the_cluster_reports(kubeconfig: Path) -> None:
    printed = json.loads(call(kubeconfig, "version", "-o", "json").stdout)
    assert printed["operator"] == {"version": None, "protocol": 2}
    assert printed["nodes"] == [{"name": LONG, "version": "0.1.0", "skew": ""}]
