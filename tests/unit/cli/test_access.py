"""Every verb that needs a cluster reports a missing one in one line, and works in the context's namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kigi.cli.cluster import Access
from tests.support.answering import AnsweringServer

IMAGE = "image.raw"
VERBS: dict[str, tuple[str, ...]] = {
    "tree": ("tree",),
    "status": ("status",),
    "why": ("why",),
    "plan": ("plan", "office"),
    "diff": ("diff", "a..b"),
    "switch": ("switch", "office", "a"),
    "reset": ("reset", "office"),
    "capture": ("capture", "office", "--instance", "1", "--name", "x"),
    "console": ("console", "office", "mail"),
    "delete": ("delete", "image", "a"),
    "flatten": ("flatten", "a", "--name", "b"),
    "gc": ("gc",),
    "export": ("export", "a", "--to", "file"),
    "publish": ("publish", IMAGE, "--name", "a", "--parent", "b"),
}
"""Without import and publish-tree, which read the cluster only after the repository: see tests/integration."""
CONFIGS = {
    "none": (None, "no cluster is configured: ", "--kubeconfig or KUBECONFIG"),
    "broken": ("a: b: c", "is not YAML in line 1", "correct it"),
    "empty": ("", "names no current context", "--context"),
    "server": (
        "{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: "
        "[{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}",
        "the API server does not answer: ",
        "is the cluster up",
    ),
}


def run(folder: Path, kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("KIGI_", "KUBE"))}
    env |= {"KUBECONFIG": str(kubeconfig), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    env |= {"KIGI_S3_ENDPOINT": "http://127.0.0.1:1", "KIGI_S3_BUCKET": "bucket", "KIGI_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "kigi.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


CASES = [(verb, "none") for verb in VERBS if verb != "gc"] + [(v, c) for v in ("tree", "console") for c in CONFIGS]


@pytest.mark.parametrize(("verb", "config"), CASES)
def test_without_a_cluster_a_verb_reports_one_line_with_the_remedy(tmp_path: Path, verb: str, config: str) -> None:
    content, words, remedy = CONFIGS[config]
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    (tmp_path / IMAGE).write_bytes(bytes(512))
    done = run(tmp_path, kubeconfig, *VERBS[verb])
    assert done.returncode == (4 if config == "server" else 1), done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("kigi: ")
    assert words in line
    assert remedy in line
    assert done.stdout == ""


CLUSTER_WIDE = ("/nodecaches", "/layerrepositories", "/systemquotas")
"""Kinds without a namespace."""


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("gc", "console", "plan")])
def test_a_verb_works_in_the_namespace_of_the_context_or_of_its_option(tmp_path: Path, verb: str) -> None:
    (tmp_path / IMAGE).write_bytes(bytes(512))
    with AnsweringServer() as server:
        run(tmp_path, server.kubeconfig(tmp_path / "kubeconfig"), *VERBS[verb], "--context", "here")
        ours = [
            path
            for _, path, _, _ in server.asked
            if "kigi.dev" in path and not path.partition("?")[0].endswith(CLUSTER_WIDE)
        ]
        assert ours
        assert all("/namespaces/range/" in path for path in ours)
        server.asked.clear()
        named = ("--kubeconfig", str(tmp_path / "kubeconfig"), "-n", "other")
        run(tmp_path, tmp_path / "absent", *VERBS[verb], *named)
        ours = [
            path
            for _, path, _, _ in server.asked
            if "kigi.dev" in path and not path.partition("?")[0].endswith(CLUSTER_WIDE)
        ]
        assert ours
        assert all("/namespaces/other/" in path for path in ours)


def test_a_namespace_that_is_named_needs_no_kubeconfig(tmp_path: Path) -> None:
    assert Access(str(tmp_path / "absent"), None, "here").default_namespace() == "here"
