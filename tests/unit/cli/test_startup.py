"""A verb imports only what it needs, because the imports are most of its start-up time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kigi.cli.main import VERBS as ALL
from tests.support.answering import AnsweringServer

CLIENTS = ("kubernetes", "kopf", "aiohttp", "botocore", "aiobotocore", "grpc", "google.protobuf", "requests", "uvloop")
NEVER = (*CLIENTS, "asyncio", "prometheus_client")
MODELS = ("pydantic", "kigi.mirror.store", "kigi.planning")
DRAWING = ("rich",)
JSON = ("-o", "json")
NO_CLUSTER = (*NEVER, *MODELS, *DRAWING, "yaml", "ssl", "http.client", "kigi.adapters.kubernetes.endpoint")
VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "help": (("--help",), (*NO_CLUSTER, "kigi.cli.verbs.tree")),
    **{f"help of {name}": ((name, "--help"), NO_CLUSTER) for name in ALL},
    "version": (("version", "--client"), (*NEVER, *MODELS, *DRAWING, "yaml", "ssl")),
    "versions of the cluster": (("version", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "status as CSV": (("status", "-o", "csv"), (*NEVER, *MODELS, *DRAWING)),
    "names of a tree": (("tree", "-o", "name"), (*NEVER, *MODELS, *DRAWING)),
    "tree": (("tree",), (*NEVER, *MODELS)),
    "tree for programs": (("tree", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "status": (("status",), (*NEVER, *MODELS)),
    "status of one": (("status", "office", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "why": (("why",), (*NEVER, *MODELS)),
    "why for programs": (("why", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "diff": (("diff", "a..b", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "plan": (("plan", "office", *JSON), (*NEVER, *DRAWING)),
    "switch": (("switch", "office", "a", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "reset": (("reset", "office"), (*NEVER, *MODELS, *DRAWING)),
    "capture": (("capture", "office", "--instance", "1", "--name", "x"), (*NEVER, *MODELS, *DRAWING)),
    "delete": (("delete", "state", "b"), (*NEVER, *DRAWING)),
}
RUN = """
import sys
from kigi.cli.main import main
code = 0
try:
    main()
except SystemExit as exc:
    code = exc.code or 0
heavy = sys.stdin.read().split()
print("LOADED", *(name for name in heavy if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""
NAMED = {"namespace": "range", "uid": "u", "resourceVersion": "1", "generation": 1}
DEPLOYMENT = {"kind": "SystemDeployment", "metadata": {"name": "office", **NAMED}, "spec": {"systemRef": {"name": "a"}}}
STATES = [{"metadata": {"name": name, **NAMED, "uid": name}, "spec": {"machines": []}} for name in "ab"]


def reply(method: str, path: str) -> tuple[int, Any]:
    what = path.partition("?")[0].rpartition("/")[2]
    lists = {"systemdeployments": [DEPLOYMENT], "systeminstances": [], "systemnodes": STATES}
    if method == "GET" and what.endswith("s"):
        return 200, {"metadata": {}, "items": lists.get(what, [])}
    if what == "selfsubjectreviews":
        return 201, {"status": {"userInfo": {"username": "alice"}}}
    if what == "a":
        return 200, STATES[0]
    return 200, DEPLOYMENT


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with AnsweringServer(reply) as server:
        yield server.kubeconfig(tmp_path_factory.mktemp("startup") / "kubeconfig")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_what_it_needs(kubeconfig: Path, verb: str) -> None:
    arguments, unwanted = VERBS[verb]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        input="\n".join(unwanted),
        capture_output=True,
        text=True,
        check=False,
    )
    failing = {"why": 3, "plan": 1}  # nothing is Ready, and no KubeVirt exists
    code = failing.get(arguments[0], 0) if "--help" not in arguments else 0
    assert done.returncode == code, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("LOADED")]
    assert line == "LOADED"
