"""A verb imports only what it needs, because the imports are most of its start-up time."""

from __future__ import annotations

import os
import re
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
    "switch": (("switch", "office", "a", "--yes", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "stop": (("stop", "office", "--yes", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "start": (("start", "office", "1", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "history": (("history", "office", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "access": (("access", "--list", *JSON), (*NEVER, *MODELS, *DRAWING)),
    "reset": (("reset", "office", "--yes"), (*NEVER, *MODELS, *DRAWING)),
    "capture": (("capture", "office", "--instance", "1", "--name", "x"), (*NEVER, *MODELS, *DRAWING)),
    "delete": (("delete", "state", "b", "--yes"), (*NEVER, *DRAWING)),
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
INSTANCE = {"metadata": {"name": "office-1", **NAMED}, "spec": {"deploymentRef": {"name": "office"}, "name": "1"}}
STATES = [{"metadata": {"name": name, **NAMED, "uid": name}, "spec": {"machines": []}} for name in "ab"]


def reply(method: str, path: str) -> tuple[int, Any]:
    what = path.partition("?")[0].rpartition("/")[2]
    lists = {"systemdeployments": [DEPLOYMENT], "systeminstances": [INSTANCE], "systemnodes": STATES}
    if method == "GET" and what.endswith("s"):
        return 200, {"metadata": {}, "items": lists.get(what, [])}
    if what == "selfsubjectreviews":
        return 201, {"status": {"userInfo": {"username": "alice"}}}
    if what == "a":
        return 200, STATES[0]
    return 200, DEPLOYMENT


def expected_code(arguments: tuple[str, ...]) -> int:
    """Nothing is Ready, and no KubeVirt exists."""
    return {"why": 3, "plan": 1}.get(arguments[0], 0) if "--help" not in arguments else 0


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
    assert done.returncode == expected_code(arguments), done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("LOADED")]
    assert line == "LOADED"


NO_EXTRAS = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
from kigi.extras import EXTRA_OF, POSIX_ONLY
missing = set(EXTRA_OF)
sys.meta_path.insert(0, Missing())
"""
"""Takes away what the extras of the distribution bring."""
NO_POSIX = """
import os, signal, socket
missing |= POSIX_ONLY - {"_posixsubprocess"}  # Python's subprocess chooses it by the platform
for name in missing:
    sys.modules.pop(name, None)
for module, names in {
    os: "sched_getaffinity getuid geteuid getgid fork setsid killpg uname statvfs pread pwrite O_DIRECTORY O_NOFOLLOW "
    "SEEK_DATA SEEK_HOLE memfd_create getxattr posix_fadvise".split(),
    signal: "SIGKILL SIGHUP SIGUSR1 pthread_sigmask".split(),
    socket: ["AF_UNIX"],
}.items():
    for name in names:
        vars(module).pop(name, None)
"""
"""Takes away what Windows does not have."""
READING = [verb for verb in VERBS if verb not in ("reset", "capture")]


@pytest.mark.parametrize("verb", READING)
def test_a_reading_verb_runs_without_extras_and_without_what_only_posix_has(kubeconfig: Path, verb: str) -> None:
    arguments, _ = VERBS[verb]
    done = subprocess.run(
        [sys.executable, "-c", NO_EXTRAS + NO_POSIX + RUN, *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ModuleNotFoundError" not in done.stderr
    assert "needs the Python package" not in done.stderr
    assert "AttributeError" not in done.stderr
    assert done.returncode == expected_code(arguments), done.stdout + done.stderr


PUBLISHING = (
    ("publish", "x.qcow2", "--name", "x"),
    ("publish-tree", "."),
    ("flatten", "x", "--name", "y"),
    ("gc",),
    ("repository", "check", "main"),
    ("export", "x", "--to", "y"),
    ("import", "x"),
)


@pytest.mark.parametrize("arguments", PUBLISHING, ids=" ".join)
def test_a_verb_that_needs_an_extra_names_its_command(
    kubeconfig: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_EXTRAS + RUN, *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (first, *_) = done.stderr.splitlines()
    assert re.sub("package (aiohttp|aiobotocore|botocore),", "package it,", first) == (
        f"kigi: ExtraMissing: kigi {arguments[0]} needs the Python package it, which is not installed: "
        "pip install 'kigi[publish]'"
    )
